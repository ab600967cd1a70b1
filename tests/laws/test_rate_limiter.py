"""Declared limits and the rate limiter: exact, in order, and paused when a provider asks for it."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import BadRequestError, Overloaded, RateLimited, ServerError
from llmhub.core.provider import Endpoint, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, Image, Message, Usage
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.limits import (
    TYPICAL_OUTPUT_TOKENS,
    FixedWindow,
    Limit,
    RateCost,
    SlidingWindow,
    TokenBucket,
    estimate_cost,
    take,
    token_bucket,
)
from llmhub.engine.rate_limiter import Permit, RateLimiter, TargetLimiter, Wait, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
ONE, OTHER = (Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in ("one", "other"))


def most_in_windows(slots: list[tuple[float, float]], kind: TokenBucket) -> float:
    """Return the largest excess over the allowance of any window between two grants, as a ratio."""
    largest_excess = 0.0
    for first, (start, _) in enumerate(slots):
        inside = 0.0
        for at, cost in slots[first:]:
            inside += cost
            largest_excess = max(largest_excess, inside / (kind.capacity + kind.rate_per_s * (at - start)))
    return largest_excess


# Declared limits


def requests_in_a_minute(rpm: int, burst: float) -> int:
    """Return the most requests in any closed minute under continuous demand."""
    state, times = token_bucket(rpm, burst), []
    for _ in range(3 * rpm + 3):
        state, wait = take(state, 0.0, 1.0)
        times.append(wait)
    return max(bisect_right(times, start + 60) - first for first, start in enumerate(times))


@given(st.integers(1, 400), st.floats(0.001, 0.1))
def test_no_minute_exceeds_the_allowance(rpm: int, burst: float) -> None:
    assert requests_in_a_minute(rpm, burst) <= rpm


@pytest.mark.parametrize("rpm", [2, 10, 60, 600, 1200, 10_000])
def test_default_burst_leaves_nearly_all_of_the_allowance(rpm: int) -> None:
    assert token_bucket(rpm, Limit().burst).rate_per_s * 60 >= 0.98 * rpm


def test_large_burst_costs_a_tenth_of_the_rate() -> None:
    full = token_bucket(600, 1.0)
    assert (full.capacity, full.rate_per_s) == (600, 9.0)


WRONG: list[dict[str, Any]] = [
    {"rpm": 0},
    {"rpm": -1},
    {"rpm": "60"},
    {"rpm": True},
    {"tpm": float("nan")},
    {"input_tpm": float("inf")},
    {"output_tpm": 0},
    {"rpd": 0},
    {"burst": 0},
    {"burst": 1.1},
    {"window": "sliding"},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_invalid_limit_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"limits.{next(iter(wrong))}"):
        Limit(**wrong)


def test_estimated_cost_is_prompt_plus_max_tokens() -> None:
    assert estimate_cost(call("").request) == RateCost(1, TYPICAL_OUTPUT_TOKENS, 0, TYPICAL_OUTPUT_TOKENS)
    assert estimate_cost(call("", max_tokens=7, n=3).request).output_tokens == 21
    assert estimate_cost(call("").request, typical_output_tokens=9.0).tokens == 9.0
    more = estimate_cost(call("a few words more", max_tokens=7).request)
    assert more.tokens == more.input_tokens + 7 > 7
    extra = {"generationConfig": {"maxOutputTokens": 9, "candidateCount": 2}}
    assert estimate_cost(call("", extra=extra).request).output_tokens == 18


# The limiter, in virtual time


class LimitedTarget:
    """A rate limiter and the limiter of one target."""

    def __init__(self, limit: Limit | None, clock: Clock, *, adaptive: bool = False, name: str = "openai") -> None:
        self.clock = clock
        self.log = DecisionLog(clock)
        self.limiter = RateLimiter(
            {name: limit} if limit is not None else {}, clock, self.log.record, adaptive=adaptive
        )
        self.target_limiter = self.limiter.for_target(ONE)

    async def wait(self, tokens: float = 0.0, target_limiter: TargetLimiter | None = None) -> Permit | Wait:
        return await self.limiter.acquire(
            target_limiter or self.target_limiter, RateCost(1.0, tokens, tokens, 0.0), self.clock()
        )

    async def grant_times(self, costs: list[float], target_limiter: TargetLimiter | None = None) -> list[float]:
        """Ask with all costs at once; give when each may go, in the order of asking."""

        async def ask(cost: float) -> float:
            await self.wait(cost, target_limiter)
            return self.clock()

        return await asyncio.gather(*(ask(cost) for cost in costs))


def test_limiter_admits_a_burst_and_then_the_exact_rate(virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        return await LimitedTarget(Limit(rpm=600, burst=0.1), clock).grant_times([0] * 100)

    times = virtual.run(work)
    assert times[:60] == [0.0] * 60
    assert times[60:] == pytest.approx([(n + 1) / 9 for n in range(40)])


def test_calls_are_admitted_in_order(virtual: Any) -> None:
    async def work(clock: Clock) -> list[int]:
        limited, order = LimitedTarget(Limit(tpm=6000, burst=0.01), clock), []

        async def ask(caller: int, cost: float) -> None:
            await limited.wait(cost)
            order.append(caller)

        await asyncio.gather(*(ask(caller, cost) for caller, cost in enumerate([50, 500, 1, 60, 1, 1, 200, 1])))
        return order

    assert virtual.run(work) == list(range(8))


def test_all_limits_hold(virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        limits = [Limit(rpm=6000, tpm=600), Limit(rpm=60, tpm=10**9), Limit(input_tpm=600), Limit(rpm=600, rpd=2)]
        first, second, third = [(await LimitedTarget(limit, clock).grant_times([6.0] * 5))[-1] for limit in limits[:3]]
        daily = LimitedTarget(limits[3], clock)
        for _ in range(2):
            assert isinstance(await daily.wait(), Permit)
        wait_for_day = await daily.wait()
        assert isinstance(wait_for_day, Wait)
        return [first, second - first, third - second, wait_for_day.wait_s]

    tokens, requests, inputs, day = virtual.run(work)
    assert (tokens, inputs) == pytest.approx((24 / 9.9, 24 / 9.9))
    assert requests == pytest.approx(4 * 60 / 59.4)
    assert 86_400 <= day <= 88_000


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 40)), min_size=1, max_size=15))
def test_permit_has_the_time_it_was_granted(virtual: Any, calls: list[tuple[float, float]]) -> None:
    async def work(clock: Clock) -> list[tuple[float, float]]:
        limited = LimitedTarget(Limit(rpm=100, tpm=1000), clock)

        async def ask(at: float, cost: float) -> tuple[float, float]:
            await asyncio.sleep(at)
            permit = await limited.wait(cost)
            assert isinstance(permit, Permit)
            return permit.granted_at, clock()

        return await asyncio.gather(*(ask(at, cost) for at, cost in calls))

    assert all(reported == pytest.approx(real, abs=1e-6) for reported, real in virtual.run(work))


def test_models_share_the_limit_of_their_provider_in_order(virtual: Any) -> None:
    async def work(clock: Clock) -> list[str]:
        limited, order = LimitedTarget(Limit(rpm=60), clock), []

        async def ask(target: Target) -> None:
            await limited.wait(target_limiter=limited.limiter.for_target(target))
            order.append(target.model)

        await asyncio.gather(*(ask(target) for target in (ONE, OTHER, OTHER, ONE, OTHER, ONE, ONE)))
        return order

    assert virtual.run(work) == ["one", "other", "other", "one", "other", "one", "one"]


def test_waiting_for_a_model_limit_does_not_block_other_models(virtual: Any) -> None:
    async def work(clock: Clock) -> float:
        limited = LimitedTarget(Limit(rpm=1), clock, name="openai/one")
        slow = asyncio.create_task(limited.grant_times([0, 0]))
        await asyncio.sleep(1)
        await limited.grant_times([0] * 50, limited.limiter.for_target(OTHER))
        at = clock()
        await slow
        return at

    assert virtual.run(work) == 1.0


def test_cancelled_waiter_books_nothing(virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        limited = LimitedTarget(Limit(rpm=60), clock)
        await limited.wait()
        waiting = [asyncio.create_task(limited.grant_times([0])) for _ in range(3)]
        await asyncio.sleep(0.5)
        waiting[0].cancel()
        waiting[1].cancel()
        return await waiting[2]

    assert virtual.run(work) == pytest.approx([60 / 59.4])


def test_refund_admits_waiting_calls(virtual: Any) -> None:
    """An excess booking is refunded at once and admits a waiting call."""

    async def work(clock: Clock) -> float:
        limited = LimitedTarget(Limit(tpm=600, burst=0.1), clock)
        first = await limited.wait(60)
        waiting = asyncio.create_task(limited.grant_times([50]))
        await asyncio.sleep(1.0)
        answer = Answer(Success(CompletionResponse(usage=Usage(input_tokens=5, output_tokens=5))), attempts=1)
        assert isinstance(first, Permit)
        limited.limiter.record(limited.target_limiter, first, answer)
        return (await waiting)[0]

    assert virtual.run(work) == 1.0


@pytest.mark.parametrize(("window", "after_s"), [(FixedWindow, 60.3), (SlidingWindow, 61.0)])
def test_fixed_window_uses_its_allowance_at_once(window: Any, after_s: float, virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        return await LimitedTarget(Limit(rpm=5, window=window), clock).grant_times([0] * 8)

    assert virtual.run(work) == pytest.approx([0.0] * 5 + [after_s] * 3)


# The middleware


class Provider:
    def __init__(self, clock: Clock, *answers: Answer) -> None:
        self.clock, self.answers = clock, list(answers)
        self.sent_at: list[float] = []

    async def __call__(self, call: Call) -> Answer:
        self.sent_at.append(self.clock())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def call(text: str = "four score and seven", target: Target = ONE, **more: Any) -> Call:
    return Call(target, CompletionRequest(model="m", messages=(Message("user", text),), **more))


OK = Answer(Success(CompletionResponse(usage=Usage(input_tokens=4, output_tokens=6))), total_s=0.5, attempts=1)


def story(
    virtual: Any, limit: Limit | None, answers: list[Answer], calls: list[Call]
) -> tuple[list[Answer], list[float]]:
    async def work(clock: Clock) -> tuple[list[Answer], list[float]]:
        provider, limited = Provider(clock, *answers), LimitedTarget(limit, clock, adaptive=True)
        send = rate_limit_middleware(limited.limiter, limited.target_limiter, clock)(provider)
        return [await send(each) for each in calls], provider.sent_at

    done: tuple[list[Answer], list[float]] = virtual.run(work)
    return done


def test_answer_reports_its_rate_wait(virtual: Any) -> None:
    answers, sent_at = story(virtual, Limit(rpm=60), [OK], [call()] * 3)
    step = 60 / 59.4
    assert sent_at == pytest.approx([0.0, step, 2 * step])
    assert [answer.rate_wait_s for answer in answers] == [None, pytest.approx(step), pytest.approx(step)]
    assert answers[1].total_s == pytest.approx(0.5 + step)


def test_booked_tokens_are_corrected_by_usage(virtual: Any) -> None:
    target = Target(PROVIDERS["groq"], Endpoint(), "one", "groq/one")
    given = call(target=target, max_tokens=1000)
    booked = estimate_cost(given.request).tokens
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [OK], [given] * 20)
    assert sent_at[-1] < 19 * 10 / booked * 2


@pytest.mark.parametrize("asked", [{"max_tokens": 1000}, {"extra": {"max_completion_tokens": 1000}}])
@pytest.mark.parametrize(
    "provider",
    ["openai", "openai-responses", "openai-completions", "azure", "azure-responses", "azure-completions"],
)
def test_max_tokens_stay_booked_where_the_provider_counts_them(
    provider: str, asked: dict[str, Any], virtual: Any
) -> None:
    given = call(target=Target(PROVIDERS[provider], Endpoint(), "one", f"{provider}/one"), **asked)
    booked = estimate_cost(given.request).tokens
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [OK], [given] * 4)
    assert sent_at == pytest.approx(
        [0.0, *(60 / 59 * (1000 / booked) + 60 / 59 * index for index in range(3))], rel=0.05
    )


@pytest.mark.parametrize(("provider", "rest"), [("openai", 0), ("openai-responses", 0), ("azure", 500)])
def test_azure_counts_the_prompt_beside_max_tokens(provider: str, rest: int, virtual: Any) -> None:
    """OpenAI counts the larger of them."""
    target = Target(PROVIDERS[provider], Endpoint(), "one", f"{provider}/one")
    given = call("word " * 500, target=target, max_tokens=1000)
    booked = estimate_cost(given.request).tokens
    answer = Answer(Success(CompletionResponse(usage=Usage(input_tokens=500, output_tokens=5))), attempts=1)
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [answer], [given] * 20)
    interval_s = (sent_at[-1] - sent_at[0]) / 19
    assert interval_s == pytest.approx(60 / 59 * (1000 + rest) / booked, rel=0.05)


def test_limit_of_images_holds_up_calls_with_images_only(virtual: Any) -> None:
    used_up = replace(OK, limits=RateLimitInfo(limit_images=60, remaining_images=0, reset_images_s=60.0))
    image = replace(call(), request=replace(call().request, messages=(Message("user", Image(url="https://h/a.png")),)))
    assert estimate_cost(image.request).input_images == 1
    _, sent_at = story(virtual, None, [used_up], [image, call(), image])
    first, text, second = sent_at
    assert text == first
    assert second >= text + 1.0


def test_booking_stays_without_usage(virtual: Any) -> None:
    silent = Answer(Success(CompletionResponse()))
    booked = estimate_cost(call(max_tokens=1000).request).tokens
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [silent], [call(max_tokens=1000)] * 3)
    assert sent_at[-1] == pytest.approx(2 * 60 / 59)


def test_expected_output_follows_earlier_responses(virtual: Any) -> None:
    _, sent_at = story(virtual, Limit(tpm=6000), [OK], [call()] * 100)
    assert 90 * 10 / 100 * 0.9 <= sent_at[-1] <= 100 * 10 / 100 * 1.1


def refusal(retry_after_s: float | None = None, limits: RateLimitInfo | None = None) -> Answer:
    return Answer(Failure(RateLimited(retry_after_s=retry_after_s)), attempts=1, limits=limits)


@pytest.mark.parametrize("limit", [Limit(rpm=60_000), None])
def test_retry_after_pauses_all_calls(limit: Limit | None, virtual: Any) -> None:
    sent_at = story(virtual, limit, [refusal(7.0)] * 4 + [OK], [call()] * 6)[1]
    assert sent_at[3] < 0.1
    assert sent_at[4] >= 7.0


def test_exhausted_window_is_waited_for_at_once(virtual: Any) -> None:
    """The reply reports nothing left, and a full reset at the end of its Retry-After."""
    info = RateLimitInfo(limit_requests=60, remaining_requests=0, reset_requests_s=9.0)
    assert story(virtual, None, [refusal(9.0, info), OK], [call()] * 2)[1] == [0.0, 9.0]


@pytest.mark.parametrize(
    "answer", [refusal(), refusal(0.5), Answer(Failure(Overloaded(retry_after_s=7.0)), attempts=1)]
)
def test_occasional_failure_causes_no_pause(answer: Answer, virtual: Any) -> None:
    assert story(virtual, Limit(rpm=6000), [answer, OK, OK, answer, OK], [call()] * 5)[1] == [0.0] * 5


def test_retry_after_of_a_day_does_not_hang_a_run(virtual: Any) -> None:
    """Beyond the maximum wait there is no pause: each call gets its own error."""
    sent_at = story(virtual, Limit(rpm=6000), [refusal(86_400.0)], [call()] * 20)[1]
    assert sent_at[-1] <= 600.0


def test_wait_beyond_the_maximum_fails_at_once(virtual: Any) -> None:
    answers, sent_at = story(virtual, Limit(rpd=1), [OK], [call()] * 2)
    assert len(sent_at) == 1
    error = answers[1].outcome.failure()
    assert isinstance(error, RateLimited)
    assert (error.should_retry, answers[1].attempts) == (False, 0)
    assert "the rate limit (requests, declared for openai)" in error.message


# Providers that refuse every request


class Refusing:
    """Refuses every request until a time, and asks to be tried again in a second."""

    def __init__(self, clock: Clock, until_s: float) -> None:
        self.clock, self.until_s = clock, until_s
        self.sent = 0

    async def __call__(self, call: Call) -> Answer:
        self.sent += 1
        await asyncio.sleep(0.05)
        if self.clock() >= self.until_s:
            return Answer(Success(CompletionResponse()), attempts=1)
        error = RateLimited(provider="openai", message="no credit left", status=429, retry_after_s=1.0)
        return Answer(Failure(error), attempts=1)


def send_rows(
    virtual: Any, rows: int, until_s: float, deadline_s: float, *, pause_s: float = 0.0
) -> tuple[list[tuple[float, Answer]], list[str], Refusing]:
    """Send rows, 64 at once, the last of them after a pause; return when each ended and how, and what was shown."""

    async def work(clock: Clock) -> tuple[list[tuple[float, Answer]], list[str], Refusing]:
        provider, retry = Refusing(clock, until_s), Retry(deadline_s=deadline_s)
        limiter = RateLimiter({}, clock, DecisionLog(clock).record, refusal_deadline_s=deadline_s)
        send = chain(
            provider,
            retry_middleware(retry, clock, lambda: 0.5),
            rate_limit_middleware(limiter, limiter.for_target(ONE), clock),
        )
        remaining, ended, shown = iter(range(rows)), [], list[str]()

        async def worker() -> None:
            for _ in remaining:
                answer = await send(call("row"))
                ended.append((clock(), answer))

        async def watch() -> None:
            while True:
                await asyncio.sleep(1.0)
                shown.append(limiter.refusal(ONE.name))

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(worker() for _ in range(64)))
        watcher.cancel()
        if pause_s:
            await asyncio.sleep(pause_s)
            ended += [(clock(), answer) for answer in await asyncio.gather(*(send(call("row")) for _ in range(64)))]
        return ended, shown, provider

    done: tuple[list[tuple[float, Answer]], list[str], Refusing] = virtual.run(work)
    return done


@pytest.mark.parametrize("deadline_s", [5.0, 30.0, 300.0])
def test_a_run_ends_where_every_request_is_refused(deadline_s: float, virtual: Any) -> None:
    ended, shown, provider = send_rows(virtual, 2000, 1e9, deadline_s)
    assert len(ended) == 2000
    assert max(at for at, _ in ended) <= deadline_s + 10.0
    for _, answer in ended:
        error = answer.outcome.failure()
        assert isinstance(error, RateLimited)
        assert error.message.endswith("no credit left")
        assert error.status == 429
    assert "openai: no credit left (429)" in shown
    assert provider.sent <= 200 + deadline_s


def test_a_provider_that_accepts_again_is_used_again(virtual: Any) -> None:
    ended, _, _ = send_rows(virtual, 200, 600.0, 30.0, pause_s=3600.0)
    assert all(isinstance(answer.outcome, Failure) for _, answer in ended[:200])
    assert all(isinstance(answer.outcome, Success) for _, answer in ended[200:])


def test_a_retry_that_waits_behind_others_is_sent_after_its_deadline(virtual: Any) -> None:
    """The provider accepts requests, if slowly, so that the row is not lost."""

    async def work(clock: Clock) -> list[Answer]:
        refused: set[str] = set()

        async def provider(call: Call) -> Answer:
            text = call.request.messages[0].text
            if text == "refused once" and text not in refused:
                refused.add(text)
                return Answer(Failure(ServerError(message="try again")), attempts=1)
            return Answer(Success(CompletionResponse()), attempts=1)

        limiter = RateLimiter({"openai": Limit(rpm=60, burst=1 / 60)}, clock, DecisionLog(clock).record)
        send = chain(
            provider,
            retry_middleware(Retry(deadline_s=20.0), clock, lambda: 0.5),
            rate_limit_middleware(limiter, limiter.for_target(ONE), clock),
        )
        texts = ["refused once", *(f"row {number}" for number in range(60))]
        answers = await asyncio.gather(*(send(call(text)) for text in texts))
        assert clock() > 60.0
        return answers

    answers = virtual.run(work)
    assert all(isinstance(answer.outcome, Success) for answer in answers)
    assert answers[0].total_s < 23.0
