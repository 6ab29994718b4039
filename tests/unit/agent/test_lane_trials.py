from __future__ import annotations

import dataclasses
import time

import pytest
from support.lanes import TOPIC, Bench, Hold, predictor, slow_down, stream, turn_until

from atoll_agent.lane import live_trial
from atoll_agent.rollout.trial import Outcome
from atoll_contract.errors import Reason
from atoll_contract.manifest import OutputSpec, PassRules
from atoll_infer.predictor import Predictor
from atoll_ingest.stream import Overload


def rated(release, *, shadow=2, probation=2, **options) -> Predictor:
    rules = PassRules(
        shadow_windows=shadow, probation_windows=probation, min_labels=2, **options.pop("rules", {})
    )
    return predictor(release, **options, passing=rules)


class TrialBench(Bench):
    """A lane with a champion, release 1, and ``challenger`` in shadow."""

    def __init__(self, challenger: Predictor, **options):
        super().__init__(predictor(**options))
        self.lane.try_out(challenger)
        self.turn()
        self._seq = 0

    def read(self, count: int, x: float = 3) -> None:
        for _ in range(count):
            self._seq += 1
            self.deliver(b'{"time_ms":%d,"values":{"x":%g}}' % (self._seq, x), mid=self._seq)

    def label(self, time_ms: int, value: float, source: str = "press-1") -> None:
        payload = b'{"time_ms":%d,"value":%g}' % (time_ms, value)
        self.deliver(payload, topic=f"atoll/v1/site/{source}/label/press-1/wear", mid=1000 + time_ms)

    @property
    def releases(self) -> list[int]:
        return [prediction["release"] for prediction in self.predictions]

    def trial(self):
        self.lane._make_report(0)
        return self.lane.report.trials["wear"]


OFF_BY_TEN = OutputSpec(offset=10.0)
"""A release that predicts 10 more than the champion."""


def test_in_shadow_only_the_champion_is_heard_and_both_are_compared():
    bench = TrialBench(rated(2, output=OFF_BY_TEN))

    bench.read(3)

    assert bench.releases == [1, 1, 1]
    trial = bench.trial()
    assert (trial.release, trial.is_on_probation, trial.windows) == (2, False, 3)
    assert trial.disagreement == pytest.approx(10)
    assert trial.verdict.outcome is Outcome.PASSED


def test_a_message_with_many_windows_does_not_make_a_fast_release_too_slow(monkeypatch):
    mean = {"file": "mean12_float", "length": 12}
    monkeypatch.setattr("atoll_agent.lane.pending.MAX_BYTES", 100 * 12 * 4)
    bench = TrialBench(rated(2, shadow=500, **mean), **mean)

    bench.deliver(b"[" + b",".join([b'{"values":{"x":1}}'] * 400) + b"]")

    assert bench.trial().verdict is None
    assert bench.trial().windows == 389


