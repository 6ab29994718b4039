"""What the lane and the supervisor need from outside, in the agent's own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from atoll_agent.decisions.exception import Exceptions
from atoll_agent.decisions.rules import Rules
from atoll_agent.drift.seen import Seen, Told
from atoll_agent.rollout.slot import Slot
from atoll_agent.rollout.trial import TrialReport
from atoll_contract.drift import DriftReport
from atoll_contract.errors import DeviceError, Reason
from atoll_contract.messages import SlotStatus, Status
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Model
from atoll_ingest.stream import Stream
from atoll_link.session import Delivery, Event


class Wire(Protocol):
    """A connection of the lane: what happened in, predictions and acknowledgements out."""

    def step(self, timeout_s: float) -> Sequence[Event]:
        """Return what happened, waiting up to ``timeout_s`` for something to happen."""

    def publish(self, topic: str, payload: bytes, *, qos: int) -> int | None:
        """Queue a message and return its number; None: there is no room.

        At QoS 1 it is kept and sent again until ``Published`` tells its number.
        """

    def take_back(self, numbers: Collection[int]) -> Sequence[tuple[int, str, bytes]]:
        """Forget messages without ``Published``; return number, topic and payload, in their order."""

    def acknowledge(self, delivery: Delivery) -> None:
        """Queue the acknowledgement of a QoS 1 delivery."""

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it now."""

    def close(self, timeout_s: float) -> None:
        """End the connection cleanly; the broker has so long to take what was written."""


class Waiter(Protocol):
    """Waits on all connections of the lane at once; only :meth:`wake` may be called by other threads."""

    def rewire(self, plan: LanePlan) -> Mapping[str, Wire]:
        """Subscribe each stream to its filters, new ones first, and to no others; return their wires."""

    def end(self, stream: str) -> None:
        """Have the broker forget the session of a stream whose wire was closed."""

    def wait(self, timeout_s: float) -> Sequence[Wire]:
        """Return the wires that need a step, once there is one or ``timeout_s`` have passed."""

    def wake(self) -> None:
        """Make a waiting :meth:`wait` return."""


@dataclass(frozen=True, slots=True)
class LanePlan:
    """What the lane is to do, by the settings.

    Attributes:
        streams: The streams that are answered.
        filters: What each of them is subscribed to, labels included.
        left: What the broker may know from earlier settings, by stream, and shall forget.
        stream_of: Which stream each model answers.
        max_devices: Devices that a model keeps windows for.
        trusted_writers: Whose labels count, besides those of a device about itself.
        rules: What is decided over the predictions of a model.
        exceptions: Which predictions of a model are published, if not all.
        large: Streams whose messages are large: few of them are taken ahead.
    """

    streams: Sequence[Stream]
    filters: Mapping[str, Collection[str]]
    left: Mapping[str, Collection[str]]
    stream_of: Mapping[str, str]
    max_devices: int
    trusted_writers: Collection[str]
    rules: Mapping[str, Rules] = field(default_factory=dict)
    exceptions: Mapping[str, Exceptions] = field(default_factory=dict)
    large: Collection[str] = ()


