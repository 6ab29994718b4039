"""What the climbs of all models share, and what each of them is for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atoll_agent.ports import Child, LaneControl, SlotStore
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor.loading import ANYTHING, Loader, Wish


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One ``[[model]]`` of the settings.

    Attributes:
        model: Its id.
        stream: The stream that it answers.
        channel: The channel that it follows.
        units: The values of the stream, with their units.
        is_shared: Whether other agents get a part of the stream's readings.
        wish: What it may run on.
    """

    model: str
    stream: str
    channel: str
    units: Mapping[str, str | None]
    is_shared: bool
    wish: Wish = ANYTHING


@dataclass(frozen=True, slots=True)
class Means:
    """What all climbs share.

    Attributes:
        store: Where bundles and slots are.
        loader: What loads models.
        lane: What answers.
        fetch: The child that fetches a bundle.
        examine: The child that verifies one and plays its golden vectors.
        max_bundle_bytes: The largest bundle that this device takes.
        fetching: Held by the model whose bundle is being fetched; first come, first served.
        examining: Held by the model whose bundle is being examined and loaded.
    """

    store: SlotStore
    loader: Loader
    lane: LaneControl
    fetch: Child
    examine: Child
    max_bundle_bytes: int
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)
    examining: asyncio.Lock = field(default_factory=asyncio.Lock)

    def examination(self, plan: ModelPlan, release: Release) -> dict[str, Any]:
        """Return what the examining child is asked about a bundle that is there."""
        return {
            "path": str(self.store.bundle_path(release.sha256)),
            "sha256": release.sha256,
            "model": plan.model,
            "release": release.release,
            "units": dict(plan.units),
            "is_shared": plan.is_shared,
            "key": self.loader.key,
            "preferred": self.loader.runtimes.preferred,
        }
