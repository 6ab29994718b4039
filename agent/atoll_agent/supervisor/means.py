"""What the climbs of all models share, and what each of them is for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from atoll_agent.ports import Child, LaneControl, SlotStore
from atoll_agent.rollout.release import Release
from atoll_contract.bundle import Bundle
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime
from atoll_infer.tuning import tune


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One ``[[model]]`` of the settings.

    Attributes:
        model: Its id.
        stream: The stream that it answers.
        channel: The channel that it follows.
        units: The values of the stream, with their units.
        is_shared: Whether other agents get a part of the stream's readings.
    """

    model: str
    stream: str
    channel: str
    units: Mapping[str, str | None]
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Means:
    """What all climbs share.

    Attributes:
        store: Where bundles and slots are.
        runtime: What loads models.
        lane: What answers.
        fetch: The child that fetches a bundle.
        examine: The child that verifies one and plays its golden vectors.
        max_bundle_bytes: The largest bundle that this device takes.
        fetching: Held by the model whose bundle is being fetched; first come, first served.
        examining: Held by the model whose bundle is being examined and loaded.
    """

    store: SlotStore
    runtime: Runtime
    lane: LaneControl
    fetch: Child
    examine: Child
    max_bundle_bytes: int
    fetching: asyncio.Lock = field(default_factory=asyncio.Lock)
    examining: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self, release: Release) -> Predictor:
        """Read, check and load a bundle that has passed its self-test in a child before.

        Raises:
            StorageError: It cannot be read.
            BundleRejectedError: It is no good after all.
        """
        bundle = Bundle.unpack(self.store.read_bundle(release.sha256))
        predictor = golden.self_test(bundle, self.runtime)
        tune(predictor, bundle, self.runtime)
        return predictor
