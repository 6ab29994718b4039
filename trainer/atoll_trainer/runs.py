"""A run folder: one trained model with everything that explains it.

``task.toml`` (as it was given), ``run.json`` (facts), ``windows.npz`` (the parts, before
normalisation), ``readings.npz`` (what the test part is cut from), ``model/`` (SavedModel), later
``model_float.tflite``, ``model_int8.tflite``, ``evaluation.json``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll_contract.errors import ConfigError
from atoll_contract.manifest import Dtype, Manifest, Normalisation
from atoll_link.files import write_whole
from atoll_signal.matrix import Samples
from atoll_trainer.dataset import Examples, Readings, Split
from atoll_trainer.samples import places_spread, spread
from atoll_trainer.task import TaskFile

FORMAT: Final = 1
_WINDOWS: Final = "windows.npz"
_READINGS: Final = "readings.npz"
_BEFORE: Final = 10_000
"""Readings of a device before the test part: a day of one every ten seconds."""
_FactsT = TypeVar("_FactsT", bound="_Facts")


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Span(_Facts):
    """One part of the windows."""

    windows: int
    start_ms: float | None = None
    end_ms: float | None = None

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """Return the span of ``examples``: the least and greatest time."""
        if not len(examples):
            return cls(windows=0)
        times = examples.times_ms
        return cls(windows=len(examples), start_ms=float(times.min()), end_ms=float(times.max()))


class Loss(_Facts):
    """Mean squared error after an epoch, of normalised targets."""

    epoch: int
    train: float
    validation: float | None = None


class LinearFacts(_Facts):
    """``y = sum(w * x) + b`` in the values' own units; ``w[i][j]``: reading i of the window, column j."""

    w: list[list[float]]
    b: float


class CandidateFacts(_Facts):
    """A model that was judged, as int8 in the runtime that devices use, on the validation part.

    Attributes:
        trial: Number of the fit that it comes from.
        family: Kind of model.
        form: The rest of what it is, in words.
        window: Length of its window.
        parameters: How many numbers it has.
        size_bytes: Of its int8 file.
        latency_us: Median time of one answer there.
        loss: Mean loss of the int8 file: absolute error in the unit of the prediction, log loss, or share of
            windows and disturbed windows that are told wrongly.
        float_loss: The same of the float file.
        standard_error: Of the mean difference to the best.
        is_on_front: No other is better in loss, size and latency.
        is_chosen: This one is the run's.
    """

    trial: int
    family: str
    form: str
    window: int
    parameters: int
    size_bytes: int
    latency_us: float
    loss: float
    float_loss: float
    standard_error: float
    is_on_front: bool
    is_chosen: bool


class TrialFacts(_Facts):
    """One fit of the search.

    Attributes:
        number: From 0.
        family: Kind of model.
        form: The rest of what it is, in words.
        window: Length of its window.
        parameters: How many numbers it has.
        epochs: How long it was fitted.
        loss: On the validation part, of the fitted float model.
        seconds: How long it took.
    """

    number: int
    family: str
    form: str
    window: int
    parameters: int
    epochs: int
    loss: float | None
    seconds: float


class SearchFacts(_Facts):
    """How the model was found.

    Attributes:
        window: Length of the window that was chosen.
        is_float: The model is shipped as float: int8 loses more than the task's limit.
        is_cut: The time limit ended it.
        naive_loss: Mean loss of the naive guess on the validation part.
        why: Why this candidate, in words.
        settings: Of the search, as the task gives them.
        trials: Every fit.
        candidates: Those that were judged as int8.
    """

    window: int
    is_float: bool
    is_cut: bool
    naive_loss: float | None
    why: str
    settings: dict[str, str] = {}
    trials: list[TrialFacts]
    candidates: list[CandidateFacts]


class RunFacts(_Facts):
    """``run.json``.

    Attributes:
        format: Version of the folder's form.
        source: Where the readings are from.
        data_sha256: Digest of what was read.
        readings: How many could be used.
        cut_ms: There were too many: what had arrived before was left out.
        devices: Of how many devices.
        refused: Readings that could not be used, by reason.
        steps_back: Where times step back, in words.
        left_out: Windows that were not used, by reason.
        fills: What stands for a missing number of each value.
        spans: Of the parts.
        normalisation: Of the features, from the training part.
        target_scale: Factor from the model's output to the unit of the prediction.
        target_offset: Added after it.
        losses: Of every epoch.
        best_epoch: Whose weights the model has.
        seconds: How long the fit took.
        linear: Weights of a linear model.
        is_relative: A forecast tells the change from the newest value.
        threshold: Of an anomaly score.
        search: How the model was found; None: it was fitted as ``[fit]`` says.
        seed: Of the random numbers.
        tools: Versions, by name.
    """

    format: Literal[1] = FORMAT
    source: str
    data_sha256: str
    readings: int
    cut_ms: float | None = None
    devices: int
    refused: dict[str, int] = {}
    steps_back: list[str] = []
    left_out: dict[str, int] = {}
    fills: dict[str, float] = {}
    spans: dict[str, Span]
    normalisation: Normalisation
    target_scale: Annotated[float, Field(gt=0)]
    target_offset: float
    losses: list[Loss]
    best_epoch: int
    seconds: float
    linear: LinearFacts | None = None
    is_relative: bool = False
    threshold: float | None = None
    search: SearchFacts | None = None
    seed: int
    tools: dict[str, str]

    @property
    def ships_float(self) -> bool:
        """Whether a bundle of the run holds the float file."""
        return self.search is not None and self.search.is_float


