"""The benchmarks work: programs in C, brokers, systems, the result and its page. No figure is judged."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.brokers import require_mosquitto

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    require_mosquitto()
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed (apt install gcc libc6-dev)")
    header = subprocess.run(
        ["gcc", "-fsyntax-only", "-x", "c", "-"],
        input=b"#include <mosquitto.h>\n",
        capture_output=True,
        check=False,
    )
    if header.returncode != 0:
        pytest.skip("the headers of libmosquitto are missing (apt install libmosquitto-dev)")


def benchmark(script: str, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of short spans: an echo on both brokers, and the agent on one."""
    folder = tmp_path_factory.mktemp("benchmarks")
    options = ["--quick", "--build", str(folder), "--systems", "libmosquitto,atoll"]
    benchmark("run.py", *options, "--cases", "qos1-20,stub-qos1")
    return folder / "result.json"


def test_every_reading_is_answered_once_by_echo_and_agent_through_mosquitto_and_stub_broker(result):
    runs = json.loads(result.read_text())["runs"]

    assert {(run["system"], run["case"]) for run in runs} == {
        (system, case) for system in ("libmosquitto", "atoll") for case in ("qos1-20", "stub-qos1")
    }
    for run in runs:
        assert run["answered"] == run["due"] > 0
        assert (run["lost"], run["duplicates"], run["unmatched"], run["forgotten"]) == (0, 0, 0, 0)
        assert 0 < run["p50_ms"] <= run["p99_ms"] <= run["max_ms"]
        assert run["system_cpu_us"] > 0
        assert run["loaded"]["rss_mb"] >= run["loaded"]["pss_mb"] > 0


def test_the_page_is_written_from_a_result(result, tmp_path):
    pytest.importorskip("pygal", reason="needs the extra bench")

    benchmark("report.py", str(result), "--folder", str(tmp_path))

    page = (tmp_path / "performance.md").read_text()
    assert "| atoll, the full agent |" in page
    assert "| readings/s at QoS 1, 20 in flight, ratio to the C echo | at least 0.7 |" in page
    assert (tmp_path / "performance-throughput.svg").read_text().count("<svg") == 1
    assert json.loads((tmp_path / "performance.json").read_text())["quick"] is True
