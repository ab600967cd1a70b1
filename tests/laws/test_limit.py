from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import InvalidRequestError, Overloaded, RateLimited
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Usage
from llmhub.engine.call import Answer, Call
from llmhub.engine.limit import (
    LONGEST_PAUSE_S,
    USUAL_ANSWER,
    Gate,
    Level,
    Limit,
    TokenBucket,
    bucket,
    expected_tokens,
    give,
    limited,
    take,
)

Clock = Callable[[], float]
buckets = st.builds(TokenBucket, rate_s=st.floats(0.01, 100), capacity=st.floats(1, 100))
gaps = st.floats(0, 10)


def granted(kind: TokenBucket, asked: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Let ``(seconds after the one before, cost)`` ask; give when each is granted, and how much."""
    level, now, slots = Level(kind.capacity, 0.0), 0.0, []
    for gap, cost in asked:
        now += gap
        level, wait = take(kind, level, now, cost)
        assert wait >= 0
        slots.append((now + wait, cost))
    return slots


def most_in_windows(slots: list[tuple[float, float]], kind: TokenBucket) -> float:
    """Give how far any window between two grants is from what is allowed, relative to it."""
    worst = 0.0
    for first, (start, _) in enumerate(slots):
        inside = 0.0
        for at, cost in slots[first:]:
            inside += cost
            worst = max(worst, inside / (kind.capacity + kind.rate_s * (at - start)))
    return worst


# take, which is pure


@given(buckets, st.lists(st.tuples(gaps, st.floats(0, 1)), max_size=40))
def test_no_window_sees_more_than_the_capacity_and_what_flows_in(
    kind: TokenBucket, asked: list[tuple[float, float]]
) -> None:
    slots = granted(kind, [(gap, share * kind.capacity) for gap, share in asked])
    assert most_in_windows(slots, kind) <= 1 + 1e-6


@given(buckets, st.lists(st.tuples(gaps, st.floats(0, 300)), max_size=40))
def test_slots_are_given_in_the_order_of_asking_whatever_they_cost(
    kind: TokenBucket, asked: list[tuple[float, float]]
) -> None:
    times = [at for at, _ in granted(kind, asked)]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(times))


@given(buckets, st.lists(st.tuples(gaps, st.floats(0, 300)), max_size=40))
def test_a_cost_beyond_the_capacity_is_paid_back_by_those_after_it(
    kind: TokenBucket, asked: list[tuple[float, float]]
) -> None:
    slots = granted(kind, asked)
    for first, (start, _) in enumerate(slots):
        *inside, (end, _) = slots[first:]
        flowed = kind.capacity + kind.rate_s * (end - start)
        assert sum(cost for _, cost in inside) <= flowed * (1 + 1e-6) + 1e-6


@given(buckets, st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_who_always_asks_gets_what_flows_in(kind: TokenBucket, shares: list[float]) -> None:
    costs = [share * kind.capacity for share in shares]
    last, _ = granted(kind, [(0.0, cost) for cost in costs])[-1]
    assert last == pytest.approx(max(0.0, (sum(costs) - kind.capacity) / kind.rate_s), abs=1e-6)


def test_a_clock_that_goes_back_grants_nothing_twice() -> None:
    kind = TokenBucket(rate_s=1.0, capacity=1.0)
    level, _ = take(kind, Level(1.0, 100.0), 100.0, 1.0)
    level, wait = take(kind, level, 50.0, 1.0)
    assert (level.at, wait) == (100.0, 1.0)


@given(buckets, st.floats(0, 10), st.floats(0, 10))
def test_what_is_given_back_can_be_taken_and_no_more(kind: TokenBucket, cost: float, amount: float) -> None:
    level, _ = take(kind, Level(kind.capacity, 0.0), 0.0, cost)
    assert give(give(level, amount), -amount).tokens == pytest.approx(level.tokens)
    full, wait = take(kind, give(level, 1e9), 0.0, kind.capacity)
    assert (full.tokens, wait) == (0.0, 0.0)


# Limits


def requests_in_a_minute(limit: Limit) -> int:
    """Count the most requests that any closed minute sees when somebody always asks."""
    assert limit.rpm is not None
    times = [at for at, _ in granted(bucket(limit.rpm, limit.burst), [(0.0, 1.0)] * (int(3 * limit.rpm) + 3))]
    return max(sum(start <= at <= start + 60 for at in times) for start in times)


@given(st.integers(1, 400), st.floats(0.001, 0.1))
def test_no_minute_sees_more_than_the_allowance(rpm: int, burst: float) -> None:
    assert requests_in_a_minute(Limit(rpm=rpm, burst=burst)) <= rpm


@pytest.mark.parametrize("rpm", [60, 600, 1200, 10_000])
def test_the_usual_burst_leaves_most_of_the_allowance(rpm: int) -> None:
    assert bucket(rpm, Limit().burst).rate_s * 60 >= 0.95 * rpm


def test_a_large_burst_is_for_servers_that_permit_it_and_costs_a_tenth_of_the_rate() -> None:
    full = bucket(600, 1.0)
    assert (full.capacity, full.rate_s) == (600, 9.0)


@pytest.mark.parametrize("wrong", [{"rpm": 0}, {"rpm": -1}, {"tpm": float("nan")}, {"burst": 0}, {"burst": 1.1}])
def test_what_cannot_be_a_limit_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidRequestError, match=f"limits.{next(iter(wrong))}"):
        Limit(**wrong)


# The gate, in virtual time


async def gone(gate: Gate, clock: Clock, costs: list[float]) -> list[float]:
    """Ask with all costs at once; give when each may go, in the order of asking."""

    async def ask(cost: float) -> float:
        await gate.wait(cost)
        return clock()

    return await asyncio.gather(*(ask(cost) for cost in costs))


def test_the_gate_lets_a_burst_through_and_then_keeps_the_rate_exactly(virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        return await gone(Gate(Limit(rpm=600, burst=0.1), clock), clock, [0] * 100)

    times = virtual.run(work)
    assert times[:60] == [0.0] * 60
    assert times[60:] == pytest.approx([(n + 1) / 9 for n in range(40)])


def test_whoever_asks_first_goes_first(virtual: Any) -> None:
    async def work(clock: Clock) -> list[int]:
        gate, order = Gate(Limit(tpm=6000, burst=0.01), clock), []

        async def ask(who: int, cost: float) -> None:
            await gate.wait(cost)
            order.append(who)

        await asyncio.gather(*(ask(who, cost) for who, cost in enumerate([50, 500, 1, 60, 1, 1, 200, 1])))
        return order

    assert virtual.run(work) == list(range(8))


def test_both_limits_hold(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[list[float], list[float]]:
        slow_in_tokens = await gone(Gate(Limit(rpm=6000, tpm=600), clock), clock, [6] * 5)
        slow_in_requests = await gone(Gate(Limit(rpm=60, tpm=10**9), clock), clock, [10] * 5)
        return slow_in_tokens, slow_in_requests

    tokens, requests = virtual.run(work)
    assert tokens[-1] == pytest.approx(24 / 9.9)
    assert requests[-1] - requests[0] == pytest.approx(4 * 60 / 59)


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 40)), min_size=1, max_size=15))
def test_the_gate_says_how_long_it_kept_you(virtual: Any, asked: list[tuple[float, float]]) -> None:
    async def work(clock: Clock) -> list[tuple[float, float]]:
        gate = Gate(Limit(rpm=100, tpm=1000), clock)

        async def ask(at: float, cost: float) -> tuple[float, float]:
            await asyncio.sleep(at)
            start = clock()
            return await gate.wait(cost), clock() - start

        return await asyncio.gather(*(ask(at, cost) for at, cost in asked))

    assert all(said == pytest.approx(real, abs=1e-6) for said, real in virtual.run(work))


def test_nobody_goes_while_the_gate_is_closed_not_even_who_had_a_slot(virtual: Any) -> None:
    async def work(clock: Clock) -> list[float]:
        gate = Gate(Limit(rpm=600, burst=0.01), clock)
        waiting = asyncio.create_task(gone(gate, clock, [0] * 12))
        await asyncio.sleep(0.05)
        gate.close_for(30.0)
        gate.close_for(1.0)
        await asyncio.sleep(10.0)
        late = await gone(gate, clock, [0])
        return [*(await waiting), *late]

    times = virtual.run(work)
    assert times[:6] == [0.0] * 6
    assert min(times[6:]) >= 30.05
    assert times == sorted(times)


def test_a_gate_that_opens_again_is_not_stormed(virtual: Any) -> None:
    """What waited behind a closed gate still keeps the rate: all at once would be refused again."""
    kind = bucket(600, 0.01)

    async def work(clock: Clock) -> list[float]:
        gate = Gate(Limit(rpm=600, burst=0.01), clock)
        before = asyncio.create_task(gone(gate, clock, [0] * 40))
        await asyncio.sleep(1.0)
        gate.close_for(20.0)
        await asyncio.sleep(5.0)
        during = asyncio.create_task(gone(gate, clock, [0] * 40))
        return [*(await before), *(await during)]

    times = virtual.run(work)
    assert times == sorted(times)
    assert most_in_windows([(at, 1.0) for at in times], kind) <= 1 + 1e-6
    assert times[-1] - 21.0 <= 80 / kind.rate_s


@given(st.lists(st.tuples(gaps, st.sampled_from(["ask", "close"]), st.floats(0, 8)), max_size=30))
def test_however_it_is_closed_the_gate_keeps_rate_and_order(
    virtual: Any, story: list[tuple[float, str, float]]
) -> None:
    kind = bucket(60, 0.05)

    async def work(clock: Clock) -> tuple[list[float], list[tuple[float, float]]]:
        gate = Gate(Limit(rpm=60, burst=0.05), clock)
        tasks: list[asyncio.Task[list[float]]] = []
        closed: list[tuple[float, float]] = []
        for gap, what, amount in story:
            await asyncio.sleep(gap)
            if what == "close":
                gate.close_for(amount)
                closed.append((clock(), clock() + amount))
            else:
                tasks.append(asyncio.create_task(gone(gate, clock, [0] * int(amount))))
                await asyncio.sleep(0)
        return [at for task in tasks for at in await task], closed

    times, closed = virtual.run(work)
    assert times == sorted(times)
    assert most_in_windows([(at, 1.0) for at in times], kind) <= 1 + 1e-6
    assert not any(start + 1e-6 < at < end - 1e-6 for at in times for start, end in closed)


def test_what_was_not_used_is_there_for_the_next(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[float, float]:
        gate = Gate(Limit(tpm=600, burst=0.1), clock)
        await gate.wait(60)
        gate.settle(60, 10)
        first = await gate.wait(50)
        gate.settle(50, 50 + 54)
        return first, await gate.wait(0)

    first, second = virtual.run(work)
    assert first == 0.0
    assert second == pytest.approx(54 / 9)


# The middleware


class Provider:
    def __init__(self, clock: Clock, *answers: Answer) -> None:
        self.clock, self.answers = clock, list(answers)
        self.sent_at: list[float] = []

    async def __call__(self, call: Call) -> Answer:
        self.sent_at.append(self.clock())
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def call(text: str = "four score and seven", **more: Any) -> Any:
    request = CompletionRequest(model="m", messages=(Message("user", text),), **more)
    return Call(target=None, request=request)  # type: ignore[arg-type]


OK = Answer(Success(CompletionResponse(usage=Usage(input_tokens=4, output_tokens=6))), total_s=0.5, attempts=1)


def story(virtual: Any, limit: Limit, answers: list[Answer], calls: list[Any]) -> tuple[list[Answer], list[float]]:
    async def work(clock: Clock) -> tuple[list[Answer], list[float]]:
        provider = Provider(clock, *answers)
        send: Callable[[Call], Awaitable[Answer]] = limited(Gate(limit, clock))(provider)
        return [await send(each) for each in calls], provider.sent_at

    done: tuple[list[Answer], list[float]] = virtual.run(work)
    return done


def test_a_call_says_how_long_it_waited_for_its_limit(virtual: Any) -> None:
    answers, sent_at = story(virtual, Limit(rpm=60), [OK], [call()] * 3)
    assert sent_at == pytest.approx([0.0, 60 / 59, 120 / 59])
    assert [answer.rate_wait_s for answer in answers] == [None, pytest.approx(60 / 59), pytest.approx(60 / 59)]
    assert answers[1].total_s == pytest.approx(0.5 + 60 / 59)


def test_tokens_are_booked_before_and_corrected_after(virtual: Any) -> None:
    booked = expected_tokens(call(max_tokens=1000).request)
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [OK], [call(max_tokens=1000)] * 20)
    assert sent_at[-1] < 19 * 10 / booked * 2


def test_without_counts_what_was_booked_stays_booked(virtual: Any) -> None:
    silent = Answer(Success(CompletionResponse()))
    booked = expected_tokens(call(max_tokens=1000).request)
    _, sent_at = story(virtual, Limit(tpm=60 * booked, burst=1 / 60), [silent], [call(max_tokens=1000)] * 3)
    assert sent_at[-1] == pytest.approx(2 * 60 / 59)


def test_a_provider_that_says_when_to_come_again_is_left_alone_until_then(virtual: Any) -> None:
    refused = Answer(Failure(RateLimited(retry_after_s=7.0)))
    assert story(virtual, Limit(rpm=6000), [refused, OK], [call()] * 2)[1] == [0.0, 7.0]


@pytest.mark.parametrize("error", [RateLimited(), Overloaded(retry_after_s=7.0), RateLimited(retry_after_s=0.0)])
def test_other_failures_close_nothing(virtual: Any, error: Any) -> None:
    assert story(virtual, Limit(rpm=6000), [Answer(Failure(error)), OK], [call()] * 2)[1] == [0.0, 0.0]


def test_a_wish_to_be_left_alone_for_a_day_does_not_hang_a_run(virtual: Any) -> None:
    """Longer than any call would wait, it is a refusal: every call may hear it for itself."""
    refused = Answer(Failure(RateLimited(retry_after_s=86_400.0)))
    sent_at = story(virtual, Limit(rpm=6000), [refused], [call()] * 3)[1]
    assert sent_at[-1] <= 2 * LONGEST_PAUSE_S
    assert sent_at == [0.0, 0.0, 0.0]


def test_a_call_takes_its_prompt_and_as_much_as_it_may_answer() -> None:
    asked = expected_tokens(call("").request)
    assert asked == USUAL_ANSWER
    assert expected_tokens(call("", max_tokens=7, n=3).request) == 21
    assert expected_tokens(call("a few words more").request) > asked