def test_windows_that_the_champion_does_not_answer_are_kept_in_a_fixed_number(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.live_trial.MAX_OPEN", 5)
    bench = Bench(predictor(file="mean12_float", length=12))
    bench.lane.try_out(rated(2, shadow=100))

    for number in range(11):
        bench.deliver(b'{"time_ms":%d,"values":{"x":1}}' % number, mid=number + 1)

    [trial] = bench.lane._tracks["press"]._trials.values()
    assert trial.report().windows == 11
    assert len(trial._open) == 5


def test_a_release_that_differs_too_much_from_the_champion_is_stopped_in_shadow():
    bench = TrialBench(rated(2, output=OFF_BY_TEN, rules={"max_disagreement": 5.0}))

    bench.read(4)

    assert bench.releases == [1, 1, 1, 1]
    assert bench.trial().verdict.reason is Reason.CHAMPION_DISAGREES
    assert bench.trial().windows == 2


def test_a_release_that_is_worse_on_labels_is_stopped_in_shadow_and_one_that_is_better_is_not():
    worse = TrialBench(rated(2, shadow=9, output=OFF_BY_TEN, rules={"max_error_ratio": 1.5}))
    better = TrialBench(rated(2, shadow=9, output=OFF_BY_TEN, rules={"max_error_ratio": 1.5}))

    for bench, truth in ((worse, 7.5), (better, 16.5)):
        bench.read(3)
        for time_ms in (1, 2):
            bench.label(time_ms, truth)

    assert worse.trial().verdict.reason is Reason.ERROR_TOO_LARGE
    assert better.trial().verdict is None
    assert (better.trial().labels, better.trial().error) == (2, pytest.approx(0.5))


def test_on_probation_the_challenger_is_heard_and_at_a_breach_the_champion_again():
    bench = TrialBench(rated(2, rules={"high": 20.0}))
    bench.read(2)

    bench.lane.begin_probation("wear")
    bench.read(1)
    bench.read(1, x=50)
    bench.read(2)

    assert bench.releases == [1, 1, 2, 2, 1, 1]
    trial = bench.trial()
    assert (trial.is_on_probation, trial.windows) == (True, 2)
    assert trial.verdict.reason is Reason.OUTPUT_OUT_OF_RANGE


def test_a_release_that_passes_its_probation_goes_on_alone():
    bench = TrialBench(rated(2, rules={"max_disagreement": 0.5}))
    bench.read(2)
    bench.lane.begin_probation("wear")
    bench.read(2)

    assert bench.trial().verdict.outcome is Outcome.PASSED
    bench.lane.end_trial("wear", has_passed=True)
    bench.read(1)

    assert bench.releases == [1, 1, 2, 2, 2]
    bench.lane._make_report(0)
    assert bench.lane.report.trials == {}


def test_a_release_that_gets_slow_on_probation_is_taken_back():
    challenger = rated(2, shadow=1, probation=100, rules={"latency_ms": 5.0})
    bench = TrialBench(challenger)
    bench.read(1)
    bench.lane.begin_probation("wear")
    bench.read(20)
    slow_down(challenger, 0.02)
    bench.read(15)

    assert bench.trial().verdict.reason is Reason.TOO_SLOW
    # Half of the last twenty have to be slow; a fast one that the machine held up counts as slow, too.
    heard = bench.releases.count(2)
    assert 20 < heard <= 30
    assert bench.releases == [1] + [2] * heard + [1] * (35 - heard)


@pytest.mark.parametrize("is_on_probation", [False, True])
def test_a_release_that_hangs_is_taken_back(monkeypatch, is_on_probation):
    monkeypatch.setattr(live_trial, "_MUTE_S", 0.05)
    challenger = rated(2, shadow=1, probation=100)
    hold = Hold(challenger)
    bench = TrialBench(challenger)
    if is_on_probation:
        hold.let_go()
        bench.read(1)
        turn_until(bench, lambda: bench.trial().verdict)
        bench.lane.begin_probation("wear")

    bench.read(2)
    turn_until(bench, lambda: bench.trial().verdict)
    bench.read(1)

    assert bench.trial().verdict.reason is Reason.TOO_SLOW
    assert bench.trial().is_on_probation is is_on_probation
    assert bench.releases[-1] == 1
    hold.let_go(3)


def test_time_that_the_lane_stood_still_is_no_fault_of_the_release(monkeypatch):
    monkeypatch.setattr(live_trial, "_MUTE_S", 10.0)
    challenger = rated(2, shadow=100)
    hold = Hold(challenger)
    bench = TrialBench(challenger)
    bench.read(1)
    trial, now_s = bench.lane._tracks["press"]._trials["wear"], time.monotonic()

    assert trial.judge(now_s + 3600) is None
    assert trial.judge(now_s + 3604) is None
    assert trial.judge(now_s + 3609).reason is Reason.TOO_SLOW
    hold.let_go()


def test_a_release_that_cannot_keep_up_on_probation_is_taken_back():
    challenger = rated(2, shadow=1, probation=100)
    hold = Hold(challenger, answer_s=0.5)
    bench = TrialBench(challenger)
    hold.let_go()
    bench.read(1)
    turn_until(bench, lambda: bench.trial().verdict)
    bench.lane.begin_probation("wear")

    for _ in range(5):  # at QoS 0 no more wait than are answered in a second
        bench.deliver(b'{"values":{"x":3}}', qos=0)
    hold.let_go(9)

    assert bench.trial().is_on_probation
    assert bench.trial().verdict.reason is Reason.TOO_SLOW


def test_a_nan_on_probation_brings_the_champion_back_and_costs_one_prediction():
    bench = TrialBench(rated(2, file="nan_float"))
    bench.read(2, x=4)
    bench.lane.begin_probation("wear")

    bench.read(1, x=-1)
    bench.read(2, x=-1)

    assert bench.releases == [1, 1, 1, 1]
    assert bench.trial().verdict.reason is Reason.OUTPUT_NOT_FINITE
    assert bench.refusals() == {("wear", Reason.OUTPUT_NOT_FINITE): 1}


def test_the_champion_has_current_windows_when_it_comes_back():
    rules = {"high": 100.0}
    bench = TrialBench(
        rated(2, file="mean12_float", length=12, shadow=1, rules=rules), file="mean12_float", length=12
    )
    for number in range(12):
        bench.read(1, x=number)
    bench.lane.begin_probation("wear")
    bench.read(1, x=12)
    bench.read(1, x=5000)
    bench.read(1, x=6)

    assert bench.releases == [1, 2, 2, 1]
    assert bench.predictions[-1]["value"] == pytest.approx((sum(range(3, 13)) + 5000 + 6) / 12)
    assert "quality" not in bench.predictions[-1]


def test_labels_count_only_from_the_device_itself_and_from_trusted_writers():
    bench = TrialBench(rated(2, shadow=9))
    bench.read(3)

    bench.label(1, 7.0, source="stranger")
    bench.label(2, 7.0)

    assert bench.trial().labels == 1
    assert bench.refusals() == {("press", Reason.UNTRUSTED_WRITER): 1}


def test_what_a_slow_release_still_works_on_when_its_shadow_ends_is_not_heard():
    challenger = rated(2, shadow=1)
    hold = Hold(challenger)
    bench = TrialBench(challenger)
    bench.read(3)
    bench.lane.begin_probation("wear")
    hold.let_go(4)
    bench.read(1)
    turn_until(bench, lambda: len(bench.wire.sent) == 4)

    assert bench.releases == [1, 1, 1, 2]
    assert [prediction["time_ms"] for prediction in bench.predictions] == [1, 2, 3, 4]


def test_labels_that_come_with_their_readings_count():
    bench = TrialBench(rated(2, shadow=100, output=OFF_BY_TEN, rules={"max_error": 1.0}))

    for number in (1, 2):
        bench.wire.deliver(TOPIC, b'{"time_ms":%d,"values":{"x":3}}' % number, mid=number)
        label = b'{"time_ms":%d,"value":7}' % number
        bench.wire.deliver("atoll/v1/site/press-1/label/press-1/wear", label, mid=10 + number)
    bench.turn()

    assert bench.trial().verdict.reason is Reason.ERROR_TOO_LARGE
    assert bench.acknowledged == []


def test_a_label_that_comes_before_the_answer_of_a_slow_release_counts():
    challenger = rated(2, shadow=100, output=OFF_BY_TEN, rules={"max_error": 1.0})
    hold = Hold(challenger)
    bench = TrialBench(challenger)

    bench.read(2)
    for time_ms in (1, 2):
        bench.label(time_ms, 7.0)
    hold.let_go(2)
    turn_until(bench, lambda: bench.trial().labels == 2)

    assert bench.trial().verdict.reason is Reason.ERROR_TOO_LARGE


def test_a_label_told_twice_counts_once_and_a_retained_one_not_at_all():
    bench = TrialBench(rated(2, shadow=100))
    bench.read(2)

    for _ in range(2):
        bench.label(2, 7.0)
    bench.deliver(
        b'{"time_ms":1,"value":7}', topic="atoll/v1/site/press-1/label/press-1/wear", is_retained=True, mid=50
    )

    assert bench.trial().labels == 1
    assert bench.refusals() == {("press", Reason.RETAINED): 1}


def test_a_release_that_cannot_use_what_the_champion_answers_is_stopped():
    bench = TrialBench(rated(2, shadow=5, value="y"))

    bench.read(1)

    assert bench.trial().verdict.reason is Reason.ANSWERS_FEWER
    assert bench.releases == [1]


def test_a_release_that_cannot_keep_up_is_stopped_in_shadow():
    challenger = rated(2, shadow=3)
    hold = Hold(challenger, answer_s=0.5)
    bench = TrialBench(challenger)

    bench.read(20)
    hold.let_go(20)
    turn_until(bench, lambda: bench.trial().verdict)

    assert bench.trial().verdict.reason is Reason.TOO_SLOW
    assert bench.releases == [1] * 20


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_model_that_fails_in_shadow_hurts_nobody(is_slow):
    challenger = rated(2, shadow=5, file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0))
    if is_slow:
        challenger.answer_s = 0.1
    bench = TrialBench(challenger)

    bench.read(2, x=99)
    turn_until(bench, lambda: bench.trial().verdict)

    assert bench.trial().verdict.reason is Reason.MODEL_FAILED
    assert bench.releases == [1, 1]


