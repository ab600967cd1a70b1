"""Rate limits and retry times, read from a reply's headers by table.

Readers are total: whatever a header holds, a count is at least 0, a time is at least 0 and finite, and a value that
cannot be parsed is ``None``. ``retry-after`` counts only on an error, since some servers send it with every answer.

Sources: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after and recorded replies (read 2026-11-22); the names of
the headers are in the vendors' files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from operator import attrgetter
from typing import Any, Final, TypeAlias

from llmhub.core.construction import fast_constructor
from llmhub.core.provider import HttpReply, RateLimitInfo

Number: TypeAlias = int | float | None
HeaderParser: TypeAlias = Callable[[str, HttpReply], Number]
HeaderTable: TypeAlias = Mapping[str, tuple[tuple[str, ...], HeaderParser]]
"""For each field of `RateLimitInfo`, the headers that hold it, the first that can be parsed winning, and their
parser."""

COUNT: Final = re.compile(r"\d{1,18}", re.ASCII)
SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)
GO_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:h|ms|m|s|us|µs|ns))+", re.ASCII)
GO_DURATION_TERM: Final = re.compile(r"([\d.]+)(h|ms|m|s|us|µs|ns)", re.ASCII)
GO_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_count(value: str, _reply: HttpReply) -> int | None:
    """Parse a count.

    Examples
    --------
    >>> parse_count("49", HttpReply(200)), parse_count("-1", HttpReply(200))
    (49, None)
    """
    value = value.strip()
    return int(value) if COUNT.fullmatch(value) else None


def parse_seconds(value: str, _reply: HttpReply) -> float | None:
    """Parse seconds.

    Examples
    --------
    >>> parse_seconds("2.5", HttpReply(429)), parse_seconds("inf", HttpReply(429))
    (2.5, None)
    """
    value = value.strip()
    return float(value) if SECONDS.fullmatch(value) else None


def parse_milliseconds(value: str, reply: HttpReply) -> float | None:
    """Parse milliseconds; return seconds."""
    milliseconds = parse_seconds(value, reply)
    return None if milliseconds is None else milliseconds / 1000


def parse_go_duration(value: str, reply: HttpReply) -> float | None:
    """Parse a duration in Go's notation, or plain seconds; return seconds.

    Examples
    --------
    >>> reply = HttpReply(200)
    >>> parse_go_duration("1h2m3.5s", reply), parse_go_duration("12ms", reply), parse_go_duration("0", reply)
    (3723.5, 0.012, 0.0)
    """
    value = value.strip()
    if not GO_DURATION.fullmatch(value):
        return parse_seconds(value, reply)
    return sum(float(count) * GO_UNITS_S[unit] for count, unit in GO_DURATION_TERM.findall(value))


def parse_rfc3339(value: str, reply: HttpReply) -> float | None:
    """Parse an RFC 3339 time; return seconds from the reply, 0 for a time that has passed.

    Examples
    --------
    >>> parse_rfc3339("2026-11-22T10:00:05Z", HttpReply(200, {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}))
    5.0
    """
    try:
        time = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return _seconds_until(time, reply)


def parse_http_date(value: str, reply: HttpReply) -> float | None:
    """Parse an HTTP date; return seconds from the reply, 0 for a time that has passed.

    Examples
    --------
    >>> parse_http_date("Sun, 22 Nov 2026 10:01:00 GMT", HttpReply(429, {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}))
    60.0
    """
    time = _http_date(value)
    return None if time is None else _seconds_until(time, reply)


EPOCH: Final = re.compile(r"\d{10}(?:\.\d{1,9})?", re.ASCII)


def parse_seconds_or_epoch(value: str, reply: HttpReply) -> float | None:
    """Parse seconds, or the epoch seconds of a time; return seconds from the reply, 0 for a time that has passed.

    Examples
    --------
    >>> reply = HttpReply(200, {"date": "Sun, 22 Nov 2026 10:00:00 GMT"})
    >>> parse_seconds_or_epoch("30", reply), parse_seconds_or_epoch("1795341660", reply)
    (30.0, 60.0)
    """
    value = value.strip()
    if not EPOCH.fullmatch(value):
        return parse_seconds(value, reply)
    return _seconds_until(datetime.fromtimestamp(float(value), UTC), reply)


NOTHING: Final = RateLimitInfo()
"""What a reply without any of the headers reports."""
_NEW_INFO: Final = fast_constructor(RateLimitInfo)

RETRY_HEADERS: Final[tuple[tuple[str, HeaderParser], ...]] = (
    ("retry-after-ms", parse_milliseconds),
    ("retry-after", parse_seconds),
    ("retry-after", parse_http_date),
)
SHOULD_RETRY: Final[Mapping[str, bool]] = {"true": True, "false": False}


def read_retry_headers(reply: HttpReply) -> RateLimitInfo:
    """Read the headers that any server may send: how long to wait, and whether to retry.

    Examples
    --------
    >>> read_retry_headers(HttpReply(429, {"Retry-After": "1", "retry-after-ms": "0"})).retry_after_s
    1.0
    """
    retry_after_s, should_retry = _retry(_lower_names(reply), reply)
    return RateLimitInfo(retry_after_s=retry_after_s, should_retry=should_retry)


def rate_limit_reader(table: HeaderTable) -> Callable[[HttpReply], RateLimitInfo]:
    """Return a function that reads the headers of ``table`` and those of `read_retry_headers`.

    Examples
    --------
    >>> read = rate_limit_reader({"reset_tokens_s": (("x-ratelimit-reset-tokens",), parse_go_duration)})
    >>> read(HttpReply(200, {"x-ratelimit-reset-tokens": "6m0s"})).reset_tokens_s
    360.0
    """
    known = frozenset(name for names, _ in table.values() for name in names)

    def read(reply: HttpReply) -> RateLimitInfo:
        headers = _lower_names(reply)
        retry_after_s, should_retry = _retry(headers, reply)
        if known.isdisjoint(headers):
            is_silent = retry_after_s is None and should_retry is None
            return NOTHING if is_silent else RateLimitInfo(retry_after_s=retry_after_s, should_retry=should_retry)
        values = {field: _first_parsed(names, parse, headers, reply) for field, (names, parse) in table.items()}
        return _NEW_INFO(retry_after_s=retry_after_s, should_retry=should_retry, **values)

    return read


def per_window_headers(requests: str, tokens: str) -> HeaderTable:
    """Return the table of headers whose names end in what they count, and the window if it is in the name.

    Examples
    --------
    >>> per_window_headers("req-minute", "tokens-minute")["limit_requests"][0]
    ('x-ratelimit-limit-req-minute',)
    """
    return {
        f"{field}_{counted}": ((f"x-ratelimit-{field}-{suffix}",), parse_count)
        for field in ("limit", "remaining")
        for counted, suffix in (("requests", requests), ("tokens", tokens))
    }


WINDOW_HEADER: Final = re.compile(
    r"x-ratelimit-(limit|remaining)-(req(?:uests)?|tokens)-(?:(\d{1,6})-)?(second|minute|hour)"
)
WINDOW_UNITS_S: Final = {"second": 1, "minute": 60, "hour": 3600}
MINUTE_S: Final = 60


def read_windows(reply: HttpReply) -> RateLimitInfo:
    """Read headers that name their window (``req-60-second``, ``tokens-5-minute``), as allowances of a minute.

    Of several windows of a unit, the one nearest to a minute counts.

    Examples
    --------
    >>> headers = {"x-ratelimit-limit-req-10-second": "10", "x-ratelimit-remaining-req-10-second": "9"}
    >>> info = read_windows(HttpReply(200, {**headers, "x-ratelimit-limit-tokens-5-minute": "600000"}))
    >>> info.limit_requests, info.remaining_requests, info.limit_tokens
    (60, 54, 120000)
    """
    found: dict[str, tuple[float, int]] = {}
    for name, value in _lower_names(reply).items():
        match, count = WINDOW_HEADER.fullmatch(name), parse_count(value, reply)
        window_s = int(match[3] or 1) * WINDOW_UNITS_S[match[4]] if match else 0
        if match is None or count is None or not window_s:
            continue
        field = f"{match[1]}_{'tokens' if match[2] == 'tokens' else 'requests'}"
        distance = max(window_s / MINUTE_S, MINUTE_S / window_s)
        if field not in found or distance < found[field][0]:
            found[field] = (distance, count * MINUTE_S // window_s)
    info = read_retry_headers(reply)
    counts: dict[str, Any] = {field: count for field, (_, count) in found.items()}
    return replace(info, **counts)


LIMITED_UNITS: Final = ("requests", "tokens")


def tightest(*readers: Callable[[HttpReply], RateLimitInfo]) -> Callable[[HttpReply], RateLimitInfo]:
    """Return a reader of limits of requests and tokens of which several apply: the one with the least left counts.

    The first reader reads everything else.

    Examples
    --------
    >>> read = tightest(read_window("minute"), read_window("day"))
    >>> names = {"remaining-requests-minute": "30", "remaining-requests-day": "4", "reset-requests-day": "33011.38"}
    >>> info = read(HttpReply(200, {f"x-ratelimit-{name}": value for name, value in names.items()}))
    >>> info.remaining_requests, info.reset_requests_s
    (4, 33011.38)
    """

    def read(reply: HttpReply) -> RateLimitInfo:
        first = readers[0](reply)
        others = [info for reader in readers[1:] if (info := reader(reply)) is not NOTHING]
        if not others:
            return first
        values: dict[str, Any] = {}
        for unit in LIMITED_UNITS:
            left = f"remaining_{unit}"
            known = [info for info in (first, *others) if getattr(info, left) is not None]
            least = min(known, key=attrgetter(left), default=first)
            values |= {name: getattr(least, name) for name in (f"limit_{unit}", left, f"reset_{unit}_s")}
        return replace(first, **values)

    return read


def read_window(window: str, parse_reset: HeaderParser = parse_seconds) -> Callable[[HttpReply], RateLimitInfo]:
    """Return a reader of headers that end in ``window``, and their resets (``x-ratelimit-reset-requests-day``).

    An allowance of an hour or a day without a reset is left out, since others are taken for a minute's.
    """
    resets = {f"reset_{unit}_s": ((f"x-ratelimit-reset-{unit}-{window}",), parse_reset) for unit in LIMITED_UNITS}
    read_all = rate_limit_reader({**per_window_headers(f"requests-{window}", f"tokens-{window}"), **resets})

    def read(reply: HttpReply) -> RateLimitInfo:
        info = read_all(reply)
        without_reset = [unit for unit in LIMITED_UNITS if getattr(info, f"reset_{unit}_s") is None]
        if window == "minute" or not without_reset:
            return info
        unknown: dict[str, Any] = {
            f"{field}_{unit}": None for unit in without_reset for field in ("limit", "remaining")
        }
        return replace(info, **unknown)

    return read


def per_renewal_period(read: Callable[[HttpReply], RateLimitInfo]) -> Callable[[HttpReply], RateLimitInfo]:
    """Return a reader that turns allowances of a ``renewalperiod`` of Azure's into those of a minute."""

    def read_scaled(reply: HttpReply) -> RateLimitInfo:
        info, headers = read(reply), _lower_names(reply)
        scaled: dict[str, Any] = {}
        for unit in ("requests", "tokens"):
            period_s = parse_count(headers.get(f"x-ratelimit-renewalperiod-{unit}", ""), reply)
            if period_s and period_s != MINUTE_S:
                for field in (f"limit_{unit}", f"remaining_{unit}"):
                    count = getattr(info, field)
                    scaled[field] = None if count is None else count * MINUTE_S // period_s
        return replace(info, **scaled) if scaled else info

    return read_scaled


