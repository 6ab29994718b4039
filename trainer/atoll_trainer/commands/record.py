"""``atoll-trainer record``: readings, labels and predictions of a site, to Parquet."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from rich.console import Console
from rich.status import Status

from atoll_contract.errors import ConfigError
from atoll_link.alive_file import ALIVE_S, AliveFile
from atoll_link.metrics import Exporter
from atoll_link.recorder import Recorder, Site, Tally
from atoll_link.recording import Recording
from atoll_link.session import Broker, Session, wait_connected
from atoll_link.stop import Stop, stop_on_signals
from atoll_link.systemd import Notifier
from atoll_trainer.home import Home
from atoll_trainer.metrics import RecorderMetrics
from atoll_trainer.settings import TrainerSettings

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--settings", type=Path, required=True, metavar="FILE", help="settings file, trainer.toml"
    )
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="trainer folder (default: as in the settings)"
    )
    parser.add_argument(
        "--for", type=_positive, dest="seconds", metavar="SECONDS", help="end after so long (default: go on)"
    )
    parser.add_argument("--readings", type=_count, metavar="N", help="end once N readings are recorded")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Messages go to HOME/recordings/{reading,label,prediction}/NAME/DAY/part-*.parquet, or to the\n"
        "bucket that [recordings] names; the oldest are deleted when they reach its bounds. They are\n"
        "acknowledged once they are on disk. SIGTERM and Ctrl-C end it cleanly; the broker then keeps\n"
        "QoS 1 messages for the next run. With --for or --readings it keeps nothing afterwards."
    )


def run(arguments: argparse.Namespace) -> int:
    """Record and print what was recorded."""
    settings = TrainerSettings.read(arguments.settings)
    if not settings.stream:
        raise ConfigError(f"{arguments.settings}: stream: missing; add [[stream]] tables or a streams_file")
    home = Home.find(arguments.home or settings.trainer.home)
    broker = settings.build_broker()
    client_id = f"{settings.trainer.id}-record-{home.client_token()}"
    site = Site(
        settings.trainer.site,
        tuple(stream.build(settings.trainer.site) for stream in settings.stream),
        frozenset(settings.trainer.trusted_writers),
    )
    kept = settings.recordings
    bucket = kept.bucket()
    where = str(bucket or home.recordings)
    with Recording(home.recordings, bucket=bucket, bounds=kept.bounds) as recording:
        _log.info("recording.started", folder=where, broker=str(broker))
        session = Session(broker, client_id, is_clean=False, acknowledges_by_hand=True)
        recorder = Recorder(session, recording, site)
        metrics = RecorderMetrics(lambda: recorder.tally, lambda: session.is_connected, home.repository)
        alive = AliveFile(settings.trainer.alive_file, every_s=ALIVE_S)
        try:
            with Exporter(settings.metrics, metrics.collect):
                has_ended_itself = _record(session, recorder, alive, arguments.seconds, arguments.readings)
        finally:
            session.close()
    if has_ended_itself:
        _forget_session(broker, client_id)
    _log.info("recording.ended", rows=recording.written)
    print(_summary(recorder.tally, where, as_json=arguments.json))  # noqa: T201 - the result
    return 0


def _record(
    session: Session, recorder: Recorder, alive: AliveFile, seconds: float | None, readings: int | None
) -> bool:
    """Record until it is over; return whether that was by ``seconds`` or ``readings``."""
    end_s = None if seconds is None else time.monotonic() + seconds

    def has_ended_itself() -> bool:
        return (readings is not None and recorder.tally.readings >= readings) or (
            end_s is not None and time.monotonic() >= end_s
        )

    stop = Stop()
    service = Notifier()
    service.tell(READY="1")
    with stop_on_signals(stop, session.wake), _status() as status:

        def show(tally: Tally) -> None:
            service.beat()
            alive.beat()
            if status is not None:
                status.update(
                    f"recorded {tally.readings:,} readings, {tally.labels:,} labels, "
                    f"{tally.predictions:,} predictions; refused {tally.refused.total():,}"
                )

        try:
            recorder.run(lambda: stop.is_requested or has_ended_itself(), show)
        finally:
            service.tell(STOPPING="1")
        return not stop.is_requested


def _forget_session(broker: Broker, client_id: str) -> None:
    """Make the broker drop what it would keep for a recorder that is not coming back."""
    session = Session(broker, client_id, is_clean=True)
    try:
        wait_connected(session, timeout_s=5.0)
    finally:
        session.close()


@contextmanager
def _status() -> Iterator[Status | None]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with console.status("connecting") as status:
        yield status


def _summary(tally: Tally, folder: str, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(
            {
                "readings": tally.readings,
                "labels": tally.labels,
                "predictions": tally.predictions,
                "refused": {reason.value: count for reason, count in sorted(tally.refused.items())},
                "folder": folder,
            }
        )
    lines = [
        f"readings     {tally.readings:,}",
        f"labels       {tally.labels:,}",
        f"predictions  {tally.predictions:,}",
        f"refused      {tally.refused.total():,}",
        *(
            f"  {reason.value}  {count:,}  last: {tally.details[reason]}"
            for reason, count in tally.refused.items()
        ),
        f"folder       {folder}",
    ]
    return "\n".join(lines)


def _positive(text: str) -> float:
    seconds = float(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
