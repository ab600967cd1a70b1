"""The provider's own limits: the pure buckets under a virtual clock, and once over HTTP."""

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
def test_no_window_lets_more_through_than_burst_and_rate(
    rpm: float, tpm: float, burst_s: float, arrivals: list[tuple[float, int]]
) -> None:
    limit = SimLimit(rpm, tpm, burst_s)
    buckets, now = full_buckets(limit, 0.0), 0.0
    passed: list[tuple[float, int]] = []
    for pause_s, cost in arrivals:
        now += pause_s
        taken = take_from_buckets(limit, buckets, now, cost)
        buckets = taken.buckets
        if taken.granted:
            passed.append((now, cost))
    for first, (begin, _) in enumerate(passed):
        for last in range(first, len(passed)):
            window = passed[first : last + 1]
            minutes = (window[-1][0] - begin) / 60
            assert len(window) <= max(rpm * burst_s / 60, 1) + rpm * minutes + 1e-6
            assert sum(cost for _, cost in window) <= max(tpm * burst_s / 60, 1) + tpm * minutes + 1e-6


@given(RATES, RATES, st.floats(0.5, 60), st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_who_waits_as_told_is_let_through(rpm: float, tpm: float, burst_s: float, costs: list[int]) -> None:
    limit = SimLimit(rpm, tpm, burst_s)
    buckets, now = full_buckets(limit, 0.0), 0.0
    for cost in costs:
        taken = take_from_buckets(limit, buckets, now, cost)
        if not taken.granted:
            if taken.retry_after_s is None:
                assert cost > max(tpm * burst_s / 60, 1)
                continue
            assert taken.retry_after_s > 0
            now += taken.retry_after_s + 1e-9
            taken = take_from_buckets(limit, taken.buckets, now, cost)
        assert taken.granted
        buckets = taken.buckets


def test_what_is_refused_costs_nothing() -> None:
    limit = SimLimit(rpm=60, tpm=600, burst_s=10)
    first = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 60)
    refused = take_from_buckets(limit, first.buckets, 0.0, 60)
    assert (first.granted, refused.granted, refused.scope) == (True, False, "tokens")
    assert refused.buckets == first.buckets
    assert refused.retry_after_s == pytest.approx(2.0)


def test_what_never_fits_says_not_when() -> None:
    limit = SimLimit(tpm=100)
    taken = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 101)
    assert (taken.granted, taken.scope, taken.retry_after_s) == (False, "tokens", None)


def test_the_standing() -> None:
    limit = SimLimit(rpm=60, tpm=6000)
    standing = take_from_buckets(limit, full_buckets(limit, 0.0), 0.0, 500).status
    assert standing.requests == LimitMeter(60, 59, 1.0)
    assert standing.tokens == LimitMeter(6000, 5500, pytest.approx(5.0))
    assert take_from_buckets(SimLimit(), full_buckets(SimLimit(), 0.0), 0.0, 10**9).status.requests is None


def test_a_clock_that_goes_back_gives_nothing() -> None:
    limit = SimLimit(rpm=1)
    first = take_from_buckets(limit, full_buckets(limit, 100.0), 100.0, 0)
    again = take_from_buckets(limit, first.buckets, 40.0, 0)
    assert not again.granted
    assert again.buckets.updated_at == 100.0


@pytest.mark.parametrize("wrong", [{"rpm": 0}, {"tpm": -1}, {"burst_s": 0}, {"rpm": math.nan}])
def test_limits_that_let_nothing_through(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="admits no request"):
        SimLimit(**wrong)


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
    "openai-responses": {"retry-after": "60", "retry-after-ms": None},
    "azure-responses": {"retry-after": "60", "retry-after-ms": None},
}


async def test_a_tiny_budget(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession, provider: str
) -> None:
    served = simulate(limit=SimLimit(rpm=1))
    asked = ask(provider)
    replies = []
    for _ in range(3):
        async with http.post(served.url + asked.path, json=asked.body, headers=asked.headers) as reply:
            replies.append((reply.status, reply.headers, await reply.json()))
    assert [status for status, _, _ in replies] == [200, 429, 429]
    headers = {name.lower(): value for name, value in replies[1][1].items()}
    told = {name: value for name, value in headers.items() if name.startswith("retry-after")}
    assert set(told) == set(RETRIES[provider])
    assert all(value == told[name] for name, value in RETRIES[provider].items() if value)
    if "retry-after-ms" in told:
        assert 55_000 < int(told["retry-after-ms"]) <= 60_000
    counts = served.counts()
    assert counts["by_status"] == {"200": 1, "429": 2}
    assert counts["tokens"]["input"] == 2  # only what was answered


async def test_models_have_budgets_of_their_own(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(limit=SimLimit(rpm=1), limits={"anthropic": SimLimit(), "openai/large": SimLimit(rpm=2)})

    async def statuses(provider: str, **given: str) -> list[int]:
        asked = ask(provider)
        seen = []
        for _ in range(3):
            async with http.post(served.url + asked.path, json={**asked.body, **given}, headers=asked.headers) as reply:
                seen.append(reply.status)
        return seen

    assert await statuses("openai") == [200, 429, 429]
    assert await statuses("openai", model="other") == [200, 429, 429]
    assert await statuses("openai", model="large") == [200, 200, 429]
    assert await statuses("anthropic") == [200, 200, 200]


async def test_tokens_that_are_reserved(
    simulate: Callable[..., SimulatorThread], ask: Callable, http: aiohttp.ClientSession
) -> None:
    served = simulate(limit=SimLimit(tpm=1000))
    for most, expected in ((900, 200), (200, 429), (2000, 429)):
        asked = ask("openai", most=most)
        async with http.post(served.url + asked.path, json=asked.body) as reply:
            body = await reply.json()
            assert reply.status == expected
    assert body["error"]["type"] == "tokens"
    assert body["error"]["message"].startswith("Request too large for gpt-4o-mini")
    assert "retry-after" not in reply.headers
