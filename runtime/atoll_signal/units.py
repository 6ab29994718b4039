"""Units of sensors: which can be converted into which, and how. Exact, and small on purpose.

A unit is a product of symbols with SI prefixes and exponents, as sensors spell them: ``°C``, ``degC``,
``km/h``, ``m/s²``, ``µg/m3``, ``kWh``. Equal spellings always fit, whether they are known here or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Final

_Dimension = tuple[tuple[str, int], ...]
"""Base units with their exponents, in order of the alphabet."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """``needed = sent * scale + offset``."""

    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class _Unit:
    """``x`` of it are ``(x + offset) * factor`` in base units."""

    dimension: _Dimension
    factor: Fraction
    offset: Fraction = Fraction(0)


def conversion(sent: str | None, needed: str | None) -> Conversion | None:
    """Return how a number in ``sent`` becomes one in ``needed``; None: it is one already.

    >>> conversion("degF", "°C")
    Conversion(scale=0.5555555555555556, offset=-17.77777777777778)
    >>> conversion("uA", "µA") is None
    True

    Raises:
        ValueError: The one cannot be converted into the other; the text says why.
    """
    if sent == needed:
        return None
    if sent is None or needed is None:
        raise ValueError(f"{_shown(sent)} cannot become {_shown(needed)}: give both a unit, or neither")
    pairs = product(_meanings(sent), _meanings(needed))
    for one, other in pairs:
        if one.dimension == other.dimension:
            scale = one.factor / other.factor
            offset = one.offset * scale - other.offset
            return None if scale == 1 and offset == 0 else Conversion(float(scale), float(offset))
    raise ValueError(f"{_shown(sent)} cannot become {_shown(needed)}")


def _shown(unit: str | None) -> str:
    return "a number without a unit" if unit is None else repr(unit)


def _meanings(text: str) -> list[_Unit]:
    """Return what ``text`` may mean; nothing where it is unknown."""
    spelt = text.strip().translate(_SPELLING).replace("**", "^")
    if found := list(_symbol(spelt)):  # whole words and what holds a sign: %RH, km/h has none
        return found
    numerator, *denominators = (part.strip("()") for part in spelt.split("/"))
    terms = [(term, 1) for term in re.split(r"[.*· ]+", numerator) if term not in {"", "1"}]
    terms += [(term, -1) for part in denominators for term in re.split(r"[.*· ]+", part) if term]
    choices = [list(_power(term, sign)) for term, sign in terms]
    is_whole = all(denominators) and bool(terms)
    return [_multiplied(units) for units in product(*choices)] if is_whole else []


def _power(term: str, sign: int) -> Iterator[_Unit]:
    found = re.fullmatch(r"(.*?[^\d^+-])(?:\^?([+-]?\d))?", term)
    if found is None:
        return
    exponent = sign * int(found[2] or 1)
    for unit in _symbol(found[1]):
        dimension = tuple((base, power * exponent) for base, power in unit.dimension)
        yield _Unit(dimension, unit.factor**exponent)  # of a difference: without the offset


def _multiplied(units: tuple[_Unit, ...]) -> _Unit:
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for unit in units:
        factor *= unit.factor
        for base, power in unit.dimension:
            powers[base] = powers.get(base, 0) + power
    return _Unit(tuple(sorted((base, power) for base, power in powers.items() if power)), factor)


def _symbol(symbol: str) -> Iterator[_Unit]:
    """Yield what one symbol means, with a prefix or without; not both if the whole is known."""
    whole = [unit for table in (_UNITS, _PREFIXED) for unit in table.get(symbol, ())]
    yield from whole
    prefix = _PREFIXES.get(symbol[:1])
    if prefix is not None and not whole:
        for unit in _PREFIXED.get(symbol[1:], ()):
            yield _Unit(unit.dimension, unit.factor * prefix)


_SPELLING: Final = str.maketrans(
    {
        "\N{GREEK SMALL LETTER MU}": "u",
        "\N{MICRO SIGN}": "u",
        "\N{SUPERSCRIPT ONE}": "1",
        "\N{SUPERSCRIPT TWO}": "2",
        "\N{SUPERSCRIPT THREE}": "3",
        "\N{SUPERSCRIPT MINUS}": "-",
        "\N{DEGREE CELSIUS}": "°C",
        "\N{DEGREE FAHRENHEIT}": "°F",
        "\N{MASCULINE ORDINAL INDICATOR}": "°",
        "\N{OHM SIGN}": "Ohm",
        "\N{GREEK CAPITAL LETTER OMEGA}": "Ohm",
    }
)
_PREFIXES: Final = {
    sign: Fraction(10) ** power
    for sign, power in zip("pnumcdhkMGT", (-12, -9, -6, -3, -2, -1, 2, 3, 6, 9, 12), strict=True)
}


def _table(text: str) -> dict[str, list[_Unit]]:
    """Read lines of ``spelling spelling ... = factor base base^exponent ... [+ offset]``."""
    units: dict[str, list[_Unit]] = {}
    for line in text.strip().splitlines():
        names, meaning = line.split("=")
        meaning, _, offset = meaning.partition("+")
        factor, *bases = meaning.split()
        powers = (base.partition("^") for base in bases)
        dimension = tuple(sorted((base, int(power or 1)) for base, _, power in powers))
        unit = _Unit(dimension, Fraction(factor), Fraction(offset.strip() or 0))
        for name in names.split():
            units.setdefault(name, []).append(unit)
    return units


_PREFIXED: Final = _table(
    """
    m metre meter = 1 m
    g = 1/1000 kg
    g gn g0 = 9.80665 m s^-2
    s sec second = 1 s
    A = 1 A
    V = 1 kg m^2 s^-3 A^-1
    Ohm ohm = 1 kg m^2 s^-3 A^-2
    S = 1 kg^-1 m^-2 s^3 A^2
    W VA var = 1 kg m^2 s^-3
    Wh VAh varh = 3600 kg m^2 s^-2
    Ah = 3600 A s
    J = 1 kg m^2 s^-2
    N = 1 kg m s^-2
    Pa = 1 kg m^-1 s^-2
    bar = 100000 kg m^-1 s^-2
    Hz = 1 s^-1
    K kelvin = 1 K
    T = 1 kg s^-2 A^-1
    L l = 1/1000 m^3
    t = 1000 kg
    mol = 1 mol
    lx lux = 1 lx
    lm = 1 lx m^2
    Bq = 1 s^-1
    rad = 1 rad
    eq = 1 mol
    """
)
_UNITS: Final = _table(
    """
    °C C degC deg_C Cel celsius Celsius = 1 K + 273.15
    °F F degF deg_F fahrenheit Fahrenheit = 5/9 K + 459.67
    °K degK = 1 K
    % pct percent %RH %rH RH% = 1/100
    ‰ = 1/1000
    ppm = 1/1000000
    ppb = 1/1000000000
    ratio fraction 1 = 1
    us usec = 1/1000000 s
    min minute = 60 s
    h hr hour = 3600 s
    d day = 86400 s
    wk week = 604800 s
    rpm RPM r/min rev/min = 1/60 s^-1
    kph kmh = 5/18 m s^-1
    mph mi/h = 0.44704 m s^-1
    kn kt knot knots = 463/900 m s^-1
    in inch = 0.0254 m
    ft foot = 0.3048 m
    yd = 0.9144 m
    mi mile = 1609.344 m
    psi PSI = 8896443230521/1290320000 kg m^-1 s^-2
    mmHg = 133.322387415 kg m^-1 s^-2
    inHg = 3386.388640341 kg m^-1 s^-2
    Torr torr = 20265/152 kg m^-1 s^-2
    atm = 101325 kg m^-1 s^-2
    hp = 745.69987158227022 kg m^2 s^-3
    cal = 4.184 kg m^2 s^-2
    kcal = 4184 kg m^2 s^-2
    BTU Btu = 1055.05585262 kg m^2 s^-2
    lb lbs = 0.45359237 kg
    oz = 0.028349523125 kg
    gal = 0.003785411784 m^3
    ° deg degree degrees = 0.017453292519943295769 rad
    fc = 100000000/9290304 lx
    """
)
