"""Decisions that stand, agents in trouble, and what is over."""

from __future__ import annotations

import time

from nicegui import ui

from atoll_dashboard import views
from atoll_dashboard.alarms import Alarm
from atoll_dashboard.pages.board import VIEW_S, Board
from atoll_dashboard.pages.lists import LongList
from atoll_dashboard.pages.shell import card, heading, shell
from atoll_dashboard.pages.wording import HEALTH_TONES, ago, clock, number
from atoll_dashboard.parts.grid import Cell, Column, Grid, Row, Tone
from atoll_dashboard.scene import Scene


def alarms_page(board: Board) -> None:
    """Make the page of alarms."""
    with shell(board, "Alarms", "/alarms"):
        heading("Alarms", "since this server was started: decisions are not retained by the broker")
        columns = [
            Column("Rule"),
            Column("Device"),
            Column("Value", "number"),
            Column("Raised", "number"),
            Column("Cleared", "number"),
        ]
        LongList(
            "Standing alarms",
            columns[:-1],
            empty="Nothing is raised.",
            find=lambda text, _: _found(board.view("standing", lambda scene, _: scene.alarms.standing), text),
            row=_row,  # type: ignore[arg-type]  # what was found are alarms
        )
        LongList(
            "Agents that need a look",
            [Column("Agent"), Column("State"), Column("Why", "wide"), Column("Heard", "number")],
            empty="All agents are ready.",
            find=lambda text, _: [
                one
                for one in board.view("agents", views.agents)
                if one.health != "ready" and views.matching(text, one.agent.site, one.agent.name, one.health)
            ],
            row=_trouble_row,  # type: ignore[arg-type]  # what was found are agents
        )
        with card("What this page does not show"):
            unread = Grid(
                "Messages left out",
                [Column("Reason"), Column("Count", "number"), Column("The latest", "wide")],
                empty="Nothing.",
            )
        LongList(
            "Alarms that are over",
            columns,
            empty="Nothing was cleared yet.",
            find=lambda text, _: _found(board.view("over", lambda scene, _: scene.alarms.over), text),
            row=_row,  # type: ignore[arg-type]  # what was found are alarms
        )

        def show() -> None:
            unread.show(board.view("left out", _left_out))

        show()
        ui.timer(VIEW_S, show)


def _found(alarms: list[Alarm], text: str) -> list[Alarm]:
    return [
        alarm
        for alarm in alarms
        if views.matching(text, alarm.topic.rule, alarm.topic.device, alarm.topic.site, alarm.topic.agent)
    ]


def _left_out(scene: Scene, _now_ms: float) -> list[Row]:
    found = [(reason.value, count, detail) for reason, (count, detail) in scene.refusals.items()]
    found += [
        (what, count, why)
        for what, count, why in (
            ("devices", scene.counts["devices_forgotten"], "room for more: dashboard.max_devices"),
            ("samples", scene.counts["sampled_out"], "more came in a second than are looked into"),
            ("alarms", scene.alarms.dropped, "more stood at once than are kept"),
        )
        if count
    ]
    return [
        Row(what, (Cell(what, tone=Tone.WARN), Cell(f"{count:,}"), Cell(why))) for what, count, why in found
    ]


def _row(alarm: Alarm) -> Row:
    topic, decision = alarm.topic, alarm.decision
    cells: tuple[Cell, ...] = (
        Cell(topic.rule, sub=f"{decision.model} {decision.release} on {topic.agent}", tone=Tone.BAD),
        Cell(topic.device, sub=topic.site, href=f"/device/{topic.site}/{topic.device}"),
        Cell(decision.label or number(decision.value)),
        Cell(
            clock(alarm.arrival_ms),
            sub=f"not confirmed since {clock(alarm.unsure_ms)}" if alarm.unsure_ms is not None else "",
        ),
    )
    if alarm.cleared_ms is not None:
        cells += (Cell(clock(alarm.cleared_ms)),)
    return Row(f"{topic}/{alarm.arrival_ms}/{alarm.cleared_ms}", cells)


def _trouble_row(view: views.AgentView) -> Row:
    now_ms = time.time() * 1e3
    agent, status = view.agent, view.agent.status
    return Row(
        f"{agent.site}/{agent.name}",
        (
            Cell(agent.name, sub=agent.site, href=f"/agent/{agent.site}/{agent.name}"),
            Cell(view.health, tone=HEALTH_TONES.get(view.health)),
            Cell((status.detail if status else None) or ""),
            Cell(ago(view.heard_ms, now_ms)),
        ),
    )
