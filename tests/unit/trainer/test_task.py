"""The task file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from atoll_contract.errors import ConfigError
from atoll_contract.manifest import Task
from atoll_trainer.task import FitTable, Optimiser, TaskFile
from atoll_trainer.task_tables import FamilyName

SCENARIOS = Path(__file__).parents[3] / "config" / "scenarios"
FORECAST = """
[task]
model = "oven"
stream = "kiln"
kind = "forecast"
target = "temp"
horizon = 3
step_ms = 1000
values = { pressure = {}, temp = { unit = "°C", low = 0, high = 900 } }
[window]
length = 12
max_gap_ms = 5000
"""


def read(tmp_path, text):
    path = tmp_path / "task.toml"
    path.write_text(text)
    return TaskFile.read(path)


def test_a_forecast_becomes_a_manifest(tmp_path):
    task = read(tmp_path, FORECAST)

    manifest = task.manifest()
    assert manifest.task is Task.FORECAST
    assert manifest.features == ["pressure", "temp"]
    assert manifest.values[1].unit == "°C"
    assert manifest.values[1].high == 900
    assert manifest.window.length == 12
    assert manifest.window.max_gap_ms == 5000
    assert manifest.inputs[0].shape == [1, 24]
    assert manifest.output.unit == "°C"
    assert manifest.output.step_ms == 3000
    assert task.target_column == 1


def test_columns_of_an_array_come_before_the_target(tmp_path):
    text = FORECAST.replace("pressure = {}", "pressure = { shape = [2, 3] }")

    assert read(tmp_path, text).target_column == 6


def test_what_is_left_out_has_a_default(tmp_path):
    task = read(tmp_path, '[task]\nmodel="a"\nstream="b"\nkind="regression"\nvalues={x={}}\n')

    assert task.window.length == 1
    assert task.fit is None
    assert FitTable().family is FamilyName.LINEAR
    assert FitTable().optimiser is Optimiser.ADAM
    assert task.search.trials > 1
    assert 0 < task.split.train + task.split.validation < 1


def test_every_fault_is_told_at_once_with_its_key(tmp_path):
    text = """
[task]
model = "no id"
stream = "kiln"
kind = "guess"
values = {}
tempo = 1
[window]
length = 0
[split]
train = 0.9
validation = 0.1
[fit]
epochs = 0
"""

    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    faults = "\n".join(caught.value.faults)
    for key in (
        "task.model",
        "task.kind",
        "task.values",
        "task.tempo",
        "window.length",
        "split",
        "fit.epochs",
    ):
        assert re.search(rf"task\.toml:\d+: {re.escape(key)}: ", faults)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('target = "temp"', 'target = "speed"', "needs one of the values: pressure, temp"),
        ('target = "temp"', "", "needs one of the values"),
        ('kind = "forecast"', 'kind = "regression"', "a regression learns 'label'"),
        ("pressure = {}", "pressure = { low = 2, high = 1 }", r"low \(2\) must be below high"),
        ('unit = "°C"', "shape = [3]", "an array cannot be forecast"),
        ("pressure = {}", "pressure = { shape = [4096, 4096] }", "at most 16777216 are allowed"),
        ('kind = "forecast"', 'kind = "anomaly"', "a anomaly learns 'label'"),
        ('target = "temp"', 'target = "temp"\nlabels = ["a", "b"]', "nothing else has any"),
        ("length = 12", 'length = "auto"\nduration_ms = 5000', "auto goes with a search"),
        ("length = 12\nmax_gap_ms = 5000", 'length = "auto"\n[fit]', "auto goes with a search"),
        ("[window]", "[split]\nfold = 5\n[window]", "must be below folds"),
        ("[window]", "[csv]\nvalues = { speed = 'v' }\n[window]", "speed: the task has no such value"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, old, new, fault):
    with pytest.raises(ConfigError, match=fault):
        read(tmp_path, FORECAST.replace(old, new))


def test_a_window_that_is_looked_for_takes_the_length_that_was_found(tmp_path):
    task = read(tmp_path, FORECAST.replace("length = 12", 'length = "auto"'))

    assert task.is_auto
    assert task.with_length(8).manifest().inputs[0].shape == [1, 16]
    assert not task.with_length(8).is_auto


def test_a_classification_becomes_a_manifest_with_labels(tmp_path):
    text = """
[task]
model = "a"
stream = "b"
kind = "classification"
labels = ["good", "bad", "ugly"]
values = { x = {} }
"""

    manifest = read(tmp_path, text).manifest()

    assert manifest.outputs[0].shape == [1, 3]
    assert manifest.output.labels == ["good", "bad", "ugly"]


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_scenario_can_be_read(path):
    assert TaskFile.read(path).fit is None
