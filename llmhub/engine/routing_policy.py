"""Routing policies: rank the candidate models for a call by their statistics.

A `Route` is a value: candidates, a ranking function, and how many fallbacks are allowed. The call is sent to the first
candidate in rank; if that fails in a way that another candidate might not (`REACTIONS`), to the next, at most
``fallbacks`` times. A candidate that fails cools down, twice as long with each consecutive failure: until then it ranks
last, and then a single call tries it. Everything here is pure: `RoutingStats` carries the time and the random number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from numbers import Real
from typing import Any, Final, NamedTuple, TypeAlias

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
    invalid,
    is_transient,
    retry_after_s,
)

COOLDOWN_S: Final = 0.5
MAX_COOLDOWN_S: Final = 30.0
"""A cooldown lasts ``COOLDOWN_S * 2**n`` after the n-th consecutive failure, at most this long, or as long as the
provider asked for."""
EWMA_WEIGHT: Final = 0.3
"""Weight of the latest measurement in a moving average."""
LATENCY_HALF_LIFE_S: Final = 10.0
"""Age after which a latency counts half, so that a slow candidate is tried again in time."""
EXPECTED_OUTPUT_TOKENS: Final = 256.0
"""Expected length of a response before the first was measured."""
MIN_LATENCY_SAMPLES: Final = 20
"""Latencies needed to estimate a quantile."""


class Reaction(NamedTuple):
    """The consequence of an error.

    Parameters
    ----------
    falls_back
        Whether the call is sent to the next candidate.
    cools_down
        Whether the candidate that failed cools down.
    """

    falls_back: bool
    cools_down: bool


REACTIONS: Final[Mapping[type[LLMError], Reaction]] = {
    # The provider is unavailable, for this account at least.
    RateLimited: Reaction(falls_back=True, cools_down=True),
    QuotaExhausted: Reaction(falls_back=True, cools_down=True),
    Overloaded: Reaction(falls_back=True, cools_down=True),
    ServerError: Reaction(falls_back=True, cools_down=True),
    TimedOut: Reaction(falls_back=True, cools_down=True),
    Disconnected: Reaction(falls_back=True, cools_down=True),
    AuthFailed: Reaction(falls_back=True, cools_down=True),
    PermissionDenied: Reaction(falls_back=True, cools_down=True),
    NotFound: Reaction(falls_back=True, cools_down=True),
    # This request does not suit this model.
    Malformed: Reaction(falls_back=True, cools_down=False),
    ContextTooLong: Reaction(falls_back=True, cools_down=False),
    Unsupported: Reaction(falls_back=True, cools_down=False),
    # The caller must know: a fallback would hide it.
    InvalidRequest: Reaction(falls_back=False, cools_down=False),
    ContentFiltered: Reaction(falls_back=False, cools_down=False),
    BudgetExceeded: Reaction(falls_back=False, cools_down=False),
    Cancelled: Reaction(falls_back=False, cools_down=False),
}


class CandidateStats(NamedTuple):
    """The statistics of one candidate.

    Parameters
    ----------
    latency_s
        Exponentially weighted moving average of response latencies; ``None`` before the first.
    measured_at
        When ``latency_s`` last changed, on the clock of `RoutingStats.now`.
    in_flight
        Calls in flight.
    success_count, failure_count
        Calls that succeeded and failed.
    consecutive_failures
        Failures since the last success; those during a cooldown count as one.
    cooldown_until
        When the candidate may be tried again.
    retry_after_until
        When the provider asked to be tried again (``Retry-After``); a success in between does not shorten it.
    output_tokens
        Moving average of the responses' lengths.
    input_usd, output_usd
        Price per token; ``None`` where unknown.
    """

    latency_s: float | None = None
    measured_at: float = 0.0
    in_flight: int = 0
    success_count: int = 0
    failure_count: int = 0
    consecutive_failures: int = 0
    cooldown_until: float = -inf
    retry_after_until: float = -inf
    output_tokens: float | None = None
    input_usd: float | None = None
    output_usd: float | None = None


NO_STATS: Final = CandidateStats()


def on_start(stats: CandidateStats) -> CandidateStats:
    """Return the statistics after a call has started."""
    return stats._replace(in_flight=stats.in_flight + 1)


def on_success(stats: CandidateStats, latency_s: float | None, output_tokens: int | None, now: float) -> CandidateStats:
    """Return the statistics after a successful call, which ends a cooldown."""
    return stats._replace(
        latency_s=_moving_average(stats.latency_s, latency_s),
        measured_at=now,
        in_flight=stats.in_flight - 1,
        success_count=stats.success_count + 1,
        consecutive_failures=0,
        cooldown_until=-inf,
        output_tokens=_moving_average(stats.output_tokens, output_tokens),
    )


def on_failure(stats: CandidateStats, error: LLMError, now: float) -> CandidateStats:
    """Return the statistics after a failed call. Law: a cooldown lasts at least as long as the provider asked for."""
    ended = stats._replace(in_flight=stats.in_flight - 1, failure_count=stats.failure_count + 1)
    if not REACTIONS[type(error)].cools_down:
        return ended
    retry_after_until = max(stats.retry_after_until, now + (retry_after_s(error) or 0.0))
    if now < stats.cooldown_until:
        return ended._replace(retry_after_until=retry_after_until)
    cooldown_s = min(MAX_COOLDOWN_S, COOLDOWN_S * 2.0 ** min(stats.consecutive_failures, 30))
    return ended._replace(
        consecutive_failures=stats.consecutive_failures + 1,
        cooldown_until=now + cooldown_s,
        retry_after_until=retry_after_until,
    )


def on_abandoned(stats: CandidateStats, elapsed_s: float, now: float) -> CandidateStats:
    """Return the statistics after a cancelled call, which would have taken at least ``elapsed_s``."""
    is_slower = stats.latency_s is not None and elapsed_s > stats.latency_s
    latency_s = _moving_average(stats.latency_s, elapsed_s) if is_slower else stats.latency_s
    return stats._replace(latency_s=latency_s, measured_at=now, in_flight=stats.in_flight - 1)


def _moving_average(average: float | None, latest: float | None) -> float | None:
    if latest is None:
        return average
    return float(latest) if average is None else average + EWMA_WEIGHT * (latest - average)


@dataclass(slots=True)
class RoutingStats:
    """The input of a ranking: ``stats["openai/gpt-4o"]`` is the `CandidateStats` of that candidate.

    Treat it as immutable; it is not frozen because one is made for each call and freezing triples the cost.

    Parameters
    ----------
    candidates
        Statistics by candidate.
    now
        Monotonic seconds.
    turn
        Number of calls this route has ranked before.
    draw
        A random number from 0 up to 1, the only randomness of a ranking.
    input_tokens
        Estimated tokens of the request.
    max_tokens
        The request's limit on output tokens, if it has one.
    """

    candidates: Mapping[str, CandidateStats] = field(default_factory=dict)
    now: float = 0.0
    turn: int = 0
    draw: float = 0.0
    input_tokens: int = 0
    max_tokens: int | None = None

    def __getitem__(self, name: str) -> CandidateStats:
        """Return a candidate's statistics; empty ones before its first call."""
        return self.candidates.get(name, NO_STATS)

    def is_cooling_down(self, name: str) -> bool:
        """Return whether to avoid a candidate now: it failed recently, or one call is already trying it."""
        stats = self.candidates.get(name, NO_STATS)
        now = self.now
        is_waiting = now < stats.cooldown_until or now < stats.retry_after_until
        return is_waiting or (stats.consecutive_failures > 0 and stats.in_flight > 0)

    def latency_s(self, name: str) -> float:
        """Return a candidate's latency, decayed with its age; 0 where unknown, so that it gets measured."""
        stats = self.candidates.get(name, NO_STATS)
        latency_s, age_s = stats.latency_s, self.now - stats.measured_at
        if not latency_s or age_s <= 0.0:
            return latency_s or 0.0
        return latency_s * math.pow(0.5, min(age_s / LATENCY_HALF_LIFE_S, 1000.0))

    def expected_cost_usd(self, name: str) -> float | None:
        """Return the expected cost of the call at a candidate; ``None`` where its price is unknown."""
        stats = self[name]
        if stats.input_usd is None or stats.output_usd is None:
            return None
        output_tokens = EXPECTED_OUTPUT_TOKENS if stats.output_tokens is None else stats.output_tokens
        if self.max_tokens is not None:
            output_tokens = min(output_tokens, float(self.max_tokens))
        return self.input_tokens * stats.input_usd + output_tokens * stats.output_usd


