"""The fleet at a glance, and one agent."""

from __future__ import annotations

import time
from collections.abc import Sequence

from nicegui import ui

from atoll_contract.drift import DriftReport
from atoll_contract.messages import SlotStatus
from atoll_dashboard import views
from atoll_dashboard.pages.board import VIEW_S, Board
from atoll_dashboard.pages.devices import device_row, devices_columns
from atoll_dashboard.pages.lists import LongList
from atoll_dashboard.pages.releases import bar_cell, bar_legend
from atoll_dashboard.pages.shell import card, heading, overview, shell
from atoll_dashboard.pages.wording import HEALTH_TONES, NONE, ago, clock, milliseconds, number, rate
from atoll_dashboard.parts.grid import Cell, Column, Grid, Row, Tone
from atoll_dashboard.parts.tiles import Tile, Tiles

_TROUBLE = ("faulted", "degraded", "offline", "unknown")


def fleet_page(board: Board) -> None:
    """Make the page of the fleet."""
    with shell(board, "Fleet", "/"):
        heading("Fleet")
        tiles = Tiles()
        rollouts = _Rollouts(board)
        LongList(
            "Agents",
            [
                Column("Agent"),
                Column("State"),
                Column("Models", "wide"),
                Column("On its way"),
                Column("Predictions/s", "number"),
                Column("Heard", "number"),
            ],
            empty="No agent has said anything yet: is this the right broker, and the right site?",
            find=lambda text, choice: _found(board.view("agents", views.agents), text, choice),
            row=_agent_row,  # type: ignore[arg-type]  # what was found are agents
            choices=("All", "In trouble", "On their way", "Refused", "Drifting"),
        )

        def show() -> None:
            tiles.show(_tiles(overview(board)))
            rollouts.show()

        show()
        ui.timer(VIEW_S, show)


def agent_page(board: Board, site: str, name: str) -> None:
    """Make the page of one agent."""
    with shell(board, name, ""):
        note = heading(name, up=("Fleet", "/"))
        tiles = Tiles()
        with card("Models"):
            slots = Grid(
                "Models",
                [
                    Column("Model"),
                    Column("Answers"),
                    Column("On its way"),
                    Column("Refused", "wide"),
                    Column("Drift"),
                    Column("Changed", "number"),
                ],
                empty="It has no models.",
            )
        with card("Refused messages"):
            refusals = Grid(
                "Refused messages",
                [Column("Where"), Column("Reason"), Column("Count", "number"), Column("The latest", "wide")],
                empty="None.",
            )
        LongList(
            "Devices",
            devices_columns(),
            empty="It has answered no device since this page's server was started.",
            find=lambda text, _: [
                one
                for one in board.view("devices", views.devices)
                if (one.site, one.agent) == (site, name) and views.matching(text, one.device, one.model)
            ],
            row=device_row,  # type: ignore[arg-type]  # what was found are devices
        )

        def show() -> None:
            now_ms = time.time() * 1e3
            with board.scene.lock:
                agent = board.scene.fleet.find(site, name)
                view = None if agent is None else views.agent_view(board.scene, agent, now_ms)
            if view is None:
                note.set_text("No such agent has said anything.")
                return
            status = view.agent.status
            note.set_text(f"at {site}" + (f" · {status.detail}" if status and status.detail else ""))
            tiles.show(_agent_tiles(view, now_ms))
            slots.show([_slot_row(slot, view.drifts.get(slot.model)) for slot in view.slots])
            refusals.show(
                [
                    Row(
                        f"{one.where}/{one.reason}",
                        (
                            Cell(one.where),
                            Cell(one.reason.value, tone=Tone.WARN),
                            Cell(f"{one.count:,}"),
                            Cell(one.last or ""),
                        ),
                    )
                    for one in (status.refusals if status else [])
                ]
            )

        show()
        ui.timer(VIEW_S, show)


