"""Where in the day and the week a time lies, as points on a circle."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.feature import CALENDAR, FeatureKind
from atoll_contract.manifest import Manifest

_DAY_MS: Final = 86_400_000.0
_WEEK_MS: Final = 7 * _DAY_MS
_MONDAY_MS: Final = 4 * _DAY_MS
"""The first Monday after the epoch, a Thursday."""
_POINTS: Final[dict[FeatureKind, tuple[Callable[[float], float], float]]] = {
    FeatureKind.HOUR_SIN: (math.sin, _DAY_MS),
    FeatureKind.HOUR_COS: (math.cos, _DAY_MS),
    FeatureKind.WEEK_SIN: (math.sin, _WEEK_MS),
    FeatureKind.WEEK_COS: (math.cos, _WEEK_MS),
}


class Season:
    """The calendar features of a manifest.

    Attributes:
        kinds: Which, in the order of their columns.

    Raises:
        BundleRejectedError: This machine does not know the manifest's time zone.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.kinds = [feature.kind for feature in manifest.computed if feature.kind in CALENDAR]
        self._points = [_POINTS[kind] for kind in self.kinds]
        self._zone = _zone(manifest.zone) if self.kinds else None

    def columns(self, time_ms: float) -> list[float]:
        """Return the columns of an event time."""
        local_ms = time_ms - _MONDAY_MS
        if self._zone is not None:
            local_ms += _offset_ms(time_ms, self._zone)
        return [point(local_ms % turn_ms / turn_ms * math.tau) for point, turn_ms in self._points]


def _offset_ms(time_ms: float, zone: ZoneInfo) -> float:
    try:
        offset = datetime.fromtimestamp(time_ms / 1e3, zone).utcoffset() or timedelta()
    except (OverflowError, ValueError, OSError):
        return 0.0  # on its last day the calendar has no room for a zone
    return offset / timedelta(milliseconds=1)


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None or name == str(UTC):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"zone {name!r}: unknown to this machine: install its package tzdata"
        raise BundleRejectedError(message, Reason.UNKNOWN_ZONE) from error
