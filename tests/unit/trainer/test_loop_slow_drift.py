"""A world that goes on changing while the loop learns it: what stays, and what is followed up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.loop_scenes import DONE, POLICY, Scene, agent, canary, error, out, report

from atoll_contract.drift import ErrorShift
from atoll_contract.messages import Health
from atoll_trainer.loop.course import Course, Ended, Job, JobKind
from atoll_trainer.loop.machine import Phase
from atoll_trainer.loop.state import Cause, Learnt

USUAL = 0.05


def watched(own: float, own_labels: int = 500, others: ErrorShift | None = None, **state) -> Scene:
    """Return a scene in which pi runs release 2 and errs ``own``, ten times what it promised; pj does not."""
    scene = canary(phase=Phase.WATCHING, **state)
    drifts = report(2, drifting=True, error=error(own, own / 10, labels=own_labels))
    if others is not None:
        drifts |= report(1, "pj", error=others)
    scene.sees(agents=[agent(runs=2), agent("pj")], drifts=drifts)
    return scene


class TestWatching:
    @pytest.mark.parametrize(("others", "is_kept"), [(3.0, True), (1.61, True), (1.59, False)])
    def test_what_errs_more_than_promised_stays_if_others_err_as_much_meanwhile(
        self, others, is_kept
    ) -> None:
        scene = watched(2.0, others=error(others, USUAL), error_before=9.0)
        job = scene.at(1) or scene.at(50)

        assert job.kind is (JobKind.PROMOTE if is_kept else JobKind.WITHDRAW)
        assert (
            is_kept or job.why == "on pi its error is 2 instead of 0.2, and 1.59 where another release runs"
        )

    def test_where_the_world_stands_still_it_has_to_keep_its_promise(self) -> None:
        # pj is a harder device: it errs 3 as ever.
        scene = watched(2.0, others=error(3.0, 3.0, is_beyond=False), error_before=9.0)

        assert scene.at(1).why == "on pi its error is 2 instead of 0.2"

    def test_most_of_the_others_have_to_be_beyond_their_limit(self) -> None:
        scene = watched(2.0, others=error(3.0, USUAL))
        scene.sees(
            agents=[*scene.view.agents, agent("pk")],
            drifts={**scene.view.drifts, **report(1, "pk", error=error(0.05, USUAL, is_beyond=False))},
        )

        assert scene.at(1).kind is JobKind.WITHDRAW

    def test_others_that_are_beyond_their_limit_need_no_more_labels(self) -> None:
        scene = watched(2.0, others=error(3.0, USUAL, labels=10))

        assert (scene.at(1), scene.at(50).kind) == (None, JobKind.PROMOTE)

    @pytest.mark.parametrize(
        ("cause", "is_kept"), [(Cause.FOLLOW_UP, True), (Cause.DRIFT, False), (Cause.SCHEDULE, False)]
    )
    def test_a_follow_up_is_held_against_what_the_release_before_errs_whatever_that_promised(
        self, cause, is_kept
    ) -> None:
        learnt = Learnt(release=1, began_ms=0.0)
        others = error(3.0, 3.0, is_beyond=False)
        scene = watched(2.0, others=others, cause=cause, learnt=learnt)
        job = scene.at(1) or scene.at(50)

        assert job.kind is (JobKind.PROMOTE if is_kept else JobKind.WITHDRAW)

    def test_others_are_looked_at_for_as_long_as_it_is_watched(self) -> None:
        # The disturbance that it was learnt from is over: the champion would be right again.
        scene = watched(2.0, others=error(3.0, USUAL))
        assert scene.at(1) is None
        others = report(1, "pj", error=error(0.05, USUAL, is_beyond=False))
        scene.sees(drifts={**scene.view.drifts, **others})

        assert scene.at(2).kind is JobKind.WITHDRAW

    @pytest.mark.parametrize(("before", "is_kept"), [(3.0, True), (1.5, False)])
    def test_where_all_run_it_what_they_erred_before_counts(self, before, is_kept) -> None:
        scene = canary()
        scene.sees(drifts=report(1, drifting=True, error=error(before, USUAL)))
        scene.at(1)
        scene.sees(agents=[agent(runs=2)], drifts=report(2, drifting=True, error=error(2.0, 0.2)))
        scene.at(2)
        assert scene.phase is Phase.WATCHING
        again = Course(POLICY, scene.course.state)  # it is part of the state, so it outlives a stop
        job = again.tick(scene.view, 3e3) or again.tick(scene.view, 60e3)

        assert job.kind is (JobKind.PROMOTE if is_kept else JobKind.WITHDRAW)

    @pytest.mark.parametrize(
        "others",
        [
            {"agents": [agent(runs=2), agent("pj", health=Health.OFFLINE)]},
            {"agents": [agent(runs=2), agent("pj", runs=3)]},  # its report is of what it ran before
            {"drifts": {**report(2, error=error(2.0, 0.2)), **report(1, "pj")}},
            {
                "drifts": {
                    **report(2, error=error(2.0, 0.2)),
                    **report(1, "pj", error=error(3.0, 3.0, is_beyond=False, labels=199)),
                }
            },
        ],
    )
    def test_who_is_away_has_moved_on_or_has_few_labels_is_no_measure(self, others) -> None:
        scene = watched(2.0, others=error(3.0, USUAL))
        scene.sees(**others)

        assert scene.at(1).why == "on pi its error is 2 instead of 0.2"

    @pytest.mark.parametrize(
        ("labels", "own", "others", "soon", "late"),
        [
            (99, 2.0, 1.5, None, JobKind.WITHDRAW),
            (99, 2.0, 3.0, None, JobKind.PROMOTE),
            (99, 2.0, 0.4, JobKind.WITHDRAW, None),  # it need not be known exactly
            (100, 2.0, 1.5, JobKind.WITHDRAW, None),
        ],
    )
    def test_a_few_labels_are_waited_for_and_then_have_to_do(self, labels, own, others, soon, late) -> None:
        # watch_s is 50, settle_s 500.
        scene = watched(own, own_labels=labels, others=error(others, USUAL))
        jobs = [scene.at(1), scene.at(60), scene.at(501)]

        assert [None if job is None else job.kind for job in jobs] == [soon, None, late]

    def test_what_a_former_turn_saw_is_forgotten(self) -> None:
        scene = Scene(error_before=9.0)
        scene.drifts()
        scene.at(90)

        assert scene.course.state.error_before is None


class Turns:
    """A course of which all devices run each release as soon as it is out."""

    def __init__(self, policy=POLICY, **state) -> None:
        self.scene = Scene(policy, **state)
        self.second = 10_000.0

    @property
    def state(self):
        return self.scene.course.state

    def lives(self, release: int, promises: float, errs: float | None = None) -> None:
        """Let a release be out for all, which drifts if it ``errs`` more than it promises."""
        told = error(errs or promises, promises, is_beyond=errs is not None)
        since_ms = None if errs is None else self.second * 1e3
        self.scene.sees(
            releases=out(release),
            agents=[agent(runs=release)],
            drifts=report(release, since_ms=since_ms, drifting=errs is not None, error=told),
        )

    def train(self) -> Job | None:
        """Go on until a training begins, an hour at the most."""
        for _ in range(3600):
            self.second += 1
            if (job := self.scene.at(self.second)) is not None:
                assert job.kind is JobKind.TRAIN
                return job
        return None

    def end(self, release: int, ended: Ended | None = None, *, is_training: bool = True) -> None:
        """End the training by ``ended``, or else the whole turn by ``release`` being out for all."""
        if ended is not None and is_training:
            self.scene.ends(ended, self.second * 1e3)
            return
        self.scene.ends(Ended(is_done=True, run="wear-1", release=release), self.second * 1e3)
        self.second += 1
        assert self.scene.at(self.second).kind is JobKind.PUBLISH
        if ended is not None:
            self.scene.ends(ended, self.second * 1e3)
            return
        self.scene.ends(DONE, self.second * 1e3)
        self.scene.sees(releases=out(release), agents=[agent(runs=release)], drifts={})
        while self.state.phase is not Phase.IDLE:
            self.second += 1
            if self.scene.at(self.second) is not None:
                self.scene.ends(DONE, self.second * 1e3)


def drifted(promises: float, **state) -> Turns:
    """Return where a drift has been learnt by release 2, which ``promises`` so large an error."""
    turns = Turns(**state)
    turns.lives(1, promises=USUAL, errs=1.0)
    job = turns.train()
    assert turns.state.cause is Cause.DRIFT
    assert job is not None
    turns.end(2)
    turns.lives(2, promises=promises)
    return turns


class TestFollowUp:
    def test_a_release_that_promises_far_more_than_usual_is_followed_up_with_what_is_newer(self) -> None:
        turns = drifted(promises=0.5)
        began_ms = turns.state.attempt_ms
        job = turns.train()

        assert job.since_ms == began_ms
        assert turns.state.cause is Cause.FOLLOW_UP
        assert turns.state.detail == "release 2 promises an error of 0.5, 0.05 is usual"
        assert turns.state.attempt_ms >= began_ms + POLICY.cool_down_s * 1e3

        turns.end(3)
        turns.lives(3, promises=0.06)
        assert turns.state.learns_from_ms == began_ms
        assert turns.train() is None

    @pytest.mark.parametrize(("promises", "is_enough"), [(0.075, True), (0.0751, False)])
    def test_about_what_is_usual_is_enough(self, promises, is_enough) -> None:
        assert (drifted(promises).train() is None) is is_enough

    def test_in_a_harder_world_it_ends_after_three(self) -> None:
        turns = drifted(promises=0.5)
        for release in (3, 4, 5):
            assert turns.train() is not None
            turns.end(release)
            turns.lives(release, promises=0.5)
        assert turns.train() is None

        # That is what the next drift is held against.
        turns.lives(5, promises=0.5, errs=2.0)
        turns.train()
        turns.end(6)
        turns.lives(6, promises=0.7)
        assert turns.train() is None

    def test_what_the_gate_refuses_is_tried_again_with_more(self) -> None:
        turns = drifted(promises=0.5)
        first = turns.train()
        refused = Ended(is_done=False, is_refusal=True, detail="9 windows are too few")
        turns.end(3, refused, is_training=False)

        assert turns.train() == first

    def test_a_training_that_fails_is_tried_again_with_the_same_and_what_came_since(self) -> None:
        turns = drifted(promises=0.5)
        first = turns.train()
        turns.end(3, Ended(is_done=False, detail="no memory"))

        assert turns.train() == first
        turns.end(3, Ended(is_done=False, detail="no memory"))
        assert turns.train() == first
        turns.end(3, Ended(is_done=False, detail="no memory"))
        assert turns.train() is None

    def test_a_drift_that_goes_on_comes_first(self) -> None:
        turns = drifted(promises=0.5)
        turns.lives(2, promises=0.5, errs=2.0)
        turns.train()

        assert turns.state.cause is Cause.DRIFT

    def test_one_that_waits_for_readings_ends_when_it_drifts_again(self) -> None:
        turns = drifted(promises=0.5, policy=replace(POLICY, fresh_s=2000.0))
        while turns.state.phase is not Phase.COLLECTING:
            turns.second += 1
            turns.scene.at(turns.second)
        turns.scene.at(turns.second + 1)
        assert turns.state.cause is Cause.FOLLOW_UP
        turns.lives(2, promises=0.5, errs=2.0)
        turns.scene.at(turns.second + 2)

        assert turns.state.outcome == "it drifts again"

    @pytest.mark.parametrize("labels", [0, 199])
    def test_a_promise_is_known_with_200_labels(self, labels) -> None:
        turns = drifted(promises=0.5)
        told = error(0.5, 0.5, is_beyond=False, labels=labels) if labels else None
        turns.scene.sees(drifts=report(2, error=told))

        assert turns.train() is None

    @pytest.mark.parametrize("usual", [None, 0.0])
    def test_without_labels_or_errors_before_there_is_nothing_to_hold_it_against(self, usual) -> None:
        turns = Turns()
        told = None if usual is None else error(1.0, usual)
        turns.scene.sees(drifts=report(1, since_ms=turns.second * 1e3, drifting=True, error=told))
        turns.train()
        turns.end(2)
        turns.lives(2, promises=0.5)
        assert turns.train() is None

        # From the next drift on there is.
        turns.lives(2, promises=0.5, errs=2.0)
        turns.train()
        turns.end(3)
        turns.lives(3, promises=0.8)
        assert turns.train() is not None

    @pytest.mark.parametrize(("promises", "is_enough"), [(0.06, True), (0.5, False)])
    def test_a_release_for_another_reason_is_judged_in_its_place(self, promises, is_enough) -> None:
        turns = drifted(promises=0.5)
        turns.scene.course.order()
        turns.train()
        assert turns.state.cause is Cause.REQUEST
        turns.end(3)
        turns.lives(3, promises=promises)

        assert (turns.train() is None) is is_enough

    def test_a_release_without_a_drift_is_not_judged(self) -> None:
        turns = Turns(usual_error=USUAL)
        turns.scene.course.order()
        turns.train()
        turns.end(2)
        turns.lives(2, promises=0.5)

        assert turns.train() is None

    def test_one_agent_that_drifts_where_two_have_to_holds_up_nothing(self) -> None:
        turns = drifted(promises=0.5)
        turns.scene.course.policy = replace(POLICY, drift_agents=2)
        turns.lives(2, promises=0.5, errs=2.0)

        assert turns.train() is not None
        assert turns.state.cause is Cause.FOLLOW_UP
        assert turns.state.learnt.follow_ups == 1

    def test_nothing_is_followed_up_where_drift_is_not_heeded(self) -> None:
        turns = drifted(promises=0.5)
        turns.scene.course.policy = replace(POLICY, on_drift=False)

        assert turns.train() is None

    def test_a_drift_that_is_called_off_changes_nothing_of_what_is_usual(self) -> None:
        scene = Scene(usual_error=USUAL)
        scene.drifts(error=error(1.0, 0.01))
        scene.at(90)
        scene.sees(drifts={})
        scene.at(91)

        assert (scene.phase, scene.course.state.usual_error) == (Phase.IDLE, USUAL)
