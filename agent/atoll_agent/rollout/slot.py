"""The slot of one model: its champion, the release on its way, and the releases it refused.

A slot is a value; every change makes a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from atoll_agent.rollout.machine import BUSY, LOADED, Event, Phase, advance
from atoll_agent.rollout.release import Release
from atoll_contract.errors import Reason

MAX_BAD: Final = 32
"""Refused digests that are remembered; the oldest goes first."""

MAX_CRASHES: Final = 2
"""Ends of the agent in a row, each soon after it loaded the release, after which that is refused: a damaged
model file may pass its self-test by luck and then end the agent each time that it is used."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A release that this device refused or could not get, and why."""

    release: int
    sha256: str
    reason: Reason
    detail: str
    time_ms: float


@dataclass(frozen=True, slots=True)
class Start:
    """When a device begins to fetch a release: drawn once, so that a restart draws nothing anew.

    Attributes:
        sha256: Digest of the release that it was drawn for.
        time_ms: When, on this device's clock.
    """

    sha256: str
    time_ms: float


@dataclass(frozen=True, slots=True)
class Slot:
    """All that must survive a restart about one model.

    Attributes:
        model: Its id.
        phase: Where the release announced last stands.
        challenger: That release, unless it is the champion.
        champion: The release that answers.
        bad: Releases that are not tried again.
        failure: Why the last attempt failed or was refused; cleared by the next success.
        crashes: Times in a row that the agent ended soon after it had loaded the challenger.
        has_settled: The agent has lived with the challenger for a while since it loaded it: if it
            ends now, that is no crash.
        start: When the release announced last is fetched.
        is_withdrawn: The champion has no place in the signed metadata any more, and goes on
            answering since nothing else is there.
    """

    model: str
    phase: Phase = Phase.IDLE
    challenger: Release | None = None
    champion: Release | None = None
    bad: tuple[Refused, ...] = ()
    failure: Refused | None = None
    crashes: int = 0
    has_settled: bool = False
    start: Start | None = None
    is_withdrawn: bool = False

    @property
    def bad_digests(self) -> frozenset[str]:
        """Digests that are not tried again."""
        return frozenset(refused.sha256 for refused in self.bad)

    def aimed(self, wanted: Release | None, start_ms: float = 0.0) -> Slot:
        """Return the slot after a refresh said which release this device should run.

        The release on its way may get other terms at any time, and another one only take its place
        when no work on it is under way. ``start_ms`` is when to fetch it, unless that was drawn for
        this digest before.
        """
        if wanted is not None and wanted.sha256 in self.bad_digests:
            return self  # refused after the refresh had asked
        if self.phase in BUSY and wanted is not None and wanted.is_same(self.challenger):
            return replace(self, challenger=wanted)
        if wanted is None:
            return replace(self._without_challenger(), is_withdrawn=self.champion is not None)
        if self.champion is not None and wanted.sha256 == self.champion.sha256:
            return replace(self._without_challenger(), is_withdrawn=False)
        start = self.start
        if start is None or start.sha256 != wanted.sha256:
            start = Start(wanted.sha256, start_ms)
        return replace(
            self,
            phase=advance(self.phase, Event.ANNOUNCED),
            challenger=wanted,
            crashes=self.crashes if wanted.is_same(self.challenger) else 0,
            start=start,
            is_withdrawn=False,
        )

    def wait_s(self, now_ms: float) -> float:
        """Return how long the release that is announced has to wait still before it is fetched.

        Never longer than what is signed for it, whatever the clock does or did.
        """
        if self.challenger is None or self.start is None:
            return 0.0
        return min(max((self.start.time_ms - now_ms) / 1e3, 0.0), float(self.challenger.max_delay_s))

    def without_wait(self, now_ms: float) -> Slot:
        """Return the slot with the release that is announced to be fetched now."""
        if self.challenger is None:
            raise RuntimeError("no release waits")
        return replace(self, start=Start(self.challenger.sha256, now_ms))

    def advanced(self, event: Event) -> Slot:
        """Return the slot after ``event`` on the way up."""
        phase = advance(self.phase, event)
        if phase is Phase.CHAMPION:
            return replace(
                self,
                phase=phase,
                champion=self.challenger,
                challenger=None,
                failure=None,
                crashes=0,
                has_settled=False,
            )
        return replace(self, phase=phase)

    def interrupted(self, reason: Reason, detail: str, time_ms: float) -> Slot:
        """Return the slot after its surroundings failed: the release will be tried again."""
        return replace(self.resumed(), failure=self._failure(reason, detail, time_ms))

    def refused(self, reason: Reason, detail: str, time_ms: float) -> Slot:
        """Return the slot after the bundle was found to be no good here."""
        failure = self._failure(reason, detail, time_ms)
        return replace(
            self,
            phase=advance(self.phase, Event.REFUSED),
            challenger=None,
            bad=(*self.bad, failure)[-MAX_BAD:],
            failure=failure,
            has_settled=False,
        )

    def restarted(self, time_ms: float) -> Slot:
        """Return the slot as it starts after a restart of the agent."""
        if self.phase not in LOADED or self.has_settled:
            return self.resumed()
        if self.crashes + 1 >= MAX_CRASHES:
            detail = f"the agent ended {MAX_CRASHES} times soon after it had loaded this release"
            return self.refused(Reason.ACTIVATION_CRASHED, detail, time_ms)
        return replace(self.resumed(), crashes=self.crashes + 1)

    def resumed(self) -> Slot:
        """Return the slot after work on it stopped short: the release will be tried again."""
        if self.phase in BUSY:
            return replace(self, phase=advance(self.phase, Event.INTERRUPTED), has_settled=False)
        return self

    def settled(self) -> Slot:
        """Return the slot after the agent has lived for a while with the challenger that it loaded."""
        return replace(self, crashes=0, has_settled=True)

    def without_champion(self, reason: Reason, detail: str, time_ms: float) -> Slot:
        """Return the slot after its champion could not start: it is damaged, or fits no more."""
        failure = self.failure
        if self.champion is not None:
            failure = Refused(self.champion.release, self.champion.sha256, reason, detail[:500], time_ms)
        phase = Phase.IDLE if self.phase is Phase.CHAMPION else self.phase
        return replace(self, champion=None, phase=phase, failure=failure)

    def forgiven(self) -> Slot:
        """Return the slot with nothing remembered as bad: settings or versions have changed."""
        return replace(self, bad=(), phase=Phase.IDLE if self.phase is Phase.REFUSED else self.phase)

    def _without_challenger(self) -> Slot:
        if self.phase is not Phase.ANNOUNCED:
            return self
        return replace(self, phase=advance(self.phase, Event.WITHDRAWN), challenger=None)

    def _failure(self, reason: Reason, detail: str, time_ms: float) -> Refused:
        if self.challenger is None:
            raise RuntimeError("a failure without a release on its way")
        return Refused(self.challenger.release, self.challenger.sha256, reason, detail[:500], time_ms)
