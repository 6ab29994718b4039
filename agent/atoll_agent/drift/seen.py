"""What the lane hands over of its work."""

from __future__ import annotations

from typing import NamedTuple

from atoll_contract.messages import Label


class Seen(NamedTuple):
    """One window that was answered.

    Attributes:
        model: Its model.
        release: Who answered.
        device: Its device.
        time_ms: Its event time.
        row: The newest row of its feature matrix, packed float32 numbers: those of
            :class:`atoll_signal.spread.Columns`; empty where that is a picture.
        value: What was predicted.
    """

    model: str
    release: int
    device: str
    time_ms: float
    row: bytes
    value: float


class Told(NamedTuple):
    """A label that arrived.

    Attributes:
        model: The model that it is for.
        device: Whom it speaks of.
        label: The truth.
    """

    model: str
    device: str
    label: Label
