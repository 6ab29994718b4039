"""What is in a CSV file, found out before its first row is published."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_link.csv_columns import Row, RowReader
from atoll_link.csv_file import Line
from atoll_signal.order import StepBack, steps_back
from atoll_sim.pace import Pace

MAX_NAMED: Final = 20
"""Most rows that are named one by one."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row that cannot be read.

    Attributes:
        line: Its line in the file.
        reason: Code of why.
        detail: For people.
    """

    line: int
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class DeviceStepBack:
    """A step back in the time of one device; ``step.row`` is a line of the file."""

    device: str
    step: StepBack


@dataclass(slots=True)
class Survey:
    """What is in a file.

    Attributes:
        rows: Rows, readable or not.
        readings: Rows that make a reading.
        labels: Rows that have a label.
        skipped: Rows that cannot be read, by reason.
        refusals: The first of them.
        steps_back: Where the time of a device steps back, device by device.
        span_s: How long a replay at the file's own speed takes.
    """

    rows: int = 0
    readings: int = 0
    labels: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refusals: list[Refusal] = field(default_factory=list)
    steps_back: list[DeviceStepBack] = field(default_factory=list)
    span_s: float = 0.0


@dataclass(slots=True)
class _Times:
    """The event times of one device, in file order, 12 bytes each."""

    times_ms: array[float] = field(default_factory=lambda: array("d"))
    lines: array[int] = field(default_factory=lambda: array("I"))

    def steps_back(self) -> Iterator[StepBack]:
        for step in steps_back(self.times_ms, first_row=0):
            yield replace(step, row=self.lines[step.row])


def readable(lines: Iterable[Line], reader: RowReader) -> Iterator[Row | Refusal]:
    """Yield each of ``lines`` as what it says, or as why it cannot be read."""
    for line in lines:
        try:
            yield reader.read(line.number, line.cells)
        except MalformedMessageError as error:
            yield Refusal(line.number, error.reason, error.detail)


def survey(rows: Iterable[Row | Refusal]) -> Survey:
    """Return what is in ``rows``."""
    found = Survey()
    devices: dict[str, _Times] = {}
    pace = Pace(1.0)
    for row in rows:
        found.rows += 1
        if isinstance(row, Refusal):
            found.skipped[row.reason] += 1
            if len(found.refusals) < MAX_NAMED:
                found.refusals.append(row)
            continue
        found.readings += 1
        found.labels += row.label is not None
        found.span_s = pace.due_s(row.time_ms)
        times = devices.setdefault(row.device, _Times())
        times.times_ms.append(row.time_ms)
        times.lines.append(row.line)
    found.steps_back = [
        DeviceStepBack(device, step) for device, times in devices.items() for step in times.steps_back()
    ]
    return found
