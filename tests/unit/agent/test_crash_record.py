"""What a start says of a crash before it."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from atoll_agent.adapters.crashes import CrashRecord
from atoll_agent.ports import End, LaneEndedError
from atoll_contract.errors import BrokerUnavailableError


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    """A record takes over what pytest's own handler does."""
    monkeypatch.setattr(faulthandler, "enable", lambda file: file.close())


def told(folder: Path) -> str:
    """Return what the next start logs of the crash."""
    with capture_logs() as logs:
        assert CrashRecord(folder).begin() is End.CRASHED
    return next(line["detail"] for line in logs if line["event"] == "agent.crashed")


def test_the_traceback_is_told_whole(tmp_path):
    trace = "Fatal Python error: Aborted\n" + "".join(f"  File a.py, line {n}\n" for n in range(200))
    (tmp_path / "crash.txt").write_text(trace)

    assert told(tmp_path) == trace
    assert (tmp_path / "last-crash.txt").read_text() == trace
    assert CrashRecord(tmp_path).begin() is End.KILLED


def test_of_a_very_long_one_its_beginning_and_its_end_are_told_and_all_is_kept(tmp_path):
    trace = "first\n" + "x" * 20_000 + "\nlast"
    (tmp_path / "crash.txt").write_text(trace)

    detail = told(tmp_path)

    assert detail.startswith("first\n")
    assert detail.endswith("\nlast")
    assert len(detail) < 8300
    assert (tmp_path / "last-crash.txt").read_text() == trace


@pytest.mark.parametrize(
    ("error", "is_crash"),
    [
        (ZeroDivisionError(), True),
        (BrokerUnavailableError("away"), False),
        (ExceptionGroup("tasks", [BrokerUnavailableError("away")]), False),
        (OSError("no file"), False),
        (ExceptionGroup("tasks", [BrokerUnavailableError("away"), ZeroDivisionError()]), False),
        (ExceptionGroup("tasks", [ZeroDivisionError(), LaneEndedError("by a bug")]), True),
        (ExceptionGroup("tasks", [ExceptionGroup("more", [LaneEndedError("by a bug")])]), True),
    ],
)
def test_a_bug_where_models_run_is_a_crash_and_other_bugs_and_the_surroundings_are_none(
    tmp_path, monkeypatch, error, is_crash
):
    watched = []
    monkeypatch.setattr(faulthandler, "enable", watched.append)
    record = CrashRecord(tmp_path)
    record.begin()

    with pytest.raises(type(error)), record:
        raise error
    watched[0].close()

    assert CrashRecord(tmp_path).begin() is (End.CRASHED if is_crash else End.ORDERLY)


def test_an_end_in_order_is_told_from_one_without_a_word(tmp_path):
    record = CrashRecord(tmp_path)
    assert record.begin() is End.ORDERLY
    assert CrashRecord(tmp_path).begin() is End.KILLED

    with record:
        pass

    assert CrashRecord(tmp_path).begin() is End.ORDERLY
