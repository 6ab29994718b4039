"""Carries out jobs by the trainer's own commands, each a process that may crash, hang or be ended.

What a person would type is what runs: the loop knows nothing that the commands do not offer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import structlog

from atoll_contract.errors import AtollError
from atoll_contract.release import STABLE, ReleaseTerms
from atoll_link.exits import Exit
from atoll_link.files import make_folder, storage_error
from atoll_link.fleet import Agent
from atoll_trainer.home import Home
from atoll_trainer.loop.course import Ended, Job, JobKind, canary_percent
from atoll_trainer.repository import Repository

_PROGRAM: Final = "import sys; from atoll_trainer.cli import main; sys.exit(main())"
_STOP_S: Final = 10.0
_PUBLISH_S: Final = 900.0
_TAIL_BYTES: Final = 16_384
BUNDLE: Final = "release.atoll"

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Means:
    """What the commands are given.

    Attributes:
        settings: File of the settings.
        home: The trainer's folder.
        keys: More folders with keys.
        passphrase_files: Files whose first line opens keys.
        task: File of the task.
        train_s: Longest time of a training, with all that belongs to it.
        worse_by: How much larger than the champion's the error of a release may be.
        max_size_bytes: Of its model file; None: any will do.
        max_latency_us: Of an answer of its, on this machine; None: any will do.
        canary_percent: For how many devices a release is published at first.
        max_delay_s: Devices wait a random part of it before they fetch.
        keep_runs: Run folders of this model that are kept.
    """

    settings: Path
    home: Home
    keys: Sequence[Path]
    passphrase_files: Sequence[Path]
    task: Path
    train_s: float
    worse_by: float
    max_size_bytes: int | None
    max_latency_us: float | None
    canary_percent: int
    max_delay_s: int
    keep_runs: int


class Work:
    """One job at work.

    Raises:
        AtollError: It cannot begin.
    """

    def __init__(self, job: Job, means: Means, agents: Sequence[Agent]) -> None:
        self.job = job
        self._means = means
        self._home = means.home.for_loop
        make_folder(self._home.folder)
        self._log_file = self._home.folder / f"{job.model}-{job.kind.value}.log"
        self._run = job.run
        self._release = job.release
        self._percent: int | None = None
        limit_s = means.train_s if job.kind is JobKind.TRAIN else _PUBLISH_S
        self._deadline_s = time.monotonic() + limit_s
        self._limit_s = limit_s
        self._lines = self._commands(agents)
        self._process, self._out = self._begun(next(self._lines))

    def poll(self) -> Ended | None:
        """Return how it ended; None: it goes on."""
        code = self._process.poll()
        if code is None:
            if time.monotonic() < self._deadline_s:
                return None
            self.stop()
            return self._failed(f"not done within {self._limit_s:.0f} s")
        self._out.close()
        if code != Exit.SUCCESS:
            is_refusal = self.job.kind is JobKind.PUBLISH and code == Exit.GATE_REFUSED
            return self._failed(self._last_words(code), is_refusal=is_refusal)
        try:
            line = next(self._lines, None)
            if line is None:
                return Ended(is_done=True, run=self._run, release=self._release, percent=self._percent)
            self._process, self._out = self._begun(line)
        except AtollError as error:
            return self._failed(error.detail)
        return None

    def _failed(self, detail: str, *, is_refusal: bool = False) -> Ended:
        is_signed = False
        if self.job.kind is JobKind.PUBLISH:
            with suppress(AtollError):
                is_signed = self._signed(self._digest()) is not None
        return Ended(
            is_done=False, is_refusal=is_refusal, is_signed=is_signed, detail=detail, release=self._release
        )

    def stop(self) -> None:
        """End the process and all that it has started."""
        process = self._process
        self._out.close()
        if process.poll() is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_S)

    def _commands(self, agents: Sequence[Agent]) -> Iterator[list[str]]:
        """Yield the commands, each once those before it have succeeded."""
        means, job = self._means, self.job
        settings = ["--settings", str(means.settings), "--home", str(means.home.folder)]
        signing = [*settings]
        for folder in means.keys:
            signing += ["--keys", str(folder)]
        for file in means.passphrase_files:
            signing += ["--passphrase-file", str(file)]
        match job.kind:
            case JobKind.TRAIN:
                yield from self._training(settings)
            case JobKind.PUBLISH:
                yield from self._publishing(signing, agents)
            case JobKind.PROMOTE:
                whom = ["--percent", str(job.percent or 100)]
                if job.percent is None:
                    whom += ["--channel", STABLE]
                yield ["promote", job.model, str(job.release), *signing, *whom, "--json"]
            case JobKind.WITHDRAW:
                yield ["withdraw", job.model, str(job.release), *signing, "--why", job.why[:200]]

    def _training(self, settings: list[str]) -> list[list[str]]:
        means, job = self._means, self.job
        _prune(self._home.runs, job.model, means.keep_runs)
        folder = self._home.new_run(job.model)
        self._run = folder.name
        self._release = Repository.load(means.home.repository).next_release(job.model)
        run = str(folder)
        since = [] if job.since_ms is None else ["--since", f"{job.since_ms:.3f}"]
        return [
            ["train", *settings, "--task", str(means.task), "--out", run, *since, "--json"],
            ["optimise", run, "--json"],
            ["evaluate", run, "--json"],
            self._bundling(folder),
        ]

    def _bundling(self, folder: Path) -> list[str]:
        release = ["--release", str(self._release), "--out", str(folder / BUNDLE)]
        return ["bundle", "--run", str(folder), *release, "--json"]

    def _publishing(self, signing: list[str], agents: Sequence[Agent]) -> Iterator[list[str]]:
        means, job, folder = self._means, self.job, self._folder
        repository = Repository.load(means.home.repository)
        found = self._signed(self._digest())
        if found is not None:
            # It is out already, after an interruption: publish completes what is missing.
            self._release, self._percent = found.release, found.rollout_percent
        else:
            number = job.release or 0
            is_passed = number < repository.next_release(job.model)
            if is_passed and repository.why_withdrawn(job.model, number) is None:
                # Somebody has published another one since; one that was withdrawn may have been this one.
                self._release = repository.next_release(job.model)
                yield self._bundling(folder)
            self._percent = canary_percent(means.canary_percent, self._digest()[:16], job.model, agents)
        terms = ["--percent", str(self._percent), "--max-delay", str(means.max_delay_s)]
        gate = ["--run", str(folder), "--worse-by", f"{means.worse_by:g}"]
        if means.max_size_bytes is not None:
            gate += ["--max-size", str(means.max_size_bytes)]
        if means.max_latency_us is not None:
            gate += ["--max-latency", f"{means.max_latency_us:g}"]
        yield ["publish", str(folder / BUNDLE), *signing, *terms, *gate, "--json"]

    @property
    def _folder(self) -> Path:
        return self._home.runs / str(self._run)

    def _digest(self) -> str:
        path = self._folder / BUNDLE
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise storage_error(path, error) from error

    def _signed(self, sha256: str) -> ReleaseTerms | None:
        """Return the terms of the release with these bytes, None if it is not available."""
        available = Repository.load(self._means.home.repository).all_releases()
        named = (one.terms for one in available if one.sha256 == sha256 and one.terms.model == self.job.model)
        return next(named, None)

    def _begun(self, words: list[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        try:
            out = self._log_file.open("wb")
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-c", _PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        except OSError as error:
            raise storage_error(self._log_file, error) from error
        return process, out

    def _last_words(self, code: int) -> str:
        path = self._log_file
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        told = [line.strip() for line in lines if line.strip() and not _is_event(line)]
        return told[-1][:500] if told else f"exit status {code}; see {path}"


def _is_event(line: str) -> bool:
    """Whether a line is one of the log, or a result, rather than an error told to a person."""
    try:
        found: Mapping[str, Any] = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict)


def _prune(runs: Path, model: str, keep: int) -> None:
    """Delete the oldest run folders of ``model``, so that ``keep`` are left with the one to come."""
    numbered = re.compile(re.escape(model) + r"-(\d+)")
    found = [
        (int(match[1]), folder) for folder in runs.glob("*") if (match := numbered.fullmatch(folder.name))
    ]
    for _, folder in sorted(found)[: max(0, len(found) - keep + 1)]:
        shutil.rmtree(folder, ignore_errors=True)
        _log.info("run.deleted", folder=str(folder))
