"""A beat for whoever watches over the agent, as long as both planes go on.

systemd, or the probe of a container, restarts the agent when the beat fails to come. That a broker is
away is no reason: a plane that looks for it goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

log = structlog.get_logger()

_BEATS: Final = 4
"""So many in the time after which the agent is taken for dead."""
_TELL_AFTER: Final = 2
"""Looks at a plane that stands still, before it is told; an idle plane does a step each second."""


class Watchdog:
    """Beats as long as every plane does steps.

    Args:
        planes: How many steps each plane has done, by name.
        beat: Tells that the agent goes on.
        limit_s: After how long without a beat the agent is taken for dead; None: nobody watches.
    """

    def __init__(
        self, planes: Mapping[str, Callable[[], int]], beat: Callable[[], None], limit_s: float | None
    ) -> None:
        self._planes = planes
        self._beat = beat
        self._limit_s = limit_s
        self._seen: dict[str, int] = {}
        self._missed = 0

    @property
    def stalled_s(self) -> float:
        """For how long a plane has stood still, about; 0 where nobody watches."""
        return 0.0 if self._limit_s is None else self._missed * self._limit_s / _BEATS

    async def run(self) -> None:
        """Look again and again until cancelled. That this runs shows that the event loop goes on."""
        if self._limit_s is None:
            return
        while True:
            self.look()
            await asyncio.sleep(self._limit_s / _BEATS)

    def look(self) -> None:
        """Beat, if every plane has done a step since the last beat."""
        steps = {name: count() for name, count in self._planes.items()}
        still = sorted(name for name, count in steps.items() if self._seen.get(name) == count)
        if not still:
            self._seen, self._missed = steps, 0
            self._beat()
            return
        self._missed += 1
        if self._missed == _TELL_AFTER:
            log.error("plane.stalled", planes=still, limit_s=self._limit_s)
