"""Pushes a release repository to the broker, step by step, each acknowledged and read back.

A step begins when the one before it is seen to be there, and the timestamp, which makes devices
look, comes last: a publisher that dies on the way harms nobody, and the next run completes its work.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final, Self, TypeVar

from atoll_contract.topics import MetadataTopic
from atoll_link.retained import Wanted, open_topics
from atoll_link.session import Broker
from atoll_trainer.repository import Obsolete, Piece, Step

_BATCH: Final = 16
"""Topics that are put, then read back, at a time."""

_PROBE_WINDOW: Final = 32
_ItemT = TypeVar("_ItemT")
_WITNESS: Final = str(MetadataTopic("timestamp.json"))


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Longest waits of a publisher, in seconds.

    Attributes:
        connect_s: For a connection.
        probe_s: For the next topic that might be there already. Too short costs a needless message.
        acknowledge_s: For the next acknowledgement.
        read_back_s: For the next topic that must be there.
    """

    connect_s: float = 10.0
    probe_s: float = 0.5
    acknowledge_s: float = 30.0
    read_back_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a push is."""

    step: str
    topics_done: int
    topics: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a push did.

    Attributes:
        topics: Topics that devices need.
        topics_stored: Those that were not there, or held other bytes.
        bytes_stored: Payload of those.
        duration_s: How long it took.
    """

    topics: int
    topics_stored: int
    bytes_stored: int
    duration_s: float


class Publisher:
    """A context manager around two connections of one trainer: one puts, the other reads back."""

    def __init__(self, broker: Broker, trainer: str, *, deadlines: Deadlines | None = None) -> None:
        self._broker = broker
        self._trainer = trainer
        self._deadlines = deadlines or Deadlines()

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            BrokerUnavailableError: Not connected in time.
        """
        token = secrets.token_hex(8)
        with ExitStack() as stack:
            self._writer, self._reader = (
                stack.enter_context(
                    open_topics(
                        self._broker,
                        f"{self._trainer}-{role}-{token}",
                        _WITNESS,
                        timeout_s=self._deadlines.connect_s,
                    )
                )
                for role in ("publisher", "reader")
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._stack.close()

    def push(
        self,
        steps: Sequence[Step],
        *,
        compare: Collection[str] | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Summary:
        """Make the broker hold ``steps``, in their order.

        What it holds already is left alone. A bundle is taken to be there when its last chunk is,
        unless ``compare`` asks for more.

        Args:
            steps: As :meth:`Repository.steps` returns them.
            compare: Names of bundles to compare chunk by chunk; None: all of them.
            progress: Called after every batch of topics.

        Raises:
            NotStoredError: The broker does not keep what it acknowledges.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be read.
        """
        started = time.monotonic()
        topics = sum(len(step.pieces) for step in steps)
        held = self._held(
            [piece for step in steps for piece in (step.pieces[-1:] if step.is_bundle else step.pieces)]
        )
        done = topics_stored = bytes_stored = 0
        for step in steps:
            is_there = step.is_bundle and step.pieces[-1].topic in held
            if is_there and compare is not None and step.name not in compare:
                done += len(step.pieces)
                continue
            for batch in _batches(step.pieces):
                if is_there:
                    held |= self._held(batch)
                messages = [(piece.topic, piece.read()) for piece in batch if piece.topic not in held]
                self._writer.put_many(messages, timeout_s=self._deadlines.acknowledge_s)
                self._reader.require(messages, timeout_s=self._deadlines.read_back_s)
                done += len(batch)
                topics_stored += len(messages)
                bytes_stored += sum(len(payload) for _, payload in messages)
                if progress is not None:
                    progress(Progress(step.name, done, topics))
        return Summary(topics, topics_stored, bytes_stored, time.monotonic() - started)

    def clear(self, obsolete: Sequence[Obsolete]) -> None:
        """Make the broker forget the topics of ``obsolete``, and delete the files.

        Raises:
            NotStoredError: The broker does not let this trainer write the topics.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be deleted.
        """
        for one in obsolete:
            for topics in _batches(one.topics):
                self._writer.put_many(
                    [(topic, b"") for topic in topics], timeout_s=self._deadlines.acknowledge_s
                )
            one.delete()

    def _held(self, pieces: Sequence[Piece]) -> set[str]:
        """Return the topics of those ``pieces`` that the broker holds byte for byte."""
        expected = {piece.topic: piece for piece in pieces}
        found = self._reader.fetch_many(
            (Wanted(piece.topic, piece.size_bytes) for piece in pieces),
            timeout_s=self._deadlines.probe_s,
            window=_PROBE_WINDOW,
            only_retained=True,
        )
        return {
            one.topic
            for one in found
            if one.payload is not None and one.payload == expected[one.topic].read()
        }


def _batches(items: Sequence[_ItemT]) -> Iterator[list[_ItemT]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
