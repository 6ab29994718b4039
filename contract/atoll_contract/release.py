"""What the trainer signs of a release beside its bytes, and the names that both ends must know.

A release is one target of the update metadata. Its signed ``custom`` field holds integers and
strings only: canonical JSON has no floats. Unknown keys are ignored, so that an older agent reads
what a newer trainer signs.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll_contract.errors import MalformedMessageError
from atoll_contract.ids import ID_PATTERN

TRAINER_ROLE: Final = "trainer"
"""The one delegated role; it signs all releases."""

TRAINER_PATHS: Final = "*/*"
"""The targets that it may sign: ``{model}/{release}.atoll``."""

STABLE: Final = "stable"
"""The channel that every device follows."""

MAX_RELEASE: Final = 2**31
"""The highest number that a release may have."""

CHUNK_BYTES: Final = 61_440
"""Bytes per chunk topic by default: every MQTT service known to us retains as many."""

MAX_ROOTS: Final = 256
"""Versions of the root that a device follows from the one it was enrolled with on; then it is stuck."""

MIN_CHUNK_BYTES: Final = 1024
MAX_CHUNK_BYTES: Final = 262_144
"""Fewest and most bytes per chunk topic."""

_Id = Annotated[str, Field(pattern=ID_PATTERN)]


def is_in_rollout(agent: str, *, percent: int, salt: str) -> bool:
    """Whether ``agent`` is among the ``percent`` of all: a stable hash of id and salt is below it.

    A rollout that grows keeps the agents that it has.
    """
    digest = hashlib.sha256(f"{salt}:{agent}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < percent


class ReleaseTerms(BaseModel):
    """Who should run a release, and how its bundle is laid out in topics.

    Attributes:
        model: Id of the model.
        release: Number of the release; never reused.
        channel: ``stable``, or the name of a channel.
        rollout_percent: Share of the devices that it is for.
        rollout_salt: Makes the share differ from release to release.
        chunk_size: Bytes per chunk topic; the last chunk may be shorter.
        max_delay_s: Longest random delay before a device fetches it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    model: _Id
    release: Annotated[int, Field(ge=1, le=MAX_RELEASE)]
    channel: _Id = STABLE
    rollout_percent: Annotated[int, Field(ge=0, le=100)] = 100
    rollout_salt: Annotated[str, Field(max_length=64)] = ""
    chunk_size: Annotated[int, Field(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)] = CHUNK_BYTES
    max_delay_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 0

    @property
    def target(self) -> str:
        """Name of the target.

        >>> ReleaseTerms(model="press", release=7).target
        'press/7.atoll'
        """
        return f"{self.model}/{self.release}.atoll"

    def includes(self, agent: str) -> bool:
        """Whether the rollout includes ``agent``, whatever its channel."""
        return is_in_rollout(agent, percent=self.rollout_percent, salt=self.rollout_salt)

    def encode(self) -> dict[str, int | str]:
        """Return the ``custom`` field, every key written out."""
        return self.model_dump()

    @classmethod
    def decode(cls, custom: object) -> Self:
        """Return the terms in a ``custom`` field.

        Raises:
            MalformedMessageError: A key is missing or has no sensible value.
        """
        try:
            return cls.model_validate(custom)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "custom"
            raise MalformedMessageError(f"release terms: {where}: {first['msg']}") from error
