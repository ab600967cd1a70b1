"""Calls along a route: on a virtual clock among providers that die and slow down, and against the simulator."""

from __future__ import annotations

import asyncio
import pathlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure, Success

import llmhub
from llmhub.cache.memory import MemoryCache
from llmhub.cache.store import Store, StoreError
from llmhub.config import Settings
from llmhub.core.errors import (
    NOT_CONNECTED,
    AuthenticationError,
    AuthFailed,
    BadRequestError,
    BudgetExceeded,
    ContentFiltered,
    Disconnected,
    InvalidRequest,
    LLMError,
    NotFound,
    RateLimited,
    ServerError,
    TimedOut,
    UnsupportedParameterError,
)
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, StreamChunk, Text, Usage
from llmhub.engine.cache_middleware import CacheLookups
from llmhub.engine.call import Answer, Call, Send, Target, chain
from llmhub.engine.hedging import GRACE_S, InFlightTasks
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.engine.routing import CandidateMetrics, ResolvedRoute, routing_middleware
from llmhub.engine.routing_policy import (
    REACTIONS,
    CostOptimized,
    Failover,
    Hedge,
    LowLatency,
    RoundRobin,
    Route,
    Weighted,
)
from llmhub.engine.spending import TargetPrices
from llmhub.providers.registry import PROVIDERS
from llmhub.sim import Faults, Latency, Simulator, SimulatorThread, serving

Clock = Callable[[], float]


def target(name: str) -> Target:
    return Target(PROVIDERS["compatible"], llmhub.Endpoint(), name.partition("/")[2], name)


@dataclass
class There:
    """A provider that takes its time, and fails as it is told."""

    latency_s: float = 0.1
    errors: list[LLMError | None] = field(default_factory=list)
    always: LLMError | None = None
    asked: int = 0
    open: int = 0
    cut: int = 0

    async def send(self, call: Call, clock: Clock) -> Answer:
        self.asked += 1
        self.open += 1
        start = clock()
        error = self.errors.pop(0) if self.errors else self.always
        try:
            await asyncio.sleep(0.001 if isinstance(error, Disconnected) else self.latency_s)
        except asyncio.CancelledError:
            self.cut += 1
            raise
        finally:
            self.open -= 1
        took_s = clock() - start
        response = CompletionResponse(parts=(Text(call.target.name),), usage=Usage(input_tokens=1, output_tokens=1))
        outcome: Any = Success(response) if error is None else Failure(error)
        return Answer(outcome, latency_s=took_s, total_s=took_s, attempts=1)


