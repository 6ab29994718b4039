"""``train --each-device``: many models, on this machine and on a cluster of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("distributed")


from atoll_contract.bundle import Bundle
from atoll_contract.errors import ConfigError
from atoll_sim.demo.ports import free_port
from atoll_trainer import bundling
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Observed, Refusals, collect
from atoll_trainer.evaluate import evaluate
from atoll_trainer.group import Ending, fit, group_of, run_within
from atoll_trainer.many import ClusterLostError, summary, train_all, works_of
from atoll_trainer.optimise import optimise
from atoll_trainer.runs import Run
from atoll_trainer.task import TaskFile

pytestmark = pytest.mark.timeout(300)
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
TASK = """
[task]
model = "press"  # the name of the device is added
stream = "press"
kind = "forecast"
target = "x"
[task.values.x]
[fit]
epochs = 3
"""


@pytest.fixture
def task_path(tmp_path):
    path = tmp_path / "task.toml"
    path.write_text(TASK)
    return path


def readings(task, **counts):
    """Return a sine of as many readings of each device."""
    observed = [
        Observed(at + 1, device, at * 1000.0, {"x": float(np.sin(at / 5) + place)})
        for place, (device, count) in enumerate(counts.items())
        for at in range(count)
    ]
    return collect(observed, task, "test", "0", Refusals())


def works(path, *, least=200, limit_s=240.0, **counts):
    task = TaskFile.read(path)
    return works_of(path, task, readings(task, **counts), least, limit_s)


@contextmanager
def cluster():
    """A scheduler and a worker process, and the address of the scheduler."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    commands = [
        ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"],
        ["worker", address, "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"],
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for words in commands
    ]
    try:
        yield address
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(30)


def test_each_device_has_its_readings_and_a_task_with_its_name(task_path):
    first, second = works(task_path, b=30, a=20)

    assert (first.name, second.name) == ("a", "b")
    assert (len(first.readings), set(first.readings.devices)) == (20, {"a"})
    assert first.task == TASK.replace('"press"  #', '"press-a"  #')
    assert first.readings.sha256 != second.readings.sha256
    assert group_of(readings(TaskFile.read(task_path), a=3), "a").times_ms.tolist() == [0, 1000, 2000]


def test_a_name_that_becomes_too_long_is_refused(task_path):
    with pytest.raises(ConfigError, match="no id of at most 48 characters: press-aaa"):
        works(task_path, **{"a" * 45: 5})


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="tensorflow is not installed (pip install 'atoll[trainer]')")
@pytest.mark.tensorflow
@pytest.mark.long
def test_the_outcome_is_the_same_on_two_workers_and_on_a_cluster(task_path, tmp_path):
    todo = works(task_path, full=260, small=60, tiny=5)
    heard = []

    here = train_all(todo, tmp_path / "here", workers=2, scheduler=None, on_end=heard.append)
    with cluster() as address:
        there = train_all(todo, tmp_path / "there", workers=1, scheduler=address, on_end=lambda _: None)

    assert [one.ending for one in here] == [Ending.FITTED, Ending.NAIVE, Ending.NONE]
    assert here[1].why == "59 windows, at least 200 are wanted"
    assert "windows" in here[2].why
    assert {one.name for one in heard} == {"full", "small", "tiny"}
    assert summary(here) == summary(there) == (tmp_path / "here" / "groups.json").read_text()
    for name in ("full", "small"):
        run = Run(tmp_path / "here" / name)
        assert run.int8_model.read_bytes() == Run(tmp_path / "there" / name).int8_model.read_bytes()
        assert run.task().task.model == f"press-{name}"
        assert run.evaluation() is not None
    # The naive guess, as a model: what comes next is what is now.
    small = json.loads(summary(here))["groups"][1]
    assert small["float_model"]["mae"] == pytest.approx(small["naive"]["mae"], rel=1e-3)


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="tensorflow is not installed (pip install 'atoll[trainer]')")
@pytest.mark.tensorflow
def test_each_device_may_have_a_search_and_one_outside_of_the_split_falls_back(tmp_path):
    path = tmp_path / "task.toml"
    search = '[search]\nfamilies = ["linear"]\ntrials = 1\ncandidates = 1\n'
    path.write_text(TASK.partition("[fit]")[0] + search + '[split]\ntest_from = "1970-01-01T00:04:00"\n')

    ended = train_all(
        works(path, least=20, full=300, early=100), tmp_path / "runs", workers=2, scheduler=None,
        on_end=lambda _: None,
    )  # fmt: skip

    early, full = ended
    assert (full.ending, full.why) == (Ending.FITTED, "")
    assert (early.ending, early.windows) == (Ending.NAIVE, 99)
    assert "nothing is left for test" in early.why
    assert Run(tmp_path / "runs" / "early").int8_model.exists()


