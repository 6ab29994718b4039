"""What the loop remembers over a restart."""

from __future__ import annotations

import pytest

from atoll_contract.errors import Reason
from atoll_trainer.loop.machine import Phase
from atoll_trainer.loop.state import LoopFile, LoopStore, ModelState


def test_what_is_stored_is_read_again(tmp_path) -> None:
    state = ModelState(model="wear", phase=Phase.CANARY, since_ms=1.5, created_ms=1.0, release=2, labels=3)
    content = LoopFile(session=7, models={"wear": state}, counts={"trainings": 2})
    LoopStore(tmp_path / "loop").write(content)

    assert LoopStore(tmp_path / "loop").read() == content
    assert LoopStore(tmp_path / "other").read() == LoopFile()


@pytest.mark.parametrize("content", ["{", '{"format": 2}', '{"models": {"wear": {"phase": "asleep"}}}'])
def test_a_damaged_file_is_told_with_its_name(tmp_path, content) -> None:
    (tmp_path / "loop.json").write_text(content)

    with pytest.raises(Exception, match=r"loop.json: .*move it away") as caught:
        LoopStore(tmp_path).read()
    assert caught.value.reason is Reason.STORAGE
