"""What the errors that agents report say of a release: what it promised, and whether others do better."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Final

from atoll_contract.drift import DriftReport, ErrorShift

UNFINISHED: Final = 1.5
"""Times the usual error: a release that promises more was learnt while the world still changed."""
_KNOWN: Final = 200
"""Labels after which a report tells what is expected of bundles that do not tell it, too."""
_COMPARABLE: Final = 100
"""Labels that the recent error is about: from so many on a release is held against others."""
_LARGER: Final = 1.25
"""Times the others' error, which may have moved by a quarter since it was reported."""
_FAR_LARGER: Final = 4.0
"""Times the others' error: for that a few labels are enough."""


def promised(reports: Iterable[DriftReport], release: int) -> float | None:
    """Return the error that a release promised, None where no report tells it."""
    for report in reports:
        if report.release == release and report.error is not None and report.error.labels >= _KNOWN:
            return report.error.expected
    return None


def of_others(
    reports: Iterable[DriftReport], release: int | None, doubted: int | None, before: float | None
) -> float | None:
    """Return what agents err that run another release and are not as they should be; None: most are.

    Args:
        reports: Of agents that are connected, on what they run.
        release: The one that is tried.
        doubted: A release that promised so large an error that to keep its promise says nothing.
        before: What was returned last, for as long as nobody tells.
    """
    as_they_should, beyond = 0, []
    for report in reports:
        error = report.error
        if report.release == release or error is None:
            continue
        if error.statistic > error.limit or report.release == doubted:
            beyond.append(error.mean)
        elif error.labels >= _KNOWN:
            as_they_should += 1
    if not beyond and not as_they_should:
        return before
    return statistics.median(beyond) if len(beyond) > as_they_should else None


def is_worse(error: ErrorShift, others: float | None, *, is_time_up: bool) -> bool | None:
    """Return whether a release that errs more than it promised is to go; None: too few labels to say.

    While the world goes on changing every release errs more than it promised, and going back would be
    worse. So it is held against what the others err that are beyond their limit too, if they are.
    """
    if others is None:
        return True
    if error.labels < _COMPARABLE and not is_time_up and error.mean <= _FAR_LARGER * others:
        return None
    return error.mean > _LARGER * others
