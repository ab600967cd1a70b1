"""Circuit breaker: what makes a provider unhealthy and how it recovers, for any sequence of events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import (
    AuthFailed,
    BadRequestError,
    Disconnected,
    LLMError,
    Overloaded,
    RateLimited,
    ServerError,
    TimedOut,
)
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse
from llmhub.engine.call import Answer, Call, Target, chain
from llmhub.engine.circuit_breaker import (
    CIRCUIT_OPEN,
    INITIAL_STATE,
    Breaker,
    Circuit,
    CircuitHealth,
    CircuitState,
    admit,
    circuit_breaker_middleware,
    failing_s,
    on_failure,
    on_success,
)
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.retry import Retry, retry_middleware
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
Event = Literal["answer", "fault"]
policies = st.builds(
    Breaker,
    degraded=st.integers(1, 3),
    failures=st.integers(3, 8),
    recovery=st.integers(1, 4),
    cooldown_s=st.floats(0.1, 5),
    longest_s=st.floats(5, 30),
)
stories = st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["answer", "fault"])), max_size=60)


def replay(policy: Breaker, events: list[tuple[float, Event]]) -> list[tuple[CircuitState, CircuitState, float, bool]]:
    """Send requests one by one; return the state before and after each, the time, and whether it was sent."""
    state, now, steps = INITIAL_STATE, 0.0, []
    for gap, event in events:
        now += gap
        before = state
        state, wait_s = admit(policy, state, now)
        if not wait_s:
            on_event = on_failure if event == "fault" else on_success
            state = on_event(policy, state, now, now)
        steps.append((before, state, now, not wait_s))
    return steps


@given(policies, stories)
def test_recovery_passes_through_degraded(policy: Breaker, events: list[tuple[float, Event]]) -> None:
    for before, after, _, _ in replay(policy, events):
        if before.health is CircuitHealth.UNHEALTHY:
            assert after.health is not CircuitHealth.HEALTHY
        if before.health is CircuitHealth.HEALTHY and policy.degraded < policy.failures:
            assert after.health is not CircuitHealth.UNHEALTHY


@given(policies, stories)
def test_nothing_is_sent_during_a_cooldown_of_bounded_length(
    policy: Breaker, events: list[tuple[float, Event]]
) -> None:
    for before, after, now, sent in replay(policy, events):
        if before.health is CircuitHealth.UNHEALTHY:
            assert sent == (now >= before.open_until)
        if after.health is CircuitHealth.UNHEALTHY:
            assert after.open_until - after.changed_at <= policy.longest_s + 1e-9


@given(policies, stories)
def test_unhealthy_only_after_consecutive_failures(policy: Breaker, events: list[tuple[float, Event]]) -> None:
    consecutive = 0
    for (before, after, _, sent), (_, event) in zip(replay(policy, events), events, strict=True):
        consecutive = (consecutive + 1 if event == "fault" else 0) if sent else consecutive
        if before.health is not CircuitHealth.UNHEALTHY and after.health is CircuitHealth.UNHEALTHY:
            assert consecutive >= min(policy.failures, policy.degraded)
            assert consecutive >= policy.failures or before.open_count


@given(policies, st.integers(1, 8))
def test_each_failed_probe_doubles_the_cooldown(policy: Breaker, probes: int) -> None:
    state, now = INITIAL_STATE, 0.0
    while state.health is not CircuitHealth.UNHEALTHY:
        state = on_failure(policy, state, now, now)
    for n in range(probes):
        assert state.open_until - now == pytest.approx(min(policy.cooldown_s * 2**n, policy.longest_s))
        now = state.open_until
        state, wait_s = admit(policy, state, now)
        assert wait_s == 0.0
        assert admit(policy, state, now)[1] > 0  # one probe at a time
        state = on_failure(policy, state, now, now)


@given(policies, st.integers(1, 50))
def test_requests_sent_before_opening_change_nothing(policy: Breaker, late: int) -> None:
    state = INITIAL_STATE
    for _ in range(policy.failures):
        state = on_failure(policy, state, 1.0, 2.0)
    assert state.health is CircuitHealth.UNHEALTHY
    for _ in range(late):
        assert on_failure(policy, state, 1.0, 3.0) == on_success(policy, state, 1.0, 3.0) == state


def test_healthy_after_consecutive_answers() -> None:
    policy, state = Breaker(recovery=2), INITIAL_STATE
    for _ in range(policy.failures):
        state = on_failure(policy, state, 0.0, 0.0)
    state, _ = admit(policy, state, 5.0)
    state = on_success(policy, state, 5.0, 6.0)
    assert state.health is CircuitHealth.DEGRADED
    assert on_success(policy, state, 7.0, 8.0).health is CircuitHealth.HEALTHY


@pytest.mark.parametrize("wrong", [{"failures": 0}, {"degraded": 99}, {"recovery": 1.5}, {"cooldown_s": -1}])
def test_invalid_policy_names_its_field(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"breaker.{next(iter(wrong))}"):
        Breaker(**wrong)


# The circuit, in virtual time

CALL = Call(Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m"), CompletionRequest(model="m", messages=()))
OK = Answer(Success(CompletionResponse()), attempts=1)
POLICY = Breaker(failures=3, degraded=2, recovery=1)


class Provider:
    def __init__(self, clock: Clock, takes_s: float = 0.0) -> None:
        self.clock, self.takes_s = clock, takes_s
        self.error: LLMError | None = ServerError()
        self.sent_at: list[float] = []

    async def __call__(self, call: Call) -> Answer:
        self.sent_at.append(self.clock())
        await asyncio.sleep(self.takes_s)
        return OK if self.error is None else Answer(Failure(self.error), attempts=1)


@pytest.mark.parametrize("error", [ServerError(), Overloaded(), Disconnected(), TimedOut()])
def test_open_circuit_fails_calls_at_once(error: LLMError, virtual: Any) -> None:
    async def work(clock: Clock) -> None:
        provider, log = Provider(clock), DecisionLog(clock)
        provider.error = error
        send = circuit_breaker_middleware(Circuit(POLICY, "openai", log.record), clock)(provider)
        answers = [await send(CALL) for _ in range(5)]
        assert len(provider.sent_at) == 3
        failed = answers[-1].outcome.failure()
        assert isinstance(failed, Overloaded)
        assert (failed.code, failed.retry_after_s, answers[-1].attempts) == (CIRCUIT_OPEN, 1.0, 0)
        assert f"the last failure was {type(error).__name__}: {error}" in failed.message
        provider.error = None
        await asyncio.sleep(1.0)
        assert [(await send(CALL)).outcome for _ in range(2)] == [OK.outcome] * 2
        assert [decision.detail.split(":")[0] for decision in log.read()] == [
            "healthy -> degraded",
            "degraded -> unhealthy",
            "unhealthy -> degraded",
            "degraded -> healthy",
        ]

    virtual.run(work)


@pytest.mark.parametrize("error", [RateLimited(), AuthFailed()])
def test_refusals_count_as_answers(error: LLMError, virtual: Any) -> None:
    async def work(clock: Clock) -> int:
        provider = Provider(clock)
        provider.error = error
        send = circuit_breaker_middleware(Circuit(POLICY, "openai", DecisionLog(clock).record), clock)(provider)
        for _ in range(20):
            await send(CALL)
        return len(provider.sent_at)

    assert virtual.run(work) == 20


def test_cancelled_probe_is_replaced(virtual: Any) -> None:
    async def work(clock: Clock) -> bool:
        provider = Provider(clock)
        circuit = Circuit(POLICY, "openai", DecisionLog(clock).record)
        send = circuit_breaker_middleware(circuit, clock)(provider)
        for _ in range(3):
            await send(CALL)
        await asyncio.sleep(1.0)
        provider.takes_s, provider.error = 10.0, None
        probe = asyncio.ensure_future(send(CALL))
        await asyncio.sleep(1.0)
        probe.cancel()
        await asyncio.sleep(0)
        return (await send(CALL)).outcome == OK.outcome

    assert virtual.run(work)


# Outages


@given(policies, stories)
def test_an_outage_lasts_from_its_first_failure_to_the_next_answer(
    policy: Breaker, events: list[tuple[float, Event]]
) -> None:
    since: float | None = None
    for (_, after, now, was_sent), (_, event) in zip(replay(policy, events), events, strict=True):
        if was_sent:
            since = None if event == "answer" else now if since is None else since
        assert failing_s(after, now) == pytest.approx(0.0 if since is None else now - since)


def test_failures_far_apart_are_no_outage() -> None:
    policy, state = Breaker(degraded=1, failures=2), INITIAL_STATE
    for now in (0.0, 1000.0, 1001.0):
        state = on_failure(policy, state, now, now)
    assert failing_s(state, 1001.5) == 1.5
    # After a long time without a request, calls wait for the probe.
    state, wait_s = admit(policy, state, 5000.0)
    assert (wait_s, failing_s(state, 5000.0)) == (0.0, 0.0)
    # A request that ran into its time limit was sent soon after the failure before it.
    state = on_failure(policy, state, 5000.0, 5600.0)
    state, _ = admit(policy, state, state.open_until)
    state = on_failure(policy, state, state.changed_at, 6200.0)
    assert failing_s(state, 6200.0) == 600.0


def send_rows(virtual: Any, rows: int, until_s: float, deadline_s: float) -> tuple[list[tuple[float, Answer]], int]:
    """Send rows, 8 at once, to a provider that fails until a time; return when each ended and how, and the requests."""

    async def work(clock: Clock) -> tuple[list[tuple[float, Answer]], int]:
        provider, retry = Provider(clock, takes_s=0.05), Retry(deadline_s=deadline_s)
        provider.error = ServerError(provider="openai", message="closed for repairs", status=500)
        asyncio.get_running_loop().call_later(until_s, setattr, provider, "error", None)
        circuit = Circuit(Breaker(), "openai", DecisionLog(clock).record, deadline_s=deadline_s)
        send = chain(provider, retry_middleware(retry, clock, lambda: 0.5), circuit_breaker_middleware(circuit, clock))
        remaining, ended = iter(range(rows)), list[tuple[float, Answer]]()

        async def worker() -> None:
            for _ in remaining:
                answer = await send(CALL)
                ended.append((clock(), answer))

        await asyncio.gather(*(worker() for _ in range(8)))
        return ended, len(provider.sent_at)

    done: tuple[list[tuple[float, Answer]], int] = virtual.run(work)
    return done


@pytest.mark.parametrize("deadline_s", [5.0, 30.0, 300.0])
def test_a_run_ends_where_the_provider_fails_for_good(deadline_s: float, virtual: Any) -> None:
    ended, requests = send_rows(virtual, 2000, 1e9, deadline_s)
    assert len(ended) == 2000
    assert max(at for at, _ in ended) <= deadline_s + Breaker().longest_s + 1.0
    for _, answer in ended:
        error = answer.outcome.failure()
        assert "closed for repairs" in error.message
    assert requests <= 100 + deadline_s
    assert any("kept failing for" in answer.outcome.failure().message for _, answer in ended)


def test_a_shorter_outage_costs_only_the_rows_that_were_tried(virtual: Any) -> None:
    ended, _ = send_rows(virtual, 2000, 20.0, 300.0)
    assert sum(isinstance(answer.outcome, Failure) for _, answer in ended) < 50