def test_what_waits_for_a_slow_release_at_its_breach_is_answered_by_the_champion():
    challenger = rated(2, shadow=1, probation=100, rules={"high": 20.0})
    hold = Hold(challenger)
    bench = TrialBench(challenger)
    hold.let_go()
    bench.read(1)
    turn_until(bench, lambda: bench.trial().verdict)
    bench.lane.begin_probation("wear")

    bench.read(1, x=50)
    bench.read(3)
    hold.let_go()
    turn_until(bench, lambda: bench.trial().is_on_probation and bench.trial().verdict)
    hold.let_go()  # for the one that is at work
    turn_until(bench, lambda: len(bench.wire.sent) == 5)

    by_time = {prediction["time_ms"]: prediction["release"] for prediction in bench.predictions}
    assert by_time == {1: 1, 2: 2, 3: 2, 4: 1, 5: 1}
    assert bench.trial().verdict.reason is Reason.OUTPUT_OUT_OF_RANGE


def test_a_retired_release_does_not_speak_in_the_next_trial():
    challenger = rated(2, shadow=100, output=OFF_BY_TEN)
    hold = Hold(challenger)
    bench = TrialBench(challenger)
    bench.read(2)
    bench.lane.try_out(rated(3, shadow=100))
    bench.turn()
    hold.let_go(2)

    bench.read(3)
    turn_until(bench, lambda: bench.trial().windows == 3)

    assert bench.trial().release == 3
    assert bench.trial().disagreement == 0


