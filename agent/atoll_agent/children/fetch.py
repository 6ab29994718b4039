"""Asks the release repository once, and fetches what this device should run and does not have."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from atoll_agent.adapters.children import failure_line
from atoll_agent.adapters.repository import ReleaseRepository
from atoll_agent.adapters.store import StateStore
from atoll_agent.children import die_with_parent
from atoll_agent.rollout.release import Release, choose
from atoll_contract.errors import AtollError
from atoll_link import logs
from atoll_link.session import Broker


def main() -> int:
    """Read the request from stdin, print one line per step."""
    die_with_parent()
    logs.configure()
    request = json.loads(sys.stdin.readline())
    store = StateStore(Path(request["state_dir"]))
    try:
        with ReleaseRepository(
            _broker(request["broker"]),
            request["client_id"],
            store.folder / "metadata",
            store.identity().root,
        ) as repository:
            releases = repository.refresh()
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
            _say(
                "refreshed", wanted={model: release and asdict(release) for model, release in wanted.items()}
            )
            # Small ones first: a large bundle on a slow line holds up no other model.
            for model, release in sorted(
                ((model, release) for model, release in wanted.items() if release is not None),
                key=lambda item: item[1].length,
            ):
                if release.sha256 != request["models"][model]["champion"]:
                    _fetch(repository, store, model, release)
    except AtollError as error:
        _print(failure_line(error))
    return 0


def _fetch(repository: ReleaseRepository, store: StateStore, model: str, release: Release) -> None:
    _say("fetching", model=model)
    try:
        if not store.bundle_path(release.sha256).exists():
            part = store.part_path(release.sha256)
            repository.fetch(release, part)
            store.complete(release.sha256)
    except AtollError as error:
        _print({**failure_line(error), "model": model})
    else:
        _say("fetched", model=model)


def _broker(facts: Mapping[str, Any]) -> Broker:
    files = {key: Path(value) for key, value in facts.items() if key.endswith("_file") and value is not None}
    return Broker(**{**facts, **files})


def _say(event: str, **facts: object) -> None:
    _print({"event": event, **facts})


def _print(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - stdout is the channel to the supervisor


if __name__ == "__main__":
    sys.exit(main())
