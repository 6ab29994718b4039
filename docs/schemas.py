"""JSON Schemas of settings files and messages, and the AsyncAPI document of the contract.

Made from the classes that read and write them; what a key means is said by their docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import msgspec
import yaml
from pydantic import BaseModel

from atoll_agent.settings import AgentSettings
from atoll_contract import decisions, drift, messages, requests, topics
from atoll_contract.ids import ID_PATTERN
from atoll_contract.manifest import Manifest
from atoll_dashboard.settings import DashboardSettings
from atoll_link.stream_settings import StreamsFile
from atoll_sim.world import WorldFile
from atoll_trainer.own_model import OwnModel
from atoll_trainer.settings import TrainerSettings
from atoll_trainer.task import TaskFile

SETTINGS: Final[dict[str, type[BaseModel]]] = {
    "agent": AgentSettings,
    "trainer": TrainerSettings,
    "dashboard": DashboardSettings,
    "streams": StreamsFile,
    "task": TaskFile,
    "own-model": OwnModel,
    "world": WorldFile,
}
"""Whole files; their schemas are shipped with them, for editors."""

DEFINITIONS: Final = "#/$defs/"
COMPONENTS: Final = "#/components/schemas/"
LEVELS: Final = {
    "file": "Name of a metadata file of The Update Framework.",
    "sha256": "Digest of a bundle, 64 hexadecimal digits.",
    "number": "Number of a chunk, from 0.",
}
OF_RELEASES: Final = {
    "metadata": "Signed metadata of The Update Framework, as its specification says.",
    "chunk": "Bytes of a bundle, `chunk_size` of them but for the last.",
}


@dataclass(frozen=True, slots=True)
class Channel:
    """Who says what on one kind of topic.

    Attributes:
        payload: Class of the message, or a key of :data:`OF_RELEASES`.
        senders: The roles that publish it.
        receivers: The roles of atoll that read it; anybody else may too.
        retain: Whether it is retained.
        qos: None: 0 or 1, as the sender likes.
    """

    payload: type | str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    retain: bool = False
    qos: int | None = 1


CHANNELS: Final[dict[type, Channel]] = {
    topics.ReadingTopic: Channel(messages.Reading, ("device",), ("agent", "trainer"), qos=None),
    topics.PredictionTopic: Channel(messages.Prediction, ("agent",), ("trainer",), qos=None),
    topics.LabelTopic: Channel(messages.Label, ("source",), ("agent", "trainer")),
    topics.DecisionTopic: Channel(decisions.Decision, ("agent",), ("trainer",)),
    topics.RequestTopic: Channel(requests.Request, ("writer",), ("agent", "trainer")),
    topics.ResponseTopic: Channel(requests.Response, ("agent", "trainer"), ("writer",)),
    topics.CommandTopic: Channel(messages.Command, ("writer",), ("device",)),
    topics.StatusTopic: Channel(messages.Status, ("agent", "trainer"), ("trainer",), retain=True),
    topics.SlotTopic: Channel(messages.SlotStatus, ("agent",), ("trainer",), retain=True),
    topics.DriftTopic: Channel(drift.DriftReport, ("agent",), ("trainer",), retain=True),
    topics.MetadataTopic: Channel("metadata", ("trainer",), ("agent",), retain=True),
    topics.ChunkTopic: Channel("chunk", ("trainer",), ("agent",), retain=True),
}
RESERVED: Final[dict[type, str]] = {}
"""Topics that have a place, and no message yet: the class that it will have."""


def settings_schema(name: str) -> str:
    """Return the JSON Schema of one kind of settings file, for editors."""
    schema = SETTINGS[name].model_json_schema(by_alias=True)
    described = _without_null(_described(schema, SETTINGS[name]))
    # The draft that editors of TOML know best; nothing in it is newer.
    return _json({"$schema": "http://json-schema.org/draft-07/schema#", "title": f"{name}.toml", **described})


def message_schemas() -> dict[str, str]:
    """Return the JSON Schema of each message, and of the manifest of a bundle, by file name."""
    kinds = [kind.payload for kind in CHANNELS.values() if isinstance(kind.payload, type)]
    return {
        f"{_kebab(kind.__name__)}.json": _json(
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "title": kind.__name__,
                **_schema(kind, DEFINITIONS),
            }
        )
        for kind in [*kinds, Manifest]
    }


def asyncapi() -> str:
    """Return the AsyncAPI document of everything that atoll says and hears."""
    schemas: dict[str, Any] = {}
    for channel in CHANNELS.values():
        if isinstance(channel.payload, type):
            schema = _schema(channel.payload, COMPONENTS)
            schemas |= schema.pop("$defs", {})
            schemas[channel.payload.__name__] = schema
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "atoll",
            "version": version("atoll"),
            "description": (
                "MQTT topics and messages of atoll. Level 4 of a topic is always who writes, which is that "
                "client's MQTT user name. Made from the code by `make docs`."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "localhost:1883",
                "protocol": "mqtt",
                "description": "Any broker of MQTT 3.1.1 or 5, also with TLS or over WebSocket.",
            }
        },
        "channels": {_camel(kind): _channel(kind, channel) for kind, channel in CHANNELS.items()},
        "operations": {
            operation: body
            for kind, channel in CHANNELS.items()
            for operation, body in _operations(kind, channel)
        },
        "components": {
            "messages": {_message_name(channel): _message(channel) for channel in CHANNELS.values()},
            "schemas": dict(sorted(schemas.items())),
        },
    }
    # A round through JSON: what is said in several places is written out in each, without anchors.
    return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=False, allow_unicode=True, width=110)


def spelt(kind: type) -> str:
    """Return a topic with its fields in braces."""
    if kind is topics.MetadataTopic:
        return f"{topics.PREFIX}/releases/metadata/{{file}}"
    if kind is topics.ChunkTopic:
        return f"{topics.PREFIX}/releases/bundle/{{sha256}}/{{number}}"
    levels = [f"{{{field}}}" for field in fields(kind)]
    return "/".join([topics.PREFIX, *levels[:2], kind._kind, *levels[2:]])  # noqa: SLF001


def fields(kind: type) -> list[str]:
    """Return the levels of a topic that differ."""
    return [field for field in kind.__dataclass_fields__ if not field.startswith("_")]


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each attribute."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("Attributes:")
        found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", section, re.MULTILINE)
        meanings |= {name: re.sub(r"\s+", " ", text).replace("``", "`") for name, text in found}
    return meanings


def summary(kind: type) -> str:
    """Return the first paragraph of a docstring."""
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("``", "`").replace("\n", " ")


def _channel(kind: type, channel: Channel) -> dict[str, Any]:
    name = _message_name(channel)
    return {
        "address": spelt(kind),
        "description": summary(kind),
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "parameters": {
            field: {"description": LEVELS.get(field, f"An id: `{ID_PATTERN}`.")} for field in fields(kind)
        },
    }


def _operations(kind: type, channel: Channel) -> typing.Iterator[tuple[str, dict[str, Any]]]:
    binding = (
        {"retain": channel.retain} if channel.qos is None else {"qos": channel.qos, "retain": channel.retain}
    )
    for action, verb, roles in (
        ("send", "Sends", channel.senders),
        ("receive", "Receives", channel.receivers),
    ):
        for role in roles:
            body: dict[str, Any] = {"action": action, "channel": {"$ref": f"#/channels/{_camel(kind)}"}}
            if action == "send":
                body["bindings"] = {"mqtt": {**binding, "bindingVersion": "0.2.0"}}
            yield f"{role}{verb}{_message_name(channel).removesuffix('Status') or 'Status'}", body


def _message(channel: Channel) -> dict[str, Any]:
    if channel.payload == "chunk":
        return {"contentType": "application/octet-stream", "summary": OF_RELEASES["chunk"]}
    if isinstance(channel.payload, str):
        return {"contentType": "application/json", "summary": OF_RELEASES[channel.payload]}
    reference = {"$ref": f"{COMPONENTS}{channel.payload.__name__}"}
    payload = reference
    if channel.payload is messages.Reading:
        payload = {
            "oneOf": [reference, {"type": "array", "items": reference, "maxItems": messages.MAX_BATCH}]
        }
    return {"summary": summary(channel.payload), "payload": payload}


def _message_name(channel: Channel) -> str:
    return channel.payload.__name__ if isinstance(channel.payload, type) else channel.payload.capitalize()


def _schema(kind: type, references: str) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        schema = kind.model_json_schema(by_alias=True, ref_template=f"{references}{{model}}")
    else:
        _, components = msgspec.json.schema_components([kind], ref_template=f"{references}{{name}}")
        schema = {**components.pop(kind.__name__), "$defs": components}
    return _described(schema, kind)


def _described(schema: dict[str, Any], kind: type) -> dict[str, Any]:
    """Return ``schema`` with what the docstrings say, and without what says nothing."""
    inner = schema.pop("$defs", {})
    kinds = {found.__name__: found for found in _kinds_in(kind)}
    whole = _tidied(schema, kind)
    if inner:
        whole["$defs"] = {name: _tidied(part, kinds.get(name)) for name, part in sorted(inner.items())}
    return whole


def _tidied(schema: dict[str, Any], kind: type | None) -> dict[str, Any]:
    tidy = {key: value for key, value in schema.items() if key not in {"title", "description", "properties"}}
    if kind is not None:
        tidy = {"description": summary(kind), **tidy}
    said = {} if kind is None else attributes(kind)
    aliases = {field.alias: name for name, field in getattr(kind, "model_fields", {}).items() if field.alias}
    for name, part in schema.get("properties", {}).items():
        meaning = said.get(aliases.get(name, name))
        described = {"description": meaning} if meaning else {}
        tidy.setdefault("properties", {})[name] = {**described, **_untitled(part)}
    return tidy


def _untitled(part: Any) -> Any:
    """Return a key's schema without titles, and without defaults that are nothing or a table."""
    match part:
        case dict():
            return {
                key: _untitled(value)
                for key, value in part.items()
                if key != "title"
                and not (key == "default" and (value in (None, []) or isinstance(value, dict)))
            }
        case list():
            return [_untitled(item) for item in part]
        case _:
            return part


def _without_null(part: Any) -> Any:
    """Return a schema without null, which TOML lacks."""
    match part:
        case {"anyOf": [*options], **others}:
            left = [_without_null(option) for option in options if option != {"type": "null"}]
            others = _without_null(others)
            return {**others, **left[0]} if len(left) == 1 else {**others, "anyOf": left}
        case dict():
            return {key: _without_null(value) for key, value in part.items()}
        case list():
            return [_without_null(item) for item in part]
        case _:
            return part


def _kinds_in(annotation: Any) -> typing.Iterator[type]:
    """Yield the classes with docstrings of ours that an annotation names, and those below them."""
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        yield annotation
        if issubclass(annotation, BaseModel | msgspec.Struct):
            for inner in typing.get_type_hints(annotation, include_extras=True).values():
                yield from _kinds_in(inner)
    for part in typing.get_args(annotation):
        yield from _kinds_in(part)


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _camel(kind: type) -> str:
    name = kind.__name__.removesuffix("Topic")
    return name[0].lower() + name[1:]


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
