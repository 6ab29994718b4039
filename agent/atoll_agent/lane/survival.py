"""How what the lane remembers outlives a clean stop of the agent.

Windows only if every reading that entered them was answered and acknowledged: one that was not comes again
at the next start, and would enter them twice. Rules, and values that are held, take no harm from that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog

from atoll_agent.decisions.rules import Rules, RuleState
from atoll_agent.lane.answering import Answering
from atoll_agent.ports import Kept, WindowStore
from atoll_contract.errors import StorageError
from atoll_signal.kept import keep, restored

log = structlog.get_logger()

_MAX_BYTES: Final = 256 * 1024 * 1024
"""More is not kept of one model: its windows fill anew."""
_FORMAT: Final = 1


class _KeptRules(msgspec.Struct):
    """How the rules of a model stood, and when: on the wall clock, and on a monotonic one."""

    format: int
    wall_ms: float
    now_s: float
    rules: dict[str, RuleState]


_RULES: Final = msgspec.msgpack.Decoder(_KeptRules)


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
            _warn(answering.model, Kept.WINDOWS, "readings are under way")
            continue
        save_bytes(answering.model, Kept.WINDOWS, keep(answering.manifest, answering.state()), store)


def save_bytes(name: str, kind: Kept, kept: bytes, store: WindowStore) -> None:
    """Keep what is remembered of model or stream ``name``, if it is anything."""
    if not kept:
        return
    if len(kept) > _MAX_BYTES:
        _warn(name, kind, f"{len(kept)} bytes; at most {_MAX_BYTES} are kept")
        return
    try:
        store.keep(name, kind, kept)
    except StorageError as error:
        _warn(name, kind, error.detail)
        return
    log.info("windows.kept", name=name, kind=kind.value, size_bytes=len(kept))


def restore(name: str, kind: Kept, kept: bytes | None, begin: Callable[[bytes], None]) -> None:
    """Let ``begin`` begin with what was kept of ``name``, if it does not raise a ValueError at it."""
    if kept is None:
        return
    try:
        begin(kept)
    except ValueError as error:
        log.warning("windows.refused", name=name, kind=kind.value, detail=str(error))
        return
    log.info("windows.restored", name=name, kind=kind.value, size_bytes=len(kept))


def restore_windows(answering: Answering, kept: bytes) -> None:
    """Begin with the windows in ``kept``; raises ValueError unless they are of the same columns."""
    answering.restore(restored(answering.manifest, kept))


def rules_as_bytes(rules: Rules) -> bytes:
    """Return how ``rules`` stand; empty: as they begin."""
    states = rules.state()
    if not any(state.alarms for state in states.values()):
        return b""
    return msgspec.msgpack.encode(_KeptRules(_FORMAT, time.time() * 1e3, time.monotonic(), states))


def restore_rules(rules: Rules, kept: bytes) -> None:
    """Let ``rules`` go on as they stood.

    Raises:
        ValueError: What was kept is damaged, or of another version.
    """
    try:
        found = _RULES.decode(kept)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if found.format != _FORMAT:
        raise ValueError(f"of format {found.format}; this version reads {_FORMAT}")
    away_s = max(0.0, time.time() - found.wall_ms / 1e3)
    rules.restore(found.rules, time.monotonic() - found.now_s - away_s)


def _warn(name: str, kind: Kept, detail: str) -> None:
    log.warning("windows.unkept", name=name, kind=kind.value, detail=detail)
