"""Ids that stand as one topic level, and the reversible escape that makes any name one.

An id matches ``[A-Za-z0-9_-]{1,48}``. A foreign name (``Kitchen lamp/2``) becomes an id by
:func:`escape` and comes back by :func:`unescape`; a name that already is an id and does not look
like an escape stays as it is.
"""

from __future__ import annotations

import re

from atoll_contract.errors import MalformedMessageError, Reason

MAX_ID_LENGTH = 48
ID_PATTERN = r"^[A-Za-z0-9_-]{1,48}$"
_SHOWN = 80
"""How much of a foreign name stands in a message for people."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,48}")
_ESCAPE = re.compile(r"--([0-9a-f]{2})")


def is_id(name: str) -> bool:
    """Whether ``name`` can stand as a topic level."""
    return _ID.fullmatch(name) is not None


def require_id(name: str, what: str) -> str:
    """Return ``name``.

    Raises:
        MalformedMessageError: ``name`` is not an id; ``what`` says which one in the message.
    """
    if _ID.fullmatch(name) is None:
        message = f"{what} {name[:_SHOWN]!r} is not an id: 1 to {MAX_ID_LENGTH} of A-Z a-z 0-9 _ -"
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC)
    return name


def escape(name: str) -> str:
    """Return the id for a foreign ``name``: every other byte of its UTF-8 becomes ``--hh``.

    >>> escape("Kitchen lamp/2")
    'Kitchen--20lamp--2f2'
    >>> escape("pump-7")
    'pump-7'

    Raises:
        MalformedMessageError: ``name`` is empty, holds a lone surrogate, or its escape is longer
            than an id may be.
    """
    # A single hyphen stays; two in a row would read as an escape, so both of them are spelt out.
    parts = []
    previous_hyphen = False
    try:
        data = name.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{name!r} is no text: it holds half of a character"
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC) from error
    for byte in data:
        char = chr(byte)
        if char == "-" and not previous_hyphen:
            parts.append("-")
            previous_hyphen = True
            continue
        if char == "-" or not (char.isascii() and (char.isalnum() or char == "_")):
            if previous_hyphen and parts[-1] == "-":
                # "-" before "--hh" would make three hyphens: ambiguous, so spell it out too.
                parts[-1] = "--2d"
            parts.append(f"--{byte:02x}")
        else:
            parts.append(char)
        previous_hyphen = False
    return require_id("".join(parts), f"escape of {name!r}:")


def unescape(identifier: str) -> str:
    """Return the name that :func:`escape` made ``identifier`` from.

    Raises:
        MalformedMessageError: ``identifier`` is not an id, or :func:`escape` makes no such one.
    """
    require_id(identifier, "id")
    data = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), identifier).encode("latin-1")
    message = f"id {identifier!r} is no escape of a name"
    try:
        name = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC) from error
    if escape(name) != identifier:  # "a--2Fb", or a letter spelt out: the inverse must be exact
        raise MalformedMessageError(message, Reason.MALFORMED_TOPIC)
    return name
