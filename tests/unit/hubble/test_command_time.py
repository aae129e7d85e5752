from __future__ import annotations

import pytest

from pycilium.cli.hubble_time import format_duration, format_time, parse_duration_ns, parse_time_ns

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", 90 * SECOND),
        ("1h30m", 5400 * SECOND),
        ("1.5s", 3 * SECOND // 2),
        ("250ms", SECOND // 4),
        ("10us", 10_000),
        ("10µs", 10_000),
        ("7ns", 7),
        ("-3s", -3 * SECOND),
        ("+3s", 3 * SECOND),
        (".5m", 30 * SECOND),
        ("0", 0),
    ],
)
def test_durations(text: str, expected: int) -> None:
    assert parse_duration_ns(text) == expected


@pytest.mark.parametrize("text", ["", "5", "1h30", "s", "1x", "1 s", "--3s", "1.2.3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration_ns(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10s", NOW - 10 * SECOND),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.123456789Z", NOW + 123_456_789),
        ("2023-11-14T23:13:20.5+01:00", NOW + SECOND // 2),
        ("2023-11-14T22:13Z", NOW - 20 * SECOND),
        ("2023-11-14T22Z", NOW - 800 * SECOND),
        ("2023-11-14", 1_699_920_000 * SECOND),
        ("Tue, 14 Nov 2023 22:13:20 +0000", NOW),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time_ns(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "soon", "2023-13-01", "2023-11-14T25:00:00Z", "2023-11-14 22:13:20", "12:00"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: a duration such as"):
        parse_time_ns(text, NOW)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("StampMilli", "Nov  4 22:13:20.120"),
        ("YearMonthDay", "2023-11-04"),
        ("YearMonthDayHour", "2023-11-04T22Z"),
        ("YearMonthDayHourMinute", "2023-11-04T22:13Z"),
        ("RFC3339", "2023-11-04T22:13:20Z"),
        ("RFC3339Milli", "2023-11-04T22:13:20.12Z"),
        ("RFC3339Micro", "2023-11-04T22:13:20.12Z"),
        ("RFC3339Nano", "2023-11-04T22:13:20.120000001Z"),
        ("RFC1123Z", "Sat, 04 Nov 2023 22:13:20 +0000"),
    ],
)
def test_forms_of_times(name: str, expected: str) -> None:
    assert format_time(name, 1_699_136_000, 120_000_001) == expected


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "0s"),
        (12, "12ns"),
        (1_500, "1.5µs"),
        (2_000_000, "2ms"),
        (1_315_467_343, "1.315467343s"),
        (65 * SECOND, "1m5s"),
        (3600 * SECOND, "1h0m0s"),
        (90_061 * SECOND, "25h1m1s"),
    ],
)
def test_forms_of_durations(nanoseconds: int, expected: str) -> None:
    assert format_duration(nanoseconds) == expected
