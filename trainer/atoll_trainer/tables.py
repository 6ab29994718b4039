"""Columns of text for people."""

from __future__ import annotations

from collections.abc import Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return ``rows`` under ``headings``, aligned on the left.

    >>> print(table(["role", "version"], [["root", 2], ["targets", 1]]))
    role     version
    root     2
    targets  1
    """
    texts = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in texts)
    return "\n".join(line.rstrip() for line in lines)
