"""What is known of those who can be asked: how quick, how busy, how dear they are, and whether they need a rest.

Pure: a call that begins or ends gives a new `CandidateStats`. A candidate that just failed rests: for a while that doubles
with every failed try, and is then tried by one call at a time.

Whom to ask first, and whom then: policies that are values, and pure rankings by what was measured.

A route names candidates and ranks them for each call. The first is asked; when it fails in a way that another may not
(`llmhub.engine.routing_policy.REACTIONS`), the next is, and so on, at most ``fallbacks`` times. Who rests stands last.
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
    BadRequestError,
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
    is_transient,
    retry_after_s,
)


class Reaction(NamedTuple):
    """What a failure means: whether another candidate is worth asking, and whether this one needs a rest."""

    falls_back: bool
    cools_down: bool


REACTIONS: Final[Mapping[type[LLMError], Reaction]] = {
    # What another may well answer, and this one will not for a while.
    RateLimited: Reaction(falls_back=True, cools_down=True),
    QuotaExhausted: Reaction(falls_back=True, cools_down=True),
    Overloaded: Reaction(falls_back=True, cools_down=True),
    ServerError: Reaction(falls_back=True, cools_down=True),
    TimedOut: Reaction(falls_back=True, cools_down=True),
    Disconnected: Reaction(falls_back=True, cools_down=True),
    AuthFailed: Reaction(falls_back=True, cools_down=True),
    PermissionDenied: Reaction(falls_back=True, cools_down=True),
    NotFound: Reaction(falls_back=True, cools_down=True),
    # What lies in this question and this candidate.
    Malformed: Reaction(falls_back=True, cools_down=False),
    ContextTooLong: Reaction(falls_back=True, cools_down=False),
    Unsupported: Reaction(falls_back=True, cools_down=False),
    # What is the caller's: another answer would hide it.
    InvalidRequest: Reaction(falls_back=False, cools_down=False),
    ContentFiltered: Reaction(falls_back=False, cools_down=False),
    BudgetExceeded: Reaction(falls_back=False, cools_down=False),
    Cancelled: Reaction(falls_back=False, cools_down=False),
}


COOLDOWN_S: Final = 0.5


MAX_COOLDOWN_S: Final = 30.0
"""A rest lasts ``COOLDOWN_S * 2**n`` after the n-th failed try in a row, at most this long, or as long as was asked for."""


EWMA_WEIGHT: Final = 0.3
"""Weight of the last measurement in a moving average."""


LATENCY_HALF_LIFE_S: Final = 10.0
"""A latency measured so long ago counts half: what was slow is tried again in time."""


EXPECTED_OUTPUT_TOKENS: Final = 256.0
"""Tokens an answer is thought to have before any was seen."""


class CandidateStats(NamedTuple):
    """What was measured of a candidate.

    Parameters
    ----------
    latency_s
        Exponentially weighted moving average of its answers' latencies; ``None`` before the first.
    measured_at
        When it last changed, on the clock of `RoutingStats.now`.
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
    success_count: int = 0
    failure_count: int = 0
    consecutive_failures: int = 0
    cooldown_until: float = -inf
    retry_after_until: float = -inf
    output_tokens: float | None = None
    input_usd: float | None = None
    output_usd: float | None = None


NO_STATS: Final = CandidateStats()


def on_start(measured: CandidateStats) -> CandidateStats:
    """Count a call that begins."""
    latency_s, at, in_flight, good, bad, failures, rests_until, asked_until, tokens, input_usd, output_usd = measured
    return CandidateStats(
        latency_s, at, in_flight + 1, good, bad, failures, rests_until, asked_until, tokens, input_usd, output_usd
    )


def on_success(
    measured: CandidateStats, latency_s: float | None, output_tokens: int | None, now: float
) -> CandidateStats:
    """Count a call that was answered: whatever was wrong is over."""
    average_s, _, in_flight, good, bad, _, _, asked_until, tokens, input_usd, output_usd = measured
    return CandidateStats(
        _moving_average(average_s, latency_s),
        now,
        in_flight - 1,
        good + 1,
        bad,
        0,
        -inf,
        asked_until,
        _moving_average(tokens, output_tokens),
        input_usd,
        output_usd,
    )


