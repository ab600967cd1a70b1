from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.budget import Budget, BudgetDecision, check_budget, nano_to_usd, parse_budget, reconcile, reserve
from llmhub.core.errors import (
    NOT_CONNECTED,
    AuthFailed,
    BadRequestError,
    BudgetExceeded,
    Disconnected,
    LLMError,
    RateLimited,
    ServerError,
    TimedOut,
)
from llmhub.core.pricing import (
    MAX_TOKENS_PER_DOCUMENT,
    MAX_TOKENS_PER_IMAGE,
    Price,
    PriceTier,
    Rates,
    compute_cost_nano_usd,
    cost_bound_nano_usd,
    input_token_bound,
    output_token_bound,
)
from llmhub.core.provider import Endpoint
from llmhub.core.types import (
    CacheMark,
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Message,
    Opaque,
    Text,
    Tool,
    Usage,
)
from llmhub.engine.call import Answer, Call, Send, Target
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices, budget_middleware, max_cost_nano_usd
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
amounts = st.integers(0, 1000)
rates = st.decimals(0, "1e-4", places=10)
prices = st.builds(
    lambda first, tiers, fee: Price(price_id="x@y", source="x", rates=first, tiers=tiers, request_usd=fee),
    st.builds(Rates, input=rates, output=rates, cached_input=st.none() | rates, cache_write=st.none() | rates),
    st.lists(st.builds(PriceTier, st.integers(0, 5000), st.builds(Rates, input=rates, output=rates)), max_size=2).map(
        tuple
    ),
    st.decimals(0, "0.1", places=4),
)


# Arithmetic


@given(amounts, st.lists(st.tuples(amounts, st.floats(0, 1), st.booleans()), max_size=40))
def test_spending_never_exceeds_the_limit_if_reservations_are_upper_bounds(
    limit: int, calls: list[tuple[int, float, bool]]
) -> None:
    budget, open_calls = Budget(limit=limit), []
    for max_cost, share, ends in calls:
        decision = check_budget(budget, max_cost)
        decision_alone = check_budget(Budget(limit, budget.spent), max_cost)
        assert (decision is BudgetDecision.REJECT) == (decision_alone is BudgetDecision.REJECT)
        if decision is BudgetDecision.ALLOW:
            budget = reserve(budget, max_cost)
            open_calls.append((max_cost, int(max_cost * share)))
        if ends and open_calls:
            budget = reconcile(budget, *open_calls.pop(0))
        assert budget.reserved == sum(max_cost for max_cost, _ in open_calls)
        assert budget.spent + budget.reserved <= limit
    for open_call in open_calls:
        budget = reconcile(budget, *open_call)
    assert budget.reserved == 0
    assert budget.spent <= limit


@given(st.decimals(0, 10**6, places=9))
def test_amounts_are_taken_at_face_value(amount: Decimal) -> None:
    assert parse_budget(amount).limit_usd == amount
    assert nano_to_usd(parse_budget(str(amount)).limit) == amount


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "much", True, None, [1], "1,50"])
def test_invalid_amount_names_its_field(wrong: object) -> None:
    with pytest.raises(BadRequestError, match=r"budget_usd: .* is not an amount"):
        parse_budget(wrong)


# Bounds


@given(st.text(max_size=200), st.text(max_size=50))
def test_bytes_bound_the_tokens_of_text(text: str, system: str) -> None:
    request = CompletionRequest(model="m", messages=(Message("system", system), Message("user", text)))
    encoded = (system + text).encode("utf-8", "surrogatepass")
    assert len(encoded) <= input_token_bound(request) <= len(encoded) + 200
    assert input_token_bound(request, context_window=10) == 10


def test_other_content_is_bounded_too() -> None:
    def bound(*parts: Any, **more: Any) -> int:
        return input_token_bound(CompletionRequest(model="m", messages=(Message("user", parts),), **more))

    plain = bound(Text("hi"))
    assert bound(Text("hi"), Image(url="https://a/b.png")) >= plain + MAX_TOKENS_PER_IMAGE
    assert bound(Image(data="x" * 10**6)) >= 10**6
    assert bound(Document(url="https://a/b.pdf")) >= MAX_TOKENS_PER_DOCUMENT
    assert bound(Text("hi"), tools=(Tool("f", "x" * 5000),)) >= plain + 5000
    assert bound(Text("hi"), extra={"prefix": "x" * 5000}) >= plain + 5000


