from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Failure, Success

from llmhub.core.errors import (
    AuthFailed,
    Cancelled,
    LLMError,
    Malformed,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    is_transient,
)
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.retry import NO_RETRY, Retry, retry_delay_s, retry_middleware
from llmhub.providers.registry import PROVIDERS

CALL = Call(Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m"), CompletionRequest(model="m", messages=()))
OK = Success(CompletionResponse())
policies = st.builds(
    Retry,
    attempts=st.integers(1, 9),
    base_s=st.floats(0, 10),
    cap_s=st.floats(0, 60),
    jitter=st.floats(0, 1),
)
transient = st.builds(RateLimited, retry_after_s=st.none() | st.floats(0, 1e5))
draws = st.floats(0, 1)


# Delays


@given(policies, st.integers(1, 10), transient, draws)
def test_delay_is_at_least_retry_after_and_bounded(policy: Retry, attempt: int, error: LLMError, draw: float) -> None:
    pause = retry_delay_s(policy, attempt, error, draw)
    requested_s = error.retry_after_s
    if attempt >= policy.attempts or (requested_s or 0.0) > policy.longest_s:
        assert pause is None
    elif requested_s is None:
        assert pause is not None
        assert 0 <= pause <= policy.cap_s
    else:
        backoff_s = retry_delay_s(policy, attempt, ServerError(), draw)
        assert pause is not None
        assert backoff_s is not None
        assert max(requested_s, backoff_s) <= pause <= max(requested_s, backoff_s) + policy.base_s


@given(policies, st.integers(1, 8), draws)
def test_delay_doubles_up_to_the_cap(policy: Retry, attempt: int, draw: float) -> None:
    policy = Retry(attempts=99, base_s=policy.base_s, cap_s=policy.cap_s, jitter=policy.jitter)
    first, later = (retry_delay_s(policy, n, ServerError(), draw) for n in (attempt, attempt + 1))
    assert first is not None
    assert later is not None
    assert later == pytest.approx(min(2 * first, policy.cap_s * (1 - policy.jitter * draw)))


@given(policies, st.integers(1, 10_000), draws)
def test_delay_does_not_overflow(policy: Retry, attempt: int, draw: float) -> None:
    policy = Retry(attempts=10**6, base_s=policy.base_s, cap_s=policy.cap_s, jitter=policy.jitter)
    pause = retry_delay_s(policy, attempt, Overloaded(), draw)
    assert pause is not None
    assert 0 <= pause <= policy.cap_s


@pytest.mark.parametrize("error", [AuthFailed(), Malformed(), Cancelled(), ServerError(should_retry=False)])
def test_permanent_errors_are_not_retried(error: LLMError) -> None:
    assert retry_delay_s(Retry(), 1, error, 0.5) is None


def test_should_retry_overrides_the_error_kind() -> None:
    assert retry_delay_s(Retry(jitter=0), 1, AuthFailed(should_retry=True), 0.5) == 0.5


def test_jitter_spreads_calls_with_the_same_retry_after() -> None:
    pauses = [retry_delay_s(Retry(), 1, RateLimited(retry_after_s=7.0), draw / 10) for draw in range(10)]
    assert len(set(pauses)) == 10


# The middleware, in virtual time


class Provider:
    """Returns outcomes one after another, each after ``latency_s``."""

    def __init__(self, clock: Callable[[], float], outcomes: Sequence[Any], latency_s: float = 1.0) -> None:
        self.clock, self.outcomes, self.latency_s = clock, outcomes, latency_s
        self.sent_at: list[float] = []

    async def send(self, call: Call) -> Answer:
        self.sent_at.append(self.clock())
        await asyncio.sleep(self.latency_s)
        outcome = self.outcomes[min(len(self.sent_at), len(self.outcomes)) - 1]
        return Answer(
            outcome, latency_s=self.latency_s, total_s=self.latency_s, attempts=1, started_at=1000.0 + self.sent_at[-1]
        )


def sent(
    virtual: Any, policy: Retry, *outcomes: Any, latency_s: float = 1.0, draw: float = 0.0
) -> tuple[Answer, Provider]:
    async def work(clock: Callable[[], float]) -> tuple[Answer, Provider]:
        provider = Provider(clock, outcomes, latency_s)
        return await retry_middleware(policy, clock, lambda: draw)(provider.send)(CALL), provider

    done: tuple[Answer, Provider] = virtual.run(work)
    return done


def test_success_is_returned_unchanged(virtual: Any) -> None:
    answer, provider = sent(virtual, Retry(), OK)
    assert (answer.attempts, answer.total_s, answer.rate_wait_s, provider.sent_at) == (1, 1.0, None, [0.0])


def test_attempts_and_time_are_summed(virtual: Any) -> None:
    failed = Failure(ServerError())
    answer, provider = sent(virtual, Retry(base_s=2.0, jitter=0), failed, failed, OK)
    assert provider.sent_at == [0.0, 3.0, 8.0]
    assert answer.outcome is OK
    assert answer.attempts == 3
    assert answer.total_s == 9.0
    assert answer.latency_s == 1.0
    assert answer.started_at == 1000.0


@given(policy=policies, draw=draws)
def test_attempts_bound_the_requests(virtual: Any, policy: Retry, draw: float) -> None:
    answer, provider = sent(virtual, policy, Failure(TimedOut()), latency_s=0.0, draw=draw)
    assert len(provider.sent_at) == answer.attempts <= policy.attempts
    assert answer.outcome == Failure(TimedOut())
    assert provider.sent_at[-1] <= policy.deadline_s
    if provider.sent_at[-1] + policy.cap_s <= policy.deadline_s:
        assert answer.attempts == policy.attempts


def test_no_retry_sends_once(virtual: Any) -> None:
    assert sent(virtual, NO_RETRY, Failure(ServerError()))[1].sent_at == [0.0]


@pytest.mark.parametrize("error", [AuthFailed(), Malformed(), ServerError(should_retry=False)])
def test_permanent_error_is_sent_once(virtual: Any, error: LLMError) -> None:
    assert not is_transient(error)
    answer, provider = sent(virtual, Retry(), Failure(error), OK)
    assert (answer.outcome, provider.sent_at) == (Failure(error), [0.0])


def test_permanent_error_after_a_transient_one_ends_the_retries(virtual: Any) -> None:
    answer, provider = sent(virtual, Retry(jitter=0), Failure(Overloaded()), Failure(AuthFailed()), OK)
    assert answer.outcome == Failure(AuthFailed())
    assert len(provider.sent_at) == answer.attempts == 2


def test_retry_after_is_waited(virtual: Any) -> None:
    assert sent(virtual, Retry(jitter=0), Failure(RateLimited(retry_after_s=7.0)), OK)[1].sent_at == [0.0, 8.0]


@pytest.mark.parametrize("requested_s", [0.0, 0.001])
@pytest.mark.parametrize("kind", [RateLimited, Overloaded])
def test_a_retry_after_of_nothing_does_not_spend_all_attempts_at_once(
    virtual: Any, kind: Any, requested_s: float
) -> None:
    """Nor does a date that has passed, which counts as 0."""
    failed = Failure(kind(retry_after_s=requested_s))
    without = sent(virtual, Retry(jitter=0), Failure(kind()), Failure(kind()), Failure(kind()), OK)[1].sent_at
    assert sent(virtual, Retry(jitter=0), failed, failed, failed, OK)[1].sent_at == without == [0.0, 1.5, 3.5, 6.5]


def test_no_retry_starts_after_the_deadline(virtual: Any) -> None:
    policy = Retry(deadline_s=10.0, jitter=0)
    within = sent(virtual, policy, Failure(RateLimited(retry_after_s=10.0)), OK)
    beyond = sent(virtual, policy, Failure(RateLimited(retry_after_s=10.1)), OK)
    assert within[1].sent_at == [0.0, 11.0]
    assert beyond[1].sent_at == [0.0]
    assert beyond[0].outcome == Failure(RateLimited(retry_after_s=10.1))
    assert beyond[0].total_s == 1.0


def test_retry_after_above_longest_s_fails_at_once(virtual: Any) -> None:
    for error in (RateLimited(retry_after_s=3600.0), QuotaExhausted(status=429)):
        answer, provider = sent(virtual, Retry(deadline_s=1e6), Failure(error), OK)
        assert (answer.outcome, provider.sent_at) == (Failure(error), [0.0])


def test_retries_and_giving_up_are_logged(virtual: Any) -> None:
    async def work(clock: Callable[[], float]) -> list[tuple[str, str, float | None]]:
        log = DecisionLog(clock)

        async def send(call: Call) -> Answer:
            return Answer(Failure(ServerError()), attempts=1)

        await retry_middleware(Retry(attempts=2, jitter=0), clock, lambda: 0.0, log.record)(send)(CALL)
        return [(decision.kind, decision.detail, decision.wait_s) for decision in log.read()]

    assert virtual.run(work) == [("retry", "ServerError", 0.5), ("give_up", "ServerError after 2 requests", None)]


def test_rate_wait_is_summed_over_attempts(virtual: Any) -> None:
    async def work(clock: Callable[[], float]) -> Answer:
        outcomes = [Failure(ServerError()), OK]

        async def send(call: Call) -> Answer:
            return Answer(outcomes.pop(0), rate_wait_s=2.0, total_s=3.0, attempts=1)

        return await retry_middleware(Retry(jitter=0), clock, lambda: 0.0)(send)(CALL)

    answer = virtual.run(work)
    assert answer.rate_wait_s == 4.0
