"""Parse the times of a log as whole microseconds since 1970 in UTC.

Numbers are seconds, milliseconds, microseconds or nanoseconds. Text may also be ISO 8601, in UTC if
no zone is given. The unit is set in the config or, with `auto`, detected from the first time of the
log. A number's unit is detected from its size:

    below 10^11 seconds   below 10^14 milliseconds   below 10^17 microseconds   above nanoseconds

These are seconds up to the year 5138, and finer units from 1973 on. A later time of another kind is
an error, so that the result does not depend on the order of the lines.
"""

import datetime
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute

from genrec_jax.core.errors import InputError

pc: Any = pyarrow.compute  # its functions are defined at import time, unknown to type checkers

UNITS = ("auto", "s", "ms", "us", "ns", "iso")
POSITIONS = "positions"  # positions in a line, used as seconds if the log has no times
# Microseconds per unit.
MICROSECONDS = {POSITIONS: 1_000_000, "s": 1_000_000, "ms": 1000, "us": 1}
# The sizes of numbers of each unit: from the first (included) to the second (excluded).
BANDS = {"s": (0, 10**11), "ms": (10**11, 10**14), "us": (10**14, 10**17), "ns": (10**17, 10**19)}
UNIT_NAMES = {
    POSITIONS: "positions in a line",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
# The years 1 to 9999, in microseconds.
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999

ISO_ZONE = r"[0-9](?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
ISO_DATE_ONLY = 10  # characters of 2019-12-31, whose '-31' is not a zone


class MixedTimes(InputError):
    """A log has several kinds of times.

    Attributes:
        row: the first row of the array with a time of another kind.
    """

    def __init__(self, row: int, text: str):
        super().__init__(text)
        self.row = row


class Clock:
    """Parse the times of one log, array by array, all in the same unit.

    Attributes:
        requested: the unit in the config.
        unit: the unit in use; "" if it is `auto` and has not been detected yet.
        zone_assumed: whether UTC was assumed for times without a zone.
    """

    def __init__(self, unit: str):
        """Start before the first time.

        Args:
            unit: one of UNITS, or POSITIONS.
        """
        self.requested = unit
        self.unit = "" if unit == "auto" else unit
        self.zone_assumed = False

    def microseconds(self, times: pa.Array) -> pa.Array:
        """Convert times to microseconds (int64), null where one is missing or cannot be parsed.

        Args:
            times: strings, integers, floats, timestamps or dates.

        Raises:
            MixedTimes: with unit `auto`, a time of another kind than the first.
        """
        if pa.types.is_temporal(times.type):
            self.unit = "iso"
            self.zone_assumed |= getattr(times.type, "tz", None) is None
            return self._in_range(_timestamps(times))
        if not self.unit:
            self.unit = _detect_unit(times)
            if not self.unit:  # no time of this array can be parsed
                return pa.nulls(len(times), pa.int64())
        if self.unit == "iso":
            parsed = self._iso(times)
            if self.requested == "auto" and parsed.null_count:
                self._refuse_other_kind(times, parsed, _numbers)
            return self._in_range(parsed)
        numbers = _numbers(times)
        if self.requested == "auto":
            if numbers.null_count and pa.types.is_string(times.type):
                self._refuse_other_kind(times, numbers, _iso_or_null)
            self._check_band(times, numbers)
        return self._in_range(_scaled(numbers, self.unit))

    def _iso(self, times: pa.Array) -> pa.Array:
        """Convert ISO 8601 text to microseconds, and note whether UTC was assumed."""
        if not pa.types.is_string(times.type):
            return pa.nulls(len(times), pa.int64())
        parsed = _iso_or_null(times)
        if not self.zone_assumed:
            bare = pc.and_(pc.is_valid(parsed), pc.invert(_has_zone(times)))
            self.zone_assumed = bool(pc.any(bare, min_count=0).as_py())
        return parsed

    def _refuse_other_kind(
        self, times: pa.Array, parsed: pa.Array, otherwise: Callable[[pa.Array], pa.Array]
    ) -> None:
        """Raise MixedTimes if a time that was not parsed can be parsed as another kind."""
        rows = pc.indices_nonzero(pc.is_null(parsed))
        found = pc.index(pc.is_valid(otherwise(times.take(rows))), True).as_py()
        if found >= 0:
            row = rows[found].as_py()
            raise MixedTimes(row, f"found time {times[row].as_py()!r}, expected {self.described}")

    def _check_band(self, times: pa.Array, numbers: pa.Array) -> None:
        """Raise MixedTimes if a number has the size of another unit."""
        low, high = BANDS[self.unit]
        size = pc.abs(pc.cast(numbers, pa.float64(), safe=False))
        outside = pc.or_(pc.less(size, float(low)), pc.greater_equal(size, float(high)))
        row = pc.index(pc.fill_null(outside, False), True).as_py()
        if row >= 0:
            raise MixedTimes(
                row,
                f"found time {times[row].as_py()!r}, expected {self.described}; or set "
                "config.log.time_unit",
            )

    @property
    def described(self) -> str:
        """A phrase for the kind of times in this log, for messages."""
        origin = "" if self.requested != "auto" else ", like the log's first time"
        return f"{UNIT_NAMES.get(self.unit, 'ISO 8601')}{origin}"

    @staticmethod
    def _in_range(times: pa.Array) -> pa.Array:
        """Replace times outside the years 1 to 9999 with null."""
        inside = pc.and_(pc.greater_equal(times, EARLIEST), pc.less_equal(times, LATEST))
        return pc.if_else(inside, times, pa.scalar(None, pa.int64()))


def parse_instant(text: str, key: str) -> int | None:
    """Parse the start or end of a time window as microseconds since 1970; None for "".

    Args:
        text: an ISO 8601 date or time, or "".
        key: the config key of the text, for the error message.

    Raises:
        InputError: the text cannot be parsed.
    """
    if not text:
        return None
    parsed = _iso_or_null(pa.array([text]))
    if parsed.null_count:
        raise InputError(
            f"{key}: found {text!r}, expected a date or time such as 2019-12-31 23:59:59"
        )
    return parsed[0].as_py()


def write_instant(microseconds: int) -> str:
    """Format microseconds since 1970 as `2019-12-31 23:59:59`."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=microseconds)
    return moment.isoformat(sep=" ", timespec="seconds")


def _detect_unit(times: pa.Array) -> str:
    """Return the unit of the first time that can be parsed; "" if none can."""
    for row in range(len(times)):
        one = times.slice(row, 1)
        number = _numbers(one)[0].as_py()
        if number is not None:
            return next((unit for unit, (_, high) in BANDS.items() if abs(number) < high), "s")
        if pa.types.is_string(times.type) and _iso_or_null(one)[0].is_valid:
            return "iso"
    return ""


def _iso_or_null(times: pa.Array) -> pa.Array:
    """Convert ISO 8601 text to microseconds, null where it cannot be parsed."""
    return _convert_by_bisection(_iso_microseconds, times)


def _convert_by_bisection(convert: Callable[[pa.Array], pa.Array], values: pa.Array) -> pa.Array:
    """Convert all values by bisection, with null for values that `convert` rejects."""
    try:
        return convert(values)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return pa.nulls(1, pa.int64())
    middle = len(values) // 2
    halves = [_convert_by_bisection(convert, half) for half in (values[:middle], values[middle:])]
    if len({half.type for half in halves}) > 1:  # floats in one half only
        halves = [half.cast(pa.float64(), safe=False) for half in halves]
    return pa.concat_arrays(halves)


def _numbers(times: pa.Array) -> pa.Array:
    """Return numbers as int64, or float64 if some have decimals; null for other values."""
    if pa.types.is_integer(times.type):
        return times.cast(pa.int64())
    if pa.types.is_floating(times.type):
        finite = pc.is_finite(times)
        return pc.if_else(finite, times.cast(pa.float64()), pa.scalar(None, pa.float64()))
    return _convert_by_bisection(_text_numbers, times)


def _text_numbers(times: pa.Array) -> pa.Array:
    """Convert text to int64 or, if that fails, to finite float64."""
    try:
        return times.cast(pa.int64())
    except pa.ArrowInvalid:
        numbers = times.cast(pa.float64())
        if not pc.all(pc.is_finite(numbers), min_count=0).as_py():
            raise
        return numbers


def _scaled(numbers: pa.Array, unit: str) -> pa.Array:
    """Convert numbers of a unit to microseconds, null outside the years 1 to 9999."""
    low, high = EARLIEST, LATEST
    if unit == "ns":
        if pa.types.is_floating(numbers.type):
            return pc.floor(pc.divide(numbers, 1000.0)).cast(pa.int64())
        return pc.divide(pc.subtract(numbers, _remainder(numbers)), 1000)
    factor = MICROSECONDS[unit]
    in_range = pc.and_(pc.greater(numbers, low // factor), pc.less(numbers, high // factor))
    numbers = pc.if_else(in_range, numbers, pa.scalar(None, numbers.type))
    scaled = pc.multiply(numbers, pa.scalar(factor, numbers.type))
    if pa.types.is_floating(scaled.type):
        scaled = pc.round(scaled).cast(pa.int64())
    return scaled


def _remainder(numbers: pa.Array) -> pa.Array:
    """Return the nanoseconds after the last whole microsecond, from 0 to 999."""
    towards_zero = pc.subtract(numbers, pc.multiply(pc.divide(numbers, 1000), 1000))
    return pc.if_else(pc.less(towards_zero, 0), pc.add(towards_zero, 1000), towards_zero)


def _has_zone(times: pa.Array) -> pa.Array:
    """Return whether each ISO 8601 text ends with a time zone."""
    zone = pc.match_substring_regex(times, ISO_ZONE)
    return pc.and_(zone, pc.greater(pc.binary_length(times), ISO_DATE_ONLY))


def _iso_microseconds(times: pa.Array) -> pa.Array:
    """Convert ISO 8601 text, all with or all without zones, to microseconds; raise if invalid."""
    zoned = pc.fill_null(_has_zone(times), False)
    if not pc.any(zoned, min_count=0).as_py():
        return times.cast(pa.timestamp("us")).cast(pa.int64())
    if not pc.all(zoned, min_count=0).as_py():
        raise pa.ArrowInvalid("found times with and without zones")  # bisection separates them
    return times.cast(pa.timestamp("us", "UTC")).cast(pa.int64())


def _timestamps(times: pa.Array) -> pa.Array:
    """Convert timestamps or dates to microseconds."""
    zone = getattr(times.type, "tz", None)
    return times.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
