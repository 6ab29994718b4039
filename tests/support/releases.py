"""Bundles of any size, a trainer's home, devices, and hands on the retained topics themselves."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from support.brokers import RunningBroker
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from atoll_agent.adapters.delivery import fetch_bundle
from atoll_agent.adapters.repository import ReleaseRepository
from atoll_agent.rollout.release import Release, choose
from atoll_contract.bundle import MAX_BUNDLE_BYTES, Bundle, Golden, GoldenCase
from atoll_contract.manifest import Dtype, Manifest, Normalisation, Task, TensorSpec, ValueSpec
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import MetadataTopic
from atoll_link.retained import RetainedTopics, Wanted, open_topics
from atoll_link.session import Broker
from atoll_trainer.keys import KeyName, KeyRing, create_key
from atoll_trainer.metadata import KEY_OF
from atoll_trainer.publisher import Deadlines as PublisherDeadlines
from atoll_trainer.publisher import Progress, Publisher, Summary
from atoll_trainer.repository import Repository
from atoll_trainer.trust import change_root

EAGER = PublisherDeadlines(probe_s=0.2)
"""For publishers on loopback."""

SMALL_CHUNK = 1024


def utc_now() -> datetime:
    """Return the wall clock's time."""
    return datetime.now(UTC)


def make_bundle(model: str = "press", release: int = 1, size: int = 5000) -> bytes:
    """Return a valid bundle whose model file is ``size`` bytes that differ from release to release."""
    tensor = TensorSpec(shape=[1, 1], dtype=Dtype.FLOAT32)
    manifest = Manifest(
        model=model,
        release=release,
        task=Task.REGRESSION,
        values=[ValueSpec(name="temperature", unit="°C")],
        features=["temperature"],
        normalisation=Normalisation(mean=[0.0], scale=[1.0]),
        inputs=[tensor],
        outputs=[tensor],
    )
    content = random.Random(f"{model}/{release}").randbytes(size)
    golden = Golden(cases=[GoldenCase(samples=[[0.0]], output=[0.0])])
    return Bundle(manifest, content, golden).pack()


def broker_of(running: RunningBroker) -> Broker:
    """Return how to reach ``running``."""
    return Broker(host="127.0.0.1", port=running.port)


@dataclass(frozen=True)
class Trainer:
    """A trainer with keys and a repository of its own."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, now: datetime | None = None) -> Trainer:
        """Make keys and an empty repository."""
        keys = folder / "keys"
        keys.mkdir(parents=True)
        signers = {name: create_key(keys, name) for name in KeyName}
        Repository.create(folder / "repository", signers, now or utc_now())
        return cls(folder)

    @property
    def repository(self) -> Repository:
        """The repository as it is on disk now."""
        return Repository.load(self.folder / "repository")

    @property
    def ring(self) -> KeyRing:
        """The keys."""
        return KeyRing((self.folder / "keys",))

    @property
    def root(self) -> bytes:
        """The first root: what devices are enrolled with."""
        return (self.folder / "repository" / "metadata" / "1.root.json").read_bytes()

    def sign(
        self, bundle: bytes, now: datetime | None = None, *, chunk_size: int = SMALL_CHUNK, **terms: int | str
    ) -> Repository:
        """Add ``bundle`` and sign; nothing is pushed."""
        manifest = Bundle.unpack(bundle).manifest
        repository = self.repository
        named = {"model": manifest.model, "release": manifest.release, "chunk_size": chunk_size}
        repository.add(ReleaseTerms.decode({**named, **terms}), bundle)
        repository.commit(self.ring, now or utc_now())
        return repository

    def push(self, broker: RunningBroker, progress: Callable[[Progress], None] | None = None) -> Summary:
        """Push what is signed."""
        with Publisher(broker_of(broker), "trainer", deadlines=EAGER) as publisher:
            return publisher.push(self.repository.steps(), progress=progress)

    def publish(
        self, broker: RunningBroker, bundle: bytes, now: datetime | None = None, **terms: int | str
    ) -> Summary:
        """Sign and push."""
        self.sign(bundle, now, **terms)  # type: ignore[arg-type]
        return self.push(broker)

    def age(self, by: timedelta) -> None:
        """Make all files that much older."""
        for path in (self.folder / "repository").rglob("*.*"):
            written_s = path.stat().st_mtime - by.total_seconds()
            os.utime(path, (written_s, written_s))

    def withdraw_trainer(self) -> None:
        """Sign targets that leave nothing to the trainer role."""
        metadata = self.repository.metadata
        metadata.targets.delegations = None
        for role in (Targets.type, Snapshot.type, Timestamp.type):
            metadata.sign(role, [self.ring.signer(KEY_OF[role], metadata.quorum(role)[0])], utc_now())

    def rotate_root(self, now: datetime | None = None) -> None:
        """Write the next root, with a new root key, signed by the old and the new one."""
        metadata = self.repository.metadata
        [old], _ = metadata.quorum(Root.type)
        new = create_key(self.folder / "keys", KeyName.ROOT)

        def replace(root: Root) -> None:
            root.add_key(new.public_key, Root.type)
            root.revoke_key(old, Root.type)

        change_root(metadata, self.ring, now or utc_now(), replace)


class Device:
    """A device's view of the releases, with its metadata below ``folder``; impatient, as on loopback."""

    def __init__(self, topics: RetainedTopics, repository: ReleaseRepository) -> None:
        self._topics = topics
        self.repository = repository

    def refresh(self) -> list[Release]:
        return self.repository.refresh()

    def fetch(
        self, release: Release, bundle: Path, progress: Callable[[int, int], None] | None = None, **more: Any
    ) -> bool:
        """Fetch as much as comes in one turn, by default without an end."""
        options = {"max_bytes": MAX_BUNDLE_BYTES, "chunk_s": 2.0, **more}
        return fetch_bundle(
            self._topics, release, bundle, progress=progress or (lambda _done, _total: None), **options
        )


