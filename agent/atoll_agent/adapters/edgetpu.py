"""Keeps an Edge TPU at work, and what to do when that fails.

The ladder: an inference that the driver fails is tried once more; a child that ended or does not answer is
started again; when that fails twice in a row a USB device is reset; beyond the budget of restarts
there is one attempt every ``return_after_s``. All the time, and while a model is loaded, the CPU twin
answers in its place, at once. A model at which the child ends again and again waits while the others run.
The device is looked for in sysfs first: opening one that cannot be opened takes half a minute.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final

import structlog
from numpy.typing import NDArray

from atoll_agent.adapters.edgetpu_care import RESET_AFTER, Budget, Care, Placed
from atoll_agent.adapters.edgetpu_child import EdgeTpuChild
from atoll_agent.adapters.edgetpu_devices import Device, Kind, find_devices
from atoll_agent.adapters.edgetpu_reset import UsbReset
from atoll_agent.ports import AcceleratorState
from atoll_contract.errors import AcceleratorLostError, AtollError, BundleRejectedError
from atoll_contract.manifest import TensorSpec
from atoll_infer.runtime import Model, ModelFailedError

log = structlog.get_logger()

_LOAD_S: Final = 20.0
_LOOK_S: Final = 1.0
_END_S: Final = 2.0
_AWAY_S: Final = 3.0
"""A device that is away for longer was not only reset: somebody has seen to it."""
_FAILED_IN_ROW: Final = 3
"""Readings in a row whose inference failed gracefully, and again, after which the child is started anew."""


class _OnDevice:
    """A loaded model, for its check. Implements ``Model``."""

    is_degraded: Final = False
    is_remote: Final = True
    degradation: Final = None

    def __init__(
        self,
        child: EdgeTpuChild,
        number: int,
        ends: tuple[list[TensorSpec], list[TensorSpec]],
        deadline_s: float,
    ) -> None:
        self._child = child
        self._number = number
        self._deadline_s = deadline_s
        self.inputs, self.outputs = ends
        self.backend = f"{child.runtime} Edge TPU"

    def invoke(self, tensor: NDArray[Any]) -> NDArray[Any]:
        return self._child.invoke(self._number, tensor, self._deadline_s)


class EdgeTpu:
    """One Edge TPU, the child that uses it, and the thread that looks after both.

    Args:
        path: Which; None: the first that can be used.
        care: How it is kept.
        named: Paths that keepers are named for: without ``path`` it uses none of those.
        on_change: Called, in any thread, when it came or went.
    """

    def __init__(
        self, path: str | None, care: Care, named: Collection[str], on_change: Callable[[], None]
    ) -> None:
        self._path = path
        self._held = path
        self._care = care
        self._named = named
        self._on_change = on_change
        self._budget = Budget(care.restarts_per_minute, care.return_after_s)
        self._reset = UsbReset()
        self._lock = threading.Lock()  # held for an inference, and to take a child away
        self._changed = threading.Condition()
        self._models: dict[int, Placed] = {}
        self._left: deque[int] = deque()
        self._placed = 0
        self._child: EdgeTpuChild | None = None
        self._opening: EdgeTpuChild | None = None
        self._is_loading = False  # the child is the keeper's alone
        self._failed_in_row = 0
        self._is_closing = False
        self._attempts = 0
        self._away_since_s = math.inf
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._counts: Counter[str] = Counter()
        self._state = AcceleratorState(path or "Edge TPU", is_ready=False, detail="not opened yet")

    @property
    def state(self) -> AcceleratorState:
        """How it is; any thread may ask."""
        return replace(self._state, counts=dict(self._counts))

    # Called by whoever loads models

    def place(
        self, content: bytes, ends: tuple[TensorSpec, TensorSpec], check: Callable[[Model], None]
    ) -> int:
        """Let it run a compiled model from now on, whenever it can; return the model's number.

        ``check`` gets the model each time that it has been loaded, and raises where it is not to be used.
        """
        placed = Placed(content, ends, check)
        with self._changed:
            self._placed += 1
            number = self._placed
            self._models[number] = placed
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="edgetpu", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            if self._child is not None:
                self._child.nudge()
        return number

    def stay(self, path: str) -> bool:
        """Use the device at ``path`` and no other from now on; False: it has another."""
        with self._changed:
            if self._held not in {None, path}:
                return False
            self._path = self._held = path
            return True

    def fault(self, number: int) -> str | None:
        """Return why it does not run a model, for people; None: it does."""
        if self._runs(number):
            return None
        placed = self._models.get(number)
        fault = placed.fault if placed is not None else None
        if fault is not None:
            return fault.detail
        return self._state.detail if self._child is None else "it is being loaded"

    def count(self, name: str) -> None:
        """Count something; any thread may."""
        with self._changed:
            self._counts[name] += 1

    def remove(self, number: int) -> None:
        """Forget a model, at the next occasion; any thread may say so at any time."""
        self._left.append(number)

    def wait_ready(self, number: int) -> None:
        """Wait until it runs a model that was placed.

        Raises:
            BundleRejectedError: The model is not to be used on it.
            AcceleratorLostError: It cannot be opened, or not in time, or fails whenever it loads the model.
        """
        placed = self._models[number]
        deadline = time.monotonic() + self._care.open_timeout_s + _LOAD_S
        with self._changed:
            attempts = self._attempts
            while not self._runs(number) and placed.fault is None:
                if self._failure is not None:
                    raise self._failure
                if self._is_closing:
                    raise AcceleratorLostError("the agent stops")
                # An end at this very model is judged once it has happened again.
                has_failed = self._attempts > attempts and not placed.ends_at_loading
                left_s = deadline - time.monotonic()
                if has_failed or left_s <= 0:
                    raise AcceleratorLostError(self._state.detail)
                self._changed.wait(left_s)
            fault = placed.fault
        if fault is not None:
            raise fault

    def close(self) -> None:
        """End the child, also one that is still opening the device; does not wait for it."""
        with self._changed:
            self._is_closing = True
            children = self._child, self._opening
            self._changed.notify_all()
        for child in children:
            if child is not None:
                child.kill()

    # Called by the models' threads

    def invoke(self, number: int, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return the output of a model that was placed.

        Raises:
            AcceleratorLostError: It cannot, for now.
        """
        if self._child is None:
            if self._failure is not None:
                raise self._failure
            raise AcceleratorLostError(self._state.detail)
        if not self._lock.acquire(timeout=self._care.deadline_s):
            raise AcceleratorLostError("the Edge TPU is busy")
        try:
            child = self._child
            if child is None or self._is_loading or number not in child.checked:
                raise AcceleratorLostError(self._state.detail)
            return self._invoke(child, number, tensor)
        finally:
            self._lock.release()

    def _invoke(self, child: EdgeTpuChild, number: int, tensor: NDArray[Any]) -> NDArray[Any]:
        try:
            try:
                output = child.invoke(number, tensor, self._care.deadline_s)
            except ModelFailedError:
                self.count("edgetpu_retries")
                output = child.invoke(number, tensor, self._care.deadline_s)
        except ModelFailedError as error:
            self._failed_in_row += 1
            if self._failed_in_row >= _FAILED_IN_ROW:
                self._give_up(child, error.detail)
            raise AcceleratorLostError(error.detail) from error
        except AcceleratorLostError as error:
            self._give_up(child, error.detail)
            raise
        self._failed_in_row = 0
        return output

    def _give_up(self, child: EdgeTpuChild, why: str) -> None:
        """Use ``child`` no more; its keeper sees its end."""
        self._failed_in_row = 0
        with self._changed:
            self._child = None
            self._state = replace(self._state, is_ready=False, detail=why)
        child.kill()

    # The keeper's thread

    def _run(self) -> None:
        try:
            self._keep()
        except BaseException as error:  # noqa: BLE001 - its callers raise it where it ends the daemon
            with self._changed:
                self._failure = error
                self._child = None
                self._changed.notify_all()

    def _keep(self) -> None:
        while not self._is_closing:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or self._models)
            if self._is_closing:
                return
            self._forget_left(None)
            if not self._models:
                continue
            device = self._device()
            self._note_presence(time.monotonic(), is_there=device is not None)
            wait_s = _LOOK_S if device is None else self._budget.wait_s(time.monotonic())
            if device is None or self._budget.is_resting:
                self._end_attempt()
            if device is None or wait_s > 0:
                self._pause(min(wait_s, _LOOK_S))
                continue
            child = self._open(device)
            if child is not None:
                self._attend(child)

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closing, pause_s)

    def _device(self) -> Device | None:
        """Return the device to use, if one can be used, as sysfs says."""
        found = find_devices(self._care.sysfs)
        with self._changed:  # so that ``stay`` knows of it
            wanted = [device for device in found if self._may_use(device)]
            usable = [device for device in wanted if device.fault is None]
            self._held = usable[0].path if usable else self._path
        if usable:
            return usable[0]
        others = ", ".join(device.path for device in found) or "none"
        which = self._path or ("an Edge TPU that no other model names" if self._named else "an Edge TPU")
        detail = f"{which} is not there; found: {others}"
        self._tell_lost(wanted[0].fault or detail if wanted else detail)
        return None

    def _may_use(self, device: Device) -> bool:
        """Whether it is this keeper's to use: two that open one device end each other's child."""
        return device.path not in self._named if self._path is None else device.path == self._path

    def _note_presence(self, now_s: float, *, is_there: bool) -> None:
        """Give all models another chance on a device that is back."""
        if not is_there:
            self._away_since_s = min(self._away_since_s, now_s)
            return
        if now_s - self._away_since_s >= _AWAY_S:
            for placed in list(self._models.values()):
                placed.ends_at_loading = 0
        self._away_since_s = math.inf

    def _open(self, device: Device) -> EdgeTpuChild | None:
        """Open ``device`` and load all models; None: that failed."""
        if self._budget.in_row >= RESET_AFTER and device.kind is Kind.USB:
            fault = self._reset.run(device.node)
            self.count("edgetpu_resets")
            log.warning("accelerator.reset", path=device.path, fault=fault)
        self.count("edgetpu_starts")
        child: EdgeTpuChild | None = None
        try:
            child = EdgeTpuChild()
            self._let_close(child)
            with _Log(child):
                child.open(self._care.library, device.path, self._care.open_timeout_s)
                self._forget_left(child)
                for placed in list(self._models.values()):
                    placed.forgive()
                child.checked.update(self._load_missing(child))
        except AtollError as error:
            detail = error.detail
            if child is not None:
                detail = child.end() or child.with_log(detail)  # all that it wrote has been read
            self._opening = None
            if not self._is_closing:
                self._note_failure(device.path, detail, has_answered=False)
            self._end_attempt()
            if child is not None:
                self._see_out(child)
            return None
        child.answered = 0
        with self._changed:
            self._state = AcceleratorState(
                device.path,
                is_ready=True,
                detail=f"{child.runtime} Edge TPU {device.path}",
                temp_c=device.temp_c,
                clock_percent=device.clock_percent,
            )
            self._child, self._opening = child, None
            self._changed.notify_all()
        log.info("accelerator.opened", path=device.path, runtime=child.runtime, models=len(child.checked))
        self._on_change()
        if self._is_closing:
            child.kill()
        return child

    def _let_close(self, child: EdgeTpuChild) -> None:
        """Let ``close`` end a child that is opening the device; one that comes too late ends at once."""
        with self._changed:
            self._opening = child
            if self._is_closing:
                child.kill()

    def _attend(self, child: EdgeTpuChild) -> None:
        """Look after a child until it ends."""
        since_s = time.monotonic()
        path = self._state.path
        gone_by_s = math.inf
        while child.heed(_LOOK_S) and time.monotonic() < gone_by_s:
            self._budget.lives(since_s, time.monotonic())
            if self._child is not child:  # it was given up, and is about to end
                gone_by_s = min(gone_by_s, time.monotonic() + _END_S)
                continue
            self._look(path)
            if self._left or self._missing(child):
                self._load_beside(child)
        with self._lock, self._changed:
            self._child = None
        detail = child.end() or self._state.detail
        if not self._is_closing:
            self._note_failure(path, detail, has_answered=child.answered > 0)
        self._see_out(child)

    def _load_beside(self, child: EdgeTpuChild) -> None:
        """Load what is missing, while the CPU answers for the others."""
        with self._lock:
            if self._child is not child:  # it was given up while the lock was waited for
                return
            self._is_loading = True
        passed: list[int] = []
        try:
            self._forget_left(child)
            passed = self._load_missing(child)
        except AcceleratorLostError as error:
            self._give_up(child, error.detail)
        finally:
            self._is_loading = False
        with self._changed:  # only now: whoever sees that a model runs may ask it at once
            child.checked.update(passed)
            self._changed.notify_all()
        self._on_change()

    def _see_out(self, child: EdgeTpuChild) -> None:
        """Wait until ``child`` has ended: the device is not to be had before."""
        while not child.has_ended and not self._is_closing:
            self._end_attempt()
            self._forget_left(None)
            self._pause(_LOOK_S)
        child.close()

    def _look(self, path: str) -> None:
        """Read again what sysfs tells."""
        for device in find_devices(self._care.sysfs):
            if device.path == path:
                with self._changed:
                    self._state = replace(
                        self._state, temp_c=device.temp_c, clock_percent=device.clock_percent
                    )

    def _missing(self, child: EdgeTpuChild) -> list[tuple[int, Placed]]:
        now_s = time.monotonic()
        models = list(self._models.items())
        return [one for one in models if one[0] not in child.checked and one[1].is_due(now_s)]

    def _load_missing(self, child: EdgeTpuChild) -> list[int]:
        """Load into ``child`` the models that it lacks, let them be checked, and return those that passed.

        Raises:
            AcceleratorLostError: The child ended meanwhile.
        """
        passed = []
        for number, placed in self._missing(child):
            try:
                ends = child.load(number, placed.content, placed.ends, _LOAD_S)
                placed.check(_OnDevice(child, number, ends, self._care.deadline_s))
                placed.passed()
                passed.append(number)
            except BundleRejectedError as error:
                placed.refused(error)
                log.warning("accelerator.unfit", model=number, reason=error.reason.value, detail=error.detail)
            except AcceleratorLostError as error:
                placed.ended(child.end() or error.detail, time.monotonic(), self._care.return_after_s)
                raise
        return passed

    def _forget_left(self, child: EdgeTpuChild | None) -> None:
        while self._left:
            number = self._left.popleft()
            if self._models.pop(number, None) is not None and child is not None:
                child.unload(number, _LOAD_S)

    def _runs(self, number: int) -> bool:
        child = self._child
        return child is not None and number in child.checked

    def _note_failure(self, path: str, detail: str, *, has_answered: bool) -> None:
        was_resting = self._budget.is_resting
        self._budget.failed(time.monotonic(), has_answered=has_answered)
        self.count("edgetpu_failures")
        self._tell_lost(f"{path}: {detail}")
        if self._budget.is_resting and not was_resting:
            log.warning("accelerator.rested", path=path, return_after_s=self._care.return_after_s)

    def _tell_lost(self, detail: str) -> None:
        if self._state.detail != detail or self._state.is_ready:
            log.warning("accelerator.lost", detail=detail)
            self._state = replace(self._state, is_ready=False, detail=detail, temp_c=None, clock_percent=None)
            self._on_change()

    def _end_attempt(self) -> None:
        with self._changed:
            self._attempts += 1
            self._changed.notify_all()


class _Log:
    """Takes what a child writes while it opens the device, so that it never waits for a reader."""

    def __init__(self, child: EdgeTpuChild) -> None:
        self._child = child
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgetpu-log", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._child.nudge()
        self._thread.join()
        self._child.heed(0.0)  # the last words

    def _run(self) -> None:
        while not self._is_over.is_set() and self._child.heed(1.0):
            pass
