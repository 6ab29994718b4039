"""What the agent says of itself: status and slots, as messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from atoll_agent.ports import AcceleratorState, LaneReport
from atoll_agent.rollout.machine import Phase
from atoll_agent.rollout.slot import Refused, Slot
from atoll_agent.supervisor.requests import Requests
from atoll_contract.errors import Reason
from atoll_contract.messages import (
    MAX_DETAIL_CHARS,
    Challenge,
    Champion,
    Health,
    Refusal,
    Refusals,
    SlotStatus,
    Status,
)
from atoll_infer.predictor import Predictor

_MAX_REFUSALS = 64


@dataclass(frozen=True, slots=True)
class Self:
    """What stays the same in every status.

    Attributes:
        session: Number of the present control connection.
        started_ms: When the agent started.
        token: First 8 digits of the client token.
        version: Version of atoll.
    """

    session: int
    started_ms: float
    token: str
    version: str


def will(session: int, token: str) -> Status:
    """Return the status that the broker publishes when the connection breaks."""
    return Status(health=Health.OFFLINE, session=session, token=token)


def status(
    me: Self,
    lane: LaneReport,
    requests: Requests,
    slots: dict[str, Slot],
    time_ms: float,
    fault: str | None,
    *,
    note: str | None = None,
    is_time_unsynced: bool,
    predictors: Mapping[str, Predictor] = MappingProxyType({}),
    accelerators: Sequence[AcceleratorState] = (),
) -> Status:
    """Return how the agent is now; ``fault`` is what needs a person, ``note`` what one should know."""
    notes = [text for text in (fault, note) if text is not None]
    degraded = {model: why for model, one in predictors.items() if (why := one.model.degradation)}
    for why in sorted(set(degraded.values())):
        models = ", ".join(sorted(model for model, found in degraded.items() if found == why))
        notes.append(f"the CPU answers for {models}: {why}")
    if not lane.is_connected:
        notes.append("the lane waits for the broker")
    if lane.refused_filters:
        notes.append(f"the broker refuses the subscription of {', '.join(lane.refused_filters)}")
    if lane.spool_fault is not None:
        notes.append(f"the spool does not work: {lane.spool_fault}")
    if waiting := sorted(model for model, slot in slots.items() if slot.champion is None):
        notes.append(f"no release yet for {', '.join(waiting)}")
    health = Health.READY
    if fault is not None:
        health = Health.FAULTED
    elif not lane.is_connected or lane.refused_filters or degraded or lane.spool_fault is not None:
        health = Health.DEGRADED
    refusals = {**lane.refusals, **{("requests", why): count for why, count in requests.refusals.items()}}
    last = {**lane.last_refusal, **{("requests", why): said for why, said in requests.last_refusal.items()}}
    most = sorted(refusals.items(), key=lambda item: -item[1])[:_MAX_REFUSALS]
    return Status(
        health=health,
        session=me.session,
        time_ms=time_ms,
        started_ms=me.started_ms,
        token=me.token,
        version=me.version,
        time_unsynced=is_time_unsynced,
        detail="; ".join(notes) or None,
        counts=dict(lane.counts)
        | ({"requests_obeyed": requests.obeyed} if requests.obeyed else {})
        | _accelerator_counts(accelerators),
        refusals=[
            Refusals(where=key[0], reason=key[1], count=count, last=last.get(key)) for key, count in most
        ],
    )


def slot_status(
    slot: Slot,
    predictor: Predictor | None,
    trouble: Reason | None,
    time_ms: float,
    *,
    channel: str,
) -> SlotStatus:
    """Return what the agent says of one slot."""
    champion = challenger = refused = None
    if slot.champion is not None and predictor is not None:
        manifest = predictor.manifest
        champion = Champion(
            release=slot.champion.release,
            sha256=slot.champion.sha256,
            backend=predictor.backend,
            task=manifest.task.value,
            unit=manifest.output.unit,
            labels=manifest.output.labels,
            why="; ".join(filter(None, [predictor.model.degradation, predictor.why]))[:MAX_DETAIL_CHARS]
            or None,
        )
    if slot.challenger is not None and slot.phase not in {Phase.CHAMPION, Phase.REFUSED}:
        is_again = slot.failure is not None and slot.failure.sha256 == slot.challenger.sha256
        challenger = Challenge(
            release=slot.challenger.release,
            sha256=slot.challenger.sha256,
            phase=slot.phase.value,
            reason=slot.failure.reason if is_again and slot.failure else None,
            detail=slot.failure.detail if is_again and slot.failure else None,
            start_ms=slot.start.time_ms if slot.start and slot.wait_s(time_ms) else None,
        )
    if (failure := _refused(slot)) is not None:
        refused = Refusal(
            release=failure.release,
            sha256=failure.sha256,
            reason=failure.reason,
            detail=failure.detail,
            time_ms=failure.time_ms,
        )
    note = Reason.WITHDRAWN if slot.is_withdrawn else trouble
    return SlotStatus(
        model=slot.model,
        time_ms=time_ms,
        channel=channel,
        champion=champion,
        challenger=challenger,
        refused=refused,
        note=note,
    )


def _accelerator_counts(accelerators: Sequence[AcceleratorState]) -> dict[str, int]:
    """Return the sums of what they count, the highest temperature and the lowest clock."""
    counts: Counter[str] = Counter()
    for state in accelerators:
        counts.update(state.counts)
    if temps := [state.temp_c for state in accelerators if state.temp_c is not None]:
        counts["edgetpu_temp_c"] = round(max(temps))
    if clocks := [state.clock_percent for state in accelerators if state.clock_percent is not None]:
        counts["edgetpu_clock_percent"] = min(clocks)
    return dict(counts)


def _refused(slot: Slot) -> Refused | None:
    """Return what the slot refused last, unless something newer has succeeded since."""
    if slot.champion is None and slot.challenger is None and slot.failure is not None:
        return slot.failure
    if not slot.bad or (slot.champion is not None and slot.bad[-1].release < slot.champion.release):
        return None
    return slot.bad[-1]
