"""The state folder: who this agent is, whether it runs, what its models have."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from atoll_agent.adapters.store import Identity, StateStore
from atoll_agent.doctor.device import fsync_ms
from atoll_agent.doctor.finding import Finding, fault, ok, warning
from atoll_agent.rollout.fit import require_fit
from atoll_agent.settings import ModelTable
from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError
from atoll_infer.contest import Contest
from atoll_infer.model_file import read_model_file, require_files
from atoll_ingest.stream import Stream

_SLOW_FSYNC_MS: Final = 1000.0
_LOCKS: Final = Path("/proc/locks")


def look_at_state(folder: Path, settings_path: Path) -> tuple[list[Finding], Identity | None]:
    """Return what is found of the state folder, and who this agent is, if it is enrolled."""
    findings = [*_folder(folder)]
    try:
        identity = StateStore(folder).identity()
    except ConfigError as error:
        todo = f"atoll-agent enrol --settings {settings_path} --root root.json (made by atoll-trainer init)"
        return [*findings, fault("enrolment", error.detail, todo)], None
    findings.append(ok("enrolment", f"enrolled, token {identity.token[:8]}..."))
    pid = running_pid(folder)
    findings.append(ok("agent", f"is running, process {pid}" if pid else "is not running"))
    return findings, identity


def look_at_models(
    models: Iterable[ModelTable], streams: Iterable[Stream], folder: Path
) -> Iterator[Finding]:
    """Yield what each model of the settings has to answer with."""
    store = StateStore(folder)
    by_name = {stream.name: stream for stream in streams}
    for model in models:
        check = f"model {model.name}"
        stored = store.peek_champion(model.name)
        if stored is None:
            todo = "publish a release to its channel: atoll-trainer publish"
            yield warning(check, "has no champion yet: it answers nothing", todo)
            continue
        champion, content = stored
        stream = by_name[model.stream]
        try:
            bundle = Bundle.unpack(content)
            require_files(bundle)
            require_fit(
                bundle.manifest,
                model=model.name,
                release=champion.release,
                units=stream.units,
                is_shared=stream.is_shared,
            )
        except BundleRejectedError as error:
            todo = "mend the settings, or publish a release that fits"
            yield fault(check, f"release {champion.release}: {error.detail} [{error.reason}]", todo)
            continue
        files = [f"model.tflite is {read_model_file(bundle.model)}"]
        if bundle.model_edgetpu is not None:
            files.append(f"model_edgetpu.tflite is {read_model_file(bundle.model_edgetpu)}")
        if (why := _contest(store, champion.sha256)) is not None:
            files.append(why)
        yield ok(check, f"release {champion.release}; {'; '.join(files)}")


def _contest(store: StateStore, sha256: str) -> str | None:
    """Return what the contest of backends on a bundle came to, if there was one."""
    content = store.read_contest(sha256)
    try:
        return None if content is None else msgspec.json.decode(content, type=Contest).why
    except msgspec.MsgspecError:
        return None


def running_pid(folder: Path, locks: Path = _LOCKS) -> int | None:
    """Return the process whose agent holds the lock of ``folder``; the lock itself is left alone."""
    try:
        inode = folder.stat().st_ino
        lines = locks.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 812 08:02:1835018 0 EOF
        match line.split():
            case [_, "FLOCK", _, "WRITE", pid, place, *_] if place.rsplit(":", 1)[-1] == str(inode):
                return int(pid)
            case _:
                pass
    return None


def _folder(folder: Path) -> Iterator[Finding]:
    if not folder.is_dir():
        yield fault("state", f"{folder} is not there", "atoll-agent enrol makes it")
        return
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        todo = "run doctor as the service's user to see what it may do: sudo -u atoll atoll-agent doctor"
        yield warning("user", f"this is root, {folder} belongs to user {owner}", todo)
    try:
        took_ms = fsync_ms(folder)
    except OSError as error:
        yield fault(
            "state", f"{folder}: {error.strerror}", "let the agent's user write there (chown), make room"
        )
        return
    if took_ms > _SLOW_FSYNC_MS:
        yield warning("state", f"{folder}: a small write takes {took_ms:,.0f} ms", "replace a worn SD card")
    else:
        yield ok("state", f"{folder}: a small write takes {took_ms:.1f} ms")
