from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from atoll_agent.rollout.machine import BUSY, TRANSITIONS, Event, IllegalTransitionError, Phase, advance

PAIRS = list(product(Phase, Event))
DIAGRAM = Path(__file__).parents[3] / "docs" / "understand" / "releases.md"


@pytest.mark.parametrize(("phase", "event"), PAIRS)
def test_every_pair_either_has_a_row_or_is_illegal(phase, event):
    if (phase, event) in TRANSITIONS:
        assert advance(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(IllegalTransitionError):
            advance(phase, event)


@pytest.mark.parametrize("phase", sorted(BUSY))
def test_every_busy_phase_can_fail_by_its_surroundings_and_by_the_bundle(phase):
    assert advance(phase, Event.INTERRUPTED) is Phase.ANNOUNCED
    assert advance(phase, Event.REFUSED) is Phase.REFUSED


def test_every_phase_can_be_reached():
    reached, grown = {Phase.IDLE}, True
    while grown:
        new = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
        reached |= new
        grown = bool(new)

    assert reached == set(Phase)


def test_the_diagram_in_the_docs_is_the_table():
    rows = {f"{row[0].value} --> {after.value}: {row[1].value}" for row, after in TRANSITIONS.items()}

    drawn = {line.strip() for line in DIAGRAM.read_text().splitlines() if "-->" in line and ":" in line}

    assert drawn == rows
