"""Releases on trial: a real agent, live readings and labels, and releases that disappoint."""

from __future__ import annotations

import json

import pytest
from support.bundles import make_bundle
from support.site import Site, reading

from atoll_contract.errors import Reason
from atoll_contract.manifest import OutputSpec, PassRules
from atoll_contract.messages import SlotStatus

OFF_BY_TEN = OutputSpec(offset=10.0)
"""Of a release that predicts 10 more than the champion."""

LABEL = "atoll/v1/site/press-1/label/press-1/wear"
SLOT = "/slot/wear"


def label(number: int, value: float) -> bytes:
    return json.dumps({"time_ms": number, "value": value}).encode()


@pytest.fixture
def running(mosquitto_site) -> Site:
    """An agent with release 1 as its champion."""
    site = mosquitto_site
    site.trainer.publish(make_bundle(release=1))
    site.agent.start()
    site.champion(1)
    site.wait_lane()
    return site


def feed(site: Site, numbers: range, truth: float | None = None) -> None:
    for number in numbers:
        site.send(reading(number))
        if truth is not None:
            site.send(label(number, truth), topic=LABEL)


def phase(site: Site) -> str | None:
    slot = site.slot()
    return slot.challenger.phase if slot and slot.challenger else None


def phases(site: Site, *, since: int) -> set[str]:
    """Return all phases that the slot has told of since it had been heard of so often."""
    slots = [SlotStatus.decode(item.payload) for item in site.spy.on(SLOT)[since:]]
    return {slot.challenger.phase for slot in slots if slot.challenger}


def test_a_good_release_goes_through_shadow_and_probation_and_no_reading_is_lost(running):
    site = running
    rules = PassRules(shadow_windows=20, probation_windows=20, max_disagreement=0.5)
    site.trainer.publish(make_bundle(release=2, passing=rules))
    site.spy.wait(lambda: phase(site) == "shadow", "shadow", 60)

    feed(site, range(20))
    site.spy.wait(lambda: phase(site) == "probation", "probation")
    feed(site, range(20, 40))
    site.champion(2)
    feed(site, range(40, 50))

    site.spy.wait(lambda: len(site.predictions()) == 50, "all predictions")
    releases = [prediction.release for prediction in site.predictions()]
    assert [prediction.seq for prediction in site.predictions()] == list(range(50))
    assert releases[:20] == [1] * 20
    assert releases == sorted(releases)
    assert releases[-10:] == [2] * 10


def test_a_release_that_is_worse_on_live_labels_is_stopped_in_shadow(running):
    site = running
    rules = PassRules(shadow_windows=1000, probation_windows=10, min_labels=5, max_error_ratio=1.5)
    site.trainer.publish(make_bundle(release=2, passing=rules, output=OFF_BY_TEN))
    site.spy.wait(lambda: phase(site) == "shadow", "shadow", 60)

    feed(site, range(30), truth=7.5)

    slot = site.refused(2)
    assert slot.refused.reason is Reason.ERROR_TOO_LARGE
    assert slot.refused.detail.startswith("shadow: ")
    feed(site, range(30, 32))
    site.spy.wait(lambda: len(site.predictions()) == 32, "all predictions")
    assert {prediction.release for prediction in site.predictions()} == {1}


def test_a_release_that_breaks_its_rules_on_probation_is_taken_back_and_never_tried_again(running):
    site = running
    rules = PassRules(shadow_windows=5, probation_windows=1000, high=50.0)
    site.trainer.publish(make_bundle(release=2, passing=rules))
    site.spy.wait(lambda: phase(site) == "shadow", "shadow", 60)
    feed(site, range(5))
    site.spy.wait(lambda: phase(site) == "probation", "probation")

    feed(site, range(5, 10))
    site.send(reading(10, x=1000.0))
    assert site.refused(2).refused.reason is Reason.OUTPUT_OUT_OF_RANGE
    feed(site, range(11, 15))

    site.spy.wait(lambda: len(site.predictions()) == 15, "all predictions")
    by_seq = {prediction.seq: prediction.release for prediction in site.predictions()}
    assert [by_seq[seq] for seq in range(11)] == [1] * 5 + [2] * 6
    assert [by_seq[seq] for seq in range(11, 15)] == [1] * 4
    assert site.agent.stop() == 0
    site.agent.start()
    site.wait_lane()
    assert site.slot().champion.release == 1
    assert phase(site) is None


@pytest.mark.parametrize("at", [pytest.param("shadow", marks=pytest.mark.long), "probation"])
def test_a_restart_on_trial_leads_back_to_the_champion_and_the_trial_begins_anew(running, at):
    site = running
    rules = PassRules(shadow_windows=5, probation_windows=5)
    site.trainer.publish(make_bundle(release=2, passing=rules))
    site.spy.wait(lambda: phase(site) == "shadow", "shadow", 60)
    if at == "probation":
        feed(site, range(5))
        site.spy.wait(lambda: phase(site) == "probation", "probation")

    heard = len(site.spy.on(SLOT))
    site.agent.kill()
    site.send(reading(100))
    site.agent.start()
    # That does not last for long.
    site.spy.wait(lambda: "announced" in phases(site, since=heard), "the new start")
    site.spy.wait(lambda: phase(site) == "shadow", "shadow again", 60)
    feed(site, range(101, 106))
    site.spy.wait(lambda: phase(site) == "probation", "probation again")
    feed(site, range(106, 112))

    site.champion(2)
    by_seq = {prediction.seq: prediction.release for prediction in site.predictions()}
    assert by_seq[100] == 1


def test_a_release_that_is_superseded_on_trial_leaves_for_the_next_one(running):
    site = running
    site.trainer.publish(make_bundle(release=2, passing=PassRules(shadow_windows=1000)))
    site.spy.wait(lambda: phase(site) == "shadow", "shadow", 60)

    site.trainer.publish(make_bundle(release=3))

    site.champion(3)
    site.send(reading(1))
    site.spy.wait(lambda: [p.release for p in site.predictions()] == [3], "a prediction of release 3")
