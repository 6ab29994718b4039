"""Every number that can be published can be promoted and withdrawn."""

from __future__ import annotations

import argparse

import pytest

from atoll_contract.release import MAX_RELEASE
from atoll_trainer.commands.options import add_release_arguments


def release(text: str) -> int:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_release_arguments(parser)
    return parser.parse_args(["press", text]).release


@pytest.mark.parametrize("number", [1, 2026112401, MAX_RELEASE])
def test_a_number_that_a_release_may_have_is_taken(number: int) -> None:
    assert release(str(number)) == number


@pytest.mark.parametrize("text", ["0", "07", "+7", "7.0", "seven", str(MAX_RELEASE + 1), "9" * 5000])
def test_what_no_release_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentError):
        release(text)
