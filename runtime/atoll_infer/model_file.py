"""What a ``.tflite`` file is, told from its bytes: no runtime and no Edge TPU is needed.

A file that ``edgetpu_compiler`` made holds the operator ``edgetpu-custom-op`` in place of those that
it mapped: alone (fully mapped), or beside operators that stay on the CPU (partly mapped). The name of
a file proves nothing, and a delegate that loads proves nothing either: over an uncompiled model it
is idle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import Dtype, Manifest, TensorSpec
from atoll_infer.flat import DamagedBufferError, FlatTable, flex_blob

EDGETPU_OPERATOR: Final = "edgetpu-custom-op"

# Numbers of fields in tensorflow/lite/schema/schema.fbs.
_MODEL_OPERATOR_CODES, _MODEL_SUBGRAPHS = 1, 2
_CODE_DEPRECATED, _CODE_CUSTOM, _CODE_BUILTIN = 0, 1, 3
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_QUANTISATION = 0, 1, 3, 4
_QUANTISATION_SCALE, _QUANTISATION_ZERO_POINT = 2, 3
_OPERATOR_CODE, _OPERATOR_OPTIONS = 0, 5
_CUSTOM: Final = 32
"""The operator code of all custom operators."""
_TYPES: Final = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    5: "string",
    6: "bool",
    7: "int16",
    8: "complex64",
    9: "int8",
    10: "float64",
}
# Of the compiler's package: libedgetpu executable/executable.fbs.
_PACKAGE: Final = b"4"
_PACKAGE_MIN_RUNTIME, _PACKAGE_COMPILER = 0, 4
_MOST_TENSORS: Final = 16
_MOST_NAME_CHARS: Final = 80


class ModelClass(StrEnum):
    """What may run a model file."""

    UNCOMPILED = "uncompiled"
    """The CPU."""
    FULLY_MAPPED = "fully mapped"
    """An Edge TPU, alone."""
    PARTLY_MAPPED = "partly mapped"
    """An Edge TPU, with the rest on the CPU."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """An input or output tensor as the file declares it.

    Attributes:
        name: As in the file.
        shape: With the batch dimension.
        dtype: Element type, as numpy calls it.
        scale: Quantisation step of the whole tensor; 0: it is not quantised.
        zero_point: Quantised number that stands for 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def __str__(self) -> str:
        quantised = f" scale {self.scale:g} zero point {self.zero_point}" if self.scale else ""
        return f"{self.dtype} {list(self.shape)}{quantised}"

    def spec(self) -> TensorSpec:
        """Return the tensor as a manifest declares it.

        Raises:
            BundleRejectedError: A manifest cannot declare such a tensor.
        """
        if self.dtype not in list(Dtype):
            message = f"tensor {self.name!r} is {self.dtype}: float32, int8 or uint8 can be run"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
        try:
            return TensorSpec(
                name=self.name,
                shape=list(self.shape),
                dtype=Dtype(self.dtype),
                scale=self.scale,
                zero_point=self.zero_point,
            )
        except ValidationError as error:
            message = f"tensor {self.name!r} is {self}: a fixed shape and one scale are needed"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS) from error


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a model file is.

    Attributes:
        operators: How many operators its first graph has.
        edgetpu_operators: How many of them an Edge TPU runs.
        custom_operators: Names of the other custom operators, sorted.
        min_runtime: The oldest Edge TPU runtime that runs it; None: it does not tell.
        compiler: Version of the Edge TPU compiler.
        inputs: Input tensors.
        outputs: Output tensors.
    """

    operators: int
    edgetpu_operators: int
    custom_operators: tuple[str, ...]
    min_runtime: int | None
    compiler: str
    inputs: tuple[FileTensor, ...]
    outputs: tuple[FileTensor, ...]

    @property
    def model_class(self) -> ModelClass:
        """What may run it."""
        if not self.edgetpu_operators:
            return ModelClass.UNCOMPILED
        is_whole = self.operators == self.edgetpu_operators
        return ModelClass.FULLY_MAPPED if is_whole else ModelClass.PARTLY_MAPPED

    @property
    def is_compiled(self) -> bool:
        """Whether it needs an Edge TPU."""
        return self.edgetpu_operators > 0

    def __str__(self) -> str:
        if not self.is_compiled:
            return f"uncompiled, {_counted(self.operators)}"
        runtime = "" if self.min_runtime is None else f", Edge TPU runtime {self.min_runtime} or newer"
        on_cpu = self.operators - self.edgetpu_operators
        if not on_cpu:
            return f"fully mapped to the Edge TPU{runtime}"
        return f"partly mapped to the Edge TPU, {_counted(on_cpu)} on the CPU{runtime}"


def read_model_file(content: bytes) -> ModelFile:
    """Return what the model file with these bytes is.

    Raises:
        BundleRejectedError: It is no model file, or a damaged one.
    """
    try:
        return _read(content)
    except DamagedBufferError as error:
        raise BundleRejectedError(f"not a .tflite file: {error}", Reason.MODEL_UNREADABLE) from error


def require_uncompiled(file: ModelFile) -> None:
    """Refuse a file that the CPU cannot run.

    Raises:
        BundleRejectedError: With what is wrong and what to do.
    """
    if file.is_compiled:
        message = (
            f"the model file is {file}; without an Edge TPU it cannot be run: "
            "take the .tflite file that edgetpu_compiler was given"
        )
        raise BundleRejectedError(message, Reason.MODEL_NEEDS_EDGETPU)
    if file.custom_operators:
        message = (
            f"the model file needs the custom operator {', '.join(file.custom_operators)[:200]}, which no "
            "runtime of atoll has: convert it with built-in operators only (no SELECT_TF_OPS)"
        )
        raise BundleRejectedError(message, Reason.MODEL_UNREADABLE)


def require_compiled(file: ModelFile, runtime: int | None = None) -> None:
    """Refuse a file that an Edge TPU cannot run.

    Args:
        file: What the file is.
        runtime: Version of the Edge TPU runtime here; None: unknown.

    Raises:
        BundleRejectedError: With what is wrong and what to do.
    """
    if not file.is_compiled:
        message = (
            f"the model file is {file}: an Edge TPU would leave all of it to the CPU; "
            "compile it with edgetpu_compiler"
        )
        raise BundleRejectedError(message, Reason.MODEL_NOT_COMPILED)
    if runtime is not None and file.min_runtime is not None and runtime < file.min_runtime:
        message = (
            f"the model file needs Edge TPU runtime {file.min_runtime}, here is {runtime}: install a newer "
            f"libedgetpu, or compile with edgetpu_compiler --min_runtime_version {runtime}"
        )
        raise BundleRejectedError(message, Reason.MODEL_NEEDS_EDGETPU)


def require_twins(cpu: ModelFile, compiled: ModelFile) -> None:
    """Refuse a compiled file that was not made from the file for the CPU.

    Raises:
        BundleRejectedError: Their tensors differ.
    """
    for side in ("inputs", "outputs"):
        own, other = getattr(cpu, side), getattr(compiled, side)
        if len(own) != len(other) or not all(map(_is_same, own, other)):
            message = (
                f"the compiled file belongs to another model: {side} are {_listed(cpu, side)} "
                f"for the CPU, {_listed(compiled, side)} for the Edge TPU"
            )
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)


def require_tensors(manifest: Manifest, file: ModelFile) -> None:
    """Refuse a file whose tensors are not those of ``manifest``.

    Raises:
        BundleRejectedError: With both.
    """
    for side, declared in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        found: tuple[FileTensor, ...] = getattr(file, side)
        if len(found) != 1:
            message = f"the model file has {len(found)} {side}; models with one can be run"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
        spec = found[0].spec()
        if not is_same_tensor(declared[0], spec):
            message = f"{side}: the manifest says {shown(declared[0])}, the model file {shown(spec)}"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)


def require_files(bundle: Bundle, *, needs_edgetpu: bool = False) -> None:
    """Check the model files of ``bundle`` by their bytes, before any runtime sees them.

    Args:
        bundle: The bundle.
        needs_edgetpu: The settings demand an Edge TPU.

    Raises:
        BundleRejectedError: A file is damaged, of the wrong class, or has other tensors than the
            manifest; or none is compiled where an Edge TPU is demanded.
    """
    cpu = read_model_file(bundle.model)
    require_uncompiled(cpu)
    require_tensors(bundle.manifest, cpu)
    if bundle.model_edgetpu is not None:
        compiled = read_model_file(bundle.model_edgetpu)
        require_compiled(compiled)
        require_twins(cpu, compiled)
    elif needs_edgetpu:
        message = (
            'accelerator = "edgetpu", and the bundle holds no model compiled for it: add it with '
            "atoll-trainer bundle --edgetpu, or set accelerator to auto or cpu"
        )
        raise BundleRejectedError(message, Reason.MODEL_NOT_COMPILED)


def is_same_tensor(declared: TensorSpec, found: TensorSpec) -> bool:
    """Whether two tensors agree in all but their names."""
    return (
        declared.shape == found.shape
        and declared.dtype == found.dtype
        and declared.zero_point == found.zero_point
        and math.isclose(declared.scale, found.scale, rel_tol=1e-6)
    )


def shown(spec: TensorSpec) -> str:
    """Return a tensor in words."""
    return f"{spec.dtype.value} {spec.shape} scale {spec.scale:g} zero point {spec.zero_point}"


def _read(content: bytes) -> ModelFile:
    model = FlatTable.root(content, b"TFL3")
    codes = [_operator_name(code) for code in model.tables(_MODEL_OPERATOR_CODES)]
    graphs = model.tables(_MODEL_SUBGRAPHS)
    if not graphs:
        raise DamagedBufferError("it has no graph")
    graph = graphs[0]
    tensors = graph.tables(_GRAPH_TENSORS)
    operators = graph.tables(_GRAPH_OPERATORS)
    compiled: list[FlatTable] = []
    custom: set[str] = set()
    for operator in operators:
        number = operator.number(_OPERATOR_CODE, "I")
        if number >= len(codes):
            raise DamagedBufferError("an operator has no code")
        name = codes[number]
        if name == EDGETPU_OPERATOR:
            compiled.append(operator)
        elif name is not None:
            custom.add(name[:_MOST_NAME_CHARS])
    min_runtime, compiler = _package(compiled[0]) if compiled else (None, "")
    return ModelFile(
        operators=len(operators),
        edgetpu_operators=len(compiled),
        custom_operators=tuple(sorted(custom)),
        min_runtime=min_runtime,
        compiler=compiler,
        inputs=_chosen(graph, _GRAPH_INPUTS, tensors),
        outputs=_chosen(graph, _GRAPH_OUTPUTS, tensors),
    )


def _operator_name(code: FlatTable) -> str | None:
    """Return the name of a custom operator; None: it is a built-in one."""
    number = max(code.number(_CODE_DEPRECATED, "b"), code.number(_CODE_BUILTIN, "i"))
    return code.text(_CODE_CUSTOM) if number == _CUSTOM else None


def _chosen(graph: FlatTable, field: int, tensors: list[FlatTable]) -> tuple[FileTensor, ...]:
    numbers = [int(number) for number in graph.numbers(field, "i", _MOST_TENSORS)]
    if any(not 0 <= number < len(tensors) for number in numbers):
        raise DamagedBufferError("a graph names a tensor that it does not have")
    return tuple(_tensor(tensors[number]) for number in numbers)


def _tensor(table: FlatTable) -> FileTensor:
    number = table.number(_TENSOR_TYPE, "b")
    scale, zero_point = 0.0, 0
    quantisation = table.table(_TENSOR_QUANTISATION)
    if quantisation is not None:
        scales = quantisation.numbers(_QUANTISATION_SCALE, "f", 2)
        zero_points = quantisation.numbers(_QUANTISATION_ZERO_POINT, "q", 1)
        if len(scales) == 1 and zero_points:
            scale, zero_point = scales[0], int(zero_points[0])
    return FileTensor(
        name=table.text(_TENSOR_NAME)[:_MOST_NAME_CHARS],
        shape=tuple(int(size) for size in table.numbers(_TENSOR_SHAPE, "i", 8)),
        dtype=_TYPES.get(number, f"type {number}"),
        scale=scale,
        zero_point=zero_point,
    )


def _package(operator: FlatTable) -> tuple[int | None, str]:
    """Return the oldest runtime and the compiler that a compiled operator names, as far as it can be read.

    The package is none of TensorFlow Lite's; a compiler of another make may write it otherwise.
    """
    try:
        package = flex_blob(operator.raw(_OPERATOR_OPTIONS), _PACKAGE)
        if package is None:
            return None, ""
        table = FlatTable.root(package, b"DWN1")
        return table.number(_PACKAGE_MIN_RUNTIME, "i") or None, table.text(_PACKAGE_COMPILER)[
            :_MOST_NAME_CHARS
        ]
    except DamagedBufferError:
        return None, ""


def _is_same(one: FileTensor, other: FileTensor) -> bool:
    return (
        (one.shape, one.dtype, one.zero_point) == (other.shape, other.dtype, other.zero_point)
    ) and math.isclose(one.scale, other.scale, rel_tol=1e-6)


def _listed(file: ModelFile, side: str) -> str:
    return ", ".join(map(str, getattr(file, side))) or "none"


def _counted(number: int) -> str:
    return f"{number} operator" if number == 1 else f"{number} operators"
