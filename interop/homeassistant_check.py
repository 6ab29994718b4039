"""Discovery payloads of an agent, judged by Home Assistant itself: its schemas and its templates.

Runs in an environment of its own, with Home Assistant and without atoll: `make test-homeassistant`.
It reads payloads as JSON lines, as homeassistant_payloads.py writes them, and ends with 1 at the first
that is refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from typing import Any

import voluptuous as vol
from homeassistant.components.mqtt import sensor, update
from homeassistant.components.mqtt.discovery import TOPIC_MATCHER
from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.components.update import UpdateEntity
from homeassistant.core import HomeAssistant
from homeassistant.helpers.template import Template

SCHEMAS = {"sensor": sensor.DISCOVERY_SCHEMA, "update": update.DISCOVERY_SCHEMA}


class Told(UpdateEntity):
    """An update entity that was told what a template made of a slot."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._attr_installed_version = told["installed_version"]
        self._attr_latest_version = told["latest_version"]


def rendered(hass: HomeAssistant, template: str, payload: str) -> str:
    """Return what Home Assistant makes of a message."""
    return str(Template(template, hass).async_render_with_possible_json_value(payload))


def judge(hass: HomeAssistant, case: dict[str, Any]) -> int:
    """Judge one announcement and what its templates make of messages; return how many entities it has."""
    config, states = case["config"], case["states"]
    match = TOPIC_MATCHER.match(case["topic"].removeprefix("homeassistant/"))
    assert match is not None, case["topic"]
    assert match["component"] == "device", case["topic"]
    DEVICE_DISCOVERY_SCHEMA(json.loads(json.dumps(config)))
    shared = {key: config[key] for key in ("device", "origin", "availability", "qos")}
    entities = 0
    for key, entity in config["components"].items():
        if entity.keys() == {"platform"}:
            continue
        # With no key left out by the schema: each is one that Home Assistant knows.
        given = {name: value for name, value in entity.items() if name != "platform"}
        accepted = SCHEMAS[entity["platform"]](shared | given)
        assert given.keys() <= accepted.keys(), (key, given.keys() - accepted.keys())
        entities += 1
        for payload, expected in states.get(key, []):
            found = rendered(hass, entity["value_template"], payload)
            if entity["platform"] == "update":
                told = update.MQTT_JSON_UPDATE_SCHEMA(json.loads(found))
                found = [
                    told["installed_version"],
                    told["latest_version"],
                    told["in_progress"],
                    Told(told).state,
                ]
            elif entity.get("device_class") == "enum":
                assert found in entity["options"], (key, found)
            assert found == expected, (key, payload, found, expected)
    for payload, expected in states["availability"]:
        found = rendered(hass, config["availability"][0]["value_template"], payload)
        assert found == expected, (payload, found)
    return entities


async def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        hass = HomeAssistant(folder)
        judged = entities = 0
        for line in sys.stdin:
            case = json.loads(line)
            try:
                entities += judge(hass, case)
            except (vol.Invalid, AssertionError) as error:
                print(f"{case['name']}: {error!r}", file=sys.stderr)
                return 1
            judged += 1
        await hass.async_stop(force=True)
    print(f"{judged} passed, 0 failed ({entities} entities)")
    return 0 if judged else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
