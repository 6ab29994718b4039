"""What of a model file an Edge TPU would run, told from its bytes: op by op, and why not.

After the documentation of edgetpu_compiler 16 (coral.ai/docs/edgetpu/models-intro). The compiler decides in
the end; where it is installed it is asked, and judged by the file that it writes.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_infer.flat import DamagedBufferError, FlatTable
from atoll_infer.model_file import read_model_file

MEMORY_BYTES: Final = 8 * 2**20
"""For parameters on the chip; what exceeds it is sent anew for every answer."""
COMPILER: Final = "edgetpu_compiler"
_DEADLINE_S: Final = 300.0
_INT8, _UINT8, _INT32 = 9, 3, 2
_NAMES: Final = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 11: "L2_NORMALIZATION", 14: "LOGISTIC", 17: "MAX_POOL_2D",
    18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE", 23: "RESIZE_BILINEAR",
    25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 28: "TANH", 32: "CUSTOM", 34: "PAD", 36: "GATHER",
    39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE",
    44: "UNIDIRECTIONAL_SEQUENCE_LSTM", 45: "STRIDED_SLICE", 47: "EXP", 49: "SPLIT", 53: "CAST",
    54: "PRELU", 55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 65: "SLICE", 67: "TRANSPOSE_CONV",
    70: "EXPAND_DIMS", 74: "SUM", 76: "RSQRT", 77: "SHAPE", 82: "REDUCE_MAX", 83: "PACK",
    89: "REDUCE_MIN", 92: "SQUARE", 97: "RESIZE_NEAREST_NEIGHBOR", 99: "SQUARED_DIFFERENCE", 101: "ABS",
    114: "QUANTIZE",
}  # fmt: skip
"""Of built-in operators, by their codes in tensorflow/lite/schema/schema.fbs."""
_MAPPED: Final = frozenset(
    [
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "EXPAND_DIMS",
        "FULLY_CONNECTED",
        "L2_NORMALIZATION",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "PACK",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SQUARED_DIFFERENCE",
        "SQUEEZE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    ]
)
_INNER: Final = 3
"""Dimensions above 1 that a tensor may have."""
_SOFTMAX_MOST: Final = 16_000


@dataclass(frozen=True, slots=True)
class Op:
    """One operator.

    Attributes:
        name: As in TensorFlow Lite.
        is_mapped: Whether an Edge TPU would run it.
        why: Why not.
    """

    name: str
    is_mapped: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class EdgeTpuMap:
    """What an Edge TPU would run of a model.

    Attributes:
        ops: In their order. From the first that is not mapped on all stay on the CPU.
        parameter_bytes: Constant numbers in the file.
    """

    ops: list[Op]
    parameter_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it would run there."""
        return all(op.is_mapped for op in self.ops)

    def __str__(self) -> str:
        mapped = sum(op.is_mapped for op in self.ops)
        kept = f"{self.parameter_bytes:,} bytes of parameters"
        if self.parameter_bytes > MEMORY_BYTES:
            kept += f", more than the {MEMORY_BYTES:,} on the chip: the rest is sent for every answer"
        return f"{mapped} of {len(self.ops)} operators would run on an Edge TPU, {kept}"


def map_model(content: bytes) -> EdgeTpuMap:
    """Return what an Edge TPU would run of the model file with these bytes.

    Raises:
        BundleRejectedError: It is no model file, or a damaged one.
    """
    try:
        return _map(FlatTable.root(content, b"TFL3"))
    except DamagedBufferError as error:
        raise BundleRejectedError(f"not a .tflite file: {error}", Reason.MODEL_UNREADABLE) from error


def compile_model(content: bytes) -> tuple[bytes | None, str]:
    """Return the compiled model, None where there is none, and why, for people.

    The compiler is judged by its output: it ends well also when it has mapped nothing.
    """
    compiler = shutil.which(COMPILER)
    if compiler is None:
        return None, f"{COMPILER} is not installed here"
    with TemporaryDirectory(prefix="atoll-") as folder:
        source = Path(folder, "model.tflite")
        source.write_bytes(content)
        command = [compiler, "--out_dir", folder, str(source)]
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=_DEADLINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"{COMPILER} did not end well: {error}"
        out = Path(folder, "model_edgetpu.tflite")
        said = (done.stdout + done.stderr).strip().splitlines()
        last = said[-1][:300] if said else f"status {done.returncode}"
        if not out.exists():
            return None, f"{COMPILER} wrote no model: {last}"
        compiled = out.read_bytes()
    file = read_model_file(compiled)
    return (compiled, str(file)) if file.is_compiled else (None, f"{COMPILER} mapped nothing: {last}")


def _map(model: FlatTable) -> EdgeTpuMap:
    codes = [max(code.number(0, "b"), code.number(3, "i")) for code in model.tables(1)]
    graphs = model.tables(2)
    if not graphs:
        raise DamagedBufferError("it has no graph")
    tensors, buffers = graphs[0].tables(0), model.tables(4)
    sizes = [len(buffer.raw(0)) for buffer in buffers]
    places = [tensor.number(2, "I") for tensor in tensors]
    if any(place >= len(sizes) for place in places):
        raise DamagedBufferError("a tensor names a buffer that is not there")
    ops: list[Op] = []
    for operator in graphs[0].tables(3):
        number = operator.number(0, "I")
        if number >= len(codes):
            raise DamagedBufferError("an operator has no code")
        name = _NAMES.get(codes[number], f"builtin {codes[number]}")
        used = [int(one) for field in (1, 2) for one in operator.numbers(field, "i", 64) if one >= 0]
        if any(one >= len(tensors) for one in used):
            raise DamagedBufferError("an operator names a tensor that is not there")
        why = _why_not(name, [(tensors[one], sizes[places[one]] > 0) for one in used])
        if not why and ops and not ops[-1].is_mapped:
            why = "behind one that is not mapped: only one part of a graph runs there"
        ops.append(Op(name, not why, why))
    return EdgeTpuMap(ops, sum(sizes[place] for place in sorted(set(places))))


def _why_not(name: str, tensors: Sequence[tuple[FlatTable, bool]]) -> str:
    """Return why an operator on ``tensors`` is not mapped; each with whether it is constant."""
    if name not in _MAPPED:
        return "the operator is not supported"
    for tensor, is_constant in tensors:
        kind = tensor.number(1, "b")
        shape = [int(size) for size in tensor.numbers(0, "i", 8)]
        if kind not in {_INT8, _UINT8, _INT32}:
            return f"tensor {tensor.text(3)[:40]!r} is not quantised"
        if not is_constant and sum(size > 1 for size in shape) > _INNER:
            return f"tensor {tensor.text(3)[:40]!r} has more than {_INNER} dimensions above 1"
        if name == "SOFTMAX" and shape and shape[-1] > _SOFTMAX_MOST:
            return f"softmax of more than {_SOFTMAX_MOST:,} elements"
    if name == "FULLY_CONNECTED" and len(tensors) > 1:
        quantisation = tensors[1][0].table(4)
        if quantisation is not None and len(quantisation.numbers(2, "f", 2)) > 1:
            return "weights with a scale per row are newer than the compiler"
    return ""
