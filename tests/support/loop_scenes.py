"""A model's loop, and what it sees: agents, releases and reports that a test makes up."""

from __future__ import annotations

from dataclasses import replace

from atoll_contract.drift import DriftReport, ErrorShift
from atoll_contract.errors import Reason
from atoll_contract.messages import Champion, Health, Refusal, SlotStatus, Status
from atoll_contract.release import ReleaseTerms
from atoll_link.fleet import Agent
from atoll_trainer.loop.course import Course, Ended, Job, Policy
from atoll_trainer.loop.machine import Phase
from atoll_trainer.loop.state import Cause, ModelState
from atoll_trainer.loop.view import View
from atoll_trainer.repository import Available

SHA = {number: str(number) * 64 for number in range(1, 7)}
POLICY = Policy("wear", fresh_s=100.0, cool_down_s=1000.0, settle_s=500.0, watch_s=50.0)
DONE = Ended(is_done=True)


def agent(name: str = "pi", runs: int | None = 1, refuses: int | None = None, health=Health.READY) -> Agent:
    def known(number: int) -> dict:
        return {"release": number, "sha256": SHA[number]}

    slot = SlotStatus(
        model="wear",
        time_ms=1.0,
        champion=Champion(**known(runs), backend="cpu", task="regression") if runs else None,
        refused=Refusal(**known(refuses), reason=Reason.ERROR_TOO_LARGE, detail="bad", time_ms=1.0)
        if refuses
        else None,
    )
    return Agent("plant", name, Status(health=health, session=1, token="t"), {"wear": slot})


def report(
    release: int = 1, name: str = "pi", since_ms: float | None = 40e3, **parts
) -> dict[tuple[str, str], DriftReport]:
    """Return what an agent reports, as a view holds it."""
    return {
        ("plant", name): DriftReport(model="wear", time_ms=90e3, release=release, since_ms=since_ms, **parts)
    }


def error(mean: float, expected: float, *, is_beyond: bool = True, labels: int = 500) -> ErrorShift:
    statistic = 30.0 if is_beyond else 0.0
    return ErrorShift(labels=labels, mean=mean, expected=expected, statistic=statistic, limit=25.0)


def out(*numbers: int, percent: int = 100) -> list[Available]:
    return [
        Available(ReleaseTerms(model="wear", release=number, rollout_percent=percent), SHA[number], 1)
        for number in numbers
    ]


class Scene:
    """A course, and what it sees."""

    def __init__(self, policy: Policy = POLICY, **state) -> None:
        before = ModelState(model="wear", since_ms=0.0, created_ms=0.0)
        self.course = Course(policy, before.model_copy(update=state))
        self.view = View(out(1), [agent()], {}, is_complete=True)
        self.job: Job | None = None

    @property
    def phase(self) -> Phase:
        return self.course.state.phase

    def sees(self, **parts) -> None:
        self.view = replace(self.view, **parts)

    def at(self, seconds: float) -> Job | None:
        job = self.course.tick(self.view, seconds * 1e3)
        self.job = job or self.job
        return job

    def ends(self, ended: Ended, now_ms: float) -> None:
        assert self.job is not None
        self.course.ended(self.job, ended, now_ms)

    def drifts(self, **parts) -> None:
        self.sees(drifts=report(drifting=True, detail="x: 0.5", **parts))


def canary(policy: Policy = POLICY, **state) -> Scene:
    more = {"phase": Phase.CANARY, "release": 2, "run": "wear-1", "cause": Cause.DRIFT, **state}
    scene = Scene(policy, **more)
    scene.sees(releases=out(1, 2))
    return scene
