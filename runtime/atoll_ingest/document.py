"""JSON and CBOR of any shape: several devices and readings in one message, found by pointers or JMESPath.

``each`` says where the readings stand, as a pointer with ``*`` for every element and ``{name}`` for
every key, which then is a part of the device's name: ``/{device}/*``. The pointers of values and time
begin there. With ``columns`` each value is an array with one element per reading.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_BATCH, MAX_DETAIL_CHARS
from atoll_ingest.dialect import Record
from atoll_ingest.pointer import ABSENT, json_document, resolve, walk
from atoll_ingest.time import TimeForm

Find = Callable[[object], object]
"""Finds something in a document, or ABSENT."""

_WHOLE: Final = re.compile(r"[0-9]{1,9}")
_KEY: Final = re.compile(r"\{([a-z][a-z0-9_]{0,31})\}")


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything stands in one element.

    Attributes:
        values: Finds each value, by name.
        time: Finds the event time, or None: there is none.
        parts: Finds what the device's name is made of, by the name that the template has for it.
        units: Finds the unit of a value, by the value's name.
        first_register: Finds the number of the first register, or None: it is 0.
        step: Finds the time between elements, in seconds, or None.
        step_ms: Time between elements, if it is fixed.
    """

    values: Mapping[str, Find]
    time: Find | None = None
    parts: Mapping[str, Find] = field(default_factory=dict)
    units: Mapping[str, Find] = field(default_factory=dict)
    first_register: Find | None = None
    step: Find | None = None
    step_ms: float | None = None


@dataclass(frozen=True, slots=True)
class DocumentFormat:
    """JSON or CBOR.

    Attributes:
        places: Where everything stands.
        each: Tokens of ``each``; empty: the whole payload is one element.
        header: Tokens of an array with the names of the columns; elements are rows of them.
        are_columns: Whether values are arrays with one element per reading.
        time_form: How the base time of columns is written.
        load: What takes the payload apart.
    """

    places: Places
    each: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    are_columns: bool = False
    time_form: TimeForm = field(default_factory=TimeForm)
    load: Callable[[bytes], object] = json_document

    def decoder(self, max_devices: int) -> DocumentDecoder:  # noqa: ARG002 - remembers nothing
        """See :class:`atoll_ingest.dialect.Format`."""
        return DocumentDecoder(self)


@dataclass(frozen=True, slots=True)
class Pointed:
    """Finds what is at a pointer, or ABSENT."""

    tokens: tuple[str, ...]

    def __call__(self, document: object) -> object:
        """Return it."""
        return walk(document, self.tokens)


