"""Five hundred faults of all kinds, drawn by a seed, on real processes: `make chaos`.

Readings at QoS 1 go on all the time, at 20 a second. After each fault, how long until a reading that was sent
after its end is answered, which readings never were, and which twice. Then the broker is killed, without
persistence: what it forgets is lost, and has to be told. Needs root, and apt install mosquitto gcc
libc6-dev libfaketime iproute2 nftables.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from faults import FAULTS, Fault
from scene import PATIENCE_S, Scene, scene
from world import champion, report, status, wait_for

KEPT = ("persistence true", "autosave_interval 1")
SIDES = {
    "agent and trainer": ("agent", "trainer"),
    "network": ("line", "network"),
    "broker that keeps its sessions": ("broker",),
}


@dataclass(frozen=True)
class Outcome:
    """What one fault did.

    Attributes:
        fault: Which.
        recovered_s: From its end to an answer to a reading that was sent after it; None: never.
        first: The first reading that it may have hit.
        last: The last one.
        twice: How many answers were one too many.
        deaths: How often the agent ended by itself.
    """

    fault: Fault
    recovered_s: float | None
    first: int
    last: int
    twice: int
    deaths: int


def inflict(place: Scene, fault: Fault, rng: random.Random) -> Outcome:
    """Inflict one fault, and wait until all that was sent before its end is answered."""
    tally = place.tally
    tally.look()
    first, twice, deaths = place.feeder.sent + 1, tally.twice, place.deaths.total()
    fault.inflict(place, rng)
    last = place.feeder.sent + 1
    recovered_s = place.wait_answered(last)
    last = max(last, tally.highest)
    place.wait_all(first, last, 15.0 if recovered_s is not None else 1.0)
    return Outcome(fault, recovered_s, first, last, tally.twice - twice, place.deaths.total() - deaths)


def draw(count: int, rng: random.Random, faults: tuple[Fault, ...]) -> list[Fault]:
    """Return so many faults: each once, as far as they go, and then by their weights."""
    each = rng.sample(faults, min(count, len(faults)))
    drawn = each + rng.choices(faults, [fault.weight for fault in faults], k=count - len(each))
    rng.shuffle(drawn)
    return drawn


def run(folder: Path, count: int, seed: int, minutes: float) -> int:
    """Inflict ``count`` faults, or as many as fit into the time."""
    rng = random.Random(seed)
    outcomes: list[Outcome] = []
    started_s = time.monotonic()
    with scene(folder, broker=KEPT) as place:
        for number, fault in enumerate(draw(count, rng, FAULTS), 1):
            if time.monotonic() - started_s > minutes * 60:
                break
            # Its own, so that a fault does the same whatever came before.
            outcome = inflict(place, fault, random.Random(f"{seed}/{number}"))
            outcomes.append(outcome)
            shown = "never" if outcome.recovered_s is None else f"{outcome.recovered_s:.2f} s"
            said = f"{number} {fault.where}: {fault.name}: {shown}, twice {outcome.twice}"
            print(f"{time.monotonic() - started_s:7.1f} {said}", file=sys.stderr, flush=True)
        place.feeder.pause()
        missing = place.wait_all(1, place.feeder.sent)
        wait_for(lambda: champion(place.spy) == place.release, "the last release", PATIENCE_S)
        sent, tally, deaths = place.feeder.sent, place.tally, place.deaths
        released, counts = place.release, place.counts()
    print_table(outcomes, missing)
    found = {
        "seed": seed,
        "faults": len(outcomes),
        "kinds": len({outcome.fault for outcome in outcomes}),
        "minutes": round((time.monotonic() - started_s) / 60, 1),
        "readings": sent,
        "lost": len(missing),
        "answered_twice": tally.twice,
        "came_from_the_spool": tally.replayed,
        "releases": released,
        "agents_that_ended_by_themselves": dict(deaths),
        "spool_faults_at_the_end": counts.get("spool_faults", 0),
    }
    demanded = {
        "all faults were inflicted": len(outcomes) == count,
        "the agent came back after each": all(one.recovered_s is not None for one in outcomes),
        **{
            f"no reading was lost over faults of {side}": not lost(outcomes, missing, places)
            for side, places in SIDES.items()
        },
    }
    return report(found, demanded)


def lost(outcomes: list[Outcome], missing: set[int], places: tuple[str, ...]) -> int:
    """Return how many readings were lost to the faults of these places."""
    hit = [one for one in outcomes if one.fault.where in places]
    return sum(len(missing & set(range(one.first, one.last + 1))) for one in hit)


def print_table(outcomes: list[Outcome], missing: set[int]) -> None:
    """Print what each kind of fault did, as Markdown."""
    by_fault = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    print("| where | fault | times | recovered after s: median, worst | lost | twice | agent ended |")
    print("|---|---|---|---|---|---|---|")
    for fault in (fault for fault in FAULTS if fault in by_fault):
        found = by_fault[fault]
        times_s = sorted(one.recovered_s for one in found if one.recovered_s is not None)
        after = f"{statistics.median(times_s):.2f}, {times_s[-1]:.2f}" if times_s else "never"
        gone = sum(len(missing & set(range(one.first, one.last + 1))) for one in found)
        twice, ended = sum(one.twice for one in found), sum(one.deaths for one in found)
        print(f"| {fault.where} | {fault.name} | {len(found)} | {after} | {gone} | {twice} | {ended} |")
    print()


def kill_brokers(folder: Path, kills: int, seed: int) -> int:
    """Kill a broker without persistence: what it had taken and not passed on is gone, and must be told."""
    rng = random.Random(seed)
    times_s: list[float] = []
    with scene(folder, with_namespaces=False) as place:
        for _ in range(kills):
            place.broker.kill()
            time.sleep(rng.uniform(0, 1))
            place.broker.start()
            after_s = place.wait_answered(place.feeder.sent + 1)
            if after_s is None:
                raise TimeoutError("the agent does not come back after a kill of the broker")
            times_s.append(after_s)
            time.sleep(rng.uniform(0, 1))
        place.feeder.pause()
        place.wait_answered(place.feeder.sent)
        now_ms = time.time() * 1e3
        wait_for(lambda: status(place.spy).get("time_ms", 0) > now_ms, "a status", PATIENCE_S)
        sent, counts = place.feeder.sent, place.counts()
        place.tally.look()
        unseen = place.tally.missing(1, sent)
    never_came = sent - counts["readings"] + counts.get("repeated", 0)
    counted = counts.get("readings_missing", 0)
    return report(
        {
            "kills_of_the_broker": kills,
            "recovered_after_s_median_worst": f"{statistics.median(times_s):.2f}, {max(times_s):.2f}",
            "readings": sent,
            "never_came_to_the_agent": never_came,
            "of_these_counted_and_published": counted,
            "answers_that_a_consumer_did_not_see": len(unseen),
        },
        {"every number that never came is counted and published": counted == never_came},
    )


def main() -> int:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=500, help="how many (default: %(default)s)")
    parser.add_argument("--broker-kills", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=240, help="at the most (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-chaos-") as name:
        folder = Path(name)
        codes = []
        if given.faults:
            codes.append(run(folder / "faults", given.faults, given.seed, given.minutes))
        if given.broker_kills:
            codes.append(kill_brokers(folder / "broker-kills", given.broker_kills, given.seed))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