class SpoolState(msgspec.Struct, frozen=True):
    """How the spool is; a snapshot.

    Attributes:
        rows: How many predictions wait.
        size_bytes: What they take, about.
        lost: How many had to go since the start, because others needed their place.
        fault: Why it does not work, for people.
    """

    rows: int = 0
    size_bytes: int = 0
    lost: int = 0
    fault: str | None = None


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A prediction that waits in the spool.

    Attributes:
        number: Its place; grows.
        topic: Its topic.
        payload: Its bytes, with the flag ``replayed``.
    """

    number: int
    topic: str
    payload: bytes


class Spool(Protocol):
    """Where predictions wait that cannot be delivered. A future raises StorageError when the disk fails.

    Attributes:
        state: How it is, after what was last done.
    """

    state: SpoolState

    def keep(self, predictions: Sequence[tuple[str, bytes]]) -> Future[None]:
        """Keep predictions, by topic and payload; once done they outlast a power cut."""

    def oldest(self, most: int) -> Future[Sequence[Stored]]:
        """Return up to ``most`` of those that have waited longest."""

    def drop(self, last: int) -> Future[None]:
        """Delete all up to the number ``last``."""

    def close(self) -> None:
        """Finish what was asked for, and close the file."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What the lane has done since its start; a snapshot.

    Attributes:
        is_connected: Whether its connections stand.
        counts: Counters by name.
        refusals: How many messages of which stream or model were refused for which reason.
        last_refusal: The latest detail for each of them.
        refused_filters: Subscriptions that the broker refused.
        trials: How the releases on trial stand, or stood when they failed, by model.
        devices: Devices that were answered, by model; no more than were asked for.
        spool_fault: Why the spool does not work, for people.
        answered: Models whose champion has answered since it was loaded.
    """

    is_connected: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[tuple[str, Reason], int] = field(default_factory=dict)
    last_refusal: Mapping[tuple[str, Reason], str] = field(default_factory=dict)
    refused_filters: tuple[str, ...] = ()
    trials: Mapping[str, TrialReport] = field(default_factory=dict)
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    spool_fault: str | None = None
    answered: frozenset[str] = frozenset()


class Handed(Protocol):
    """What the lane lets others see of its work.

    Attributes:
        left_out: How many windows and labels were not handed over, by model.
    """

    left_out: Counter[str]

    def take(self) -> list[Seen | Told]:
        """Return what waits, in the order in which it came."""


class Onlooker(Protocol):
    """Is told how the agent is, again and again. A context that lasts as long as the agent."""

    def look(self, status: Status, slots: Sequence[SlotStatus], planes: Mapping[str, bool]) -> None:
        """Take status, slots, and whether each plane is connected."""

    def hear(self, report: DriftReport) -> None:
        """Take how a champion fares."""

    def __enter__(self) -> object:
        """Begin.

        Raises:
            ConfigError: The settings name a port where it cannot listen.
        """

    def __exit__(self, *exception: object) -> None:
        """End."""


class LaneControl(Protocol):
    """What the control plane may do with the lane, from its own thread.

    Attributes:
        report: What it has done since its start.
        steps: Grows all the time until the lane ends or hangs.
    """

    report: LaneReport
    steps: int

    def run(self) -> None:
        """Work until stopped: the body of the lane's thread."""

    def swap(self, predictor: Predictor, *, has_restarted: bool) -> Future[None]:
        """Let ``predictor`` answer for its model from the next reading on; done when it does."""

    def try_out(self, predictor: Predictor) -> Future[int]:
        """Let ``predictor`` answer in shadow beside the champion; the trial's number, as in the report."""

    def begin_probation(self, model: str) -> Future[None]:
        """Let the release on trial be heard; at a breach of its rules the champion is heard again."""

    def end_trial(self, model: str, *, has_passed: bool) -> Future[None]:
        """End the trial of ``model``, if there is one: the release goes on alone, or the champion."""

    def change(self, plan: LanePlan, predictors: Sequence[Predictor]) -> Future[None]:
        """Go on by ``plan`` from the next reading on, with the champions of new models; done when it does."""

    def stop(self) -> None:
        """End the lane."""


