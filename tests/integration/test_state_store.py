from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from atoll_agent.adapters.notes import NotesFile
from atoll_agent.adapters.store import StateStore
from atoll_agent.ports import Announced
from atoll_agent.rollout.machine import Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_contract.errors import ConfigError, Reason, StorageError

CONTENT = b"a bundle"
RELEASE = Release("wear", 1, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    made = StateStore(tmp_path / "state")
    made.enrol(b"{}")
    made.lock()
    return made


def again(store: StateStore) -> StateStore:
    return StateStore(store.folder)


def test_an_agent_that_is_not_enrolled_is_told_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="enrol"):
        StateStore(tmp_path).identity()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_state_that_belongs_to_somebody_else_says_whose_it_must_be(store):
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"token: cannot be read.* must belong to the user .*chown -R"):
            store.identity()
    finally:
        os.seteuid(0)


def test_an_enrolment_that_fails_leaves_no_token(tmp_path):
    store = StateStore(tmp_path)
    (tmp_path / "root.json").mkdir()

    with pytest.raises(StorageError):
        store.enrol(b"{}")

    assert not (tmp_path / "token").exists()


def test_enrolling_anew_keeps_the_token(store):
    before = store.identity()

    assert store.enrol(b"{1}").token == before.token
    assert again(store).identity().root == b"{1}"
    assert (store.folder / "token").stat().st_mode & 0o077 == 0


def test_a_slot_comes_back_as_it_was_stored(store):
    slot = Slot("wear").aimed(RELEASE, 0.0).advanced(Event.FETCH_STARTED)
    slot = slot.interrupted(Reason.MISSING_CHUNK, "chunk 3", 5.0)

    store.save_slot(slot, "same")

    assert again(store).load_slot("wear", "same") == slot


def test_what_was_refused_is_tried_again_when_somebody_says_so(store):
    slot = Slot("wear").aimed(RELEASE, 0.0).advanced(Event.FETCH_STARTED).refused(Reason.WRONG_MODEL, "", 1.0)
    store.save_slot(replace(slot, crashes=1), "same")

    [forgiven] = store.forgive("wear")

    assert (forgiven.release, forgiven.reason) == (RELEASE.release, Reason.WRONG_MODEL)
    again_tried = again(store).load_slot("wear", "same")
    assert (again_tried.bad, again_tried.crashes, again_tried.phase) == ((), 0, Phase.IDLE)
    assert store.forgive("wear") == store.forgive("another") == ()


def test_a_damaged_slot_is_not_forgiven(store):
    store._slot_file("wear").write_text("{")

    with pytest.raises(StorageError, match="damaged"):
        store.forgive("wear")


def test_what_was_refused_is_tried_again_when_settings_or_versions_changed(store):
    slot = Slot("wear").aimed(RELEASE, 0.0).advanced(Event.FETCH_STARTED).refused(Reason.WRONG_MODEL, "", 1.0)
    store.save_slot(slot, "before")

    assert again(store).load_slot("wear", "before").bad_digests == {RELEASE.sha256}
    assert again(store).load_slot("wear", "after").bad_digests == frozenset()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format":1}', b"\xff\xfe\x00"])
def test_a_damaged_slot_file_is_set_aside(store, content):
    (store.folder / "slots" / "wear.json").write_bytes(content)

    assert store.load_slot("wear", "x") == Slot("wear")
    assert (store.folder / "slots" / "wear.damaged").read_bytes() == content


def test_a_bundle_whose_bytes_changed_is_deleted(store):
    path = store.bundle_path(RELEASE.sha256)
    path.write_bytes(CONTENT)
    assert store.read_bundle(RELEASE.sha256) == CONTENT

    path.write_bytes(CONTENT + b"!")

    with pytest.raises(StorageError, match="changed"):
        store.read_bundle(RELEASE.sha256)
    assert not path.exists()


def test_bundles_that_nobody_needs_are_dropped(store):
    for digest in ("a" * 64, "b" * 64):
        store.bundle_path(digest).write_bytes(b"")
    for digest in ("a" * 64, "c" * 64):
        for name in ("part", "part.chunks"):
            (store.folder / "bundles" / f"{digest}.{name}").write_bytes(b"")

    assert store.drop_bundles_except({"a" * 64}, only_parts=True) == 2
    assert len(list((store.folder / "bundles").iterdir())) == 4
    assert store.drop_bundles_except(set()) == 4


def test_the_bundle_that_is_needed_stays(store):
    for digest in ("a" * 64, "b" * 64):
        store.bundle_path(digest).write_bytes(b"")

    assert store.drop_bundles_except({"a" * 64}) == 1
    assert [path.name[0] for path in (store.folder / "bundles").iterdir()] == ["a"]


