"""An enrolled agent with a stored champion, made by atoll's own commands, as an operator would.

The releases stay in a Mosquitto database that every run starts with, so that the agent finds its
repository and fetches nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from brokers import RunningBroker, make_certificate, mosquitto
from native import Programs
from paho.mqtt import publish, subscribe
from processes import BenchmarkError, Group, Process

MODELS = Path(__file__).parent / "models"
TIMESTAMP = "atoll/v1/releases/metadata/timestamp.json"
"""The file that makes a release known; all else of it may lie at the broker before."""
RELEASE_BYTES = 5_000_000


@dataclass(frozen=True)
class Model:
    """A model and the stream that it answers.

    Attributes:
        name: Its id.
        stream: The stream's name.
        file: In ``models/``.
        values: Numbers in a reading.
        length: Readings in a window.
    """

    name: str = "wear"
    stream: str = "press"
    file: str = "mlp8"
    values: int = 8
    length: int = 1


@dataclass(frozen=True)
class Variant:
    """Settings of one agent.

    Attributes:
        models: What it answers with.
        topics: Those of the streams, if not atoll's own; ``{stream}`` is the stream's name.
        is_nested: Whether the payloads are another make's JSON.
        has_release: Whether a second release waits for its announcement.
    """

    models: tuple[Model, ...] = (Model(),)
    topics: str = ""
    is_nested: bool = False
    has_release: bool = False


SLOW = Model("deep", "scan", "slow8")
HEAVY = Model(file="heavy8")
GROUP = "$share/hall/atoll/v1/bench/{{device}}/reading/{stream}"
VARIANTS = {
    "base": Variant(),
    "window": Variant((Model(file="window64x3", values=3, length=64),)),
    "nested": Variant(topics="plant/{{device}}/state", is_nested=True),
    "shared": Variant(topics=GROUP),
    "heavy": Variant((HEAVY,)),
    "heavy-shared": Variant((HEAVY,), topics=GROUP),
    "slow": Variant((Model(), SLOW)),
    "release": Variant(has_release=True),
}


@dataclass(frozen=True)
class Enrolled:
    """What a run needs of a prepared agent.

    Attributes:
        settings: Its settings file.
        state: Its state folder, to be copied.
        retained: Mosquitto's database with the releases.
        certificate: Key and certificate for a broker with TLS.
        announcement: Metadata that make a second release known, if there is one.
    """

    settings: Path
    state: Path
    retained: Path
    certificate: Path
    announcement: Path | None = None


def prepare(folder: Path, name: str, programs: Programs) -> Enrolled:
    """Make variant ``name`` anew in ``folder``: bundle, publish, enrol, fetch."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    variant = VARIANTS[name]
    _write_settings(folder, variant)
    make_certificate(folder / "certificate.pem")
    _run(folder, "atoll-trainer", "init", "--home", "home")
    for model in variant.models:
        _bundle(folder, model, MODELS / f"{model.file}.tflite", release=1)
    (folder / "broker").mkdir()
    with mosquitto(folder / "broker") as broker:
        _publish(folder, broker, *(f"{model.name}-1.atoll" for model in variant.models))
        if variant.has_release:
            _publish_in_secret(folder, broker, variant.models[0])
    # Kept now: later it would hold the agent's session, and queue readings for it in every run.
    shutil.copy(folder / "broker" / "mosquitto.db", folder / "releases.db")
    _run(folder, "atoll-agent", "enrol", "--settings", "agent.toml", "--root", "home/root.json")
    with mosquitto(folder / "broker", retained=folder / "releases.db") as broker:
        _fetch(folder, variant, broker, programs)
    return Enrolled(
        settings=folder / "agent.toml",
        state=folder / "state",
        retained=folder / "releases.db",
        certificate=folder / "certificate.pem",
        announcement=folder / "announcement.json" if variant.has_release else None,
    )


def announce(port: int, metadata: bytes) -> None:
    """Publish the metadata that make a release known."""
    publish.single(TIMESTAMP, metadata, qos=1, retain=True, hostname="127.0.0.1", port=port)


