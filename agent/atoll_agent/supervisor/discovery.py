"""What Home Assistant is told of an agent: the payload of its MQTT device discovery.

One device stands for the agent: for each model an ``update`` entity that shows the release on its
way, and a ``sensor`` for each device that the model answers. Written for Home Assistant 2025.4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from atoll_contract.errors import MalformedMessageError
from atoll_contract.ids import unescape
from atoll_contract.messages import SlotStatus
from atoll_contract.requests import SKIP_DELAY, Request
from atoll_contract.topics import PredictionTopic, RequestTopic, SlotTopic, StatusTopic

_IS_ALIVE: Final = "{{ 'online' if value_json.health in ['ready', 'degraded'] else 'offline' }}"
_RELEASES: Final = (
    "{% set champion = value_json.get('champion', {}).get('release', 'none') %}"
    "{% set next = value_json.get('challenger', {}) %}"
    "{{ {'installed_version': champion | string, "
    "'latest_version': next.get('release', champion) | string, "
    "'in_progress': next.get('phase', 'announced') != 'announced'} | tojson }}"
)
_VALUE: Final = "{{ value_json.value }}"
_LABEL: Final = "{{ value_json.output.label }}"


@dataclass(frozen=True, slots=True)
class Shown:
    """Whose discovery this is, and how it is to be shown.

    Attributes:
        site: The agent's site.
        agent: Its id.
        version: Version of atoll.
        prefix: Discovery prefix of Home Assistant.
        writer: Home Assistant's MQTT user name, if its requests count.
        expire_after_s: A sensor without a prediction for so long is unavailable.
    """

    site: str
    agent: str
    version: str
    prefix: str
    writer: str | None
    expire_after_s: int | None

    @property
    def id(self) -> str:
        """What stands for the agent at Home Assistant."""
        return f"atoll_{self.site}_{self.agent}"

    @property
    def topic(self) -> str:
        """Where the discovery is published, retained."""
        return f"{self.prefix}/device/{self.id}/config"


def sensor_key(model: str, device: str) -> str:
    """Return the key of the component that shows the predictions of a model for a device."""
    return f"sensor.{model}.{device}"


def components(
    shown: Shown, slots: Sequence[SlotStatus], sensors: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Return the entities, by key; ``sensors`` are pairs of model and device."""
    by_model = {slot.model: slot for slot in slots}
    made = {f"update.{slot.model}": _update(shown, slot) for slot in slots}
    for model, device in sensors:
        made[sensor_key(model, device)] = _sensor(shown, by_model[model], device)
    return made


def payload(shown: Shown, entities: Mapping[str, Mapping[str, Any]], gone: Mapping[str, str]) -> bytes:
    """Return the discovery; ``gone`` are keys and platforms of entities that are there no more."""
    config = {
        "device": {
            "identifiers": [shown.id],
            "name": f"atoll {shown.agent}",
            "manufacturer": "atoll",
            "model": "atoll-agent",
            "sw_version": shown.version,
        },
        "origin": {"name": "atoll", "sw_version": shown.version},
        "availability": [
            {"topic": str(StatusTopic(shown.site, shown.agent)), "value_template": _IS_ALIVE},
        ],
        "qos": 1,
        "components": {**entities, **{key: {"platform": platform} for key, platform in gone.items()}},
    }
    return json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode()


def _update(shown: Shown, slot: SlotStatus) -> dict[str, Any]:
    entity: dict[str, Any] = {
        "platform": "update",
        "unique_id": f"{shown.id}.update.{slot.model}",
        "name": f"{slot.model} release",
        "title": slot.model,
        "entity_category": "config",
        "state_topic": str(SlotTopic(shown.site, shown.agent, slot.model)),
        "value_template": _RELEASES,
    }
    waits = slot.challenger
    if shown.writer is None or waits is None or waits.start_ms is None:
        return entity
    # The button does one thing, as long as there is something to skip.
    request = Request(
        id=f"{slot.model}-{waits.release}"[:64],
        expires_ms=waits.start_ms,
        arguments={"model": slot.model, "release": waits.release},
    )
    return entity | {
        "command_topic": str(RequestTopic(shown.site, shown.writer, shown.agent, SKIP_DELAY)),
        "payload_install": request.encode().decode(),
    }


def _sensor(shown: Shown, slot: SlotStatus, device: str) -> dict[str, Any]:
    entity: dict[str, Any] = {
        "platform": "sensor",
        "unique_id": f"{shown.id}.{sensor_key(slot.model, device)}",
        "name": f"{slot.model} {_name(device)}",
        "state_topic": str(PredictionTopic(shown.site, shown.agent, device, slot.model)),
    }
    if shown.expire_after_s is not None:
        entity["expire_after"] = shown.expire_after_s
    champion = slot.champion
    if champion is not None and champion.task == "classification":
        entity["value_template"] = _LABEL
        if champion.labels:
            entity |= {"device_class": "enum", "options": champion.labels}
        return entity
    entity |= {"value_template": _VALUE, "state_class": "measurement"}
    if champion is not None and champion.unit:
        entity["unit_of_measurement"] = champion.unit
    return entity


def _name(device: str) -> str:
    """Return the name that the device's id was made from; the id where it is no escape."""
    try:
        return unescape(device)
    except MalformedMessageError:
        return device
