"""Manifests of every kind of window and feature, and recordings for them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from atoll_contract.feature import CALENDAR, SPECTRAL
from atoll_contract.manifest import (
    Dtype,
    Feature,
    FeatureKind,
    Imputation,
    Manifest,
    Normalisation,
    Resampling,
    Task,
    TensorSpec,
    ValueSpec,
    WindowKind,
    WindowSpec,
)

STEP_MS = 1000.0
ALL_OF_A_NUMBER = [
    Feature(
        kind=kind,
        value=None if kind in CALENDAR else "x",
        lag=2 if kind in {FeatureKind.LAG, FeatureKind.DIFFERENCE} else None,
        scale=0.1 if kind is FeatureKind.ASINH else None,
        quantile=0.3 if kind is FeatureKind.QUANTILE else None,
        low_hz=0.1 if kind is FeatureKind.BAND else None,
        high_hz=0.3 if kind is FeatureKind.BAND else None,
    )
    for kind in FeatureKind
]
SUMMARIES = [
    feature
    for feature in ALL_OF_A_NUMBER
    if feature.kind not in SPECTRAL and feature.kind not in {FeatureKind.LAG, FeatureKind.DIFFERENCE}
]
OF_AN_ARRAY = [
    Feature(kind=FeatureKind.RMS, value="x"),
    Feature(kind=FeatureKind.KURTOSIS, value="x"),
    Feature(kind=FeatureKind.BAND, value="x", low_hz=0.0, high_hz=200.0),
    Feature(kind=FeatureKind.PEAK_HZ, value="x"),
]


def a_manifest(
    features: list[Any] | None = None, *, values: list[ValueSpec] | None = None, zone=None, **window: Any
) -> Manifest:
    """Return a manifest of the values ``x`` and ``y``, or of those given; by default seen as they come."""
    specs = values or [ValueSpec(name="x", fill=0.25), ValueSpec(name="y", fill=-1.5)]
    features = features or [spec.name for spec in specs]
    return Manifest.with_float_input(
        model="m",
        release=1,
        task=Task.REGRESSION,
        values=specs,
        window=WindowSpec(**window),
        features=features,
        zone=zone,
        normalisation=Normalisation(mean=[0.0] * len(features), scale=[1.0] * len(features)),
        outputs=[TensorSpec(shape=[1, 1], dtype=Dtype.FLOAT32)],
    )


def manifests() -> dict[str, Manifest]:
    """Return one manifest of each kind, by name."""
    array = [ValueSpec(name="x", shape=[64], step_ms=0.5)]
    steps = {"resample": Resampling.LINEAR, "step_ms": STEP_MS, "max_gap_ms": 4 * STEP_MS, "length": 8}
    tumbling = WindowKind.TUMBLING
    return {
        "values": a_manifest(length=5, max_gap_ms=2500.0),
        "tumbling": a_manifest(length=5, kind=tumbling),
        "every feature": a_manifest(ALL_OF_A_NUMBER, length=16, step_ms=STEP_MS, zone="Europe/Berlin"),
        "lags of each": a_manifest(
            ["x", Feature(kind=FeatureKind.LAG, value="x", lag=30), Feature(kind=FeatureKind.HOUR_SIN), "y"],
            length=4,
        ),
        "array": a_manifest(OF_AN_ARRAY, values=array),
        "arrays": a_manifest(OF_AN_ARRAY, values=array, length=3),
        "joined": a_manifest(length=3, max_age_ms=3000.0),
        "last known": a_manifest(length=3, impute=Imputation.LAST),
        "means": a_manifest(SUMMARIES, length=6, impute=Imputation.MEAN),
        "of a time": a_manifest([*SUMMARIES, "y"], duration_ms=9000.0, length=64, impute=Imputation.MEAN),
        "of a time, late": a_manifest(
            SUMMARIES, duration_ms=9000.0, lateness_ms=3000.0, length=64, max_age_ms=5000.0
        ),
        "of a time, tumbling": a_manifest(
            SUMMARIES, duration_ms=10_000.0, length=64, kind=tumbling, impute=Imputation.LAST
        ),
        "steps": a_manifest(**steps),
        "steps, imputed": a_manifest(ALL_OF_A_NUMBER, **steps, impute=Imputation.LINEAR),
        "steps, last": a_manifest(**{**steps, "resample": Resampling.LAST}, impute=Imputation.MEAN),
        "steps, mean": a_manifest(
            SUMMARIES, **{**steps, "resample": Resampling.MEAN}, lateness_ms=2000.0, impute=Imputation.LAST
        ),
    }


def a_recording(manifest: Manifest, count: int, seed: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and times with all that goes wrong: gaps, steps back, repeats, missing numbers."""
    chance = random.Random(seed)
    generator = np.random.default_rng(seed)
    rows = generator.normal(20.0, 3.0, (count, manifest.raw_columns)).astype(np.float32)
    times, now = [], 1_730_000_000_000.0
    for _ in range(count):
        now += chance.choice([1000.0, 1000.0, 1000.0, 900.0, 1100.5, 0.0, 400.0, *[1000.0] * 24, 7000.0])
        times.append(
            now - chance.choice([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1500.0, 6000.0])
        )
    if manifest.window.resample or manifest.window.impute or manifest.window.max_age_ms:
        rows[generator.random(rows.shape) < 0.2] = np.nan
        rows[np.isnan(rows).all(axis=1)] = 21.0
    return rows, np.array(times)
