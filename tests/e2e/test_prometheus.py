"""A real Prometheus scrapes agent and recorder; the shipped alert rules fire and clear."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.agents import AgentProcess, TrainerHome, command
from support.bundles import make_bundle
from support.prometheus import hurried, prometheus, require_prometheus
from support.site import Site, reading
from support.spy import Spy

from atoll_sim.demo.ports import free_port

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
pytestmark = pytest.mark.mosquitto


def test_promtool_finds_nothing_wrong_with_the_rules():
    _, promtool = require_prometheus()

    checked = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_scrapes_agent_and_recorder_and_alerts_fire_and_clear(mosquitto_broker, tmp_path):
    require_prometheus()
    agent_port, trainer_port = free_port(), free_port()
    trainer = TrainerHome(tmp_path / "trainer", mosquitto_broker.port)
    agent = AgentProcess(
        tmp_path / "agent",
        mosquitto_broker.port,
        trainer.home / "root.json",
        streams=f'[metrics]\nport = {agent_port}\n[[stream]]\nname = "press"\nvalues = {{ x = {{}} }}\n',
    )
    with trainer.settings.open("a") as file:
        file.write(f'[metrics]\nport = {trainer_port}\n[[stream]]\nname = "press"\nvalues = {{ x = {{}} }}\n')
    recorder = subprocess.Popen(
        command("atoll-trainer", "record", "--settings", str(trainer.settings), "--log-level", "error"),
        stdout=subprocess.DEVNULL,
    )
    try:
        with (
            Spy(mosquitto_broker.port, "atoll/v1/site/pi/#") as spy,
            prometheus(
                tmp_path / "prometheus", hurried(RULES), atoll_agent=agent_port, atoll_trainer=trainer_port
            ) as watching,
        ):
            site = Site(mosquitto_broker, trainer, agent, spy)
            watching.wait(lambda: "AtollAgentDown" in watching.firing(), "AtollAgentDown")
            agent.start()
            watching.wait(lambda: "AtollAgentDown" not in watching.firing(), "an agent that is up")
            watching.wait(lambda: "AtollModelUnanswered" in watching.firing(), "AtollModelUnanswered")
            watching.wait(lambda: "AtollRecorderStalled" in watching.firing(), "AtollRecorderStalled")

            trainer.publish(make_bundle(release=1))
            site.champion(1)
            watching.wait(lambda: watching.value('atoll_agent_model_release{model="wear"}') == 1, "release 1")
            site.send(*[reading(number) for number in range(1, 6)])
            watching.wait(lambda: watching.value("atoll_agent_predictions_total") == 5, "five predictions")
            recorded = 'atoll_trainer_recorded_total{kind="reading"}'
            watching.wait(lambda: watching.value(recorded) == 5, "five recorded readings")
            watching.wait(lambda: "AtollModelUnanswered" not in watching.firing(), "a model that answers")
            expiry = "min(atoll_trainer_metadata_expiry_timestamp_seconds) - time() > 86400"
            watching.wait(lambda: watching.value(expiry) is not None, "metadata that are good for a day")

            mosquitto_broker.stop()
            watching.wait(lambda: "AtollBrokerLost" in watching.firing(), "AtollBrokerLost")
            mosquitto_broker.start()
            watching.wait(lambda: "AtollBrokerLost" not in watching.firing(), "a broker that is back", 60)
            site.close()
    finally:
        agent.close()
        recorder.terminate()
        recorder.wait(20)
