"""What a bundle is run on: by the settings, the contest and what there is."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from support.bundles import make_bundle

from atoll_agent.ports import Accelerator
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor.loading import Loader, Wish
from atoll_contract.errors import AcceleratorLostError, BundleRejectedError, Reason
from atoll_infer import tuning
from atoll_infer.contest import EDGETPU, Contest, Contestant
from atoll_infer.runtime import TfliteModel, installed_runtimes

SHA = "ab" * 32
NO_BATCHES = 1.0
"""How long a batch takes that does not pay."""
RELEASE = Release("wear", 1, SHA, 1)
EITHER, DEMANDED, CPU = (
    Wish(accelerator) for accelerator in (Accelerator.AUTO, Accelerator.EDGETPU, Accelerator.CPU)
)


class OneBundle:
    """Implements what a loader needs of ``ports.SlotStore`` and ``ports.ContestStore``."""

    def __init__(self, bundle):
        self.bundle = bundle
        self.contest = None

    def read_bundle(self, _sha256):
        return self.bundle.pack()

    def read_contest(self, _sha256):
        return self.contest

    def write_contest(self, _sha256, content):
        self.contest = content


class Placed:
    """Implements ``ports.PlacedModel``: the CPU's model under another name."""

    is_degraded = False
    is_remote = True
    degradation = None
    backend = "Edge TPU /dev/apex_0"

    def __init__(self, twin: TfliteModel, error: Exception | None) -> None:
        self._twin, self._error = twin, error
        self.inputs, self.outputs, self.invoke = twin.inputs, twin.outputs, twin.invoke

    def wait_ready(self) -> None:
        if self._error is not None:
            raise self._error


class Shelf:
    """Implements ``ports.Accelerators``: one device.

    Attributes:
        missing: Why it cannot be used.
        error: What waiting for it raises.
    """

    states = ()

    def __init__(self):
        self.missing = None
        self.error = None
        self.placed = 0

    def fault(self, _path):
        return self.missing

    def place(self, _content, twin, check, _path):
        self.placed += 1
        check(twin)
        return Placed(twin, self.error)


class Desk:
    """A loader, its store and its device; ``seconds`` are what the next timings show, CPU first."""

    def __init__(self, monkeypatch, bundle=None, *, compiled=True):
        bundle = bundle or make_bundle(file="linear_int8")
        self.store = OneBundle(replace(bundle, model_edgetpu=b"compiled") if compiled else bundle)
        self.shelf = Shelf()
        self.loader = Loader(self.store, self.store, self.shelf, library="libedgetpu.so.1")
        self.seconds = []
        monkeypatch.setattr(tuning, "least_s", lambda work: (work(), self.seconds.pop(0))[1])

    def hold_contest(self, us=5000.0, **options) -> None:
        package = installed_runtimes()[0].split(" ")[0]
        row = Contestant("CPU", package, answer_us=us)
        self.loader.keep(SHA, msgspec.to_builtins(Contest(self.loader.key, [row], **options)))

    def load(self, wish, *seconds: float, may_wait=True):
        self.seconds = list(seconds)
        return self.loader.load(RELEASE, wish, may_wait=may_wait)

    @property
    def stored(self) -> Contest:
        return msgspec.json.decode(self.store.contest, type=Contest)


@pytest.fixture
def desk(monkeypatch) -> Desk:
    return Desk(monkeypatch)


def test_an_edge_tpu_that_is_faster_runs_the_release_and_the_table_says_so(desk):
    desk.hold_contest()

    predictor = desk.load(EITHER, 0.005, 0.0003)

    assert predictor.backend == "Edge TPU /dev/apex_0"
    assert predictor.why == "Edge TPU /dev/apex_0 300 µs; CPU 5000 µs"
    assert desk.stored.has_edgetpu_won
    assert predictor.answer_s >= 0.005


