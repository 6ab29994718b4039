"""One group of many: its model is fitted, made int8 and judged in a process of its own.

That process reads ``work.pickle``, leaves a run folder beside it and says how it went in
``ended.pickle``. TensorFlow runs in a child of that process, with one thread: so the outcome
does not depend on how many groups are trained at a time, and a crash or a limit ends one group only.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from atoll_contract.errors import AtollError
from atoll_trainer import training
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Readings, UnsuitableDataError, fills
from atoll_trainer.evaluate import evaluate
from atoll_trainer.optimise import optimise
from atoll_trainer.runs import Evaluation, Run
from atoll_trainer.task import TaskFile
from atoll_trainer.task_tables import SplitTable

_ONE_THREAD: Final = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_MAIN: Final = (
    "import sys; from pathlib import Path; from atoll_trainer.group import main; main(Path(sys.argv[1]))"
)
"""Not ``-m``: what is pickled must be found again under the name of the module."""


class Ending(StrEnum):
    """How a group ended."""

    FITTED = "fitted"
    NAIVE = "naive"
    """Too little was there to learn from: its model is the naive guess."""
    NONE = "none"
    """There is no model of it."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done for one group.

    Attributes:
        name: Of the group: its device.
        task: Content of its task file.
        readings: Its readings.
        least_windows: With fewer windows the naive guess is its model.
        limit_s: After so long it is given up.
    """

    name: str
    task: str
    readings: Readings
    least_windows: int
    limit_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of it.

    Attributes:
        name: Of the group.
        ending: How it ended.
        why: What was not as it should be, for people; empty where it was fitted.
        windows: That there were.
        seconds: That its fit took.
        evaluation: On the untouched part; None without a model.
        sha256: Digest of the int8 model file; empty without one.
        files: Of the run folder, by name.
    """

    name: str
    ending: Ending
    why: str = ""
    windows: int = 0
    seconds: float = 0.0
    evaluation: Evaluation | None = None
    sha256: str = ""
    files: dict[str, bytes] | None = None


def group_of(readings: Readings, device: str) -> Readings:
    """Return the readings of one device."""
    places = np.array([at for at, name in enumerate(readings.devices) if name == device], np.int64)
    changes: dict[str, Any] = {"devices": [device] * len(places)}
    for one in fields(readings):
        value = getattr(readings, one.name)
        if isinstance(value, np.ndarray):
            changes[one.name] = value[places]
    digest = hashlib.sha256(f"{readings.sha256} {device}".encode()).hexdigest()
    return replace(readings, source=f"{readings.source}, {device}", sha256=digest, **changes)


def train_group(work: Work) -> Ended:
    """Return what came of ``work``, whatever happened to its process."""
    with TemporaryDirectory(prefix="atoll-group-") as folder:
        Path(folder, "work.pickle").write_bytes(pickle.dumps(work))
        command = [sys.executable, "-c", _MAIN, folder]
        done = run_within(work.limit_s, command)
        if done is None:
            return Ended(work.name, Ending.NONE, f"not done after {work.limit_s:g} s")
        status, errors = done
        told = Path(folder, "ended.pickle")
        if not told.exists():
            last = (errors.strip().splitlines() or [f"status {status}"])[-1]
            return Ended(work.name, Ending.NONE, f"its process ended: {last[:300]}")
        ended: Ended = pickle.loads(told.read_bytes())  # noqa: S301 - written by our own child
        return ended


def run_within(limit_s: float, command: list[str]) -> tuple[int, str] | None:
    """Return exit status and stderr of a command with one thread.

    None: it took longer, and was ended with all that it had started.
    """
    with subprocess.Popen(  # noqa: S603 - this interpreter, this module
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ONE_THREAD},
        start_new_session=True,
    ) as process:
        try:
            _, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, errors


def main(folder: Path) -> None:
    """Do the work in ``folder``."""
    work: Work = pickle.loads((folder / "work.pickle").read_bytes())  # noqa: S301 - written by our parent
    (folder / "task.toml").write_text(work.task, encoding="utf-8")
    (folder / "run").mkdir()
    ended = _done(work, Run(folder / "run"), folder / "task.toml")
    temporary = folder / "ended.tmp"
    temporary.write_bytes(pickle.dumps(ended))
    temporary.replace(folder / "ended.pickle")


def _done(work: Work, run: Run, task_path: Path) -> Ended:
    task = TaskFile.read(task_path)
    windows = 0
    try:
        prepared, why = _prepared(work.readings, task)
        windows = len(prepared.examples)
        if not why and windows < work.least_windows:
            why = f"{windows} windows, at least {work.least_windows} are wanted"
        try:
            seconds = _fit(run, task_path, work, why)
        except UnsuitableDataError as error:
            if why:
                raise
            why = error.detail
            seconds = _fit(run, task_path, work, why)
        optimise(run)
        evaluation = evaluate(run)
    except AtollError as error:
        return Ended(work.name, Ending.NONE, error.detail, windows)
    ending = Ending.NAIVE if why else Ending.FITTED
    digest = hashlib.sha256(run.int8_model.read_bytes()).hexdigest()
    files = {
        str(path.relative_to(run.folder)): path.read_bytes()
        for path in sorted(run.folder.rglob("*"))
        if path.is_file()
    }
    return Ended(work.name, ending, why, windows, seconds, evaluation, digest, files)


def _fit(run: Run, task_path: Path, work: Work, why: str) -> float:
    """Fit in a child, which alone imports TensorFlow; return how long that took."""
    # Candidates are judged in children of it. All of them belong to this session, which ends with us.
    return in_child(fit, run, task_path, work.readings, bool(why), deadline_s=work.limit_s, has_children=True)


def _prepared(readings: Readings, task: TaskFile) -> tuple[training.Prepared, str]:
    """Return the windows of ``readings``, and why no more than a naive guess can be made of them, or "".

    That takes shares in time where the task's split leaves a part empty.

    Raises:
        UnsuitableDataError: Not even that.
    """
    try:
        return training.prepare(readings, task), ""
    except UnsuitableDataError as error:
        in_shares = task.model_copy(update={"split": SplitTable()})
        return training.prepare(readings, in_shares), error.detail


def fit(run: Run, task_path: Path, readings: Readings, is_naive: bool) -> float:  # noqa: FBT001 - pickled
    """Write the run folder of ``readings``; return how many seconds the fit took.

    Raises:
        UnsuitableDataError: Nothing can be learnt from the readings.
    """
    task = TaskFile.read(task_path)
    prepared, _ = _prepared(readings, task)
    if not is_naive:
        return training.train(run, task_path, task, readings, prepared).seconds
    from atoll_trainer import learn  # noqa: PLC0415 - TensorFlow

    guess = learn.guessed(task, prepared.parts, fills(readings, task))
    return learn.store(run, task_path, task, readings, prepared.left_out, guess).seconds
