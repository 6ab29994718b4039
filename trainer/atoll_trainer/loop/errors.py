"""What the errors that agents report say of a release: what it promised, and whether others do better."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from atoll_contract.drift import DriftReport, ErrorShift

UNFINISHED: Final = 1.5
"""Times the usual error: a release that promises more was learnt while the world still changed."""
_KNOWN: Final = 200
"""Labels after which a report tells what is expected of bundles that do not tell it, too."""
_COMPARABLE: Final = 100
"""Labels that the recent error is about."""
_LARGER: Final = 1.25
"""Times the others' error, which may have moved by a quarter since it was reported."""
_FAR_LARGER: Final = 4.0
"""Times the others' error: for that a few labels are enough."""


@dataclass(frozen=True, slots=True)
class Others:
    """The agents that run another release.

    Attributes:
        beyond: What those err that are beyond their limit, the median; None: most are not.
    """

    beyond: float | None


def promised(reports: Iterable[DriftReport], release: int) -> float | None:
    """Return the error that a release promised, None where no report tells it."""
    for report in reports:
        if report.release == release and report.error is not None and report.error.labels >= _KNOWN:
            return report.error.expected
    return None


def of_others(reports: Iterable[DriftReport], release: int | None) -> Others | None:
    """Return what agents err that run another release than that one, None if nobody tells."""
    errors = [report.error for report in reports if report.release != release and report.error is not None]
    errors = [error for error in errors if error.labels >= _COMPARABLE]
    if not errors:
        return None
    beyond = [error.mean for error in errors if error.statistic > error.limit]
    return Others(statistics.median(beyond) if 2 * len(beyond) > len(errors) else None)


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
