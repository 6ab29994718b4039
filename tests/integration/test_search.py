"""train as a search: the best small model for the readings, told by what a device would answer."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from support.trainers import trainer

pytest.importorskip("pyarrow")
# Not importorskip: in a process with TensorFlow tflite-runtime crashes.
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)

from atoll_contract.bundle import Bundle
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

PARTED = """
[task]
model = "state"
stream = "press"
kind = "classification"
labels = ["calm", "busy", "broken"]
step_ms = 1000
[task.values]
x = {}
y = {}
[search]
families = ["linear", "mlp"]
trials = 2
epochs = 30
candidates = 2
[csv]
time = ["time"]
time_format = "ms"
label = "state"
"""


def states_file(folder):
    """Rows of three states, by rings around the middle: no line parts them."""
    random = np.random.default_rng(3)
    points = random.normal(size=(900, 2)) * 2
    names = np.array(["calm", "busy", "broken"])[np.digitize(np.hypot(*points.T), [1.5, 3.5])]
    path = folder / "states.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "x", "y", "state"])
        rows = zip(points.tolist(), names.tolist(), strict=True)
        writer.writerows([1000.0 * number, *point, name] for number, (point, name) in enumerate(rows))
    return path


def test_a_search_finds_a_classifier_that_a_device_takes(tmp_path):
    run = tmp_path / "run"
    (tmp_path / "state.toml").write_text(PARTED)
    trainer("train", "--task", tmp_path / "state.toml", "--csv", states_file(tmp_path), "--out", run)
    trainer("optimise", run)
    evaluation = json.loads(trainer("evaluate", run, "--json"))
    trainer("bundle", "--run", run, "--out", tmp_path / "state.atoll", "--release", "1")

    search = json.loads((run / "run.json").read_text())["search"]
    assert len(search["trials"]) == 2
    (chosen,) = (one for one in search["candidates"] if one["is_chosen"])
    assert chosen["family"] == "mlp"
    # What optimise makes is what was judged, byte for byte.
    assert chosen["size_bytes"] == (run / "model_int8.tflite").stat().st_size
    assert evaluation["int8_model"]["accuracy"] > evaluation["naive"]["accuracy"] + 0.15
    bundle = Bundle.unpack((tmp_path / "state.atoll").read_bytes())
    assert bundle.manifest.training.settings["family"] == "mlp"
    assert bundle.manifest.training.cut is None
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    answer = predictor.answer(np.array([[0.0, 0.0]], np.float32))
    assert sum(answer.output["probabilities"].values()) == pytest.approx(1, abs=0.02)


TWICE = """
import numpy as np
from atoll_trainer.search import fitting
from atoll_trainer.search.how import Fit, LossKind
from atoll_trainer.search.network import Head, Plan, drawn
from atoll_trainer.search.part import Part
fitting.prepare()
random = np.random.default_rng(0)
inputs = random.normal(size=(300, 8, 2)).astype(np.float32)
part = Part(inputs, np.maximum(inputs[:, -1, :1], 0), np.ones(300, np.float32))
plan = Plan(widths=(8,), filters=(4,), stride=2)
start = drawn(np.random.default_rng(1), 8, 2, plan, 1, Head.NUMBERS)
how = Fit(LossKind.HUBER, rate=2e-2, batch=32, dropout=0.1, epochs=12, seed=5)
found = [fitting.fit(start, part, part, how) for _ in range(2)]
assert found[0].losses == found[1].losses
assert found[0].losses[-1][1] < 0.8 * found[0].losses[0][1], found[0].losses
for one, other in zip(found[0].network.layers, found[1].network.layers, strict=True):
    assert one.w.tobytes() == other.w.tobytes() and one.b.tobytes() == other.b.tobytes()
"""


def test_the_same_seed_fits_the_same_network_to_the_last_bit():
    subprocess.run([sys.executable, "-c", TWICE], check=True, timeout=240)


ODD = """
[task]
model = "odd"
stream = "press"
kind = "anomaly"
[task.values]
x = {}
[window]
length = 8
[threshold]
false_alarms = 0.01
[search]
families = ["linear"]
trials = 1
candidates = 1
[csv]
time = ["time"]
time_format = "ms"
label = "odd"
"""


def test_what_is_unlike_the_start_is_told_by_a_threshold_from_the_training_part(tmp_path):
    random = np.random.default_rng(4)
    x = np.sin(np.arange(1200) / 3) + random.normal(0, 0.05, 1200)
    is_odd = np.zeros(1200, int)
    for start in (1000, 1100):
        x[start : start + 20] += 4
        is_odd[start : start + 20] = 1
    (tmp_path / "odd.toml").write_text(ODD)
    with (tmp_path / "odd.csv").open("w", newline="") as file:
        rows = zip(x.tolist(), is_odd.tolist(), strict=True)
        csv.writer(file).writerows(
            [["time", "x", "odd"], *([1000.0 * n, *row] for n, row in enumerate(rows))]
        )

    trainer(
        "train", "--task", tmp_path / "odd.toml", "--csv", tmp_path / "odd.csv", "--out", tmp_path / "run"
    )

    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["threshold"] > 0
    (chosen,) = facts["search"]["candidates"]
    # Most of the disturbed windows are told, and hardly one that is not.
    assert chosen["loss"] < 0.25
