"""``atoll-trainer train-pictures``: fit a classifier on recorded pictures and their labels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError
from atoll_contract.ids import is_id
from atoll_contract.manifest import Channels
from atoll_ingest.stream import Stream
from atoll_link.files import make_folder, write_whole
from atoll_trainer import pictures
from atoll_trainer.commands.options import add_settings_options
from atoll_trainer.convert import Conversion, convert
from atoll_trainer.figures import metrics
from atoll_trainer.home import Home
from atoll_trainer.optimise import representatives
from atoll_trainer.own_model import OwnModel, answers_of
from atoll_trainer.pictures import Pictures
from atoll_trainer.settings import TrainerSettings
from atoll_trainer.task import TaskKind

_SAMPLES = 32


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_settings_options(parser)
    parser.add_argument("--model", type=_model, required=True, metavar="ID", help="id of the model")
    parser.add_argument(
        "--stream", required=True, metavar="ID", help="stream of the pictures, as in the settings"
    )
    parser.add_argument(
        "--labels",
        type=_labels,
        required=True,
        metavar="A,B,...",
        help="the classes, in the order of their numbers",
    )
    parser.add_argument(
        "--size", type=_size, default=(32, 32), metavar="HxW", help="what the model sees (default: 32x32)"
    )
    parser.add_argument(
        "--channels", type=Channels, choices=list(Channels), default=Channels.GREY, help="(default: grey)"
    )
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="most passes (default: 30)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers (default: 0)")
    parser.add_argument(
        "--recordings", type=Path, metavar="DIR", help="recorded messages (default: HOME/recordings)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "DIR then holds model.toml, model.tflite (int8) and samples/, as for a model of one's own:\n"
        "  atoll-trainer bundle --manifest DIR/model.toml --model DIR/model.tflite --samples DIR/samples \\\n"
        "      --out look-1.atoll\n"
        "Pictures are split in order of time: 70 % to learn from, 15 % say when to stop, and the accuracy\n"
        "that is printed is that of the int8 model, in the devices' runtime, on the rest."
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and print how often the model is right."""
    settings = TrainerSettings.read(arguments.settings)
    home = Home.find(arguments.home or settings.trainer.home)
    stream = _stream(settings, arguments)
    found = pictures.from_recording(
        arguments.recordings or home.recordings,
        stream,
        arguments.model,
        arguments.labels,
        arguments.channels,
        arguments.size,
    )
    out: Path = arguments.out
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: is not empty; name a new folder")
    make_folder(out)
    # The one large array: four times as much as the pixels.
    normal = found.pixels.reshape(len(found), *arguments.size, -1).astype(np.float32)
    end = found.ends[0]
    mean, scale = float(normal[:end].mean()), float(normal[:end].std()) or 1.0
    normal -= np.float32(mean)
    normal /= np.float32(scale)
    # TensorFlow takes seconds to load: first everything that can fail without it.
    from atoll_trainer.picture_net import fit  # noqa: PLC0415

    labels: list[str] = arguments.labels
    net = fit(
        normal, found.classes, found.ends, count=len(labels), epochs=arguments.epochs, seed=arguments.seed
    )
    net.save(out / "saved")
    flat = normal.reshape(len(normal), -1)
    (content,) = convert([Conversion(out / "saved", representatives(flat[:end]))])
    write_whole(out / "model.tflite", content)
    _write_description(out, stream, arguments, mean, scale)
    _write_samples(out / "samples", found)
    said = _said(OwnModel.read(out / "model.toml"), content, found)
    _add_figures(out, found, said)
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(matrix, (found.classes[found.ends[1] :], said.argmax(axis=1)), 1)
    _tell(arguments, found, matrix, net.epochs, len(content))
    return 0


def _stream(settings: TrainerSettings, arguments: argparse.Namespace) -> Stream:
    for table in settings.stream:
        if table.name == arguments.stream:
            if table.dialect != "picture":
                message = f"--stream {table.name}: its dialect is {table.dialect!r}, not 'picture'"
                raise ConfigError(message)
            return table.build(settings.trainer.site)
    known = ", ".join(table.name for table in settings.stream) or "none"
    raise ConfigError(f"--stream {arguments.stream}: there is no such stream in the settings; known: {known}")


