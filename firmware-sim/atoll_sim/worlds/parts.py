"""Pictures of parts, as a camera above the conveyor sees them: drawn, so that the truth is known."""

from __future__ import annotations

import io
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

SIDE: Final = 24
"""Pixels of a side."""

_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float64)


class Part(Enum):
    """What a part is like; the value is the label, in the order of the classes."""

    GOOD = "good"
    SCRATCHED = "scratched"
    DENTED = "dented"
    UNDRILLED = "undrilled"

    @property
    def number(self) -> int:
        """Place among the classes."""
        return list(Part).index(self)


def draw(part: Part, chance: Generator) -> NDArray[np.uint8]:
    """Return a grey picture of ``part``, shape (24, 24): a disc with a hole, never twice the same."""
    row, column = 11.5 + chance.uniform(-1.5, 1.5, 2)
    radius = chance.uniform(8.4, 9.4)
    distance = np.hypot(_ROWS - row, _COLUMNS - column)
    # Light falls from one side, more or less of it.
    light = chance.uniform(0.8, 1.15) * (150 + 2.0 * chance.uniform(-1, 1) * (_COLUMNS - 12))
    picture = np.where(distance < radius, light, 45.0)
    if part is not Part.UNDRILLED:
        picture = np.where(distance < chance.uniform(2.3, 3.0), 50.0, picture)
    if part is Part.DENTED:
        angle = chance.uniform(0, 2 * np.pi)
        at = radius * np.array([np.sin(angle), np.cos(angle)]) + (row, column)
        dent = np.hypot(_ROWS - at[0], _COLUMNS - at[1]) < chance.uniform(2.4, 3.6)
        picture = np.where(dent, 45.0, picture)
    if part is Part.SCRATCHED:
        angle, away = chance.uniform(0, np.pi), chance.uniform(-5.0, 5.0)
        across = (_ROWS - row) * np.sin(angle) + (_COLUMNS - column) * np.cos(angle) - away
        scratch = (np.abs(across) < chance.uniform(0.6, 0.9)) & (distance < radius - 0.5)
        picture = np.where(scratch, picture + chance.choice([-1, 1]) * chance.uniform(45, 75), picture)
    picture = picture + chance.normal(0.0, 6.0, picture.shape)
    pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return a grey picture as a PNG file."""
    from PIL import Image  # noqa: PLC0415 - only the world with a camera needs it

    file: Any = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return bytes(file.getvalue())
