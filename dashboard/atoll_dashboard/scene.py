"""All that is known of a fleet, fed with what arrives. Bounded; pure but for the lock around it.

One thread feeds it, another one asks: both hold :attr:`Scene.lock`.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from atoll_contract.decisions import Decision
from atoll_contract.drift import DriftReport
from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.messages import (
    MAX_DETAIL_CHARS,
    Health,
    Label,
    Prediction,
    decode_prediction,
    decode_readings,
)
from atoll_contract.topics import (
    DecisionTopic,
    DriftTopic,
    LabelTopic,
    MetadataTopic,
    PredictionTopic,
    ReadingTopic,
    SlotTopic,
    StatusTopic,
    Topic,
    parse,
)
from atoll_dashboard.alarms import Alarms
from atoll_dashboard.published import TIMESTAMP, Publication
from atoll_dashboard.ring import Rate, Ring
from atoll_dashboard.tracks import (
    MOST_MODELS,
    MOST_MODELS_OF_AGENT,
    Device,
    ModelTrack,
    Told,
    in_brief,
)
from atoll_ingest.stream import Stream
from atoll_link.events import Delivery
from atoll_link.fleet import Fleet

MOST_READ_PER_S: Final = 20_000
"""Predictions, readings and labels that are looked into; the others are counted alone."""
_MOST_AGENTS: Final = 20_000
_MOST_SLOTS: Final = 256
_HISTORY_S: Final = 60
_AGENT_RATES: Final = 4096
_MOST_TOPICS: Final = 64
_SILENT_MS: Final = 60e3


@dataclass(frozen=True, slots=True)
class Line:
    """How the connection to the broker is.

    Attributes:
        is_connected: Whether it stands.
        since_ms: Since when it is so.
        detail: Why it does not, for people.
    """

    is_connected: bool
    since_ms: float
    detail: str = ""


class Scene:
    """What the pages show.

    Args:
        site: Where devices are whose topics name no site.
        foreign: Streams that are not read from atoll's own topics.
        trainer: Its site and id: whoever publishes a status and is not it is an agent.
        max_devices: Devices that are kept; the longest silent one goes.
        now_ms: The time.

    Attributes:
        lock: Held by whoever feeds or asks.
        line: How the connection to the broker is.
        fleet: Agents, with status and slots.
        drifts: What agents say of their champions' drift, by site, agent and model.
        publication: Releases that are out.
        version: Grows with whatever changes where agents stand with releases.
        alarms: What rules have raised.
        devices: By site and id, the longest silent first.
        predictions: How many predictions come.
        readings: How many readings come.
        latencies: Samples of all predictions' ``latency_ms``, by arrival.
        counts: What was counted since the start, by name.
        refused_filters: Subscriptions that the broker refuses, and why.
        refusals: Messages that could not be read, by reason, with the latest detail of each.
    """

    def __init__(
        self,
        site: str,
        foreign: Sequence[Stream] = (),
        *,
        trainer: tuple[str, str],
        max_devices: int,
        now_ms: float,
    ) -> None:
        self.lock = threading.Lock()
        self.line = Line(is_connected=False, since_ms=now_ms, detail="connecting")
        self.started_ms = now_ms
        self.fleet = Fleet()
        self.drifts: dict[tuple[str, str, str], DriftReport] = {}
        self.publication = Publication()
        self.version = 0
        self.alarms = Alarms()
        self.devices: OrderedDict[tuple[str, str], Device] = OrderedDict()
        self.predictions = Rate()
        self.readings = Rate()
        self.latencies = Ring(1024)
        self.counts: Counter[str] = Counter()
        self.refusals: dict[Reason, tuple[int, str]] = {}
        self.refused_filters: dict[str, str] = {}
        self.trainer = trainer
        self._site = site
        self._foreign = [(stream, stream.reader(max_devices)) for stream in foreign]
        self._max_devices = max_devices
        self._routes: dict[str, tuple[Device, ModelTrack | str]] = {}
        """By topic: a device, and the model that answers it or the stream of its readings."""
        self._heard_ms: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._rates: OrderedDict[tuple[str, str], Rate] = OrderedDict()
        self._history: dict[int, int] = {}
        self._second = 0
        self._read_in_second = 0

    # Feeding

    def connect(self, now_ms: float) -> None:
        """Note that the connection stands."""
        self.line = Line(is_connected=True, since_ms=now_ms)

    def disconnect(self, now_ms: float, detail: str) -> None:
        """Note that it does not."""
        if self.line.is_connected:
            self.alarms.doubt(now_ms)
        since_ms = now_ms if self.line.is_connected else self.line.since_ms
        self.line = Line(is_connected=False, since_ms=since_ms, detail=detail)

    def take(self, delivery: Delivery) -> None:
        """Take what arrived; what cannot be read is counted by reason."""
        try:
            self._take(delivery)
        except PeerError as error:
            count, _ = self.refusals.get(error.reason, (0, ""))
            detail = f"{delivery.topic}: {error.detail}"[:MAX_DETAIL_CHARS]
            self.refusals[error.reason] = (count + 1, detail)

    def _take(self, delivery: Delivery) -> None:
        route = self._routes.get(delivery.topic)
        if route is not None:
            device, to = route
            if isinstance(to, ModelTrack):
                self._take_prediction(device, to, delivery, None)
            else:
                self._take_readings(device, to, delivery)
            return
        if self._foreign and self._take_foreign(delivery):
            return
        self._take_parsed(parse(delivery.topic), delivery)

    def _take_parsed(self, topic: Topic, delivery: Delivery) -> None:
        match topic:
            case PredictionTopic():
                # Read first: what is no prediction makes no room for itself.
                prediction = decode_prediction(delivery.payload)
                self._take_prediction(*self._track(topic, delivery.arrival_ms), delivery, prediction)
            case ReadingTopic(site, name, stream):
                if not delivery.is_retained:
                    device = self._device(site, name, delivery)
                    self._route(delivery.topic, device, stream)
                    self._take_readings(device, stream, delivery)
            case LabelTopic():
                self._take_label(topic, delivery)
            case StatusTopic() | SlotTopic():
                self._take_agent(topic, delivery)
            case DriftTopic():
                self._take_drift(topic, delivery)
            case MetadataTopic():
                self.publication.take(delivery.topic, delivery.payload)
                self.version += 1
                if delivery.topic == str(TIMESTAMP):
                    self.fleet.take(delivery.topic, delivery.payload)
            case DecisionTopic():
                self._take_decision(topic, delivery)
            case _:
                self.counts["messages_ignored"] += 1

    def _take_prediction(
        self, device: Device, track: ModelTrack, delivery: Delivery, prediction: Prediction | None
    ) -> None:
        if delivery.is_retained:  # somebody stored it once: not heard now
            return
        now_s = delivery.arrival_ms / 1e3
        self.counts["predictions"] += 1
        self.predictions.add(now_s)
        track.rate.add(now_s)
        self._note(int(now_s))
        agent = (device.site, track.agent)
        rate = self._rates.get(agent)
        if rate is None:
            rate = self._rates[agent] = Rate()
            if len(self._rates) > _AGENT_RATES:
                self._rates.popitem(last=False)
        rate.add(now_s)
        self._hear(agent, delivery.arrival_ms)
        device.heard_ms = track.heard_ms = delivery.arrival_ms
        self.devices.move_to_end((device.site, device.name))
        if self._may_read(delivery):
            prediction = prediction or decode_prediction(delivery.payload)
            track.predict(prediction)
            self.latencies.append(delivery.arrival_ms, prediction.latency_ms)

    def _take_readings(self, device: Device, stream: str, delivery: Delivery) -> None:
        if delivery.is_retained:
            return
        device.heard_ms = delivery.arrival_ms
        self.devices.move_to_end((device.site, device.name))
        self._count_reading(device, delivery)
        if self._may_read(delivery):
            for reading in decode_readings(delivery.payload):
                device.read(stream, reading, delivery.arrival_ms)

    def _count_reading(self, device: Device, delivery: Delivery) -> None:
        self.counts["readings"] += 1
        self.readings.add(delivery.arrival_ms / 1e3)
        device.readings.add(delivery.arrival_ms / 1e3)

    def _take_foreign(self, delivery: Delivery) -> bool:
        """Take a reading of another dialect; False: the topic belongs to no stream of the settings."""
        is_found = False
        for stream, reader in self._foreign:
            if not stream.matches(delivery.topic):
                continue
            is_found = True
            if delivery.is_retained and not stream.use_retained:
                continue
            for told in reader.read(delivery.topic, delivery.payload, delivery.arrival_ms):
                device = self._device(self._site, told.device, delivery)
                self._count_reading(device, delivery)
                device.read(stream.name, told.reading, delivery.arrival_ms)
        return is_found

    def _take_label(self, topic: LabelTopic, delivery: Delivery) -> None:
        self.counts["labels"] += 1
        device = self.devices.get((topic.site, topic.device))
        if device is None or not self._may_read(delivery):
            return
        label = Label.decode(delivery.payload)
        for track in device.models.values():
            if track.model == topic.model:
                track.label(label)

    def _take_agent(self, topic: StatusTopic | SlotTopic, delivery: Delivery) -> None:
        name = topic.writer if isinstance(topic, StatusTopic) else topic.agent
        known = self.fleet.find(topic.site, name)
        if known is None and len(self.fleet) >= _MOST_AGENTS:
            raise MalformedMessageError(f"more than {_MOST_AGENTS} agents are not shown", Reason.OVERLOAD)
        if (
            isinstance(topic, SlotTopic)
            and known is not None
            and topic.model not in known.slots
            and len(known.slots) >= _MOST_SLOTS
        ):
            raise MalformedMessageError(f"more than {_MOST_SLOTS} slots are not shown", Reason.OVERLOAD)
        malformed = self.fleet.malformed
        was_silent = known is None or known.is_silent
        self.fleet.take(delivery.topic, delivery.payload)
        if known is None or isinstance(topic, SlotTopic) or known.is_silent is not was_silent:
            self.version += 1
        if self.fleet.malformed > malformed:
            raise MalformedMessageError("is no message of this topic")
        agent = self.fleet.find(topic.site, name)
        if agent is not None and agent.status is not None and agent.status.health is Health.OFFLINE:
            self.alarms.doubt(delivery.arrival_ms, (topic.site, name))
        if not delivery.is_retained:
            self._hear((topic.site, name), delivery.arrival_ms)

    def _take_drift(self, topic: DriftTopic, delivery: Delivery) -> None:
        key = (topic.site, topic.agent, topic.model)
        if not delivery.payload:
            self.drifts.pop(key, None)
            return
        if key not in self.drifts and len(self.drifts) >= _MOST_AGENTS:
            raise MalformedMessageError(
                f"more than {_MOST_AGENTS} drift reports are not shown", Reason.OVERLOAD
            )
        self.drifts[key] = DriftReport.decode(delivery.payload)

    def _take_decision(self, topic: DecisionTopic, delivery: Delivery) -> None:
        decision = in_brief(Decision.decode(delivery.payload))
        self.counts["decisions"] += 1
        self.alarms.take(topic, decision, delivery.arrival_ms)
        for name in {topic.device, decision.device} - {None}:
            device = self.devices.get((topic.site, str(name)))
            if device is not None:
                device.decisions.append(Told(topic.agent, topic.rule, decision))

    def _track(self, topic: PredictionTopic, now_ms: float) -> tuple[Device, ModelTrack]:
        key = (topic.site, topic.device)
        device = self.devices.get(key) or self._add(Device(*key))
        track = device.models.get((topic.agent, topic.model))
        if track is None:
            of_agent = sum(agent == topic.agent for agent, _ in device.models)
            if of_agent >= MOST_MODELS_OF_AGENT:
                raise MalformedMessageError(
                    f"more than {MOST_MODELS_OF_AGENT} models of one agent on one device are not shown",
                    Reason.OVERLOAD,
                )
            if len(device.models) >= MOST_MODELS:
                self._forget_track(device, now_ms)
            track = device.models[topic.agent, topic.model] = ModelTrack(topic.agent, topic.model)
        self._route(str(topic), device, track)
        return device, track

    def _forget_track(self, device: Device, now_ms: float) -> None:
        """Let the model that was silent for longest go."""
        silent = min(device.models.values(), key=lambda track: track.heard_ms)
        if now_ms - silent.heard_ms < _SILENT_MS:
            raise MalformedMessageError(
                f"more than {MOST_MODELS} models on one device are not shown", Reason.OVERLOAD
            )
        del device.models[silent.agent, silent.model]
        gone = [name for name in device.topics if self._routes[name] == (device, silent)]
        for name in gone:
            del self._routes[name]
            device.topics.remove(name)

    def _route(self, topic: str, device: Device, to: ModelTrack | str) -> None:
        """Remember where the messages of a topic go: that is much faster than to take it apart."""
        if len(device.topics) < _MOST_TOPICS:
            device.topics.append(topic)
            self._routes[topic] = device, to

    def _device(self, site: str, name: str, delivery: Delivery) -> Device:
        device = self.devices.get((site, name)) or self._add(Device(site, name))
        device.heard_ms = delivery.arrival_ms
        self.devices.move_to_end((site, name))
        return device

    def _add(self, device: Device) -> Device:
        """Keep a device that is new; the longest silent one makes room."""
        if len(self.devices) >= self._max_devices:
            _, silent = self.devices.popitem(last=False)
            for topic in silent.topics:
                self._routes.pop(topic, None)
            self.counts["devices_forgotten"] += 1
        self.devices[device.site, device.name] = device
        return device

    def _may_read(self, delivery: Delivery) -> bool:
        """Whether there is time to look into this one; else it is counted."""
        second = int(delivery.arrival_ns / 1e9)
        if second != self._second:
            self._second, self._read_in_second = second, 0
        self._read_in_second += 1
        if self._read_in_second <= MOST_READ_PER_S:
            return True
        self.counts["sampled_out"] += 1
        return False

    def _hear(self, agent: tuple[str, str], arrival_ms: float) -> None:
        self._heard_ms[agent] = arrival_ms
        if len(self._heard_ms) > _MOST_AGENTS:
            self._heard_ms.popitem(last=False)

    def _note(self, second: int) -> None:
        self._history[second] = self._history.get(second, 0) + 1
        if len(self._history) > 2 * _HISTORY_S:
            for old in sorted(self._history)[:_HISTORY_S]:
                del self._history[old]

    # Asking

    def history(self, now_s: float) -> list[int]:
        """Return how many predictions came in each of the last sixty seconds that are over."""
        return [self._history.get(second, 0) for second in range(int(now_s) - _HISTORY_S, int(now_s))]

    def heard_ms(self, site: str, agent: str) -> float | None:
        """Return when an agent was heard last, as far as this page knows."""
        return self._heard_ms.get((site, agent))

    def rate_of(self, site: str, agent: str, now_s: float) -> float:
        """Return how many predictions of an agent come a second."""
        rate = self._rates.get((site, agent))
        return 0.0 if rate is None else rate.per_s(now_s)
