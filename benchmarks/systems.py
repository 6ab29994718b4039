"""The systems under test: each subscribes to the readings and answers each with one message."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cases import Case
from enrolled import Enrolled
from native import Programs

HERE = Path(__file__).parent
MODEL = HERE / "models" / "mlp8.tflite"


@dataclass(frozen=True)
class Start:
    """How a process is started: command line and what is added to its environment."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """What a system needs to be started.

    Attributes:
        case: The case.
        port: Port of the broker, with TLS if the case says so.
        programs: The programs in C.
        enrolled: The agent of the case's variant, if it was prepared.
        folder: Where it may write; gone after the run.
    """

    case: Case
    port: int
    programs: Programs
    enrolled: Enrolled | None
    folder: Path


AS_ON_A_DEVICE = """\
import sys
sys.modules["rich"] = None
from atoll_agent.cli import main
sys.exit(main())
"""
"""The plain install is without ``rich``, which trainer and simulator bring and structlog then imports."""


@dataclass(frozen=True)
class System:
    """A system under test.

    Attributes:
        name: For ``--systems`` and the result.
        title: For people.
        starts: How its processes are started; of no process, the load generator gets its own readings back.
        rest_s: It has come to rest when it did nothing for so long.
        hold_out: Connections whose client id contains this get no answer from the stub broker.
        program: The program in C that it needs.
    """

    name: str
    title: str
    starts: Callable[[Surroundings], list[Start]]
    rest_s: float = 0.3
    hold_out: str = ""
    program: str = ""

    def can(self, case: Case) -> bool:
        """Whether ``case`` makes sense for it."""
        if self.name == "nobody":
            return case.broker == "mosquitto" and case.seconds > 0 and not case.only_atoll
        return self.name == "atoll" or not case.only_atoll


def _numbers(given: Surroundings) -> list[str]:
    return [str(given.port), str(given.case.qos), str(given.case.inflight)]


def _libmosquitto(given: Surroundings) -> list[Start]:
    return [Start([str(given.programs["echo_libmosquitto"]), *_numbers(given)])]


def _script(name: str, *more: str) -> Callable[[Surroundings], list[Start]]:
    path = str(HERE / "systems" / name)
    return lambda given: [Start([sys.executable, path, *_numbers(given), *more])]


def _atoll(given: Surroundings) -> list[Start]:
    if given.enrolled is None:
        raise ValueError(f"no agent was prepared for {given.case.variant}")
    return [_agent(given, given.enrolled, number) for number in range(given.case.agents)]


def _agent(given: Surroundings, enrolled: Enrolled, number: int) -> Start:
    agent = "sut" if number == 0 else f"sut{number}"
    state = given.folder / f"state-{agent}"
    # Every run starts with the state after enrolment, and what it does to it is lost.
    shutil.copytree(enrolled.state, state)
    environment = {
        "ATOLL_BROKER__PORT": str(given.port),
        "ATOLL_AGENT__ID": agent,
        "ATOLL_AGENT__STATE_DIR": str(state),
    }
    if given.case.is_tls:
        environment |= {"ATOLL_BROKER__TLS": "true", "ATOLL_BROKER__CA_FILE": str(enrolled.certificate)}
    return Start(
        [sys.executable, "-c", AS_ON_A_DEVICE, "run", "--settings", str(enrolled.settings)], environment
    )


SYSTEMS = {
    system.name: system
    for system in (
        System("libmosquitto", "C, libmosquitto, echo", _libmosquitto, program="echo_libmosquitto"),
        System("paho", "paho, echo", _script("echo_paho.py")),
        System("plain", "plain script: paho, json, numpy, TFLite", _script("plain_script.py", str(MODEL))),
        System("gmqtt", "plain script on gmqtt", _script("gmqtt_script.py", str(MODEL))),
        # It asks for releases half a second after it has connected: a shorter rest would miss that.
        System("atoll", "atoll, the full agent", _atoll, rest_s=1.0, hold_out="-control-"),
        System(
            "plain-nagle",
            "plain script without TCP_NODELAY",
            _script("plain_script.py", str(MODEL), "nagle"),
        ),
        System("nobody", "broker and load generator alone", lambda _: []),
    )
}
DEFAULT = ("libmosquitto", "paho", "plain", "gmqtt", "atoll", "nobody")
YARDSTICK = "libmosquitto"
