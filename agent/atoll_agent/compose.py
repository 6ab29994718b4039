"""The only module that sees both settings and adapters: it wires the agent together."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import structlog

from atoll_agent.adapters.children import child
from atoll_agent.adapters.clock import SystemClock
from atoll_agent.adapters.control import ControlLink
from atoll_agent.adapters.crashes import CrashRecord
from atoll_agent.adapters.edgetpu_care import Care
from atoll_agent.adapters.edgetpus import EdgeTpus
from atoll_agent.adapters.notes import NotesFile
from atoll_agent.adapters.store import KeptWindows, StateStore
from atoll_agent.adapters.unwatched import Unwatched
from atoll_agent.adapters.wire import StreamWires
from atoll_agent.decisions.exception import Exceptions
from atoll_agent.decisions.rules import Rules
from atoll_agent.lane.lane import Lane
from atoll_agent.ports import LanePlan, Line, Onlooker, Spool
from atoll_agent.rollout.fit import require_fit
from atoll_agent.rule_settings import RuleTable
from atoll_agent.settings import AgentSettings, AgentTable, EdgeTpuTable, require_changeable
from atoll_agent.supervisor import reports
from atoll_agent.supervisor.discovery import Shown
from atoll_agent.supervisor.drift import DriftWatch
from atoll_agent.supervisor.homeassistant import HomeAssistant
from atoll_agent.supervisor.loading import Loader, Wish, require_compiled
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.releases import Course, Releases
from atoll_agent.supervisor.requests import Requests
from atoll_agent.supervisor.slots import Slots
from atoll_agent.supervisor.supervisor import TRIGGERS, Reloaded, Sessions, Supervisor
from atoll_agent.supervisor.watchdog import Watchdog
from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError
from atoll_contract.topics import LabelTopic, StatusTopic
from atoll_ingest.picture import PictureDialect
from atoll_ingest.topic import without_overlaps
from atoll_link.alive_file import AliveFile
from atoll_link.session import Broker, Will
from atoll_link.systemd import Notifier

log = structlog.get_logger()

_REFRESH: Final = "atoll_agent.children.refresh"
_FETCH: Final = "atoll_agent.children.fetch"
_EXAMINE: Final = "atoll_agent.children.examine"
_REFRESH_TIMEOUT_S: Final = 120.0
_FETCH_TIMEOUT_S: Final = 300.0
"""For a turn; it is over by itself after two minutes, and a slow line has the rest for its last chunks."""
_EXAMINE_TIMEOUT_S: Final = 120.0
_ALIVE_LIMIT_S: Final = 60.0
"""A file of life is touched four times in it."""


def compose(settings: AgentSettings, path: Path) -> Supervisor:
    """Return the agent that ``settings`` describe, with its champions loaded, ready to run.

    Args:
        settings: Read from ``path``.
        path: From where they are read again at a reload.

    Raises:
        ConfigError: It is not enrolled.
        RuntimeUnavailableError: No inference runtime works here.
        StorageError: The state folder cannot be used.
    """
    agent = settings.agent
    store = StateStore(agent.state_dir)
    identity = store.identity()
    store.lock()
    broker = settings.broker.build(agent.id)
    sessions = Sessions()
    token = identity.token[:8]
    status_topic = str(StatusTopic(agent.site, agent.id))

    def will() -> Will:
        sessions.number = store.next_session()
        return Will(status_topic, reports.will(sessions.number, token).encode())

    clock = SystemClock(agent.clock)
    wires = StreamWires(broker, f"{agent.id}-lane", identity.token)
    plan = _lane_plan(settings, store)
    wires.make(plan.filters, plan.large)
    lane = Lane(
        wires,
        plan,
        site=agent.site,
        agent=agent.id,
        clock=clock,
        shown_devices=settings.homeassistant.max_sensors + 1 if settings.homeassistant.enabled else 0,
        windows=KeptWindows(store.folder),
        spool=_spool(settings, store),
        spool_after_s=settings.spool.after_s,
    )
    accelerators = EdgeTpus(_care(settings.edgetpu))
    loader = Loader(store, store, accelerators, library=settings.edgetpu.library)
    ask = _Asking(broker, store, identity.token, agent.id)
    course = Course(
        _model_plans(settings),
        Means(
            store=store,
            loader=loader,
            lane=lane,
            fetch=ask.fetch,
            examine=_examine,
            max_bundle_bytes=agent.max_bundle_bytes,
        ),
        _fingerprint(settings, loader.key),
    )
    releases = Releases(
        course.plans, Slots(store, course.fingerprint), course.means, refresh=ask.refresh, clock=clock
    )
    crashes = CrashRecord(agent.state_dir)
    homeassistant = _homeassistant(settings, store)
    requests = Requests(agent.site, agent.id, agent.trusted_writers, skip_delay=releases.skip_delay)
    link = ControlLink(
        broker,
        f"{agent.id}-control-{identity.token}",
        will=will,
        topic_filters=[*TRIGGERS, status_topic, requests.topic_filter, *homeassistant.topic_filters],
    )
    me = reports.Self(session=0, started_ms=time.time() * 1e3, token=token, version=version("atoll"))
    service = Notifier()
    beat, limit_s = _beat(service, agent.alive_file)
    supervisor = Supervisor(
        site=agent.site,
        agent=agent.id,
        me=me,
        lane=lane,
        link=link,
        releases=releases,
        sessions=sessions,
        service=service,
        clock=clock,
        watchdog=Watchdog({"lane": lambda: lane.steps, "control": lambda: link.steps}, beat, limit_s),
        reload=_Reload(
            path,
            settings,
            store=store,
            wires=wires,
            lane=lane,
            releases=releases,
            clock=clock,
            course=course,
            plan=plan,
            requests=requests,
        ),
        accelerators=accelerators,
        crashes=crashes,
        onlooker=_onlooker(settings),
        status_interval_s=agent.status_interval_s,
        requests=requests,
        homeassistant=homeassistant,
        drift=DriftWatch(lane.handover, releases.slots.predictors),
    )
    end = crashes.begin()
    with ExitStack() as stack:
        stack.enter_context(crashes)
        releases.start(end)
        loader.runtimes.any()  # without one there is nothing to wait for
        stack.pop_all()  # the supervisor notes the end
    crashes.started()
    return supervisor


def _beat(service: Notifier, alive_file: Path | None) -> tuple[Callable[[], None], float | None]:
    """Return how to tell that the agent goes on, and how long it may be silent; None: nobody listens."""
    file = None if alive_file is None else AliveFile(alive_file)

    def beat() -> None:
        service.beat()
        if file is not None:
            file.beat()

    limits = [service.watchdog_s, None if file is None else _ALIVE_LIMIT_S]
    return beat, min((limit for limit in limits if limit is not None), default=None)


def _onlooker(settings: AgentSettings) -> Onlooker:
    if settings.metrics.port is None:
        return Unwatched()
    from atoll_agent.adapters.metrics import AgentMetrics  # noqa: PLC0415 - memory that few agents need

    return AgentMetrics(settings.metrics, site=settings.agent.site, agent=settings.agent.id)


def _spool(settings: AgentSettings, store: StateStore) -> Spool | None:
    path = store.folder / "spool.db"
    if not settings.spool.enabled and not path.exists():
        return None
    from atoll_agent.adapters.spool import DiskSpool  # noqa: PLC0415 - memory that few agents need

    spool = DiskSpool(path, settings.spool.max_bytes)
    spool.open()
    if settings.spool.enabled:
        return spool
    spool.close()
    if spool.state.rows:
        log.warning("spool.left", file=str(path), predictions=spool.state.rows)
    return None


def _homeassistant(settings: AgentSettings, store: StateStore) -> HomeAssistant:
    agent, table = settings.agent, settings.homeassistant
    shown = Shown(
        agent.site,
        agent.id,
        version("atoll"),
        table.prefix,
        table.writer if table.writer in agent.trusted_writers else None,
        table.expire_after_s,
    )
    notes = NotesFile(store.folder / "homeassistant.json")
    return HomeAssistant(
        shown if table.enabled else None,
        notes,
        max_sensors=table.max_sensors,
        max_delay_s=table.max_delay_s,
    )


def decided(
    settings: AgentSettings, before: AgentSettings | None = None, plan: LanePlan | None = None
) -> tuple[dict[str, Rules], dict[str, Exceptions]]:
    """Return what decides over predictions, and which are published by exception, by model.

    What is the same as in the settings ``before``, by which ``plan`` was made, goes on as it is.
    """
    agent = settings.agent
    rules: dict[str, Rules] = {}
    exceptions: dict[str, Exceptions] = {}
    for model in settings.model:
        name = model.name
        tables = _rules_of(settings, name)
        is_same = before is not None and _rules_of(before, name) == tables
        if is_same and plan is not None and name in plan.rules:
            rules[name] = plan.rules[name]
        elif tables:
            built = [rule.build(agent.site, agent.id) for rule in tables]
            rules[name] = Rules(built, site=agent.site, agent=agent.id, max_devices=agent.max_devices)
        if plan is not None and before is not None and model in before.model and name in plan.exceptions:
            exceptions[name] = plan.exceptions[name]
        elif model.report:
            exceptions[name] = Exceptions(model.report.build(), agent.max_devices)
    return rules, exceptions


def _rules_of(settings: AgentSettings, model: str) -> list[RuleTable]:
    return [rule for rule in settings.rule if rule.model == model]


def require_champions_fit(path: Path, settings: AgentSettings, store: StateStore) -> None:
    """Refuse settings, read from ``path``, with which the agent would lose a champion that it has stored.

    Raises:
        ConfigError: With one line per champion that does not fit.
    """
    faults = []
    for plan in _model_plans(settings).values():
        stored = store.peek_champion(plan.model)
        if stored is None:
            continue
        champion, content = stored
        place = f"stream {plan.stream!r}"
        try:
            bundle = Bundle.unpack(content)
            require_fit(
                bundle.manifest,
                model=plan.model,
                release=champion.release,
                units=plan.units,
                is_shared=plan.is_shared,
            )
            place = f"accelerator {plan.wish.accelerator.value!r}"
            require_compiled(bundle, plan.wish)
        except BundleRejectedError as error:
            faults.append(
                f"{path}: model {plan.model!r}: its champion, release {champion.release}, "
                f"does not fit {place}: {error.detail} [{error.reason}]"
            )
    if faults:
        raise ConfigError(faults)


def _lane_plan(
    settings: AgentSettings,
    store: StateStore,
    before: AgentSettings | None = None,
    former: LanePlan | None = None,
) -> LanePlan:
    """Return what the lane is to do; what decides goes on where it is as in ``before`` and ``former``."""
    agent = settings.agent
    rules, exceptions = decided(settings, before, former)
    used = {model.stream for model in settings.model}
    streams = [stream.build(agent.site) for stream in settings.stream if stream.name in used]
    filters = {stream.name: stream.subscriptions for stream in streams}
    for model in settings.model:
        labels = LabelTopic.any_of(site=agent.site, model=model.name)
        filters[model.stream] = without_overlaps([*filters[model.stream], labels])
    return LanePlan(
        streams,
        filters,
        store.left_filters(filters),
        {model.name: model.stream for model in settings.model},
        agent.max_devices,
        agent.trusted_writers,
        rules,
        exceptions,
        {stream.name for stream in streams if isinstance(stream.dialect, PictureDialect)},
    )


def _model_plans(settings: AgentSettings) -> dict[str, ModelPlan]:
    agent = settings.agent
    streams = {stream.name: stream.build(agent.site) for stream in settings.stream}
    return {
        model.name: ModelPlan(
            model.name,
            model.stream,
            model.channel or agent.channel,
            streams[model.stream].units,
            streams[model.stream].is_shared,
            Wish(model.accelerator, model.device or settings.edgetpu.device),
        )
        for model in settings.model
    }


class _Reload:
    """Brings settings that have changed to the agent that runs: all of them, or none."""

    def __init__(
        self,
        path: Path,
        settings: AgentSettings,
        *,
        store: StateStore,
        wires: StreamWires,
        lane: Lane,
        releases: Releases,
        clock: SystemClock,
        course: Course,
        plan: LanePlan,
        requests: Requests,
    ) -> None:
        self._path = path
        self._settings = settings
        self._store = store
        self._wires = wires
        self._lane = lane
        self._releases = releases
        self._clock = clock
        self._course = course
        self._plan = plan
        self._requests = requests

    async def __call__(self) -> Reloaded:
        """Read the settings again and go on by them.

        Raises:
            ConfigError: They are wrong, or differ in what cannot change.
            BrokerUnavailableError: The lane is busy connecting.
        """
        before, after = self._settings, await asyncio.to_thread(self._read)
        changes = _changes(before, after)
        gone: list[str] = []
        if changes:
            plan = await asyncio.to_thread(_lane_plan, after, self._store, before, self._plan)
            answered = {model.stream for model in before.model}
            course = self._changed_course(after)
            try:
                self._wires.make((name for name in plan.filters if name not in answered), plan.large)
                gone = await self._releases.change(course, partial(self._lane.change, plan))
            finally:
                self._wires.unmake()
            self._course, self._plan = course, plan
            self._requests.trust(after.agent.trusted_writers)
            self._clock.trust(after.agent.clock)
            self._settings = after
        return Reloaded(changes, gone, after.agent.status_interval_s)

    def _read(self) -> AgentSettings:
        after = AgentSettings.read(self._path)
        require_changeable(self._path, self._settings, after)
        require_champions_fit(self._path, after, self._store)
        return after

    def _changed_course(self, settings: AgentSettings) -> Course:
        means = self._course.means
        if settings.agent.max_bundle_bytes != means.max_bundle_bytes:
            means = replace(means, max_bundle_bytes=settings.agent.max_bundle_bytes)
        return Course(_model_plans(settings), means, _fingerprint(settings, means.loader.key))


def _changes(before: AgentSettings, after: AgentSettings) -> list[str]:
    """Return in words what differs."""
    keys = AgentTable.model_fields
    changes = [f"agent.{key}" for key in keys if getattr(before.agent, key) != getattr(after.agent, key)]
    for kind in ("stream", "model", "rule"):
        old = {table.name: table for table in getattr(before, kind)}
        new = {table.name: table for table in getattr(after, kind)}
        changes += [f"{kind} {name} removed" for name in old if name not in new]
        changes += [f"{kind} {name} added" for name in new if name not in old]
        changes += [f"{kind} {name} changed" for name in new if name in old and old[name] != new[name]]
    return changes


class _Asking:
    """Starts the children that talk to the broker, each with a client id of its own."""

    def __init__(self, broker: Broker, store: StateStore, token: str, agent: str) -> None:
        self._token = token
        self._agent = agent
        self._fixed = {
            "broker": {
                key: str(value) if key.endswith("_file") and value is not None else value
                for key, value in asdict(broker).items()
            },
            "agent": agent,
            "state_dir": str(store.folder),
        }

    def refresh(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[Line]]:
        return self._child(_REFRESH, "refresh", request, _REFRESH_TIMEOUT_S)

    def fetch(self, request: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[Line]]:
        return self._child(_FETCH, "fetch", request, _FETCH_TIMEOUT_S)

    def _child(
        self, module: str, role: str, request: Mapping[str, Any], timeout_s: float
    ) -> AbstractAsyncContextManager[AsyncIterator[Line]]:
        client_id = f"{self._agent}-{role}-{self._token}"
        return child(module, {**self._fixed, "client_id": client_id, **request}, timeout_s)


def _examine(request: Mapping[str, Any]) -> AbstractAsyncContextManager[AsyncIterator[Line]]:
    return child(_EXAMINE, request, _EXAMINE_TIMEOUT_S)


def _care(table: EdgeTpuTable) -> Care:
    return Care(
        library=table.library,
        sysfs=table.sysfs_root,
        deadline_s=table.deadline_s,
        open_timeout_s=table.open_timeout_s,
        restarts_per_minute=table.restarts_per_minute,
        return_after_s=table.return_after_s,
    )


def _fingerprint(settings: AgentSettings, runtimes: str) -> str:
    """Return a digest of all that decides whether a bundle fits this device."""
    decisive = settings.model_dump_json(
        include={"agent": {"max_bundle_bytes"}, "stream": True, "model": True},
        exclude={"model": {"__all__": {"report"}}},
    )
    text = "\n".join([decisive, runtimes, version("atoll")])
    return hashlib.sha256(text.encode()).hexdigest()
