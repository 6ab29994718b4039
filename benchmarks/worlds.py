"""The four worlds with and without atoll, over the same seeds: `make bench-worlds`.

Each model is trained by `atoll-trainer` on a recording of its world, in which somebody acts at random;
its bundle answers in the agent's own lane, whose rules command the world: all in one process and at the
world's own times, so that hours pass in seconds. What differs from a real site: no broker in between, and
a command is obeyed before the next step. Seeds, and of recordings days, to learn from are not among those
that are played.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll_agent.rehearsal import Outcome, Rehearsal, Tape, Told
from atoll_agent.settings import AgentSettings
from atoll_contract.bundle import Bundle
from atoll_contract.errors import Reason
from atoll_contract.messages import Command, Label, Reading, decode_prediction, encode_reading
from atoll_contract.topics import PREFIX, CommandTopic, LabelTopic, PredictionTopic
from atoll_infer import golden
from atoll_infer.predictor import Answer, Predictor
from atoll_infer.runtime import choose_runtime
from atoll_link import logs
from atoll_link.broker import Broker
from atoll_link.recording import Kind, Recording, Row
from atoll_sim.demo.programs import Programs, quieten_tensorflow
from atoll_sim.demo.school import School
from atoll_sim.worlds import SCENARIOS, settings
from atoll_sim.worlds.scenario import (
    LESSON_SEED,
    SITE,
    Scenario,
    Sensed,
    World,
    play_alone,
    play_controlled,
)

START_MS = 1_790_000_000_000.0
NIGHT_STEPS = 300
"""Between two days that are learnt from: no window spans them."""
SEEDS = (1, 2, 3, 4, 5, 6)


class Heard(Tape):
    """What the agent publishes, for the world to heed."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.said: list[tuple[str, str, float]] = []

    def publish(self, topic: str, payload: bytes, *, qos: int) -> int | None:
        if topic.startswith(PREFIX) and "/prediction/" in topic:
            named = PredictionTopic.parse(topic)
            self.said.append((named.device, named.model, decode_prediction(payload).value))
        return super().publish(topic, payload, qos=qos)


class Present(Predictor):
    """Says that all stays as it is: the same rules on what is measured now, instead of a forecast."""

    def answers(self, windows: NDArray[np.float32]) -> list[Answer | Reason]:
        return [Answer(float(window[-1, 0]), None, ()) for window in windows]


def row_of(sensed: Sensed, arrival_ms: float, number: int) -> Row:
    """Return the message that tells what a device measured."""
    payload, time_ms = sensed.picture, None
    if payload is None:
        time_ms = arrival_ms
        payload = encode_reading(Reading(values=dict(sensed.values), time_ms=time_ms, seq=number, boot="b"))
    return Row(arrival_ms, time_ms, Kind.READING, sensed.stream, sensed.device, sensed.topic, payload, 1)


