"""What is measured: each case is one kind of load on one kind of broker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One kind of load.

    Attributes:
        name: For ``--cases`` and the result.
        title: For people.
        broker: ``mosquitto``, or ``stub``: one that costs next to nothing.
        qos: Of the readings, and of the answers where a system can choose.
        inflight: Most QoS 1 messages in flight, at the broker and in the clients; 0 is no limit.
        rate: Readings per second in an open loop; 0: a closed loop with ``window`` outstanding.
        window: See ``rate``.
        seconds: Length of the measured span; 0: no load, the idle system is measured.
        devices: How many devices send.
        values: Numbers in a reading.
        prime: Readings per device before the load, to fill windows.
        dialect: ``atoll``, or ``nested``: another make's JSON, read with pointers.
        is_tls: Whether the system speaks TLS; the load generator does not.
        variant: Settings and model of atoll, see ``enrolled.py``.
        only_atoll: Whether the other systems cannot do it.
        base: The case it is compared with.
    """

    name: str
    title: str
    broker: str = "mosquitto"
    qos: int = 0
    inflight: int = 0
    rate: int = 0
    window: int = 1000
    seconds: float = 3.0
    devices: int = 50
    values: int = 8
    prime: int = 0
    dialect: str = "atoll"
    is_tls: bool = False
    variant: str = "base"
    only_atoll: bool = False
    base: str = ""


BASE = (
    Case("qos0", "closed loop, QoS 0"),
    Case("qos1-20", "closed loop, QoS 1, 20 in flight", qos=1, inflight=20),
    Case("qos1-off", "closed loop, QoS 1, no limit in flight", qos=1),
    Case("rate-100", "100 readings/s", rate=100, seconds=10.0),
    Case("rate-1000", "1,000 readings/s", rate=1000, seconds=5.0),
    Case("rate-5000", "5,000 readings/s", rate=5000, seconds=4.0),
    Case("rate-1000-qos1", "1,000 readings/s at QoS 1", rate=1000, qos=1, seconds=5.0),
    Case("idle", "connected, no readings", seconds=0.0),
    Case("stub-qos0", "stub broker, QoS 0", broker="stub"),
    Case("stub-qos1", "stub broker, QoS 1", broker="stub", qos=1),
)
VARIANTS = (
    Case("tls", "TLS, QoS 0", is_tls=True, only_atoll=True, base="qos0"),
    Case("tls-qos1", "TLS, QoS 1", is_tls=True, qos=1, only_atoll=True, base="qos1-off"),
    Case(
        "window",
        "windows of 64x3, QoS 0",
        values=3,
        prime=64,
        variant="window",
        only_atoll=True,
        base="qos0",
    ),
    Case(
        "nested",
        "pointers into a nested payload, QoS 0",
        dialect="nested",
        variant="nested",
        only_atoll=True,
        base="qos0",
    ),
    Case("devices", "10,000 devices, QoS 0", devices=10_000, prime=1, only_atoll=True, base="qos0"),
    Case(
        "window-devices",
        "10,000 devices with windows of 64x3, QoS 0",
        devices=10_000,
        values=3,
        prime=64,
        variant="window",
        only_atoll=True,
        base="window",
    ),
)
CASES = {case.name: case for case in (*BASE, *VARIANTS)}
