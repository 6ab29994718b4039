"""Devices with a connection of their own each, against real brokers."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.brokers import select_pause
from support.sims import listener, sim

from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_link.broker import Broker
from atoll_link.stop import Stop
from atoll_sim.swarm import Swarm

REFUSED = b"\x20\x02\x00\x05"
ACCEPTED = b"\x20\x02\x00\x00"
WORLD = """
[world]
site = "plant-a"
seed = 7
[[device]]
prefix = "press"
count = 20
stream = "press"
rate_hz = 20
[device.signal.x]
shape = "constant"
mean = 1.0
[device.firmware]
hello = true
boot_s = 0.2
"""


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    return path


def test_every_device_connects_says_hello_and_is_heard(any_broker, world) -> None:
    with listener(any_broker) as heard:
        run = ["run", "--broker", any_broker.url, world, "--connections", "own", "--readings", "400"]
        with sim(*run) as running:
            summary = running.finish()
            heard.listen_until(lambda: len(heard.heard) >= 320)

    # Of 20 readings each, the first four were due while the devices booted.
    assert (summary["readings"], summary["lost"], summary["hellos"]) == (320, 0, 20)
    assert summary["firmware"] == {"readings_off": 80}
    assert summary["acknowledged"] == 340
    assert {len(heard.readings(f"press-{number}")) for number in range(1, 21)} == {16}


def test_what_a_broken_broker_did_not_acknowledge_is_sent_again(mosquitto_broker, world) -> None:
    run = ["run", "--broker", mosquitto_broker.url, world, "--connections", "own", "--for", "6"]
    with listener(mosquitto_broker) as heard, sim(*run) as running:
        heard.listen_until(lambda: len(heard.readings("press-20")) >= 3)
        mosquitto_broker.kill()
        mosquitto_broker.start()
        heard.listen_until(lambda: len(heard.readings("press-20")) >= 30)
        summary = running.finish()

    assert summary["lost"] == 0
    assert summary["acknowledged"] == summary["readings"] + summary["hellos"]


def test_a_swarm_that_would_need_tls_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain TCP"):
        Swarm(Broker(tls=True), {}, Stop(), window=10)


class Doorkeeper:
    """A broker that lets each device in so often, acknowledges nothing, and reads when it is told to."""

    def __init__(self, **lets_in: int) -> None:
        self.received = 0
        self.reads = threading.Event()
        self.reads.set()
        self._left = Counter(lets_in)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.reads.set()
        self._server.close()

    def _accept(self) -> None:
        try:
            while True:
                threading.Thread(target=self._serve, args=self._server.accept()[:1], daemon=True).start()
        except OSError:
            return

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                connect = client.recv(4096)
                device = next(name for name in self._left if name.encode() in connect)
                self._left[device] -= 1
                if self._left[device] < 0:
                    client.sendall(REFUSED)
                    return
                client.sendall(ACCEPTED)
                while received := client.recv(65_536):
                    self.received += len(received)
                    # A device that is let in once more is cut off by what it publishes.
                    if device.startswith("cut") and received[0] & 0xF0 == 0x30:
                        return
                    self.reads.wait(10)
            except OSError:
                return


@pytest.fixture
def swarms() -> Iterator[list[Swarm | Doorkeeper]]:
    """What is closed at the end."""
    opened: list[Swarm | Doorkeeper] = []
    yield opened
    for one in opened:
        one.close()


def swarm_at(door: Doorkeeper, *devices: str, host: str = "127.0.0.1", give_up_after_s: float = 0.5) -> Swarm:
    broker = Broker(host, door.port)
    filters = dict.fromkeys(devices, "none")
    return Swarm(broker, filters, Stop(), window=10, give_up_after_s=give_up_after_s)


def test_one_device_that_is_refused_is_not_waited_for_for_ever(swarms) -> None:
    door = Doorkeeper(good=9, bad=0)
    swarm = swarm_at(door, "good", "bad")
    swarms += [swarm, door]

    with pytest.raises(BrokerUnavailableError, match=r"1 of 2 devices connected.*refuses 'bad'"):
        swarm.connect()


@pytest.mark.parametrize("times", [1, 9])
def test_messages_of_a_device_that_stays_cut_off_are_lost_and_told(swarms, times) -> None:
    door = Doorkeeper(good=9, cut=times)
    swarm = swarm_at(door, "good", "cut", give_up_after_s=2.5)
    swarms += [swarm, door]
    assert swarm.connect()
    assert swarm.publish("t", b"x", 1, "cut")

    with pytest.raises(BrokerUnavailableError):
        swarm.settle()
    swarm.close()

    assert (swarm.acknowledged, swarm.in_flight + swarm.lost) == (0, 1)


def test_what_a_stalled_socket_holds_of_qos_0_is_bounded_and_sent(swarms) -> None:
    door = Doorkeeper(d=1)
    swarm = swarm_at(door, "d", give_up_after_s=5.0)
    swarms += [swarm, door]
    assert swarm.connect()
    door.reads.clear()
    payload, published = b"x" * 20_000, 0
    while swarm.in_flight < 10:
        assert swarm.rest_until(0.0)
        assert swarm.publish("t", payload, 0, "d")
        published += 1
    threading.Timer(0.2, door.reads.set).start()
    for _ in range(50):
        assert swarm.rest_until(0.0)
        assert swarm.publish("t", payload, 0, "d")
    swarm.settle()

    deadline = time.monotonic() + 10
    while door.received < (published + 50) * len(payload):
        assert time.monotonic() < deadline
        select_pause()
    assert (swarm.acknowledged, swarm.in_flight, swarm.lost) == (published + 50, 0, 0)


def test_every_address_of_the_broker_is_tried(swarms, monkeypatch) -> None:
    door = Doorkeeper(d=1)
    # As localhost often is ::1 first, where nobody listens.
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    swarm = swarm_at(door, "d", host="broker")
    swarms += [swarm, door]

    assert swarm.connect()


def test_a_network_that_cannot_be_reached_is_tried_again(swarms) -> None:
    door = Doorkeeper()
    swarm = swarm_at(door, "d", host="255.255.255.255")
    swarms += [swarm, door]

    with pytest.raises(BrokerUnavailableError, match=r"255\.255\.255\.255"):
        swarm.connect()
