"""What helps somebody who is far away to understand a device, in one ZIP without secrets.

Passwords, keys and the token are looked for in all that goes in, and blotted out; files that hold
nothing else are told by name and size only.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from atoll_agent.adapters.edgetpu_devices import SYSFS, find_devices
from atoll_agent.doctor.finding import Finding
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError

_BLOT: Final = "***"
_LEAST_SECRET_CHARS: Final = 4
"""A shorter one stands everywhere by chance."""
_MOST_BYTES: Final = 256 * 1024
_MOST_FILES: Final = 1000
_LOG_LINES: Final = "2000"
_LOG_S: Final = 20.0
_LOGIN: Final = re.compile(r"//[^/\s@]*@")
_ASSIGNED: Final = re.compile(
    r"""((?:password|passphrase|secret|token|private)\w*["']?\s*[=:]\s*)("[^"\n]*"|'[^'\n]*'|[^\s,}]+)""",
    re.IGNORECASE,
)
"""What stands where a secret would, were the key that of one; paths are told (``password_file``)."""
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*-----|\Z)", re.DOTALL)


def support_bundle(findings: Iterable[Finding], settings_path: Path, sysfs: Path | None, unit: str) -> bytes:
    """Return the ZIP.

    Args:
        findings: What doctor has found.
        settings_path: The settings file.
        sysfs: Where sysfs is mounted, if not where the settings say.
        unit: The systemd unit whose log goes in.
    """
    try:
        settings = AgentSettings.read(settings_path)
    except ConfigError:
        settings = None
    if sysfs is None:
        sysfs = SYSFS if settings is None else settings.edgetpu.sysfs_root
    blot = Blot(_secrets(settings))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _members(list(findings), settings_path, settings, sysfs, unit):
            archive.writestr(name, blot(text))
    return content.getvalue()


class Blot:
    """Takes secrets out of text: those that it is told, and what looks like one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may hold another.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= _LEAST_SECRET_CHARS}, key=len)[
            ::-1
        ]

    def __call__(self, text: str) -> str:
        """Return ``text`` without them."""
        text = _PEM.sub(_BLOT, text)
        for secret in self._secrets:
            text = text.replace(secret, _BLOT)
        return _ASSIGNED.sub(_blotted, _LOGIN.sub(f"//{_BLOT}@", text))


def _blotted(found: re.Match[str]) -> str:
    key = found[1].lower()
    return found[0] if "_file" in key else f"{found[1]}{_BLOT}"


def _secrets(settings: AgentSettings | None) -> Iterator[str]:
    if settings is None:
        return
    broker = settings.broker
    for path in (broker.password_file, broker.key_file, settings.agent.state_dir / "token"):
        if path is None:
            continue
        with suppress(OSError, UnicodeDecodeError):
            text = path.read_text(encoding="utf-8")
            yield text.strip()
            yield from (line.strip() for line in text.splitlines() if "-----" not in line)


def _members(
    findings: list[Finding], settings_path: Path, settings: AgentSettings | None, sysfs: Path, unit: str
) -> Iterator[tuple[str, str]]:
    yield "findings.json", _json([vars_of(finding) for finding in findings])
    yield "system.json", _json(_system(sysfs))
    yield (
        "packages.txt",
        "\n".join(sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions())) + "\n",
    )
    yield "settings/agent.toml", _read(settings_path)
    if settings is not None:
        if settings.agent.streams_file is not None:
            yield f"settings/{settings.agent.streams_file.name}", _read(settings.agent.streams_file)
        folder = settings.agent.state_dir
        yield "state/files.txt", "\n".join(_listing(folder)) + "\n"
        for path in sorted(folder.glob("slots/*.json"))[:_MOST_FILES]:
            yield f"state/slots/{path.name}", _read(path)
        yield "state/filters.json", _read(folder / "filters.json")
    yield "log.txt", _log(unit)


def vars_of(finding: Finding) -> dict[str, str]:
    """Return a finding as a program reads it."""
    return {
        "check": finding.check,
        "level": finding.level.value,
        "detail": finding.detail,
        "todo": finding.todo,
    }


def _system(sysfs: Path) -> Mapping[str, Any]:
    return {
        "uname": list(platform.uname()),
        "os": _read(Path("/etc/os-release")).splitlines(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "memory": _read(Path("/proc/meminfo")).splitlines()[:5],
        "user": [os.geteuid(), *os.getgroups()],
        "edgetpus": [
            {"path": device.path, "node": str(device.node), "temp_c": device.temp_c, "fault": device.fault}
            for device in find_devices(sysfs)
        ],
    }


def _listing(folder: Path) -> Iterator[str]:
    """Yield mode, owner, size and name of the files below ``folder``."""
    for path in sorted(folder.rglob("*"))[:_MOST_FILES]:
        with suppress(OSError):
            found = path.lstat()
            mode, name = stat.filemode(found.st_mode), path.relative_to(folder)
            yield f"{mode} {found.st_uid:>6} {found.st_size:>10} {name}"


def _log(unit: str) -> str:
    program = shutil.which("journalctl")
    if program is None:
        return "there is no journalctl here\n"
    command = [program, "--unit", unit, "--lines", _LOG_LINES, "--no-pager", "--output", "short-iso"]
    try:
        ended = subprocess.run(  # noqa: S603 - a program by its name in PATH
            command, capture_output=True, text=True, errors="replace", timeout=_LOG_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"journalctl: {error}\n"
    return ended.stdout + ended.stderr


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def _json(found: Any) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"
