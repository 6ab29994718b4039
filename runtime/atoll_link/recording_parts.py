"""The parts of a recording, as Parquet. The only importer of Arrow beside :mod:`atoll_link.recording`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from itertools import islice
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from atoll_contract.errors import StorageError
from atoll_link.place import Place
from atoll_link.recording_bounds import FIRST_IMPORT, PART, part_order

_IMPORT_PARTS: Final = 10_000
_IMPORT_ROWS: Final = 50_000

SCHEMA: Final = pa.schema(
    [
        pa.field("arrival_ms", pa.float64(), nullable=False),
        pa.field("time_ms", pa.float64()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("qos", pa.int8(), nullable=False),
        pa.field("retained", pa.bool_(), nullable=False),
        pa.field("duplicate", pa.bool_(), nullable=False),
    ],
    metadata={"atoll_recording": "1"},
)
_DICTIONARIES: Final = ["kind", "name", "device", "topic"]


class Kind(StrEnum):
    """What a recorded message is."""

    READING = "reading"
    LABEL = "label"
    PREDICTION = "prediction"


@dataclass(frozen=True, slots=True)
class Row:
    """One MQTT message.

    Attributes:
        arrival_ms: When it came, milliseconds since the epoch.
        time_ms: Its event time, of a batch that of the first reading; None: the arrival counts.
        kind: What it is.
        name: The stream of a reading, else the model.
        device: Whom it speaks of.
        topic: Where it was published.
        payload: Its bytes, as they came.
        qos: Of its delivery.
        is_retained: The broker had kept it.
        is_duplicate: The DUP flag: the broker may have sent it before.
    """

    arrival_ms: float
    time_ms: float | None
    kind: Kind
    name: str
    device: str
    topic: str
    payload: bytes
    qos: int
    is_retained: bool = False
    is_duplicate: bool = False


def import_rows(place: Place, sha256: str, rows: Iterable[Row]) -> tuple[int, int]:
    """Put the rows of a file with this digest among the parts of ``place``.

    The parts are named after the digest, so the same file, imported again, takes the place of what
    came of it before, also of a part of it after a crash. A recorder may write there meanwhile.

    Returns:
        How many parts there are, and how many of an earlier import were deleted.

    Raises:
        StorageError: They cannot be stored.
    """
    first = FIRST_IMPORT + int(sha256[:9], 16) * _IMPORT_PARTS
    former = {
        part
        for kind in Kind
        for name in place.folders(kind)
        for part in parts_of(place, kind, name)
        if first <= part_order(part)[1] < first + _IMPORT_PARTS
    }
    made: set[str] = set()
    iterator = iter(rows)
    for number in range(first, first + _IMPORT_PARTS):
        chunk = list(islice(iterator, _IMPORT_ROWS))
        if not chunk:
            break
        for part, group in rows_by_part(number, chunk).items():
            put_part(place, part, group)
            made.add(part)
    else:
        if next(iterator, None) is not None:
            raise StorageError(f"more than {_IMPORT_ROWS * _IMPORT_PARTS:,} rows: cut the file in two")
    for part in sorted(former - made):
        place.remove(part)
    return len(made), len(former - made)


def parts_of(place: Place, kind: Kind, name: str) -> Iterator[str]:
    """Yield the parts of one stream or model."""
    for day in place.folders(f"{kind}/{name}"):
        for file in place.files(f"{kind}/{name}/{day}"):
            if PART.fullmatch(file):
                yield f"{kind}/{name}/{day}/{file}"


def rows_by_part(number: int, rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of the journal with this number, by the part they belong to."""
    groups: dict[tuple[Kind, str, str], list[Row]] = {}
    for row in rows:
        day = datetime.fromtimestamp(row.arrival_ms / 1e3, UTC).date().isoformat()
        groups.setdefault((row.kind, row.name, day), []).append(row)
    return {
        f"{kind}/{name}/{day}/part-{int(group[0].arrival_ms):013d}-{number}.parquet": group
        for (kind, name, day), group in groups.items()
    }


def part_rows(place: Place, part: str) -> Iterator[Row]:
    """Yield the rows of one part, in order of arrival.

    Raises:
        StorageError: It is damaged, no part of a recording, or cannot be read.
    """
    try:
        with place.open(part) as opened, pq.ParquetFile(opened) as file:
            for batch in file.iter_batches(batch_size=8192):
                yield from rows_of(batch)
    except FileNotFoundError as error:
        raise StorageError(f"{place}/{part}: was deleted while it was read: run it again") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(place, part, error) from error


def part_size(place: Place, part: str) -> tuple[int, int]:
    """Return how many rows one part has, and their size in bytes, unpacked; see :func:`part_rows`.

    Raises:
        StorageError: It is damaged, no part of a recording, or cannot be read.
    """
    try:
        with place.open(part) as opened, pq.ParquetFile(opened) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            return file.metadata.num_rows, sum(group.total_byte_size for group in groups)
    except FileNotFoundError:
        return 0, 0
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(place, part, error) from error


def put_part(place: Place, part: str, rows: list[Row]) -> None:
    """Store ``rows`` as one part.

    Raises:
        StorageError: They cannot be stored.
    """
    table = pa.Table.from_batches([batch_of(rows)])
    place.put(part, partial(pq.write_table, table, compression="zstd", use_dictionary=_DICTIONARIES))


def batch_of(rows: list[Row]) -> Any:
    """Return ``rows`` as a batch of Arrow."""
    columns = [
        [row.arrival_ms for row in rows],
        [row.time_ms for row in rows],
        [row.kind.value for row in rows],
        [row.name for row in rows],
        [row.device for row in rows],
        [row.topic for row in rows],
        [row.payload for row in rows],
        [row.qos for row in rows],
        [row.is_retained for row in rows],
        [row.is_duplicate for row in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=SCHEMA)


def rows_of(batch: Any) -> Iterator[Row]:
    """Yield the rows of a batch of Arrow."""
    columns = [batch.column(name).to_pylist() for name in SCHEMA.names]
    for arrival_ms, time_ms, kind, *rest in zip(*columns, strict=True):
        yield Row(arrival_ms, time_ms, Kind(kind), *rest)


def _damaged(place: Place, part: str, error: Exception) -> StorageError:
    text = str(error).partition("\n")[0]
    return StorageError(
        f"{place}/{part}: damaged, or no part of a recording ({text}): move it out of the folder"
    )
