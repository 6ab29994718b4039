"""Ports for programs that are started on this machine."""

from __future__ import annotations

import secrets
import socket

import pytest

from atoll_sim.demo.ports import free_port


@pytest.fixture(autouse=True)
def _all_ports(monkeypatch) -> None:
    """Draw from all of them, not from those of this worker."""
    monkeypatch.setattr("atoll_sim.demo.ports._FIRST", 20_000)
    monkeypatch.setattr("atoll_sim.demo.ports._COUNT", 12_000)


def test_a_port_that_is_taken_is_passed_over(monkeypatch) -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        places = iter([port - 20_000, port - 20_000, 7])
        monkeypatch.setattr(secrets, "randbelow", lambda _: next(places))
        found = free_port()

    assert found == 20_007


def test_it_is_none_that_a_connection_gets_from_the_kernel() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(100))


def test_where_all_are_taken_it_says_so(monkeypatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
        port = listener.getsockname()[1]
        monkeypatch.setattr(secrets, "randbelow", lambda _: port - 20_000)
        with pytest.raises(OSError, match="no free port from 20000 to 31999"):
            free_port()
