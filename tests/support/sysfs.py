"""A tree like /sys and /dev, with Edge TPUs in it."""

from __future__ import annotations

import shutil
from pathlib import Path


class Sysfs:
    """Attributes: ``root`` is what takes the place of ``/sys``; device nodes are in ``dev`` beside it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "sys"
        self._dev = folder / "dev"
        self._numbers = 0

    def plug_usb(self, name: str, *, has_firmware: bool = True, node: bool = True) -> str:
        """Plug a stick into the port ``name`` (``1-2``); return its path."""
        self._numbers += 1
        vendor, product = ("18d1", "9302") if has_firmware else ("1a6e", "089a")
        facts = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": str(self._numbers)}
        self._write(self.root / "bus" / "usb" / "devices" / name, facts)
        if node:
            self._touch(self._dev / "bus" / "usb" / "001" / f"{self._numbers:03}")
        return f"/sys/bus/usb/devices/{name}"

    def unplug_usb(self, name: str) -> None:
        shutil.rmtree(self.root / "bus" / "usb" / "devices" / name)

    def plug_pci(self, number: int, **facts: str) -> str:
        """Put a module into a slot; ``facts`` are files of the driver."""
        self._write(self.root / "class" / "apex" / f"apex_{number}", {"status": "ALIVE", **facts})
        self._touch(self._dev / f"apex_{number}")
        return f"/dev/apex_{number}"

    @staticmethod
    def _write(folder: Path, facts: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in facts.items():
            (folder / name).write_text(f"{value}\n")

    @staticmethod
    def _touch(node: Path) -> None:
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()
