"""Pushes a release repository to the broker, step by step, each acknowledged and read back.

A step begins when the one before it is seen to be there, and the timestamp, which makes devices
look, comes last: a publisher that dies on the way harms nobody, and the next run completes its work.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from atoll_contract.errors import BrokerUnavailableError, NotStoredError, StorageError
from atoll_contract.release import MAX_CHUNK_BYTES
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_link.files import write_whole
from atoll_link.retained import Message, Wanted, open_topics
from atoll_link.session import Broker
from atoll_trainer.layout import Obsolete, Piece, Step

_BATCH: Final = 16
"""Topics that are put, then read back, at a time."""

_PROBE_WINDOW: Final = 32
_ABSENT_WINDOW: Final = 64
"""What is absent answers nothing, so that each window costs a timeout."""

_ItemT = TypeVar("_ItemT")
_WITNESS: Final = str(MetadataTopic("timestamp.json"))
_LONGEST_TOPIC: Final = str(ChunkTopic("0" * 64, 999_999))
_MAX_METADATA_BYTES: Final = 4 * 1024 * 1024

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Longest waits of a publisher, in seconds.

    Attributes:
        connect_s: For a connection.
        probe_s: For the next topic that might be there already. Too short costs a needless message.
        look_s: For the next topic that says whose releases these are. Too short and it is overlooked.
        acknowledge_s: For the next acknowledgement.
        read_back_s: For the next topic that must be there.
    """

    connect_s: float = 10.0
    probe_s: float = 0.5
    look_s: float = 2.0
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
    """What a publication did.

    Attributes:
        topics: Topics that devices need.
        topics_stored: Those that were not there, or held other bytes.
        bytes_stored: Payload of those.
        duration_s: How long it took.
        not_kept: By name, bundles that are out and that the broker does not keep, and why.
    """

    topics: int
    topics_stored: int
    bytes_stored: int
    duration_s: float
    not_kept: Mapping[str, str] = field(default_factory=dict)

    def after(self, first: Summary) -> Summary:
        """Return the summary of this push and of ``first``, whose topics are among those of this one."""
        return Summary(
            self.topics,
            first.topics_stored + self.topics_stored,
            first.bytes_stored + self.bytes_stored,
            first.duration_s + self.duration_s,
            self.not_kept,
        )

    def __str__(self) -> str:
        return (
            f"stored and read back {self.topics_stored} of {self.topics} topics "
            f"({self.bytes_stored:,} bytes) in {self.duration_s:.1f} s"
        )


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

    @property
    def most_bytes(self) -> int:
        """How long a message on a release topic may be, as far as the broker tells."""
        return self._writer.limits.most_payload_bytes(_LONGEST_TOPIC)

    def fetch(self, topics: Sequence[str]) -> dict[str, bytes]:
        """Return what the broker retains under ``topics``; those that are absent are left out.

        Raises:
            BrokerUnavailableError: The connection failed for too long.
        """
        wanted = (Wanted(topic, _MAX_METADATA_BYTES) for topic in topics)
        found = self._reader.fetch_many(wanted, timeout_s=self._deadlines.look_s, only_retained=True)
        return {one.topic: one.payload for one in found if one.payload is not None}

    def push(
        self,
        steps: Sequence[Step],
        *,
        compare: Collection[str] | None = None,
        is_new: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> Summary:
        """Make the broker hold ``steps``, in their order.

        What it holds already is left alone. A bundle is taken to be there when its last chunk is,
        unless ``compare`` asks for more. A file that is damaged is made anew of what the broker holds.
        A new bundle that the broker does not keep is taken away again. One that is out already holds up
        nothing else: it is told in the log, and by the summary.

        Args:
            steps: As :meth:`Repository.steps` returns them.
            compare: Names of bundles to compare chunk by chunk; None: all of them.
            is_new: They are bundles that are not out yet.
            progress: Called after every batch of topics.

        Raises:
            NotStoredError: The broker does not keep what it acknowledges, or refuses it.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be read, or a bundle is damaged here and not whole at the broker.
        """
        started = time.monotonic()
        topics = sum(len(step.pieces) for step in steps)
        # Of a bundle the last chunk tells whether it is out, the first one whether that was begun.
        seen = slice(1) if is_new else slice(-1, None)
        held = self._held(
            [piece for step in steps for piece in (step.pieces[seen] if step.is_bundle else step.pieces)]
        )
        left_alone = {
            step.name
            for step in steps
            if _is_there(step, held) and compare is not None and step.name not in compare
        }
        for step in steps:  # all of them before anything is put
            if step.is_bundle and step.name not in left_alone and self.mend(step):
                held |= {piece.topic for piece in step.pieces}
        done = topics_stored = bytes_stored = 0
        not_kept: dict[str, str] = {}
        for step in steps:
            if step.name in left_alone:
                done += len(step.pieces)
                continue
            try:
                for size, stored in self._put(step, held):
                    done += size
                    topics_stored += len(stored)
                    bytes_stored += sum(len(payload) for _, payload in stored)
                    if progress is not None:
                        progress(Progress(step.name, done, topics))
            except NotStoredError as error:
                if is_new:
                    self._take_away(step)
                if is_new or not step.is_bundle:
                    raise
                withdraw = f"atoll-trainer withdraw {step.name.removesuffix('.atoll').replace('/', ' ')}"
                detail = f"{step.name}: {error.detail}; all else goes on, and {withdraw} takes it back"
                _log.warning("bundle.not_kept", bundle=step.name, detail=detail)
                not_kept[step.name] = detail
        return Summary(topics, topics_stored, bytes_stored, time.monotonic() - started, not_kept)

    def _take_away(self, step: Step) -> None:
        """Leave nothing at the broker of a bundle that it does not keep; as far as it lets us."""
        try:
            for batch in _batches(step.pieces):
                messages = [(piece.topic, b"") for piece in batch]
                self._writer.put_many(messages, timeout_s=self._deadlines.acknowledge_s)
        except (NotStoredError, BrokerUnavailableError) as error:
            _log.warning("bundle.left_behind", bundle=step.name, detail=error.detail)

    def _put(self, step: Step, held: set[str]) -> Iterator[tuple[int, list[Message]]]:
        """Put what is missing of a step and read it back; yield the size of each batch, and what it took."""
        is_there = _is_there(step, held)
        for batch in _batches(step.pieces):
            if is_there:
                held |= self._held(batch)
            messages = [(piece.topic, piece.read()) for piece in batch if piece.topic not in held]
            self._writer.put_many(messages, timeout_s=self._deadlines.acknowledge_s)
            self._reader.require(messages, timeout_s=self._deadlines.read_back_s)
            yield len(batch), messages

    def mend(self, step: Step) -> bool:
        """Write the file of a bundle anew, of what the broker holds, if it is missing or damaged.

        Returns:
            Whether it was.

        Raises:
            BrokerUnavailableError: The connection failed for too long.
            StorageError: It cannot be written, or is not whole at the broker either.
        """
        if _is_intact(step):
            return False
        self._restore(step)
        return True

    def clear(self, obsolete: Sequence[Obsolete]) -> None:
        """Make the broker forget the topics of ``obsolete``, see that it does, and delete the files.

        Raises:
            NotStoredError: The broker does not let this trainer write the topics.
            BrokerUnavailableError: The connection failed for too long.
            StorageError: A file cannot be deleted.
        """
        topics = [topic for one in obsolete for topic in one.topics]
        for batch in _batches(topics):
            self._writer.put_many([(topic, b"") for topic in batch], timeout_s=self._deadlines.acknowledge_s)
        self._require_absent(topics)
        for one in obsolete:
            one.delete()

    def _require_absent(self, topics: Sequence[str]) -> None:
        found = self._reader.fetch_many(
            (Wanted(topic, MAX_CHUNK_BYTES) for topic in topics),
            timeout_s=self._deadlines.probe_s,
            window=_ABSENT_WINDOW,
            only_retained=True,
        )
        if left := sorted(one.topic for one in found if one.size_bytes):
            raise NotStoredError(
                f"the broker acknowledged that {left[0]} is cleared but goes on holding it: check that this "
                "user may write the topic"
            )

    def _restore(self, step: Step) -> None:
        found = self._reader.fetch_many(
            (Wanted(piece.topic, piece.size_bytes) for piece in step.pieces),
            timeout_s=self._deadlines.look_s,
            only_retained=True,
        )
        chunks = {one.topic: one.payload or b"" for one in found}
        content = b"".join(chunks[piece.topic] for piece in step.pieces)
        if hashlib.sha256(content).hexdigest() != step.sha256:
            raise StorageError(
                f"{step.path}: the bundle of {step.name} is missing or damaged, and the broker does not hold "
                "all of it: publish it again: atoll-trainer publish FILE"
            )
        write_whole(step.path, content)
        _log.warning("bundle.restored", target=step.name, file=str(step.path))

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
            one.topic for one in found if one.payload is not None and _holds(expected[one.topic], one.payload)
        }


def _is_there(step: Step, held: Collection[str]) -> bool:
    return step.is_bundle and any(step.pieces[place].topic in held for place in (0, -1))


def _is_intact(step: Step) -> bool:
    try:
        return hashlib.sha256(step.path.read_bytes()).hexdigest() == step.sha256
    except OSError:
        return False


def _holds(piece: Piece, payload: bytes) -> bool:
    try:
        return piece.read() == payload
    except StorageError:  # a bundle that is missing here may be whole at the broker
        return False


def _batches(items: Sequence[_ItemT]) -> Iterator[list[_ItemT]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch
