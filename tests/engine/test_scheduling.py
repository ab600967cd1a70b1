"""Runs over several models of which some are rate-limited: in virtual time, with the rate limiter of a hub."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.core.budget import Budget
from llmhub.core.errors import Cancelled, RateLimited, ServerError
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Text, Usage
from llmhub.engine import scheduling
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, PlannedItem, Sender
from llmhub.engine.limits import FixedWindow, Limit
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.scheduling import TargetQueue, TargetQueues
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices, budget_middleware
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
ONE_PER_SECOND = Limit(rpm=60)


@dataclass
class Models:
    """Models that answer after a second, unless another latency is given, and a record of what they were sent.

    ``routes`` maps a requested model to the one that answers instead; ``down`` are models that fail.
    """

    limits: Mapping[str, Limit] = field(default_factory=dict)
    latency_s: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    budget: SharedBudget | None = None
    routes: Mapping[str, str] = field(default_factory=dict)
    on_send: Callable[[str], None] = lambda _: None
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set)
    max_in_flight: int = 0
    sent: list[tuple[str, int]] = field(default_factory=list)
    sent_at: dict[tuple[str, int], float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)

    def sender(self, clock: Clock) -> Sender:
        """Return the part of a hub's middleware that waits."""
        limits = {f"openai/{name}": limit for name, limit in self.limits.items()}
        limiter = RateLimiter(limits, clock, DecisionLog(clock).record)
        transport = partial(self._answer, clock)
        budgets = Budgets((self.budget,) if self.budget is not None else ())

        async def to_target(call: Call) -> Answer:
            name = self.routes.get(call.target.model, call.target.model)
            target = replace(call.target, name=f"openai/{name}")
            rate_limit = rate_limit_middleware(limiter, limiter.for_target(target), clock)
            return await budget_middleware(budgets, TargetPrices(lambda: 0.0), rate_limit)(transport)(call)

        send = chain(to_target, retry_middleware(Retry(attempts=3, base_s=20.0, jitter=0.0), clock))
        return Sender(send=send, in_flight=self.in_flight)

    async def _answer(self, clock: Clock, call: Call) -> Answer:
        task, name, row = asyncio.current_task(), call.target.model, int(call.request.messages[0].text)
        assert task is not None
        self.on_send(name)
        self.in_flight.add(task)
        self.max_in_flight = max(self.max_in_flight, len(self.in_flight))
        self.sent.append((name, row))
        self.sent_at[name, row] = clock()
        try:
            await asyncio.sleep(self.latency_s.get(name, 1.0))
        finally:
            self.in_flight.discard(task)
            self.ended_at[name] = clock()
        if name in self.down:
            return Answer(Failure(ServerError()), attempts=1, total_s=1.0)
        response = CompletionResponse(parts=(Text(f"{name} {row}"),), usage=Usage(input_tokens=1, output_tokens=1))
        return Answer(Success(response), attempts=1, total_s=1.0)


@dataclass(frozen=True)
class ModelCalls:
    """Builds the calls to one model."""

    name: str

    def call(self, text: str, key: bytes, sample: int = 0) -> Call:
        target = Target(PROVIDERS["openai"], Endpoint(), self.name, f"openai/{self.name}")
        request = CompletionRequest(model=self.name, messages=(Message("user", text),), max_tokens=1000)
        return Call(target, request, key=key, sample=sample)


