"""Exit codes of every command, and the one place where errors become one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum

from atoll_contract.errors import AtollError, ConfigError


class Exit(IntEnum):
    """What a command's exit code says."""

    SUCCESS = 0
    FAILURE = 1
    USAGE = 2
    GATE_REFUSED = 3
    DOCTOR_FOUND_FAULT = 4
    SETTINGS = 78


def run(command: Callable[[], int | None]) -> int:
    """Run ``command`` and return its exit code; foreseen errors are printed, bugs are not caught."""
    try:
        return command() or Exit.SUCCESS
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 - the one place that prints errors
        return Exit.SETTINGS
    except AtollError as error:
        print(f"error: {error.detail} [{error.reason}]", file=sys.stderr)  # noqa: T201
        return Exit.FAILURE
    except KeyboardInterrupt:
        return Exit.FAILURE
    except BrokenPipeError:
        # Whoever read our output has left: let nobody write to it again, not even Python at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILURE
    except OSError as error:  # the net below the rims that translate
        detail = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
        print(f"error: {detail}", file=sys.stderr)  # noqa: T201
        return Exit.FAILURE
