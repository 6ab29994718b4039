"""The main job on real sensor data: replayed through Mosquitto, forecast by a model trained on its half."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from support.agents import AgentProcess, TrainerHome, run_program
from support.spy import Spy

from atoll_contract.messages import SlotStatus, decode_prediction
from atoll_link.session import Broker, Session, wait_connected

TASK = """
[task]
model = "oven"
stream = "oven"
kind = "forecast"
target = "temperature"
values = { temperature = {} }
[window]
length = 12
[split]
train = 0.45
validation = 0.05
[fit]
optimiser = "adam"
learning_rate = 0.03
epochs = 150
patience = 60
"""
STREAM = '[[stream]]\nname = "oven"\nvalues = { temperature = {} }\n'
MODEL = '[[model]]\nname = "oven"\nstream = "oven"\n'
STEP_BACK = re.compile(r"time steps back from 2014-01-07 02:55 to 02:00 \(55 min\): 12 readings")


@pytest.mark.real_data
@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_every_reading_of_a_real_machine_gets_its_forecast(real_data, mosquitto_broker, tmp_path):
    file = real_data / "data" / "nab" / "machine_temperature_system_failure.csv"
    with file.open(newline="") as rows:
        values = np.array([float(row["value"]) for row in csv.DictReader(rows)])
    port = mosquitto_broker.port
    trainer = TrainerHome(tmp_path / "trainer", port)
    (tmp_path / "task.toml").write_text(TASK)
    run, bundle = str(tmp_path / "run"), str(tmp_path / "oven-1.atoll")
    columns = ["--time", "timestamp", "--value", "temperature=value", "--device", "machine"]
    train = ["train", "--task", str(tmp_path / "task.toml"), "--csv", str(file), *columns, "--out", run]

    trained = run_program("atoll-trainer", *train)
    run_program("atoll-trainer", "optimise", run)
    run_program("atoll-trainer", "bundle", "--run", run, "--out", bundle)
    run_program("atoll-trainer", "publish", "--settings", str(trainer.settings), bundle)
    agent = AgentProcess(tmp_path / "agent", port, trainer.home / "root.json", streams=STREAM, models=MODEL)
    with Spy(port, "atoll/v1/site/pi/#") as spy:
        try:
            agent.start()
            spy.wait(lambda: spy.on("/slot/") and is_champion(spy.on("/slot/")[-1].payload), "a champion", 60)
            replayed = run_program(
                *("atoll-sim", "replay", str(file), "--broker", mosquitto_broker.url, "--site", "site"),
                *("--stream", "oven", "--device", "machine", "--time", "timestamp"),
                *("--value", "temperature=value", "--speed", "acknowledged"),
            )
            spy.wait(lambda: len(spy.on("/prediction/")) >= len(values) - 11, "all forecasts", 120)
            assert agent.stop() == 0
        finally:
            agent.close()
        predictions = [decode_prediction(item.payload) for item in spy.on("/prediction/")]

    assert len(values) == 22_695
    assert len(predictions) == 22_684
    assert STEP_BACK.search(trained)
    assert STEP_BACK.search(replayed)
    # Prediction n stands on readings n .. n+11 and speaks of reading n+12.
    forecasts = np.array([prediction.value for prediction in predictions[:-1]])
    second_half = slice(len(values) // 2 - 12, None)
    errors = np.abs(forecasts - values[12:])[second_half]
    naive = np.abs(values[11:-1] - values[12:])[second_half]
    print(  # noqa: T201 - figures for whoever runs it with -s
        f"{trained}\n{replayed}\n"
        f"mean absolute error {errors.mean():.4f}, of the last value {naive.mean():.4f}"
    )
    assert errors.mean() < naive.mean()


MOBILENET = """
model = "seen"
task = "classification"
[values.picture]
shape = [128, 128, 3]
low = 0
high = 255
[normalisation]
mean = [128]
scale = [128]
"""


@pytest.mark.real_data
def test_a_persons_own_image_classifier_is_published_self_tested_and_answers(
    real_data, mosquitto_broker, tmp_path
):
    name = "mobilenet_v1_0.25_128_quant"
    reference = json.loads((real_data / "models" / "reference_outputs.json").read_text())
    wanted = reference[f"{name}.tflite"]["ramp"]["MobilenetV1/Predictions/Reshape_1"]
    port = mosquitto_broker.port
    trainer = TrainerHome(tmp_path / "trainer", port)
    pictures = np.random.default_rng(0).integers(0, 256, (4, 128, 128, 3))
    np.save(tmp_path / "pictures.npy", pictures.astype(np.float32))
    (tmp_path / "model.toml").write_text(MOBILENET)
    bundle = str(tmp_path / "seen-1.atoll")
    models = real_data / "models"
    run_program(
        *("atoll-trainer", "bundle", "--manifest", str(tmp_path / "model.toml")),
        *("--model", str(models / f"{name}.tflite"), "--edgetpu", str(models / f"{name}_edgetpu.tflite")),
        *("--samples", str(tmp_path / "pictures.npy"), "--out", bundle),
    )
    run_program("atoll-trainer", "publish", "--settings", str(trainer.settings), bundle)
    stream = '[[stream]]\nname = "camera"\nvalues = { picture = {} }\n'
    model = '[[model]]\nname = "seen"\nstream = "camera"\n'
    agent = AgentProcess(tmp_path / "agent", port, trainer.home / "root.json", streams=stream, models=model)
    ramp = [index % 256 for index in range(128 * 128 * 3)]
    with Spy(port, "atoll/v1/site/pi/#") as spy:
        try:
            agent.start()
            spy.wait(lambda: spy.on("/slot/") and is_champion(spy.on("/slot/")[-1].payload), "a champion", 60)
            sender = Session(Broker(host="127.0.0.1", port=port), "camera")
            wait_connected(sender, 10)
            payload = json.dumps({"values": {"picture": ramp}}, separators=(",", ":")).encode()
            sender.publish("atoll/v1/site/camera-1/reading/camera", payload)
            spy.wait(lambda: sender.step(0.1) is None or spy.on("/prediction/"), "an answer")
            sender.close()
            assert agent.stop() == 0
        finally:
            agent.close()
        prediction = decode_prediction(spy.on("/prediction/")[0].payload)
        champion = SlotStatus.decode(spy.on("/slot/")[-1].payload).champion

    assert champion.task == "classification"
    assert prediction.value == wanted["argmax"]
    assert prediction.output["label"] == str(wanted["argmax"])


def is_champion(payload: bytes) -> bool:
    return SlotStatus.decode(payload).champion is not None
