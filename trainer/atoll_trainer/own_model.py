"""A person's own ``.tflite`` file to a bundle: a TOML file tells what the model file cannot.

Shapes, dtypes and quantisation are read from the model file by the runtime that devices use. The
normalisation works in the values' own units and comes before quantisation. So an image model whose
uint8 input has scale 1/128 and zero point 128 takes pixels from 0 to 255 with ``mean = [128]`` and
``scale = [128]``: ``(x - 128) / 128`` is the number that the input stands for, and quantising it gives
the pixel back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError, model_validator

from atoll_contract.bundle import Bundle
from atoll_contract.errors import ConfigError
from atoll_contract.feature import CALENDAR
from atoll_contract.manifest import (
    Channels,
    Dtype,
    Feature,
    Fit,
    Manifest,
    Normalisation,
    OutputSpec,
    PassRules,
    PictureSpec,
    PixelResampling,
    Task,
    TensorSpec,
    Training,
    ValueSpec,
    WindowSpec,
)
from atoll_contract.release import MAX_RELEASE
from atoll_infer import golden
from atoll_infer.model_file import read_model_file, require_compiled, require_twins, require_uncompiled
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_link.settings import Id, Table, load
from atoll_signal.matrix import Samples
from atoll_trainer.bundling import naming, seal, with_tensors
from atoll_trainer.child import in_child
from atoll_trainer.samples import places_spread, read_pictures, read_samples, read_times
from atoll_trainer.task import FeatureTable, InputTable, ValueName, WindowTable

_DEADLINE_S: Final = 300.0


class OwnPicture(Table):
    """``[values.NAME.picture]``: how a JPEG or PNG becomes the numbers of the value, 0 to 255.

    Attributes:
        channels: ``rgb``, ``bgr`` or ``grey``.
        fit: A picture of other proportions: ``stretch``, ``crop`` (its middle) or ``pad`` (black).
        resampling: ``nearest``, ``box``, ``bilinear`` or ``bicubic``.
    """

    channels: Channels = Channels.RGB
    fit: Fit = Fit.STRETCH
    resampling: PixelResampling = PixelResampling.BILINEAR


class OwnValue(InputTable):
    """``[values.NAME]``: one value that each reading must hold.

    Attributes:
        unit: Unit that the stream sends it in.
        shape: Of an array value; empty for one number.
        low: Least valid number: below it the device flags a prediction.
        high: Greatest valid number.
        step_ms: Of an array value, time between its elements; readings that say otherwise are refused.
        fill: What stands for a missing number where the window's ``impute`` is ``mean``.
        picture: The value arrives as a picture; [height, width, 3] or, grey, [height, width] is its shape.
    """

    fill: float | None = None
    picture: OwnPicture | None = None

    def spec(self, name: str) -> ValueSpec:
        """Return the value as a manifest declares it."""
        picture = None if self.picture is None else PictureSpec(**self.picture.model_dump())
        return ValueSpec(name=name, picture=picture, **self.model_dump(exclude={"picture"}))


class OwnWindow(WindowTable):
    """``[window]``: which readings make one input, as in a task.

    Attributes:
        step_ms: Time between readings, where it is known; between steps.
    """

    step_ms: Annotated[float, Field(gt=0)] | None = None


class OwnNormalisation(Table):
    """``[normalisation]``: ``(x - mean) / scale``, one number per feature or one for all.

    Attributes:
        mean: What is taken away first, in the value's unit.
        scale: What the rest is divided by.
    """

    mean: list[float] = [0.0]
    scale: list[Annotated[float, Field(gt=0)]] = [1.0]


class OwnOutput(Table):
    """``[output]``: what the dequantised output ``y`` means, ``value = y * scale + offset``.

    Attributes:
        scale: Factor to the unit of the prediction.
        offset: Added after the factor.
        unit: Unit of the prediction.
        labels: Of a classifier, in order.
        labels_file: File with one label per line, instead.
        threshold: Of an anomaly score: above it the window is an anomaly.
        step_ms: Of a forecast of several values: time between them.
        below: Of a regression: how far below its value the truth may lie, in its unit.
        above: How far above.
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    labels: list[str] = []
    labels_file: Path | None = None
    threshold: float | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None
    below: Annotated[float, Field(ge=0)] | None = None
    above: Annotated[float, Field(ge=0)] | None = None


