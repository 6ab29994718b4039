"""The course of events where a world is played: record, learn, publish, and the same day twice."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from atoll_contract.messages import SlotStatus
from atoll_link.broker import Broker
from atoll_sim.demo.ports import free_port
from atoll_sim.demo.programs import Programs, command, module, quieten_tensorflow
from atoll_sim.demo.school import School
from atoll_sim.demo.watch import Watch
from atoll_sim.worlds import settings
from atoll_sim.worlds.scenario import AGENT, LESSON_SEED, SITE, Figure, Lesson, Scenario, play_alone

_PROGRAM_S: Final = 1800.0
_FACT_S: Final = 90.0
_LESSON_PACE_S: Final = 0.02
_LESSON_STEPS: Final = 3000


class WorldStory:
    """Plays ``scenario`` in ``folder`` and tells it on ``console``."""

    def __init__(
        self,
        scenario: Scenario,
        folder: Path,
        console: Console,
        programs: Programs,
        *,
        seed: int,
        replay: Path | None,
        has_dashboard: bool = False,
    ) -> None:
        self._scenario = scenario
        self._folder = folder
        self._console = console
        self._programs = programs
        self._seed = seed
        self._replay = replay
        self.port = free_port()
        self._web_port = free_port()
        self._has_dashboard = has_dashboard
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []

    @property
    def dashboard(self) -> str | None:
        """Address of the web page that shows what goes on."""
        return f"http://127.0.0.1:{self._web_port}" if self._has_dashboard else None

    def play(self) -> None:
        """Play all of it; processes go on running until the programs' context is left."""
        self._set_the_stage()
        with Watch(self.port, f"atoll/v1/{SITE}/{AGENT}/+/#") as watch:
            self._programs.start("agent", command("atoll-agent", "run", "--settings", "agent.toml"))
            watch.wait(lambda: watch.status, "the agent's status", _FACT_S, self._programs.require_running)
            self._record()
            for lesson in self._scenario.lessons:
                self._teach(watch, lesson)
        self._play_twice()

    def _set_the_stage(self) -> None:
        quieten_tensorflow()
        for name, text in settings.texts(
            self._scenario, Broker("127.0.0.1", self.port), self._web_port
        ).items():
            (self._folder / name).write_text(text, encoding="utf-8")
        self._say(f"{self._scenario.name}: {self._scenario.title}")
        self._say("1. A broker, a trainer with keys for this demo only, an agent that trusts it")
        self._programs.start("broker", module("atoll_sim.demo.embedded_broker", str(self.port)))
        self._programs.wait_for_port(self.port)
        for name, words in (
            ("init", command("atoll-trainer", "init", "--home", "trainer", "--demo")),
            (
                "enrol",
                command("atoll-agent", "enrol", "--settings", "agent.toml", "--root", "trainer/root.json"),
            ),
        ):
            self._programs.run_quietly(name, words, _PROGRAM_S)
        self._note(f"MQTT broker (amqtt) on 127.0.0.1:{self.port}; files in {self._folder}")
        if self._has_dashboard:
            self._programs.start(
                "dashboard",
                command("atoll-dashboard", "--settings", "dashboard.toml", "--log-level", "warning"),
            )
            self._note(f"watch it: {self.dashboard}")

    def _record(self) -> None:
        steps = min(self._scenario.steps, _LESSON_STEPS)
        self._say(
            f"2. Another day of the world, {steps:,} minutes, in which somebody acts at random, is recorded"
        )
        self._programs.start("record", command("atoll-trainer", "record", "--settings", "trainer.toml"))
        self._wait_for_log("record", "recording.subscribed")
        played = self._world(
            "lesson", LESSON_SEED, "--meddle", "--steps", str(steps), "--pace", str(_LESSON_PACE_S)
        )
        # The broker passes on in order: a recorder that is quiet by now has all of it.
        time.sleep(1.0)
        self._programs.stop("record")
        self._note(
            f"{played['readings']:,} readings, {played['labels']:,} labels in {played['seconds']:.0f} s"
        )
        self.figures["lesson_readings"] = played["readings"]
        self.figures["lesson_seconds"] = played["seconds"]

    def _teach(self, watch: Watch, lesson: Lesson) -> None:
        self._say(f"3. The trainer learns the model {lesson.model!r} and publishes it")
        path, words = School(self._programs, self._folder).bundle(lesson, "trainer/recordings")
        self._note(words)
        self.figures[f"model_{lesson.model}"] = words
        # One day is too short for the gate to judge by: its last hours may hold nothing to forecast.
        self._programs.run(
            "publish",
            command("atoll-trainer", "publish", "--settings", "trainer.toml", path, "--no-gate", "--json"),
            _PROGRAM_S,
        )

        def champion() -> SlotStatus | None:
            slot = watch.slot(lesson.model)
            return slot if slot is not None and slot.champion is not None else None

        slot = watch.wait(
            champion, f"model {lesson.model} as champion", _FACT_S, self._programs.require_running
        )
        if slot.champion is not None:
            self._note(f"agent: verified, self-tested, answers on {slot.champion.backend}")

    def _play_twice(self) -> None:
        self._say("4. The same day twice: once nobody acts, once the agent's rules do")
        without = play_alone(self._scenario, self._seed, self._replay).figures()
        played = self._world("world", self._seed, "--wait", "--pace", "0.001")
        with_: dict[str, float] = played["figures"]
        self._note(
            f"{played['steps']:,} minutes in {played['seconds']:.0f} s: {played['readings']:,} readings, "
            f"{played['predictions']:,} predictions, {played['commands']:,} commands obeyed"
        )
        self.figures |= {
            name: played[name]
            for name in ("steps", "readings", "predictions", "unanswered", "commands", "lost", "seconds")
        }
        self.figures["without"], self.figures["with"] = without, with_
        self._console.print()
        self._console.print(_table(self._scenario.meanings, without, with_))
        self._require("every reading that was waited for was answered", holds=not played["unanswered"])
        self._require("nothing is lost", holds=not played["lost"])
        self._require("no command was refused", holds=not played["refused"])
        first = self._scenario.meanings[0]
        self._require(
            f"with atoll it is less: {first.meaning}", holds=with_[first.name] < without[first.name]
        )

    def _world(self, name: str, seed: int, *options: str) -> dict[str, Any]:
        replay = () if self._replay is None else ("--replay", str(self._replay.absolute()))
        words = command(
            "atoll-sim",
            *("scenario", self._scenario.name, "--broker", f"mqtt://127.0.0.1:{self.port}"),
            *("--seed", str(seed), "--json", *options, *replay),
        )
        self._programs.require_running()
        return self._programs.run(name, words, _PROGRAM_S)

    def _wait_for_log(self, name: str, event: str) -> None:
        deadline = time.monotonic() + _FACT_S
        while event not in self._programs.log(name).read_text(errors="replace"):
            self._programs.require_running()
            if time.monotonic() > deadline:
                self._require(f"{name} says {event}", holds=False)
                return
            time.sleep(0.1)

    def _require(self, claim: str, *, holds: bool) -> None:
        if not holds:
            self.failures.append(claim)

    def _say(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/bold]")

    def _note(self, text: str) -> None:
        self._console.print(f"   {text}", markup=False, highlight=False)


def _table(meanings: Any, without: dict[str, float], with_: dict[str, float]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 3))
    for heading in ("without", "with atoll", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for figure in meanings:
        better = _is_better(figure, without[figure.name], with_[figure.name])
        colour = {True: "green", False: "red", None: "white"}[better]
        table.add_row(
            f"{without[figure.name]:,.1f}",
            f"[{colour}]{with_[figure.name]:,.1f}[/{colour}]",
            f"{figure.unit} {figure.meaning}".strip(),
        )
    return table


def _is_better(figure: Figure, without: float, with_: float) -> bool | None:
    if figure.is_better_lower is None or without == with_:
        return None
    return (with_ < without) is figure.is_better_lower
