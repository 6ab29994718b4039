"""What the loop sees of one model: releases, agents and what they report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from atoll_contract.drift import DriftReport
from atoll_link.fleet import Agent
from atoll_trainer.repository import Available


@dataclass(frozen=True, slots=True)
class View:
    """What is known of one model now.

    Attributes:
        releases: Those that are available.
        agents: All that have said anything.
        drifts: Their reports on the model, by site and id.
        is_complete: Whether what the broker retains has arrived.
    """

    releases: Sequence[Available]
    agents: Sequence[Agent]
    drifts: Mapping[tuple[str, str], DriftReport]
    is_complete: bool

    def reports(self, model: str) -> Iterator[DriftReport]:
        """Yield the reports of agents that are connected, on what they run now."""
        for agent in self.agents:
            slot = agent.slots.get(model)
            report = self.drifts.get((agent.site, agent.name))
            champion = None if slot is None else slot.champion
            if agent.is_silent or report is None or champion is None:
                continue
            if report.release == champion.release:
                yield report
