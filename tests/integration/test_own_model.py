"""A person's own model file becomes a bundle, without TensorFlow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from support.bundles import MODELS, model_bytes

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError, Reason
from atoll_contract.manifest import Dtype, Task
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_trainer.child import in_child
from atoll_trainer.own_model import OwnModel, from_files

WEAR = """
model = "wear"
task = "regression"
[values.force]
unit = "kN"
low = -10
high = 10
[output]
unit = "mm"
"""


def described(folder, text=WEAR):
    path = folder / "wear.toml"
    path.write_text(text)
    return OwnModel.read(path)


def samples(folder, values=(-10.0, 0.0, 2.5, 10.0), name="force"):
    path = folder / "samples.csv"
    path.write_text("\n".join([name, *map(str, values)]) + "\n")
    return path


@pytest.mark.parametrize("file", ["linear_float", "linear_int8"])
def test_a_model_file_and_a_description_make_a_bundle(tmp_path, file):
    read = Bundle.unpack(from_files(described(tmp_path), 3, MODELS / f"{file}.tflite", samples(tmp_path)))

    assert (read.manifest.model, read.manifest.release, read.manifest.task) == ("wear", 3, Task.REGRESSION)
    assert read.manifest.values[0].unit == "kN"
    assert read.manifest.inputs[0].dtype is (Dtype.FLOAT32 if file == "linear_float" else Dtype.INT8)
    assert [case.samples for case in read.golden.cases] == [[[-10.0]], [[0.0]], [[2.5]], [[10.0]]]
    predictor = golden.self_test(read, choose_runtime().runtime)
    assert predictor.answer(np.array([[2.5]], np.float32)).value == pytest.approx(6, abs=0.1)


def test_a_window_of_readings_comes_from_consecutive_rows(tmp_path):
    description = described(tmp_path, WEAR + "[window]\nlength = 12\n")

    content = from_files(description, 1, MODELS / "mean12_float.tflite", samples(tmp_path, range(14)))

    bundle = Bundle.unpack(content)

    assert [case.output[0] for case in bundle.golden.cases] == pytest.approx([5.5, 6.5, 7.5])


def test_normalisation_counts_in_the_values_own_units(tmp_path):
    description = described(tmp_path, WEAR + "[normalisation]\nmean = [5]\nscale = [2]\n")

    content = from_files(description, 1, MODELS / "linear_float.tflite", samples(tmp_path, [9.0]))

    bundle = Bundle.unpack(content)

    assert bundle.golden.cases[0].output == [2 * (9 - 5) / 2 + 1]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('model = "wear"', "", "model: missing"),
        ('task = "regression"', 'task = "guess"', "task: Input should be"),
        ("low = -10", "lowest = -10", "values.force.lowest: unknown key"),
        ("low = -10", "low = 10", "values.force: low"),
        ("[output]", '[output]\nlabel = "a"', "output.label: unknown key"),
        ('task = "regression"', 'task = "anomaly"', "output.threshold: an anomaly model needs one"),
        (
            'task = "regression"',
            'task = "regression"\nfeatures = ["x"]',
            "features: 'x' is none of the values",
        ),
        ("[output]", "[normalisation]\nmean = [1, 2]\n[output]", "normalisation.mean: one number, or one"),
    ],
)
def test_faults_of_the_description_are_told_with_file_and_key(tmp_path, old, new, fault):
    with pytest.raises(ConfigError, match=r"wear\.toml(:\d+)?: .*" + fault.split(":")[0]) as caught:
        described(tmp_path, WEAR.replace(old, new))

    assert fault in caught.value.detail


def test_a_labels_file_that_is_missing_is_named(tmp_path):
    text = WEAR.replace("regression", "classification") + 'labels_file = "labels.txt"\n'

    with pytest.raises(ConfigError, match=r"output\.labels_file: .*/labels\.txt cannot be read"):
        from_files(described(tmp_path, text), 1, MODELS / "linear_float.tflite", samples(tmp_path))


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ("[window]\nlength = 2\n", "the tensor has 1 elements, a window of 2 readings"),
        ("[values.speed]\n", "the tensor has 1 elements, a window of 1 readings with 2 numbers"),
    ],
)
def test_a_model_file_of_another_form_than_described_is_named(tmp_path, extra, fault):
    path = samples(tmp_path, ["1,2", "3,4"], "force,speed") if "speed" in extra else samples(tmp_path)

    with pytest.raises(BundleRejectedError, match=rf"linear_float\.tflite: .*{fault}"):
        from_files(described(tmp_path, WEAR + extra), 1, MODELS / "linear_float.tflite", path)


@pytest.mark.parametrize("size", [0, 10, 300, 800])
def test_a_damaged_model_file_is_named_and_ends_nothing(tmp_path, size):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(model_bytes("linear_float")[:size])

    with pytest.raises(BundleRejectedError, match=r"damaged\.tflite") as caught:
        from_files(described(tmp_path), 1, path, samples(tmp_path))

    assert caught.value.reason in {Reason.MODEL_UNREADABLE, Reason.SELF_TEST_CRASHED}


def test_a_file_that_is_not_compiled_for_the_edge_tpu_is_not_taken_for_one(tmp_path):
    path = MODELS / "linear_int8.tflite"

    with pytest.raises(BundleRejectedError, match=r"linear_int8\.tflite: .* is uncompiled") as caught:
        from_files(described(tmp_path), 1, path, samples(tmp_path), path)
    assert caught.value.reason is Reason.MODEL_NOT_COMPILED


def test_a_child_that_does_not_end_is_killed():
    started = time.monotonic()

    with pytest.raises(BundleRejectedError, match="no answer within 1 s") as caught:
        in_child(time.sleep, 60, deadline_s=1)

    assert caught.value.reason is Reason.SELF_TEST_TIMEOUT
    assert time.monotonic() - started < 20


def test_a_child_that_crashes_is_told_from_one_that_refuses():
    with pytest.raises(BundleRejectedError, match="crashes the inference runtime"):
        in_child(os.abort, deadline_s=30)
    with pytest.raises(BundleRejectedError) as caught:
        in_child(Bundle.unpack, b"no ZIP", deadline_s=30)
    assert caught.value.reason is Reason.MALFORMED_BUNDLE
    with pytest.raises(ZeroDivisionError):
        in_child(divmod, 1, 0, deadline_s=30)


def bundle_command(*arguments):
    program = [
        "import sys",
        # As if they were not installed.
        "sys.modules |= dict.fromkeys(['tensorflow', 'pyarrow', 'rich'])",
        "from atoll_trainer.cli import main",
        "sys.exit(main())",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(program), "bundle", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_the_command_needs_no_more_than_the_agents_packages(tmp_path):
    described(tmp_path)

    done = bundle_command(
        *("--manifest", tmp_path / "wear.toml", "--model", MODELS / "linear_int8.tflite", "--release", "2"),
        *("--samples", samples(tmp_path), "--out", tmp_path / "wear-2.atoll", "--json"),
    )

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["model"], shown["release"], shown["dtype"], shown["golden_cases"]) == ("wear", 2, "int8", 4)
    assert shown["bytes"] == (tmp_path / "wear-2.atoll").stat().st_size


PIXELS = """
model = "seen"
task = "classification"
[values.image]
shape = [128, 128, 3]
low = 0
high = 255
[normalisation]
mean = [128]
scale = [128]
[output]
labels_file = "labels.txt"
"""


@pytest.mark.real_data
def test_an_image_model_takes_pixels_and_gives_the_published_outputs(real_data, tmp_path):
    models = real_data / "models"
    published = json.loads((models / "reference_outputs.json").read_text())[
        "mobilenet_v1_0.25_128_quant.tflite"
    ]
    ramp = (np.arange(128 * 128 * 3) % 256).astype(np.uint8).reshape(128, 128, 3)
    np.save(tmp_path / "images.npy", np.stack([np.zeros_like(ramp), ramp]))
    (tmp_path / "labels.txt").write_text("\n".join(f"class {number}" for number in range(1001)))
    (tmp_path / "seen.toml").write_text(PIXELS)

    done = bundle_command(
        *("--manifest", tmp_path / "seen.toml", "--model", models / "mobilenet_v1_0.25_128_quant.tflite"),
        *("--edgetpu", models / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"),
        *("--samples", tmp_path / "images.npy", "--out", tmp_path / "seen.atoll", "--release", "1"),
    )

    assert done.returncode == 0, done.stderr
    bundle = Bundle.unpack((tmp_path / "seen.atoll").read_bytes())
    assert bundle.model_edgetpu is not None
    assert bundle.manifest.output.labels[7] == "class 7"
    for case, name in zip(bundle.golden.cases, ("zeros", "ramp"), strict=True):
        (expected,) = published[name].values()
        assert int(np.argmax(case.output)) == expected["argmax"]
        # Made by another kernel: 1 or 2 steps of the last bit apart.
        assert max(case.output) == pytest.approx(expected["max"], abs=2)
        assert case.output[:10] == pytest.approx(expected["first10"], abs=2)
    answer = golden.self_test(bundle, choose_runtime().runtime).answer(ramp.reshape(1, -1).astype(np.float32))
    assert answer.quality == ()
    assert answer.output["label"] == f"class {int(answer.value)}"