class World:
    """Providers by name, and the part of the chain that chooses among them."""

    def __init__(self, clock: Clock, there: Mapping[str, There], route: Route, retry: Retry | None = None) -> None:
        self.clock = clock
        self.there = there
        self.notes: list[tuple[str, str]] = []
        seed = random.Random(7)
        board = CandidateMetrics(clock, seed.random, TargetPrices(lambda: 1.79e9))
        self.path = ResolvedRoute("way", route, {name: target(name) for name in route.candidates})
        middleware = [routing_middleware(lambda name: self.path if name == "way" else None, board, self.note)]
        if retry is not None:
            middleware = [retry_middleware(retry, clock, seed.random), *middleware]
        sends: dict[str, Send] = {
            name: chain(lambda call, one=one: one.send(call, clock), board.middleware(target(name)))  # type: ignore[misc]
            for name, one in there.items()
        }
        self.send = chain(lambda call: sends[call.target.name](call), *middleware)

    def note(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        self.notes.append((kind, target))

    async def ask(self, text: str = "hi", **more: Any) -> Answer:
        request = CompletionRequest(model="way", messages=(Message("user", text),))
        return await self.send(Call(replace(target("x/way"), name="way"), request, **more))


def run(virtual: Any, there: Mapping[str, There], route: Route, *, many: int = 1, **more: Any) -> tuple[World, Any]:
    async def work(clock: Clock) -> tuple[World, Any]:
        world = World(clock, there, route, **more)
        answers = [await world.ask() for _ in range(many)]
        return world, answers[0] if many == 1 else answers

    done: tuple[World, Any] = virtual.run(work)
    return done


def said(answer: Answer) -> str:
    return answer.outcome.unwrap().text if is_successful(answer.outcome) else type(answer.outcome.failure()).__name__


A, B, C = "p/a", "p/b", "p/c"


# One pass


@pytest.mark.parametrize("kind", list(REACTIONS))
def test_reactions_decide_which_errors_fall_back(virtual: Any, kind: type[LLMError]) -> None:
    there = {A: There(always=kind()), B: There()}
    world, answer = run(virtual, there, Failover(A, B))
    assert said(answer) == (B if REACTIONS[kind].falls_back else kind.__name__)
    assert answer.attempts == 1 + REACTIONS[kind].falls_back
    assert world.notes == ([("fallback", A)] if REACTIONS[kind].falls_back else [])


@given(
    st.lists(st.sampled_from([None, ServerError(), NotFound(), ContentFiltered()]), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_fallbacks_are_bounded_and_candidates_tried_once(virtual: Any, ends: list[Any], fallbacks: int) -> None:
    there = {f"p/{at}": There(always=end) for at, end in enumerate(ends)}
    _, answer = run(virtual, there, Failover(*there, fallbacks=fallbacks))
    asked = [one.asked for one in there.values()]
    reached = ends[: 1 + fallbacks]
    stops = next(
        (at for at, end in enumerate(reached) if end is None or isinstance(end, ContentFiltered)), len(reached) - 1
    )
    assert asked == [1] * (stops + 1) + [0] * (len(ends) - stops - 1)
    assert answer.attempts == stops + 1
    assert is_successful(answer.outcome) == (ends[stops] is None)


def test_most_retryable_failure_is_reported(virtual: Any) -> None:
    there = {
        A: There(always=RateLimited(retry_after_s=2.0)),
        B: There(always=AuthFailed()),
        C: There(always=NotFound()),
    }
    _, answer = run(virtual, there, Failover(A, B, C))
    assert answer.outcome.failure() == RateLimited(retry_after_s=2.0)
    assert answer.attempts == 3
    assert answer.total_s == pytest.approx(0.3)


def test_failed_candidate_cools_down_and_is_probed_by_one_call(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        there = {A: There(errors=[ServerError()], latency_s=0.2), B: There(latency_s=0.01)}
        world = World(clock, there, Failover(A, B))
        assert said(await world.ask()) == B
        assert said(await world.ask()) == B
        assert there[A].asked == 1
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(world.ask() for _ in range(20)))
        assert Counter(map(said, answers)) == {A: 1, B: 19}
        assert said(await world.ask()) == A

    virtual.run(work)


@pytest.mark.parametrize(
    ("rank", "what"),
    [
        (lambda candidates, stats: 1 / 0, "ZeroDivisionError"),
        (lambda candidates, stats: ["p/z"], "'p/z', which is not a candidate; return one or more of p/a, p/b"),
        (lambda candidates, stats: [], "the function returned no candidate"),
        (lambda candidates, stats: None, "TypeError"),
    ],
)
def test_failing_rank_function_fails_the_row(virtual: Any, rank: Any, what: str) -> None:
    _, answer = run(virtual, {A: There(), B: There()}, Route((A, B), rank=rank))
    error = answer.outcome.failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "route.rank"
    assert what in error.message


def test_custom_rank_function_sees_the_statistics(virtual: Any) -> None:
    seen: list[Any] = []

    def mine(candidates: Any, stats: Any) -> Any:
        seen.append((stats[A].success_count, stats[B].success_count, stats.input_tokens > 0))
        return [min(candidates, key=lambda name: stats[name].success_count)]

    _, answers = run(virtual, {A: There(), B: There()}, Route((A, B), rank=mine), many=4)
    assert [said(answer) for answer in answers] == [A, B, A, B]
    assert seen == [(0, 0, True), (1, 0, True), (1, 1, True), (2, 1, True)]


# Together with retries


def test_retries_and_fallbacks_share_the_attempts(virtual: Any) -> None:
    there = {A: There(always=ServerError()), B: There(always=ServerError()), C: There(always=ServerError())}
    _, answer = run(virtual, there, Failover(A, B, C), retry=Retry(attempts=5, base_s=1.0))
    sent = sum(one.asked for one in there.values())
    assert answer.attempts == sent
    # No pass is begun beyond the attempts of the policy.
    assert sent == 6


def test_retry_ranks_the_candidates_again(virtual: Any) -> None:
    there = {A: There(errors=[ServerError()]), B: There(errors=[ServerError()])}
    _, answer = run(virtual, there, Failover(A, B), retry=Retry(base_s=5.0))
    assert said(answer) == A
    assert answer.attempts == 3


# Providers that die and slow down


@dataclass(frozen=True)
class Case:
    route: Route
    dies: str
    slows: str
    before_s: float
    after_s: float
    """Latency of whoever the living let answer, before and after."""


@pytest.mark.parametrize(
    "case",
    [
        Case(LowLatency(A, B, C), A, B, 0.1, 0.1),
        Case(LowLatency(A, B, C), C, A, 0.1, 0.1),
        Case(Failover(A, B, C), A, C, 0.1, 0.1),
        Case(RoundRobin(A, B, C), A, A, 0.1, 0.1),
    ],
    ids=["low latency", "low latency, others", "failover", "round robin"],
)
@pytest.mark.parametrize("how", ["refused", "times out"])
def test_outage_loses_no_row_and_throughput_recovers(virtual: Any, case: Case, how: str) -> None:
    """One of three dies in the midst of a run, another takes ten times as long from then on."""
    workers, breaks_at, ends_at = 24, 5.0, 15.0
    gone: LLMError = Disconnected(code=NOT_CONNECTED) if how == "refused" else TimedOut()

    async def work(clock: Clock) -> tuple[list[tuple[float, Answer]], World]:
        there = {name: There() for name in (A, B, C)}
        world = World(clock, there, case.route, Retry())
        done: list[tuple[float, Answer]] = []

        async def worker() -> None:
            while clock() < ends_at:
                answer = await world.ask()
                done.append((clock(), answer))

        async def breaks() -> None:
            await asyncio.sleep(breaks_at)
            there[case.slows].latency_s *= 10
            there[case.dies].always = gone

        await asyncio.gather(breaks(), *(worker() for _ in range(workers)))
        return done, world

    done, world = virtual.run(work)
    assert all(is_successful(answer.outcome) for _, answer in done)

    def pace(begin_s: float, end_s: float) -> float:
        return sum(begin_s <= at < end_s for at, _ in done) / (end_s - begin_s)

    assert pace(2, breaks_at) > 0.95 * workers / case.before_s
    assert pace(breaks_at + 5, ends_at) > 0.9 * workers / case.after_s
    assert max(answer.attempts for _, answer in done) <= 3
    # Who is dead is asked by all who were under way, and then by one at a time.
    assert world.there[case.dies].asked < breaks_at * workers / case.before_s + workers + 64


# Hedges


def test_hedge_uses_the_first_success_and_cancels_the_other(virtual: Any) -> None:
    there = {A: There(latency_s=10.0), B: There(latency_s=0.1)}
    world, answer = run(virtual, there, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert said(answer) == B
    assert (there[A].asked, there[A].cut, there[B].asked) == (1, 1, 1)
    assert world.notes == [("hedge", A)]


def test_timely_answer_is_not_hedged(virtual: Any) -> None:
    there = {A: There(latency_s=0.9), B: There()}
    world, answer = run(virtual, there, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert (said(answer), there[B].asked, world.notes) == (A, 0, [])


def test_failed_hedge_does_not_end_the_first_request(virtual: Any) -> None:
    there = {A: There(latency_s=3.0), B: There(always=ServerError())}
    _, answer = run(virtual, there, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert said(answer) == A
    assert answer.attempts == 2


def test_next_candidate_is_tried_when_both_hedged_requests_fail(virtual: Any) -> None:
    there = {A: There(latency_s=3.0, always=ServerError()), B: There(always=ServerError()), C: There()}
    _, answer = run(virtual, there, Failover(A, B, C, hedge=Hedge(after_s=1.0)))
    assert said(answer) == C
    assert answer.attempts == 3


def test_single_candidate_is_hedged_with_itself(virtual: Any) -> None:
    there = {A: There(latency_s=3.0)}
    _, answer = run(virtual, there, Failover(A, hedge=Hedge(after_s=1.0)))
    assert said(answer) == A
    assert (there[A].asked, there[A].cut, there[A].open) == (2, 1, 0)


def test_quantile_hedges_only_slow_calls(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        there = {A: There(), B: There()}
        world = World(clock, there, Failover(A, B, hedge=Hedge(quantile=0.99)))
        for usual_s in [0.2] * 20 + [0.1] * 20:
            there[A].latency_s = usual_s
            await world.ask()
        assert there[B].asked == 0
        there[A].latency_s = 5.0
        before = clock()
        assert said(await world.ask()) == B
        assert clock() - before == pytest.approx(0.3)

    virtual.run(work)


def test_cancellation_cancels_both_hedged_requests(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        there = {A: There(latency_s=50.0), B: There(latency_s=50.0)}
        world = World(clock, there, Failover(A, B, hedge=Hedge(after_s=1.0)))
        task = asyncio.ensure_future(world.ask())
        await asyncio.sleep(2)
        assert (there[A].open, there[B].open) == (1, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (there[A].open, there[B].open) == (0, 0)

    virtual.run(work)


async def test_owner_is_in_flight_while_another_task_sends_for_it() -> None:
    flights = InFlightTasks()
    seen: list[bool] = []

    async def send(call: Call) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        flights.begin(task, 0.0)
        await asyncio.sleep(0.01)
        seen.append(owner in flights and len(flights) == 1)
        flights.end(task)
        return Answer(Success(CompletionResponse()), attempts=1)

    path = ResolvedRoute("way", Failover(A, hedge=Hedge(after_s=9.0)), {A: target(A)})
    board = CandidateMetrics(lambda: 0.0, lambda: 0.0, TargetPrices(lambda: 0.0))
    owner = asyncio.current_task()
    sending = chain(send, routing_middleware(lambda _: path, board, lambda *_, **__: None))  # type: ignore[arg-type]
    await sending(Call(target("x/way"), CompletionRequest(model="m", messages=())))
    assert seen == [True]
    await asyncio.sleep(GRACE_S * 2)
    assert owner not in flights
    assert len(flights) == 0


# Streams


def test_stream_falls_back_only_before_its_first_chunk(virtual: Any) -> None:
    for shows in (False, True):
        shown: list[StreamChunk] = []

        async def work(clock: Clock, shows: bool = shows, shown: list[StreamChunk] = shown) -> Answer:
            world = World(clock, {A: There(always=ServerError()), B: There()}, Failover(A, B))
            inner = world.there[A].send

            async def begins(call: Call, clock: Clock) -> Answer:
                if shows and call.on_chunk is not None:
                    call.on_chunk(StreamChunk(text="Once"))
                return await inner(call, clock)

            world.there[A].send = begins  # type: ignore[method-assign]
            return await world.ask(on_chunk=shown.append)

        answer = virtual.run(work)
        assert said(answer) == ("ServerError" if shows else B)
        assert len(shown) == shows


# The store


def test_lookups_are_batched_and_store_failures_are_misses() -> None:
    asked: list[int] = []

    def counting(store: Store) -> Store:
        def get_many(keys: Any, since: float = 0.0) -> Any:
            asked.append(len(keys))
            return {key: key for key in keys}

        return replace(store, get_many=get_many)

    def failing(store: Store) -> Store:
        def get_many(keys: Any, since: float = 0.0) -> Any:
            raise StoreError("gone")

        return replace(store, get_many=get_many)

    async def work() -> None:
        lookups = CacheLookups(counting(MemoryCache().open()))
        found = await asyncio.gather(*(lookups.get([bytes([at]), b"all"]) for at in range(50)))
        assert asked == [51]
        assert all(bytes([at]) in one for at, one in enumerate(found))
        assert await lookups.get([b"later"]) == {b"later": b"later"}
        assert await CacheLookups(failing(MemoryCache().open())).get([b"x"]) == {}

    asyncio.run(work())


# At the door

MINI, HAIKU, FLASH = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"


def hub(simulator: SimulatorThread, **more: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.01)
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **{"retry": retry, **more})


def ask(made: llmhub.Hub, texts: list[str], model: Any, **more: Any) -> Any:
    return llmhub.complete_table({"t": texts}, "{t}", model=model, hub=made, progress=False, **more)


TEXTS = [f"Tell me of town {number}." for number in range(30)]


def test_named_route_is_a_model_name(simulator: SimulatorThread) -> None:
    with hub(simulator, route={"fast": RoundRobin(MINI, HAIKU)}) as made:
        for name in ("fast", "route/fast"):
            table = ask(made, TEXTS, name)
            assert table.column("status").to_pylist() == ["ok"] * 30
            assert set(table.column("provider").to_pylist()) == {"route"}
            assert set(table.column("model").to_pylist()) == {"fast"}
            who = Counter(served.partition("/")[0] for served in table.column("served_model").to_pylist())
            assert who == {"openai": 15, "anthropic": 15}
            served = table.column("served_model").to_pylist()
            prices = table.column("price_id").to_pylist()
            assert all(
                ("gpt-4o-mini" in price) == one.startswith("openai/") for one, price in zip(served, prices, strict=True)
            )
            assert all(cost > 0 for cost in table.column("cost_usd").to_pylist())
        response = llmhub.complete("hi", model="fast", hub=made)
        assert response.served_model.partition("/")[0] in {"openai", "anthropic"}
        with pytest.raises(BadRequestError, match="or a route: fast"):
            llmhub.complete("hi", model="slow", hub=made)


def test_route_applies_only_to_its_candidates(simulator: SimulatorThread) -> None:
    with hub(simulator, route=Failover(MINI, HAIKU)) as made:
        table = ask(made, TEXTS, [MINI, HAIKU, FLASH])
        assert not any("/" in served for served in table.column("served_model").to_pylist())
        assert simulator.counts()["by_model"] == {MINI: 30, HAIKU: 30, FLASH: 30}
        simulator.set_faults(Faults(rate_500=1.0))
        table = ask(made, ["other"], FLASH)
        assert table.column("status").to_pylist() == ["error"]
        assert simulator.counts()["by_provider"]["openai"] == 30


def test_second_run_hits_the_cache_whichever_candidate_answered(simulator: SimulatorThread) -> None:
    with hub(simulator, route={"fast": RoundRobin(MINI, HAIKU, FLASH)}, cache=llmhub.MemoryCache()) as made:
        first = ask(made, TEXTS, "fast", n=2)
        before = simulator.counts()["requests"]
        again = ask(made, [*TEXTS[::-1], "more"], "fast", n=2, budget_usd=1)
        assert simulator.counts()["requests"] == before + 2
        assert again.column("cache_hit").to_pylist() == [True] * 60 + [False] * 2
        assert sorted(first.column("response").to_pylist()) == sorted(again.column("response").to_pylist()[:60])
        assert [float(cost) for cost in again.column("cost_usd").to_pylist()[:60]] == [0.0] * 60
        assert again.column("list_cost_usd").to_pylist()[0] > 0
        # And each is the answer of whoever gave it, for whoever asks them by name.
        direct = ask(made, TEXTS, MINI)
        assert direct.column("cache_hit").to_pylist().count(True) >= 10
        assert not any("/" in served for served in direct.column("served_model").to_pylist())


@dataclass(frozen=True)
class Counted:
    """A memory cache that notes how many keys are looked up at a time."""

    asked: list[int] = field(default_factory=list)

    def open(self) -> Store:
        store = MemoryCache().open()

        def get_many(keys: Any, since: float = 0.0, /) -> Any:
            self.asked.append(len(keys))
            return store.get_many(keys, since)

        return replace(store, get_many=get_many)


@pytest.mark.parametrize("turns", [False, True])
def test_candidates_are_looked_up_in_batches_before_sending(simulator: SimulatorThread, turns: bool) -> None:
    cache, seen = Counted(), Counter[str]()

    def noted(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            seen[call.request.messages[-1].text] += 1
            return await send(call)

        return sending

    prompts = [{"role": "user", "content": text} for text in TEXTS]
    rows = {"t": [[turn] for turn in prompts] if turns else TEXTS}
    how = {"messages": "t"} if turns else {"prompt": "{t}"}
    route = {"fast": RoundRobin(MINI, HAIKU, FLASH)}
    with hub(simulator, route=route, cache=cache, middleware=(noted,)) as made:
        for _ in range(2):
            table = llmhub.complete_table(rows, model="fast", hub=made, progress=False, **how)
            assert table.column("status").to_pylist() == ["ok"] * 30
    # Who is found there is found before any middleware is asked, as is the answer of whom a row names.
    assert seen == dict.fromkeys(TEXTS, 1)
    assert simulator.counts()["requests"] == 30
    assert sum(cache.asked) == 2 * 4 * 30
    assert len(cache.asked) <= 4


def test_call_changed_by_a_middleware_is_looked_up(simulator: SimulatorThread, tmp_path: pathlib.Path) -> None:
    def louder(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            asked = replace(call.request, messages=(Message("user", call.request.messages[-1].text.upper()),))
            return await send(replace(call, request=asked, key=None))

        return sending

    common = {"route": {"fast": RoundRobin(MINI, HAIKU, FLASH)}, "cache": tmp_path / "runs.db"}
    with hub(simulator, **common) as made:
        first = ask(made, ["HELLO"], "fast")
    with hub(simulator, middleware=(louder,), **common) as made:
        again = ask(made, ["hello"], "fast")
    assert again.column("cache_hit").to_pylist() == [True]
    assert again.column("response").to_pylist() == first.column("response").to_pylist()
    assert simulator.counts()["requests"] == 1


def test_samples_of_a_conversation_are_stored_separately(simulator: SimulatorThread) -> None:
    turns = {"turns": [[{"role": "user", "content": text}] for text in TEXTS]}
    route = {"fast": llmhub.Failover("openai/gpt-4o-mini", "openai/gpt-4o")}
    with hub(simulator, route=route, cache=llmhub.MemoryCache()) as made:
        table = llmhub.complete_table(turns, messages="turns", model="fast", n=3, hub=made, progress=False)
    assert table.column("cache_hit").to_pylist() == [False] * 3 * len(TEXTS)
    assert simulator.counts()["requests"] == 3 * len(TEXTS)


def test_duplicate_rows_report_the_served_model(simulator: SimulatorThread) -> None:
    with hub(simulator, route={"fast": RoundRobin(MINI, HAIKU)}) as made:
        table = ask(made, ["same"] * 6, "fast")
    assert simulator.counts()["requests"] == 1
    assert len(set(table.column("served_model").to_pylist())) == 1
    assert len(set(table.column("list_cost_usd").to_pylist())) == 1
    assert table.column("cache_hit").to_pylist() == [False] + [True] * 5


def test_unreachable_provider_loses_no_row_and_decisions_are_logged(simulator: SimulatorThread) -> None:
    gone = {**simulator.endpoints(), "openai": llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k")}
    with llmhub.Hub(endpoints=gone, settings=Settings(), route=Failover(MINI, HAIKU)) as made:
        table = ask(made, TEXTS, MINI)
        assert table.column("status").to_pylist() == ["ok"] * 30
        assert set(table.column("model").to_pylist()) == {"gpt-4o-mini"}
        assert all(served.startswith("anthropic/claude-haiku") for served in table.column("served_model").to_pylist())
        assert max(table.column("attempts").to_pylist()) == 2
        fallbacks = [one for one in made.decisions() if one.kind == "fallback"]
        assert fallbacks[0].target == MINI
        assert fallbacks[0].detail == f"Disconnected: on to {HAIKU}"


def test_stream_is_routed_too(simulator: SimulatorThread) -> None:
    gone = {**simulator.endpoints(), "openai": llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k")}
    with llmhub.Hub(endpoints=gone, settings=Settings(), route=Failover(MINI, HAIKU)) as made:
        assert "".join(chunk.text for chunk in llmhub.stream("hi", model=MINI, hub=made))
        table = ask(made, TEXTS, MINI, stream=True)
        assert table.column("status").to_pylist() == ["ok"] * 30
        assert all(ttft > 0 for ttft in table.column("ttft_s").to_pylist())


def test_budget_holds_for_hedged_routes() -> None:
    with serving(Simulator(seed=5, latency=Latency(0.02, 0.8))) as simulator:
        route = {"fast": LowLatency(MINI, FLASH, hedge=Hedge(after_s=0.02))}
        with hub(simulator, route=route, budget_usd="0.004") as made:
            table = ask(made, [f"Tell of {number}." for number in range(300)], "fast", max_tokens=30, concurrency=64)
            spent = made.spending()
            assert spent is not None
            assert spent.spent_usd <= spent.limit_usd
            assert spent.reserved == 0
            assert any(one.kind == "hedge" for one in made.decisions())
        assert set(table.column("status").to_pylist()) == {"ok", "budget"}
        paid = sum(cost for cost in table.column("cost_usd").to_pylist() if cost is not None)
        assert 0 < paid <= spent.spent_usd


def test_hub_with_routes_can_be_pickled(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    route = {"fast": Weighted({MINI: 3, HAIKU: 1}), "cheap": CostOptimized(MINI, HAIKU), "quick": LowLatency(MINI)}
    with hub(simulator, route=route) as made, pickle.loads(pickle.dumps(made)) as again:
        assert again.route == made.route or set(again.route) == set(route)
        assert llmhub.complete("hi", model="cheap", hub=again).served_model.startswith("openai/")


def test_candidate_without_credentials_raises_before_sending(simulator: SimulatorThread) -> None:
    bare = {"openai": simulator.endpoints()["openai"]}
    with llmhub.Hub(endpoints=bare, settings=Settings(), route=Failover(MINI, HAIKU)) as made:
        with pytest.raises(AuthenticationError, match="claude-haiku-4-5' needs credentials"):
            ask(made, TEXTS, MINI)
        assert llmhub.complete("hi", model="openai/gpt-4o", hub=made).text
    with (
        hub(simulator, route={"fast": Failover(MINI, HAIKU)}) as made,
        pytest.raises(UnsupportedParameterError, match="seed"),
    ):
        ask(made, TEXTS, "fast", seed=3)
    with pytest.raises(BadRequestError, match="no provider is named 'opnai'"):
        hub(simulator, route=Failover("opnai/x"))
    for wrong in ("fast", {"fast": "openai/x"}, {"": Failover(MINI)}, [Failover(MINI)]):
        with pytest.raises(BadRequestError, match="route"):
            hub(simulator, route=wrong)


def test_stopped_run_drains_a_hedged_call_in_flight(scripted: Any, speech: Any) -> None:
    """What a task of its own sends counts as its worker's: what is already paid for is not cut off."""
    from llmhub.api import tables  # noqa: PLC0415 - how a run is stopped is not public
    from llmhub.engine.event_loop import StopSignal, submit  # noqa: PLC0415 - as above

    go_on = threading.Event()
    server = scripted([go_on, speech.answer("kept")])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    stop = StopSignal()
    route = {"w": Failover("compatible/m", hedge=Hedge(after_s=60.0))}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route) as made:
        asked = tables.build_table_run({"t": ["one"]}, "{t}", "w", made, {"progress": False})
        future = submit(tables.run_table(asked, None, stop))
        assert server.asked.wait(10)
        stop.request()
        threading.Timer(0.3, go_on.set).start()
        table = future.result(30)
        assert table.column("error").to_pylist() == [None]
        assert table.column("response").to_pylist() == ["kept"]


def test_budget_error_does_not_fall_back(virtual: Any) -> None:
    there = {A: There(always=BudgetExceeded()), B: There()}
    _, answer = run(virtual, there, Failover(A, B))
    assert said(answer) == "BudgetExceeded"
    assert there[B].asked == 0
