"""What a world is to those who play it: steps, readings, labels, commands, figures. Pure.

A world lives in steps of virtual time. In each it moves on, then its sensors are read, and what they
say may bring commands, which it obeys before the next step: so decisions change what is measured next.
The same seed and the same commands give the same world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from numpy.random import Generator

from atoll_contract.messages import Command
from atoll_contract.topics import ReadingTopic

SITE: Final = "world"
"""Site of all worlds."""

AGENT: Final = "agent"
"""Whose commands and predictions the worlds heed."""

LESSON_SEED: Final = 1000
"""From here on worlds are learnt from; those that are played have lower seeds."""


@dataclass(frozen=True, slots=True)
class Sensed:
    """What one device measures in one step.

    Attributes:
        device: Its id.
        stream: Id of the stream.
        values: By name; empty for a camera.
        picture: What a camera sees: a PNG file.
    """

    device: str
    stream: str
    values: Mapping[str, float] = field(default_factory=dict)
    picture: bytes | None = None

    @property
    def topic(self) -> str:
        """Where it is published."""
        if self.picture is None:
            return str(ReadingTopic(SITE, self.device, self.stream))
        return f"cameras/{self.device}/{self.stream}"


@dataclass(frozen=True, slots=True)
class Known:
    """The truth about what a device measured in this step.

    Attributes:
        device: The device.
        model: The model that can learn from it.
        stream: Stream of the reading.
        value: The truth.
    """

    device: str
    model: str
    stream: str
    value: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a run.

    Attributes:
        name: As a key.
        unit: Of the number.
        meaning: For people.
        is_better_lower: Whether less is better; None: neither.
    """

    name: str
    unit: str
    meaning: str
    is_better_lower: bool | None = True


class World(Protocol):
    """A world at work; those that are played inherit from it."""

    def advance(self) -> None:
        """Let one step of time pass."""

    def sensed(self) -> Sequence[Sensed]:
        """Read all sensors, once per step."""

    def known(self) -> Sequence[Known]:
        """Return the truths about the readings of this step."""
        return ()

    def obey(self, device: str, name: str, command: Command) -> bool:
        """Do what a device is told; False: it knows no such command."""

    def heed(self, device: str, model: str, value: float) -> None:
        """Take note of a prediction, where somebody in the world listens to them."""

    def control(self, sensed: Sequence[Sensed]) -> None:
        """Act on what is measured, as plain controls do that neither learn nor forecast."""

    def meddle(self, chance: Generator) -> None:
        """Now and then do something at random, so that what commands do can be learnt."""

    def figures(self) -> dict[str, float]:
        """Return what came of it so far."""


class Builder(Protocol):
    """Makes a world."""

    def __call__(self, seed: int, data: Path | None = None, *, is_lesson: bool = False) -> World:
        """Return the world of ``seed`` at its beginning.

        Args:
            seed: Same seed, same world.
            data: A folder of real recordings to replay.
            is_lesson: Whether it is to be learnt from: what is replayed then is never played otherwise.

        Raises:
            ConfigError: The data cannot be read, or have nothing for this world or seed.
        """


def task_text(table: str, window: str, epochs: int) -> str:
    """Return a task file: ``[task]`` and ``[window]`` as given, one fit, and no trial before it answers."""
    return f"""\
[task]
{table}
[window]
{window}
[fit]
learning_rate = 0.02
epochs = {epochs}
[pass]
shadow_windows = 0
probation_windows = 0
"""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One model that is learnt from the world.

    Attributes:
        model: Its id.
        task: The task file; None: a picture classifier.
        labels: Of a picture classifier.
        stream: Of a picture classifier: its stream.
    """

    model: str
    task: str | None = None
    labels: tuple[str, ...] = ()
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of world with all that atoll needs to act in it.

    Attributes:
        name: Its name.
        title: One sentence for people.
        build: Makes the world.
        step_s: Seconds of the world per step.
        steps: Steps of one run.
        lesson_steps: Steps that are enough to learn from.
        streams: The ``[[stream]]`` tables.
        models: The ``[[model]]`` and ``[[rule]]`` tables of the agent.
        lessons: What is learnt.
        meanings: Of the figures, in order.
        controls: What plain controls go by; empty: the world has none.
    """

    name: str
    title: str
    build: Builder
    step_s: float
    steps: int
    lesson_steps: int
    streams: str
    models: str
    lessons: Sequence[Lesson]
    meanings: Sequence[Figure]
    controls: str = ""


def play_alone(scenario: Scenario, seed: int, data: Path | None = None, steps: int | None = None) -> World:
    """Return the world after a whole run in which nobody acts on it."""
    world = scenario.build(seed, data)
    for _ in range(scenario.steps if steps is None else steps):
        world.advance()
    return world


def play_controlled(scenario: Scenario, seed: int, data: Path | None = None) -> World:
    """Return the world after a whole run of its plain controls."""
    world = scenario.build(seed, data)
    for _ in range(scenario.steps):
        world.advance()
        world.control(world.sensed())
    return world
