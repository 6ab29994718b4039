"""``atoll-sim capture``: what a broker carries, in the recorder's Parquet format."""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path
from typing import Final

from atoll_link.command_line import broker_from
from atoll_link.exits import Exit
from atoll_link.recording import Recording
from atoll_link.session import Session
from atoll_link.settings import load
from atoll_link.stop import Stop, stop_on_signals
from atoll_link.stream_settings import StreamsFile
from atoll_sim import options, summary
from atoll_sim.capture import Capture

_WRITER: Final = "atoll-sim"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the recording")
    parser.add_argument(
        "--site", type=options.site, default="plant-a", help="id of the site (default: %(default)s)"
    )
    parser.add_argument(
        "--streams",
        type=Path,
        metavar="FILE",
        help="streams.toml: streams of other dialects to record; readings of our own are anyway",
    )
    parser.add_argument(
        "--for", type=options.positive, dest="for_s", metavar="SECONDS", help="end after so long"
    )
    parser.add_argument("--messages", type=options.positive_int, metavar="N", help="end after N messages")
    options.add_connection_arguments(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Readings, labels and predictions of the site go to DIR/{reading,label,prediction}/NAME/DAY/ as\n"
        "atoll-trainer record writes them: train, check --capture and compare read either.\n"
        "SIGTERM and Ctrl-C end it cleanly."
    )


def run(arguments: argparse.Namespace) -> int:
    """Record and print how much."""
    tables = [] if arguments.streams is None else load(StreamsFile, arguments.streams, environment={}).stream
    streams = [table.build(arguments.site) for table in tables]
    stop = Stop()
    session = Session(broker_from(arguments, _WRITER), f"{_WRITER}-capture-{secrets.token_hex(8)}")
    end = None if arguments.for_s is None else time.monotonic() + arguments.for_s
    with Recording(arguments.out) as recording:
        capture = Capture(session, recording, arguments.site, streams)

        def is_over() -> bool:
            enough = arguments.messages is not None and capture.counts.messages >= arguments.messages
            return stop.is_requested or enough or (end is not None and time.monotonic() >= end)

        try:
            with stop_on_signals(stop, session.wake):
                capture.run(is_over)
        finally:
            session.close()
    numbers: summary.Summary = {
        "readings": capture.counts.readings,
        "labels": capture.counts.labels,
        "predictions": capture.counts.predictions,
        "refused": dict(capture.counts.refused),
    }
    (summary.print_json if arguments.json else summary.print_text)(numbers)
    return Exit.SUCCESS
