"""What the trainer sees of a recording is what the device sees of the same readings, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from support.signals import a_manifest, a_recording, manifests

from atoll_contract.manifest import Dtype
from atoll_contract.messages import Quality
from atoll_signal.features import FeatureRow
from atoll_signal.frames import Frames
from atoll_signal.recorded import recorded
from atoll_signal.window import Windows


def readings(manifest, rows):
    for row in rows.tolist():
        values, at = {}, 0
        for value in manifest.sources:
            numbers = row[at : at + value.size]
            at += value.size
            if value.shape:
                values[value.name] = numbers
            elif numbers[0] == numbers[0]:
                values[value.name] = numbers[0]
        yield values


@pytest.mark.parametrize("name", manifests())
def test_windows_and_features_of_a_recording_are_those_of_its_readings(name):
    manifest = manifests()[name]
    rows, times_ms = a_recording(manifest, 400)

    at_once = recorded(manifest, rows, times_ms)
    live = Frames(manifest, max_devices=1)
    frames = [
        (place, frame)
        for place, values in enumerate(readings(manifest, rows))
        if (frame := live.take("d", values, float(times_ms[place]))) is not None
    ]

    assert len(frames) > 15
    assert [place for place, _ in frames] == at_once.places.tolist()
    assert [frame.time_ms for _, frame in frames] == at_once.end_ms.tolist()
    assert b"".join(frame.features for _, frame in frames) == at_once.features.tobytes()
    for flag, flags in (
        (Quality.GAP, at_once.has_gap),
        (Quality.LATE, at_once.is_late),
        (Quality.IMPUTED, at_once.is_imputed),
    ):
        assert [flag in frame.quality for _, frame in frames] == flags.tolist(), flag
    assert np.isfinite(at_once.features).all()


@pytest.mark.parametrize("name", ["every feature", "of a time", "steps, imputed", "array"])
def test_samples_give_the_features_that_were_made_of_them(name):
    manifest = manifests()[name]
    rows, times_ms = a_recording(manifest, 100)

    found = recorded(manifest, rows, times_ms)
    frames = Frames(manifest, max_devices=1)

    assert frames.matrix.of_each(found.samples).tobytes() == found.features.tobytes()
    assert all(one.times_ms[-1] == end_ms for one, end_ms in zip(found.samples, found.end_ms, strict=True))


@pytest.mark.parametrize("kind", ["values", "tumbling"])
def test_the_fast_way_and_the_long_way_are_one(kind):
    manifest = manifests()[kind]
    rows, times_ms = a_recording(manifest, 200)
    frames, windows = Frames(manifest, max_devices=1), Windows(manifest.window, 2, max_devices=1)
    row = FeatureRow(manifest)

    for values, time_ms in zip(readings(manifest, rows), times_ms.tolist(), strict=True):
        frame, window = frames.take("d", values, time_ms), windows.push("d", row.row(values), time_ms)

        assert (frame is None) == (window is None)
        if frame is not None and window is not None:
            assert frame.features == bytes(window.packed)
            assert (frame.start_ms, frame.quality) == (
                window.start_ms,
                (Quality.GAP,) if window.take_gap() else (),
            )


def test_a_recording_that_is_too_short_has_no_windows():
    manifest = a_manifest(length=5)

    found = recorded(manifest, np.zeros((4, 2), np.float32), np.arange(4) * 1000.0)

    assert len(found) == 0
    assert found.features.shape == (0, 5, 2)
    assert manifest.inputs[0].dtype is Dtype.FLOAT32
