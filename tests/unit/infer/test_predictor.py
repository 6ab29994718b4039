from __future__ import annotations

import json

import numpy as np
import pytest
from support.bundles import make_bundle, with_wrong_golden

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import Dtype, Manifest, OutputSpec, Task, TensorSpec, ValueSpec
from atoll_contract.messages import Quality
from atoll_infer import golden
from atoll_infer.predictor import ModelOutputError, Predictor, dequantise, quantise
from atoll_infer.runtime import Runtime, choose_runtime


@pytest.fixture(scope="module")
def runtime():
    return choose_runtime().runtime


def predictor(runtime, bundle: Bundle) -> Predictor:
    return Predictor(bundle.manifest, runtime.load(bundle.model))


def window(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1)


def test_a_float_model_answers(runtime):
    answer = predictor(runtime, make_bundle(file="linear_float")).answer(window(3))

    assert answer.value == pytest.approx(7.0)
    assert answer.quality == ()


def test_an_int8_model_answers_within_its_resolution(runtime):
    bundle = make_bundle(file="linear_int8")

    answer = predictor(runtime, bundle).answer(window(3))

    assert answer.value == pytest.approx(7.0, abs=2 * bundle.manifest.outputs[0].scale)


def test_an_input_beyond_the_int8_range_is_flagged_saturated(runtime):
    answer = predictor(runtime, make_bundle(file="linear_int8")).answer(window(1000))

    assert answer.quality == (Quality.SATURATED,)


def test_output_scale_and_offset_lead_to_the_unit(runtime):
    bundle = make_bundle(output=OutputSpec(scale=10, offset=-1, unit="V"))

    assert predictor(runtime, bundle).answer(window(1)).value == pytest.approx(29.0)


def test_nan_from_a_model_is_an_error_and_no_answer(runtime):
    with pytest.raises(ModelOutputError):
        predictor(runtime, make_bundle(file="nan_float")).answer(window(-1))


def test_a_window_of_twelve_answers(runtime):
    answer = predictor(runtime, make_bundle(file="mean12_float", length=12)).answer(window(*range(12)))

    assert answer.value == pytest.approx(5.5)


def test_an_anomaly_score_above_the_threshold_is_an_anomaly(runtime):
    bundle = make_bundle(task=Task.ANOMALY, output=OutputSpec(threshold=7.5))

    below, above = (predictor(runtime, bundle).answer(window(x)).output for x in (3, 4))

    assert below == {"score": pytest.approx(7), "threshold": 7.5, "anomaly": False}
    assert above == {"score": pytest.approx(9), "threshold": 7.5, "anomaly": True}


def test_a_regression_tells_between_what_the_truth_may_lie_where_its_manifest_does(runtime):
    bundle = make_bundle(output=OutputSpec(scale=10, below=0.5, above=2))

    with_bounds, without = (
        predictor(runtime, made).answer(window(3)).output for made in (bundle, make_bundle())
    )

    assert with_bounds == {"low": pytest.approx(69.5), "high": pytest.approx(72)}
    assert without is None


def test_a_forecast_of_several_values_tells_them_all_in_their_unit(runtime):
    output = OutputSpec(scale=10, offset=1, step_ms=500)

    answer = predictor(runtime, make_bundle(file="three_float", task=Task.FORECAST, output=output)).answer(
        window(2)
    )

    assert answer.value == pytest.approx(21)
    assert answer.output == {"values": pytest.approx([21, 41, -19]), "step_ms": 500}


def test_a_forecast_may_be_relative_to_the_newest_value_of_its_window(runtime):
    output = {"output": OutputSpec(scale=0.5, relative_to="x")}
    bundle = make_bundle(file="linear_float", task=Task.FORECAST, **output)

    assert predictor(runtime, bundle).answer(window(3)).value == pytest.approx(7.0 * 0.5 + 3)


def test_what_a_forecast_is_relative_to_must_be_a_feature_as_it_comes():
    with pytest.raises(ValueError, match=r"output\.relative_to: of a forecast, one of the features"):
        make_bundle(file="linear_float", task=Task.FORECAST, output=OutputSpec(relative_to="y"))


def test_a_classifier_tells_its_labels_the_likeliest_first(runtime):
    output = OutputSpec(labels=["good", "worn", "broken"], scale=10)  # of a probability there is no unit

    answer = predictor(
        runtime, make_bundle(file="three_float", task=Task.CLASSIFICATION, output=output)
    ).answer(window(0.5))

    assert answer.value == 1.0
    assert answer.output == {"label": "worn", "probabilities": {"worn": 1.0, "good": 0.5, "broken": -0.5}}
    assert list(answer.output["probabilities"]) == ["worn", "good", "broken"]


