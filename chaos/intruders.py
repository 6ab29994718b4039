"""What intruders can do, tried on a real Mosquitto with our access rules: `make chaos-intruders`.

Mutual TLS, where the name in a certificate is the user, and the rules of docs/operate/trainer.md. Four
intruders: who has a device's certificate; who has another one's, an agent's; who may write the release
topics; who replays what was said before. Each trial has what docs/understand/threat-model.md says of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.agents import AgentProcess
from support.brokers import RunningBroker, require_mosquitto
from support.bundles import make_bundle
from support.certificates import Authority
from support.releases import Trainer, held, put, topics_of
from support.spy import Spy
from world import SITE, champion, new_trainer, report, wait_for

from atoll_agent.lane.repeat import MEMORY
from atoll_link.session import Broker, Delivery, Published, Refused, Session, Subscribed
from atoll_sim.demo.ports import free_port

DOCS = Path(__file__).parents[1] / "docs" / "operate"
NAMES = ("pi", "press-1", "press-2", "trainer", "lab", "metadata")
BASE = f"atoll/v1/{SITE}"
TIMESTAMP = "atoll/v1/releases/metadata/timestamp.json"
PATIENCE_S = 60.0
CAN, CANNOT = "can", "cannot"


@dataclass
class Findings:
    """What was tried, what the threat model says, and what was seen."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def note(self, who: str, what: str, *, admitted: bool, seen: bool) -> None:
        """Enter one trial."""
        row = (who, what, CAN if admitted else CANNOT, CAN if seen else CANNOT)
        self.rows.append(row)
        print(*row, sep="; ", file=sys.stderr, flush=True)

    @property
    def surprises(self) -> list[str]:
        """What turned out otherwise."""
        return [f"{who}: {what}: {seen}" for who, what, admitted, seen in self.rows if admitted != seen]


