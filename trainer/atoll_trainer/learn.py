"""Learning a task: by a search, or by one fit; and writing down what came out."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import StorageError
from atoll_contract.manifest import Normalisation
from atoll_link.files import storage_error, write_whole
from atoll_signal.features import Normaliser
from atoll_trainer.dataset import Examples, LeftOut, Readings, Split, fills
from atoll_trainer.families import Epoch, Fitted, Lesson, Weights, family
from atoll_trainer.figures import LEAST_PROBABILITY
from atoll_trainer.quiet_tensorflow import tf
from atoll_trainer.runs import LinearFacts, Loss, Run, RunFacts, SearchFacts, Span
from atoll_trainer.search.fitting import export
from atoll_trainer.search.material import class_shares, material
from atoll_trainer.search.network import Head, Layer, Network
from atoll_trainer.search.search import Attempt, search
from atoll_trainer.task import FitTable, TaskFile, TaskKind


@dataclass(frozen=True, slots=True)
class Scaling:
    """What brings features and target to the size that a fit likes; from the training part alone.

    Attributes:
        features: Per feature.
        target_scale: Standard deviation of the target.
        target_offset: Its mean.
    """

    features: Normalisation
    target_scale: float
    target_offset: float

    @classmethod
    def of(cls, train: Examples, task: TaskFile) -> Scaling:
        """Return the means and standard deviations of ``train``; a constant feature keeps its scale."""
        means, scales, start = [], [], 0
        for size in task.manifest().sizes:
            part = train.windows[:, :, start : start + size].astype(np.float64)
            start += size
            means.append(float(part.mean()))
            # As float32, which devices count in, a scale must not be 0 either.
            scales.append(float(np.float32(part.std())) or 1.0)
        offset, scale = float(train.targets.mean()), float(train.targets.std())
        return cls(Normalisation(mean=means, scale=scales), scale, offset)


@dataclass(frozen=True, slots=True)
class Learnt:
    """A fitted task.

    Attributes:
        fitted: The model.
        scaling: How its numbers are normalised.
        weights: Of a linear model, in the values' own units.
        seconds: How long the fit took.
    """

    fitted: Fitted
    scaling: Scaling
    weights: Weights | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model with what explains it.

    Attributes:
        save: Writes its SavedModel to a folder.
        parts: What it learnt from.
        scaling: How its numbers are normalised.
        losses: Of every epoch, from the state before the first.
        best_epoch: Whose weights it has.
        seconds: How long it took.
        seed: Of the random numbers.
        weights: Of a linear model, in the values' own units.
        is_relative: A forecast tells the change from the newest value.
        threshold: Of an anomaly score.
        search: How it was found.
    """

    save: Callable[[Path], None]
    parts: Split
    scaling: Scaling
    losses: list[Loss]
    best_epoch: int
    seconds: float
    seed: int
    weights: Weights | None = None
    is_relative: bool = False
    threshold: float | None = None
    search: SearchFacts | None = None


def fitted(task: TaskFile, parts: Split, on_epoch: Callable[[Epoch], None]) -> Outcome:
    """Return the model of ``task``, fitted as its ``[fit]`` says.

    Raises:
        ConfigError: The settings of the fit do not work.
    """
    learnt = learn(task, parts, on_epoch)
    losses = [
        Loss(epoch=epoch.number, train=epoch.train_loss, validation=epoch.validation_loss)
        for epoch in learnt.fitted.epochs
    ]
    seed = (task.fit or FitTable()).seed
    best = learnt.fitted.best.number
    return Outcome(
        learnt.fitted.save, parts, learnt.scaling, losses, best, learnt.seconds, seed, learnt.weights
    )


def searched(
    task: TaskFile,
    parts: Split,
    lengths: list[int],
    fills: dict[str, float],
    on_trial: Callable[[Attempt], None],
) -> Outcome:
    """Return the best small model of ``task``; see :func:`atoll_trainer.search.search.search`."""
    found = search(task, parts, lengths, fills, on_trial)
    manifest, attempt = found.material.manifest, found.attempt
    scaling = Scaling(manifest.normalisation, manifest.output.scale, manifest.output.offset)
    losses = [
        Loss(epoch=epoch, train=train, validation=validation)
        for epoch, (train, validation) in enumerate(attempt.losses)
    ]
    return Outcome(
        partial(_save, attempt.network),
        found.material.parts,
        scaling,
        losses,
        attempt.best,
        found.seconds,
        task.search.seed,
        is_relative=found.material.is_relative,
        threshold=found.threshold,
        search=found.facts,
    )


