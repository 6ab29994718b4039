"""Models on the stand-in for an Edge TPU, without an agent around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from support import edgetpu_stub
from support.bundles import make_bundle
from support.sysfs import Sysfs

from atoll_agent.adapters.edgetpu_care import Care
from atoll_agent.adapters.edgetpus import EdgeTpus, TwinnedModel
from atoll_contract.bundle import Bundle
from atoll_contract.messages import Quality
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Model, choose_runtime


def compiled_bundle(**options) -> Bundle:
    """Return a bundle that has its model for both."""
    bundle = make_bundle(file="linear_int8", **options)
    return replace(bundle, model_edgetpu=edgetpu_stub.fold(bundle.model))


class TpuBench:
    """Sticks and modules in a sysfs of their own, and what runs on them.

    Attributes:
        control: What this file says happens to the devices; see ``edgetpu_stub.c``.
        changes: How often one came or went.
        details: What was told of all each time, one after another: a state may not last for long.
    """

    def __init__(self, folder: Path, **care) -> None:
        folder.mkdir(exist_ok=True)
        self.sysfs = Sysfs(folder)
        self.control = folder / "control"
        self.control.write_text("")
        self.changes = 0
        self.details: list[str] = []
        self._changed = threading.Condition()
        options = {"deadline_s": 10.0, "return_after_s": 0.5, "restarts_per_minute": 100} | care
        self.tpus = EdgeTpus(Care(library=str(edgetpu_stub.build()), sysfs=self.sysfs.root, **options))
        self.tpus.on_change = self._count

    def place(
        self, bundle: Bundle, path: str | None = None, check: Callable[[Model], None] | None = None
    ) -> Predictor:
        """Return the model of ``bundle`` on a device; without ``check`` its golden outputs are looked at."""

        def play(model: Model) -> None:
            golden.play(bundle.golden, Predictor(bundle.manifest, model))

        twin = choose_runtime().runtime.load(bundle.model)
        return Predictor(bundle.manifest, self.tpus.place(bundle.model_edgetpu, twin, check or play, path))

    def ready(self, bundle: Bundle | None = None, path: str | None = None) -> Predictor:
        """Return a model that runs on a device already."""
        predictor = self.place(bundle or compiled_bundle(), path)
        assert isinstance(predictor.model, TwinnedModel)
        predictor.model.wait_ready()
        assert not is_degraded(predictor)
        return predictor

    def wait_state(self, fact: Callable[[object], object], timeout_s: float = 20.0) -> None:
        self.wait_states(lambda states: fact(states[0]), timeout_s)

    def wait_states(self, fact: Callable[[list[object]], object], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not fact(self.tpus.states):
                assert time.monotonic() < deadline, self.tpus.states
                self._changed.wait(0.02)  # of some changes nobody is told

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.tpus.states[0].counts)

    def _count(self) -> None:
        with self._changed:
            self.changes += 1
            self.details += [state.detail for state in self.tpus.states]
            self._changed.notify_all()


def is_degraded(predictor: Predictor, x: float = 3.0) -> bool:
    """Whether the CPU answers, which must be right."""
    (answer,) = predictor.answers(np.full((1, 1, 1), x, np.float32))
    assert abs(answer.value - (2 * x + 1)) < 0.4
    return Quality.DEGRADED in answer.quality


def until(predictor: Predictor, *, degraded: bool, timeout_s: float = 30.0) -> float:
    """Let it answer until the CPU does, or the device again; return the longest time of an answer."""
    deadline, slowest_s = time.monotonic() + timeout_s, 0.0
    while True:
        started = time.monotonic()
        found = is_degraded(predictor)
        slowest_s = max(slowest_s, time.monotonic() - started)
        if found is degraded:
            return slowest_s
        assert time.monotonic() < deadline, predictor.model.degradation
