"""Windows of equal steps, made of readings that come at any time.

Step k ends at ``k * step_ms`` since the epoch and stands for the time since the step before. It is
closed as soon as the device's readings have passed its end by ``lateness_ms``; where a reading stands
on the end itself, as soon as every value has been seen there. Where steps are ``linear`` the reading
after is awaited, until it would be too far away. A reading that comes after its step was
closed is late: it is counted, changes nothing, and the next window says so.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from atoll_contract.manifest import Imputation, Resampling, WindowKind, WindowSpec
from atoll_signal.cut import SET_BACK_AFTER, Cut
from atoll_signal.devices import Devices
from atoll_signal.season import Season
from atoll_signal.window import Window, WindowState

_NEVER: Final = -math.inf


class Span(msgspec.Struct, array_like=True):
    """The readings of one value in one step."""

    first_ms: float
    first: float
    last_ms: float
    last: float
    total: float
    count: int

    def add(self, number: float, time_ms: float) -> None:
        """Take in one more; of two at the same time the one that comes later counts as later."""
        if time_ms >= self.last_ms:
            self.last_ms, self.last = time_ms, number
        if time_ms < self.first_ms:
            self.first_ms, self.first = time_ms, number
        self.total += number
        self.count += 1


class Steps(msgspec.Struct):
    """The open steps of one device.

    Attributes:
        next_step: The first that is not closed.
        newest_ms: Time of the newest reading of each value.
        known: Time and number of each value's latest reading in a closed step.
        open: By step, the readings of each value.
        imputed_left: After how many more steps the last imputed one has left the window.
        late_in_a_row: Readings that came too late since the last that did not.
        is_late_untold: Whether the next window says so.
    """

    next_step: int
    newest_ms: list[float]
    known: list[tuple[float, float] | None]
    open: dict[int, list[Span | None]] = {}
    imputed_left: int = 0
    late_in_a_row: int = 0
    is_late_untold: bool = False


class GridState(msgspec.Struct):
    """What survives a restart, of one device."""

    steps: Steps
    window: WindowState


class GridWindows:
    """The windows of one model, by device.

    Args:
        spec: With ``resample``.
        depth: Steps that are kept: those of a window, and those that lags go back to.
        fills: What stands for a missing number of each value, where ``impute`` is ``mean``.
        season: Calendar columns behind the numbers.
        max_devices: For how many devices windows are kept.
        has_restarted: Whether predictions are missing before the first window of a device.
        on_step: Called with the number and the row of every step that is made, if given.
    """

    def __init__(
        self,
        spec: WindowSpec,
        depth: int,
        fills: Sequence[float | None],
        season: Season,
        *,
        max_devices: int,
        has_restarted: bool = False,
        on_step: Callable[[int, bytes], None] | None = None,
    ) -> None:
        if spec.step_ms is None or spec.max_gap_ms is None or spec.resample is None:
            raise ValueError("steps need step_ms, max_gap_ms and resample")
        self.late = 0
        """How many readings came too late."""
        self.skipped = 0
        """How many tumbling windows were completed together with a newer one, and not returned."""
        self._spec = spec.model_copy(update={"length": depth, "max_gap_ms": None})
        self._step_ms, self._max_gap_ms, self._resample = spec.step_ms, spec.max_gap_ms, spec.resample
        self._gap_steps = math.ceil(spec.max_gap_ms / spec.step_ms)
        self._lateness_ms = spec.lateness_ms or 0.0
        self._impute = spec.impute
        self._length = spec.length
        self._is_tumbling = spec.kind is WindowKind.TUMBLING
        self._depth = depth
        self._fills = fills
        self._season = season
        self._width = len(fills) + len(season.kinds)
        self._pack = struct.Struct(f"={self._width}f").pack
        self._devices: Devices[tuple[Steps, Window]] = Devices(max_devices)
        self._has_restarted = has_restarted
        self._on_step = on_step

    @property
    def forgotten(self) -> int:
        """How many devices were forgotten to make room."""
        return self._devices.forgotten

    def limit(self, max_devices: int) -> None:
        """Keep windows for so many devices at the most; those that go are forgotten as others come."""
        self._devices.most = max_devices

    def push(self, device: str, numbers: Sequence[float], time_ms: float) -> Cut | None:
        """Take in a reading, NaN for what it lacks; return the newest window that it completes."""
        step = math.ceil(time_ms / self._step_ms)
        found = self._devices.get(device)
        if found is None:
            found = self._begin(device, step, has_restarted=self._has_restarted or self.forgotten > 0)
        steps, window = found
        if step < steps.next_step:
            self.late += 1
            steps.late_in_a_row += 1
            steps.is_late_untold = True
            if steps.late_in_a_row < SET_BACK_AFTER:
                return None
            steps, window = self._begin(device, step, has_restarted=True)
        steps.late_in_a_row = 0
        spans = steps.open.get(step)
        if spans is None:
            spans = steps.open[step] = [None] * len(numbers)
        for place, number in enumerate(numbers):
            if number != number:  # noqa: PLR0124 - NaN, twenty times faster than math.isnan in this loop
                continue
            span = spans[place]
            if span is None:
                spans[place] = Span(time_ms, number, time_ms, number, number, 1)
            else:
                span.add(number, time_ms)
            steps.newest_ms[place] = max(time_ms, steps.newest_ms[place])
        return self._close_due(steps, window)

    def adopt(self, other: GridWindows) -> bool:
        """Begin where ``other`` stands, if both make the same steps; return whether they do."""
        mine, theirs = ((one._step_ms, one._resample, one._width) for one in (self, other))  # noqa: SLF001
        if mine != theirs:
            return False
        self.restore(other.state())
        return True

    def state(self) -> dict[str, GridState]:
        """Return what survives a restart."""
        return {
            device: GridState(
                msgspec.msgpack.decode(msgspec.msgpack.encode(steps), type=Steps), window.state()
            )
            for device, (steps, window) in self._devices
        }

    def restore(self, states: dict[str, GridState]) -> None:
        """Begin with what was kept."""
        for device, state in states.items():
            window = Window(self._spec, self._width)
            window.restore(state.window)
            self._devices.put(device, (state.steps, window))

    def _begin(self, device: str, step: int, *, has_restarted: bool) -> tuple[Steps, Window]:
        values = len(self._fills)
        steps = Steps(step, [_NEVER] * values, [None] * values, {})
        begun = (steps, Window(self._spec, self._width, has_restarted=has_restarted))
        self._devices.put(device, begun)
        return begun

    def _close_due(self, steps: Steps, window: Window) -> Cut | None:
        horizon_ms = max(steps.newest_ms) - self._lateness_ms
        last = math.floor(horizon_ms / self._step_ms)
        if last * self._step_ms == horizon_ms and min(steps.newest_ms) < horizon_ms:
            last -= 1
        if last - steps.next_step > self._depth + self._gap_steps:
            self._skip_to(last - self._depth, steps, window)
        made = None
        for step in range(steps.next_step, last + 1):
            if self._resample is Resampling.LINEAR and self._is_awaited(step, steps):
                last = step - 1
                break
            row = self._close(step, steps)
            if row is None:
                window.begin_anew()
                steps.imputed_left = 0
                continue
            if self._on_step is not None:
                self._on_step(step, row)
            window.push(row, step * self._step_ms)
            if window.is_full and not (self._is_tumbling and (step + 1) % self._length):
                skipped, made = made, self._cut(steps, window, step)
                if skipped is not None:
                    self.skipped += self._is_tumbling
                    made.is_late = made.is_late or skipped.is_late
        steps.next_step = max(steps.next_step, last + 1)
        return made

    def _is_awaited(self, step: int, steps: Steps) -> bool:
        """Whether the reading after the end of a step may still come, for one of its values."""
        spans, now_ms = steps.open.get(step), max(steps.newest_ms)
        for place, known in enumerate(steps.known):
            span = None if spans is None else spans[place]
            left_ms = span.last_ms if span is not None else known[0] if known is not None else _NEVER
            if steps.newest_ms[place] < step * self._step_ms and now_ms - left_ms <= self._max_gap_ms:
                return True
        return False

    def _skip_to(self, step: int, steps: Steps, window: Window) -> None:
        """Leave out steps that no window will hold any more."""
        for earlier in sorted(one for one in steps.open if one < step):
            self._note_known(steps, steps.open.pop(earlier))
        steps.next_step = step
        if self._impute is None:
            window.begin_anew()
        else:
            window.clear()

    def _close(self, step: int, steps: Steps) -> bytes | None:
        """Return the row of a step; None: a number is missing, and nothing stands for it."""
        end_ms = step * self._step_ms
        spans = steps.open.pop(step, None) or [None] * len(self._fills)
        numbers: list[float] = []
        for place, span in enumerate(spans):
            number = self._number(place, span, steps, end_ms)
            if number is None:
                number = self._imputed(place, span, steps, end_ms)
                steps.imputed_left = self._depth + 1
            if number is None:
                break
            numbers.append(number)
        self._note_known(steps, spans)
        if len(numbers) < len(spans):
            return None
        steps.imputed_left = max(0, steps.imputed_left - 1)
        return self._pack(*numbers, *self._season.columns(end_ms))

    def _number(self, place: int, span: Span | None, steps: Steps, end_ms: float) -> float | None:
        """Return the number of a value at the end of a step, as the readings give it."""
        known = steps.known[place]
        if self._resample is Resampling.MEAN:
            return None if span is None else span.total / span.count
        left = known if span is None else (span.last_ms, span.last)
        if left is None:
            return None
        if self._resample is Resampling.LAST or left[0] == end_ms:
            return left[1] if end_ms - left[0] <= self._max_gap_ms else None
        right = self._next(place, steps)
        if right is None or right.first_ms - left[0] > self._max_gap_ms:
            return None
        return _between(left, right, end_ms)

    def _imputed(self, place: int, span: Span | None, steps: Steps, end_ms: float) -> float | None:
        """Return what stands for a missing number, if anything does."""
        left = steps.known[place] if span is None else (span.last_ms, span.last)
        if self._impute is Imputation.MEAN:
            return self._fills[place]
        if self._impute is Imputation.LAST and left is not None:
            return left[1]
        if self._impute is Imputation.LINEAR and left is not None:
            right = self._next(place, steps)
            return None if right is None else _between(left, right, end_ms)
        return None

    @staticmethod
    def _next(place: int, steps: Steps) -> Span | None:
        """Return the readings of a value in the first later step that has any."""
        return next((span for step in sorted(steps.open) if (span := steps.open[step][place])), None)

    @staticmethod
    def _note_known(steps: Steps, spans: Sequence[Span | None]) -> None:
        for place, span in enumerate(spans):
            if span is not None:
                steps.known[place] = (span.last_ms, span.last)

    def _cut(self, steps: Steps, window: Window, step: int) -> Cut:
        is_late, steps.is_late_untold = steps.is_late_untold, False
        return Cut(
            window.packed,
            (step - self._length + 1) * self._step_ms,
            step * self._step_ms,
            self._length,
            window.take_gap(),
            is_late,
            steps.imputed_left > 0,
        )


def _between(left: tuple[float, float], right: Span, time_ms: float) -> float:
    share = (time_ms - left[0]) / (right.first_ms - left[0])
    return left[1] + (right.first - left[1]) * share
