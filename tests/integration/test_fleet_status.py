"""``atoll-trainer status`` tells what agents say of the publication, and who is there twice."""

from __future__ import annotations

import json
from pathlib import Path

from support.brokers import RunningBroker
from support.operator import Operator
from support.releases import put

from atoll_contract.errors import Reason
from atoll_contract.messages import Health, SlotStatus, Status
from atoll_contract.topics import SlotTopic, StatusTopic
from atoll_link.exits import Exit


def test_agents_that_cannot_verify_the_publication_are_told_with_it(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    operator = Operator.with_keys(tmp_path, mosquitto_broker)
    operator.publish(1)
    ready = Status(health=Health.READY, session=1, token="t").encode()
    good = SlotStatus(model="press", time_ms=1.0)
    forged = good.model_copy(update={"note": Reason.METADATA_FORGED})
    put(
        mosquitto_broker,
        {
            str(StatusTopic("plant", "pi1")): ready,
            str(SlotTopic("plant", "pi1", "press")): good.encode(),
            str(StatusTopic("plant", "pi2")): ready,
            str(SlotTopic("plant", "pi2", "press")): forged.encode(),
            str(SlotTopic("elsewhere", "pi2", "press")): good.encode(),
        },
    )

    told = json.loads(operator.run("status", "--json").stdout)
    text = operator.run("status").stdout

    assert told["publication"].startswith("out; slots that refuse it: 1 (metadata_forged: older than what")
    assert told["at_several_sites"] == {"pi2": ["elsewhere", "plant"]}
    [release] = told["releases"]
    assert [(member["site"], member["agent"]) for member in release["cohort"]] == [
        ("plant", "pi1"),
        ("plant", "pi2"),
    ]
    assert "pi2 is seen at 2 sites (elsewhere, plant) and counts once" in text


def test_a_rollout_that_reaches_no_connected_agent_is_no_success(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    operator = Operator.with_keys(tmp_path, mosquitto_broker)

    published = operator.publish(1, "--wait")

    assert published.returncode == Exit.FAILURE
    assert "no agent that it is for is connected: no agent is known that it is for" in published.stdout
