"""How far an agent's readings and errors have moved from what its champion learnt, as a message."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll_contract.messages import Id, Message, TimeMs

MAX_FEATURES = 16
"""Features that one report tells: those that have moved most."""


class Shift(Message):
    """How differently one feature, or the output, is spread now.

    Attributes:
        name: Of the feature.
        index: Population stability index.
        limit: Above it counts as drift.
    """

    name: str
    index: float
    limit: float


class ErrorShift(Message):
    """How the error has developed where labels arrive.

    Attributes:
        labels: Labels that have found their prediction since the release began to answer.
        mean: Mean absolute error lately, in the unit of the prediction; of a classifier the wrong share.
        expected: What it should be.
        statistic: Of the change test.
        limit: Above it counts as drift.
        since_ms: Event time from which on the error has been larger, while the statistic is above 0.
    """

    labels: int
    mean: float
    expected: float
    statistic: float
    limit: float
    since_ms: TimeMs | None = None


class DriftReport(Message):
    """How one agent's champion fares, against the reference of its bundle; retained.

    Attributes:
        model: Id of the model.
        time_ms: When this was written.
        release: Number of the champion.
        drifting: Whether anything is beyond its limit.
        since_ms: Event time from which on that may be so.
        windows: How many windows the comparison is made of; it says nothing before there are enough.
        span_s: Time that they cover.
        features: Those that have moved most, the first most of all by its limit.
        output: The predictions themselves.
        error: Where labels arrive.
        detail: For people: what is beyond its limit, or why something is not compared.
        counts: Predictions and labels that were looked at, left out or found no partner, by name.
    """

    model: Id
    time_ms: TimeMs
    release: int
    drifting: bool = False
    since_ms: TimeMs | None = None
    windows: int = 0
    span_s: float = 0.0
    features: Annotated[list[Shift], Field(max_length=MAX_FEATURES)] = []
    output: Shift | None = None
    error: ErrorShift | None = None
    detail: str | None = None
    counts: dict[str, int] = {}
