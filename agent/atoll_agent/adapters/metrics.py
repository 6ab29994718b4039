"""What Prometheus is told: status and slots of the agent as metrics.

Counters come from the status, which the control plane has anyway: nothing is counted for this.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from atoll_contract.drift import DriftReport
from atoll_contract.messages import Health, SlotStatus, Status
from atoll_link.metrics import Exporter
from atoll_link.settings import MetricsTable

_COUNTERS: Final = {
    "readings": "Readings that arrived.",
    "predictions": "Predictions that were published.",
    "labels": "Labels that arrived.",
    "decisions": "Decisions that were published.",
    "commands": "Commands that were published.",
    "commands_withheld": "Commands that nobody should have acted on any more.",
    "readings_left_out": "Readings that came faster than they are answered.",
    "predictions_suppressed": "Predictions that said nothing new, and were not published.",
    "swaps": "Releases that took over.",
    "connections": "Connections of the lane that the broker accepted.",
}
"""Counters of the status that have a metric of their own; the others share one, by name."""
_GAUGES: Final = {
    "readings_missing": (
        "readings_missing",
        "Numbers of readings that were left out; falls when a late one comes.",
        1.0,
    ),
    "spool_rows": ("spool_predictions", "Predictions that wait on disk.", 1.0),
    "spool_bytes": ("spool_bytes", "Size of the predictions that wait on disk.", 1.0),
    "devices": ("devices", "Devices that windows are kept for.", 1.0),
    "edgetpu_temp_c": ("edgetpu_temperature_celsius", "Of the hottest Edge TPU.", 1.0),
    "edgetpu_clock_percent": ("edgetpu_clock_ratio", "Of the slowest Edge TPU, of its full clock.", 0.01),
}
_HEALTHS: Final = (Health.READY, Health.DEGRADED, Health.FAULTED)
_MOST_EVENTS: Final = 64


class AgentMetrics:
    """Keeps what it was told last, and tells it at each scrape. A context; it serves if there is a port."""

    def __init__(self, table: MetricsTable, *, site: str, agent: str) -> None:
        self._identity = {"site": site, "agent": agent}
        self._told: tuple[Status, Sequence[SlotStatus], Mapping[str, bool]] | None = None
        self._drifting: dict[str, bool] = {}
        self._exporter = Exporter(table, self.collect)

    def __enter__(self) -> Self:
        self._exporter.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exporter.__exit__(*exception)

    def look(self, status: Status, slots: Sequence[SlotStatus], planes: Mapping[str, bool]) -> None:
        """Take how the agent is; from one thread, while others scrape."""
        self._told = (status, slots, planes)

    def hear(self, report: DriftReport) -> None:
        """Take how a champion fares; from the same thread."""
        self._drifting[report.model] = report.drifting

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; none before the agent has looked at itself."""
        told = self._told
        if told is None:
            return
        status, slots, planes = told
        info = self._identity | {"version": status.version or "", "token": status.token or ""}
        yield InfoMetricFamily("atoll_agent", "Who this agent is.", value=info)
        health = GaugeMetricFamily("atoll_agent_health", "1 for how the agent is.", labels=["state"])
        for state in _HEALTHS:
            health.add_metric([state.value], status.health is state)
        yield health
        connected = GaugeMetricFamily(
            "atoll_agent_broker_connected", "Whether a plane is connected to the broker.", labels=["plane"]
        )
        for plane, is_connected in planes.items():
            connected.add_metric([plane], is_connected)
        yield connected
        yield GaugeMetricFamily(
            "atoll_agent_clock_unsynced", "Whether the clock has not been set.", value=status.time_unsynced
        )
        yield from _counts(status.counts)
        refused = CounterMetricFamily(
            "atoll_agent_refused",
            "Messages that were refused, the 64 most frequent.",
            labels=["where", "reason"],
        )
        for one in status.refusals:
            refused.add_metric([one.where, one.reason.value], one.count)
        yield refused
        yield from _models(slots)
        drifting = GaugeMetricFamily(
            "atoll_agent_model_drifting",
            "Whether readings or errors of a champion have drifted.",
            labels=["model"],
        )
        for slot in slots:
            if slot.model in self._drifting:
                drifting.add_metric([slot.model], self._drifting[slot.model])
        yield drifting


def _counts(counts: Mapping[str, int]) -> Iterable[Metric]:
    for name, meaning in _COUNTERS.items():
        yield CounterMetricFamily(f"atoll_agent_{name}", meaning, value=counts.get(name, 0))
    for name, (exported, meaning, factor) in _GAUGES.items():
        if name in counts:
            yield GaugeMetricFamily(f"atoll_agent_{exported}", meaning, value=counts[name] * factor)
    events = CounterMetricFamily(
        "atoll_agent_events",
        "What else was counted, by the name that the status has for it.",
        labels=["event"],
    )
    others = sorted(counts.keys() - _COUNTERS.keys() - _GAUGES.keys())
    for name in others[:_MOST_EVENTS]:
        events.add_metric([name], counts[name])
    yield events


def _models(slots: Sequence[SlotStatus]) -> Iterable[Metric]:
    release = GaugeMetricFamily(
        "atoll_agent_model_release", "Number of the release that answers; 0: none.", labels=["model"]
    )
    backend = GaugeMetricFamily(
        "atoll_agent_model_backend", "1 for what runs the model.", labels=["model", "backend"]
    )
    underway = GaugeMetricFamily(
        "atoll_agent_model_underway", "Number of the release on its way.", labels=["model", "phase"]
    )
    refused = GaugeMetricFamily(
        "atoll_agent_model_refused",
        "Number of the release that was refused last.",
        labels=["model", "reason"],
    )
    note = GaugeMetricFamily(
        "atoll_agent_model_held_up", "1 for what holds releases of a model up.", labels=["model", "reason"]
    )
    for slot in slots:
        release.add_metric([slot.model], slot.champion.release if slot.champion else 0)
        if slot.champion is not None:
            backend.add_metric([slot.model, slot.champion.backend], 1)
        if slot.challenger is not None:
            underway.add_metric([slot.model, slot.challenger.phase], slot.challenger.release)
        if slot.refused is not None:
            refused.add_metric([slot.model, slot.refused.reason.value], slot.refused.release)
        if slot.note is not None:
            note.add_metric([slot.model, slot.note.value], 1)
    yield from (release, backend, underway, refused, note)
