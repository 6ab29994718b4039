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
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from faults import FAULTS, Fault
from scene import PATIENCE_S, Scene, scene
from world import champion, report, settled_counts, wait_for

CONFIGURATION = Path(__file__).parents[1] / "deploy/kubernetes/base/broker/mosquitto.conf"
KEPT = tuple(
    line
    for line in CONFIGURATION.read_text().splitlines()
    if line.startswith(
        ("persistence true", "autosave", "max_queued_bytes", "max_inflight", "persistent_client")
    )
)
"""What the broker in the cluster keeps, and when it writes it."""
WITHOUT_MODEL = "state"
"""Where a fault can take the champion away: such readings are counted, and not answered."""
SHORT_OF_MEMORY = "limits"
"""Where a fault can end the agent."""


@dataclass(frozen=True)
class Outcome:
    """What one fault did.

    Attributes:
        fault: Which.
        recovered_s: From its end to an answer to a reading that was sent after it; None: never.
        first: The first reading that it may have hit: one that was on its way when it began.
        twice: How many answers were one too many.
        deaths: How often the agent ended by itself.
    """

    fault: Fault
    recovered_s: float | None
    first: int
    twice: int
    deaths: int


def inflict(place: Scene, fault: Fault, rng: random.Random) -> Outcome:
    """Inflict one fault, and wait until all that was sent before its end is answered."""
    tally = place.tally
    tally.look()
    first, twice, deaths = tally.highest + 1, tally.twice, place.deaths.total()
    fault.inflict(place, rng)
    recovered_s = place.wait_answered(place.feeder.sent + 1)
    place.wait_all(first, tally.highest, 15.0 if recovered_s is not None else 1.0)
    return Outcome(fault, recovered_s, first, tally.twice - twice, place.deaths.total() - deaths)


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
    print_table(outcomes, lost_to(outcomes, missing))
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
    return report(found, demands(outcomes, missing, deaths.total(), count))


def demands(outcomes: list[Outcome], missing: set[int], deaths: int, count: int) -> dict[str, bool]:
    """Return what must hold; that answers come twice is no loss, and is only told."""
    taken = lost_to(outcomes, missing)
    excused = set[int]().union(
        *(lost for one, lost in zip(outcomes, taken, strict=True) if one.fault.where == WITHOUT_MODEL)
    )
    starved = sum(one.deaths for one in outcomes if one.fault.where == SHORT_OF_MEMORY)
    return {
        "all faults were inflicted": len(outcomes) == count,
        "the agent came back after each": all(one.recovered_s is not None for one in outcomes),
        "no reading was lost but where the model was corrupted": not missing - excused,
        "no agent ended by itself but without memory": deaths == starved,
    }


def lost_to(outcomes: list[Outcome], missing: set[int]) -> list[set[int]]:
    """Return what each fault took: all that is missing from its first reading to that of the next one."""
    firsts = [one.first for one in outcomes]
    return [
        {number for number in missing if first <= number and (following is None or number < following)}
        for first, following in zip(firsts, [*firsts[1:], None], strict=True)
    ]


def print_table(outcomes: list[Outcome], taken: list[set[int]]) -> None:
    """Print what each kind of fault did, as Markdown."""
    by_fault = defaultdict(list)
    lost = Counter[Fault]()
    for outcome, numbers in zip(outcomes, taken, strict=True):
        by_fault[outcome.fault].append(outcome)
        lost[outcome.fault] += len(numbers)
    print("| where | fault | times | recovered after s: median, worst | lost | twice | agent ended |")
    print("|---|---|---|---|---|---|---|")
    for fault in (fault for fault in FAULTS if fault in by_fault):
        found = by_fault[fault]
        times_s = sorted(one.recovered_s for one in found if one.recovered_s is not None)
        after = f"{statistics.median(times_s):.2f}, {times_s[-1]:.2f}" if times_s else "never"
        twice, ended = sum(one.twice for one in found), sum(one.deaths for one in found)
        print(
            f"| {fault.where} | {fault.name} | {len(found)} | {after} | {lost[fault]} | {twice} | {ended} |"
        )
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
        sent = place.feeder.sent
        never_came, counted = settled_counts(place.counts, sent)
        place.tally.look()
        unseen = place.tally.missing(1, sent)
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