# A disk that is read-only, or fails


@pytest.fixture
def read_only(monkeypatch) -> None:
    """A card that the kernel has made read-only: that binds root too, as modes do not."""

    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, refuse)


def test_a_damaged_bundle_that_cannot_be_deleted_is_told_as_any(store, read_only):
    store.bundle_path(RELEASE.sha256).write_bytes(CONTENT + b"!")

    with capture_logs() as events, pytest.raises(StorageError, match="changed"):
        store.read_bundle(RELEASE.sha256)

    assert [event["event"] for event in events] == ["bundle.undeleted"]


def test_bundles_that_cannot_be_deleted_stay_and_end_nothing(store, read_only):
    for digest in ("a" * 64, "b" * 64):
        store.bundle_path(digest).write_bytes(b"")

    with capture_logs() as events:
        assert store.drop_bundles_except(set()) == 0

    assert [event["event"] for event in events] == ["bundle.undeleted"] * 2


def test_one_bundle_that_cannot_be_deleted_does_not_keep_the_others(store):
    (store.bundle_path("a" * 64) / "x").mkdir(parents=True)  # a folder is no file to delete
    store.bundle_path("b" * 64).write_bytes(b"")

    assert store.drop_bundles_except(set()) == 1


def test_a_damaged_slot_file_that_cannot_be_set_aside_prevents_no_start(store, read_only):
    path = store.folder / "slots" / "wear.json"
    path.write_bytes(b"{")

    with capture_logs() as events:
        assert store.load_slot("wear", "x") == Slot("wear")

    assert [(event["event"], event["kept_as"]) for event in events] == [("slot.damaged", str(path))]


def test_a_slot_that_cannot_be_stored_is_a_storage_error(store, read_only):
    with pytest.raises(StorageError, match="Read-only"):
        store.save_slot(Slot("wear"), "x")


def test_enrolling_on_a_disk_that_cannot_be_written_is_a_storage_error(store, read_only):
    with pytest.raises(StorageError, match="Read-only"):
        store.enrol(b"{2}")


def test_session_numbers_grow_over_restarts_and_over_a_damaged_file(store):
    first, second = store.next_session(), again(store).next_session()
    (store.folder / "session").write_bytes(b"\xffrubbish")
    running = again(store)

    assert second > first
    assert running.next_session() < running.next_session()


def test_session_numbers_are_written_once_for_a_hundred_attempts_to_connect(store):
    file = store.folder / "session"
    store.next_session()
    written = file.stat().st_ino  # each write makes a new file

    numbers = [store.next_session() for _ in range(99)]

    assert file.stat().st_ino == written
    assert numbers == list(range(numbers[0], numbers[0] + 99))
    assert store.next_session() == numbers[-1] + 1
    assert file.stat().st_ino != written
    assert again(store).next_session() > numbers[-1] + 1


def test_session_numbers_go_on_when_the_folder_cannot_be_written(store):
    store.next_session()
    (store.folder / "session").unlink()
    # A folder in the place of the file: neither read nor replaced, also by root.
    (store.folder / "session" / "x").mkdir(parents=True)

    numbers = [store.next_session() for _ in range(3)]

    assert numbers == sorted(set(numbers))


def test_two_processes_cannot_use_one_folder(store):
    code = (
        "import sys; from pathlib import Path; from atoll_agent.adapters.store import StateStore\n"
        "StateStore(Path(sys.argv[1])).lock()"
    )

    other = subprocess.run(
        [sys.executable, "-c", code, str(store.folder)], capture_output=True, text=True, check=False
    )

    assert other.returncode != 0
    assert "another agent is running on it" in other.stderr


def test_a_phase_stored_in_the_middle_of_work_starts_as_announced(store):
    store.save_slot(Slot("wear").aimed(RELEASE, 0.0).advanced(Event.FETCH_STARTED), "x")

    assert again(store).load_slot("wear", "x").phase is Phase.ANNOUNCED
    assert [path.name for path in (store.folder / "slots").iterdir()] == ["wear.json"]


def test_what_homeassistant_was_told_is_kept_and_a_damaged_file_costs_nothing(tmp_path):
    notes, told = NotesFile(tmp_path / "homeassistant.json"), Announced("t", {"a": "sensor"}, [("m", "d")])

    notes.write(told)
    kept = notes.read()
    (tmp_path / "homeassistant.json").write_bytes(b"{")
    damaged = notes.read()
    notes.delete()

    assert (kept, damaged, notes.read()) == (told, None, None)
    NotesFile(tmp_path / "no folder" / "x").write(told)  # warns
