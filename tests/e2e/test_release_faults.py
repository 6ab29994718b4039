"""One agent lives through every fault of delivery, one after the other, while readings go on.

Each step prints what became of the release: refused or waited for, then healed. The champion answers
every reading all the time. What the verifier alone decides is in tests/integration/test_release_*.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from support import brokers
from support.agents import AgentProcess
from support.brokers import RunningBroker
from support.bundles import make_bundle
from support.feeder import Feeder
from support.pen import Pen
from support.releases import Trainer, chunk_topics_of, held, put, topics_of
from support.spy import Spy
from tuf.api.metadata import Snapshot, Timestamp

from atoll_contract.errors import Reason
from atoll_contract.messages import SlotStatus
from atoll_contract.topics import MetadataTopic, PredictionTopic, ReadingTopic, SlotTopic
from atoll_trainer.cli import main as trainer_main
from atoll_trainer.keys import KeyName

SITE = "site"
PATIENCE_S = 60.0


class Life:
    """An agent with a champion, its readings, and hands on the release topics."""

    def __init__(
        self, broker: RunningBroker, trainer: Trainer, agent: AgentProcess, spy: Spy, feeder: Feeder
    ) -> None:
        self.broker, self.trainer, self.agent, self.spy, self.feeder = broker, trainer, agent, spy, feeder
        self.release = 0

    # What is published

    def sign(self) -> int:
        """Sign the next release; nothing is pushed."""
        self.release += 1
        file = ("linear_float", "triple_float")[self.release % 2]
        self.trainer.sign(make_bundle(release=self.release, file=file).pack(), chunk_size=1024)
        return self.release

    def put_all(self, instead: Mapping[str, bytes]) -> None:
        """Publish what is signed, in order, but for some topics."""
        pieces = [piece for step in self.trainer.repository.steps() for piece in step.pieces]
        put(self.broker, {**{piece.topic: piece.read() for piece in pieces}, **instead})

    def trainer_says(self, *words: str) -> None:
        home = self.trainer.folder
        settings = home.parent / "trainer.toml"
        settings.write_text(
            f'[trainer]\nsite = "{SITE}"\nhome = "{home}"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {self.broker.port}\n'
        )
        assert trainer_main([*words, "--settings", str(settings), "--log-level", "error"]) == 0

    def chunks(self) -> list[str]:
        return chunk_topics_of(self.trainer, f"wear/{self.release}.atoll")

    # What the agent says

    def slot(self) -> SlotStatus | None:
        found = self.spy.on("/slot/wear")
        return SlotStatus.decode(found[-1].payload) if found else None

    def wait(self, fact: Callable[[SlotStatus], object], what: str) -> None:
        self.spy.wait(lambda: (slot := self.slot()) is not None and fact(slot), what, PATIENCE_S)

    def wait_champion(self, release: int) -> None:
        self.wait(
            lambda slot: slot.champion and slot.champion.release == release and not slot.challenger,
            f"release {release} as champion",
        )

    def wait_note(self, reason: Reason) -> None:
        self.wait(lambda slot: slot.note is reason, f"the note {reason}")

    def wait_failure(self, reason: Reason) -> None:
        self.wait(lambda slot: slot.challenger and slot.challenger.reason is reason, f"failed by {reason}")

    def answered(self) -> list[int]:
        found = self.spy.on("/prediction/")
        return [json.loads(item.payload)["seq"] for item in found]

    def require_all_answered(self) -> None:
        """Every reading so far has its prediction, and only one."""
        sent = self.feeder.sent
        self.spy.wait(lambda: len(self.answered()) >= sent, f"{sent} predictions", PATIENCE_S)
        numbers = [number for number in self.answered() if number <= sent]
        assert sorted(numbers) == list(range(1, sent + 1))


Step = Callable[[Life], str]


def first_install_update_and_no_change(life: Life) -> str:
    life.sign()
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    life.trainer.push(life.broker)
    put(life.broker, held(life.broker, [str(MetadataTopic("timestamp.json"))]))
    return "installed, updated; said again: nothing fetched"


def an_old_release_is_replayed(life: Life) -> str:
    old = held(life.broker, topics_of(life.trainer))
    new = life.sign()
    life.trainer.push(life.broker)
    life.wait_champion(new)
    put(life.broker, {topic: payload for topic, payload in old.items() if payload})
    life.wait_note(Reason.METADATA_FORGED)
    life.trainer.push(life.broker)
    life.wait(lambda slot: slot.note is None, "no trouble")
    return "refused as forged, the newer one kept; healed by the next push"


def a_freeze_past_expiry(life: Life) -> str:
    pen = Pen(life.trainer)
    pen.sign(Timestamp.type, pen.key(KeyName.ONLINE), expires_in=timedelta(days=-1))
    put(life.broker, pen.topics)
    life.wait_note(Reason.METADATA_EXPIRED)
    pen.sign(Timestamp.type, pen.key(KeyName.ONLINE))
    put(life.broker, pen.topics)
    life.wait(lambda slot: slot.note is None, "no trouble")
    path = life.trainer.folder / "repository" / "metadata" / "timestamp.json"
    path.write_bytes(pen.topics[pen.topic(Timestamp.type)])
    return "told as expired, kept; healed by a new signature"


def an_old_snapshot_under_a_new_name(life: Life) -> str:
    old = held(life.broker, [Pen(life.trainer).topic(Snapshot.type)])
    life.sign()
    name = Pen(life.trainer).topic(Snapshot.type)
    life.put_all({name: next(iter(old.values())) or b""})
    life.wait_note(Reason.METADATA_FORGED)
    life.trainer.push(life.broker)
    put(life.broker, held(life.broker, [str(MetadataTopic("timestamp.json"))]))
    life.wait_champion(life.release)
    return "refused as forged; healed by publishing again"


def a_timestamp_before_its_snapshot(life: Life) -> str:
    life.sign()
    life.put_all({Pen(life.trainer).topic(Snapshot.type): b""})
    life.wait_note(Reason.NO_REPOSITORY)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "waited for; healed when it came"


def metadata_signed_by_wrong_keys(life: Life) -> str:
    attacker = Trainer.create(life.trainer.folder.parent / "attacker")
    for number in range(1, 4):
        attacker.sign(make_bundle(release=number).pack())
    ours = held(life.broker, topics_of(life.trainer))
    put(
        life.broker,
        {piece.topic: piece.read() for step in attacker.repository.steps() for piece in step.pieces},
    )
    life.wait_note(Reason.METADATA_FORGED)
    put(life.broker, {topic: payload for topic, payload in ours.items() if payload})
    life.wait(lambda slot: slot.note is None, "no trouble")
    return "refused as forged; healed when ours were put back"


def the_next_root_of_an_attacker(life: Life) -> str:
    attacker = Trainer.create(life.trainer.folder.parent / "usurper")
    attacker.rotate_root()
    pen = Pen(attacker)
    ours = held(life.broker, [str(MetadataTopic("root.json"))])
    content = pen.topic("root"), (attacker.folder / "repository/metadata/2.root.json").read_bytes()
    put(life.broker, {content[0]: content[1], str(MetadataTopic("root.json")): content[1]})
    life.wait_note(Reason.METADATA_FORGED)
    put(life.broker, {content[0]: b"", **{topic: payload or b"" for topic, payload in ours.items()}})
    life.wait(lambda slot: slot.note is None, "no trouble")
    return "refused as forged; healed when it was taken away"


def a_tampered_chunk(life: Life) -> str:
    life.sign()
    life.put_all({life.chunks()[1]: bytes(1024)})
    life.wait_failure(Reason.DIGEST_MISMATCH)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "fetched twice, refused by its digest; healed by publishing again"


def a_chunk_that_is_far_too_long(life: Life) -> str:
    life.sign()
    life.put_all({life.chunks()[1]: bytes(200_000)})
    life.wait_failure(Reason.DIGEST_MISMATCH)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "dropped at the signed length; healed by publishing again"


def a_chunk_that_is_cut_short(life: Life) -> str:
    life.sign()
    life.put_all({life.chunks()[1]: bytes(10)})
    life.wait_failure(Reason.DIGEST_MISMATCH)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "refused by its size; healed by publishing again"


def versions_pushed_ahead_with_a_stolen_online_key(life: Life) -> str:
    thief = Pen(life.trainer)
    thief.sign(Timestamp.type, thief.key(KeyName.ONLINE), version=1_000_000)
    put(life.broker, thief.topics)
    known = life.agent.folder / "state" / "metadata" / "timestamp.json"
    seen = b'"version":1000000'
    life.spy.wait(lambda: seen in known.read_bytes(), "the thief's timestamp", PATIENCE_S)
    life.sign()
    life.put_all({})
    life.wait_note(Reason.METADATA_FORGED)
    life.trainer_says("keys", "rotate", "online", "--stolen")
    life.wait_champion(life.release)
    return "ours refused as forged, theirs names nothing new; healed by a new root"


def three_new_roots_and_a_lost_timestamp_while_it_is_away(life: Life) -> str:
    life.feeder.pause()
    life.require_all_answered()
    life.agent.stop()
    for _ in range(3):
        life.trainer.rotate_root()
    life.sign()
    metadata = life.agent.folder / "state" / "metadata"
    (metadata / "timestamp.json").unlink()
    life.trainer.push(life.broker)
    life.agent.start()
    life.wait_champion(life.release)
    newest = Pen(life.trainer).roles["root"].signed.version
    assert (metadata / "root_history" / f"{newest}.root.json").exists()
    life.feeder.go_on()
    return "followed, root by root"


def a_chunk_of_another_model(life: Life) -> str:
    life.trainer.sign(make_bundle("other", release=life.release + 1).pack(), chunk_size=1024)
    other = f"other/{life.release + 1}.atoll"
    life.trainer.push(life.broker)
    life.sign()
    theirs = held(life.broker, chunk_topics_of(life.trainer, other))
    life.put_all(dict(zip(life.chunks(), (payload or b"" for payload in theirs.values()), strict=False)))
    life.wait_failure(Reason.DIGEST_MISMATCH)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "refused by its digest; healed by publishing again"


def a_missing_chunk(life: Life) -> str:
    life.sign()
    life.put_all({life.chunks()[1]: b""})
    life.wait(lambda slot: slot.challenger and slot.challenger.phase == "fetching", "a fetch")
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "waited for; healed when it came"


def a_publisher_that_died(life: Life) -> str:
    before = life.release
    life.sign()
    for step in life.trainer.repository.steps():
        if step.name != "timestamp":
            put(life.broker, {piece.topic: piece.read() for piece in step.pieces})
            slot = life.slot()
            assert slot is not None
            assert slot.champion is not None
            assert slot.champion.release == before
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "not seen before its last step; healed by publishing again"


def all_retained_topics_deleted(life: Life) -> str:
    life.sign()
    put(life.broker, dict.fromkeys(topics_of(life.trainer), b""))
    put(life.broker, {str(MetadataTopic("root.json")): b""})
    life.wait_note(Reason.NO_REPOSITORY)
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    return "told as no repository, kept; healed by publishing again"


def the_broker_restarts(life: Life) -> str:
    """Mosquitto comes back with its database, amqtt empty: then the trainer publishes again."""
    life.feeder.pause()
    life.require_all_answered()
    seen = len(life.spy.on("/status"))
    life.broker.stop()
    life.broker.start()
    life.sign()
    life.trainer.push(life.broker)
    life.wait_champion(life.release)
    life.spy.wait(
        lambda: any(json.loads(item.payload)["health"] == "ready" for item in life.spy.on("/status")[seen:]),
        "a ready agent",
        PATIENCE_S,
    )
    life.feeder.go_on()
    return "kept; " + (
        "retained topics came back" if life.broker.kind == "mosquitto" else "healed by publishing again"
    )


STEPS: tuple[Step, ...] = (
    first_install_update_and_no_change,
    an_old_release_is_replayed,
    a_freeze_past_expiry,
    an_old_snapshot_under_a_new_name,
    a_timestamp_before_its_snapshot,
    metadata_signed_by_wrong_keys,
    the_next_root_of_an_attacker,
    a_tampered_chunk,
    a_chunk_that_is_far_too_long,
    a_chunk_that_is_cut_short,
    a_chunk_of_another_model,
    a_missing_chunk,
    a_publisher_that_died,
    versions_pushed_ahead_with_a_stolen_online_key,
    three_new_roots_and_a_lost_timestamp_while_it_is_away,
    all_retained_topics_deleted,
    the_broker_restarts,
)

ALIKE = {a_chunk_that_is_far_too_long, a_chunk_that_is_cut_short, a_chunk_of_another_model}
"""To the agent each of them is a tampered chunk; how they are told apart is the verifier's own affair."""


