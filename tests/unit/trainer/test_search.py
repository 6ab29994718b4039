"""What a search does beside fitting: forms, exact solutions, calibration, and the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest
from pydantic import ValidationError

from atoll_trainer.dataset import UnsuitableDataError
from atoll_trainer.search.calibrate import calibration, softmax
from atoll_trainer.search.choice import Judged, choose
from atoll_trainer.search.disturb import disturbed
from atoll_trainer.search.exact import components, ridge
from atoll_trainer.search.left_out import excess
from atoll_trainer.search.network import Head, Network, Plan, drawn
from atoll_trainer.search.part import Part
from atoll_trainer.search.recipe import families, proposed, starts
from atoll_trainer.task import TaskFile
from atoll_trainer.task_tables import FamilyName, SearchTable


def judged(losses, size_bytes, latency_us=1.0):
    return Judged(np.array(losses, float), size_bytes, latency_us, 1)


def test_the_smallest_within_one_standard_error_of_the_best_is_taken():
    best = judged([1.0, 1.0, 1.2, 0.8], 900)
    near = judged([1.2, 0.9, 1.1, 0.9], 500)
    far = judged([2.0, 2.0, 2.2, 1.8], 100)

    found = choose([best, near, far], SearchTable())

    assert found.chosen == 1
    assert "the smallest within one standard error" in found.why
    assert choose([best, near, far], SearchTable(prefer="accurate")).chosen == 0


def test_what_is_surely_worse_is_not_taken_however_hard_the_windows_are():
    # Both find the same windows hard: the spread is large, the difference certain.
    best, worse = judged([0, 10, 20, 30], 900), judged([1, 11, 21, 31], 100)

    assert choose([best, worse], SearchTable()).chosen == 0


def test_limits_rule_candidates_out_and_the_front_holds_the_rest():
    large, slow, small = judged([1, 1], 900, 1), judged([1, 2], 500, 9), judged([3, 4], 100, 1)
    dominated = judged([3, 5], 950, 9)
    found = [large, slow, small, dominated]

    assert choose(found, SearchTable(max_size_bytes=600, prefer="accurate")).chosen == 1
    assert choose(found, SearchTable(max_size_bytes=600, max_latency_us=5)).chosen == 2
    assert choose(found, SearchTable()).is_on_front == [True, True, True, False]
    with pytest.raises(UnsuitableDataError, match=r"none of 4 candidates keeps .* smallest has 100 bytes"):
        choose(found, SearchTable(max_size_bytes=10))


def test_a_line_is_found_exactly_and_smoothing_changes_nothing_of_it():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(500, 6, 2)).astype(np.float32)
    w = random.normal(size=12)
    targets = (inputs.reshape(500, -1) @ w + 3)[:, None].astype(np.float32)

    for smoothing in (0, 3):
        (layer,) = ridge(inputs, targets, 1e-9, smoothing).layers
        assert layer.w[:, 0] == pytest.approx(w, abs=1e-4)
        assert layer.b[0] == pytest.approx(3, abs=1e-4)


def test_components_restore_what_lies_on_them():
    random = np.random.default_rng(0)
    along = random.normal(size=(300, 1, 1)) * np.array([1.0, 2.0, 2.0])[None, :, None]
    squeeze, restore = components((along + 5).astype(np.float32), 1).layers

    flat = (along[:10] + 5).reshape(10, -1).astype(np.float32)
    assert (flat @ squeeze.w + squeeze.b) @ restore.w + restore.b == pytest.approx(flat, abs=1e-3)


@pytest.mark.parametrize(("family", "longest"), [("linear", 500), ("seasonal", 500), ("mlp", 2000)])
def test_a_linear_model_is_not_computed_for_windows_that_would_fill_the_memory(family, longest):
    task = {"model": "m", "stream": "s", "kind": "forecast", "target": "a"}
    task |= {"values": {name: {} for name in "abcd"}}
    file = TaskFile.model_validate(
        {"task": task, "window": {"length": "auto"}, "search": {"families": [family]}}
    )

    lengths = {start[f"{family}.length"] for start in starts(file, [8, 500, 2000])}

    assert max(lengths) == longest


def test_families_that_a_task_does_not_have_are_refused_when_it_is_read():
    task = {"model": "m", "stream": "s", "kind": "regression", "values": {"x": {}}}

    with pytest.raises(ValidationError, match=r"search.families: svm: of a regression there are linear, mlp"):
        TaskFile.model_validate({"task": task, "search": {"families": ["linear", "svm"]}})


def test_the_threshold_of_a_model_that_has_learnt_by_heart_is_raised_by_what_it_was_not_told():
    def series(seed, count=4600):
        random = np.random.default_rng(seed)
        x = random.normal(size=count)
        for at in range(1, count):
            x[at] += 0.9 * x[at - 1]
        return (x / x.std()).astype(np.float32)

    def scores(network, inputs):
        return ((inputs - run(network, inputs).reshape(inputs.shape)) ** 2).mean(axis=(1, 2))

    def learn(rest):
        network = components(rest.inputs, 46)
        return lambda of: scores(network, of)

    length, share = 64, 0.999
    plain, raised = [], []
    for seed in range(5):
        windows = np.lib.stride_tricks.sliding_window_view(series(seed), length)[..., None]
        part = Part(windows[:400], np.zeros((400, 1), np.float32), np.ones(400, np.float32))
        network, fresh = components(part.inputs, 46), windows[500:]
        threshold = np.quantile(scores(network, part.inputs), share)
        factor = excess(part, length, share, learn)
        plain.append((scores(network, fresh) > threshold).mean())
        raised.append((scores(network, fresh) > threshold * factor).mean())

    assert np.mean(plain) > 0.1
    assert np.mean(raised) < 0.02


def test_too_few_windows_raise_no_threshold():
    part = Part(np.zeros((20, 8, 1), np.float32), np.zeros((20, 1), np.float32), np.ones(20, np.float32))

    assert excess(part, 8, 0.99, lambda _: lambda of: of[:, 0, 0]) == 1.0


def run(network, flat):
    """The network in plain numpy."""
    found = flat.reshape(len(flat), network.length, network.columns)
    for layer in network.layers:
        if layer.is_convolution:
            kernel = layer.w.shape[0]
            rest = (found.shape[1] - kernel) % layer.stride
            windows = np.lib.stride_tricks.sliding_window_view(found, kernel, axis=1)
            windows = windows[:, rest :: layer.stride]
            found = np.einsum("ntck,kcu->ntu", windows, layer.w) + layer.b
        else:
            if found.ndim == 3:
                found = found.mean(axis=1) if network.pools else found.reshape(len(found), -1)
            found = found @ layer.w + layer.b
        found = np.maximum(found, 0) if layer.relu else found
    return found


@pytest.mark.parametrize("pools", [False, True])
def test_units_that_do_nothing_are_thinned_and_the_answers_stay(pools):
    random = np.random.default_rng(1)
    plan = Plan(widths=(8,), filters=(6, 4), kernel=3, stride=2, pools=pools)
    whole = drawn(random, 20, 2, plan, 3, Head.NUMBERS)
    layers = [
        replace(layer, w=random.normal(size=layer.w.shape).astype(np.float32)) for layer in whole.layers
    ]
    for layer in layers[:-1]:
        layer.w[..., ::2] = 0  # every second unit
    network = Network(20, 2, tuple(layers), Head.NUMBERS, pools)
    inputs = random.normal(size=(5, 40)).astype(np.float32)

    thinned = network.thinned(0.5)

    assert [layer.units for layer in thinned.layers] == [3, 2, 4, 3]
    assert run(thinned, inputs) == pytest.approx(run(network, inputs), abs=1e-4)
    assert thinned.parameters < network.parameters / 2


def test_calibration_finds_the_temperature_and_takes_weights_back():
    random = np.random.default_rng(2)
    honest = random.normal(size=(4000, 3)) * 2
    classes = np.array([random.choice(3, p=row) for row in softmax(honest)], float)

    factor, _ = calibration(honest * 5, classes, shifts=False)
    assert factor == pytest.approx(0.2, rel=0.1)
    factor, shift = calibration(honest + np.array([0, 0, 2.0]), classes, shifts=True)
    assert factor == pytest.approx(1, rel=0.1)
    assert (shift - shift.mean())[2] == pytest.approx(-4 / 3, abs=0.2)


def test_disturbed_windows_differ_in_their_newest_reading_by_a_seed():
    windows = np.zeros((50, 8, 2), np.float32)

    found = disturbed(windows, np.array([1.0, 2.0]), 0)

    assert (found[:, -1] != 0).any(axis=1).all()
    assert ((found != 0).any(axis=1).sum(axis=1) == 1).all()  # one column each
    assert np.array_equal(found, disturbed(windows, np.array([1.0, 2.0]), 0))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("forecast", {"linear", "seasonal", "mlp", "conv"}),
        ("regression", {"linear", "mlp", "conv"}),
        ("classification", {"linear", "svm", "mlp", "conv"}),
        ("anomaly", {"linear", "autoencoder"}),
    ],
)
def test_every_family_of_a_task_is_tried_and_proposals_follow_the_seed(kind, expected):
    task = {"model": "m", "stream": "s", "kind": kind, "values": {"x": {}}}
    task |= {"target": "x"} if kind == "forecast" else {}
    task |= {"labels": ["a", "b"]} if kind == "classification" else {}
    file = TaskFile.model_validate({"task": task, "window": {"length": "auto"}})

    def tried():
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        for start in starts(file, [1, 8, 32]):
            study.enqueue_trial(start)
        found = []
        for number in range(20):
            trial = study.ask()
            found.append(proposed(trial, file, [1, 8, 32], has_rare=True))
            study.tell(trial, float(number % 7))
        return found

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    recipes = tried()
    assert {recipe.family.value for recipe in recipes} == expected == {name.value for name in families(file)}
    assert recipes == tried()
    assert all(recipe.length >= 8 for recipe in recipes if recipe.family is FamilyName.CONV)
