"""QoS 1 deliveries that were not acknowledged: how many of them a broker may send. Pure."""

from __future__ import annotations

from typing import Final

MOST_DELIVERIES: Final = 65_535
"""More have no packet ids. Mosquitto 2.0 sends that many after a reconnect, whatever the receive maximum."""
MOST_BYTES: Final = 512 * 1024 * 1024
"""Payloads that may wait for their acknowledgement: more than any broker in its right mind leaves waiting,
since one that is left sends them all again."""


class Inflow:
    """Counts what came and was not acknowledged.

    A broker that sends on regardless would fill the memory: its connection ends.

    >>> inflow = Inflow(most=1)
    >>> inflow.come(100)
    >>> inflow.acknowledge(100)
    >>> inflow.come(100)
    >>> inflow.come(100)
    Traceback (most recent call last):
    ValueError: more than 1 unacknowledged messages

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._bytes = 0

    def come(self, size_bytes: int) -> None:
        """Note a delivery.

        Raises:
            ValueError: It is one too many.
        """
        self._count += 1
        self._bytes += size_bytes
        if self._count > self._most:
            raise ValueError(f"more than {self._most} unacknowledged messages")
        if self._bytes > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES} bytes of unacknowledged messages")

    def acknowledge(self, size_bytes: int) -> None:
        """Note that one was acknowledged."""
        self._count -= 1
        self._bytes -= size_bytes

    def clear(self) -> None:
        """Note that all were."""
        self._count = self._bytes = 0
