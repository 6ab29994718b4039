"""What atoll is held to, and what a result says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cases import CASES
from figures import Figures, Spread

Find = Callable[[Figures], Spread | None]


@dataclass(frozen=True)
class Target:
    """One figure that is demanded.

    Attributes:
        text: For people.
        find: Where it stands in a result.
        bound: What is demanded.
        is_most: Whether ``bound`` is the most, not the least.
    """

    text: str
    find: Find
    bound: float
    is_most: bool = False

    def is_met(self, found: Spread) -> bool:
        """Whether the median keeps to the bound."""
        return found.median <= self.bound if self.is_most else found.median >= self.bound


def _own(case: str | None, key: str) -> Find:
    return lambda figures: figures.spread("atoll", case, key)


def _to_echo(case: str, key: str) -> Find:
    return lambda figures: figures.ratio("atoll", case, key)


def _to_base(case: str, key: str) -> Find:
    return lambda figures: figures.ratio("atoll", case, key, to="atoll", to_case=CASES[case].base)


def _after_kills(key: str) -> Find:
    def find(figures: Figures) -> Spread | None:
        has_kills = figures.spread("atoll", "kills", "kills") is not None
        return Spread.of([float(figures.total(key, "atoll", is_killed=True))] if has_kills else [])

    return find


def _times_fewer_cpu(case: str, other: str) -> Find:
    return lambda figures: figures.ratio(other, case, "system_cpu_us", to="atoll")


TARGETS = (
    Target("readings/s at QoS 0, ratio to the C echo", _to_echo("qos0", "answers_per_s"), 1.0),
    Target(
        "readings/s at QoS 1, 20 in flight, ratio to the C echo", _to_echo("qos1-20", "answers_per_s"), 0.7
    ),
    Target("readings/s at QoS 1, no limit, ratio to the C echo", _to_echo("qos1-off", "answers_per_s"), 0.7),
    Target(
        "p99 at 1,000 readings/s, ratio to the C echo", _to_echo("rate-1000", "p99_ms"), 1.5, is_most=True
    ),
    Target(
        "p99 at 5,000 readings/s, ratio to the C echo", _to_echo("rate-5000", "p99_ms"), 1.5, is_most=True
    ),
    Target("CPU per reading at QoS 0, µs", _own("qos0", "system_cpu_us"), 20, is_most=True),
    Target("CPU per reading at QoS 1, 20 in flight, µs", _own("qos1-20", "system_cpu_us"), 40, is_most=True),
    Target("CPU per reading at QoS 1, no limit, µs", _own("qos1-off", "system_cpu_us"), 40, is_most=True),
    Target("resident memory under load, MB", _own("qos0", "loaded.rss_mb"), 65, is_most=True),
    Target("start to first prediction, ms", _own(None, "start_ms"), 500, is_most=True),
    Target("own limit at QoS 0, readings/s", _own("stub-qos0", "answers_per_s"), 80_000),
    Target("own limit at QoS 1, readings/s", _own("stub-qos1", "answers_per_s"), 50_000),
    Target(
        "readings per CPU second at QoS 0, times the plain script's", _times_fewer_cpu("qos0", "plain"), 3
    ),
    Target("readings per CPU second at QoS 0, times gmqtt's", _times_fewer_cpu("qos0", "gmqtt"), 3),
    Target(
        "readings per CPU second at QoS 1, times the plain script's", _times_fewer_cpu("qos1-off", "plain"), 2
    ),
    Target("readings per CPU second at QoS 1, times gmqtt's", _times_fewer_cpu("qos1-off", "gmqtt"), 2),
    Target(
        "p99 at 1,000 readings/s while a release of 5 MB is swapped in, times that without",
        _to_base("release", "p99_ms"),
        2,
        is_most=True,
    ),
    Target("readings without prediction after all kills", _after_kills("lost"), 0, is_most=True),
)
