"""The frame of every page: navigation, how the connection is, light and dark."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nicegui import ui

from atoll_dashboard import views
from atoll_dashboard.pages.board import VIEW_S, Board
from atoll_dashboard.pages.wording import BACK, ago, clock, rate

_PAGES: Final = (("Fleet", "/"), ("Devices", "/devices"), ("Releases", "/releases"), ("Alarms", "/alarms"))
_LOGO: Final = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" '
    'aria-hidden="true"><path d="M19.5 7.5a9 9 0 1 0 1.2 7"/><circle cx="12" cy="12" r="2.4" '
    'fill="currentColor" stroke="none"/><circle cx="20.6" cy="10.8" r="1.4" fill="currentColor" '
    'stroke="none"/></svg>'
)
_HALF: Final = (
    '<svg viewBox="0 0 24 24" fill="currentColor" aria-hidden="true">'
    '<path d="M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Zm0 2v14a7 7 0 0 1 0-14Z"/></svg>'
)
_LEAVE: Final = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" '
    'aria-hidden="true"><path d="M14 4H6v16h8M10 12h10m-3-3 3 3-3 3"/></svg>'
)
_REMEMBERED: Final = """<script>
  window.atollDark = () => localStorage.getItem("atoll-dark");
  window.atollTurn = () => {
    const dark = !document.body.classList.contains("body--dark");
    localStorage.setItem("atoll-dark", dark ? "1" : "0");
    Quasar.Dark.set(dark);
  };
  window.addEventListener("load", () => {
    const known = window.atollDark();
    if (known !== null) Quasar.Dark.set(known === "1");
  });
</script>"""


@contextmanager
def shell(board: Board, title: str, current: str) -> Iterator[None]:
    """Lay the frame; what is made inside stands in the page."""
    ui.page_title(f"{title} · atoll")
    ui.add_head_html(_REMEMBERED)
    with ui.element("a").classes("skip").props('href="#main"'):
        ui.label("To the content")
    with ui.element("header").classes("top"):
        with ui.element("a").classes("brand").props('href="/" aria-label="atoll, fleet"'):
            ui.html(_LOGO, sanitize=False)
            ui.label("atoll")
            ui.label(board.site).classes("at")
        with ui.element("nav").classes("nav").props('aria-label="Pages"'):
            for name, path in _PAGES:
                mark = ' aria-current="page"' if path == current else ""
                with ui.element("a").props(f'href="{path}"{mark}'):
                    ui.label(name)
        with ui.element("div").classes("right"):
            pill = ui.label().classes("pill").props('role="status"')
            turn = ui.element("button").classes("tool").props('type="button" aria-label="Light or dark"')
            turn.on("click", js_handler="() => window.atollTurn()")
            with turn:
                ui.html(_HALF, sanitize=False)
            if board.has_login:
                with (
                    ui.element("form").props('method="post" action="/logout"'),
                    ui.element("button").classes("tool").props('aria-label="Log out"'),
                ):
                    ui.html(_LEAVE, sanitize=False)
    banner = ui.element("div").classes("banner").props('role="alert"')
    with banner:
        told = ui.label()
    page = ui.element("main").classes("page").props('id="main" tabindex="-1"')

    def show() -> None:
        is_connected, pill_text, text = _line(board)
        pill.set_text(pill_text)
        pill.classes(add="live" if is_connected else "cut", remove="cut" if is_connected else "live")
        told.set_text(text)
        banner.set_visibility(bool(text))
        page.classes(add="" if is_connected else "stale", remove="stale" if is_connected else "")

    show()
    ui.timer(VIEW_S / 2, show)
    with page:
        yield


def _line(board: Board) -> tuple[bool, str, str]:
    """Return whether the broker is there, what the pill says, and what the banner says."""
    now_ms = time.time() * 1e3
    with board.scene.lock:
        line = board.scene.line
        per_s = board.scene.predictions.per_s(now_ms / 1e3)
        refused = dict(board.scene.refused_filters)
        since_ms, started_ms = line.since_ms, board.scene.started_ms
    if line.is_connected:
        text = ""
        if refused:
            text = f"The broker refuses to show {', '.join(sorted(refused))}: its access rules."
        return True, f"live · {rate(per_s)}/s", text
    was_never = since_ms == started_ms
    since = (
        "Not connected to the broker yet" if was_never else f"Cut off from the broker since {clock(since_ms)}"
    )
    seen = "" if was_never else f" What stands here is from {ago(since_ms, now_ms)}."
    why = f" ({line.detail[:160]})" if line.detail else ""
    return False, "cut off", f"{since}.{seen} It is tried again and again{why}."


def heading(title: str, note: str = "", up: tuple[str, str] | None = None) -> ui.label:
    """Make the head of a page; return the label of its note."""
    with ui.element("div").classes("head"):
        if up is not None:
            with ui.element("a").classes("up").props(f'href="{up[1]}"'):
                ui.label(f"{BACK} {up[0]}")
        with ui.element("h1"):
            ui.label(title)
        return ui.label(note).classes("note")


@contextmanager
def card(title: str) -> Iterator[ui.element]:
    """Make a card with a title; yield its top, for what stands beside the title."""
    with ui.element("section").classes("card").props(f'aria-label="{title}"'):
        top = ui.element("div").classes("bar-top")
        with top, ui.element("h2"):
            ui.label(title)
        yield top


def overview(board: Board) -> views.Overview:
    """Return the fleet at a glance."""
    return board.view("overview", views.overview)
