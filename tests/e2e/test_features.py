"""Windows and features of readings that came over MQTT are those that the trainer makes of the recording."""

from __future__ import annotations

import json
import math

import numpy as np
from support.bundles import model_bytes
from support.signals import SUMMARIES, a_manifest, a_recording

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Feature, FeatureKind, Imputation, PassRules, ValueSpec
from atoll_contract.messages import Quality
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_signal.recorded import recorded

VALUES = [ValueSpec(name="x", unit="°C"), ValueSpec(name="y", unit="bar")]
STREAM = '[[stream]]\nname = "press"\nvalues = { x = { unit = "K" }, y = { unit = "mbar" } }\n'
FEATURES = [*SUMMARIES[:11], Feature(kind=FeatureKind.RMS, value="y")]
"""As many as the model takes, of which it gives the mean."""


def a_bundle(rows, times_ms):
    """Return a bundle with calendar features and statistics of the last known values of a time."""
    loaded = choose_runtime().runtime.load(model_bytes("mean12_float"))
    draft = a_manifest(
        FEATURES,
        values=VALUES,
        duration_ms=9000.0,
        lateness_ms=2000.0,
        max_age_ms=5000.0,
        impute=Imputation.LAST,
        length=64,
    )
    passing = PassRules(shadow_windows=0, probation_windows=0)
    tensors = {"inputs": loaded.inputs, "outputs": loaded.outputs}
    manifest = draft.model_copy(update={"model": "wear", "passing": passing, **tensors})
    predictor = Predictor(manifest, loaded)
    found = recorded(manifest, rows, times_ms)
    cases = golden.record(predictor, found.samples[::40])
    answers = predictor.answers(np.ascontiguousarray(found.features))
    return Bundle(manifest, model_bytes("mean12_float"), cases), found, [answer.value for answer in answers]


def a_reading(time_ms, row):
    values = {name: number for name, number in zip("xy", row, strict=True) if not math.isnan(number)}
    return json.dumps({"time_ms": time_ms, "values": values}).encode()


def test_live_windows_and_features_are_those_of_the_recording_also_over_a_clean_stop(
    mosquitto_broker, make_site
):
    site = make_site(mosquitto_broker, streams=STREAM)
    sent, times_ms = a_recording(a_manifest(values=VALUES, impute=Imputation.LAST), 300)
    # What the device makes of kelvin and millibar, as float32.
    rows = np.stack([sent[:, 0].astype(float) + 273.15, sent[:, 1].astype(float)], axis=1)
    offset, scale = -273.15, 0.001
    read = np.stack([rows[:, 0] * 1.0 + offset, rows[:, 1] * scale + 0.0], axis=1).astype(np.float32)
    bundle, found, wanted = a_bundle(read, times_ms)
    payloads = [
        a_reading(time_ms, row) for time_ms, row in zip(times_ms.tolist(), rows.tolist(), strict=True)
    ]
    half = len([place for place in found.places if place < 150])
    site.trainer.publish(bundle)
    site.agent.start()
    site.champion(1)

    site.send(*payloads[:150])
    site.spy.wait(lambda: len(site.predictions()) >= half, "the first half")
    assert site.agent.stop() == 0
    site.agent.start()
    site.send(*payloads[150:])
    site.spy.wait(lambda: len(site.predictions()) >= len(wanted), "the second half")

    predictions = site.predictions()
    assert [prediction.value for prediction in predictions] == wanted
    assert [prediction.time_ms for prediction in predictions] == found.end_ms.tolist()
    flags = [tuple(prediction.quality or ()) for prediction in predictions]
    assert [Quality.LATE in one for one in flags] == found.is_late.tolist()
    assert [Quality.IMPUTED in one for one in flags] == found.is_imputed.tolist()
    assert not any(Quality.GAP in one for one in flags)
    assert [event["name"] for event in site.agent.events("windows.kept")] == ["wear"]
    assert [event["name"] for event in site.agent.events("windows.restored")] == ["wear"]

    # Killed, it has nothing to go on with: the window fills anew and says so.
    site.agent.kill()
    site.agent.start()
    last_ms = float(times_ms.max())
    site.send(*(a_reading(last_ms + step * 1000.0, [300.0, 1.0]) for step in range(1, 12)))
    site.spy.wait(lambda: len(site.predictions()) > len(wanted), "a window that filled anew")
    # What it had not acknowledged when it was killed comes again, and some of that was late.
    assert Quality.GAP in (site.predictions()[len(wanted)].quality or ())
