"""Tells Home Assistant what there is to see, and takes back what there is no more.

What was announced is noted on disk, so that the next start finds what is stale: a model that left
the settings, a device that is not heard again, another name of the agent, a feature switched off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from atoll_agent.ports import Announced, Notes
from atoll_agent.supervisor.discovery import Shown, components, payload
from atoll_contract.messages import SlotStatus
from atoll_link.session import Delivery

log = structlog.get_logger()

_GRACE_S: Final = 86_400.0
"""A device that was shown before a restart has a day to be heard again."""

Publish = Callable[[str, bytes], None]
"""Publishes at QoS 1, retained."""


class HomeAssistant:
    """Announces the models of an agent. ``shown`` is None when the feature is off.

    Attributes:
        max_delay_s: After a start of Home Assistant, announce again within this time.
    """

    def __init__(
        self, shown: Shown | None, notes: Notes, *, max_sensors: int, max_delay_s: float = 0.0
    ) -> None:
        self.max_delay_s = max_delay_s
        self._shown = shown
        self._notes = notes
        self._max_sensors = max_sensors
        self._before = notes.read()
        self._started_s = time.monotonic()
        self._heard: dict[tuple[str, str], None] = {}
        self._published: bytes | None = None
        self._is_full = False

    @property
    def topic_filters(self) -> list[str]:
        """What to subscribe to: where Home Assistant says that it has started."""
        return [] if self._shown is None else [f"{self._shown.prefix}/status"]

    def is_birth(self, delivery: Delivery) -> bool:
        """Whether Home Assistant says that it has just started; a retained word of it is an old one."""
        is_its_status = delivery.topic in self.topic_filters and not delivery.is_retained
        return is_its_status and delivery.payload == b"online"

    def announce(
        self,
        slots: Sequence[SlotStatus],
        devices: Mapping[str, Sequence[str]],
        publish: Publish,
        *,
        is_again: bool = False,
    ) -> None:
        """Publish what has changed; all of it if Home Assistant has started again."""
        shown, before = self._shown, self._before
        if before is not None and (shown is None or before.topic != shown.topic):
            publish(before.topic, b"")
            log.info("homeassistant.cleared", topic=before.topic)
            self._notes.delete()
            self._before = before = None
        if shown is None:
            return
        sensors = self._sensors({slot.model for slot in slots}, devices)
        entities = components(shown, slots, sensors)
        content = payload(shown, entities, {})
        if content == self._published and not is_again:
            return
        known = {} if before is None else before.platforms
        gone = {key: platform for key, platform in known.items() if key not in entities}
        platforms = {key: str(entity["platform"]) for key, entity in entities.items()}
        announced = Announced(shown.topic, platforms, sensors)
        # Noted with what goes until that is told, so that a kill in between leaves nothing stale.
        if before is None or before.platforms != platforms:
            self._notes.write(Announced(shown.topic, {**platforms, **gone}, sensors))
        if gone:
            publish(shown.topic, payload(shown, entities, gone))
        publish(shown.topic, content)
        if gone:
            self._notes.write(announced)
        if content != self._published:
            log.info("homeassistant.announced", topic=shown.topic, entities=len(entities))
        self._published, self._before = content, announced

    def _sensors(self, models: set[str], devices: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
        """Return model and device of the sensors to show: those of the last start have a day."""
        for model, found in devices.items():
            for device in found:
                if len(self._heard) <= self._max_sensors:
                    self._heard[model, device] = None
        known = dict(self._heard)
        if self._before is not None and time.monotonic() - self._started_s < _GRACE_S:
            known |= dict.fromkeys(self._before.sensors)
        wanted = [pair for pair in known if pair[0] in models]
        if len(wanted) > self._max_sensors and not self._is_full:
            self._is_full = True
            log.warning("homeassistant.full", most=self._max_sensors)
        return sorted(wanted[: self._max_sensors])
