from __future__ import annotations

import numpy as np
import pytest
from support.bundles import make_bundle

from atoll_contract.bundle import Bundle, Golden
from atoll_contract.errors import Reason
from atoll_infer import golden, tuning
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_infer.tuning import BATCH, tune


@pytest.fixture(scope="module")
def runtime():
    return choose_runtime().runtime


def tuned(runtime, bundle: Bundle) -> Predictor:
    predictor = golden.self_test(bundle, runtime)
    tune(predictor, bundle, runtime)
    return predictor


def values(predictor: Predictor, *windows: float) -> list:
    samples = np.array(windows, np.float32).reshape(-1, 1, 1)
    return [getattr(answer, "value", answer) for answer in predictor.answers(samples)]


@pytest.mark.parametrize("file", ["linear_float", "linear_int8"])
@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 70])
def test_a_model_answers_in_batches_what_it_answers_alone(runtime, file, count):
    bundle = make_bundle(file=file)
    predictor, plain = tuned(runtime, bundle), golden.self_test(bundle, runtime)
    windows = np.linspace(-9, 9, count)

    alone = [values(plain, x)[0] for x in windows]

    assert values(predictor, *windows) == pytest.approx(alone, rel=1e-5, abs=1e-6)


def test_a_small_network_is_run_in_batches(runtime, monkeypatch):
    bundle = make_bundle()
    sizes = []
    load = runtime.load
    counted = type(runtime)(runtime.name, runtime.interpreter)
    monkeypatch.setattr(type(runtime), "load", lambda _self, *a, **k: sizes.append(k) or load(*a, **k))

    tuned(counted, bundle)

    assert {"batch": BATCH} in sizes


def test_a_model_that_mixes_the_inputs_of_a_batch_is_run_on_one_after_the_other(runtime):
    bundle = make_bundle(file="mixing_float")
    one_case = Bundle(bundle.manifest, bundle.model, Golden(cases=bundle.golden.cases[:1]))

    predictor = tuned(runtime, one_case)

    assert values(predictor, 1, 2, 3, 4) == [1, 2, 3, 4]


def test_a_model_that_fails_on_other_inputs_than_the_golden_ones_has_no_batches_and_still_answers(runtime):
    bundle = make_bundle(file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0))

    predictor = tuned(runtime, bundle)

    assert values(predictor, 1, 99, 2) == [20, Reason.MODEL_FAILED, 30]


def test_one_failing_input_of_a_batch_costs_only_its_own_answer(runtime):
    bundle = make_bundle(file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0))
    predictor = golden.self_test(bundle, runtime)
    predictor.use_batches(runtime.load(bundle.model, batch=BATCH), pays_from=2)

    assert values(predictor, 1, 99, 2) == [20, Reason.MODEL_FAILED, 30]


def test_a_slow_model_is_measured_and_left_alone(runtime, monkeypatch):
    monkeypatch.setattr(tuning, "SLOW_S", 0.0)

    predictor = tuned(runtime, make_bundle())

    assert predictor.answer_s > 0
    assert predictor._batch is None
