"""Routed calls: in virtual time with providers that fail and slow down, and against the simulator."""

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
class FakeProvider:
    """A provider with a latency that fails as instructed."""

    latency_s: float = 0.1
    errors: list[LLMError | None] = field(default_factory=list)
    always: LLMError | None = None
    requests: int = 0
    open: int = 0
    cancelled: int = 0

    async def send(self, call: Call, clock: Clock) -> Answer:
        self.requests += 1
        self.open += 1
        start = clock()
        error = self.errors.pop(0) if self.errors else self.always
        try:
            await asyncio.sleep(0.001 if isinstance(error, Disconnected) else self.latency_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.open -= 1
        elapsed_s = clock() - start
        response = CompletionResponse(parts=(Text(call.target.name),), usage=Usage(input_tokens=1, output_tokens=1))
        outcome: Any = Success(response) if error is None else Failure(error)
        return Answer(outcome, latency_s=elapsed_s, total_s=elapsed_s, attempts=1)


class RoutedProviders:
    """Fake providers by name, behind the routing middleware."""

    def __init__(
        self, clock: Clock, providers: Mapping[str, FakeProvider], route: Route, retry: Retry | None = None
    ) -> None:
        self.clock = clock
        self.providers = providers
        self.notes: list[tuple[str, str]] = []
        seed = random.Random(7)
        metrics = CandidateMetrics(clock, seed.random, TargetPrices(lambda: 1.79e9))
        self.resolved = ResolvedRoute("route", route, {name: target(name) for name in route.candidates})
        middleware = [routing_middleware(lambda name: self.resolved if name == "route" else None, metrics, self.note)]
        if retry is not None:
            middleware = [retry_middleware(retry, clock, seed.random), *middleware]
        sends: dict[str, Send] = {
            name: chain(lambda call, one=one: one.send(call, clock), metrics.middleware(target(name)))  # type: ignore[misc]
            for name, one in providers.items()
        }
        self.send = chain(lambda call: sends[call.target.name](call), *middleware)

    def note(self, kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
        self.notes.append((kind, target))

    async def ask(self, text: str = "hi", **more: Any) -> Answer:
        request = CompletionRequest(model="route", messages=(Message("user", text),))
        return await self.send(Call(replace(target("x/route"), name="route"), request, **more))


def run(
    virtual: Any, providers: Mapping[str, FakeProvider], route: Route, *, count: int = 1, **more: Any
) -> tuple[RoutedProviders, Any]:
    async def work(clock: Clock) -> tuple[RoutedProviders, Any]:
        routed = RoutedProviders(clock, providers, route, **more)
        answers = [await routed.ask() for _ in range(count)]
        return routed, answers[0] if count == 1 else answers

    done: tuple[RoutedProviders, Any] = virtual.run(work)
    return done


def served_model_or_error(answer: Answer) -> str:
    return answer.outcome.unwrap().text if is_successful(answer.outcome) else type(answer.outcome.failure()).__name__


A, B, C = "p/a", "p/b", "p/c"


# Fallbacks


@pytest.mark.parametrize("kind", list(REACTIONS))
def test_reactions_decide_which_errors_fall_back(virtual: Any, kind: type[LLMError]) -> None:
    providers = {A: FakeProvider(always=kind()), B: FakeProvider()}
    routed, answer = run(virtual, providers, Failover(A, B))
    assert served_model_or_error(answer) == (B if REACTIONS[kind].falls_back else kind.__name__)
    assert answer.attempts == 1 + REACTIONS[kind].falls_back
    assert routed.notes == ([("fallback", A)] if REACTIONS[kind].falls_back else [])


@given(
    st.lists(st.sampled_from([None, ServerError(), NotFound(), ContentFiltered()]), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_fallbacks_are_bounded_and_candidates_tried_once(virtual: Any, ends: list[Any], fallbacks: int) -> None:
    providers = {f"p/{at}": FakeProvider(always=end) for at, end in enumerate(ends)}
    _, answer = run(virtual, providers, Failover(*providers, fallbacks=fallbacks))
    requests = [one.requests for one in providers.values()]
    reached = ends[: 1 + fallbacks]
    stops = next(
        (at for at, end in enumerate(reached) if end is None or isinstance(end, ContentFiltered)), len(reached) - 1
    )
    assert requests == [1] * (stops + 1) + [0] * (len(ends) - stops - 1)
    assert answer.attempts == stops + 1
    assert is_successful(answer.outcome) == (ends[stops] is None)


def test_most_retryable_failure_is_reported(virtual: Any) -> None:
    providers = {
        A: FakeProvider(always=RateLimited(retry_after_s=2.0)),
        B: FakeProvider(always=AuthFailed()),
        C: FakeProvider(always=NotFound()),
    }
    _, answer = run(virtual, providers, Failover(A, B, C))
    assert answer.outcome.failure() == RateLimited(retry_after_s=2.0)
    assert answer.attempts == 3
    assert answer.total_s == pytest.approx(0.3)


def test_failed_candidate_cools_down_and_is_probed_by_one_call(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        providers = {A: FakeProvider(errors=[ServerError()], latency_s=0.2), B: FakeProvider(latency_s=0.01)}
        routed = RoutedProviders(clock, providers, Failover(A, B))
        assert served_model_or_error(await routed.ask()) == B
        assert served_model_or_error(await routed.ask()) == B
        assert providers[A].requests == 1
        await asyncio.sleep(0.5)
        answers = await asyncio.gather(*(routed.ask() for _ in range(20)))
        assert Counter(map(served_model_or_error, answers)) == {A: 1, B: 19}
        assert served_model_or_error(await routed.ask()) == A

    virtual.run(work)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (lambda candidates, stats: 1 / 0, "ZeroDivisionError"),
        (lambda candidates, stats: ["p/z"], "'p/z', which is not a candidate; return one or more of p/a, p/b"),
        (lambda candidates, stats: [], "the function returned no candidate"),
        (lambda candidates, stats: None, "TypeError"),
    ],
)
def test_failing_rank_function_fails_the_row(virtual: Any, rank: Any, message: str) -> None:
    _, answer = run(virtual, {A: FakeProvider(), B: FakeProvider()}, Route((A, B), rank=rank))
    error = answer.outcome.failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "route.rank"
    assert message in error.message


def test_custom_rank_function_sees_the_statistics(virtual: Any) -> None:
    seen: list[Any] = []

    def rank_by_successes(candidates: Any, stats: Any) -> Any:
        seen.append((stats[A].success_count, stats[B].success_count, stats.input_tokens > 0))
        return [min(candidates, key=lambda name: stats[name].success_count)]

    _, answers = run(virtual, {A: FakeProvider(), B: FakeProvider()}, Route((A, B), rank=rank_by_successes), count=4)
    assert [served_model_or_error(answer) for answer in answers] == [A, B, A, B]
    assert seen == [(0, 0, True), (1, 0, True), (1, 1, True), (2, 1, True)]


# Together with retries


def test_retries_and_fallbacks_share_the_attempts(virtual: Any) -> None:
    providers = {
        A: FakeProvider(always=ServerError()),
        B: FakeProvider(always=ServerError()),
        C: FakeProvider(always=ServerError()),
    }
    _, answer = run(virtual, providers, Failover(A, B, C), retry=Retry(attempts=5, base_s=1.0))
    sent = sum(one.requests for one in providers.values())
    assert answer.attempts == sent
    # No ranking starts beyond the attempts of the policy.
    assert sent == 6


def test_retry_ranks_the_candidates_again(virtual: Any) -> None:
    providers = {A: FakeProvider(errors=[ServerError()]), B: FakeProvider(errors=[ServerError()])}
    _, answer = run(virtual, providers, Failover(A, B), retry=Retry(base_s=5.0))
    assert served_model_or_error(answer) == A
    assert answer.attempts == 3


# Outages


@dataclass(frozen=True)
class Case:
    route: Route
    dies: str
    slows: str
    before_s: float
    after_s: float
    """Expected latency before and after the outage."""


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
@pytest.mark.parametrize("options", ["refused", "times out"])
def test_outage_loses_no_row_and_throughput_recovers(virtual: Any, case: Case, options: str) -> None:
    """During a run, one of three candidates fails for good and another becomes ten times slower."""
    workers, breaks_at, ends_at = 24, 5.0, 15.0
    unreachable_error: LLMError = Disconnected(code=NOT_CONNECTED) if options == "refused" else TimedOut()

    async def work(clock: Clock) -> tuple[list[tuple[float, Answer]], RoutedProviders]:
        providers = {name: FakeProvider() for name in (A, B, C)}
        routed = RoutedProviders(clock, providers, case.route, Retry())
        done: list[tuple[float, Answer]] = []

        async def worker() -> None:
            while clock() < ends_at:
                answer = await routed.ask()
                done.append((clock(), answer))

        async def breaks() -> None:
            await asyncio.sleep(breaks_at)
            providers[case.slows].latency_s *= 10
            providers[case.dies].always = unreachable_error

        await asyncio.gather(breaks(), *(worker() for _ in range(workers)))
        return done, routed

    done, routed = virtual.run(work)
    assert all(is_successful(answer.outcome) for _, answer in done)

    def pace(begin_s: float, end_s: float) -> float:
        return sum(begin_s <= at < end_s for at, _ in done) / (end_s - begin_s)

    assert pace(2, breaks_at) > 0.95 * workers / case.before_s
    assert pace(breaks_at + 5, ends_at) > 0.9 * workers / case.after_s
    assert max(answer.attempts for _, answer in done) <= 3
    # The failed candidate gets the calls already in flight, then one probe at a time.
    assert routed.providers[case.dies].requests < breaks_at * workers / case.before_s + workers + 64


# Hedges


def test_hedge_uses_the_first_success_and_cancels_the_other(virtual: Any) -> None:
    providers = {A: FakeProvider(latency_s=10.0), B: FakeProvider(latency_s=0.1)}
    routed, answer = run(virtual, providers, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert served_model_or_error(answer) == B
    assert (providers[A].requests, providers[A].cancelled, providers[B].requests) == (1, 1, 1)
    assert routed.notes == [("hedge", A)]


def test_timely_answer_is_not_hedged(virtual: Any) -> None:
    providers = {A: FakeProvider(latency_s=0.9), B: FakeProvider()}
    routed, answer = run(virtual, providers, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert (served_model_or_error(answer), providers[B].requests, routed.notes) == (A, 0, [])


def test_failed_hedge_does_not_end_the_first_request(virtual: Any) -> None:
    providers = {A: FakeProvider(latency_s=3.0), B: FakeProvider(always=ServerError())}
    _, answer = run(virtual, providers, Failover(A, B, hedge=Hedge(after_s=1.0)))
    assert served_model_or_error(answer) == A
    assert answer.attempts == 2


def test_next_candidate_is_tried_when_both_hedged_requests_fail(virtual: Any) -> None:
    providers = {
        A: FakeProvider(latency_s=3.0, always=ServerError()),
        B: FakeProvider(always=ServerError()),
        C: FakeProvider(),
    }
    _, answer = run(virtual, providers, Failover(A, B, C, hedge=Hedge(after_s=1.0)))
    assert served_model_or_error(answer) == C
    assert answer.attempts == 3


def test_single_candidate_is_hedged_with_itself(virtual: Any) -> None:
    providers = {A: FakeProvider(latency_s=3.0)}
    _, answer = run(virtual, providers, Failover(A, hedge=Hedge(after_s=1.0)))
    assert served_model_or_error(answer) == A
    assert (providers[A].requests, providers[A].cancelled, providers[A].open) == (2, 1, 0)


def test_quantile_hedges_only_slow_calls(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        providers = {A: FakeProvider(), B: FakeProvider()}
        routed = RoutedProviders(clock, providers, Failover(A, B, hedge=Hedge(quantile=0.99)))
        for typical_s in [0.2] * 20 + [0.1] * 20:
            providers[A].latency_s = typical_s
            await routed.ask()
        assert providers[B].requests == 0
        providers[A].latency_s = 5.0
        before = clock()
        assert served_model_or_error(await routed.ask()) == B
        assert clock() - before == pytest.approx(0.3)

    virtual.run(work)


def test_cancellation_cancels_both_hedged_requests(virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        providers = {A: FakeProvider(latency_s=50.0), B: FakeProvider(latency_s=50.0)}
        routed = RoutedProviders(clock, providers, Failover(A, B, hedge=Hedge(after_s=1.0)))
        task = asyncio.ensure_future(routed.ask())
        await asyncio.sleep(2)
        assert (providers[A].open, providers[B].open) == (1, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (providers[A].open, providers[B].open) == (0, 0)

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

    resolved = ResolvedRoute("route", Failover(A, hedge=Hedge(after_s=9.0)), {A: target(A)})
    metrics = CandidateMetrics(lambda: 0.0, lambda: 0.0, TargetPrices(lambda: 0.0))
    owner = asyncio.current_task()
    send_routed = chain(send, routing_middleware(lambda _: resolved, metrics, lambda *_, **__: None))  # type: ignore[arg-type]
    await send_routed(Call(target("x/route"), CompletionRequest(model="m", messages=())))
    assert seen == [True]
    await asyncio.sleep(GRACE_S * 2)
    assert owner not in flights
    assert len(flights) == 0


# Streams


def test_stream_falls_back_only_before_its_first_chunk(virtual: Any) -> None:
    for shows in (False, True):
        shown: list[StreamChunk] = []

        async def work(clock: Clock, shows: bool = shows, shown: list[StreamChunk] = shown) -> Answer:
            routed = RoutedProviders(clock, {A: FakeProvider(always=ServerError()), B: FakeProvider()}, Failover(A, B))
            inner = routed.providers[A].send

            async def stream_then_fail(call: Call, clock: Clock) -> Answer:
                if shows and call.on_chunk is not None:
                    call.on_chunk(StreamChunk(text="Once"))
                return await inner(call, clock)

            routed.providers[A].send = stream_then_fail  # type: ignore[method-assign]
            return await routed.ask(on_chunk=shown.append)

        answer = virtual.run(work)
        assert served_model_or_error(answer) == ("ServerError" if shows else B)
        assert len(shown) == shows


# The store


def test_lookups_are_batched_and_store_failures_are_misses() -> None:
    requests: list[int] = []

    def counting(store: Store) -> Store:
        def get_many(keys: Any, since: float = 0.0) -> Any:
            requests.append(len(keys))
            return {key: key for key in keys}

        return replace(store, get_many=get_many)

    def failing(store: Store) -> Store:
        def get_many(keys: Any, since: float = 0.0) -> Any:
            raise StoreError("gone")

        return replace(store, get_many=get_many)

    async def work() -> None:
        lookups = CacheLookups(counting(MemoryCache().open()))
        values = await asyncio.gather(*(lookups.get([bytes([at]), b"all"]) for at in range(50)))
        assert requests == [51]
        assert all(bytes([at]) in one for at, one in enumerate(values))
        assert await lookups.get([b"later"]) == {b"later": b"later"}
        assert await CacheLookups(failing(MemoryCache().open())).get([b"x"]) == {}

    asyncio.run(work())


# Through the public functions

MINI, HAIKU, FLASH = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5", "google/gemini-2.5-flash"


def make_hub(simulator: SimulatorThread, **more: Any) -> llmhub.Hub:
    retry = llmhub.Retry(base_s=0.001, cap_s=0.01)
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), **{"retry": retry, **more})


def ask(hub: llmhub.Hub, texts: list[str], model: Any, **more: Any) -> Any:
    return llmhub.complete_table({"t": texts}, "{t}", model=model, hub=hub, progress=False, **more)


TEXTS = [f"Tell me of town {number}." for number in range(30)]


def test_named_route_is_a_model_name(simulator: SimulatorThread) -> None:
    with make_hub(simulator, route={"fast": RoundRobin(MINI, HAIKU)}) as hub:
        for name in ("fast", "route/fast"):
            table = ask(hub, TEXTS, name)
            assert table.column("status").to_pylist() == ["ok"] * 30
            assert set(table.column("provider").to_pylist()) == {"route"}
            assert set(table.column("model").to_pylist()) == {"fast"}
            served_by = Counter(served.partition("/")[0] for served in table.column("served_model").to_pylist())
            assert served_by == {"openai": 15, "anthropic": 15}
            served = table.column("served_model").to_pylist()
            prices = table.column("price_id").to_pylist()
            assert all(
                ("gpt-4o-mini" in price) == one.startswith("openai/") for one, price in zip(served, prices, strict=True)
            )
            assert all(cost > 0 for cost in table.column("cost_usd").to_pylist())
        response = llmhub.complete("hi", model="fast", hub=hub)
        assert response.served_model.partition("/")[0] in {"openai", "anthropic"}
        with pytest.raises(BadRequestError, match="or a route: fast"):
            llmhub.complete("hi", model="slow", hub=hub)


def test_route_applies_only_to_its_candidates(simulator: SimulatorThread) -> None:
    with make_hub(simulator, route=Failover(MINI, HAIKU)) as hub:
        table = ask(hub, TEXTS, [MINI, HAIKU, FLASH])
        assert not any("/" in served for served in table.column("served_model").to_pylist())
        assert simulator.counts()["by_model"] == {MINI: 30, HAIKU: 30, FLASH: 30}
        simulator.set_faults(Faults(rate_500=1.0))
        table = ask(hub, ["other"], FLASH)
        assert table.column("status").to_pylist() == ["error"]
        assert simulator.counts()["by_provider"]["openai"] == 30


def test_second_run_hits_the_cache_whichever_candidate_answered(simulator: SimulatorThread) -> None:
    with make_hub(simulator, route={"fast": RoundRobin(MINI, HAIKU, FLASH)}, cache=llmhub.MemoryCache()) as hub:
        first = ask(hub, TEXTS, "fast", n=2)
        before = simulator.counts()["requests"]
        again = ask(hub, [*TEXTS[::-1], "more"], "fast", n=2, budget_usd=1)
        assert simulator.counts()["requests"] == before + 2
        assert again.column("cache_hit").to_pylist() == [True] * 60 + [False] * 2
        assert sorted(first.column("response").to_pylist()) == sorted(again.column("response").to_pylist()[:60])
        assert [float(cost) for cost in again.column("cost_usd").to_pylist()[:60]] == [0.0] * 60
        assert again.column("list_cost_usd").to_pylist()[0] > 0
        # Each response is also found by a direct call to the model that gave it.
        direct = ask(hub, TEXTS, MINI)
        assert direct.column("cache_hit").to_pylist().count(True) >= 10
        assert not any("/" in served for served in direct.column("served_model").to_pylist())


@dataclass(frozen=True)
class Counted:
    """A memory cache that records how many keys each look-up has."""

    requests: list[int] = field(default_factory=list)

    def open(self) -> Store:
        store = MemoryCache().open()

        def get_many(keys: Any, since: float = 0.0, /) -> Any:
            self.requests.append(len(keys))
            return store.get_many(keys, since)

        return replace(store, get_many=get_many)


@pytest.mark.parametrize("turns", [False, True])
def test_candidates_are_looked_up_in_batches_before_sending(simulator: SimulatorThread, turns: bool) -> None:
    cache, seen = Counted(), Counter[str]()

    def record_calls(send: Send) -> Send:
        async def send_routed(call: Call) -> Answer:
            seen[call.request.messages[-1].text] += 1
            return await send(call)

        return send_routed

    prompts = [{"role": "user", "content": text} for text in TEXTS]
    rows = {"t": [[turn] for turn in prompts] if turns else TEXTS}
    options = {"messages": "t"} if turns else {"prompt": "{t}"}
    route = {"fast": RoundRobin(MINI, HAIKU, FLASH)}
    with make_hub(simulator, route=route, cache=cache, middleware=(record_calls,)) as hub:
        for _ in range(2):
            table = llmhub.complete_table(rows, model="fast", hub=hub, progress=False, **options)
            assert table.column("status").to_pylist() == ["ok"] * 30
    # Stored responses are found before any middleware runs, under the key of any candidate.
    assert seen == dict.fromkeys(TEXTS, 1)
    assert simulator.counts()["requests"] == 30
    assert sum(cache.requests) == 2 * 4 * 30
    assert len(cache.requests) <= 4


def test_call_changed_by_a_middleware_is_looked_up(simulator: SimulatorThread, tmp_path: pathlib.Path) -> None:
    def uppercase(send: Send) -> Send:
        async def send_routed(call: Call) -> Answer:
            request = replace(call.request, messages=(Message("user", call.request.messages[-1].text.upper()),))
            return await send(replace(call, request=request, key=None))

        return send_routed

    common = {"route": {"fast": RoundRobin(MINI, HAIKU, FLASH)}, "cache": tmp_path / "runs.db"}
    with make_hub(simulator, **common) as hub:
        first = ask(hub, ["HELLO"], "fast")
    with make_hub(simulator, middleware=(uppercase,), **common) as hub:
        again = ask(hub, ["hello"], "fast")
    assert again.column("cache_hit").to_pylist() == [True]
    assert again.column("response").to_pylist() == first.column("response").to_pylist()
    assert simulator.counts()["requests"] == 1


def test_samples_of_a_conversation_are_stored_separately(simulator: SimulatorThread) -> None:
    turns = {"turns": [[{"role": "user", "content": text}] for text in TEXTS]}
    route = {"fast": llmhub.Failover("openai/gpt-4o-mini", "openai/gpt-4o")}
    with make_hub(simulator, route=route, cache=llmhub.MemoryCache()) as hub:
        table = llmhub.complete_table(turns, messages="turns", model="fast", n=3, hub=hub, progress=False)
    assert table.column("cache_hit").to_pylist() == [False] * 3 * len(TEXTS)
    assert simulator.counts()["requests"] == 3 * len(TEXTS)


def test_duplicate_rows_report_the_served_model(simulator: SimulatorThread) -> None:
    with make_hub(simulator, route={"fast": RoundRobin(MINI, HAIKU)}) as hub:
        table = ask(hub, ["same"] * 6, "fast")
    assert simulator.counts()["requests"] == 1
    assert len(set(table.column("served_model").to_pylist())) == 1
    assert len(set(table.column("list_cost_usd").to_pylist())) == 1
    assert table.column("cache_hit").to_pylist() == [False] + [True] * 5


def test_unreachable_provider_loses_no_row_and_decisions_are_logged(simulator: SimulatorThread) -> None:
    unreachable_error = {
        **simulator.endpoints(),
        "openai": llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k"),
    }
    with llmhub.Hub(endpoints=unreachable_error, settings=Settings(), route=Failover(MINI, HAIKU)) as hub:
        table = ask(hub, TEXTS, MINI)
        assert table.column("status").to_pylist() == ["ok"] * 30
        assert set(table.column("model").to_pylist()) == {"gpt-4o-mini"}
        assert all(served.startswith("anthropic/claude-haiku") for served in table.column("served_model").to_pylist())
        assert max(table.column("attempts").to_pylist()) == 2
        fallbacks = [one for one in hub.decisions() if one.kind == "fallback"]
        assert fallbacks[0].target == MINI
        assert fallbacks[0].detail == f"Disconnected: on to {HAIKU}"


def test_stream_is_routed_too(simulator: SimulatorThread) -> None:
    unreachable_error = {
        **simulator.endpoints(),
        "openai": llmhub.Endpoint(base_url="http://127.0.0.1:9/v1", api_key="k"),
    }
    with llmhub.Hub(endpoints=unreachable_error, settings=Settings(), route=Failover(MINI, HAIKU)) as hub:
        assert "".join(chunk.text for chunk in llmhub.stream("hi", model=MINI, hub=hub))
        table = ask(hub, TEXTS, MINI, stream=True)
        assert table.column("status").to_pylist() == ["ok"] * 30
        assert all(ttft > 0 for ttft in table.column("ttft_s").to_pylist())


def test_budget_holds_for_hedged_routes() -> None:
    with serving(Simulator(seed=5, latency=Latency(0.02, 0.8))) as simulator:
        route = {"fast": LowLatency(MINI, FLASH, hedge=Hedge(after_s=0.02))}
        with make_hub(simulator, route=route, budget_usd="0.004") as hub:
            table = ask(hub, [f"Tell of {number}." for number in range(300)], "fast", max_tokens=30, concurrency=64)
            spent = hub.spending()
            assert spent is not None
            assert spent.spent_usd <= spent.limit_usd
            assert spent.reserved == 0
            assert any(one.kind == "hedge" for one in hub.decisions())
        assert set(table.column("status").to_pylist()) == {"ok", "budget"}
        paid = sum(cost for cost in table.column("cost_usd").to_pylist() if cost is not None)
        assert 0 < paid <= spent.spent_usd


def test_hub_with_routes_can_be_pickled(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    route = {"fast": Weighted({MINI: 3, HAIKU: 1}), "cheap": CostOptimized(MINI, HAIKU), "quick": LowLatency(MINI)}
    with make_hub(simulator, route=route) as hub, pickle.loads(pickle.dumps(hub)) as again:
        assert again.route == hub.route or set(again.route) == set(route)
        assert llmhub.complete("hi", model="cheap", hub=again).served_model.startswith("openai/")


def test_candidate_without_credentials_raises_before_sending(simulator: SimulatorThread) -> None:
    bare = {"openai": simulator.endpoints()["openai"]}
    with llmhub.Hub(endpoints=bare, settings=Settings(), route=Failover(MINI, HAIKU)) as hub:
        with pytest.raises(AuthenticationError, match="claude-haiku-4-5' needs credentials"):
            ask(hub, TEXTS, MINI)
        assert llmhub.complete("hi", model="openai/gpt-4o", hub=hub).text
    with (
        make_hub(simulator, route={"fast": Failover(MINI, HAIKU)}) as hub,
        pytest.raises(UnsupportedParameterError, match="seed"),
    ):
        ask(hub, TEXTS, "fast", seed=3)
    with pytest.raises(BadRequestError, match="no provider is named 'opnai'"):
        make_hub(simulator, route=Failover("opnai/x"))
    for wrong in ("fast", {"fast": "openai/x"}, {"": Failover(MINI)}, [Failover(MINI)]):
        with pytest.raises(BadRequestError, match="route"):
            make_hub(simulator, route=wrong)


def test_stopped_run_drains_a_hedged_call_in_flight(scripted: Any, replies: Any) -> None:
    """A request in a task of its own counts as its worker's, and is drained like it."""
    from llmhub.api import tables  # noqa: PLC0415 - how a run is stopped is not public
    from llmhub.engine.event_loop import StopSignal, submit  # noqa: PLC0415 - as above

    go_on = threading.Event()
    server = scripted([go_on, replies.answer("kept")])
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    stop = StopSignal()
    route = {"w": Failover("compatible/m", hedge=Hedge(after_s=60.0))}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), route=route) as hub:
        table_run = tables.build_table_run({"t": ["one"]}, "{t}", "w", hub, {"progress": False})
        future = submit(tables.run_table(table_run, None, stop))
        assert server.received.wait(10)
        stop.request()
        threading.Timer(0.3, go_on.set).start()
        table = future.result(30)
        assert table.column("error").to_pylist() == [None]
        assert table.column("response").to_pylist() == ["kept"]


def test_budget_error_does_not_fall_back(virtual: Any) -> None:
    providers = {A: FakeProvider(always=BudgetExceeded()), B: FakeProvider()}
    _, answer = run(virtual, providers, Failover(A, B))
    assert served_model_or_error(answer) == "BudgetExceeded"
    assert providers[B].requests == 0
