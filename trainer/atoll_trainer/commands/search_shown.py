"""What a search shows on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from atoll_trainer.runs import SearchFacts

if TYPE_CHECKING:
    from atoll_trainer.search.search import Attempt

_WORTH: Final = 0.99
"""Of the naive guess's loss: what is above it is not worth a model."""


@contextmanager
def trial_progress(trials: int) -> Iterator[Callable[[Attempt], None]]:
    """Show a bar with the least loss so far, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("{task.fields[best]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    best: list[Attempt] = []
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("search", total=trials, best="-")

        def advance(attempt: Attempt) -> None:
            if not best or attempt.loss < best[0].loss:
                best[:] = [attempt]
            bar.update(shown, advance=1, best=f"{best[0].recipe.family.value} loss {best[0].loss:.5g}")

        yield advance


def show_search(out: Console, facts: SearchFacts) -> None:
    """Print what was tried, and the judged candidates from the smallest to the largest."""
    cut = "; cut by search.time_limit_s" if facts.is_cut else ""
    out.print(f"search       {len(facts.trials)} fits{cut}; loss on the validation part, int8 as on a device")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "family", "window", "form"):
        table.add_column(heading)
    for heading in ("loss", "float", "bytes", "µs"):
        table.add_column(heading, justify="right")
    for one in sorted(facts.candidates, key=lambda one: (one.size_bytes, one.loss)):
        mark = "chosen" if one.is_chosen else "front" if one.is_on_front else ""
        table.add_row(
            *(mark, one.family, str(one.window), one.form, f"{one.loss:.5g}", f"{one.float_loss:.5g}"),
            *(f"{one.size_bytes:,}", f"{one.latency_us:.0f}"),
        )
    out.print(table)
    if facts.naive_loss is not None:
        out.print(f"naive        loss {facts.naive_loss:.5g}, of a guess without a model")
    out.print(f"chosen       {facts.why}")
    chosen = next((one for one in facts.candidates if one.is_chosen), None)
    if chosen is not None and facts.naive_loss is not None and chosen.loss >= _WORTH * facts.naive_loss:
        out.print(
            "! No model is better than the naive guess by more than 1 %: the values do not tell the target."
        )
