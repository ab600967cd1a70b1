"""The health machine: what makes a provider unhealthy, and how it comes back, whatever happens and when."""

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
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.circuit_breaker import (
    CIRCUIT_OPEN,
    INITIAL_STATE,
    Breaker,
    Circuit,
    CircuitHealth,
    CircuitState,
    admit,
    circuit_breaker_middleware,
    on_failure,
    on_success,
)
from llmhub.engine.decision_log import DecisionLog
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
What = Literal["answer", "fault"]
policies = st.builds(
    Breaker,
    degraded=st.integers(1, 3),
    failures=st.integers(3, 8),
    recovery=st.integers(1, 4),
    cooldown_s=st.floats(0.1, 5),
    longest_s=st.floats(5, 30),
)
stories = st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["answer", "fault"])), max_size=60)


def told(policy: Breaker, story: list[tuple[float, What]]) -> list[tuple[CircuitState, CircuitState, float, bool]]:
    """Let requests come one after the other; give the standing before and after each, when, and whether it went."""
    standing, now, steps = INITIAL_STATE, 0.0, []
    for gap, what in story:
        now += gap
        before = standing
        standing, wait_s = admit(policy, standing, now)
        if not wait_s:
            hear = on_failure if what == "fault" else on_success
            standing = hear(policy, standing, now, now)
        steps.append((before, standing, now, not wait_s))
    return steps


@given(policies, stories)
def test_recovery_passes_through_degraded(policy: Breaker, story: list[tuple[float, What]]) -> None:
    for before, after, _, _ in told(policy, story):
        if before.health is CircuitHealth.UNHEALTHY:
            assert after.health is not CircuitHealth.HEALTHY
        if before.health is CircuitHealth.HEALTHY and policy.degraded < policy.failures:
            assert after.health is not CircuitHealth.UNHEALTHY


@given(policies, stories)
def test_nothing_is_sent_during_a_cooldown_of_bounded_length(policy: Breaker, story: list[tuple[float, What]]) -> None:
    for before, after, now, went in told(policy, story):
        if before.health is CircuitHealth.UNHEALTHY:
            assert went == (now >= before.open_until)
        if after.health is CircuitHealth.UNHEALTHY:
            assert after.open_until - after.changed_at <= policy.longest_s + 1e-9


@given(policies, stories)
def test_unhealthy_only_after_consecutive_failures(policy: Breaker, story: list[tuple[float, What]]) -> None:
    row = 0
    for (before, after, _, went), (_, what) in zip(told(policy, story), story, strict=True):
        row = (row + 1 if what == "fault" else 0) if went else row
        if before.health is not CircuitHealth.UNHEALTHY and after.health is CircuitHealth.UNHEALTHY:
            assert row >= min(policy.failures, policy.degraded)
            assert row >= policy.failures or before.open_count


@given(policies, st.integers(1, 8))
def test_each_failed_probe_doubles_the_cooldown(policy: Breaker, probes: int) -> None:
    standing, now = INITIAL_STATE, 0.0
    while standing.health is not CircuitHealth.UNHEALTHY:
        standing = on_failure(policy, standing, now, now)
    for n in range(probes):
        assert standing.open_until - now == pytest.approx(min(policy.cooldown_s * 2**n, policy.longest_s))
        now = standing.open_until
        standing, wait_s = admit(policy, standing, now)
        assert wait_s == 0.0
        assert admit(policy, standing, now)[1] > 0  # one probe at a time
        standing = on_failure(policy, standing, now, now)


@given(policies, st.integers(1, 50))
def test_requests_sent_before_opening_change_nothing(policy: Breaker, late: int) -> None:
    standing = INITIAL_STATE
    for _ in range(policy.failures):
        standing = on_failure(policy, standing, 1.0, 2.0)
    assert standing.health is CircuitHealth.UNHEALTHY
    for _ in range(late):
        assert on_failure(policy, standing, 1.0, 3.0) == on_success(policy, standing, 1.0, 3.0) == standing


def test_healthy_after_consecutive_answers() -> None:
    policy, standing = Breaker(recovery=2), INITIAL_STATE
    for _ in range(policy.failures):
        standing = on_failure(policy, standing, 0.0, 0.0)
    standing, _ = admit(policy, standing, 5.0)
    standing = on_success(policy, standing, 5.0, 6.0)
    assert standing.health is CircuitHealth.DEGRADED
    assert on_success(policy, standing, 7.0, 8.0).health is CircuitHealth.HEALTHY


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
        provider.error = None
        await asyncio.sleep(1.0)
        assert [(await send(CALL)).outcome for _ in range(2)] == [OK.outcome] * 2
        assert [one.detail.split(":")[0] for one in log.read()] == [
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
