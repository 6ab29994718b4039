"""A rollout is followed until everybody who was heard has answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import pytest

from atoll_contract.errors import Reason
from atoll_contract.messages import Challenge, Champion, Health, SlotStatus, Status
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import SlotTopic, StatusTopic
from atoll_link.cohort import PATIENCE_S, Standing
from atoll_link.fleet import Fleet
from atoll_trainer.rollout import Rollout, Verdict, follow

SHA: Final = "5" * 64
TERMS: Final = ReleaseTerms(model="wear", release=5)
WAIT_S: Final = 600.0


class ScriptedWatch:
    """A fleet of which each step shows the next scene, while a clock goes on."""

    def __init__(self, *scenes: Callable[[Fleet], None]) -> None:
        self.fleet = Fleet()
        self._scenes = list(scenes)
        self.now_s = 0.0

    def settle(self) -> None:
        self.step(0.0)

    def step(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        if self._scenes:
            self._scenes.pop(0)(self.fleet)
        return bool(self._scenes)


def scene(
    health: Health = Health.READY,
    phase: str | None = None,
    champion: str | None = None,
    count: int = 3,
    started_ms: float = 1.0,
):
    """Return what lets ``count`` agents say where they are with the release."""

    def play(fleet: Fleet) -> None:
        challenger = None if phase is None else Challenge(release=5, sha256=SHA, phase=phase)
        runs = (
            None
            if champion is None
            else Champion(release=5, sha256=champion, backend="cpu", task="regression")
        )
        slot = SlotStatus(model="wear", time_ms=1.0, challenger=challenger, champion=runs)
        for number in range(count):
            fleet.take(str(SlotTopic("plant", f"pi{number}", "wear")), slot.encode())
            status = Status(health=health, session=1, token="t", started_ms=started_ms)
            fleet.take(str(StatusTopic("plant", f"pi{number}")), status.encode())

    return play


def followed(
    watch: ScriptedWatch, *, withdraw_above: float | None = None, available: Sequence[ReleaseTerms] = (TERMS,)
) -> Rollout:
    return follow(
        watch,
        TERMS,
        SHA,
        available=lambda: available,
        wait_s=WAIT_S,
        withdraw_above=withdraw_above,
        tell=lambda _cohort: None,
        clock=lambda: watch.now_s,
    )


def neighbour(fleet: Fleet) -> None:
    """Let another agent of the site be heard, without the model."""
    fleet.take(str(StatusTopic("plant", "other")), Status(health=Health.READY, session=1, token="u").encode())


def test_a_rollout_on_agents_that_answer_is_settled() -> None:
    watch = ScriptedWatch(scene(), scene(phase="fetching"), scene(champion=SHA))

    assert followed(watch).verdict is Verdict.SETTLED


def test_a_release_that_ends_its_agents_is_refused_by_them_after_a_while() -> None:
    watch = ScriptedWatch(neighbour, scene(), scene(phase="shadow"), scene(Health.OFFLINE, "shadow"))
    watch.step(0.0)

    rollout = followed(watch, withdraw_above=0.2)

    assert rollout.verdict is Verdict.TOO_MANY_REFUSED
    assert rollout.cohort.refusals() == [(Reason.ACTIVATION_CRASHED, 3)]
    assert PATIENCE_S <= watch.now_s < PATIENCE_S + 2


def test_a_site_that_falls_silent_as_a_whole_is_waited_for() -> None:
    dark = [scene(Health.OFFLINE, "shadow")] * 400
    back = ScriptedWatch(scene(), scene(phase="shadow"), *dark, scene(champion=SHA))
    gone = ScriptedWatch(scene(), scene(phase="shadow"), *dark)

    assert followed(back, withdraw_above=0.2).verdict is Verdict.SETTLED
    assert followed(gone, withdraw_above=0.2).verdict is Verdict.TOO_MANY_REFUSED
    assert gone.now_s == WAIT_S


def test_without_a_trial_an_agent_has_answered_once_it_has_run_it_for_a_while() -> None:
    tried = ScriptedWatch(scene(), scene(phase="shadow"), scene(champion=SHA))
    untried = ScriptedWatch(scene(), scene(champion=SHA))
    restarts = [scene(champion=SHA, started_ms=float(number // 60)) for number in range(600)]
    looping = ScriptedWatch(scene(), *restarts)

    assert followed(tried, withdraw_above=0.2).verdict is Verdict.SETTLED
    assert tried.now_s < PATIENCE_S
    assert followed(untried, withdraw_above=0.2).verdict is Verdict.SETTLED
    assert PATIENCE_S <= untried.now_s < PATIENCE_S + 2
    assert followed(looping, withdraw_above=0.2).verdict is Verdict.SETTLED
    assert looping.now_s > 300


def test_a_release_without_a_trial_that_ends_its_agents_is_refused_by_them() -> None:
    watch = ScriptedWatch(neighbour, scene(), scene(champion=SHA), scene(Health.OFFLINE, champion=SHA))
    watch.step(0.0)

    rollout = followed(watch, withdraw_above=0.2)

    assert rollout.verdict is Verdict.TOO_MANY_REFUSED
    assert rollout.cohort.refusals() == [(Reason.ACTIVATION_CRASHED, 3)]
    assert PATIENCE_S <= watch.now_s < PATIENCE_S + 2


def test_an_agent_that_has_run_it_for_a_while_and_goes_has_not_refused_it() -> None:
    runs = [scene(champion=SHA)] * 130
    watch = ScriptedWatch(neighbour, scene(), *runs, scene(Health.OFFLINE, champion=SHA))
    watch._scenes.insert(0, scene(phase="fetching", count=4))  # one more that is never through

    rollout = followed(watch, withdraw_above=0.2)

    assert rollout.verdict is Verdict.TIME_UP
    assert rollout.cohort.refused_share == 0.0


def test_agents_that_just_start_anew_are_waited_for() -> None:
    watch = ScriptedWatch(scene(Health.OFFLINE), *[scene(Health.OFFLINE)] * 20, scene(champion=SHA))

    assert followed(watch).verdict is Verdict.SETTLED


def test_a_release_that_had_ended_its_agents_before_they_were_looked_at_is_refused_too() -> None:
    watch = ScriptedWatch(scene(Health.OFFLINE, "activating"))

    assert followed(watch, withdraw_above=0.2).verdict is Verdict.TOO_MANY_REFUSED


def test_without_a_limit_agents_that_fell_silent_are_waited_for_until_time_is_up() -> None:
    watch = ScriptedWatch(scene(), scene(phase="shadow"), scene(Health.OFFLINE, "shadow"))

    rollout = followed(watch)

    assert rollout.verdict is Verdict.TIME_UP
    assert watch.now_s == WAIT_S


@pytest.mark.parametrize("last", [{}, {"phase": "fetching"}])
def test_falling_silent_at_any_other_time_is_no_refusal_and_no_answer(last: dict[str, str]) -> None:
    watch = ScriptedWatch(scene(), scene(**last), scene(Health.OFFLINE, **last))
    watch._scenes.insert(0, scene(phase="fetching", count=4))  # one more that is never through

    rollout = followed(watch, withdraw_above=0.2)

    assert rollout.verdict is Verdict.TIME_UP
    assert rollout.cohort.count(Standing.LOST) == 3
    assert rollout.cohort.refused_share == 0.0


def test_an_agent_that_comes_back_in_time_counts_as_if_it_had_never_been_away() -> None:
    watch = ScriptedWatch(
        scene(), scene(phase="probation"), scene(Health.OFFLINE, "probation"), scene(champion=SHA)
    )

    assert followed(watch, withdraw_above=0.0).verdict is Verdict.SETTLED


def test_only_agents_that_were_silent_from_the_start_are_not_waited_for() -> None:
    watch = ScriptedWatch(scene(Health.OFFLINE, count=5), scene(champion=SHA, count=2))
    watch.step(0.0)

    rollout = followed(watch)

    assert rollout.verdict is Verdict.SETTLED
    assert rollout.cohort.count(Standing.SILENT) == 3


@pytest.mark.parametrize("scenes", [(), (scene(Health.OFFLINE),)])
def test_a_release_for_nobody_who_is_connected_is_no_success(
    scenes: tuple[Callable[[Fleet], None], ...],
) -> None:
    assert followed(ScriptedWatch(*scenes)).verdict is Verdict.UNHEARD
