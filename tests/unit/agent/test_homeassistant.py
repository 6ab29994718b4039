from __future__ import annotations

import json

import pytest

from atoll_agent.supervisor import homeassistant
from atoll_agent.supervisor.discovery import Shown
from atoll_agent.supervisor.homeassistant import HomeAssistant
from atoll_contract.messages import Challenge, Champion, SlotStatus
from atoll_contract.requests import Request
from atoll_link.session import Delivery

SHA = "0" * 64
SHOWN = Shown("site", "pi", "1.0", "homeassistant", "homeassistant", None)
TOPIC = "homeassistant/device/atoll_site_pi/config"


class Notebook:
    """Implements ``ports.Notes`` in memory."""

    def __init__(self) -> None:
        self.noted = None

    def read(self):
        return self.noted

    def write(self, announced) -> None:
        self.noted = announced

    def delete(self) -> None:
        self.noted = None


class Home:
    """Home Assistant's side: what it was told, and the entities that it has."""

    def __init__(self) -> None:
        self.notes = Notebook()
        self.told: list[tuple[str, bytes]] = []
        self.entities: dict[str, dict] = {}

    def start(self, shown=SHOWN, max_sensors=10) -> HomeAssistant:
        return HomeAssistant(shown, self.notes, max_sensors=max_sensors)

    def take(self, topic, payload) -> None:
        self.told.append((topic, payload))
        if not payload:
            self.entities.clear()
            return
        for key, entity in json.loads(payload)["components"].items():
            if entity.keys() == {"platform"}:
                self.entities.pop(key, None)
            else:
                self.entities[key] = entity


def slot(model="wear", **more) -> SlotStatus:
    return SlotStatus(model=model, time_ms=1.0, **more)


def champion(**more) -> Champion:
    return Champion(release=3, sha256=SHA, backend="CPU", **({"task": "regression"} | more))


def test_each_model_has_an_update_and_each_of_its_devices_a_sensor():
    home = Home()

    home.start().announce([slot(champion=champion(unit="mm"))], {"wear": ["a", "Hall--20b"]}, home.take)

    assert [topic for topic, _ in home.told] == [TOPIC]
    assert home.entities.keys() == {"update.wear", "sensor.wear.a", "sensor.wear.Hall--20b"}
    sensor = home.entities["sensor.wear.Hall--20b"]
    assert (sensor["name"], sensor["unit_of_measurement"]) == ("wear Hall b", "mm")
    assert sensor["state_topic"] == "atoll/v1/site/pi/prediction/Hall--20b/wear"


def test_a_classifier_shows_its_label():
    home = Home()
    labels = ["good", "bad"]

    home.start().announce(
        [slot(champion=champion(task="classification", labels=labels))], {"wear": ["a"]}, home.take
    )

    sensor = home.entities["sensor.wear.a"]
    assert (sensor["device_class"], sensor["options"]) == ("enum", labels)
    assert "state_class" not in sensor


def test_the_button_is_there_as_long_as_there_is_a_delay_to_skip():
    home = Home()
    agent = home.start()
    waiting = Challenge(release=4, sha256=SHA, phase="announced", start_ms=9000.0)

    agent.announce([slot(challenger=waiting)], {}, home.take)
    entity = dict(home.entities["update.wear"])
    agent.announce([slot(challenger=Challenge(release=4, sha256=SHA, phase="fetching"))], {}, home.take)

    assert entity["command_topic"] == "atoll/v1/site/homeassistant/request/pi/skip_delay"
    request = Request.decode(entity["payload_install"].encode())
    assert (request.expires_ms, request.arguments) == (9000.0, {"model": "wear", "release": 4.0})
    assert "command_topic" not in home.entities["update.wear"]


def test_without_trust_there_is_no_button():
    home = Home()
    waiting = Challenge(release=4, sha256=SHA, phase="announced", start_ms=9000.0)

    home.start(Shown("site", "pi", "1.0", "homeassistant", None, 60)).announce(
        [slot(challenger=waiting)], {"wear": ["a"]}, home.take
    )

    assert "command_topic" not in home.entities["update.wear"]
    assert home.entities["sensor.wear.a"]["expire_after"] == 60


def test_what_has_not_changed_is_not_told_again_unless_it_starts_again():
    home = Home()
    agent = home.start()

    for is_again in (False, False, True):
        agent.announce([slot()], {"wear": ["a"]}, home.take, is_again=is_again)

    assert len(home.told) == 2


def test_a_model_that_left_the_settings_is_taken_back_and_then_forgotten():
    home = Home()
    home.start().announce([slot("old"), slot("wear")], {"old": ["a"], "wear": ["a"]}, home.take)

    home.start().announce([slot("wear")], {"wear": ["a"]}, home.take)

    assert home.entities.keys() == {"update.wear", "sensor.wear.a"}
    assert b"old" not in home.told[-1][1]
    assert home.notes.noted.platforms.keys() == home.entities.keys()


def test_devices_of_the_last_start_are_shown_for_a_day_until_they_are_heard(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(homeassistant.time, "monotonic", lambda: now[0])
    home = Home()
    home.start().announce([slot()], {"wear": ["a", "b"]}, home.take)

    # another start: a is heard again, b is not, for a day and a second
    agent = home.start()
    agent.announce([slot()], {}, home.take)
    before = set(home.entities)
    now[0] = 86_401.0
    agent.announce([slot()], {"wear": ["a"]}, home.take)

    assert before == {"update.wear", "sensor.wear.a", "sensor.wear.b"}
    assert home.entities.keys() == {"update.wear", "sensor.wear.a"}


@pytest.mark.parametrize("shown", [None, Shown("site", "other", "1.0", "homeassistant", None, None)])
def test_switched_off_or_under_another_name_the_old_announcement_is_taken_back(shown):
    home = Home()
    home.start().announce([slot()], {}, home.take)

    home.start(shown).announce([slot()], {}, home.take)

    assert (TOPIC, b"") in home.told
    assert (home.notes.noted is None) == (shown is None)


def test_there_are_no_more_sensors_than_may_be():
    home = Home()
    agent = home.start(max_sensors=2)

    for number in range(5):
        agent.announce([slot()], {"wear": [f"d{number}"]}, home.take)

    assert home.entities.keys() == {"update.wear", "sensor.wear.d0", "sensor.wear.d1"}


def test_off_it_says_and_hears_nothing():
    home = Home()
    agent = home.start(None)

    agent.announce([slot()], {"wear": ["a"]}, home.take)

    assert (home.told, agent.topic_filters) == ([], [])


def test_only_a_word_of_now_is_a_birth():
    agent = Home().start()

    def said(payload, topic="homeassistant/status", *, is_retained=False) -> bool:
        return agent.is_birth(Delivery(topic, payload, 1, 1, False, is_retained, 1, 0.0, 0))

    assert [said(b"online"), said(b"offline"), said(b"online", is_retained=True), said(b"online", "x")] == [
        True,
        False,
        False,
        False,
    ]
