"""What a provider permits, as a caller declares it, and what a call is thought to take of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import Any, Final, NamedTuple

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.tokens import estimate_tokens
from llmhub.core.types import CompletionRequest
from llmhub.engine.windows import FixedWindow, Kind, SlidingWindow, State, TokenBucket

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0
BURST: Final = 0.01
"""Share of a minute's allowance that may go at once: small, so that no window a server may use is overrun."""
GUARD: Final = 1.005
"""A window of ours is a little longer than the server's: its own begins when our first request arrives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a provider permits.

    Parameters
    ----------
    rpm, rpd
        Requests a minute, and a day.
    tpm
        Tokens a minute, input and output together.
    input_tpm, output_tpm
        Tokens a minute where a provider counts them apart.
    burst
        Share of a minute's allowance that may be used at once (0..1), for a `TokenBucket`. What may burst is taken
        off the steady rate, so that any 60 s see at most the allowance, whichever window the server counts in.
        Above 0.1 it is not: that is for a server which itself permits such bursts.
    window
        How it counts: `TokenBucket` goes steadily and is right for every server; `SlidingWindow` uses an allowance as
        fast as it can and never more of it in any minute; `FixedWindow` does so in each minute of its own, for a
        server that counts from a first request on.

    Examples
    --------
    >>> Limit(rpm=500, tpm=200_000)
    Limit(rpm=500, tpm=200000)
    >>> Limit(rpm=50, input_tpm=30_000, output_tpm=8_000, window=SlidingWindow)
    Limit(rpm=50, input_tpm=30000, output_tpm=8000, window=SlidingWindow)
    """

    rpm: float | None = None
    tpm: float | None = None
    input_tpm: float | None = None
    output_tpm: float | None = None
    rpd: float | None = None
    burst: float = BURST
    window: Kind = field(default=TokenBucket)

    def __post_init__(self) -> None:
        """Refuse what cannot be a limit."""
        for name in AMOUNTS:
            value: Any = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if value is not None and not (number and 0 < float(value) < inf):
                said = f"{value!r} is no limit; give a number > 0"
                raise InvalidRequestError(InvalidRequest(path=f"limits.{name}", message=said))
        if isinstance(self.burst, bool) or not 0 < self.burst <= 1:
            raise InvalidRequestError(InvalidRequest(path="limits.burst", message=f"{self.burst!r} is outside 0..1"))
        if self.window not in KINDS:
            said = f"{self.window!r} is no window; give {', '.join(kind.__name__ for kind in KINDS)}"
            raise InvalidRequestError(InvalidRequest(path="limits.window", message=said))

    def __repr__(self) -> str:
        """Show what was said."""
        said = [f"{name}={value!r}" for name in AMOUNTS if (value := getattr(self, name)) is not None]
        said += [f"burst={self.burst!r}"] * (self.burst != BURST)
        said += [f"window={self.window.__name__}"] * (self.window is not TokenBucket)
        return f"Limit({', '.join(said)})"


AMOUNTS: Final = ("rpm", "tpm", "input_tpm", "output_tpm", "rpd")
KINDS: Final[tuple[Kind, ...]] = (TokenBucket, FixedWindow, SlidingWindow)


class Cost(NamedTuple):
    """What a call takes, or is thought to take; the order is that of `WHAT`."""

    requests: float = 1.0
    tokens: float = 0.0
    input_tokens: float = 0.0
    output_tokens: float = 0.0


NOTHING: Final = Cost(0.0)
WHAT: Final = ("requests", "tokens", "input tokens", "output tokens")
ONE: Final = Cost()


def plus(one: Cost, other: Cost) -> Cost:
    """Add two costs."""
    return Cost(one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


def bucket(per_minute: float, burst: float, now: float = 0.0) -> TokenBucket:
    """Make the bucket of an allowance a minute, of which the share ``burst`` may go at once; it begins full.

    Examples
    --------
    >>> bucket(1200, 0.01)
    TokenBucket(rate_s=19.8, capacity=12.0, level=12.0, at=0.0)
    """
    capacity = max(1.0, per_minute * burst)
    # Of very few a minute, a burst of one needs no more room than what jitters. Of many, a tenth is taken off at most.
    steady = max(per_minute - capacity, per_minute * 0.9) if capacity > 1.0 else per_minute * (1.0 - BURST)
    return TokenBucket(steady / MINUTE_S, capacity, capacity, now)


def states_of(limit: Limit, now: float) -> list[tuple[int, State]]:
    """Give the states of a limit as it begins, each with what it counts: a position in `WHAT`."""
    amounts = (limit.rpm, limit.tpm, limit.input_tpm, limit.output_tpm)
    states = [(what, _state(limit, amount, now)) for what, amount in enumerate(amounts) if amount is not None]
    if limit.rpd is not None:
        states.append((0, SlidingWindow(limit.rpd, DAY_S)))
    return states


def _state(limit: Limit, amount: float, now: float) -> State:
    if limit.window is FixedWindow:
        return FixedWindow(amount, MINUTE_S * GUARD, now)
    if limit.window is SlidingWindow:
        return SlidingWindow(amount, MINUTE_S)
    return bucket(amount, limit.burst, now)


USUAL_ANSWER: Final = 256
"""Tokens an answer is thought to take when the request does not bound it and none was seen yet."""


def expected(request: CompletionRequest, usual_answer: float = USUAL_ANSWER) -> Cost:
    """Guess what a call will take, for booking; corrected once it is known."""
    asked = sum([estimate_tokens(message.text) for message in request.messages])
    made = request.n * (request.max_tokens or usual_answer)
    return Cost(1.0, asked + made, asked, made)
