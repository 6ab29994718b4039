"""A real Prometheus on a free port, and what it knows."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.brokers import select_pause, wait_until_listening

from atoll_sim.demo.ports import free_port


def require_prometheus() -> tuple[str, str]:
    """Return the programs prometheus and promtool, or skip the test."""
    found = shutil.which("prometheus"), shutil.which("promtool")
    if found[0] is None or found[1] is None:
        pytest.skip("prometheus is not installed (apt install prometheus)")
    return found[0], found[1]


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}/"
        self._url = f"{self._root}api/v1/"

    @property
    def is_ready(self) -> bool:
        """Whether it answers questions; it listens before."""
        try:
            urllib.request.urlopen(f"{self._root}-/ready", timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            return False
        return True

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float | None:
        result = self.ask("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait(self, fact: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := fact()):
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
            select_pause(0.1)
        return found


def hurried(rules: Path) -> str:
    """Return alert rules that wait for nothing and look at seconds, not at minutes."""
    document = yaml.safe_load(rules.read_text())
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
            rule["expr"] = rule["expr"].replace("[5m]", "[3s]").replace("[10m]", "[3s]")
    return yaml.safe_dump(document)


@contextmanager
def prometheus(folder: Path, rules: str, **targets: int) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes ``targets``, ports by job, five times a second."""
    program, _ = require_prometheus()
    folder.mkdir(parents=True)
    (folder / "rules.yml").write_text(rules)
    scrapes = [
        {"job_name": job.replace("_", "-"), "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for job, port in targets.items()
    ]
    every = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config = {"global": every, "rule_files": ["rules.yml"], "scrape_configs": scrapes}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until_listening(port, process)
        running = Prometheus(port)
        running.wait(lambda: running.is_ready, "a Prometheus that is ready")
        yield running
    finally:
        process.terminate()
        process.wait(20)
