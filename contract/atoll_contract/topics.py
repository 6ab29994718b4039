"""Every topic of atoll as a type with two inverse functions. No other module contains a topic.

``str(topic)`` spells it, ``Type.parse(text)`` reads it, :func:`parse` finds the type. Under
``atoll/v1/{site}/`` level 4 is always the one who writes, which is that client's MQTT user name,
so that one access rule (``pattern write atoll/v1/+/%u/#``) gives least privilege.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.ids import require_id

PREFIX = "atoll/v1"
MAX_TOPIC_BYTES = 256
MAX_SLASHES = 7
RESERVED_SITES = frozenset({"releases"})
RESERVED_WRITERS = frozenset({"metadata", "bundle"})
_METADATA_FILE = re.compile(r"(?!\.)[A-Za-z0-9_.%-]{1,96}")
"""No name starts with a dot: it becomes a file's name on the other side."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _malformed(topic: str, wanted: str) -> MalformedMessageError:
    shown = topic if len(topic) <= MAX_TOPIC_BYTES else topic[:MAX_TOPIC_BYTES] + "..."
    return MalformedMessageError(f"{shown!r} is not {wanted}", Reason.MALFORMED_TOPIC)


@dataclass(frozen=True, slots=True)
class _SiteTopic:
    """A topic below ``atoll/v1/{site}/{writer}``; ``_kind`` is level 5.

    Fields stand in the order of their levels: site, writer, then what follows the kind.
    """

    _kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Refuse fields that are no ids."""
        levels = [getattr(self, field.name) for field in fields(self)]
        for field, level in zip(fields(self), levels, strict=True):
            require_id(level, field.name)
        if levels[0] in RESERVED_SITES:
            raise _malformed(levels[0], "a site: the name is reserved")
        if levels[1] in RESERVED_WRITERS:
            raise _malformed(levels[1], "a writer: the name is reserved")

    def __str__(self) -> str:
        levels = [getattr(self, field.name) for field in fields(self)]
        return "/".join([PREFIX, *levels[:2], self._kind, *levels[2:]])

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Return the topic that ``topic`` spells.

        Raises:
            MalformedMessageError: ``topic`` is not of this type.
        """
        match topic.split("/"):
            case ["atoll", "v1", site, writer, cls._kind, *rest] if len(rest) == len(fields(cls)) - 2:
                return cls(site, writer, *rest)  # type: ignore[call-arg]  # fields of the subclass
            case _:
                raise _malformed(topic, f"a {cls._kind} topic")

    @classmethod
    def any_of(cls, **levels: str) -> str:
        """Return the subscription filter: the levels given by field name, ``+`` for the others.

        >>> ReadingTopic.any_of(site="plant-a", stream="press")
        'atoll/v1/plant-a/+/reading/press'
        """
        names = [field.name for field in fields(cls)]
        if unknown := levels.keys() - set(names):
            raise TypeError(f"{cls.__name__} has no level {', '.join(sorted(unknown))}")
        chosen = [require_id(levels[name], name) if name in levels else "+" for name in names]
        return "/".join([PREFIX, *chosen[:2], cls._kind, *chosen[2:]])


@dataclass(frozen=True, slots=True)
class ReadingTopic(_SiteTopic):
    """Where one device publishes the readings of one stream.

    >>> str(ReadingTopic(site="plant-a", device="pump-7", stream="vib"))
    'atoll/v1/plant-a/pump-7/reading/vib'
    """

    _kind: ClassVar[str] = "reading"
    site: str
    device: str
    stream: str


@dataclass(frozen=True, slots=True)
class PredictionTopic(_SiteTopic):
    """Where an agent publishes what a model says of one device."""

    _kind: ClassVar[str] = "prediction"
    site: str
    agent: str
    device: str
    model: str


@dataclass(frozen=True, slots=True)
class DecisionTopic(_SiteTopic):
    """Where an agent publishes what a rule made of the predictions of one device."""

    _kind: ClassVar[str] = "decision"
    site: str
    agent: str
    device: str
    rule: str


@dataclass(frozen=True, slots=True)
class LabelTopic(_SiteTopic):
    """Where a source publishes the truth about one device for one model."""

    _kind: ClassVar[str] = "label"
    site: str
    source: str
    device: str
    model: str


@dataclass(frozen=True, slots=True)
class CommandTopic(_SiteTopic):
    """Where a writer tells one device to do something."""

    _kind: ClassVar[str] = "command"
    site: str
    writer: str
    device: str
    name: str


