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
"""Ends of the agent that a release on its way was loaded at, after which that is refused: a damaged model
file may pass its self-test by luck and then end the agent each time that it is used."""
MAX_REBOOTS: Final = 5
"""The same where the whole machine went down: mains that fail are likelier than a model that does that."""
MAX_DOUBTS: Final = 10
"""Self-tests in a row that did not end, for whatever reason, after which the bundle is to blame."""
MAX_CRASHES_PROVEN: Final = 5
"""Crashes in a row, each soon after the start, after which a champion goes that has worked before."""
MAX_KILLS: Final = 10
"""Ends in a row by the kernel, who kills who takes too much memory, after which a champion goes with which
the agent has never lived: another program may have taken the memory a few times."""


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
        crashes: Times that the agent ended by the challenger, as far as anybody can tell.
        doubts: Times in a row that the challenger's self-test did not end.
        has_settled: The agent has lived with the challenger for a while since it loaded it: a kill is
            no doing of it any more.
        is_blamed: The end before this start was counted as the challenger's.
        champion_crashes: Times in a row that the agent crashed soon after it had started with the champion.
        champion_kills: Times in a row that the kernel ended it for memory before it had lived with the
            champion.
        is_proven: The agent has lived with the champion for a while once.
        start: When the release announced last is fetched.
        is_withdrawn: The champion has no place in the signed metadata any more, and goes on
            answering until the release before it is there, if there is one.
    """

    model: str
    phase: Phase = Phase.IDLE
    challenger: Release | None = None
    champion: Release | None = None
    bad: tuple[Refused, ...] = ()
    failure: Refused | None = None
    crashes: int = 0
    doubts: int = 0
    has_settled: bool = False
    is_blamed: bool = False
    champion_crashes: int = 0
    champion_kills: int = 0
    is_proven: bool = False
    start: Start | None = None
    is_withdrawn: bool = False

    @property
    def bad_digests(self) -> frozenset[str]:
        """Digests that are not tried again."""
        return frozenset(refused.sha256 for refused in self.bad)

    @property
    def goes_back(self) -> bool:
        """Whether the release on its way is older than the champion: that is not for this device any more."""
        return self.challenger is not None and self._is_before_champion(self.challenger)

    def aimed(self, wanted: Release | None, start_ms: float = 0.0) -> Slot:
        """Return the slot after a refresh said which release this device should run.

        The release on its way may get other terms at any time, and another one only take its place
        when no work on it is under way. ``start_ms`` is when to fetch it, unless that was drawn for
        this digest before; the way back is gone at once.
        """
        if wanted is not None and wanted.sha256 in self.bad_digests:
            return self  # refused after the refresh had asked
        if self.phase in BUSY and wanted is not None and wanted.is_same(self.challenger):
            return replace(self, challenger=wanted)
        if wanted is None:
            return replace(self._without_challenger(), is_withdrawn=self.champion is not None)
        if self.champion is not None and wanted.sha256 == self.champion.sha256:
            return replace(self._without_challenger(), is_withdrawn=False)
        start, is_withdrawn = self.start, self._is_before_champion(wanted)
        if is_withdrawn:
            start = Start(wanted.sha256, 0.0)
        elif start is None or start.sha256 != wanted.sha256:
            start = Start(wanted.sha256, start_ms)
        is_same = wanted.is_same(self.challenger)
        return replace(
            self,
            phase=advance(self.phase, Event.ANNOUNCED),
            challenger=wanted,
            crashes=self.crashes if is_same else 0,
            doubts=self.doubts if is_same else 0,
            start=start,
            is_withdrawn=is_withdrawn,
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
                champion_crashes=0,
                champion_kills=0,
                is_proven=False,
                is_withdrawn=False,
            )
        return replace(self, phase=phase, doubts=0 if phase is Phase.ACTIVATING else self.doubts)

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

    def restarted(self, time_ms: float, *, has_rebooted: bool = False, blames_settled: bool = False) -> Slot:
        """Return the slot as it starts after a restart of the agent, or of the whole machine.

        ``blames_settled``: the agent crashed, and nobody else can have done it than a release with which
        it had lived for a while.
        """
        if self.phase is Phase.SELF_TEST:
            slot = replace(self.doubted(), is_blamed=False)
            if slot.doubts < MAX_DOUBTS:
                return slot.resumed()
            detail = f"its self-test did not end {slot.doubts} times in a row"
            return slot.refused(Reason.SELF_TEST_CRASHED, detail, time_ms)
        if self.phase not in LOADED or (self.has_settled and not blames_settled):
            return replace(self.resumed(), is_blamed=False)
        crashes = self.crashes + 1
        if crashes >= (MAX_REBOOTS if has_rebooted else MAX_CRASHES):
            detail = f"the agent ended {crashes} times while it had this release loaded"
            slot = self.refused(Reason.ACTIVATION_CRASHED, detail, time_ms)
        else:
            slot = replace(self.resumed(), crashes=crashes)
        return replace(slot, is_blamed=True)

    def resumed(self) -> Slot:
        """Return the slot after work on it stopped short: the release will be tried again."""
        if self.phase in BUSY:
            return replace(self, phase=advance(self.phase, Event.INTERRUPTED), has_settled=False)
        return self

    def doubted(self) -> Slot:
        """Return the slot after a self-test that did not end, by the bundle's doing or not."""
        return replace(self, doubts=self.doubts + 1)

    def settled(self) -> Slot:
        """Return the slot after the agent has lived for a while with the challenger that it loaded."""
        return replace(self, has_settled=True)

    @property
    def is_champion_spent(self) -> bool:
        """Whether the agent has crashed, or been killed, too often with this champion."""
        most = MAX_CRASHES_PROVEN if self.is_proven else MAX_CRASHES
        is_spent = self.champion_crashes >= most or self.champion_kills >= MAX_KILLS
        return self.champion is not None and is_spent

    def champion_crashed(self) -> Slot:
        """Return the slot after the agent crashed soon after it had started with the champion."""
        return replace(self, champion_crashes=self.champion_crashes + 1)

    def champion_killed(self) -> Slot:
        """Return the slot after the kernel ended the agent for memory: no doing of one that has worked."""
        return self if self.is_proven else replace(self, champion_kills=self.champion_kills + 1)

    def champion_cleared(self) -> Slot:
        """Return the slot after another model's champion was found to be to blame."""
        return replace(self, champion_crashes=0, champion_kills=0)

    def champion_settled(self) -> Slot:
        """Return the slot after the agent has lived for a while with the champion."""
        return replace(self.champion_cleared(), is_proven=True)

    def champion_refused(self, time_ms: float) -> Slot:
        """Return the slot after the agent ended too often with its champion: it is not tried again."""
        ended = (
            f"was killed {self.champion_kills} times"
            if self.champion_kills >= MAX_KILLS
            else f"crashed {self.champion_crashes} times"
        )
        detail = f"the agent {ended} soon after it had started with it"
        slot = self.without_champion(Reason.ACTIVATION_CRASHED, detail, time_ms)
        bad = self.bad if slot.failure is None else (*self.bad, slot.failure)[-MAX_BAD:]
        return replace(slot.champion_cleared(), bad=bad, is_proven=False)

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

    def _is_before_champion(self, release: Release) -> bool:
        return self.champion is not None and release.release < self.champion.release

    def _without_challenger(self) -> Slot:
        if self.phase is not Phase.ANNOUNCED:
            return self
        return replace(self, phase=advance(self.phase, Event.WITHDRAWN), challenger=None)

    def _failure(self, reason: Reason, detail: str, time_ms: float) -> Refused:
        if self.challenger is None:
            raise RuntimeError("a failure without a release on its way")
        return Refused(self.challenger.release, self.challenger.sha256, reason, detail[:500], time_ms)
