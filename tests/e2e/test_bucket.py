"""Recordings in S3, as moto serves it: every command that writes or reads them, and the closed loop."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import urllib.request

import numpy as np
import pytest

pytest.importorskip("pyarrow")
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)
if not (os.environ.get("MOTO_SERVER") or shutil.which("moto_server")):
    pytest.skip("no moto_server: make test-long installs one", allow_module_level=True)

from support.brokers import wait_until_listening
from support.town import Town
from support.trainers import trainer

from atoll_contract.errors import StorageError
from atoll_link import recording
from atoll_link.place import place
from atoll_link.recording import Kind
from atoll_sim.demo.ports import free_port

pytestmark = [pytest.mark.long, pytest.mark.tensorflow, pytest.mark.timeout(600)]
TASK = """
[task]
model = "kiln"
stream = "kiln"
kind = "forecast"
target = "heat"
step_ms = 60000
[task.values.heat]
[window]
length = 8
[fit]
optimiser = "gradient_descent"
learning_rate = 0.05
epochs = 5
"""
MOTO = os.environ.get("MOTO_SERVER") or "moto_server"
LARGE_BYTES = 12_000_000
"""More than what is put by one request."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port = free_port()
    with (tmp_path_factory.mktemp("moto") / "moto.log").open("wb") as log:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    try:
        wait_until_listening(port, process, 90.0)
        yield port
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def bucket(server, request, monkeypatch):
    """The URL of a folder in a new bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "atoll")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    name = request.node.name.replace("_", "-")[:60].strip("-")
    made = urllib.request.Request(f"http://127.0.0.1:{server}/{name}", method="PUT")
    urllib.request.urlopen(made, timeout=30).close()
    return f"s3://{name}/plant?region=us-east-1&endpoint_override=127.0.0.1:{server}&scheme=http"


def test_files_come_and_go(bucket):
    where = place(bucket)

    where.put("reading/a/one", lambda path: path.write_bytes(b"12345"))

    assert where.files("reading/a") == {"one": 5}
    assert (where.folders(""), where.folders("reading"), where.folders("none")) == (["reading"], ["a"], [])
    with where.open("reading/a/one") as file:
        file.seek(3)
        assert file.read() == b"45"
    where.remove("reading/a/one")
    where.remove("reading/a/one")
    assert where.files("reading/a") == {}
    with pytest.raises(FileNotFoundError):
        where.open("reading/a/one")


def test_a_file_that_is_too_large_for_one_request_is_stored(bucket):
    where = place(bucket)

    where.put("reading/a/large", lambda path: path.write_bytes(bytes(LARGE_BYTES)))

    assert where.files("reading/a") == {"large": LARGE_BYTES}


def test_what_cannot_be_opened_is_told_without_keys(bucket):
    options = f"{bucket.partition('?')[2]}&access_key=atoll&secret_key=hidden"

    with pytest.raises(StorageError, match=r"^s3://nobodys/x/y: .*NO_SUCH_BUCKET") as told:
        place(f"s3://nobodys/x?{options}").files("y")

    assert "hidden" not in str(told.value)


def test_import_inspect_train_and_evaluate_take_a_bucket_for_a_folder(bucket, tmp_path):
    heats = 20 + 5 * np.sin(np.arange(600) / 9)
    rows = [
        f"2026-01-{1 + n // 300:02d} {n % 300 // 60:02d}:{n % 60:02d}:00,{heat:.3f}"
        for n, heat in enumerate(heats)
    ]
    (tmp_path / "kiln.csv").write_text("\n".join(["when,heat", *rows]) + "\n")
    (tmp_path / "kiln.toml").write_text(TASK)
    settings = tmp_path / "trainer.toml"
    settings.write_text(
        f'[trainer]\nsite = "plant"\nhome = "{tmp_path / "home"}"\n[recordings]\nurl = "{bucket}"\n'
        '[[stream]]\nname = "kiln"\nvalues = { heat = {} }\n'
    )
    run = tmp_path / "run"

    told = json.loads(
        trainer(
            "import",
            tmp_path / "kiln.csv",
            "--stream",
            "kiln",
            "--settings",
            settings,
            "--device",
            "k",
            "--json",
        )
    )
    seen = json.loads(trainer("inspect", "--stream", "kiln", "--settings", settings, "--json"))
    by_url = trainer("inspect", "--stream", "kiln", "--recordings", bucket)
    trainer("train", "--task", tmp_path / "kiln.toml", "--settings", settings, "--out", run)
    trainer("optimise", run)
    trainer("evaluate", run)

    assert told["files"][0]["readings"] == 600
    assert len(place(bucket).folders("reading/kiln")) == 2
    assert seen["readings"] == 600
    assert "600" in by_url
    facts = json.loads((run / "run.json").read_text())
    assert (facts["source"], facts["readings"]) == (bucket.partition("?")[0], 600)
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_the_loop_learns_from_what_a_recorder_has_put_into_a_bucket(bucket, tmp_path, mosquitto_broker):
    with Town(tmp_path, mosquitto_broker, fresh_s=0.5) as town:
        settings = town.trainer.settings
        settings.write_text(f'{settings.read_text()}[recordings]\nurl = "{bucket}"\n')
        town.start_devices()
        told = json.loads(trainer("record", "--settings", settings, "--readings", 200, "--json"))
        town.stop("sim")
        kept = sorted(path.name for path in (town.trainer.home / "recordings").iterdir())

        town.start_loop()
        facts = town.trainer.home / "loop" / "runs" / "wear-1" / "run.json"
        town.spy.wait(facts.exists, "a run", 300)

        assert told["folder"] == bucket.partition("?")[0]
        assert kept == [".lock"]
        assert len(list(recording.read(place(bucket), Kind.READING, "press"))) >= 200
        assert list(recording.read(place(bucket), Kind.LABEL, "wear"))
        run = json.loads(facts.read_text())
        assert run["source"] == bucket.partition("?")[0]
        assert run["readings"] >= 200
