"""Writes announcements of an agent, and messages with what Home Assistant should make of them."""

from __future__ import annotations

import json

from atoll_agent.supervisor.discovery import Shown, components, payload
from atoll_contract.messages import (
    Challenge,
    Champion,
    Health,
    Prediction,
    SlotStatus,
    Status,
    encode_prediction,
)

SHA = "0" * 64


def champion(**more) -> Champion:
    return Champion(release=3, sha256=SHA, backend="CPU", **({"task": "regression"} | more))


def slot(model="wear", **more) -> SlotStatus:
    return SlotStatus(model=model, time_ms=1.0, **more)


def challenge(phase="announced", **more) -> Challenge:
    return Challenge(release=12, sha256=SHA, phase=phase, **more)


def prediction(value=0.5, **more) -> str:
    return encode_prediction(Prediction(1.0, value, 3, 0.4, **more)).decode()


SLOTS = [
    # How a slot stands: what Home Assistant shows as installed, newest, at work, and whether that is news.
    (slot(), ["none", "none", False, "off"]),
    (slot(challenger=challenge()), ["none", "12", False, "on"]),
    (slot(champion=champion()), ["3", "3", False, "off"]),
    (slot(champion=champion(unit="°C"), challenger=challenge(start_ms=9e12)), ["3", "12", False, "on"]),
    (slot(champion=champion(unit="mm/s"), challenger=challenge("fetching")), ["3", "12", True, "on"]),
    (slot(champion=champion(task="anomaly")), ["3", "3", False, "off"]),
    (slot(champion=champion(task="forecast", unit="%")), ["3", "3", False, "off"]),
]
CLASSIFIER = slot("sorter", champion=champion(task="classification", labels=["good", 'bad "one"']))
AVAILABILITY = [
    (Status(health=health, session=1).encode().decode(), expected)
    for health, expected in (
        (Health.READY, "online"),
        (Health.DEGRADED, "online"),
        (Health.FAULTED, "offline"),
        (Health.OFFLINE, "offline"),
    )
]


def case(name, shown, slots, sensors, states, gone=None) -> dict:
    config = json.loads(payload(shown, components(shown, slots, sensors), gone or {}))
    states = {"availability": AVAILABILITY, **states}
    return {"name": name, "topic": shown.topic, "config": config, "states": states}


def cases():
    for writer, expire_after_s in ((None, None), ("homeassistant", 600)):
        shown = Shown("plant-a", "press-hall-pi", "1.0", "homeassistant", writer, expire_after_s)
        for number, (one, expected) in enumerate(SLOTS):
            states = {
                "update.wear": [(one.encode().decode(), expected)],
                "sensor.wear.press-1": [(prediction(), "0.5"), (prediction(-3.0, stream="press"), "-3.0")],
            }
            sensors = [("wear", "press-1"), ("wear", "Hall--20fan")]
            yield case(f"slot {number}", shown, [one], sensors, states)
        output = {"label": 'bad "one"', "probabilities": {"good": 0.1, 'bad "one"': 0.9}}
        states = {"sensor.sorter.line-1": [(prediction(1.0, output=output), 'bad "one"')]}
        yield case("classifier", shown, [CLASSIFIER], [("sorter", "line-1")], states)
        gone = {"sensor.old.x": "sensor", "update.old": "update"}
        yield case("models that are gone", shown, [slot()], [], {}, gone)
        yield case("nothing", shown, [], [], {})
        many = [("wear", f"device-{number}") for number in range(1000)]
        yield case("many", shown, [slot(champion=champion())], many, {})


if __name__ == "__main__":
    for one in cases():
        print(json.dumps(one))