@contextmanager
def device(
    broker: RunningBroker,
    folder: Path,
    root: bytes,
    *,
    now: Callable[[], datetime] = utc_now,
    is_time_unsynced: bool = False,
) -> Iterator[Device]:
    """A device with a connection of its own."""
    client_id = f"device-fetch-{random.randbytes(4).hex()}"
    with open_topics(
        broker_of(broker), client_id, str(MetadataTopic("timestamp.json")), timeout_s=10
    ) as retained:
        yield Device(
            retained,
            ReleaseRepository(
                retained,
                folder / "metadata",
                root,
                is_time_unsynced=is_time_unsynced,
                metadata_s=1.0,
                now=now,
            ),
        )


def refresh(broker: RunningBroker, folder: Path, root: bytes, **clock: Any) -> list[Release]:
    """Return the releases that a device sees."""
    with device(broker, folder, root, **clock) as view:
        return view.refresh()


def newest(releases: list[Release], model: str = "press") -> Release:
    """Return the release that a device would run."""
    release = choose(releases, model=model, agent="pump-7", channel="stable", bad=())
    assert release is not None
    return release


def install(broker: RunningBroker, folder: Path, root: bytes) -> bytes:
    """Refresh, fetch the newest release and return its bytes."""
    bundle = folder / "bundle.atoll"
    bundle.unlink(missing_ok=True)
    with device(broker, folder, root) as view:
        assert view.fetch(newest(view.refresh()), bundle)
    assert [path.name for path in folder.glob("bundle.*")] == ["bundle.atoll"]
    return bundle.read_bytes()


@contextmanager
def topics(broker: RunningBroker) -> Iterator[RetainedTopics]:
    """The retained topics of ``broker``, without any verification."""
    client_id = f"hand-{random.randbytes(4).hex()}"
    with open_topics(
        broker_of(broker), client_id, str(MetadataTopic("timestamp.json")), timeout_s=10
    ) as found:
        yield found


def put(broker: RunningBroker, messages: Mapping[str, bytes]) -> None:
    """Retain ``messages``, an empty payload deletes, and return once the broker does so."""
    with topics(broker) as retained:
        retained.put_many(messages.items(), timeout_s=10)
        retained.require([message for message in messages.items() if message[1]], timeout_s=10)
        deadline = time.monotonic() + 10
        while any(_payloads(retained, [topic for topic, payload in messages.items() if not payload])):
            assert time.monotonic() < deadline, "the broker does not forget"


def held(broker: RunningBroker, names: Iterator[str] | list[str]) -> dict[str, bytes | None]:
    """Return what the broker retains under ``names``."""
    names = list(names)
    with topics(broker) as retained:
        return dict(zip(names, _payloads(retained, names), strict=True))


def _payloads(retained: RetainedTopics, names: list[str]) -> list[bytes | None]:
    wanted = [Wanted(name, 10**7) for name in names]
    found = {one.topic: one.payload for one in retained.fetch_many(wanted, timeout_s=0.5, window=50)}
    return [found[name] for name in names]


def put_metadata(broker: RunningBroker, trainer: Trainer) -> None:
    """Retain all metadata files of ``trainer`` as they are."""
    files = (trainer.folder / "repository" / "metadata").glob("*.json")
    put(broker, {str(MetadataTopic(path.name)): path.read_bytes() for path in files})


def topics_of(trainer: Trainer) -> list[str]:
    """Return all topics that the newest metadata of ``trainer`` need, bundles included."""
    return [piece.topic for step in trainer.repository.steps() for piece in step.pieces]


def chunk_topics_of(trainer: Trainer, target: str) -> list[str]:
    """Return the topics of one bundle, in order."""
    [step] = [step for step in trainer.repository.steps() if step.name == target]
    return [piece.topic for piece in step.pieces]
