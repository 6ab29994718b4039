"""``atoll-sim replay``: the rows of a CSV file as readings."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import structlog

from atoll_contract.errors import ConfigError
from atoll_link.command_line import broker_from
from atoll_link.csv_columns import Columns, Row, RowReader, add_form_arguments, name_and_column
from atoll_link.csv_file import CsvFile
from atoll_link.exits import Exit
from atoll_link.session import Session
from atoll_link.stop import Stop, stop_on_signals
from atoll_signal.order import describe
from atoll_sim import options, summary
from atoll_sim.pace import Pace
from atoll_sim.progress import progress_bar
from atoll_sim.replay import Destination, Progress, replay
from atoll_sim.survey import MAX_NAMED, Refusal, Survey, readable, survey
from atoll_sim.uplink import Uplink

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("file", type=Path, metavar="FILE.csv", help="CSV with a header; .gz works too")
    _add_row_arguments(parser)
    parser.add_argument(
        "--site", type=options.site, default="plant-a", help="id of the site (default: %(default)s)"
    )
    parser.add_argument("--stream", type=options.identifier, required=True, help="id of the stream")
    parser.add_argument(
        "--qos", type=int, choices=(0, 1), default=1, help="of the readings (default: %(default)s)"
    )
    parser.add_argument(
        "--writer",
        type=options.writer,
        metavar="ID",
        help="MQTT user name, and who says the labels (default: the device itself)",
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        default="acknowledged",
        metavar="real|N|acknowledged",
        help="by the file's own times, N times as fast, or as fast as the broker acknowledges; "
        "a subscriber slower than that loses what its queue in the broker cannot hold "
        "(default: %(default)s)",
    )
    options.add_link_arguments(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Rows go out in file order with the time that stands in them. Where a device's time steps back\n"
        "is named and nothing is dropped for it; rows that cannot be read are named, counted and skipped.\n"
        "ROW is a line of the file: the header is 1. With QoS 1 an interruption of the broker loses\n"
        "nothing, but what was in flight may arrive twice (its boot and seq tell)."
    )


def _add_row_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("rows")
    device = group.add_mutually_exclusive_group(required=True)
    device.add_argument("--device", type=options.writer, metavar="ID", help="the device of all rows")
    device.add_argument("--device-column", metavar="COLUMN", help="column with the name of the device")
    group.add_argument(
        "--time",
        action="append",
        required=True,
        metavar="COLUMN",
        help="column of the event time; given twice, the cells are joined by a space",
    )
    group.add_argument(
        "--value",
        action="append",
        required=True,
        type=name_and_column,
        metavar="NAME=COLUMN",
        help="a value of the readings; may be given several times",
    )
    group.add_argument("--label", metavar="COLUMN", help="column of the label; needs --model")
    group.add_argument(
        "--model", type=options.identifier, metavar="ID", help="the model that the labels are for"
    )
    add_form_arguments(group)
    group.add_argument("--start", type=options.positive_int, metavar="ROW", help="first row to replay")
    group.add_argument("--rows", type=options.positive_int, metavar="N", help="replay at most N rows")


def run(arguments: argparse.Namespace) -> int:
    """Replay the file and print what was done."""
    if (arguments.label is None) != (arguments.model is None):
        raise ConfigError("--label and --model go together")
    file = CsvFile(arguments.file, arguments.separator)
    reader = RowReader(_columns(arguments), file.header(), file.path)

    def rows() -> Iterator[Row | Refusal]:
        return readable(file.lines(arguments.start, arguments.rows), reader)

    found = survey(rows())
    _tell(found, file.path)
    if found.readings == 0:
        first = f"; row {found.refusals[0].line}: {found.refusals[0].detail}" if found.refusals else ""
        raise ConfigError(f"{file.path}: none of the {found.rows} chosen rows can be read{first}")
    writer = arguments.writer or arguments.device or "atoll-sim"
    client_id = f"{writer}-replay-{secrets.token_hex(8)}"
    session = Session(broker_from(arguments, writer), client_id, max_inflight=arguments.window)
    stop, progress = Stop(), Progress()
    uplink = Uplink(session, stop, window=arguments.window, give_up_after_s=arguments.give_up_after_s)
    start = time.monotonic()
    try:
        with stop_on_signals(stop, session.wake), progress_bar(file.path.name, found.readings) as show:
            if uplink.connect():
                start = time.monotonic()
                replay(
                    (row for row in rows() if isinstance(row, Row)),
                    uplink,
                    _destination(arguments),
                    boot=secrets.token_hex(4),
                    pace=None if arguments.speed is None else Pace(arguments.speed),
                    progress=progress,
                    on_reading=show,
                )
    finally:
        seconds = time.monotonic() - start
        session.close()
        _print_summary(found, progress, uplink, seconds, as_json=arguments.json)
    is_whole = progress.readings == found.readings and uplink.in_flight == 0
    return Exit.SUCCESS if is_whole else Exit.FAILURE


def _columns(arguments: argparse.Namespace) -> Columns:
    values = dict(arguments.value)
    if len(values) < len(arguments.value):
        raise ConfigError("--value: a name is given twice")
    return Columns(
        time=arguments.time,
        values=values,
        device=arguments.device or "",
        device_column=arguments.device_column,
        label=arguments.label,
        time_format=arguments.time_format,
        decimal=arguments.decimal,
        missing=frozenset(arguments.missing),
    )


def _destination(arguments: argparse.Namespace) -> Destination:
    return Destination(
        arguments.site, arguments.stream, arguments.qos, arguments.model, label_source=arguments.writer
    )


def _tell(found: Survey, path: Path) -> None:
    """Log what the survey found, before the first reading is published."""
    for refusal in found.refusals:
        _log.warning("row.skipped", row=refusal.line, reason=refusal.reason, detail=refusal.detail)
    for at in found.steps_back[:MAX_NAMED]:
        _log.warning("time.stepped_back", device=at.device, row=at.step.row, detail=describe(at.step))
    _log.info(
        "file.surveyed",
        file=str(path),
        rows=found.rows,
        readings=found.readings,
        labels=found.labels,
        steps_back=len(found.steps_back),
        span_s=round(found.span_s, 3),
    )


def _print_summary(
    found: Survey, progress: Progress, uplink: Uplink, seconds: float, *, as_json: bool
) -> None:
    numbers: summary.Summary = {
        "rows": found.rows,
        "readings": progress.readings,
        "labels": progress.labels,
        "acknowledged": uplink.acknowledged,
        "unacknowledged": uplink.in_flight,
        "lost": uplink.lost,
        "skipped": dict(found.skipped),
        "steps_back": len(found.steps_back),
        "seconds": round(seconds, 3),
        "readings_per_s": round(progress.readings / max(seconds, 1e-9), 1),
    }
    named = found.steps_back[:MAX_NAMED]
    if as_json:
        steps = [{"device": at.device, **asdict(at.step), "detail": describe(at.step)} for at in named]
        skipped = [{"row": one.line, "reason": one.reason, "detail": one.detail} for one in found.refusals]
        summary.print_json(numbers, where={"steps_back": steps, "skipped": skipped})
    else:
        summary.print_text(numbers, [f"{at.device}: {describe(at.step)}" for at in named])


def _speed(text: str) -> float | None:
    match text:
        case "acknowledged":
            return None
        case "real":
            return 1.0
        case _:
            return options.positive(text)
