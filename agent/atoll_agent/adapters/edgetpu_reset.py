"""Resets a USB device, as unplugging it and plugging it in again would. Not run on an Edge TPU yet."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

_USBDEVFS_RESET: Final = 0x5514
"""``_IO('U', 20)`` of ``linux/usbdevice_fs.h``."""


def reset_usb(node: Path) -> str | None:
    """Reset the device behind ``node`` (``/dev/bus/usb/001/004``); return why that failed, for people."""
    try:
        descriptor = os.open(node, os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _USBDEVFS_RESET, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"{node} cannot be reset: {error.strerror}"
    return None
