"""What several faults do with a scene."""

from __future__ import annotations

import time

from scene import Scene
from support.brokers import select_pause

from atoll_link.session import Broker, Published, Session, wait_connected


def let_pass(scene: Scene, seconds: float) -> None:
    """Let so much time pass."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        select_pause(0.05)
        scene.tally.look()


def publish(scene: Scene, topic: str, payloads: list[bytes], *, retain: bool = False) -> None:
    session = Session(Broker(host="127.0.0.1", port=scene.broker.port), "rubbish", max_inflight=100)
    try:
        wait_connected(session, 20)
        waiting = {session.publish(topic, payload, retain=retain) for payload in payloads}
        deadline = time.monotonic() + 60
        while waiting and time.monotonic() < deadline:
            waiting -= {event.mid for event in session.step(0.5) if isinstance(event, Published)}
    finally:
        session.close()
