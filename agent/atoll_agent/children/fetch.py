"""Fetches the bundle of one release, or as much of it as comes in one turn."""

from __future__ import annotations

import sys
from pathlib import Path

from atoll_agent.adapters.delivery import fetch_bundle
from atoll_agent.children.failure import failure_line
from atoll_agent.children.request import answer, opened, read_request
from atoll_agent.rollout.release import Release
from atoll_contract.errors import AtollError


def main() -> int:
    """Read the request from stdin, print one line."""
    request = read_request()
    try:
        with opened(request) as topics:
            is_whole = fetch_bundle(
                topics,
                Release(**request["release"]),
                Path(request["path"]),
                max_bytes=request["max_bytes"],
                turn_s=request["turn_s"],
            )
    except AtollError as error:
        answer(failure_line(error))
    else:
        answer({"event": "fetched" if is_whole else "paused"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
