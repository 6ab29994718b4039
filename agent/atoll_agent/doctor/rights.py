"""Every topic that the agent will use, tried: what it reads is subscribed to, what it writes written.

A broker may grant a subscription and deliver nothing, or acknowledge a message and drop it (Mosquitto
does both with MQTT 3.1.1): only a message that comes back proves a right. The markers say nothing to
whoever gets them: an empty batch of readings, otherwise no byte; none is retained but one, on a topic
that nobody else reads, which is taken back. Without a byte a status, slot or drift report is withdrawn for
whoever hears it: those are tried on topics of a model that there is not. No shared group is joined: its
readings are others'.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from atoll_agent.doctor.finding import Finding, fault, ok, warning
from atoll_contract.release import CHUNK_BYTES, MIN_CHUNK_BYTES
from atoll_contract.topics import (
    PREFIX,
    ChunkTopic,
    CommandTopic,
    DecisionTopic,
    DriftTopic,
    LabelTopic,
    MetadataTopic,
    PredictionTopic,
    ReadingTopic,
    RequestTopic,
    ResponseTopic,
    SlotTopic,
    StatusTopic,
)
from atoll_ingest.stream import Stream
from atoll_link.packets import Level
from atoll_link.session import Delivery, Disconnected, Event, Published, Refused, Session, Subscribed

_EMPTY_BATCH: Final = b"[]"
_ANSWER_S: Final = 10.0
_MOST_SEEN: Final = 10_000
_ATTEMPTS: Final = 2
_OWN_READ: Final = f"pattern read {PREFIX}/+/%u/#"
_OWN_WRITE: Final = f"pattern write {PREFIX}/+/%u/#"
_RELEASES_READ: Final = f"pattern read {PREFIX}/releases/#"
_NOT_AUTHORIZED: Final = "Not authorized"
_RAISE_LIMIT: Final = (
    "let the broker take it (message_size_limit and max_packet_size of Mosquitto, mqtt.max_packet_size of "
    "EMQX); or "
)
_ADD_WRITE: Final = f"add to the broker's rules: {_OWN_WRITE}"


@dataclass(frozen=True, slots=True)
class Reads:
    """Something that the agent subscribes to.

    Attributes:
        what: For people.
        topic_filter: The filter.
        rule: The rule that allows it, in the words of Mosquitto.
        marker: What this agent may publish to see whether anything arrives; None: nothing.
        others: Who publishes there, for people.
        needs_others: Whether what this agent publishes proves nothing: it may be allowed to read its own.
        is_rare: Whether that nothing arrives tells nothing.
        is_due: Whether something must be there at any time.
    """

    what: str
    topic_filter: str
    rule: str
    marker: tuple[str, bytes] | None = None
    others: str = "devices"
    needs_others: bool = False
    is_rare: bool = False
    is_due: bool = False


@dataclass(frozen=True, slots=True)
class Writes:
    """Something that the agent publishes.

    Attributes:
        what: For people.
        topic: Where.
        rule: The rule that allows it, in the words of Mosquitto.
    """

    what: str
    topic: str
    rule: str = _OWN_WRITE


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings make the agent do at the broker, besides answering.

    Attributes:
        rules: Names of rules, which publish decisions.
        commands: Names of commands in atoll's own form.
        foreign: Topics of other commands, which cannot be tried: something would be switched.
        homeassistant: Discovery prefix of Home Assistant, if it is told.
    """

    rules: Sequence[str] = ()
    commands: Sequence[str] = ()
    foreign: Sequence[str] = ()
    homeassistant: str | None = None


@dataclass(frozen=True, slots=True)
class Uses:
    """All that an agent does at the broker; ``spare`` is a topic that nobody else reads."""

    reads: tuple[Reads, ...]
    writes: tuple[Writes, ...]
    untried: tuple[str, ...]
    spare: str


