"""``atoll-sim scenario`` over a real broker: what is measured, what is heeded, what is obeyed."""

from __future__ import annotations

import json
import time

from support.brokers import RunningBroker
from support.sims import sim
from support.spy import Spy

from atoll_contract.messages import Command, Prediction, encode_prediction
from atoll_link.session import Broker, Session, wait_connected
from atoll_sim.cli import main
from atoll_sim.worlds import SCENARIOS
from atoll_sim.worlds.scenario import AGENT, play_alone


def test_a_world_publishes_its_readings_and_obeys_the_agent(mosquitto_broker: RunningBroker) -> None:
    agent = Session(Broker(host="127.0.0.1", port=mosquitto_broker.port), AGENT)
    order = Command(expires_ms=time.time() * 1e3 + 60_000, value=True).encode()
    stale = Command(expires_ms=1.0, value=True).encode()
    said = encode_prediction(Prediction(time_ms=time.time() * 1e3, value=50.0, release=1, latency_ms=0.1))
    words = ["scenario", "traffic", "--broker", mosquitto_broker.url, "--steps", "60", "--pace", "0.1"]
    with Spy(mosquitto_broker.port, "atoll/#") as spy, sim(*words, "--seed", "3") as running:
        wait_connected(agent, 10)
        spy.wait(lambda: len(spy.on("/reading/road")) >= 20, "readings", 60)
        for topic, payload in (
            ("command/sign-1/divert", order),
            ("command/sign-1/divert", stale),
            ("command/sign-1/dance", order),
            ("prediction/north-1/speed", said),
        ):
            agent.publish(f"atoll/v1/world/{AGENT}/{topic}", payload)
        agent.step(0.1)
        summary = running.finish()
        spy.wait(lambda: len(spy.on("/reading/road")) == 600, "all readings", 30)
    agent.close()

    counts = {name: summary[name] for name in ("steps", "readings", "predictions", "commands", "lost")}
    assert counts == {"steps": 60, "readings": 600, "predictions": 1, "commands": 1, "lost": 0}
    assert summary["refused"] == {"malformed_payload": 2}
    alone = play_alone(SCENARIOS["traffic"], 3, steps=60).figures()
    assert summary["figures"]["cars"] == alone["cars"]


def test_what_happens_alone_needs_no_broker(capsys) -> None:
    assert main(["scenario", "rooms", "--alone", "--steps", "60", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"]["energy_kwh"] > 0


def test_the_settings_of_a_world_are_written(tmp_path) -> None:
    assert main(["scenario", "line", "--write", str(tmp_path / "line")]) == 0

    assert {path.name for path in (tmp_path / "line").iterdir()} == {
        "agent.toml", "dashboard.toml", "streams.toml", "trainer.toml", "wear.toml",
    }  # fmt: skip
