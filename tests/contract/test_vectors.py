"""Every golden vector on disk: what it means, or the reason for which it is refused.

A vector that has to change means a change of the contract: see CONTRIBUTING.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import bundle_vectors

from atoll_contract import topics
from atoll_contract.bundle import Bundle
from atoll_contract.decisions import Decision
from atoll_contract.drift import DriftReport
from atoll_contract.errors import BundleRejectedError, MalformedMessageError
from atoll_contract.manifest import Manifest
from atoll_contract.messages import (
    Command,
    Label,
    Message,
    SlotStatus,
    Status,
    decode_prediction,
    decode_readings,
    encode_prediction,
    encode_reading,
)
from atoll_contract.reference import Reference
from atoll_contract.requests import Request, Response

VECTORS = Path(__file__).parent / "vectors"


def cases(name: str) -> list[Any]:
    document = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    assert document["cases"]
    return [
        pytest.param(case, id=f"{number}-{'refused' if 'reason' in case else 'read'}")
        for number, case in enumerate(document["cases"])
    ]


def payload_of(case: dict[str, Any]) -> bytes:
    if "payload_hex" in case:
        return bytes.fromhex(case["payload_hex"])
    return str(case["payload"]).encode()


def require_told(error: MalformedMessageError | BundleRejectedError, case: dict[str, Any]) -> None:
    assert error.reason == case["reason"]
    assert case.get("told", "") in error.detail
    assert 0 < len(error.detail) <= 500


@pytest.mark.parametrize("case", cases("topics"))
def test_topics(case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(MalformedMessageError) as caught:
            topics.parse(case["topic"])
        require_told(caught.value, case)
        return

    kind = getattr(topics, case["type"])
    topic = topics.parse(case["topic"])
    assert type(topic) is kind
    assert asdict(topic) == case["fields"]
    assert str(kind(**case["fields"])) == case["topic"]
    assert kind.parse(case["topic"]) == topic


@pytest.mark.parametrize("case", cases("readings"))
def test_readings(case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(MalformedMessageError) as caught:
            decode_readings(payload_of(case))
        require_told(caught.value, case)
        return

    readings = decode_readings(payload_of(case))
    assert [msgspec.to_builtins(reading) for reading in readings] == case["readings"]
    assert decode_readings(memoryview(payload_of(case))) == readings
    assert [decode_readings(encode_reading(reading)) for reading in readings] == [[one] for one in readings]


@pytest.mark.parametrize("case", cases("predictions"))
def test_predictions(case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(MalformedMessageError) as caught:
            decode_prediction(payload_of(case))
        require_told(caught.value, case)
        return

    prediction = decode_prediction(payload_of(case))
    assert msgspec.to_builtins(prediction) == case["prediction"]
    assert decode_prediction(encode_prediction(prediction)) == prediction
    assert json.loads(encode_prediction(prediction)) == case["prediction"]


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, *case.values, id=f"{name}-{case.id}")
        for name, kind in {
            "labels": Label,
            "commands": Command,
            "statuses": Status,
            "slots": SlotStatus,
            "drifts": DriftReport,
            "decisions": Decision,
            "requests": Request,
            "responses": Response,
        }.items()
        for case in cases(name)
    ],
)
def test_messages(kind: type[Message], case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(MalformedMessageError) as caught:
            kind.decode(payload_of(case))
        require_told(caught.value, case)
        return

    message = kind.decode(payload_of(case))
    assert json.loads(message.encode()) == case["message"]
    assert kind.decode(message.encode()) == message


@pytest.mark.parametrize("case", cases("references"))
def test_references(case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(BundleRejectedError) as caught:
            Reference.decode(payload_of(case))
        require_told(caught.value, case)
        return

    reference = Reference.decode(payload_of(case))
    assert json.loads(reference.encode()) == case["message"]
    assert Reference.decode(reference.encode()) == reference


@pytest.mark.parametrize("case", cases("manifests"))
def test_manifests(case: dict[str, Any]) -> None:
    payload = case["text"].encode() if "text" in case else json.dumps(case["manifest"]).encode()
    if "reason" in case:
        with pytest.raises(BundleRejectedError) as caught:
            Manifest.decode(payload)
        require_told(caught.value, case)
        return

    manifest = Manifest.decode(payload)
    assert Manifest.decode(manifest.encode()) == manifest
    for key, value in case["manifest"].items():
        found = json.loads(manifest.encode())[key]
        assert is_part_of(value, found), key


def is_part_of(less: Any, more: Any) -> bool:
    """Whether ``more`` says all that ``less`` says."""
    if isinstance(less, dict):
        return all(key in more and is_part_of(value, more[key]) for key, value in less.items())
    if isinstance(less, list):
        return len(less) == len(more) and all(map(is_part_of, less, more))
    return bool(less == more)


@pytest.mark.parametrize("case", cases("bundles/bundles"))
def test_bundles(case: dict[str, Any]) -> None:
    content = (VECTORS / "bundles" / case["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == case["sha256"]
    if "reason" in case:
        with pytest.raises(BundleRejectedError) as caught:
            Bundle.unpack(content)
        require_told(caught.value, case)
        return

    bundle = Bundle.unpack(content)
    assert hashlib.sha256(bundle.pack()).hexdigest() == case["sha256"]


def test_the_bundles_on_disk_are_the_ones_that_are_made_here_and_now() -> None:
    made = {f"{vector.name}.atoll": vector.content for vector in bundle_vectors.vectors()}
    on_disk = {path.name: path.read_bytes() for path in (VECTORS / "bundles").glob("*.atoll")}

    assert made == on_disk
    assert bundle_vectors.INDEX.read_text() == bundle_vectors.index(list(bundle_vectors.vectors()))


def test_a_full_bundle_comes_out_as_it_went_in() -> None:
    assert Bundle.unpack(bundle_vectors.full().pack()) == bundle_vectors.full()
    assert Bundle.unpack(bundle_vectors.least().pack()) == bundle_vectors.least()
