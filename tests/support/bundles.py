"""Bundles of the small models in ``models/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from support.flat_models import flat_model

from atoll_contract.bundle import Bundle, Golden, GoldenCase
from atoll_contract.manifest import (
    Manifest,
    Normalisation,
    PassRules,
    PictureSpec,
    Task,
    ValueSpec,
    WindowSpec,
)
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime

MODELS = Path(__file__).parent / "models"


def model_bytes(name: str) -> bytes:
    return (MODELS / f"{name}.tflite").read_bytes()


def make_bundle(
    model: str = "wear",
    release: int = 1,
    *,
    file: str = "linear_float",
    length: int = 1,
    unit: str | None = None,
    value: str = "x",
    task: Task = Task.REGRESSION,
    samples: Sequence[float] = (),
    **manifest: Any,
) -> Bundle:
    """Return a bundle of one value ``x`` whose golden vectors come from the model itself.

    It asks for no trial, unless ``passing`` says otherwise.
    """
    runtime = choose_runtime().runtime
    content = model_bytes(file)
    loaded = runtime.load(content)
    described = Manifest(
        model=model,
        release=release,
        task=task,
        values=[ValueSpec(name=value, unit=unit)],
        window=WindowSpec(length=length),
        features=[value],
        normalisation=Normalisation(mean=[0.0], scale=[1.0]),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        passing=manifest.pop("passing", PassRules(shadow_windows=0, probation_windows=0)),
        **manifest,
    )
    windows = np.linspace(1, 5, 4 * length, dtype=np.float32)
    if samples:
        windows = np.array(samples, np.float32)
    windows = windows.reshape(-1, length, 1)
    return Bundle(described, content, golden.record(Predictor(described, loaded), windows))


def picture_bundle() -> Bundle:
    """Return a bundle that says how bright a picture of 2 x 2 pixels is on average."""
    runtime = choose_runtime().runtime
    content = model_bytes("mean12_float")
    loaded = runtime.load(content)
    described = Manifest(
        model="wear",
        release=1,
        task=Task.REGRESSION,
        values=[ValueSpec(name="x", shape=[2, 2, 3], picture=PictureSpec())],
        features=["x"],
        normalisation=Normalisation(mean=[0.0], scale=[1.0]),
        inputs=loaded.inputs,
        outputs=loaded.outputs,
        passing=PassRules(shadow_windows=0, probation_windows=0),
    )
    windows = np.arange(24, dtype=np.float32).reshape(2, 1, 12)
    return Bundle(described, content, golden.record(Predictor(described, loaded), windows))


def with_wrong_golden(bundle: Bundle) -> Bundle:
    """Return ``bundle`` promising outputs that its model does not give."""
    cases = [
        GoldenCase(samples=case.samples, output=[value + 50 for value in case.output])
        for case in bundle.golden.cases
    ]
    return Bundle(bundle.manifest, bundle.model, Golden(cases=cases))


def with_broken_model(bundle: Bundle) -> Bundle:
    """Return ``bundle`` with a model file that looks well and crashes the interpreter."""
    return Bundle(bundle.manifest, bundle.model[:298] + b"\xff" + bundle.model[299:], bundle.golden)


def with_compiled_model(bundle: Bundle) -> Bundle:
    """Return ``bundle`` with a model file that only an Edge TPU can run."""
    return Bundle(bundle.manifest, flat_model(["edgetpu-custom-op"]), bundle.golden)
