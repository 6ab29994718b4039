"""Nobody wants metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from atoll_contract.drift import DriftReport
from atoll_contract.messages import SlotStatus, Status


class Unwatched:
    """Takes what it is told and does nothing with it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_exception: object) -> None:
        pass

    def hear(self, report: DriftReport) -> None:
        """Do nothing."""

    def look(self, status: Status, slots: Sequence[SlotStatus], planes: Mapping[str, bool]) -> None:
        """Do nothing."""
