"""What Prometheus is told of a recorder, and how long signed metadata are valid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from atoll_contract.errors import AtollError
from atoll_contract.release import TRAINER_ROLE
from atoll_link.recorder import Tally
from atoll_trainer.repository import Repository

_ROLES: Final = (Root.type, Targets.type, Snapshot.type, Timestamp.type, TRAINER_ROLE)
_LOOK_S: Final = 60.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RecorderMetrics:
    """Tells the tally of a recorder, and when the metadata in a repository expire.

    Args:
        tally: Returns what the recorder has counted.
        is_connected: Whether its connection stands.
        repository: Folder of the repository; there may be none.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        tally: Callable[[], Tally],
        is_connected: Callable[[], bool],
        repository: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tally = tally
        self._is_connected = is_connected
        self._repository = repository
        self._clock = clock
        self._expiries: dict[str, float] = {}
        self._looked_s = -_LOOK_S

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; called by other threads than the one that records."""
        tally = self._tally()
        yield GaugeMetricFamily(
            "atoll_trainer_broker_connected",
            "Whether the recorder is connected to the broker.",
            value=self._is_connected(),
        )
        recorded = CounterMetricFamily(
            "atoll_trainer_recorded", "What was recorded: each reading of a batch counts.", labels=["kind"]
        )
        for kind in ("readings", "labels", "predictions"):
            recorded.add_metric([kind.removesuffix("s")], getattr(tally, kind))
        yield recorded
        refused = CounterMetricFamily(
            "atoll_trainer_refused", "Messages that were not recorded.", labels=["reason"]
        )
        for reason, count in list(tally.refused.items()):
            refused.add_metric([reason.value], count)
        yield refused
        expiry = GaugeMetricFamily(
            "atoll_trainer_metadata_expiry_timestamp_seconds", "When signed metadata expire.", labels=["role"]
        )
        for role, expires_s in self._look().items():
            expiry.add_metric([role], expires_s)
        yield expiry

    def _look(self) -> dict[str, float]:
        """Return when metadata expire, as the files said at most a minute ago."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_S and self._repository.exists():
            self._looked_s = now_s
            try:
                metadata = Repository.load(self._repository).metadata
            except AtollError as error:
                log.warning("metadata.unread", reason=error.reason.value, detail=error.detail)
            else:
                self._expiries = {role: metadata.expires(role).timestamp() for role in _ROLES}
        return self._expiries
