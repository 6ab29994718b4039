"""An attempt to connect for which there is no thread left."""

from __future__ import annotations

import threading

import pytest

from atoll_link.dialling import Dialling


def test_without_a_thread_it_is_a_failed_attempt(monkeypatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(OSError, match="no thread to connect in: can't start new thread"):
        Dialling(lambda: None)