def guessed(task: TaskFile, parts: Split, fills: dict[str, float]) -> Outcome:
    """Return the naive guess of ``task`` as a model: for where there is too little to learn from.

    The newest value, the training mean, or the shares of the classes; of an anomaly the distance to the
    training mean. Where a length of window is looked for it is 1.
    """
    started = time.monotonic()
    found = material(task, parts, task.length, fills)
    (rows, columns), output = found.train.inputs.shape[1:], found.manifest.output
    offset = 0.0 if found.is_relative else output.offset
    layers: tuple[Layer, ...] = ()
    head, threshold = Head.NUMBERS, None
    if task.task.kind is TaskKind.ANOMALY:
        head = Head.SCORE
        scores = np.square(found.train.inputs.astype(np.float64)).mean(axis=(1, 2))
        normal = scores[found.train.weights > 0]
        threshold = float(np.quantile(normal, 1 - task.threshold.false_alarms)) * task.threshold.margin
    else:
        bias = np.zeros(task.steps)
        if task.task.kind is TaskKind.CLASSIFICATION:
            head = Head.PROBABILITIES
            bias = np.log(np.maximum(class_shares(task, found.parts.train), LEAST_PROBABILITY))
        w = np.zeros((rows * columns, task.steps), np.float32)
        layers = (Layer(w, bias.astype(np.float32), relu=False),)
    return Outcome(
        partial(_save, Network(rows, columns, layers, head)),
        found.parts,
        Scaling(found.manifest.normalisation, output.scale, offset),
        losses=[],
        best_epoch=0,
        seconds=time.monotonic() - started,
        seed=0,
        is_relative=found.is_relative,
        threshold=threshold,
    )


def _save(network: Network, folder: Path) -> None:
    try:
        export(network, str(folder))
    except OSError as error:
        raise storage_error(folder, error) from error
    except tf.errors.OpError as error:  # as it tells a full disk
        raise StorageError(f"{folder}: the model cannot be written: {error.message[:300]}") from error


def learn(task: TaskFile, parts: Split, on_epoch: Callable[[Epoch], None]) -> Learnt:
    """Return the model of ``task``, fitted to the training part.

    Raises:
        ConfigError: The settings of the fit do not work.
    """
    started = time.monotonic()
    scaling = Scaling.of(parts.train, task)
    normaliser = Normaliser(task.manifest(scaling.features))
    manifest = task.manifest()
    sizes = manifest.sizes
    mean, scale = (np.repeat(numbers, sizes) for numbers in (scaling.features.mean, scaling.features.scale))

    def inputs(part: Examples) -> NDArray[np.float32]:
        return normaliser.normalise(part.windows)

    def targets(part: Examples) -> NDArray[np.float32]:
        return ((part.targets - scaling.target_offset) / scaling.target_scale).astype(np.float32)

    guess = Weights(np.zeros((manifest.rows, manifest.columns)), 0.0)
    column = task.target_feature if task.task.kind is TaskKind.FORECAST else None
    if column is not None:
        guess.w[-1, column] = scale[column] / scaling.target_scale
        guess = Weights(guess.w, float(mean[column] - scaling.target_offset) / scaling.target_scale)
    lesson = Lesson(
        inputs(parts.train), targets(parts.train), inputs(parts.validation), targets(parts.validation), guess
    )
    table = task.fit or FitTable()
    model = family(table.family).fit(lesson, table, on_epoch)
    weights = None
    if model.weights is not None:
        w = model.weights.w * scaling.target_scale / scale
        b = scaling.target_offset + scaling.target_scale * model.weights.b - float((w * mean).sum())
        weights = Weights(w, b)
    return Learnt(model, scaling, weights, time.monotonic() - started)


def store(
    run: Run,
    task_path: Path,
    task: TaskFile,
    readings: Readings,
    left_out: Counter[LeftOut],
    outcome: Outcome,
) -> RunFacts:
    """Write the run folder and return its facts.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        write_whole(run.task_path, task_path.read_bytes())
    except OSError as error:
        raise storage_error(task_path, error) from error
    run.write_split(outcome.parts)
    run.write_readings(readings, outcome.parts.test)
    outcome.save(run.saved_model)
    weights = outcome.weights
    facts = RunFacts(
        source=readings.source,
        data_sha256=readings.sha256,
        readings=len(readings),
        cut_ms=readings.cut_ms,
        devices=len(set(readings.devices)),
        refused={reason.value: count for reason, count in sorted(readings.refusals.counts.items())},
        steps_back=readings.steps_back(),
        fills=fills(readings, task),
        left_out={reason.value: count for reason, count in sorted(left_out.items())},
        spans={name: Span.of(part) for name, part in outcome.parts},
        normalisation=outcome.scaling.features,
        target_scale=outcome.scaling.target_scale,
        target_offset=outcome.scaling.target_offset,
        losses=outcome.losses,
        best_epoch=outcome.best_epoch,
        seconds=outcome.seconds,
        linear=None if weights is None else LinearFacts(w=weights.w.tolist(), b=weights.b),
        is_relative=outcome.is_relative,
        threshold=outcome.threshold,
        search=outcome.search,
        seed=outcome.seed,
        tools=tools(),
    )
    run.write_facts(facts)
    return facts


def tools() -> dict[str, str]:
    """Return the versions of what makes a model."""
    return {
        "atoll": version("atoll"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": str(tf.__version__),
        "optuna": version("optuna"),
    }