def test_an_edge_tpu_that_is_slower_does_not_and_the_table_says_so(desk):
    desk.hold_contest(us=200.0)

    predictor = desk.load(EITHER, 0.0002, NO_BATCHES, 0.0003)

    assert "CPU" in predictor.backend
    assert desk.stored.edgetpu.answer_us == 300.0


@pytest.mark.parametrize(("us", "has_won"), [(200.0, False), (5000.0, True)])
def test_the_figures_that_are_kept_decide_now_as_they_do_after_a_restart(desk, us, has_won):
    desk.hold_contest(us=us)

    now = desk.load(EITHER, 0.001, 0.0005)
    later = desk.load(EITHER, 0.001, may_wait=False)

    assert now.model.is_remote is later.model.is_remote is has_won


def test_one_that_the_settings_demand_runs_it_however_slow(desk):
    desk.hold_contest()

    assert desk.load(DEMANDED, 0.0002, NO_BATCHES, 0.0003).model.is_remote


def test_the_cpu_that_the_settings_demand_runs_it_and_the_device_is_left_alone(desk):
    predictor = desk.load(CPU, 0.005)

    assert not predictor.model.is_remote
    assert predictor.why.endswith("the settings demand the CPU")
    assert desk.shelf.placed == 0


def test_without_a_device_the_cpu_runs_it_and_says_why(desk):
    desk.shelf.missing = "an Edge TPU is not there; found: none"

    assert desk.load(EITHER, 0.005).why.endswith("an Edge TPU is not there; found: none")
    assert desk.shelf.placed == 0


def test_a_release_without_a_compiled_file_is_refused_where_the_edge_tpu_is_demanded(monkeypatch):
    desk = Desk(monkeypatch, compiled=False)

    with pytest.raises(BundleRejectedError, match=r"no model_edgetpu\.tflite"):
        desk.load(DEMANDED, 0.005)


def test_a_device_that_is_gone_refuses_no_release(desk):
    desk.shelf.error = AcceleratorLostError("unplugged")

    assert desk.load(DEMANDED, 0.005).model.is_remote
    assert not desk.load(EITHER, 0.005).model.is_remote


def test_a_model_that_the_device_does_not_run_right_is_refused_only_where_it_is_demanded(desk):
    desk.hold_contest()
    desk.shelf.error = BundleRejectedError("other outputs", Reason.GOLDEN_MISMATCH)

    assert not desk.load(EITHER, 0.005).model.is_remote
    assert desk.stored.edgetpu.fault == "other outputs"
    with pytest.raises(BundleRejectedError, match="other outputs"):
        desk.load(DEMANDED, 0.005)


def test_after_a_restart_the_winner_runs_it_and_nothing_is_waited_for(desk):
    desk.hold_contest()
    desk.load(EITHER, 0.005, 0.0003)
    desk.shelf.error = RuntimeError("waited")

    assert desk.load(EITHER, 0.005, may_wait=False).model.is_remote
    assert not desk.loader.is_unsettled(SHA)


def test_a_champion_without_a_contest_runs_and_is_compared_later(desk):
    predictor = desk.load(EITHER, 0.005, may_wait=False)

    assert predictor.why == "not compared with others yet"
    desk.hold_contest()
    desk.load(EITHER, 0.005, 0.0003)
    assert desk.loader.is_unsettled(SHA)
    desk.loader.settle(SHA)
    assert not desk.loader.is_unsettled(SHA)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"{",
        msgspec.json.encode(Contest("installed otherwise", [Contestant("x", EDGETPU)])),
    ],
)
def test_a_contest_that_is_damaged_or_of_other_versions_counts_for_nothing(desk, content):
    desk.store.contest = content

    assert not desk.loader.has_contest(SHA)
    assert not desk.load(EITHER, 0.005, may_wait=False).model.is_remote


def test_a_runtime_that_won_and_does_not_work_any_more_is_replaced(desk):
    row = Contestant("gone CPU", "gone", answer_us=1.0)
    desk.loader.keep(SHA, msgspec.to_builtins(Contest(desk.loader.key, [row])))

    assert desk.load(CPU, 0.005).why.startswith("gone is not installed")
