"""The trainer's commands, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

TRAINER = [sys.executable, "-c", "from atoll_trainer.cli import main; raise SystemExit(main())"]


def trainer(*arguments, code=0):
    """Run a command of the trainer and return what it printed to stdout, or stderr when it fails."""
    done = subprocess.run(
        [*TRAINER, *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout
