"""``atoll-trainer optimise``: a trained model to float and int8 model files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from atoll_infer.runtime import TfliteModel
from atoll_link.files import write_whole
from atoll_trainer.edgetpu_map import EdgeTpuMap, compile_model, map_model
from atoll_trainer.optimise import optimise
from atoll_trainer.runs import Run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, as train made it")
    parser.add_argument("--json", action="store_true", help="print the sizes as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Writes RUN/model_float.tflite and RUN/model_int8.tflite: full-integer int8, input and output\n"
        "included, batch 1, one scale per tensor, ranges from the training part alone. That is the form\n"
        "which edgetpu_compiler takes; where that is installed it is run, too. What of the model an Edge\n"
        "TPU would run is told op by op."
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert and print what came out."""
    target = Run(arguments.run_folder)
    models = dict(zip((target.float_model, target.int8_model), optimise(target), strict=True))
    content = target.int8_model.read_bytes()
    found = map_model(content)
    compiled, told = compile_model(content)
    if compiled is not None:
        write_whole(target.edgetpu_model, compiled)
    if arguments.json:
        sizes: dict[str, object] = {
            path.name: {"path": str(path), "bytes": path.stat().st_size} for path in models
        }
        sizes["edgetpu"] = {"maps": str(found), "ops": [asdict(op) for op in found.ops], "compiler": told}
        print(json.dumps(sizes))  # noqa: T201 - the result
        return 0
    for path, model in models.items():
        print(f"{path.name:<18} {path.stat().st_size:>8,} bytes  {_tensors(model)}")  # noqa: T201 - the result
    print(f"{_shown(found)}\n{told}")  # noqa: T201 - the result
    return 0


def _shown(found: EdgeTpuMap) -> str:
    lines = [str(found)]
    lines += [f"{op.name:<18} stays on the CPU: {op.why}" for op in found.ops if not op.is_mapped]
    return "\n".join(lines)


def _tensors(model: TfliteModel) -> str:
    shown = [
        f"{tensor.dtype.value} {tensor.shape}"
        + (f" scale {tensor.scale:.6g} zero point {tensor.zero_point}" if tensor.scale else "")
        for tensor in (*model.inputs, *model.outputs)
    ]
    return " -> ".join(shown)
