"""What a page shows of a scene, as plain rows. Pure; whoever asks holds the scene's lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from atoll_contract.drift import DriftReport
from atoll_contract.messages import Health, SlotStatus
from atoll_contract.release import ReleaseTerms
from atoll_dashboard.ring import Ring
from atoll_dashboard.scene import Scene
from atoll_dashboard.tracks import Device
from atoll_link.cohort import Standing, cohort_of
from atoll_link.fleet import Agent

UNKNOWN: Final = "unknown"
STANDINGS: Final = (
    Standing.RUNS,
    Standing.UNDERWAY,
    Standing.WAITING,
    Standing.NEWER,
    Standing.REFUSED,
    Standing.SILENT,
)
"""In the order of a bar; nobody is lost here, since no rollout is followed from its start."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The fleet at a glance.

    Attributes:
        healths: How many agents are how.
        devices: How many devices were seen.
        predictions_per_s: Of all.
        readings_per_s: Of all.
        latency_ms: Median and 99th percentile, of samples; None: there are none.
        alarms: Decisions that stand.
        unconfirmed: Of those: nobody knows whether they still do.
        refused: Slots whose newest release was refused.
        drifting: Champions whose readings or errors have drifted.
        history: Predictions in each of the last sixty seconds.
    """

    healths: Counter[str]
    devices: int
    predictions_per_s: float
    readings_per_s: float
    latency_ms: tuple[float, float] | None
    alarms: int
    unconfirmed: int
    refused: int
    drifting: int
    history: list[int]


@dataclass(frozen=True, slots=True)
class AgentView:
    """One agent.

    Attributes:
        agent: It, with status and slots.
        health: How it is.
        heard_ms: When it was heard last.
        per_s: Its predictions.
        drifts: What it says of drift, by model.
    """

    agent: Agent
    health: str
    heard_ms: float | None
    per_s: float
    drifts: Mapping[str, DriftReport] = field(default_factory=dict)

    @property
    def slots(self) -> list[SlotStatus]:
        """Its slots by model."""
        return [slot for _, slot in sorted(self.agent.slots.items())]


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """One release and how far it is.

    Attributes:
        terms: Whom it is for.
        counts: How many agents stand where.
        reasons: Why it was refused, and by how many.
        is_out: Whether it is published; else agents run what was withdrawn.
    """

    terms: ReleaseTerms
    counts: dict[Standing, int]
    reasons: list[tuple[str, int]]
    is_out: bool = True

    @property
    def total(self) -> int:
        """How many agents it is for."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class RefusalView:
    """A release that an agent refused last."""

    site: str
    agent: str
    model: str
    release: int
    reason: str
    detail: str
    time_ms: float


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One model's word on one device; ``model`` is empty for a device that nobody answers."""

    site: str
    device: str
    agent: str
    model: str
    release: int | None
    value: float | None
    label: str | None
    per_s: float
    error: float | None
    heard_ms: float


def overview(scene: Scene, now_ms: float) -> Overview:
    """Return the fleet at a glance."""
    now_s = now_ms / 1e3
    agents = known_agents(scene)
    return Overview(
        healths=Counter(health_of(agent) for agent in agents),
        devices=len(scene.devices),
        predictions_per_s=scene.predictions.per_s(now_s),
        readings_per_s=scene.readings.per_s(now_s),
        latency_ms=percentiles(scene.latencies),
        alarms=len(scene.alarms),
        unconfirmed=scene.alarms.unconfirmed,
        refused=sum(slot.refused is not None for agent in agents for slot in agent.slots.values()),
        drifting=sum(report.drifting for report in scene.drifts.values()),
        history=scene.history(now_s),
    )


def known_agents(scene: Scene) -> list[Agent]:
    """Return all who have introduced themselves as agents: a device that says hello has not."""
    return [
        agent
        for agent in scene.fleet.agents
        if (agent.has_introduced_itself or agent.slots) and (agent.site, agent.name) != scene.trainer
    ]


def health_of(agent: Agent) -> str:
    """Return how an agent says it is."""
    return UNKNOWN if agent.status is None else agent.status.health.value


