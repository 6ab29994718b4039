"""Requests to the trainer, and what became of them. Pure."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

from atoll_contract.requests import Request, Response
from atoll_contract.topics import RequestTopic, ResponseTopic

_MOST_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        id: Of the transaction.
        name: What was asked for.
        model: Of which model.
        release: Of which release.
        asked_ms: When.
        expires_ms: Until when an answer is waited for.
        response: The answer.
    """

    id: str
    name: str
    model: str
    release: int
    asked_ms: float
    expires_ms: float
    response: Response | None = None

    def outcome(self, now_ms: float) -> str:
        """Return what became of it, in words."""
        if self.response is None:
            return "no answer: is the trainer running?" if now_ms > self.expires_ms else "waits for an answer"
        told = [self.response.detail, f"[{self.response.reason}]" if self.response.reason else None]
        return " ".join(filter(None, ["done" if self.response.done else "refused:", *told]))


class Asking:
    """Makes requests and takes the answers.

    Attributes:
        allowed: Names of the requests that may be made.
    """

    def __init__(
        self, site: str, writer: str, target: str, allowed: frozenset[str], timeout_s: float
    ) -> None:
        self.allowed = allowed
        self._site = site
        self._writer = writer
        self._target = target
        self._timeout_s = timeout_s
        self._prefix = str(ResponseTopic(site, target, writer, "_")).removesuffix("_")
        self._asked: OrderedDict[str, Asked] = OrderedDict()

    @property
    def topic_filter(self) -> str | None:
        """Where answers arrive; None: nothing may be asked for."""
        if not self.allowed:
            return None
        return ResponseTopic.any_of(site=self._site, target=self._target, writer=self._writer)

    def matches(self, topic: str) -> bool:
        """Whether answers to us arrive on ``topic``."""
        return bool(self.allowed) and topic.startswith(self._prefix)

    @property
    def asked(self) -> list[Asked]:
        """The latest requests, the newest first."""
        return list(reversed(self._asked.values()))

    def ask(
        self, name: str, model: str, release: int, now_ms: float, **arguments: float
    ) -> tuple[RequestTopic, Request]:
        """Return what to publish.

        Raises:
            ValueError: Nobody may ask for that.
        """
        if name not in self.allowed:
            raise ValueError(f"the settings allow no request {name!r}")
        expires_ms = now_ms + self._timeout_s * 1e3
        request = Request(
            id=secrets.token_hex(8),
            expires_ms=expires_ms,
            arguments={"model": model, "release": float(release), **arguments},
        )
        self._asked[request.id] = Asked(request.id, name, model, release, now_ms, expires_ms)
        if len(self._asked) > _MOST_KEPT:
            self._asked.popitem(last=False)
        return RequestTopic(self._site, self._writer, self._target, name), request

    def take(self, payload: bytes) -> Asked | None:
        """Take an answer; None: nobody waits for it.

        Raises:
            MalformedMessageError: It cannot be read.
        """
        response = Response.decode(payload)
        asked = self._asked.get(response.id)
        if asked is None or asked.response is not None:
            return None
        self._asked[response.id] = answered = replace(asked, response=response)
        return answered
