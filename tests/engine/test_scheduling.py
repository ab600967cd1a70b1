"""Runs over several models of which some are held up: in virtual time, with a gate as a hub has it."""

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
from llmhub.engine import fan_out_types, scheduling
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutResult, FanOutSpec, PlannedItem
from llmhub.engine.limits import FixedWindow, Limit
from llmhub.engine.rate_limiter import RateLimiter, rate_limit_middleware
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.scheduling import TargetQueue, TargetQueues
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices, budget_middleware
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]


PER_SECOND = Limit(rpm=60)


@dataclass
class Models:
    """Models that answer in a second, unless they are told otherwise, and what was seen of them."""

    limits: Mapping[str, Limit] = field(default_factory=dict)
    took_s: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    wallet: SharedBudget | None = None
    ways: Mapping[str, str] = field(default_factory=dict)
    on_send: Callable[[str], None] = lambda _: None
    in_flight: set[asyncio.Task[Any]] = field(default_factory=set)
    most: int = 0
    sent: list[tuple[str, int]] = field(default_factory=list)
    sent_at: dict[tuple[str, int], float] = field(default_factory=dict)
    ended_at: dict[str, float] = field(default_factory=dict)

    def send(self, clock: Clock) -> Callable[[Call], Any]:
        """Make the chain of a hub, as far as it waits."""
        gate = RateLimiter(
            {f"openai/{name}": limit for name, limit in self.limits.items()}, clock, DecisionLog(clock).record
        )
        wire = partial(self._wire, clock)

        purse = Budgets((self.wallet,) if self.wallet is not None else ())

        async def to_target(call: Call) -> Answer:
            target = replace(call.target, name=f"openai/{self.ways.get(call.target.model, call.target.model)}")
            at_gate = rate_limit_middleware(gate, gate.for_target(target), clock)
            return await budget_middleware(purse, TargetPrices(lambda: 0.0), at_gate)(wire)(call)

        return chain(to_target, retry_middleware(Retry(attempts=3, base_s=20.0, jitter=0.0), clock))

    async def _wire(self, clock: Clock, call: Call) -> Answer:
        task, name, row = asyncio.current_task(), call.target.model, int(call.request.messages[0].text)
        assert task is not None
        self.on_send(name)
        self.in_flight.add(task)
        self.most = max(self.most, len(self.in_flight))
        self.sent.append((name, row))
        self.sent_at[name, row] = clock()
        try:
            await asyncio.sleep(self.took_s.get(name, 1.0))
        finally:
            self.in_flight.discard(task)
            self.ended_at[name] = clock()
        if name in self.down:
            return Answer(Failure(ServerError()), attempts=1, total_s=1.0)
        response = CompletionResponse(parts=(Text(f"{name} {row}"),), usage=Usage(input_tokens=1, output_tokens=1))
        return Answer(Success(response), attempts=1, total_s=1.0)


@dataclass(frozen=True)
class Ask:
    """Makes the calls to a model."""

    name: str

    def call(self, text: str, key: bytes, sample: int = 0) -> Call:
        target = Target(PROVIDERS["openai"], Endpoint(), self.name, f"openai/{self.name}")
        request = CompletionRequest(model=self.name, messages=(Message("user", text),), max_tokens=1000)
        return Call(target, request, key=key, sample=sample)