class OwnModel(Table):
    """The whole file.

    Attributes:
        model: Id of the model, as in the agents' settings.
        release: Number of the release; the command line may give another.
        task: ``regression``, ``forecast``, ``classification`` or ``anomaly``.
        values: ``[values.NAME]``: what each reading must hold.
        features: The values in the order of the model's input; by default as they stand.
        feature: ``[[feature]]``: instead, what of the readings the model sees, as in a task.
        zone: Time zone of calendar features; by default UTC.
        window: Which readings make one input.
        normalisation: By default none.
        output: What the output means.
        passing: ``[pass]``: what a release has to show on live readings before it is the champion.
        tolerance: Allowed difference in self-tests; by default 2 LSB, or 1e-5 for float.
        metrics: Figures on data that it has not seen, named as in other manifests (``int8_log_loss``): the
            gate holds the model's against those of the naive guess.
    """

    model_config = ConfigDict(populate_by_name=True)

    model: Id
    release: Annotated[int, Field(ge=1, le=MAX_RELEASE)] | None = None
    task: Task
    values: Annotated[dict[ValueName, OwnValue], Field(min_length=1, max_length=256)]
    features: list[str] = []
    feature: Annotated[list[FeatureTable], Field(max_length=256)] = []
    zone: str | None = None
    window: OwnWindow = OwnWindow()
    normalisation: OwnNormalisation = OwnNormalisation()
    output: OwnOutput = OwnOutput()
    passing: PassRules = Field(PassRules(), alias="pass")
    tolerance: Annotated[float, Field(ge=0)] | None = None
    metrics: Annotated[dict[str, float], Field(max_length=64)] = {}

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if unknown := [name for name in self.features if name not in self.values]:
            raise ValueError(f"features: {unknown[0]!r} is none of the values: {', '.join(self.values)}")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: a name stands twice")
        if self.features and self.feature:
            raise ValueError("features: give these or [[feature]], not both")
        for key in ("mean", "scale"):
            if len(getattr(self.normalisation, key)) not in {1, len(self.all_features)}:
                raise ValueError(
                    f"normalisation.{key}: one number, or one for each of {len(self.all_features)} features"
                )
        if self.task is Task.ANOMALY and self.output.threshold is None:
            raise ValueError("output.threshold: an anomaly model needs one")
        if self.output.labels and self.output.labels_file is not None:
            raise ValueError("output: give labels or labels_file, not both")
        return self

    @classmethod
    def read(cls, path: Path) -> OwnModel:
        """Return the description in ``path``.

        Raises:
            ConfigError: With one line per fault: file, key, what is wrong.
        """
        return load(cls, path, environment={})

    @property
    def all_features(self) -> list[str | Feature]:
        """The features, in order."""
        return [table.feature() for table in self.feature] or [*self.features] or [*self.values]

    def manifest(self, release: int) -> Manifest:
        """Return the manifest, with float tensors that stand in for those of the model file.

        Raises:
            ConfigError: The file with the labels cannot be read, or the window is too large.
        """
        try:
            return self._manifest(release, self._labels())
        except ValidationError as error:
            faults = [fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False)]
            raise ConfigError(faults) from error

    def _manifest(self, release: int, labels: list[str]) -> Manifest:
        features = self.all_features
        mean, scale = self.normalisation.mean, self.normalisation.scale
        output = self.output.model_dump(exclude={"labels", "labels_file"})
        size = len(labels) or 1
        return Manifest.with_float_input(
            model=self.model,
            release=release,
            task=self.task,
            values=[value.spec(name) for name, value in self.values.items()],
            window=WindowSpec(**self.window.model_dump()),
            features=features,
            zone=self.zone,
            normalisation=Normalisation(
                mean=mean if len(mean) == len(features) else mean * len(features),
                scale=scale if len(scale) == len(features) else scale * len(features),
            ),
            outputs=[TensorSpec(shape=[1, size], dtype=Dtype.FLOAT32)],
            output=OutputSpec(**output, labels=labels),
            passing=self.passing,
            tolerance=self.tolerance,
            training=Training(metrics=self.metrics),
        )

    def _labels(self) -> list[str]:
        path = self.output.labels_file
        if path is None:
            return self.output.labels
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"output.labels_file: {path} cannot be read: {error}") from error


