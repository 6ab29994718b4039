"""The gate: a release is measured by the champion on the same windows, and by a naive guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from support.bundles import make_bundle

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import OutputSpec, Task, Training
from atoll_trainer.dataset import Examples, Observed, Refusals, collect, cut, split
from atoll_trainer.gate import Gate, Limits
from atoll_trainer.recut import windows_for
from atoll_trainer.runs import Run
from atoll_trainer.task import TaskFile

LINEAR = make_bundle(release=1)
TRIPLE = make_bundle(release=2, file="triple_float")


def claiming(bundle: Bundle, **metrics: float) -> Bundle:
    return replace(
        bundle, manifest=bundle.manifest.model_copy(update={"training": Training(metrics=metrics)})
    )


def examples_of(bundle: Bundle) -> Examples:
    """Return windows whose targets are about what ``bundle`` promises for them."""
    windows = np.array([case.samples for case in bundle.golden.cases] * 8, dtype=np.float32)
    targets = np.array([case.output[0] for case in bundle.golden.cases] * 8, dtype=np.float64)
    random = np.random.default_rng(0)
    order = random.permutation(len(targets))
    windows, targets = windows[order], targets[order] + random.normal(0, 0.01, len(targets))
    return Examples(windows, targets, np.arange(len(targets), dtype=np.float64))


def test_on_a_run_both_answer_and_what_their_manifests_tell_does_not_count() -> None:
    right, wrong = claiming(LINEAR, float_mae=5.0), claiming(TRIPLE, float_mae=0.1)
    gate = Gate(0.05, examples_of(LINEAR))

    assert gate.refusal(right, wrong) is None
    refusal = gate.refusal(wrong, right)
    assert refusal is not None
    assert "is worse: the difference lies between" in refusal
    assert Gate(0.05).refusal(wrong, right) is None


def test_a_champion_of_other_windows_is_no_measure() -> None:
    other = replace(LINEAR, manifest=LINEAR.manifest.model_copy(update={"features": ["y"]}))

    refusal = Gate(0.05, examples_of(LINEAR)).refusal(LINEAR, other)

    assert refusal == "release 1 reads other windows: the run compares nothing"


def test_a_champion_that_reads_what_the_run_lacks_leaves_the_naive_guess() -> None:
    other = replace(LINEAR, manifest=LINEAR.manifest.model_copy(update={"features": ["y"]}))
    told = claiming(LINEAR, float_mae=1.0, naive_mae=2.0)

    verdict = Gate(0.05, examples_of(LINEAR)).judge(told, other)

    assert verdict.refusal is None
    assert verdict.note == (
        "release 1 reads other windows: the run compares nothing; it is better than a naive guess"
    )


def test_a_champion_of_longer_windows_reads_its_own_from_the_readings_of_the_run(tmp_path: Path) -> None:
    task_file = tmp_path / "task.toml"
    task_file.write_text('[task]\nmodel="wear"\nstream="s"\nkind="regression"\n[task.values.x]\n')
    task = TaskFile.read(task_file)
    random = np.random.default_rng(0)
    observed = [
        Observed(number, "ab"[number % 2], 1000.0 * number, {"x": float(x)}, label=2.0 * float(x) + 1)
        for number, x in enumerate(random.normal(size=200))
    ]
    readings = collect(observed, task, "test", "0", Refusals())
    test = split(cut(readings, task)[0], task).test
    champion = make_bundle(file="mean12_float", length=12)
    run = Run(tmp_path)
    run.write_readings(readings, test)

    verdict = Gate(0.0, test, recut=lambda manifest: windows_for(run, manifest, test)).judge(LINEAR, champion)

    longer, _ = cut(readings, task.with_length(12))
    windows, is_there = windows_for(run, champion.manifest, test)
    assert is_there.all()
    assert np.array_equal(windows, longer.take(np.arange(len(longer))[-len(test) :]).windows)
    assert verdict.refusal is None
    assert verdict.paired is not None
    assert verdict.paired.windows == len(test) == 40


def test_anomaly_models_are_compared_where_nobody_labels() -> None:
    seeing, blind = (
        make_bundle(task=Task.ANOMALY, output=OutputSpec(threshold=threshold), release=release)
        for release, threshold in ((1, 1.2), (2, 1e9))
    )
    windows = np.random.default_rng(0).uniform(0.0, 0.1, (200, 1, 1)).astype(np.float32)
    unlabelled = Examples(windows, np.full(200, np.nan), np.arange(200.0))
    gate = Gate(0.0, unlabelled)

    assert gate.refusal(seeing, blind) is None
    assert "is worse" in str(gate.refusal(blind, seeing))


def test_what_is_not_known_refuses_nothing() -> None:
    assert Gate(0.05).refusal(LINEAR, TRIPLE) is None
    assert Gate(0.05).refusal(claiming(LINEAR, float_mae=1.0), TRIPLE) is None
    assert Gate(0.05).refusal(claiming(LINEAR, float_mae=1.0, naive_mae=2.0), None) is None


def test_a_naive_guess_must_be_beaten_even_without_a_champion() -> None:
    refusal = Gate(0.05).refusal(claiming(LINEAR, float_mae=2.0, naive_mae=2.0), None)

    assert refusal == "its mean absolute error 2 is no better than a naive guess (2)"


def test_a_release_like_the_champion_is_not_better_and_passes_with_a_margin() -> None:
    other = replace(LINEAR, manifest=LINEAR.manifest.model_copy(update={"release": 2}))
    examples = examples_of(LINEAR)

    refusal = Gate(0.0, examples).refusal(other, LINEAR)

    assert refusal is not None
    assert "may be chance" in refusal
    assert Gate(0.05, examples).refusal(other, LINEAR) is None


def test_few_windows_tell_nothing() -> None:
    examples = examples_of(LINEAR)
    few = Examples(examples.windows[:5], examples.targets[:5], examples.times_ms[:5])

    refusal = Gate(0.05, few).refusal(LINEAR, TRIPLE)

    assert refusal == "5 windows are too few to tell it from release 2: 10 are needed"


def test_limits_of_size_and_latency_refuse() -> None:
    small, fast = Limits(size_bytes=10), Limits(latency_us=1e-6)

    assert "more than 10" in str(Gate(0.0, limits=small).refusal(LINEAR, None))
    assert "µs for an answer, more than 1e-06" in str(
        Gate(0.0, examples_of(LINEAR), fast).refusal(LINEAR, None)
    )
    assert Gate(0.0, examples_of(LINEAR), Limits(10**6, 1e6)).refusal(LINEAR, None) is None
