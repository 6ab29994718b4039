"""Verifies a fetched bundle and lets all runtimes play its golden vectors, where a crash hurts nobody."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from atoll_agent.children import be_a_child
from atoll_agent.children.failure import failure_line
from atoll_agent.rollout.fit import require_fit
from atoll_contract.bundle import Bundle
from atoll_contract.errors import (
    AtollError,
    BundleRejectedError,
    DigestMismatchError,
    Reason,
    TransientError,
)
from atoll_infer import contest
from atoll_infer.model_file import require_files
from atoll_infer.runtime import Looked, look_for_runtimes
from atoll_link.files import storage_error
from atoll_link.room import room_bytes

_MEMORY_LIMIT: Final = 1536 * 1024 * 1024
_MEMORY_SHARE: Final = 0.75
"""Of what is left: the agent and others need some."""
_LEAST_MEMORY: Final = 256 * 1024 * 1024
"""Runtimes with a small model take 180 MiB of addresses; with less than this a bundle is not to blame."""
_CPU_LIMIT_S: Final = 100


def main() -> int:
    """Read the request from stdin, print one line per step."""
    be_a_child()
    _limit(resource.RLIMIT_CORE, 0, 0)
    room = room_bytes()
    most = _MEMORY_LIMIT if room is None else min(_MEMORY_LIMIT, int(room * _MEMORY_SHARE))
    is_cramped = not _limit(resource.RLIMIT_AS, most, most) or most < _LEAST_MEMORY
    # The soft limit sends SIGXCPU, which tells the agent why; the hard one would be a SIGKILL like any.
    is_cramped |= not _limit(resource.RLIMIT_CPU, _CPU_LIMIT_S, _CPU_LIMIT_S + 5)
    request = json.loads(sys.stdin.readline())
    found = list(look_for_runtimes())
    # From here on the bundle may be to blame for what happens, unless others left too little room for it.
    _say({"event": "begun", "is_cramped": is_cramped})
    try:
        bundle = _verified(request)
        _say({"event": "verified"})
        held = _contest(bundle, found, request, is_cramped=is_cramped)
        _say({"event": "passed", "contest": msgspec.to_builtins(held)})
    except AtollError as error:
        _say(failure_line(error))
    except MemoryError:
        detail = f"the self-test needs more than {most >> 20} MiB of memory"
        kind = TransientError if is_cramped else BundleRejectedError
        _say(failure_line(kind(detail, Reason.SELF_TEST_CRASHED)))
    return 0


def _limit(what: int, soft: int, hard: int) -> bool:
    """Set a limit of this process, or leave a lower one that others set; whether it is ours."""
    _, allowed = resource.getrlimit(what)
    if allowed != resource.RLIM_INFINITY and allowed < hard:
        resource.setrlimit(what, (min(soft, allowed), allowed))
        return False
    resource.setrlimit(what, (soft, hard))
    return True


def _verified(request: dict[str, Any]) -> Bundle:
    path = Path(request["path"])
    try:
        content = path.read_bytes()
        is_genuine = hashlib.sha256(content).hexdigest() == request["sha256"]
        if not is_genuine:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    if not is_genuine:
        raise DigestMismatchError(f"{path}: its bytes are not those that were signed; deleted")
    bundle = Bundle.unpack(content)
    require_fit(
        bundle.manifest,
        model=request["model"],
        release=request["release"],
        units=request["units"],
        is_shared=request["is_shared"],
    )
    require_files(bundle)
    return bundle


def _contest(
    bundle: Bundle, found: Sequence[Looked], request: dict[str, Any], *, is_cramped: bool
) -> contest.Contest:
    cpus = len(os.sched_getaffinity(0))
    try:
        return contest.hold(bundle, found, key=request["key"], cpus=cpus, preferred=request["preferred"])
    except BundleRejectedError as error:
        # A runtime that gets no memory says that it cannot load the file, or that it cannot be run.
        if is_cramped and error.reason in {Reason.MODEL_UNREADABLE, Reason.MODEL_FAILED}:
            raise TransientError(error.detail, error.reason) from error
        raise


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - stdout is the channel to the supervisor


if __name__ == "__main__":
    sys.exit(main())
