"""Releases: who runs them, who refused them and why; requests to the trainer where they are allowed."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

import structlog
from nicegui import ui

from atoll_contract.errors import AtollError
from atoll_contract.messages import LoopState
from atoll_dashboard import views
from atoll_dashboard.asking import Asked
from atoll_dashboard.pages.board import VIEW_S, Board
from atoll_dashboard.pages.lists import LongList
from atoll_dashboard.pages.shell import card, heading, shell
from atoll_dashboard.pages.wording import clock
from atoll_dashboard.parts.grid import Cell, Column, Grid, Row, Tone

_WHOLE: Final = 100
_ACTS: Final = {"Promote": "promote", "Withdraw": "withdraw"}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def releases_page(board: Board) -> None:
    """Make the page of releases."""
    with shell(board, "Releases", "/releases"):
        note = heading("Releases")
        asks = _Asks(board)
        with card("Published") as top:
            with top:
                ui.label().classes("note")
                bar_legend()
            published = Grid(
                "Published releases",
                [
                    Column("Release"),
                    Column("For"),
                    Column("Agents", "wide"),
                    Column("Refused because"),
                    *([Column("Ask the trainer")] if board.asking.allowed else []),
                ],
                empty="No release is out, or this user may not read the update metadata.",
                on_act=asks.open,
            )
        loop_room = ui.element("div")
        with loop_room, card("The trainer's loop"):
            loops = Grid(
                "The trainer's loop",
                [Column("Model"), Column("At"), Column("Since", "number"), Column("The last turn", "wide")],
                empty="",
            )
        LongList(
            "Refused releases",
            [
                Column("Release"),
                Column("Agent"),
                Column("Reason"),
                Column("What was wrong", "wide"),
                Column("When", "number"),
            ],
            empty="No agent's latest refusal stands.",
            find=lambda text, _: [
                one
                for one in board.view("refusals", lambda scene, _: views.refusals(scene))
                if views.matching(text, one.model, one.site, one.agent, one.reason)
            ],
            row=_refusal_row,  # type: ignore[arg-type]  # what was found are refusals
        )
        if board.asking.allowed:
            with card("Requests"):
                requests = Grid(
                    "Requests to the trainer",
                    [Column("When"), Column("What"), Column("What became of it", "wide")],
                    empty="Nothing was asked for since this server was started.",
                )

        def show() -> None:
            with board.scene.lock:
                publication = board.scene.publication
                fault, expires = publication.fault, publication.expires
                asked = board.asking.asked
                trainer = board.scene.fleet.find(*board.scene.trainer)
            states = trainer.status.loops if trainer is not None and trainer.status is not None else []
            loop_room.set_visibility(bool(states))
            loops.show([_loop_row(one) for one in states])
            note.set_text(_note(fault, expires))
            published.show([_release_row(board, one) for one in board.releases])
            if board.asking.allowed:
                requests.show([_asked_row(one) for one in asked])

        show()
        ui.timer(VIEW_S, show)


class _Asks:
    """Asks a person once more before the trainer is asked."""

    def __init__(self, board: Board) -> None:
        self._board = board
        with ui.dialog() as self._dialog, ui.element("div").classes("ask"):
            with ui.element("h2"):
                self._title = ui.label()
            with ui.element("p"):
                self._text = ui.label()
            with ui.element("div").classes("acts"):
                no = (
                    ui.element("button").classes("act").props('type="button"').on("click", self._dialog.close)
                )
                with no:
                    ui.label("Cancel")
                self._yes = ui.element("button").classes("act main").props('type="button"')
                with self._yes:
                    self._yes_label = ui.label()
        self._ask = partial(self._send, "", "", 0)
        self._yes.on("click", lambda _: self._ask())

    def open(self, row: str, act: str) -> None:
        """Ask about a button in a row."""
        model, _, release = row.rpartition("/")
        name = _ACTS.get(act)
        if name not in self._board.asking.allowed or not release.isdecimal():
            return
        self._title.set_text(f"{act} {model} {release}?")
        self._text.set_text(
            "The trainer signs it for all devices of its channel."
            if name == "promote"
            else "The trainer takes it back: devices return to the release before, if one is out."
        )
        self._yes_label.set_text(f"Ask to {name}")
        self._ask = partial(self._send, name, model, int(release))
        self._dialog.open()

    def _send(self, name: str, model: str, release: int) -> None:
        self._dialog.close()
        arguments = {"percent": float(_WHOLE)} if name == "promote" else {}
        try:
            with self._board.scene.lock:
                topic, request = self._board.asking.ask(name, model, release, time.time() * 1e3, **arguments)
            self._board.feed.publish(str(topic), request.encode())
        except AtollError as error:
            ui.notify(error.detail, type="negative")
            return
        log.info("request.sent", request=name, model=model, release=release)
        ui.notify("The trainer was asked.")


def bar_cell(view: views.ReleaseView) -> Cell:
    """Return the cell with the bar of where agents stand."""
    counts = [(standing.value, view.counts.get(standing, 0)) for standing in views.STANDINGS]
    told = ", ".join(f"{count:,} {_LEGEND[name]}" for name, count in counts if count)
    return Cell(bar=tuple(counts), sub=told or "no agent that it is for was heard")


_LEGEND: Final = {
    "runs": "run it",
    "underway": "on its way",
    "waiting": "wait",
    "newer": "run a newer one",
    "refused": "refused it",
    "silent": "silent",
}


def bar_legend() -> None:
    """Make the legend of the bars."""
    with ui.element("p").classes("legend"):
        for name, text in _LEGEND.items():
            with ui.element("span"):
                ui.element("i").classes(name)
                ui.label(text)


def _note(fault: str | None, expires: str) -> str:
    if fault is not None:
        return f"The update metadata cannot be read: {fault}"
    if not expires:
        return "The broker holds no update metadata."
    return f"As the broker holds them; agents verify the signatures. Valid until {expires[:10]}."


def _release_row(board: Board, view: views.ReleaseView) -> Row:
    terms = view.terms
    identity = f"{terms.model}/{terms.release}"
    cells: tuple[Cell, ...] = (
        Cell(f"{terms.model} {terms.release}"),
        Cell(f"{terms.rollout_percent} %", sub=f"channel {terms.channel}")
        if view.is_out
        else Cell("not out", tone=Tone.OFF),
        bar_cell(view),
        Cell(", ".join(f"{reason} ({count})" for reason, count in view.reasons)),
    )
    allowed = board.asking.allowed
    if allowed:
        acts = [act for act, name in _ACTS.items() if name in allowed and view.is_out]
        if terms.rollout_percent == _WHOLE:
            acts = [act for act in acts if act != "Promote"]
        cells += (Cell(acts=tuple(acts)),)
    return Row(identity, cells)


def _loop_row(one: LoopState) -> Row:
    cause = (one.cause or "").replace("_", " ")
    about = " ".join(filter(None, [f"release {one.release}" if one.release else "", cause]))
    return Row(
        one.model,
        (
            Cell(one.model, sub=about),
            Cell(one.phase.replace("_", " "), sub=one.detail or "", tone=Tone.NOTE),
            Cell(clock(one.since_ms)),
            Cell(one.outcome or ""),
        ),
    )


def _refusal_row(one: views.RefusalView) -> Row:
    return Row(
        f"{one.site}/{one.agent}/{one.model}",
        (
            Cell(f"{one.model} {one.release}"),
            Cell(one.agent, sub=one.site, href=f"/agent/{one.site}/{one.agent}"),
            Cell(one.reason, tone=Tone.BAD),
            Cell(one.detail),
            Cell(clock(one.time_ms)),
        ),
    )


def _asked_row(one: Asked) -> Row:
    return Row(
        one.id,
        (
            Cell(clock(one.asked_ms)),
            Cell(f"{one.name} {one.model} {one.release}"),
            Cell(one.outcome(time.time() * 1e3)),
        ),
    )
