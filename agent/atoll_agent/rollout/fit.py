"""Does a bundle fit the model and stream that the settings name?"""

from __future__ import annotations

from collections.abc import Mapping

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import Manifest
from atoll_signal.units import conversion


def require_fit(
    manifest: Manifest, *, model: str, release: int, units: Mapping[str, str | None], is_shared: bool
) -> None:
    """Check ``manifest`` against what was announced and what the stream carries.

    Args:
        manifest: Of the bundle.
        model: Id that the settings and the metadata name.
        release: Number that the metadata name.
        units: The stream's values with their units, which may be others that can be converted.
        is_shared: Whether other agents get a part of the stream's readings.

    Raises:
        BundleRejectedError: It is another model or release, or needs values, units or windows that the
            stream does not carry.
    """
    if (manifest.model, manifest.release) != (model, release):
        message = (
            f"the bundle is {manifest.model} release {manifest.release}, "
            f"announced was {model} release {release}"
        )
        raise BundleRejectedError(message, Reason.WRONG_MODEL)
    if missing := sorted(value.name for value in manifest.values if value.name not in units):
        message = (
            f"the bundle needs the values {', '.join(missing)}; the stream carries {', '.join(sorted(units))}"
        )
        raise BundleRejectedError(message, Reason.VALUES_MISSING)
    for value in manifest.values:
        try:
            conversion(units[value.name], value.unit)
        except ValueError as error:
            message = (
                f"value {value.name!r}: the bundle needs unit {value.unit!r}, "
                f"the stream carries {units[value.name]!r}: {error}"
            )
            raise BundleRejectedError(message, Reason.UNIT_MISMATCH) from error
    if is_shared and manifest.keeps_readings:
        readings = f"{manifest.depth} readings" if manifest.depth > 1 else "several readings"
        message = (
            f"the bundle needs windows of {readings}; the stream's topics are shared "
            "($share/...), so that each agent of the group sees a part of them"
        )
        raise BundleRejectedError(message, Reason.SHARED_STREAM)