def _lower_names(reply: HttpReply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


def _first_parsed(names: tuple[str, ...], parse: HeaderParser, headers: Mapping[str, str], reply: HttpReply) -> Number:
    """Return the value of the first of these headers that can be parsed."""
    for name in names:
        value = headers.get(name)
        if value is not None and (parsed := parse(value, reply)) is not None:
            return parsed
    return None


def _retry(headers: Mapping[str, str], reply: HttpReply) -> tuple[float | None, bool | None]:
    """Return the seconds to wait, the first of the headers' times that is not 0, and whether to retry."""
    wait: Number = None
    if reply.status >= 300:  # noqa: PLR2004 - on success the header asks for nothing
        times = [_first_parsed((name,), parse, headers, reply) for name, parse in RETRY_HEADERS]
        wait = next((time for time in times if time), next((time for time in times if time is not None), None))
    return wait, SHOULD_RETRY.get(headers.get("x-should-retry", "").strip().lower())


def _http_date(value: str) -> datetime | None:
    try:
        return parsedate_to_datetime(value) if value else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _seconds_until(time: datetime, reply: HttpReply) -> float | None:
    """Return the seconds from the server's ``date``, else from the arrival of the reply; ``None`` without either."""
    date = _http_date(reply.header("date"))
    if date is not None:
        start = _epoch_s(date)
    elif 0 < reply.received_at < float("inf"):
        start = reply.received_at
    else:
        return None
    return max(0.0, _epoch_s(time) - start)


def _epoch_s(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
