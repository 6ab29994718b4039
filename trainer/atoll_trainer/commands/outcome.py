"""What comes after a release is out: it is told, followed over the fleet, and withdrawn if need be."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

import structlog

from atoll_contract.errors import DeviceError, NotStoredError, TransientError
from atoll_contract.release import ReleaseTerms
from atoll_link.cohort import Cohort, Standing
from atoll_link.exits import Exit
from atoll_trainer.commands.options import duration
from atoll_trainer.fleet import watch_fleet
from atoll_trainer.publication import Trainer, open_publication
from atoll_trainer.publisher import Summary
from atoll_trainer.repository import MAX_WHY_CHARS, Available, Repository
from atoll_trainer.rollout import Rollout, Verdict, follow

_WAIT_S: Final = 600.0
_LIMIT_S: Final = 3600.0
_PAUSE_S: Final = 10.0
"""Between attempts to withdraw a bad release, and how long they go on."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def add_term_options(parser: argparse.ArgumentParser, unless: str) -> None:
    """Add the options that say whom a release is for; ``unless`` is what holds without them."""
    parser.add_argument("--channel", help=f"who follows it: stable is all ({unless.format('stable')})")
    parser.add_argument(
        "--percent", type=int, help=f"share of those devices that it is for ({unless.format(100)})"
    )
    parser.add_argument(
        "--max-delay",
        type=int,
        metavar="SECONDS",
        help=f"devices wait a random part of it before they fetch ({unless.format(0)})",
    )


def asked_terms(arguments: argparse.Namespace) -> dict[str, str | int]:
    """Return the terms that the options of :func:`add_term_options` give."""
    asked = {
        "channel": arguments.channel,
        "rollout_percent": arguments.percent,
        "max_delay_s": arguments.max_delay,
    }
    return {key: value for key, value in asked.items() if value is not None}


