"""``atoll-trainer publish``: sign a bundle and push it over retained MQTT topics."""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from atoll_contract.bundle import MAX_BUNDLE_BYTES, Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError, MalformedMessageError, Reason
from atoll_contract.release import ReleaseTerms
from atoll_link.exits import Exit
from atoll_trainer.commands.options import add_trainer_options, trainer_from
from atoll_trainer.commands.outcome import add_term_options, add_wait_options, asked_terms, conclude
from atoll_trainer.dataset import Examples
from atoll_trainer.gate import Gate, Limits, Recut
from atoll_trainer.publication import Publication, open_publication
from atoll_trainer.recut import windows_for
from atoll_trainer.repository import Repository
from atoll_trainer.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.atoll", help="the release")
    add_trainer_options(parser)
    parser.add_argument(
        "--replace-repository",
        action="store_true",
        help="publish over the releases of another repository, whose devices must then be enrolled anew",
    )
    add_term_options(parser, "default: {}")
    gate = parser.add_argument_group("gate: exit status 3 when it refuses")
    gate.add_argument(
        "--run",
        type=Path,
        dest="run_folder",
        metavar="RUN",
        help="let the release and the champion answer the untouched part of this run; without it the "
        "release must only be better than a naive guess",
    )
    gate.add_argument(
        "--worse-by",
        type=_excess,
        default=0.0,
        metavar="SHARE",
        help="it must, with 95%% confidence, be better than a champion whose error were larger by this "
        "share: 0.05 lets through what is hardly worse (default: %(default)s)",
    )
    gate.add_argument("--max-size", type=_count, metavar="BYTES", help="most bytes of its model file")
    gate.add_argument(
        "--max-latency", type=_limit, metavar="US", help="most microseconds for an answer here; needs --run"
    )
    gate.add_argument("--no-gate", action="store_true", help="publish it however bad it is")
    add_wait_options(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Run it again after any failure: it completes what is missing and leaves the rest alone. Whom a\n"
        "release is for is changed by atoll-trainer promote. The last three releases of a channel stay\n"
        "available, the last two that are for all, and whatever some device is still offered;\n"
        "those that are dropped are told. The root and targets keys are not needed.\n\n"
        "With --wait: exit status 0 when every connected agent runs it, 1 when some refused it, time was\n"
        "up or no agent that it is for is connected, 3 when more than --withdraw-above refused it and it\n"
        "was withdrawn."
    )


def run(arguments: argparse.Namespace) -> int:
    """Sign, push, print what was done, and follow the rollout."""
    trainer = trainer_from(arguments)
    content = _read(arguments.bundle)
    bundle = _unpacked(arguments.bundle, content)
    run = None if arguments.run_folder is None else Run(arguments.run_folder)
    examples = None if run is None else run.split().test
    if arguments.max_latency is not None and examples is None:
        raise ConfigError("--max-latency: answers are timed on the windows of a run: give --run")
    limits = Limits(arguments.max_size, arguments.max_latency)
    gate = None if arguments.no_gate else Gate(arguments.worse_by, examples, limits, _recut(run, examples))
    with open_publication(trainer, may_replace=arguments.replace_repository) as publication:
        repository = publication.repository
        terms = _terms(repository, bundle, content, publication.chunk_bytes, asked_terms(arguments))
        is_new = all(held.release != terms.release for held in repository.releases(terms.model))
        if is_new and gate is not None:
            verdict = gate.judge(
                bundle, _champion(publication, terms.model) if examples is not None else None
            )
            if verdict.refusal is not None:
                message = f"{arguments.bundle}: refused: {verdict.refusal} (--no-gate publishes it)"
                print(message, file=sys.stderr)  # noqa: T201
                return Exit.GATE_REFUSED
            note = verdict.note
            if examples is None and not bundle.manifest.training.metrics:
                note = "nothing tells how good it is, so the gate let it pass"
            if note is not None:
                print(f"{arguments.bundle}: {note}", file=sys.stderr)  # noqa: T201
        dropped = repository.add(terms, content)
        summary = publication.bring_out(compare={terms.target})
        published = repository.release(terms.model, terms.release)
    return conclude(trainer, arguments, published, summary, dropped)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleRejectedError(f"{path}: at most {MAX_BUNDLE_BYTES} bytes are read", Reason.TOO_LARGE)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the bundle cannot be read: {error.strerror}") from error


def _unpacked(source: object, content: bytes) -> Bundle:
    try:
        return Bundle.unpack(content)
    except BundleRejectedError as error:
        raise BundleRejectedError(f"{source}: {error.detail}", error.reason) from error


def _terms(
    repository: Repository, bundle: Bundle, content: bytes, chunk_bytes: int, asked: Mapping[str, str | int]
) -> ReleaseTerms:
    """Return the terms of a new release, or those of one that is out already."""
    manifest = bundle.manifest
    held = [terms for terms in repository.releases(manifest.model) if terms.release == manifest.release]
    known = (
        held[0].encode()
        if held
        else {
            "model": manifest.model,
            "release": manifest.release,
            # Of the bytes: a rollout that grows keeps the devices that it has.
            "rollout_salt": hashlib.sha256(content).hexdigest()[:16],
            "chunk_size": chunk_bytes,
        }
    )
    try:
        terms = ReleaseTerms.decode({**known, **asked})
    except MalformedMessageError as error:
        raise ConfigError(f"--channel, --percent, --max-delay: {error.detail}") from error
    if held and terms != held[0]:
        raise ConfigError(
            f"release {terms.release} of {terms.model} is out already, channel {held[0].channel}, "
            f"{held[0].rollout_percent} %: atoll-trainer promote changes whom it is for"
        )
    return terms


def _recut(run: Run | None, examples: Examples | None) -> Recut:
    if run is None or examples is None:
        return lambda _: None
    return lambda manifest: windows_for(run, manifest, examples)


def _champion(publication: Publication, model: str) -> Bundle | None:
    terms = publication.repository.champion(model)
    if terms is None:
        return None
    return _unpacked(f"release {terms.release} of {model}", publication.bundle(terms))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _excess(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: 0 or more")
    return share
