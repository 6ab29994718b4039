"""Windows that outlive a clean stop."""

from __future__ import annotations

import pytest
from support.lanes import Bench, predictor
from support.signals import a_manifest, a_recording, manifests

from atoll_agent.adapters.store import KeptWindows
from atoll_signal.frames import Frames
from atoll_signal.kept import keep, restored

OPTIONS = {"file": "mean12_float", "length": 12}


def reading(number: int) -> bytes:
    return b'{"time_ms":%d,"values":{"x":%d}}' % (number, number)


def stopped(folder, count: int, *, is_answered: bool = True) -> None:
    """Let an agent take in readings and stop."""
    bench = Bench(windows=KeptWindows(folder))
    bench.lane.swap(predictor(**OPTIONS), has_restarted=False)
    bench.turn()
    for number in range(count):
        bench.deliver(reading(number), mid=number + 1)
    if is_answered:
        bench.wire.puback(*range(1, len(bench.wire.sent) + 1))
        bench.turn()
    else:
        bench.wire.disconnect()
    bench.lane.stop()
    bench.lane.run()


def begun(folder, **options) -> Bench:
    bench = Bench(windows=KeptWindows(folder))
    bench.lane.swap(predictor(**{**OPTIONS, **options}), has_restarted=True)
    bench.turn()
    return bench


def test_windows_go_on_where_a_clean_stop_left_them(tmp_path):
    stopped(tmp_path, 11)
    bench = begun(tmp_path)

    bench.deliver(reading(11), mid=1)

    assert bench.predictions[0]["window"] == {"start_ms": 0, "samples": 12}
    assert "quality" not in bench.predictions[0]


def test_after_a_kill_windows_fill_anew_and_say_so(tmp_path):
    stopped(tmp_path, 11)
    begun(tmp_path)  # which never stops cleanly
    bench = begun(tmp_path)

    for number in range(11, 23):
        bench.deliver(reading(number), mid=number)

    assert [prediction["quality"] for prediction in bench.predictions] == [["gap"]]


def test_windows_are_not_kept_while_a_reading_will_come_again(tmp_path):
    stopped(tmp_path, 12, is_answered=False)

    assert KeptWindows(tmp_path).take("wear") is None


def test_windows_of_other_columns_are_refused(tmp_path):
    stopped(tmp_path, 11)
    bench = begun(tmp_path, value="y")

    for number in range(12):
        bench.deliver(b'{"time_ms":%d,"values":{"y":1}}' % number, mid=number + 1)

    assert [prediction["quality"] for prediction in bench.predictions] == [["gap"]]


@pytest.mark.parametrize("name", manifests())
def test_every_kind_of_window_goes_on_as_if_nothing_had_happened(name):
    manifest = manifests()[name]
    rows, times_ms = a_recording(manifest, 200)
    straight, before = (Frames(manifest, max_devices=1) for _ in range(2))
    after = Frames(manifest, max_devices=1, has_restarted=True)

    def cut(frames, start, end):
        found = []
        for row, time_ms in zip(rows[start:end].tolist(), times_ms[start:end].tolist(), strict=True):
            made = frames.cut("d", row, time_ms)
            found.append(None if made is None else (bytes(made.samples), made.end_ms, made.has_gap))
        return found

    expected = cut(straight, 0, 200)
    first = cut(before, 0, 103)
    after.restore(restored(manifest, keep(manifest, before.state())))

    assert first + cut(after, 103, 200) == expected


def test_damage_is_found(tmp_path):
    manifest = a_manifest(length=3)
    frames = Frames(manifest, max_devices=1)
    frames.cut("d", [1.0, 2.0], 0.0)
    kept = keep(manifest, frames.state())

    for damaged in (b"", kept[:-3], kept[:-2] + b"\xff\xff"):
        with pytest.raises(ValueError, match="windows that"):
            restored(manifest, damaged)
    with pytest.raises(ValueError, match="windows of other columns"):
        restored(a_manifest(length=4), kept)
    assert len(restored(manifest, kept).counted) == 1