def percentiles(ring: Ring) -> tuple[float, float] | None:
    """Return median and 99th percentile of a series; None: it is empty."""
    if not len(ring):
        return None
    median, high = np.percentile(ring.values(), [50, 99])
    return float(median), float(high)


def agents(scene: Scene, now_ms: float) -> list[AgentView]:
    """Return all agents, those in trouble first."""
    views = [agent_view(scene, agent, now_ms) for agent in known_agents(scene)]
    rank = {Health.FAULTED: 0, Health.DEGRADED: 1, Health.OFFLINE: 2, UNKNOWN: 3}
    return sorted(views, key=lambda one: (rank.get(one.health, 4), one.agent.site, one.agent.name))


def agent_view(scene: Scene, agent: Agent, now_ms: float) -> AgentView:
    """Return one agent."""
    said_ms = agent.status.time_ms if agent.status is not None else None
    heard_ms = scene.heard_ms(agent.site, agent.name)
    per_s = scene.rate_of(agent.site, agent.name, now_ms / 1e3)
    drifts = {
        model: report
        for model in agent.slots
        if (report := scene.drifts.get((agent.site, agent.name, model))) is not None
    }
    return AgentView(agent, health_of(agent), said_ms if heard_ms is None else heard_ms, per_s, drifts)


def releases(scene: Scene) -> list[ReleaseView]:
    """Return the releases that are out, and those that agents run although they are not."""
    fleet = known_agents(scene)
    out = scene.publication.releases
    available = [one.terms for one in out]
    views = []
    for one in out:
        cohort = cohort_of(one.terms, one.sha256, fleet, available=available)
        counts = {standing: cohort.count(standing) for standing in STANDINGS}
        reasons = [(reason.value, count) for reason, count in cohort.refusals()]
        views.append(ReleaseView(one.terms, counts, reasons))
    known = {one.sha256 for one in out}
    leftover: Counter[tuple[str, int]] = Counter()
    for slot in (slot for agent in fleet for slot in agent.slots.values()):
        if slot.champion is not None and slot.champion.sha256 not in known:
            leftover[slot.model, slot.champion.release] += 1
    for (model, release), count in leftover.items():
        terms = ReleaseTerms.model_construct(model=model, release=release)
        views.append(ReleaseView(terms, {Standing.RUNS: count}, [], is_out=False))
    return sorted(views, key=lambda one: (one.terms.model, -one.terms.release))


def refusals(scene: Scene) -> list[RefusalView]:
    """Return what agents refused last, the newest first."""
    found = [
        RefusalView(
            agent.site,
            agent.name,
            slot.model,
            slot.refused.release,
            slot.refused.reason.value,
            slot.refused.detail,
            slot.refused.time_ms,
        )
        for agent in known_agents(scene)
        for slot in agent.slots.values()
        if slot.refused is not None
    ]
    return sorted(found, key=lambda one: -one.time_ms)


def devices(scene: Scene, now_ms: float, of: Iterable[Device] | None = None) -> list[DeviceView]:
    """Return all devices, or ``of`` them, once for each model that answers."""
    views = []
    for device in sorted(of or scene.devices.values(), key=lambda one: (one.site, one.name)):
        for track in device.models.values():
            last = track.last
            views.append(
                DeviceView(
                    site=device.site,
                    device=device.name,
                    agent=track.agent,
                    model=track.model,
                    release=last.release if last else None,
                    value=last.value if last else None,
                    label=last.label if last else None,
                    per_s=track.rate.per_s(now_ms / 1e3),
                    error=track.error,
                    heard_ms=device.heard_ms,
                )
            )
        if not device.models:
            views.append(
                DeviceView(device.site, device.name, "", "", None, None, None, 0.0, None, device.heard_ms)
            )
    return views


def matching(text: str, *fields: str) -> bool:
    """Whether every word of ``text`` stands in one of ``fields``."""
    joined = "\n".join(fields).lower()
    return all(word in joined for word in text.lower().split())


def page_of(rows: Sequence[object], number: int, size: int) -> tuple[int, int]:
    """Return the bounds of a page, the last one if there are fewer."""
    pages = max(1, -(-len(rows) // size))
    start = min(number, pages - 1) * size
    return start, min(start + size, len(rows))
