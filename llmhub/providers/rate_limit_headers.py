"""What a reply says about limits, read from each provider's own headers by table.

Readers are total: whatever a header holds, a count is from 0, a time is from 0 and finite, and what cannot
be read is ``None``. ``read_retry_after-after`` counts on a refusal alone, since some servers send it with every answer.

Sources: https://platform.openai.com/docs/guides/rate-limits, https://docs.anthropic.com/en/api/rate-limits,
https://www.rfc-editor.org/rfc/rfc9110#field.retry-after and recorded replies (read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias

from llmhub.core.provider import HttpReply, RateLimitInfo
from llmhub.wire import gemini

Number: TypeAlias = int | float | None


HeaderParser: TypeAlias = Callable[[str, HttpReply], Number]


HeaderTable: TypeAlias = Mapping[str, tuple[tuple[str, ...], HeaderParser]]
"""For each field of `RateLimitInfo`, the headers that say it, the first that can be read winning, and how."""


COUNT: Final = re.compile(r"\d{1,18}", re.ASCII)


SECONDS: Final = re.compile(r"\d{1,9}(?:\.\d{0,9})?", re.ASCII)


DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:h|ms|m|s|us|µs|ns))+", re.ASCII)


PIECE: Final = re.compile(r"([\d.]+)(h|ms|m|s|us|µs|ns)", re.ASCII)


UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def parse_count(said: str, _reply: HttpReply) -> int | None:
    """Read a count.

    Examples
    --------
    >>> parse_count("49", HttpReply(200)), parse_count("-1", HttpReply(200))
    (49, None)
    """
    said = said.strip()
    return int(said) if COUNT.fullmatch(said) else None


def parse_seconds(said: str, _reply: HttpReply) -> float | None:
    """Read seconds.

    Examples
    --------
    >>> parse_seconds("2.5", HttpReply(429)), parse_seconds("inf", HttpReply(429))
    (2.5, None)
    """
    said = said.strip()
    return float(said) if SECONDS.fullmatch(said) else None


def parse_milliseconds(said: str, reply: HttpReply) -> float | None:
    """Read milliseconds as seconds."""
    read = parse_seconds(said, reply)
    return None if read is None else read / 1000


def parse_go_duration(said: str, reply: HttpReply) -> float | None:
    """Read a duration as Go writes it, or plain seconds.

    Examples
    --------
    >>> parse_go_duration("1h2m3.5s", HttpReply(200)), parse_go_duration("12ms", HttpReply(200)), parse_go_duration("0", HttpReply(200))
    (3723.5, 0.012, 0.0)
    """
    said = said.strip()
    if not DURATION.fullmatch(said):
        return parse_seconds(said, reply)
    return sum(float(count) * UNITS[unit] for count, unit in PIECE.findall(said))


def parse_rfc3339(said: str, reply: HttpReply) -> float | None:
    """Read an RFC 3339 time as seconds from the reply; what has passed is 0.

    Examples
    --------
    >>> parse_rfc3339("2026-11-22T10:00:05Z", HttpReply(200, {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}))
    5.0
    """
    try:
        then = datetime.fromisoformat(said.strip())
    except ValueError:
        return None
    return _until(then, reply)


def parse_http_date(said: str, reply: HttpReply) -> float | None:
    """Read an HTTP date as seconds from the reply; what has passed is 0.

    Examples
    --------
    >>> parse_http_date("Sun, 22 Nov 2026 10:01:00 GMT", HttpReply(429, {"date": "Sun, 22 Nov 2026 10:00:00 GMT"}))
    60.0
    """
    then = _date(said)
    return None if then is None else _until(then, reply)


def read_retry_after(reply: HttpReply) -> RateLimitInfo:
    """Read what any server may say: wait so long, and try again or do not.

    Examples
    --------
    >>> read_retry_after(HttpReply(429, {"Retry-After": "1", "retry-after-ms": "0"})).retry_after_s
    1.0
    """
    wait, again = _retry(_lowered(reply), reply)
    return RateLimitInfo(retry_after_s=wait, should_retry=again)


def rate_limit_reader(family: HeaderTable) -> Callable[[HttpReply], RateLimitInfo]:
    """Make the reader of a family of headers; it reads `read_retry_after` as well.

    Examples
    --------
    >>> rate_limit_reader(OPENAI_HEADERS)(HttpReply(200, {"x-ratelimit-reset-tokens": "6m0s"})).reset_tokens_s
    360.0
    """

    def limits(reply: HttpReply) -> RateLimitInfo:
        headers = _lowered(reply)
        found = {field: _first(names, read, headers, reply) for field, (names, read) in family.items()}
        wait, again = _retry(headers, reply)
        return RateLimitInfo(retry_after_s=wait, should_retry=again, **found)  # type: ignore[arg-type] # as each row reads

    return limits


def read_google_limits(reply: HttpReply) -> RateLimitInfo:
    """Read Gemini's limits: the wait stands in the error's body."""
    said = read_retry_after(reply)
    if said.retry_after_s is not None or reply.status < 400:  # noqa: PLR2004 - HTTP errors
        return said
    return replace(said, retry_after_s=gemini.decode_error(reply).retry_after_s)


def _lowered(reply: HttpReply) -> dict[str, str]:
    return {name.lower(): value for name, value in reply.headers.items()}


def _first(names: tuple[str, ...], read: HeaderParser, headers: Mapping[str, str], reply: HttpReply) -> Number:
    """Give the first of these headers that can be read."""
    for name in names:
        said = headers.get(name)
        if said is not None and (value := read(said, reply)) is not None:
            return value
    return None


def _retry(headers: Mapping[str, str], reply: HttpReply) -> tuple[float | None, bool | None]:
    """Read the wait, to the millisecond where both forms are there and say something."""
    wait: Number = None
    if reply.status >= 300:  # noqa: PLR2004 - on success the header asks for nothing
        said = [_first((name,), read, headers, reply) for name, read in RETRY_HEADERS]
        wait = next((time for time in said if time), next((time for time in said if time is not None), None))
    return wait, SHOULD_RETRY.get(headers.get("x-should-retry", "").strip().lower())


def _date(said: str) -> datetime | None:
    try:
        return parsedate_to_datetime(said) if said else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _until(then: datetime, reply: HttpReply) -> float | None:
    """Measure from the server's own clock, or else from when the reply came; unknown where neither is."""
    now = _date(reply.header("date"))
    if now is not None:
        start = _epoch(now)
    elif 0 < reply.received_at < float("inf"):
        start = reply.received_at
    else:
        return None
    return max(0.0, _epoch(then) - start)


