"""Sample readings from a file, as windows: what golden vectors are made of."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.manifest import Manifest
from atoll_link.csv_columns import find_columns, to_number
from atoll_link.csv_file import CsvFile
from atoll_signal.picture import rows_of, takes_pictures

_PICTURES: Final = (".jpg", ".jpeg", ".png")
_MOST_PICTURES: Final = 64
"""Golden vectors need no more."""
TIME: Final = "time_ms"
"""The column of event times, which calendar features need."""

_MOST_CASES: Final = 32
_MOST_NUMBERS: Final = 262_144
"""In all golden vectors together: they travel with every release."""
_NUMBERS: Final = "biuf"
"""Kinds of element types that hold real numbers."""


def places_spread(count: int, size: int) -> list[int]:
    """Return places spread evenly over ``count``, as many as golden vectors are made (1 to 32).

    Args:
        count: Of windows there are.
        size: Numbers in one.
    """
    chosen = min(count, _MOST_CASES, max(1, _MOST_NUMBERS // size))
    return [int(place) for place in np.linspace(0, count - 1, chosen)]


def spread(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows spread evenly over ``windows``; see :func:`places_spread`."""
    return windows[places_spread(len(windows), windows[0].size)]


def read_times(path: Path, length: int) -> NDArray[np.float64]:
    """Return the event times of the windows that :func:`read_samples` reads, shape (n, length).

    Raises:
        ConfigError: The file has no column of them.
    """
    names = [] if path.suffix == ".npy" else CsvFile(path).header()
    if TIME not in names:
        raise ConfigError(f"{path}: calendar features need the event times: a CSV file with a column {TIME}")
    return np.lib.stride_tricks.sliding_window_view(_csv(path, [TIME], 1)[:, 0], length)


def read_samples(path: Path, features: list[str], length: int, columns: int) -> NDArray[np.float32]:
    """Return windows, float32, shape (n, length, columns), in the values' units.

    A ``.npy`` file holds them with that shape, or with any other whose numbers per window are as
    many: (n, 128, 128, 3) for a window of one image. A ``.csv`` file has a header and one column per
    number; every ``length`` consecutive rows are a window.

    Raises:
        ConfigError: The file cannot be read, or has another number of columns or too few rows.
    """
    if path.suffix == ".npy":
        samples = _npy(path)
        if samples.size == length * columns:
            samples = samples.reshape(1, length, columns)
        elif samples.ndim == 0 or samples.size != len(samples) * length * columns:
            needs = f"(n, {length}, {columns})"
            raise ConfigError(f"{path}: shape {samples.shape}; windows need {needs} or as many numbers each")
        windows = samples.reshape(-1, length, columns)
    else:
        rows = _csv(path, features, columns)
        if len(rows) < length:
            raise ConfigError(f"{path}: {len(rows)} rows; a window needs {length}")
        with np.errstate(over="ignore"):
            narrow = rows.astype(np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(narrow, length, axis=0).swapaxes(1, 2)
    if not len(windows):
        raise ConfigError(f"{path}: no samples")
    if not np.isfinite(windows).all():
        raise ConfigError(f"{path}: holds NaN or infinity: samples must be finite")
    return np.ascontiguousarray(windows, np.float32)


def read_pictures(folder: Path, manifest: Manifest) -> NDArray[np.float32]:
    """Return the JPEG and PNG files of ``folder``, by name, as the windows that devices make of them.

    Raises:
        ConfigError: The model takes no single pictures, or a file cannot be read or decoded.
        BundleRejectedError: Nothing here decodes pictures.
    """
    if not takes_pictures(manifest) or manifest.window.length > 1:
        raise ConfigError(f"{folder}: a folder of samples is for a model that takes one picture at a time")
    rows = rows_of(manifest)
    (name,) = (value.name for value in manifest.sources)
    windows = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _PICTURES:
            continue
        try:
            packed = rows.row({name: path.read_bytes()})  # type: ignore[dict-item]  # rows of pictures
        except (OSError, MalformedMessageError) as error:
            raise ConfigError(f"{path}: {error}") from error
        windows.append(np.frombuffer(packed, np.float32).reshape(1, -1))
        if len(windows) == _MOST_PICTURES:
            break
    if not windows:
        raise ConfigError(f"{folder}: holds no {', '.join(_PICTURES)} file")
    return np.stack(windows)


def _npy(path: Path) -> NDArray[np.float32]:
    try:
        # Mapped, not read: a header that claims more than there is costs no memory.
        samples = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]  # numpy 1.26
    except (
        *(OSError, ValueError, EOFError, TypeError),
        # What numpy lets through of a damaged header.
        *(SyntaxError, tokenize.TokenError, OverflowError, MemoryError, KeyError, AttributeError),
    ) as error:
        raise ConfigError(f"{path}: not an array of numbers: {error}") from error
    if samples.dtype.kind not in _NUMBERS:
        raise ConfigError(f"{path}: not an array of numbers: its elements are {samples.dtype}")
    with np.errstate(over="ignore"):
        return np.array(samples, np.float32)


def _csv(path: Path, features: list[str], columns: int) -> NDArray[np.float64]:
    """Return the numbers of a CSV file, shape (rows, columns), in the order of the features."""
    file = CsvFile(path)
    names = file.header()
    # Columns that bear the names of the features may stand in any order, among others.
    if set(features) <= set(names) and columns == len(features):
        found = find_columns(features, names, path)
        places = [found[name] for name in features]
    elif len(names) == columns:
        places = list(range(len(names)))
    else:
        raise ConfigError(
            f"{path}: {len(names)} columns ({', '.join(names[:8])}); the features "
            f"{', '.join(features)} need {columns}"
        )
    rows = []
    for line in file.lines():
        cells = line.cells or []
        if len(cells) <= max(places):
            raise ConfigError(f"{path}: row {line.number}: not {len(names)} numbers")
        try:
            rows.append([to_number(names[place], cells[place]) for place in places])
        except MalformedMessageError as error:
            raise ConfigError(f"{path}: row {line.number}: {error.detail}") from error
    return np.array(rows, np.float64).reshape(-1, len(places))
