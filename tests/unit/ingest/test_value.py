"""Values as devices write them: numbers in text, words, registers; what is missing is never zero."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_ingest.registers import Register, RegisterKind
from atoll_ingest.spelling import spelt_alike
from atoll_ingest.value import ValueForm


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (3, 3.0),
        (3.5, 3.5),
        (True, 1.0),
        (False, 0.0),
        ("21.5", 21.5),
        (" +21.5\n", 21.5),
        ("2.15e1", 21.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-0", 0.0),
        ("ON", 1.0),
        ("off", 0.0),
        ("Open", 1.0),
        ("CLOSED", 0.0),
        (b"on", 1.0),
        (Decimal("1.5"), 1.5),
        ([1, 2.5], [1.0, 2.5]),
    ],
)
def test_what_is_a_number(written: object, number: object) -> None:
    assert ValueForm().value("x", written) == number


@pytest.mark.parametrize(
    "written",
    [None, math.nan, "", " ", "-", "nan", "NaN", "null", "None", "unavailable", "Unknown", "n/a"],
)
def test_what_is_missing_is_not_zero(written: object) -> None:
    assert ValueForm().value("x", written) is None


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("warm", Reason.MALFORMED_PAYLOAD),
        ("21,5", Reason.MALFORMED_PAYLOAD),
        ("21.5 °C", Reason.MALFORMED_PAYLOAD),
        ("1_000", Reason.MALFORMED_PAYLOAD),
        ("0x10", Reason.MALFORMED_PAYLOAD),
        ("٣", Reason.MALFORMED_PAYLOAD),
        ("9" * 5000, Reason.MALFORMED_PAYLOAD),
        ({}, Reason.MALFORMED_PAYLOAD),
        ([1, "2"], Reason.MALFORMED_PAYLOAD),
        (math.inf, Reason.NOT_FINITE),
        ("1e999", Reason.NOT_FINITE),
        (10**400, Reason.NOT_FINITE),
        ([1.0, math.inf], Reason.NOT_FINITE),
    ],
)
def test_what_is_no_number_is_refused(written: object, reason: Reason) -> None:
    with pytest.raises(MalformedMessageError, match="x") as caught:
        ValueForm().value("x", written)

    assert caught.value.reason is reason


def test_a_decimal_comma_counts_where_it_is_declared_and_a_point_then_parts_thousands() -> None:
    form = ValueForm(decimal=",")

    assert form.value("x", "21,5") == 21.5
    with pytest.raises(MalformedMessageError):
        form.value("x", "1.234")


def test_a_suffix_may_follow_where_it_is_declared() -> None:
    form = ValueForm(suffix="°C")

    assert [form.value("x", text) for text in ("21.5 °C", "21.5°C", "21.5", "°C")] == [21.5, 21.5, 21.5, None]
    with pytest.raises(MalformedMessageError):
        form.value("x", "70 °F")


def test_words_and_missing_words_of_the_settings_count_first() -> None:
    form = ValueForm(words={"heating": 1.0, "off": -1.0}, missing=frozenset({"err"}))

    assert [form.value("x", text) for text in ("Heating", "OFF", "ERR")] == [1.0, -1.0, None]


def test_a_number_that_stands_for_no_value_does_so_however_it_is_written() -> None:
    form = ValueForm(missing=frozenset({"err", "-999"}), scale=0.5)

    assert [form.value("x", sent) for sent in (-999, -999.0, "-999.00", " -9.99e2", "ERR")] == [None] * 5
    assert [form.value("x", sent) for sent in (-998, "999", True)] == [-499.0, 499.5, 0.5]
    assert ValueForm(missing=frozenset({"-9,5"}), decimal=",").value("x", -9.5) is None
    assert ValueForm(missing=frozenset({"-9 °c"}), suffix="°C").value("x", "-9°C") is None


@pytest.mark.parametrize(
    ("marker", "sent"),
    [
        ("-999.9", Decimal("-999.9")),
        ("-999.9", Fraction(-9999, 10)),
        ("-999.9", -999.9000244140625),  # the nearest in float32
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_number_that_stands_for_no_value_does_so_in_every_type(marker: str, sent: object) -> None:
    assert ValueForm(missing=frozenset({marker})).value("x", sent) is None


def test_false_is_no_number_that_stands_for_no_value() -> None:
    assert ValueForm(missing=frozenset({"0"})).value("x", found=False) == 0.0


def test_a_decimal_that_is_no_number_is_refused() -> None:
    with pytest.raises(MalformedMessageError):
        ValueForm().value("x", Decimal("sNaN"))


def test_scale_and_offset_also_count_for_arrays_and_not_for_what_is_missing() -> None:
    form = ValueForm(scale=0.5, offset=10.0)

    assert form.value("x", 4) == 12.0
    assert form.value("x", [[2], [4.0]]) == [[11.0], [12.0]]
    assert form.value("x", None) is None
    with pytest.raises(MalformedMessageError):
        ValueForm(scale=10.0).value("x", 1e308)


@given(st.one_of(st.text(), st.binary(), st.floats(), st.integers(), st.lists(st.floats())))
def test_anything_is_a_finite_number_missing_or_refused(written: object) -> None:
    try:
        value = ValueForm().value("x", written)
    except MalformedMessageError:
        return
    assert value is None or all(
        math.isfinite(number) for number in (value if isinstance(value, list) else [value])
    )


# Registers. 16617, 39322 are the bytes 40 E9 99 9A: 7.3 as float32.


@pytest.mark.parametrize(
    ("register", "number"),
    [
        (Register(0, RegisterKind.FLOAT32), 7.3),
        (Register(2, RegisterKind.FLOAT32, is_low_first=True), 7.3),
        (Register(4), 65523.0),
        (Register(4, RegisterKind.INT16), -13.0),
        (Register(4, RegisterKind.INT32), -851967.0),
        (Register(4, RegisterKind.UINT32), 4294115329.0),
    ],
)
def test_registers_hold_numbers_of_several_words(register: Register, number: float) -> None:
    block = [16617, 39322, 39322, 16617, 65523, 1]

    assert register.read("x", block, 0) == pytest.approx(number, rel=1e-7)
    assert register.read("x", str(block), 0) == pytest.approx(number, rel=1e-7)


def test_registers_are_counted_from_the_first_one_that_is_sent() -> None:
    assert Register(3001).read("x", [1, 2, 3], 3000) == 2.0


@pytest.mark.parametrize(
    ("block", "first"),
    [([1, 2], 3001), ([1], 3000), ([1, 70000], 3000), ("[1", 3000), ({}, 3000), ([1, "2"], 3000), (7, 3000)],
)
def test_registers_that_are_not_there_are_refused(block: object, first: int) -> None:
    with pytest.raises(MalformedMessageError):
        Register(3000, RegisterKind.UINT32).read("x", block, first)


def test_units_may_be_spelt_in_several_ways_and_not_be_mistaken() -> None:
    assert spelt_alike("C", "°C")
    assert spelt_alike("%RH", "%")
    assert not spelt_alike("F", "°C")
    assert not spelt_alike("mV", "MV")
