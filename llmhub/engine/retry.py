"""Trying again: a policy that is a value, pure delays, and the one middleware that owns retries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from numbers import Integral, Real
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.core.errors import BadRequestError, InvalidRequest, LLMError, error_type_name, is_transient, retry_after_s
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.decision_log import RecordDecision
from llmhub.engine.scheduling import sleep_without_slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often to try again.

    Parameters
    ----------
    attempts
        Requests sent for one call at most, the first included.
    base_s, cap_s
        The delay before the n-th retry is ``base_s * 2**(n-1)``, at most ``cap_s``, less a random share of it.
    deadline_s
        No retry is begun that could not start within this many seconds of the first attempt.
    longest_s
        Where a provider asks to be left alone for longer, nobody waits for it: the failure is the answer.
    jitter
        The largest share of a delay that is left to chance (0..1).

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
        """Refuse what cannot be a policy."""
        for name, low, high in RETRY_BOUNDS:
            value: Any = getattr(self, name)
            kind = Integral if name == "attempts" else Real
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= float(value) <= high:
                said = f"{value!r} is no {'whole ' * (kind is Integral)}number in {low:g}..{high:g}"
                raise BadRequestError(InvalidRequest(path=f"retry.{name}", message=said))


RETRY_BOUNDS: Final = (
    ("attempts", 1, inf),
    ("base_s", 0, inf),
    ("cap_s", 0, inf),
    ("deadline_s", 0, inf),
    ("longest_s", 0, inf),
    ("jitter", 0, 1),
)


NO_RETRY: Final = Retry(attempts=1)


def retry_delay_s(policy: Retry, attempt: int, error: LLMError, draw: float) -> float | None:
    """Give the seconds to wait after the ``attempt``-th failure (from 1), or ``None`` to give up.

    Parameters
    ----------
    draw
        A random number from 0 to 1; an argument, so that this stays pure.

    Notes
    -----
    Whether a kind is worth another try is said by the table `llmhub.core.errors.TRANSIENT`, unless the provider says
    it itself. Law: the delay is at most ``cap_s``; where the provider asked for one (``retry_after_s``), it is at
    least that, and at most ``base_s`` more; one beyond ``longest_s`` is not waited for.

    Examples
    --------
    >>> from llmhub.core.errors import AuthFailed, RateLimited
    >>> retry_delay_s(Retry(), 1, RateLimited(retry_after_s=7.0), 0.0)
    7.0
    >>> retry_delay_s(Retry(), 1, AuthFailed(), 0.0) is None
    True
    """
    if attempt >= policy.attempts or not is_transient(error):
        return None
    # The exponent is bounded, since a float is.
    backoff = min(policy.cap_s, policy.base_s * 2.0 ** min(attempt - 1, 64))
    backoff *= 1.0 - policy.jitter * draw
    asked = retry_after_s(error)
    if asked is None:
        return backoff
    if asked > policy.longest_s:
        return None
    # A little later than asked, and not all at once.
    return asked + policy.jitter * draw * min(policy.base_s, asked)


def _no_note(kind: str, target: str, detail: str = "", *, wait_s: float | None = None) -> None:
    """Keep nothing."""


def retry_middleware(
    policy: Retry,
    clock: Callable[[], float],
    draw: Callable[[], float] = random.random,
    note: RecordDecision = _no_note,
) -> Middleware:
    """Make the middleware that tries again as ``policy`` says; no other part of the engine does.

    Who waits does so beside the others (`llmhub.engine.scheduling`), and takes nobody's place.
    """

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            answer = await send(call)
            if is_successful(answer.outcome):
                return answer
            start, waited, sent = clock() - (answer.total_s or 0.0), answer.rate_wait_s or 0.0, answer.attempts
            first, spent = answer, answer.billed_failures
            for attempt in range(1, policy.attempts):
                # Where several are asked in turn, each request counts.
                error = answer.outcome.failure()
                wait_s = retry_delay_s(policy, attempt, error, draw()) if sent < policy.attempts else None
                if wait_s is None or clock() + wait_s - start > policy.deadline_s:
                    break
                note("retry", call.target.name, error_type_name(error), wait_s=wait_s)
                await sleep_without_slot(wait_s)
                answer = await send(call)
                waited += answer.rate_wait_s or 0.0
                sent += answer.attempts
                spent += answer.billed_failures
                if is_successful(answer.outcome):
                    break
            if not is_successful(answer.outcome) and is_transient(error := answer.outcome.failure()):
                note("give_up", call.target.name, f"{error_type_name(error)} after {sent} requests")
            if answer is first:
                return answer
            return replace(
                answer,
                attempts=sent,
                rate_wait_s=waited,
                started_at=first.started_at or answer.started_at,
                total_s=clock() - start,
                billed_failures=spent,
            )

        return sending

    return wrap
