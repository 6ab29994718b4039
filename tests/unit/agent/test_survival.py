"""Windows that outlive a clean stop."""

from __future__ import annotations

import json
import time

import pytest
from structlog.testing import capture_logs
from support.dialects import stream
from support.lanes import Bench, lane_plan, predictor
from support.lanes import stream as press_stream
from support.signals import a_manifest, a_recording, manifests

from atoll_agent.adapters.store import KeptWindows
from atoll_agent.decisions.rules import Rules
from atoll_agent.ports import Kept
from atoll_agent.rule_settings import RuleTable
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

    assert KeptWindows(tmp_path).take("wear", Kept.WINDOWS) is None


def test_windows_of_other_columns_are_refused(tmp_path):
    stopped(tmp_path, 11)
    bench = begun(tmp_path, value="y")

    for number in range(12):
        bench.deliver(b'{"time_ms":%d,"values":{"y":1}}' % number, mid=number + 1)

    assert [prediction["quality"] for prediction in bench.predictions] == [["gap"]]


def hot(limit: float) -> Rules:
    """Return a rule on the bench's model, which says 2 x + 1."""
    table = {"name": "hot", "model": "wear", "when": {"above": limit}, "command": [
        {"name": "fan", "value": 1}, {"name": "fan", "value": 0, "on": "cleared"},
    ]}  # fmt: skip
    return Rules([RuleTable(**table).build("site", "pi")], site="site", agent="pi", max_devices=10)


def commands(bench: Bench) -> list[float]:
    sent = [(topic.split("/")[4], payload) for _, topic, payload in bench.wire.sent]
    return [json.loads(payload)["value"] for kind, payload in sent if kind == "command"]


def read_now(bench: Bench, x: float) -> None:
    bench.deliver(b'{"values":{"x":%g}}' % x, arrival_ns=time.monotonic_ns())


def test_a_rule_that_was_raised_at_a_clean_stop_takes_its_command_back_afterwards(tmp_path):
    before = Bench(predictor(), rules={"wear": hot(10)}, windows=KeptWindows(tmp_path))
    read_now(before, 6)
    assert commands(before) == [1]
    before.wire.disconnect()  # whatever is under way
    before.lane.stop()
    before.lane.run()

    after = Bench(predictor(), rules={"wear": hot(10)})
    after.lane.remember(KeptWindows(tmp_path))
    read_now(after, 3)

    assert commands(after) == [0]
    assert KeptWindows(tmp_path).take("wear", Kept.RULES) is None


def test_a_rule_that_changes_at_a_reload_goes_on_from_where_it_was():
    bench = Bench(predictor(), rules={"wear": hot(10)})
    read_now(bench, 6)

    bench.lane.change(lane_plan(press_stream(), rules={"wear": hot(20)}), [])
    read_now(bench, 6)

    assert commands(bench) == [1, 0]


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        ("hold_s = 3600", b'{"x": 3, "y": 1}', b'{"y": 2}'),
        ("join_s = 3600", b'{"x": 3}', b'{"y": 2}'),
    ],
)
def test_values_that_are_held_or_wait_for_others_outlive_a_clean_stop(tmp_path, settings, first, second):
    def bench(x: str, **options) -> Bench:
        values = f'values.x = {{ pointer = "{x}" }}\nvalues.y = {{}}\n'
        topics = 'name = "press"\ndialect = "json"\ntopics = ["d/{device}"]\n'
        return Bench(predictor(), streams=[stream(topics + values + settings)], **options)

    for pointer, answers in (("/x", [7.0]), ("/z", [])):  # the second is another value than was held
        before = bench("/x", windows=KeptWindows(tmp_path))
        before.deliver(first, topic="d/a", arrival_ms=1e12, qos=0)
        before.lane.stop()
        before.lane.run()
        after = bench(pointer)
        after.lane.remember(KeptWindows(tmp_path))
        after.deliver(second, topic="d/a", arrival_ms=1e12 + 1000, qos=0)
        assert [told["value"] for told in after.predictions] == pytest.approx(answers)


@pytest.mark.parametrize("kind", [Kept.RULES, Kept.VALUES])
@pytest.mark.parametrize(
    "damaged", [b"", b"\x81", b"\x84\xa6format\x02\xa7wall_ms\x00\xa5now_s\x00\xa5rules\x80"]
)
def test_what_cannot_be_read_of_the_last_stop_is_told_and_left(tmp_path, kind, damaged):
    held = stream('name = "press"\ndialect = "json"\ntopics = ["d/{device}"]\nvalues.x = {}\nhold_s = 9')
    name = {Kept.RULES: "wear", Kept.VALUES: "press"}[kind]
    KeptWindows(tmp_path).keep(name, kind, damaged)
    bench = Bench(predictor(), streams=[held], rules={"wear": hot(10)})

    with capture_logs() as logs:
        bench.lane.remember(KeptWindows(tmp_path))

    assert [(line["event"], line["name"]) for line in logs] == [("windows.refused", name)]


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
