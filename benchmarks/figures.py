"""A result, asked for medians and for ratios within a round."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from cases import BASE
from systems import YARDSTICK

NONE = "-"
"""Stands for a figure that was not measured."""


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, found: list[float]) -> Spread | None:
        """Return the spread of ``found``; None if there is nothing."""
        return cls(median(found), min(found), max(found)) if found else None

    def shown(self, digits: int) -> str:
        """Return it for people: the median alone if all rounds gave the same."""
        texts = [f"{value:,.{digits}f}" for value in (self.median, self.low, self.high)]
        return texts[0] if texts[1] == texts[2] else f"{texts[0]}, {texts[1]} to {texts[2]}"


class Figures:
    """The runs of a result. A key may lead into a table: ``loaded.rss_mb``."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.machine: dict[str, Any] = result["machine"]
        self.is_quick: bool = result["quick"]
        self.failed = [run for run in result["runs"] if "error" in run]
        self.runs = [run for run in result["runs"] if "error" not in run]
        self.rounds = max((run["round"] for run in result["runs"]), default=0)

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Return the result in ``path``."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def systems(self) -> list[str]:
        """Return the systems in it."""
        return list({run["system"] for run in self.runs})

    def spread(self, system: str, case: str | None, key: str) -> Spread | None:
        """Return what the rounds gave; ``case`` None: those of all cases of the group ``base``."""
        cases = [each.name for each in BASE] if case is None else [case]
        return Spread.of([value for each in cases for value in self._by_round(system, each, key).values()])

    def middle(self, system: str, case: str | None, key: str) -> float | None:
        """Return the median of the rounds."""
        found = self.spread(system, case, key)
        return None if found is None else found.median

    def ratio(
        self, system: str, case: str, key: str, *, to: str = YARDSTICK, to_case: str = ""
    ) -> Spread | None:
        """Return the spread of the ratios to ``to`` in the same round."""
        own = self._by_round(system, case, key)
        theirs = self._by_round(to, to_case or case, key)
        return Spread.of([own[number] / theirs[number] for number in own if theirs.get(number)])

    def total(self, key: str, system: str, *, is_killed: bool = False) -> int:
        """Return the sum over all runs of a system: of those without kills, or of those with."""
        chosen = [run for run in self.runs if run["system"] == system and ("kills" in run) == is_killed]
        return sum(run.get(key, 0) for run in chosen)

    def _by_round(self, system: str, case: str, key: str) -> dict[int, float]:
        found = {}
        for run in self.runs:
            if (run["system"], run["case"]) == (system, case):
                value: Any = run
                for part in key.split("."):
                    value = value.get(part) if value is not None else None
                if value is not None:
                    found[run["round"]] = float(value)
        return found