def test_a_group_that_takes_too_long_or_fails_is_given_up_and_others_go_on(task_path, tmp_path):
    slow, broken = works(task_path, a=300, b=300, limit_s=0.05)
    heard = []

    ended = train_all(
        [slow, replace(broken, limit_s="soon")], tmp_path, workers=1, scheduler=None, on_end=heard.append
    )

    assert [one.ending for one in ended] == [Ending.NONE, Ending.NONE]
    assert ended[0].why == "not done after 0.05 s"
    assert ended[1].why.startswith("TypeError: ")
    assert {one.name for one in heard} == {"a", "b"}
    assert len(json.loads((tmp_path / "groups.json").read_text())["groups"]) == 2


def test_what_takes_too_long_is_ended_with_all_that_it_has_started(tmp_path):
    told = tmp_path / "pid"
    line = f"sleep 100 & echo $! > {told}; sleep 100"

    for limit_s in (0.5, 10.0):
        assert run_within(limit_s, ["/bin/sh", "-c", line]) is None
        if told.exists() and told.read_text():  # else the shell was held up before it came to that
            break

    pid = int(told.read_text())
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline
    assert run_within(20, ["/bin/sh", "-c", "echo bad >&2; exit 3"]) == (3, "bad\n")


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


GUESSES = {
    "forecast": 'kind = "forecast"\ntarget = "x"',
    "path": 'kind = "forecast"\ntarget = "x"\nhorizon = 4\npath = true',
    "regression": 'kind = "regression"',
    "classification": 'kind = "classification"\nlabels = ["a", "b", "c"]',
    "anomaly": 'kind = "anomaly"',
    "auto": 'kind = "forecast"\ntarget = "x"\n[window]\nlength = "auto"',
}


@pytest.mark.skipif(not HAS_TENSORFLOW, reason="tensorflow is not installed (pip install 'atoll[trainer]')")
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "path" else pytest.mark.long) for name in GUESSES]
)
def test_the_naive_guess_is_a_model_of_every_kind_of_task(tmp_path, name):
    path = tmp_path / "task.toml"
    head, _, window = GUESSES[name].partition("\n[window]\n")
    window = window or "length = 3"
    path.write_text(
        f"[task]\nmodel = 'press'\nstream = 'press'\n{head}\n[task.values.x]\n[window]\n{window}\n"
    )
    task = TaskFile.read(path)
    labels = [None if name == "anomaly" else float(at % 4 == 0) + (at % 7 == 0) for at in range(120)]
    observed = [
        Observed(
            at + 1,
            "a",
            at * 1000.0,
            {"x": float(np.sin(at / 5))},
            label if task.task.kind.has_labels else None,
        )
        for at, label in enumerate(labels)
    ]
    run = Run(tmp_path / "run")
    run.folder.mkdir()

    in_child(fit, run, path, collect(observed, task, "test", "0", Refusals()), True, deadline_s=120)
    optimise(run)
    found = evaluate(run)
    Bundle.unpack(bundling.from_run(run, 1))

    if name == "anomaly":
        assert found.int8_model.flagged < 0.2
    else:
        assert found.float_model.error == pytest.approx(found.naive.error, rel=1e-3)
        assert found.int8_model.error == pytest.approx(found.naive.error, rel=0.02)


def test_a_scheduler_that_is_not_there_is_told(task_path, tmp_path, monkeypatch):
    monkeypatch.setattr("atoll_trainer.many._CONNECT_S", 1)

    with pytest.raises(ClusterLostError, match=r"--scheduler tcp://127\.0\.0\.1:1: does not answer"):
        train_all(
            works(task_path, a=30), tmp_path, workers=1, scheduler="tcp://127.0.0.1:1", on_end=lambda _: None
        )