def command(program: str) -> str:
    """Return the path of one of atoll's programs in this environment."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise BenchmarkError(f"{program} is not installed beside {sys.executable}: pip install -e '.[bench]'")
    return str(path)


def _write_settings(folder: Path, variant: Variant) -> None:
    (folder / "trainer.toml").write_text(
        '[trainer]\nsite = "bench"\nhome = "home"\n[broker]\nhost = "127.0.0.1"\n'
    )
    tables = []
    for model in variant.models:
        pointer = 'pointer = "/data/{}/v"' if variant.is_nested else ""
        values = ", ".join(f"{name} = {{ {pointer.format(name)} }}" for name in _names(model))
        stream = f'[[stream]]\nname = "{model.stream}"\nvalues = {{ {values} }}\n'
        if variant.topics:
            stream += f'topics = ["{variant.topics.format(stream=model.stream)}"]\n'
        if variant.is_nested:
            stream += 'dialect = "json"\ntime = { pointer = "/meta/ts" }\n'
        tables.append(f'{stream}[[model]]\nname = "{model.name}"\nstream = "{model.stream}"\n')
    (folder / "agent.toml").write_text(
        '[agent]\nid = "sut"\nsite = "bench"\nstate_dir = "state"\nclock = "trusted"\n'
        '[broker]\nhost = "127.0.0.1"\n' + "".join(tables)
    )


def _names(model: Model) -> list[str]:
    return [f"x{number}" for number in range(model.values)]


def _bundle(folder: Path, model: Model, file: Path, *, release: int) -> None:
    """Make ``{name}-{release}.atoll`` of a model file."""
    tables = "".join(f"[values.{name}]\n" for name in _names(model))
    (folder / f"{model.name}.toml").write_text(
        f'model = "{model.name}"\ntask = "regression"\n{tables}[window]\nlength = {model.length}\n'
    )
    rows = [
        ",".join(f"{20 + (7 * row + 3 * column) % 10}" for column in range(model.values))
        for row in range(16 * model.length)
    ]
    (folder / "samples.csv").write_text("\n".join([",".join(_names(model)), *rows]) + "\n")
    options = {
        "--manifest": f"{model.name}.toml",
        "--model": str(file),
        "--samples": "samples.csv",
        "--release": str(release),
        "--out": f"{model.name}-{release}.atoll",
    }
    _run(folder, "atoll-trainer", "bundle", *(word for pair in options.items() for word in pair))


def _publish(folder: Path, broker: RunningBroker, *bundles: str) -> None:
    port = {"ATOLL_BROKER__PORT": str(broker.port)}
    for bundle in bundles:
        _run(folder, "atoll-trainer", "publish", "--settings", "trainer.toml", bundle, environment=port)


def _publish_in_secret(folder: Path, broker: RunningBroker, model: Model) -> None:
    """Publish a second release and put the old timestamp back: so it is known when the new one is."""
    file = folder / "large.tflite"
    # The same network with bytes behind it that no answer reads: after the swap an answer costs what
    # it did before, so that only the swap itself shows.
    ballast = random.Random(1).randbytes(RELEASE_BYTES)
    file.write_bytes((MODELS / f"{model.file}.tflite").read_bytes() + ballast)
    _bundle(folder, model, file, release=2)
    before = _timestamp(broker)
    _publish(folder, broker, f"{model.name}-2.atoll")
    (folder / "announcement.json").write_bytes(_timestamp(broker))
    announce(broker.port, before)


def _timestamp(broker: RunningBroker) -> bytes:
    found = subscribe.simple(TIMESTAMP, hostname="127.0.0.1", port=broker.port)  # type: ignore[no-untyped-call]  # paho's
    payload: bytes = found.payload
    return payload


def _fetch(folder: Path, variant: Variant, broker: RunningBroker, programs: Programs) -> None:
    """Let the agent fetch its releases and answer a first reading with each of its models."""
    agent = [command("atoll-agent"), "run", "--settings", str(folder / "agent.toml")]
    port = {"ATOLL_BROKER__PORT": str(broker.port)}
    log = folder / "enrol.log"
    with Process(agent, log, environment=port) as running:
        for model in variant.models:
            probe = [str(programs["loadgen"]), "--port", str(broker.port), "--first", "--warmup", "60"]
            options = ["--devices", "1", "--values", str(model.values), "--boot", "enrol"]
            options += ["--stream", model.stream, "--model", model.name]
            options += ["--dialect", "nested" if variant.is_nested else "atoll"]
            with Process([*probe, *options], log, is_piped=True) as loadgen:
                loadgen.line(10)
                loadgen.line(60)
        Group([running]).settle(0.3)  # it has stored what it did


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