class Link(Protocol):
    """The control plane's connection.

    Attributes:
        steps: Grows all the time, at the latest after an attempt to connect, until the link ends or hangs.
    """

    steps: int

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""

    async def __aenter__(self) -> Self:
        """Start connecting."""

    async def __aexit__(self, *exception: object) -> None:
        """Send what is queued and end the connection cleanly."""

    async def next_event(self) -> Event:
        """Return the next event."""

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish at QoS 1."""


class SlotStore(Protocol):
    """What survives a restart."""

    def load_slot(self, model: str, fingerprint: str, *, blames_settled: bool = False) -> Slot:
        """Return the slot of ``model`` as it starts after a restart.

        ``blames_settled``: the agent crashed, and no release did it that it had loaded just before.
        """

    def save_slot(self, slot: Slot, fingerprint: str) -> None:
        """Store ``slot``; on return it survives a power cut."""

    def bundle_path(self, sha256: str) -> Path:
        """Return where the bundle with this digest is or will be."""

    def has_bundle(self, sha256: str) -> bool:
        """Whether the bundle with this digest is there."""

    def read_bundle(self, sha256: str) -> bytes:
        """Return the bundle with this digest."""

    def drop_bundles_except(self, keep: set[str], *, only_parts: bool = False) -> int:
        """Delete bundles, and parts, whose digest is not in ``keep``; return how many files."""


class Kept(StrEnum):
    """What the lane remembers over a clean stop."""

    WINDOWS = "windows"
    """Of a model."""
    RULES = "rules"
    """How the rules of a model stand."""
    VALUES = "values"
    """Values of a stream that wait for others, or are held."""


class WindowStore(Protocol):
    """Where windows, and what else the lane remembers, wait from a clean stop to the next start."""

    def take(self, name: str, kind: Kept) -> bytes | None:
        """Return what was kept for model or stream ``name``, once: after a kill it would be too old."""

    def keep(self, name: str, kind: Kept, content: bytes) -> None:
        """Keep what is remembered of ``name``; raises StorageError."""

    def drop(self) -> None:
        """Delete what nobody has taken."""


@dataclass(frozen=True, slots=True)
class Announced:
    """What Home Assistant was told last.

    Attributes:
        topic: Where.
        platforms: The entities, by key.
        sensors: Model and device of those that are sensors.
    """

    topic: str
    platforms: dict[str, str] = field(default_factory=dict)
    sensors: list[tuple[str, str]] = field(default_factory=list)


class Notes(Protocol):
    """What was announced, kept over a restart; none of them raises."""

    def read(self) -> Announced | None:
        """Return it; None: nothing was."""

    def write(self, announced: Announced) -> None:
        """Keep it, if that can be."""

    def delete(self) -> None:
        """Forget it."""


@dataclass(frozen=True, slots=True)
class AcceleratorState:
    """How an accelerator is; a snapshot.

    Attributes:
        path: Which; names it for good.
        is_ready: Whether it answers.
        detail: For people: what it is, or why it does not answer.
        temp_c: Its temperature, if it tells one.
        clock_percent: What its temperature leaves of its clock, if it tells that.
        counts: Counters by name.
    """

    path: str
    is_ready: bool
    detail: str
    temp_c: float | None = None
    clock_percent: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)


class Accelerator(StrEnum):
    """What a model may run on."""

    AUTO = "auto"
    EDGETPU = "edgetpu"
    CPU = "cpu"


class PlacedModel(Model, Protocol):
    """A model that runs on an accelerator, and on the CPU whenever that does not answer."""

    def wait_ready(self) -> None:
        """Wait until the accelerator runs it.

        Raises:
            BundleRejectedError: It is not to be used there.
            AcceleratorLostError: There is none, for now.
        """


class Accelerators(Protocol):
    """The Edge TPUs of this device."""

    on_change: Callable[[], None]

    @property
    def states(self) -> list[AcceleratorState]:
        """How those in use are; any thread may ask."""

    def fault(self, path: str | None) -> str | None:
        """Return why the one at ``path`` (None: any) cannot be used, for people; opens nothing."""

    def place(
        self, content: bytes, twin: Model, check: Callable[[Model], None], path: str | None
    ) -> PlacedModel:
        """Return a compiled model that runs on the one at ``path`` (None: any) as soon as that can be.

        ``check`` gets the model whenever it has been loaded there, and raises ``BundleRejectedError`` where
        it is not to be used.
        """

    def close(self) -> None:
        """Use them no more."""


class ContestStore(Protocol):
    """Which backend is the fastest for a bundle, kept with it."""

    def read_contest(self, sha256: str) -> bytes | None:
        """Return what is stored for the bundle with this digest, if anything can be read."""

    def write_contest(self, sha256: str, content: bytes) -> None:
        """Store it, if that can be."""


class ClockState(Protocol):
    """Whether this machine knows what time it is."""

    @property
    def is_time_unsynced(self) -> bool:
        """Whether, when last looked at, the system clock had not been set; any thread may ask."""

    def look(self) -> bool:
        """Ask the system again; return whether its answer has changed."""


class ServiceState(Protocol):
    """Who started the agent and wants to know how it is."""

    def tell(self, **states: str) -> None:
        """Tell states, as ``READY="1", STATUS="waiting for the broker"``."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing a child process said.

    Attributes:
        event: What happened.
        facts: Its facts.
    """

    event: str
    facts: Mapping[str, Any]


class End(StrEnum):
    """How a run of the agent ended."""

    ORDERLY = "orderly"
    """By whoever may end it, by a stop or a kill; or with the whole machine."""
    KILLED = "killed"
    """By the kernel, as far as it tells, who kills who takes too much memory."""
    CRASHED = "crashed"
    """By what a model may have done: a fatal signal, or a bug where models are loaded or answer."""


class LaneEndedError(RuntimeError):
    """The lane ended by a bug, or hangs: a model did that, as far as anybody can tell."""


class ChildCrashedError(DeviceError):
    """A child ended without an answer: by a signal, out of memory, or a bug in it.

    Attributes:
        is_own_doing: Whether its work did that to it, and will do so again; not so when it was ended
            from outside, could not be started, or said something unreadable.
    """

    default_reason = Reason.CHILD_CRASHED

    def __init__(self, detail: str, *, is_own_doing: bool) -> None:
        super().__init__(detail)
        self.is_own_doing = is_own_doing


class ChildTimeoutError(DeviceError):
    """A child did not end within its deadline and was killed.

    Attributes:
        is_own_doing: Whether it has worked all that time, and not waited for the processor.
    """

    default_reason = Reason.CHILD_TIMEOUT

    def __init__(self, detail: str, *, is_own_doing: bool) -> None:
        super().__init__(detail)
        self.is_own_doing = is_own_doing


Child = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[AsyncIterator[Line]]]
"""Starts a child on a request and yields its lines. These raise the two errors above."""
