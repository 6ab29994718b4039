"""``atoll-agent doctor``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from atoll_agent.commands import add_settings_argument
from atoll_agent.doctor.examination import Examination
from atoll_agent.doctor.finding import Finding, Level
from atoll_agent.doctor.support import support_bundle, vars_of
from atoll_link.exits import Exit
from atoll_link.files import write_whole

_LISTEN_S: Final = 3.0
_EPILOG: Final = """
each line is ok, warning (works with less, or could not be found out) or fault, with what to do.
exit status: 0 without a fault, 4 with one.

Safe beside a running agent: it has a client id of its own, locks nothing and opens no Edge TPU. To see what
the service may do, run it as the service's user: sudo -u atoll atoll-agent doctor
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_settings_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE.zip", help="write a support bundle, without passwords and keys"
    )
    parser.add_argument("--offline", action="store_true", help="leave the broker out")
    parser.add_argument(
        "--listen",
        type=float,
        default=_LISTEN_S,
        metavar="SECONDS",
        help="how long to wait for messages that only others publish (default: %(default)g)",
    )
    parser.add_argument(
        "--sysfs",
        type=Path,
        metavar="DIR",
        help="where sysfs is mounted (default: edgetpu.sysfs_root of the settings)",
    )
    parser.add_argument(
        "--unit",
        default="atoll-agent",
        metavar="NAME",
        help="the systemd unit whose log goes into the bundle (default: %(default)s)",
    )
    parser.set_defaults(log_level="error")  # what is logged is found, too
    parser.epilog = f"{parser.epilog}\n{_EPILOG}"


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print what is found."""
    findings: list[Finding] = []
    examination = Examination(arguments.settings, arguments.sysfs, arguments.listen, arguments.offline)
    for finding in examination.run():
        findings.append(finding)
        if not arguments.json:
            _print(finding)
    counts = {level.value: sum(found.level is level for found in findings) for level in Level}
    if arguments.bundle is not None:
        content = support_bundle(findings, arguments.settings, arguments.sysfs, arguments.unit)
        write_whole(arguments.bundle, content, 0o600)
    if arguments.json:
        print(json.dumps({"findings": [vars_of(found) for found in findings], "counts": counts}))  # noqa: T201
    else:
        print(", ".join(f"{number} {level}" for level, number in counts.items()))  # noqa: T201
        if arguments.bundle is not None:
            print(f"support bundle: {arguments.bundle}")  # noqa: T201
    return Exit.DOCTOR_FOUND_FAULT if counts[Level.FAULT] else Exit.SUCCESS


def _print(finding: Finding) -> None:
    print(f"{finding.level.value:8}{finding.check}: {finding.detail}", flush=True)  # noqa: T201
    if finding.todo:
        print(f"        -> {finding.todo}", flush=True)  # noqa: T201
