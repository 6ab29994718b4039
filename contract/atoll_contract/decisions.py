"""What an agent makes of predictions, as the message that tells it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from atoll_contract.messages import Id, Message, TimeMs
from atoll_contract.release import MAX_RELEASE


class State(StrEnum):
    """What a rule says of a device: its condition holds, or holds no more."""

    RAISED = "raised"
    CLEARED = "cleared"


class Withheld(StrEnum):
    """Why a decision was published without its commands: nobody should act on it any more."""

    LATE = "late"
    REPLAYED = "replayed"
    REDELIVERED = "redelivered"
    """Perhaps answered already, by a process of this agent that was killed."""
    TOO_OLD = "too_old"
    FROM_FUTURE = "from_future"
    TIME_UNSYNCED = "time_unsynced"


class Decision(Message):
    """What a rule of an agent made of the predictions of one device, or of a group of devices.

    Published when the state changes. Once more with the same state when commands that were withheld
    leave after all, because a fresh prediction has confirmed it.

    Attributes:
        state: ``raised`` or ``cleared``.
        time_ms: Event time of the prediction that decided it.
        model: The model that predicted.
        release: The release that did.
        value: The prediction's value; of a group the mean, or how many devices meet the condition.
        since_ms: Event time of the prediction from which on the condition held.
        label: The label that a classifier gave.
        device: In a group: whose prediction decided it.
        seq: As in the reading.
        boot: As in the reading.
        commands: Topics of the commands that left with it.
        withheld: Why its commands did not leave.
    """

    state: State
    time_ms: TimeMs
    model: Id
    release: Annotated[int, Field(ge=1, le=MAX_RELEASE)]
    value: float
    since_ms: TimeMs | None = None
    label: str | None = None
    device: Id | None = None
    seq: Annotated[int, Field(ge=0, le=2**53)] | None = None
    boot: Annotated[str, Field(min_length=1, max_length=48)] | None = None
    commands: Annotated[list[str], Field(max_length=64)] = []
    withheld: Withheld | None = None