def on_failure(measured: CandidateStats, error: LLMError, now: float) -> CandidateStats:
    """Count a call that failed. Law: a rest lasts at least as long as the provider asked for."""
    ended = measured._replace(in_flight=measured.in_flight - 1, failure_count=measured.failure_count + 1)
    if not REACTIONS[type(error)].cools_down:
        return ended
    asked = max(measured.retry_after_until, now + (retry_after_s(error) or 0.0))
    if now < measured.cooldown_until:
        return ended._replace(retry_after_until=asked)
    rest = min(MAX_COOLDOWN_S, COOLDOWN_S * 2.0 ** min(measured.consecutive_failures, 30))
    return ended._replace(
        consecutive_failures=measured.consecutive_failures + 1, cooldown_until=now + rest, retry_after_until=asked
    )


def on_abandoned(measured: CandidateStats, after_s: float, now: float) -> CandidateStats:
    """Count a call that nobody waited for any longer: it would have taken at least ``after_s``."""
    slower = measured.latency_s is not None and after_s > measured.latency_s
    average = _moving_average(measured.latency_s, after_s) if slower else measured.latency_s
    return measured._replace(latency_s=average, measured_at=now, in_flight=measured.in_flight - 1)


def _moving_average(before: float | None, last: float | None) -> float | None:
    if last is None:
        return before
    return float(last) if before is None else before + EWMA_WEIGHT * (last - before)


@dataclass(slots=True)
class RoutingStats:
    """What a ranking may go by: ``stats["openai/gpt-4o"]`` is what was `CandidateStats` of it.

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

    candidates: Mapping[str, CandidateStats] = field(default_factory=dict)
    now: float = 0.0
    turn: int = 0
    draw: float = 0.0
    input_tokens: int = 0
    max_tokens: int | None = None

    def __getitem__(self, name: str) -> CandidateStats:
        """Give what was measured of a candidate; nothing, as long as it was not asked."""
        return self.candidates.get(name, NO_STATS)

    def is_cooling_down(self, name: str) -> bool:
        """Say whether a candidate should be left alone for now: it failed, or one call is trying it already."""
        measured = self.candidates.get(name, NO_STATS)
        now = self.now
        resting = now < measured.cooldown_until or now < measured.retry_after_until
        return resting or (measured.consecutive_failures > 0 and measured.in_flight > 0)

    def latency_s(self, name: str) -> float:
        """Give a candidate's latency, faded with its age; 0 where it is not known, so that it becomes known."""
        measured = self.candidates.get(name, NO_STATS)
        average_s, age_s = measured.latency_s, self.now - measured.measured_at
        if not average_s or age_s <= 0.0:
            return average_s or 0.0
        return average_s * math.pow(0.5, min(age_s / LATENCY_HALF_LIFE_S, 1000.0))

    def expected_cost_usd(self, name: str) -> float | None:
        """Give what the call is expected to cost at a candidate; ``None`` where its price is not known."""
        measured = self[name]
        if measured.input_usd is None or measured.output_usd is None:
            return None
        expected = EXPECTED_OUTPUT_TOKENS if measured.output_tokens is None else measured.output_tokens
        bounded = expected if self.max_tokens is None else min(expected, float(self.max_tokens))
        return self.input_tokens * measured.input_usd + bounded * measured.output_usd


__all__ = [
    "CandidateStats",
    "CostOptimized",
    "Failover",
    "Hedge",
    "LowLatency",
    "RoundRobin",
    "Route",
    "RoutingStats",
    "Weighted",
    "hedge_delay_s",
    "most_retryable",
]


RankFunction: TypeAlias = Callable[[Sequence[str], RoutingStats], Sequence[str]]


