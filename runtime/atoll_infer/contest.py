"""Which backend answers a release fastest on this device, and gives its golden outputs.

Nothing is believed of a runtime but what it shows: which one is faster depends on the model, its types
and the machine. A contest is held in a child process, since all runtimes are loaded for it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import msgspec

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, RuntimeUnavailableError
from atoll_infer import golden, tuning
from atoll_infer.runtime import Looked, ModelFailedError, Runtime

FORMAT: Final = 1
EDGETPU: Final = "edgetpu"
_MOST_THREADS: Final = 4
_THREADS_FROM_S: Final = tuning.SLOW_S
"""A faster model gains nothing from a second thread, and can lose much."""
_THREADS_PAY: Final = 0.75
"""More threads take cores from others: they have to save a quarter of the time."""
_BUDGET_S: Final = 40.0
"""Processor time of a contest: what would take longer than what is left of it does not take part."""
_TIE: Final = 1.25
"""A runtime in use already is kept unless another is faster by this factor: each takes memory."""


class Contestant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One backend, and how it fared.

    Attributes:
        backend: What it is, for people.
        package: The runtime's package, or ``edgetpu``.
        threads: Threads that work on one answer.
        answer_us: Least time of one answer; None: it gave none that counts.
        fault: Why it is out, for people.
    """

    backend: str
    package: str
    threads: int = 1
    answer_us: float | None = None
    fault: str | None = None


class Contest(msgspec.Struct, frozen=True):
    """How all backends fared on one release.

    Attributes:
        key: What the outcome depends on, besides the release.
        contestants: All that took part, the chosen one first.
        format: Version of the form of this file.
    """

    key: str
    contestants: list[Contestant]
    format: int = FORMAT

    @property
    def cpu(self) -> Contestant | None:
        """The best of the CPU, if any gave the golden outputs."""
        fit = (one for one in self.contestants if one.package != EDGETPU and one.answer_us is not None)
        return next(fit, None)

    @property
    def edgetpu(self) -> Contestant | None:
        """The Edge TPU, if it took part."""
        return next((one for one in self.contestants if one.package == EDGETPU), None)

    @property
    def has_edgetpu_won(self) -> bool:
        """Whether the Edge TPU is the chosen one."""
        return self.contestants[0].package == EDGETPU

    @property
    def why(self) -> str:
        """The table in one line, for people."""
        return "; ".join(map(_shown, self.contestants))

    def joined(self, newcomer: Contestant) -> Contest:
        """Return the contest with ``newcomer``, which goes first if it is the fastest."""
        others = [one for one in self.contestants if one.package != newcomer.package]
        best_us = min((one.answer_us for one in others if one.answer_us is not None), default=None)
        is_first = newcomer.answer_us is not None and (best_us is None or newcomer.answer_us < best_us)
        ranked = [newcomer, *others] if is_first else [*others, newcomer]
        return msgspec.structs.replace(self, contestants=ranked)


def hold(bundle: Bundle, looked: Sequence[Looked], *, key: str, cpus: int, preferred: str | None) -> Contest:
    """Let every runtime answer the golden vectors of ``bundle`` on the CPU.

    Args:
        bundle: The release.
        looked: The runtimes, and what was looked for and does not work.
        key: What the outcome depends on, besides the release.
        cpus: CPUs that this process may use.
        preferred: Package of a runtime that is in use already.

    Raises:
        BundleRejectedError: None gives the golden outputs; the reason is that of the first.
        RuntimeUnavailableError: None works here at all, which says nothing about the release.
    """
    found: list[Contestant] = []
    failures: list[BundleRejectedError] = []
    started_s, cost_s = time.process_time(), 0.0
    for one in looked:
        if one.runtime is None:
            found.append(Contestant(one.package, one.package, fault=one.why))
            continue
        threads = 1
        while threads <= min(cpus, _MOST_THREADS):
            began_s = time.process_time()
            if began_s - started_s + cost_s > _BUDGET_S:
                backend = f"{one.runtime.name} CPU"
                found.append(
                    Contestant(backend, one.package, threads, fault="not tried: it would take too long")
                )
                break
            try:
                contestant = _tried(bundle, one.runtime, threads)
            except BundleRejectedError as error:
                failures.append(error)
                backend = f"{one.runtime.name} CPU"
                contestant = Contestant(backend, one.package, threads, fault=error.detail)
            found.append(contestant)
            # Threads that wait for each other use their time up too.
            cost_s = max(cost_s, 2 * (time.process_time() - began_s))
            if contestant.answer_us is None or contestant.answer_us < _THREADS_FROM_S * 1e6:
                break
            threads *= 2
    if all(one.answer_us is None for one in found):
        if failures:
            raise failures[0]
        faults = "; ".join(_shown(one) for one in found) or "none is installed"
        raise RuntimeUnavailableError(f"no inference runtime works here: {faults}")
    best = min(found, key=lambda one: _weight(one, preferred))
    rest = sorted((one for one in found if one is not best), key=lambda one: one.answer_us or float("inf"))
    return Contest(key, [best, *rest])


def _tried(bundle: Bundle, runtime: Runtime, threads: int) -> Contestant:
    predictor = golden.self_test(bundle, runtime, threads=threads)
    samples = golden.windows(bundle.golden, bundle.manifest)[:1]
    try:
        answer_s = tuning.least_s(lambda: predictor.invoke(samples))
    except ModelFailedError as error:  # it passed just now
        raise BundleRejectedError(error.detail, error.reason) from error
    return Contestant(predictor.backend, runtime.package, threads, round(answer_s * 1e6, 1))


def _weight(one: Contestant, preferred: str | None) -> float:
    if one.answer_us is None:
        return float("inf")
    return one.answer_us * (1.0 if one.package == preferred else _TIE) / _THREADS_PAY ** (one.threads > 1)


def _shown(one: Contestant) -> str:
    if one.answer_us is None:
        return f"{one.backend}: {one.fault}"
    return f"{one.backend} {one.answer_us:.4g} µs"