@pytest.mark.parametrize(
    ("more", "max_output_tokens", "bound"),
    [
        ({"max_tokens": 7}, 100, 7),
        ({"max_tokens": 7, "n": 3}, 100, 21),
        ({}, 100, 100),
        ({}, None, 131_072),
        ({"max_tokens": 7, "extra": {"max_completion_tokens": 50}}, 100, 50),
        ({"extra": {"generationConfig": {"maxOutputTokens": 9}}}, 100, 9),
        ({"max_tokens": 7, "extra": {"n": 4}}, 100, 28),
    ],
)
def test_output_token_bound(more: dict[str, Any], max_output_tokens: int | None, bound: int) -> None:
    assert output_token_bound(CompletionRequest(model="m", messages=(), **more), max_output_tokens) == bound


@given(prices, st.tuples(*[st.integers(0, 3000)] * 5), st.integers(0, 100), st.integers(0, 100))
def test_cost_bound_is_never_below_the_bill(
    price: Price, drawn: tuple[int, int, int, int, int], more_in: int, more_out: int
) -> None:
    fresh, read, written, visible, thought = drawn
    usage = Usage(
        input_tokens=fresh + read + written,
        output_tokens=visible + thought,
        cached_input_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thought,
    )
    billed = compute_cost_nano_usd(usage, price)
    assert billed is not None
    assert billed <= cost_bound_nano_usd(price, fresh + read + written + more_in, visible + thought + more_out)


HOUR: Any = {"type": "ephemeral", "ttl": "1h"}


@pytest.mark.parametrize(
    ("part", "extra"),
    [
        (CacheMark("1h"), {}),
        (Text("more"), {"cache_control": HOUR}),
        (Text("more"), {"tools": [{"type": "web_search", "cache_control": HOUR}]}),
        (Opaque("document", json.dumps({"type": "document", "cache_control": HOUR})), {}),
    ],
    ids=["mark", "request", "tool", "block"],
)
def test_cost_bound_includes_cache_writes_for_an_hour(part: Any, extra: Any) -> None:
    """They cost twice the input price, those of five minutes a quarter more."""
    target = Target(PROVIDERS["anthropic"], Endpoint(), "claude-sonnet-4-5", "anthropic/claude-sonnet-4-5")
    message = Message("user", (Text("word " * 1000), part))
    request = CompletionRequest(model="claude-sonnet-4-5", messages=(message,), max_tokens=1, extra=extra)
    price = TargetPrices(lambda: 1.79e9).lookup(target)
    assert price is not None
    written = input_token_bound(request)
    usage = Usage(input_tokens=written, output_tokens=1, cache_write_tokens=written, cache_write_1h_tokens=written)
    billed = compute_cost_nano_usd(usage, price)
    assert billed is not None
    assert billed <= max_cost_nano_usd(target, request, price)


# Waiting


@given(
    st.integers(0, 60),
    st.lists(st.tuples(st.integers(1, 30), st.floats(0, 1), st.floats(0, 3), st.floats(0, 2)), max_size=30),
)
def test_calls_wait_in_order_and_only_impossible_ones_are_refused(
    virtual: Any, limit: int, calls: list[tuple[int, float, float, float]]
) -> None:
    async def work(clock: Clock) -> None:
        shared, started, refused = SharedBudget(Budget(limit)), [], []

        async def open_call(at: int, max_cost: int, share: float, latency_s: float) -> None:
            if not await shared.reserve(max_cost):
                refused.append((max_cost, shared.budget))
                return
            started.append(at)
            assert shared.budget.spent + shared.budget.reserved <= limit
            await asyncio.sleep(latency_s)
            shared.reconcile(max_cost, int(max_cost * share))

        async with asyncio.TaskGroup() as group:
            for at, (max_cost, share, latency_s, gap_s) in enumerate(calls):
                group.create_task(open_call(at, max_cost, share, latency_s))
                await asyncio.sleep(gap_s)
        assert started == sorted(started)
        assert len(started) + len(refused) == len(calls)
        assert shared.budget.reserved == 0
        assert shared.budget.spent <= limit
        assert all(
            check_budget(Budget(limit, then.spent), max_cost) is BudgetDecision.REJECT for max_cost, then in refused
        )

    virtual.run(work)


