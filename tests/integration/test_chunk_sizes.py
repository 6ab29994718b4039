"""How long the chunks of a release are, and what comes of a broker that takes shorter messages."""

from __future__ import annotations

import hashlib
from pathlib import Path

from support import brokers
from support.operator import Operator
from support.releases import (
    Trainer,
    chunk_topics_of,
    held,
    install,
    make_bundle,
    newest,
    topics_of,
)

from atoll_contract.release import CHUNK_BYTES
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_link.exits import Exit

LIMIT = 20_000
LARGE = 100_000
TIMESTAMP = str(MetadataTopic("timestamp.json"))


def large(operator: Operator, release: int) -> Path:
    path = operator.folder / f"large-{release}.atoll"
    path.write_bytes(make_bundle(release=release, size=LARGE))
    return path


def test_chunks_are_as_long_as_the_broker_announces(tmp_path: Path) -> None:
    with brokers.mosquitto(tmp_path / "broker", f"max_packet_size {LIMIT}") as broker:
        operator = Operator.with_keys(tmp_path, broker)

        published = operator.run("publish", large(operator, 1))

        assert published.returncode == Exit.SUCCESS, published.stderr
        trainer = Trainer(operator.home)
        assert LIMIT - 200 < newest(operator.seen_by_a_device()).chunk_size < LIMIT - 100
        assert install(broker, tmp_path / "device", trainer.root) == make_bundle(size=LARGE)


def test_what_the_broker_does_not_keep_is_not_signed_and_published_in_smaller_chunks(tmp_path: Path) -> None:
    with brokers.mosquitto(tmp_path / "broker", f"message_size_limit {LIMIT}") as broker:  # not announced
        operator = Operator.with_keys(tmp_path, broker)
        operator.publish(1)
        assert newest(operator.seen_by_a_device()).chunk_size == CHUNK_BYTES
        before = operator.versions()

        refused = operator.run("publish", large(operator, 2))

        assert refused.returncode == Exit.FAILURE
        assert "nothing was signed" in refused.stderr
        assert "chunk_bytes" in refused.stderr
        assert operator.versions() == before
        sha256 = hashlib.sha256(large(operator, 2).read_bytes()).hexdigest()
        assert not any(held(broker, [str(ChunkTopic(sha256, number)) for number in range(3)]).values())
        resigned = operator.run("resign")
        assert resigned.returncode == Exit.SUCCESS, resigned.stderr

        settings = operator.settings.read_text()
        operator.settings.write_text(settings.replace("[trainer]\n", "[trainer]\nchunk_bytes = 16384\n"))
        published = operator.run("publish", large(operator, 2))

        assert published.returncode == Exit.SUCCESS, published.stderr
        assert newest(operator.seen_by_a_device()).chunk_size == 16_384


def test_a_key_that_is_missing_is_told_before_any_chunk_is_put(tmp_path: Path) -> None:
    with brokers.mosquitto(tmp_path / "broker") as broker:
        operator = Operator.with_keys(tmp_path, broker)
        [key] = (operator.home / "keys").glob("online-*.pem")
        key.rename(tmp_path / key.name)

        refused = operator.publish(1)

        assert refused.returncode == Exit.SETTINGS
        bundle = operator.bundle(1).read_bytes()
        assert not any(held(broker, _topics_of(tmp_path, bundle)).values())


def _topics_of(folder: Path, bundle: bytes) -> list[str]:
    """Return the chunk topics of a bundle as another trainer would sign it."""
    trainer = Trainer.create(folder / "stranger")
    trainer.sign(bundle)
    return chunk_topics_of(trainer, "press/1.atoll")


def test_a_bundle_that_the_broker_does_not_take_any_more_holds_up_nothing_else(tmp_path: Path) -> None:
    trainer = Trainer.create(tmp_path / "home")
    trainer.sign(make_bundle("large", size=LARGE), chunk_size=CHUNK_BYTES)
    trainer.sign(make_bundle())
    with brokers.mosquitto(tmp_path / "broker", f"max_packet_size {LIMIT}") as broker:
        operator = Operator(tmp_path, broker)
        before = operator.versions()["timestamp"]

        resigned = operator.run("resign")

        assert resigned.returncode == Exit.SUCCESS, resigned.stderr
        assert "atoll-trainer withdraw large 1 takes it back" in resigned.stderr
        assert operator.run("republish").returncode == Exit.FAILURE
        assert operator.versions()["timestamp"] == before + 1
        lacking = {topic for topic, payload in held(broker, topics_of(trainer)).items() if not payload}
        assert lacking
        assert lacking <= set(chunk_topics_of(trainer, "large/1.atoll"))
        assert install(broker, tmp_path / "device", trainer.root) == make_bundle()
