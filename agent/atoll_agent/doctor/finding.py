"""One line of what ``atoll-agent doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    """It works, with less or not for long; or it could not be found out."""
    FAULT = "fault"
    """The agent cannot do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        level: How bad it is.
        detail: What is so.
        todo: What to do about it; empty if nothing.
    """

    check: str
    level: Level
    detail: str
    todo: str = ""


def ok(check: str, detail: str) -> Finding:
    """Return that all is well."""
    return Finding(check, Level.OK, detail)


def warning(check: str, detail: str, todo: str) -> Finding:
    """Return what works with less, or could not be found out."""
    return Finding(check, Level.WARNING, detail, todo)


def fault(check: str, detail: str, todo: str) -> Finding:
    """Return what keeps the agent from its work."""
    return Finding(check, Level.FAULT, detail, todo)
