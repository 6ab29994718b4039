"""A running agent reads its settings again at SIGHUP."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from support.bundles import make_bundle
from support.reloads import MAPPINGS, reload, reload_under_load, stream_text
from support.site import reading


@pytest.fixture
def mapped_site(mosquitto_broker, make_site):
    site = make_site(mosquitto_broker, streams=stream_text(*MAPPINGS[0]))
    site.trainer.publish(make_bundle(release=1))
    return site


def test_no_reading_is_lost_or_answered_twice_while_the_mapping_changes(mapped_site):
    site = mapped_site
    site.agent.start()
    site.champion(1)
    site.wait_lane()

    outcome = reload_under_load(site.agent, site.broker.port, rate_hz=300, step_s=0.3)

    assert outcome.sent > 600
    assert (outcome.lost, outcome.duplicated) == (0, 0)
    assert min(outcome.by_mapping["a"], outcome.by_mapping["b"]) > 100
    [refused] = site.agent.events("settings.refused")
    assert "agent.toml:13: stream[0].topics[0]: topic 'new/#/{device}'" in refused["faults"][0]


def test_models_come_and_go_and_what_cannot_change_is_refused(mosquitto_site, tmp_path):
    site = mosquitto_site
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        told: list[str] = []

        def hear() -> None:  # all the time: a queue of ten messages is all that the kernel keeps
            while sum(message.startswith("READY=1") for message in told) < 4:
                told.append(manager.recv(4096).decode())

        hearing = threading.Thread(target=hear)
        hearing.start()
        site.trainer.publish(make_bundle(release=1))
        site.trainer.publish(make_bundle("heat", release=1))
        site.agent.start(NOTIFY_SOCKET=str(tmp_path / "notify"))
        site.champion(1)
        site.wait_lane()
        text = site.agent.settings.read_text()
        heat = '[[stream]]\nname = "room"\nvalues = { x = {} }\n[[model]]\nname = "heat"\nstream = "room"\n'

        reload(site.agent, text + heat, "settings.reloaded")
        site.champion(1, "heat")
        site.spy.wait(
            lambda: len(site.agent.events("lane.connected")) == 2, "the connection of the new stream"
        )
        site.send(reading(1), topic="atoll/v1/site/r/reading/room")
        site.spy.wait(site.predictions, "a prediction of the new model")
        reload(site.agent, text.replace('site = "site"', 'site = "other"'), "settings.refused")
        site.spy.wait(lambda: "restart it" in (site.status().detail or ""), "a note in the status")
        reload(site.agent, text, "settings.reloaded")
        site.spy.wait(lambda: site.spy.on("/slot/heat")[-1].payload == b"", "the slot to be cleared")
        site.spy.wait(
            lambda: [event["stream"] for event in site.agent.events("session.ended")] == ["room"],
            "the end of the session of the stream that is gone",
        )
        site.spy.wait(lambda: "not reloaded" not in (site.status().detail or ""), "the note to go")
        hearing.join(60)

    assert [event["changes"] for event in site.agent.events("settings.reloaded")] == [
        ["stream room added", "model heat added"],
        ["stream room removed", "model heat removed"],
    ]
    begun = [message for message in told if message.startswith("RELOADING=1")]
    assert len(begun) == 3
    now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    stamps = [int(message.split("MONOTONIC_USEC=")[1].split("\n")[0]) for message in begun]
    assert now_us - 120_000_000 < stamps[0] < stamps[1] < stamps[2] < now_us
    assert [message for message in told if message.startswith(("READY", "RELOADING"))][1:] == [
        message for pair in zip(begun, ["READY=1"] * 3, strict=True) for message in pair
    ]
