"""What the loop does next, by what it sees."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from support.loop_scenes import DONE, POLICY, Scene, agent, canary, error, out, report

from atoll_contract.messages import Health
from atoll_contract.release import ReleaseTerms
from atoll_trainer.loop.course import Course, Ended, Job, JobKind, canary_percent
from atoll_trainer.loop.machine import (
    OUT,
    TRANSITIONS,
    WORKING,
    Event,
    IllegalTransitionError,
    Phase,
    advance,
)
from atoll_trainer.loop.state import Cause


class TestMachine:
    @pytest.mark.parametrize(("phase", "event"), list(product(Phase, Event)))
    def test_every_pair_leads_somewhere_or_is_an_error(self, phase: Phase, event: Event) -> None:
        if (phase, event) in TRANSITIONS:
            assert advance(phase, event) in Phase
        else:
            with pytest.raises(IllegalTransitionError, match=f"{event.value} in phase {phase.value}"):
                advance(phase, event)

    def test_every_phase_leads_back_to_idle(self) -> None:
        for phase in Phase:
            reached, before = {phase}, set()
            while reached != before:
                before = set(reached)
                reached |= {TRANSITIONS[pair] for pair in TRANSITIONS if pair[0] in reached}
            assert Phase.IDLE in reached

    def test_a_release_that_is_out_can_go_and_a_command_can_end(self) -> None:
        assert all((phase, Event.GONE) in TRANSITIONS for phase in OUT)
        assert all((phase, Event.DONE) in TRANSITIONS for phase in WORKING)


class TestCauses:
    def test_without_a_reason_nothing_happens(self) -> None:
        scene = Scene()

        assert [scene.at(second) for second in (0, 1e3, 1e6)] == [None] * 3
        assert scene.phase is Phase.IDLE

    def test_a_drift_is_learnt_from_its_onset_on_once_there_is_enough(self) -> None:
        # since 40 s, 100 s fresh: training begins at 140 s.
        scene = Scene()
        scene.drifts()

        assert (scene.at(90), scene.phase) == (None, Phase.COLLECTING)
        assert (scene.at(139), scene.phase) == (None, Phase.COLLECTING)
        job = scene.at(140)
        assert job == Job(JobKind.TRAIN, "wear", since_ms=40e3)
        assert scene.at(141) is None
        assert scene.course.state.cause is Cause.DRIFT
        assert "1 agent: x: 0.5" in scene.course.state.detail

    def test_a_drift_that_ends_meanwhile_is_forgotten(self) -> None:
        scene = Scene()
        scene.drifts()
        scene.at(90)
        scene.sees(drifts={})
        scene.at(91)

        assert (scene.phase, scene.course.state.outcome) == (Phase.IDLE, "the drift has ended")

    @pytest.mark.parametrize(
        ("agents", "parts"),
        [
            ([agent()], {"release": 2}),  # of a release that it runs no more
            ([agent(health=Health.OFFLINE)], {}),
            ([], {}),
            ([agent(runs=None)], {}),
        ],
    )
    def test_only_what_agents_say_of_their_champions_now_counts(self, agents, parts) -> None:
        scene = Scene()
        scene.drifts(**parts)
        scene.sees(agents=agents)
        scene.at(90)

        assert scene.phase is Phase.IDLE

    def test_so_many_agents_have_to_drift_as_the_settings_say(self) -> None:
        scene = Scene(replace(POLICY, drift_agents=2))
        scene.drifts()
        scene.at(90)
        assert scene.phase is Phase.IDLE

        scene.sees(
            agents=[agent(), agent("pj")],
            drifts={**report(drifting=True), **report(name="pj", drifting=True)},
        )
        scene.at(91)
        assert scene.phase is Phase.COLLECTING

    def test_the_first_release_labels_a_schedule_and_a_request_are_reasons(self) -> None:
        first = Scene()
        first.sees(releases=[])
        assert [first.at(1), first.at(99)] == [None, None]
        assert first.at(100) == Job(JobKind.TRAIN, "wear", since_ms=0.0)

        labels = Scene(replace(POLICY, on_labels=2))
        labels.course.labelled()
        labels.at(1)
        labels.course.labelled()
        labels.at(2)
        assert labels.course.state.cause is Cause.LABELS
        labels.at(3)
        assert labels.course.state.labels == 0

        schedule = Scene(replace(POLICY, every_s=50.0))
        schedule.at(49)
        schedule.at(50)
        assert schedule.course.state.cause is Cause.SCHEDULE

        asked = Scene(attempt_ms=0.0)
        asked.course.order()
        asked.at(1)
        assert asked.course.state.cause is Cause.REQUEST
        asked.at(2)
        assert not asked.course.state.is_ordered

    def test_a_request_does_not_wait_for_what_a_drift_is_waited_for(self) -> None:
        scene = Scene()
        scene.drifts()
        scene.at(90)
        scene.course.order()
        jobs = [scene.at(91), scene.at(92), scene.at(93)]

        assert jobs == [None, None, Job(JobKind.TRAIN, "wear", since_ms=0.0)]
        assert scene.course.state.cause is Cause.REQUEST

    def test_nothing_but_a_request_breaks_the_cool_down(self) -> None:
        scene = Scene(attempt_ms=0.0)
        scene.drifts()
        scene.at(999)
        assert scene.phase is Phase.IDLE
        scene.at(1000)
        assert scene.phase is Phase.COLLECTING

    def test_nothing_is_judged_before_all_that_is_retained_has_arrived(self) -> None:
        scene = Scene()
        scene.sees(is_complete=False, releases=[])
        scene.at(1e6)

        assert scene.phase is Phase.IDLE


class TestTurn:
    def test_a_turn_goes_from_training_to_all_devices(self) -> None:
        scene = Scene(phase=Phase.TRAINING, data_since_ms=40e3)
        assert scene.at(1).kind is JobKind.TRAIN
        scene.ends(Ended(is_done=True, run="wear-1", release=2), 10e3)
        assert scene.at(11) == Job(JobKind.PUBLISH, "wear", 2, "wear-1")
        scene.ends(Ended(is_done=True, percent=10), 12e3)
        scene.sees(releases=[*out(1), *out(2, percent=100)], agents=[agent(), agent("pj", runs=2)])
        scene.at(13)
        assert scene.phase is Phase.CANARY  # pi has not answered
        scene.sees(agents=[agent(runs=2), agent("pj", runs=2)])
        scene.at(14)
        assert scene.phase is Phase.WATCHING
        assert scene.at(63.9) is None
        assert scene.at(64) == Job(JobKind.PROMOTE, "wear", 2)
        scene.ends(DONE, 66e3)
        assert scene.phase is Phase.ROLLOUT
        scene.at(67)

        assert (scene.phase, scene.course.state.outcome) == (Phase.IDLE, "release 2 is out; 2 agents: 2 runs")
        assert scene.course.state.trained_ms == 10e3

    def test_what_was_before_a_drift_that_is_learnt_is_learnt_no_more(self) -> None:
        # history_s is 7 d, the drift began at 40 s: until then only what came after it is the world.
        scene = canary(phase=Phase.ROLLOUT, data_since_ms=40e3)
        scene.sees(agents=[agent(runs=2)], releases=out(2))
        scene.at(1)
        scene.course.order()
        scene.at(2)
        assert scene.at(3).since_ms == 40e3

        late = Scene(learns_from_ms=40e3)
        late.course.order()
        late.at(604_800 + 50)
        assert late.at(604_800 + 50).since_ms == 50e3

        other = canary(phase=Phase.ROLLOUT, data_since_ms=40e3, cause=Cause.LABELS)
        other.sees(agents=[agent(runs=2)], releases=out(2))
        other.at(1)
        assert other.course.state.learns_from_ms == 0.0

    @pytest.mark.parametrize("phase", [Phase.CANARY, Phase.WATCHING, Phase.ROLLOUT])
    def test_a_release_that_too_many_refuse_is_withdrawn_and_it_is_said_why(self, phase) -> None:
        scene = canary(phase=phase)
        scene.sees(agents=[agent(refuses=2), agent("pj", runs=2)])
        job = scene.at(1)

        assert (job.kind, job.release) == (JobKind.WITHDRAW, 2)
        assert "error_too_large 1" in job.why
        scene.ends(DONE, 3e3)
        assert "release 2 was withdrawn" in scene.course.state.outcome

    def test_nobody_connected_is_waited_for(self) -> None:
        scene = canary()
        scene.sees(agents=[])
        scene.at(10_000)

        assert (scene.phase, scene.course.state.detail) == (Phase.CANARY, "no agent is known that it is for")

    def test_a_canary_of_which_nobody_is_there_while_others_are_is_withdrawn_in_the_end(self) -> None:
        scene = canary()
        scene.sees(releases=[*out(1), *out(2, percent=0)])
        assert scene.at(499) is None

        job = scene.at(500)

        assert (job.kind, scene.phase) == (JobKind.WITHDRAW, Phase.WITHDRAWING)
        assert "nobody who should try it is connected" in job.why

    def test_who_is_there_must_be_known_before_a_release_is_published(self) -> None:
        scene = Scene(phase=Phase.PUBLISHING, release=2, run="wear-1")
        scene.sees(is_complete=False)
        assert scene.at(1) is None

        scene.sees(is_complete=True)
        assert scene.at(2).kind is JobKind.PUBLISH

    def test_who_has_not_answered_in_time_is_not_waited_for_if_anybody_runs_it(self) -> None:
        scene = canary()
        scene.sees(agents=[agent(), agent("pj", runs=2)])
        scene.at(499)
        assert scene.phase is Phase.CANARY
        scene.at(500)
        assert scene.phase is Phase.WATCHING

    def test_if_nobody_runs_it_in_time_it_is_withdrawn(self) -> None:
        scene = canary()
        scene.at(499)
        assert scene.at(500).kind is JobKind.WITHDRAW

    def test_a_release_that_errs_where_it_is_watched_is_withdrawn(self) -> None:
        scene = canary(phase=Phase.WATCHING)
        scene.sees(agents=[agent(runs=2)], drifts=report(2, drifting=True, error=error(2.0, 0.5)))

        job = scene.at(1)

        assert job.kind is JobKind.WITHDRAW
        assert job.why == "on pi its error is 2 instead of 0.5"

    @pytest.mark.parametrize(("fallen", "is_promoted"), [(0, True), (1, True), (2, False), (5, False)])
    def test_a_release_of_which_its_devices_fall_silent_is_not_for_all(self, fallen, is_promoted) -> None:
        # 5 run it, 1 other does not; watched for 50 s, settled after 500 s: a fifth may fall silent.
        scene = canary(phase=Phase.WATCHING)
        names = [f"p{number}" for number in range(5)]
        scene.sees(releases=[*out(1), *out(2)], agents=[agent(name, runs=2) for name in names])
        scene.at(1)
        silent = [agent(name, runs=2, health=Health.OFFLINE) for name in names[:fallen]]
        scene.sees(agents=[*silent, *(agent(name, runs=2) for name in names[fallen:])])

        soon, late = scene.at(50), scene.at(501)

        if is_promoted:
            assert soon.kind is JobKind.PROMOTE
        else:
            assert soon is None
            assert late.kind is JobKind.WITHDRAW
            assert late.why == f"{fallen} agents fell silent while running it, {5 - fallen} still run it"

    def test_devices_that_were_silent_before_the_loop_looked_do_not_run_a_release(self) -> None:
        scene = canary(phase=Phase.WATCHING)
        scene.sees(agents=[agent(runs=2, health=Health.OFFLINE)])

        assert [scene.at(51), scene.at(499)] == [None, None]
        scene.sees(agents=[agent(runs=2)])
        assert scene.at(500).kind is JobKind.PROMOTE

    def test_a_gate_that_refuses_ends_the_turn_and_the_cool_down_holds(self) -> None:
        scene = Scene(phase=Phase.PUBLISHING, release=2, run="wear-1", attempt_ms=0.0)
        scene.at(1)
        scene.ends(Ended(is_done=False, is_refusal=True, detail="no better"), 2e3)
        scene.drifts()
        scene.at(3)

        assert (scene.phase, scene.course.state.outcome) == (Phase.IDLE, "the gate refused it: no better")

    def test_a_training_that_fails_ends_the_turn(self) -> None:
        scene = Scene(phase=Phase.TRAINING)
        scene.at(1)
        scene.ends(Ended(is_done=False, detail="too few windows"), 2e3)

        assert (scene.phase, scene.course.state.outcome) == (Phase.IDLE, "training failed: too few windows")

    def test_publishing_is_tried_again_later_and_later_and_given_up(self) -> None:
        scene = Scene(phase=Phase.PUBLISHING, release=2, run="wear-1")
        times, second = [], 0.0
        while scene.phase is Phase.PUBLISHING:
            if scene.at(second) is not None:
                times.append(second)
                scene.ends(Ended(is_done=False, detail="no broker"), second * 1e3)
            second += 1.0

        assert times == [0.0, 5.0, 15.0, 35.0, 75.0, 155.0]
        assert scene.course.state.outcome == "publishing failed: no broker"

    def test_a_release_that_is_signed_and_cannot_be_brought_out_is_withdrawn(self) -> None:
        scene = Scene(phase=Phase.PUBLISHING, release=2, run="wear-1", attempts=5)
        scene.sees(releases=out(1, 3))
        scene.at(1)
        scene.ends(Ended(is_done=False, is_signed=True, release=3, detail="not_stored"), 1e3)
        job = scene.at(2)

        assert job == Job(JobKind.WITHDRAW, "wear", 3, why="publishing failed: not_stored")
        scene.ends(DONE, 3e3)
        assert scene.course.state.outcome == "release 3 was withdrawn: publishing failed: not_stored"

    def test_what_is_published_under_another_number_is_followed_under_it(self) -> None:
        scene = Scene(phase=Phase.PUBLISHING, release=2, run="wear-1")
        scene.at(1)
        scene.ends(Ended(is_done=True, release=3, percent=10), 2e3)

        assert (scene.phase, scene.course.state.release) == (Phase.CANARY, 3)

    @pytest.mark.parametrize("ended", [DONE, Ended(is_done=False, detail="release 2 was withdrawn")])
    def test_the_end_of_a_job_that_is_wanted_no_more_changes_nothing(self, ended) -> None:
        # The release goes while its promotion waits, and an operator has it learn anew.
        scene = canary(phase=Phase.PROMOTING, attempt_ms=0.0)
        promotion = scene.at(1)
        scene.course.order()
        scene.sees(releases=out(1))
        for second in (2, 3, 4):
            scene.at(second)
        assert (scene.phase, scene.job.kind) == (Phase.TRAINING, JobKind.TRAIN)
        assert not scene.course.wants(promotion)
        before = scene.course.state

        scene.course.ended(promotion, ended, 5e3)

        assert scene.course.state == before
        scene.ends(Ended(is_done=True, run="wear-2", release=3), 6e3)
        assert scene.phase is Phase.PUBLISHING

    def test_a_promotion_is_tried_until_it_succeeds(self) -> None:
        scene = canary(phase=Phase.PROMOTING)
        for attempt in range(20):
            assert scene.at(attempt * 301.0).kind is JobKind.PROMOTE
            scene.ends(Ended(is_done=False, detail="no broker"), attempt * 301e3)

        assert (scene.phase, scene.course.state.attempts) == (Phase.PROMOTING, 20)

    @pytest.mark.parametrize("phase", sorted(OUT - {Phase.PROMOTING}))
    def test_a_release_that_somebody_withdrew_ends_the_turn(self, phase) -> None:
        scene = canary(phase=phase)
        scene.sees(releases=out(1))
        scene.at(1)

        assert (scene.phase, scene.course.state.outcome) == (
            Phase.IDLE,
            "release 2 is not available any more",
        )

    def test_a_withdrawal_that_somebody_else_has_carried_out_is_over(self) -> None:
        scene = canary(phase=Phase.WITHDRAWING, detail="it errs")
        scene.sees(releases=out(1))

        assert scene.at(1) is None
        assert (scene.phase, scene.course.state.outcome) == (Phase.IDLE, "release 2 is gone: it errs")

    @pytest.mark.parametrize("phase", sorted(OUT))
    def test_a_release_that_an_operator_promotes_is_followed_on_all(self, phase) -> None:
        scene = canary(phase=phase)
        scene.course.promoted(1, 1e3)
        assert scene.phase is phase
        scene.course.promoted(2, 1e3)

        assert scene.phase is Phase.ROLLOUT

    def test_a_job_that_was_at_work_before_a_restart_is_begun_again(self) -> None:
        before = Scene(phase=Phase.TRAINING, data_since_ms=40e3)
        before.at(1)

        assert Course(POLICY, before.course.state).tick(before.view, 2e3).kind is JobKind.TRAIN

    def test_a_training_that_is_interrupted_again_ends_the_turn_and_the_cool_down_holds(self) -> None:
        scene = Scene(phase=Phase.TRAINING, attempt_ms=0.0)
        for second in (600, 1200):
            scene.course.begun(scene.at(second))
            scene.course = Course(POLICY, scene.course.state)

        assert scene.at(1800) is None
        assert scene.phase is Phase.IDLE
        assert scene.course.state.outcome.startswith("training failed: interrupted 2 times")
        scene.drifts()
        scene.at(2799)
        assert scene.phase is Phase.IDLE
        scene.at(2800)
        assert (scene.phase, scene.course.state.starts) == (Phase.COLLECTING, 0)


def test_the_canary_grows_until_it_includes_somebody_who_is_there():
    fleet = [agent("pi"), agent("pj", health=Health.OFFLINE)]

    percent = canary_percent(10, "salt", "wear", fleet)

    assert 10 <= percent <= 100
    assert ReleaseTerms(model="wear", release=1, rollout_percent=percent, rollout_salt="salt").includes("pi")
    fewer = ReleaseTerms(model="wear", release=1, rollout_percent=percent - 1, rollout_salt="salt")
    assert percent == 10 or not fewer.includes("pi")
    assert canary_percent(10, "salt", "other", fleet) == canary_percent(10, "salt", "wear", []) == 10
