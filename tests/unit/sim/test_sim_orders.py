"""Which commands a simulated device obeys."""

from __future__ import annotations

import pytest
from numpy.random import SeedSequence

from atoll_contract.errors import PeerError, Reason
from atoll_contract.messages import Command
from atoll_contract.topics import CommandTopic
from atoll_sim.device import Device, DevicePlan
from atoll_sim.orders import Order, Reboot, Sleep, ordered
from atoll_sim.signals import Constant
from atoll_sim.truth import Truth

NOW_MS = 1_730_000_000_000.0
TRUTH = Truth(model="wear", slope={"x": 2.0, "slope_y": 1.0}, intercept=1.0)
SIGNALS = {"x": Constant(mean=1.0), "slope_y": Constant(mean=1.0)}
DEVICES = {
    name: Device(DevicePlan(name, "press", 1.0, 1, SIGNALS, (), truth), SeedSequence(1))
    for name, truth in {"press-1": TRUTH, "dumb-1": None}.items()
}
PAYLOAD = Command(expires_ms=NOW_MS + 1000, arguments={"slope_x": 3.0, "intercept": -1.0}).encode()


def decide(
    payload: bytes = PAYLOAD,
    *,
    writer: str = "demo",
    device: str = "press-1",
    name: str = "truth",
    is_retained: bool = False,
    now_ms: float = NOW_MS,
) -> Order:
    return ordered(
        str(CommandTopic("plant-a", writer, device, name)),
        payload,
        is_retained=is_retained,
        now_ms=now_ms,
        devices=DEVICES,
        trusted_writers={"demo"},
    )


def arguments(**given: float | str | bool) -> bytes:
    return Command(expires_ms=NOW_MS + 1000, arguments=given).encode()


def test_a_command_of_a_trusted_writer_changes_what_it_names_and_nothing_else() -> None:
    device, truth = decide()

    assert device is DEVICES["press-1"]
    assert truth == Truth(model="wear", slope={"x": 3.0, "slope_y": 1.0}, intercept=-1.0)


def test_deciding_changes_nothing_yet() -> None:
    decide()

    assert DEVICES["press-1"].truth is TRUTH


def test_a_signal_may_be_named_like_an_argument() -> None:
    assert decide(arguments(slope_slope_y=5.0))[1].slope == {"x": 2.0, "slope_y": 5.0}


def test_noise_may_be_commanded() -> None:
    assert decide(arguments(noise=0.5))[1].noise == 0.5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"writer": "stranger"}, Reason.UNTRUSTED_WRITER),
        ({"writer": "press-1"}, Reason.UNTRUSTED_WRITER),
        ({"is_retained": True}, Reason.RETAINED),
        ({"now_ms": NOW_MS + 1000}, Reason.EXPIRED),
        ({"name": "dance"}, Reason.MALFORMED_TOPIC),
        ({"device": "press-9"}, Reason.MALFORMED_TOPIC),
        ({"device": "dumb-1"}, Reason.MALFORMED_TOPIC),
        ({"payload": b""}, Reason.MALFORMED_PAYLOAD),
        ({"payload": b"\xff"}, Reason.MALFORMED_PAYLOAD),
        ({"payload": b'{"arguments": {"slope_x": 3}}'}, Reason.MALFORMED_PAYLOAD),
        ({"payload": b" " * 300_000}, Reason.TOO_LARGE),
        ({"payload": arguments()}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_z=1.0)}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(x=1.0)}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_x="3")}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_x=True)}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_x=1e300)}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_x=3.0, noise=-1.0)}, Reason.MALFORMED_PAYLOAD),
        ({"payload": arguments(slope_x=3.0, intercept="low")}, Reason.MALFORMED_PAYLOAD),
    ],
)
def test_other_commands_are_refused_by_reason(changes: dict[str, object], reason: Reason) -> None:
    with pytest.raises(PeerError) as refusal:
        decide(**changes)  # type: ignore[arg-type]

    assert refusal.value.reason is reason


def test_a_device_sleeps_and_reboots_when_it_is_told_to() -> None:
    asleep = Command(expires_ms=NOW_MS + 1000, value=30.0).encode()

    assert decide(asleep, name="sleep", device="dumb-1") == Order(DEVICES["dumb-1"], Sleep(30.0))
    assert decide(asleep, name="reboot") == Order(DEVICES["press-1"], Reboot())


@pytest.mark.parametrize("value", [None, True, "30", 0.0, -1.0, 1e12])
def test_a_sleep_that_is_no_time_is_refused(value) -> None:
    with pytest.raises(PeerError, match="sleep"):
        decide(Command(expires_ms=NOW_MS + 1000, value=value).encode(), name="sleep")


def test_a_topic_that_is_no_command_is_refused() -> None:
    with pytest.raises(PeerError) as refusal:
        ordered(
            "atoll/v1/plant-a/demo/status",
            PAYLOAD,
            is_retained=False,
            now_ms=NOW_MS,
            devices=DEVICES,
            trusted_writers={"demo"},
        )

    assert refusal.value.reason is Reason.MALFORMED_TOPIC
