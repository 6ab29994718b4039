"""Requests of trusted writers, and the responses to them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from typing import Final

import structlog

from atoll_contract.errors import AtollError, MalformedMessageError, Reason, RequestRefusedError
from atoll_contract.requests import SKIP_DELAY, Request, Response
from atoll_contract.topics import RequestTopic, ResponseTopic
from atoll_link.session import Delivery

log = structlog.get_logger()

REMEMBERED: Final = 256
"""Responses that are given again when a request comes again."""

SkipDelay = Callable[[str, int | None], None]


class Requests:
    """Obeys the requests to one agent.

    Attributes:
        topic_filter: What to subscribe to.
        refusals: How many were refused, by reason.
        last_refusal: The latest detail for each of them.
        obeyed: How many were done.
    """

    def __init__(
        self, site: str, agent: str, trusted_writers: Collection[str], *, skip_delay: SkipDelay
    ) -> None:
        self.topic_filter = RequestTopic.any_of(site=site, target=agent)
        self.refusals: Counter[Reason] = Counter()
        self.last_refusal: dict[Reason, str] = {}
        self.obeyed = 0
        self._agent = agent
        self._trusted_writers = frozenset(trusted_writers)
        self._skip_delay = skip_delay
        self._responses: OrderedDict[tuple[str, str, str], Response] = OrderedDict()

    def trust(self, writers: Collection[str]) -> None:
        """Obey these writers from now on."""
        self._trusted_writers = frozenset(writers)

    def heed(self, delivery: Delivery, now_ms: float) -> tuple[ResponseTopic, Response] | None:
        """Obey or refuse a request; return the response. Nobody who is not trusted gets one."""
        try:
            topic = RequestTopic.parse(delivery.topic)
            request = self._read(topic, delivery)
        except MalformedMessageError as error:
            self._refuse(delivery.topic, error)
            return None
        key = (topic.writer, topic.name, request.id)
        response = self._responses.get(key)
        if response is None:
            response = self._obey(topic, request, now_ms)
            self._responses[key] = response
            if len(self._responses) > REMEMBERED:
                self._responses.popitem(last=False)
        return ResponseTopic(topic.site, self._agent, topic.writer, topic.name), response

    def _read(self, topic: RequestTopic, delivery: Delivery) -> Request:
        if delivery.is_retained:
            raise MalformedMessageError("a retained request", Reason.RETAINED)
        if topic.writer not in self._trusted_writers:
            detail = f"{topic.writer!r} is not in trusted_writers"
            raise MalformedMessageError(detail, Reason.UNTRUSTED_WRITER)
        return Request.decode(delivery.payload)

    def _obey(self, topic: RequestTopic, request: Request, now_ms: float) -> Response:
        try:
            if request.expires_ms <= now_ms:
                raise RequestRefusedError("it came after its expires_ms", Reason.EXPIRED)
            if topic.name != SKIP_DELAY:
                raise RequestRefusedError(f"no request {topic.name!r} is known here")
            self._skip_delay(*_model_and_release(request))
        except AtollError as error:
            self._refuse(str(topic), error)
            return Response(
                id=request.id, time_ms=now_ms, done=False, reason=error.reason, detail=error.detail[:500]
            )
        self.obeyed += 1
        log.info("request.obeyed", writer=topic.writer, name=topic.name, arguments=request.arguments)
        return Response(id=request.id, time_ms=now_ms, done=True)

    def _refuse(self, topic: str, error: AtollError) -> None:
        self.refusals[error.reason] += 1
        self.last_refusal[error.reason] = f"{topic}: {error.detail}"[:200]
        log.warning(
            "request.refused", topic=topic[:200], reason=error.reason.value, detail=error.detail[:200]
        )


def _model_and_release(request: Request) -> tuple[str, int | None]:
    model, release = request.arguments.get("model"), request.arguments.get("release")
    if not isinstance(model, str):
        raise RequestRefusedError("argument model: needs the id of a model")
    if release is None:
        return model, None
    if isinstance(release, bool | str) or release != int(release):
        raise RequestRefusedError("argument release: needs the number of a release")
    return model, int(release)
