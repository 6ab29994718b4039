"""How an attempt to connect ends."""

from __future__ import annotations

import select
import socket
import threading

import pytest

from atoll_link.dialling import Dialling


def test_without_a_thread_it_is_a_failed_attempt(monkeypatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(OSError, match="no thread to connect in: can't start new thread"):
        Dialling(lambda: None)


def test_whoever_is_woken_by_its_descriptor_finds_it_ended() -> None:
    ours, theirs = socket.socketpair()
    go_on, was_woken = threading.Event(), threading.Event()

    class LateEvent(threading.Event):
        def set(self) -> None:
            assert was_woken.wait(20)
            super().set()

    def dial() -> socket.socket:
        assert go_on.wait(20)
        return ours

    dialling = Dialling(dial)
    dialling._ended = LateEvent()
    go_on.set()
    assert select.select([dialling], [], [], 20)[0]
    was_woken.set()

    assert dialling.take() is ours
    ours.close()
    theirs.close()
