"""Decisions that stand, agents in trouble, and what is over."""

from __future__ import annotations

from nicegui import ui

from atoll_dashboard import views
from atoll_dashboard.alarms import Alarm
from atoll_dashboard.pages.board import VIEW_S, Board
from atoll_dashboard.pages.shell import card, heading, shell
from atoll_dashboard.pages.wording import HEALTH_TONES, ago, clock, number
from atoll_dashboard.parts.grid import Cell, Column, Grid, Row, Tone
from atoll_dashboard.scene import Scene

_MOST_SHOWN = 100


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
        with card("Standing"):
            standing = Grid("Standing alarms", columns[:-1], empty="Nothing is raised.")
        with card("Agents that need a look"):
            trouble = Grid(
                "Agents in trouble",
                [Column("Agent"), Column("State"), Column("Why", "wide"), Column("Heard", "number")],
                empty="All agents are ready.",
            )
        with card("Messages that this page could not read"):
            unread = Grid(
                "Unread messages",
                [Column("Reason"), Column("Count", "number"), Column("The latest", "wide")],
                empty="None.",
            )
        with card("Over"):
            over = Grid("Alarms that are over", columns, empty="Nothing was cleared yet.")

        def show() -> None:
            seen = board.view("alarms", _view)
            standing.show(seen[0])
            trouble.show(seen[1])
            unread.show(seen[2])
            over.show(seen[3])

        show()
        ui.timer(VIEW_S, show)


def _view(scene: Scene, now_ms: float) -> tuple[list[Row], list[Row], list[Row], list[Row]]:
    trouble = [one for one in views.agents(scene, now_ms) if one.health != "ready"]
    return (
        [_row(alarm) for alarm in scene.alarms.standing[:_MOST_SHOWN]],
        [_trouble_row(one, now_ms) for one in trouble[:_MOST_SHOWN]],
        [
            Row(reason.value, (Cell(reason.value, tone=Tone.WARN), Cell(f"{count:,}"), Cell(detail)))
            for reason, (count, detail) in scene.refusals.items()
        ],
        [_row(alarm) for alarm in scene.alarms.over[:_MOST_SHOWN]],
    )


def _row(alarm: Alarm) -> Row:
    topic, decision = alarm.topic, alarm.decision
    cells: tuple[Cell, ...] = (
        Cell(topic.rule, sub=f"{decision.model} {decision.release} on {topic.agent}", tone=Tone.BAD),
        Cell(topic.device, sub=topic.site, href=f"/device/{topic.site}/{topic.device}"),
        Cell(decision.label or number(decision.value)),
        Cell(clock(alarm.arrival_ms)),
    )
    if alarm.cleared_ms is not None:
        cells += (Cell(clock(alarm.cleared_ms)),)
    return Row(f"{topic}/{alarm.arrival_ms}/{alarm.cleared_ms}", cells)


def _trouble_row(view: views.AgentView, now_ms: float) -> Row:
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
