"""The processes of the demo."""

from __future__ import annotations

import sys
import time

import pytest

from atoll_sim.demo.programs import ProgramFailedError, Programs


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_step_ends_when_a_program_that_it_needs_has_ended(tmp_path) -> None:
    began = time.monotonic()
    with Programs(tmp_path) as programs:
        programs.start("agent", python("import sys; sys.exit('out of memory')"))
        with pytest.raises(ProgramFailedError, match=r"(?s)'agent' ended with status 1.*out of memory"):
            programs.run("world", python("import time; time.sleep(100)"), 100)

    assert time.monotonic() - began < 50


def test_what_a_step_prints_is_read_whole_however_long_it_takes(tmp_path) -> None:
    code = "import time; print('{', end='', flush=True); time.sleep(1.5); print('\"a\": 1}')"
    with Programs(tmp_path) as programs:
        assert programs.run("world", python(code), 60) == {"a": 1}


def test_a_step_that_takes_too_long_is_ended(tmp_path) -> None:
    with Programs(tmp_path) as programs, pytest.raises(ProgramFailedError, match=r"longer than 0\.1 s"):
        programs.run("world", python("import time; time.sleep(100)"), 0.1)
