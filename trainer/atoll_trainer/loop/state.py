"""What the loop remembers over a restart: one file, written whole."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from atoll_contract.errors import StorageError
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer.loop.machine import Phase


class Cause(StrEnum):
    """Why a model learns anew."""

    FIRST = "first"
    """No release of it is out."""
    DRIFT = "drift"
    FOLLOW_UP = "follow_up"
    """What was learnt by a drift promises far more errors than were usual before it."""
    LABELS = "labels"
    SCHEDULE = "schedule"
    REQUEST = "request"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Learnt(_Stored):
    """A release that is out for all, and that a drift was the reason for.

    Attributes:
        release: Its number.
        began_ms: When its training began: whatever was measured since is news.
        follow_ups: Trainings to follow it up, since that drift.
    """

    release: int
    began_ms: float
    follow_ups: int = 0


class ModelState(_Stored):
    """Where one model is. Times are milliseconds since the epoch.

    Attributes:
        model: Id of the model.
        phase: Where it is.
        since_ms: When that began.
        created_ms: When the loop took it on.
        cause: Why it learns anew.
        detail: The same in words, or what is going on in the present phase.
        data_since_ms: Event time from which on it learns.
        ready_ms: When there is enough to learn from.
        learns_from_ms: From when on the last release was learnt that a drift was the reason for and that is
            out for all: nothing older is learnt from.
        learnt: That release, or the one that came after it, until its promise is found to be a usual one.
        usual_error: The least that a release promised that drifted later; None: no label told.
        error_before: What agents err, or erred last, that run another release than the one at work and are
            beyond their limit; None: most of them are not.
        run: Name of the run folder.
        release: Number of the release that it is about.
        percent: Share of the devices that it is published for at first.
        attempts: How often the command of this phase has failed.
        starts: How often the training of this turn has begun.
        retry_ms: When it is tried again.
        attempt_ms: When it last began to learn; before the cool-down only a request makes it do so again.
        trained_ms: When it last succeeded in that.
        labels: Labels that have arrived since.
        is_ordered: Whether a request to learn anew waits.
        outcome: How the last turn ended, in words.
    """

    model: str
    phase: Phase = Phase.IDLE
    since_ms: float
    created_ms: float
    cause: Cause | None = None
    detail: str | None = None
    data_since_ms: float = 0.0
    ready_ms: float = 0.0
    learns_from_ms: float = 0.0
    learnt: Learnt | None = None
    usual_error: float | None = None
    error_before: float | None = None
    run: str | None = None
    release: int | None = None
    percent: int | None = None
    attempts: int = 0
    starts: int = 0
    retry_ms: float = 0.0
    attempt_ms: float | None = None
    trained_ms: float | None = None
    labels: int = 0
    is_ordered: bool = False
    outcome: str | None = None


class LoopFile(_Stored):
    """The whole file.

    Attributes:
        format: Version of its form.
        session: Number of the last MQTT connection.
        models: By id.
        counts: Counters by name.
    """

    format: Literal[1] = 1
    session: int = 0
    models: dict[str, ModelState] = {}
    counts: dict[str, int] = {}


class LoopStore:
    """Keeps the file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "loop.json"

    def read(self) -> LoopFile:
        """Return what was stored last.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        try:
            return LoopFile.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return LoopFile()
        except OSError as error:
            raise storage_error(self._path, error) from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            message = f"{self._path}: {where}: {first['msg']}; move it away and the loop begins anew"
            raise StorageError(message) from error

    def write(self, content: LoopFile) -> None:
        """Store ``content``; on return it survives a power cut.

        Raises:
            StorageError: It cannot be written.
        """
        make_folder(self._path.parent)
        write_whole(self._path, content.model_dump_json(indent=1, exclude_defaults=True).encode() + b"\n")
