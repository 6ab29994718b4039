"""Sample readings from a file, as windows: what golden vectors are made of."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError


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
        windows = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0).swapaxes(1, 2)
    if not len(windows):
        raise ConfigError(f"{path}: no samples")
    if not np.isfinite(windows).all():
        raise ConfigError(f"{path}: holds NaN or infinity: samples must be finite")
    return np.ascontiguousarray(windows, np.float32)


def _npy(path: Path) -> NDArray[np.float32]:
    try:
        samples = np.load(path, allow_pickle=False)
        return np.asarray(samples, np.float32)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise ConfigError(f"{path}: not an array of numbers: {error}") from error


def _csv(path: Path, features: list[str], columns: int) -> NDArray[np.float32]:
    """Return the numbers of a CSV file, shape (rows, columns), in the order of the features."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    names = [name.strip() for name in header]
    # Columns that bear the names of the features may stand in any order, among others.
    if set(features) <= set(names) and columns == len(features):
        places = [names.index(name) for name in features]
    elif len(names) == columns:
        places = list(range(len(names)))
    else:
        raise ConfigError(
            f"{path}: {len(names)} columns ({', '.join(names[:8])}); the features "
            f"{', '.join(features)} need {columns}"
        )
    numbers = np.empty((len(rows), len(places)), np.float32)
    for line, row in enumerate(rows):
        try:
            numbers[line] = [float(row[place]) for place in places]
        except (ValueError, IndexError) as error:
            raise ConfigError(f"{path}: row {line + 2}: not {len(names)} numbers") from error
    return numbers