@pytest.fixture
def lasting_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    """A Mosquitto that stores what it retains, and an amqtt, which cannot."""
    folder = tmp_path / "broker"
    if request.param == "amqtt":
        with brokers.amqtt(folder) as broker:
            yield broker
    else:
        with brokers.mosquitto(folder, "persistence true", f"persistence_location {folder}/") as broker:
            yield broker


@pytest.mark.timeout(480)
@pytest.mark.parametrize(
    ("lasting_broker", "steps"),
    [
        ("mosquitto", [step for step in STEPS if step not in ALIKE]),
        pytest.param("amqtt", STEPS, marks=pytest.mark.long),
    ],
    ids=["mosquitto", "amqtt"],
    indirect=["lasting_broker"],
)
def test_the_champion_answers_every_reading_through_every_fault_of_delivery(
    lasting_broker: RunningBroker, steps: Sequence[Step], tmp_path: Path
) -> None:
    trainer = Trainer.create(tmp_path / "trainer")
    root = tmp_path / "root.json"
    root.write_bytes(trainer.root)
    agent = AgentProcess(tmp_path / "agent", lasting_broker.port, root)
    reading = str(ReadingTopic(site=SITE, device="press-1", stream="press"))
    own = [PredictionTopic.any_of(site=SITE, agent="pi"), SlotTopic.any_of(site=SITE, agent="pi")]
    with (
        Spy(lasting_broker.port, *own, f"atoll/v1/{SITE}/pi/status") as spy,
        Feeder(lasting_broker.port, reading) as feeder,
    ):
        life = Life(lasting_broker, trainer, agent, spy, feeder)
        try:
            agent.start()
            life.sign()
            trainer.push(lasting_broker)
            life.wait_champion(1)
            feeder.go_on()
            for step in steps:
                started_s = time.monotonic()
                outcome = step(life)
                life.require_all_answered()
                shown = step.__name__.replace("_", " ")
                print(f"{shown:40} {outcome} ({time.monotonic() - started_s:.1f} s)")  # noqa: T201 - the table
        finally:
            agent.close()
            print(agent.log.read_text()[-6000:])  # noqa: T201 - for a failure
