"""The demo leaves nothing behind, however it ends."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from support.agents import command
from support.brokers import select_pause


def processes_in(folder: Path) -> list[int]:
    """Return the processes whose working folder is ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def wait_for(fact, what: str, timeout_s: float = 60.0) -> None:
    for _ in range(int(timeout_s / 0.05)):
        if fact():
            return
        select_pause(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_the_demo_ends_its_processes_when_it_is_told_to_stop(tmp_path, number):
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        command("atoll-sim", "demo", "--json", "--folder", str(folder)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # Broker, agent, devices and the recorder.
        wait_for(lambda: len(processes_in(folder)) >= 4, "four processes")
        demo.send_signal(number)
        demo.communicate(timeout=60)
    finally:
        demo.kill()

    assert demo.returncode != 0
    # Children of children were killed, but it is for init to see them end.
    wait_for(lambda: not processes_in(folder), "the end of every process", 10.0)


def test_a_step_that_fails_is_named_and_its_log_is_kept(tmp_path):
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        command("atoll-sim", "demo", "--json", "--folder", str(folder)), stdout=subprocess.PIPE
    )
    try:
        wait_for((folder / "agent.log").exists, "the agent's start")
        (folder / "task.toml").write_text("[task]\nmodel = 5\n")
        printed, _ = demo.communicate(timeout=100)
    finally:
        demo.kill()

    (failure,) = json.loads(printed)["failures"]
    assert demo.returncode == 1
    assert "'train' ended with status 78" in failure
    assert "task.stream: missing" in failure
    assert (folder / "train.log").exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "file").write_text("")

    ended = subprocess.run(
        command("atoll-sim", "demo", "--folder", str(tmp_path)), capture_output=True, text=True, check=False
    )

    assert ended.returncode == 78
    assert "is not empty" in ended.stderr
