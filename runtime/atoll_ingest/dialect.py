"""The port behind which every payload format stands, and our own dialect.

A dialect turns the bytes of one message into readings or refuses them with a reason. It has no
state and no clock, so that agent, recorder and trainer read the same bytes alike.
"""

from __future__ import annotations

from typing import Protocol

import msgspec.structs

from atoll_contract.messages import Reading, decode_readings


class Dialect(Protocol):
    """How the payloads of a stream are read."""

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the readings in ``payload``, values always by name.

        A reading without ``time_ms`` counts from the time of its arrival.

        Raises:
            MalformedMessageError: ``payload`` cannot be read; the reason code says why.
        """


class AtollDialect:
    """Our own JSON: :class:`atoll_contract.messages.Reading`, alone or as a list."""

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the readings in ``payload``; a lone number is the value named ``value``."""
        readings = decode_readings(payload)
        for place, reading in enumerate(readings):
            if not isinstance(reading.values, dict):
                readings[place] = msgspec.structs.replace(reading, values={"value": reading.values})
        return readings
