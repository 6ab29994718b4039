from __future__ import annotations

from pathlib import Path

import pytest
from support.sysfs import Sysfs

from atoll_agent.adapters.edgetpu_devices import Kind, find_devices


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


def test_without_a_driver_there_are_none(sysfs):
    assert find_devices(sysfs.root) == []


def test_a_stick_is_named_by_its_port_before_and_after_it_has_its_firmware(sysfs):
    sysfs.plug_usb("1-2", has_firmware=False)
    [before] = find_devices(sysfs.root)

    sysfs.plug_usb("1-2", has_firmware=True)
    [after] = find_devices(sysfs.root)

    assert before.path == after.path == "/sys/bus/usb/devices/1-2"
    assert (before.has_firmware, after.has_firmware) == (False, True)
    assert before.node != after.node
    assert after.kind is Kind.USB
    assert (after.fault, after.temp_c, after.clock_percent) == (None, None, None)


def test_other_usb_devices_are_none(sysfs):
    sysfs.plug_usb("1-2")
    (sysfs.root / "bus/usb/devices/1-2/idProduct").write_text("0001\n")
    (sysfs.root / "bus/usb/devices/usb1").mkdir()

    assert find_devices(sysfs.root) == []


def test_a_stick_without_a_node_tells_what_a_container_needs(sysfs):
    sysfs.plug_usb("1-2", node=False)

    [found] = find_devices(sysfs.root)

    assert "dev/bus/usb/001/001 is missing here: a container needs" in found.fault


def test_a_module_tells_its_temperature_and_what_that_leaves_of_its_clock(sysfs):
    points = {"trip_point0_temp": "85000", "trip_point1_temp": "90000", "trip_point2_temp": "95000"}
    sysfs.plug_pci(0, temp="61500", **points)
    sysfs.plug_pci(1, temp="90000", **points)
    sysfs.plug_pci(2)

    cool, hot, silent = find_devices(sysfs.root)

    assert (cool.path, cool.temp_c, cool.clock_percent, cool.fault) == ("/dev/apex_0", 61.5, 100, None)
    assert (hot.temp_c, hot.clock_percent) == (90.0, 25)
    assert (silent.temp_c, silent.clock_percent, silent.fault) == (None, None, None)


@pytest.mark.parametrize("facts", [{"temp": "-89700"}, {"status": "DEAD"}])
def test_a_module_that_has_fallen_off_the_bus_is_told(sysfs, facts):
    sysfs.plug_pci(0, **facts)

    [found] = find_devices(sysfs.root)

    assert "fallen off the bus" in found.fault
