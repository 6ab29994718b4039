"""The imperative shell of the control plane: one TaskGroup that watches over everything."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import structlog

from atoll_agent.ports import (
    Accelerators,
    ClockState,
    LaneControl,
    LaneEndedError,
    Link,
    Onlooker,
    ServiceState,
)
from atoll_agent.supervisor import reports
from atoll_agent.supervisor.drift import LOOK_S, DriftWatch
from atoll_agent.supervisor.homeassistant import HomeAssistant
from atoll_agent.supervisor.releases import Releases
from atoll_agent.supervisor.requests import Requests
from atoll_agent.supervisor.watchdog import Watchdog
from atoll_contract.errors import AtollError, ConfigError, MalformedMessageError
from atoll_contract.messages import Health, SlotStatus, Status
from atoll_contract.topics import DriftTopic, MetadataTopic, SlotTopic, StatusTopic
from atoll_link.session import Connected, Delivery, Disconnected, Event, Refused, Subscribed

log = structlog.get_logger()

TRIGGERS: Final = (str(MetadataTopic("timestamp.json")), str(MetadataTopic("root.json")))
"""What the control plane is subscribed to for good: a message here means that releases changed."""
_DEBOUNCE_S: Final = 0.5
_DAY_S: Final = 86_400.0
_HEARTBEAT_S: Final = 60.0
_DUPLICATE_S: Final = 3 * _HEARTBEAT_S
"""An agent with our id that was not heard of for so long is gone."""
_LANE_STOP_S: Final = 8.0
_HANGS_AFTER_S: Final = 90.0
"""No answer of a model that has passed its self-test holds up a lane for so long."""
_CLOCK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the settings again.

    Attributes:
        changes: What has changed, for people; empty: nothing.
        gone: Models that are answered no more.
        status_interval_s: How often the status is published.
    """

    changes: Sequence[str]
    gone: Sequence[str]
    status_interval_s: float


@dataclass(slots=True)
class Sessions:
    """The number of the present control connection; the link's thread sets it, others read it."""

    number: int = 0


