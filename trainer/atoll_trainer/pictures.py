"""Recorded pictures with their labels, as a picture classifier learns from them. Pure but for reading."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError, MalformedMessageError, PeerError, Reason
from atoll_contract.manifest import Channels, PictureSpec
from atoll_contract.messages import Label
from atoll_ingest.stream import Stream
from atoll_link import recording
from atoll_link.recording import Kind
from atoll_signal.labels import Arrived, LabelJoin
from atoll_signal.picture import PictureDecoder
from atoll_trainer.dataset import UnsuitableDataError

MAX_PIXEL_BYTES: Final = 1 << 30
"""Memory for all pictures, decoded; later ones are left out and counted."""
LEAST_PER_CLASS: Final = 8
_MAX_DEVICES: Final = 65_536
_TRAIN, _VALIDATION = 0.7, 0.85


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures in order of arrival, with their classes.

    Attributes:
        encoded: As they came.
        pixels: uint8, shape (n, height, width) or (n, height, width, 3).
        classes: Which of the labels each shows, shape (n,).
        refused: What was not used, by reason.
        unlabelled: How many have no label.
        lost: How many labels belong to no picture.
    """

    encoded: list[bytes]
    pixels: NDArray[np.uint8]
    classes: NDArray[np.int64]
    refused: Counter[Reason]
    unlabelled: int
    lost: int

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def ends(self) -> tuple[int, int]:
        """Where the training part ends and where the validation part does; the rest is the test part."""
        return int(_TRAIN * len(self)), int(_VALIDATION * len(self))


def from_recording(
    folder: Path, stream: Stream, model: str, labels: list[str], channels: Channels, size: tuple[int, int]
) -> Pictures:
    """Return the labelled pictures of a recording, each as ``size`` (height, width).

    Raises:
        StorageError: A part of it is damaged.
        UnsuitableDataError: There are too few of a class, or none at all.
        ConfigError: A label is no class.
    """
    value = next(iter(stream.units))
    encoded, devices, arrivals, refused = _encoded(folder, stream, value)
    found = recording.without_redeliveries(recording.read(folder, Kind.LABEL, model))
    told = [Arrived(row.device, row.arrival_ms, Label.decode(row.payload)) for row in found]
    # A picture has the time of its arrival; its label a time a little later, or a span around it.
    times = np.array(arrivals)
    said, lost = LabelJoin(devices, times, times, tolerance_ms=1000.0).join(told)
    decoder = PictureDecoder(PictureSpec(channels=channels), *size)
    room = MAX_PIXEL_BYTES // (size[0] * size[1] * (1 if channels is Channels.GREY else 3))
    kept: list[bytes] = []
    pixels: list[NDArray[np.uint8]] = []
    classes: list[int] = []
    for picture, number in zip(encoded, said.tolist(), strict=True):
        if np.isnan(number):
            continue
        if number not in range(len(labels)):
            raise ConfigError(f"--labels: {len(labels)} are named, and a picture has the label {number:g}")
        if len(kept) >= room:
            refused[Reason.TOO_LARGE] += 1
            continue
        try:
            pixels.append(decoder.decode(picture))
        except PeerError as error:
            refused[error.reason] += 1
            continue
        kept.append(picture)
        classes.append(int(number))
    _require_enough(folder, labels, Counter(classes))
    unlabelled = int(np.isnan(said).sum())
    return Pictures(kept, np.array(pixels), np.array(classes), refused, unlabelled, lost)


def _encoded(
    folder: Path, stream: Stream, value: str
) -> tuple[list[bytes], list[str], list[float], Counter[Reason]]:
    reader = stream.reader(_MAX_DEVICES)
    encoded: list[bytes] = []
    devices: list[str] = []
    arrivals: list[float] = []
    refused: Counter[Reason] = Counter()
    for row in recording.without_redeliveries(recording.read(folder, Kind.READING, stream.name)):
        try:
            told = reader.read(row.topic, row.payload, row.arrival_ms)
        except MalformedMessageError as error:
            refused[error.reason] += 1
            continue
        for device, reading in told:
            picture = reading.values.get(value) if isinstance(reading.values, dict) else None
            if isinstance(picture, bytes):
                encoded.append(picture)
                devices.append(device)
                arrivals.append(row.arrival_ms)
    if not encoded:
        raise UnsuitableDataError(f"{folder}: no pictures of stream {stream.name!r}; record some first")
    return encoded, devices, arrivals, refused


def _require_enough(folder: Path, labels: list[str], counts: Counter[int]) -> None:
    few = [
        f"{counts[number]} of {label!r}"
        for number, label in enumerate(labels)
        if counts[number] < LEAST_PER_CLASS
    ]
    if few:
        message = f"{folder}: too few labelled pictures: {', '.join(few)}; {LEAST_PER_CLASS} are the least"
        raise UnsuitableDataError(message)