def uses_of(
    site: str,
    agent: str,
    streams: Sequence[Stream],
    models: Sequence[str],
    wishes: Wishes,
    *,
    has_releases: bool,
) -> Uses:
    """Return what an agent with these streams and models does at the broker.

    Args:
        site: Its site.
        agent: Its id.
        streams: The streams that its models answer.
        models: Its models.
        wishes: What else it does.
        has_releases: Whether it has seen releases before, so that they must be there.
    """
    reads = [
        _reads_stream(stream, pattern.filter, site, agent)
        for stream in streams
        for pattern in stream.patterns
    ]
    reads += [
        Reads(
            f"labels for {model}",
            LabelTopic.any_of(site=site, model=model),
            f"pattern read {PREFIX}/+/+/label/#",
            marker=(str(LabelTopic(site, agent, agent, model)), b""),
            needs_others=True,
            is_rare=True,
        )
        for model in models
    ]
    reads.append(Reads("its own status", str(StatusTopic(site, agent)), _OWN_READ, is_rare=True))
    reads += [
        Reads("releases", str(MetadataTopic(file)), _RELEASES_READ, others="the trainer", is_due=has_releases)
        for file in ("timestamp.json", "root.json")
    ]
    reads.append(Reads("bundles", str(ChunkTopic("0" * 64, 0)), _RELEASES_READ, is_rare=True))
    reads.append(
        Reads(
            "requests",
            RequestTopic.any_of(site=site, target=agent),
            f"pattern read {PREFIX}/+/+/request/%u/#",
            marker=(str(RequestTopic(site, agent, agent, "doctor")), b""),
            needs_others=True,
            is_rare=True,
        )
    )
    nobody = next(name for name in (f"doctor{'-' * n}" for n in range(len(models) + 1)) if name not in models)
    writes = [
        Writes("status and slots", str(SlotTopic(site, agent, nobody))),
        Writes("drift", str(DriftTopic(site, agent, nobody))),
    ]
    writes += [
        Writes(f"predictions of {model}", str(PredictionTopic(site, agent, agent, model))) for model in models
    ]
    writes += [
        Writes(f"decisions of {rule}", str(DecisionTopic(site, agent, agent, rule))) for rule in wishes.rules
    ]
    writes += [
        Writes(f"command {name}", str(CommandTopic(site, agent, agent, name))) for name in wishes.commands
    ]
    if (prefix := wishes.homeassistant) is not None:
        reads.append(
            Reads("Home Assistant's start", f"{prefix}/status", f"topic read {prefix}/#", is_rare=True)
        )
        # Not its topic of discovery: an empty message there takes the agent away from Home Assistant.
        spare = f"{prefix}/device/atoll_{site}_{agent}/doctor"
        writes.append(Writes("to Home Assistant", spare, f"topic write {prefix}/#"))
    spare = str(ResponseTopic(site, agent, agent, "doctor"))
    return Uses(tuple(reads), tuple(writes), tuple(wishes.foreign), spare)


def try_rights(connect: Callable[[], Session], uses: Uses, *, listen_s: float) -> Iterator[Finding]:
    """Yield what is found by trying ``uses``.

    Args:
        connect: Returns a session that is connected, of a client id that nobody else uses.
        uses: What to try.
        listen_s: How long to wait for messages that only others can publish.

    Raises:
        BrokerUnavailableError: The broker has gone.
    """
    with _Trial(connect) as trial:
        yield from _limits(trial.session)
        markers = [read.marker for read in uses.reads if read.marker is not None]
        # One after the other: a broker may end the connection of whoever writes where it may not
        # (Mosquitto before 2.0.12 does), and it must be told for which topic.
        written = [write.topic for write in uses.writes]
        payloads = {**dict.fromkeys(written, b""), **dict(markers)}
        refusals = {topic: trial.publish_alone(topic, payload) for topic, payload in payloads.items()}
        echoed = [] if trial.session.level is Level.MQTT_5 else written
        trial.renew()
        for topic_filter in dict.fromkeys([*(read.topic_filter for read in uses.reads), *echoed]):
            trial.subscribe(topic_filter)
        trial.step_until(lambda: trial.has_answered_all, _ANSWER_S)
        for topic in {*echoed, *dict(markers)}:
            if not refusals[topic]:
                trial.session.publish(topic, payloads[topic])
        trial.step_until(lambda: all(_is_heard(read, trial, refusals) for read in uses.reads), listen_s)
        trial.step_until(lambda: all(refusals[topic] or trial.seen.get(topic) for topic in echoed), listen_s)
        for write in uses.writes:
            is_echo_missing = write.topic in echoed and not trial.seen.get(write.topic)
            yield _write_finding(write, refusals[write.topic], is_echo_missing=is_echo_missing)
        for topic in uses.untried:
            rule = re.sub(r"[^/]*\$\{[^/]*", "+", topic)
            todo = f"see that the broker's rules hold: topic write {rule}"
            yield warning(f"write {topic}", "not tried: a message there could switch something", todo)
        for read in uses.reads:
            yield _read_finding(read, trial, refusals, listen_s)
        trial.renew()
        yield _try_spare(trial, uses.spare)