def lesson_rows(scenario: Scenario, data: Path | None) -> Iterator[Row]:
    """Yield what a recorder would have recorded while somebody acts at random."""
    runs = max(1, scenario.lesson_steps // scenario.steps)
    number = 0
    for run in range(runs):
        world = scenario.build(LESSON_SEED + run, data, is_lesson=True)
        chance = np.random.default_rng(LESSON_SEED + run)
        number += NIGHT_STEPS
        for _ in range(scenario.steps):
            number += 1
            at_ms = START_MS + 1e3 * scenario.step_s * number
            world.advance()
            world.meddle(chance)
            for sensed in world.sensed():
                yield row_of(sensed, at_ms, number)
            for known in world.known():
                label = Label(value=known.value, start_ms=at_ms, end_ms=at_ms + 1.0, stream=known.stream)
                topic = str(LabelTopic(SITE, known.device, known.device, known.model))
                payload = label.encode()
                yield Row(at_ms, at_ms, Kind.LABEL, known.model, known.device, topic, payload, 1)


def learn(scenario: Scenario, folder: Path, data: Path | None) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the bundle of each model, and how good it is, in words."""
    for name, text in settings.texts(scenario, Broker()).items():
        (folder / name).write_text(text, encoding="utf-8")
    with Recording(folder / "recordings") as recording:
        for row in lesson_rows(scenario, data):
            recording.append(row, time.monotonic())
    bundles, words = {}, {}
    with Programs(folder) as programs:
        school = School(programs, folder)
        for lesson in scenario.lessons:
            bundles[lesson.model], words[lesson.model] = school.bundle(lesson, "recordings")
    return bundles, words


def play(
    scenario: Scenario,
    folder: Path,
    bundles: dict[str, Path],
    seed: int,
    data: Path | None,
    kind: type[Predictor],
) -> World:
    """Return the world after a whole run in which the agent acts."""
    runtime = choose_runtime().runtime
    predictors = {}
    for model, path in bundles.items():
        bundle = Bundle.unpack(path.read_bytes())
        golden.self_test(bundle, runtime)
        predictors[model] = kind(bundle.manifest, runtime.load(bundle.model))
    tapes: list[Heard] = []

    class Noted(Heard):
        def __init__(self, outcome: Outcome) -> None:
            super().__init__(outcome)
            tapes.append(self)

    rehearsal = Rehearsal(AgentSettings.read(folder / "agent.toml"), predictors, tape=Noted)
    world = scenario.build(seed, data)
    for number in range(1, scenario.steps + 1):
        world.advance()
        at_ms = START_MS + 1e3 * scenario.step_s * number
        for sensed in world.sensed():
            rehearsal.play(row_of(sensed, at_ms, number))
        for tape in tapes:
            for device, model, value in tape.said:
                world.heed(device, model, value)
            tape.said.clear()
        obey(world, rehearsal.outcome.told)
    outcome = rehearsal.finish()
    if outcome.refusals:
        raise AssertionError(f"the lane refused readings: {outcome.refusals} {outcome.last_refusal}")
    return world


def obey(world: World, told: list[Told]) -> None:
    """Let the world do what it was told."""
    for one in told:
        if one.decision is None:
            address = CommandTopic.parse(one.topic)
            if not world.obey(address.device, address.name, Command.decode(one.payload)):
                raise AssertionError(f"nobody obeys {one.topic}")
    told.clear()


def compare(scenario: Scenario, seeds: list[int], data: Path | None) -> dict[str, Any]:
    """Return the figures of one scenario."""
    with tempfile.TemporaryDirectory(prefix="atoll-world-") as name:
        folder = Path(name)
        bundles, words = learn(scenario, folder, data)
        ways: dict[str, type[Predictor]] = {"with": Predictor}
        if all(lesson.task is not None and 'kind = "forecast"' in lesson.task for lesson in scenario.lessons):
            ways["present"] = Present
        controls = ["controls"] if scenario.controls else []
        runs: dict[str, list[dict[str, float]]] = {way: [] for way in ("without", *controls, *ways)}
        for seed in seeds:
            runs["without"].append(play_alone(scenario, seed, data).figures())
            if controls:
                runs["controls"].append(play_controlled(scenario, seed, data).figures())
            for way, kind in ways.items():
                runs[way].append(play(scenario, folder, bundles, seed, data, kind).figures())
    return {"models": words, "seeds": seeds, "runs": runs, "figures": summary(scenario, runs)}


def summary(scenario: Scenario, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation of each figure, and on how many seeds atoll is better than what."""
    found = []
    for figure in scenario.meanings:
        numbers = {way: [run[figure.name] for run in each] for way, each in runs.items()}
        better = {}
        for way in numbers.keys() - {"with"} if figure.is_better_lower is not None else ():
            pairs = zip(numbers[way], numbers["with"], strict=True)
            better[way] = sum((b < a) if figure.is_better_lower else (b > a) for a, b in pairs)
        means = {
            way: [statistics.mean(each), statistics.stdev(each) if len(each) > 1 else 0.0]
            for way, each in numbers.items()
        }
        told = {"name": figure.name, "unit": figure.unit, "meaning": figure.meaning, "better": better}
        found.append(told | means)
    return found


def shown(name: str, result: dict[str, Any]) -> str:
    """Return the table of one scenario, as Markdown."""
    count = len(result["seeds"])
    controls = SCENARIOS[name].controls
    ways = {
        "without": "without",
        "controls": controls,
        "present": "same rules, no forecast",
        "with": "with atoll",
    }
    ways = {way: title for way, title in ways.items() if way in result["runs"]}
    than = {"without": "without", "controls": controls, "present": "no forecast"}
    than = {way: title for way, title in than.items() if way in ways}
    heads = [f"{name}: {count} seeds", *ways.values(), *(f"better than {title}" for title in than.values())]
    lines = [
        f"| {' | '.join(heads)} |",
        "|---|" + "---|" * (len(ways) + len(than)),
    ]
    for figure in result["figures"]:
        cells = [f"{figure[way][0]:,.1f} ± {figure[way][1]:,.1f}" for way in ways]
        better = [f"{figure['better'][way]} of {count}" if figure["better"] else "" for way in than]
        unit = f", {figure['unit']}" if figure["unit"] else ""
        lines.append(f"| {figure['meaning']}{unit} | {' | '.join([*cells, *better])} |")
    lines += ["", *(f"Model `{model}`: {words}." for model, words in result["models"].items())]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="comma-separated")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="comma-separated")
    parser.add_argument("--replay", type=Path, help="a folder of real recordings to replay")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    arguments = parser.parse_args()
    logs.configure("error")
    quieten_tensorflow()
    results = {}
    names, seeds = arguments.scenarios.split(","), [int(seed) for seed in arguments.seeds.split(",")]
    if len(seeds) < 2:
        parser.error("--seeds: the figures are spreads, which takes two of them")
    for name in names:
        for seed in seeds:
            SCENARIOS[name].build(seed, arguments.replay)  # what cannot be replayed is told at once
    for name in names:
        began = time.monotonic()
        results[name] = compare(SCENARIOS[name], seeds, arguments.replay)
        print(shown(name, results[name]), end="\n\n", flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