class Metrics(_Facts):
    """Figures of answers; those that fit the task.

    Attributes:
        mae: Mean absolute error, in the unit of the prediction.
        rmse: Root of the mean square error.
        accuracy: Share of the windows with the right class.
        macro_f1: F1 of the classes that are there, their mean.
        f1: Of the second of two classes; of anomalies.
        average_precision: Of the same.
        log_loss: Mean of minus the logarithm of the probability of the true class.
        flagged: Share of the windows that are told to be anomalies.
    """

    mae: float | None = None
    rmse: float | None = None
    accuracy: float | None = None
    macro_f1: float | None = None
    f1: float | None = None
    average_precision: float | None = None
    log_loss: float | None = None
    flagged: float | None = None

    @property
    def error(self) -> float | None:
        """The figure that is to be small: the absolute error, or the log loss."""
        return self.mae if self.mae is not None else self.log_loss


class ModelMetrics(Metrics):
    """Of one model file, and how fast it answers.

    Attributes:
        latency_us: Median time of one inference, microseconds.
        saturated: Windows with a number outside what the input tensor can hold.
        sha256: Digest of the file.
    """

    latency_us: float
    saturated: int
    sha256: str


class Evaluation(_Facts):
    """``evaluation.json``.

    Attributes:
        windows: Windows in the test part.
        backend: What ran the models.
        unit: Of the errors.
        naive_kind: ``last value``, ``training mean``, ``most frequent class`` or ``distance to the mean``.
        naive: Errors of the naive guess.
        float_model: Of model_float.tflite.
        int8_model: Of model_int8.tflite.
        parity_lsb: Largest difference between the two, in steps of the int8 output.
        lsb: That step, in the unit of the prediction.
    """

    windows: int
    backend: str
    unit: str | None = None
    naive_kind: str
    naive: Metrics
    float_model: ModelMetrics
    int8_model: ModelMetrics
    parity_lsb: float
    lsb: float


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def task_path(self) -> Path:
        """The task as it was given."""
        return self.folder / "task.toml"

    @property
    def saved_model(self) -> Path:
        """The fitted model."""
        return self.folder / "model"

    @property
    def float_model(self) -> Path:
        """The model for float32 arithmetic."""
        return self.folder / "model_float.tflite"

    @property
    def int8_model(self) -> Path:
        """The model for 8-bit integers."""
        return self.folder / "model_int8.tflite"

    @property
    def edgetpu_model(self) -> Path:
        """The int8 model compiled for an Edge TPU."""
        return self.folder / "model_edgetpu.tflite"

    def shipped(self, *, is_float: bool) -> tuple[Path, Dtype]:
        """Return the model file that a bundle holds, and the type of its numbers."""
        return (self.float_model, Dtype.FLOAT32) if is_float else (self.int8_model, Dtype.INT8)

    def task(self) -> TaskFile:
        """Return the task; the length of its window is the one that was chosen.

        Raises:
            ConfigError: This is no run folder.
        """
        task = TaskFile.read(self.task_path)
        if not task.is_auto:
            return task
        search = self.facts().search
        return task if search is None else task.with_length(search.window)

    def facts(self) -> RunFacts:
        """Return what ``run.json`` says.

        Raises:
            ConfigError: This is no run folder.
        """
        return self._read("run.json", RunFacts, "run atoll-trainer train")

    def write_facts(self, facts: RunFacts) -> None:
        """Write ``run.json``: the last file of a training, so a folder with it is complete."""
        write_whole(self.folder / "run.json", facts.model_dump_json(indent=1).encode() + b"\n")

    def evaluation(self) -> Evaluation | None:
        """Return what ``evaluation.json`` says, None when there is none."""
        if not (self.folder / "evaluation.json").exists():
            return None
        return self._read("evaluation.json", Evaluation, "run atoll-trainer evaluate")

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write ``evaluation.json``."""
        content = evaluation.model_dump_json(indent=1).encode() + b"\n"
        write_whole(self.folder / "evaluation.json", content)

    def split(self) -> Split:
        """Return the windows of the run.

        Raises:
            ConfigError: ``windows.npz`` is missing or damaged.
        """
        with self._arrays(_WINDOWS) as arrays:
            parts = [
                Examples(
                    arrays[f"{name}_windows"],
                    arrays[f"{name}_targets"],
                    arrays[f"{name}_times_ms"],
                    arrays.get(f"{name}_last"),
                    devices=arrays.get(f"{name}_devices"),
                )
                for name in ("train", "validation", "test")
            ]
        return Split(*parts)

    def write_readings(self, readings: Readings, test: Examples) -> None:
        """Write ``readings.npz``: what lies in the time of the test part, and enough before it."""
        names = {name: number for number, name in enumerate(sorted(set(readings.devices)))}
        start_ms = test.times_ms.min()
        chosen = []
        for _, places in readings.spans():
            if readings.tests is None or readings.tests[places[0]]:
                begin = int(np.argmax(readings.times_ms[places] >= start_ms))
                chosen.append(places[max(0, begin - _BEFORE) :])
        places = np.concatenate(chosen)
        buffer = BytesIO()
        np.savez_compressed(
            buffer,
            rows=readings.rows[places],
            times_ms=readings.times_ms[places],
            devices=np.array([names[readings.devices[place]] for place in places.tolist()]),
        )
        write_whole(self.folder / _READINGS, buffer.getvalue())

    def readings(self) -> dict[str, NDArray[Any]] | None:
        """Return ``rows``, ``times_ms`` and ``devices`` of ``readings.npz``; None where there is none.

        Raises:
            ConfigError: It is damaged.
        """
        if not (self.folder / _READINGS).exists():
            return None
        with self._arrays(_READINGS) as arrays:
            return arrays

    def golden_samples(self) -> list[Samples]:
        """Return samples of windows of the test part, spread over it.

        Raises:
            ConfigError: ``windows.npz`` is missing or damaged.
        """
        with self._arrays(_WINDOWS) as arrays:
            if "golden_rows" not in arrays:
                return [Samples(window) for window in spread(arrays["test_windows"])]
            ends = np.cumsum(arrays["golden_counts"])[:-1]
            parts = [np.split(arrays[f"golden_{name}"], ends) for name in ("rows", "times_ms")]
        return [Samples(rows, times_ms) for rows, times_ms in zip(*parts, strict=True)]

    def write_split(self, split: Split) -> None:
        """Write ``windows.npz``."""
        buffer = BytesIO()
        arrays: dict[str, NDArray[Any]] = {}
        for name, part in split:
            arrays[f"{name}_windows"] = part.windows
            arrays[f"{name}_targets"] = part.targets
            arrays[f"{name}_times_ms"] = part.times_ms
            if part.last is not None:
                arrays[f"{name}_last"] = part.last
            if part.devices is not None:
                arrays[f"{name}_devices"] = part.devices
        if split.test.samples:
            samples = split.test.samples
            size = max(one.rows.size for one in samples)
            chosen = [samples[place] for place in places_spread(len(samples), size)]
            arrays["golden_rows"] = np.concatenate([one.rows for one in chosen])
            arrays["golden_times_ms"] = np.concatenate(
                [np.zeros(len(one.rows)) if one.times_ms is None else one.times_ms for one in chosen]
            )
            arrays["golden_counts"] = np.array([len(one.rows) for one in chosen])
        np.savez_compressed(buffer, **arrays)
        write_whole(self.folder / _WINDOWS, buffer.getvalue())

    @contextmanager
    def _arrays(self, name: str) -> Iterator[dict[str, NDArray[Any]]]:
        path = self.folder / name
        try:
            with np.load(path, allow_pickle=False) as arrays:
                yield dict(arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(f"{path}: cannot be read ({error}): run atoll-trainer train again") from error

    def model(self, path: Path) -> bytes:
        """Return the content of a ``.tflite`` file of the run.

        Raises:
            ConfigError: It is not there.
        """
        try:
            return path.read_bytes()
        except OSError as error:
            hint = f"run atoll-trainer optimise {self.folder} first"
            raise ConfigError(f"{path}: cannot be read: {error.strerror}; {hint}") from error

    def manifest(self) -> Manifest:
        """Return the manifest of the run's task, with float tensors; see :meth:`TaskFile.manifest`.

        Raises:
            ConfigError: This is no run folder, or its files do not belong together.
        """
        facts = self.facts()
        try:
            return self.task().manifest(
                facts.normalisation,
                facts.target_scale,
                facts.target_offset,
                facts.fills,
                is_relative=facts.is_relative,
                threshold=facts.threshold,
            )
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(
                f"{self.task_path}: does not fit the run.json beside it ({fault}): it was changed after "
                "the training; run atoll-trainer train again"
            ) from error

    def _read(self, name: str, kind: type[_FactsT], hint: str) -> _FactsT:
        path = self.folder / name
        try:
            return kind.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}; {hint} first") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{path}: {where}: {first['msg']}; {hint} again") from error