class _Trial:
    """The session that is tried with, made anew when the broker ends it, and what came of it.

    Attributes:
        session: The session.
        answered: Filters that the broker answered, with why it refused them, empty if it did not.
        seen: Topics on which something arrived, and whether something was just published there.
        lost: Why the connection broke, if it did.
    """

    def __init__(self, connect: Callable[[], Session]) -> None:
        self._connect = connect
        self._asked: set[str] = set()
        self._outcomes: dict[int, str] = {}
        self.answered: dict[str, str] = {}
        self.seen: dict[str, bool] = {}
        self.lost = ""

    def __enter__(self) -> Self:
        self.session = self._connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.session.close()

    def renew(self) -> None:
        """Begin again with a new connection."""
        self.session.close()
        self.session = self._connect()
        self.lost = ""

    def publish_alone(self, topic: str, payload: bytes, *, retain: bool = False) -> str:
        """Publish, and return why the broker does not take it, empty if it does."""
        for _ in range(_ATTEMPTS):
            # What the broker ended because of the message before says nothing of this one.
            if self.lost:
                self.renew()
            number = self.session.publish(topic, payload, qos=1, retain=retain)
            if number is None:
                raise RuntimeError("a session that is new has no room")
            self._outcomes.clear()
            self.step_until(lambda number=number: number in self._outcomes, _ANSWER_S)  # type: ignore[misc]
            if number in self._outcomes:
                return self._outcomes[number]
            if not self.lost:
                return f"no answer within {_ANSWER_S:g} s"
        return f"the broker ends the connection: {self.lost}"

    def subscribe(self, topic_filter: str) -> None:
        """Subscribe at QoS 0: nothing has to be acknowledged."""
        self._asked.add(topic_filter)
        self.session.subscribe(topic_filter, qos=0)

    @property
    def has_answered_all(self) -> bool:
        """Whether the broker has answered all subscriptions."""
        return self._asked <= self.answered.keys()

    def step_until(self, fact: Callable[[], bool], timeout_s: float) -> bool:
        """Step until ``fact`` is true; False: not within ``timeout_s``, or the connection broke."""
        deadline = time.monotonic() + timeout_s
        while not fact():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or self.lost:
                return False
            for event in self.session.step(min(remaining_s, 0.2)):
                self._heed(event)
        return True

    def has_heard(self, topic_filter: str, *, except_topic: str = "") -> bool:
        """Whether something has arrived that ``topic_filter`` names, on another topic than that."""
        return any(topic != except_topic and is_match(topic_filter, topic) for topic in self.seen)

    def _heed(self, event: Event) -> None:
        match event:
            case Subscribed(topic_filter, refused, detail):
                self.answered[topic_filter] = (detail or "refused") if refused else ""
            case Published(number):
                self._outcomes[number] = ""
            case Refused(number, detail):
                self._outcomes[number] = detail
            case Delivery(topic=topic, is_retained=is_retained):
                if len(self.seen) < _MOST_SEEN or topic in self.seen:
                    self.seen[topic] = self.seen.get(topic, False) or not is_retained
            case Disconnected(detail):
                self.lost = detail
            case _:
                pass


def is_match(topic_filter: str, topic: str) -> bool:
    """Whether ``topic`` is one that ``topic_filter`` names.

    >>> is_match("a/+/c/#", "a/b/c"), is_match("a/+/c", "a/b/d")
    (True, False)
    """
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        levels = levels[: len(wanted)]
    return len(wanted) == len(levels) and all(
        level in {"+", found} for level, found in zip(wanted, levels, strict=True)
    )


def _reads_stream(stream: Stream, topic_filter: str, site: str, agent: str) -> Reads:
    what = f"readings of {stream.name}"
    if topic_filter == ReadingTopic.any_of(site=site, stream=stream.name):
        marker = (str(ReadingTopic(site, agent, stream.name)), _EMPTY_BATCH)
        rule = f"pattern read {PREFIX}/+/+/reading/#"
        return Reads(what, topic_filter, rule, marker=marker, needs_others=True)
    return Reads(what, topic_filter, f"topic read {topic_filter}")


