"""Devices with a connection of their own each, against real brokers."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sims import listener, sim

from atoll_contract.errors import ConfigError
from atoll_link.broker import Broker
from atoll_link.stop import Stop
from atoll_sim.swarm import Swarm

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
