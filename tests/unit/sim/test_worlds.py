"""The four worlds: reproducible, and commands change what is measured next."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from atoll_agent.settings import AgentSettings
from atoll_contract.messages import Command
from atoll_link.broker import Broker
from atoll_link.stream_settings import StreamsFile
from atoll_sim.worlds import SCENARIOS, settings
from atoll_sim.worlds.parts import SIDE, Part, draw
from atoll_sim.worlds.scenario import Scenario, World, play_alone
from atoll_trainer.task import TaskFile

EVERY = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
STEPS = 240


def order(value: object) -> Command:
    return Command(expires_ms=1.0, value=value)  # type: ignore[arg-type]


def measured(world: World, steps: int) -> list[object]:
    found: list[object] = []
    for _ in range(steps):
        world.advance()
        found.append([(one.device, dict(one.values), one.picture) for one in world.sensed()])
    return found


@EVERY
def test_the_same_seed_gives_the_same_world_and_another_one_another(scenario: Scenario) -> None:
    first, again, other = (measured(scenario.build(seed), 30) for seed in (1, 1, 2))

    assert first == again
    assert first != other


@EVERY
def test_its_readings_have_the_values_of_its_streams(scenario: Scenario) -> None:
    streams = {
        table.name: table for table in StreamsFile.model_validate(tomllib.loads(scenario.streams)).stream
    }
    world = scenario.build(1)
    world.advance()

    for one in world.sensed():
        if one.picture is None:
            assert one.values.keys() == streams[one.stream].values.keys()
        stream = streams[one.stream].build("world")
        assert stream.device(one.topic) == one.device


@EVERY
def test_its_settings_are_those_that_agent_and_trainer_read(scenario: Scenario, tmp_path) -> None:
    for name, text in settings.texts(scenario, Broker()).items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    models = [model.name for model in AgentSettings.read(tmp_path / "agent.toml").model]
    assert models == [lesson.model for lesson in scenario.lessons]
    for lesson in scenario.lessons:
        if lesson.task is not None:
            assert TaskFile.read(tmp_path / f"{lesson.model}.toml").task.model == lesson.model


@EVERY
def test_every_command_of_its_rules_is_obeyed(scenario: Scenario) -> None:
    rules = tomllib.loads(scenario.models)["rule"]
    world = scenario.build(1)
    world.advance()
    first = {one.stream: one.device for one in world.sensed()}
    streams = {model["name"]: model["stream"] for model in tomllib.loads(scenario.models)["model"]}

    for rule in rules:
        for command in rule["command"]:
            device = command.get("device", first[streams[rule["model"]]])
            assert world.obey(device, command["name"], order(command["value"])), command


@EVERY
def test_what_nobody_knows_is_not_obeyed(scenario: Scenario) -> None:
    world = scenario.build(1)

    assert not world.obey("nobody-1", "dance", order(True))
    assert not world.obey("sign-1", "divert", order("soon"))


@EVERY
def test_its_figures_are_those_that_it_explains(scenario: Scenario) -> None:
    figures = play_alone(scenario, 1, steps=STEPS).figures()

    assert list(figures) == [figure.name for figure in scenario.meanings]
    assert all(np.isfinite(list(figures.values())))


def test_cars_that_are_diverted_are_counted_on_the_other_road() -> None:
    def flows(world: World, road: str) -> float:
        total = 0.0
        for _ in range(60):
            world.advance()
            total += sum(one.values["flow"] for one in world.sensed() if one.device == f"{road}-1")
        return total

    usual, diverted = (SCENARIOS["traffic"].build(1) for _ in range(2))
    diverted.obey("sign-1", "divert", order(True))

    assert flows(diverted, "south") > 1.5 * flows(usual, "south")


def test_ventilation_clears_the_air() -> None:
    idle, aired = (SCENARIOS["rooms"].build(1) for _ in range(2))
    for room in (1, 2, 3):
        idle.obey(f"air-{room}", "occupied", order(False))
        aired.obey(f"air-{room}", "occupied", order(True))

    def ppm(world: World) -> float:
        for _ in range(500):
            world.advance()
        return float(np.mean([one.values["co2"] for one in world.sensed()]))

    assert ppm(aired) < ppm(idle) - 100


def test_a_machine_that_is_serviced_does_not_break() -> None:
    alone, served = (SCENARIOS["line"].build(2) for _ in range(2))
    for number in range(2000):
        for world in (alone, served):
            world.advance()
        if number % 200 == 0:
            for machine in (1, 2, 3):
                served.obey(f"machine-{machine}", "service", order(True))

    assert served.figures()["breakdowns"] == 0
    assert alone.figures()["breakdowns"] > 0


def test_the_coordinator_advises_only_while_predictions_arrive() -> None:
    world = SCENARIOS["parking"].build(1)
    for _ in range(120):
        for park in range(1, 7):
            # The parks in the middle will be full, says somebody; nobody is sent there.
            world.heed(f"park-{park}", "occupancy", 100.0 if park <= 2 else 10.0)
        world.advance()
    full = {one.device: one.values["occupied"] for one in world.sensed()}
    for _ in range(30):
        world.advance()
    later = {one.device: one.values["occupied"] for one in world.sensed()}

    assert full["park-1"] <= 1.0
    assert later["park-1"] > 5.0


@pytest.mark.parametrize("part", Part)
def test_parts_are_drawn_and_never_twice_the_same(part: Part) -> None:
    chance = np.random.default_rng(1)
    first, second = draw(part, chance), draw(part, chance)

    assert first.shape == (SIDE, SIDE)
    assert (first != second).any()


@pytest.mark.real_data
@EVERY
def test_real_recordings_are_replayed(scenario: Scenario, real_data) -> None:
    drawn, replayed = (scenario.build(1, data) for data in (None, real_data / "data"))

    assert measured(drawn, 200) != measured(replayed, 200)
