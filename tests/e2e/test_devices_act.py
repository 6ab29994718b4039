"""Devices that act on each other: what an agent predicts of one makes another one change."""

from __future__ import annotations

import json
import time

import pytest
from support.bundles import make_bundle
from support.sims import sim
from support.spy import Spy

from atoll_contract.decisions import Decision
from atoll_contract.messages import Label

# The model says 2 x + 1; the fan lives by y = x until it is told otherwise.
RULE = """
[[rule]]
name = "hot"
model = "wear"
devices = ["press-1"]
when = { above = 10, clear = 8 }
[[rule.command]]
name = "truth"
device = "fan-1"
arguments = { slope_x = 3.0, intercept = 100.0 }
[[rule.command]]
topic = "lamp/${device}/set"
payload = { state = "ON", why = "${value} of ${model}" }
"""
WORLD = """
[world]
site = "site"
trusted_writers = ["pi"]
[[device]]
prefix = "fan"
stream = "air"
rate_hz = 20.0
[device.signal.x]
shape = "constant"
mean = 1.0
[device.truth]
model = "flow"
slope = { x = 1.0 }
label_delay_s = 0.0
"""


def fresh(x: float) -> bytes:
    return json.dumps({"time_ms": time.time() * 1e3, "values": {"x": x}}).encode()


def test_a_decision_on_one_device_changes_another_one(mosquitto_broker, make_site, tmp_path):
    (tmp_path / "world.toml").write_text(WORLD)
    site = make_site(mosquitto_broker, models=f'[[model]]\nname = "wear"\nstream = "press"\n{RULE}')
    site.trainer.publish(make_bundle(release=1))
    site.agent.start()
    world = ["run", "--broker", mosquitto_broker.url, tmp_path / "world.toml"]
    with (
        Spy(mosquitto_broker.port, "atoll/v1/site/fan-1/label/#", "lamp/#", client_id="onlooker") as onlooker,
        sim(*world) as running,
    ):
        site.champion(1)
        site.wait_lane()
        onlooker.wait(lambda: onlooker.on("/label/fan-1/"), "the fan as it was")

        old = json.dumps({"time_ms": 1000.0, "values": {"x": 6.0}}).encode()
        site.send(fresh(3), old)
        withheld = site.spy.wait(lambda: site.spy.on("/decision/press-1/hot"), "a decision")
        before = [Label.decode(item.payload).value for item in onlooker.on("/label/fan-1/")]
        site.send(fresh(6.5))
        onlooker.wait(
            lambda: Label.decode(onlooker.on("/label/fan-1/")[-1].payload).value == pytest.approx(103.0),
            "the fan as it was told to be",
        )
        running.process.terminate()
        summary = running.finish()

    assert Decision.decode(withheld[0].payload).withheld == "too_old"
    assert before == [pytest.approx(1.0)] * len(before)
    assert len(site.spy.on("/command/")) == 1
    assert summary["commands_obeyed"] == 1
    (lamp,) = onlooker.on("lamp/press-1/set")
    assert json.loads(lamp.payload) == {"state": "ON", "why": "14.0 of wear"}
