"""Settings of streams for what is common: ``preset = "zigbee2mqtt"``.

A preset gives keys of ``[[stream]]`` that the file leaves out; what stands in the file counts. Tables
(``time``, ``words``) are completed key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "zigbee2mqtt": {
            "dialect": "json",
            "topics": ["zigbee2mqtt/{device...}"],
            "ignore": [
                "zigbee2mqtt/bridge/{rest...}",
                "zigbee2mqtt/{rest...}/availability",
                "zigbee2mqtt/{rest...}/set",
                "zigbee2mqtt/{rest...}/get",
            ],
            "time": {"pointer": "/last_seen", "unit": "auto"},
        },
        "tasmota": {
            "dialect": "json",
            "topics": ["tele/{device}/SENSOR"],
            "time": {"pointer": "/Time", "unit": "iso8601"},
        },
        "tasmota-state": {
            "dialect": "json",
            "topics": ["tele/{device}/STATE"],
            "time": {"pointer": "/Time", "unit": "iso8601"},
        },
        "shelly": {
            "dialect": "json",
            "topics": ["{device}/events/rpc"],
            "at": "/params/switch:0",
            "time": {"pointer": "/params/ts", "unit": "s"},
            "hold_s": 3600.0,
        },
        "shelly-status": {"dialect": "json", "topics": ["{device}/status/switch:0"]},
        "esphome": {
            "dialect": "scalar",
            "topics": ["{device}/sensor/{value}/state", "{device}/binary_sensor/{value}/state"],
            "join_s": 10.0,
        },
        "homeassistant": {
            "dialect": "scalar",
            "topics": ["homeassistant/{domain}/{device}/{value}"],
            "hold_s": 86400.0,
        },
        "ttn": {
            "dialect": "json",
            "topics": ["v3/{application}/devices/{device}/up"],
            "at": "/uplink_message/decoded_payload",
            "time": {"pointer": "/uplink_message/received_at", "unit": "iso8601"},
        },
        "chirpstack": {
            "dialect": "json",
            "topics": ["application/{application}/device/{device}/event/up"],
            "at": "/object",
            "time": {"pointer": "/time", "unit": "iso8601"},
        },
        "thingsboard-gateway": {
            "dialect": "json",
            "topics": ["v1/gateway/telemetry"],
            "each": "/{device}/*",
            "at": "/values",
            "time": {"pointer": "/ts", "unit": "ms"},
        },
        "milesight": {
            "dialect": "json",
            "topics": ["milesight/uplink/{device}"],
            "words": {"trigger": 1.0, "idle": 0.0},
            "time": {"pointer": "/gatewayTime", "unit": "auto"},
        },
        "opcua": {
            "dialect": "opcua",
            "topics": ["opcua/json/data/{group}/{device}"],
            "hold_s": 3600.0,
            "time": {"unit": "iso8601"},
        },
        "sparkplug": {"dialect": "sparkplug", "hold_s": 3600.0},
        "telegraf": {
            "dialect": "influx",
            "topics": ["telegraf/{host}/{measurement}"],
            "device": "{host}",
            "time": {"unit": "ns"},
        },
    }
)


def completed(table: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``table`` with the keys of ``preset`` that it leaves out."""
    whole = {**preset, **table}
    for key in ("time", "words"):
        inner, given = preset.get(key), table.get(key)
        if isinstance(inner, Mapping) and isinstance(given, Mapping):
            whole[key] = {**inner, **given}
    # A preset's topics for all values give way to topics of their own.
    values = table.get("values")
    if (
        "topics" not in table
        and isinstance(values, Mapping)
        and any(isinstance(value, Mapping) and value.get("topic") is not None for value in values.values())
    ):
        whole.pop("topics", None)
    # Two ways to make whole readings of parts: the file's counts.
    if "join_s" in table and "hold_s" not in table:
        whole.pop("hold_s", None)
    if "hold_s" in table and "join_s" not in table:
        whole.pop("join_s", None)
    return whole
