"""Random and mutated payloads for every dialect: each is read, or refused by reason, and memory stays flat.

Run by ``make fuzz-dialects`` (``CHAOS='--payloads 1000 --only senml'`` for a part). Exit status 1 if any
other exception left a decoder, or memory grew.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections import Counter
from pathlib import Path

from support.dialects import SAMPLES, Sample

from atoll_contract.errors import MalformedMessageError
from atoll_contract.messages import encode_reading
from atoll_ingest.dialect import Told

MAX_DEVICES = 1000
MAX_GROWTH = 4 * 1024 * 1024
"""Memory that the second half of a run may need beyond the first."""
ODD = (
    b"null", b"true", b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"e", b"NaN", b"Infinity", b"1e999",
    b"9" * 40, b"\\ud800", b"\xff", b"\x00", b"\n", b" ", b"\\", b"=", b"i", b"\xf6", b"\xfb\x7f\xf0",
    b"\x9f", b"\xbf", b"\xc2\x58\x20", b"\xd8\x1c", b"\xd9\x01\x00", b"\x80\x80\x80\x80\x10", b"0001-01-01",
)  # fmt: skip


def spoilt(payload: bytes, lot: random.Random) -> bytes:
    """Return ``payload`` with up to four changes, or bytes of chance."""
    if lot.random() < 0.05:
        return lot.randbytes(lot.randrange(64))
    changed = bytearray(payload)
    for _ in range(lot.randrange(5)):
        start = lot.randrange(len(changed) + 1)
        end = min(len(changed), start + lot.choice((0, 0, 1, 1, 2, 8, 64)))
        match lot.randrange(4):
            case 0:
                changed[start:end] = lot.choice(ODD)
            case 1:
                changed[start:end] = lot.randbytes(end - start)
            case 2 if end > start:
                changed[start] ^= 1 << lot.randrange(8)
            case _:
                source = lot.randrange(len(changed) + 1)
                changed[start:end] = changed[source : source + lot.choice((1, 4, 32))]
    return bytes(changed)


def topic_of(topic: str, lot: random.Random) -> str:
    """Return ``topic``, sometimes of another device, so that what is remembered must be bounded."""
    if lot.random() < 0.5:
        return topic
    levels = topic.split("/")
    levels[{"atoll": 3, "spBv1.0": -1}.get(levels[0], 1)] = f"d{lot.randrange(2_000)}"
    return "/".join(levels)


def resident() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def fuzz(name: str, sample: Sample, payloads: int, seed: int) -> bool:
    """Read ``payloads`` spoilt payloads; return whether all went as it should."""
    lot = random.Random(f"{seed} {name}")
    reader = sample.stream.reader(MAX_DEVICES)
    outcomes: Counter[str] = Counter()
    arrival_ms = 1_730_794_500_000.0
    half = 0
    started = time.monotonic()
    for number in range(payloads):
        if number == payloads // 2:
            gc.collect()
            half = resident()
        topic, payload = lot.choice(sample.messages)
        topic, payload = topic_of(topic, lot), spoilt(payload, lot)
        arrival_ms += lot.choice((0, 1, 100, 10_000))
        try:
            told = reader.read(topic, payload, arrival_ms)
            if number % 100 == 0:
                told += [Told(device, reading) for device, reading, _ in reader.overdue(arrival_ms)]
            for _, reading in told:
                encode_reading(reading)  # finite, and of the contract's form
            outcomes["read" if told else "no reading yet"] += 1
        except MalformedMessageError as error:
            if not error.reason or not error.detail:
                print(f"{name}: no reason: {topic} {payload!r}")
                return False
            outcomes[error.reason.value] += 1
        except Exception as error:  # noqa: BLE001 - that is what this looks for
            print(f"{name}: {type(error).__name__}: {error}\n  {topic} {payload!r}")
            return False
    gc.collect()
    grown = resident() - half
    seconds = time.monotonic() - started
    shown = ", ".join(f"{outcome} {count:,}" for outcome, count in outcomes.most_common())
    print(f"{name}: {payloads:,} in {seconds:.0f} s; grown by {grown / 2**20:.1f} MB; {shown}", flush=True)
    return grown < MAX_GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payloads", type=int, default=200_000, help="for each dialect")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=SAMPLES)
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(SAMPLES)
    results = [fuzz(name, SAMPLES[name], arguments.payloads, arguments.seed) for name in names]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
