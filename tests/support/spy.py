"""A subscriber in a thread that keeps what it sees, for tests to wait for facts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from atoll_link.session import Broker, Delivery, Session, Subscribed

T = TypeVar("T")


class Spy:
    """Collects deliveries of ``topic_filters``; everything may be read from other threads."""

    def __init__(
        self,
        port: int,
        *topic_filters: str,
        client_id: str = "spy",
        username: str | None = None,
        password_file: Path | None = None,
    ) -> None:
        # Persistent: what is published while it is away over a restart of the broker is kept for it.
        broker = Broker(host="127.0.0.1", port=port, username=username, password_file=password_file)
        self._session = Session(broker, client_id, is_clean=False)
        for topic_filter in topic_filters:
            self._session.subscribe(topic_filter)
        self._changed = threading.Condition()
        self._stopping = False
        self._missing = set(topic_filters)
        self.deliveries: list[Delivery] = []
        self._thread = threading.Thread(target=self._run, name="spy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(lambda: not self._missing, "the spy's subscriptions")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._session.wake()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping:
            events = self._session.step(0.5)
            with self._changed:
                for event in events:
                    if isinstance(event, Delivery):
                        self.deliveries.append(event)
                    elif isinstance(event, Subscribed):
                        self._missing.discard(event.topic_filter)
                self._changed.notify_all()
        self._session.close()

    def wait(self, fact: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
        """Return ``fact()`` once it is true; fail after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (found := fact()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    tail = "\n".join(f"{d.topic} {d.payload[:300]!r}" for d in self.deliveries[-8:])
                    raise AssertionError(f"not within {timeout_s} s: {what}\n{tail}")
                self._changed.wait(min(remaining, 0.2))
            return found

    def on(self, *parts: str) -> list[Delivery]:
        """Return deliveries whose topic holds all of ``parts``."""
        return [item for item in list(self.deliveries) if all(part in item.topic for part in parts)]
