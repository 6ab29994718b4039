"""Takes requests of trusted writers, once each, and answers them; who obeys is its owner's affair."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import structlog

from atoll_contract.errors import AtollError, MalformedMessageError, Reason, RequestRefusedError
from atoll_contract.requests import Request, Response
from atoll_contract.topics import RequestTopic, ResponseTopic
from atoll_link.events import Delivery

log = structlog.get_logger()

REMEMBERED: Final = 256
"""Responses that are given again when a request comes again."""
_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Order:
    """A request that is to be obeyed."""

    topic: RequestTopic
    request: Request

    @property
    def key(self) -> _Key:
        """What tells it from others."""
        return self.topic.writer, self.topic.name, self.request.id


class RequestDesk:
    """Reads the requests to one writer.

    Attributes:
        topic_filter: What to subscribe to.
        refusals: How many were refused, by reason.
        last_refusal: The latest detail for each of them.
        obeyed: How many were done.

    Args:
        site: Of the writer.
        target: Its id.
        trusted_writers: Who may ask.
        obey: Does what is asked, or raises an AtollError; returns False if :meth:`finish` tells the end.
    """

    def __init__(
        self, site: str, target: str, trusted_writers: Collection[str], obey: Callable[[Order], bool]
    ) -> None:
        self.topic_filter = RequestTopic.any_of(site=site, target=target)
        self.refusals: Counter[Reason] = Counter()
        self.last_refusal: dict[Reason, str] = {}
        self.obeyed = 0
        self._target = target
        self._trusted_writers = frozenset(trusted_writers)
        self._obey = obey
        self._responses: OrderedDict[_Key, Response] = OrderedDict()
        self._at_work: set[_Key] = set()

    def trust(self, writers: Collection[str]) -> None:
        """Obey these writers from now on."""
        self._trusted_writers = frozenset(writers)

    def heed(self, delivery: Delivery, now_ms: float) -> tuple[ResponseTopic, Response] | None:
        """Obey or refuse a request; return the response, if there is one already.

        Nobody who is not trusted gets one. An empty request is of atoll-agent doctor, which sees by it
        whether requests arrive.
        """
        if not delivery.payload:
            return None
        try:
            topic = RequestTopic.parse(delivery.topic)
            order = Order(topic, self._read(topic, delivery))
        except MalformedMessageError as error:
            self._refuse(delivery.topic, error)
            return None
        if order.key in self._at_work:
            return None
        response = self._responses.get(order.key)
        return self._begin(order, now_ms) if response is None else (self._topic(order), response)

    def finish(
        self, order: Order, now_ms: float, error: AtollError | None = None
    ) -> tuple[ResponseTopic, Response]:
        """Return the response to what has been done, or could not be."""
        request = order.request
        if error is None:
            response = Response(id=request.id, time_ms=now_ms, done=True)
            self.obeyed += 1
            log.info(
                "request.obeyed",
                writer=order.topic.writer,
                name=order.topic.name,
                arguments=request.arguments,
            )
        else:
            self._refuse(str(order.topic), error)
            response = Response(
                id=request.id, time_ms=now_ms, done=False, reason=error.reason, detail=error.detail[:500]
            )
        self._at_work.discard(order.key)
        self._responses[order.key] = response
        if len(self._responses) > REMEMBERED:
            self._responses.popitem(last=False)
        return self._topic(order), response

    def _begin(self, order: Order, now_ms: float) -> tuple[ResponseTopic, Response] | None:
        try:
            if order.request.expires_ms <= now_ms:
                raise RequestRefusedError("it came after its expires_ms", Reason.EXPIRED)
            is_done = self._obey(order)
        except AtollError as error:
            return self.finish(order, now_ms, error)
        if is_done:
            return self.finish(order, now_ms)
        self._at_work.add(order.key)
        return None

    def _topic(self, order: Order) -> ResponseTopic:
        return ResponseTopic(order.topic.site, self._target, order.topic.writer, order.topic.name)

    def _read(self, topic: RequestTopic, delivery: Delivery) -> Request:
        if delivery.is_retained:
            raise MalformedMessageError("a retained request", Reason.RETAINED)
        if topic.writer not in self._trusted_writers:
            detail = f"{topic.writer!r} is not in trusted_writers"
            raise MalformedMessageError(detail, Reason.UNTRUSTED_WRITER)
        return Request.decode(delivery.payload)

    def _refuse(self, topic: str, error: AtollError) -> None:
        self.refusals[error.reason] += 1
        self.last_refusal[error.reason] = f"{topic}: {error.detail}"[:200]
        log.warning(
            "request.refused", topic=topic[:200], reason=error.reason.value, detail=error.detail[:200]
        )


def text_of(request: Request, name: str) -> str:
    """Return an argument that is a text.

    Raises:
        RequestRefusedError: It is missing, or something else.
    """
    value = request.arguments.get(name)
    if not isinstance(value, str) or not value:
        raise RequestRefusedError(f"argument {name}: needs a text")
    return value


def release_of(request: Request) -> int | None:
    """Return the argument ``release``; None: there is none.

    Raises:
        RequestRefusedError: It is no number of a release.
    """
    release = request.arguments.get("release")
    if release is None:
        return None
    if isinstance(release, bool | str) or release != int(release) or release < 1:
        raise RequestRefusedError("argument release: needs the number of a release")
    return int(release)
