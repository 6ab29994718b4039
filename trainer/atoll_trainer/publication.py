"""From a change of the repository to a broker that holds it: sign, push, read back, clear.

Whatever an earlier command left unfinished is completed by the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from tuf.api.metadata import Timestamp

from atoll_contract.release import ReleaseTerms
from atoll_link.broker import Broker
from atoll_link.files import write_whole
from atoll_trainer.home import Home
from atoll_trainer.keys import KeyRing
from atoll_trainer.lineage import require_own_past
from atoll_trainer.metadata import LIFETIME
from atoll_trainer.publisher import Publisher, Summary
from atoll_trainer.repository import Repository

_SOON: Final = timedelta(days=30)
"""Offline signatures that run out within it are warned of: bringing their keys takes a while."""

_GRACE: Final = timedelta(days=1)
"""How long a device may take to fetch what has been replaced meanwhile."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Trainer:
    """Who publishes: its id, where its repository is, its broker and its keys."""

    id: str
    home: Home
    broker: Broker
    ring: KeyRing


class Publication:
    """The repository, locked, and a broker that holds its past or nothing."""

    def __init__(self, repository: Repository, publisher: Publisher, trainer: Trainer) -> None:
        self.repository = repository
        self._publisher = publisher
        self._trainer = trainer

    def bundle(self, terms: ReleaseTerms) -> bytes:
        """Return the bundle of a release that is out; a damaged one is mended from the broker's copy.

        Raises:
            BrokerUnavailableError: The connection failed for too long.
            StorageError: It cannot be read, and is not whole at the broker either.
        """
        [step] = [step for step in self.repository.steps() if step.name == terms.target]
        self._publisher.mend(step)
        return self.repository.bundle(terms.model, terms.release)

    def bring_out(
        self,
        *,
        compare: Collection[str] | None = frozenset(),
        renews_timestamp: bool = False,
        is_clock_right: bool = False,
    ) -> Summary:
        """Sign what is due, push everything that devices need, and clear what nobody needs any more.

        Args:
            compare: Names of bundles to compare chunk by chunk; None: all of them.
            renews_timestamp: Sign the timestamp anew in any case.
            is_clock_right: Sign anew, too, what a clock that was ahead has signed.

        Raises:
            ConfigError: A key is missing, or an offline signature.
            NotStoredError: The broker does not keep what it acknowledges.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be read or written.
        """
        now = datetime.now(UTC)
        self.repository.commit(
            self._trainer.ring, now, renews_timestamp=renews_timestamp, is_clock_right=is_clock_right
        )
        return self.push_signed(now, compare=compare)

    def push_signed(self, now: datetime, *, compare: Collection[str] | None) -> Summary:
        """Push everything as it is signed already, and clear what nobody needs any more.

        The newest root is put where agents are enrolled from.

        Raises:
            NotStoredError: The broker does not keep what it acknowledges.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be read, written or deleted.
        """
        self._warn_of_expiry(now)
        write_whole(self._trainer.home.root, self.repository.root)
        summary = self._publisher.push(self.repository.steps(), compare=compare)
        self._publisher.clear(self.repository.obsolete(now - _GRACE))
        return summary

    def _warn_of_expiry(self, now: datetime) -> None:
        offline = self.repository.offline_expiries()
        for role in LIFETIME:
            left = self.repository.metadata.expires(role) - now
            if left < (_SOON if role in offline else timedelta()):
                _log.warning("metadata.aged", role=role, days_left=left.days)


@contextmanager
def open_publication(
    trainer: Trainer, *, may_replace: bool = False, stolen: Collection[str] = ()
) -> Iterator[Publication]:
    """Lock the repository, connect, and yield what changes and publishes it.

    Connected first: without a broker nothing is signed that nobody could get.

    Args:
        trainer: Who publishes.
        may_replace: Whether the releases of another repository may be published over.
        stolen: Ids of keys whose signatures at the broker say nothing.

    Raises:
        ConfigError: There is no repository, or it must not be published over what the broker holds.
        StorageError: The repository is damaged or another publisher has it.
        BrokerUnavailableError: Not connected in time.
    """
    folder = trainer.home.repository
    with Repository.locked(folder) as before, Publisher(trainer.broker, trainer.id) as publisher:
        is_out = require_own_past(
            folder / "metadata", publisher.fetch, may_replace=may_replace, stolen=stolen
        )
        repository = Repository.load(folder)
        version = repository.metadata.version(Timestamp.type)
        if version > before.metadata.version(Timestamp.type):
            _log.warning("timestamp.adopted", version=version)
        if not is_out and version > 1:
            _log.warning("publication.unfinished", version=version)
        yield Publication(repository, publisher, trainer)
