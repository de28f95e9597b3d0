"""Times of every kind, compared with Python's datetime."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_jax.core.errors import InputError
from genrec_jax.data.prepare.times import EARLIEST, LATEST, Clock, MixedTimes, parse_instant

EPOCH = datetime.datetime(1970, 1, 1)
MOMENT = 1_577_786_400_250_000  # 2019-12-31 10:00:00.25


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("iso", "2019-12-31 10:00:00.25", MOMENT),
        ("iso", "2019-12-31T10:00:00.25Z", MOMENT),
        ("iso", "2019-12-31T12:00:00.25+02:00", MOMENT),
        ("iso", "2019-12-31T04:30:00.25-0530", MOMENT),
        ("iso", "2019-12-31", 1_577_750_400_000_000),
        ("iso", "2019-02-30", None),
        ("iso", "31.12.2019", None),
        ("iso", "1577786400", None),
        ("s", "1577786400.25", MOMENT),
        ("s", "1577786400", MOMENT - 250_000),
        ("s", "-1", -1_000_000),
        ("s", "1577786400250", None),  # the year 51968
        ("ms", "1577786400250", MOMENT),
        ("us", str(MOMENT), MOMENT),
        ("ns", str(MOMENT * 1000 + 999), MOMENT),
        ("ns", "-1", -1),  # rounded down, like all other times
        ("s", "", None),
        ("s", "nan", None),
        ("s", "1e400", None),
        ("auto", "1577786400", MOMENT - 250_000),
        ("auto", "1577786400250", MOMENT),
        ("auto", str(MOMENT), MOMENT),
        ("auto", str(MOMENT * 1000), MOMENT),
        ("auto", "2019-12-31 10:00:00.25", MOMENT),
        ("auto", "soon", None),
    ],
)
def test_one_time(unit: str, text: str, expected: int | None) -> None:
    assert Clock(unit).microseconds(pa.array([text])).to_pylist() == [expected]


@given(st.lists(st.integers(EARLIEST, LATEST), min_size=1, max_size=20))
def test_iso_text_is_parsed_exactly(moments: list[int]) -> None:
    texts = [(EPOCH + datetime.timedelta(microseconds=moment)).isoformat() for moment in moments]
    assert Clock("iso").microseconds(pa.array(texts)).to_pylist() == moments


def test_only_the_invalid_time_of_many_becomes_null() -> None:
    times = [str(1_500_000_000 + n) for n in range(1000)]
    times[617] = "?"
    parsed = Clock("auto").microseconds(pa.array(times)).to_pylist()
    assert parsed == [None if n == 617 else (1_500_000_000 + n) * 10**6 for n in range(1000)]


@pytest.mark.parametrize(
    "times",
    [
        ["1577786400", "1577786400250"],
        ["1577786400250", "1577786400"],
        ["1577786400", "2019-12-31"],
        ["2019-12-31", "1577786400"],
    ],
)
@pytest.mark.parametrize("one_array", [True, False])
def test_two_kinds_of_time_are_refused_in_either_order(times: list[str], one_array: bool) -> None:
    clock = Clock("auto")
    if not one_array:
        clock.microseconds(pa.array(times[:1]))
        times = times[1:]
    with pytest.raises(MixedTimes) as error:
        clock.microseconds(pa.array(times))
    assert error.value.row == len(times) - 1


def test_columns_of_other_types_than_text() -> None:
    moment = EPOCH + datetime.timedelta(microseconds=MOMENT)
    for column, expected in (
        (pa.array([moment, None]), [MOMENT, None]),
        (pa.array([moment], pa.timestamp("ns", "Europe/Berlin")), [MOMENT]),
        (pa.array([moment.date()]), [1_577_750_400_000_000]),
        (pa.array([1577786400.25, None, float("inf")]), [MOMENT, None, None]),
        (pa.array([1577786400, None], pa.int32()), [MOMENT - 250_000, None]),
    ):
        assert Clock("auto").microseconds(column).to_pylist() == expected


def test_the_clock_records_whether_utc_was_assumed() -> None:
    for text, assumed in (("2019-12-31", True), ("2019-12-31T01:02:03Z", False), ("?", False)):
        clock = Clock("iso")
        clock.microseconds(pa.array([text]))
        assert clock.zone_assumed is assumed


def test_the_ends_of_the_time_window() -> None:
    assert parse_instant("", "config.log.since") is None
    assert parse_instant("2019-12-31 10:00:00.25", "config.log.since") == MOMENT
    with pytest.raises(InputError, match=r"config\.log\.since: found 'soon'"):
        parse_instant("soon", "config.log.since")
