from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support.bundles import make_bundle, with_wrong_golden

from atoll_contract.errors import BundleRejectedError, Reason, RuntimeUnavailableError
from atoll_infer import contest, edgetpu, runtime, tuning
from atoll_infer.contest import EDGETPU, Contest, Contestant
from atoll_infer.edgetpu import Library
from atoll_infer.runtime import Looked, Runtime, choose_runtime, load_runtime, look_for_runtimes


def hold(bundle, looked=None, *, cpus=1, preferred=None) -> Contest:
    runtimes = list(look_for_runtimes()) if looked is None else looked
    return contest.hold(bundle, runtimes, key="k", cpus=cpus, preferred=preferred)


def breaks(error: Exception):
    def interpreter(**_: object) -> None:
        raise error

    return interpreter


def test_a_runtime_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(runtime, "_version", lambda _package: None)

    with pytest.raises(RuntimeUnavailableError, match=r"^ai-edge-litert is not installed$"):
        load_runtime("ai-edge-litert")


@pytest.fixture
def module(monkeypatch):
    """A module in the place of tflite_runtime.interpreter."""
    found = SimpleNamespace(Interpreter=breaks(SystemError("_ARRAY_API not found")), load_delegate=None)
    monkeypatch.setattr(runtime.importlib, "import_module", lambda _name: found)
    monkeypatch.setattr(runtime, "version", lambda _package: "2.14.0")
    return found


@pytest.mark.usefixtures("module")
def test_numpy_2_under_tflite_runtime_is_named_and_what_to_install(monkeypatch):
    monkeypatch.setattr(np, "__version__", "2.3.1")

    with pytest.raises(RuntimeUnavailableError) as caught:
        load_runtime("tflite-runtime")

    assert caught.value.detail == (
        "tflite-runtime 2.14.0 was built for numpy 1, and numpy 2.3.1 is installed: pip install 'numpy<2'"
    )


@pytest.mark.usefixtures("module")
def test_a_broken_runtime_is_named_with_what_it_says():
    with pytest.raises(RuntimeUnavailableError, match=r"broken .*ARRAY_API not found.*reinstall"):
        load_runtime("tflite-runtime")


@pytest.mark.parametrize("file", ["linear_float", "linear_int8"])
def test_every_runtime_takes_part_and_the_fastest_is_first(file):
    held = hold(make_bundle(file=file))

    works = {looked.package for looked in look_for_runtimes() if looked.runtime is not None}
    assert {one.package for one in held.contestants if one.answer_us is not None} == works
    assert held.cpu is held.contestants[0]
    assert "µs" in held.why


def test_one_that_does_not_give_the_golden_outputs_is_out():
    bundle = make_bundle()
    good = choose_runtime().runtime
    bad = Runtime("other 1.0", breaks(ValueError("no")))

    held = hold(bundle, [Looked("other", bad, ""), Looked(good.package, good, ""), Looked("x", None, "gone")])

    assert held.cpu.package == good.package
    assert [(one.package, one.answer_us is None) for one in held.contestants[1:]] == [
        ("other", True),
        ("x", True),
    ]
    assert held.why.endswith("other 1.0 CPU: other 1.0 cannot load the model file: no; x: gone")


def test_where_none_gives_the_golden_outputs_the_release_is_refused():
    with pytest.raises(BundleRejectedError) as caught:
        hold(with_wrong_golden(make_bundle()))

    assert caught.value.reason is Reason.GOLDEN_MISMATCH


def times(monkeypatch, *seconds: float) -> None:
    left = list(seconds)
    monkeypatch.setattr(tuning, "least_s", lambda _work: left.pop(0))


def test_threads_are_tried_for_slow_models_up_to_the_cpus_allowed(monkeypatch):
    good = choose_runtime().runtime
    times(monkeypatch, 0.008, 0.005, 0.004)

    held = hold(make_bundle(), [Looked(good.package, good, "")], cpus=3)

    assert [(one.threads, one.answer_us) for one in held.contestants] == [(2, 5000.0), (1, 8000.0)]
    assert held.cpu.backend == f"{good.name} CPU, 2 threads"