@dataclass
class Rows:
    """Rows that are sent to every model, as those of a frame; counts how many positions were drawn."""

    names: tuple[str, ...]
    rows: int
    chunk_size: int = 512
    drawn: int = 0

    def __len__(self) -> int:
        return self.rows * len(self.names)

    def spec(self, concurrency: int = 64) -> FanOutSpec:
        return FanOutSpec(size=len(self), chunks=self.chunks(), concurrency=concurrency)

    def chunks(self) -> Iterator[list[PlannedItem]]:
        models = [ModelCalls(name) for name in self.names]
        for start in range(0, len(self), self.chunk_size):
            self.drawn = min(start + self.chunk_size, len(self))
            yield [self._item(position, models) for position in range(start, self.drawn)]

    def _item(self, position: int, models: list[ModelCalls]) -> PlannedItem:
        model = models[position % len(models)]
        make_call = partial(model.call, sample=position) if position % 3 else model.call
        return position, b"%d" % position, make_call, str(position // len(models))

    def text(self, position: int) -> str:
        return f"{self.names[position % len(self.names)]} {position // len(self.names)}"


def run(
    virtual: Any, models: Models, rows: Rows, concurrency: int = 64, stop: StopSignal | None = None
) -> FanOutResult:
    """Run rows in virtual time."""

    async def work(clock: Clock) -> FanOutResult:
        return await run_fan_out(rows.spec(concurrency), models.sender(clock), stop or StopSignal())

    result: FanOutResult = virtual.run(work)
    return result


def word(outcome: Any) -> str:
    """Return the text of an outcome or the type of its error."""
    answered = as_answer(outcome).outcome
    return answered.unwrap().text if is_successful(answered) else type(answered.failure()).__name__


def assert_all_answered(result: FanOutResult, rows: Rows) -> None:
    assert [word(outcome) for outcome in result.outcomes] == [rows.text(position) for position in range(len(rows))]


def duration_alone_s(virtual: Any, name: str, rows: int, concurrency: int) -> float:
    """Return the duration of a run over one model only."""
    models = Models()
    run(virtual, models, Rows((name,), rows), concurrency)
    return models.ended_at[name]


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("names", [("slow", "free"), ("free", "slow")])
def test_a_rate_limited_model_does_not_delay_another(virtual: Any, names: tuple[str, ...], concurrency: int) -> None:
    models, rows = Models({"slow": ONE_PER_SECOND}), Rows(names, 2000)
    assert_all_answered(run(virtual, models, rows, concurrency), rows)
    # The limited model needs one slot, for the second its call takes; the other model has the rest.
    share = concurrency / (concurrency - 1)
    assert models.ended_at["free"] <= 1.1 * share * duration_alone_s(virtual, "free", 2000, concurrency)
    assert models.max_in_flight <= concurrency
    # The limited model is as fast as its limit allows, but for the time until a slot is free.
    assert models.ended_at["slow"] <= 2000 * (1.1 + 0.5 / concurrency)


def test_more_limited_models_than_slots_delay_no_other(virtual: Any) -> None:
    """Each of them needs a slot only while its call is in flight."""
    slow = tuple(f"slow-{number}" for number in range(8))
    models = Models(dict.fromkeys(slow, ONE_PER_SECOND), dict.fromkeys(slow, 0.1))
    rows = Rows((*slow, "free"), 400)
    assert_all_answered(run(virtual, models, rows, 4), rows)
    assert models.ended_at["free"] <= 1.1 * 400 / (4 - 0.8)
    assert models.max_in_flight <= 4
    assert all(models.ended_at[name] <= 1.1 * 400 for name in slow)


def test_a_failing_model_does_not_delay_another(virtual: Any) -> None:
    """Its calls wait to be retried, and no more than a bounded number of them are started."""
    models, rows = Models(down=frozenset({"slow"})), Rows(("slow", "free"), 2000)
    result = run(virtual, models, rows, 16)
    assert [word(outcome) for outcome in result.outcomes[1::2]] == [rows.text(at) for at in range(1, len(rows), 2)]
    assert {word(outcome) for outcome in result.outcomes[::2]} == {"ServerError"}
    assert models.max_in_flight <= 16
    # All are sent three times, and until then both models share the slots.
    assert models.ended_at["free"] <= 1.1 * 2 * duration_alone_s(virtual, "free", 2000, 16)


def test_a_route_to_a_limited_model_does_not_delay_another(virtual: Any) -> None:
    """The model that a route picks is known only when the call is sent."""
    models, rows = Models({"slow": ONE_PER_SECOND}, routes={"way": "slow"}), Rows(("way", "free"), 1000)
    assert_all_answered(run(virtual, models, rows, 64), rows)
    assert models.ended_at["free"] <= 1.1 * duration_alone_s(virtual, "free", 1000, 64)


def test_each_model_is_sent_its_rows_in_order(virtual: Any) -> None:
    models, rows = Models({"slow": ONE_PER_SECOND}), Rows(("slow", "free"), 500)
    run(virtual, models, rows, 16)
    for name in rows.names:
        sent = [row for model, row in models.sent if model == name]
        assert sent == sorted(sent)


def max_drawn_ahead(virtual: Any, models: Models, rows: Rows, concurrency: int) -> int:
    """Stop when 300 rows of the slow model were sent. Return the maximum number of its rows drawn but not sent."""
    stop, sent, ahead = StopSignal(), Counter[str](), 0

    def count(name: str) -> None:
        nonlocal ahead
        sent[name] += 1
        ahead = max(ahead, rows.drawn // 2 - sent["slow"])
        if sent["slow"] == 300:
            stop.request()

    models.on_send = count
    run(virtual, models, rows, concurrency, stop)
    return ahead


def test_deferred_items_are_bounded(virtual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, other models wait for the limited one."""
    monkeypatch.setattr(scheduling, "MAX_DEFERRED", bound := 2000)
    models = Models({"slow": ONE_PER_SECOND}, {"free": 0.001})
    rows = Rows(("slow", "free"), 6000, CHUNK_SIZE)
    assert bound < max_drawn_ahead(virtual, models, rows, 64) <= bound + CHUNK_SIZE / 2 + 2 * 64
    assert len(models.sent) > bound


def test_fewer_items_of_short_chunks_are_deferred(virtual: Any) -> None:
    models, rows = Models({"slow": ONE_PER_SECOND}), Rows(("slow", "free"), 2000, 16)
    assert max_drawn_ahead(virtual, models, rows, 8) <= (scheduling.MAX_DEFERRED // CHUNK_SIZE + 2) * 16 + 5 * 8


def test_a_limited_model_alone_is_drawn_lazily(virtual: Any) -> None:
    models, rows, stop = Models({"slow": ONE_PER_SECOND}), Rows(("slow",), 5000, 32), StopSignal()
    models.on_send = lambda _: stop.request() if len(models.sent) == 50 else None
    run(virtual, models, rows, 16, stop)
    assert rows.drawn == 5000  # all have an outcome: cancelled
    models, rows = Models({"slow": ONE_PER_SECOND}), Rows(("slow",), 500, 32)
    ahead = 0

    def count(_: str) -> None:
        nonlocal ahead
        ahead = max(ahead, rows.drawn - len(models.sent))

    models.on_send = count
    run(virtual, models, rows, 16)
    assert ahead <= 3 * 16 + 2 * 32 + 16


def test_waiting_for_a_slot_does_not_exceed_the_limit(virtual: Any) -> None:
    """A permit is granted only with a slot: otherwise calls that wait for slots would be sent in a burst."""
    models, rows = Models({"slow": ONE_PER_SECOND}, {"free": 7.0}), Rows(("slow", "free"), 100)
    assert_all_answered(run(virtual, models, rows, 4), rows)
    times = sorted(sent_at for (name, _), sent_at in models.sent_at.items() if name == "slow")
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(times))


def test_a_new_window_is_used_in_full(virtual: Any) -> None:
    models = Models({"slow": Limit(rpm=600, window=FixedWindow)}, {"slow": 0.01})
    rows = Rows(("slow", "free"), 1800)
    assert_all_answered(run(virtual, models, rows, 32), rows)
    assert models.ended_at["slow"] <= 130.0


def test_runs_do_not_wait_for_slots_of_each_other(virtual: Any) -> None:
    """A run whose slots are all taken does not delay the calls of another run to the same model."""
    models = Models({"slow": ONE_PER_SECOND}, {"free": 50.0})

    async def work(clock: Clock) -> float:
        sender = models.sender(clock)
        first = asyncio.create_task(run_fan_out(Rows(("slow", "free"), 4).spec(2), sender, StopSignal()))
        await asyncio.sleep(0.5)
        await run_fan_out(Rows(("slow",), 20).spec(2), sender, StopSignal())
        ended_at = clock()
        await first
        return ended_at

    assert virtual.run(work) <= 25.0


def test_a_stop_cancels_waiting_calls_and_drains_those_in_flight(virtual: Any) -> None:
    models, rows, stop = Models({"slow": ONE_PER_SECOND}), Rows(("slow", "free"), 2000), StopSignal()
    models.on_send = lambda _: stop.request() if len(models.sent) == 100 else None
    result = run(virtual, models, rows, 16, stop)
    sent = set(models.sent)
    for position, row_outcome in enumerate(result.outcomes):
        outcome = as_answer(row_outcome).outcome  # type: ignore[arg-type]
        name, row = rows.text(position).split()
        assert is_successful(outcome) == ((name, int(row)) in sent)
        assert is_successful(outcome) or isinstance(outcome.failure(), Cancelled)
    assert len(sent) <= 101
    assert max(models.ended_at.values()) <= 10.0


def test_calls_waiting_for_the_rate_limit_reserve_no_budget(virtual: Any) -> None:
    """Otherwise the maximum cost of waiting calls would use up the budget, and other models would wait with them."""
    limit = 200_000_000  # a call to gpt-4o reserves a twentieth of it, and costs next to nothing
    models = Models({"gpt-4o": ONE_PER_SECOND}, budget=SharedBudget(Budget(limit)))
    rows = Rows(("gpt-4o", "gpt-4o-mini"), 400)
    assert_all_answered(run(virtual, models, rows, 16), rows)
    assert models.ended_at["gpt-4o-mini"] <= 1.1 * 400 / 15
    assert models.budget is not None
    assert models.budget.budget.reserved == 0


def test_calls_beyond_the_budget_fail_without_waiting_for_the_rate_limit(virtual: Any) -> None:
    models = Models({"gpt-4o": ONE_PER_SECOND}, budget=SharedBudget(Budget(30_000_000)))

    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        return await run_fan_out(Rows(("gpt-4o",), 5000).spec(), models.sender(clock), StopSignal()), clock()

    result, ended_at = virtual.run(work)
    words = Counter(word(outcome) for outcome in result.outcomes)
    assert words["BudgetExceeded"] == 5000 - len(models.sent) > 3000
    assert ended_at <= len(models.sent) * 1.02 + 64


def test_calls_that_would_wait_too_long_fail_at_once(virtual: Any) -> None:
    """Calls beyond a daily limit fail without waiting, and within the concurrency limit."""
    models = Models({"slow": Limit(rpd=5)})
    rows = Rows(("slow", "free"), 200)
    result = run(virtual, models, rows, 8)
    assert Counter(word(outcome) == "RateLimited" for outcome in result.outcomes[::2]) == {True: 195, False: 5}
    assert isinstance(as_answer(result.outcomes[398]).outcome.failure(), RateLimited)  # type: ignore[arg-type]
    assert models.max_in_flight <= 8
    assert models.ended_at["free"] <= 1.1 * 200 / 7


# The queues alone


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["put", "pop", "wait", "resume"])), max_size=80))
def test_queues_keep_the_order_of_each_target_and_lose_nothing(steps: list[tuple[int, str]]) -> None:
    models, queues = [ModelCalls(name) for name in "abc"], TargetQueues(2)
    queue_by_model: dict[ModelCalls, TargetQueue] = {}
    waiting: dict[ModelCalls, int] = defaultdict(int)
    added: list[PlannedItem] = []
    popped: list[PlannedItem] = []
    for index, action in steps:
        model = models[index]
        blocked = {name for name in models if waiting[name] >= 2}
        left = [item for item in added if item not in popped]
        ready = [item for item in left if item[2].__self__ not in blocked]  # type: ignore[attr-defined] # a method
        assert bool(queues) == bool(left)
        assert (queues.ready_count() > 0) == bool(ready)
        if action == "put":
            added.append((len(added), b"", model.call, ""))
            queues.put(added[-1:], 0.0)
        elif action == "pop":
            queued = queues.pop()
            assert (queued[0] if queued else None) == (ready[0] if ready else None)
            if queued is not None:
                popped.append(queued[0])
                queue_by_model[queued[0][2].__self__] = queued[3]  # type: ignore[attr-defined] # a method
        elif model in queue_by_model:
            change = 1 if action == "wait" else -min(1, waiting[model])
            waiting[model] += change
            queue_by_model[model].waiting += change
    for queue in queue_by_model.values():
        queue.waiting = 0
    while (queued := queues.pop()) is not None:
        popped.append(queued[0])
    assert sorted(popped, key=lambda item: item[0]) == added
    for model in models:
        positions = [item[0] for item in popped if item[2] == model.call]
        assert positions == sorted(positions)
