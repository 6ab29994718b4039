"""An enrolled agent with a stored champion, made by atoll's own commands, as an operator would.

The releases stay in a Mosquitto database that every run starts with, so that the agent finds its
repository and fetches nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from brokers import RunningBroker, make_certificate, mosquitto
from native import Programs
from processes import BenchmarkError, Process

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Variant:
    """Settings of one agent, and its model.

    Attributes:
        model: File in ``models/``.
        values: Numbers in a reading.
        length: Readings in a window.
        nested: Whether the stream is another make's JSON.
    """

    model: str
    values: int
    length: int = 1
    nested: bool = False


VARIANTS = {
    "base": Variant("mlp8", 8),
    "window": Variant("window64x3", 3, 64),
    "nested": Variant("mlp8", 8, nested=True),
}


@dataclass(frozen=True)
class Enrolled:
    """Attributes: settings file, Mosquitto's database with the releases, certificate for TLS."""

    settings: Path
    retained: Path
    certificate: Path


def prepare(folder: Path, name: str, programs: Programs) -> Enrolled:
    """Make variant ``name`` anew in ``folder``: bundle, publish, enrol, fetch."""
    made = Enrolled(folder / "agent.toml", folder / "releases.db", folder / "certificate.pem")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variant = VARIANTS[name]
    _write_files(folder, variant)
    make_certificate(made.certificate)
    own = ["--manifest", "wear.toml", "--model", str(MODELS / f"{variant.model}.tflite")]
    _run(
        folder,
        "atoll-trainer",
        "bundle",
        *own,
        "--samples",
        "samples.csv",
        "--release",
        "1",
        "--out",
        "1.atoll",
    )
    _run(folder, "atoll-trainer", "init", "--home", "home")
    broker_folder = folder / "broker"
    broker_folder.mkdir()
    with mosquitto(broker_folder) as broker:
        port = {"ATOLL_BROKER__PORT": str(broker.port)}
        _run(folder, "atoll-trainer", "publish", "--settings", "trainer.toml", "1.atoll", environment=port)
    # Kept now: later it would hold the agent's session, and queue readings for it in every run.
    shutil.copy(broker_folder / "mosquitto.db", made.retained)
    _run(folder, "atoll-agent", "enrol", "--settings", "agent.toml", "--root", "home/root.json")
    with mosquitto(broker_folder, retained=made.retained) as broker:
        _fetch(folder, variant, broker, programs)
    return made


def command(program: str) -> str:
    """Return the path of one of atoll's programs in this environment."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise BenchmarkError(f"{program} is not installed beside {sys.executable}: pip install -e '.[bench]'")
    return str(path)


def _write_files(folder: Path, variant: Variant) -> None:
    names = [f"x{number}" for number in range(variant.values)]
    tables = "".join(f"[values.{name}]\n" for name in names)
    window = f"[window]\nlength = {variant.length}\n"
    (folder / "wear.toml").write_text(f'model = "wear"\ntask = "regression"\n{tables}{window}')
    rows = [
        ",".join(f"{20 + (7 * row + 3 * column) % 10}" for column in range(variant.values))
        for row in range(16 * variant.length)
    ]
    (folder / "samples.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    (folder / "trainer.toml").write_text(
        '[trainer]\nsite = "bench"\nhome = "home"\n[broker]\nhost = "127.0.0.1"\n'
    )
    if variant.nested:
        values = ", ".join(f'{name} = {{ pointer = "/data/{name}/v" }}' for name in names)
        stream = f'topics = ["plant/{{device}}/state"]\ndialect = "json"\nvalues = {{ {values} }}\n'
        stream += 'time = { pointer = "/meta/ts" }\n'
    else:
        stream = f"values = {{ {', '.join(f'{name} = {{}}' for name in names)} }}\n"
    (folder / "agent.toml").write_text(
        '[agent]\nid = "sut"\nsite = "bench"\nstate_dir = "state"\nclock = "trusted"\n'
        '[broker]\nhost = "127.0.0.1"\n'
        f'[[stream]]\nname = "press"\n{stream}[[model]]\nname = "wear"\nstream = "press"\n'
    )


def _fetch(folder: Path, variant: Variant, broker: RunningBroker, programs: Programs) -> None:
    """Let the agent fetch the release and answer its first reading."""
    probe = [str(programs.loadgen), "--port", str(broker.port), "--first", "--warmup", "60"]
    options = ["--devices", "1", "--values", str(variant.values), "--boot", "enrol"]
    dialect = ["--dialect", "nested" if variant.nested else "atoll"]
    agent = [command("atoll-agent"), "run", "--settings", str(folder / "agent.toml")]
    port = {"ATOLL_BROKER__PORT": str(broker.port)}
    log = folder / "enrol.log"
    with Process([*probe, *options, *dialect], log, is_piped=True) as loadgen:
        loadgen.line(10)
        with Process(agent, log, environment=port) as running:
            loadgen.line(60)
            running.settle(0.3)  # it has stored what it did


def _run(folder: Path, program: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    log = folder / "enrol.log"
    with log.open("ab") as output:
        ended = subprocess.run(
            [command(program), *arguments],
            cwd=folder,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            timeout=120,
            check=False,
        )
    if ended.returncode != 0:
        raise BenchmarkError(f"{program} {arguments[0]}: {log.read_text()[-1500:]}")