class Supervisor:
    """Runs the agent until it is told to stop."""

    def __init__(
        self,
        *,
        site: str,
        agent: str,
        me: reports.Self,
        lane: LaneControl,
        link: Link,
        releases: Releases,
        sessions: Sessions,
        service: ServiceState,
        clock: ClockState,
        watchdog: Watchdog,
        reload: Callable[[], Awaitable[Reloaded]],
        accelerators: Accelerators,
        crashes: AbstractContextManager[object],
        onlooker: Onlooker,
        status_interval_s: float,
        requests: Requests,
        homeassistant: HomeAssistant,
        drift: DriftWatch,
    ) -> None:
        self._site = site
        self._agent = agent
        self._me = me
        self._lane = lane
        self._link = link
        self._releases = releases
        releases.slots.on_change = self.slot_changed
        self._sessions = sessions
        self._service = service
        self._clock = clock
        self._watchdog = watchdog
        self._reload = reload
        self._reload_note: str | None = None
        self._accelerators = accelerators
        self._crashes = crashes
        self._onlooker = onlooker
        self._status_interval_s = status_interval_s
        self._requests = requests
        self._homeassistant = homeassistant
        self._drift = drift
        self._born = asyncio.Event()
        self._status_topic = str(StatusTopic(site, agent))
        self._stop = asyncio.Event()
        self._trigger = asyncio.Event()
        self._wanted_reload = asyncio.Event()
        releases.slots.on_refused = self._trigger.set
        self._duplicate_seen_s = -_DUPLICATE_S
        self._published: Status | None = None
        self._published_s = 0.0
        self._lane_ended: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, read the settings again at SIGHUP; a bug anywhere ends all of it."""
        with self._onlooker, self._crashes:
            await self._run()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._wanted_reload.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

        def tell_change() -> None:
            loop.call_soon_threadsafe(self._accelerator_changed)

        self._accelerators.on_change = tell_change
        thread = self._start_lane(loop)
        hangs = False
        try:
            async with self._link:
                try:
                    await self._work()
                finally:
                    self._service.tell(STOPPING="1")
                    self._lane.stop()
                    await self._join(thread)
                    # Who watches over a container ends a lane that hangs by SIGTERM, like any other.
                    hangs = thread.is_alive() and self._watchdog.stalled_s >= _HANGS_AFTER_S
                    if self._stop.is_set() and not hangs:  # else the next start counts that
                        self._releases.slots.stop()
                    self._say_goodbye()
        finally:
            self._lane.stop()
            self._accelerators.on_change = lambda: None
            self._accelerators.close()
        if hangs:
            raise LaneEndedError("the lane hangs")
        log.info("agent.stopped", **self._lane.report.counts)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._heed_control(), name="control"),
                group.create_task(self._follow_announcements(), name="announcements"),
                group.create_task(self._releases.run(), name="releases"),
                group.create_task(self._watch_clock(), name="clock"),
                group.create_task(self._tell_status(), name="status"),
                group.create_task(self._watch_drift(), name="drift"),
                group.create_task(self._announce_again(), name="homeassistant"),
                group.create_task(self._watch_lane(), name="lane-watch"),
                group.create_task(self._watchdog.run(), name="watchdog"),
                group.create_task(self._follow_reloads(), name="reloads"),
            ]
            self._service.tell(READY="1", STATUS="ready; waiting for the broker")
            log.info("agent.started", agent=self._agent, site=self._site)
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    def slot_changed(self, model: str) -> None:
        """Publish the slot of ``model``; called by whoever changed it."""
        topic = SlotTopic(self._site, self._agent, model)
        if self._link.is_connected:
            self._link.publish(str(topic), self._slot_status(model).encode(), retain=True)
            self._announce()

    def _slot_status(self, model: str) -> SlotStatus:
        return reports.slot_status(
            self._releases.slots[model],
            self._releases.slots.predictors.get(model),
            self._releases.trouble,
            time.time() * 1e3,
            channel=self._releases.channel_of(model),
        )

    def _announce(self, *, is_again: bool = False) -> None:
        """Tell Home Assistant what is new, or all of it."""
        if not self._link.is_connected:
            return
        self._homeassistant.announce(
            self._slot_statuses(),
            self._lane.report.devices,
            partial(self._link.publish, retain=True),
            is_again=is_again,
        )

    async def _announce_again(self) -> None:
        """Tell Home Assistant all of it, some time after it has started."""
        while True:
            await self._born.wait()
            await asyncio.sleep(random.uniform(0, self._homeassistant.max_delay_s))  # noqa: S311 - spreads a fleet
            self._born.clear()
            self._announce(is_again=True)

    def _accelerator_changed(self) -> None:
        """Tell that an accelerator came or went."""
        if self._link.is_connected:
            self._publish_status()
        for model in self._releases.slots.predictors:
            self.slot_changed(model)

    async def _join(self, thread: threading.Thread) -> None:
        """Wait for the lane, which may hang in a model, but not for long."""
        deadline = time.monotonic() + _LANE_STOP_S
        while thread.is_alive() and time.monotonic() < deadline:
            await asyncio.to_thread(thread.join, 0.2)

    def _start_lane(self, loop: asyncio.AbstractEventLoop) -> threading.Thread:
        ended: asyncio.Future[None] = loop.create_future()
        self._lane_ended = ended

        def finish(error: BaseException | None) -> None:
            if ended.done():
                return
            if error is None:
                ended.set_result(None)
            else:
                ended.set_exception(error)

        def work() -> None:
            error: BaseException | None = None
            try:
                self._lane.run()
            except BaseException as caught:  # noqa: BLE001 - a bug here must end the daemon, not only this thread
                error = caught
            loop.call_soon_threadsafe(finish, error)

        thread = threading.Thread(target=work, name="lane", daemon=True)
        thread.start()
        return thread

    async def _watch_lane(self) -> None:
        if self._lane_ended is not None:
            try:
                await asyncio.shield(self._lane_ended)
            except (AtollError, OSError):
                raise
            except Exception as error:
                raise LaneEndedError(f"the lane ended by {error!r}") from error
        raise LaneEndedError("the lane ended by itself")

    async def _heed_control(self) -> None:
        while True:
            self._heed(await self._link.next_event())

    def _heed(self, event: Event) -> None:
        match event:
            case Connected():
                log.info("broker.connected", session=self._sessions.number)
                self._me = replace(self._me, session=self._sessions.number)
                self._publish_status()
                for model in self._releases.slots.all():
                    self.slot_changed(model)
                self._announce(is_again=True)  # the broker may have lost it
                self._drift.tell_all()
                self._trigger.set()
            case Disconnected(detail, was_connected, was_refused):
                self._service.tell(STATUS=f"waiting for the broker: {detail}"[:200])
                if was_connected:
                    log.warning("broker.disconnected", detail=detail)
                elif was_refused:
                    log.warning("broker.refused", detail=detail, plane="control")
                else:
                    log.info("broker.unavailable", detail=detail)
            case Delivery():
                self._heed_delivery(event)
            case Subscribed(topic_filter, refused) if refused:
                log.error("subscription.refused", topic_filter=topic_filter, plane="control")
            case Refused(_, detail):
                log.error("publication.refused", detail=detail, plane="control")
            case _:
                pass

    def _heed_delivery(self, delivery: Delivery) -> None:
        if delivery.topic in TRIGGERS:
            self._trigger.set()
        elif delivery.topic == self._status_topic:
            if not delivery.is_retained:
                self._compare_status(delivery.payload)
        elif delivery.topic in self._homeassistant.topic_filters:
            if self._homeassistant.is_birth(delivery):
                self._born.set()
        elif (answered := self._requests.heed(delivery, time.time() * 1e3)) is not None:
            topic, response = answered
            self._link.publish(str(topic), response.encode(), retain=False)

    def _compare_status(self, payload: bytes) -> None:
        """Find another agent with our id by its token; atoll-agent doctor sends empty ones."""
        if not payload:
            return
        try:
            seen = Status.decode(payload)
        except MalformedMessageError as error:
            log.warning("status.malformed", detail=error.detail)
            return
        if seen.token in {None, self._me.token}:
            return
        if seen.health is Health.OFFLINE:
            self._duplicate_seen_s = -_DUPLICATE_S
            return
        if self._fault is None:
            log.error("agent.duplicated", token=seen.token)
        self._duplicate_seen_s = time.monotonic()

    @property
    def _fault(self) -> str | None:
        """What needs a person: another agent with this id spoke lately."""
        if time.monotonic() - self._duplicate_seen_s > _DUPLICATE_S:
            return None
        return f"duplicate_id: another agent calls itself {self._agent!r} at this site"

    async def _follow_announcements(self) -> None:
        wait_s: float = _DAY_S
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._trigger.wait()
            except TimeoutError:
                pass
            else:
                # Several files change at once: one check for all of them.
                await asyncio.sleep(_DEBOUNCE_S)
            self._trigger.clear()
            if not self._link.is_connected:
                wait_s = _DAY_S  # the next connect triggers
                continue
            retry_s = await self._releases.refresh()
            wait_s = _DAY_S if retry_s is None else retry_s

    async def _follow_reloads(self) -> None:
        while True:
            await self._wanted_reload.wait()
            self._wanted_reload.clear()
            now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._service.tell(RELOADING="1", MONOTONIC_USEC=str(now_us), STATUS="reading the settings again")
            await self._take_settings()
            self._service.tell(READY="1")
            self._publish_status()

    async def _take_settings(self) -> None:
        """Go on by the settings as they are now, or, if anything is wrong with them, as before."""
        try:
            reloaded = await self._reload()
        except AtollError as error:
            faults = error.faults if isinstance(error, ConfigError) else [error.detail]
            log.error("settings.refused", faults=faults)  # noqa: TRY400 - the faults say it all
            more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
            self._reload_note = f"the settings were not reloaded: {faults[0][:300]}{more}"
            return
        self._reload_note = None
        self._status_interval_s = reloaded.status_interval_s
        log.info("settings.reloaded", changes=list(reloaded.changes))
        for model in reloaded.gone:
            for topic in (SlotTopic, DriftTopic):
                self._link.publish(str(topic(self._site, self._agent, model)), b"", retain=True)
        for model in self._releases.slots.all():
            self.slot_changed(model)
        self._trigger.set()

    async def _watch_clock(self) -> None:
        while True:
            await asyncio.sleep(_CLOCK_S)
            if self._clock.look():
                log.info("clock.changed", is_time_unsynced=self._clock.is_time_unsynced)
                self._trigger.set()  # what an unset clock let pass is judged anew

    async def _watch_drift(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            reports = list(self._drift.look(time.time() * 1e3, time.monotonic()))
            for report in reports:
                self._onlooker.hear(report)
            if not self._link.is_connected:
                continue  # the next connect has all of them told
            for report in reports:
                topic = DriftTopic(self._site, self._agent, report.model)
                self._link.publish(str(topic), report.encode(), retain=True)

    async def _tell_status(self) -> None:
        while True:
            self._onlooker.look(self._status(), self._slot_statuses(), self._planes())
            await asyncio.sleep(self._status_interval_s)
            if self._link.is_connected:
                self._publish_status()
                self._announce()

    def _planes(self) -> dict[str, bool]:
        return {"lane": self._lane.report.is_connected, "control": self._link.is_connected}

    def _slot_statuses(self) -> list[SlotStatus]:
        return [self._slot_status(model) for model in self._releases.slots.all()]

    def _status(self) -> Status:
        return reports.status(
            self._me,
            self._lane.report,
            self._requests,
            self._releases.slots.all(),
            time.time() * 1e3,
            self._fault,
            note=self._reload_note,
            is_time_unsynced=self._clock.is_time_unsynced,
            predictors=self._releases.slots.predictors,
            accelerators=self._accelerators.states,
        )

    def _publish_status(self) -> None:
        status, before = self._status(), self._published
        is_same = before is not None and before.model_copy(update={"time_ms": status.time_ms}) == status
        if is_same and time.monotonic() - self._published_s < _HEARTBEAT_S:
            return
        self._published_s = time.monotonic()
        self._published = status
        self._link.publish(self._status_topic, status.encode(), retain=True)
        self._service.tell(STATUS=f"{status.health.value}; {status.detail or 'answering'}"[:200])

    def _say_goodbye(self) -> None:
        if self._link.is_connected:
            goodbye = Status(
                health=Health.OFFLINE,
                session=self._me.session,
                time_ms=time.time() * 1e3,
                token=self._me.token,
                detail="stopped",
                counts=dict(self._lane.report.counts),
            )
            self._link.publish(self._status_topic, goodbye.encode(), retain=True)
