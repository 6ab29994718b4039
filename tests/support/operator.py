"""An operator at the command line: one home, its settings file and a broker."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from support.brokers import RunningBroker
from support.releases import device, make_bundle

from atoll_agent.rollout.release import Release
from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Training
from atoll_link.exits import Exit
from atoll_trainer.cli import main
from atoll_trainer.metadata import LIFETIME
from atoll_trainer.repository import Repository

PROGRAM = [sys.executable, "-c", "import sys; from atoll_trainer.cli import main; sys.exit(main())"]


def atoll_trainer(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in this process: an interpreter of its own would take most of the time."""
    words = [str(argument) for argument in arguments]
    told, logged = io.StringIO(), io.StringIO()
    with redirect_stdout(told), redirect_stderr(logged):
        try:
            status = main(words)
        except SystemExit as exited:  # argparse ends the program itself
            status = exited.code
    return subprocess.CompletedProcess(["atoll-trainer", *words], status, told.getvalue(), logged.getvalue())


def atoll_trainer_process(
    *arguments: str | Path, environment: dict[str, str] | None = None, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=environment,
    )


@dataclass
class Operator:
    """One home, its settings file and a broker, in ``folder``."""

    folder: Path
    broker: RunningBroker

    def __post_init__(self) -> None:
        self.home = self.folder / "home"
        self.settings = self.folder / "trainer.toml"
        self.settings.write_text(
            '[trainer]\nsite = "plant-a"\nhome = "home"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
        )

    @classmethod
    def with_keys(cls, folder: Path, broker: RunningBroker) -> Self:
        """Return one who has run ``init``."""
        operator = cls(folder, broker)
        made = atoll_trainer("init", "--home", operator.home)
        assert made.returncode == Exit.SUCCESS, made.stderr
        return operator

    def bundle(self, release: int, metrics: dict[str, float] | None = None) -> Path:
        """Write a bundle whose manifest tells ``metrics``."""
        path = self.folder / f"press-{release}.atoll"
        content = make_bundle(release=release)
        if metrics is not None:
            bundle = Bundle.unpack(content)
            manifest = bundle.manifest.model_copy(update={"training": Training(metrics=metrics)})
            content = replace(bundle, manifest=manifest).pack()
        path.write_bytes(content)
        return path

    def publish(
        self, release: int, *options: str | Path, metrics: dict[str, float] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Publish a bundle with this number."""
        return self.run("publish", self.bundle(release, metrics), *options)

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command with the settings of this operator."""
        words = [*command.split(), *arguments]
        return atoll_trainer(*words, "--settings", self.settings)

    def seen_by_a_device(self, name: str = "device") -> list[Release]:
        """Return what a device enrolled with the first root sees."""
        root = (self.home / "repository" / "metadata" / "1.root.json").read_bytes()
        with device(self.broker, self.folder / name, root) as repository:
            return repository.refresh()

    def versions(self) -> dict[str, int]:
        """Return the newest version of each role."""
        metadata = Repository.load(self.home / "repository").metadata
        return {role: metadata.version(role) for role in LIFETIME}
