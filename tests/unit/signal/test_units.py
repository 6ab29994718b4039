"""Units, held to the library pint."""

from __future__ import annotations

import pint
import pytest

from atoll_signal.units import conversion

REGISTRY = pint.UnitRegistry()
ALIKE = [
    ("°C", "K", "degC", "kelvin"),
    ("degF", "Cel", "degF", "degC"),
    ("℉", "K", "degF", "kelvin"),
    ("mK", "°F", "millikelvin", "degF"),
    ("hPa", "psi", "hPa", "psi"),
    ("mbar", "kPa", "millibar", "kPa"),
    ("inHg", "mmHg", "inHg", "mmHg"),
    ("atm", "Torr", "atm", "torr"),
    ("km/h", "m/s", "km/h", "m/s"),
    ("kn", "mph", "knot", "mph"),
    ("ft/s", "m·s⁻¹", "ft/s", "m/s"),
    ("kW", "hp", "kW", "hp"),
    ("kWh", "MJ", "kWh", "MJ"),
    ("Wh", "kcal", "Wh", "kcal"),
    ("BTU", "kJ", "Btu_it", "kJ"),
    ("in", "µm", "inch", "um"),
    ("mi", "yd", "mile", "yard"),
    ("m/s²", "mg", "m/s**2", "milli_g_0"),
    ("%", "ratio", "percent", "dimensionless"),
    ("ppm", "‰", "ppm", "permille"),
    ("d", "min", "day", "minute"),
    ("us", "ms", "us", "ms"),
    ("rpm", "Hz", "1/min", "1/s"),
    ("kHz", "MHz", "kHz", "MHz"),
    ("mV", "uV", "mV", "uV"),
    ("μA", "mA", "uA", "mA"),
    ("mAh", "A.s", "mA*h", "A*s"),
    ("kΩ", "Ohm", "kohm", "ohm"),
    ("mS/cm", "µS/m", "mS/cm", "uS/m"),
    ("µg/m³", "mg/m3", "ug/m**3", "mg/m**3"),
    ("mg/L", "kg/m^3", "mg/L", "kg/m**3"),
    ("lx", "fc", "lux", "lumen/ft**2"),
    ("m3/h", "L/min", "m**3/h", "L/min"),
    ("gal", "l", "gallon", "L"),
    ("lb", "kg", "lb", "kg"),
    ("°", "rad", "degree", "rad"),
    ("kN", "N", "kN", "N"),
    ("N·m", "kJ", "N*m", "kJ"),
    ("W/m²", "mW/cm2", "W/m**2", "mW/cm**2"),
    ("°C/min", "K/s", "delta_degC/min", "kelvin/s"),
    ("mT", "T", "mT", "T"),
]


def in_pint(unit: str) -> tuple[float, object]:
    return (1e-3 * 9.80665, REGISTRY("m/s**2").units) if unit == "milli_g_0" else (1.0, REGISTRY(unit).units)


@pytest.mark.parametrize(("sent", "needed", "theirs", "wanted"), ALIKE)
@pytest.mark.parametrize("number", [0.0, 1.0, -40.0, 1234.5])
def test_a_conversion_gives_what_pint_gives(sent, needed, theirs, wanted, number):
    (one, from_unit), (other, to_unit) = in_pint(theirs), in_pint(wanted)
    expected = REGISTRY.Quantity(number * one, from_unit).to(to_unit).magnitude / other

    change = conversion(sent, needed)

    assert change is not None
    assert number * change.scale + change.offset == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("sent", "needed"),
    [
        ("°C", "Cel"),
        ("µA", "uA"),
        ("%", "%RH"),
        ("kWh", "kW.h"),
        ("g/L", "kg/m3"),
        ("L", "l"),
        ("x", "x"),
        (None, None),
    ],
)
def test_other_spellings_of_a_unit_need_no_conversion(sent, needed):
    assert conversion(sent, needed) is None


@pytest.mark.parametrize(
    ("sent", "needed", "told"),
    [
        ("°C", "%", "'°C' cannot become '%'"),
        ("V", "A", "'V' cannot become 'A'"),
        ("dBm", "V", "'dBm' cannot become 'V'"),
        ("kWh", "kW", "'kWh' cannot become 'kW'"),
        ("", "m", "'' cannot become 'm'"),
        ("m//", "m", "'m//' cannot become 'm'"),
        (None, "°C", "a number without a unit cannot become '°C': give both a unit, or neither"),
        ("°C", None, "'°C' cannot become a number without a unit"),
    ],
)
def test_what_cannot_be_converted_is_refused(sent, needed, told):
    with pytest.raises(ValueError, match=r"cannot become") as caught:
        conversion(sent, needed)

    assert str(caught.value).startswith(told)


def test_there_and_back_is_where_it_began():
    for sent, needed, *_ in ALIKE:
        there, back = conversion(sent, needed), conversion(needed, sent)

        assert there is not None
        assert back is not None
        assert (21.5 * there.scale + there.offset) * back.scale + back.offset == pytest.approx(21.5)
