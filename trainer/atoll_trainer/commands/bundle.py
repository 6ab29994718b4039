"""``atoll-trainer bundle``: a release from a run, or from a model file of one's own."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from atoll_contract.bundle import Bundle
from atoll_contract.release import MAX_RELEASE
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer import bundling, own_model
from atoll_trainer.home import Home
from atoll_trainer.own_model import OwnModel
from atoll_trainer.runs import Run

_HELP = """
  atoll-trainer bundle --manifest model.toml --model model.tflite --samples samples.csv --out model-1.atoll

a model of one's own (TensorFlow is not needed):
  model.toml tells what the model file cannot; shapes, dtypes and quantisation are read from the file.

    model = "seen"                    # as in the agents' settings
    task = "classification"           # or regression, forecast, anomaly
    [values.image]                    # what each reading must hold
    shape = [128, 128, 3]             # leave it out for one number
    low = 0
    high = 255
    [window]
    length = 1                        # readings per input
    [normalisation]                   # (x - mean) / scale in the values' units, before quantisation;
    mean = [128]                      # so an image input of scale 1/128 and zero point 128 takes
    scale = [128]                     # pixels from 0 to 255 like this; leave it out for none
    [output]
    labels_file = "labels.txt"        # or labels, unit, scale, offset, threshold, step_ms

  samples, for the self-test on devices: .npy of shape (n, length, columns) or with as many numbers per
  window; or .csv with a header and one column per number, whose consecutive rows make windows; or, for
  a value that is a picture ([values.NAME.picture] in the TOML), a folder of JPEG and PNG files.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.atoll", help="the bundle to write")
    parser.add_argument(
        "--release",
        type=_release,
        metavar="N",
        help="its number (default: the next one in HOME/repository, or 1 without a repository)",
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="trainer folder")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    run_group = parser.add_argument_group("from a run")
    run_group.add_argument("--run", type=Path, dest="run_folder", metavar="RUN", help="run folder")
    run_group.add_argument("--float", action="store_true", help="take the float model, not the int8 one")
    own = parser.add_argument_group("from a model of one's own")
    own.add_argument("--manifest", type=Path, metavar="FILE.toml", help="what the model file cannot tell")
    own.add_argument("--model", type=Path, metavar="FILE.tflite", help="the model, for the CPU")
    own.add_argument(
        "--edgetpu", type=Path, metavar="FILE.tflite", help="the same, compiled for the Edge TPU"
    )
    own.add_argument(
        "--samples", type=Path, metavar="FILE", help="readings: .npy, .csv or a folder of pictures"
    )
    parser.set_defaults(usage_error=parser.error)
    parser.epilog = f"{parser.epilog}{_HELP}"


def run(arguments: argparse.Namespace) -> int:
    """Write the bundle and print what is in it."""
    content = _packed(arguments)
    make_folder(arguments.out.absolute().parent)
    write_whole(arguments.out, content)
    bundle = Bundle.unpack(content)
    manifest, sha256 = bundle.manifest, hashlib.sha256(content).hexdigest()
    if arguments.json:
        summary = {
            "path": str(arguments.out),
            "model": manifest.model,
            "release": manifest.release,
            "task": manifest.task.value,
            "dtype": manifest.inputs[0].dtype.value,
            "bytes": len(content),
            "sha256": sha256,
            "golden_cases": len(bundle.golden.cases),
            "has_edgetpu": bundle.model_edgetpu is not None,
            "metrics": manifest.training.metrics,
        }
        print(json.dumps(summary))  # noqa: T201 - the result
        return 0
    tensors = [f"{tensor.dtype.value} {tensor.shape}" for tensor in (*manifest.inputs, *manifest.outputs)]
    lines = {
        "model": manifest.model,
        "release": str(manifest.release),
        "task": manifest.task.value,
        "tensors": " -> ".join(tensors),
        "edge tpu": "yes" if bundle.model_edgetpu else "no",
        "golden": f"{len(bundle.golden.cases)} vectors, reproduced",
        "size": f"{len(content):,} bytes",
        "sha256": sha256,
        "bundle": str(arguments.out),
    }
    for name, shown in lines.items():
        print(f"{name:<12} {shown}")  # noqa: T201 - the result
    for name, figure in manifest.training.metrics.items():
        print(f"{name:<12} {figure:.6g}")  # noqa: T201 - the result
    return 0


def _packed(arguments: argparse.Namespace) -> bytes:
    own = {"--manifest": arguments.manifest, "--model": arguments.model, "--samples": arguments.samples}
    if arguments.run_folder is not None:
        others = own | {"--edgetpu": arguments.edgetpu}
        if given := [option for option, path in others.items() if path is not None]:
            arguments.usage_error(f"{given[0]} does not go with --run")
        source = Run(arguments.run_folder)
        release = arguments.release or _next_release(arguments.home, source.task().task.model)
        return bundling.from_run(source, release, is_float=arguments.float or None)
    if missing := [option for option, path in own.items() if path is None]:
        arguments.usage_error(
            f"{', '.join(missing)} missing: give --run, or --manifest, --model and --samples"
        )
    if arguments.float:
        arguments.usage_error("--float goes with --run only")
    description = OwnModel.read(arguments.manifest)
    release = arguments.release or description.release or _next_release(arguments.home, description.model)
    return own_model.from_files(description, release, arguments.model, arguments.samples, arguments.edgetpu)


def _next_release(given: Path | None, model: str) -> int:
    folder = Home.find(given).repository
    try:
        folder.stat()
    except FileNotFoundError:
        return 1
    except OSError as error:
        raise storage_error(folder, error) from error
    from atoll_trainer.repository import Repository  # noqa: PLC0415 - signatures, which a bundle has none of

    return Repository.load(folder).next_release(model)


def _release(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_RELEASE:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to {MAX_RELEASE}")
    return number
