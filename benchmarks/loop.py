"""Drift of simulated devices, from the change to the release that fits it, with all programs as processes.

Three devices of 15 readings a second, labelled 0.2 s later, three agents that answer all of them, and
``atoll-trainer run``. The truth changes at once; then nothing changes for as long as that took to be learnt;
then it changes slowly, over two minutes. `make bench-loop`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from support import brokers
from support.spy import Spy
from support.town import Town, first_release

from atoll_contract.drift import DriftReport
from atoll_contract.messages import Label, decode_prediction
from atoll_contract.topics import DriftTopic, LabelTopic, PredictionTopic, parse

AGENTS = ("pi-1", "pi-2", "pi-3")
DEADLINE_S = 900.0
TAIL_S = 15.0
STEPS = 60
GOOD = 0.1
"""Mean absolute error of a release that fits; the noise alone makes 0.04."""
LOOP = {
    "fresh_s": 10.0,
    "watch_s": 5.0,
    "cool_down_s": 5.0,
    "canary_percent": 10,
}


@dataclass
class Ear:
    """Everything that was said, paired."""

    town: Town
    spy: Spy

    def errors(self, since_ms: float, until_ms: float) -> list[float]:
        """Return the absolute errors of all agents on readings of that time."""
        truths: dict[tuple[str, float], float] = {}
        predictions: list[tuple[str, float, float]] = []
        for one in list(self.spy.deliveries):
            match parse(one.topic):
                case LabelTopic() as topic:
                    label = Label.decode(one.payload)
                    truths[topic.device, label.time_ms or 0.0] = label.value
                case PredictionTopic() as topic:
                    said = decode_prediction(one.payload)
                    if since_ms <= said.time_ms < until_ms:
                        predictions.append((topic.device, said.time_ms, said.value))
                case _:
                    pass
        return [
            abs(truths[device, time_ms] - value)
            for device, time_ms, value in predictions
            if (device, time_ms) in truths
        ]

    def error(self, since_ms: float, until_ms: float) -> float | None:
        found = self.errors(since_ms, until_ms)
        return round(statistics.fmean(found), 4) if found else None

    def alarms(self, since_ms: float, until_ms: float) -> int:
        """Return how many drift reports of that time tell of drift."""
        return sum(one.drifting for one in self._reports(since_ms, until_ms))

    def reports(self, since_ms: float, until_ms: float) -> int:
        """Return how many drift reports there were in that time."""
        return len(self._reports(since_ms, until_ms))

    def _reports(self, since_ms: float, until_ms: float) -> list[DriftReport]:
        return [
            DriftReport.decode(one.payload)
            for one in list(self.town.spy.deliveries)
            if isinstance(parse(one.topic), DriftTopic) and since_ms <= one.arrival_ms < until_ms
        ]


def now_ms() -> float:
    return time.time() * 1e3


def wait(town: Town, fact: Callable[[], Any], what: str) -> float:
    """Return when ``fact`` has become true."""
    town.spy.wait(fact, what, DEADLINE_S)
    return now_ms()


def any_drifts(town: Town) -> bool:
    return any((report := town.drift(name)) and report.drifting for name in AGENTS)


def newest(town: Town) -> int:
    return max(release or 0 for release in town.champions().values())


def has_newer(town: Town, release: int) -> bool:
    return newest(town) > release


def lines(town: Town) -> list[str]:
    """Return the whole lines of the loop's log."""
    return town.log("loop").rpartition("\n")[0].splitlines()


def turns_of(town: Town, since: int) -> list[str]:
    """Return what came of each training since so many lines of the loop's log: its cause and the end."""
    found, cause = [], ""
    for line in map(json.loads, lines(town)[since:]):
        if line["event"] == "loop.advanced" and line["phase"] == "training":
            cause = line["cause"]
        elif line["event"] == "loop.advanced" and line["phase"] == "idle" and line["before"] != "collecting":
            found.append(f"{cause}: {line['detail']}")
    return found


def rest(seconds: float) -> None:
    """Let the world go on for so long: this is a measurement."""
    time.sleep(seconds)


