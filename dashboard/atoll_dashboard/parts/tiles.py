"""Figures with a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nicegui.element import Element

from atoll_dashboard.parts.grid import Tone


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure.

    Attributes:
        label: Its name.
        value: The figure.
        unit: Its unit.
        sub: What else there is to say.
        tone: How it looks.
        spark: Its history.
    """

    label: str
    value: str
    unit: str = ""
    sub: str = ""
    tone: Tone | None = None
    spark: tuple[int, ...] = ()

    def encode(self) -> dict[str, Any]:
        """Return what the browser gets."""
        tile: dict[str, Any] = {"label": self.label, "value": self.value, "unit": self.unit, "sub": self.sub}
        if self.tone is not None:
            tile["tone"] = self.tone.value
        if self.spark:
            tile["spark"] = list(self.spark)
        return tile


class Tiles(Element, component="tiles.js"):
    """Some of them; :meth:`show` sends them to the browser if they differ from those before."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[Tile] = []
        self._props["tiles"] = []

    def show(self, tiles: list[Tile]) -> None:
        """Show these."""
        if tiles == self._shown:
            return
        self._shown = tiles
        self._props["tiles"] = [tile.encode() for tile in tiles]
        self.update()