RankFunction: TypeAlias = Callable[[Sequence[str], RoutingStats], Sequence[str]]
"""Candidates and their statistics to the candidates in the order in which to try them; it may leave some out."""


def in_order(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Keep the given order, with candidates that cool down last.

    Examples
    --------
    >>> failed = CandidateStats(cooldown_until=10.0)
    >>> in_order(["a", "b"], RoutingStats({"a": failed}, now=5.0))
    ['b', 'a']
    """
    return sorted(candidates, key=stats.is_cooling_down)


def by_rotation(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Rotate through the candidates that do not cool down (round robin).

    Examples
    --------
    >>> [by_rotation(["a", "b"], RoutingStats(turn=turn))[0] for turn in range(4)]
    ['a', 'b', 'a', 'b']
    """
    available, cooling = _split_by_cooldown(candidates, stats)
    first = stats.turn % len(available) if available else 0
    return [*available[first:], *available[:first], *cooling]


def by_latency(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Draw two candidates and rank the faster and less busy one first (power of two choices).

    The load of a candidate is its latency squared times the calls in flight: a slow one gets next to no calls, and a
    fast one is not overrun.
    """
    available, cooling = _split_by_cooldown(candidates, stats)
    if len(available) <= 1:
        return [*available, *cooling]
    loads = {name: _load(name, stats) for name in available}
    first, second = _draw_pair(len(available), stats.draw)
    best = min(available[first], available[second], key=loads.__getitem__)
    del loads[best]
    return [best, *sorted(loads, key=loads.__getitem__), *cooling]


def _load(name: str, stats: RoutingStats) -> tuple[float, int]:
    in_flight, latency_s = stats[name].in_flight, stats.latency_s(name)
    return latency_s * latency_s * (in_flight + 1), in_flight


def _draw_pair(count: int, draw: float) -> tuple[int, int]:
    """Return two different indices below ``count``; every ordered pair is equally likely."""
    pairs = count * (count - 1)
    first, second = divmod(min(int(draw * pairs), pairs - 1), count - 1)
    return first, second + (second >= first)


def by_cost(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Rank by the expected cost of the call, cheapest first; candidates without a known price come last.

    Examples
    --------
    >>> large = CandidateStats(input_usd=3e-6, output_usd=15e-6)
    >>> small = CandidateStats(input_usd=1e-6, output_usd=2e-6)
    >>> by_cost(["large", "unknown", "small"], RoutingStats({"large": large, "small": small}, input_tokens=100))
    ['small', 'large', 'unknown']
    """
    order: dict[str, tuple[bool, float]] = {}
    for name in candidates:
        cost_usd = stats.expected_cost_usd(name)
        order[name] = (stats.is_cooling_down(name), inf if cost_usd is None else cost_usd)
    return sorted(candidates, key=order.__getitem__)


def by_weight(weights: Mapping[str, float], candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Draw the first candidate by weight from those that do not cool down; the others follow, heaviest first.

    Examples
    --------
    >>> weights = {"a": 3, "b": 1}
    >>> [by_weight(weights, ["a", "b"], RoutingStats(draw=draw))[0] for draw in (0.0, 0.5, 0.74, 0.75)]
    ['a', 'a', 'a', 'b']
    """
    available, cooling = _split_by_cooldown(candidates, stats)
    remaining = stats.draw * sum(weights.get(name, 0.0) for name in available)
    ordered = sorted(available, key=lambda name: -weights.get(name, 0.0))
    for name in available:
        remaining -= weights.get(name, 0.0)
        if remaining < 0:
            ordered.remove(name)
            return [name, *ordered, *cooling]
    return [*ordered, *cooling]


def _split_by_cooldown(candidates: Sequence[str], stats: RoutingStats) -> tuple[list[str], list[str]]:
    """Return the candidates that are available, and those that cool down."""
    available: list[str] = []
    cooling: list[str] = []
    for name in candidates:
        (cooling if stats.is_cooling_down(name) else available).append(name)
    return available, cooling


PRICE_FREE_RANKINGS: Final = (in_order, by_rotation, by_latency, by_weight)
"""Rankings that use no prices, so that the tokens of a request need not be estimated for them."""


@dataclass(frozen=True, slots=True)
class Hedge:
    """Send the call to the next candidate too when the first has not answered in time, and use the first success.

    The other request is cancelled. A budget reserves both, and counts a cancelled request at its maximum cost.

    Parameters
    ----------
    after_s
        Seconds until the hedged request is sent.
    quantile
        Without ``after_s``: the quantile of recent latencies to wait for; nothing is hedged before
        `MIN_LATENCY_SAMPLES` were measured.
    """

    after_s: float | None = None
    quantile: float = 0.95

    def __post_init__(self) -> None:
        """Raise if a field is out of bounds."""
        if self.after_s is not None and not (_is_number(self.after_s) and self.after_s >= 0):
            raise invalid("hedge.after_s", f"must be a number of seconds from 0, not {self.after_s!r}")
        if not (_is_number(self.quantile) and 0 <= self.quantile <= 1):
            raise invalid("hedge.quantile", f"must be a number from 0 to 1, not {self.quantile!r}")


def hedge_delay_s(hedge: Hedge, latencies_s: Sequence[float]) -> float | None:
    """Return the seconds until a hedged request is sent, or ``None`` for never.

    Examples
    --------
    >>> hedge_delay_s(Hedge(quantile=0.9), [n / 10 for n in range(1, 101)])
    9.1
    >>> hedge_delay_s(Hedge(), [0.1]) is None
    True
    """
    if hedge.after_s is not None:
        return hedge.after_s
    if len(latencies_s) < MIN_LATENCY_SAMPLES:
        return None
    return sorted(latencies_s)[min(int(hedge.quantile * len(latencies_s)), len(latencies_s) - 1)]


@dataclass(frozen=True, slots=True)
class Route:
    """Candidates for a call, and how to choose among them.

    Parameters
    ----------
    candidates
        ``provider/model`` names, each once.
    rank
        Ranks the candidates by their `RoutingStats`, best first; it may leave some out.
    fallbacks
        Maximum number of further candidates tried when the first fails.
    hedge
        Whether and when a slow call is also sent to the next candidate.

    Examples
    --------
    >>> def fastest(candidates, stats):
    ...     return sorted(candidates, key=lambda name: stats[name].latency_s or 0.0)
    >>> Route(("openai/gpt-4o", "azure/gpt-4o"), rank=fastest).fallbacks
    3
    """

    candidates: tuple[str, ...]
    rank: RankFunction = in_order
    fallbacks: int = 3
    hedge: Hedge | None = None
    needs_prices: bool = field(init=False, repr=False, compare=False)
    is_builtin: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate the fields; determine whether the ranking is one of this module and whether it may use prices."""
        names: Any = self.candidates
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise invalid("route", f"needs one or more 'provider/model' names, not {names!r:.80}")
        if len(set(names)) < len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise invalid("route", f"{repeated!r} is repeated; list each candidate once, or use Weighted")
        fallbacks: Any = self.fallbacks
        if isinstance(fallbacks, bool) or not isinstance(fallbacks, int) or fallbacks < 0:
            raise invalid("route.fallbacks", f"must be an integer from 0, not {fallbacks!r}")
        if not callable(self.rank):
            raise invalid("route.rank", f"must be a function of candidates and stats, not {self.rank!r:.80}")
        rank = getattr(self.rank, "func", self.rank)
        object.__setattr__(self, "needs_prices", rank not in PRICE_FREE_RANKINGS)
        object.__setattr__(self, "is_builtin", rank in (*PRICE_FREE_RANKINGS, by_cost))


def Failover(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Return a route that tries the candidates in order, skipping those that cool down.

    Examples
    --------
    >>> Failover("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5").candidates
    ('openai/gpt-4o-mini', 'anthropic/claude-haiku-4-5')
    """
    return Route(candidates, in_order, fallbacks, hedge)


def RoundRobin(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Return a route that rotates through the candidates."""
    return Route(candidates, by_rotation, fallbacks, hedge)


def LowLatency(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Return a route that draws two candidates and tries the one with the lower latency and load first."""
    return Route(candidates, by_latency, fallbacks, hedge)


def CostOptimized(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Return a route that tries the candidate with the lowest expected cost for the call first."""
    return Route(candidates, by_cost, fallbacks, hedge)


def Weighted(weights: Mapping[str, float], *, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Return a route that distributes calls in proportion to weights.

    Examples
    --------
    >>> Weighted({"openai/gpt-4o-mini": 3, "azure/gpt-4o-mini": 1}).candidates
    ('openai/gpt-4o-mini', 'azure/gpt-4o-mini')
    """
    if not isinstance(weights, Mapping):
        raise invalid("route", f"needs a mapping of 'provider/model' to weight, not {weights!r:.80}")
    for name, weight in weights.items():
        if not _is_number(weight) or not 0 < weight < inf:
            raise invalid(f"route[{name!r}]", f"must be a number above 0, not {weight!r}")
    return Route(tuple(weights), partial(by_weight, dict(weights)), fallbacks, hedge)


def most_retryable(errors: Sequence[LLMError]) -> int:
    """Return the index of the error to report: the transient one that can be retried soonest, else the first.

    Examples
    --------
    >>> from llmhub.core.errors import AuthFailed, RateLimited
    >>> most_retryable([AuthFailed(), RateLimited(retry_after_s=9.0), RateLimited(retry_after_s=1.0)])
    2
    """
    transient = [index for index, error in enumerate(errors) if is_transient(error)]
    return min(transient, key=lambda index: retry_after_s(errors[index]) or 0.0) if transient else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
