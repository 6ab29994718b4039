"""The programs in ``benchmarks/``, run as a person would."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.brokers import require_mosquitto

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def require_tools() -> None:
    """Skip the test where broker or compiler are missing."""
    require_mosquitto()
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed (apt install gcc libc6-dev)")


def benchmark(script: str, *arguments: str, timeout_s: float = 100.0) -> None:
    """Run a program of the benchmarks to its successful end."""
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def quick_runs(folder: Path, *, systems: str, cases: str, rounds: int = 1) -> list[dict[str, Any]]:
    """Return the runs of a benchmark with short spans; its result stays in ``folder``."""
    chosen = ["--systems", systems, "--cases", cases, "--rounds", str(rounds)]
    benchmark("run.py", "--quick", "--build", str(folder), *chosen, timeout_s=240.0)
    runs: list[dict[str, Any]] = json.loads((folder / "result.json").read_text())["runs"]
    return runs
