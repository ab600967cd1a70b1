"""Rate limits: a pure bucket that says when you may go, and the gate that waits until then.

The gate books a slot instead of sleeping and asking again: each caller is told once how long to wait, in
the order of asking, so nobody is overtaken and nobody wakes in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from returns.pipeline import is_successful

from llmhub.core.errors import InvalidRequest, InvalidRequestError, RateLimited, retry_after_s
from llmhub.core.tokens import estimate_tokens
from llmhub.core.types import CompletionRequest
from llmhub.engine.call import Answer, Call, Middleware, Send

MINUTE_S: Final = 60.0
BURST: Final = 0.01
"""Share of a minute's allowance that may go at once: small, so that no window a server may use is overrun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a provider permits.

    Parameters
    ----------
    rpm
        Requests a minute.
    tpm
        Tokens a minute, input and output together.
    burst
        Share of a minute's allowance that may be used at once (0..1). What may burst is taken off the
        steady rate, so that any 60 s see at most the allowance, whichever window the server counts in.
        Above 0.1 it is not: that is for a server which itself permits such bursts.

    Examples
    --------
    >>> Limit(rpm=500, tpm=200_000)
    Limit(rpm=500, tpm=200000, burst=0.01)
    """

    rpm: float | None = None
    tpm: float | None = None
    burst: float = BURST

    def __post_init__(self) -> None:
        """Refuse what cannot be a limit."""
        for name, value in (("rpm", self.rpm), ("tpm", self.tpm)):
            if value is not None and not value > 0:
                raise InvalidRequestError(
                    InvalidRequest(path=f"limits.{name}", message=f"{value} is no limit; give > 0")
                )
        if not 0 < self.burst <= 1:
            raise InvalidRequestError(InvalidRequest(path="limits.burst", message=f"{self.burst} is outside 0..1"))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """Grants at most ``capacity + rate_s * t`` in any ``t`` seconds."""

    rate_s: float
    capacity: float


@dataclass(frozen=True, slots=True)
class Level:
    """How full a bucket was at a time; below zero when slots are booked ahead."""

    tokens: float
    at: float


def bucket(per_minute: float, burst: float) -> TokenBucket:
    """Make the bucket of an allowance a minute, of which the share ``burst`` may go at once.

    Examples
    --------
    >>> bucket(1200, 0.01)
    TokenBucket(rate_s=19.8, capacity=12.0)
    """
    capacity = max(1.0, per_minute * burst)
    # A tenth is taken off at most: of very few a minute, a burst of one would leave next to nothing.
    steady = max(per_minute - capacity, per_minute * 0.9)
    return TokenBucket(rate_s=steady / MINUTE_S, capacity=capacity)


def take(kind: TokenBucket, level: Level, now: float, cost: float) -> tuple[Level, float]:
    """Book ``cost``; give the new level and how long to wait for it, in seconds.

    Law: what is granted in any window of ``t`` seconds is at most ``capacity + rate_s * t`` (a single cost
    above the capacity waits for a full bucket and is booked against the future).
    """
    now = max(now, level.at)
    filled = min(kind.capacity, level.tokens + (now - level.at) * kind.rate_s)
    wait = max(0.0, (min(cost, kind.capacity) - filled) / kind.rate_s)
    return Level(filled - cost, now), wait


def give(level: Level, amount: float) -> Level:
    """Give back what was booked and not used; a negative amount books what was used beyond."""
    return Level(level.tokens + amount, level.at)


class Gate:
    """The buckets of one limit, and a clock of its own that stands still while it is closed.

    So slots that were booked move back together when it closes: order and rate hold, and nobody storms in when it
    opens again.
    """

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kinds = [
            (bucket(limit.rpm, limit.burst) if limit.rpm is not None else None),
            (bucket(limit.tpm, limit.burst) if limit.tpm is not None else None),
        ]
        now = clock()
        self._levels = [Level(kind.capacity if kind else 0.0, now) for kind in self._kinds]
        self._closed_until = now
        self._stood_s = 0.0

    @property
    def counts_tokens(self) -> bool:
        """Whether the gate wants to know how many tokens a call may take."""
        return self._kinds[1] is not None

    async def wait(self, tokens: float) -> float:
        """Wait for a slot for one request of ``tokens``; give the seconds waited."""
        start = self._clock()
        now = max(start, self._closed_until) - self._stood_s
        wait = 0.0
        for at, (kind, cost) in enumerate(zip(self._kinds, (1.0, tokens), strict=True)):
            if kind is not None:
                self._levels[at], needed = take(kind, self._levels[at], now, cost)
                wait = max(wait, needed)
        waited = start
        while (due := now + wait + self._stood_s) > waited:
            await asyncio.sleep(due - waited)
            waited = self._clock()
        return waited - start

    def settle(self, booked: float, used: float) -> None:
        """Correct what a call was thought to take to what it took."""
        if self._kinds[1] is not None:
            self._levels[1] = give(self._levels[1], booked - used)

    def close_for(self, seconds: float) -> None:
        """Let nobody through for a while: the provider said when to come back."""
        begin, until = max(self._clock(), self._closed_until), self._clock() + seconds
        if until > begin:
            self._closed_until = until
            self._stood_s += until - begin


def limited(gate: Gate) -> Middleware:
    """Make the middleware that waits for the gate before each attempt, and tells it what came of it."""

    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            booked = expected_tokens(call.request) if gate.counts_tokens else 0
            waited = await gate.wait(booked)
            answer = await send(call)
            _learn(gate, answer, booked)
            return replace(answer, rate_wait_s=waited, total_s=(answer.total_s or 0.0) + waited) if waited else answer

        return sending

    return wrap


def _learn(gate: Gate, answer: Answer, booked: int) -> None:
    """Tell the gate what a call really took, and when the provider wants to be left alone."""
    if is_successful(answer.outcome):
        usage = answer.outcome.unwrap().usage
        if gate.counts_tokens and usage.input_tokens is not None and usage.output_tokens is not None:
            gate.settle(booked, usage.input_tokens + usage.output_tokens)
        return
    error = answer.outcome.failure()
    pause = retry_after_s(error)
    if isinstance(error, RateLimited) and pause and pause <= LONGEST_PAUSE_S:
        gate.close_for(pause)


LONGEST_PAUSE_S: Final = 300.0
"""Who asks to be left alone for longer, until tomorrow say, refuses: each call may hear that, and none waits for it."""
USUAL_ANSWER: Final = 256
"""Tokens an answer is thought to take when the request does not bound it."""


def expected_tokens(request: CompletionRequest) -> int:
    """Guess how many tokens a call will take, input and output, for booking; corrected once it is known."""
    asked = sum(estimate_tokens(message.text) for message in request.messages)
    return asked + request.n * (request.max_tokens or USUAL_ANSWER)
