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
        qos: Of the readings, and of the answers.
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
        agents: How many agents share the readings.
        slow_rate: Readings per second for a second, slow model of the same agent.
        kills: How often the agent is killed in the span.
        is_released: Whether a release is announced at the begin of the span, which must be swapped in
            before its end.
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
    agents: int = 1
    slow_rate: int = 0
    kills: int = 0
    is_released: bool = False


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
SHARED = (
    Case("shared", "two agents, QoS 0", variant="shared", agents=2, only_atoll=True, base="qos0"),
    Case("heavy", "one agent, a model of 0.25 ms", variant="heavy", window=200, only_atoll=True),
    Case(
        "heavy-shared",
        "two agents, a model of 0.25 ms",
        variant="heavy-shared",
        window=200,
        agents=2,
        only_atoll=True,
        base="heavy",
    ),
)
BESIDE = (
    Case(
        "slow",
        "beside a model of 50 ms at 10 readings/s",
        rate=1000,
        seconds=5.0,
        variant="slow",
        slow_rate=10,
        only_atoll=True,
        base="rate-1000",
    ),
    Case(
        "release",
        "while a release of 5 MB is fetched, tested and swapped in",
        rate=1000,
        seconds=8.0,
        variant="release",
        is_released=True,
        only_atoll=True,
        base="rate-1000",
    ),
)
KILLS = (
    Case(
        "kills",
        "agent killed ten times, 500 readings/s at QoS 1",
        rate=500,
        qos=1,
        inflight=20,
        seconds=22.0,
        kills=10,
        only_atoll=True,
    ),
)
GROUPS = {"base": BASE, "variants": VARIANTS, "shared": SHARED, "beside": BESIDE, "kills": KILLS}
CASES = {case.name: case for group in GROUPS.values() for case in group}
