"""The state folder: who this agent is, what its slots are, and the bundles, by digest.

Files change whole or not at all. A state file that cannot be read is
set aside under another name and reported; the agent then starts as if it had none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Refused, Slot
from atoll_contract.errors import ConfigError, StorageError
from atoll_link.files import make_folder, storage_error, write_whole

if TYPE_CHECKING:  # children that run no model use the store
    from atoll_agent.ports import Kept

log = structlog.get_logger()

STATE_FORMAT: Final = 1
MAX_FILTERS: Final = 1024
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_RESERVED_SESSIONS: Final = 100
_FILTERS: Final = msgspec.json.Decoder(dict[str, list[str]])
LAST_GOOD_TIME: Final = "last-good-time"
"""The time that has certainly passed, in the folder of the metadata."""


class _SlotFile(BaseModel):
    """One slot on disk."""

    model_config = ConfigDict(extra="forbid")

    format: int = STATE_FORMAT
    fingerprint: str
    boot: str = ""
    slot: Slot


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is to the broker and to the trainer.

    Attributes:
        token: 16 hexadecimal digits, made at enrolment; part of every client id.
        root: Bytes of the trusted root metadata.
    """

    token: str
    root: bytes


class StateStore:
    """The state folder of one agent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None
        self._session = self._reserved = 0

    def lock(self) -> None:
        """Make the folders, and sure that no other agent uses them until this process ends.

        Raises:
            StorageError: Another one does, or the folder cannot be made.
        """
        for name in ("slots", "bundles", "metadata"):
            make_folder(self.folder / name)
        try:
            # The folder itself is locked: that works on a full or read-only disk too.
            self._lock = os.open(self.folder, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StorageError(f"{self.folder}: another agent is running on it") from error
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be locked: {error.strerror}") from error

    # Identity

    def enrol(self, root: bytes) -> Identity:
        """Store the root of trust, and a token if there is none yet.

        The token comes last: where it is, the agent is enrolled. What a wrong clock made of the time that
        has passed is forgotten.

        Raises:
            StorageError: The folder cannot be written.
        """
        make_folder(self.folder)
        try:
            (self.folder / "metadata" / LAST_GOOD_TIME).unlink(missing_ok=True)
            write_whole(self.folder / "root.json", root)
            token_file = self.folder / "token"
            if not token_file.exists():
                write_whole(token_file, secrets.token_hex(8).encode(), 0o600)
            if os.geteuid() == 0:
                # Enrolled by root, run by a service user that owns the folder.
                owner = self.folder.stat()
                for name in ("token", "root.json"):
                    os.chown(self.folder / name, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise storage_error(self.folder, error) from error
        return self.identity()

    def identity(self) -> Identity:
        """Return who this agent is.

        Raises:
            ConfigError: It is not enrolled.
        """
        try:
            token = (self.folder / "token").read_text(encoding="ascii").strip()
            root = (self.folder / "root.json").read_bytes()
        except FileNotFoundError as error:
            raise ConfigError(
                f"{self.folder}: this agent is not enrolled; "
                "run atoll-agent enrol --root with the root.json of the trainer"
            ) from error
        except PermissionError as error:
            raise ConfigError(
                f"{error.filename}: cannot be read; {self.folder} and all in it must belong to the user "
                "that the agent runs as (chown -R), and whoever runs this must be that user (sudo -u)"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.folder}: cannot be read: {error}") from error
        if re.fullmatch("[0-9a-f]{16}", token) is None:
            raise ConfigError(f"{self.folder / 'token'}: is damaged; delete it and enrol again")
        return Identity(token, root)

    def next_session(self) -> int:
        """Return the next session number: higher than any before, as long as the disk can be written.

        Numbers are reserved on disk by the hundred: an agent without a broker draws one at each attempt to
        connect. One whose disk is full or damaged goes on with numbers of this process alone.
        """
        self._session += 1
        if self._session > self._reserved:
            self._reserve_sessions()
        return self._session

    def _reserve_sessions(self) -> None:
        path = self.folder / "session"
        try:
            stored = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            stored = 0
        except (ValueError, OSError) as error:
            log.warning("session.unsaved", file=str(path), detail=str(error))
            stored = int(time.time())  # higher than any count of connects so far
        self._session = max(stored + 1, self._session)
        self._reserved = self._session + _RESERVED_SESSIONS - 1
        try:
            write_whole(path, str(self._reserved).encode())
        except StorageError as error:
            log.warning("session.unsaved", file=str(path), detail=error.detail)

    def left_filters(self, wanted: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
        """Note what the lane subscribes to, by stream; return what it ever did and no more does.

        Its sessions are persistent: a broker goes on delivering what it is not told to forget.
        """
        path = self.folder / "filters.json"
        try:
            before = _FILTERS.decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            before = {}
        # Never shortened, since an agent may end before it has told the broker; the newest are kept.
        known = {
            stream: list(dict.fromkeys([*before.get(stream, ()), *wanted.get(stream, ())]))[-MAX_FILTERS:]
            for stream in {**before, **wanted}
        }
        if known != before:
            try:
                write_whole(path, msgspec.json.encode(known))
            except StorageError as error:
                log.warning("filters.unsaved", file=str(path), detail=error.detail)
        left = {
            stream: [topic_filter for topic_filter in filters if topic_filter not in wanted.get(stream, ())]
            for stream, filters in known.items()
        }
        return {stream: filters for stream, filters in left.items() if filters}

    # Slots

    def load_slot(self, model: str, fingerprint: str, *, blames_settled: bool = False) -> Slot:
        """Return the slot of ``model`` as it starts after a restart.

        What it holds as bad is forgotten when ``fingerprint`` (of settings and versions) differs
        from the one it was stored with: what did not fit then may fit now. ``blames_settled``: the
        agent crashed, and no release did it that it had loaded just before.
        """
        path = self._slot_file(model)
        try:
            stored = _SlotFile.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Slot(model)
        except (ValidationError, OSError) as error:
            log.error(  # noqa: TRY400 - the detail says it; a trace would not help the operator
                "slot.damaged", file=str(path), kept_as=str(_set_aside(path)), detail=str(error)[:200]
            )
            return Slot(model)
        has_rebooted = stored.boot != _boot()
        slot = stored.slot.restarted(
            time.time() * 1e3, has_rebooted=has_rebooted, blames_settled=blames_settled
        )
        return slot if stored.fingerprint == fingerprint else slot.forgiven()

    def save_slot(self, slot: Slot, fingerprint: str) -> None:
        """Store ``slot``; on return it survives a power cut."""
        content = _SlotFile(fingerprint=fingerprint, boot=_boot(), slot=slot).model_dump_json(indent=1)
        write_whole(self._slot_file(slot.model), content.encode())

    def forgive(self, model: str) -> tuple[Refused, ...]:
        """Have the releases of ``model`` that were refused tried again at the next start; return which.

        Raises:
            StorageError: The slot cannot be read or written.
        """
        path = self._slot_file(model)
        try:
            stored = _SlotFile.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError as error:
            raise StorageError(f"{path}: damaged: {error}") from error
        except OSError as error:
            raise storage_error(path, error) from error
        slot = replace(stored.slot.forgiven(), crashes=0, doubts=0)
        write_whole(path, stored.model_copy(update={"slot": slot}).model_dump_json(indent=1).encode())
        return stored.slot.bad

    def peek_champion(self, model: str) -> tuple[Release, bytes] | None:
        """Return the stored champion of ``model`` and its bundle, if they can be read; changes nothing."""
        try:
            champion = _SlotFile.model_validate_json(self._slot_file(model).read_bytes()).slot.champion
            return None if champion is None else (champion, self.bundle_path(champion.sha256).read_bytes())
        except (ValidationError, OSError):
            return None

    def _slot_file(self, model: str) -> Path:
        return self.folder / "slots" / f"{model}.json"

    # Bundles

    def bundle_path(self, sha256: str) -> Path:
        """Return where the bundle with this digest is or will be."""
        return self.folder / "bundles" / f"{sha256}.atoll"

    def has_bundle(self, sha256: str) -> bool:
        """Whether the bundle with this digest is there, as far as the disk tells."""
        return os.path.exists(self.bundle_path(sha256))  # noqa: PTH110 - Path.exists raises if the disk fails

    def read_bundle(self, sha256: str) -> bytes:
        """Return the bundle with this digest.

        Raises:
            StorageError: It is not there, or its bytes have changed.
        """
        path = self.bundle_path(sha256)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            _delete(path)
            raise StorageError(f"{path}: its bytes have changed; it is fetched anew")
        return content

    def read_contest(self, sha256: str) -> bytes | None:
        """Return what is stored of the contest on the bundle with this digest, if anything can be read."""
        try:
            return self._contest_file(sha256).read_bytes()
        except OSError:
            return None

    def write_contest(self, sha256: str, content: bytes) -> None:
        """Store the contest on a bundle; it is dropped with the bundle. Without it another one is held."""
        try:
            write_whole(self._contest_file(sha256), content)
        except StorageError as error:
            log.warning("contest.unsaved", detail=error.detail)

    def _contest_file(self, sha256: str) -> Path:
        return self.folder / "bundles" / f"{sha256}.contest.json"

    def drop_bundles_except(self, keep: set[str], *, only_parts: bool = False) -> int:
        """Delete bundles, and parts, whose digest is not in ``keep``; return how many files."""
        folder = self.folder / "bundles"
        try:
            found = list(folder.glob("*.part*" if only_parts else "*"))
        except OSError as error:
            log.warning("bundle.undeleted", file=str(folder), detail=str(error))
            return 0
        return sum(_delete(path) for path in found if path.name.split(".")[0] not in keep)


class KeptWindows:
    """What a clean stop leaves, in the folder ``windows`` of the state folder, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "windows"

    def take(self, name: str, kind: Kept) -> bytes | None:
        """Return what was kept for model or stream ``name``, once."""
        path = self._path(name, kind)
        try:
            kept = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("windows.refused", name=name, kind=kind.value, detail=f"{path}: {error.strerror}")
            return None
        # What cannot be deleted would come back after a kill, when it is too old.
        return kept if _delete(path) else None

    def keep(self, name: str, kind: Kept, content: bytes) -> None:
        """Keep what is remembered of ``name``.

        Raises:
            StorageError: It cannot be written.
        """
        make_folder(self._folder)
        write_whole(self._path(name, kind), content)

    def drop(self) -> None:
        """Delete what nobody has taken: models that are answered no more."""
        try:
            left = list(self._folder.glob("*"))
        except OSError:
            return  # it cannot be read then, either
        for path in left:
            _delete(path)

    def _path(self, name: str, kind: Kept) -> Path:
        return self._folder / f"{name}.{kind.value}"


def _boot() -> str:
    """Return what the kernel calls the time since this machine started; empty where it does not tell."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _delete(path: Path) -> bool:
    """Delete the file ``path``; False: the disk is read-only or fails, which must not end the agent."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("bundle.undeleted", file=str(path), detail=str(error))
        return False
    return True


def _set_aside(path: Path) -> Path:
    """Give a damaged file another name; return under which one it is kept."""
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError:
        return path  # until it is written anew
    return aside
