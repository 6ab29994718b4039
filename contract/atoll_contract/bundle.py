"""The model bundle, ``*.atoll``: a ZIP of known files, stored, with deterministic bytes.

Limits are checked before anything is unpacked. A bundle is data, never code.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll_contract.errors import BundleRejectedError
from atoll_contract.feature import CALENDAR
from atoll_contract.manifest import Manifest
from atoll_contract.messages import MAX_DETAIL_CHARS, TimeMs

MAX_BUNDLE_BYTES: Final = 64 * 1024 * 1024
MANIFEST: Final = "manifest.json"
MODEL: Final = "model.tflite"
MODEL_EDGETPU: Final = "model_edgetpu.tflite"
GOLDEN: Final = "golden.json"
REFERENCE: Final = "reference.json"

_MAX_SIZE: Final = {
    MANIFEST: 1024 * 1024,
    MODEL: MAX_BUNDLE_BYTES,
    MODEL_EDGETPU: MAX_BUNDLE_BYTES,
    GOLDEN: 16 * 1024 * 1024,
    REFERENCE: 1024 * 1024,
}
_REQUIRED: Final = frozenset({MANIFEST, MODEL, GOLDEN})
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_FIRST_BYTES: Final = b"PK\x03\x04"
_END: Final = b"PK\x05\x06"
_END_BYTES: Final = 22
"""Length of the record at the end of a ZIP without a comment."""
_DAMAGE: Final = (
    zipfile.BadZipFile,
    ArithmeticError,  # offsets of 64 bits
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)
"""What zipfile raises for damaged archives: seen in its source and by fuzzing."""


class GoldenCase(BaseModel):
    """One window of raw samples and what the model file must answer.

    Attributes:
        samples: Readings (or steps), each with the numbers of its values in the order of the features,
            in the values' units, before features are computed. As many as the window has, with those
            that lags go back to; of a window by duration any number that it may hold.
        times_ms: Their event times, where features are made of the calendar.
        output: The output tensor, flattened row-major: integers for a quantised one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    samples: list[list[float]]
    output: list[float]
    times_ms: list[TimeMs] | None = None


class Golden(BaseModel):
    """The golden vectors of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    cases: Annotated[list[GoldenCase], Field(min_length=1, max_length=256)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """An unpacked model bundle.

    Attributes:
        manifest: What the model is.
        model: The ``.tflite`` file for the CPU.
        golden: Golden vectors, from raw samples.
        model_edgetpu: The same model compiled for the Edge TPU, if there is one.
        reference: Histograms for drift, as JSON, if there are any.
    """

    manifest: Manifest
    model: bytes
    golden: Golden
    model_edgetpu: bytes | None = None
    reference: bytes | None = None

    def pack(self) -> bytes:
        """Return the bundle as bytes: the same bundle always gives the same bytes."""
        files = {
            MANIFEST: self.manifest.encode(),
            MODEL: self.model,
            GOLDEN: self.golden.model_dump_json(exclude_none=True).encode(),
            MODEL_EDGETPU: self.model_edgetpu,
            REFERENCE: self.reference,
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                if content is not None:
                    info = zipfile.ZipInfo(name, _EPOCH)
                    info.create_system = 3
                    info.external_attr = 0o644 << 16
                    archive.writestr(info, content)
        return buffer.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> Bundle:
        """Return the bundle in ``data``.

        Raises:
            BundleRejectedError: ``data`` is no bundle, breaks a limit, or its manifest is one
                that this version cannot run.
        """
        files = _files(data)
        manifest = Manifest.decode(files[MANIFEST])
        try:
            golden = Golden.model_validate_json(files[GOLDEN])
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BundleRejectedError(f"{GOLDEN}: {where}: {first['msg']}"[:MAX_DETAIL_CHARS]) from error
        _require_golden_fits(manifest, golden)
        return cls(manifest, files[MODEL], golden, files.get(MODEL_EDGETPU), files.get(REFERENCE))


def _files(data: bytes) -> dict[str, bytes]:
    # zipfile reads archives with anything before and after them; a bundle hides nothing.
    if not data.startswith(_FIRST_BYTES) or data[-_END_BYTES:][:4] != _END:
        raise BundleRejectedError("bundle: not a ZIP, or something stands before or after it")
    if len(data) > MAX_BUNDLE_BYTES:
        raise BundleRejectedError(f"bundle: {len(data)} bytes, at most {MAX_BUNDLE_BYTES} are read")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _require_limits(entries)
            return {entry.filename: archive.read(entry) for entry in entries}
    except _DAMAGE as error:
        raise BundleRejectedError(f"bundle: not a readable ZIP ({error})"[:MAX_DETAIL_CHARS]) from error


def _require_limits(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise BundleRejectedError("bundle: a file name stands twice")
    # Names as they are written: zipfile cuts them off at a NUL.
    if unknown := sorted({entry.orig_filename for entry in entries} - _MAX_SIZE.keys()):
        raise BundleRejectedError(f"bundle: unknown file {unknown[0][:80]!r}")
    if missing := sorted(_REQUIRED - set(names)):
        raise BundleRejectedError(f"bundle: {missing[0]} is missing")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise BundleRejectedError(f"bundle: {entry.filename} is compressed; files must be stored")
        if entry.file_size > _MAX_SIZE[entry.filename]:
            raise BundleRejectedError(f"bundle: {entry.filename} is larger than allowed")


def _require_golden_fits(manifest: Manifest, golden: Golden) -> None:
    depth, columns, outputs = manifest.depth, manifest.raw_columns, manifest.outputs[0].size
    least = depth if manifest.window.duration_ms is None else 1
    needs_times = any(feature.kind in CALENDAR for feature in manifest.computed)
    for number, case in enumerate(golden.cases):
        count = len(case.samples)
        if not least <= count <= depth or any(len(row) != columns for row in case.samples):
            raise BundleRejectedError(f"{GOLDEN}: case {number}: samples are not {depth} x {columns}")
        if needs_times and len(case.times_ms or ()) != count:
            raise BundleRejectedError(f"{GOLDEN}: case {number}: needs times_ms, {count} of them")
        if len(case.output) != outputs:
            raise BundleRejectedError(f"{GOLDEN}: case {number}: output has not {outputs} elements")
