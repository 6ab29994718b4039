"""Influx line protocol: several lines in one message, devices named by tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_BATCH, MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES
from atoll_ingest.dialect import Record

MEASUREMENT: Final = "measurement"


@dataclass(frozen=True, slots=True)
class InfluxFormat:
    """Line protocol.

    Attributes:
        fields: The name of a field, to the stream's.
        measurement: Whose lines are read; None: all.
    """

    fields: Mapping[str, str]
    measurement: str | None = None

    def decoder(self, max_devices: int) -> InfluxDecoder:  # noqa: ARG002 - remembers nothing
        """See :class:`atoll_ingest.dialect.Format`."""
        return InfluxDecoder(self)


class InfluxDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`."""

    max_devices = 0

    def __init__(self, plan: InfluxFormat) -> None:
        from line_protocol_parser import LineFormatError, parse_line  # noqa: PLC0415 - an extra

        self.counts: Counter[str] = Counter()
        self._plan = plan
        self._parse = parse_line
        self._error = LineFormatError

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:  # noqa: ARG002
        """See :class:`atoll_ingest.dialect.Decoder`. Lines of other measurements are meant for others."""
        found = []
        for number, line in enumerate(_lines(payload), start=1):
            if number > MAX_BATCH:
                raise MalformedMessageError(f"more than {MAX_BATCH} lines", Reason.TOO_LARGE)
            try:
                parsed = self._parse(line)
            except self._error as error:
                message = f"line {number}: {error}"[:MAX_DETAIL_CHARS]
                raise MalformedMessageError(message) from error
            if parsed is None or self._plan.measurement not in {None, parsed["measurement"]}:
                continue
            fields = parsed["fields"]
            values = {name: fields[field] for field, name in self._plan.fields.items() if field in fields}
            # The parser gives integers for floats without decimals, and for none: the unit is all the same.
            tags = {**parsed["tags"], MEASUREMENT: parsed["measurement"]}
            found.append(Record(values, parsed["time"], tags))
        return found


def _lines(payload: bytes) -> Iterator[str]:
    if len(payload) > MAX_PAYLOAD_BYTES:
        message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    if b"\0" in payload:
        raise MalformedMessageError("a NUL in line protocol")
    try:
        text = str(payload, "utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessageError(f"no text: {error}") from error
    open_line = ""
    for line in text.split("\n"):
        open_line += line
        # Within quotes a line break belongs to the text.
        if open_line.replace("\\\\", "").replace('\\"', "").count('"') % 2:
            open_line += "\n"
            continue
        if open_line.strip() and not open_line.lstrip().startswith("#"):
            yield open_line.strip()
        open_line = ""
    if open_line.strip():
        raise MalformedMessageError("a text without its closing quote")
