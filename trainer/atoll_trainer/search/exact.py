"""Linear models without a descent: the best weights are computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.search.network import Head, Layer, Network

Doubles = NDArray[np.float64]


def ridge(
    inputs: NDArray[np.float32], targets: NDArray[np.float32], penalty: float, smoothing: int = 0
) -> Network:
    """Return the linear map with the least squared error and a penalty on large weights.

    Args:
        inputs: Normalised, shape (n, length, columns).
        targets: Normalised, shape (n, outputs).
        penalty: As a share of the inputs' energy.
        smoothing: Readings over which a window is smoothed: the smooth part and the rest are then weighed
            apart (Zeng et al., *Are Transformers Effective for Time Series Forecasting?*, AAAI 2023); 0: they
            are not. Both end up in one matrix.
    """
    count, length, columns = inputs.shape
    flat = inputs.reshape(count, -1).astype(np.float64)
    mean, offset = flat.mean(axis=0), targets.astype(np.float64).mean(axis=0)
    centred, aims = flat - mean, targets - offset
    energy = centred.T @ centred
    reach = centred.T @ aims
    basis = _bases(length, columns, smoothing) if smoothing >= 2 else None  # noqa: PLR2004
    left = energy if basis is None else basis.T @ energy @ basis
    left[np.diag_indices_from(left)] += penalty * (np.trace(left) / len(left)) + 1e-9 * count
    w = np.linalg.solve(left, reach if basis is None else basis.T @ reach)
    w = w if basis is None else basis @ w
    b = offset - mean @ w
    layer = Layer(w.astype(np.float32), b.astype(np.float32), relu=False)
    return Network(length, columns, (layer,), Head.NUMBERS)


def _bases(length: int, columns: int, smoothing: int) -> Doubles:
    """Return the columns in which weights are penalised, shape (length * columns, any)."""
    whole = np.eye(length * columns)
    places = np.arange(length)
    reach = smoothing // 2
    near = np.clip(places[:, None] + np.arange(-reach, reach + 1), 0, length - 1)
    smooth = np.zeros((length, length))
    np.add.at(smooth, (places[:, None], near), 1.0 / near.shape[1])
    over_all = np.kron(smooth, np.eye(columns)).T
    return np.concatenate([over_all, whole - over_all], axis=1)


def components(inputs: NDArray[np.float32], kept: int) -> Network:
    """Return the network that restores windows from their first ``kept`` principal components.

    Args:
        inputs: Normalised, shape (n, length, columns).
        kept: How many; of none the score is the mean square of the normalised numbers.
    """
    count, length, columns = inputs.shape
    if not kept:
        return Network(length, columns, (), Head.SCORE)
    flat = inputs.reshape(count, -1).astype(np.float64)
    mean = flat.mean(axis=0)
    energy = (flat - mean).T @ (flat - mean)
    _, vectors = np.linalg.eigh(energy)
    chosen = vectors[:, ::-1][:, :kept]
    # The sign of a component is free: fixed, so that the same readings give the same file.
    chosen = chosen * np.where(chosen[np.abs(chosen).argmax(axis=0), np.arange(chosen.shape[1])] < 0, -1, 1)
    squeeze = Layer(chosen.astype(np.float32), (-mean @ chosen).astype(np.float32), relu=False)
    restore = Layer(chosen.T.astype(np.float32), mean.astype(np.float32), relu=False)
    return Network(length, columns, (squeeze, restore), Head.SCORE)
