"""What an agent can be asked for by requests."""

from __future__ import annotations

from collections.abc import Callable, Collection

from atoll_contract.errors import RequestRefusedError
from atoll_contract.requests import SKIP_DELAY
from atoll_link.request_desk import REMEMBERED, Order, RequestDesk, release_of, text_of

__all__ = ["REMEMBERED", "Requests", "SkipDelay"]

SkipDelay = Callable[[str, int | None], None]


class Requests(RequestDesk):
    """Obeys the requests to one agent; see :class:`atoll_link.request_desk.RequestDesk`."""

    def __init__(
        self, site: str, agent: str, trusted_writers: Collection[str], *, skip_delay: SkipDelay
    ) -> None:
        super().__init__(site, agent, trusted_writers, self._do)
        self._skip_delay = skip_delay

    def _do(self, order: Order) -> bool:
        if order.topic.name != SKIP_DELAY:
            raise RequestRefusedError(f"no request {order.topic.name!r} is known here")
        self._skip_delay(text_of(order.request, "model"), release_of(order.request))
        return True