def test_cancelled_waiter_does_not_block_others(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        shared = SharedBudget(Budget(10))
        assert await shared.reserve(10)
        first, second = (asyncio.create_task(shared.reserve(max_cost)) for max_cost in (8, 2))
        await asyncio.sleep(1)
        first.cancel()
        shared.reconcile(10, 8)
        assert await second
        assert shared.budget == Budget(10, spent=8, reserved=2)
        # Admitted and cancelled at the same moment: the reservation is released.
        shared = SharedBudget(Budget(10))
        assert await shared.reserve(10)
        late = asyncio.create_task(shared.reserve(10))
        await asyncio.sleep(1)
        shared.reconcile(10, 0)
        late.cancel()
        await asyncio.gather(late, return_exceptions=True)
        assert shared.budget == Budget(10)

    virtual.run(work)


# The middleware

TARGET = Target(PROVIDERS["openai"], None, "gpt-4o-mini", "openai/gpt-4o-mini")  # type: ignore[arg-type]
UNKNOWN = Target(PROVIDERS["openai"], None, "no-such-model", "openai/no-such-model")  # type: ignore[arg-type]
ASK = CompletionRequest(model="gpt-4o-mini", messages=(Message("user", "hi"),), max_tokens=100)
USED = Usage(input_tokens=10, output_tokens=20)
WORST = 82 * 150 + 100 * 600
PAID = 10 * 150 + 20 * 600


def at_once(send: Send) -> Send:
    """A rate limit that admits every call."""
    return send


def send_within(
    virtual: Any, shared: SharedBudget, answer: Answer, *, target: Target = TARGET, allow_unpriced: bool = False
) -> Answer:
    async def send(call: Call) -> Answer:
        assert call.on_sent is not None
        call.on_sent()
        return answer

    async def work(clock: Clock) -> Answer:
        middleware = budget_middleware(Budgets((shared,), allow_unpriced), TargetPrices(lambda: 1.79e9), at_once)
        return await middleware(send)(Call(target, ASK))

    done: Answer = virtual.run(work)
    return done


def ok(usage: Usage = USED) -> Answer:
    return Answer(Success(CompletionResponse(usage=usage)), attempts=1)


def failed(error: LLMError, **more: Any) -> Answer:
    return Answer(Failure(error), attempts=1, **more)


@pytest.mark.parametrize(
    ("answer", "paid"),
    [
        (ok(), PAID),
        (ok(Usage()), WORST),
        (Answer(Success(CompletionResponse(usage=USED)), cache_hit=True), 0),
        (failed(ServerError()), 0),
        (failed(RateLimited()), 0),
        (failed(AuthFailed()), 0),
        (failed(TimedOut()), WORST),
        (failed(Disconnected()), WORST),
        (failed(Disconnected(code=NOT_CONNECTED)), 0),
        (failed(ServerError(), ttft_s=0.1), WORST),
    ],
)
def test_each_outcome_is_booked_at_its_actual_or_maximum_cost(virtual: Any, answer: Answer, paid: int) -> None:
    shared = SharedBudget(Budget(10**9))
    assert send_within(virtual, shared, answer) is answer
    assert shared.budget == Budget(10**9, spent=paid)


def test_budget_is_exact_to_the_nano_usd(virtual: Any) -> None:
    assert send_within(virtual, SharedBudget(Budget(WORST)), ok()).attempts == 1
    refused = send_within(virtual, SharedBudget(Budget(WORST - 1)), ok())
    assert refused.attempts == 0
    assert isinstance(refused.outcome.failure(), BudgetExceeded)
    assert "the call may cost $0.0000723" in refused.outcome.failure().message


def test_unpriced_call_is_refused_unless_allowed(virtual: Any) -> None:
    shared = SharedBudget(Budget(10**9))
    assert isinstance(send_within(virtual, shared, ok(), target=UNKNOWN).outcome.failure(), BudgetExceeded)
    assert send_within(virtual, shared, ok(), target=UNKNOWN, allow_unpriced=True).attempts == 1
    assert shared.budget == Budget(10**9)


@pytest.mark.parametrize(("went_out", "paid"), [(True, WORST), (False, 0)])
def test_cancelled_call_is_booked_only_if_it_was_sent(virtual: Any, went_out: bool, paid: int) -> None:
    shared = SharedBudget(Budget(10**9))

    async def send(call: Call) -> Answer:
        if went_out and call.on_sent is not None:
            call.on_sent()
        await asyncio.sleep(100)
        raise AssertionError

    async def work(clock: Clock) -> None:
        task = asyncio.ensure_future(
            budget_middleware(Budgets((shared,)), TargetPrices(lambda: 1.79e9), at_once)(send)(Call(TARGET, ASK))
        )
        await asyncio.sleep(1)
        assert shared.budget.reserved == WORST
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    virtual.run(work)
    assert shared.budget == Budget(10**9, spent=paid)


def test_both_budgets_hold_and_refusals_release_the_other(virtual: Any) -> None:
    own, shared = SharedBudget(Budget(10**9)), SharedBudget(Budget(10))

    async def send(call: Call) -> Answer:
        raise AssertionError("never sent")

    async def work(clock: Clock) -> Answer:
        call = Call(TARGET, ASK, budgets=Budgets((own, shared)))
        return await budget_middleware(Budgets(), TargetPrices(lambda: 1.79e9), at_once)(send)(call)

    assert isinstance(virtual.run(work).outcome.failure(), BudgetExceeded)
    assert own.budget == Budget(10**9)
    assert shared.budget == Budget(10)
