"""Which commands a simulated device obeys. Pure: what it decides is told, not done.

A device takes one command, ``truth``, and only from a trusted writer: the writer's level of the
topic, which the broker's access rule ties to the user that logged in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Command
from atoll_contract.topics import CommandTopic
from atoll_sim.device import Device
from atoll_sim.truth import Truth

TRUTH: Final = "truth"


def changed_truth(
    topic: str,
    payload: bytes,
    *,
    is_retained: bool,
    now_ms: float,
    devices: Mapping[str, Device],
    trusted_writers: Collection[str],
) -> tuple[Device, Truth]:
    """Return which device shall live by which truth from now on.

    Raises:
        PeerError: The writer is not trusted, the command is retained or has expired, it cannot be
            read, or it is for something that is not there; the reason code says which.
    """
    address = CommandTopic.parse(topic)
    if address.writer not in trusted_writers:
        raise PeerError(f"{address.writer} is not in trusted_writers", Reason.UNTRUSTED_WRITER)
    if is_retained:
        raise PeerError("the broker had retained the command", Reason.RETAINED)
    device = devices.get(address.device)
    if address.name != TRUTH or device is None or device.truth is None:
        message = f"{address.device} knows no command {address.name!r}"
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC)
    command = Command.decode(payload)
    if now_ms >= command.expires_ms:
        raise PeerError(f"expired {(now_ms - command.expires_ms) / 1e3:.1f} s ago", Reason.EXPIRED)
    return device, device.truth.changed(command.arguments)
