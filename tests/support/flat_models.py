"""Model files built field by field, as ``edgetpu_compiler`` writes them but for what no test reads."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

COMPILED = "edgetpu-custom-op"
FLOAT32, INT64, INT8 = 0, 4, 9


def flat_model(
    operators: Sequence[str | None],
    *,
    min_runtime: int | None = 14,
    shape: Sequence[int] = (1, 1),
    dtype: int = FLOAT32,
    scale: float | None = None,
    inputs: int = 1,
) -> bytes:
    """Return a model file with these operators, by their custom names; None: a built-in one.

    All its inputs and its output are tensors of ``shape`` and ``dtype``.
    """
    flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers comes with the extra trainer")
    builder = flatbuffers.Builder(0)
    names = sorted(set(operators), key=str)
    codes = _vector(builder, [_code(builder, name) for name in names])
    tensors = _vector(
        builder, [_tensor(builder, f"t{number}", shape, dtype, scale) for number in range(inputs + 1)]
    )
    chosen = [_numbers(builder, numbers) for numbers in (range(inputs), [inputs])]
    made = [
        _operator(builder, names.index(name), _options(min_runtime) if name == COMPILED else b"")
        for name in operators
    ]
    ops = _vector(builder, made)
    builder.StartObject(5)
    for slot, offset in enumerate((tensors, *chosen, ops)):
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    graphs = _vector(builder, [builder.EndObject()])
    builder.StartObject(8)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(1, codes, 0)
    builder.PrependUOffsetTRelativeSlot(2, graphs, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _numbers(builder, numbers):
    builder.StartVector(4, len(numbers), 4)
    for number in reversed(numbers):
        builder.PrependInt32(number)
    return builder.EndVector()


def _code(builder, name):
    text = builder.CreateString(name) if name is not None else None
    builder.StartObject(4)
    builder.PrependInt8Slot(0, 32 if name is not None else 9, 0)
    if text is not None:
        builder.PrependUOffsetTRelativeSlot(1, text, 0)
    builder.PrependInt32Slot(3, 32 if name is not None else 9, 0)
    return builder.EndObject()


def _tensor(builder, name, shape, dtype, scale):
    text, sizes, quantisation = builder.CreateString(name), _numbers(builder, shape), None
    if scale is not None:
        builder.StartVector(4, 1, 4)
        builder.PrependFloat32(scale)
        scales = builder.EndVector()
        builder.StartVector(8, 1, 8)
        builder.PrependInt64(0)
        zero_points = builder.EndVector()
        builder.StartObject(7)
        builder.PrependUOffsetTRelativeSlot(2, scales, 0)
        builder.PrependUOffsetTRelativeSlot(3, zero_points, 0)
        quantisation = builder.EndObject()
    builder.StartObject(9)
    builder.PrependUOffsetTRelativeSlot(0, sizes, 0)
    builder.PrependInt8Slot(1, dtype, 0)
    builder.PrependUOffsetTRelativeSlot(3, text, 0)
    if quantisation is not None:
        builder.PrependUOffsetTRelativeSlot(4, quantisation, 0)
    return builder.EndObject()


def _operator(builder, number, options):
    raw = builder.CreateByteVector(options) if options else None
    builder.StartObject(9)
    builder.PrependUint32Slot(0, number, 0)
    if raw is not None:
        builder.PrependUOffsetTRelativeSlot(5, raw, 0)
    return builder.EndObject()


def _options(min_runtime):
    """Return the FlexBuffer map of a compiled operator, its package under the key 4."""
    if min_runtime is None:
        return b""
    import flatbuffers
    from flatbuffers import flexbuffers

    package = flatbuffers.Builder(0)
    compiler = package.CreateString("cl/1")
    package.StartObject(5)
    package.PrependInt32Slot(0, min_runtime, 0)
    package.PrependUOffsetTRelativeSlot(4, compiler, 0)
    package.Finish(package.EndObject(), file_identifier=b"DWN1")
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("1", 0)
        builder.Blob("4", bytes(package.Output()))
    return bytes(builder.Finish())
