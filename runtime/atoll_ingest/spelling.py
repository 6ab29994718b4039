"""How units are spelt: ``C``, ``Cel`` and ``°C`` are one unit."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_ALIKE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "c": "°c", "cel": "°c", "degc": "°c", "celsius": "°c", "f": "°f", "far": "°f", "degf": "°f",
        "fahrenheit": "°f", "%rh": "%", "percent": "%", "ug/m3": "µg/m³", "µg/m3": "µg/m³", "mg/m3": "mg/m³",
        "m/s2": "m/s²", "m3": "m³", "m3/h": "m³/h", "mbar": "hpa",
    }
)  # fmt: skip


def spelt_alike(one: str, other: str) -> bool:
    """Whether two spellings mean the same unit; capitals matter where they part two units.

    >>> spelt_alike("Cel", "°C"), spelt_alike("°F", "°C"), spelt_alike("mW", "MW")
    (True, False, False)
    """
    if one == other:
        return True
    first, second = _plain(one), _plain(other)
    return first in _KNOWN and first == second


def _plain(unit: str) -> str:
    folded = unit.strip().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}").lower()
    return _ALIKE.get(folded, folded)


_KNOWN: Final = frozenset(_ALIKE.values())
