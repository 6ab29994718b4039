"""Makes the bundles of ``tests/contract/vectors/bundles``, valid and broken: the same bytes each time.

``python tests/support/bundle_vectors.py`` writes them anew. A changed vector means that the format
has changed, and that needs a new format number.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from atoll_contract.bundle import Bundle, Golden, GoldenCase
from atoll_contract.manifest import Manifest

FOLDER = Path(__file__).parents[1] / "contract" / "vectors" / "bundles"
INDEX = FOLDER / "bundles.json"

MANIFEST = {
    "format": 1,
    "model": "press",
    "release": 7,
    "task": "regression",
    "values": [{"name": "t", "unit": "°C"}],
    "window": {"length": 2},
    "features": ["t"],
    "normalisation": {"mean": [1], "scale": [2]},
    "inputs": [{"shape": [1, 2], "dtype": "float32"}],
    "outputs": [{"shape": [1, 1], "dtype": "float32"}],
}
FEATURES = {
    "features": [
        {"kind": "range", "value": "t"},
        {"kind": "lag", "value": "t", "lag": 2},
        {"kind": "hour_cos"},
    ],
    "normalisation": {"mean": [0, 0, 0], "scale": [1, 1, 1]},
    "inputs": [{"shape": [1, 3], "dtype": "float32"}],
}
GOLDEN = {"cases": [{"samples": [[1.0], [2.0]], "output": [0.5]}]}
Entries = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Vector:
    """One bundle; ``reason`` and a piece of the detail when it must be refused."""

    name: str
    content: bytes
    reason: str | None = None
    told: str | None = None


def vectors() -> Iterator[Vector]:
    """Yield every vector."""
    yield Vector("least", least().pack())
    yield Vector("full", full().pack())
    yield Vector("features", features().pack())
    yield from _wrong_archives()
    yield from _wrong_files()
    yield from _wrong_features()
    yield from _wrong_bytes()


def least() -> Bundle:
    """The smallest bundle."""
    return Bundle(_manifest(), b"a model file", Golden.model_validate(GOLDEN))


def full() -> Bundle:
    """A bundle with all its files."""
    cases = [
        GoldenCase(samples=[[0.5], [-1.25]], output=[2.0]),
        GoldenCase(samples=[[0.0], [3.0]], output=[-7.5]),
    ]
    return Bundle(
        _manifest(), b"a model file", Golden(cases=cases), b"the same for an Edge TPU", b'{"histograms": []}'
    )


def features() -> Bundle:
    """A bundle whose features are computed, of samples with their times."""
    cases = [GoldenCase(samples=[[0.5], [-1.25], [3.0]], output=[2.0], times_ms=[0.0, 1000.0, 2500.5])]
    return Bundle(_manifest(**FEATURES), b"a model file", Golden(cases=cases))


def _manifest(**changes: object) -> Manifest:
    return Manifest.decode(_json({**MANIFEST, **changes}))


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _entries(**changes: bytes | None) -> Entries:
    """Return the files of a good bundle, with ``manifest``, ``model`` or ``golden`` changed or left out."""
    files = {"manifest": _json(MANIFEST), "model": b"a model file", "golden": _json(GOLDEN), **changes}
    names = {"manifest": "manifest.json", "model": "model.tflite", "golden": "golden.json"}
    return [(names[key], content) for key, content in files.items() if content is not None]


def archive(entries: Entries, compression: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    """Return a ZIP of these entries; one name may stand twice."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.comment = comment
        renamed: dict[bytes, bytes] = {}
        for number, (name, content) in enumerate(entries):
            # zipfile warns of a name that stands twice, so the second is renamed in the bytes.
            is_second = name in dict(entries[:number])
            here = name[:-1] + "~" if is_second else name
            if is_second:
                renamed[here.encode()] = name.encode()
            info = zipfile.ZipInfo(here, (1980, 1, 1, 0, 0, 0))
            # Level 0 makes stored blocks, which every zlib writes alike.
            written.writestr(info, content, compression, compresslevel=0)
    written_bytes = buffer.getvalue()
    for alias, original in renamed.items():
        written_bytes = written_bytes.replace(alias, original)
    return written_bytes


def _wrong_archives() -> Iterator[Vector]:
    good = _entries()
    malformed = "malformed_bundle"
    yield Vector("compressed", archive(good, zipfile.ZIP_DEFLATED), malformed, "is compressed")
    yield Vector("name-twice", archive([*good, ("golden.json", b"{}")]), malformed, "stands twice")
    for name, told in (
        ("readme.txt", "unknown file"),
        ("../model.tflite", "unknown file"),
        ("/model.tflite", "unknown file"),
        ("MODEL.TFLITE", "unknown file"),
        ("folder/", "unknown file"),
        ("folder\\model_edgetpu.tflite", "unknown file"),
    ):
        label = "unknown-" + "".join(sign if sign.isalnum() else "-" for sign in name).strip("-")
        label += "-absolute" if name.startswith("/") else ""
        yield Vector(label, archive([*good, (name, b"x")]), malformed, told)
    yield Vector("missing-manifest", archive(_entries(manifest=None)), malformed, "manifest.json is missing")
    yield Vector("missing-model", archive(_entries(model=None)), malformed, "model.tflite is missing")
    yield Vector("missing-golden", archive(_entries(golden=None)), malformed, "golden.json is missing")
    yield Vector("no-files", archive([]), malformed, "not a ZIP")
    yield Vector("comment", archive(good, comment=b"hello"), malformed, "before or after")