def test_an_input_may_be_out_of_its_range_and_saturated_at_once(runtime):
    values = {"values": [ValueSpec(name="x", low=-10, high=10)]}
    bundle = make_bundle(file="linear_int8")
    limited = Bundle(bundle.manifest.model_copy(update=values), bundle.model, bundle.golden)

    answers = predictor(runtime, limited).answers(np.array([[[3]], [[10.04]], [[-1000]]], np.float32))

    assert [answer.quality for answer in answers] == [
        (),
        (Quality.OUT_OF_RANGE,),
        (Quality.OUT_OF_RANGE, Quality.SATURATED),
    ]


@pytest.mark.parametrize(
    ("task", "output", "fault"),
    [
        (Task.REGRESSION, {"below": 1.0}, "below and above go together"),
        (Task.FORECAST, {"below": 1.0, "above": 1.0}, "output.below: belongs to a regression"),
        (Task.ANOMALY, {}, "output.threshold: an anomaly model needs one"),
        (Task.CLASSIFICATION, {"labels": ["a", "b"]}, "2 labels for 1 outputs"),
    ],
)
def test_an_output_that_does_not_fit_its_task_is_refused(task, output, fault):
    with pytest.raises(ValueError, match=fault):
        make_bundle(task=task, output=OutputSpec(**output))


def test_a_manifest_with_other_tensors_than_the_file_is_refused(runtime):
    bundle = make_bundle(file="linear_float")
    other = bundle.manifest.model_copy(
        update={"inputs": [TensorSpec(shape=[1, 1], dtype=Dtype.INT8, scale=0.1)]}
    )

    with pytest.raises(BundleRejectedError) as caught:
        Predictor(other, runtime.load(bundle.model))

    assert caught.value.reason is Reason.UNSUPPORTED_TENSORS


def test_golden_vectors_pass_on_their_own_model_and_fail_on_others(runtime):
    bundle = make_bundle()

    golden.self_test(bundle, runtime)
    with pytest.raises(BundleRejectedError) as caught:
        golden.self_test(with_wrong_golden(bundle), runtime)

    assert caught.value.reason is Reason.GOLDEN_MISMATCH


def test_bytes_that_are_no_model_are_refused(runtime):
    with pytest.raises(BundleRejectedError) as caught:
        runtime.load(b"no model at all, but quite long " * 20)

    assert caught.value.reason is Reason.MODEL_UNREADABLE


def test_why_a_runtime_refuses_a_model_is_told_in_one_line():
    def interpreter(**_: object) -> None:
        raise RuntimeError("Node number 0 failed.\n  AllocateTensors() called on inconsistent model.\n")

    with pytest.raises(BundleRejectedError) as caught:
        Runtime("some runtime", interpreter).load(b"")

    assert caught.value.detail == (
        "some runtime cannot load the model file: "
        "Node number 0 failed. AllocateTensors() called on inconsistent model."
    )


def test_quantising_rounds_and_clips():
    spec = TensorSpec(shape=[1, 4], dtype=Dtype.INT8, scale=0.5, zero_point=10)

    quantised, is_clipped = quantise(np.array([[0.0, 1.0, -1000.0, 1000.0]], np.float32), spec)

    assert quantised.tolist() == [[10, 12, -128, 127]]
    assert is_clipped.tolist() == [True]
    assert dequantise(quantised, spec).tolist() == [[0.0, 1.0, -69.0, 58.5]]


@pytest.mark.real_data
def test_a_real_image_classifier_gives_the_reference_outputs(runtime, real_data):
    content = (real_data / "models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    reference = json.loads((real_data / "models" / "reference_outputs.json").read_text())
    wanted = reference["mobilenet_v1_0.25_128_quant.tflite"]["ramp"]["MobilenetV1/Predictions/Reshape_1"]
    model = runtime.load(content)
    manifest = Manifest.model_validate(
        {
            "model": "m",
            "release": 1,
            "task": Task.CLASSIFICATION,
            "values": [{"name": "picture", "shape": [128, 128, 3]}],
            "features": ["picture"],
            "normalisation": {"mean": [128.0], "scale": [128.0]},
            "inputs": model.inputs,
            "outputs": model.outputs,
        }
    )
    ramp = (np.arange(128 * 128 * 3) % 256).astype(np.float32)[None, None]

    output, is_saturated = Predictor(manifest, model).invoke(ramp)

    # Another kernel may differ by one step, so the argmax and the sum have a little room.
    assert is_saturated is None
    assert int(output.argmax()) == wanted["argmax"]
    assert abs(int(output.sum()) - wanted["sum"]) <= 30
