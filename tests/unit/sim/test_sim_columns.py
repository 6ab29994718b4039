"""From CSV rows to readings: cells, times, survey and pace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.errors import ConfigError, MalformedMessageError, Reason
from atoll_link.csv_columns import Columns, Row, RowReader
from atoll_link.csv_file import Line
from atoll_sim.pace import Pace
from atoll_sim.survey import MAX_NAMED, Survey, readable, survey

HEADER = ["device", "day", "hour", "t", "p", "good"]
COLUMNS = Columns(
    time=["day", "hour"], values={"temperature": "t", "pressure": "p"}, device="m-1", label="good"
)
READER = RowReader(COLUMNS, HEADER)
AT_MS = 1_386_018_900_000.0


def cells(
    *, day: str = "2013-12-02", hour: str = "21:15:00", t: str = "73.9", p: str = "1", good: str = "1"
) -> list[str]:
    return ["Press 1", day, hour, t, p, good]


def reader(header: list[str] = HEADER, **changes: object) -> RowReader:
    given_ = {
        "time": ["day", "hour"],
        "values": {"temperature": "t", "pressure": "p"},
        "device": "m-1",
    } | changes
    return RowReader(Columns(**given_), header)  # type: ignore[arg-type]


class TestRows:
    def test_a_row_is_a_reading_with_its_label(self) -> None:
        row = READER.read(2, cells())

        assert row == Row(2, "m-1", AT_MS, {"temperature": 73.9, "pressure": 1.0}, 1.0)

    @pytest.mark.parametrize("missing", ["", "nan", "NaN"])
    def test_a_missing_value_is_left_out(self, missing: str) -> None:
        assert READER.read(2, cells(t=missing)).values == {"pressure": 1.0}

    def test_a_missing_label_is_no_label(self) -> None:
        assert READER.read(2, cells(good="")).label is None

    def test_more_marks_of_a_missing_number_may_be_named(self) -> None:
        assert reader(missing=frozenset({"-200", "N/A"})).read(2, cells(t="-200")).values == {"pressure": 1.0}
        assert reader(missing=frozenset({"-200", "N/A"})).read(2, cells(p="n/a")).values == {
            "temperature": 73.9
        }

    def test_a_device_column_names_the_device_as_an_id(self) -> None:
        assert reader(device_column="device").read(2, cells()).device == "Press--201"

    def test_a_decimal_comma_is_read(self) -> None:
        assert reader(decimal=",").read(2, cells(t="73,9")).values["temperature"] == 73.9

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (None, Reason.MALFORMED_PAYLOAD),
            (["", "", "", "", "", ""], Reason.MISSING_VALUE),
            (["Press 1", "2013-12-02", "21:15:00", "1"], Reason.WRONG_SHAPE),
            (cells(day="yesterday"), Reason.BAD_TIME),
            (cells(day="1914-12-02"), Reason.BAD_TIME),
            (cells(t="warm"), Reason.MALFORMED_PAYLOAD),
            (cells(t="1_000"), Reason.MALFORMED_PAYLOAD),
            (cells(t="1,5"), Reason.MALFORMED_PAYLOAD),
            (cells(t="inf"), Reason.NOT_FINITE),
            (cells(t="1e999"), Reason.NOT_FINITE),
            (cells(t="", p="nan"), Reason.MISSING_VALUE),
            (cells(good="yes"), Reason.MALFORMED_PAYLOAD),
        ],
    )
    def test_a_row_that_cannot_be_read_says_why(self, bad: list[str] | None, reason: Reason) -> None:
        with pytest.raises(MalformedMessageError) as refusal:
            READER.read(2, bad)

        assert refusal.value.reason is reason

    def test_with_a_decimal_comma_a_point_is_no_decimal_sign(self) -> None:
        # 1.234 would be 1234 to whoever wrote it.
        with pytest.raises(MalformedMessageError):
            reader(decimal=",").read(2, cells(t="1.234"))

    def test_a_device_whose_name_cannot_be_an_id_is_refused_by_reason(self) -> None:
        with pytest.raises(MalformedMessageError) as refusal:
            reader(device_column="device").read(2, ["x" * 49, *cells()[1:]])

        assert refusal.value.reason is Reason.MALFORMED_TOPIC

    @given(st.lists(st.text(max_size=20), max_size=8))
    def test_any_cells_are_a_row_or_refused(self, any_cells: list[str]) -> None:
        try:
            row = READER.read(2, any_cells)
        except MalformedMessageError:
            return
        assert row.values


class TestTimes:
    @pytest.mark.parametrize(
        ("written", "time_format"),
        [
            ("2013-12-02 21:15:00", "iso8601"),
            ("2013-12-02T21:15:00Z", "iso8601"),
            ("2013-12-02T22:15:00+01:00", "iso8601"),
            ("1386018900", "s"),
            ("1386018900000", "ms"),
            ("1386018900000000", "us"),
            ("1386018900000000000", "ns"),
            ("02/12/2013 21.15.00", "%d/%m/%Y %H.%M.%S"),
            ("02/12/2013 22:15 +0100", "%d/%m/%Y %H:%M %z"),
        ],
    )
    def test_a_time_may_be_written_in_many_ways(self, written: str, time_format: str) -> None:
        row = reader(time=["day"], time_format=time_format).read(2, cells(day=written))

        assert row.time_ms == AT_MS

    @pytest.mark.parametrize("time_format", ["s", "ms", "%d/%m/%Y"])
    @pytest.mark.parametrize("written", ["", "nan", "inf", "soon", "1e300", "99/99/2013"])
    def test_a_time_that_is_none_is_refused_by_reason(self, written: str, time_format: str) -> None:
        with pytest.raises(MalformedMessageError) as refusal:
            reader(time=["day"], time_format=time_format).read(2, cells(day=written))

        assert refusal.value.reason is Reason.BAD_TIME


class TestHeader:
    def test_all_columns_that_are_not_there_are_named(self) -> None:
        with pytest.raises(ConfigError) as refusal:
            reader(time=["when"], values={"temperature": "tt", "pressure": "p"})

        assert refusal.value.faults == [
            "column 'when' is not in the header: 'device', 'day', 'hour', 't', 'p', 'good'",
            "column 'tt' is not in the header: 'device', 'day', 'hour', 't', 'p', 'good'",
        ]

    def test_a_column_that_stands_twice_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="'t' stands 2 times"):
            reader(header=[*HEADER, "t"])


class TestSurvey:
    def lines(self, *rows: list[str] | None) -> list[Line]:
        return [Line(number, row) for number, row in enumerate(rows, start=2)]

    def survey(self, *rows: list[str] | None, reader: RowReader = READER) -> Survey:
        return survey(readable(self.lines(*rows), reader))

    def test_rows_are_counted_and_bad_ones_named(self) -> None:
        found = self.survey(cells(), cells(t="warm"), None, cells(good=""), cells(day="x"))

        assert (found.rows, found.readings, found.labels) == (5, 2, 1)
        assert found.skipped == {"malformed_payload": 2, "bad_time": 1}
        assert [(refusal.line, refusal.reason) for refusal in found.refusals] == [
            (3, "malformed_payload"),
            (4, "malformed_payload"),
            (6, "bad_time"),
        ]

    def test_only_the_first_bad_rows_are_kept(self) -> None:
        found = self.survey(*[cells(t="warm")] * 100)

        assert found.skipped.total() == 100
        assert len(found.refusals) == MAX_NAMED

    def test_a_step_back_is_named_by_its_line_in_the_file_bad_rows_counted(self) -> None:
        found = self.survey(
            cells(hour="01:00:00"),  # line 2
            cells(hour="at noon"),
            cells(hour="02:00:00"),
            cells(hour="01:10:00"),  # line 5
            cells(hour="01:50:00"),
            cells(hour="02:10:00"),
        )

        (step,) = found.steps_back
        assert (step.device, step.step.row, step.step.readings) == ("m-1", 5, 2)
        assert step.step.from_ms - step.step.to_ms == 50 * 60_000
        assert found.span_s == (60 + 40 + 20) * 60

    def test_devices_whose_rows_follow_each_other_do_not_step_back(self) -> None:
        by_device = reader(device_column="device")
        first, second = cells(hour="01:00:00"), cells(hour="02:00:00")

        found = self.survey(first, second, ["b", *first[1:]], ["b", *second[1:]], reader=by_device)

        assert found.steps_back == []


class TestPace:
    def test_rows_are_due_by_the_files_own_times_and_steps_back_take_none(self) -> None:
        pace = Pace(2.0)

        # file    0     10    5 (back)  7     7
        # due     0     5     5         6     6
        times_s = (100.0, 110.0, 105.0, 107.0, 107.0)
        assert [pace.due_s(time_s * 1e3) for time_s in times_s] == [0.0, 5.0, 5.0, 6.0, 6.0]

    @given(st.lists(st.floats(0, 1e12), min_size=1), st.floats(0.01, 1000))
    def test_due_times_never_run_back(self, times_ms: list[float], speed: float) -> None:
        pace = Pace(speed)

        due = [pace.due_s(time_ms) for time_ms in times_ms]

        assert due[0] == 0.0
        assert due == sorted(due)
