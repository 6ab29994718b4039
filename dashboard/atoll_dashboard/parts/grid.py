"""A table of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nicegui.element import Element
from nicegui.events import GenericEventArguments


class Tone(StrEnum):
    """How a badge looks."""

    GOOD = "good"
    NOTE = "note"
    WARN = "warn"
    BAD = "bad"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        label: Its heading.
        look: ``number``, ``wide`` or ``minor``: right-aligned, all the room there is, not on narrow screens.
    """

    label: str
    look: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says.
        sub: What it says below, small.
        href: Where it leads; a path of this server.
        tone: Makes it a badge.
        bar: Parts of a bar: how each looks, and how long it is.
        acts: Names of buttons.
        title: What it says when pointed at.
    """

    text: str = ""
    sub: str = ""
    href: str = ""
    tone: Tone | None = None
    bar: tuple[tuple[str, int], ...] = ()
    acts: tuple[str, ...] = ()
    title: str = ""

    def encode(self) -> dict[str, Any]:
        """Return what the browser gets."""
        cell: dict[str, Any] = {
            name: value for name in ("text", "sub", "href", "title") if (value := getattr(self, name))
        }
        if self.tone is not None:
            cell["tone"] = self.tone.value
        if self.bar:
            cell["bar"] = [{"look": look, "count": count} for look, count in self.bar if count]
        if self.acts:
            cell["acts"] = list(self.acts)
        return cell


@dataclass(frozen=True, slots=True)
class Row:
    """One row; ``id`` is its own among all."""

    id: str
    cells: tuple[Cell, ...]


class Grid(Element, component="grid.js"):
    """A table; :meth:`show` sends rows to the browser if they differ from those before."""

    def __init__(
        self,
        caption: str,
        columns: Sequence[Column],
        *,
        empty: str,
        on_act: Callable[[str, str], None] | None = None,
    ) -> None:
        super().__init__()
        self._shown: list[Row] = []
        self._props["caption"] = caption
        self._props["empty"] = empty
        self._props["columns"] = [
            {"key": str(place), "label": column.label, "look": column.look}
            for place, column in enumerate(columns)
        ]
        self._props["rows"] = []
        if on_act is not None:

            def act(event: GenericEventArguments) -> None:
                on_act(str(event.args.get("id")), str(event.args.get("act")))

            self.on("act", act)

    def show(self, rows: list[Row]) -> None:
        """Show these rows."""
        if rows == self._shown:
            return
        self._shown = rows
        self._props["rows"] = [{"id": row.id, "cells": [cell.encode() for cell in row.cells]} for row in rows]
        self.update()
