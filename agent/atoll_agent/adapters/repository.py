"""The verifying end of the release topics: python-tuf over retained MQTT, and bundles to disk.

It trusts the root it is given and nothing that arrives. All of it blocks, and is meant for a
short-lived child of the agent. Only exact topics are subscribed, since some brokers retain nothing
for a wildcard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater

from atoll_agent.adapters.fetcher import BASE_URL, LIMITS, MetadataFetcher
from atoll_agent.adapters.part import Part
from atoll_agent.rollout.release import Release
from atoll_contract.bundle import MAX_BUNDLE_BYTES
from atoll_contract.errors import (
    BundleRejectedError,
    ConfigError,
    DigestMismatchError,
    MalformedMessageError,
    Reason,
    ReleaseForgedError,
    RepositoryUnavailableError,
)
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_link.files import make_folder, storage_error, sync_folder, write_whole
from atoll_link.retained import Wanted, open_topics
from atoll_link.session import Broker

BUILD_TIME: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock of a device is right that is before this; move it with each version."""

_ANY_TARGET: Final = "any/target"
"""No release has this name; asking for it makes the updater load the trainer's role."""

_LAST_GOOD_TIME: Final = "last-good-time"
_CLOCK_STEP: Final = timedelta(hours=1)  # it is written no more often, for the SD card's sake
_WINDOW: Final = 8
_MAX_PACKET_BYTES: Final = 2 * LIMITS.targets_max_length  # what is cut off is too long for any topic

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Longest waits, in seconds.

    Attributes:
        connect_s: For the connection.
        metadata_s: For a metadata file; one that is absent costs so much.
        chunk_s: For the next chunk of a bundle; on a slow link one takes a while.
    """

    connect_s: float = 10.0
    metadata_s: float = 2.0
    chunk_s: float = 30.0


class ReleaseRepository:
    """A context manager around one connection to the release topics.

    Args:
        broker: Where the topics are.
        client_id: Of a connection that nobody else has.
        folder: Where verified metadata are kept; one process at a time.
        root: The root metadata given at enrolment.
        deadlines: Longest waits.
        now: The clock; a wrong one is made up for as far as it can be.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        folder: Path,
        root: bytes,
        *,
        deadlines: Deadlines | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._folder = folder
        self._root = root
        self._deadlines = deadlines or Deadlines()
        self._now = now
        self.skipped = 0
        """Targets of the last refresh whose terms could not be read."""

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            BrokerUnavailableError: Not connected in time.
        """
        self._connection = open_topics(
            self._broker,
            self._client_id,
            str(MetadataTopic("timestamp.json")),
            timeout_s=self._deadlines.connect_s,
            max_packet_bytes=_MAX_PACKET_BYTES,
        )
        self._topics = self._connection.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._connection.__exit__(kind, error, trace)

    def refresh(self) -> list[Release]:
        """Bring the metadata up to date and return all releases that the trainer offers.

        Raises:
            RepositoryUnavailableError: Nothing is published, a file is missing, or what is there has
                expired; the reason tells.
            ReleaseForgedError: Metadata that the trusted keys did not sign, or older than known.
            BrokerUnavailableError: The connection failed.
            StorageError: The folder cannot be written.
            ConfigError: The trusted root is none.
        """
        make_folder(self._folder)
        with _translated(self._folder):
            last_good = self._last_good_time()
            now = max(self._now(), last_good)
            updater = self._updater(now)
            updater.refresh()
            updater.get_targetinfo(_ANY_TARGET)
            releases = self._releases(updater)
            self._sync()
        if now - last_good > _CLOCK_STEP:
            write_whole(self._folder / _LAST_GOOD_TIME, now.isoformat().encode())
        return releases

    def fetch(self, release: Release, part: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the bundle of ``release`` to ``part``, synced and verified.

        A fetch that was broken off goes on where it was.

        Args:
            release: As :meth:`refresh` returned it, now or earlier.
            part: Where it grows; beside it stands a record until it is whole.
            progress: Called with the bytes that are there and those of the whole.

        Raises:
            RepositoryUnavailableError: A chunk is missing; those that came are kept.
            DigestMismatchError: The bytes are not the ones that were signed; the part is deleted.
            BundleRejectedError: It is larger than any bundle may be.
            BrokerUnavailableError: The connection failed.
            StorageError: The disk is too full or cannot be written.
        """
        if release.length > MAX_BUNDLE_BYTES:
            message = f"{release.model} {release.release}: {release.length} bytes, at most {MAX_BUNDLE_BYTES}"
            raise BundleRejectedError(message, Reason.TOO_LARGE)
        with Part(part, release) as file:
            file.require_space()
            was_begun = bool(file.kept)
            self._fetch_missing(release, file, progress)
            if not file.is_genuine():
                if was_begun:  # the earlier chunks may not have reached the disk
                    log.warning("bundle.refetched", model=release.model, release=release.release)
                    file.restart()
                    self._fetch_missing(release, file, progress)
                if not was_begun or not file.is_genuine():
                    file.discard()
                    message = (
                        f"{release.model} {release.release}: the bytes are not those of {release.sha256}"
                    )
                    raise DigestMismatchError(message)
            file.finish()

    def _fetch_missing(
        self, release: Release, file: Part, progress: Callable[[int, int], None] | None
    ) -> None:
        wanted = (
            Wanted(str(ChunkTopic(release.sha256, number)), file.size_of(number)) for number in file.missing()
        )
        chunks = self._topics.fetch_many(wanted, timeout_s=self._deadlines.chunk_s, window=_WINDOW)
        done = file.kept_bytes
        with closing(chunks):
            for chunk in chunks:
                number = ChunkTopic.parse(chunk.topic).number
                if chunk.size_bytes == 0:
                    message = f"{chunk.topic} is missing: publish the release again"
                    raise RepositoryUnavailableError(message, Reason.MISSING_CHUNK)
                if chunk.payload is None or len(chunk.payload) != file.size_of(number):
                    file.discard()
                    message = f"{chunk.topic} has {chunk.size_bytes} bytes, not {file.size_of(number)}"
                    raise DigestMismatchError(message)
                file.write(number, chunk.payload)
                done += len(chunk.payload)
                if progress is not None:
                    progress(done, release.length)

    def _updater(self, now: datetime) -> Updater:
        fetcher = MetadataFetcher(self._topics, self._deadlines.metadata_s)
        try:
            updater = Updater(
                str(self._folder), BASE_URL, fetcher=fetcher, config=LIMITS, bootstrap=self._root
            )
        except tuf.RepositoryError as error:
            message = f"the trusted root is no root metadata ({error}): enrol this agent again"
            raise ConfigError(message) from error
        # python-tuf has no public way to say what time it is; a test sees to it that this one works.
        updater._trusted_set.reference_time = now  # noqa: SLF001
        return updater

    def _last_good_time(self) -> datetime:
        """Return a time that has certainly passed: boards without a battery wake up before it."""
        try:
            text = (self._folder / _LAST_GOOD_TIME).read_text(encoding="ascii")
            return max(datetime.fromisoformat(text).astimezone(UTC), BUILD_TIME)
        except (FileNotFoundError, ValueError, OverflowError):
            return BUILD_TIME

    def _releases(self, updater: Updater) -> list[Release]:
        """Return what the verified role offers: names from its file, facts from the verifier alone."""
        try:
            content = (self._folder / f"{TRAINER_ROLE}.json").read_bytes()
        except FileNotFoundError:
            return []
        releases = []
        self.skipped = 0
        for name in Metadata[Targets].from_bytes(content).signed.targets:
            target = updater.get_targetinfo(name)
            if target is None:
                continue
            try:
                releases.append(_release(target))
            except MalformedMessageError as error:
                self.skipped += 1
                log.warning("release.skipped", target=name[:96], detail=error.detail[:200])
        return releases

    def _sync(self) -> None:
        """Bring the metadata to disk: python-tuf does not, and lost ones would allow a step back."""
        for path in self._folder.rglob("*.json"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        for folder in (self._folder, self._folder / "root_history"):
            sync_folder(folder)


def _release(target: TargetFile) -> Release:
    """Return the release that a verified target describes.

    Raises:
        MalformedMessageError: Its terms cannot be read, or are those of another target.
    """
    terms = ReleaseTerms.decode(target.custom)
    sha256 = target.hashes.get("sha256", "")
    if terms.target != target.path or target.length < 1:
        raise MalformedMessageError(f"release terms of {terms.target}, {target.length} bytes, do not fit")
    ChunkTopic(sha256, 0)  # refuses what is no digest
    return Release(
        model=terms.model,
        release=terms.release,
        sha256=sha256,
        length=target.length,
        channel=terms.channel,
        rollout_percent=terms.rollout_percent,
        rollout_salt=terms.rollout_salt,
        chunk_size=terms.chunk_size,
        max_delay_s=terms.max_delay_s,
    )


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turn what python-tuf and the disk raise into what the agent understands."""
    try:
        yield
    except tuf.DownloadHTTPError as error:
        message = f"{error}: nothing is published, or not all of it; publish (again) if this stays so"
        raise RepositoryUnavailableError(message, Reason.NO_REPOSITORY) from error
    except tuf.ExpiredMetadataError as error:
        message = f"{error}: nobody has signed anew, or this clock is wrong"
        raise RepositoryUnavailableError(message, Reason.METADATA_EXPIRED) from error
    # The rest of these says that the bytes are not what the trusted keys signed last.
    except (tuf.RepositoryError, tuf.DownloadError) as error:
        raise ReleaseForgedError(f"{type(error).__name__}: {error}") from error
    except OSError as error:
        raise storage_error(folder, error) from error
