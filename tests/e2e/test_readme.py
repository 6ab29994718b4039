"""Every command of the README runs, word for word but for the folders of the machine.

Not run: blocks marked ``not-run`` (they change the machine), ``make test``, which is what runs this, and
``make demo``, which CI runs on its own.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.brokers import RunningBroker, select_pause

from atoll_trainer.cli import main as trainer_main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console( not-run)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(section: str) -> list[str]:
    """Return the commands of one section of the README, those not to be run excepted."""
    text = (ROOT / "README.md").read_text()
    body = text.split(f"## {section}\n")[1].split("\n## ")[0]
    return [
        line.removeprefix("$ ")
        for marked, block in BLOCK.findall(body)
        if not marked
        for line in block.splitlines()
    ]


def run(command: str, cwd: Path = ROOT, timeout_s: float = 300, **environment: str) -> str:
    ended = subprocess.run(
        command,
        shell=True,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, f"{command}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def test_every_section_with_commands_is_tested_here():
    text = (ROOT / "README.md").read_text()
    with_commands = {
        section.split("\n")[0]
        for section in text.split("\n## ")[1:]
        if any(not marked for marked, _ in BLOCK.findall(section))
    }

    assert with_commands == {"See it run", "On a Raspberry Pi", "Train and publish"}
    assert commands("See it run") == ["make demo", "make test"]


@pytest.mark.timeout(600)
def test_the_plain_install_is_a_light_agent(tmp_path):
    def here(command: str) -> str:
        for folder in ("/opt/atoll", "/etc/atoll"):
            command = command.replace(folder, f"{tmp_path}{folder}")
        return command.replace("python3 -m venv", f"{sys.executable} -m venv")

    assert trainer_main(["init", "--home", str(tmp_path / "trainer")]) == 0
    shutil.copy(tmp_path / "trainer" / "root.json", tmp_path / "root.json")
    *steps, last = commands("On a Raspberry Pi")
    for step in steps:
        printed = run(
            here(step).replace("--root root.json", f"--root {tmp_path}/root.json"),
            ATOLL_AGENT__STATE_DIR=str(tmp_path / "state"),
        )
        if " check " in step:
            assert "press-wear: answers press" in printed
    venv = tmp_path / "opt" / "atoll"
    packages = set(run(f"{venv}/bin/pip list --format=freeze").lower().splitlines())
    size_mb = sum(path.stat().st_size for path in venv.rglob("*") if path.is_file()) / 1e6
    print(f"installed size {size_mb:.0f} MB")  # noqa: T201 - for whoever runs it with -s
    trainer = subprocess.run(
        [venv / "bin" / "atoll-trainer", "train", "--help"], capture_output=True, text=True, check=False
    )

    assert last.endswith("run --settings /etc/atoll/agent.toml")
    assert not [name for name in packages if name.startswith(("tensorflow", "keras", "pyarrow", "amqtt"))]
    assert size_mb < 300
    assert trainer.returncode == 2
    assert "atoll[trainer]" in trainer.stderr
    assert_it_runs(here(last), tmp_path)


def assert_it_runs(command: str, folder: Path) -> None:
    """Start the agent, see that it says so without a broker, and stop it cleanly."""
    log = folder / "run.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command.split(),
            stderr=file,
            env={
                **os.environ,
                "ATOLL_AGENT__STATE_DIR": str(folder / "state"),
                "ATOLL_BROKER__PORT": "1",
            },
        )
    try:
        for _ in range(500):
            if "agent.started" in log.read_text():
                break
            select_pause(0.05)
        process.send_signal(signal.SIGTERM)
        status = process.wait(20)
    finally:
        process.kill()

    assert "agent.started" in log.read_text()
    assert status == 0


@pytest.mark.tensorflow
@pytest.mark.timeout(300)
def test_the_trainers_commands_lead_from_a_csv_file_to_a_published_release(
    mosquitto_broker: RunningBroker, tmp_path
):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    task = tmp_path / "config" / "task.toml"
    text = task.read_text()
    assert "trials = 4" in text
    assert 'length = "auto"' in text
    # Searching is not what is tried here.
    task.write_text(text.replace("trials = 4", "trials = 1").replace('length = "auto"', "length = 8"))
    with (tmp_path / "readings.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["time", "temperature", "vibration"])
        for n in range(400):
            rows.writerow(
                [f"2026-01-01T00:{n // 60:02}:{n % 60:02}Z", 20 + (n * 7 % 13) / 3, (n * 5 % 7) / 7]
            )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    printed = [
        run(step, cwd=tmp_path, PATH=path, ATOLL_BROKER__PORT=str(mosquitto_broker.port))
        for step in commands("Train and publish")
    ]

    assert (tmp_path / "press-wear-1.atoll").exists()
    assert "press-wear" in printed[-1]
