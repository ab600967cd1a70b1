"""Adaptive and learned limits: laws of the state machines, and runs against simulated providers in virtual time."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import RateLimited, ServerError
from llmhub.core.provider import Endpoint, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse
from llmhub.engine.adaptive_limit import (
    MAX_IN_FLIGHT,
    MIN_IN_FLIGHT,
    AdaptiveState,
    Mark,
    RefusedRequest,
    max_in_flight,
    on_paced_request,
    on_rate_limited,
    on_success,
    rate_between,
    slow_start,
)
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.limits import FixedWindow, LearnedLimit, SlidingWindow, TokenBucket, WindowState, learn_limit, take
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
TARGET = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")
CALL = Call(TARGET, CompletionRequest(model="m", messages=()))
events = st.lists(st.tuples(st.floats(0, 2), st.booleans(), st.integers(0, 200)), max_size=300)


def replay(events: list[tuple[float, bool, int]]) -> list[tuple[float, AdaptiveState]]:
    """Send requests one by one, each answered or refused at once, with so many in flight."""
    state, now, steps = slow_start(0.0), 0.0, []
    for sent, (gap, succeeds, in_flight) in enumerate(events, 1):
        now += gap
        if state.pace is not None:
            state = on_paced_request(state, state.pace, now)
        if succeeds:
            state = on_success(state, now, now, in_flight)
        else:
            state, pause_s = on_rate_limited(state, now, RefusedRequest(now, float(sent), float(sent), in_flight))
            now += pause_s or 0.0
        steps.append((now, state))
    return steps


@given(events)
def test_window_and_pace_stay_within_bounds(events: list[tuple[float, bool, int]]) -> None:
    for now, state in replay(events):
        assert MIN_IN_FLIGHT <= max_in_flight(state, now) <= MAX_IN_FLIGHT
        assert state.pace is None or 0 < state.pace.rate_per_s < inf


@given(st.integers(8, 100), st.integers(9, 90), st.permutations(range(8)))
def test_an_episode_shrinks_the_limit_once(count: int, passed: int, order: list[int]) -> None:
    """Refusals of requests sent before the first of them was known, in any order of arrival."""
    state, episodes = slow_start(0.0), []
    for arrival, number in enumerate([*order, *range(8, count)]):
        refusal = RefusedRequest(
            0.5 + number / 1000, float(passed + number + 1), float(passed + count), count - arrival
        )
        before = state
        state, _ = on_rate_limited(before, 1.0, refusal)
        episodes += [state.episode_start] * (state.episode_start != before.episode_start or state.pace != before.pace)
    paces = state.pace
    assert paces is not None
    assert episodes == [1.0]
    late = [
        on_rate_limited(state, 1.1, RefusedRequest(0.5, float(passed + n), float(passed + count), n))
        for n in range(1, 20)
    ]
    assert all(after.pace == paces and pause_s is None for after, pause_s in late)


@given(st.lists(st.floats(0, 1), max_size=500))
def test_window_never_shrinks_without_refusals(gaps: list[float]) -> None:
    before, now = slow_start(0.0), 0.0
    for gap in gaps:
        now += gap
        after = on_success(before, now, now, 5)
        assert max_in_flight(after, now) >= max_in_flight(before, now)
        before = after


@given(st.floats(0.5, 500), st.floats(2, 1000))
def test_rate_estimate_never_exceeds_what_was_accepted(rate_s: float, span_s: float) -> None:
    passed = float(int(rate_s * span_s))
    rate_per_s = rate_between(Mark(0.0, 0.0), Mark(span_s, passed))
    assert rate_per_s <= max(rate_s, 0.5 / span_s)
    assert passed <= 1 or rate_per_s >= (passed - 1) / span_s - 1e-9


def test_a_slow_refusal_lowers_the_pace_at_which_its_request_was_sent() -> None:
    """By the time it arrives the pace has grown."""
    state = slow_start(0.0)
    for number in range(1, 5):  # a crowd, after which a pace is searched for
        state, _ = on_rate_limited(state, 0.02, RefusedRequest(0.01, 20.0 + number, 24.0, 4 - number))
    assert state.pace is not None
    sent_at = state.pace.updated_at + 1.0
    paces = []
    for waited_s, pace_per_s in ((0.01, 16.0), (1.0, 40.0)):
        searching = state._replace(pace=state.pace._replace(rate_per_s=pace_per_s))
        refusal = RefusedRequest(sent_at, 30.0, 30.0 + pace_per_s * waited_s, 5, rate_per_s=16.0)
        after, _ = on_rate_limited(searching, sent_at + waited_s, refusal)
        assert after.pace is not None
        paces.append(after.pace.rate_per_s)
    assert paces[0] == paces[1] < 16.0


# Learned limits

counts = st.integers(0, 10_000)


@given(st.integers(1, 10_000), counts, st.none() | st.floats(0, 100_000), st.floats(0, 100), counts)
def test_learned_limit_never_exceeds_the_true_one(
    limit: int, remaining: int, reset_s: float | None, elapsed_s: float, since: int
) -> None:
    known = learn_limit(None, (limit, remaining, reset_s), 100.0 + elapsed_s, 100.0, float(since))
    assert known is not None
    assert known.limit == max(limit, remaining)
    if isinstance(known.window, TokenBucket):
        assert known.window.level <= known.window.capacity <= known.limit
    else:
        assert known.window.used >= since


@given(counts, st.floats(0, 60))
def test_reply_to_an_older_request_changes_nothing(remaining: int, reset_s: float) -> None:
    known = LearnedLimit(TokenBucket(1.0, 60.0, 7.0, 50.0), 60.0, 60.0, sent_at=50.0)
    assert learn_limit(known, (60, remaining, reset_s), 60.0, 49.9, 0.0) is known
    assert learn_limit(known, (60, None, reset_s), 60.0, 51.0, 0.0) is known


def test_lower_levels_are_adopted_at_once_and_higher_ones_gradually() -> None:
    known = LearnedLimit(TokenBucket(1.0, 60.0, 30.0, 50.0), 60.0, 60.0, sent_at=50.0)
    worse, better = (learn_limit(known, (60, left, 60.0 - left), 50.0, 50.0, 0.0) for left in (10, 50))
    assert isinstance(worse.window, TokenBucket) and isinstance(better.window, TokenBucket)  # type: ignore[union-attr] # noqa: PT018
    assert worse.window.level < 10
    assert 30 < better.window.level < 40


def test_daily_limit_is_not_taken_for_a_minutes() -> None:
    known = learn_limit(None, (14_400, 14_370, 179.56), 0.0, 0.0, 0.0)
    assert known is not None
    assert isinstance(known.window, TokenBucket)
    assert known.window.rate_per_s == pytest.approx(14_400 / 86_400, rel=0.05)


def test_postponed_reset_is_not_a_fixed_window() -> None:
    known = learn_limit(None, (60, 59, 60.0), 0.0, 0.0, 0.0)
    assert known is not None
    assert isinstance(known.window, FixedWindow)
    known = learn_limit(known, (60, 50, 60.0), 10.0, 10.0, 0.0)
    assert known is not None
    assert known.slides


# Against a simulated provider


class Provider:
    """Accepts requests within a bucket or a number in flight, and refuses a random share of the others."""

    def __init__(self, clock: Clock, **options: Any) -> None:
        self.clock = clock
        self.bucket: WindowState | None = options.get("bucket")
        self.then: tuple[float, WindowState] | None = options.get("then")
        self.reports_limits: bool = options.get("reports_limits", False)
        self.concurrency: float = options.get("concurrency", inf)
        self.share: float = options.get("share", 0.0)
        self.error: Any = options.get("error", RateLimited(retry_after_s=1.0))
        self.latency_s: float = options.get("latency_s", 0.5)
        self.refuses_in_s: float = options.get("refuses_in_s", 0.0)
        self.draw = random.Random(options.get("seed", 7))
        self.in_flight = self.refused = self.answers = 0

    async def __call__(self, call: Call) -> Answer:
        await asyncio.sleep(0.001)
        is_refused, limits = self.in_flight >= self.concurrency, None
        if self.then is not None and self.clock() >= self.then[0]:
            self.bucket, self.then = self.then[1], None
        if self.bucket is not None:
            after, wait = take(self.bucket, self.clock(), 1.0)
            is_refused = wait > 0
            self.bucket = self.bucket if is_refused else after
        if isinstance(self.bucket, TokenBucket):
            left = min(
                self.bucket.level + (self.clock() - self.bucket.updated_at) * self.bucket.rate_per_s,
                self.bucket.capacity,
            )
            if self.reports_limits:
                limits = RateLimitInfo(
                    limit_requests=int(60 * self.bucket.rate_per_s),
                    remaining_requests=max(int(left), 0),
                    reset_requests_s=(self.bucket.capacity - left) / self.bucket.rate_per_s,
                )
        if is_refused or self.draw.random() < self.share:
            self.refused += 1
            await asyncio.sleep(self.refuses_in_s * self.draw.lognormvariate(0, 0.3))
            return Answer(Failure(self.error), attempts=1, limits=limits)
        self.in_flight += 1
        await asyncio.sleep(self.latency_s * self.draw.lognormvariate(0, 0.3))
        self.in_flight -= 1
        self.answers += 1
        return Answer(Success(CompletionResponse()), attempts=1, limits=limits)


def run_saturated(virtual: Any, rows: int, **options: Any) -> tuple[Provider, float, tuple[Any, ...]]:
    """Send 64 at once until ``rows`` are answered; return the provider, the seconds elapsed and the decisions."""

    async def work(clock: Clock) -> tuple[Provider, float, tuple[Any, ...]]:
        provider, log = Provider(clock, **options), DecisionLog(clock)
        limiter = RateLimiter({}, clock, log.record)
        send = rate_limit_middleware(limiter, limiter.for_target(TARGET), clock)(provider)

        async def worker() -> None:
            while provider.answers < rows:
                if isinstance((await send(CALL)).outcome, Failure):
                    await asyncio.sleep(1.0)

        await asyncio.gather(*(worker() for _ in range(64)))
        return provider, clock(), log.read()

    done: tuple[Provider, float, tuple[Any, ...]] = virtual.run(work)
    return done


def bucket(rate_s: float, capacity: float) -> TokenBucket:
    return TokenBucket(rate_s, capacity, capacity, 0.0)


@pytest.mark.parametrize("capacity", [20.0, 1200.0])
def test_reported_limit_is_kept_and_fully_used(capacity: float, virtual: Any) -> None:
    provider, elapsed_s, _ = run_saturated(virtual, 3000, bucket=bucket(20.0, capacity), reports_limits=True)
    assert provider.answers >= 0.95 * min(capacity + 20.0 * elapsed_s, 64 / 0.5 * elapsed_s)
    assert provider.refused <= 0.01 * provider.answers


SERVERS: dict[str, tuple[WindowState, float, float]] = {
    "10 a second, 2 s at once": (bucket(10.0, 20.0), 10.0, 0.9),
    "40 a second, 2 s at once": (bucket(40.0, 80.0), 40.0, 0.9),
    "40 a second, one at once": (bucket(40.0, 1.0), 40.0, 0.88),
    "100 a second, 2 s at once": (bucket(100.0, 200.0), 100.0, 0.9),
    "20 a second, a minute at once": (bucket(20.0, 1200.0), 20.0, 0.9),
    "600 in each minute": (FixedWindow(600.0, 60.0, 0.0), 10.0, 0.8),
    "600 in any minute": (SlidingWindow(600.0, 60.0), 10.0, 0.7),
}
"""Bucket, rate per second, and minimum share of the allowance that is used; the end of a window is not reported."""


@pytest.mark.parametrize("error", [RateLimited(), RateLimited(retry_after_s=1.0)], ids=["silent", "in a second"])
@pytest.mark.parametrize("latency_s", [0.05, 0.2])
@pytest.mark.parametrize("name", SERVERS)
def test_unreported_limit_is_found(name: str, latency_s: float, error: Any, virtual: Any) -> None:
    """Nine tenths of what a bucket permits are used, and about one request in a hundred is refused."""
    limit, rate_s, share = SERVERS[name]
    rows = 4000 if "minute" in name else 2000
    provider, elapsed_s, decisions = run_saturated(virtual, rows, bucket=limit, latency_s=latency_s, error=error)
    concurrency = limit.capacity if isinstance(limit, TokenBucket) else limit.allowed
    windowed = not isinstance(limit, TokenBucket)
    assert provider.answers >= share * (concurrency * (not windowed) + rate_s * elapsed_s)
    assert provider.refused <= (0.036 if windowed else 0.015) * provider.answers
    assert "pause" in {decision.kind for decision in decisions}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate_s", [10.0, 40.0])
def test_slow_refusals_cause_no_storm(rate_s: float, seed: int, virtual: Any) -> None:
    options = {"latency_s": 0.2, "refuses_in_s": 0.2, "seed": seed, "error": RateLimited()}
    provider, elapsed_s, _ = run_saturated(virtual, 2000, bucket=bucket(rate_s, 2 * rate_s), **options)
    assert provider.answers >= 0.9 * rate_s * elapsed_s
    assert provider.refused <= 0.14 * provider.answers


@pytest.mark.parametrize("concurrency", [5, 20])
def test_concurrency_limit_is_found(concurrency: int, virtual: Any) -> None:
    provider, elapsed_s, _ = run_saturated(virtual, 2000, concurrency=concurrency, error=RateLimited())
    assert provider.answers >= 0.9 * concurrency * elapsed_s / (0.5 * 1.046)
    assert provider.refused <= 0.02 * provider.answers


@pytest.mark.parametrize("concurrency", [1, 2])
def test_small_concurrency_limit_is_not_taken_for_a_rate(concurrency: int, virtual: Any) -> None:
    """What is in flight when a refusal arrives is not what was in flight when the refused request was sent."""
    options = {"refuses_in_s": 0.1, "error": RateLimited(retry_after_s=1.0)}
    provider, elapsed_s, _ = run_saturated(virtual, 400, concurrency=concurrency, **options)
    assert provider.answers >= 0.8 * concurrency * elapsed_s / (0.5 * 1.046)


@pytest.mark.parametrize(("later_rate_per_s", "share"), [(10.0, 0.85), (30.0, 0.9), (80.0, 0.75)])
def test_changed_limit_is_found_again(later_rate_per_s: float, share: float, virtual: Any) -> None:
    limit = [bucket(40.0, 80.0), bucket(later_rate_per_s, 2 * later_rate_per_s)]
    provider, elapsed_s, _ = run_saturated(
        virtual, 3000, bucket=limit[0], then=(20.0, limit[1]), latency_s=0.2, error=RateLimited()
    )
    assert provider.answers >= share * (80 + 40 * 20 + later_rate_per_s * (elapsed_s - 20))
    assert provider.refused <= 0.02 * provider.answers


@pytest.mark.parametrize("error", [RateLimited(retry_after_s=1.0), ServerError()])
def test_unrelated_failures_do_not_slow_down(error: Any, virtual: Any) -> None:
    """Random refusals: a slower pace does not help, so it does not last."""
    healthy, with_failures = (run_saturated(virtual, 3000, share=share, error=error)[1] for share in (0.0, 0.05))
    assert with_failures <= 1.25 * healthy


def test_healthy_provider_is_not_slowed_down(virtual: Any) -> None:
    assert run_saturated(virtual, 3000)[1] <= 1.05 * 3000 * 0.5 * 1.046 / 64 + 1.0


@pytest.mark.parametrize("error", [RateLimited(), RateLimited(retry_after_s=1.0)], ids=["silent", "in a second"])
@pytest.mark.parametrize("closed_s", [0.3, 1.0, 3.0, 10.0])
def test_refusals_at_the_start_do_not_slow_the_run(closed_s: float, error: Any, virtual: Any) -> None:
    """A server that accepts nothing at first has shown no rate, so slow start begins again once it accepts."""
    closed, opened = TokenBucket(1e-9, 1.0, 0.0, 0.0), TokenBucket(1e6, 1e6, 1e6, closed_s)
    options = {"bucket": closed, "then": (closed_s, opened), "latency_s": 0.1, "error": error}
    provider, elapsed_s, _ = run_saturated(virtual, 1000, **options)
    assert provider.answers >= 990
    assert elapsed_s <= 3 * (closed_s + 1000 * 0.1 / 64)


@pytest.mark.parametrize("error", [RateLimited(), RateLimited(retry_after_s=2.0)], ids=["silent", "in 2 seconds"])
@pytest.mark.parametrize(
    ("rate_s", "options"),
    [
        (40.0, {"bucket": bucket(40.0, 2.0), "share": 0.02, "latency_s": 0.2}),
        (30.0, {"bucket": bucket(1e-9, 2.0), "then": (0.2, bucket(30.0, 2.0)), "refuses_in_s": 1.0, "latency_s": 0.2}),
        (2 / 0.2, {"concurrency": 2, "latency_s": 0.2}),
        (4 / 0.1, {"concurrency": 4, "latency_s": 0.1}),
    ],
    ids=["also refused by chance", "refused at first", "two at once", "four at once"],
)
def test_no_server_makes_the_run_crawl(rate_s: float, options: dict[str, Any], error: Any, virtual: Any) -> None:
    """Small bursts, refusals by chance and few calls at once are not taken for a much lower rate."""
    provider, elapsed_s, _ = run_saturated(virtual, 1000, error=error, **options)
    assert elapsed_s <= 3 * provider.answers / rate_s


@pytest.mark.parametrize("error", [RateLimited(), RateLimited(retry_after_s=1.0)], ids=["silent", "in a second"])
def test_slow_refusals_by_chance_do_not_confirm_a_slow_pace(error: Any, virtual: Any) -> None:
    """Refusals that come early at a pace, one at a time, are doubted soon, and again once the pace is much slower."""
    options = {"bucket": bucket(187.0, 2.0), "share": 0.02, "latency_s": 0.2, "refuses_in_s": 1.0}
    provider, elapsed_s, _ = run_saturated(virtual, 6000, error=error, **options)
    assert elapsed_s <= 3 * provider.answers / 187


@pytest.mark.parametrize("seed", [10, 17])
def test_a_concurrency_limit_that_was_none_does_not_make_the_run_crawl(seed: int, virtual: Any) -> None:
    """At a steady pace, as many calls are in flight at one refusal as at the next: the rate is found again at once."""
    options = {"bucket": bucket(40.0, 2.0), "share": 0.02, "latency_s": 0.2, "seed": seed}
    provider, elapsed_s, _ = run_saturated(virtual, 1000, error=RateLimited(retry_after_s=2.0), **options)
    assert elapsed_s <= 3 * provider.answers / 40


# On a population of server models

specification = importlib.util.spec_from_file_location("pacing", Path(__file__).parents[2] / "benchmarks" / "pacing.py")
assert specification is not None
assert specification.loader is not None
pacing = sys.modules["pacing"] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(pacing)


def test_no_small_member_of_the_population_misses_the_bars() -> None:
    """A share of 0.8 of the oracle's rate, and three times its time, over the members with few rows."""
    members = [each for each in enumerate(pacing.population(0, 200)) if each[1].rows <= 220]
    results = {number: pacing.compare_with_oracle(scenario) for number, scenario in members}
    assert len(results) >= 40
    assert not [result.scenario.name for result in results.values() if result.over_oracle > pacing.MAX_TIME]
    assert not [result.scenario.name for result in results.values() if result.share_of_rate < pacing.MIN_SHARE]


@pytest.mark.parametrize(("rate_per_s", "burst"), [(5.0, 1.0), (20.0, 40.0)])
def test_the_oracle_is_never_refused_by_a_limit_and_uses_all_of_it(rate_per_s: float, burst: float) -> None:
    scenario = pacing.Scenario("bucket", partial(pacing.TokenBucket, rate_per_s, burst), 200, 0.1)
    oracle = pacing.run(scenario, oracle=True)
    assert (oracle.refused, oracle.failed) == (0, 0)
    assert oracle.elapsed_s <= (200 - burst) / rate_per_s + 0.5
