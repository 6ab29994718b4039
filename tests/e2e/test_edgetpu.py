"""A real agent whose model runs on the stand-in for an Edge TPU, and what that may do to it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import edgetpu_stub
from support.bundles import make_bundle
from support.reloads import reload
from support.site import Site, reading
from support.sysfs import Sysfs

from atoll_contract.messages import Health, Quality


@pytest.fixture
def stick(tmp_path: Path) -> Sysfs:
    sysfs = Sysfs(tmp_path)
    sysfs.plug_usb("1-1")
    return sysfs


@pytest.fixture
def control(tmp_path: Path) -> Path:
    path = tmp_path / "control"
    path.write_text("")
    return path


@pytest.fixture
def tpu_site(mosquitto_broker, make_site, stick, control) -> Site:
    models = (
        '[[model]]\nname = "wear"\nstream = "press"\naccelerator = "edgetpu"\n'
        f'[edgetpu]\nlibrary = "{edgetpu_stub.build()}"\nsysfs_root = "{stick.root}"\n'
        "deadline_s = 2.0\nrestarts_per_minute = 1\nreturn_after_s = 1.0\n"
    )
    site = make_site(mosquitto_broker, models=models)
    bundle = make_bundle(file="linear_int8")
    site.trainer.publish(replace(bundle, model_edgetpu=edgetpu_stub.fold(bundle.model)))
    site.agent.start(EDGETPU_STUB_CONTROL=str(control))
    site.champion(1)
    site.wait_lane()
    return site


def ask(site: Site, number: int) -> bool:
    """Send a reading; return whether its prediction, which must come, is degraded."""
    before = len(site.predictions())
    site.send(reading(number))
    site.spy.wait(lambda: len(site.predictions()) > before, "a prediction")
    prediction = site.predictions()[-1]
    assert prediction.seq == number
    assert prediction.value == pytest.approx(7.0, abs=0.4)
    return Quality.DEGRADED in (prediction.quality or [])


def ask_until(site: Site, number: int, *, is_degraded: bool) -> int:
    """Send readings until one is answered by the CPU, or by the device again; return the next number."""
    deadline = time.monotonic() + 40
    while ask(site, number) is not is_degraded:
        assert time.monotonic() < deadline, f"never is_degraded={is_degraded}"
        number += 1
    return number + 1


def test_readings_are_answered_through_every_fault_of_the_device_and_it_comes_back(tpu_site, stick, control):
    site = tpu_site
    slot = site.champion(1)
    number = ask_until(site, 1, is_degraded=False)

    for fault in ("abort", "hang", "abort"):  # more than the budget of restarts
        control.write_text(fault)
        number = ask_until(site, number, is_degraded=True)
        number = ask_until(site, number, is_degraded=False)
    control.write_text("gone")
    stick.unplug_usb("1-1")
    number = ask_until(site, number, is_degraded=True)
    degraded = site.spy.wait(
        lambda: (status := site.status()) and status.health is Health.DEGRADED and status, "a degraded agent"
    )
    control.write_text("")
    stick.plug_usb("1-1")
    number = ask_until(site, number, is_degraded=False)
    ready = site.spy.wait(
        lambda: (status := site.status()) and status.counts.get("predictions") == number - 1 and status,
        "an agent that has counted all",
    )

    text = site.agent.settings.read_text()
    reload(site.agent, text.replace('accelerator = "edgetpu"', 'accelerator = "cpu"'), "settings.reloaded")
    site.spy.wait(lambda: "the settings demand the CPU" in site.slot().champion.why, "the CPU in the slot")
    assert not ask(site, number)

    assert slot.champion.backend.endswith("Edge TPU /sys/bus/usb/devices/1-1")
    assert "the CPU answers for wear" in degraded.detail
    assert ready.health is Health.READY
    assert ready.counts["edgetpu_failures"] == 4
    assert ready.counts["readings"] == number - 1
    assert len(site.predictions()) == number
    assert ready.counts["edgetpu_degraded"] > 0
    assert ready.counts["connections"] == 1
    assert [event["return_after_s"] for event in site.agent.events("accelerator.rested")] == [1.0]
    assert site.agent.stop() == 0
