"""What a CSV file is taken for."""

from __future__ import annotations

import pytest

from atoll_contract.errors import ConfigError
from atoll_trainer.csv_guess import Form, guess


def guessed(tmp_path, text, **given):
    path = tmp_path / "a.csv"
    path.write_text(text)
    return guess(path, **given)


def test_a_decimal_comma_and_a_date_beside_its_time(tmp_path):
    text = "Date;Time;CO;T;;\n10/03/2004;18.00.00;2,6;13,6;;\n31/03/2004;19.00.00;-200;13,3;;\n;;;;;\n"

    assert guessed(tmp_path, text) == Form(";", ",", ("Date", "Time"), "%d/%m/%Y %H.%M.%S", ("CO", "T"), ())


@pytest.mark.parametrize(
    ("times", "found"),
    [
        (["2020-01-01 00:00:00", "2020-01-02T00:00:01Z"], "iso8601"),
        (["31.12.2020 23:59", "01.01.2021 00:00"], "%d.%m.%Y %H:%M"),
        (["12/31/2020 11:59 PM", "01/01/2021 01:00 AM"], "%m/%d/%Y %I:%M %p"),
        (["1609459199", "1609459200"], "auto"),
        (["1609459199000", "1609459200000"], "auto"),
    ],
)
def test_times_by_their_cells(tmp_path, times, found):
    form = guessed(tmp_path, "x,time\n" + "".join(f"1.5,{time}\n" for time in times))

    assert (form.time, form.time_format, form.numbers) == (("time",), found, ("x",))


def test_a_day_that_may_be_a_month_is_asked_for(tmp_path):
    text = "day,x\n04/01/2016 0:00,1\n05/01/2016 0:00,2\n"

    with pytest.raises(ConfigError, match=r"'04/01/2016 0:00' may be .*: say which with --time-format"):
        guessed(tmp_path, text)
    assert guessed(tmp_path, text, time_format="%d/%m/%Y %H:%M").time == ("day",)


def test_without_times_there_are_numbers_and_texts_only(tmp_path):
    form = guessed(tmp_path, "id\tkind\tx\n1\tL\t0.5\n2\tM\tnan\n")

    assert form == Form("\t", ".", (), "iso8601", ("id", "x"), ("kind",))