def _wrong_files() -> Iterator[Vector]:
    malformed = "malformed_bundle"
    newer = _json({**MANIFEST, "format": 2, "colour": "red"})
    yield Vector("newer-format", archive(_entries(manifest=newer)), "unknown_format", "format 2")
    two = _json({**MANIFEST, "inputs": MANIFEST["inputs"] * 2})  # type: ignore[operator]
    yield Vector("two-inputs", archive(_entries(manifest=two)), "unsupported_tensors", "2 input")
    yield Vector("manifest-no-json", archive(_entries(manifest=b"{")), malformed, "manifest")
    yield Vector("golden-no-json", archive(_entries(golden=b"{")), malformed, "golden.json")
    yield Vector("golden-empty", archive(_entries(golden=b'{"cases": []}')), malformed, "golden.json: cases")
    nan = b'{"cases": [{"samples": [[1.0], [NaN]], "output": [0.5]}]}'
    yield Vector("golden-nan", archive(_entries(golden=nan)), malformed, "cases.0.samples.1.0")
    short = _json({"cases": [{"samples": [[1.0]], "output": [0.5]}]})
    yield Vector("golden-short-window", archive(_entries(golden=short)), malformed, "samples are not 2 x 1")
    wide = _json({"cases": [{"samples": [[1.0], [2.0, 3.0]], "output": [0.5]}]})
    yield Vector("golden-wide-row", archive(_entries(golden=wide)), malformed, "samples are not 2 x 1")
    extra = _json({"cases": [{"samples": [[1.0], [2.0]], "output": [0.5, 1.0]}]})
    yield Vector("golden-two-outputs", archive(_entries(golden=extra)), malformed, "has not 1 elements")


def _wrong_features() -> Iterator[Vector]:
    malformed, manifest = "malformed_bundle", _json({**MANIFEST, **FEATURES})
    timeless = _json({"cases": [{"samples": [[1.0], [2.0], [3.0]], "output": [0.5]}]})
    yield Vector(
        "golden-no-times",
        archive(_entries(manifest=manifest, golden=timeless)),
        malformed,
        "needs times_ms, 3",
    )
    lagless = _json({"cases": [{"samples": [[1.0], [2.0]], "output": [0.5], "times_ms": [1.0, 2.0]}]})
    yield Vector(
        "golden-no-lag",
        archive(_entries(manifest=manifest, golden=lagless)),
        malformed,
        "samples are not 3 x 1",
    )


def _wrong_bytes() -> Iterator[Vector]:
    malformed = "malformed_bundle"
    good = least().pack()
    directory = good.index(b"PK\x01\x02")
    yield Vector("empty", b"", malformed, "not a ZIP")
    yield Vector("text", b"this is no archive at all", malformed, "not a ZIP")
    yield Vector("before", b"#!/bin/sh\n" + good, malformed, "before or after")
    yield Vector("after", good + b"more", malformed, "before or after")
    yield Vector("cut-in-half", good[: len(good) // 2], malformed, "not a ZIP")
    yield Vector("other-model-bytes", good.replace(b"a model file", b"a modem file"), malformed, "Bad CRC")
    # zipfile cuts a name off at a NUL; what is left here is the name of a file that may be there.
    odd = archive([*_entries(), ("model_edgetpu.tflite~.exe", b"x")])
    yield Vector("name-with-nul", odd.replace(b"te~.exe", b"te\0.exe"), malformed, "unknown file")
    encrypted = _patched(good, directory + 8, struct.pack("<H", 1))
    yield Vector("encrypted", encrypted, malformed, "encrypted")
    yield Vector(
        "other-local-name", good.replace(b"manifest", b"manifesT", 1), malformed, "not a readable ZIP"
    )
    huge = struct.pack("<HHQ", 1, 8, 2**63)  # a ZIP64 field: the offset of the file's header
    moved = _patched(good, directory + 30, struct.pack("<H", len(huge)))
    moved = _patched(moved, directory + 42, b"\xff" * 4)
    name_end = directory + 46 + len("manifest.json")
    moved = moved[:name_end] + huge + moved[name_end:]
    size = struct.unpack("<I", good[-10:-6])[0] + len(huge)
    yield Vector(
        "offset-of-64-bits",
        _patched(moved, len(moved) - 10, struct.pack("<I", size)),
        malformed,
        "not a readable ZIP",
    )


def _patched(content: bytes, position: int, piece: bytes) -> bytes:
    return content[:position] + piece + content[position + len(piece) :]


def index(made: list[Vector]) -> str:
    """Return the text of ``bundles.json``."""
    cases = [
        {
            "file": f"{vector.name}.atoll",
            "sha256": hashlib.sha256(vector.content).hexdigest(),
            **({} if vector.reason is None else {"reason": vector.reason, "told": vector.told}),
        }
        for vector in made
    ]
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    about = "Bundles; with a reason, those that are refused, and what the detail tells."
    return f'{{\n "about": "{about}",\n "cases": [\n{lines}\n ]\n}}\n'


def main() -> None:
    """Write all vectors."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = list(vectors())
    for vector in made:
        (FOLDER / f"{vector.name}.atoll").write_bytes(vector.content)
    INDEX.write_text(index(made))


if __name__ == "__main__":
    main()
