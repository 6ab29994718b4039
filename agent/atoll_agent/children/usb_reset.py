"""Resets a USB device, as unplugging it and plugging it in again would. Not run on an Edge TPU yet."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Final

from atoll_agent.children import be_a_child

_USBDEVFS_RESET: Final = 0x5514
"""``_IO('U', 20)`` of ``linux/usbdevice_fs.h``."""


def main() -> int:
    """Reset the device behind the node that is named; say on stdout why that failed, for people."""
    be_a_child()
    try:
        descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _USBDEVFS_RESET, 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        sys.stdout.write(str(error.strerror))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
