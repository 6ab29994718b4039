"""All devices."""

from __future__ import annotations

import time
from collections.abc import Sequence

from atoll_dashboard import views
from atoll_dashboard.pages.board import Board
from atoll_dashboard.pages.lists import LongList
from atoll_dashboard.pages.shell import heading, shell
from atoll_dashboard.pages.wording import NONE, ago, number, rate
from atoll_dashboard.parts.grid import Cell, Column, Row


def devices_page(board: Board) -> None:
    """Make the page of all devices."""
    with shell(board, "Devices", "/devices"):
        heading("Devices", "those heard since this server was started")
        LongList(
            "Devices",
            devices_columns(),
            empty="No device was heard yet.",
            find=lambda text, choice: _found(board.view("devices", views.devices), text, choice),
            row=device_row,  # type: ignore[arg-type]  # what was found are devices
            choices=("By name", "Largest error", "Busiest", "Longest silent"),
        )


def devices_columns() -> list[Column]:
    """Return the columns of :func:`device_row`."""
    return [
        Column("Device"),
        Column("Model"),
        Column("Prediction", "number"),
        Column("Error", "number"),
        Column("Predictions/s", "number"),
        Column("Heard", "number"),
    ]


def device_row(view: views.DeviceView) -> Row:
    """Return the row of one model's word on one device."""
    release = "" if view.release is None else f"release {view.release}"
    by = f"{release} on {view.agent}" if view.agent else "nobody answers it"
    return Row(
        f"{view.site}/{view.device}/{view.agent}/{view.model}",
        (
            Cell(view.device, sub=view.site, href=f"/device/{view.site}/{view.device}"),
            Cell(view.model or NONE, sub=by),
            Cell(view.label or number(view.value), sub=number(view.value) if view.label else ""),
            Cell(number(view.error, 2)),
            Cell(rate(view.per_s)),
            Cell(ago(view.heard_ms, time.time() * 1e3)),
        ),
    )


def _found(devices: Sequence[views.DeviceView], text: str, choice: str) -> list[views.DeviceView]:
    found = [one for one in devices if views.matching(text, one.device, one.site, one.model, one.agent)]
    match choice:
        case "Largest error":
            found.sort(key=lambda one: -1.0 if one.error is None else one.error, reverse=True)
        case "Busiest":
            found.sort(key=lambda one: one.per_s, reverse=True)
        case "Longest silent":
            found.sort(key=lambda one: one.heard_ms)
        case _:
            pass
    return found