def follow(town: Town, ear: Ear, change: Callable[[], None]) -> dict[str, Any]:
    """Let the world change, and follow what comes of it until the error is good again."""
    release, seen = newest(town), len(lines(town))
    rest(TAIL_S)
    started_ms = now_ms()
    before = ear.error(started_ms - TAIL_S * 1e3, started_ms - 500)
    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    drifting_ms = wait(town, lambda: any_drifts(town), "drift")
    training_ms = wait(town, lambda: town.phase() not in {"idle", "collecting"}, "a training")
    first_ms = wait(town, lambda: newest(town) > release, "a new release on one agent")
    all_ms = 0.0
    while True:
        number = newest(town)
        all_ms = wait(town, partial(town.all_run, number), f"release {number} on all")
        wait(town, town.ended, "the end of the turn")
        changing.join()
        changed_ms = max(all_ms, now_ms())
        rest(TAIL_S)
        after = ear.error(changed_ms, now_ms() - 500)
        if is_good(after) or now_ms() - started_ms > DEADLINE_S * 1e3:
            break
        wait(town, partial(has_newer, town, number), "a better release")
    return {
        "error_before": before,
        "drift_told_s": round((drifting_ms - started_ms) / 1e3, 1),
        "training_begun_s": round((training_ms - started_ms) / 1e3, 1),
        "on_one_agent_s": round((first_ms - started_ms) / 1e3, 1),
        "on_all_agents_s": round((all_ms - started_ms) / 1e3, 1),
        "turns": turns_of(town, seen),
        "error_until_then": ear.error(started_ms, all_ms),
        "error_after": after,
    }


def slowly(town: Town, over_s: float) -> None:
    """Let slope and intercept go from 3 and -1 to 1 and 0 in small steps."""
    for step in range(1, STEPS + 1):
        share = step / STEPS
        town.change_truth(slope_x=3.0 - 2.0 * share, intercept=-1.0 + share)
        rest(over_s / STEPS)


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet", type=float, default=60.0, help="least seconds without a change")
    parser.add_argument("--slow", type=float, default=120.0, help="seconds that the slow change takes")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            brokers.mosquitto(folder / "broker") as broker,
            Town(folder, broker, *AGENTS, **LOOP) as town,
            Spy(broker.port, LabelTopic.any_of(), PredictionTopic.any_of(), client_id="ear") as spy,
        ):
            town.trainer.publish(first_release())
            town.start_agents()
            wait(town, lambda: town.all_run(1), "release 1")
            town.start_devices()
            town.start_loop()
            ear = Ear(town, spy)
            found: dict[str, Any] = {"agents": len(AGENTS), "loop": LOOP}
            wait(town, lambda: town.labelled(50, 1, AGENTS[0]), "labels")
            started_ms = now_ms()
            found["sudden"] = follow(town, ear, lambda: town.change_truth(slope_x=3.0, intercept=-1.0))
            print(json.dumps(found["sudden"]), file=sys.stderr, flush=True)
            quiet_s, release = max(given.quiet, (now_ms() - started_ms) / 1e3), newest(town)
            quiet_ms = now_ms()
            rest(quiet_s)
            found["quiet"] = {
                "seconds": round(quiet_s),
                "error": ear.error(quiet_ms, now_ms() - 500),
                "labelled": len(ear.errors(quiet_ms, now_ms() - 500)),
                "reports": ear.reports(quiet_ms, now_ms()),
                "reports_of_drift": ear.alarms(quiet_ms, now_ms()),
                "releases": newest(town) - release,
            }
            print(json.dumps(found["quiet"]), file=sys.stderr, flush=True)
            found["slow"] = follow(town, ear, lambda: slowly(town, given.slow))
            found["slow"]["change_took_s"] = given.slow
    print(json.dumps(found, indent=1))
    failed = [what for what, holds in demands(found).items() if not holds]
    print(*(f"FAILED   {what}" for what in failed), sep="\n", file=sys.stderr)
    return 1 if failed else 0


def demands(found: dict[str, Any]) -> dict[str, bool]:
    """Return what must hold."""
    return {
        "a sudden change is learnt": is_good(found["sudden"]["error_after"]),
        "a slow change is learnt": is_good(found["slow"]["error_after"]),
        "nothing is released where nothing changes": not found["quiet"]["releases"],
    }


def is_good(error: float | None) -> bool:
    """Whether a release fits the world that it answers in."""
    return error is not None and error < GOOD


if __name__ == "__main__":
    sys.exit(main())