def _epoch(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _per_minute_headers(requests: str, tokens: str) -> HeaderTable:
    """Name headers that carry their window in their name."""
    return {
        f"{kind}_{what}": ((f"x-ratelimit-{kind}-{name}",), parse_count)
        for kind in ("limit", "remaining")
        for what, name in (("requests", requests), ("tokens", tokens))
    }


SHOULD_RETRY: Final[Mapping[str, bool]] = {"true": True, "false": False}


RETRY_HEADERS: Final[tuple[tuple[str, HeaderParser], ...]] = (
    ("retry-after-ms", parse_milliseconds),
    ("retry-after", parse_seconds),
    ("retry-after", parse_http_date),
)


OPENAI_HEADERS: Final[HeaderTable] = {
    **_per_minute_headers("requests", "tokens"),
    "reset_requests_s": (("x-ratelimit-reset-requests",), parse_go_duration),
    "reset_tokens_s": (("x-ratelimit-reset-tokens",), parse_go_duration),
}


ANTHROPIC_HEADERS: Final[HeaderTable] = {
    f"{kind}_{what}{unit}": ((f"anthropic-ratelimit-{what.replace('_', '-')}-{kind}",), read)
    for what in ("requests", "tokens", "input_tokens", "output_tokens")
    for kind, unit, read in (("limit", "", parse_count), ("remaining", "", parse_count), ("reset", "_s", parse_rfc3339))
}


MISTRAL_HEADERS: Final = _per_minute_headers("req-minute", "tokens-minute")


CEREBRAS_HEADERS: Final = _per_minute_headers("requests-minute", "tokens-minute")
