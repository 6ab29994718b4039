"""The control plane's connection: a paho session stepped by a thread, events into the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Self

from atoll_link.session import Broker, Event, Session, Will

_STEP_S: Final = 1.0
_QUEUE: Final = 1024
_STOP_S: Final = 5.0


class ControlLink:
    """An asynchronous context; everything else is called from its event loop.

    Events wait in a queue of 1,024; the thread waits while it is full, and the broker with it.

    Attributes:
        steps: How many steps the thread has done; it stands still while the queue is full.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: Callable[[], Will],
        topic_filters: Iterable[str],
    ) -> None:
        self._session = Session(broker, client_id, will=will)
        for topic_filter in topic_filters:
            self._session.subscribe(topic_filter)
        self._events: asyncio.Queue[Event | BaseException] = asyncio.Queue(_QUEUE)
        self.steps = 0
        self._outgoing: deque[tuple[str, bytes, bool]] = deque()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    async def __aenter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._run, args=(asyncio.get_running_loop(),), name="control-link", daemon=True
        )
        self._thread.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._session.wake()
        thread = self._thread
        deadline = time.monotonic() + _STOP_S
        # It ends within a step, or hangs; it is a daemon thread.
        while thread is not None and thread.is_alive() and time.monotonic() < deadline:
            # The thread may be waiting for room in the queue.
            while not self._events.empty():
                self._events.get_nowait()
            await asyncio.to_thread(thread.join, 0.1)

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands."""
        return self._session.is_connected

    async def next_event(self) -> Event:
        """Return the next event; what ended the thread is raised here."""
        event = await self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Publish at QoS 1; what is sent while offline leaves after the next connect."""
        self._outgoing.append((topic, payload, retain))
        self._session.wake()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while not self._stopping.is_set():
                self._send()
                for event in self._session.step(_STEP_S):
                    self._hand_over(loop, event)
                self.steps += 1
            self._send()
            self._session.close()
        except BaseException as error:  # noqa: BLE001 - a bug here must end the daemon, not only this thread
            self._hand_over(loop, error)

    def _send(self) -> None:
        while self._outgoing:
            topic, payload, retain = self._outgoing.popleft()
            self._session.publish(topic, payload, qos=1, retain=retain)

    def _hand_over(self, loop: asyncio.AbstractEventLoop, event: Event | BaseException) -> None:
        future = asyncio.run_coroutine_threadsafe(self._events.put(event), loop)
        while not self._stopping.is_set():
            try:
                future.result(timeout=0.2)
            except TimeoutError:
                continue
            return
