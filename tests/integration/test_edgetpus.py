"""Several models on one Edge TPU, and several Edge TPUs, on the stand-in for libedgetpu."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from support.edgetpu_stub import USB
from support.edgetpus import compiled_bundle, is_degraded, until

from atoll_contract.errors import AcceleratorLostError


def test_while_a_model_is_loaded_the_cpu_answers_for_the_others_at_once(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_LATENCY_US", "20000")
    bench = make_bench()
    first = bench.ready()

    second, answers = bench.place(compiled_bundle()), []
    while second.model.degradation is not None:
        answers.append(is_degraded(first))

    assert sum(answers) > 3  # and nobody waited until the model was loaded
    assert not is_degraded(first)


def test_a_model_runs_only_once_the_device_answers_for_it(make_bench):
    bench = make_bench()
    kept = [bench.ready()]
    both, runs_before = [], []

    def place_two(_model) -> None:
        both[:] = [bench.place(compiled_bundle()), bench.place(compiled_bundle(), check=look)]

    def look(_model) -> None:  # the first of the two is loaded, and the CPU answers for it
        runs_before.append(both[0].model.degradation is None)

    kept.append(bench.place(compiled_bundle(), check=place_two))
    kept[-1].model.wait_ready()
    for predictor in both:
        predictor.model.wait_ready()

    assert runs_before == [False]
    assert [is_degraded(predictor) for predictor in both] == [False, False]


def test_a_model_that_comes_while_an_inference_hangs_is_not_blamed_for_that(make_bench):
    bench = make_bench(deadline_s=1.0)
    first = bench.ready()
    bundle = compiled_bundle()

    bench.control.write_text("hang")
    with ThreadPoolExecutor(1) as pool:
        is_first_degraded = pool.submit(is_degraded, first)
        bench.wait_state(lambda _state: "hang" not in bench.control.read_text())  # it has been done
        second = bench.place(bundle)
        assert is_first_degraded.result(10)
    until(second, degraded=False)

    assert f"{USB}: no answer within 1 s" in bench.details


def test_models_that_are_gone_leave_the_device(make_bench):
    bench = make_bench()
    first = bench.ready()
    kept = bench.ready()

    del first
    third = bench.ready()

    [tpu] = bench.tpus._tpus.values()
    assert list(tpu._models) == [2, 3]
    assert not is_degraded(kept)
    assert not is_degraded(third)


def test_a_model_that_is_gone_is_forgotten_where_no_device_is_found_either(make_bench):
    bench = make_bench(plugged=False)
    predictor = bench.place(compiled_bundle())
    [tpu] = bench.tpus._tpus.values()
    bench.wait_state(lambda state: "found: none" in state.detail)

    del predictor

    bench.wait_state(lambda _state: not tpu._models)


def test_devices_are_chosen_by_path(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_DEVICES", f"usb:/sys/bus/usb/devices/1-3,pci:/dev/apex_0,usb:{USB}")
    bench = make_bench()
    bench.sysfs.plug_pci(0, temp="54000", trip_point0_temp="85000")

    on_usb, on_pci = bench.ready(path=USB), bench.ready(path="/dev/apex_0")
    nowhere = bench.place(compiled_bundle(), "/dev/apex_7")

    assert on_usb.backend.endswith(f"Edge TPU {USB}")
    assert on_pci.backend.endswith("Edge TPU /dev/apex_0")
    with pytest.raises(AcceleratorLostError, match=f"/dev/apex_7 is not there; found: /dev/apex_0, {USB}"):
        nowhere.model.wait_ready()
    assert bench.tpus.fault("/dev/apex_7") is not None
    assert {state.temp_c for state in bench.tpus.states} == {None, 54.0}


def test_a_model_without_a_device_shares_that_of_one_that_names_it(make_bench, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETPU_STUB_LOCKDIR", str(tmp_path))
    bench = make_bench()

    anywhere = bench.ready()
    there = bench.ready(path=USB)
    later = bench.ready()

    assert bench.counts == {"edgetpu_starts": 1}
    assert len(bench.tpus.states) == 1
    assert [one.model.degradation for one in (anywhere, there, later)] == [None] * 3


def test_a_model_without_a_device_leaves_those_alone_that_others_name(make_bench, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETPU_STUB_LOCKDIR", str(tmp_path))
    monkeypatch.setenv("EDGETPU_STUB_DEVICES", f"pci:/dev/apex_0,usb:{USB}")
    bench = make_bench()
    bench.sysfs.plug_pci(0)

    there = bench.ready(path="/dev/apex_0")
    anywhere = bench.ready()
    bench.sysfs.unplug_usb("1-1")
    bench.control.write_text("abort")
    until(anywhere, degraded=True)
    bench.wait_states(lambda states: "that no other model names is not there" in states[1].detail)

    assert not is_degraded(there)