@dataclass(frozen=True, slots=True)
class StatusTopic(_SiteTopic):
    """Where an agent or trainer says how it is; also the topic of its last will."""

    _kind: ClassVar[str] = "status"
    site: str
    writer: str


@dataclass(frozen=True, slots=True)
class SlotTopic(_SiteTopic):
    """Where an agent says which release answers for a model, and what is on its way."""

    _kind: ClassVar[str] = "slot"
    site: str
    agent: str
    model: str


@dataclass(frozen=True, slots=True)
class DriftTopic(_SiteTopic):
    """Where an agent says how far features and outputs have moved from the reference."""

    _kind: ClassVar[str] = "drift"
    site: str
    agent: str
    model: str


@dataclass(frozen=True, slots=True)
class RequestTopic(_SiteTopic):
    """Where a writer asks a target for something."""

    _kind: ClassVar[str] = "request"
    site: str
    writer: str
    target: str
    name: str


@dataclass(frozen=True, slots=True)
class ResponseTopic(_SiteTopic):
    """Where a target answers a writer's request."""

    _kind: ClassVar[str] = "response"
    site: str
    target: str
    writer: str
    name: str


@dataclass(frozen=True, slots=True)
class MetadataTopic:
    """Where the trainer keeps one file of the update metadata, retained.

    >>> str(MetadataTopic("3.root.json"))
    'atoll/v1/releases/metadata/3.root.json'
    """

    file: str

    def __post_init__(self) -> None:
        """Refuse a file name that would not be one topic level."""
        if _METADATA_FILE.fullmatch(self.file) is None:
            raise _malformed(self.file, "the name of a metadata file")

    def __str__(self) -> str:
        return f"{PREFIX}/releases/metadata/{self.file}"

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Return the topic that ``topic`` spells.

        Raises:
            MalformedMessageError: ``topic`` is not of this type.
        """
        match topic.split("/"):
            case ["atoll", "v1", "releases", "metadata", file]:
                return cls(file)
            case _:
                raise _malformed(topic, "a metadata topic")


@dataclass(frozen=True, slots=True)
class ChunkTopic:
    """Where the trainer keeps chunk ``number`` of the bundle with this digest, retained."""

    sha256: str
    number: int

    def __post_init__(self) -> None:
        """Refuse what is no digest and no chunk number."""
        if _SHA256.fullmatch(self.sha256) is None or not 0 <= self.number < 10**6:
            raise _malformed(f"{self.sha256}/{self.number}", "a bundle's digest and chunk number")

    def __str__(self) -> str:
        return f"{PREFIX}/releases/bundle/{self.sha256}/{self.number}"

    @classmethod
    def parse(cls, topic: str) -> Self:
        """Return the topic that ``topic`` spells.

        Raises:
            MalformedMessageError: ``topic`` is not of this type.
        """
        match topic.split("/"):
            case ["atoll", "v1", "releases", "bundle", sha256, number] if re.fullmatch(
                r"0|[1-9][0-9]{0,5}", number
            ):
                return cls(sha256, int(number))
            case _:
                raise _malformed(topic, "a chunk topic")


Topic = (
    ReadingTopic
    | PredictionTopic
    | DecisionTopic
    | LabelTopic
    | CommandTopic
    | StatusTopic
    | SlotTopic
    | DriftTopic
    | RequestTopic
    | ResponseTopic
    | MetadataTopic
    | ChunkTopic
)

_BY_KIND: dict[str, type[_SiteTopic]] = {
    kind._kind: kind  # noqa: SLF001 - the base class is private to this module
    for kind in (
        ReadingTopic,
        PredictionTopic,
        DecisionTopic,
        LabelTopic,
        CommandTopic,
        StatusTopic,
        SlotTopic,
        DriftTopic,
        RequestTopic,
        ResponseTopic,
    )
}


def parse(topic: str) -> Topic:
    """Return the typed topic that ``topic`` spells.

    Raises:
        MalformedMessageError: ``topic`` is none of atoll's.
    """
    match topic.split("/"):
        case ["atoll", "v1", "releases", "metadata", *_]:
            return MetadataTopic.parse(topic)
        case ["atoll", "v1", "releases", "bundle", *_]:
            return ChunkTopic.parse(topic)
        case ["atoll", "v1", _, _, kind, *_] if kind in _BY_KIND:
            found: Topic = _BY_KIND[kind].parse(topic)  # type: ignore[assignment]  # all of _BY_KIND are Topics
            return found
        case _:
            raise _malformed(topic, "a topic of atoll")
