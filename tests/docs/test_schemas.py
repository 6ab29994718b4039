"""The schemas of settings files and messages say what the code reads."""

from __future__ import annotations

import json
import lzma
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import schemas
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from atoll_contract import messages, topics

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
MESSAGES = ROOT / "docs" / "references" / "schemas"
VECTORS = ROOT / "tests" / "contract" / "vectors"
OFFICIAL = Path(__file__).parent / "asyncapi-3.0.0.schema.json.xz"
"""From the npm package @asyncapi/specs 6.11.1, Apache-2.0."""


def editor(name: str) -> Draft7Validator:
    return Draft7Validator(json.loads((CONFIG / "schemas" / f"{name}.json").read_text()))


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.toml")), ids=lambda path: path.name)
def test_a_shipped_settings_file_names_its_schema_and_is_valid_by_it(path):
    first, *_ = path.read_text().splitlines()
    schema = editor(path.stem)

    assert first == f"#:schema schemas/{path.stem}.json"
    schema.check_schema(schema.schema)
    assert [error.message for error in schema.iter_errors(tomllib.loads(path.read_text()))] == []


@pytest.mark.parametrize("path", sorted(CONFIG.glob("scenarios/*.toml")), ids=lambda path: path.stem)
def test_a_scenario_is_valid_by_the_schema_that_it_names(path):
    first, *_ = path.read_text().splitlines()

    assert first == "#:schema ../schemas/task.json"
    assert [error.message for error in editor("task").iter_errors(tomllib.loads(path.read_text()))] == []


@pytest.mark.parametrize("name", schemas.SETTINGS)
def test_every_key_of_every_table_is_described(name):
    schema = json.loads(schemas.settings_schema(name))
    tables = [part for part in [schema, *schema["$defs"].values()] if "properties" in part]

    assert [
        key
        for table in tables
        for key, part in table["properties"].items()
        if not {"description", "const"} & part.keys()
    ] == []
    assert all(table["additionalProperties"] is False for table in tables)


def test_an_editor_marks_what_the_agent_refuses():
    text = '[agent]\nid = "a b"\nsitee = "x"\n[broker]\nport = 99999\n[[stream]]\nname = "s"\nvalues = {}\n'

    found = {error.json_path: error.message for error in editor("agent").iter_errors(tomllib.loads(text))}

    assert set(found) == {"$.agent", "$.agent.id", "$.broker.port", "$.stream[0].values"}


def vectors() -> list[Any]:
    names = {
        "commands": "command",
        "labels": "label",
        "slots": "slot-status",
        "drifts": "drift-report",
        "statuses": "status",
    }
    names |= {"readings": "reading", "predictions": "prediction", "manifests": "manifest"}
    return [
        pytest.param(schema, case, id=f"{name}-{number}")
        for name, schema in names.items()
        for number, case in enumerate(json.loads((VECTORS / f"{name}.json").read_text())["cases"])
        if "reason" not in case
    ]


@pytest.mark.parametrize(("name", "case"), vectors())
def test_what_is_read_is_valid_by_the_schema(name, case):
    schema = Draft202012Validator(json.loads((MESSAGES / f"{name}.json").read_text()))
    payload = bytes.fromhex(case["payload_hex"]) if "payload_hex" in case else case.get("payload")
    found = case["manifest"] if payload is None else json.loads(payload)

    for item in found if isinstance(found, list) else [found]:
        assert [error.message for error in schema.iter_errors(item)] == []


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("reading", {"time_ms": 1}),
        ("reading", {"values": {"x": "3"}}),
        ("reading", {"values": 1, "time_ms": -1}),
        ("prediction", {"time_ms": 1, "value": 1, "release": 0, "latency_ms": 1}),
        ("label", {"time_ms": 1}),
        ("command", {"value": 3}),
        ("status", {"health": "fine", "session": 1}),
        ("slot-status", {"model": "wear", "time_ms": 1, "champion": {"release": 1}}),
        ("manifest", {"model": "wear"}),
    ],
)
def test_what_lacks_or_spoils_a_key_is_not(name, payload):
    schema = Draft202012Validator(json.loads((MESSAGES / f"{name}.json").read_text()))

    schema.check_schema(schema.schema)
    assert not schema.is_valid(payload)


def test_the_asyncapi_document_is_valid_by_the_official_schema():
    document = yaml.safe_load(schemas.asyncapi())
    official = Draft7Validator(json.loads(lzma.decompress(OFFICIAL.read_bytes())))

    assert [f"{error.json_path}: {error.message}" for error in official.iter_errors(document)] == []
    spoilt = {**document, "channels": {"reading": {**document["channels"]["reading"], "messages": 5}}}
    assert not official.is_valid(spoilt)


def test_every_reference_of_the_asyncapi_document_leads_somewhere():
    document = yaml.safe_load((ROOT / "docs" / "references" / "asyncapi.yaml").read_text())

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for inner in part.values() for found in references(inner)]
        return [found for inner in part for found in references(inner)] if isinstance(part, list) else []

    found = references(document)
    assert len(found) > 20
    for reference in found:
        place = document
        for key in reference.removeprefix("#/").split("/"):
            place = place[key]


def test_every_topic_has_its_channel_or_waits_for_its_message():
    assert schemas.CHANNELS.keys() | schemas.RESERVED.keys() == set(get_args(topics.Topic))
    assert [name for name in schemas.RESERVED.values() if hasattr(messages, name)] == []
