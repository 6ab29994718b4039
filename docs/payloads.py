"""Reads the example payloads of real devices with the settings in payloads.toml, and tells what came of it.

The examples stand outside of the repository (``ATOLL_DATA``); a test runs this, and so does
`make docs`, which writes docs/references/payloads.md.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from atoll_contract.errors import MalformedMessageError
from atoll_contract.messages import Reading
from atoll_ingest.stream import Stream
from atoll_link.stream_settings import StreamTable

RECIPES = Path(__file__).parent / "payloads.toml"
ARRIVAL_MS = 1_730_794_520_000.0
"""The examples speak of 2024-11-05T08:15Z; they arrive 20 seconds later."""
LOCAL = ZoneInfo("Europe/Vienna")
"""The zone of times that index.json calls local: an hour ahead of UTC."""
FLOAT32 = 1e-6
"""How far a value may be off that was sent as float32."""


@dataclass(frozen=True)
class Said:
    """What a stream made of a message: readings of devices, or why there are none."""

    message: int
    topic: str
    stream: Stream
    device: str = ""
    reading: Reading | None = None
    refusal: str = ""


@dataclass
class Outcome:
    """An expectation, and what was read."""

    what: str
    expected: Mapping[str, Any]
    value: float | None = None
    unit: str | None = None
    time_ms: float | None = None
    faults: list[str] = field(default_factory=list)


def recipes() -> list[dict[str, Any]]:
    """Return the examples with their settings."""
    return tomllib.loads(RECIPES.read_text(encoding="utf-8"))["file"]


def streams_of(recipe: Mapping[str, Any]) -> list[Stream]:
    """Return the streams that the settings of an example describe."""
    texts = [recipe["settings"], *([recipe["more"]] if "more" in recipe else [])]
    tables = [{"name": "example", **tomllib.loads(text)} for text in texts]
    return [StreamTable.model_validate(table).build("site") for table in tables]


def outcomes(recipe: Mapping[str, Any], folder: Path) -> list[Outcome]:
    """Return what came of each value that the example's index expects."""
    index = {entry["file"]: entry for entry in json.loads((folder / "index.json").read_text("utf-8"))}
    entry = index[recipe["name"]]
    messages = list(_messages(folder, entry))
    if "after" in recipe:
        messages = [*_messages(folder, index[recipe["after"]]), *messages]
    said = list(_said(recipe, messages))
    found = []
    for place, expected in enumerate(entry["expected"]):
        where = recipe["expect"][place] if "expect" in recipe else None
        found.append(_outcome(expected, where, said))
    return found