def add_wait_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`conclude` reads."""
    group = parser.add_argument_group("follow the rollout")
    group.add_argument("--wait", action="store_true", help="until every connected agent has answered")
    group.add_argument(
        "--wait-for",
        type=duration,
        metavar="TIME",
        help="and no longer than that, 15m say (default: 10 minutes and the longest delay)",
    )
    group.add_argument(
        "--withdraw-above",
        type=_share,
        metavar="SHARE",
        help="and withdraw the release when more than this share of its agents refuse it, 0.2 say",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def conclude(
    trainer: Trainer,
    arguments: argparse.Namespace,
    published: Available,
    summary: Summary,
    dropped: Sequence[ReleaseTerms] = (),
) -> int:
    """Print what is out, and what no more; if asked to, follow it to its end; return the exit code.

    Raises:
        NotStoredError: The broker does not keep the bundle of this release.
    """
    terms = published.terms
    if (detail := summary.not_kept.get(terms.target)) is not None:
        raise NotStoredError(detail)
    _log.info(
        "release.published",
        model=terms.model,
        release=terms.release,
        channel=terms.channel,
        rollout_percent=terms.rollout_percent,
        size_bytes=published.size_bytes,
        topics_stored=summary.topics_stored,
        duration_s=round(summary.duration_s, 3),
    )
    for old in dropped:
        _log.info("release.dropped", model=old.model, release=old.release, channel=old.channel)
    if not arguments.json:
        print(_summary(published, summary, dropped), flush=True)  # noqa: T201 - the result
    rollout, code = None, Exit.SUCCESS
    if arguments.wait or arguments.wait_for is not None or arguments.withdraw_above is not None:
        rollout = _followed(trainer, arguments, published)
        code = _judged(trainer, rollout, published, withdraw_above=arguments.withdraw_above)
        if not arguments.json:
            print(_end(rollout))  # noqa: T201 - the result
    if arguments.json:
        print(json.dumps(_document(published, summary, dropped, rollout)))  # noqa: T201 - the result
    return code


def _followed(trainer: Trainer, arguments: argparse.Namespace, published: Available) -> Rollout:
    with watch_fleet(trainer.broker, trainer.id) as watch:
        rollout = follow(
            watch,
            published.terms,
            published.sha256,
            available=lambda: Repository.load(trainer.home.repository).releases(published.terms.model),
            wait_s=arguments.wait_for or _WAIT_S + published.terms.max_delay_s,
            withdraw_above=arguments.withdraw_above,
            tell=lambda cohort: print(f"{time.strftime('%H:%M:%S')}  {_counts(cohort)}", file=sys.stderr),  # noqa: T201
        )
        for agent, sites in watch.fleet.at_several_sites.items():
            _log.warning("agent.ambiguous", agent=agent, sites=sites)
    return rollout


def _judged(
    trainer: Trainer, rollout: Rollout, published: Available, *, withdraw_above: float | None
) -> Exit:
    """Return the exit code that a rollout deserves, after a bad release was withdrawn."""
    cohort, terms = rollout.cohort, published.terms
    match rollout.verdict:
        case Verdict.TOO_MANY_REFUSED:
            reasons = ", ".join(f"{reason} {count}" for reason, count in cohort.refusals())
            why = f"{_counts(cohort)}: {reasons}"[:MAX_WHY_CHARS]
            act = partial(withdraw, trainer, terms.model, terms.release, why)
            until_done(act, f"atoll-trainer withdraw {terms.model} {terms.release}")
            return Exit.GATE_REFUSED
        case Verdict.TIME_UP | Verdict.UNHEARD:
            return Exit.FAILURE
        case Verdict.SETTLED:
            is_tolerated = withdraw_above is not None or not cohort.count(Standing.REFUSED)
            return Exit.SUCCESS if is_tolerated else Exit.FAILURE


def until_done(
    act: Callable[..., object], command: str, *, limit_s: float = _LIMIT_S, pause_s: float = _PAUSE_S
) -> None:
    """Withdraw by ``act``, again and again while the surroundings fail: nobody else follows the release.

    Raises:
        TransientError: They did so for ``limit_s``; ``command`` is what is left to do.
    """
    end_s, is_again = time.monotonic() + limit_s, False
    while True:
        try:
            act(is_again=is_again)
        except (TransientError, DeviceError) as error:
            if time.monotonic() >= end_s:
                detail = f"the release is still out: {command}; {error.detail}"
                raise TransientError(detail, error.reason) from error
            _log.warning("withdrawal.delayed", reason=error.reason.value, detail=error.detail, left=command)
        else:
            return
        is_again = True
        time.sleep(pause_s)


def withdraw(trainer: Trainer, model: str, release: int, why: str, *, is_again: bool = False) -> Summary:
    """Sign and publish that a release is no more; ``is_again``: it may be signed already.

    Raises:
        ConfigError: A key is missing.
        NotStoredError: The broker does not keep what it acknowledges.
        BrokerUnavailableError: The connection failed for too long.
        StorageError: A file cannot be read or written.
    """
    with open_publication(trainer) as publication:
        if not (is_again and publication.repository.why_withdrawn(model, release)):
            publication.repository.withdraw(model, release, why)
        summary = publication.bring_out()
    _log.warning("release.taken_back", model=model, release=release, why=why)
    return summary


def _counts(cohort: Cohort) -> str:
    shown = {
        Standing.RUNS: "run it",
        Standing.UNDERWAY: f"on the way ({', '.join(cohort.phases)})",
        Standing.WAITING: "waiting",
        Standing.REFUSED: "refused it",
        Standing.NEWER: "run a newer one",
        Standing.LOST: "fell silent",
        Standing.SILENT: "silent",
    }
    counts = [f"{number} {words}" for standing, words in shown.items() if (number := cohort.count(standing))]
    if not counts:
        return "no agent is known that it is for"
    agents = "1 agent" if len(cohort.members) == 1 else f"{len(cohort.members)} agents"
    return f"{agents}: {', '.join(counts)}"


def _summary(published: Available, summary: Summary, dropped: Sequence[ReleaseTerms]) -> str:
    terms = published.terms
    lines = [
        (
            f"{terms.model} release {terms.release} is out: {published.size_bytes:,} bytes, "
            f"channel {terms.channel}, {terms.rollout_percent} % of the devices"
        ),
        *(f"release {old.release} (channel {old.channel}) is not available any more" for old in dropped),
        str(summary),
    ]
    return "\n".join(lines)


def _end(rollout: Rollout) -> str:
    refused = [
        f"  {member.site}/{member.agent} refused it: {member.reason}: {member.detail}"
        for member in rollout.cohort.members
        if member.is_refusal
    ]
    ends = {
        Verdict.SETTLED: "settled",
        Verdict.TOO_MANY_REFUSED: "withdrawn: too many refused it",
        Verdict.TIME_UP: "time is up",
        Verdict.UNHEARD: "no agent that it is for is connected",
    }
    return "\n".join([f"{ends[rollout.verdict]}: {_counts(rollout.cohort)}", *refused])


def _document(
    published: Available, summary: Summary, dropped: Sequence[ReleaseTerms], rollout: Rollout | None
) -> dict[str, object]:
    terms = published.terms
    document: dict[str, object] = {
        "model": terms.model,
        "release": terms.release,
        "sha256": published.sha256,
        "bytes": published.size_bytes,
        "channel": terms.channel,
        "rollout_percent": terms.rollout_percent,
        "max_delay_s": terms.max_delay_s,
        "dropped": [old.release for old in dropped],
        "topics": summary.topics,
        "topics_stored": summary.topics_stored,
        "bytes_stored": summary.bytes_stored,
        "seconds": round(summary.duration_s, 3),
    }
    if rollout is not None:
        members = [asdict(member) for member in rollout.cohort.members]
        document["rollout"] = {"verdict": rollout.verdict, "members": members}
    return document


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: 0 to below 1")
    return share
