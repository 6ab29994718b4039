"""train, optimise, evaluate and bundle as processes: the whole way from readings to a release."""

from __future__ import annotations

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.bundles import model_bytes
from support.trainers import trainer

pytest.importorskip("pyarrow")
# Not importorskip: in a process with TensorFlow tflite-runtime crashes.
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Dtype
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_link.recording import Kind, Recording, Row
from atoll_trainer.convert import Conversion, convert

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

LINEAR = """
[task]
model = "wear"
stream = "press"
kind = "regression"
unit = "mm"
[task.values.x]
[split]
train = 0.6
validation = 0.1
[fit]
optimiser = "{optimiser}"
learning_rate = {learning_rate}
epochs = {epochs}
"""


def task_file(folder, optimiser="gradient_descent", learning_rate=0.1, epochs=100):
    path = folder / "task.toml"
    path.write_text(LINEAR.format(optimiser=optimiser, learning_rate=learning_rate, epochs=epochs))
    return path


def line(count=600, noise=0.2):
    """Return x and y = 2x + 1 + noise."""
    random = np.random.default_rng(5)
    x = random.uniform(-3, 9, count)
    return x, 2 * x + 1 + random.normal(0, noise, count)


def scale_counts(model):
    """Return the shape and the number of scales of each tensor, as the file has them."""
    # Not allocated: LiteRT then writes the scale of a weight once per row over what the file says.
    interpreter = choose_runtime().runtime.interpreter(model_path=str(model))
    return [
        (tuple(tensor["shape"]), len(tensor["quantization_parameters"]["scales"]))
        for tensor in interpreter.get_tensor_details()
    ]