def test_a_reading_that_neither_can_use_is_no_breach_on_probation():
    bench = TrialBench(rated(2, probation=3))
    bench.read(2)
    bench.lane.begin_probation("wear")

    bench.deliver(b'{"time_ms":9,"values":{}}', mid=900)
    bench.read(3)

    assert bench.trial().verdict.outcome is Outcome.PASSED
    assert bench.releases[-3:] == [2, 2, 2]


def test_when_the_newest_are_answered_a_hand_over_leaves_out_the_oldest_and_acknowledges_all():
    champion, challenger = predictor(), rated(2, probation=100)
    held_champion, held = Hold(champion, answer_s=0.9), Hold(challenger, answer_s=0.1)
    bench = Bench(champion, streams=[stream(overload=Overload.NEWEST)])
    bench.lane.try_out(challenger)
    bench.lane.begin_probation("wear")
    for number in range(5):  # the champion has room for one that waits, the challenger for ten
        bench.deliver(b'{"time_ms":%d,"values":{"x":3}}' % number, mid=number + 1)
    assert held.at_work.acquire(timeout=20)

    bench.lane.end_trial("wear", has_passed=False)
    bench.turn()
    held.let_go(5)
    held_champion.let_go(5)

    def are_all_acknowledged() -> bool:
        bench.wire.puback(*[mid for mid, _, _ in bench.wire.sent])
        return len(bench.acknowledged) == 5

    turn_until(bench, are_all_acknowledged)
    assert bench.acknowledged == [1, 2, 3, 4, 5]


def test_what_waits_at_the_end_of_a_trial_and_the_champion_cannot_use_is_refused():
    champion, challenger = predictor(value="y"), rated(2, probation=100)
    hold = Hold(challenger)
    bench = Bench(champion, streams=[dataclasses.replace(stream(), units={"x": None, "y": None})])
    bench.lane.try_out(challenger)
    bench.lane.begin_probation("wear")
    for number in range(3):
        bench.deliver(b'{"time_ms":%d,"values":{"x":3}}' % number, mid=number + 1)
    assert hold.at_work.acquire(timeout=20)

    bench.lane.end_trial("wear", has_passed=False)
    bench.turn()

    assert bench.refusals()["wear", Reason.MISSING_VALUE] == 2
    hold.let_go()
    turn_until(bench, lambda: [told["release"] for told in bench.predictions] == [2])
    bench.wire.puback(1)
    bench.turn()
    assert bench.acknowledged == [1, 2, 3]
