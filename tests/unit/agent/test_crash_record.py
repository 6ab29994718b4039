"""What a start says of a crash before it."""

from __future__ import annotations

import faulthandler
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from atoll_agent.adapters import crashes
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
    assert CrashRecord(tmp_path).begin() is End.ORDERLY


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


def test_what_a_power_cut_leaves_of_the_file_is_no_crash(tmp_path):
    (tmp_path / "crash.txt").write_bytes(bytes(4096))

    assert CrashRecord(tmp_path).begin() is End.ORDERLY


def test_once_all_is_started_only_the_lane_runs_models(tmp_path):
    record = CrashRecord(tmp_path)
    record.begin()
    record.started()

    with pytest.raises(RuntimeError), record:
        raise RuntimeError("can't start new thread")

    assert CrashRecord(tmp_path).begin() is End.ORDERLY


@pytest.mark.parametrize(
    ("boot", "oom_kills", "end"), [("one", 3, End.ORDERLY), ("two", 0, End.ORDERLY), ("one", 4, End.KILLED)]
)
def test_a_kill_by_the_kernel_is_told_from_a_power_cut_and_a_kill_by_a_person(
    tmp_path, monkeypatch, boot, oom_kills, end
):
    def machine(boot: str, oom_kills: int) -> None:
        (tmp_path / "boot_id").write_text(f"{boot}\n")
        (tmp_path / "vmstat").write_text(f"nr_free_pages 5\noom_kill {oom_kills}\nunevictable 0\n")

    monkeypatch.setattr(crashes, "_BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(crashes, "_VMSTAT", tmp_path / "vmstat")
    machine("one", 3)
    assert CrashRecord(tmp_path).begin() is End.ORDERLY
    machine(boot, oom_kills)

    assert CrashRecord(tmp_path).begin() is end
    record = CrashRecord(tmp_path)
    assert record.begin() is End.ORDERLY
    with record:
        machine("three", 0)
    assert CrashRecord(tmp_path).begin() is End.ORDERLY


def test_the_kernel_of_this_machine_tells_what_it_takes():
    assert " oom_kill " in crashes._machine()
