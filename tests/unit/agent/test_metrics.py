"""What Prometheus is told, and that queries ask for nothing else."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from atoll_agent.adapters.metrics import AgentMetrics
from atoll_contract.drift import DriftReport
from atoll_contract.errors import ConfigError, Reason
from atoll_contract.messages import (
    Challenge,
    Champion,
    Health,
    Refusal,
    Refusals,
    SlotStatus,
    Status,
)
from atoll_link.metrics import Exporter
from atoll_link.recorder import Tally
from atoll_link.settings import MetricsTable
from atoll_sim.demo.ports import free_port
from atoll_trainer.cli import main as trainer_main
from atoll_trainer.metrics import RecorderMetrics

ROOT = Path(__file__).parents[3]
REF = {"release": 3, "sha256": "3"}
STATUS = Status(
    health=Health.DEGRADED,
    session=1,
    version="0.1.0",
    time_unsynced=True,
    counts={
        "readings": 9,
        "predictions": 7,
        "devices": 2,
        "edgetpu_temp_c": 71,
        "edgetpu_clock_percent": 50,
        "late": 4,
        "readings_missing": 3,
        "spool_rows": 2,
        "spool_bytes": 900,
    },
    refusals=[Refusals(where="press", reason=Reason.BAD_TIME, count=2)],
)
SLOT = SlotStatus(
    model="wear",
    time_ms=1.0,
    champion=Champion(**REF, backend="cpu", task="regression"),
    challenger=Challenge(release=4, sha256="4", phase="shadow"),
    refused=Refusal(**REF, reason=Reason.TOO_SLOW, detail="2 ms", time_ms=1.0),
    note=Reason.WITHDRAWN,
)


@pytest.fixture
def metrics() -> AgentMetrics:
    told = AgentMetrics(MetricsTable(), site="plant-a", agent="pi")
    told.hear(DriftReport(model="wear", time_ms=1.0, release=3, drifting=True))
    told.look(STATUS, [SLOT], {"lane": True, "control": False})
    return told


@pytest.fixture
def recorder(tmp_path) -> RecorderMetrics:
    assert trainer_main(["init", "--home", str(tmp_path / "home")]) == 0
    tally = Tally(readings=5)
    tally.refused[Reason.BAD_TIME] += 1
    return RecorderMetrics(lambda: tally, lambda: True, tmp_path / "home" / "repository")


def samples(*told) -> dict[tuple[str, tuple[str, ...]], float]:
    registry = CollectorRegistry()
    for one in told:
        registry.register(one)
    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(value for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_status_and_slots_become_metrics(metrics):
    assert samples(metrics) | {
        ("atoll_agent_health", ("degraded",)): 1.0,
        ("atoll_agent_health", ("ready",)): 0.0,
        ("atoll_agent_broker_connected", ("control",)): 0.0,
        ("atoll_agent_clock_unsynced", ()): 1.0,
        ("atoll_agent_readings_total", ()): 9.0,
        ("atoll_agent_commands_total", ()): 0.0,
        ("atoll_agent_edgetpu_clock_ratio", ()): 0.5,
        ("atoll_agent_events_total", ("late",)): 4.0,
        ("atoll_agent_refused_total", ("bad_time", "press")): 2.0,
        ("atoll_agent_model_release", ("wear",)): 3.0,
        ("atoll_agent_model_underway", ("wear", "shadow")): 4.0,
        ("atoll_agent_model_refused", ("wear", "too_slow")): 3.0,
        ("atoll_agent_model_held_up", ("wear", "withdrawn")): 1.0,
        ("atoll_agent_model_drifting", ("wear",)): 1.0,
    } == samples(metrics)


def test_before_the_agent_has_looked_at_itself_there_is_nothing_to_tell():
    assert samples(AgentMetrics(MetricsTable(), site="plant-a", agent="pi")) == {}


def test_however_much_is_counted_the_labels_stay_few(metrics):
    counts = {f"name_{number}": number for number in range(1000)}
    metrics.look(STATUS.model_copy(update={"counts": counts}), [], {})

    assert sum(name == "atoll_agent_events_total" for name, _ in samples(metrics)) == 64


def test_a_recorder_tells_its_tally_and_when_metadata_expire(recorder):
    told = samples(recorder)

    assert told["atoll_trainer_recorded_total", ("reading",)] == 5.0
    assert told["atoll_trainer_refused_total", ("bad_time",)] == 1.0
    roles = {labels for name, labels in told if name == "atoll_trainer_metadata_expiry_timestamp_seconds"}
    assert roles == {("root",), ("targets",), ("snapshot",), ("timestamp",), ("trainer",)}


def test_every_query_of_alerts_and_dashboard_asks_for_what_is_exported(metrics, recorder):
    exported = {name for name, _ in samples(metrics, recorder)} | {"up"}
    process = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    board = json.loads((ROOT / "deploy/grafana/atoll.json").read_text())
    queries += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    asked = {
        name
        for query in queries
        for name in re.findall(r"\b(?:atoll|process|up)(?:_[a-z_]+)?\b(?=[{\[ )>,]|$)", query)
    }

    assert len(queries) > 30
    assert asked - exported == process
    assert {name for name in asked if name.startswith("atoll_agent")} >= {
        "atoll_agent_health",
        "atoll_agent_info",
    }


def test_the_page_of_metrics_lists_what_is_exported(metrics, recorder):
    page = (ROOT / "docs/operate/metrics.md").read_text()

    assert set(re.findall(r"^\| `(atoll_[a-z_]+)` \|", page, re.MULTILINE)) == {
        name for name, _ in samples(metrics, recorder)
    }


def test_the_endpoint_is_served_and_a_port_that_is_taken_is_a_fault_of_the_settings(metrics):
    table = MetricsTable(port=free_port())
    with Exporter(table, metrics.collect):
        with urllib.request.urlopen(f"http://127.0.0.1:{table.port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        with pytest.raises(ConfigError, match=r"metrics\.port"), Exporter(table, metrics.collect):
            pass

    assert "atoll_agent_readings_total 9.0" in text
    assert "process_resident_memory_bytes" in text