@dataclass
class Rows:
    """Every row asks every model, as a frame does; drawn in chunks, and how many were."""

    names: tuple[str, ...]
    rows: int
    chunk: int = 512
    drawn: int = 0

    def __len__(self) -> int:
        return self.rows * len(self.names)

    def chunks(self) -> Iterator[list[PlannedItem]]:
        asks = [Ask(name) for name in self.names]
        many = len(asks)
        for low in range(0, len(self), self.chunk):
            self.drawn = min(low + self.chunk, len(self))
            yield [
                (at, b"%d" % at, partial(ask.call, sample=at) if at % 3 else ask.call, str(at // many))
                for at in range(low, self.drawn)
                for ask in (asks[at % many],)
            ]

    def text(self, at: int) -> str:
        return f"{self.names[at % len(self.names)]} {at // len(self.names)}"


def lived(
    virtual: Any, models: Models, rows: Rows, concurrency: int = 64, stop: StopSignal | None = None
) -> FanOutResult:
    async def work(clock: Clock) -> FanOutResult:
        send = models.send(clock)
        job = FanOutSpec(
            size=len(rows), chunks=rows.chunks(), send=send, in_flight=models.in_flight, concurrency=concurrency
        )
        return await run_fan_out(job, stop or StopSignal())

    done: FanOutResult = virtual.run(work)
    return done


def said(settled: Any) -> str:
    outcome = as_answer(settled).outcome
    return outcome.unwrap().text if is_successful(outcome) else type(outcome.failure()).__name__


def all_answered(ran: FanOutResult, rows: Rows) -> None:
    assert [said(one) for one in ran.outcomes] == [rows.text(at) for at in range(len(rows))]


def alone_s(virtual: Any, name: str, rows: int, concurrency: int) -> float:
    models = Models()
    lived(virtual, models, Rows((name,), rows), concurrency)
    return models.ended_at[name]


@pytest.mark.parametrize("concurrency", [4, 64])
@pytest.mark.parametrize("names", [("slow", "free"), ("free", "slow")])
def test_a_limited_model_does_not_hold_up_another(virtual: Any, names: tuple[str, ...], concurrency: int) -> None:
    models, rows = Models({"slow": PER_SECOND}), Rows(names, 2000)
    ran = lived(virtual, models, rows, concurrency)
    all_answered(ran, rows)
    # Both share the places; what the limited one needs of them is one, for the second that its call takes.
    shared = concurrency / (concurrency - 1)
    assert models.ended_at["free"] <= 1.1 * shared * alone_s(virtual, "free", 2000, concurrency)
    assert models.most <= concurrency
    # And the limited one goes as fast as it may, but for the time until a place is free.
    assert models.ended_at["slow"] <= 2000 * (1.1 + 0.5 / concurrency)


def test_more_limited_models_than_places_hold_nobody_up(virtual: Any) -> None:
    """None of them needs a place for longer than its call takes."""
    slow = tuple(f"slow-{n}" for n in range(8))
    models = Models(dict.fromkeys(slow, PER_SECOND), dict.fromkeys(slow, 0.1))
    rows = Rows((*slow, "free"), 400)
    all_answered(lived(virtual, models, rows, 4), rows)
    assert models.ended_at["free"] <= 1.1 * 400 / (4 - 0.8)
    assert models.most <= 4
    assert all(models.ended_at[name] <= 1.1 * 400 for name in slow)


def test_a_model_that_is_down_does_not_hold_up_another(virtual: Any) -> None:
    """Its calls wait to be sent again, and those beyond a bound are not begun."""
    models, rows = Models(down=frozenset({"slow"})), Rows(("slow", "free"), 2000)
    ran = lived(virtual, models, rows, 16)
    assert [said(one) for one in ran.outcomes[1::2]] == [rows.text(at) for at in range(1, len(rows), 2)]
    assert {said(one) for one in ran.outcomes[::2]} == {"ServerError"}
    assert models.most <= 16
    # All are sent three times, and until then both share the places.
    assert models.ended_at["free"] <= 1.1 * 2 * alone_s(virtual, "free", 2000, 16)


def test_a_route_to_a_limited_model_does_not_hold_up_another(virtual: Any) -> None:
    """Whom it asks is not known before it does."""
    models, rows = Models({"slow": PER_SECOND}, ways={"way": "slow"}), Rows(("way", "free"), 1000)
    all_answered(lived(virtual, models, rows, 64), rows)
    assert models.ended_at["free"] <= 1.1 * alone_s(virtual, "free", 1000, 64)


def test_calls_go_in_the_order_of_their_rows(virtual: Any) -> None:
    models, rows = Models({"slow": PER_SECOND}), Rows(("slow", "free"), 500)
    lived(virtual, models, rows, 16)
    for name in rows.names:
        sent = [row for who, row in models.sent if who == name]
        assert sent == sorted(sent)


def furthest_ahead(virtual: Any, models: Models, rows: Rows, concurrency: int) -> int:
    """Stop when 300 of the slow have gone, and give how many of them were drawn at most and had not."""
    stop, sent, most = StopSignal(), Counter[str](), 0

    def look(name: str) -> None:
        nonlocal most
        sent[name] += 1
        most = max(most, rows.drawn // 2 - sent["slow"])
        if sent["slow"] == 300:
            stop.request()

    models.on_send = look
    lived(virtual, models, rows, concurrency, stop)
    return most


def test_what_is_put_aside_is_bounded(virtual: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Further ahead than that nobody looks; then the others wait with the one that is held up."""
    monkeypatch.setattr(scheduling, "MAX_DEFERRED", ahead := 2000)
    models, rows = Models({"slow": PER_SECOND}, {"free": 0.001}), Rows(("slow", "free"), 6000, fan_out_types.CHUNK_SIZE)
    assert ahead < furthest_ahead(virtual, models, rows, 64) <= ahead + fan_out_types.CHUNK_SIZE / 2 + 2 * 64
    assert len(models.sent) > ahead


def test_of_chunks_that_are_short_for_their_weight_no_more_are_put_aside(virtual: Any) -> None:
    models, rows = Models({"slow": PER_SECOND}), Rows(("slow", "free"), 2000, 16)
    assert (
        furthest_ahead(virtual, models, rows, 8)
        <= (scheduling.MAX_DEFERRED // fan_out_types.CHUNK_SIZE + 2) * 16 + 5 * 8
    )


def test_a_limited_model_by_itself_is_drawn_only_as_it_is_needed(virtual: Any) -> None:
    models, rows, stop = Models({"slow": PER_SECOND}), Rows(("slow",), 5000, 32), StopSignal()
    models.on_send = lambda _: stop.request() if len(models.sent) == 50 else None
    lived(virtual, models, rows, 16, stop)
    assert rows.drawn == 5000  # all are answered: as cancelled
    models, rows = Models({"slow": PER_SECOND}), Rows(("slow",), 500, 32)
    ahead = 0

    def look(_: str) -> None:
        nonlocal ahead
        ahead = max(ahead, rows.drawn - len(models.sent))

    models.on_send = look
    lived(virtual, models, rows, 16)
    assert ahead <= 3 * 16 + 2 * 32 + 16


def test_no_provider_sees_more_than_declared_for_having_waited_for_a_place(virtual: Any) -> None:
    """A call is let go when it has a place, and not before: else what waits for one would go in a burst."""
    models, rows = Models({"slow": PER_SECOND}, {"free": 7.0}), Rows(("slow", "free"), 100)
    all_answered(lived(virtual, models, rows, 4), rows)
    at = sorted(when for (name, _), when in models.sent_at.items() if name == "slow")
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(at))


def test_a_window_that_opens_lets_all_go_that_it_may(virtual: Any) -> None:
    models = Models({"slow": Limit(rpm=600, window=FixedWindow)}, {"slow": 0.01})
    rows = Rows(("slow", "free"), 1800)
    all_answered(lived(virtual, models, rows, 32), rows)
    assert models.ended_at["slow"] <= 130.0


def test_runs_do_not_wait_for_each_others_places(virtual: Any) -> None:
    """One whose places are all taken keeps nobody of another from going where both want to."""
    models, long, short = Models({"slow": PER_SECOND}, {"free": 50.0}), Rows(("slow", "free"), 4), Rows(("slow",), 20)

    async def work(clock: Clock) -> float:
        send = models.send(clock)
        jobs = [
            FanOutSpec(size=len(rows), chunks=rows.chunks(), send=send, in_flight=models.in_flight, concurrency=2)
            for rows in (long, short)
        ]
        first = asyncio.create_task(run_fan_out(jobs[0], StopSignal()))
        await asyncio.sleep(0.5)
        await run_fan_out(jobs[1], StopSignal())
        took_s = clock()
        await first
        return took_s

    assert virtual.run(work) <= 25.0


def test_a_stop_lets_go_of_who_waits_and_drains_what_is_on_the_wire(virtual: Any) -> None:
    models, rows, stop = Models({"slow": PER_SECOND}), Rows(("slow", "free"), 2000), StopSignal()
    models.on_send = lambda _: stop.request() if len(models.sent) == 100 else None
    ran = lived(virtual, models, rows, 16, stop)
    sent = set(models.sent)
    for at, answer in enumerate(ran.outcomes):
        outcome = as_answer(answer).outcome  # type: ignore[arg-type]
        name, row = rows.text(at).split()
        assert is_successful(outcome) == ((name, int(row)) in sent)
        assert is_successful(outcome) or isinstance(outcome.failure(), Cancelled)
    assert len(sent) <= 101
    assert max(models.ended_at.values()) <= 10.0


def test_who_waits_at_the_gate_sets_nothing_aside(virtual: Any) -> None:
    """What the calls that wait might cost would be all there is, and the others would go no faster than they."""
    names = ("gpt-4o", "gpt-4o-mini")
    limit = 200_000_000  # of which a call to the first sets aside a twentieth, and takes next to nothing
    models = Models({"gpt-4o": PER_SECOND}, wallet=SharedBudget(Budget(limit)))
    rows = Rows(names, 400)
    all_answered(lived(virtual, models, rows, 16), rows)
    assert models.ended_at["gpt-4o-mini"] <= 1.1 * 400 / 15
    assert models.wallet is not None
    assert models.wallet.budget.reserved == 0


def test_what_no_budget_reaches_for_is_refused_without_waiting_for_the_gate(virtual: Any) -> None:
    models = Models({"gpt-4o": PER_SECOND}, wallet=SharedBudget(Budget(30_000_000)))
    rows = Rows(("gpt-4o",), 5000)

    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        job = FanOutSpec(size=len(rows), chunks=rows.chunks(), send=models.send(clock), in_flight=models.in_flight)
        return await run_fan_out(job, StopSignal()), clock()

    ran, took_s = virtual.run(work)
    answers = Counter(said(one) for one in ran.outcomes)
    assert answers["BudgetExceeded"] == 5000 - len(models.sent) > 3000
    assert took_s <= len(models.sent) * 1.02 + 64


def test_who_is_told_to_wait_too_long_goes_on_with_a_place(virtual: Any) -> None:
    """A day's allowance that is used up fails its calls at once, and no more are under way for that."""
    models = Models({"slow": Limit(rpd=5)})
    rows = Rows(("slow", "free"), 200)
    ran = lived(virtual, models, rows, 8)
    assert Counter(said(one) == "RateLimited" for one in ran.outcomes[::2]) == {True: 195, False: 5}
    assert isinstance(as_answer(ran.outcomes[398]).outcome.failure(), RateLimited)  # type: ignore[arg-type]
    assert models.most <= 8
    assert models.ended_at["free"] <= 1.1 * 200 / 7


# What lies before the workers, by itself


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["lay", "take", "wait", "go on"])), max_size=80))
def test_each_lane_keeps_its_order_and_nothing_is_lost(steps: list[tuple[int, str]]) -> None:
    asks, before = [Ask(name) for name in "abc"], TargetQueues(2)
    known: dict[Ask, TargetQueue] = {}
    waiting: dict[Ask, int] = defaultdict(int)
    laid: list[PlannedItem] = []
    taken: list[PlannedItem] = []
    for which, what in steps:
        ask = asks[which]
        held = {one for one in asks if waiting[one] >= 2}
        left = [item for item in laid if item not in taken]
        free = [item for item in left if item[2].__self__ not in held]  # type: ignore[attr-defined] # a method of Ask
        assert bool(before) == bool(left)
        assert (before.ready_count() > 0) == bool(free)
        if what == "lay":
            laid.append((len(laid), b"", ask.call, ""))
            before.put(laid[-1:], 0.0)
        elif what == "take":
            found = before.pop()
            assert (found[0] if found else None) == (free[0] if free else None)
            if found is not None:
                taken.append(found[0])
                known[found[0][2].__self__] = found[3]  # type: ignore[attr-defined] # as above
        elif ask in known:
            step = 1 if what == "wait" else -min(1, waiting[ask])
            waiting[ask] += step
            known[ask].waiting += step
    for lane in known.values():
        lane.waiting = 0
    while (found := before.pop()) is not None:
        taken.append(found[0])
    assert sorted(taken, key=lambda item: item[0]) == laid
    for ask in asks:
        places = [item[0] for item in taken if item[2] == ask.call]
        assert places == sorted(places)
