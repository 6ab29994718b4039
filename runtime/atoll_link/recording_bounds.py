"""How much of a recording is kept: the oldest parts go first, and imported files stay."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from atoll_link.place import Folder, Place

PART: Final = re.compile(r"part-(\d+)-(\d+)\.parquet")
"""First arrival in milliseconds, then the number of the journal or import."""

FIRST_IMPORT: Final = 10**16
"""Numbers from here on are those of imported files; journals are numbered by milliseconds."""

_DAY_MS: Final = 86_400_000.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a recorder keeps.

    Attributes:
        max_bytes: Most bytes of its parts; None: any number.
        max_age_ms: Age from which on a part is deleted; None: none is for its age.
        min_free_bytes: So much of the disk is left free, as long as there are parts to delete.
        max_waiting_bytes: Most bytes in journals that wait for a bucket; with more the recorder ends.
    """

    max_bytes: int | None = None
    max_age_ms: float | None = None
    min_free_bytes: int = 0
    max_waiting_bytes: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What was deleted; ``last_day`` is the day of the newest part of it."""

    parts: int = 0
    size_bytes: int = 0
    last_day: str = ""


def part_order(part: str) -> list[int]:
    """First arrival, then journal: both stand in the name of a part."""
    return [int(number) for number in part.rpartition("/")[2].removesuffix(".parquet").split("-")[1:]]


def trim(place: Place, bounds: Bounds, now_ms: float) -> Trimmed:
    """Delete parts that a recorder has made, oldest first, until ``place`` keeps the ``bounds``.

    Raises:
        StorageError: It cannot be listed, or a part cannot be deleted.
    """
    if bounds == Bounds(max_waiting_bytes=bounds.max_waiting_bytes):
        return Trimmed()
    sizes = {
        f"{kind}/{name}/{day}/{file}": size
        for kind in place.folders("")
        for name in place.folders(kind)
        for day in place.folders(f"{kind}/{name}")
        for file, size in place.files(f"{kind}/{name}/{day}").items()
        if PART.fullmatch(file) and part_order(file)[1] < FIRST_IMPORT
    }
    total = sum(sizes.values())
    missing = 0
    if bounds.min_free_bytes and isinstance(place, Folder):
        missing = max(0, bounds.min_free_bytes - place.free_bytes())
    parts = size_bytes = 0
    last_day = ""
    for part in sorted(sizes, key=part_order):
        # By its first arrival: a part spans a quarter of an hour at most.
        is_old = bounds.max_age_ms is not None and part_order(part)[0] < now_ms - bounds.max_age_ms
        is_too_much = bounds.max_bytes is not None and total - size_bytes > bounds.max_bytes
        if not (is_old or is_too_much or size_bytes < missing):
            break
        place.remove(part)
        parts, size_bytes, last_day = parts + 1, size_bytes + sizes[part], part.split("/")[2]
    return Trimmed(parts, size_bytes, last_day)
