"""Which Edge TPUs there are, as sysfs tells: nothing is opened.

Opening a USB one resets its port, which kills whoever uses it, and every failure to open one looks the
same; so who wants to know asks here first. Vendor ids, files of the driver: google-coral/libedgetpu,
google/gasket-driver.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

SYSFS: Final = Path("/sys")
_USB_IDS: Final = {("1a6e", "089a"): False, ("18d1", "9302"): True}
"""Vendor and product, and whether the stick has its firmware: it gets that when it is first opened."""
_ALL_ONES_C: Final = -89.7
"""What the driver makes of a register that reads as all ones: the chip is off the bus."""
_TRIP_POINTS: Final = ("trip_point0_temp", "trip_point1_temp", "trip_point2_temp")


class Kind(StrEnum):
    """How an Edge TPU is attached."""

    PCI = "pci"
    USB = "usb"


@dataclass(frozen=True, slots=True)
class Device:
    """An Edge TPU.

    Attributes:
        path: Names it for good, as libedgetpu does: ``/dev/apex_0``, ``/sys/bus/usb/devices/1-2``.
        kind: How it is attached.
        node: The file that is opened to use it.
        has_firmware: Whether it runs; False for a USB stick that was not opened since it got power.
        fault: For people: why it cannot be used, and what to do; None: it can.
        temp_c: Temperature; None: it tells none, as all USB sticks.
        clock_percent: What of its clock the temperature leaves; None: it tells none.
    """

    path: str
    kind: Kind
    node: Path
    has_firmware: bool
    fault: str | None = None
    temp_c: float | None = None
    clock_percent: int | None = None


def find_devices(sysfs: Path = SYSFS) -> list[Device]:
    """Return all Edge TPUs, those on PCIe first.

    Args:
        sysfs: Where sysfs is mounted; the device nodes are in ``dev`` beside it.
    """
    return [*_pci(sysfs), *_usb(sysfs)]


def _pci(sysfs: Path) -> Iterator[Device]:
    for folder in _folders(sysfs / "class" / "apex"):
        node = sysfs.parent / "dev" / folder.name
        temp_c = _milli(folder / "temp")
        fault = _node_fault(node, "apex")
        if temp_c == _ALL_ONES_C or _text(folder / "status") == "DEAD":
            fault = f"/dev/{folder.name} has fallen off the bus: mind cooling and power, then reboot"
        clock_percent = None
        if temp_c is not None:
            passed = [point for name in _TRIP_POINTS if (point := _milli(folder / name)) and temp_c >= point]
            clock_percent = 100 >> len(passed)
        path = f"/dev/{folder.name}"
        yield Device(path, Kind.PCI, node, True, fault, temp_c, clock_percent)


def _usb(sysfs: Path) -> Iterator[Device]:
    for folder in _folders(sysfs / "bus" / "usb" / "devices"):
        ids = (_text(folder / "idVendor"), _text(folder / "idProduct"))
        if ids not in _USB_IDS:
            continue
        try:
            bus, number = int(_text(folder / "busnum")), int(_text(folder / "devnum"))
        except ValueError:
            continue  # it is being unplugged
        node = sysfs.parent / "dev" / "bus" / "usb" / f"{bus:03}" / f"{number:03}"
        path = f"/sys/bus/usb/devices/{folder.name}"
        yield Device(path, Kind.USB, node, _USB_IDS[ids], _node_fault(node, "plugdev"))


def _node_fault(node: Path, group: str) -> str | None:
    if not node.exists():
        return f"{node} is missing here: a container needs the folder {node.parent} and its devices"
    if not os.access(node, os.R_OK | os.W_OK):
        return (
            f"{node} may not be read and written by this user: add it to the group {group}, and install the "
            "udev rule of libedgetpu1"
            if group == "plugdev"
            else f"{node} may not be read and written by this user: add it to the group {group}"
        )
    return None


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:
        return []


def _milli(path: Path) -> float | None:
    with suppress(ValueError):
        return int(_text(path)) / 1000
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
