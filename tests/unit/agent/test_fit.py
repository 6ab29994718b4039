from __future__ import annotations

import pytest
from support.bundles import make_bundle

from atoll_agent.rollout.fit import require_fit
from atoll_contract.errors import BundleRejectedError, Reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, Reason.WRONG_MODEL),
        ({"release": 2}, Reason.WRONG_MODEL),
        ({"units": {"y": "V"}}, Reason.VALUES_MISSING),
        ({"units": {"x": "A"}}, Reason.UNIT_MISMATCH),
        ({"units": {"x": None}}, Reason.UNIT_MISMATCH),
    ],
)
def test_a_bundle_for_something_else_is_refused(changes, reason):
    manifest = make_bundle(unit="V").manifest
    asked = {"model": "wear", "release": 1, "units": {"x": "V", "more": None}, "is_shared": False, **changes}

    with pytest.raises(BundleRejectedError) as caught:
        require_fit(manifest, **asked)

    assert caught.value.reason is reason


def test_a_bundle_whose_values_the_stream_carries_fits():
    require_fit(
        make_bundle(unit="V").manifest,
        model="wear",
        release=1,
        units={"x": "V", "more": None},
        is_shared=False,
    )


def test_on_a_shared_stream_only_a_model_of_single_readings_fits():
    """The other readings of a window may have gone to another agent."""
    asked = {"model": "wear", "release": 1, "units": {"x": None}}
    of_windows = make_bundle(file="mean12_float", length=12).manifest

    require_fit(make_bundle().manifest, **asked, is_shared=True)
    require_fit(of_windows, **asked, is_shared=False)
    with pytest.raises(BundleRejectedError) as caught:
        require_fit(of_windows, **asked, is_shared=True)

    assert caught.value.reason is Reason.SHARED_STREAM