class _Rollouts:
    """How far the newest release of each model is."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._card = ui.element("div")
        with self._card, card("Rollouts") as top:
            with top:
                ui.label("the newest release of each model").classes("note")
                bar_legend()
            self._grid = Grid(
                "Rollouts",
                [Column("Release"), Column("For"), Column("Agents", "wide")],
                empty="Nothing is published.",
            )

    def show(self) -> None:
        newest: dict[str, views.ReleaseView] = {}
        for one in self._board.releases:
            if one.is_out:
                newest.setdefault(one.terms.model, one)
        self._card.set_visibility(bool(newest))
        self._grid.show(
            [
                Row(
                    model,
                    (
                        Cell(f"{model} {one.terms.release}", href="/releases"),
                        Cell(f"{one.terms.rollout_percent} %", sub=f"channel {one.terms.channel}"),
                        bar_cell(one),
                    ),
                )
                for model, one in newest.items()
            ]
        )


def _tiles(seen: views.Overview) -> list[Tile]:
    total = seen.healths.total()
    up = seen.healths["ready"] + seen.healths["degraded"]
    trouble = {name: seen.healths[name] for name in _TROUBLE if seen.healths[name]}
    tone = Tone.BAD if seen.healths["faulted"] else Tone.WARN if trouble else None
    latency = seen.latency_ms
    return [
        Tile(
            "Agents connected",
            f"{up:,}",
            f"of {total:,}",
            ", ".join(f"{count:,} {name}" for name, count in trouble.items()) or "all ready",
            tone,
        ),
        Tile("Devices seen", f"{seen.devices:,}", "", f"{rate(seen.readings_per_s)} readings a second"),
        Tile("Predictions", rate(seen.predictions_per_s), "a second", spark=tuple(seen.history)),
        Tile(
            "Latency on the device",
            NONE if latency is None else milliseconds(latency[0]),
            "ms",
            "" if latency is None else f"99 % within {milliseconds(latency[1])} ms",
        ),
        Tile(
            "Alarms",
            f"{seen.alarms:,}",
            "",
            f"{seen.unconfirmed:,} not confirmed since a cut" if seen.unconfirmed else "decisions that stand",
            Tone.BAD if seen.alarms else None,
        ),
        Tile("Refused releases", f"{seen.refused:,}", "", "on agents", Tone.WARN if seen.refused else None),
        Tile("Drifting", f"{seen.drifting:,}", "", "models on agents", Tone.WARN if seen.drifting else None),
    ]


def _agent_tiles(view: views.AgentView, now_ms: float) -> list[Tile]:
    status = view.agent.status
    tone = HEALTH_TONES.get(view.health)
    tiles = [
        Tile("State", view.health, sub=f"heard {ago(view.heard_ms, now_ms)}", tone=tone),
    ]
    answered = (
        f"{status.counts['predictions']:,} since its start"
        if status and "predictions" in status.counts
        else ""
    )
    tiles.append(Tile("Predictions", rate(view.per_s), "a second", answered))
    if status is not None:
        refused = sum(one.count for one in status.refusals)
        started = ago(status.started_ms, now_ms) if status.started_ms else NONE
        clock_note = "its clock is not set" if status.time_unsynced else "clock set"
        tiles += [
            Tile(
                "Started", started.removesuffix(" ago"), sub=f"atoll {status.version or '?'} · {clock_note}"
            ),
            Tile("Refused messages", f"{refused:,}", tone=Tone.WARN if refused else None),
        ]
        tiles += [
            Tile(name.replace("_", " ").capitalize(), f"{count:,}")
            for name, count in sorted(status.counts.items())
            if name in {"readings", "decisions", "late"}
        ]
    return tiles


def _found(agents: Sequence[views.AgentView], text: str, choice: str) -> list[views.AgentView]:
    keep = {
        "In trouble": lambda one: one.health in _TROUBLE,
        "On their way": lambda one: any(slot.challenger for slot in one.slots),
        "Refused": lambda one: any(slot.refused for slot in one.slots),
        "Drifting": lambda one: any(report.drifting for report in one.drifts.values()),
    }.get(choice)
    return [
        one
        for one in agents
        if (keep is None or keep(one))
        and views.matching(text, one.agent.name, one.agent.site, one.health, *one.agent.slots)
    ]


def _agent_row(view: views.AgentView) -> Row:
    now_ms = time.time() * 1e3
    agent, status = view.agent, view.agent.status
    answers, coming = [], []
    for slot in view.slots:
        answers.append(f"{slot.model} {slot.champion.release}" if slot.champion else f"{slot.model} {NONE}")
        if slot.challenger is not None:
            coming.append(f"{slot.model} {slot.challenger.release} {slot.challenger.phase.replace('_', ' ')}")
    drifting = [f"{model} drifts" for model, report in sorted(view.drifts.items()) if report.drifting]
    refused = [
        f"refused {slot.model} {slot.refused.release}: {slot.refused.reason}"
        for slot in view.slots
        if slot.refused
    ]
    backends = sorted({slot.champion.backend for slot in view.slots if slot.champion})
    detail = (status.detail or "") if status and view.health not in {"ready", "offline"} else ""
    return Row(
        f"{agent.site}/{agent.name}",
        (
            Cell(agent.name, sub=agent.site, href=f"/agent/{agent.site}/{agent.name}"),
            Cell(view.health, tone=HEALTH_TONES.get(view.health), sub=detail[:120], title=detail),
            Cell(
                ", ".join(answers), sub="; ".join(filter(None, [*drifting, *refused, " + ".join(backends)]))
            ),
            Cell(", ".join(coming), tone=Tone.NOTE if coming else None),
            Cell(rate(view.per_s)),
            Cell(ago(view.heard_ms, now_ms)),
        ),
    )


def _slot_row(slot: SlotStatus, drift: DriftReport | None) -> Row:
    champion, challenger, refused = slot.champion, slot.challenger, slot.refused
    answers = Cell(NONE, sub=slot.note or "no release yet")
    if champion is not None:
        parts = [champion.backend, champion.task, champion.unit or "", slot.note or ""]
        answers = Cell(
            f"release {champion.release}", sub=" · ".join(filter(None, parts)), title=champion.why or ""
        )
    coming = Cell()
    if challenger is not None:
        why = challenger.detail or challenger.reason or ""
        starts = f"from {clock(challenger.start_ms)} on" if challenger.start_ms else ""
        coming = Cell(
            f"{challenger.release}: {challenger.phase.replace('_', ' ')}", sub=why or starts, tone=Tone.NOTE
        )
    return Row(
        slot.model,
        (
            Cell(slot.model, sub=f"channel {slot.channel}"),
            answers,
            coming,
            Cell(f"{refused.release}: {refused.reason}", sub=refused.detail, tone=Tone.BAD)
            if refused
            else Cell(),
            _drift_cell(drift),
            Cell(clock(slot.time_ms)),
        ),
    )


def _drift_cell(drift: DriftReport | None) -> Cell:
    if drift is None:
        return Cell(NONE, sub="not compared")
    since = f"since {clock(drift.since_ms)}" if drift.since_ms is not None else ""
    told = " ".join(filter(None, [since, (drift.detail or "")[:160]]))
    if drift.drifting:
        return Cell("drifting", sub=told, tone=Tone.WARN)
    most = max(drift.features, key=lambda one: one.index / one.limit if one.limit else 0.0, default=None)
    figure = f"most: {most.name} {number(most.index, 2)} of {number(most.limit, 2)}" if most else ""
    return Cell("steady", sub=told or figure, tone=Tone.GOOD)
