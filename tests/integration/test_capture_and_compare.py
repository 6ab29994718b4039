"""``atoll-sim capture`` on a real broker, and ``compare`` of two releases on what it recorded."""

from __future__ import annotations

import json
import re

import pytest
from support.bundles import make_bundle
from support.sims import sim

pytest.importorskip("pyarrow")

from atoll_contract.errors import ConfigError, Reason
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_link import recording
from atoll_link.recording import Kind, Row
from atoll_sim.cli import main

WORLD = """
[world]
site = "plant-a"
[[device]]
prefix = "press"
count = 2
stream = "press"
rate_hz = 50
[device.signal.x]
shape = "walk"
low = 0.0
high = 10.0
step = 0.5
[device.truth]
model = "wear"
slope = { x = 2.0 }
intercept = 1.0
"""


@pytest.fixture
def captured(mosquitto_broker, tmp_path):
    """A recording of 100 readings and their labels."""
    (tmp_path / "world.toml").write_text(WORLD)
    url, folder = mosquitto_broker.url, tmp_path / "recordings"
    with sim("capture", "--broker", url, "--out", folder, "--messages", "200") as capture:
        assert capture.process.stderr is not None
        while "recording.subscribed" not in (line := capture.process.stderr.readline()):
            assert line, "the capture ended"
        with sim("run", "--broker", url, tmp_path / "world.toml", "--readings", "100") as run:
            run.finish()
        summary = capture.finish()
    assert summary == {"readings": 100, "labels": 100, "predictions": 0, "refused": {}}
    return folder


def bundle(folder, name, **options):
    path = folder / f"{name}.atoll"
    path.write_bytes(make_bundle(**options).pack())
    return path


def test_what_a_broker_carried_is_run_through_two_releases(captured, tmp_path, capsys):
    # Release 1 says 2 x + 1, which is the truth; release 2 says the same of x - 0.5.
    first = bundle(tmp_path, "one", release=1)
    second = bundle(tmp_path, "two", release=2, value="x", output={"scale": 1.0, "offset": -1.0})

    rows = list(recording.read(captured, Kind.READING, "press"))
    words = [str(word) for word in ("compare", captured, first, second, "--stream", "press")]
    assert main([*words, "--plot", str(tmp_path / "plot.svg"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert len(rows) == 100
    assert (facts["windows"], facts["releases"], facts["labels"]) == (100, [1, 2], 100)
    assert facts["mean_difference"] == pytest.approx(1.0)
    assert facts["errors"] == [pytest.approx(0.0, abs=1e-5), pytest.approx(1.0, abs=1e-5)]
    assert [one["windows"] for one in facts["devices"]] == [50, 50]
    drawn = (tmp_path / "plot.svg").read_text()
    assert "release 2" in drawn
    assert "<script" not in drawn
    assert main(words) == 0
    assert re.search(r"mean error   1: \S+, 2: 1; of 100 labelled windows", capsys.readouterr().out)


def test_a_label_is_the_truth_of_the_latest_reading_before_it_alone(tmp_path):
    folder, start_ms = tmp_path / "recordings", 1_790_000_000_000.0
    with recording.Recording(folder) as rows:
        for number in range(10):
            at_ms = start_ms + 100 * number
            reading = encode_reading(Reading(values={"x": float(number)}, time_ms=at_ms))
            rows.append(Row(at_ms, at_ms, Kind.READING, "press", "press-1", "t", reading, 1), 0.0)
        for after_ms, value in ((330.0, 7.0), (1500.0, 19.0)):
            label = Label(value=value, time_ms=start_ms + after_ms).encode()
            rows.append(Row(at_ms, at_ms, Kind.LABEL, "wear", "press-1", "l", label, 1), 0.0)
    first, second = bundle(tmp_path, "one", release=1), bundle(tmp_path, "two", release=2)

    found = _compare(folder, first, second)

    # The labels come 30 ms after the reading 3, and 600 ms after the last one, 9.
    assert {one.first: one.truth for one in found.both if one.truth is not None} == {7.0: 7.0, 19.0: 19.0}


def test_what_one_release_cannot_use_is_told_of_that_one(tmp_path):
    folder = tmp_path / "recordings"
    with recording.Recording(folder) as rows:
        for number, values in enumerate(({"x": 1.0, "y": 1.0}, {"y": 2.0}, {"x": 3.0})):
            reading = encode_reading(Reading(values=values, time_ms=1000.0 * number))
            rows.append(Row(0.0, 0.0, Kind.READING, "press", "press-1", "t", reading, 1), 0.0)
        rows.append(Row(0.0, 0.0, Kind.READING, "press", "press-1", "t", b"[", 1), 0.0)
    first, second = bundle(tmp_path, "one", release=1), bundle(tmp_path, "two", release=2, value="y")

    found = _compare(folder, first, second)

    assert found.refused.total() == 1
    assert [dict(one) for one in found.unused] == [{Reason.MISSING_VALUE: 1}, {Reason.MISSING_VALUE: 1}]
    assert (len(found.both), found.only_first, found.only_second) == (1, 1, 1)


def test_bundles_of_two_models_are_not_compared(tmp_path):
    first = bundle(tmp_path, "one")
    second = bundle(tmp_path, "two", model="other")

    with pytest.raises(ConfigError, match="two kinds"):
        _compare(tmp_path, first, second)


def _compare(folder, first, second):
    from atoll_contract.bundle import Bundle
    from atoll_infer.golden import self_test
    from atoll_infer.runtime import choose_runtime
    from atoll_sim.compare import compare

    runtime = choose_runtime().runtime
    predictors = [self_test(Bundle.unpack(path.read_bytes()), runtime) for path in (first, second)]
    return compare(folder, *predictors, "press", None)
