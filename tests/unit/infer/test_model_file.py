from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import MODELS, make_bundle, model_bytes, with_compiled_model
from support.flat_models import COMPILED, INT8, INT64, flat_model

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, Reason
from atoll_infer.model_file import (
    ModelClass,
    read_model_file,
    require_compiled,
    require_files,
    require_tensors,
    require_twins,
    require_uncompiled,
)
from atoll_infer.runtime import choose_runtime


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.tflite")), ids=lambda path: path.stem)
def test_a_file_declares_the_tensors_that_its_runtime_finds(path):
    content = path.read_bytes()

    file = read_model_file(content)

    loaded = choose_runtime().runtime.load(content)
    assert file.model_class is ModelClass.UNCOMPILED
    assert [tensor.spec() for tensor in file.inputs] == loaded.inputs
    assert [tensor.spec() for tensor in file.outputs] == loaded.outputs
    require_uncompiled(file)


@pytest.mark.parametrize(
    ("operators", "expected", "words"),
    [
        ([None, None], ModelClass.UNCOMPILED, "uncompiled, 2 operators"),
        ([COMPILED], ModelClass.FULLY_MAPPED, "fully mapped to the Edge TPU, Edge TPU runtime 14 or newer"),
        (
            [None, COMPILED, None],
            ModelClass.PARTLY_MAPPED,
            "partly mapped to the Edge TPU, 2 operators on the CPU, Edge TPU runtime 14 or newer",
        ),
        ([COMPILED, None, COMPILED], ModelClass.PARTLY_MAPPED, "partly mapped to the Edge TPU, 1 operator"),
    ],
)
def test_the_operators_tell_what_may_run_a_file(operators, expected, words):
    file = read_model_file(flat_model(operators))

    assert file.model_class is expected
    assert str(file).startswith(words)
    assert file.edgetpu_operators == operators.count(COMPILED)


def test_a_compiled_file_tells_its_runtime_and_compiler_if_it_can():
    told, silent = (read_model_file(flat_model([COMPILED], min_runtime=number)) for number in (13, None))

    assert (told.min_runtime, told.compiler) == (13, "cl/1")
    assert (silent.min_runtime, silent.compiler) == (None, "")


def test_a_compiled_file_is_refused_for_the_cpu():
    with pytest.raises(BundleRejectedError, match=r"fully mapped .* take the \.tflite file that") as caught:
        require_uncompiled(read_model_file(flat_model([COMPILED])))

    assert caught.value.reason is Reason.MODEL_NEEDS_EDGETPU


def test_a_custom_operator_that_no_runtime_has_is_named():
    with pytest.raises(BundleRejectedError, match="the custom operator FlexErf, which no runtime"):
        require_uncompiled(read_model_file(flat_model([None, "FlexErf"])))


def test_an_uncompiled_file_is_refused_where_an_edge_tpu_is_demanded():
    with pytest.raises(BundleRejectedError, match="compile it with edgetpu_compiler") as caught:
        require_compiled(read_model_file(model_bytes("linear_int8")))

    assert caught.value.reason is Reason.MODEL_NOT_COMPILED


def test_a_file_for_a_newer_edge_tpu_runtime_is_refused():
    file = read_model_file(flat_model([COMPILED], min_runtime=14))

    require_compiled(file, runtime=14)
    with pytest.raises(BundleRejectedError, match="needs Edge TPU runtime 14, here is 13: install a newer"):
        require_compiled(file, runtime=13)


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"shape": (1, 2)}, r"inputs are float32 \[1, 1\] for the CPU, float32 \[1, 2\] for the Edge TPU"),
        ({"dtype": INT8, "scale": 0.5}, r"int8 \[1, 1\] scale 0.5"),
        ({"inputs": 2}, "another model: inputs"),
    ],
)
def test_a_compiled_file_of_another_model_is_refused(other, fault):
    with pytest.raises(BundleRejectedError, match=fault) as caught:
        require_twins(read_model_file(flat_model([None])), read_model_file(flat_model([COMPILED], **other)))

    assert caught.value.reason is Reason.UNSUPPORTED_TENSORS


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        ({"shape": (1, 2)}, r"the manifest says float32 \[1, 1\] .*, the model file float32 \[1, 2\]"),
        ({"dtype": INT64}, "is int64: float32, int8 or uint8 can be run"),
        ({"shape": (-1, 1)}, "a fixed shape and one scale are needed"),
        ({"dtype": INT8}, "a fixed shape and one scale are needed"),
        ({"inputs": 3}, "the model file has 3 inputs; models with one can be run"),
    ],
)
def test_tensors_that_differ_from_the_manifest_are_refused(other, fault):
    with pytest.raises(BundleRejectedError, match=fault) as caught:
        require_tensors(make_bundle().manifest, read_model_file(flat_model([None], **other)))

    assert caught.value.reason is Reason.UNSUPPORTED_TENSORS


def test_a_bundle_is_checked_by_the_bytes_of_its_files():
    bundle = make_bundle()
    compiled = Bundle(bundle.manifest, bundle.model, bundle.golden, flat_model([COMPILED]))

    require_files(bundle)
    require_files(compiled, needs_edgetpu=True)
    for wrong, needs_edgetpu, reason in (
        (bundle, True, Reason.MODEL_NOT_COMPILED),
        (with_compiled_model(bundle), False, Reason.MODEL_NEEDS_EDGETPU),
        (
            Bundle(bundle.manifest, bundle.model, bundle.golden, bundle.model),
            False,
            Reason.MODEL_NOT_COMPILED,
        ),
        (Bundle(bundle.manifest, bundle.model[:200], bundle.golden), False, Reason.MODEL_UNREADABLE),
    ):
        with pytest.raises(BundleRejectedError) as caught:
            require_files(wrong, needs_edgetpu=needs_edgetpu)
        assert caught.value.reason is reason


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_do_more_than_be_refused(data):
    whole = data.draw(st.sampled_from([model_bytes("lookup_float"), flat_model([None, COMPILED]), b""]))
    content = bytearray(whole or data.draw(st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
                st.sampled_from([0, 1, 127, 255])
            )
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content

    with suppress(BundleRejectedError):
        file = read_model_file(bytes(content))
        assert str(file)
        assert 0 <= file.edgetpu_operators <= file.operators


@pytest.mark.real_data
def test_real_files_are_classed_and_their_twins_found(real_data):
    files = {
        path.name: read_model_file(path.read_bytes()) for path in (real_data / "models").glob("*.tflite")
    }

    assert len(files) == 6
    for name, file in files.items():
        is_compiled = name.endswith("_edgetpu.tflite")
        assert file.model_class is (ModelClass.FULLY_MAPPED if is_compiled else ModelClass.UNCOMPILED)
        assert (file.min_runtime in {12, 13}) is is_compiled
        if is_compiled:
            require_twins(files[name.replace("_edgetpu", "")], file)
    published = json.loads((real_data / "models" / "reference_outputs.json").read_text())
    for name, cases in published.items():
        assert {tensor.name for tensor in files[name].outputs} == set(cases["zeros"])
