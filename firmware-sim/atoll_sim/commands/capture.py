"""``atoll-sim capture``: what a broker carries, in the recorder's Parquet format."""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path
from typing import Final

from atoll_link.command_line import broker_from
from atoll_link.exits import Exit
from atoll_link.recorder import Recorder, Site
from atoll_link.recording import Recording
from atoll_link.session import Session
from atoll_link.settings import load
from atoll_link.stop import Stop, stop_on_signals
from atoll_link.stream_settings import StreamsFile
from atoll_sim import options, summary

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
        "--trusted-writer",
        type=options.identifier,
        action="append",
        default=[],
        dest="trusted_writers",
        metavar="ID",
        help="whose labels count, besides those of a device about itself; may be given again",
    )
    parser.add_argument(
        "--for", type=options.positive, dest="for_s", metavar="SECONDS", help="end after so long"
    )
    parser.add_argument("--messages", type=options.positive_int, metavar="N", help="end after N messages")
    options.add_connection_arguments(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Readings, labels and predictions of the site go to DIR/{reading,label,prediction}/NAME/DAY/ as\n"
        "atoll-trainer record writes them, by the same rules: train, check --capture and compare read\n"
        "either. The broker forgets this client when it is away; who must not lose a message records.\n"
        "SIGTERM and Ctrl-C end it cleanly."
    )


def run(arguments: argparse.Namespace) -> int:
    """Record and print how much."""
    tables = [] if arguments.streams is None else load(StreamsFile, arguments.streams, environment={}).stream
    site = Site(
        arguments.site,
        tuple(table.build(arguments.site) for table in tables),
        frozenset(arguments.trusted_writers),
        takes_all_ours=True,
    )
    stop = Stop()
    client_id = f"{_WRITER}-capture-{secrets.token_hex(8)}"
    session = Session(broker_from(arguments, _WRITER), client_id, acknowledges_by_hand=True)
    end = None if arguments.for_s is None else time.monotonic() + arguments.for_s
    with Recording(arguments.out) as recording:
        recorder = Recorder(session, recording, site)
        tally = recorder.tally

        def is_over() -> bool:
            enough = arguments.messages is not None and tally.messages >= arguments.messages
            return stop.is_requested or enough or (end is not None and time.monotonic() >= end)

        try:
            with stop_on_signals(stop, session.wake):
                recorder.run(is_over, lambda _tally: None)
        finally:
            session.close()
    numbers: summary.Summary = {
        "readings": tally.readings,
        "labels": tally.labels,
        "predictions": tally.predictions,
        "refused": {reason.value: count for reason, count in tally.refused.items()},
    }
    (summary.print_json if arguments.json else summary.print_text)(numbers)
    return Exit.SUCCESS
