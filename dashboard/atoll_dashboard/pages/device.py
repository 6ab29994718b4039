"""One device: what it reads, what is said of it, what is true, and which release said so."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from nicegui import ui

from atoll_contract.decisions import State
from atoll_dashboard import views
from atoll_dashboard.pages.board import CHART_S, VIEW_S, Board
from atoll_dashboard.pages.shell import card, heading, shell
from atoll_dashboard.pages.wording import NONE, ago, clock, milliseconds, number, rate
from atoll_dashboard.parts.charts import ALARM, CLEARED, PALETTE, TRUTH, Chart, Line, Series
from atoll_dashboard.parts.grid import Cell, Column, Grid, Row, Tone
from atoll_dashboard.parts.tiles import Tile, Tiles
from atoll_dashboard.tracks import Device, ModelTrack

_SPAN_MS: Final = 60_000.0
_MOST_CHARTS: Final = 4
_MOST_LINES: Final = 8
_MARK: Final = "#7c5cff"


def device_page(board: Board, site: str, name: str) -> None:
    """Make the page of one device."""
    with shell(board, name, ""):
        note = heading(name, up=("Devices", "/devices"))
        panels: dict[tuple[str, str], _ModelPanel] = {}
        room = ui.element("div").classes("page-part")
        with card("Readings"):
            readings = Chart(f"Readings of {name}")
        with card("Decisions"):
            decisions = Grid(
                "Decisions",
                [
                    Column("When"),
                    Column("Rule"),
                    Column("State"),
                    Column("Value", "number"),
                    Column("Commands", "wide"),
                ],
                empty="No rule has raised or cleared anything since this server was started.",
            )

        def draw() -> None:
            with board.scene.lock:
                device = board.scene.devices.get((site, name))
                if device is None:
                    note.set_text("Nothing was heard of it since this server was started.")
                    return
                for key, track in list(device.models.items())[:_MOST_CHARTS]:
                    if key not in panels:
                        with room:
                            panels[key] = _ModelPanel(board, site, track)
                    panels[key].draw(track, _lines(device, track))
                _draw_readings(readings, device)

        def tell() -> None:
            now_ms = time.time() * 1e3
            with board.scene.lock:
                device = board.scene.devices.get((site, name))
                if device is None:
                    return
                note.set_text(
                    f"at {site} · {rate(device.readings.per_s(now_ms / 1e3))} readings a second "
                    f"· heard {ago(device.heard_ms, now_ms)}"
                )
                for key, panel in panels.items():
                    if (track := device.models.get(key)) is not None:
                        panel.tell(track, now_ms)
                rows = _decision_rows(device)
            decisions.show(rows)

        draw()
        tell()
        ui.timer(CHART_S, draw)
        ui.timer(VIEW_S, tell)


class _ModelPanel:
    """What one model says of the device."""

    def __init__(self, board: Board, site: str, track: ModelTrack) -> None:
        agent = board.scene.fleet.find(site, track.agent)
        slot = agent.slots.get(track.model) if agent is not None else None
        champion = slot.champion if slot is not None else None
        self._unit = unit = (champion.unit or "") if champion is not None else ""
        self._tiles = Tiles()
        with card(track.model) as top:
            with top:
                ui.label(f"on {track.agent}").classes("note")
            self._chart = Chart(f"Predictions of {track.model} and labels", unit)
        with ui.element("div").classes("pair"):
            with card("Error"):
                self._errors = Chart(f"Error of {track.model}", unit)
            with card("Latency on the device"):
                self._latency = Chart(f"Latency of {track.model}", "ms")

    def draw(self, track: ModelTrack, lines: list[Line]) -> None:
        """Draw the charts."""
        span = _span(track.predictions.newest_ms)
        self._chart.show(
            [
                Series("prediction", track.predictions, PALETTE[0], is_filled=False),
                Series("label", track.labels, TRUTH, has_dots=True),
            ],
            span,
            lines,
        )
        unnamed = [replace(line, text="") for line in lines]  # half as wide: names would cover each other
        self._errors.show([Series("error", track.errors, PALETTE[4], is_filled=True)], span, unnamed)
        self._latency.show([Series("latency", track.latencies, PALETTE[1], is_filled=True)], span)

    def tell(self, track: ModelTrack, now_ms: float) -> None:
        """Show the figures."""
        last = track.last
        if last is None:
            return
        label = last.label
        quality = ", ".join(one.value.replace("_", " ") for one in last.quality)
        latency = views.percentiles(track.latencies)
        self._tiles.show(
            [
                Tile(
                    "Prediction",
                    label or number(last.value),
                    "" if label else self._unit,
                    quality or ("no remarks" if not label else number(last.value)),
                    Tone.WARN if quality else None,
                ),
                Tile("Release", str(last.release), sub=f"since {clock(track.marks[-1].time_ms)}"),
                Tile("Error", number(track.error, 2), self._unit, "mean of the latest labels"),
                Tile("Predictions", rate(track.rate.per_s(now_ms / 1e3)), "a second"),
                Tile(
                    "Latency on the device",
                    NONE if latency is None else milliseconds(latency[0]),
                    "ms",
                    "" if latency is None else f"99 % within {milliseconds(latency[1])} ms",
                ),
            ]
        )


def _span(newest_ms: float) -> tuple[float, float]:
    return newest_ms - _SPAN_MS, newest_ms


def _lines(device: Device, track: ModelTrack) -> list[Line]:
    """Return the marks of a chart: releases that took over, decisions of the model."""
    lines = [Line(mark.time_ms, f"release {mark.release}", _MARK) for mark in track.marks]
    for told in device.decisions:
        if (told.agent, told.decision.model) == (track.agent, track.model):
            is_raised = told.decision.state is State.RAISED
            text = told.rule if is_raised else f"{told.rule} over"
            lines.append(Line(told.decision.time_ms, text, ALARM if is_raised else CLEARED))
    return lines


def _draw_readings(chart: Chart, device: Device) -> None:
    rings = list(device.values.items())[:_MOST_LINES]
    if not rings:
        return
    streams = {stream for (stream, _), _ in rings}
    series = [
        Series(name if len(streams) == 1 else f"{stream} {name}", ring, PALETTE[(place + 2) % len(PALETTE)])
        for place, ((stream, name), ring) in enumerate(rings)
    ]
    chart.show(series, _span(max(ring.newest_ms for _, ring in rings)))


def _decision_rows(device: Device) -> list[Row]:
    return [
        Row(
            f"{told.agent}/{told.rule}/{told.decision.time_ms}/{told.decision.state}",
            (
                Cell(clock(told.decision.time_ms)),
                Cell(told.rule, sub=f"{told.decision.model} {told.decision.release} on {told.agent}"),
                Cell(
                    told.decision.state.value,
                    tone=Tone.BAD if told.decision.state is State.RAISED else Tone.GOOD,
                ),
                Cell(told.decision.label or number(told.decision.value)),
                Cell(
                    ", ".join(told.decision.commands),
                    sub=f"withheld: {told.decision.withheld}" if told.decision.withheld else "",
                ),
            ),
        )
        for told in reversed(device.decisions)
    ]
