"""Inference runtimes and Edge TPUs: what is there and why it cannot be used, without opening any."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from atoll_agent.adapters.edgetpu_devices import Device, Kind, find_devices
from atoll_agent.doctor.device import model_of, read_text
from atoll_agent.doctor.finding import Finding, fault, ok, warning
from atoll_contract.errors import RuntimeUnavailableError
from atoll_infer import edgetpu
from atoll_infer.runtime import Looked, Runtime, look_for_runtimes
from atoll_signal.picture import has_decoder

_PCI_IDS: Final = ("0x1ac1", "0x089a")
_PAGE_BYTES: Final = 4096
_SUPERSPEED_MBIT: Final = 5000
_LIMITED_C: Final = 84.0
"""A degree before an Edge TPU on PCIe halves its clock."""


def look_at_runtimes(*, needs_pictures: bool) -> tuple[list[Finding], list[Runtime]]:
    """Return what is found of the inference runtimes, and those that work."""
    looked = list(look_for_runtimes())
    working = [found.runtime for found in looked if found.runtime is not None]
    findings = [_runtime(found, has_other=bool(working)) for found in looked]
    if needs_pictures:
        findings.append(
            ok("pictures", "Pillow is installed")
            if has_decoder()
            else fault("pictures", "a stream carries pictures", "pip install 'atoll[pictures]'")
        )
    return findings, working


def look_at_edgetpu(
    sysfs: Path,
    library: str,
    runtimes: list[Runtime],
    *,
    is_demanded: bool,
    wanted: Sequence[str] = (),
    page_bytes: int | None = None,
) -> list[Finding]:
    """Return what is found of Edge TPUs and of what drives them.

    Args:
        sysfs: Where sysfs is mounted.
        library: Name or path of libedgetpu.
        runtimes: The runtimes that work.
        is_demanded: Whether a model is to run on one.
        wanted: Paths of those that the settings name.
        page_bytes: Size of a memory page, if not that of this machine.
    """
    devices = find_devices(sysfs)
    findings = [finding for device in devices for finding in _device(device, sysfs)]
    findings += _driver(devices, sysfs)
    if not devices and is_demanded:
        findings.append(
            fault(
                "edgetpu", "there is none, and a model demands one", "plug it in, or set accelerator = 'auto'"
            )
        )
    elif not devices and not findings and not wanted:
        findings.append(ok("edgetpu", "there is none; the CPU answers"))
    found = [device.path for device in devices]
    for path in wanted:
        if path not in found:
            shown = ", ".join(found) or "none"
            todo = "plug it in there, or set device to the path of one that is there"
            findings.append(
                fault(f"edgetpu {path}", f"the settings name it, and it is not there; found: {shown}", todo)
            )
    if any(device.kind is Kind.PCI for device in devices):
        findings += _pages(model_of(sysfs), page_bytes or os.sysconf("SC_PAGE_SIZE"))
    if devices or is_demanded:
        findings.append(_library(library, runtimes, devices))
    if (wrong := edgetpu.pycoral_fault()) is not None:
        findings.append(warning("pycoral", *_halves(wrong)))
    return findings


def _runtime(looked: Looked, *, has_other: bool) -> Finding:
    check = f"runtime {looked.package}"
    if looked.runtime is not None:
        return ok(check, looked.why)
    if looked.why.endswith("is not installed") and has_other:
        return ok(check, f"{looked.why}; none is needed beside the other")
    if has_other:
        return warning(check, *_halves(looked.why))
    return fault(check, looked.why, "install tflite-runtime with numpy<2 (Python 3.11), or ai-edge-litert")


def _device(device: Device, sysfs: Path) -> Iterator[Finding]:
    if device.fault is not None:
        yield fault(f"edgetpu {device.path}", *_halves(device.fault))
        return
    facts = [device.kind.value.upper()]
    if not device.has_firmware:
        facts.append("not opened since it got power (1a6e:089a), which is as it should be")
    if device.temp_c is not None:
        facts.append(f"{device.temp_c:.0f} °C")
    detail = ", ".join(facts)
    if device.temp_c is not None and device.temp_c >= _LIMITED_C:
        yield warning(f"edgetpu {device.path}", f"{detail}: it slows down", "give it air or a heat sink")
    elif device.kind is Kind.USB and (speed := _speed_mbit(device, sysfs)) < _SUPERSPEED_MBIT:
        todo = "plug it into a USB 3 port (blue), with the cable that came with it"
        yield warning(f"edgetpu {device.path}", f"{detail}, at {speed:g} Mbit/s only", todo)
    else:
        yield ok(f"edgetpu {device.path}", detail)


def _speed_mbit(device: Device, sysfs: Path) -> float:
    try:
        return float(read_text(sysfs / "bus" / "usb" / "devices" / Path(device.path).name / "speed"))
    except ValueError:
        return float(_SUPERSPEED_MBIT)  # not told: nothing to complain about


def _driver(devices: list[Device], sysfs: Path) -> Iterator[Finding]:
    """Find modules on PCIe that no driver serves."""
    for folder in sorted((sysfs / "bus" / "pci" / "devices").glob("*")):
        if (read_text(folder / "vendor"), read_text(folder / "device")) != _PCI_IDS:
            continue
        if not any(device.kind is Kind.PCI for device in devices):
            todo = "install gasket-dkms (a build for this kernel) and load it: modprobe apex"
            yield fault(f"edgetpu {folder.name}", "the module is there, its driver apex is not", todo)


def _pages(model: str, page_bytes: int) -> Iterator[Finding]:
    if page_bytes == _PAGE_BYTES:
        return
    todo = "boot a kernel with pages of 4 KiB"
    if "Raspberry Pi 5" in model:
        todo += ": kernel=kernel8.img in /boot/firmware/config.txt"
    yield fault("pages", f"memory pages have {page_bytes} bytes; the driver apex needs {_PAGE_BYTES}", todo)


def _library(name: str, runtimes: list[Runtime], devices: list[Device]) -> Finding:
    try:
        library = edgetpu.load_library(name)
    except RuntimeUnavailableError as error:
        return fault("libedgetpu", *_halves(error.detail))
    faults = [edgetpu.fault(library, runtime) for runtime in runtimes]
    known = [found for found in faults if found is not None]
    if runtimes and len(known) == len(runtimes):
        return fault("libedgetpu", *_halves(known[0]))
    found = [path for _, path in library.devices]
    missed = [device.path for device in devices if device.fault is None and device.path not in found]
    if missed:
        detail = f"{library.name} finds {', '.join(found) or 'none'}, and not {', '.join(missed)}"
        todo = (
            "look whether libusb-1.0 may see it: a container needs the folders /sys/bus/usb and /dev/bus/usb"
        )
        return warning("libedgetpu", detail, todo)
    return ok("libedgetpu", f"{library.name}, {library.version}; it finds {len(found)}")


def _halves(text: str) -> tuple[str, str]:
    """Return what is so, and what to do, of a text that tells both, a colon between them."""
    detail, _, todo = text.rpartition(": ")
    return (detail, todo) if detail else (text, "see docs/operate/doctor.md")
