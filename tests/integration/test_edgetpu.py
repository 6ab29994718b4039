"""The Edge TPU's keeper and its child on the stand-in for libedgetpu."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import edgetpu_stub
from support.bundles import make_bundle, model_bytes, with_wrong_golden
from support.edgetpu_stub import USB
from support.edgetpus import TpuBench, compiled_bundle, is_degraded, until

from atoll_agent.adapters.edgetpu_child import EdgeTpuChild
from atoll_agent.adapters.edgetpu_reset import UsbReset
from atoll_contract.errors import AcceleratorLostError, BundleRejectedError, Reason
from atoll_contract.manifest import TensorSpec
from atoll_infer import edgetpu
from atoll_infer.runtime import Runtime, look_for_runtimes


def load_or_none(package: str) -> Runtime | None:
    return next(found.runtime for found in look_for_runtimes() if found.package == package)


_TRACER = """
import ctypes, sys
seize = 0x4206
libc = ctypes.CDLL(None)
print("ready" if libc.ptrace(seize, int(sys.argv[1]), None, None) == 0 else "no", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("package", ["tflite-runtime", "ai-edge-litert"])
def test_a_folded_model_answers_as_the_cpu_does(package):
    runtime = load_or_none(package)
    if runtime is None:
        pytest.skip(f"{package} does not work here")
    library = edgetpu.load_library(str(edgetpu_stub.build()))
    _, delegate = edgetpu.open_device(library, [runtime], USB)
    content = model_bytes("linear_int8")
    cpu, tpu = runtime.load(content), runtime.load(edgetpu_stub.fold(content), delegate=delegate)

    for x in range(-128, 128):
        tensor = np.full((1, 1), x, np.int8)
        assert tpu.invoke(tensor) == cpu.invoke(tensor)


def test_builtin_operators_that_the_device_claims_answer_as_on_the_cpu(monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_CLAIM", "int8")
    runtime = next(found.runtime for found in look_for_runtimes() if found.runtime)
    _, delegate = edgetpu.open_device(edgetpu.load_library(str(edgetpu_stub.build())), [runtime], USB)
    content = model_bytes("linear_int8")
    cpu, tpu = runtime.load(content), runtime.load(content, delegate=delegate)

    tensor = np.array([[77]], np.int8)

    assert tpu.invoke(tensor) == cpu.invoke(tensor)


@pytest.mark.real_data
def test_a_real_compiled_model_runs_in_the_child(make_bench, real_data):
    """What comes out is the stand-in's; it is loaded, asked and answered as on a device."""
    runtime = next(found.runtime for found in look_for_runtimes() if found.runtime)
    name = "mobilenet_v1_0.25_128_quant"
    twin = runtime.load((real_data / "models" / f"{name}.tflite").read_bytes())
    content = (real_data / "models" / f"{name}_edgetpu.tflite").read_bytes()

    placed = make_bench().tpus.place(content, twin, lambda _model: None, None)
    placed.wait_ready()
    output = placed.invoke(np.zeros((1, 128, 128, 3), np.uint8))

    assert output.shape == (1, 1001)
    assert not placed.is_degraded


def test_a_graceful_failure_is_tried_again_and_nobody_notices(make_bench):
    bench = make_bench()
    predictor = bench.ready()

    bench.control.write_text("fail")
    answers = [is_degraded(predictor) for _ in range(20)]

    assert answers == [False] * 20
    assert bench.counts == {"edgetpu_starts": 1, "edgetpu_retries": 1}


def test_failures_that_stay_start_the_child_anew(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_FAIL_AFTER", "20")
    bench = make_bench()
    predictor = bench.ready()

    until(predictor, degraded=True)
    until(predictor, degraded=False)

    assert bench.counts["edgetpu_starts"] == 2
    assert bench.counts["edgetpu_degraded"] >= 3


def test_an_abort_costs_no_answer_and_tells_what_the_driver_said(make_bench):
    bench = make_bench()
    predictor = bench.ready()

    bench.control.write_text("abort")
    slowest_s = until(predictor, degraded=True)
    bench.wait_state(lambda _state: any("SIGABRT" in detail for detail in bench.details))
    detail = next(detail for detail in bench.details if "SIGABRT" in detail)
    until(predictor, degraded=False)

    assert slowest_s < 10.0  # nobody waited for the deadline
    assert detail.startswith(f"{USB}: its child ended with signal SIGABRT: F driver/usb/usb_driver.cc")
    assert bench.counts["edgetpu_failures"] == 1
    bench.wait_state(lambda _state: bench.changes == 3)


def test_a_hang_costs_one_deadline(make_bench):
    bench = make_bench(deadline_s=1.0)
    predictor = bench.ready()

    bench.control.write_text("hang")
    slowest_s = until(predictor, degraded=True)
    following_s = until(predictor, degraded=False)

    assert slowest_s >= 1.0
    assert following_s < slowest_s + 1.0
    assert bench.counts["edgetpu_failures"] == 1


def test_a_stick_that_is_unplugged_while_idle_is_missed_at_once_and_taken_up_again(make_bench):
    bench = make_bench()
    predictor = bench.ready()

    bench.sysfs.unplug_usb("1-1")
    bench.control.write_text("gone")
    bench.wait_state(lambda state: state.detail == "an Edge TPU is not there; found: none")
    assert is_degraded(predictor)
    bench.control.write_text("")
    bench.sysfs.plug_usb("1-1")
    until(predictor, degraded=False)

    assert bench.counts["edgetpu_starts"] == 2


def test_while_a_device_takes_long_to_open_the_cpu_answers(make_bench):
    """Opening a stick that may not be read takes 25 s, and holds up all of the process."""
    bench = make_bench()
    bench.control.write_text("wait")

    predictor = bench.place(compiled_bundle())
    bench.wait_state(lambda _state: bench.counts.get("edgetpu_starts"))
    started = time.monotonic()
    slowest_s, answers = 0.0, 0
    while answers < 50 or time.monotonic() - started < 1.0:
        slowest_s = max(slowest_s, until(predictor, degraded=True))
        answers += 1
    bench.control.write_text("")
    until(predictor, degraded=False)

    assert slowest_s < 5.0


def test_opening_that_takes_too_long_is_ended(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_CREATE_DELAY_MS", "60000")
    bench = make_bench(open_timeout_s=1.5)

    predictor = bench.place(compiled_bundle())

    with pytest.raises(AcceleratorLostError, match=r"did not answer within 1\.5 s"):
        predictor.model.wait_ready()


def test_a_stop_waits_for_no_device_that_is_being_opened(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_CREATE_DELAY_MS", "60000")
    bench = make_bench()
    predictor = bench.place(compiled_bundle())
    bench.wait_state(lambda _state: bench.counts.get("edgetpu_starts"))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(predictor.model.wait_ready)
        bench.tpus.close()
        with pytest.raises(AcceleratorLostError, match="the agent stops"):
            waiting.result(10)
    wait_for_keepers()
    assert bench.counts.get("edgetpu_failures") is None


def wait_for_keepers() -> None:
    for keeper in [thread for thread in threading.enumerate() if thread.name == "edgetpu"]:
        keeper.join(10)
        assert not keeper.is_alive()


def test_why_a_device_cannot_be_opened_comes_from_the_driver(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_CREATE_ERROR", "")
    bench = make_bench()

    predictor = bench.place(compiled_bundle())

    with pytest.raises(AcceleratorLostError, match=r"cannot be opened.*Permission denied: USB error -3"):
        predictor.model.wait_ready()
    assert is_degraded(predictor)


def test_a_device_that_another_process_has_is_not_got(make_bench, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGETPU_STUB_LOCKDIR", str(tmp_path))
    first = make_bench()
    first.ready()
    second = TpuBench(
        tmp_path / "second",
    )
    second.sysfs.plug_usb("1-1")

    with pytest.raises(AcceleratorLostError, match="busy"):
        second.place(compiled_bundle()).model.wait_ready()

    second.tpus.close()


def test_a_library_with_an_old_layout_ends_only_the_child(make_bench, monkeypatch, tmp_path):
    if load_or_none("ai-edge-litert") is None:
        pytest.skip("ai-edge-litert does not work here; tflite-runtime survives that layout")
    (tmp_path / "without" / "tflite_runtime").mkdir(parents=True)
    (tmp_path / "without" / "tflite_runtime" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))  # of the child
    monkeypatch.setenv("EDGETPU_STUB_OLD_ABI", "1")
    bench = make_bench()

    predictor = bench.place(compiled_bundle())

    with pytest.raises(
        AcceleratorLostError, match=r"SIGSEGV; BuildLabel.* may be too old for ai-edge-litert"
    ):
        predictor.model.wait_ready()
    assert is_degraded(predictor)


def test_a_model_at_which_the_child_ends_is_left_out_and_the_others_run(make_bench):
    bench = make_bench(return_after_s=60.0)
    good = bench.ready()
    bundle = make_bundle(file="linear_int8")
    deadly = replace(bundle, model_edgetpu=edgetpu_stub.fold(bundle.model, min_runtime=0))

    bad = bench.place(deadly)

    with pytest.raises(AcceleratorLostError, match=r"the Edge TPU's child ends at it: .* SIGABRT"):
        bad.model.wait_ready()
    until(good, degraded=False)
    assert is_degraded(bad)
    assert bench.counts["edgetpu_starts"] == 3


def test_a_device_that_failed_while_a_model_was_loaded_gets_it_back(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_ABORT_AFTER", "0")
    bench = make_bench()

    predictor = bench.place(compiled_bundle())
    with pytest.raises(AcceleratorLostError, match="ends at it"):
        predictor.model.wait_ready()
    monkeypatch.delenv("EDGETPU_STUB_ABORT_AFTER")

    until(predictor, degraded=False)
    assert predictor.model.degradation is None


def test_a_process_that_cannot_be_ended_is_told_and_no_other_is_started_beside_it(make_bench):
    bench = make_bench(deadline_s=1.0)
    predictor = bench.ready()
    [tpu] = bench.tpus._tpus.values()
    # What another process traces is not gone before that one lets it go.
    with subprocess.Popen(
        [sys.executable, "-c", _TRACER, str(tpu._child._process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tracer:
        if tracer.stdout.readline() != "ready\n":
            pytest.skip("no process can be traced here")
        bench.control.write_text("hang")
        bench.wait_state(lambda _state: is_degraded(predictor))

        bench.wait_state(lambda state: "power off the device, or reboot" in state.detail)
        assert is_degraded(predictor)
        assert (bench.counts["edgetpu_failures"], bench.counts["edgetpu_starts"]) == (1, 1)
        assert bench.changes == 2
        tracer.kill()

    until(predictor, degraded=False)
    assert (bench.counts["edgetpu_failures"], bench.counts["edgetpu_starts"]) == (1, 2)


def test_a_fault_of_the_keeper_itself_reaches_whoever_waits(make_bench):
    bench = make_bench()

    def check(_model) -> None:
        raise RuntimeError("a bug")

    placed = bench.place(compiled_bundle(), check=check).model

    with pytest.raises(RuntimeError, match="a bug"):
        placed.wait_ready()
    with pytest.raises(RuntimeError, match="a bug"):
        placed.invoke(np.zeros((1, 1), np.int8))
    [tpu] = bench.tpus._tpus.values()
    tpu._opening.end()
    tpu._opening.close()


def test_without_descriptors_the_device_is_lost_and_no_descriptor():
    wait_for_keepers()  # of other tests
    spec = TensorSpec.model_validate({"name": "x", "shape": [1, 1], "dtype": "float32"}, strict=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, child, limit = descriptors(), None, 3
    try:
        while child is None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                child = EdgeTpuChild()
            except AcceleratorLostError:
                limit += 1
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert child is not None or descriptors() == before
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        with pytest.raises(AcceleratorLostError, match="no memory to share"):
            child.load(1, b"model", (spec, spec), 10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    child.end()
    child.close()
    assert descriptors() == before


def descriptors() -> set[str]:
    return {one.name for one in Path("/proc/self/fd").iterdir()}


def test_a_library_that_is_too_old_is_named_before_anything_is_opened(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_COMPILER", "6.3.0 20170516")
    bench = make_bench()

    with pytest.raises(AcceleratorLostError, match="is too old for "):
        bench.place(compiled_bundle()).model.wait_ready()


def test_beyond_the_budget_it_rests_on_the_cpu_and_returns_later(make_bench):
    bench = make_bench(restarts_per_minute=1, return_after_s=1.0)
    predictor = bench.ready()

    for _ in range(2):
        bench.control.write_text("abort")
        until(predictor, degraded=True)
        lost = time.monotonic()
        until(predictor, degraded=False)

    assert time.monotonic() - lost >= 0.9
    assert bench.counts["edgetpu_starts"] == 3


def test_a_stick_that_fails_again_and_again_is_reset(make_bench, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_CREATE_ERROR", "")
    bench = make_bench()

    predictor = bench.place(compiled_bundle())

    # Two children have failed by then, and a third has asked for the reset: each takes its start.
    bench.wait_state(lambda state: state.counts.get("edgetpu_resets", 0) > 0, timeout_s=60.0)
    assert is_degraded(predictor)
    assert UsbReset().run(Path(os.devnull)).startswith("/dev/null cannot be reset: ")


def test_a_model_that_needs_a_newer_runtime_is_refused_with_its_reason(make_bench):
    bundle = make_bundle(file="linear_int8")
    newer = replace(bundle, model_edgetpu=edgetpu_stub.fold(bundle.model, min_runtime=15))

    with pytest.raises(BundleRejectedError, match=r"requires runtime version \(15\)"):
        make_bench().place(newer).model.wait_ready()


def test_a_model_that_does_not_give_its_golden_outputs_there_is_not_used_there_and_others_are(make_bench):
    bench = make_bench()
    good, bad = compiled_bundle(), with_wrong_golden(compiled_bundle(model="other"))
    bad = replace(bad, model_edgetpu=good.model_edgetpu)

    first, second = bench.ready(good), bench.place(bad)

    with pytest.raises(BundleRejectedError) as caught:
        second.model.wait_ready()
    assert caught.value.reason is Reason.GOLDEN_MISMATCH
    assert "differs by" in second.model.degradation
    until(first, degraded=False)
