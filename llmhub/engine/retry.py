"""Retry failed calls with exponential backoff and jitter. The only middleware that retries.

Which errors are transient is decided by `llmhub.core.errors.is_transient`; how long to wait, by `retry_delay_s`, which
is pure. A call that waits gives up its concurrency slot (`llmhub.engine.scheduling`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from numbers import Integral, Real
from typing import Any, Final

from returns.result import Success

from llmhub.core.errors import LLMError, error_type_name, invalid, is_transient, retry_after_s
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.observer import emit_wait
from llmhub.engine.scheduling import RETRIED_CALL, RetriedCall, sleep_without_slot
from llmhub.engine.write_ahead import SEND_CONTEXT

RETRY_BOUNDS: Final = (
    ("attempts", 1, inf),
    ("base_s", 0, inf),
    ("cap_s", 0, inf),
    ("deadline_s", 0, inf),
    ("longest_s", 0, inf),
    ("jitter", 0, 1),
)
"""Name, minimum and maximum of each field of `Retry`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often a failed call is retried.

    Parameters
    ----------
    attempts
        Maximum number of requests for one call, including the first.
    base_s, cap_s
        The delay before the n-th retry is ``base_s * 2**(n-1)`` seconds, at most ``cap_s``, minus jitter; a longer one
        if the provider asks for it.
    deadline_s
        No retry is sent later than this many seconds after the first failure; waiting for rate limits counts. Calls
        that would have to wait for a provider that has refused or failed every request for so long are not sent either.
    longest_s
        If the provider asks for a longer delay (``Retry-After``), the call fails instead of waiting.
    jitter
        The largest share of a delay that is random (0..1).

    Examples
    --------
    >>> Retry(attempts=5).attempts
    5
    """

    attempts: int = 5
    base_s: float = 0.5
    cap_s: float = 30.0
    deadline_s: float = 300.0
    longest_s: float = 120.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        """Raise if a field is out of bounds."""
        for name, low, high in RETRY_BOUNDS:
            value: Any = getattr(self, name)
            number_type = Integral if name == "attempts" else Real
            if isinstance(value, bool) or not isinstance(value, number_type) or not low <= float(value) <= high:
                noun, to_high = "an integer" if number_type is Integral else "a number", f" to {high:g}" * (high < inf)
                raise invalid(f"retry.{name}", f"must be {noun} from {low:g}{to_high}, not {value!r}")


NO_RETRY: Final = Retry(attempts=1)


def retry_delay_s(policy: Retry, attempt: int, error: LLMError, draw: float) -> float | None:
    """Return the seconds to wait after the ``attempt``-th failure (from 1), or ``None`` to give up.

    Parameters
    ----------
    draw
        A random number from 0 to 1; an argument, so that the function stays pure.

    Notes
    -----
    Errors are retried if they are transient by kind (`llmhub.core.errors.TRANSIENT`), unless the provider states
    otherwise. Law: the delay is at most ``cap_s``; if the provider asked for one (``retry_after_s``), it is at least
    that and the delay without it, and at most ``base_s`` longer than the larger of them. A call is not retried if the
    provider asked for more than ``longest_s``.

    Examples
    --------
    >>> from llmhub.core.errors import AuthFailed, RateLimited
    >>> retry_delay_s(Retry(), 1, RateLimited(retry_after_s=7.0), 0.0)
    7.0
    >>> retry_delay_s(Retry(), 3, RateLimited(retry_after_s=0.0), 0.0)
    2.0
    >>> retry_delay_s(Retry(), 1, AuthFailed(), 0.0) is None
    True
    """
    if attempt >= policy.attempts or not is_transient(error):
        return None
    # The exponent is capped to avoid an overflow.
    backoff_s = min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 64))
    backoff_s *= 1.0 - policy.jitter * draw
    requested_s = retry_after_s(error)
    if requested_s is None:
        return backoff_s
    if requested_s > policy.longest_s:
        return None
    # Jitter is added here, so that calls neither come too early nor all at the same time. A header of 0, or a date that
    # has passed by this computer's clock, must not send all attempts within a moment.
    return max(backoff_s, requested_s + policy.jitter * draw * min(policy.base_s, requested_s))


def _ignore_decision(kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
    """Discard a decision."""


def retry_middleware(
    policy: Retry,
    clock: Callable[[], float],
    draw: Callable[[], float] = random.random,
    note: RecordDecision = _ignore_decision,
) -> Middleware:
    """Return the middleware that retries failed calls according to ``policy``.

    Parameters
    ----------
    clock
        Returns monotonic seconds.
    draw
        Returns a random number from 0 to 1.
    note
        Records each retry, and each call given up.
    """

    def wrap(send: Send) -> Send:
        async def send_with_retries(call: Call) -> Answer:
            answer = await send(call)
            if isinstance(answer.outcome, Success):
                return answer
            first, failed_at = answer, clock()
            start = failed_at - (answer.total_s or 0.0)
            context = SEND_CONTEXT.get()
            rate_wait_s, requests, billed = answer.rate_wait_s or 0.0, answer.attempts, answer.billed_failures
            uncertain = answer.uncertain_requests
            for attempt in range(1, policy.attempts):
                error = answer.outcome.failure()
                # A routed attempt may send several requests; each counts.
                wait_s = retry_delay_s(policy, attempt, error, draw()) if requests < policy.attempts else None
                if context is not None:
                    context.last_error = error
                if wait_s is None or clock() + wait_s - failed_at > policy.deadline_s:
                    break
                note("retry", call.target.name, error_type_name(error), wait_s=wait_s)
                waits_from_ns = time.perf_counter_ns()
                await sleep_without_slot(wait_s)
                emit_wait(call, "retry", time.perf_counter_ns() - waits_from_ns)
                token = RETRIED_CALL.set(RetriedCall(failed_at, failed_at + policy.deadline_s, error))
                try:
                    answer = await send(call)
                finally:
                    RETRIED_CALL.reset(token)
                rate_wait_s += answer.rate_wait_s or 0.0
                requests += answer.attempts
                billed += answer.billed_failures
                uncertain += answer.uncertain_requests
                if isinstance(answer.outcome, Success):
                    break
            if not isinstance(answer.outcome, Success) and is_transient(error := answer.outcome.failure()):
                note("give_up", call.target.name, f"{error_type_name(error)} after {requests} requests")
            if answer is first:
                return answer
            return replace(
                answer,
                attempts=requests,
                rate_wait_s=rate_wait_s,
                started_at=first.started_at or answer.started_at,
                total_s=clock() - start,
                billed_failures=billed,
                uncertain_requests=uncertain,
            )

        return send_with_retries

    return wrap
