"""``atoll-agent check --sample``: says how a captured payload would be read."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from atoll_agent.adapters.store import StateStore
from atoll_agent.commands.sample import Answer, Candidate, Refusal, Sample, read_sample
from atoll_agent.settings import AgentSettings
from atoll_contract.bundle import Bundle
from atoll_contract.errors import ConfigError
from atoll_infer.runtime import choose_runtime
from atoll_link.exits import Exit

MOST_SHOWN: Final = 16
"""So many numbers of an array are printed for people; ``--json`` has all."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group(
        "one payload", "how it would be read, down to what the model says; exit status 1: it would not be"
    )
    group.add_argument("--sample", type=Path, metavar="FILE", help="a payload as it was captured")
    group.add_argument("--topic", metavar="TOPIC", help="where it was captured")


def is_wanted(arguments: argparse.Namespace) -> bool:
    """Whether a payload is to be read.

    Raises:
        ConfigError: Its options do not go together.
    """
    if (arguments.sample is None) != (arguments.topic is None):
        raise ConfigError("--sample and --topic go together")
    if arguments.sample is not None and len(arguments.bundle) > 1:
        raise ConfigError("--sample is read with one --bundle")
    return arguments.sample is not None


def run(arguments: argparse.Namespace) -> int:
    """Print how the payload would be read."""
    settings = AgentSettings.read(arguments.settings)
    sample = read_sample(
        arguments.topic,
        _bytes(arguments.sample),
        [stream.build(settings.agent.site) for stream in settings.stream],
        _candidates(settings, *arguments.bundle),
        choose_runtime().runtime,
    )
    if arguments.json:
        print(json.dumps(sample.as_json()))  # noqa: T201
    else:
        for line in lines(sample):
            print(line)  # noqa: T201
    return Exit.SUCCESS if sample.is_usable else Exit.FAILURE


def _candidates(settings: AgentSettings, given: Path | None = None) -> list[Candidate]:
    """Return the models of the settings with the releases stored here, or the one that was given."""
    names = {model.name: model.stream for model in settings.model}
    if given is not None:
        bundle = Bundle.unpack(_bytes(given))
        model = bundle.manifest.model
        if model not in names:
            raise ConfigError(f"--bundle {given}: the settings name no model {model!r}")
        return [Candidate(model, names[model], bundle, str(given))]
    store = StateStore(settings.agent.state_dir)
    candidates = []
    for model, stream in names.items():
        stored = store.peek_champion(model)
        bundle_here = None if stored is None else Bundle.unpack(stored[1])
        candidates.append(Candidate(model, stream, bundle_here, "the state folder"))
    return candidates


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def lines(sample: Sample) -> Iterator[str]:
    """Yield ``sample`` for people."""
    yield f"topic     {sample.topic}: {sample.size_bytes} bytes"
    if not sample.read:
        yield "stream    none: no filter matches"
        for tried in sample.tried:
            yield f"  tried   {tried.stream}: {tried.topic}: {tried.why}"
    for read in sample.read:
        yield f"stream    {read.stream}, by {read.topic}"
        if read.device is not None:
            yield f"device    {read.device}"
        if read.dialect is not None:
            yield f"dialect   {read.dialect}"
        yield from _reading_lines(read.readings)
        if read.refused is not None:
            yield _refusal_line(read.refused)
        for answer in read.answers:
            yield from _answer_lines(answer)
        if not read.answers and read.refused is None:
            yield "model     none answers this stream"


def _refusal_line(refused: Refusal) -> str:
    return f"refused   {refused.detail} [{refused.reason}]"


def _reading_lines(readings: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for number, reading in enumerate(readings[:MOST_SHOWN], start=1):
        of_several = f" {number} of {len(readings)}" if len(readings) > 1 else ""
        when = (
            f"{reading['time']} ({reading['time_ms']:.3f} ms)" if reading["time"] else "that of its arrival"
        )
        yield f"reading  {of_several} time {when}"
        for name, value in reading["values"].items():
            unit = f" {value['unit']}" if value["unit"] else ""
            shown = "missing" if value["value"] is None else f"{_shown(value['value'])}{unit}"
            yield f"  value   {name} = {shown}"
        if reading["ignored"]:
            yield f"  ignored {', '.join(reading['ignored'])}: no values of the stream"
    if len(readings) > MOST_SHOWN:
        yield f"          ... {len(readings) - MOST_SHOWN} more"


def _answer_lines(answer: Answer) -> Iterator[str]:
    if answer.release is None:
        yield f"model     {answer.model}: no release stored; --bundle FILE shows what one would say"
        return
    yield f"model     {answer.model}, release {answer.release}, from {answer.source}"
    if answer.window is not None:
        window = answer.window
        yield f"  window  {window['kind']}, {window['held']} of {window['needed']} readings are here"
    for name, numbers in (answer.features or {}).items():
        yield f"  feature {name} = {_shown(numbers if len(numbers) > 1 else numbers[0])}"
    if answer.is_assumed:
        yield "  assumed the readings that are missing are as the first one here"
    if answer.is_dated_now:
        yield "  assumed that they arrive now: features tell the time"
    if answer.normalised is not None and answer.tensor is not None:
        tensor = answer.tensor
        flat = [number for row in answer.normalised for number in row]
        yield f"  normal  {_shown(flat)}"
        scale = (
            f" scale {tensor['scale']:g} zero point {tensor['zero_point']}"
            if tensor["dtype"] != "float32"
            else ""
        )
        yield f"  tensor  {tensor['dtype']} {tensor['shape']}{scale}: {_shown(tensor['numbers'])}"
    if answer.quality:
        yield f"  quality {', '.join(answer.quality)}"
    if answer.prediction is not None:
        unit = f" {answer.prediction['unit']}" if answer.prediction["unit"] else ""
        more = f" {answer.prediction['output']}" if answer.prediction["output"] else ""
        yield f"  says    {_shown(answer.prediction['value'])}{unit}{more}"
    if answer.refused is not None:
        yield f"  {_refusal_line(answer.refused)}"


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return f"{value:g}"
    inner = ", ".join(_shown(item) for item in value[:MOST_SHOWN])
    return f"[{inner}{', ...' if len(value) > MOST_SHOWN else ''}]"
