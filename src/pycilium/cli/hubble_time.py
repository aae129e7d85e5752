"""Times as the hubble command reads and prints them: durations, RFC 3339 and a few shorter forms; always UTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

NANOSECONDS = 1_000_000_000
_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": NANOSECONDS,
    "m": 60 * NANOSECONDS,
    "h": 3600 * NANOSECONDS,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:T(?P<hour>\d\d)(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?P<fraction>\.\d{1,9})?)?)?(?P<zone>Z|[+-]\d\d:\d\d))?"
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EXPECTED = (
    "a duration such as 90s, 5m or 1h30m, or a time such as 2026-01-31T15:04:05Z, 2026-01-31T15:04Z or 2026-01-31"
)


def parse_duration_ns(text: str) -> int:
    """Nanoseconds of `1h30m`, `1.5s`… ValueError if it is none."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text.startswith(("+", "-")) else text
    if rest == "0":
        return 0
    parts = _PART.findall(rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    return sign * round(sum(float(number) * _UNITS_NS[unit] for number, unit in parts))


def parse_time_ns(text: str, now_ns: int) -> int:
    """The moment in nanoseconds since 1970; a duration means so long before now. ValueError says what is expected."""
    try:
        return now_ns - parse_duration_ns(text)
    except ValueError:
        pass
    match = _ISO.fullmatch(text)
    try:
        if match is not None:
            return _iso_ns(match)
        return round(parsedate_to_datetime(text).timestamp()) * NANOSECONDS
    except ValueError:
        raise ValueError(f"{text!r} is no time: {EXPECTED} is expected") from None


def _iso_ns(match: re.Match[str]) -> int:
    zone = match["zone"] or "Z"
    clock = f"{match['hour'] or '00'}:{match['minute'] or '00'}:{match['second'] or '00'}"
    moment = datetime.fromisoformat(f"{match['date']}T{clock}{'+00:00' if zone == 'Z' else zone}")
    fraction = (match["fraction"] or ".0")[1:].ljust(9, "0")
    return int(moment.timestamp()) * NANOSECONDS + int(fraction)


def _stamp_milli(moment: datetime, nanoseconds: int) -> str:
    milliseconds = nanoseconds // 1_000_000
    return f"{_MONTHS[moment.month - 1]} {moment.day:2d} {moment:%H:%M:%S}.{milliseconds:03d}"


def _rfc3339(digits: int) -> Callable[[datetime, int], str]:
    def render(moment: datetime, nanoseconds: int) -> str:
        fraction = f"{nanoseconds:09d}"[:digits].rstrip("0")
        return f"{moment:%Y-%m-%dT%H:%M:%S}{'.' if fraction else ''}{fraction}Z"

    return render


def _rfc1123z(moment: datetime, _nanoseconds: int) -> str:
    day, month = _DAYS[moment.weekday()], _MONTHS[moment.month - 1]
    return f"{day}, {moment.day:02d} {month} {moment.year} {moment:%H:%M:%S} +0000"


FORMATS: dict[str, Callable[[datetime, int], str]] = {
    "StampMilli": _stamp_milli,
    "YearMonthDay": lambda moment, _: f"{moment:%Y-%m-%d}",
    "YearMonthDayHour": lambda moment, _: f"{moment:%Y-%m-%dT%H}Z",
    "YearMonthDayHourMinute": lambda moment, _: f"{moment:%Y-%m-%dT%H:%M}Z",
    "RFC3339": _rfc3339(0),
    "RFC3339Milli": _rfc3339(3),
    "RFC3339Micro": _rfc3339(6),
    "RFC3339Nano": _rfc3339(9),
    "RFC1123Z": _rfc1123z,
}


def format_time(name: str, seconds: int, nanoseconds: int) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return FORMATS[name](moment, nanoseconds)


def format_duration(nanoseconds: int) -> str:
    """As Go prints durations: `1h0m5s`, `1.5s`, `12ms`."""
    if nanoseconds < NANOSECONDS:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
        return f"{nanoseconds}ns" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, 60 * NANOSECONDS)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, NANOSECONDS)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
