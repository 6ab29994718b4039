"""An enrolled agent as a real process, and a trainer's home to publish from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atoll_agent.cli import main as agent_main
from atoll_contract.bundle import Bundle
from atoll_trainer.cli import main as trainer_main

SITE = "site"
MODULES = {"atoll-agent": "atoll_agent", "atoll-trainer": "atoll_trainer", "atoll-sim": "atoll_sim"}


def command(program: str, *arguments: str) -> list[str]:
    """Return the command line of one of atoll's programs in this environment's Python."""
    code = f"import sys; from {MODULES[program]}.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]


def run_program(program: str, *arguments: str, timeout_s: float = 240.0) -> str:
    """Run a program to its successful end and return what it printed, logs included.

    A process of its own matters: tflite-runtime crashes where TensorFlow was imported before it.
    """
    ended = subprocess.run(
        command(program, *arguments), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert ended.returncode == 0, f"{program} {arguments}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout + ended.stderr


class TrainerHome:
    """Keys, repository and settings of a trainer in ``folder``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.home = folder / "home"
        self.settings = folder / "trainer.toml"
        folder.mkdir(parents=True, exist_ok=True)
        self.settings.write_text(
            f'[trainer]\nsite = "{SITE}"\nhome = "{self.home}"\n[broker]\nhost = "127.0.0.1"\nport = {port}\n'
        )
        assert trainer_main(["init", "--home", str(self.home)]) == 0

    def publish(self, bundle: Bundle, *options: str) -> None:
        name = f"{bundle.manifest.model}-{bundle.manifest.release}.atoll"
        path = self.settings.parent / name
        path.write_bytes(bundle.pack())
        arguments = ["publish", "--settings", str(self.settings), "--log-level", "warning"]
        assert trainer_main([*arguments, *options, str(path)]) == 0


class AgentProcess:
    """``atoll-agent run`` on settings of its own."""

    def __init__(
        self,
        folder: Path,
        port: int,
        root: Path,
        *,
        streams: str = '[[stream]]\nname = "press"\nvalues = { x = {} }\n',
        models: str = '[[model]]\nname = "wear"\nstream = "press"\n',
        agent: str = "pi",
        clock: str = "trusted",
        keepalive_s: int = 5,
        more: str = "",
        prefix: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.settings = folder / "agent.toml"
        self.log = folder / "agent.log"
        self.settings.write_text(
            f'[agent]\nid = "{agent}"\nsite = "{SITE}"\nstate_dir = "state"\nstatus_interval_s = 0.2\n'
            f'clock = "{clock}"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {port}\nkeepalive_s = {keepalive_s}\n'
            f"{streams}{models}{more}"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._prefix = prefix
        assert agent_main(["enrol", "--settings", str(self.settings), "--root", str(root)]) == 0

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *command("atoll-agent", "run", "--settings", str(self.settings))],
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = 20.0) -> int:
        assert self.process is not None
        self.process.send_signal(sig)
        status = self.process.wait(timeout_s)
        self.process = None
        return status

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return what the log says of one event."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == name]
