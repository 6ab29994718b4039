"""A long list: a search, choices, and pages of fifty rows; only what is seen is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from nicegui import ui

from atoll_dashboard.pages.board import VIEW_S
from atoll_dashboard.pages.shell import card
from atoll_dashboard.pages.wording import BACK, ON
from atoll_dashboard.parts.grid import Column, Grid, Row
from atoll_dashboard.views import page_of

SIZE: Final = 50


class LongList:
    """A card with a grid that shows a part of many rows.

    Args:
        title: Of the card.
        columns: Of the grid.
        empty: What stands there without rows.
        find: Returns all items that match a search and a choice.
        row: Makes the row of an item.
        choices: Names of choices, the first one chosen; none: there is nothing to choose.
    """

    def __init__(
        self,
        title: str,
        columns: Sequence[Column],
        *,
        empty: str,
        find: Callable[[str, str], Sequence[object]],
        row: Callable[[object], Row],
        choices: Sequence[str] = (),
    ) -> None:
        self._find = find
        self._row = row
        self._number = 0
        self._choice = choices[0] if choices else ""
        self._chips: dict[str, ui.element] = {}
        with card(title) as top:
            with top:
                self._count = ui.label().classes("note")
                if choices:
                    with ui.element("div").classes("chips").props(f'role="group" aria-label="Which {title}"'):
                        for name in choices:
                            self._chips[name] = self._chip(name)
                self._search = (
                    ui.input(placeholder="Search")
                    .classes("search")
                    .props(f'dense outlined clearable debounce=250 aria-label="Search {title}"')
                    .on_value_change(lambda _: self._turn(0))
                )
            self._grid = Grid(title, columns, empty=empty)
            self._pager = ui.element("nav").classes("pager").props(f'aria-label="Pages of {title}"')
            with self._pager:
                back = ui.element("button").classes("act").props('type="button" aria-label="Page before"')
                back.on("click", lambda: self._turn(self._number - 1))
                with back:
                    ui.label(BACK)
                self._where = ui.label()
                on = ui.element("button").classes("act").props('type="button" aria-label="Next page"')
                on.on("click", lambda: self._turn(self._number + 1))
                with on:
                    ui.label(ON)
        self.show()
        ui.timer(VIEW_S, self.show)

    def show(self) -> None:
        """Show the rows as they are now."""
        items = self._find(self._search.value or "", self._choice)
        start, end = page_of(items, self._number, SIZE)
        self._number = start // SIZE
        self._grid.show([self._row(item) for item in items[start:end]])
        self._count.set_text(f"{len(items):,}")
        self._where.set_text(f"{start + 1:,} to {end:,} of {len(items):,}")
        self._pager.set_visibility(len(items) > SIZE)

    def _turn(self, number: int) -> None:
        self._number = max(0, number)
        self.show()

    def _chip(self, name: str) -> ui.element:
        chip = (
            ui.element("button")
            .classes("chip")
            .props(f'type="button" aria-pressed={_said(name == self._choice)}')
        )
        chip.on("click", lambda: self._choose(name))
        with chip:
            ui.label(name)
        return chip

    def _choose(self, name: str) -> None:
        self._choice = name
        for other, chip in self._chips.items():
            chip.props(f"aria-pressed={_said(other == name)}")
        self._turn(0)


def _said(is_so: bool) -> str:  # noqa: FBT001 - the attribute's value
    return "true" if is_so else "false"
