"""Whatever the bytes: a decoder returns or raises its own error, nothing else, and soon."""

from __future__ import annotations

import io
import json
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import bundle_vectors
from support.json_bytes import json_bytes, mutated

from atoll_contract import bundle as bundle_module
from atoll_contract.bundle import MAX_BUNDLE_BYTES, Bundle
from atoll_contract.errors import BundleRejectedError, MalformedMessageError, Reason
from atoll_contract.manifest import Manifest
from atoll_contract.messages import MAX_PAYLOAD_BYTES, Command, Label, Message, SlotStatus, Status

MESSAGES: list[type[Message]] = [Label, Command, Status, SlotStatus]
KEYS = sorted({key for kind in MESSAGES for key in kind.model_fields})
MANIFEST = json.dumps(bundle_vectors.MANIFEST).encode()


def require_short(error: MalformedMessageError | BundleRejectedError) -> None:
    assert 0 < len(error.detail) <= 500


@given(st.sampled_from(MESSAGES), st.one_of(st.binary(max_size=200), mutated(json_bytes(KEYS))))
def test_any_bytes_are_a_message_or_refused(kind: type[Message], payload: bytes) -> None:
    try:
        message = kind.decode(payload)
    except MalformedMessageError as error:
        require_short(error)
        return
    assert kind.decode(message.encode()) == message


@pytest.mark.parametrize("kind", MESSAGES)
@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a":' * 40_000, b'{"' + b"k" * 200_000 + b'": 1}'])
def test_deep_and_long_messages_are_refused_in_few_words(kind: type[Message], payload: bytes) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        kind.decode(payload)
    require_short(caught.value)


@pytest.mark.parametrize("kind", MESSAGES)
def test_too_long_a_message_is_refused_unread(kind: type[Message]) -> None:
    with pytest.raises(MalformedMessageError) as caught:
        kind.decode(b" " * (MAX_PAYLOAD_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE


@given(
    st.one_of(
        st.binary(max_size=200),
        mutated(st.just(MANIFEST)),
        mutated(json_bytes(sorted(Manifest.model_fields))),
    )
)
def test_any_bytes_are_a_manifest_or_rejected(payload: bytes) -> None:
    try:
        manifest = Manifest.decode(payload)
    except BundleRejectedError as error:
        require_short(error)
        return
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.columns >= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"values": [{"name": "t", "shape": [10**300, 10**300]}]},
        {"inputs": [{"shape": [10**4000], "dtype": "float32"}]},
        {"k" * 100_000: 1},
        {"features": ["f" * 100_000]},
    ],
    ids=["huge shape", "huge tensor", "long key", "long name"],
)
def test_monstrous_manifests_are_rejected_in_few_words(changes: dict[str, object]) -> None:
    with pytest.raises(BundleRejectedError) as caught:
        Manifest.decode(json.dumps({**bundle_vectors.MANIFEST, **changes}).encode())
    require_short(caught.value)


@st.composite
def mutated_archives(draw: st.DrawFn) -> bytes:
    """A good bundle with bytes changed, most of them where the ZIP keeps its own."""
    content = bytearray(bundle_vectors.least().pack())
    directory = content.index(b"PK\x01\x02")
    for _ in range(draw(st.integers(1, 6))):
        start, end = draw(st.sampled_from([(0, 60), (directory, len(content)), (0, len(content))]))
        position = min(draw(st.integers(start, end)), len(content) - 1)
        size = draw(st.sampled_from([0, 1, 1, 1, 2, 4]))
        piece = draw(
            st.one_of(
                st.binary(max_size=4), st.sampled_from([b"\xff" * 4, b"\0" * 4, b"PK\x06\x06", b"\x01\x00"])
            )
        )
        content[position : position + size] = piece
    return bytes(content)


@given(st.one_of(st.binary(max_size=200), mutated_archives()))
def test_any_bytes_are_a_bundle_or_rejected(content: bytes) -> None:
    try:
        bundle = Bundle.unpack(content)
    except BundleRejectedError as error:
        require_short(error)
        return
    assert Bundle.unpack(bundle.pack()) == bundle


@given(
    st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(max_size=300),
)
def test_a_bundle_comes_out_as_it_went_in_with_the_same_bytes_each_time(
    model: bytes, edgetpu: bytes | None, reference: bytes | None
) -> None:
    least = bundle_vectors.least()
    bundle = Bundle(least.manifest, model, least.golden, edgetpu, reference)

    assert Bundle.unpack(bundle.pack()) == bundle
    assert bundle.pack() == bundle.pack()


# Sizes


def archive_with(name: str, size: int) -> bytes:
    files = {"manifest.json": MANIFEST, "model.tflite": b"", "golden.json": b"{}", name: b"\0" * size}
    return bundle_vectors.archive(list(files.items()))


@pytest.mark.parametrize(
    ("name", "most"),
    [("manifest.json", 1 << 20), ("golden.json", 16 << 20), ("reference.json", 1 << 20)],
)
def test_a_file_that_is_too_large_is_rejected_unread(name: str, most: int) -> None:
    with pytest.raises(BundleRejectedError, match=f"{name} is larger than allowed"):
        Bundle.unpack(archive_with(name, most + 1))


def test_a_bundle_that_is_too_large_is_rejected_unread() -> None:
    with pytest.raises(BundleRejectedError, match=f"at most {MAX_BUNDLE_BYTES} are read"):
        Bundle.unpack(archive_with("model.tflite", MAX_BUNDLE_BYTES))


def test_a_file_that_claims_to_be_larger_than_it_is_takes_no_memory() -> None:
    content = bundle_vectors.least().pack()
    directory = content.index(b"PK\x01\x02")
    claim = (60 << 20).to_bytes(4, "little")
    # Both sizes of the first entry, in the directory: what limits are checked against.
    content = content[: directory + 20] + claim + claim + content[directory + 28 :]

    with pytest.raises(BundleRejectedError):
        Bundle.unpack(content)


def test_a_compressed_bomb_is_rejected_unread() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("manifest.json", "model.tflite", "golden.json"):
            archive.writestr(name, b"\0" * (1 << 20))

    with pytest.raises(BundleRejectedError, match="compressed"):
        Bundle.unpack(buffer.getvalue())


def test_every_file_of_a_bundle_has_a_limit() -> None:
    names = {
        bundle_module.MANIFEST,
        bundle_module.MODEL,
        bundle_module.MODEL_EDGETPU,
        bundle_module.GOLDEN,
        bundle_module.REFERENCE,
    }
    assert set(bundle_module._MAX_SIZE) == names