def from_files(
    description: OwnModel,
    release: int,
    model_path: Path,
    samples_path: Path,
    edgetpu_path: Path | None = None,
) -> bytes:
    """Return the packed bundle of a person's own model, read back and played by the device's runtime.

    The work is done in a child: a damaged model file can end the process that loads it.

    Args:
        description: What the model file cannot tell.
        release: Number of the release.
        model_path: The ``.tflite`` file for the CPU.
        samples_path: Readings to make golden vectors of, see :mod:`atoll_trainer.samples`; of a model that
            takes pictures, a folder of them.
        edgetpu_path: The same model compiled for the Edge TPU.

    Raises:
        ConfigError: A file cannot be read.
        BundleRejectedError: The model file cannot be run, or does not fit the description.
    """
    content = _content(model_path)
    edgetpu = None if edgetpu_path is None else _content(edgetpu_path)
    with naming(model_path):
        cpu = read_model_file(content)
        require_uncompiled(cpu)
    if edgetpu is not None and edgetpu_path is not None:
        with naming(edgetpu_path):
            compiled = read_model_file(edgetpu)
            require_compiled(compiled)
            require_twins(cpu, compiled)
    manifest = description.manifest(release)
    names, depth = [value.name for value in manifest.sources], manifest.depth
    if samples_path.is_dir():
        windows = read_pictures(samples_path, manifest)
    else:
        windows = read_samples(samples_path, names, depth, manifest.raw_columns)
    chosen = places_spread(len(windows), windows[0].size)
    samples = [Samples(windows[place]) for place in chosen]
    if any(feature.kind in CALENDAR for feature in manifest.computed):
        times_ms = read_times(samples_path, depth)
        samples = [Samples(windows[place], times_ms[place]) for place in chosen]
    with naming(model_path):
        return in_child(_packed, manifest, content, edgetpu, samples, deadline_s=_DEADLINE_S)


def answers_of(description: OwnModel, content: bytes, windows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what the model file says of each window, shape (n, outputs), in the runtime that devices use.

    The work is done in a child: TensorFlow and the runtime do not live in one process.

    Args:
        description: What the model file cannot tell.
        content: The model file.
        windows: Feature matrices before normalisation, shape (n, rows, columns).

    Raises:
        BundleRejectedError: The model file cannot be run, or does not fit the description.
    """
    return in_child(_answers, description.manifest(release=1), content, windows, deadline_s=_DEADLINE_S)


def _answers(manifest: Manifest, content: bytes, windows: NDArray[np.float32]) -> NDArray[np.float64]:
    model = choose_runtime().runtime.load(content)
    predictor = Predictor(with_tensors(manifest, model), model)
    return np.asarray(predictor.numbers(windows)[0], np.float64)


def _packed(manifest: Manifest, content: bytes, edgetpu: bytes | None, samples: list[Samples]) -> bytes:
    model = choose_runtime().runtime.load(content)
    manifest = with_tensors(manifest, model)
    cases = golden.record(Predictor(manifest, model), samples)
    return seal(Bundle(manifest, content, cases, edgetpu))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