def in_order(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Keep the order given; who rests stands last.

    Examples
    --------
    >>> tired = CandidateStats(cooldown_until=10.0)
    >>> in_order(["a", "b"], RoutingStats({"a": tired}, now=5.0))
    ['b', 'a']
    """
    return sorted(candidates, key=stats.is_cooling_down)


def by_rotation(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Let those who do not rest take turns.

    Examples
    --------
    >>> [by_rotation(["a", "b"], RoutingStats(turn=turn))[0] for turn in range(4)]
    ['a', 'b', 'a', 'b']
    """
    well, resting = _split_by_cooldown(candidates, stats)
    at = stats.turn % len(well) if well else 0
    return [*well[at:], *well[:at], *resting]


def by_latency(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Draw two of those who do not rest, and put the quicker and less busy one first.

    Latencies count squared, so that who is slow gets next to nothing, and calls under way in proportion, so that nobody
    is overrun who is merely quick.
    """
    well, resting = _split_by_cooldown(candidates, stats)
    if len(well) <= 1:
        return [*well, *resting]
    loads = {name: _load(name, stats) for name in well}
    first, second = _draw_pair(len(well), stats.draw)
    best = min(well[first], well[second], key=loads.__getitem__)
    del loads[best]
    return [best, *sorted(loads, key=loads.__getitem__), *resting]


def _load(name: str, stats: RoutingStats) -> tuple[float, int]:
    busy, latency_s = stats[name].in_flight, stats.latency_s(name)
    return latency_s * latency_s * (busy + 1), busy


def _draw_pair(many: int, draw: float) -> tuple[int, int]:
    """Choose two different places, each pair as likely as any other."""
    first, second = divmod(min(int(draw * many * (many - 1)), many * (many - 1) - 1), many - 1)
    return first, second + (second >= first)


def by_cost(candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Put those first at whom the call is expected to cost least; whose price is not known, last.

    Examples
    --------
    >>> dear, cheap = CandidateStats(input_usd=3e-6, output_usd=15e-6), CandidateStats(input_usd=1e-6, output_usd=2e-6)
    >>> by_cost(["dear", "unknown", "cheap"], RoutingStats({"dear": dear, "cheap": cheap}, input_tokens=100))
    ['cheap', 'dear', 'unknown']
    """
    worth: dict[str, tuple[bool, float]] = {}
    for name in candidates:
        usd = stats.expected_cost_usd(name)
        worth[name] = (stats.is_cooling_down(name), inf if usd is None else usd)
    return sorted(candidates, key=worth.__getitem__)


def by_weight(weights: Mapping[str, float], candidates: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    """Draw the first by weight from those who do not rest; the others follow, the heaviest first.

    Examples
    --------
    >>> weights = {"a": 3, "b": 1}
    >>> [by_weight(weights, ["a", "b"], RoutingStats(draw=draw))[0] for draw in (0.0, 0.5, 0.74, 0.75)]
    ['a', 'a', 'a', 'b']
    """
    well, resting = _split_by_cooldown(candidates, stats)
    at = stats.draw * sum(weights.get(name, 0.0) for name in well)
    ordered = sorted(well, key=lambda name: -weights.get(name, 0.0))
    for name in well:
        at -= weights.get(name, 0.0)
        if at < 0:
            ordered.remove(name)
            return [name, *ordered, *resting]
    return [*ordered, *resting]


def _split_by_cooldown(candidates: Sequence[str], stats: RoutingStats) -> tuple[list[str], list[str]]:
    well: list[str] = []
    resting: list[str] = []
    for name in candidates:
        (resting if stats.is_cooling_down(name) else well).append(name)
    return well, resting


@dataclass(frozen=True, slots=True)
class Hedge:
    """Ask the next candidate too when the first has not answered in time; the first good answer is taken.

    The other call is cut off. Both are set aside for in a budget, and a call that was cut off counts there at what it
    may have cost at most.

    Parameters
    ----------
    after_s
        When to ask the next, in seconds.
    quantile
        Without ``after_s``: when so large a share of the last answers had come; never before `MIN_LATENCY_SAMPLES` were measured.
    """

    after_s: float | None = None
    quantile: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no time and no share."""
        for name, value, high in (("after_s", self.after_s, inf), ("quantile", self.quantile, 1.0)):
            if value is not None and not (_is_number(value) and 0 <= value <= high):
                raise _invalid_route(f"hedge.{name}", f"{value!r} is outside 0..{high:g}")


MIN_LATENCY_SAMPLES: Final = 20
"""Latencies needed to speak of a quantile."""


def hedge_delay_s(hedge: Hedge, latencies_s: Sequence[float]) -> float | None:
    """Say when to ask another, in seconds; ``None`` for never.

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
    """Candidates, and how to choose among them for each call.

    Parameters
    ----------
    candidates
        ``provider/model``, each once.
    rank
        Candidates and `RoutingStats` to the candidates in the order in which to ask; it may leave some out.
    fallbacks
        How many others are asked at most when the first fails.
    hedge
        Whether another is asked too when the first takes long.

    Examples
    --------
    >>> def quickest(candidates, stats):
    ...     return sorted(candidates, key=lambda name: stats[name].latency_s or 0.0)
    >>> Route(("openai/gpt-4o", "azure/gpt-4o"), rank=quickest).fallbacks
    3
    """

    candidates: tuple[str, ...]
    rank: RankFunction = in_order
    fallbacks: int = 3
    hedge: Hedge | None = None
    needs_prices: bool = field(init=False, repr=False, compare=False)
    is_builtin: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what is no route; see whether its ranking may go by tokens and prices, and is one of these here."""
        names: Any = self.candidates
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise _invalid_route("route", f"{names!r:.80} names nobody; give 'provider/model', one or more")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _invalid_route("route", f"{twice!r} is given twice; give each candidate once, or Weighted")
        bound: Any = self.fallbacks
        if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
            raise _invalid_route("route.fallbacks", f"{bound!r} is not a whole number from 0")
        if not callable(self.rank):
            raise _invalid_route("route.rank", f"{self.rank!r:.80} is no function of candidates and stats")
        rank = getattr(self.rank, "func", self.rank)
        object.__setattr__(self, "needs_prices", rank not in PRICE_FREE_RANKINGS)
        object.__setattr__(self, "is_builtin", rank in (*PRICE_FREE_RANKINGS, by_cost))


PRICE_FREE_RANKINGS: Final = (in_order, by_rotation, by_latency, by_weight)
"""Rankings that go by no price: what is in the question need not be counted for them."""


def Failover(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Ask the first; the others in their order when it fails, and while it rests.

    Examples
    --------
    >>> Failover("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5").candidates
    ('openai/gpt-4o-mini', 'anthropic/claude-haiku-4-5')
    """
    return Route(candidates, in_order, fallbacks, hedge)


def RoundRobin(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Let the candidates take turns."""
    return Route(candidates, by_rotation, fallbacks, hedge)


def LowLatency(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Ask the quicker of two drawn candidates, by measured latency and calls under way."""
    return Route(candidates, by_latency, fallbacks, hedge)


def CostOptimized(*candidates: str, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Ask whoever is expected to cost least for this question: its tokens and those of the answer."""
    return Route(candidates, by_cost, fallbacks, hedge)


def Weighted(weights: Mapping[str, float], *, fallbacks: int = 3, hedge: Hedge | None = None) -> Route:  # noqa: N802 - it makes a value
    """Share calls out by weight.

    Examples
    --------
    >>> Weighted({"openai/gpt-4o-mini": 3, "azure/gpt-4o-mini": 1}).candidates
    ('openai/gpt-4o-mini', 'azure/gpt-4o-mini')
    """
    if not isinstance(weights, Mapping):
        raise _invalid_route("route", f"{weights!r:.80} is no mapping of 'provider/model' to a weight")
    for name, weight in weights.items():
        if not _is_number(weight) or not 0 < weight < inf:
            raise _invalid_route(f"route[{name!r}]", f"{weight!r} is no weight; give a number above 0")
    return Route(tuple(weights), partial(by_weight, dict(weights)), fallbacks, hedge)


def most_retryable(errors: Sequence[LLMError]) -> int:
    """Choose which of several failures stands for all: one worth another try if any is, the soonest; else the first.

    Examples
    --------
    >>> from llmhub.core.errors import AuthFailed, RateLimited
    >>> most_retryable([AuthFailed(), RateLimited(retry_after_s=9.0), RateLimited(retry_after_s=1.0)])
    2
    """
    again = [at for at, error in enumerate(errors) if is_transient(error)]
    return min(again, key=lambda at: retry_after_s(errors[at]) or 0.0) if again else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _invalid_route(path: str, said: str) -> BadRequestError:
    return BadRequestError(InvalidRequest(path=path, message=said))
