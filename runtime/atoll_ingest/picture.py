"""The payload is a picture, as cameras publish it: its bytes are the one value of the reading.

What becomes of the pixels is for each model to say, so they are decoded behind this port
(:mod:`atoll_signal.picture`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading

MAX_PICTURE_BYTES: Final = 4_000_000
"""Longest payload that is read; a session cuts off packets that are longer than 4 MiB."""

_STARTS: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True, slots=True)
class PictureDialect:
    """A JPEG or PNG, with the time of its arrival.

    Attributes:
        value: What the picture is called.
    """

    value: str

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the one reading in ``payload``; the value is ``payload`` itself.

        Raises:
            MalformedMessageError: It is too long, or neither JPEG nor PNG.
        """
        if len(payload) > MAX_PICTURE_BYTES:
            message = f"a picture of {len(payload)} bytes: at most {MAX_PICTURE_BYTES} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        if not payload.startswith(_STARTS):
            raise MalformedMessageError("neither JPEG nor PNG")
        # Such a reading is never encoded: on a wire it is the picture.
        return [Reading(values={self.value: payload})]  # type: ignore[dict-item]
