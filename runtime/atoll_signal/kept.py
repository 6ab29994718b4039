"""Windows as bytes, so that they survive a restart. Whatever does not fit is refused as a whole."""

from __future__ import annotations

import zlib
from typing import Final

import msgspec

from atoll_contract.feature import CALENDAR
from atoll_contract.manifest import Manifest
from atoll_signal.frames import FramesState

_FORMAT: Final = 1


class _Kept(msgspec.Struct):
    format: int
    columns: str
    window: str
    checksum: int
    state: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_KEPT: Final = msgspec.msgpack.Decoder(_Kept)
_STATE: Final = msgspec.msgpack.Decoder(FramesState)


def columns(manifest: Manifest) -> str:
    """Return what the columns of a window stand for: windows of equal columns can be handed on."""
    values = [f"{value.name} {value.shape} {value.unit}" for value in manifest.sources]
    season = [feature.kind.value for feature in manifest.computed if feature.kind in CALENDAR]
    return repr((values, season, manifest.zone if season else None))


def keep(manifest: Manifest, state: FramesState) -> bytes:
    """Return ``state`` as bytes."""
    packed = _ENCODER.encode(state)
    return _ENCODER.encode(_Kept(_FORMAT, columns(manifest), _window(manifest), zlib.crc32(packed), packed))


def restored(manifest: Manifest, kept: bytes) -> FramesState:
    """Return the state in ``kept``.

    Raises:
        ValueError: It is damaged, of another format, or of other columns or windows.
    """
    try:
        found = _KEPT.decode(kept)
        if found.format != _FORMAT:
            raise ValueError(f"windows of format {found.format}; this version reads {_FORMAT}")
        if zlib.crc32(found.state) != found.checksum:
            raise ValueError("windows that are damaged")
        if (found.columns, found.window) != (columns(manifest), _window(manifest)):
            raise ValueError("windows of other columns")
        return _STATE.decode(found.state)
    except msgspec.MsgspecError as error:
        raise ValueError(f"windows that cannot be read: {error}") from error


def _window(manifest: Manifest) -> str:
    return f"{manifest.depth} {manifest.window.model_dump_json()}"
