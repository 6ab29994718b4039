"""Brings a bundle from its chunk topics to disk, verified as a whole.

Several chunks are asked for at a time, by exact topic: as many as the line carries in half a second,
so that readings on the same line do not queue up behind them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from atoll_agent.adapters.part import Part
from atoll_agent.rollout.release import Release
from atoll_contract.errors import (
    BundleRejectedError,
    DigestMismatchError,
    Reason,
    RepositoryUnavailableError,
)
from atoll_contract.topics import ChunkTopic
from atoll_link.retained import Fetched, RetainedTopics, Wanted

CHUNK_S: Final = 30.0
"""Longest wait for the next chunk; on a slow line one takes a while."""

_ATTEMPTS: Final = 2
"""How often all chunks are fetched before bytes that are not the signed ones are reported."""

_IN_FLIGHT_S: Final = 0.5
_SMALLEST_WINDOW: Final = 2
_LARGEST_WINDOW: Final = 16

log = structlog.get_logger()


def fetch_bundle(
    topics: RetainedTopics,
    release: Release,
    bundle: Path,
    *,
    max_bytes: int,
    turn_s: float = float("inf"),
    chunk_s: float = CHUNK_S,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> bool:
    """Fetch the bundle of ``release``, or as much of it as arrives in one turn.

    A fetch that ended before it was whole goes on where it was; nothing that is there comes again.

    Args:
        topics: The broker's retained topics.
        release: As the verified metadata describe it.
        bundle: Where it will be; while it grows, its part stands beside it.
        max_bytes: The largest bundle that this device takes.
        turn_s: After that no further chunk is asked for.
        chunk_s: Longest wait for the next chunk.
        progress: Called with the bytes that are there and those of the whole.

    Returns:
        Whether it is whole: all of it on disk, with the digest that was signed.

    Raises:
        BundleRejectedError: It is larger than ``max_bytes``.
        RepositoryUnavailableError: A chunk is missing; those that came are kept.
        DigestMismatchError: A chunk has a wrong size, and those that came are kept; or the bytes are
            not the ones that were signed, twice, and all are deleted.
        BrokerUnavailableError: The connection failed.
        StorageError: The disk is too full or cannot be written.
    """
    if release.length > max_bytes:
        message = f"the bundle has {release.length} bytes, this device takes {max_bytes} (max_bundle_bytes)"
        raise BundleRejectedError(message, Reason.TOO_LARGE)
    with Part(bundle, release) as part:
        end_s = time.monotonic() + turn_s
        while True:
            _fetch_missing(topics, release, part, end_s, chunk_s, progress)
            if part.missing():
                return False
            if part.is_genuine():
                part.finish()
                return True
            if part.attempt >= _ATTEMPTS:
                part.discard()
                message = (
                    f"the chunks of {release.model} {release.release} are not the bytes of {release.sha256}"
                )
                raise DigestMismatchError(message)
            log.warning("bundle.refetched", model=release.model, release=release.release)
            part.begin_again()


def _fetch_missing(
    topics: RetainedTopics,
    release: Release,
    part: Part,
    end_s: float,
    chunk_s: float,
    progress: Callable[[int, int], None],
) -> None:
    window = _Window(release.chunk_size)
    wanted = _wanted(release, part, end_s)
    done = part.kept_bytes
    with closing(topics.fetch_many(wanted, timeout_s=chunk_s, window=window.size)) as chunks:
        for chunk in chunks:
            number = ChunkTopic.parse(chunk.topic).number
            payload = _required(chunk, part.size_of(number))
            part.write(number, payload)
            window.heed(len(payload))
            done += len(payload)
            progress(done, release.length)


def _wanted(release: Release, part: Part, end_s: float) -> Iterator[Wanted]:
    for number in part.missing():
        yield Wanted(str(ChunkTopic(release.sha256, number)), part.size_of(number))
        if time.monotonic() >= end_s:  # asked last, so that every turn brings something
            return


def _required(chunk: Fetched, size: int) -> bytes:
    if chunk.size_bytes == 0:
        message = f"{chunk.topic} is missing: publish the release again"
        raise RepositoryUnavailableError(message, Reason.MISSING_CHUNK)
    if chunk.payload is None or len(chunk.payload) != size:
        raise DigestMismatchError(f"{chunk.topic} has {chunk.size_bytes} bytes, not {size}")
    return chunk.payload


class _Window:
    """How many chunks to ask for at a time."""

    def __init__(self, chunk_size: int) -> None:
        self._chunk_size = chunk_size
        self._size = 4
        self._since_s = time.monotonic()
        self._bytes = 0

    def size(self) -> int:
        """Return the most that should be on their way now."""
        return self._size

    def heed(self, size_bytes: int) -> None:
        """Note that a chunk has arrived."""
        self._bytes += size_bytes
        passed_s = time.monotonic() - self._since_s
        if passed_s >= _IN_FLIGHT_S:
            fitting = round(self._bytes / passed_s * _IN_FLIGHT_S / self._chunk_size)
            self._size = min(max(fitting, _SMALLEST_WINDOW), _LARGEST_WINDOW)
            self._since_s += passed_s
            self._bytes = 0