class Place:
    """A guarded broker, an agent behind it, and a spy who sees all."""

    def __init__(self, folder: Path, broker: RunningBroker, tls_port: int, authority: Authority) -> None:
        self.folder, self.broker, self.tls_port, self.authority = folder, broker, tls_port, authority
        self.trainer: Trainer
        self.spy: Spy
        self.agent: AgentProcess
        self.findings = Findings()
        self.seq = 0
        self._fences = 0

    def reached_as(self, name: str, authority: Authority | None = None) -> Broker:
        """Return how the holder of this certificate reaches the broker."""
        files = self.authority.folder / f"{name}.pem", self.authority.folder / f"{name}.key"
        if authority is not None or not files[0].exists():
            files = (authority or self.authority).issue(name)
        cert_file, key_file = files
        return Broker(
            host="127.0.0.1",
            port=self.tls_port,
            tls=True,
            ca_file=self.authority.file,
            cert_file=cert_file,
            key_file=key_file,
        )

    def settles(self, name: str) -> str:
        """Return the topic by which ``name`` tells that all it sent before has passed the broker."""
        self._fences += 1
        return f"{BASE}/{name}/fence/{self._fences}"

    def passes(self, name: str, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Whether the broker passes on what ``name`` publishes there."""
        fence = self.settles(name)
        with intruder(self, name) as session:
            publish(session, topic, payload, retain=retain)
            publish(session, fence, b"x")
            self.spy.wait(lambda: self.spy.on(fence), "the fence", PATIENCE_S)
        return any(item.payload == payload for item in self.spy.on(topic))

    def hears(self, name: str, topic: str, payload: bytes) -> bool:
        """Whether ``name`` hears what others say there."""
        fence = self.settles(name)
        with intruder(self, name) as session:
            for topic_filter in (topic, "#", fence):
                session.subscribe(topic_filter)
            until(session, lambda seen: sum(isinstance(one, Subscribed) for one in seen) >= 3)
            with connected(Broker(host="127.0.0.1", port=self.broker.port), "others") as others:
                publish(others, topic, payload)
            seen = publish(session, fence, b"x")
            seen += until(session, lambda later: any(_is(one, fence) for one in seen + later))
        return any(_is(one, topic) for one in seen)

    def status(self) -> dict[str, Any]:
        """What the agent last said of itself."""
        found = self.spy.on(f"{BASE}/pi/status")
        return json.loads(found[-1].payload) if found else {}

    def refused(self) -> dict[tuple[str, str], int]:
        """How many messages the agent refused, by where and why, as it publishes it."""
        told = self.status().get("refusals", [])
        return {(one["where"], one["reason"]): one["count"] for one in told}

    def is_refused(self, where: str, reason: str, before: int) -> bool:
        """Whether the agent counts more than ``before`` of these within its patience."""
        return holds(lambda: self.refused().get((where, reason), 0) > before)

    def counted(self, where: str, reason: str) -> int:
        """How many of these the agent has counted."""
        return self.refused().get((where, reason), 0)


def _is(event: object, topic: str) -> bool:
    return isinstance(event, Delivery) and event.topic == topic


def holds(fact: Callable[[], object], timeout_s: float = 20.0) -> bool:
    """Whether ``fact()`` comes to hold in time."""
    try:
        wait_for(fact, "it", timeout_s)
    except TimeoutError:
        return False
    return True


@contextmanager
def connected(broker: Broker, client_id: str) -> Iterator[Session]:
    """A session that stands."""
    session = Session(broker, client_id)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not session.is_connected:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{client_id} does not connect")
            session.step(0.2)
        yield session
    finally:
        session.close()


@contextmanager
def intruder(place: Place, name: str) -> Iterator[Session]:
    """A session with the certificate of ``name``."""
    with connected(place.reached_as(name), f"intruder-{name}") as session:
        yield session


def publish(session: Session, topic: str, payload: bytes, *, retain: bool = False) -> list[object]:
    """Publish, and wait for the broker's word, whatever it says; return all that happened meanwhile."""
    number = session.publish(topic, payload, retain=retain)
    return until(
        session, lambda seen: any(isinstance(e, Published | Refused) and e.mid == number for e in seen)
    )


def until(session: Session, fact: Callable[[list[object]], bool]) -> list[object]:
    """Step until ``fact`` of all that happened holds."""
    seen: list[object] = []
    deadline = time.monotonic() + PATIENCE_S
    while not fact(seen):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {seen[-5:]}")
        seen += session.step(0.2)
    return seen


@contextmanager
def guarded(folder: Path) -> Iterator[Place]:
    """Start all of it, with one release out and answering."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "certificates")
    cert_file, key_file = authority.issue("broker")
    for name in NAMES:
        authority.issue(name)
    rules = re.search(
        r"^```\n(user trainer\n.*?)^```", (DOCS / "trainer.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert rules is not None
    (folder / "acl").write_text(rules[1])
    port, tls_port = free_port(), free_port()
    (folder / "mosquitto.conf").write_text(
        f"per_listener_settings true\nuser root\nmax_queued_messages 0\n"
        # The way of the trials themselves: it is closed to everybody else.
        f"listener {port} 127.0.0.1\nallow_anonymous true\n"
        f"listener {tls_port} 127.0.0.1\ncafile {authority.file}\ncertfile {cert_file}\nkeyfile {key_file}\n"
        f"require_certificate true\nuse_identity_as_username true\nallow_anonymous false\n"
        f"acl_file {folder / 'acl'}\n"
    )
    broker = RunningBroker(
        "mosquitto", port, [require_mosquitto(), "-c", str(folder / "mosquitto.conf")], folder
    )
    with ExitStack() as stack:
        broker.start()
        stack.callback(broker.stop)
        place = Place(folder, broker, tls_port, authority)
        place.trainer, root = new_trainer(folder)
        place.spy = stack.enter_context(Spy(port, "#"))
        place.agent = AgentProcess(folder / "agent", tls_port, root)
        text = place.agent.settings.read_text()
        place.agent.settings.write_text(
            text.replace('clock = "trusted"', 'clock = "trusted"\ntrusted_writers = ["lab"]')
        )
        start_agent(place, place.agent)
        stack.callback(place.agent.close)
        place.trainer.publish(broker, make_bundle(release=1).pack())
        wait_for(lambda: champion(place.spy) == 1, "the first release", PATIENCE_S)
        yield place


def start_agent(place: Place, agent: AgentProcess) -> None:
    """Start an agent with the certificate of ``pi``."""
    files = {"ca": place.authority.file}
    files |= {"cert": place.authority.folder / "pi.pem", "key": place.authority.folder / "pi.key"}
    named = {f"ATOLL_BROKER__{name.upper()}_FILE": str(path) for name, path in files.items()}
    agent.start(ATOLL_BROKER__TLS="true", **named)


def without_rights(place: Place) -> None:
    """Nobody that the authority does not know gets in."""
    note, who = place.findings.note, "nobody"
    stranger = Authority(place.folder / "stranger", name="a stranger's authority")
    note(who, "connect without TLS", admitted=False, seen=enters(Broker("127.0.0.1", place.tls_port)))
    plain = Broker("127.0.0.1", place.tls_port, tls=True, ca_file=place.authority.file)
    note(who, "connect without a certificate", admitted=False, seen=enters(plain))
    forged = place.reached_as("trainer", stranger)
    note(who, "connect with a certificate of another authority", admitted=False, seen=enters(forged))


def enters(broker: Broker) -> bool:
    """Whether the broker lets this client in."""
    session = Session(broker, "stranger")
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and not session.is_connected:
        session.step(0.2)
    is_in = session.is_connected
    session.close()
    return is_in


def with_a_device(place: Place) -> None:
    """Who has the certificate of a sensor, press-2."""
    note, me, who = place.findings.note, "press-2", "a device's certificate"
    forged = b'{"time_ms":1,"values":{"x":3}}'
    for what, topic, admitted in (
        ("publish its own readings", f"{BASE}/{me}/reading/press", True),
        ("the same below another site", f"atoll/v1/elsewhere/{me}/reading/press", True),
        ("publish readings of another device", f"{BASE}/press-1/reading/press", False),
        ("publish predictions", f"{BASE}/pi/prediction/press-1/wear", False),
        ("publish the status of an agent", f"{BASE}/pi/status", False),
        ("publish the slot of an agent", f"{BASE}/pi/slot/wear", False),
        ("command in the name of the trainer", f"{BASE}/trainer/command/press-1/stop", False),
        ("write release metadata", TIMESTAMP, False),
        ("write chunks of bundles", f"atoll/v1/releases/bundle/{'0' * 64}/0", False),
        ("write outside of atoll", "homeassistant/device/x/config", False),
    ):
        note(who, what, admitted=admitted, seen=place.passes(me, topic, forged, retain=False))
    for what, topic, admitted in (
        ("read readings of all", f"{BASE}/press-1/reading/press", True),
        ("read labels of all", f"{BASE}/press-1/label/press-1/other", True),
        ("read releases", "atoll/v1/releases/metadata/9.root.json", True),
        ("read predictions", f"{BASE}/pi/prediction/press-1/wear", False),
        ("read the status of agents, and so half of their tokens", f"{BASE}/other/status", False),
        ("read commands to others", f"{BASE}/trainer/command/press-1/stop", False),
        ("read requests to others", f"{BASE}/lab/request/other/skip_delay", False),
    ):
        note(who, what, admitted=admitted, seen=place.hears(me, topic, b"said"))
    before = place.counted("requests", "untrusted_writer")
    place.passes(me, f"{BASE}/{me}/request/pi/skip_delay", request())
    obeyed = not place.is_refused("requests", "untrusted_writer", before)
    note(who, "have an agent obey its request", admitted=False, seen=obeyed)
    before = place.counted("press", "untrusted_writer")
    place.passes(me, f"{BASE}/{me}/label/press-1/wear", b'{"time_ms":1,"value":7}')
    heard = not place.is_refused("press", "untrusted_writer", before)
    note(who, "label what another device measured", admitted=False, seen=heard)


def request(expires_in_s: float = 60.0) -> bytes:
    return json.dumps(
        {
            "id": hashlib.sha256(str(time.time()).encode()).hexdigest()[:16],
            "expires_ms": (time.time() + expires_in_s) * 1e3,
            "arguments": {"model": "wear"},
        }
    ).encode()


def with_an_agent(place: Place) -> None:
    """Who has stolen the certificate of the agent pi, and not its token."""
    note, who = place.findings.note, "an agent's certificate"
    prediction = b'{"time_ms":1,"value":0,"release":1,"latency_ms":0}'
    for what, topic, admitted in (
        ("publish predictions in its name", f"{BASE}/pi/prediction/press-1/wear", True),
        ("publish readings of a device", f"{BASE}/press-1/reading/press", False),
        ("command in the name of another", f"{BASE}/lab/command/press-1/stop", False),
        ("write release metadata", TIMESTAMP, False),
    ):
        note(who, what, admitted=admitted, seen=place.passes("pi", topic, prediction))
    # Its client ids end in 64 random bits that nobody is told: a guess takes no session away.
    note(who, "take its sessions away", admitted=False, seen=takes_sessions(place, "0" * 16))
    forged = {"health": "ready", "session": 999, "token": "ffffffff", "time_ms": time.time() * 1e3}
    place.passes("pi", f"{BASE}/pi/status", json.dumps(forged).encode(), retain=True)
    told = holds(lambda: place.agent.events("agent.duplicated"))
    note(who, "go unnoticed while it tells a status", admitted=False, seen=not told)
    # Who holds the device has the token too; and it shows that the trial above would have seen it.
    token = (place.agent.folder / "state" / "token").read_text().strip()
    note(f"{who} and its token", "take its sessions away", admitted=True, seen=takes_sessions(place, token))


def takes_sessions(place: Place, token: str) -> bool:
    """Whether a client with this token in its id makes the agent's lane connect anew."""
    before = connections(place)
    with connected(place.reached_as("pi"), f"pi-lane-press-{token}"):
        return holds(lambda: connections(place) > before, 5.0)


def connections(place: Place) -> int:
    """How often the lane has connected."""
    counts: dict[str, int] = place.status().get("counts", {})
    return counts.get("connections", 0)


def with_release_topics(place: Place) -> None:
    """Who may write the release topics, and has no key."""
    note, who = place.findings.note, "who may write releases"
    old = {
        topic: payload for topic, payload in held(place.broker, topics_of(place.trainer)).items() if payload
    }
    place.trainer.publish(place.broker, make_bundle(release=2, file="triple_float").pack())
    wait_for(lambda: champion(place.spy) == 2, "release 2", PATIENCE_S)
    with intruder(place, "trainer") as session:
        for topic, payload in old.items():
            publish(session, topic, payload, retain=True)
    wait_refused(place, 0)
    back = holds(lambda: champion(place.spy) == 1, 5.0)
    note(who, "put an agent back on an older release", admitted=False, seen=back)
    before = len(refused_metadata(place))
    stranger, _ = new_trainer(place.folder / "forger")
    stranger.sign(make_bundle(release=9).pack())
    with intruder(place, "trainer") as session:
        for step in stranger.repository.steps():
            for piece in step.pieces:
                publish(session, piece.topic, piece.read(), retain=True)
    wait_refused(place, before)
    forged = holds(lambda: champion(place.spy) == 9, 5.0)
    note(who, "have its own release run", admitted=False, seen=forged)
    note(who, "end the answers", admitted=False, seen=not answers(place))
    place.trainer.push(place.broker)
    bundle = make_bundle(release=3).pack()
    place.trainer.sign(bundle)
    with intruder(place, "trainer") as session:
        publish(session, TIMESTAMP, b"rubbish", retain=True)
        place.spy.wait(lambda: place.spy.on(TIMESTAMP)[-1].payload == b"rubbish", "the rubbish", PATIENCE_S)
        note(who, "hold updates back", admitted=True, seen=champion(place.spy) == 2)
    place.trainer.push(place.broker)
    mended = holds(lambda: champion(place.spy) == 3, PATIENCE_S)
    note(who, "hold them back after the trainer has published again", admitted=False, seen=not mended)
    seen = place.passes("metadata", TIMESTAMP, b"by a user named metadata", retain=True)
    note("a user who was named metadata", "write release metadata", admitted=True, seen=seen)
    place.trainer.push(place.broker)


def refused_metadata(place: Place) -> list[dict[str, Any]]:
    """Return the looks at the release topics that found them forged."""
    return [one for one in place.agent.events("repository.failed") if one["reason"] == "metadata_forged"]


def wait_refused(place: Place, before: int) -> None:
    """Wait until the agent has looked, and refused what it found."""
    wait_for(lambda: len(refused_metadata(place)) > before, "the agent to have looked", PATIENCE_S)


def answers(place: Place) -> bool:
    """Whether a reading is answered now."""
    before = len(place.spy.on("/prediction/"))
    put_reading(place)
    return holds(lambda: len(place.spy.on("/prediction/")) > before)


def put_reading(place: Place, ahead: int = 1) -> None:
    """Have press-1 send a reading whose number is so much higher than the last one's."""
    place.seq += ahead
    reading = {"time_ms": time.time() * 1e3, "values": {"x": 3.0}, "seq": place.seq, "boot": "now"}
    with connected(place.reached_as("press-1"), "press-1") as session:
        publish(session, f"{BASE}/press-1/reading/press", json.dumps(reading).encode())


def with_old_traffic(place: Place) -> None:
    """Who has kept what was said, and says it again, with the certificate that it takes."""
    note, who = place.findings.note, "who replays old traffic"
    readings = [item.payload for item in place.spy.on("/press-1/reading/press") if b'"boot"' in item.payload]
    note(
        who,
        "replay another device's readings without its certificate",
        admitted=False,
        seen=_replays(place, "press-2", readings[-1]),
    )
    note(
        who,
        "have a reading answered a second time, with its certificate",
        admitted=False,
        seen=_replays(place, "press-1", readings[-1]),
    )
    put_reading(place, ahead=MEMORY)
    note(
        who,
        f"the same with one from {MEMORY} readings ago",
        admitted=True,
        seen=_replays(place, "press-1", readings[-1]),
    )
    old = request(expires_in_s=-1)
    before = place.counted("requests", "expired")
    place.passes("lab", f"{BASE}/lab/request/pi/skip_delay", old)
    note(
        who,
        "have an old request obeyed, of a trusted writer",
        admitted=False,
        seen=not place.is_refused("requests", "expired", before),
    )
    before = place.counted("requests", "retained")
    place.passes("lab", f"{BASE}/lab/request/pi/skip_delay", request(), retain=True)
    place.agent.stop()
    start_agent(place, place.agent)
    kept = not place.is_refused("requests", "retained", 0 if before == 0 else before)
    note(who, "leave a request that is obeyed at each start", admitted=False, seen=kept)
    put(place.broker, {f"{BASE}/lab/request/pi/skip_delay": b""})
    note(who, "end the answers", admitted=False, seen=not answers(place))


def _replays(place: Place, name: str, reading: bytes) -> bool:
    before = len(place.spy.on("/prediction/"))
    place.passes(name, f"{BASE}/press-1/reading/press", reading)
    # An answer to something new comes after all answers to what was before it.
    assert answers(place)
    return len(place.spy.on("/prediction/")) > before + 1


def main() -> int:
    """Try all of it and print the table."""
    with tempfile.TemporaryDirectory(prefix="atoll-intruders-") as name, guarded(Path(name)) as place:
        for trial in (without_rights, with_a_device, with_an_agent, with_release_topics, with_old_traffic):
            trial(place)
        findings = place.findings
    print("| who | what | the threat model says | tried |")
    print("|---|---|---|---|")
    for row in findings.rows:
        print("|", " | ".join(row), "|")
    print()
    return report(
        {"trials": len(findings.rows), "otherwise": findings.surprises},
        {"nothing but what the threat model admits": not findings.surprises},
    )


if __name__ == "__main__":
    sys.exit(main())
