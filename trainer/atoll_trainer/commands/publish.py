"""``atoll-trainer publish``: sign a bundle and push it over retained MQTT topics."""

from __future__ import annotations

import argparse
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from atoll_contract.bundle import MAX_BUNDLE_BYTES, Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError, MalformedMessageError, Reason
from atoll_contract.release import STABLE, ReleaseTerms
from atoll_trainer.home import Home
from atoll_trainer.keys import KeyName, read_key, read_passphrase
from atoll_trainer.lineage import require_own_past
from atoll_trainer.publisher import Publisher, Summary
from atoll_trainer.repository import Repository, Signers
from atoll_trainer.settings import TrainerSettings

_SOON: Final = timedelta(days=30)
_GRACE: Final = timedelta(days=1)
"""How long a device may take to fetch what has been replaced meanwhile."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE.atoll", help="the release")
    parser.add_argument(
        "--settings", type=Path, required=True, metavar="FILE", help="settings file, trainer.toml"
    )
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="trainer folder (default: as in the settings)"
    )
    parser.add_argument(
        "--replace-repository",
        action="store_true",
        help="publish over the releases of another repository, whose devices must then be enrolled anew",
    )
    parser.add_argument(
        "--channel", default=STABLE, help="who follows it (default: %(default)s, which is all)"
    )
    parser.add_argument(
        "--percent",
        type=int,
        default=100,
        help="share of those devices that it is for (default: %(default)s)",
    )
    parser.add_argument(
        "--max-delay",
        type=int,
        default=0,
        metavar="SECONDS",
        help="devices wait a random part of it before they fetch (default: %(default)s)",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line opens the online and trainer keys",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Run it again after any failure: it completes what is missing and leaves the rest alone. For a\n"
        "release that is out already, --channel, --percent and --max-delay change whom it is for.\n"
        "The last three releases of a model stay available. The root and targets keys are not needed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Sign, push, and print what was done."""
    settings = TrainerSettings.read(arguments.settings)
    home = Home.find(arguments.home or settings.trainer.home)
    broker = settings.build_broker()
    content = _read(arguments.bundle)
    terms = _terms(arguments, content)
    passphrase = read_passphrase(arguments.passphrase_file)
    keys = home.folder / "keys"
    with Repository.locked(home.repository) as repository:
        signers = Signers(
            trainer=read_key(keys, KeyName.TRAINER, passphrase),
            online=read_key(keys, KeyName.ONLINE, passphrase),
        )
        repository.add(terms, content)
        # Connected first: without a broker nothing is signed that nobody could get.
        with Publisher(broker, settings.trainer.id) as publisher:
            require_own_past(
                home.repository / "metadata", publisher.fetch, may_replace=arguments.replace_repository
            )
            now = datetime.now(UTC)
            repository.commit(signers, now)
            _warn_of_expiry(repository, now)
            summary = publisher.push(repository.steps(), compare={terms.target})
            publisher.clear(repository.obsolete(now - _GRACE))
    _log.info(
        "release.published",
        model=terms.model,
        release=terms.release,
        channel=terms.channel,
        rollout_percent=terms.rollout_percent,
        size_bytes=len(content),
        topics_stored=summary.topics_stored,
        duration_s=round(summary.duration_s, 3),
    )
    sha256 = hashlib.sha256(content).hexdigest()
    print(_summary(terms, sha256, len(content), summary, as_json=arguments.json))  # noqa: T201 - the result
    return 0


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise BundleRejectedError(f"{path}: at most {MAX_BUNDLE_BYTES} bytes are read", Reason.TOO_LARGE)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the bundle cannot be read: {error.strerror}") from error


def _terms(arguments: argparse.Namespace, content: bytes) -> ReleaseTerms:
    try:
        manifest = Bundle.unpack(content).manifest
    except BundleRejectedError as error:
        raise BundleRejectedError(f"{arguments.bundle}: {error.detail}", error.reason) from error
    try:
        return ReleaseTerms.decode(
            {
                "model": manifest.model,
                "release": manifest.release,
                "channel": arguments.channel,
                "rollout_percent": arguments.percent,
                # Of the bytes: a rollout that grows keeps the devices that it has.
                "rollout_salt": hashlib.sha256(content).hexdigest()[:16],
                "max_delay_s": arguments.max_delay,
            }
        )
    except MalformedMessageError as error:
        raise ConfigError(f"--channel, --percent, --max-delay: {error.detail}") from error


def _warn_of_expiry(repository: Repository, now: datetime) -> None:
    for role, expires in repository.offline_expiries().items():
        if expires - now < _SOON:
            _log.warning("metadata.aged", role=role, days_left=(expires - now).days)


def _summary(terms: ReleaseTerms, sha256: str, size_bytes: int, summary: Summary, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {
                "model": terms.model,
                "release": terms.release,
                "sha256": sha256,
                "bytes": size_bytes,
                "channel": terms.channel,
                "rollout_percent": terms.rollout_percent,
                "topics": summary.topics,
                "topics_stored": summary.topics_stored,
                "bytes_stored": summary.bytes_stored,
                "seconds": round(summary.duration_s, 3),
            }
        )
    return (
        f"{terms.model} release {terms.release} is out: {size_bytes:,} bytes, channel {terms.channel}, "
        f"{terms.rollout_percent} % of the devices\n"
        f"stored and read back {summary.topics_stored} of {summary.topics} topics "
        f"({summary.bytes_stored:,} bytes) in {summary.duration_s:.1f} s"
    )
