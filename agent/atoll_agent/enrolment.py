"""Folders for many devices, each ready to be copied: settings, root of trust, token, secrets.

A folder that is there stays as it is: running it again makes what is missing and changes nothing. A
token, once made, is kept for ever, since it tells two devices of one name apart.
"""

from __future__ import annotations

import csv
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from atoll_agent.adapters.store import StateStore
from atoll_agent.settings import AgentSettings, AgentTable
from atoll_agent.toml_edit import Key, with_values
from atoll_contract.errors import ConfigError
from atoll_contract.ids import is_id
from atoll_link.files import make_folder, write_whole

SETTINGS: Final = "agent.toml"
STATE: Final = "state"
PASSWORD: Final = "password"  # noqa: S105 - the name of a file and a column

COLUMNS: Final[Mapping[str, Key]] = {
    "id": ("agent", "id"),
    "site": ("agent", "site"),
    "channel": ("agent", "channel"),
    PASSWORD: ("broker", "password_file"),
    "cert_file": ("broker", "cert_file"),
    "key_file": ("broker", "key_file"),
}
"""What the table of devices may say of each, and the key that it sets."""

_BESIDE: Final[tuple[Key, ...]] = (("agent", "streams_file"), ("broker", "ca_file"))
"""Settings that name files which come along beside the settings, where their paths are relative."""

_SECRETS: Final[tuple[Key, ...]] = (
    ("broker", "password_file"),
    ("broker", "cert_file"),
    ("broker", "key_file"),
)
"""Likewise, but into the state folder, which belongs to the agent alone."""

_STATE_DIR: Final[Key] = ("agent", "state_dir")
_DEFAULT_STATE_DIR: Final[Path] = AgentTable.model_fields["state_dir"].default
_SECRET: Final = 0o600
_PUBLIC: Final = 0o644


class Outcome(StrEnum):
    """What became of a folder."""

    MADE = "made"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class _Content:
    content: bytes
    mode: int = _PUBLIC


def read_devices(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file of devices, by column; cells that are empty are left out.

    Raises:
        ConfigError: It cannot be read, or with one line per fault.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    faults = [
        f"{path}: there is no column {name!r}: {', '.join(COLUMNS)}"
        for name in columns
        if name not in COLUMNS
    ]
    if "id" not in columns:
        faults.append(f"{path}: the first line must name the columns, one of them id")
    seen: set[str] = set()
    for number, row in enumerate(rows, 2):
        device = row.get("id") or ""
        if None in row or None in row.values():
            faults.append(f"{path}: line {number}: not as many cells as columns")
        if not is_id(device):
            faults.append(f"{path}: line {number}: id {device!r} is not 1 to 48 of A-Z a-z 0-9 _ -")
        if device in seen:
            faults.append(f"{path}: line {number}: id {device!r} stands twice")
        seen.add(device)
    if not rows:
        faults.append(f"{path}: names no device")
    if faults:
        raise ConfigError(faults)
    return [{column: cell for column, cell in row.items() if cell} for row in rows]


def make_folders(
    devices: Iterable[Mapping[str, str]], template: Path, root: bytes, out: Path, *, is_overwriting: bool
) -> dict[str, Outcome]:
    """Make a folder below ``out`` for each device; return what became of each.

    Args:
        devices: As :func:`read_devices` returns them; relative paths in them are taken from the folder
            of ``template``.
        template: Settings that all devices share.
        root: The trainer's root metadata.
        out: Where the folders will be.
        is_overwriting: Replace files that differ; tokens stay.

    Raises:
        ConfigError: With one line per fault; nothing has been written then.
        StorageError: A file cannot be written.
    """
    planned: dict[str, dict[str, _Content]] = {}
    faults: list[str] = []
    for device in devices:
        try:
            planned[device["id"]] = _contents(device, template, root)
        except ConfigError as error:
            faults += [f"{device['id']}: {fault}" for fault in error.faults]
    if not is_overwriting:
        for device_id, contents in planned.items():
            if differing := _differing(out / device_id, contents):
                names = ", ".join(differing)
                faults.append(
                    f"{out / device_id}: {names} would change; --overwrite replaces, and keeps the token"
                )
    if faults:
        raise ConfigError(faults)
    return {device_id: _write(out / device_id, contents, root) for device_id, contents in planned.items()}


def _contents(device: Mapping[str, str], template: Path, root: bytes) -> dict[str, _Content]:
    """Return the files of one device, by name, checked as the device will check them."""
    text = with_values(
        _text(template), {COLUMNS[column]: cell for column, cell in device.items() if column != PASSWORD}
    )
    state_dir = Path(_value(text, _STATE_DIR) or _DEFAULT_STATE_DIR)
    if not state_dir.is_absolute():
        state_dir = Path(STATE)
    contents = {f"{STATE}/root.json": _Content(root)}
    renamed = {_STATE_DIR: str(state_dir)}
    if PASSWORD in device:
        contents[f"{STATE}/{PASSWORD}"] = _Content(device[PASSWORD].encode(), _SECRET)
        renamed[COLUMNS[PASSWORD]] = str(state_dir / PASSWORD)
    for key in (*_BESIDE, *_SECRETS):
        source = _value(text, key)
        if source is None or Path(source).is_absolute() or key in renamed:
            continue
        name = Path(source).name
        is_secret = key in _SECRETS
        place = f"{STATE}/{name}" if is_secret else name
        if place in {*contents, SETTINGS, f"{STATE}/token"}:
            raise ConfigError(f"{template}: {key[0]}.{key[1]}: another file is called {name} too")
        contents[place] = _Content(_bytes(template.parent / source), _SECRET if is_secret else _PUBLIC)
        renamed[key] = str(state_dir / name) if is_secret else name
    contents[SETTINGS] = _Content(with_values(text, renamed).encode())
    _check(device["id"], contents)
    return contents


def _value(text: str, key: Key) -> str | None:
    found: Any = tomllib.loads(text).get(key[0], {}).get(key[1])
    return found if isinstance(found, str) else None


def _check(device_id: str, contents: Mapping[str, _Content]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, file in contents.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(file.content)
        try:
            settings = AgentSettings.read(Path(folder) / SETTINGS)
        except ConfigError as error:
            raise ConfigError([fault.replace(f"{folder}/", "") for fault in error.faults]) from error
    if settings.agent.id != device_id:
        raise ConfigError("the environment (ATOLL_AGENT__ID) overrides its id")


def _differing(folder: Path, contents: Mapping[str, _Content]) -> list[str]:
    return [
        name
        for name, file in contents.items()
        if (folder / name).exists() and _bytes(folder / name) != file.content
    ]


def _write(folder: Path, contents: Mapping[str, _Content], root: bytes) -> Outcome:
    is_there = (folder / SETTINGS).exists()
    has_changed = False
    make_folder(folder)
    folder.chmod(0o700)
    for name, file in contents.items():
        if not (folder / name).exists() or _bytes(folder / name) != file.content:
            make_folder((folder / name).parent)
            write_whole(folder / name, file.content, file.mode)
            has_changed = True
    if not (folder / STATE / "token").exists():
        StateStore(folder / STATE).enrol(root)
        has_changed = True
    if not is_there:
        return Outcome.MADE
    return Outcome.REPLACED if has_changed else Outcome.UNCHANGED


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