def csv_file(folder, x, y):
    path = folder / "line.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "x", "y"])
        writer.writerows([1000.0 * number, *pair] for number, pair in enumerate(zip(x, y, strict=True)))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of y = 2x + 1, optimised and evaluated: its folder, facts and evaluation."""
    folder = tmp_path_factory.mktemp("line")
    facts = json.loads(
        trainer(
            *("train", "--task", task_file(folder), "--csv", csv_file(folder, *line()), "--json"),
            *("--time", "time", "--time-format", "ms", "--label", "y", "--home", folder / "home"),
        )
    )
    run = folder / "home" / "runs" / "wear-1"
    assert facts["run"] == str(run)
    trainer("optimise", run)
    evaluation = json.loads(trainer("evaluate", run, "--json"))
    return run, facts, evaluation


def test_a_line_is_found_again_by_gradient_descent(trained):
    _, facts, _ = trained

    assert facts["linear"]["w"][0][0] == pytest.approx(2, abs=0.1)
    assert facts["linear"]["b"] == pytest.approx(1, abs=0.1)
    losses = [loss["train"] for loss in facts["losses"]]
    assert losses[-1] < losses[0] / 50
    assert losses[:20] == sorted(losses[:20], reverse=True)


def test_the_run_says_where_it_comes_from(trained):
    _, facts, _ = trained

    assert (facts["readings"], facts["devices"]) == (600, 1)
    assert [facts["spans"][name]["windows"] for name in ("train", "validation", "test")] == [360, 60, 180]
    assert facts["spans"]["test"]["start_ms"] == 420_000
    assert len(facts["data_sha256"]) == 64
    assert set(facts["tools"]) >= {"atoll", "numpy", "python", "tensorflow"}


def test_scaling_comes_from_the_training_part_alone(trained):
    run, facts, _ = trained

    with np.load(run / "windows.npz") as arrays:
        assert facts["normalisation"]["mean"][0] == pytest.approx(arrays["train_windows"].mean(), rel=1e-5)
        assert facts["target_offset"] == pytest.approx(arrays["train_targets"].mean(), rel=1e-9)


def test_int8_says_nearly_the_same_as_float(trained):
    run, _, evaluation = trained

    assert evaluation["windows"] == 180
    # Half a step for the input, half for the output, and half for the weight.
    assert evaluation["parity_lsb"] <= 2
    assert evaluation["float_model"]["mae"] < evaluation["naive"]["mae"] / 10
    assert evaluation["int8_model"]["mae"] < evaluation["naive"]["mae"] / 10
    model = choose_runtime().runtime.load((run / "model_int8.tflite").read_bytes())
    assert model.inputs[0].dtype is model.outputs[0].dtype is Dtype.INT8


def test_int8_weights_have_one_scale_per_tensor(trained):
    run, _, _ = trained

    assert {count for _, count in scale_counts(run / "model_int8.tflite")} == {1}


@pytest.mark.long
def test_the_same_seed_gives_the_same_model(trained, tmp_path):
    run, facts, _ = trained
    again = json.loads(
        trainer(
            *("train", "--task", run / "task.toml", "--csv", facts["source"], "--json"),
            *("--time", "time", "--time-format", "ms", "--label", "y", "--out", tmp_path / "again"),
        )
    )

    assert again["linear"] == facts["linear"]
    assert again["data_sha256"] == facts["data_sha256"]


@pytest.mark.parametrize(("options", "dtype"), [([], Dtype.INT8), (["--float"], Dtype.FLOAT32)])
def test_a_run_becomes_a_bundle_that_a_device_accepts(trained, tmp_path, options, dtype):
    run, facts, evaluation = trained
    out = tmp_path / "wear.atoll"

    shown = json.loads(trainer("bundle", "--run", run, "--out", out, "--home", tmp_path, "--json", *options))

    bundle = Bundle.unpack(out.read_bytes())
    manifest = bundle.manifest
    assert (manifest.model, manifest.release, shown["release"]) == ("wear", 1, 1)
    assert manifest.inputs[0].dtype is dtype
    assert manifest.output.unit == "mm"
    assert manifest.training.rows == 360
    assert manifest.training.data_sha256 == facts["data_sha256"]
    assert manifest.training.metrics["float_mae"] == evaluation["float_model"]["mae"]
    assert ("int8_mae" in manifest.training.metrics) == (dtype is Dtype.INT8)
    assert len(bundle.golden.cases) == 32
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    assert predictor.answer(np.array([[3.0]], np.float32)).value == pytest.approx(7, abs=0.3)


def test_the_release_number_is_the_next_of_the_repository(trained, tmp_path):
    run, _, _ = trained
    trainer("init", "--home", tmp_path / "home", "--demo")

    trainer("bundle", "--run", run, "--out", tmp_path / "a.atoll", "--home", tmp_path / "home")
    trainer("bundle", "--run", run, "--out", tmp_path / "b.atoll", "--release", "7")

    numbers = [Bundle.unpack((tmp_path / f"{name}.atoll").read_bytes()).manifest.release for name in "ab"]
    assert numbers == [1, 7]


def test_a_recording_with_labels_is_learnt_from(tmp_path):
    x, y = line(200, noise=0.0)
    with Recording(tmp_path / "recordings") as writer:
        for number, (value, label) in enumerate(zip(x, y, strict=True)):
            time_ms = 1e12 + 1000.0 * number
            reading = encode_reading(Reading({"x": float(value)}, time_ms=time_ms))
            truth = Label(value=float(label), time_ms=time_ms, source="gauge").encode()
            for kind, name, payload in ((Kind.READING, "press", reading), (Kind.LABEL, "wear", truth)):
                row = Row(time_ms + 5, time_ms, kind, name, "press-1", "t", payload, 1)
                writer.append(row, now_s=0.0)

    shown = trainer(
        *("train", "--task", task_file(tmp_path, "adam", 0.05, 400), "--recordings", tmp_path / "recordings"),
        *("--out", tmp_path / "run"),
    )

    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["readings"] == 200
    assert facts["left_out"] == {}
    assert facts["linear"]["w"][0][0] == pytest.approx(2, abs=0.02)
    assert facts["linear"]["b"] == pytest.approx(1, abs=0.05)
    for word in ("readings     200 of 1 device", "train        120", "epoch     0", "w            x", "b  "):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "code", "fault"),
    [
        (["train", "--task", "none.toml", "--csv", "a.csv"], 78, "none.toml: cannot be read"),
        (["optimise", "nowhere"], 78, "nowhere"),
        (["evaluate", "nowhere"], 78, "nowhere"),
        (["bundle", "--run", "nowhere", "--out", "a.atoll"], 78, "nowhere"),
        (["bundle", "--out", "a.atoll"], 2, "--manifest, --model, --samples missing"),
    ],
)
def test_what_is_missing_is_named(arguments, code, fault):
    assert fault in trainer(*arguments, code=code)


def test_a_learning_rate_that_is_too_high_is_named(tmp_path):
    path = task_file(tmp_path, "gradient_descent", 1e10, 100)

    shown = trainer(
        *("train", "--task", path, "--csv", csv_file(tmp_path, *line()), "--label", "y"),
        *("--out", tmp_path / "run"),
        code=78,
    )

    assert "fit.learning_rate: the loss is out of bounds" in shown
    assert not (tmp_path / "run").exists()


MACHINE = """
[task]
model = "machine"
stream = "machine"
kind = "forecast"
target = "temperature"
step_ms = 300000
[task.values.temperature]
[window]
length = 12
max_gap_ms = 600000
[split]
train = 0.5
validation = 0.1
[fit]
optimiser = "adam"
learning_rate = 0.01
epochs = 500
patience = 100
"""


@pytest.mark.real_data
@pytest.mark.long
def test_a_machines_temperature_is_forecast_better_than_by_its_last_value(real_data, tmp_path):
    path = real_data / "data" / "nab" / "machine_temperature_system_failure.csv"
    (tmp_path / "machine.toml").write_text(MACHINE)

    shown = trainer(
        *("train", "--task", tmp_path / "machine.toml", "--csv", path, "--time", "timestamp"),
        *("--value", "temperature=value", "--device", "machine", "--out", tmp_path / "run"),
    )
    trainer("optimise", tmp_path / "run")
    evaluation = json.loads(trainer("evaluate", tmp_path / "run", "--json"))

    assert "readings     22,695 of 1 device" in shown
    assert (
        "row 10,151: time steps back from 2014-01-07 02:55 to 02:00 (55 min): "
        "12 readings repeat times already seen" in shown
    )
    assert evaluation["naive_kind"] == "last value"
    assert evaluation["float_model"]["mae"] < evaluation["naive"]["mae"] * 0.97
    assert evaluation["int8_model"]["mae"] < evaluation["naive"]["mae"]


def arguments_of(folder, *, x=None, y=None, task=None):
    """The options of train for a line, in ``folder``."""
    if x is None:
        x, y = line()
    return [
        *("train", "--task", task or task_file(folder), "--csv", csv_file(folder, x, y)),
        *("--time", "time", "--time-format", "ms", "--label", "y"),
    ]


def test_a_model_is_fitted_without_a_validation_part(tmp_path):
    task = task_file(tmp_path)
    task.write_text(task.read_text().replace("validation = 0.1", "validation = 0"))

    trainer(*arguments_of(tmp_path, task=task), "--out", tmp_path / "run")

    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["spans"]["validation"]["windows"] == 0
    assert facts["linear"]["w"][0][0] == pytest.approx(2, abs=0.1)


def test_a_run_folder_that_cannot_be_made_is_named_before_the_readings_are_read(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    missing = ["train", "--task", task_file(tmp_path), "--csv", tmp_path / "none.csv", "--label", "y"]

    assert f"--out {tmp_path / 'taken'}: is there already" in trainer(
        *missing, "--out", tmp_path / "taken", code=78
    )
    assert f"{tmp_path / 'taken' / 'file' / 'run'}: Not a directory" in trainer(
        *missing, "--out", tmp_path / "taken" / "file" / "run", code=1
    )
    assert "none.csv: cannot be read" in trainer(*missing, "--out", tmp_path / "new", code=78)
    assert not (tmp_path / "new").exists()


LIMITED = """
import resource, signal, sys
from atoll_trainer.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))
sys.exit(main())
"""


def test_a_disk_that_takes_no_more_is_told_in_one_sentence(tmp_path):
    x, y = line(60)
    command = [sys.executable, "-c", LIMITED, *map(str, arguments_of(tmp_path, x=x, y=y))]

    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=240, check=False
    )

    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'run' / 'model'}")


def test_recordings_that_are_no_folder_are_named(tmp_path):
    path = tmp_path / "recordings"
    path.write_text("no folder")

    shown = trainer("train", "--task", task_file(tmp_path), "--recordings", path, code=1)

    assert f"error: {path}: Not a directory" in shown


def test_a_home_that_is_no_folder_is_named(trained, tmp_path):
    run, _, _ = trained
    (tmp_path / "home").write_text("no folder")

    shown = trainer(
        *("bundle", "--run", run, "--out", tmp_path / "a.atoll", "--home", tmp_path / "home"), code=1
    )

    assert f"error: {tmp_path / 'home' / 'repository'}: Not a directory" in shown


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(trained[0], tmp_path / "copied"))


def test_a_bundle_does_not_carry_the_figures_of_another_model_file(copied, tmp_path):
    model = copied / "model_int8.tflite"
    model.write_bytes(model_bytes("linear_int8"))

    shown = trainer("bundle", "--run", copied, "--out", tmp_path / "a.atoll", code=78)

    assert f"{model}: changed since its evaluation: run atoll-trainer evaluate" in shown
    assert not (tmp_path / "a.atoll").exists()


def test_a_float_model_is_not_taken_for_the_int8_one(copied, tmp_path):
    model = copied / "model_int8.tflite"
    shutil.copyfile(copied / "model_float.tflite", model)

    shown = trainer("evaluate", copied, code=1)
    assert f"error: {model}: tensor " in shown
    assert "is float32 [1, 1], not int8 of batch 1" in shown
    (copied / "evaluation.json").unlink()
    assert "not int8 of batch 1" in trainer("bundle", "--run", copied, "--out", tmp_path / "a.atoll", code=1)


@pytest.mark.parametrize("name", ["model_int8.tflite", "model_float.tflite"])
def test_a_damaged_model_file_of_a_run_is_named(copied, tmp_path, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])

    shown = trainer("evaluate", copied, code=1)

    assert shown.splitlines()[-1].startswith(f"error: {copied / name}: ")
    (copied / "evaluation.json").unlink()
    option = ["--float"] if "float" in name else []
    shown = trainer("bundle", "--run", copied, "--out", tmp_path / "a.atoll", *option, code=1)
    assert shown.splitlines()[-1].startswith(f"error: {copied / name}: ")


def test_a_task_that_was_changed_after_the_training_is_named(copied):
    with (copied / "task.toml").open("a") as file:
        file.write("[task.values.z]\n")

    shown = trainer("evaluate", copied, code=78)

    assert f"{copied / 'task.toml'}: does not fit the run.json beside it" in shown


def test_a_run_of_another_format_is_refused(copied):
    facts = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps(facts | {"format": 99}))

    assert "run.json: format: Input should be 1" in trainer("evaluate", copied, code=78)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--run", "r", "--edgetpu", "e.tflite"], "--edgetpu does not go with --run"),
        (
            ["--float", "--manifest", "m", "--model", "m", "--samples", "s"],
            "--float goes with --run only",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused(arguments, fault):
    assert fault in trainer("bundle", "--out", "a.atoll", *arguments, code=2)


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_count_of_readings_is_above_zero(count):
    assert "argument --readings: " in trainer("record", "--settings", "s", f"--readings={count}", code=2)


def test_int8_ranges_come_from_the_training_part_alone(tmp_path):
    x, _ = line(200)
    x[150:] *= 10  # the test part begins at 140
    run = tmp_path / "run"
    trainer(*arguments_of(tmp_path, x=x, y=2 * x + 1), "--out", run)
    trainer("optimise", run)
    evaluation = json.loads(trainer("evaluate", run, "--json"))

    with np.load(run / "windows.npz") as arrays:
        train = arrays["train_windows"]
    scale = json.loads((run / "run.json").read_text())["normalisation"]["scale"][0]
    model = choose_runtime().runtime.load((run / "model_int8.tflite").read_bytes())
    assert model.inputs[0].scale * 255 == pytest.approx(float(np.ptp(train)) / scale, rel=0.02)
    assert evaluation["int8_model"]["saturated"] > 10


WIDE = """
import sys
import numpy as np
from atoll_trainer.quiet_tensorflow import tf
module = tf.Module()
# Rows of very different size: each would get a scale of its own.
module.w = tf.Variable(np.float32([[1, 10, 100]] * 4))
module.b = tf.Variable(np.float32([1, 2, 3]))
module.predict = tf.function(
    lambda window: {"prediction": tf.linalg.matmul(window, module.w) + module.b},
    input_signature=[tf.TensorSpec([1, 4], tf.float32, name="window")],
)
tf.saved_model.save(module, sys.argv[1], signatures=module.predict)
"""


@pytest.mark.long
def test_weights_of_several_outputs_have_one_scale_per_tensor(tmp_path):
    subprocess.run([sys.executable, "-c", WIDE, str(tmp_path / "model")], check=True, timeout=240)
    windows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
    (content,) = convert([Conversion(tmp_path / "model", windows)])
    (tmp_path / "wide.tflite").write_bytes(content)

    counts = scale_counts(tmp_path / "wide.tflite")
    assert {count for _, count in counts} == {1}
    assert (3, 4) in {shape for shape, _ in counts}
