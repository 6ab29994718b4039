"""How windows outlive a clean stop of the agent.

Only if every reading that entered them was answered and acknowledged: one that was not comes again at the
next start, and would enter them twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from atoll_agent.lane.answering import Answering
from atoll_agent.ports import WindowStore
from atoll_contract.errors import StorageError
from atoll_signal.kept import keep, restored

log = structlog.get_logger()

_MAX_BYTES: Final = 256 * 1024 * 1024
"""More is not kept of one model: its windows fill anew."""


def save(champions: Iterable[Answering], store: WindowStore, *, is_idle: bool) -> None:
    """Keep the windows of those who answer a stream.

    Args:
        champions: They.
        store: Where.
        is_idle: Whether all their readings were answered and acknowledged.
    """
    for answering in champions:
        if not answering.manifest.keeps_readings:
            continue
        if not is_idle:
            _warn(answering, "readings are under way")
            continue
        kept = keep(answering.manifest, answering.state())
        if len(kept) > _MAX_BYTES:
            _warn(answering, f"{len(kept)} bytes; at most {_MAX_BYTES} are kept")
            continue
        try:
            store.keep(answering.model, kept)
        except StorageError as error:
            _warn(answering, error.detail)
            continue
        log.info("windows.kept", model=answering.model, size_bytes=len(kept))


def restore(answering: Answering, kept: bytes) -> None:
    """Begin with the windows in ``kept``, if they are of the same columns."""
    try:
        answering.restore(restored(answering.manifest, kept))
    except ValueError as error:
        log.warning("windows.refused", model=answering.model, detail=str(error))
        return
    log.info("windows.restored", model=answering.model, size_bytes=len(kept))


def _warn(answering: Answering, detail: str) -> None:
    log.warning("windows.unkept", model=answering.model, detail=detail)
