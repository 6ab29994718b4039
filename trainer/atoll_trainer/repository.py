"""The release repository on the publisher's disk: ``metadata/`` and ``bundles/{sha256}.atoll``.

Each file is written whole, after those that it speaks of: bundle, trainer role, snapshot, timestamp.
So whatever a crash leaves behind can be loaded, and the next commit completes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from atoll_contract.errors import ConfigError, StorageError
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer import layout
from atoll_trainer.keys import KeyName, KeyRing
from atoll_trainer.layout import Obsolete, Step
from atoll_trainer.metadata import KEY_OF, SignedMetadata, no_repository
from atoll_trainer.retention import is_for_all, superseded

MAX_WHY_CHARS: Final = 200
"""Longest reason of a withdrawal: every device reads it with each refresh."""

_ONLINE_ROLES: Final = (TRAINER_ROLE, Snapshot.type, Timestamp.type)

_ISSUED: Final = "issued"
"""Signed field of the trainer role: the highest number ever given to a release, by model."""

_WITHDRAWN: Final = "withdrawn"
"""Signed field of the trainer role: why releases were withdrawn, by target."""

_KEPT_WITHDRAWALS: Final = 8
"""Reasons that are kept, by model."""

_LOCK_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Available:
    """One release as it is signed, or will be.

    Attributes:
        terms: Whom it is for.
        sha256: Digest of its bundle.
        size_bytes: Size of its bundle.
    """

    terms: ReleaseTerms
    sha256: str
    size_bytes: int


class Repository:
    """The repository as it is on disk, with the changes that the next commit will sign."""

    def __init__(self, folder: Path, metadata: SignedMetadata) -> None:
        self._bundles = folder / "bundles"
        self._added: set[str] = set()
        self.metadata = metadata

    @classmethod
    def create(cls, folder: Path, keys: Mapping[KeyName, CryptoSigner], now: datetime) -> Repository:
        """Make a repository without releases in ``folder``, signed by ``keys``.

        Raises:
            StorageError: It cannot be written.
        """
        make_folder(folder / "bundles")
        return cls(folder, SignedMetadata.create(folder / "metadata", keys, now))

    @classmethod
    def load(cls, folder: Path) -> Repository:
        """Return the repository in ``folder``, its signatures checked.

        Raises:
            ConfigError: There is none, or its making was interrupted.
            StorageError: A file cannot be read or is damaged.
        """
        return cls(folder, SignedMetadata.read(folder / "metadata"))

    @classmethod
    @contextmanager
    def locked(cls, folder: Path, *, timeout_s: float = 60.0) -> Iterator[Repository]:
        """Load the repository in ``folder`` and keep other publishers out meanwhile.

        Raises:
            ConfigError: As :meth:`load`.
            StorageError: As :meth:`load`, or another publisher was at work all the time.
        """
        with _open_lock(folder / ".lock") as file:
            deadline = time.monotonic() + timeout_s
            while not _has_locked(file.fileno()):
                if time.monotonic() > deadline:
                    raise StorageError(f"{folder}: another publisher has it locked")
                time.sleep(_LOCK_POLL_S)
            yield cls.load(folder)

    @property
    def root(self) -> bytes:
        """The newest root: the file that agents are given to trust."""
        return self.metadata.path(Root.type).read_bytes()

    def releases(self, model: str) -> list[ReleaseTerms]:
        """Return the terms of the releases of ``model`` that are available, by number."""
        return [held.terms for held in self.all_releases() if held.terms.model == model]

    def all_releases(self) -> list[Available]:
        """Return all releases that are available, by model and number."""
        held = map(_available, self.metadata.trainer.targets.values())
        return sorted(held, key=lambda one: (one.terms.model, one.terms.release))

    def release(self, model: str, number: int) -> Available:
        """Return one release that is available.

        Raises:
            ConfigError: There is no such release.
        """
        return _available(self._held(model, number))

    def champion(self, model: str) -> ReleaseTerms | None:
        """Return the terms of the highest release of ``model`` that is for all devices."""
        return next(filter(is_for_all, reversed(self.releases(model))), None)

    def bundle(self, model: str, release: int) -> bytes:
        """Return the bundle of a release that is available.

        Raises:
            ConfigError: There is no such release.
            StorageError: It cannot be read.
        """
        path = layout.bundle_path(self._bundles, self.release(model, release).sha256)
        try:
            return path.read_bytes()
        except OSError as error:
            raise storage_error(path, error) from error

    def next_release(self, model: str) -> int:
        """Return the number above all that releases of ``model`` have ever had."""
        issued: dict[str, int] = self.metadata.trainer.unrecognized_fields.get(_ISSUED, {})
        return issued.get(model, 0) + 1

    def why_withdrawn(self, model: str, release: int) -> str | None:
        """Return why a release was withdrawn, None if it was not, or so long ago that nobody knows."""
        withdrawn: dict[str, str] = self.metadata.trainer.unrecognized_fields.get(_WITHDRAWN, {})
        return withdrawn.get(ReleaseTerms(model=model, release=release).target)

    def offline_expiries(self) -> dict[str, datetime]:
        """Return when the signatures run out that only the offline keys can renew, by role."""
        return {role: self.metadata.expires(role) for role in (Root.type, Targets.type)}

    def add(self, terms: ReleaseTerms, bundle: bytes) -> list[ReleaseTerms]:
        """Add a release, or change the terms of one that is there; the next commit signs it.

        Returns:
            The releases that are not available any more from then on.

        Raises:
            ConfigError: The number belongs to other bytes, or newer ones are out.
            StorageError: The bundle cannot be written.
        """
        sha256 = hashlib.sha256(bundle).hexdigest()
        targets = self.metadata.trainer.targets
        held = targets.get(terms.target)
        free = self.next_release(terms.model)
        if held is not None and held.hashes["sha256"] != sha256:
            raise ConfigError(
                f"release {terms.release} of {terms.model} was given to other bytes; the next free is {free}"
            )
        if held is None and (why := self.why_withdrawn(terms.model, terms.release)) is not None:
            raise ConfigError(
                f"release {terms.release} of {terms.model} was withdrawn ({why}), and no number comes back: "
                f"bundle it anew; the next free is {free}"
            )
        if held is None and terms.release < free:
            raise ConfigError(
                f"release {terms.release} of {terms.model} is not available any more, or was skipped, and no "
                f"number comes back: bundle it anew; the next free is {free}"
            )
        if held is not None:  # devices may be half-way through its chunks
            chunk_size = ReleaseTerms.decode(held.custom).chunk_size
            terms = terms.model_copy(update={"chunk_size": chunk_size})
        path = layout.bundle_path(self._bundles, sha256)
        if not path.exists() or path.read_bytes() != bundle:
            write_whole(path, bundle)
        target = TargetFile(len(bundle), {"sha256": sha256}, terms.target, {"custom": terms.encode()})
        if target == held:
            return []
        if held is None:
            self._added.add(terms.target)
        targets[terms.target] = target
        dropped = superseded(self.releases(terms.model))
        for old in dropped:
            del targets[old.target]
        issued = self.metadata.trainer.unrecognized_fields.setdefault(_ISSUED, {})
        issued[terms.model] = max(issued.get(terms.model, 0), terms.release)
        return dropped

    def change_terms(self, model: str, release: int, changes: Mapping[str, str | int]) -> None:
        """Change some of the terms of a release; the next commit signs them.

        Raises:
            ConfigError: There is no such release.
            MalformedMessageError: A term has no sensible value.
        """
        target = self._held(model, release)
        terms = ReleaseTerms.decode({**ReleaseTerms.decode(target.custom).encode(), **changes})
        target.unrecognized_fields["custom"] = terms.encode()

    def withdraw(self, model: str, release: int, why: str) -> None:
        """Take a release back and note why; the next commit signs it. Again is no fault.

        Raises:
            ConfigError: There is no such release.
        """
        if self.why_withdrawn(model, release) is not None:
            return
        target = self._held(model, release)
        del self.metadata.trainer.targets[target.path]
        withdrawn = self.metadata.trainer.unrecognized_fields.setdefault(_WITHDRAWN, {})
        withdrawn[target.path] = why
        numbered = {
            int(name.removeprefix(f"{model}/").removesuffix(".atoll")): name
            for name in withdrawn
            if name.startswith(f"{model}/")
        }
        for number in sorted(numbered)[:-_KEPT_WITHDRAWALS]:
            del withdrawn[numbered[number]]

    @property
    def is_complete(self) -> bool:
        """Whether everything is signed: no command was interrupted in between."""
        metadata = self.metadata
        return all(map(metadata.is_signed, (*_ONLINE_ROLES, Targets.type))) and not any(
            map(metadata.is_stale, (Snapshot.type, Timestamp.type))
        )

    def commit(
        self, ring: KeyRing, now: datetime, *, renews_timestamp: bool = False, is_clock_right: bool = False
    ) -> bool:
        """Sign and write what changed, what a crash left undone, and what is past half its lifetime.

        Args:
            ring: Where the trainer and online keys are.
            now: The time.
            renews_timestamp: Sign the timestamp anew in any case.
            is_clock_right: Sign anew, too, what a clock that was ahead has signed. Devices know the
                newest version by its number alone.

        Returns:
            Whether anything was signed.

        Raises:
            ConfigError: A key that devices trust is missing, or an offline signature is.
            DeviceError: The clock stands before the last signatures.
            StorageError: A file cannot be written.
        """
        metadata = self.metadata
        signers = self.signers(ring, now, is_clock_right=is_clock_right)
        has_signed = False
        for role, signer in signers.items():
            if (
                not metadata.is_signed(role)
                or (role != TRAINER_ROLE and metadata.is_stale(role))
                or metadata.is_due(role, now)
                or metadata.is_ahead(role, now)
                or (renews_timestamp and role == Timestamp.type)
            ):
                metadata.sign(role, [signer], now, is_clock_right=is_clock_right)
                has_signed = True
        self._added.clear()
        return has_signed

    def signers(
        self, ring: KeyRing, now: datetime, *, is_clock_right: bool = False
    ) -> dict[str, CryptoSigner]:
        """Return what signs each role that :meth:`commit` signs, if it may be signed now.

        Raises:
            ConfigError: A key that devices trust is missing, or an offline signature is.
            DeviceError: The clock stands before the last signatures.
        """
        self._require_offline_signatures(now)
        for role in () if is_clock_right else _ONLINE_ROLES:
            self.metadata.require_clock(role, now)
        return {role: ring.signer(KEY_OF[role], self.metadata.quorum(role)[0]) for role in _ONLINE_ROLES}

    def require_room(self, most_bytes: int) -> None:
        """Require that the releases, as the next commit signs them, fit in one message.

        Raises:
            ConfigError: They do not.
        """
        size = self.metadata.size_bytes(TRAINER_ROLE)
        if size > most_bytes:
            raise ConfigError(
                f"all releases together would be signed in {size:,} bytes, and the broker takes "
                f"{most_bytes:,} in a message: withdraw models that nobody needs, or raise its limit "
                "(Mosquitto max_packet_size, EMQX mqtt.max_packet_size)"
            )

    def steps(self) -> list[Step]:
        """Return all that devices need, in the order in which it must be published."""
        return layout.steps(self.metadata, self._bundles)

    def new_bundles(self) -> list[Step]:
        """Return those of :meth:`steps` that are bundles of releases which are not signed yet."""
        return [step for step in self.steps() if step.name in self._added]

    def obsolete(self, before: datetime) -> list[Obsolete]:
        """Return what nothing current has spoken of since ``before``."""
        return layout.obsolete(self.metadata, self._bundles, before)

    def _held(self, model: str, release: int) -> TargetFile:
        target = self.metadata.trainer.targets.get(ReleaseTerms(model=model, release=release).target)
        if target is None:
            there = ", ".join(str(terms.release) for terms in self.releases(model)) or "none"
            why = self.why_withdrawn(model, release)
            is_gone = "is not available" if why is None else f"was withdrawn ({why})"
            raise ConfigError(f"release {release} of {model} {is_gone}; available: {there}")
        return target

    def _require_offline_signatures(self, now: datetime) -> None:
        for role, expires in self.offline_expiries().items():
            if expires <= now:
                raise ConfigError(
                    f"the {role} metadata expired on {expires:%Y-%m-%d}: only its key can renew it: "
                    f"atoll-trainer keys renew {role} --keys DIR"
                )
        if not self.metadata.is_signed(Targets.type):
            raise ConfigError(
                "the targets metadata lack the signature of the new targets key: complete what was "
                "interrupted: atoll-trainer keys rotate targets --keys DIR"
            )


def _available(target: TargetFile) -> Available:
    return Available(ReleaseTerms.decode(target.custom), target.hashes["sha256"], target.length)


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_repository(path.parent) from error
    except OSError as error:
        raise storage_error(path, error) from error


def _has_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