def test_threads_that_save_little_are_left_to_others(monkeypatch):
    times(monkeypatch, 0.008, 0.0065)

    held = hold(make_bundle(), [Looked("a", choose_runtime().runtime, "")], cpus=2)

    assert held.cpu.threads == 1


def test_a_contest_that_takes_too_long_ends_with_those_that_were_tried(monkeypatch):
    used_s = [0.0, 0.0, 21.0, 21.0]
    monkeypatch.setattr(contest.time, "process_time", lambda: used_s.pop(0))
    good = choose_runtime().runtime

    held = hold(make_bundle(), [Looked("a", good, ""), Looked("b", good, "")])

    assert [one.fault for one in held.contestants] == [None, "not tried: it would take too long"]


def test_a_runtime_in_use_is_kept_unless_another_is_clearly_faster(monkeypatch):
    interpreter = choose_runtime().runtime.interpreter
    two = [Looked(name, Runtime(f"{name} 1", interpreter), "") for name in ("a", "b")]

    times(monkeypatch, 1.2e-6, 1.0e-6)
    assert hold(make_bundle(), two, preferred="a").cpu.package == "a"
    times(monkeypatch, 1.3e-6, 1.0e-6)
    assert hold(make_bundle(), two, preferred="a").cpu.package == "b"


def test_an_edge_tpu_wins_where_it_is_faster_and_is_kept_in_the_table_where_not():
    held = Contest("k", [Contestant("a CPU", "a", answer_us=300.0)])

    won, lost = (held.joined(Contestant("Edge TPU", EDGETPU, answer_us=us)) for us in (280.0, 320.0))
    out = lost.joined(Contestant("Edge TPU", EDGETPU, fault="not there"))

    assert (won.has_edgetpu_won, lost.has_edgetpu_won, out.has_edgetpu_won) == (True, False, False)
    assert won.cpu.package == lost.cpu.package == "a"
    assert len(out.contestants) == 2
    assert out.edgetpu.fault == "not there"


OLD = "BuildLabel(COMPILER=6.3.0 20170516,DATE=redacted,TIME=redacted), RuntimeVersion(14)"
NEW = "BuildLabel(COMPILER=12.2.0,DATE=redacted,TIME=redacted), RuntimeVersion(14)"


@pytest.mark.parametrize(
    ("version", "name", "fits"),
    [
        (OLD, "tflite-runtime 2.14.0", False),
        (OLD, "ai-edge-litert 2.3.0", False),
        (OLD, "tflite-runtime 2.11.1", True),
        (NEW, "tflite-runtime 2.14.0", True),
    ],
)
def test_a_libedgetpu_too_old_for_the_runtime_is_named(version, name, fits):
    fault = edgetpu.fault(Library("libedgetpu.so.1", version, ()), Runtime(name, breaks(ValueError())))

    assert (fault is None) is fits
    assert fits or "too old" in fault


def test_a_library_that_is_none_says_what_to_install():
    with pytest.raises(RuntimeUnavailableError, match="install libedgetpu1-std"):
        edgetpu.load_library("libnowhere.so.1")
    with pytest.raises(RuntimeUnavailableError, match="is no libedgetpu"):
        edgetpu.load_library("libc.so.6")


def test_the_other_pycoral_of_pypi_is_named(tmp_path, monkeypatch):
    (tmp_path / "pycoral").mkdir()
    (tmp_path / "pycoral" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert "another project" in edgetpu.pycoral_fault()
    assert not edgetpu.has_pycoral()

    (tmp_path / "pycoral" / "utils").mkdir()
    (tmp_path / "pycoral" / "utils" / "edgetpu.py").touch()
    assert edgetpu.pycoral_fault() is None
    assert edgetpu.has_pycoral()
