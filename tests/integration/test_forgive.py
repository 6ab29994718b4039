"""What ``atoll-agent forgive`` does to a state folder, and says."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll_agent.adapters.store import StateStore
from atoll_agent.cli import main
from atoll_agent.rollout.machine import Event
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_contract.errors import Reason
from atoll_link.exits import Exit

SETTINGS = Path(__file__).parents[2] / "config" / "agent.toml"
MODEL = "press-wear"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings of an agent that has refused a release of ``MODEL``."""
    store = StateStore(tmp_path / "state")
    (store.folder / "slots").mkdir(parents=True)
    slot = Slot(MODEL).aimed(Release(MODEL, 3, "3" * 64, 10)).advanced(Event.FETCH_STARTED)
    store.save_slot(slot.refused(Reason.ACTIVATION_CRASHED, "the agent ended", 1.0), "same")
    path = tmp_path / "agent.toml"
    lines = SETTINGS.read_text(encoding="utf-8").splitlines()
    state_dir = f'state_dir = "{store.folder}"'
    path.write_text("\n".join(state_dir if line.startswith("state_dir") else line for line in lines))
    return path


def forgive(settings: Path, model: str) -> int:
    return main(["forgive", "--settings", str(settings), model])


def test_it_says_what_is_tried_again(settings, capsys):
    assert forgive(settings, MODEL) == Exit.SUCCESS
    assert "release 3 is tried again; it was refused: activation_crashed" in capsys.readouterr().out
    assert StateStore(settings.parent / "state").load_slot(MODEL, "same").bad == ()


def test_a_model_that_the_settings_do_not_name_is_told(settings, capsys):
    assert forgive(settings, "another") == Exit.SETTINGS
    assert "names no model 'another'" in capsys.readouterr().err


def test_beside_an_agent_that_runs_it_changes_nothing(settings, capsys):
    running = StateStore(settings.parent / "state")
    running.lock()

    assert forgive(settings, MODEL) != Exit.SUCCESS
    assert "another agent is running" in capsys.readouterr().err
    assert running.load_slot(MODEL, "same").bad
