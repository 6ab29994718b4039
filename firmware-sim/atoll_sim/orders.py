"""Which commands a simulated device obeys. Pure: what it decides is told, not done.

A device takes ``truth`` (what its process is like), ``sleep`` (take no reading for ``value`` seconds) and
``reboot``, and only from a trusted writer: the writer's level of the topic, which the broker's access
rule ties to the user that logged in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Command
from atoll_contract.topics import CommandTopic
from atoll_sim.device import Device
from atoll_sim.truth import Truth

TRUTH: Final = "truth"
SLEEP: Final = "sleep"
REBOOT: Final = "reboot"
_LONGEST_SLEEP_S: Final = 31_536_000.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Take no reading for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reboot:
    """Start anew."""


class Order(NamedTuple):
    """Who is to do what."""

    device: Device
    what: Truth | Sleep | Reboot


def ordered(
    topic: str,
    payload: bytes,
    *,
    is_retained: bool,
    now_ms: float,
    devices: Mapping[str, Device],
    trusted_writers: Collection[str],
) -> Order:
    """Return what a device is told.

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
    is_known = address.name in {SLEEP, REBOOT} or (
        address.name == TRUTH and device is not None and device.truth is not None
    )
    if device is None or not is_known:
        message = f"{address.device} knows no command {address.name!r}"
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC)
    command = Command.decode(payload)
    if now_ms >= command.expires_ms:
        raise PeerError(f"expired {(now_ms - command.expires_ms) / 1e3:.1f} s ago", Reason.EXPIRED)
    if address.name == REBOOT:
        return Order(device, Reboot())
    if address.name == SLEEP:
        return Order(device, Sleep(_seconds(command)))
    assert device.truth is not None  # noqa: S101 - known above
    return Order(device, device.truth.changed(command.arguments))


def _seconds(command: Command) -> float:
    match command.value:
        case bool() | str() | None:
            raise MalformedMessageError("sleep: value is no number of seconds")
        case seconds if not 0 < seconds <= _LONGEST_SLEEP_S:
            raise MalformedMessageError(f"sleep: {seconds:g} is not above 0, or longer than a year")
        case seconds:
            return seconds
