"""Rate limit headers: each provider's as recorded, and invariants for arbitrary header values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.provider import HttpReply, RateLimitInfo
from llmhub.providers import anthropic, openai_compatible
from llmhub.providers.rate_limit_headers import parse_go_duration, parse_seconds, read_retry_headers
from llmhub.providers.registry import PROVIDERS

CORPUS = Path(__file__).parents[1] / "fixtures/conformance"
DATE = "Sun, 22 Nov 2026 10:00:00 GMT"


def test_limits_of_images_are_read() -> None:
    """As in a recorded 429 of gpt-4o of 2025-07-15."""
    images = {"limit-input-images": "50000", "remaining-input-images": "49999", "reset-input-images": "1ms"}
    info = PROVIDERS["openai"].limits(HttpReply(429, {f"x-ratelimit-{name}": value for name, value in images.items()}))
    assert (info.limit_images, info.remaining_images, info.reset_images_s) == (50_000, 49_999, 0.001)


def test_openai_headers() -> None:
    headers = {
        "X-RateLimit-Limit-Requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "160000",
        "x-ratelimit-remaining-tokens": "159976",
        "x-ratelimit-reset-tokens": "1h2m3.5s",
    }
    assert PROVIDERS["openai"].limits(HttpReply(200, headers)) == RateLimitInfo(
        limit_requests=5000,
        remaining_requests=4999,
        reset_requests_s=0.012,
        limit_tokens=160_000,
        remaining_tokens=159_976,
        reset_tokens_s=3723.5,
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12ms", 0.012),
        ("6m0s", 360.0),
        ("1h2m3s", 3723.0),
        ("2m59.56s", 179.56),
        ("500us", 0.0005),
        ("0s", 0.0),
        ("0", 0.0),
        ("59", 59.0),
        ("", None),
        ("-1s", None),
        ("1d", None),
        ("s", None),
        ("nan", None),
        ("1e9s", None),
    ],
)
def test_go_durations(value: str, seconds: float | None) -> None:
    found = parse_go_duration(value, HttpReply(200))
    assert found is None if seconds is None else math.isclose(found or 0.0, seconds)


def test_anthropic_headers() -> None:
    headers = {
        "date": DATE,
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-22T10:00:05Z",
        "anthropic-ratelimit-input-tokens-limit": "40000",
        "anthropic-ratelimit-input-tokens-remaining": "39000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-22T09:59:59Z",
    }
    assert PROVIDERS["anthropic"].limits(HttpReply(200, headers)) == RateLimitInfo(
        limit_requests=50,
        remaining_requests=49,
        reset_requests_s=5.0,
        limit_input_tokens=40_000,
        remaining_input_tokens=39_000,
        reset_input_tokens_s=0.0,
    )
    both = {**headers, "anthropic-ratelimit-tokens-limit": "48000", "anthropic-ratelimit-output-tokens-limit": "8000"}
    found = PROVIDERS["anthropic"].limits(HttpReply(200, both))
    assert (found.limit_tokens, found.limit_input_tokens, found.limit_output_tokens) == (48_000, 40_000, 8_000)


def test_absolute_reset_needs_a_date() -> None:
    headers = {"anthropic-ratelimit-requests-reset": "2026-11-22T10:00:05Z"}
    at = datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()
    read = PROVIDERS["anthropic"].limits
    assert read(HttpReply(200, headers)).reset_requests_s is None
    assert read(HttpReply(200, headers, received_at=at)).reset_requests_s == 5.0
    assert read(HttpReply(200, {**headers, "Date": DATE}, received_at=at + 100)).reset_requests_s == 5.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:01:00 GMT", "date": DATE}, 60.0),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:01:00 GMT"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], wait: float | None) -> None:
    assert read_retry_headers(HttpReply(429, headers)).retry_after_s == wait


def test_retry_after_is_ignored_on_success() -> None:
    assert read_retry_headers(HttpReply(200, {"retry-after": "52"})).retry_after_s is None


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("False", False), ("maybe", None), ("", None)])
def test_should_retry(value: str, expected: bool | None) -> None:
    assert read_retry_headers(HttpReply(500, {"x-should-retry": value})).should_retry is expected


def test_google_retry_delay_is_in_the_body() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
    failed = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [info]}}
    read = PROVIDERS["google"].limits
    assert read(HttpReply(429, {}, json.dumps(failed).encode())).retry_after_s == 34.07
    assert read(HttpReply(429, {"retry-after": "1"}, json.dumps(failed).encode())).retry_after_s == 1.0
    assert read(HttpReply(200, {}, json.dumps(failed).encode())).retry_after_s is None


def test_header_names_with_a_window() -> None:
    headers = {"x-ratelimit-limit-req-minute": "60", "x-ratelimit-remaining-tokens-minute": "499384"}
    found = PROVIDERS["mistral"].limits(HttpReply(200, headers))
    assert (found.limit_requests, found.remaining_tokens) == (60, 499_384)
    found = PROVIDERS["cerebras"].limits(HttpReply(200, {"x-ratelimit-limit-requests-minute": "1000"}))
    assert found.limit_requests == 1000


HEADER_NAMES = st.sampled_from(
    [
        *(
            name
            for table in (
                openai_compatible.RATE_LIMIT_HEADERS,
                anthropic.RATE_LIMIT_HEADERS,
            )
            for names, _ in table.values()
            for name in names
        ),
        *("retry-after", "retry-after-ms", "x-should-retry", "date", "Date", "Retry-After"),
    ]
)

TIMES = st.datetimes(timezones=st.just(UTC)) | st.datetimes()

HEADER_VALUES = st.one_of(
    st.text(max_size=30),
    st.integers().map(str),
    st.floats().map(str),
    TIMES.map(datetime.isoformat),
    st.datetimes(timezones=st.just(UTC)).map(lambda time: format_datetime(time, usegmt=True)),
    st.from_regex(r"([0-9.]+(h|m|s|ms|us)){1,4}", fullmatch=True),
    st.text("0123456789", min_size=1, max_size=6000),
)


@given(
    st.dictionaries(HEADER_NAMES, HEADER_VALUES, max_size=8),
    st.sampled_from([200, 400, 429, 503]),
    st.floats(),
    st.binary(max_size=20),
    st.sampled_from(sorted(PROVIDERS)),
)
def test_arbitrary_headers_are_read_within_bounds(
    headers: Mapping[str, str], status: int, received_at: float, body: bytes, name: str
) -> None:
    found = PROVIDERS[name].limits(HttpReply(status, headers, body, received_at))
    for field in RateLimitInfo.__dataclass_fields__:
        value = getattr(found, field)
        if field == "should_retry":
            assert value in {None, True, False}
        elif field.endswith("_s"):
            assert value is None or (isinstance(value, float) and math.isfinite(value) and value >= 0)
        else:
            assert value is None or (type(value) is int and 0 <= value < 1 << 63)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_parsed_waits_keep_their_order(first: int, second: int) -> None:
    waits = [parse_seconds(str(value), HttpReply(429)) or 0.0 for value in sorted((first, second))]
    assert waits == sorted(waits)


RECORDED: Mapping[str, tuple[str, int]] = {
    "openai": ("openai-chat_completions", 31),
    "groq": ("groq-chat_completions", 2),
    "azure": ("azure_openai-responses", 2),
    "anthropic": ("anthropic-messages", 25),
    "cerebras": ("cerebras-chat_completions", 2),
    "mistral": ("mistral-chat_completions", 4),
    "huggingface": ("huggingface-chat_completions", 1),
    "together": ("together-chat_completions", 1),
}


@pytest.mark.corpus
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_headers_are_read(name: str) -> None:
    file, expected = RECORDED[name]
    found = 0
    read: Callable[[HttpReply], RateLimitInfo] = PROVIDERS[name].limits
    for line in (CORPUS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines():
        response: dict[str, Any] = json.loads(line)["response"]
        info = read(HttpReply(response["status"], response["headers"] or {}))
        if info.limit_requests is not None:
            assert info.remaining_requests is not None
            assert 0 <= info.remaining_requests <= info.limit_requests
            found += 1
    assert found == expected


@pytest.mark.parametrize(
    ("name", "headers", "expected"),
    [
        ("mistral", {"limit-req-60-second": 360, "remaining-req-60-second": 354}, {"limit_requests": 360}),
        ("mistral", {"limit-req-10-second": 10, "limit-req-minute": 50}, {"limit_requests": 50}),
        ("mistral", {"limit-tokens-5-minute": 600000, "limit-tokens-month": 10**9}, {"limit_tokens": 120000}),
        ("mistral", {"limit-req-0-second": 360}, {"limit_requests": None}),
        ("together", {"limit": 2, "remaining": 1, "reset": 2}, {"limit_requests": 2, "reset_requests_s": 2.0}),
        ("azure", {"limit-requests": 10, "renewalperiod-requests": 10}, {"limit_requests": 60}),
        ("azure", {"limit-requests": 10, "renewalperiod-requests": 60}, {"limit_requests": 10}),
        ("openai", {"remaining-tokens": 9, "remaining-project-tokens": 5}, {"remaining_tokens": 5}),
        ("openai", {"limit-input-images": 250, "remaining-input-images": 249}, {"remaining_images": 249}),
        ("cerebras", {"remaining-requests-day": 9, "reset-requests-day": 33011.38}, {"remaining_requests": 9}),
        ("cerebras", {"remaining-requests-day": 9}, {"remaining_requests": None}),
        (
            "huggingface",
            {"remaining-requests-minute": 30, "remaining-requests-day": 4, "reset-requests-day": 33011.38},
            {"remaining_requests": 4, "reset_requests_s": 33011.38},
        ),
        ("huggingface", {"remaining-tokens": 9, "remaining-tokens-minute": 4}, {"remaining_tokens": 4}),
        ("openai", {"remaining-tokens": 9, "limit-tokens": 20}, {"remaining_tokens": 9, "limit_tokens": 20}),
        (
            "sambanova",
            {"limit-requests": 60, "remaining-requests": 42, "reset-requests": 1795341630},
            {"limit_requests": 60, "remaining_requests": 42, "reset_requests_s": 30.0},
        ),
        (
            "sambanova",
            {"remaining-requests": 42, "remaining-requests-day": 7, "reset-requests-day": 1795428000},
            {"remaining_requests": 7, "reset_requests_s": 86400.0},
        ),
        (
            "sambanova",
            {"limit-tokens-day": 200000, "remaining-tokens-day": 99, "reset-tokens-day": 7200},
            {"limit_tokens": 200000, "remaining_tokens": 99, "reset_tokens_s": 7200.0},
        ),
    ],
)
def test_windows_of_vendors(name: str, headers: dict[str, float], expected: dict[str, Any]) -> None:
    reply = HttpReply(200, {f"x-ratelimit-{key}": str(value) for key, value in headers.items()}, received_at=1795341600)
    info = PROVIDERS[name].limits(reply)
    assert {field: getattr(info, field) for field in expected} == expected
