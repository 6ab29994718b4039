"""``atoll-agent check --capture``: settings and rules on what was recorded."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError
from atoll_contract.topics import DecisionTopic
from atoll_infer.runtime import choose_runtime
from atoll_link.exits import Exit

if TYPE_CHECKING:
    from atoll_agent.rehearsal import Outcome, Told

_MOST_LINES: Final = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("on a capture, without touching a device")
    group.add_argument(
        "--capture",
        type=Path,
        metavar="FILE",
        help="a recorder's folder, or one of its files: what would have been predicted, decided, commanded",
    )


def run(arguments: argparse.Namespace, settings: AgentSettings) -> int:
    """Play the capture and print what came of it."""
    try:
        from atoll_agent import rehearsal  # noqa: PLC0415 - needs Arrow, which the plain agent lacks
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("atoll"):
            raise
        message = "--capture needs more than the agent's packages: pip install 'atoll[record]'"
        print(f"{message} ({error.name} is missing)", file=sys.stderr)  # noqa: T201
        return Exit.USAGE
    if not settings.model:
        raise ConfigError(f"{arguments.settings}: no [[model]]: nothing would be answered")
    outcome = rehearsal.rehearse(settings, arguments.capture, arguments.bundle, choose_runtime().runtime)
    if arguments.json:
        print(json.dumps(_facts(outcome)))  # noqa: T201
    else:
        _show(outcome, settings)
    return Exit.SUCCESS


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "messages": dict(outcome.messages),
        "first_ms": outcome.first_ms,
        "last_ms": outcome.last_ms,
        "releases": outcome.releases,
        "predictions": [
            {"model": model, "device": device, "count": found.count, "min": found.low, "max": found.high}
            for (model, device), found in sorted(outcome.predictions.items())
        ],
        "decisions": [
            {"arrival_ms": told.arrival_ms, "topic": told.topic, **json.loads(told.payload)}
            for told in outcome.told
            if told.decision is not None
        ],
        "commands": [
            {"arrival_ms": told.arrival_ms, "topic": told.topic, "payload": _text(told.payload)}
            for told in outcome.told
            if told.decision is None
        ],
        "left_off": outcome.untold,
        "counts": dict(outcome.counts),
        "refusals": [
            {
                "where": where,
                "reason": reason.value,
                "count": count,
                "last": outcome.last_refusal[where, reason],
            }
            for (where, reason), count in sorted(outcome.refusals.items())
        ],
    }


def _show(outcome: Outcome, settings: AgentSettings) -> None:
    lines = [
        f"capture   {count} messages of {stream}, {_time(outcome.first_ms)} to {_time(outcome.last_ms)}"
        for stream, count in sorted(outcome.messages.items())
    ]
    for model in settings.model:
        release = outcome.releases.get(model.name)
        said = "no release here: it would answer nothing" if release is None else f"release {release}"
        lines.append(f"model     {model.name}: {said}")
    for (model_name, device), found in sorted(outcome.predictions.items())[:_MOST_LINES]:
        lines.append(
            f"predicted {model_name} for {device}: {found.count} published, {found.low:g} to {found.high:g}"
        )
    if suppressed := outcome.counts["predictions_suppressed"]:
        lines.append(f"left out  {suppressed} predictions that say nothing new")
    lines += [_line(told) for told in outcome.told[:_MOST_LINES]]
    if left_off := len(outcome.told) - _MOST_LINES + outcome.untold:
        lines += [f"...       and {left_off} more"] if left_off > 0 else []
    for (where, reason), count in sorted(outcome.refusals.items()):
        lines.append(f"refused   {where}: {count} for {reason.value}; {outcome.last_refusal[where, reason]}")
    counts = outcome.counts
    lines.append(
        f"in all    {counts['decisions']} decisions, {counts['commands']} commands, "
        f"{counts['commands_withheld']} withheld, {counts['decisions_cooling']} times in a cool-down"
    )
    print("\n".join(lines))  # noqa: T201


def _line(told: Told) -> str:
    if told.decision is None:
        return f"command   {_time(told.arrival_ms)} {told.topic} {_text(told.payload)}"
    topic, decision = DecisionTopic.parse(told.topic), told.decision
    withheld = "" if decision.withheld is None else f", commands withheld: {decision.withheld.value}"
    label = "" if decision.label is None else f" ({decision.label})"
    return (
        f"decision  {_time(told.arrival_ms)} {topic.rule} {decision.state.value} for {topic.device} "
        f"at {decision.value:g}{label}{withheld}"
    )


def _text(payload: bytes) -> str:
    return payload.decode(errors="replace")


def _time(time_ms: float | None) -> str:
    if time_ms is None:
        return "?"
    return datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
