"""``atoll-trainer train-pictures``: from recorded pictures to a bundle that the devices' runtime answers."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from support.agents import command

pytest.importorskip("PIL")
pytest.importorskip("pyarrow")

from atoll_contract.bundle import Bundle
from atoll_contract.errors import Reason
from atoll_contract.manifest import Channels
from atoll_contract.messages import Label
from atoll_link import recording
from atoll_link.recording import Kind, Recording, Row
from atoll_sim.worlds.parts import Part, draw, png
from atoll_trainer import pictures
from atoll_trainer.settings import TrainerSettings

SETTINGS = """
[trainer]
site = "world"
home = "trainer"
[[stream]]
name = "part"
topics = ["cameras/{device}/part"]
dialect = "picture"
values = { picture = {} }
"""
START_MS = 1_790_000_000_000.0


@pytest.fixture
def recorded(tmp_path):
    (tmp_path / "trainer.toml").write_text(SETTINGS)
    chance = np.random.default_rng(1)
    with Recording(tmp_path / "recordings") as writer:
        for number in range(240):
            part = (Part.GOOD, Part.UNDRILLED)[int(chance.integers(2))]
            at_ms = START_MS + 1000.0 * number
            picture = b"\x89PNG\r\n\x1a\nbroken" if number == 7 else png(draw(part, chance))
            label = Label(value=float(part is Part.UNDRILLED), start_ms=at_ms, end_ms=at_ms + 1)
            for kind, name, topic, payload in (
                (Kind.READING, "part", "cameras/camera-1/part", picture),
                (Kind.LABEL, "look", "atoll/v1/world/camera-1/label/camera-1/look", label.encode()),
            ):
                writer.append(Row(at_ms, None, kind, name, "camera-1", topic, payload, 1), 0.0)
    return tmp_path


def trainer(folder, *words):
    return subprocess.run(
        [*command("atoll-trainer"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.tensorflow
def test_recorded_pictures_become_a_bundle_that_tells_them_apart(recorded) -> None:
    options = ["--settings", "trainer.toml", "--model", "look", "--stream", "part", "--size", "24x24"]
    options += ["--recordings", "recordings", "--labels", "good,undrilled", "--epochs", "8"]
    trained = trainer(recorded, "train-pictures", *options, "--out", "run", "--json")
    assert trained.returncode == 0, trained.stderr
    facts = json.loads(trained.stdout)
    files = ["--manifest", "run/model.toml", "--model", "run/model.tflite", "--samples", "run/samples"]
    bundled = trainer(recorded, "bundle", *files, "--release", "1", "--out", "look-1.atoll")

    assert bundled.returncode == 0, bundled.stderr
    assert facts["pictures"] == 239
    assert facts["refused"] == {"malformed_payload": 1}
    assert facts["accuracy"] > 0.9
    manifest = Bundle.unpack((recorded / "look-1.atoll").read_bytes()).manifest
    assert manifest.output.labels == ["good", "undrilled"]
    assert manifest.inputs[0].dtype.value == "int8"
    figures = manifest.training.metrics
    assert figures["int8_accuracy"] == facts["accuracy"]
    assert 0 < figures["int8_log_loss"] < figures["naive_log_loss"]
    assert figures["naive_log_loss"] == pytest.approx(np.log(2), abs=0.1)


def test_where_there_are_too_many_pictures_the_newest_are_learnt_from(recorded, monkeypatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXEL_BYTES", 100 * 24 * 24)
    [table] = TrainerSettings.read(recorded / "trainer.toml").stream
    stream, labels = table.build("world"), ["good", "undrilled"]

    found = pictures.from_recording(recorded / "recordings", stream, "look", labels, Channels.GREY, (24, 24))

    last = [row.payload for row in recording.read(recorded / "recordings", Kind.READING, "part")][-100:]
    assert found.encoded == last
    assert found.refused == {Reason.TOO_LARGE: 140}


def test_too_few_pictures_of_a_class_are_named(recorded) -> None:
    options = ["--settings", "trainer.toml", "--model", "look", "--stream", "part", "--out", "run"]
    ended = trainer(
        recorded,
        "train-pictures",
        *options,
        "--recordings",
        "recordings",
        "--labels",
        "good,undrilled,dented",
    )

    assert ended.returncode == 1
    assert "0 of 'dented'" in ended.stderr
