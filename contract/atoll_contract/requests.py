"""Requests to one writer and their responses, as messages."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from atoll_contract.errors import Reason
from atoll_contract.messages import Message, TimeMs

SKIP_DELAY = "skip_delay"
"""Asks an agent to begin at once with a release that waits; arguments: ``model``, and ``release`` if
no other is meant."""

RETRAIN = "retrain"
"""Asks a trainer's loop to learn anew now; arguments: ``model``."""

PROMOTE = "promote"
"""Asks it to let a release be for more devices of its channel; arguments: ``model``, ``percent`` (by default
100), and ``release`` if it is not the one at work."""

WITHDRAW = "withdraw"
"""Asks it to take a release back; arguments: ``model``, ``why``, and ``release`` if it is not the one at
work."""

TransactionId = Annotated[str, Field(min_length=1, max_length=64)]


class Request(Message):
    """What a target is asked to do; never retained.

    Attributes:
        id: Of the transaction; comes back in the response. Repeated, it is answered and not done again.
        expires_ms: From then on it is ignored.
        arguments: What the request needs, by name.
    """

    id: TransactionId
    expires_ms: TimeMs
    arguments: Annotated[dict[str, float | str | bool], Field(max_length=64)] = {}


class Response(Message):
    """What became of a request.

    Attributes:
        id: That of the request.
        time_ms: When this was written.
        done: Whether what was asked has been done.
        reason: Reason code, if it has not.
        detail: The same, for people.
    """

    id: TransactionId
    time_ms: TimeMs
    done: bool
    reason: Reason | None = None
    detail: str | None = None
