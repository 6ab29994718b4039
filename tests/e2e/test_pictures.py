"""A camera publishes pictures; the real MobileNet answers them on a real agent."""

from __future__ import annotations

import io
import json
import subprocess

import numpy as np
import pytest
from support.agents import AgentProcess, TrainerHome, command
from support.spy import Spy

from atoll_contract.bundle import Bundle
from atoll_contract.messages import Status
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_link.session import Broker, Session, wait_connected
from atoll_signal.picture import rows_of

Image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra pictures")

FILE = "mobilenet_v1_0.25_128_quant.tflite"
DESCRIPTION = """
model = "seen"
task = "classification"
[values.picture]
shape = [128, 128, 3]
picture = { fit = "crop" }
[normalisation]
mean = [128]
scale = [128]
[output]
labels_file = "labels.txt"
[pass]
shadow_windows = 0
probation_windows = 0
"""
STREAM = """
[[stream]]
name = "gate"
topics = ["cameras/{device}/snapshot"]
dialect = "picture"
values = { picture = {} }
"""


def encoded(pixels, form) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def gradient(height, width) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return np.stack([down * 255 // height, across * 255 // width, (down + across) % 256], -1).astype(np.uint8)


@pytest.mark.real_data
def test_pictures_published_over_mqtt_are_answered_like_the_published_outputs(
    real_data, mosquitto_broker, tmp_path
):
    published = json.loads((real_data / "models" / "reference_outputs.json").read_text())[FILE]
    ramp = (np.arange(128 * 128 * 3) % 256).astype(np.uint8).reshape(128, 128, 3)
    pictures = {
        "zeros": encoded(np.zeros_like(ramp), "PNG"),
        "ramp": encoded(ramp, "PNG"),
        "camera": encoded(gradient(480, 640), "JPEG"),
    }
    bundle = make_bundle(tmp_path, real_data / "models" / FILE, pictures)
    trainer = TrainerHome(tmp_path / "trainer", mosquitto_broker.port)
    agent = AgentProcess(
        tmp_path / "agent",
        mosquitto_broker.port,
        trainer.home / "root.json",
        streams=STREAM,
        models='[[model]]\nname = "seen"\nstream = "gate"\n',
    )
    camera = Session(Broker(host="127.0.0.1", port=mosquitto_broker.port), "camera")
    with Spy(mosquitto_broker.port, "atoll/#") as spy:
        try:
            trainer.publish(bundle)
            agent.start()
            spy.wait(
                lambda: [item for item in spy.on("/slot/seen") if b"champion" in item.payload],
                "a champion",
                90,
            )
            wait_connected(camera, 10)
            for name, content in {**pictures, "cut": pictures["camera"][:3000]}.items():
                camera.publish(f"cameras/{name}/snapshot", content)
            camera.step(0.1)
            spy.wait(lambda: len(spy.on("/pi/prediction/")) == 3, "three predictions")
            (count, reason, last) = spy.wait(lambda: refused(spy), "a refusal")
        finally:
            agent.close()
            camera.close()

    answers = {item.topic.split("/")[5]: json.loads(item.payload) for item in spy.on("/pi/prediction/")}
    for name in ("zeros", "ramp"):
        (expected,) = published[name].values()
        assert answers[name]["value"] == expected["argmax"]
        assert answers[name]["output"]["label"] == f"class {expected['argmax']}"
        highest = answers[name]["output"]["probabilities"][f"class {expected['argmax']}"]
        assert highest == pytest.approx(expected["max"] / 256, abs=2 / 256)
    assert answers["camera"]["output"] == directly(bundle, pictures["camera"])
    assert (count, reason) == (1, "malformed_payload")
    assert last == "cut: malformed_payload"


def make_bundle(folder, model, pictures) -> Bundle:
    """Return the bundle that the command makes of a folder of pictures."""
    (folder / "samples").mkdir()
    for name, content in pictures.items():
        (folder / "samples" / f"{name}.{'jpg' if name == 'camera' else 'png'}").write_bytes(content)
    (folder / "labels.txt").write_text("\n".join(f"class {number}" for number in range(1001)))
    (folder / "seen.toml").write_text(DESCRIPTION)
    arguments = [
        "--manifest",
        "seen.toml",
        "--model",
        str(model),
        "--samples",
        "samples",
        "--out",
        "seen.atoll",
    ]
    done = subprocess.run(
        [*command("atoll-trainer", "bundle"), *arguments, "--release", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Bundle.unpack((folder / "seen.atoll").read_bytes())


def directly(bundle, picture):
    """Return what the model says when it is asked without any agent."""
    packed = rows_of(bundle.manifest).row({"picture": picture})
    window = np.frombuffer(packed, np.float32).reshape(1, -1)
    return Predictor(bundle.manifest, choose_runtime().runtime.load(bundle.model)).answer(window).output


def refused(spy: Spy):
    """Return count, reason and last detail of what the agent refused, once it did."""
    statuses = [Status.decode(item.payload) for item in spy.on("/pi/status")]
    found = [(item.count, item.reason.value, item.last) for item in statuses[-1].refusals] if statuses else []
    return found[0] if found else None