def _limits(session: Session) -> Iterator[Finding]:
    if session.level is not Level.MQTT_5:
        yield ok("broker", "it speaks MQTT 3.1.1: it tells neither its limits nor why it refuses what")
        return
    limits = session.limits
    facts = f"packets up to {limits.max_packet_bytes:,} bytes, {limits.max_inflight:,} in flight"
    if not limits.retains:
        yield fault(
            "broker", "it retains nothing", "allow retained messages: retain_available true (Mosquitto)"
        )
    elif not limits.takes_qos_1:
        yield fault("broker", "it takes QoS 0 only", "allow QoS 1: max_qos 1 (Mosquitto)")
    else:
        yield ok("broker", facts)


def _write_finding(write: Writes, refusal: str, *, is_echo_missing: bool) -> Finding:
    check = f"write {write.what}"
    if refusal:
        return fault(check, f"{write.topic}: {refusal}", f"add to the broker's rules: {write.rule}")
    if is_echo_missing:  # with MQTT 3.1.1 an acknowledgement proves nothing
        rules = f"{write.rule} and {write.rule.replace(' write ', ' read ')}"
        return fault(check, f"{write.topic}: acknowledged, and lost", f"add to the broker's rules: {rules}")
    return ok(check, write.topic)


def _is_heard(read: Reads, trial: _Trial, refusals: Mapping[str, str]) -> bool:
    """Whether there is nothing more to wait for."""
    own = "" if read.marker is None else read.marker[0]
    if read.is_rare:
        return not own or bool(refusals[own]) or trial.has_heard(read.topic_filter)
    return trial.has_heard(read.topic_filter, except_topic=own if read.needs_others else "")


def _read_finding(read: Reads, trial: _Trial, refusals: Mapping[str, str], listen_s: float) -> Finding:
    check, shown = f"read {read.what}", read.topic_filter
    todo = f"add to the broker's rules: {read.rule}"
    refusal = trial.answered.get(read.topic_filter, trial.lost or "no answer")
    if refusal:
        return fault(check, f"{shown}: {refusal}", todo)
    own = "" if read.marker is None else read.marker[0]
    if trial.has_heard(shown, except_topic=own if read.needs_others else ""):
        return ok(check, shown)
    if read.is_due:
        return fault(check, f"{shown}: granted, and nothing arrives, though releases were there", todo)
    if own and not refusals[own] and not trial.has_heard(shown):
        return fault(check, f"{shown}: granted, and what is published there does not arrive", todo)
    if read.is_rare:
        return ok(check, f"{shown}: granted")
    nothing = f"{shown}: granted; from others nothing arrived within {listen_s:g} s"
    return warning(check, nothing, f"if {read.others} published meanwhile, {todo}")


def _try_spare(trial: _Trial, topic: str) -> Finding:
    """Try whether messages are retained, and as long as a chunk, on a topic that nobody else uses."""
    length = min(CHUNK_BYTES, trial.session.limits.most_payload_bytes(topic))
    size = f"{length:,} bytes"
    if length < MIN_CHUNK_BYTES:
        return fault(
            "retain", f"the broker takes {size} in a message; a chunk has {MIN_CHUNK_BYTES:,}", _RAISE_LIMIT
        )
    refusal = trial.publish_alone(topic, bytes(length), retain=True)
    if refusal:
        todo = "" if refusal == _NOT_AUTHORIZED else _RAISE_LIMIT
        return fault("retain", f"{topic}: {refusal} ({size}, retained)", f"{todo}{_ADD_WRITE}")
    trial.subscribe(topic)
    has_come = trial.step_until(lambda: topic in trial.seen, _ANSWER_S / 2) and not trial.seen[topic]
    trial.publish_alone(topic, b"", retain=True)
    if has_come:
        return ok("retain", f"a message of {size} was retained, and taken back")
    todo = (
        f"let the broker retain {size} (message_size_limit and retain_available of Mosquitto, "
        "retainer.max_payload_size of EMQX), or set chunk_bytes of the trainer to less; or this user may not "
        f"read there: {_OWN_READ}"
    )
    return fault("retain", f"{topic}: a message of {size} was acknowledged, and is not there", todo)
