"""A dashboard as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.brokers import RunningBroker, wait_until_listening
from support.staged_fleet import SITE

from atoll_sim.demo.ports import free_port


@contextmanager
def dashboard(folder: Path, broker: RunningBroker, more: str = "") -> Iterator[tuple[str, Path]]:
    """Run a dashboard; yield its address and its log. It must end cleanly."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "dashboard.toml"
    settings.write_text(
        f'[dashboard]\nsite = "{SITE}"\n[broker]\nhost = "127.0.0.1"\nport = {broker.port}\nkeepalive_s = 2\n'
        f"[web]\nport = {port}\n{more}"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    log = folder / "dashboard.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "atoll_dashboard.cli", "--settings", str(settings)],
            stdout=file, stderr=file, env=environment,
        )  # fmt: skip
    try:
        wait_until_listening(port, process, 60)
        yield f"http://127.0.0.1:{port}", log
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()