def _messages(folder: Path, entry: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    payload = (folder / entry["file"]).read_bytes()
    if entry["file"].endswith(".tsv"):
        for line in payload.decode().split("\n"):
            if line:
                topic, _, text = line.partition("\t")
                yield topic, text.encode()
    elif entry["file"].endswith(".jsonl"):
        for line in payload.splitlines():
            yield entry["topic"].split(" ")[0], line
    else:
        yield entry["topic"], payload


def _said(recipe: Mapping[str, Any], messages: list[tuple[str, bytes]]) -> Iterator[Said]:
    for stream in streams_of(recipe):
        reader = stream.reader(max_devices=100)
        for number, (topic, payload) in enumerate(messages):
            if not stream.matches(topic):
                continue
            try:
                told = reader.read(topic, payload, ARRIVAL_MS + number)
            except MalformedMessageError as error:
                yield Said(number, topic, stream, refusal=error.reason.value)
                continue
            for device, reading in told:
                yield Said(number, topic, stream, device, reading)
        for device, reading, _ in reader.overdue(ARRIVAL_MS + 3_600_000):
            yield Said(len(messages), "", stream, device, reading)


def _outcome(expected: Mapping[str, Any], where: str | None, said: list[Said]) -> Outcome:
    what = str(expected.get("name") or expected.get("pointer") or expected.get("topic") or "")
    if where is None:
        # One message, one value: it is told by its topic or its line.
        line = expected.get("line")
        wanted = [
            one
            for one in said
            if (line is not None and one.message == line - 1) or one.topic == expected.get("topic")
        ]
        value_name, stream_name = None, None
    else:
        place, _, device = where.partition("@")
        stream_name, _, value_name = place.rpartition(".")
        wanted = [
            one
            for one in said
            if one.reading is not None
            and (not stream_name or one.stream.name == stream_name)
            and (not device or one.device == device)
        ]
    best: Outcome | None = None
    for one in wanted:
        outcome = _compared(what, expected, one, value_name)
        if best is None or len(outcome.faults) < len(best.faults):
            best = outcome
    return best or Outcome(what, expected, faults=["nothing was read"])


def _compared(what: str, expected: Mapping[str, Any], one: Said, value_name: str | None) -> Outcome:
    if one.reading is None:
        faults = [] if expected["value"] is None else [f"refused: {one.refusal}"]
        return Outcome(f"{what} ({one.refusal})", expected, faults=faults)
    values = one.reading.values if isinstance(one.reading.values, dict) else {}
    if value_name is None:
        (value_name,) = values
    outcome = Outcome(what or value_name, expected, time_ms=one.reading.time_ms)
    if value_name not in values:
        outcome.faults.append(f"no value {value_name}")
        return outcome
    outcome.value = values[value_name]  # type: ignore[assignment]  # no arrays among the examples
    outcome.unit = one.stream.units[value_name]
    if not _is_equal(outcome.value, expected["value"]):
        outcome.faults.append(f"value {outcome.value}")
    if outcome.unit != expected.get("unit", outcome.unit):
        outcome.faults.append(f"unit {outcome.unit}")
    if "time" in expected and not _is_time(outcome.time_ms, expected["time"]):
        outcome.faults.append(f"time {outcome.time_ms}")
    return outcome


def _is_equal(value: object, expected: float | None) -> bool:
    if expected is None or not isinstance(value, int | float):
        return value is expected
    return math.isclose(value, expected, rel_tol=FLOAT32)


def _is_time(time_ms: float | None, expected: str | None) -> bool:
    if expected is None or time_ms is None:
        return time_ms is expected
    local = expected.endswith(" (local)")
    moment = datetime.fromisoformat(expected.removesuffix(" (local)"))
    if local:
        moment = moment.replace(tzinfo=LOCAL)
    return abs(time_ms - moment.timestamp() * 1e3) < 0.001 + 1e-3


def payloads_page(folder: Path) -> str:
    """Return the page with the results and settings of all examples."""
    read = [(recipe, outcomes(recipe, folder)) for recipe in recipes()]
    total = sum(len(found) for _, found in read)
    right = sum(not outcome.faults for _, found in read for outcome in found)
    lines = [
        "# Payloads of real devices",
        "",
        f"{len(read)} messages and captures as devices publish them, with the settings that each needs: of",
        f"{total} values that a correct reader must find, {right} are found with their unit and time.",
        "How to read what your own sensors publish: [sensors](../operate/sensors.md). Made by `make docs`",
        "from `docs/payloads.toml` and the examples in `ATOLL_DATA`; a test holds every value.",
        "",
        "| example | expected | as expected |",
        "|---|---|---|",
    ]
    lines += [
        f"| [`{recipe['name']}`](#{_anchor(recipe['name'])}) | {len(found)} | "
        f"{sum(not outcome.faults for outcome in found)} |"
        for recipe, found in read
    ]
    for recipe, found in read:
        lines += ["", f"## {recipe['name']}", ""]
        for settings in (recipe["settings"], recipe.get("more")):
            if settings is not None:
                lines += ["```toml", "[[stream]]", *_named(settings), "```"]
        lines += ["", "| value | read | unit | event time |", "|---|---|---|---|"]
        lines += [_row(outcome) for outcome in found]
    return "\n".join(lines) + "\n"


def _named(settings: str) -> list[str]:
    lines = settings.strip().split("\n")
    return lines if any(line.startswith("name =") for line in lines) else ['name = "example"', *lines]


def _anchor(name: str) -> str:
    return name.lower().replace(".", "")


def _row(outcome: Outcome) -> str:
    value = "missing" if outcome.value is None else f"{outcome.value:.10g}"
    time = "arrival" if outcome.time_ms is None else _written(outcome.time_ms)
    fault = f" **{'; '.join(outcome.faults)}**" if outcome.faults else ""
    return f"| {outcome.what}{fault} | {value} | {outcome.unit or ''} | {time} |".replace("  ", " ")


def _written(time_ms: float) -> str:
    moment = datetime.fromtimestamp(0, ZoneInfo("UTC")).timestamp() + time_ms / 1e3
    return datetime.fromtimestamp(moment, ZoneInfo("UTC")).isoformat().replace("+00:00", "Z")
