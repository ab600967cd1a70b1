"""Rate limits of the simulator: buckets with a virtual clock, and over HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.sim import SimLimit, SimulatorThread
from llmhub.sim.limits import LimitMeter, full_buckets, take_from_buckets

RATES = st.floats(1, 10_000)
ARRIVALS = st.lists(st.tuples(st.floats(0, 5), st.integers(0, 500)), max_size=60)


@given(RATES, RATES, st.floats(0.5, 60), ARRIVALS)
def test_no_window_exceeds_burst_and_rate(
    rpm: float, tpm: float, burst_s: float, arrivals: list[tuple[float, int]]
) -> None:
    limit = SimLimit(rpm, tpm, burst_s)
    buckets, now = full_buckets(limit, 0.0), 0.0
    passed: list[tuple[float, int]] = []
    for pause_s, cost in arrivals:
        now += pause_s
        decision = take_from_buckets(limit, buckets, now, cost)
        buckets = decision.buckets
        if decision.granted:
            passed.append((now, cost))
    for first, (begin, _) in enumerate(passed):
        for last in range(first, len(passed)):
            window = passed[first : last + 1]
            minutes = (window[-1][0] - begin) / 60
            assert len(window) <= max(rpm * burst_s / 60, 1) + rpm * minutes + 1e-6
            assert sum(cost for _, cost in window) <= max(tpm * burst_s / 60, 1) + tpm * minutes + 1e-6


@given(RATES, RATES, st.floats(0.5, 60), st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_request_after_the_retry_delay_is_admitted(rpm: float, tpm: float, burst_s: float, costs: list[int]) -> None:
    limit = SimLimit(rpm, tpm, burst_s)
    buckets, now = full_buckets(limit, 0.0), 0.0
    for cost in costs:
        decision = take_from_buckets(limit, buckets, now, cost)
        if not decision.granted:
            if decision.retry_after_s is None:
                assert cost > max(tpm * burst_s / 60, 1)
                continue
            assert decision.retry_after_s > 0
            now += decision.retry_after_s + 1e-9
            decision = take_from_buckets(limit, decision.buckets, now, cost)
        assert decision.granted
        buckets = decision.buckets


def test_rejected_requests_take_nothing() -> None:
    limit = SimLimit(rpm=60, tpm=600, burst_s=10)
    first = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 60)
    refused = take_from_buckets(limit, first.buckets, 0.0, 60)
    assert (first.granted, refused.granted, refused.scope) == (True, False, "tokens")
    assert refused.buckets == first.buckets
    assert refused.retry_after_s == pytest.approx(2.0)


def test_requests_above_the_capacity_have_no_retry_delay() -> None:
    limit = SimLimit(tpm=100)
    decision = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 101)
    assert (decision.granted, decision.scope, decision.retry_after_s) == (False, "tokens", None)


def test_limit_status() -> None:
    limit = SimLimit(rpm=60, tpm=6000)
    standing = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 500).status
    assert standing.requests == LimitMeter(60, 59, 1.0)
    assert standing.tokens == LimitMeter(6000, 5500, pytest.approx(5.0))
    assert take_from_buckets(SimLimit(), full_buckets(SimLimit(), 0.0), 0.0, 10**9).status.requests is None


def test_clock_going_backwards_refills_nothing() -> None:
    limit = SimLimit(rpm=1)
    first = take_from_buckets(limit, full_buckets(limit, 100.0), 100.0, 0)
    again = take_from_buckets(limit, first.buckets, 40.0, 0)
    assert not again.granted
    assert again.buckets.updated_at == 100.0


@pytest.mark.parametrize("arguments", [{"rpm": 0}, {"tpm": -1}, {"burst_s": 0}, {"rpm": math.nan}])
def test_limits_that_admit_nothing_are_rejected(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="admits no request"):
        SimLimit(**arguments)


RETRIES = {
    "openai": {"retry-after": "60", "retry-after-ms": None},
    "compatible": {"retry-after": "60", "retry-after-ms": None},
    "azure": {"retry-after": "60", "retry-after-ms": None},
    "anthropic": {"retry-after": "60"},
    "google": {},
    "bedrock": {},
    "vertex": {},
    "vertex-anthropic": {},
    "ollama-native": {"retry-after": "60", "retry-after-ms": None},
    "cohere-native": {"retry-after": "60", "retry-after-ms": None},
    "openai-responses": {"retry-after": "60", "retry-after-ms": None},
    "azure-responses": {"retry-after": "60", "retry-after-ms": None},
}


async def test_tiny_limit(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(limit=SimLimit(rpm=1))
    request = ask(provider)
    replies = []
    for _ in range(3):
        async with http.post(served.url + request.path, json=request.body, headers=request.headers) as reply:
            replies.append((reply.status, reply.headers, await reply.json()))
    assert [status for status, _, _ in replies] == [200, 429, 429]
    headers = {name.lower(): value for name, value in replies[1][1].items()}
    retry_headers = {name: value for name, value in headers.items() if name.startswith("retry-after")}
    assert set(retry_headers) == set(RETRIES[provider])
    assert all(value == retry_headers[name] for name, value in RETRIES[provider].items() if value)
    if "retry-after-ms" in retry_headers:
        assert 55_000 < int(retry_headers["retry-after-ms"]) <= 60_000
    counts = served.counts()
    assert counts["by_status"] == {"200": 1, "429": 2}
    assert counts["tokens"]["input"] == 2  # only what was answered


async def test_models_have_separate_limits(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(limit=SimLimit(rpm=1), limits={"anthropic": SimLimit(), "openai/large": SimLimit(rpm=2)})

    async def statuses(provider: str, **given: str) -> list[int]:
        request = ask(provider)
        seen = []
        for _ in range(3):
            async with http.post(
                served.url + request.path, json={**request.body, **given}, headers=request.headers
            ) as reply:
                seen.append(reply.status)
        return seen

    assert await statuses("openai") == [200, 429, 429]
    assert await statuses("openai", model="other") == [200, 429, 429]
    assert await statuses("openai", model="large") == [200, 200, 429]
    assert await statuses("anthropic") == [200, 200, 200]


async def test_max_tokens_count_against_the_limit(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(limit=SimLimit(tpm=1000))
    for max_tokens, expected in ((900, 200), (200, 429), (2000, 429)):
        request = ask("openai", max_tokens=max_tokens)
        async with http.post(served.url + request.path, json=request.body) as reply:
            body = await reply.json()
            assert reply.status == expected
    assert body["error"]["type"] == "tokens"
    assert body["error"]["message"].startswith("Request too large for gpt-4o-mini")
    assert "retry-after" not in reply.headers
