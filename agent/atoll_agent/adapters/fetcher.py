"""Gives python-tuf the metadata topics in place of HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from tuf.api.exceptions import DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface, UpdaterConfig

from atoll_contract.release import MAX_ROOTS
from atoll_contract.topics import MetadataTopic
from atoll_link.retained import Fetched, RetainedTopics, Wanted

BASE_URL: Final = "retained:/"

LIMITS: Final = UpdaterConfig(
    max_root_rotations=MAX_ROOTS,
    max_delegations=4,
    root_max_length=65_536,
    timestamp_max_length=16_384,
    snapshot_max_length=65_536,
    targets_max_length=1_048_576,
)
"""What a device reads at most; python-tuf's own limits are those of a server. Where signed metadata name a
length, as a snapshot does, that counts instead, and the largest packet is the limit."""

_ROOT_HINT: Final = "root.json"
_TIMESTAMP: Final = "timestamp.json"
_NOT_FOUND: Final = 404


class MetadataFetcher(FetcherInterface):
    """The metadata topics during one refresh.

    MQTT says nothing about a topic that is absent, so every look for a newer root would cost a
    timeout. The topic ``root.json`` is a copy of the newest root and tells up to which number it is
    worth asking. Nothing is believed of it but that: a lie can only delay a new root, which whoever
    is able to lie could hold back anyway.
    """

    def __init__(self, topics: RetainedTopics, timeout_s: float) -> None:
        self._topics = topics
        self._timeout_s = timeout_s
        self._newest_root: int | None = None
        self._fetched: dict[str, Fetched] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, LIMITS.targets_max_length)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a metadata file. Unlike the method it replaces it makes no temporary file.

        Raises:
            DownloadHTTPError: It is absent (status 404).
            DownloadLengthMismatchError: It is longer than ``max_length``.
            BrokerUnavailableError: The connection failed.
        """
        name = url.removeprefix(BASE_URL)
        root = re.fullmatch(r"([0-9]+)\.root\.json", name)
        if root is not None and int(root[1]) > self._hinted_root():
            raise DownloadHTTPError(f"{name}: there is no newer root", _NOT_FOUND)
        if name not in self._fetched:
            self._fetch_all({name: max_length})
        found = self._fetched.pop(name)
        if found.is_oversized:
            raise DownloadLengthMismatchError(f"{name}: {found.size_bytes} bytes, at most {max_length}")
        if found.payload is None:
            raise DownloadHTTPError(f"{name} is absent", _NOT_FOUND)
        return found.payload

    def _hinted_root(self) -> int:
        if self._newest_root is None:
            # Together, so that a broker without releases costs one timeout and not two.
            self._fetch_all({_ROOT_HINT: LIMITS.root_max_length, _TIMESTAMP: LIMITS.timestamp_max_length})
            self._newest_root = _version(self._fetched.pop(_ROOT_HINT).payload or b"")
        return self._newest_root

    def _fetch_all(self, limits: dict[str, int]) -> None:
        wanted = [Wanted(str(MetadataTopic(name)), limit) for name, limit in limits.items()]
        for found in self._topics.fetch_many(wanted, timeout_s=self._timeout_s):
            self._fetched[MetadataTopic.parse(found.topic).file] = found


def _version(hint: bytes) -> int:
    """Return the version that ``hint`` gives, 0 when it gives none."""
    try:
        return int(json.loads(hint)["signed"]["version"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0
