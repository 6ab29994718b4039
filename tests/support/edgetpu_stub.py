"""Builds the stand-in for libedgetpu, and models that it runs as a compiled one is run.

Nothing here knows a real Edge TPU: ``edgetpu_stub/edgetpu_stub.c`` says what is imitated.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

SOURCE = Path(__file__).parents[1] / "edgetpu_stub" / "edgetpu_stub.c"
USB = "/sys/bus/usb/devices/1-1"
_MAGIC = b"ATSTUB01"
End = tuple[list[int], float, int]
"""Shape, scale and zero point of an int8 tensor."""


def build() -> Path:
    """Return the library, compiled anew when its source has changed; skips where there is no gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc: the stand-in for libedgetpu cannot be built")
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"atoll-edgetpu-stub-{digest}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "stub.so"
            flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
            subprocess.run([compiler, *flags, "-o", made, SOURCE, "-lm", "-lpthread"], check=True)
            part = library.with_suffix(f".{Path(folder).name}")
            shutil.copy(made, part)
            part.replace(library)
    return library


@dataclass
class Layer:
    """A fully connected layer: weights int8 (out, in), bias int32 (out), one multiplier per output."""

    weights: np.ndarray
    bias: np.ndarray
    multipliers: np.ndarray
    in_zero: int
    out_zero: int
    low: int = -128
    high: int = 127

    def packed(self) -> bytes:
        out, width = self.weights.shape
        head = struct.pack("<6i", width, out, self.in_zero, self.out_zero, self.low, self.high)
        return b"".join(
            [
                head,
                self.multipliers.astype("<f8").tobytes(),
                self.bias.astype("<i4").tobytes(),
                self.weights.astype(np.int8).tobytes(),
            ]
        )


def fold(content: bytes, *, min_runtime: int = 13) -> bytes:
    """Return an int8 model of fully connected layers, compiled for the stand-in."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    graph = model.subgraphs[0]
    layers = []
    for operator in graph.operators:
        assert _code(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
        source, weights, bias = (graph.tensors[i] if i >= 0 else None for i in operator.inputs)
        target = graph.tensors[operator.outputs[0]]
        matrix = np.frombuffer(bytes(model.buffers[weights.buffer].data), np.int8).reshape(weights.shape)
        added = np.zeros(len(matrix), np.int32)
        if bias is not None:
            added = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32)
        scales = np.resize(np.array(weights.quantization.scale, np.float64), len(matrix))
        factors = source.quantization.scale[0] * scales / target.quantization.scale[0]
        zero = int(target.quantization.zeroPoint[0])
        is_relu = operator.builtinOptions.fusedActivationFunction == schema.ActivationFunctionType.RELU
        low = max(-128, zero) if is_relu else -128
        layers.append(Layer(matrix, added, factors, int(source.quantization.zeroPoint[0]), zero, low))
    ends = [graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]]
    (given, found) = ((list(end.shape), end.quantization) for end in ends)
    return compiled(
        layers,
        (given[0], given[1].scale[0], int(given[1].zeroPoint[0])),
        (found[0], found[1].scale[0], int(found[1].zeroPoint[0])),
        min_runtime=min_runtime,
    )


def compiled(
    layers: Sequence[Layer],
    given: End,
    found: End,
    *,
    min_runtime: int = 13,
) -> bytes:
    """Return a model with the one operator ``edgetpu-custom-op``."""
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Key("1")
        builder.Int(0)
        builder.Key("4")
        packed = b"".join(layer.packed() for layer in layers)
        builder.Blob(_MAGIC + struct.pack("<2i", min_runtime, len(layers)) + packed)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.opcodeIndex = [0], [1], 0
    operator.customOptions = list(builder.Finish())
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = b"edgetpu-custom-op", 1
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(b"input", *given), _tensor(b"output", *found)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    return _packed([code], graph)


def fully_connected(layer: Layer, given: End, found: End) -> bytes:
    """Return one int8 layer as an ordinary model, for the CPU: the twin of what :func:`compiled` makes."""
    factor = float(layer.multipliers[0])
    scale = factor * found[1] / given[1]
    width = layer.weights.shape[1]
    graph = schema.SubGraphT()
    weights = _tensor(b"weights", list(layer.weights.shape), scale, 0, buffer=1)
    bias = _tensor(b"bias", [len(layer.bias)], given[1] * scale, 0, buffer=2)
    bias.type = schema.TensorType.INT32
    graph.tensors = [_tensor(b"input", *given), weights, bias, _tensor(b"output", *found)]
    options = schema.FullyConnectedOptionsT()
    operator = schema.OperatorT()
    operator.inputs, operator.outputs, operator.opcodeIndex = [0, 1, 2], [3], 0
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = options
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    assert int(np.prod(given[0])) == width
    return _packed([code], graph, layer.weights.astype(np.int8).tobytes(), layer.bias.astype("<i4").tobytes())


def _tensor(name: bytes, shape: list[int], scale: float, zero_point: int, *, buffer: int = 0) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, shape, schema.TensorType.INT8, buffer
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
    return tensor


def _packed(codes: list[Any], graph: Any, *buffers: bytes) -> bytes:
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, codes, [graph]
    model.buffers = [schema.BufferT() for _ in range(1 + len(buffers))]
    for buffer, content in zip(model.buffers[1:], buffers, strict=True):
        buffer.data = list(content)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _code(model: Any, operator: Any) -> int:
    code = model.operatorCodes[operator.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))
