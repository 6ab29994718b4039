"""The library of the Edge TPU: whether it can be used, and a model opened on one.

Every way that opening fails looks the same (an empty message), so what can be known is asked before:
the version of the library, and what it enumerates. Only :func:`open_device` opens a device; do that in a
process that may die.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from atoll_contract.errors import AcceleratorLostError, RuntimeUnavailableError
from atoll_infer.runtime import Runtime

LIBRARY: Final = "libedgetpu.so.1"
_KINDS: Final = {0: "pci", 1: "usb"}
_OLD_COMPILER: Final = 8
"""Google built its last binary (2021) with GCC 6; what fits today's runtimes is built with newer ones."""
_NEW_RUNTIME: Final = (2, 12)
"""The structures of TensorFlow Lite grew with 2.12: an older library makes it read beyond its own."""
_INSTALL: Final = "install a build for TensorFlow 2.17 or newer from github.com/feranick/libedgetpu/releases"


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("path", ctypes.c_char_p))


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded libedgetpu.

    Attributes:
        name: As it was asked for.
        version: What it says of itself.
        devices: Kind (``usb``, ``pci``) and path of each Edge TPU that it finds, in its own order.
    """

    name: str
    version: str
    devices: tuple[tuple[str, str], ...]

    @property
    def is_old(self) -> bool:
        """Whether it was certainly built for a TensorFlow Lite older than 2.12."""
        compiler = re.search(r"COMPILER=(\d+)\.", self.version)
        return compiler is not None and int(compiler[1]) < _OLD_COMPILER


def load_library(name: str = LIBRARY) -> Library:
    """Load ``name`` into this process and enumerate; no device is opened.

    Raises:
        RuntimeUnavailableError: It is not there, or no libedgetpu; says what to install.
    """
    try:
        library = ctypes.CDLL(name)
        library.edgetpu_version.restype = ctypes.c_char_p
        library.edgetpu_list_devices.restype = ctypes.POINTER(_Device)
        library.edgetpu_list_devices.argtypes = (ctypes.POINTER(ctypes.c_size_t),)
        library.edgetpu_free_devices.argtypes = (ctypes.POINTER(_Device),)
        library.edgetpu_free_devices.restype = None
        version = library.edgetpu_version()
    except OSError as error:
        package = "libusb-1.0-0" if "libusb" in str(error) else "libedgetpu1-std"
        raise RuntimeUnavailableError(f"{error}: install {package}, or set edgetpu.library") from error
    except AttributeError as error:
        raise RuntimeUnavailableError(f"{name} is no libedgetpu: {error}") from error
    count = ctypes.c_size_t(0)
    found = library.edgetpu_list_devices(ctypes.byref(count))
    devices = tuple((_KINDS.get(found[i].type, "other"), found[i].path.decode()) for i in range(count.value))
    if count.value:
        library.edgetpu_free_devices(found)
    return Library(name, version.decode(errors="replace"), devices)


def fault(library: Library, runtime: Runtime) -> str | None:
    """Return why ``library`` cannot serve ``runtime``, for people; None: nothing is known against it."""
    if not library.is_old or (runtime.package == "tflite-runtime" and _release(runtime) < _NEW_RUNTIME):
        return None
    return f"{library.name} is too old for {runtime.name} ({library.version}): {_INSTALL}"


def open_device(library: Library, runtimes: Sequence[Runtime], path: str) -> tuple[Runtime, Any]:
    """Open the Edge TPU at ``path``; return the runtime to use and the delegate to load models with.

    Genuine pycoral opens it where that is installed and ``library`` is the usual one; otherwise the first
    of ``runtimes`` does. Blocks, without letting other threads run, for up to half a minute.

    Raises:
        AcceleratorLostError: It is not there, or cannot be opened.
        RuntimeUnavailableError: No runtime fits the library.
    """
    kinds = [kind for kind, found in library.devices if found == path]
    if not kinds:
        others = ", ".join(found for _, found in library.devices) or "none"
        raise AcceleratorLostError(f"{library.name} does not find {path}; it finds: {others}")
    # Indices change when a stick gets its firmware, so they are looked up just before.
    same = [found for kind, found in library.devices if kind == kinds[0]]
    options = {"device": f"{kinds[0]}:{same.index(path)}"}
    faults = [fault(library, runtime) for runtime in runtimes]
    fitting = [runtime for runtime, known in zip(runtimes, faults, strict=True) if known is None]
    if not fitting:
        raise RuntimeUnavailableError(next((known for known in faults if known), "no runtime works here"))
    runtime = fitting[0]
    try:
        if library.name == LIBRARY and runtime.package == "tflite-runtime" and has_pycoral():
            return runtime, importlib.import_module("pycoral.utils.edgetpu").load_edgetpu_delegate(options)
        if runtime.load_delegate is None:
            raise RuntimeUnavailableError(f"{runtime.name} opens no accelerators")
        return runtime, runtime.load_delegate(library.name, options)
    except (ValueError, OSError) as error:
        detail = " ".join(str(error).split())[:300]
        raise AcceleratorLostError(f"{path} cannot be opened: {detail}") from error


def has_pycoral() -> bool:
    """Whether Google's pycoral is installed, and not the other project that PyPI has under this name."""
    return _pycoral_folder() is not None and pycoral_fault() is None


def pycoral_fault() -> str | None:
    """Return what is wrong with the installed pycoral, for people; None: nothing, or there is none."""
    folder = _pycoral_folder()
    if folder is None or (folder / "utils" / "edgetpu.py").is_file():
        return None
    return (
        f"{folder} is another project that PyPI has under the name of Google's pycoral: "
        "pip uninstall pycoral; atoll needs none"
    )


def _pycoral_folder() -> Path | None:
    spec = importlib.util.find_spec("pycoral")
    folders = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(folders))) if folders else None


def _release(runtime: Runtime) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", runtime.name.split(" ")[-1])[:2])
