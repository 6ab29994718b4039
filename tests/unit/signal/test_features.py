from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.manifest import Dtype, Manifest, Normalisation, Task, TensorSpec, ValueSpec
from atoll_signal.features import FeatureRow, Normaliser

MANIFEST = Manifest(
    model="m",
    release=1,
    task=Task.REGRESSION,
    values=[ValueSpec(name="a", low=0, high=10), ValueSpec(name="b", shape=[2, 2])],
    features=["b", "a"],
    normalisation=Normalisation(mean=[1.0, 2.0], scale=[2.0, 4.0]),
    inputs=[TensorSpec(shape=[1, 5], dtype=Dtype.FLOAT32)],
    outputs=[TensorSpec(shape=[1, 1], dtype=Dtype.FLOAT32)],
)


@pytest.mark.parametrize("array", [[[1, 2], [3, 4]], [1, 2, 3, 4]])
def test_columns_stand_in_the_order_of_the_features(array):
    row = FeatureRow(MANIFEST).row({"a": 9, "b": array})

    assert np.frombuffer(row, np.float32).tolist() == [1, 2, 3, 4, 9]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"b": [1, 2, 3, 4]}, Reason.MISSING_VALUE),
        ({"a": None, "b": [1, 2, 3, 4]}, Reason.MISSING_VALUE),
        ({"a": 1}, Reason.MISSING_VALUE),
        ({"a": [1], "b": [1, 2, 3, 4]}, Reason.WRONG_SHAPE),
        ({"a": 1, "b": [1, 2, 3]}, Reason.WRONG_SHAPE),
        ({"a": 1, "b": [[1, 2], [3]]}, Reason.WRONG_SHAPE),
        ({"a": 1, "b": ["x", 2, 3, 4]}, Reason.WRONG_SHAPE),
        ({"a": 1, "b": 5.0}, Reason.WRONG_SHAPE),
        ({"a": 1e39, "b": [1, 2, 3, 4]}, Reason.NOT_FINITE),
        ({"a": 1, "b": [1, 2, 3, 1e39]}, Reason.NOT_FINITE),
        ({"a": 1, "b": [1, 2, 3, None]}, Reason.NOT_FINITE),
    ],
)
def test_what_a_model_cannot_use_is_refused_by_reason(values, reason):
    with pytest.raises(MalformedMessageError) as caught:
        FeatureRow(MANIFEST).row(values)

    assert caught.value.reason is reason


NUMBERS = MANIFEST.model_copy(
    update={
        "values": [ValueSpec(name="a"), ValueSpec(name="b")],
        "features": ["b", "a"],
    }
)


@given(st.lists(st.floats(width=64) | st.none() | st.just([1.0]), min_size=2, max_size=2))
def test_a_row_of_numbers_is_either_finite_float32_or_refused(values):
    wanted = np.array([value if isinstance(value, float) else np.nan for value in values])
    with np.errstate(over="ignore"):
        is_usable = bool(np.isfinite(wanted.astype(np.float32)).all())
    reading = {"b": values[0], "a": values[1]}

    try:
        row = FeatureRow(NUMBERS).row(reading)
    except MalformedMessageError:
        assert not is_usable or np.abs(wanted).max() > np.finfo(np.float32).max
    else:
        assert np.frombuffer(row, np.float32).tolist() == wanted.astype(np.float32).tolist()
        assert is_usable


def test_an_array_is_normalised_with_the_mean_and_scale_of_its_feature():
    normal = Normaliser(MANIFEST).normalise(np.array([[1, 3, 5, 7, 10]], np.float32))

    assert normal.tolist() == [[0, 1, 2, 3, 2]]


@pytest.mark.parametrize(("a", "is_out"), [(0, False), (10, False), (-0.1, True), (10.1, True)])
def test_a_sample_outside_the_valid_range_is_noticed(a, is_out):
    windows = np.array([[[0, 0, 0, 0, 5]], [[1e6, -1e6, 0, 0, a]]], np.float32)

    found = Normaliser(MANIFEST).is_out_of_range(windows)

    assert (found is not None and found.tolist()) == (is_out and [False, True])
