"""The verifying end of the release topics: python-tuf over retained MQTT.

It trusts the root it is given and nothing that arrives. All of it blocks, and is meant for a
short-lived child of the agent. Only exact topics are subscribed, since some brokers retain nothing
for a wildcard.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from tuf.api import exceptions as tuf
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater

from atoll_agent.adapters.clock import PassedTime
from atoll_agent.adapters.fetcher import BASE_URL, LIMITS, MetadataFetcher
from atoll_agent.adapters.store import LAST_GOOD_TIME
from atoll_agent.rollout.release import Release
from atoll_contract.errors import (
    ConfigError,
    MalformedMessageError,
    Reason,
    ReleaseForgedError,
    RepositoryUnavailableError,
)
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.topics import ChunkTopic
from atoll_link.files import make_folder, storage_error, sync_folder
from atoll_link.retained import RetainedTopics

_ANY_TARGET: Final = "any/target"
"""No release has this name; asking for it makes the updater load the trainer's role."""

log = structlog.get_logger()


class ReleaseRepository:
    """What the trainer has signed, as far as this device has seen it.

    Args:
        topics: The broker's retained topics.
        folder: Where verified metadata are kept; one process at a time.
        root: The root metadata given at enrolment.
        is_time_unsynced: Whether ``now`` may be anything.
        metadata_s: Longest wait for a metadata file; one that is absent costs so much.
        now: The clock.
    """

    def __init__(
        self,
        topics: RetainedTopics,
        folder: Path,
        root: bytes,
        *,
        is_time_unsynced: bool = False,
        metadata_s: float = 2.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._topics = topics
        self._folder = folder
        self._root = root
        self._is_time_unsynced = is_time_unsynced
        self._metadata_s = metadata_s
        self._now = now
        self._passed_time = PassedTime(folder / LAST_GOOD_TIME)
        self.skipped = 0
        """Targets of the last refresh whose terms could not be read."""

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
            now = self._now()
            passed = self._passed_time.read()
            # Expiry is judged by a clock that was set, else by what has passed for certain: what is
            # good must not be refused, and what had expired before must not be revived.
            updater = self._updater(passed if self._is_time_unsynced else max(now, passed))
            updater.refresh()
            updater.get_targetinfo(_ANY_TARGET)
            releases = self._releases(updater)
            self._sync()
            if not self._is_time_unsynced:
                self._passed_time.learn(now)
        return releases

    def _updater(self, now: datetime) -> Updater:
        fetcher = MetadataFetcher(self._topics, self._metadata_s)
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
