"""A world on its stage, with an uplink that waits for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from atoll_contract.messages import Prediction, encode_prediction
from atoll_link.session import Delivery
from atoll_sim.worlds import SCENARIOS
from atoll_sim.worlds.stage import AgentSilentError, Stage


class Deaf:
    """An uplink on which nothing ever arrives."""

    def publish(self, _topic: object, _payload: bytes, qos: int) -> bool:
        return qos == 1

    def wait_for(self, fact: Callable[[], bool], _due: float) -> bool:
        return fact()

    def rest_until(self, _due: float) -> bool:
        return True

    def settle(self) -> None:
        pass


def test_the_play_ends_when_the_agent_has_not_answered_for_ten_steps() -> None:
    stage = Stage(SCENARIOS["parking"].build(1), pace_s=0.001, waits=True)
    payload = encode_prediction(Prediction(time.time() * 1e3, 50.0, 1, 1.0))
    topic = "atoll/v1/world/agent/prediction/park-1/occupancy"
    stage.take(Delivery(topic, payload, 1, 1, False, False, 1, 1000.0, 0))

    with pytest.raises(AgentSilentError, match="no answer for 10 steps"):
        stage.play(Deaf(), 100)  # type: ignore[arg-type]

    assert stage.counts.unanswered == 10


def test_nobody_is_waited_for_who_never_answered() -> None:
    stage = Stage(SCENARIOS["parking"].build(1), pace_s=0.001, waits=True)
    stage.play(Deaf(), 20)  # type: ignore[arg-type]

    assert (stage.counts.steps, stage.counts.unanswered) == (20, 0)
