from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from atoll_contract.errors import (
    AtollError,
    BrokerUnavailableError,
    ConfigError,
    StorageError,
    TransientError,
)
from atoll_trainer.commands.outcome import until_done


class Failing:
    """Fails by one error after the other, then does its work; told whether it was asked before."""

    def __init__(self, *errors: AtollError) -> None:
        self._errors = list(errors)
        self.asked: list[bool] = []

    def __call__(self, *, is_again: bool) -> None:
        self.asked.append(is_again)
        if self._errors:
            raise self._errors.pop(0)


def test_a_withdrawal_is_tried_until_it_is_done() -> None:
    act = Failing(BrokerUnavailableError("away"), StorageError("another publisher has it"))

    with capture_logs() as logs:
        until_done(act, "do it by hand", pause_s=0.0)

    assert act.asked == [False, True, True]
    assert [(line["event"], line["left"]) for line in logs] == [("withdrawal.delayed", "do it by hand")] * 2


def test_one_that_cannot_be_done_in_time_says_what_is_left_to_do() -> None:
    with pytest.raises(TransientError, match="still out: do it by hand; away"):
        until_done(Failing(BrokerUnavailableError("away")), "do it by hand", limit_s=0.0)


def test_one_that_only_a_person_can_mend_is_not_tried_again() -> None:
    act = Failing(ConfigError("no key"))

    with pytest.raises(ConfigError):
        until_done(act, "do it by hand")
    assert act.asked == [False]
