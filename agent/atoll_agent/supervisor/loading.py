"""How a bundle becomes a predictor: on the backend that won its contest, or that the settings demand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from atoll_agent.ports import Accelerator, Accelerators, ContestStore, PlacedModel, SlotStore
from atoll_agent.rollout.release import Release
from atoll_contract.bundle import Bundle
from atoll_contract.errors import AcceleratorLostError, BundleRejectedError, Reason, RuntimeUnavailableError
from atoll_contract.reference import Reference
from atoll_infer import golden, tuning
from atoll_infer.contest import EDGETPU, FORMAT, Contest, Contestant
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Model, Runtime, choose_runtime, installed_runtimes, load_runtime

log = structlog.get_logger()

_DECODER: Final = msgspec.json.Decoder(Contest)
_MAX_HELD: Final = 512


@dataclass(frozen=True, slots=True)
class Wish:
    """What the settings want of one model's backend.

    Attributes:
        accelerator: What it may run on.
        device: Path of the Edge TPU; None: any.
    """

    accelerator: Accelerator = Accelerator.AUTO
    device: str | None = None


ANYTHING: Final = Wish()


def require_compiled(bundle: Bundle, wish: Wish) -> None:
    """Require that a bundle has a model for the Edge TPU, where the settings demand that.

    Raises:
        BundleRejectedError: It has none.
    """
    if bundle.model_edgetpu is None and wish.accelerator is Accelerator.EDGETPU:
        message = "the bundle has no model_edgetpu.tflite, and the settings demand the Edge TPU"
        raise BundleRejectedError(message, Reason.MODEL_NOT_COMPILED)


class Runtimes:
    """The runtimes in use: each is loaded when it is first needed, and stays."""

    def __init__(self) -> None:
        self._loaded: dict[str, Runtime] = {}

    @property
    def preferred(self) -> str | None:
        """Package of one that is in use."""
        return next(iter(self._loaded), None)

    def any(self) -> Runtime:
        """Return one that is in use, or else the first that works.

        Raises:
            RuntimeUnavailableError: None does.
        """
        if self.preferred is None:
            runtime = choose_runtime().runtime
            self._loaded[runtime.package] = runtime
        return next(iter(self._loaded.values()))

    def get(self, package: str) -> Runtime:
        """Return the runtime in ``package``.

        Raises:
            RuntimeUnavailableError: It does not work any more.
        """
        if package not in self._loaded:
            self._loaded[package] = load_runtime(package)
        return self._loaded[package]


class Loader:
    """Loads bundles that have passed their self-test in a child before.

    Attributes:
        runtimes: The runtimes in use.
    """

    def __init__(
        self, store: SlotStore, contests: ContestStore, accelerators: Accelerators, *, library: str
    ) -> None:
        self.runtimes = Runtimes()
        self._store = store
        self._contests = contests
        self._accelerators = accelerators
        cpus = len(os.sched_getaffinity(0))
        self.key = "; ".join([*installed_runtimes(), f"{cpus} CPUs", library])
        self._held: dict[str, Contest] = {}
        self._unsettled: set[str] = set()

    def keep(self, sha256: str, contest: Mapping[str, Any]) -> None:
        """Keep the outcome of a contest on the bundle with this digest."""
        self._keep(sha256, msgspec.convert(contest, Contest))

    def is_unsettled(self, sha256: str) -> bool:
        """Whether the bundle was loaded without knowing which backend is the best for it."""
        return sha256 in self._unsettled

    def settle(self, sha256: str) -> None:
        """Note that the bundle runs on the backend that is the best for it."""
        self._unsettled.discard(sha256)

    def has_contest(self, sha256: str) -> bool:
        """Whether there was a contest on the bundle, by what is installed now."""
        return self._contest(sha256) is not None

    def load(self, release: Release, wish: Wish, *, may_wait: bool) -> Predictor:
        """Read, check and load a bundle.

        Args:
            release: Which.
            wish: What it may run on.
            may_wait: Whether an Edge TPU is waited for, and timed; otherwise the CPU answers until it is
                there.

        Raises:
            StorageError: It cannot be read.
            BundleRejectedError: It is no good after all.
            RuntimeUnavailableError: No runtime works.
        """
        bundle = Bundle.unpack(self._store.read_bundle(release.sha256))
        predictor = self._placed(release, bundle, wish, may_wait=may_wait)
        if bundle.reference is not None:
            try:
                predictor.reference = Reference.decode(bundle.reference)
            except BundleRejectedError as error:  # drift is told, and decides nothing here
                predictor.reference_fault = error.detail
                log.warning("reference.unusable", model=bundle.manifest.model, detail=error.detail)
        return predictor

    def _placed(self, release: Release, bundle: Bundle, wish: Wish, *, may_wait: bool) -> Predictor:
        contest = self._contest(release.sha256)
        if contest is None:
            self._unsettled.add(release.sha256)
        elif not may_wait:
            self._unsettled.discard(release.sha256)
        on_cpu = self._on_cpu(bundle, contest)
        require_compiled(bundle, wish)
        if bundle.model_edgetpu is None:
            return on_cpu
        if wish.accelerator is Accelerator.CPU:
            on_cpu.why += "; the settings demand the CPU"
            return on_cpu
        is_demanded = wish.accelerator is Accelerator.EDGETPU
        if not is_demanded:
            fault = self._accelerators.fault(wish.device)
            if fault is not None:
                on_cpu.why += f"; {fault}"
                return on_cpu
            if not may_wait and (contest is None or not contest.has_edgetpu_won):
                if contest is None or contest.edgetpu is None or contest.edgetpu.answer_us is None:
                    self._unsettled.add(release.sha256)
                return on_cpu
        return self._on_edgetpu(release.sha256, bundle, on_cpu, wish, contest, may_wait=may_wait)

    def _on_cpu(self, bundle: Bundle, contest: Contest | None) -> Predictor:
        best = None if contest is None else contest.cpu
        threads, why = 1, "not compared with others yet"
        runtime = None
        if contest is not None and best is not None:
            threads, why = best.threads, contest.why
            try:
                runtime = self.runtimes.get(best.package)
            except RuntimeUnavailableError as error:
                why = error.detail
        if runtime is None:
            runtime = self.runtimes.any()
        predictor = golden.self_test(bundle, runtime, threads=threads)
        tuning.tune(predictor, bundle, runtime)
        predictor.why = why
        return predictor

    def _on_edgetpu(
        self,
        sha256: str,
        bundle: Bundle,
        on_cpu: Predictor,
        wish: Wish,
        contest: Contest | None,
        *,
        may_wait: bool,
    ) -> Predictor:
        def check(model: Model) -> None:
            golden.play(bundle.golden, Predictor(bundle.manifest, model))

        is_demanded = wish.accelerator is Accelerator.EDGETPU
        placed = self._accelerators.place(bundle.model_edgetpu or b"", on_cpu.model, check, wish.device)
        predictor = Predictor(bundle.manifest, placed)
        # What waits for its thread is limited by what the slower of the two can do.
        predictor.answer_s = max(on_cpu.answer_s, tuning.SLOW_S)
        predictor.why = "the settings demand the Edge TPU" if is_demanded else on_cpu.why
        if not may_wait:
            return predictor
        timed = self._timed(bundle, predictor, placed, is_demanded=is_demanded)
        has_won = timed.answer_us is not None and timed.answer_us < on_cpu.answer_s * 1e6
        if contest is not None:  # by which the next start chooses
            contest = contest.joined(timed)
            self._keep(sha256, contest)
            has_won = contest.has_edgetpu_won
        if is_demanded or has_won:
            predictor.why = contest.why if contest is not None and has_won else predictor.why
            return predictor
        on_cpu.why = contest.why if contest is not None else on_cpu.why
        return on_cpu

    def _timed(
        self, bundle: Bundle, predictor: Predictor, placed: PlacedModel, *, is_demanded: bool
    ) -> Contestant:
        """Let the Edge TPU take part in the contest.

        Raises:
            BundleRejectedError: It is demanded, and does not give the golden outputs.
        """
        try:
            placed.wait_ready()
            samples = golden.windows(bundle.golden, bundle.manifest)[:1]
            answer_us = round(tuning.least_s(lambda: predictor.invoke(samples)) * 1e6, 1)
        except BundleRejectedError as error:
            if is_demanded:
                raise
            return Contestant("Edge TPU", EDGETPU, fault=error.detail)
        except AcceleratorLostError as error:
            log.warning("accelerator.unready", model=predictor.manifest.model, detail=error.detail)
            return Contestant("Edge TPU", EDGETPU, fault=error.detail)
        return Contestant(predictor.backend, EDGETPU, 1, None if placed.is_degraded else answer_us)

    def _contest(self, sha256: str) -> Contest | None:
        """Return the contest on a bundle, if it was held under what is installed now."""
        contest = self._held.get(sha256)
        if contest is None:
            content = self._contests.read_contest(sha256)
            try:
                contest = None if content is None else _DECODER.decode(content)
            except msgspec.MsgspecError:
                contest = None  # held anew
        usable = contest is not None and (contest.key, contest.format) == (self.key, FORMAT)
        return contest if usable and contest is not None and contest.contestants else None

    def _keep(self, sha256: str, contest: Contest) -> None:
        self._held.pop(sha256, None)
        self._held[sha256] = contest
        while len(self._held) > _MAX_HELD:
            self._held.pop(next(iter(self._held)))
        self._contests.write_contest(sha256, msgspec.json.encode(contest))
