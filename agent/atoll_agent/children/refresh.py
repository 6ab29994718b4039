"""Asks the release repository once what this device should run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from atoll_agent.adapters.repository import ReleaseRepository
from atoll_agent.adapters.store import StateStore
from atoll_agent.children.failure import failure_line
from atoll_agent.children.request import answer, opened, read_request
from atoll_agent.rollout.release import choose
from atoll_contract.errors import AtollError


def main() -> int:
    """Read the request from stdin, print one line."""
    request = read_request()
    try:
        store = StateStore(Path(request["state_dir"]))
        with opened(request) as topics:
            releases = ReleaseRepository(
                topics,
                store.folder / "metadata",
                store.identity().root,
                is_time_unsynced=request["is_time_unsynced"],
            ).refresh()
    except AtollError as error:
        answer(failure_line(error))
        return 0
    wanted = {
        model: choose(
            releases,
            model=model,
            agent=request["agent"],
            channel=asked["channel"],
            bad=frozenset(asked["bad"]),
        )
        for model, asked in request["models"].items()
    }
    answer(
        {
            "event": "refreshed",
            "wanted": {model: release and asdict(release) for model, release in wanted.items()},
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