def _write_description(
    out: Path, stream: Stream, arguments: argparse.Namespace, mean: float, scale: float
) -> None:
    height, width = arguments.size
    channels: Channels = arguments.channels
    shape = [height, width] if channels is Channels.GREY else [height, width, 3]
    value = next(iter(stream.units))
    lines = [
        f'model = "{arguments.model}"',
        'task = "classification"',
        "tolerance = 4",
        f"[values.{json.dumps(value)}]",
        f"shape = {shape}",
        f'picture = {{ channels = "{channels.value}" }}',
        "[normalisation]",
        f"mean = [{mean!r}]",
        f"scale = [{scale!r}]",
        "[output]",
        f"labels = {json.dumps(arguments.labels, ensure_ascii=False)}",
        "[pass]",
        "shadow_windows = 0",
        "probation_windows = 0",
    ]
    write_whole(out / "model.toml", "\n".join([*lines, ""]).encode())


def _write_samples(folder: Path, found: Pictures) -> None:
    """Keep pictures of the test part, some of each class if there are any."""
    make_folder(folder)
    test = np.arange(found.ends[1], len(found))
    by_class = np.argsort(found.classes[test], kind="stable")
    chosen = np.unique(np.linspace(0, len(test) - 1, min(_SAMPLES, len(test))).astype(int))
    for place in test[by_class][chosen].tolist():
        picture = found.encoded[place]
        suffix = "png" if picture.startswith(b"\x89PNG") else "jpg"
        write_whole(folder / f"{place:06d}.{suffix}", picture)


def _said(description: OwnModel, content: bytes, found: Pictures) -> NDArray[np.float64]:
    """Return the probabilities that the int8 model gives to each picture of the test part."""
    test = found.pixels[found.ends[1] :]
    return answers_of(description, content, test.reshape(len(test), 1, -1).astype(np.float32))


def _add_figures(out: Path, found: Pictures, said: NDArray[np.float64]) -> None:
    """Write what the gate holds against each other: the int8 model and the shares of the classes."""
    train, test = found.classes[: found.ends[0]], found.classes[found.ends[1] :]
    shares = np.bincount(train, minlength=said.shape[1]) / len(train)
    lines = ["[metrics]"]
    for whose, outputs in (("int8", said), ("naive", np.tile(shares, (len(test), 1)))):
        figures = metrics(TaskKind.CLASSIFICATION, outputs, test.astype(np.float64))
        told = figures.model_dump(include={"accuracy", "log_loss"}, exclude_none=True)
        lines += [f"{whose}_{name} = {figure!r}" for name, figure in told.items()]
    path = out / "model.toml"
    write_whole(path, path.read_bytes() + "\n".join([*lines, ""]).encode())


def _tell(
    arguments: argparse.Namespace, found: Pictures, matrix: NDArray[np.int64], epochs: int, size_bytes: int
) -> None:
    accuracy = float(np.trace(matrix) / max(1, matrix.sum()))
    recall = {
        label: float(row[number] / row.sum()) if row.sum() else None
        for number, (label, row) in enumerate(zip(arguments.labels, matrix, strict=True))
    }
    if arguments.json:
        facts = {
            "folder": str(arguments.out),
            "pictures": len(found),
            "unlabelled": found.unlabelled,
            "labels_lost": found.lost,
            "refused": {reason.value: count for reason, count in found.refused.items()},
            "epochs": epochs,
            "bytes": size_bytes,
            "test_pictures": int(matrix.sum()),
            "accuracy": accuracy,
            "recall": recall,
        }
        print(json.dumps(facts))  # noqa: T201 - the result
        return
    left_out = f"unlabelled {found.unlabelled:,}, refused {found.refused.total():,}"
    lines = [
        f"pictures     {len(found):,}; {left_out}, labels without a picture {found.lost:,}",
        f"epochs       {epochs}",
        f"model        {size_bytes:,} bytes, int8",
        f"accuracy     {accuracy:.4f} on {matrix.sum():,} pictures of the test part",
        *(
            f"recall       {label}: {'no picture' if share is None else f'{share:.4f}'}"
            for label, share in recall.items()
        ),
        f"folder       {arguments.out}",
    ]
    print("\n".join(lines))  # noqa: T201 - the result


def _model(text: str) -> str:
    if not is_id(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a model")
    return text


def _labels(text: str) -> list[str]:
    labels = [label.strip() for label in text.split(",")]
    if len(labels) < 2 or "" in labels or len(set(labels)) < len(labels):  # noqa: PLR2004 - what can differ
        raise argparse.ArgumentTypeError(f"{text!r}: two or more different names are wanted")
    return labels


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    size = int(height), int(width)
    if not all(8 <= side <= 512 for side in size):  # noqa: PLR2004 - what the network can take
        raise argparse.ArgumentTypeError(f"{text}: sides are from 8 to 512 pixels")
    return size
