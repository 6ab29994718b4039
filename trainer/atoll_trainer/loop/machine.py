"""Everything that can happen to a model in the loop. An event that the table lacks is a bug.

*idle*: the release that is out does. *collecting*: there is a reason to learn anew, and what it learns
from is not there yet. *training*, *publishing*, *promoting*, *withdrawing*: a command is at work; the first
two are given up when they fail again and again, the last two are tried until they succeed. *canary*: a
share of the devices fetches and tries the release. *watching*: they run it, and are given time to find it
bad. *rollout*: it is for all, and they are followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a model is."""

    IDLE = "idle"
    COLLECTING = "collecting"
    TRAINING = "training"
    PUBLISHING = "publishing"
    CANARY = "canary"
    WATCHING = "watching"
    PROMOTING = "promoting"
    ROLLOUT = "rollout"
    WITHDRAWING = "withdrawing"


class Event(StrEnum):
    """What happens to it."""

    WANTED = "wanted"
    """There is a reason to learn anew."""
    CALLED_OFF = "called_off"
    """There is no more."""
    READY = "ready"
    """There is enough to learn from."""
    DONE = "done"
    """The command succeeded."""
    FAILED = "failed"
    """The command failed for good."""
    REFUSED = "refused"
    """The gate says that the release is no better."""
    SETTLED = "settled"
    """The devices have answered, and run it."""
    PASSED = "passed"
    """They still do, and find nothing wrong with it."""
    DISAPPOINTED = "disappointed"
    """Too many refuse it, it errs on them, they fell silent, or it cannot be brought to them."""
    PROMOTED = "promoted"
    """An operator let it be for all."""
    GONE = "gone"
    """The release is not available any more: somebody withdrew it."""


class IllegalTransitionError(RuntimeError):
    """An event came in a phase that does not know it: a bug."""


WORKING: Final = frozenset({Phase.TRAINING, Phase.PUBLISHING, Phase.PROMOTING, Phase.WITHDRAWING})
"""Phases in which a command is at work."""

OUT: Final = frozenset({Phase.CANARY, Phase.WATCHING, Phase.PROMOTING, Phase.ROLLOUT})
"""Phases in which a release of the loop is out."""

TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (Phase.IDLE, Event.WANTED): Phase.COLLECTING,
    (Phase.COLLECTING, Event.CALLED_OFF): Phase.IDLE,
    (Phase.COLLECTING, Event.READY): Phase.TRAINING,
    (Phase.TRAINING, Event.DONE): Phase.PUBLISHING,
    (Phase.TRAINING, Event.FAILED): Phase.IDLE,
    (Phase.PUBLISHING, Event.DONE): Phase.CANARY,
    (Phase.PUBLISHING, Event.REFUSED): Phase.IDLE,
    (Phase.PUBLISHING, Event.FAILED): Phase.IDLE,
    # It is signed: the next publication of any model brings it to devices, and nobody would watch it there.
    (Phase.PUBLISHING, Event.DISAPPOINTED): Phase.WITHDRAWING,
    (Phase.CANARY, Event.SETTLED): Phase.WATCHING,
    (Phase.CANARY, Event.DISAPPOINTED): Phase.WITHDRAWING,
    (Phase.CANARY, Event.PROMOTED): Phase.ROLLOUT,
    (Phase.WATCHING, Event.PASSED): Phase.PROMOTING,
    (Phase.WATCHING, Event.DISAPPOINTED): Phase.WITHDRAWING,
    (Phase.WATCHING, Event.PROMOTED): Phase.ROLLOUT,
    (Phase.PROMOTING, Event.DONE): Phase.ROLLOUT,
    (Phase.PROMOTING, Event.PROMOTED): Phase.ROLLOUT,
    (Phase.ROLLOUT, Event.SETTLED): Phase.IDLE,
    (Phase.ROLLOUT, Event.PROMOTED): Phase.ROLLOUT,
    (Phase.ROLLOUT, Event.DISAPPOINTED): Phase.WITHDRAWING,
    (Phase.WITHDRAWING, Event.DONE): Phase.IDLE,
    **{(phase, Event.GONE): Phase.IDLE for phase in OUT},
}


def advance(phase: Phase, event: Event) -> Phase:
    """Return the phase after ``event``.

    Raises:
        IllegalTransitionError: The phase does not know it.
    """
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.value} in phase {phase.value}") from None
