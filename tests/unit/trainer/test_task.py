"""The task file."""

from __future__ import annotations

import re

import pytest

from atoll_contract.errors import ConfigError
from atoll_contract.manifest import Task
from atoll_trainer.task import FamilyName, Optimiser, TaskFile

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
    assert task.fit.family is FamilyName.LINEAR
    assert task.fit.optimiser is Optimiser.ADAM
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
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, old, new, fault):
    with pytest.raises(ConfigError, match=fault):
        read(tmp_path, FORECAST.replace(old, new))
