"""A function run in a process of its own, where it may crash or hang without harm."""

from __future__ import annotations

import multiprocessing
import pickle
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final, TypeVar

from atoll_contract.errors import AtollError, BundleRejectedError, Reason
from atoll_link.room import room_bytes

_MEMORY_SHARE: Final = 0.75
"""Of the memory that is left; a damaged file can ask for all of it."""

_EndT = TypeVar("_EndT")


def in_child(
    function: Callable[..., _EndT], *arguments: object, deadline_s: float, has_children: bool = False
) -> _EndT:
    """Return ``function(*arguments)``, computed in a child; all of them can be pickled.

    Args:
        function: What is to be computed.
        arguments: Of what.
        deadline_s: The child is killed after so long.
        has_children: It asks children of its own. Whoever kills this process has to end them too.

    Raises:
        Exception: As ``function`` raised it.
        BundleRejectedError: The child crashed, or did not end within ``deadline_s`` and was killed:
            what it loaded is damaged or too slow.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(sender, function, arguments), daemon=not has_children)
    child.start()
    sender.close()
    try:
        if not receiver.poll(deadline_s):
            message = f"no answer within {deadline_s:.0f} s"
            raise BundleRejectedError(message, Reason.SELF_TEST_TIMEOUT)
        answer: _EndT | Exception = receiver.recv()
    except EOFError as error:
        child.join(deadline_s)
        message = f"crashes the inference runtime (exit status {child.exitcode}): the file is damaged"
        raise BundleRejectedError(message, Reason.SELF_TEST_CRASHED) from error
    finally:
        child.kill()
        child.join()
        receiver.close()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _work(sender: Connection, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    if (room := room_bytes()) is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = int(room * _MEMORY_SHARE)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        sender.send(function(*arguments))
    except AtollError as error:
        sender.send(error)
    except Exception as error:  # noqa: BLE001 - a bug, or no memory: raised again by whoever asked
        sender.send(_sent(error))


def _sent(error: Exception) -> Exception:
    """Return ``error`` if it can be sent, else its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever a class of others does
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
