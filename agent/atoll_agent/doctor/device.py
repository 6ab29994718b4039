"""The device: clock, disk, heat, and the power of a Raspberry Pi."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from atoll_agent.adapters.clock import BUILD_TIME, SystemClock, Trust
from atoll_agent.doctor.finding import Finding, fault, ok, warning

_MIB: Final = 1024 * 1024
_LEAST_MIB: Final = 16
_FEW_INODES: Final = 1000
_HOT_C: Final = 80.0
"""From here on a Raspberry Pi lowers its clock."""
_VCGENCMD_S: Final = 5.0
_UNDER_VOLTAGE: Final = 0x1
_SLOWED: Final = 0x2 | 0x4 | 0x8
_SINCE_START: Final = 16
"""The same bits, so far to the left, tell that it was so since the start."""


def look_at_device(
    state_dir: Path, trust: Trust, max_bundle_bytes: int, sysfs: Path, *, now: datetime | None = None
) -> list[Finding]:
    """Return what is found of clock, disk and, where sysfs at ``sysfs`` tells, heat and power."""
    return [
        ok("device", _name(sysfs)),
        _clock(trust, now or datetime.now(UTC)),
        *_disk(state_dir, max_bundle_bytes),
        *_heat(sysfs),
        *_power(sysfs),
    ]


def is_raspberry_pi(sysfs: Path) -> bool:
    """Whether this is one."""
    return "Raspberry Pi" in model_of(sysfs)


def model_of(sysfs: Path) -> str:
    """Return what the firmware calls this board; empty where it tells nothing."""
    return read_text(sysfs / "firmware" / "devicetree" / "base" / "model").rstrip("\0")


def read_text(path: Path) -> str:
    """Return what a small file of sysfs holds, empty where it is not there or tells nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _name(sysfs: Path) -> str:
    board = model_of(sysfs) or "no board that tells its name"
    return f"{board}, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}"


def _clock(trust: Trust, now: datetime) -> Finding:
    shown = now.strftime("%Y-%m-%d %H:%M:%S UTC")
    if now < BUILD_TIME:
        return fault(
            "clock",
            f"{shown} is before this version was made",
            "set the clock: signed releases cannot be judged by it (timedatectl set-ntp true)",
        )
    if SystemClock(trust).is_time_unsynced:
        return warning(
            "clock",
            f"{shown}, and no time server has set it",
            'timedatectl set-ntp true; or clock = "trusted" in [agent], if it is right for another reason',
        )
    return ok("clock", f"{shown}, set")


def _disk(state_dir: Path, max_bundle_bytes: int) -> Iterator[Finding]:
    folder = next((path for path in (state_dir, *state_dir.parents) if path.exists()), Path("/"))
    try:
        found = os.statvfs(folder)
    except OSError as error:
        yield fault("disk", f"{folder}: {error.strerror}", "check the disk: dmesg, fsck")
        return
    free_mib = found.f_bavail * found.f_frsize / _MIB
    needs_mib = 2 * max_bundle_bytes / _MIB  # the champion, and the release on its way
    detail = f"{free_mib:,.0f} MiB free for {state_dir}"
    if found.f_flag & os.ST_RDONLY:
        yield fault(
            "disk", f"{state_dir} is on a disk that is read-only", "mount it for writing; check dmesg"
        )
    elif free_mib < _LEAST_MIB or (found.f_files and found.f_favail < _FEW_INODES):
        yield fault("disk", f"{detail}, {found.f_favail:,} files more", "make room: slots cannot be stored")
    elif free_mib < needs_mib:
        yield warning(
            "disk",
            f"{detail}; two bundles may take {needs_mib:,.0f} MiB",
            "make room, or lower max_bundle_bytes in [agent]",
        )
    else:
        yield ok("disk", detail)


def _heat(sysfs: Path) -> Iterator[Finding]:
    for zone in sorted((sysfs / "class" / "thermal").glob("thermal_zone*")):
        kind = read_text(zone / "type")
        if not any(word in kind for word in ("cpu", "soc")):
            continue
        try:
            temp_c = int(read_text(zone / "temp")) / 1000
        except ValueError:
            continue
        if temp_c >= _HOT_C:
            yield warning(
                "heat", f"{kind} is at {temp_c:.0f} °C and slows down", "give it air or a heat sink"
            )
        else:
            yield ok("heat", f"{kind} is at {temp_c:.0f} °C")


def _power(sysfs: Path) -> Iterator[Finding]:
    if not is_raspberry_pi(sysfs):
        return
    bits = _throttled(sysfs)
    if bits is None:
        yield warning(
            "power",
            "neither sysfs nor vcgencmd tells whether the power supply is good enough",
            "apt install libraspberrypi-bin (raspi-utils), and put this user into the group video",
        )
        return
    before = bits >> _SINCE_START
    if bits & _UNDER_VOLTAGE:
        yield fault("power", f"the voltage is too low now ({bits:#x})", "use the board's own power supply")
    elif before & _UNDER_VOLTAGE:
        yield warning(
            "power",
            f"the voltage has been too low since the start ({bits:#x})",
            "use the board's own power supply; USB accelerators may need a powered hub",
        )
    elif (bits | before) & _SLOWED:
        when = "now" if bits & _SLOWED else "at times since the start"
        yield warning("power", f"the clock is lowered {when} ({bits:#x})", "give it air or a heat sink")
    else:
        yield ok("power", "the voltage was never too low, the clock never lowered")


def _throttled(sysfs: Path) -> int | None:
    """Return what the firmware of a Raspberry Pi tells of power and heat; None: it cannot be asked."""
    found = [read_text(path) for path in (sysfs / "devices" / "platform").glob("*/*firmware/get_throttled")]
    program = shutil.which("vcgencmd")
    if not found and program is not None:
        try:
            ended = subprocess.run(  # noqa: S603 - a program by its name in PATH
                [program, "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_S, check=False
            )
            found = [ended.stdout.strip().removeprefix("throttled=")]
        except (OSError, subprocess.TimeoutExpired):
            return None
    try:
        return int(found[0], 16) if found else None
    except ValueError:
        return None


def fsync_ms(folder: Path) -> float:
    """Return how long it takes until a small file is on the disk.

    Raises:
        OSError: No file can be written.
    """
    path = folder / f".doctor-{os.getpid()}"
    started = time.perf_counter()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, bytes(512))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        path.unlink(missing_ok=True)
    return (time.perf_counter() - started) * 1e3
