"""From a change of the repository to a broker that holds it: sign, push, read back, clear.

Whatever an earlier command left unfinished is completed by the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from tuf.api.metadata import Root, Timestamp

from atoll_contract.errors import NotStoredError
from atoll_contract.release import CHUNK_BYTES, MIN_CHUNK_BYTES, ReleaseTerms
from atoll_link.broker import Broker
from atoll_link.files import write_whole
from atoll_trainer.home import Home
from atoll_trainer.keys import KeyRing
from atoll_trainer.layout import Step
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
    """Who publishes: its id, where its repository is, its broker, its keys, and how long chunks may be."""

    id: str
    home: Home
    broker: Broker
    ring: KeyRing
    chunk_bytes: int = CHUNK_BYTES


class Publication:
    """The repository, locked, and a broker that holds its past or nothing."""

    def __init__(self, repository: Repository, publisher: Publisher, trainer: Trainer) -> None:
        self.repository = repository
        self._publisher = publisher
        self._trainer = trainer

    @property
    def chunk_bytes(self) -> int:
        """How long the chunks of a new release may be: as the settings say, or what the broker announces.

        Raises:
            NotStoredError: It announces less than any chunk has.
        """
        size = min(self._trainer.chunk_bytes, self._publisher.most_bytes)
        if size < MIN_CHUNK_BYTES:
            raise NotStoredError(
                f"{self._trainer.broker} takes {size} bytes in a message, and a release needs "
                f"{MIN_CHUNK_BYTES}: raise its limit (Mosquitto max_packet_size, EMQX mqtt.max_packet_size)"
            )
        return size

    @property
    def is_root_out(self) -> bool:
        """Whether the newest root was once brought out, with all else; not whether the broker holds it."""
        try:
            out = int(self._trainer.home.root_out.read_text(encoding="ascii"))
        except (OSError, ValueError):  # a root too many is better than a stolen key that stays trusted
            return True
        return out >= self.repository.metadata.version(Root.type)

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

        Bundles of new releases come first: what the broker does not keep is not signed.

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
        now, ring = datetime.now(UTC), self._trainer.ring
        new = self.repository.new_bundles()
        stored = self._push_new(new, now, is_clock_right=is_clock_right) if new else None
        self.repository.commit(ring, now, renews_timestamp=renews_timestamp, is_clock_right=is_clock_right)
        if compare is not None:
            compare = set(compare) - {step.name for step in new}
        summary = self.push_signed(now, compare=compare)
        return summary if stored is None else summary.after(stored)

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
        root_version = self.repository.metadata.version(Root.type)
        write_whole(self._trainer.home.root_out, f"{root_version}\n".encode())
        self._publisher.clear(self.repository.obsolete(now - _GRACE))
        return summary

    def _push_new(self, new: Sequence[Step], now: datetime, *, is_clock_right: bool) -> Summary:
        self.repository.require_room(self._publisher.most_bytes)
        self.repository.signers(self._trainer.ring, now, is_clock_right=is_clock_right)
        try:
            return self._publisher.push(new, is_new=True)
        except NotStoredError as error:
            raise NotStoredError(
                f"{error.detail}; nothing was signed: if its limit cannot be raised, set chunk_bytes in the "
                "table [trainer] of the settings to less"
            ) from error

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
