"""The only module that sees both settings and adapters: it wires the agent together."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from atoll_agent.adapters.children import child
from atoll_agent.adapters.clock import SystemClock
from atoll_agent.adapters.control import ControlLink
from atoll_agent.adapters.store import StateStore
from atoll_agent.adapters.systemd import Notifier
from atoll_agent.adapters.wire import StreamWires
from atoll_agent.lane.lane import Lane
from atoll_agent.ports import Line
from atoll_agent.settings import AgentSettings
from atoll_agent.supervisor import reports
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.releases import Releases
from atoll_agent.supervisor.slots import Slots
from atoll_agent.supervisor.supervisor import TRIGGERS, Sessions, Supervisor
from atoll_contract.topics import LabelTopic, StatusTopic
from atoll_infer.runtime import choose_runtime
from atoll_ingest.topic import without_overlaps
from atoll_link.session import Broker, Will

_REFRESH: Final = "atoll_agent.children.refresh"
_FETCH: Final = "atoll_agent.children.fetch"
_EXAMINE: Final = "atoll_agent.children.examine"
_REFRESH_TIMEOUT_S: Final = 120.0
_FETCH_TIMEOUT_S: Final = 300.0
"""For a turn; it is over by itself after two minutes, and a slow line has the rest for its last chunks."""
_EXAMINE_TIMEOUT_S: Final = 120.0


def compose(settings: AgentSettings) -> Supervisor:
    """Return the agent that ``settings`` describe, with its champions loaded, ready to run.

    Raises:
        ConfigError: It is not enrolled.
        RuntimeUnavailableError: No inference runtime works here.
        StorageError: The state folder cannot be used.
    """
    agent = settings.agent
    store = StateStore(agent.state_dir)
    identity = store.identity()
    store.lock()
    chosen = choose_runtime()
    broker = settings.broker.build(agent.id)
    sessions = Sessions()
    token = identity.token[:8]
    status_topic = str(StatusTopic(agent.site, agent.id))

    def will() -> Will:
        sessions.number = store.next_session()
        return Will(status_topic, reports.will(sessions.number, token).encode())

    streams = [stream.build(agent.site) for stream in settings.stream]
    used = {model.stream for model in settings.model}
    answered = [stream for stream in streams if stream.name in used]
    filters = {stream.name: stream.subscriptions for stream in answered}
    for model in settings.model:
        labels = LabelTopic.any_of(site=agent.site, model=model.name)
        filters[model.stream] = without_overlaps([*filters[model.stream], labels])
    clock = SystemClock(agent.clock)
    wires = StreamWires(broker, f"{agent.id}-lane", identity.token, filters, left=store.left_filters(filters))
    lane = Lane(
        wires.by_stream,
        wires,
        answered,
        {model.name: model.stream for model in settings.model},
        site=agent.site,
        agent=agent.id,
        max_devices=agent.max_devices,
        clock=clock,
        trusted_writers=agent.trusted_writers,
    )
    link = ControlLink(
        broker,
        f"{agent.id}-control-{identity.token}",
        will=will,
        topic_filters=[*TRIGGERS, status_topic],
    )
    by_name = {stream.name: stream for stream in streams}
    plans = {
        model.name: ModelPlan(
            model.name,
            model.channel or agent.channel,
            by_name[model.stream].units,
            by_name[model.stream].is_shared,
        )
        for model in settings.model
    }
    ask = _Asking(broker, store, identity.token, agent.id)
    releases = Releases(
        plans,
        Slots(store, _fingerprint(settings, chosen.runtime.name)),
        Means(
            store=store,
            runtime=chosen.runtime,
            lane=lane,
            fetch=ask.fetch,
            examine=_examine,
            max_bundle_bytes=agent.max_bundle_bytes,
        ),
        refresh=ask.refresh,
        clock=clock,
    )
    me = reports.Self(
        session=0, started_ms=time.time() * 1e3, token=token, version=version("atoll"), backend_why=chosen.why
    )
    supervisor = Supervisor(
        site=agent.site,
        agent=agent.id,
        me=me,
        lane=lane,
        link=link,
        releases=releases,
        sessions=sessions,
        service=Notifier(),
        clock=clock,
        status_interval_s=agent.status_interval_s,
    )
    releases.start()
    return supervisor


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


def _fingerprint(settings: AgentSettings, runtime: str) -> str:
    """Return a digest of all that decides whether a bundle fits this device."""
    decisive = settings.model_dump_json(
        include={"agent": {"max_bundle_bytes"}, "stream": True, "model": True}
    )
    text = "\n".join([decisive, runtime, version("atoll")])
    return hashlib.sha256(text.encode()).hexdigest()