@dataclass(frozen=True, slots=True)
class Searched:
    """Finds the value of a JMESPath expression, or ABSENT.

    Raises:
        ValueError: It is none.
    """

    expression: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the expression."""
        import jmespath  # noqa: PLC0415 - only for those who use it
        from jmespath.exceptions import JMESPathError  # noqa: PLC0415

        try:
            object.__setattr__(self, "_compiled", jmespath.compile(self.expression))
        except (JMESPathError, ValueError) as error:
            raise ValueError(f"jmespath {self.expression!r}: {error}"[:MAX_DETAIL_CHARS]) from error

    def __call__(self, document: object) -> object:
        """Return it.

        Raises:
            MalformedMessageError: The document has another shape than the expression needs.
        """
        try:
            found = self._compiled.search(document)
        # JMESPathError is a ValueError; an expression also adds up and compares what it finds.
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            message = f"jmespath {self.expression!r}: {error}"[:MAX_DETAIL_CHARS]
            raise MalformedMessageError(message, Reason.WRONG_SHAPE) from error
        # JMESPath does not tell null from what is not there.
        return ABSENT if found is None else found


def _or_none(find: Find | None, element: object) -> object:
    found = None if find is None else find(element)
    return None if found is ABSENT else found


class DocumentDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`."""

    max_devices = 0

    def __init__(self, plan: DocumentFormat) -> None:
        self.counts: Counter[str] = Counter()
        self._plan = plan

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:  # noqa: ARG002
        """See :class:`atoll_ingest.dialect.Decoder`."""
        plan = self._plan
        document = plan.load(payload)
        header = None if plan.header is None else _header(document, plan.header)
        found: list[Record] = []
        for element, keys in _elements(document, plan.each, {}):
            row = element if header is None else _row(header, element)
            found += self._columns(row, keys) if plan.are_columns else [self._record(row, keys)]
            if len(found) > MAX_BATCH:
                message = f"more than {MAX_BATCH} readings in one message"
                raise MalformedMessageError(message, Reason.TOO_LARGE)
        return found

    def _record(self, element: object, keys: Mapping[str, str]) -> Record:
        places = self._plan.places
        return Record(
            values=self._values(element),
            time=_or_none(places.time, element),
            parts=self._parts(element, keys),
            units={name: _or_none(find, element) for name, find in places.units.items()},
            first_register=self._first_register(element),
            step_ms=self._step_ms(element),
        )

    def _values(self, element: object) -> dict[str, object]:
        """Return what is there; null is there, absent is not."""
        found = [(name, find(element)) for name, find in self._plan.places.values.items()]
        return {name: value for name, value in found if value is not ABSENT}

    def _parts(self, element: object, keys: Mapping[str, str]) -> Mapping[str, str]:
        if not self._plan.places.parts:
            return keys
        parts = dict(keys)
        for name, find in self._plan.places.parts.items():
            match find(element):
                case str() as text:
                    parts[name] = text
                case int() as number if not isinstance(number, bool) and abs(number) < 2**63:
                    parts[name] = str(number)
        return parts

    def _first_register(self, element: object) -> int:
        if self._plan.places.first_register is None:
            return 0
        found = self._plan.places.first_register(element)
        if isinstance(found, str) and _WHOLE.fullmatch(found):
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int):
            raise MalformedMessageError("no number of the first register", Reason.WRONG_SHAPE)
        return found

    def _step_ms(self, element: object) -> float | None:
        places = self._plan.places
        if places.step is None:
            return places.step_ms
        found = places.step(element)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < 2**53:
            raise MalformedMessageError("the step is no number above 0", Reason.BAD_TIME)
        return found * 1e3

    # Columns

    def _columns(self, element: object, keys: Mapping[str, str]) -> Iterator[Record]:
        columns: dict[str, list[object]] = {}
        for name, column in self._values(element).items():
            if isinstance(column, list):
                columns[name] = column
            elif column is not None:
                raise MalformedMessageError(f"{name} is no array", Reason.WRONG_SHAPE)
        lengths = {len(column) for column in columns.values()}
        if not lengths:
            raise MalformedMessageError("none of the stream's values is in it", Reason.MISSING_VALUE)
        if len(lengths) > 1:
            raise MalformedMessageError("columns of different lengths", Reason.WRONG_SHAPE)
        (length,) = lengths
        if length > MAX_BATCH:
            message = f"{length} readings in one message: at most {MAX_BATCH} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        times = self._times(element, length)
        parts = self._parts(element, keys)
        for place in range(length):
            yield Record({name: column[place] for name, column in columns.items()}, times[place], parts)

    def _times(self, element: object, length: int) -> Sequence[Any]:
        """Return the time of each row: from an array, or from the first one and the step."""
        places = self._plan.places
        written = _or_none(places.time, element)
        if isinstance(written, list):
            if len(written) != length:
                raise MalformedMessageError("times and values of different lengths", Reason.WRONG_SHAPE)
            return written
        step_ms = self._step_ms(element)
        if written is None or (step_ms is None and length > 1):
            if length > 1:
                message = "columns need an array of times, or the first time and the step"
                raise MalformedMessageError(message, Reason.BAD_TIME)
            return [written] * length
        base_ms = self._plan.time_form.reading({}, written).time_ms
        if base_ms is None:
            return [_UNSET] * length
        return [_moment(base_ms + place * (step_ms or 0.0)) for place in range(length)]


_UNSET: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _moment(time_ms: float) -> datetime:
    try:
        return _UNSET + timedelta(milliseconds=time_ms)
    except OverflowError as error:
        raise MalformedMessageError("time is outside 1970-9999", Reason.BAD_TIME) from error


def _elements(
    document: object, tokens: tuple[str, ...], keys: Mapping[str, str]
) -> Iterator[tuple[object, Mapping[str, str]]]:
    if not tokens:
        yield document, keys
        return
    token, rest = tokens[0], tokens[1:]
    named = _KEY.fullmatch(token)
    if named is not None:
        if not isinstance(document, dict):
            raise MalformedMessageError("each: no object with devices as keys", Reason.WRONG_SHAPE)
        for key, inner in document.items():
            yield from _elements(inner, rest, {**keys, named[1]: str(key)})
    elif token == "*":  # noqa: S105 - a token of a pointer
        if not isinstance(document, list):
            raise MalformedMessageError("each: no array of readings", Reason.WRONG_SHAPE)
        for inner in document:
            yield from _elements(inner, rest, keys)
    else:
        yield from _elements(resolve(document, (token,)), rest, keys)


def _header(document: object, tokens: tuple[str, ...]) -> list[object]:
    found = resolve(document, tokens)
    if not isinstance(found, list):
        raise MalformedMessageError("no names of columns where header says", Reason.WRONG_SHAPE)
    return found


def _row(header: list[object], cells: object) -> dict[str, object]:
    if not isinstance(cells, list) or len(cells) != len(header):
        raise MalformedMessageError("a row has not as many cells as header has names", Reason.WRONG_SHAPE)
    return {str(name): cell for name, cell in zip(header, cells, strict=True)}
