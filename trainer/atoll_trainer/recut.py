"""Windows of a run, cut as another model reads them: from the readings that the run keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest
from atoll_signal.recorded import recorded
from atoll_trainer.dataset import Examples
from atoll_trainer.runs import Run


def windows_for(
    run: Run, manifest: Manifest, test: Examples
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """Return the windows of a model of ``manifest`` at the times of ``test``, and which there are.

    None: it reads values that the run does not hold.

    Raises:
        ConfigError: This is no run folder, or ``readings.npz`` is damaged.
    """
    task, readings = run.task(), run.readings()
    known = {spec.name: (spec.shape, spec.unit) for spec in task.specs}
    if any(known.get(value.name) != (value.shape, value.unit) for value in manifest.sources):
        return None
    if readings is None or test.devices is None:
        return None
    windows = np.zeros((len(test), manifest.rows, manifest.columns), np.float32)
    is_there = np.zeros(len(test), np.bool_)
    rows, times_ms = readings["rows"][:, task.columns_of(manifest)], readings["times_ms"]
    for device in np.unique(test.devices):
        own, wanted = readings["devices"] == device, np.flatnonzero(test.devices == device)
        found = recorded(manifest, rows[own], times_ms[own])
        good = np.flatnonzero(~(found.has_gap | found.is_out_of_range))
        if not len(good):
            continue
        order = good[np.argsort(found.end_ms[good], kind="stable")]
        ends = found.end_ms[order]
        at = np.minimum(np.searchsorted(ends, test.times_ms[wanted]), len(ends) - 1)
        is_same = ends[at] == test.times_ms[wanted]
        windows[wanted[is_same]] = found.features[order[at[is_same]]]
        is_there[wanted[is_same]] = True
    return windows, is_there
