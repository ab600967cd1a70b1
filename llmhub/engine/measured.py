"""What is known of those who can be asked: how quick, how busy, how dear they are, and whether they need a rest.

Pure: a call that begins or ends gives a new `Measured`. A candidate that just failed rests: for a while that doubles
with every failed try, and is then tried by one call at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from llmhub.core.errors import (
    AuthFailed,
    BudgetExceeded,
    Cancelled,
    ContentFiltered,
    ContextTooLong,
    Disconnected,
    InvalidRequest,
    LLMError,
    Malformed,
    NotFound,
    Overloaded,
    PermissionDenied,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    Unsupported,
    retry_after_s,
)


class Reaction(NamedTuple):
    """What a failure means: whether another candidate is worth asking, and whether this one needs a rest."""

    falls_back: bool
    rests: bool


REACTIONS: Final[Mapping[type[LLMError], Reaction]] = {
    # What another may well answer, and this one will not for a while.
    RateLimited: Reaction(falls_back=True, rests=True),
    QuotaExhausted: Reaction(falls_back=True, rests=True),
    Overloaded: Reaction(falls_back=True, rests=True),
    ServerError: Reaction(falls_back=True, rests=True),
    TimedOut: Reaction(falls_back=True, rests=True),
    Disconnected: Reaction(falls_back=True, rests=True),
    AuthFailed: Reaction(falls_back=True, rests=True),
    PermissionDenied: Reaction(falls_back=True, rests=True),
    NotFound: Reaction(falls_back=True, rests=True),
    # What lies in this question and this candidate.
    Malformed: Reaction(falls_back=True, rests=False),
    ContextTooLong: Reaction(falls_back=True, rests=False),
    Unsupported: Reaction(falls_back=True, rests=False),
    # What is the caller's: another answer would hide it.
    InvalidRequest: Reaction(falls_back=False, rests=False),
    ContentFiltered: Reaction(falls_back=False, rests=False),
    BudgetExceeded: Reaction(falls_back=False, rests=False),
    Cancelled: Reaction(falls_back=False, rests=False),
}

REST_S: Final = 0.5
LONGEST_REST_S: Final = 30.0
"""A rest lasts ``REST_S * 2**n`` after the n-th failed try in a row, at most this long, or as long as was asked for."""
WEIGHT: Final = 0.3
"""Weight of the last measurement in a moving average."""
FADE_S: Final = 10.0
"""A latency measured so long ago counts half: what was slow is tried again in time."""
USUAL_ANSWER: Final = 256.0
"""Tokens an answer is thought to have before any was seen."""


class Measured(NamedTuple):
    """What was measured of a candidate.

    Parameters
    ----------
    latency_s
        Exponentially weighted moving average of its answers' latencies; ``None`` before the first.
    measured_at
        When it last changed, on the clock of `Stats.now`.
    in_flight
        Calls under way.
    answered, failed
        Calls that ended so.
    failures
        Failed tries in a row: those made while it rests count as one.
    rests_until
        When it may be tried again.
    asked_until
        When it asked to be tried again (``Retry-After``); an answer in between does not shorten that.
    output_tokens
        Moving average of its answers' lengths.
    input_usd, output_usd
        What a token costs; ``None`` where that is not known.
    """

    latency_s: float | None = None
    measured_at: float = 0.0
    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    failures: int = 0
    rests_until: float = -inf
    asked_until: float = -inf
    output_tokens: float | None = None
    input_usd: float | None = None
    output_usd: float | None = None


NOTHING: Final = Measured()


def begun(measured: Measured) -> Measured:
    """Count a call that begins."""
    latency_s, at, in_flight, good, bad, failures, rests_until, asked_until, tokens, input_usd, output_usd = measured
    return Measured(
        latency_s, at, in_flight + 1, good, bad, failures, rests_until, asked_until, tokens, input_usd, output_usd
    )


def answered(measured: Measured, latency_s: float | None, output_tokens: int | None, now: float) -> Measured:
    """Count a call that was answered: whatever was wrong is over."""
    average_s, _, in_flight, good, bad, _, _, asked_until, tokens, input_usd, output_usd = measured
    return Measured(
        _averaged(average_s, latency_s),
        now,
        in_flight - 1,
        good + 1,
        bad,
        0,
        -inf,
        asked_until,
        _averaged(tokens, output_tokens),
        input_usd,
        output_usd,
    )


def failed(measured: Measured, error: LLMError, now: float) -> Measured:
    """Count a call that failed. Law: a rest lasts at least as long as the provider asked for."""
    ended = measured._replace(in_flight=measured.in_flight - 1, failed=measured.failed + 1)
    if not REACTIONS[type(error)].rests:
        return ended
    asked = max(measured.asked_until, now + (retry_after_s(error) or 0.0))
    if now < measured.rests_until:
        return ended._replace(asked_until=asked)
    rest = min(LONGEST_REST_S, REST_S * 2.0 ** min(measured.failures, 30))
    return ended._replace(failures=measured.failures + 1, rests_until=now + rest, asked_until=asked)


def left(measured: Measured, after_s: float, now: float) -> Measured:
    """Count a call that nobody waited for any longer: it would have taken at least ``after_s``."""
    slower = measured.latency_s is not None and after_s > measured.latency_s
    average = _averaged(measured.latency_s, after_s) if slower else measured.latency_s
    return measured._replace(latency_s=average, measured_at=now, in_flight=measured.in_flight - 1)


def _averaged(before: float | None, last: float | None) -> float | None:
    if last is None:
        return before
    return float(last) if before is None else before + WEIGHT * (last - before)


@dataclass(slots=True)
class Stats:
    """What a ranking may go by: ``stats["openai/gpt-4o"]`` is what was `Measured` of it.

    Nobody changes one; it is not frozen because one is made for each call, and that would take three times as long.

    Parameters
    ----------
    of
        What was measured, by candidate.
    now
        Seconds, on a clock that only runs forward.
    turn
        How many calls this route has ranked before.
    draw
        A random number from 0 up to 1: rankings draw none themselves.
    input_tokens
        About how many tokens the question has.
    max_tokens
        How long its answer may be, where it says so.
    """

    of: Mapping[str, Measured] = field(default_factory=dict)
    now: float = 0.0
    turn: int = 0
    draw: float = 0.0
    input_tokens: int = 0
    max_tokens: int | None = None

    def __getitem__(self, name: str) -> Measured:
        """Give what was measured of a candidate; nothing, as long as it was not asked."""
        return self.of.get(name, NOTHING)

    def rests(self, name: str) -> bool:
        """Say whether a candidate should be left alone for now: it failed, or one call is trying it already."""
        measured = self.of.get(name, NOTHING)
        now = self.now
        resting = now < measured.rests_until or now < measured.asked_until
        return resting or (measured.failures > 0 and measured.in_flight > 0)

    def latency_s(self, name: str) -> float:
        """Give a candidate's latency, faded with its age; 0 where it is not known, so that it becomes known."""
        measured = self.of.get(name, NOTHING)
        average_s, age_s = measured.latency_s, self.now - measured.measured_at
        if not average_s or age_s <= 0.0:
            return average_s or 0.0
        return average_s * math.pow(0.5, min(age_s / FADE_S, 1000.0))

    def usd(self, name: str) -> float | None:
        """Give what the call is expected to cost at a candidate; ``None`` where its price is not known."""
        measured = self[name]
        if measured.input_usd is None or measured.output_usd is None:
            return None
        expected = USUAL_ANSWER if measured.output_tokens is None else measured.output_tokens
        bounded = expected if self.max_tokens is None else min(expected, float(self.max_tokens))
        return self.input_tokens * measured.input_usd + bounded * measured.output_usd
