"""The trainer's folder and its runs."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.errors import ConfigError, StorageError
from atoll_trainer.dataset import Examples, Split
from atoll_trainer.home import Home
from atoll_trainer.optimise import representatives
from atoll_trainer.runs import Run


def test_runs_of_a_model_are_numbered_and_no_number_comes_twice(tmp_path):
    home = Home(tmp_path)

    assert home.new_run("press").name == "press-1"
    assert home.new_run("press").name == "press-2"
    assert home.new_run("press-2").name == "press-2-1"
    (tmp_path / "runs" / "press-2").rmdir()
    (tmp_path / "runs" / "press-9").mkdir()
    assert home.new_run("press").name == "press-10"


def test_the_home_is_the_one_given_else_the_systems_else_the_users(tmp_path, monkeypatch):
    monkeypatch.setattr("atoll_trainer.home.SYSTEM_HOME", tmp_path / "system")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    assert Home.find(tmp_path / "given").folder == tmp_path / "given"
    assert Home.find(None).folder == tmp_path / "state" / "atoll-trainer"
    for nowhere in ("", "relative/folder"):  # what the XDG rules say to ignore
        monkeypatch.setenv("XDG_STATE_HOME", nowhere)
        assert Home.find(None).folder == tmp_path / "me" / ".local" / "state" / "atoll-trainer"
    (tmp_path / "system").mkdir()
    assert Home.find(None).folder == tmp_path / "system"


def test_the_client_token_stays_the_same_and_is_readable_by_its_owner_alone(tmp_path):
    home = Home(tmp_path / "new")

    token = home.client_token()

    assert len(token) == 16
    assert Home(tmp_path / "new").client_token() == token
    assert (tmp_path / "new" / "client-token").stat().st_mode & 0o077 == 0


def test_a_damaged_client_token_is_named(tmp_path):
    (tmp_path / "client-token").write_text("x")

    with pytest.raises(StorageError, match="client-token: not a client token"):
        Home(tmp_path).client_token()


def test_the_parts_of_a_run_come_back(tmp_path):
    def part(count):
        windows = np.arange(count * 6, dtype=np.float32).reshape(count, 3, 2)
        return Examples(windows, np.arange(count) / 3, np.arange(count) * 1e12)

    Run(tmp_path).write_split(Split(part(5), part(0), part(2)))

    for (name, expected), (_, found) in zip(
        Split(part(5), part(0), part(2)), Run(tmp_path).split(), strict=True
    ):
        for field in ("windows", "targets", "times_ms"):
            assert np.array_equal(getattr(found, field), getattr(expected, field)), name
        assert found.windows.dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"PK damaged", b"\x93NUMPY"])
def test_damaged_windows_are_named(tmp_path, content):
    (tmp_path / "windows.npz").write_bytes(content)

    with pytest.raises(ConfigError, match=r"windows\.npz: cannot be read"):
        Run(tmp_path).split()


def test_damaged_facts_are_named_with_what_to_do(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1}')

    with pytest.raises(ConfigError, match=r"run\.json: source: .*run atoll-trainer train again"):
        Run(tmp_path).facts()


def test_representative_windows_hold_the_extremes_of_every_place():
    windows = np.random.default_rng(1).normal(size=(20_000, 2, 2)).astype(np.float32)

    chosen = representatives(windows)

    assert len(chosen) <= 5008
    assert np.array_equal(chosen.min(axis=0), windows.min(axis=0))
    assert np.array_equal(chosen.max(axis=0), windows.max(axis=0))
