"""Which releases are out, as the update metadata on the broker say. Pure.

They are shown, not obeyed: nothing is verified here, as every agent does that for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from atoll_contract.errors import MalformedMessageError
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.topics import MetadataTopic

TIMESTAMP: Final = MetadataTopic("timestamp.json")
_MOST_BYTES: Final = 8 * 1024 * 1024
_MOST_RELEASES: Final = 2000


class _Meta(msgspec.Struct):
    version: int


class _Signed(msgspec.Struct):
    expires: str = ""
    meta: dict[str, _Meta] = {}
    targets: dict[str, dict[str, Any]] = {}


class _Envelope(msgspec.Struct):
    signed: _Signed


_DECODER: Final = msgspec.json.Decoder(_Envelope)


@dataclass(frozen=True, slots=True)
class Published:
    """One release that is out.

    Attributes:
        terms: Whom it is for.
        sha256: Digest of its bundle.
    """

    terms: ReleaseTerms
    sha256: str


class Publication:
    """Follows the metadata from the timestamp to the releases; each file names the next one's version.

    Attributes:
        releases: What is out, by model, the newest first.
        expires: When the timestamp expires, as it is written; empty: there is none.
        fault: Why the metadata cannot be read, if so.
    """

    def __init__(self) -> None:
        self.releases: list[Published] = []
        self.expires = ""
        self.fault: str | None = None
        self._wanted: dict[str, str] = {}

    @property
    def topics(self) -> list[str]:
        """What to be subscribed to: one topic after the other comes to light."""
        return [str(TIMESTAMP), *self._wanted.values()]

    def take(self, topic: str, payload: bytes) -> None:
        """Take a file of the metadata; an empty one clears its topic."""
        try:
            if topic == str(TIMESTAMP):
                self._take_timestamp(payload)
            elif topic == self._wanted.get("snapshot"):
                if payload:
                    self._want(f"{TRAINER_ROLE}.json", _read(payload), TRAINER_ROLE)
            elif topic == self._wanted.get(TRAINER_ROLE) and payload:
                self.releases = _releases(_read(payload))
        except MalformedMessageError as error:
            self.fault = f"{topic}: {error.detail}"
            return
        self.fault = None

    def _take_timestamp(self, payload: bytes) -> None:
        if not payload:
            self.expires, self.releases, self._wanted = "", [], {}
            return
        signed = _read(payload)
        self.expires = signed.expires
        self._want("snapshot.json", signed, "snapshot")

    def _want(self, file: str, signed: _Signed, role: str) -> None:
        meta = signed.meta.get(file)
        if meta is None:
            raise MalformedMessageError(f"names no {file}")
        self._wanted[role] = str(MetadataTopic(f"{meta.version}.{file}"))


def _read(payload: bytes) -> _Signed:
    if len(payload) > _MOST_BYTES:
        raise MalformedMessageError(f"{len(payload)} bytes of metadata: at most {_MOST_BYTES} are read")
    try:
        return _DECODER.decode(payload).signed
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"metadata: {error}"[:300]) from error


def _releases(signed: _Signed) -> list[Published]:
    found = []
    for target in list(signed.targets.values())[:_MOST_RELEASES]:
        hashes = target.get("hashes")
        sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
        if not isinstance(sha256, str):
            raise MalformedMessageError("metadata: a target without sha256")
        found.append(Published(ReleaseTerms.decode(target.get("custom")), sha256))
    return sorted(found, key=lambda one: (one.terms.model, -one.terms.release))
