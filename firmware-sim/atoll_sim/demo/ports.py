"""A port for a program that is started on this machine."""

from __future__ import annotations

import secrets
import socket
from typing import Final

_FIRST: Final = 20_000
_COUNT: Final = 12_000
_TRIES: Final = 100


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listens on.

    It is below the ports that Linux gives to connections (from 32,768 on). One of those may be taken by
    some connection before the program has it; and who asks again and again whether the program listens may
    be connected to himself.

    Raises:
        OSError: None was found.
    """
    for _ in range(_TRIES):
        port = _FIRST + secrets.randbelow(_COUNT)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {_FIRST} to {_FIRST + _COUNT - 1}")
