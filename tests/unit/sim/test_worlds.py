"""The four worlds: reproducible, and commands change what is measured next."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError
from atoll_contract.messages import Command
from atoll_link.broker import Broker
from atoll_link.stream_settings import StreamsFile
from atoll_sim.worlds import SCENARIOS, settings
from atoll_sim.worlds.parts import SIDE, Part, draw
from atoll_sim.worlds.replayed import day_of, vibration_by_damage
from atoll_sim.worlds.scenario import LESSON_SEED, Scenario, World, play_alone, play_controlled
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
@pytest.mark.parametrize("number", [0, 4, 9, 10**9])
def test_whoever_is_not_there_is_neither_obeyed_nor_heeded(scenario: Scenario, number: int) -> None:
    world, other = (scenario.build(1) for _ in range(2))
    for kind, name in (("park", "closed"), ("air", "occupied"), ("machine", "service"), ("camera", "divert")):
        is_there = {"park": number == 4, "air": False, "machine": False, "camera": False}[kind]
        if not is_there:
            assert not world.obey(f"{kind}-{number}", name, order(True))
    for model in ("occupancy", "speed", "people", "wear", "look"):
        world.heed("other", model, 1.0)

    assert measured(world, 5) == measured(other, 5)


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


def test_the_clock_of_the_house_is_on_whenever_there_are_meetings() -> None:
    for seed in range(1, 7):
        world = SCENARIOS["rooms"].build(seed)
        people = []
        for _ in range(SCENARIOS["rooms"].steps):
            world.advance()
            people.append(max(one.value for one in world.known()))

        # From 06:00 on; the clock goes from 07:00 to 19:00.
        assert max(people[60:780]) > 0
        assert max(people[:60] + people[780:]) == 0


def test_nobody_is_cold_who_comes_into_a_room_that_stood_by() -> None:
    coldest = 4
    rooms = SCENARIOS["rooms"]
    world = rooms.build(coldest)
    for _ in range(rooms.steps):
        world.advance()
        people = [one.value for one in world.known()][::3]
        for room, count in enumerate(people, start=1):
            world.obey(f"air-{room}", "occupied", order(count > 0))
    alone = play_alone(rooms, coldest).figures()

    assert alone["cold"] == world.figures()["cold"] == 0.0
    assert world.figures()["energy_kwh"] < 0.8 * alone["energy_kwh"]


def test_plain_controls_of_rooms_take_less_than_the_clock_and_keep_the_air_fresh() -> None:
    rooms = SCENARIOS["rooms"]
    alone, controlled = (play(rooms, 4).figures() for play in (play_alone, play_controlled))

    assert controlled["energy_kwh"] < alone["energy_kwh"]
    assert controlled["stale_air"] == controlled["cold"] == 0.0 < alone["stale_air"]


def test_signs_of_car_parks_show_what_is_until_they_are_commanded() -> None:
    own, dark = (SCENARIOS["parking"].build(4) for _ in range(2))
    for number in range(1, 7):
        dark.obey(f"park-{number}", "closed", order(False))
    for _ in range(STEPS):
        own.advance()
        dark.advance()

    assert own.figures()["turned_away"] < dark.figures()["turned_away"] / 2


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
@pytest.mark.parametrize("name", ["traffic", "parking", "line"])
def test_real_recordings_are_replayed(name: str, real_data) -> None:
    drawn, replayed = (SCENARIOS[name].build(1, data) for data in (None, real_data / "data"))

    assert measured(drawn, 200) != measured(replayed, 200)


@pytest.mark.parametrize("count", [7, 8, 30])
def test_no_day_that_is_learnt_from_is_played(count: int) -> None:
    days = list(range(count))
    lessons = {day_of(days, LESSON_SEED + run, "days", is_lesson=True) for run in range(100)}
    plays = [day_of(days, seed, "days", is_lesson=False) for seed in range(count - -(-count // 3))]
    with pytest.raises(ConfigError, match="a seed below that"):
        day_of(days, len(plays), "days", is_lesson=False)

    assert len(set(plays)) == len(plays)
    assert lessons.isdisjoint(plays)
    assert lessons | set(plays) == set(days)


def test_conditions_of_a_bearing_that_are_learnt_from_are_not_played(tmp_path) -> None:
    (tmp_path / "cwru_bearing").mkdir()
    rows = [
        f"{fault},{place}.{number},3.0"
        for place, fault in enumerate(("Normal_1", "Ball_007_1", "IR_014_1", "IR_007_1", "IR_021_1"))
        for number in range(10)
    ]
    file = tmp_path / "cwru_bearing/feature_time_48k_2048_load_1.csv"
    file.write_text("\n".join(["fault,rms,kurtosis", *rows]))
    lessons, plays = (vibration_by_damage(tmp_path, is_lesson=is_lesson) for is_lesson in (True, False))

    for learnt, played in zip(lessons, plays, strict=True):
        assert (len(learnt), len(played)) == (3, 7)
        assert not {row[0] for row in learnt} & {row[0] for row in played}


def test_rooms_have_too_few_days_to_replay(tmp_path) -> None:
    with pytest.raises(ConfigError, match="rooms"):
        SCENARIOS["rooms"].build(1, tmp_path)
