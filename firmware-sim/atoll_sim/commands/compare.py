"""``atoll-sim compare``: two releases of a model on one recording."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_link.exits import Exit
from atoll_link.files import storage_error
from atoll_link.settings import load
from atoll_link.stream_settings import StreamsFile
from atoll_sim import options
from atoll_sim.compare import Comparison, compare
from atoll_sim.compare_plot import write_plot

_MOST_DEVICES: Final = 10
_MOST_WINDOWS: Final = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("recordings", type=Path, metavar="DIR", help="of capture, or of atoll-trainer record")
    parser.add_argument("first", type=Path, metavar="A.atoll", help="bundle of one release")
    parser.add_argument("second", type=Path, metavar="B.atoll", help="bundle of the other")
    parser.add_argument(
        "--stream", type=options.identifier, required=True, metavar="ID", help="whose readings they see"
    )
    parser.add_argument(
        "--streams", type=Path, metavar="FILE", help="streams.toml, if the stream's dialect is not our own"
    )
    parser.add_argument("--site", type=options.site, default="plant-a", help="(default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the device that differs most")
    parser.add_argument("--device", type=options.identifier, metavar="ID", help="draw this one instead")
    parser.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Windows are cut and answered by the code that devices run. Where the recording has labels, it is\n"
        "said which release is nearer to them. Nothing is published and no agent is touched."
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare and print where they differ."""
    stream = None
    if arguments.streams is not None:
        tables = {table.name: table for table in load(StreamsFile, arguments.streams, environment={}).stream}
        if arguments.stream not in tables:
            raise ConfigError(
                f"--stream {arguments.stream}: {arguments.streams} has {', '.join(tables)}, not this one"
            )
        stream = tables[arguments.stream].build(arguments.site)
    found = compare(
        arguments.recordings,
        _predictor(arguments.first),
        _predictor(arguments.second),
        arguments.stream,
        stream,
    )
    if arguments.plot is not None:
        device = arguments.device or found.devices()[0][0]
        if all(one.device != device for one in found.both):
            raise ConfigError(f"--device {device}: neither release answers it in this recording")
        write_plot(found, device, arguments.plot)
    if arguments.json:
        print(json.dumps(_facts(found)))  # noqa: T201 - the result
    else:
        _show(found, arguments.plot)
    return Exit.SUCCESS


def _predictor(path: Path) -> Predictor:
    try:
        return golden.self_test(Bundle.unpack(path.read_bytes()), choose_runtime().runtime)
    except OSError as error:
        raise storage_error(path, error) from error
    except BundleRejectedError as error:
        raise BundleRejectedError(f"{path}: {error.detail}", error.reason) from error


def _facts(found: Comparison) -> dict[str, Any]:
    differences = np.array([one.difference for one in found.both])
    errors = found.errors()
    return {
        "model": found.model,
        "unit": found.unit,
        "releases": list(found.releases),
        "windows": len(found.both),
        "only_first": found.only_first,
        "only_second": found.only_second,
        "refused": {reason.value: count for reason, count in found.refused.items()},
        "unused": [{reason.value: count for reason, count in one.items()} for one in found.unused],
        "share_other": found.share_other,
        "mean_difference": float(differences.mean()),
        "p99_difference": float(np.percentile(differences, 99)),
        "max_difference": float(differences.max()),
        "labels": 0 if errors is None else errors[2],
        "errors": None if errors is None else list(errors[:2]),
        "devices": [
            dict(zip(("device", "windows", "mean_difference", "share_other"), one, strict=True))
            for one in found.devices()
        ],
        "largest": [
            asdict(one)
            for one in sorted(found.both, key=lambda one: -one.difference)[:_MOST_WINDOWS]
            if one.is_other
        ],
    }


def _show(found: Comparison, plot: Path | None) -> None:
    facts, unit = _facts(found), f" {found.unit}" if found.unit else ""
    first, second = found.releases
    only = f"{found.only_first:,} only by {first}, {found.only_second:,} only by {second}"
    unused = [
        f"{one.total():,} {release} cannot use"
        for release, one in zip((first, second), found.unused, strict=True)
    ]
    lines = [
        f"model        {found.model}, releases {first} and {second}",
        f"windows      {len(found.both):,} answered by both; {only}",
        f"left out     {found.refused.total():,} messages unread; readings that {unused[0]}, {unused[1]}",
    ]
    if found.is_classifier:
        lines.append(f"differ       in {100 * found.share_other:.2f} % of the windows")
    else:
        lines.append(
            f"differ       mean {facts['mean_difference']:.4g}{unit}, "
            f"99 % below {facts['p99_difference']:.4g}{unit}, at most {facts['max_difference']:.4g}{unit}"
        )
    if (errors := found.errors()) is not None:
        said = "wrong in" if found.is_classifier else "mean error"
        shown = [f"{100 * one:.2f} %" if found.is_classifier else f"{one:.4g}{unit}" for one in errors[:2]]
        lines.append(
            f"{said:<12} {first}: {shown[0]}, {second}: {shown[1]}; of {errors[2]:,} labelled windows"
        )
    lines.append(f"{'device':<24} {'windows':>9} {'mean difference':>16} {'other answer':>13}")
    for device, windows, mean, other in found.devices()[:_MOST_DEVICES]:
        lines.append(f"{device:<24} {windows:>9,} {mean:>16.4g} {100 * other:>11.2f} %")
    for one in facts["largest"]:
        at = datetime.fromtimestamp(one["time_ms"] / 1e3, UTC).isoformat(timespec="milliseconds")
        each = [one[f"{side}_label"] or f"{one[side]:.6g}{unit}" for side in ("first", "second")]
        truth = "" if one["truth"] is None else f", label {one['truth']:.6g}"
        lines.append(f"apart most   {one['device']} at {at}: {each[0]} and {each[1]}{truth}")
    if plot is not None:
        lines.append(f"plot         {plot}")
    print("\n".join(lines))  # noqa: T201 - the result
