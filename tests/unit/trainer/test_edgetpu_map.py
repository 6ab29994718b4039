"""What an Edge TPU would run of a model file."""

from __future__ import annotations

import stat

import pytest
from support.bundles import model_bytes

from atoll_contract.errors import BundleRejectedError
from atoll_trainer.edgetpu_map import compile_model, map_model


def test_a_full_int8_model_maps_whole():
    found = map_model(model_bytes("linear_int8"))

    assert [op.name for op in found.ops] == ["FULLY_CONNECTED"]
    assert found.is_whole
    assert 0 < found.parameter_bytes < 100
    assert "1 of 1 operators would run on an Edge TPU" in str(found)


def test_a_float_model_says_why_it_does_not_map():
    found = map_model(model_bytes("linear_float"))

    assert not found.is_whole
    assert "is not quantised" in found.ops[0].why


def test_what_is_unsupported_and_what_stands_behind_it_stay_on_the_cpu():
    found = map_model(model_bytes("lookup_float"))

    assert "not supported" in " ".join(op.why for op in found.ops)
    assert not any(op.is_mapped for op in found.ops)


def test_a_real_compiled_and_a_real_plain_model(real_data):
    plain = map_model((real_data / "models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes())
    compiled = map_model((real_data / "models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite").read_bytes())

    assert plain.is_whole
    assert len(plain.ops) == 31
    assert plain.parameter_bytes > 450_000
    assert [op.name for op in compiled.ops] == ["CUSTOM"]


@pytest.mark.parametrize("size", [0, 3, 100, 400])
def test_damaged_files_are_refused(size):
    with pytest.raises(BundleRejectedError):
        map_model(model_bytes("linear_int8")[:size])


def test_the_compiler_is_judged_by_what_it_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_model(b"")[1] == "edgetpu_compiler is not installed here"
    program = tmp_path / "edgetpu_compiler"
    program.write_text('#!/bin/sh\necho "Model not quantized"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)

    assert compile_model(b"x") == (None, "edgetpu_compiler wrote no model: Model not quantized")

    # It ends well and has mapped nothing: the file is the one that it was given.
    program.write_text(
        '#!/bin/sh\nwhile read -r line; do :; done < /dev/null\n/bin/cp "$3" "$2/model_edgetpu.tflite"\n'
    )
    compiled, told = compile_model(model_bytes("linear_int8"))
    assert compiled is None
    assert "mapped nothing" in told
