"""``atoll-trainer status``: what the fleet runs, refuses and waits for."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tuf.api.metadata import Timestamp

from atoll_contract.errors import Reason
from atoll_contract.messages import Message, SlotStatus
from atoll_link.cohort import Cohort, Standing, cohort_of, offered
from atoll_link.fleet import Agent
from atoll_trainer.commands.options import add_settings_options
from atoll_trainer.fleet import watch_fleet
from atoll_trainer.home import Home
from atoll_trainer.repository import Available, Repository
from atoll_trainer.settings import TrainerSettings
from atoll_trainer.tables import table

_SHOWN_SITES: Final = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_settings_options(parser)
    parser.add_argument("--model", metavar="MODEL", help="only this one")
    parser.add_argument("--json", action="store_true", help="print it as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\nMade of the retained status and slot topics of all sites. No key is needed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the topics and print what they say."""
    settings = TrainerSettings.read(arguments.settings)
    home = Home.find(arguments.home or settings.trainer.home)
    repository = Repository.load(home.repository) if home.repository.exists() else None
    with watch_fleet(settings.build_broker(), settings.trainer.id) as watch:
        watch.settle()
        fleet = watch.fleet
    releases = [] if repository is None else repository.all_releases()
    if arguments.model is not None:
        releases = [one for one in releases if one.terms.model == arguments.model]
    terms = [one.terms for one in releases]
    view = View(
        _publication(repository, fleet.timestamp) + _unverified(fleet.agents),
        [(one, cohort_of(one.terms, one.sha256, fleet.agents, available=terms)) for one in releases],
        list(_rows(fleet.agents, arguments.model)),
        fleet.at_several_sites,
    )
    print(json.dumps(_document(view)) if arguments.json else _text(view))  # noqa: T201 - the result
    return 0


@dataclass(frozen=True, slots=True)
class View:
    """What is printed.

    Attributes:
        publication: Whether the broker holds what this repository signed last, and agents can verify it.
        releases: With the agents that each is for.
        slots: Agents, and their slots; None for one without any.
        at_several_sites: Ids that are seen at more than one site, and those sites.
    """

    publication: str
    releases: list[tuple[Available, Cohort]]
    slots: list[tuple[Agent, SlotStatus | None]]
    at_several_sites: dict[str, list[str]]

    def offered(self, agent: Agent, slot: SlotStatus) -> int | None:
        """Return the number of the release that ``agent`` is to run."""
        terms = offered(slot, agent.name, [one.terms for one, _ in self.releases])
        return None if terms is None else terms.release


def _publication(repository: Repository | None, timestamp: bytes) -> str:
    if repository is None:
        return "no repository in this home"
    if not repository.is_complete:
        return "interrupted while it was signed: run the command again, or atoll-trainer resign"
    if timestamp == repository.metadata.path(Timestamp.type).read_bytes():
        return "out"
    return "not out, or not all of it: atoll-trainer republish"


def _unverified(agents: Sequence[Agent]) -> str:
    """Return what to add when agents that are connected cannot verify what they see."""
    notes = Counter(
        slot.note
        for agent in agents
        if not agent.is_silent
        for slot in agent.slots.values()
        if slot.note in {Reason.METADATA_FORGED, Reason.METADATA_EXPIRED}
    )
    causes = {
        Reason.METADATA_FORGED: "older than what they have seen, or signed by nobody whom they trust",
        Reason.METADATA_EXPIRED: "nothing was signed anew in time, or their clock is wrong",
    }
    return "".join(
        f"; slots that refuse it: {count} ({note}: {causes[note]})"
        for note, count in notes.items()
        if note is not None
    )


def _rows(agents: Sequence[Agent], model: str | None) -> Iterator[tuple[Agent, SlotStatus | None]]:
    for agent in agents:
        slots = [slot for _, slot in sorted(agent.slots.items()) if model in {None, slot.model}]
        yield from ((agent, slot) for slot in slots)
        if not agent.slots and model is None:
            yield agent, None


def _health(agent: Agent) -> str:
    return "unknown" if agent.status is None else agent.status.health.value


def _text(view: View) -> str:
    now_ms = time.time() * 1e3
    standings = [standing for standing in Standing if standing is not Standing.LOST]  # nobody was followed
    releases = table(
        ["model", "release", "channel", "percent", "agents", *standings],
        [
            [
                one.terms.model,
                one.terms.release,
                one.terms.channel,
                one.terms.rollout_percent,
                len(cohort.members),
                *map(cohort.count, standings),
            ]
            for one, cohort in view.releases
        ],
    )
    slots = table(
        ["site", "agent", "health", "said", "model", "runs", "offered", "on its way", "refused", "note"],
        [
            [agent.site, agent.name, _health(agent), _said(agent, now_ms), *_slot_cells(view, agent, slot)]
            for agent, slot in view.slots
        ],
    )
    ambiguous = [
        f"\n\n{name} is seen at {len(sites)} sites ({', '.join(sites[:_SHOWN_SITES])}) and counts once"
        for name, sites in view.at_several_sites.items()
    ]
    return f"publication: {view.publication}\n\n{releases}\n\n{slots}{''.join(ambiguous)}"


def _said(agent: Agent, now_ms: float) -> str:
    if agent.status is None or agent.status.time_ms is None:
        return "-"
    return f"{max(0.0, now_ms - agent.status.time_ms) / 1e3:.0f} s ago"


def _slot_cells(view: View, agent: Agent, slot: SlotStatus | None) -> list[object]:
    if slot is None:
        return ["-"] * 6
    challenger, refused = slot.challenger, slot.refused
    interrupted = "" if challenger is None or challenger.reason is None else f", {challenger.reason}"
    return [
        slot.model,
        slot.champion.release if slot.champion else "-",
        view.offered(agent, slot) or "-",
        f"{challenger.release}: {challenger.phase}{interrupted}" if challenger else "-",
        f"{refused.release}: {refused.reason}" if refused else "-",
        slot.note or "-",
    ]


def _document(view: View) -> dict[str, object]:
    return {
        "publication": view.publication,
        "at_several_sites": view.at_several_sites,
        "releases": [
            {
                "model": one.terms.model,
                "release": one.terms.release,
                "sha256": one.sha256,
                "channel": one.terms.channel,
                "rollout_percent": one.terms.rollout_percent,
                "cohort": [asdict(member) for member in cohort.members],
            }
            for one, cohort in view.releases
        ],
        "agents": [
            {
                "site": agent.site,
                "agent": agent.name,
                "health": _health(agent),
                "status": None if agent.status is None else _json(agent.status),
                "slot": None if slot is None else _json(slot) | {"offered": view.offered(agent, slot)},
            }
            for agent, slot in view.slots
        ],
    }


def _json(message: Message) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_none=True)
