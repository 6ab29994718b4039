"""Everything that can happen to a release on a device, as one table.

A release is announced by signed metadata, fetched in chunks, verified (digest, limits, manifest,
does it fit the stream), tried on its golden vectors in a child process, and loaded. If there is a
champion, the release first answers the same live windows in shadow, where nobody hears it, and is
then heard on probation, where the champion waits to come back; only then is it the champion itself.
The champion before it answers all the time until the probation.

Every busy phase has two failure edges. ``INTERRUPTED`` means that surroundings failed (broker,
disk, a kill in between): the release stays announced and is tried again. ``REFUSED`` means that the
bundle itself is no good here: its digest is remembered, and only another release helps. Events that
the table lacks are bugs.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where the release that was announced last stands."""

    IDLE = "idle"
    ANNOUNCED = "announced"
    FETCHING = "fetching"
    VERIFYING = "verifying"
    SELF_TEST = "self_test"
    ACTIVATING = "activating"
    SHADOW = "shadow"
    PROBATION = "probation"
    CHAMPION = "champion"
    REFUSED = "refused"


class Event(StrEnum):
    """What happens to it."""

    ANNOUNCED = "announced"
    WITHDRAWN = "withdrawn"
    FETCH_STARTED = "fetch_started"
    FETCHED = "fetched"
    VERIFIED = "verified"
    SELF_TEST_PASSED = "self_test_passed"
    SHADOW_BEGUN = "shadow_begun"
    SHADOW_PASSED = "shadow_passed"
    ACTIVATED = "activated"
    INTERRUPTED = "interrupted"
    REFUSED = "refused"


LOADED: Final = frozenset({Phase.ACTIVATING, Phase.SHADOW, Phase.PROBATION})
"""Phases in which the agent's own process holds the release, and may end by it."""

BUSY: Final = frozenset({Phase.FETCHING, Phase.VERIFYING, Phase.SELF_TEST}) | LOADED
"""Phases in which work is under way; a restart in one of them counts as an interruption."""

TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    # At rest: a release comes.
    (Phase.IDLE, Event.ANNOUNCED): Phase.ANNOUNCED,
    (Phase.CHAMPION, Event.ANNOUNCED): Phase.ANNOUNCED,
    (Phase.REFUSED, Event.ANNOUNCED): Phase.ANNOUNCED,
    # While it waits, a newer one may take its place, or it is withdrawn.
    (Phase.ANNOUNCED, Event.ANNOUNCED): Phase.ANNOUNCED,
    (Phase.ANNOUNCED, Event.WITHDRAWN): Phase.IDLE,
    # The way to the champion.
    (Phase.ANNOUNCED, Event.FETCH_STARTED): Phase.FETCHING,
    (Phase.FETCHING, Event.FETCHED): Phase.VERIFYING,
    (Phase.VERIFYING, Event.VERIFIED): Phase.SELF_TEST,
    (Phase.SELF_TEST, Event.SELF_TEST_PASSED): Phase.ACTIVATING,
    (Phase.ACTIVATING, Event.SHADOW_BEGUN): Phase.SHADOW,
    (Phase.SHADOW, Event.SHADOW_PASSED): Phase.PROBATION,
    (Phase.PROBATION, Event.ACTIVATED): Phase.CHAMPION,
    # There is no champion to compare with and to go back to, or the release asks for no trial.
    (Phase.ACTIVATING, Event.ACTIVATED): Phase.CHAMPION,
    # Surroundings failed: again, later. What is on disk already is not fetched anew.
    (Phase.FETCHING, Event.INTERRUPTED): Phase.ANNOUNCED,
    (Phase.VERIFYING, Event.INTERRUPTED): Phase.ANNOUNCED,
    (Phase.SELF_TEST, Event.INTERRUPTED): Phase.ANNOUNCED,
    (Phase.ACTIVATING, Event.INTERRUPTED): Phase.ANNOUNCED,
    (Phase.SHADOW, Event.INTERRUPTED): Phase.ANNOUNCED,
    (Phase.PROBATION, Event.INTERRUPTED): Phase.ANNOUNCED,
    # The bundle is no good here. The champion never stopped, or is heard again from the next reading on.
    (Phase.FETCHING, Event.REFUSED): Phase.REFUSED,
    (Phase.VERIFYING, Event.REFUSED): Phase.REFUSED,
    (Phase.SELF_TEST, Event.REFUSED): Phase.REFUSED,
    (Phase.ACTIVATING, Event.REFUSED): Phase.REFUSED,
    (Phase.SHADOW, Event.REFUSED): Phase.REFUSED,
    (Phase.PROBATION, Event.REFUSED): Phase.REFUSED,
}


class IllegalTransitionError(RuntimeError):
    """An event came in a phase that does not know it: a bug."""


def advance(phase: Phase, event: Event) -> Phase:
    """Return the phase after ``event``.

    Raises:
        IllegalTransitionError: The table has no such row.
    """
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise IllegalTransitionError(f"{event.value} in phase {phase.value}") from None
