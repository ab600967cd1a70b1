"""Whom to ask first, and whom then: policies that are values, and pure rankings by what was measured.

A route names candidates and ranks them for each call. The first is asked; when it fails in a way that another may not
(`llmhub.engine.measured.REACTIONS`), the next is, and so on, at most ``fallbacks`` times. Who rests stands last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from numbers import Real
from typing import Any, Final, TypeAlias

from llmhub.core.errors import InvalidRequest, InvalidRequestError, LLMError, is_transient, retry_after_s
from llmhub.engine.measured import Measured, Stats

__all__ = [
    "CostOptimized",
    "Failover",
    "Hedge",
    "LowLatency",
    "Measured",
    "RoundRobin",
    "Route",
    "Stats",
    "Weighted",
    "hedge_delay_s",
    "most_hopeful",
]

Rank: TypeAlias = Callable[[Sequence[str], Stats], Sequence[str]]


def in_order(candidates: Sequence[str], stats: Stats) -> Sequence[str]:
    """Keep the order given; who rests stands last.

    Examples
    --------
    >>> tired = Measured(rests_until=10.0)
    >>> in_order(["a", "b"], Stats({"a": tired}, now=5.0))
    ['b', 'a']
    """
    return sorted(candidates, key=stats.rests)


def by_turns(candidates: Sequence[str], stats: Stats) -> Sequence[str]:
    """Let those who do not rest take turns.

    Examples
    --------
    >>> [by_turns(["a", "b"], Stats(turn=turn))[0] for turn in range(4)]
    ['a', 'b', 'a', 'b']
    """
    well, resting = _parted(candidates, stats)
    at = stats.turn % len(well) if well else 0
    return [*well[at:], *well[:at], *resting]


def by_latency(candidates: Sequence[str], stats: Stats) -> Sequence[str]:
    """Draw two of those who do not rest, and put the quicker and less busy one first.

    Latencies count squared, so that who is slow gets next to nothing, and calls under way in proportion, so that nobody
    is overrun who is merely quick.
    """
    well, resting = _parted(candidates, stats)
    if len(well) <= 1:
        return [*well, *resting]
    loads = {name: _load(name, stats) for name in well}
    first, second = _two(len(well), stats.draw)
    best = min(well[first], well[second], key=loads.__getitem__)
    del loads[best]
    return [best, *sorted(loads, key=loads.__getitem__), *resting]


def _load(name: str, stats: Stats) -> tuple[float, int]:
    busy, latency_s = stats[name].in_flight, stats.latency_s(name)
    return latency_s * latency_s * (busy + 1), busy


def _two(many: int, draw: float) -> tuple[int, int]:
    """Choose two different places, each pair as likely as any other."""
    first, second = divmod(min(int(draw * many * (many - 1)), many * (many - 1) - 1), many - 1)
    return first, second + (second >= first)


def by_cost(candidates: Sequence[str], stats: Stats) -> Sequence[str]:
    """Put those first at whom the call is expected to cost least; whose price is not known, last.

    Examples
    --------
    >>> dear, cheap = Measured(input_usd=3e-6, output_usd=15e-6), Measured(input_usd=1e-6, output_usd=2e-6)
    >>> by_cost(["dear", "unknown", "cheap"], Stats({"dear": dear, "cheap": cheap}, input_tokens=100))
    ['cheap', 'dear', 'unknown']
    """
    worth: dict[str, tuple[bool, float]] = {}
    for name in candidates:
        usd = stats.usd(name)
        worth[name] = (stats.rests(name), inf if usd is None else usd)
    return sorted(candidates, key=worth.__getitem__)


def by_weight(weights: Mapping[str, float], candidates: Sequence[str], stats: Stats) -> Sequence[str]:
    """Draw the first by weight from those who do not rest; the others follow, the heaviest first.

    Examples
    --------
    >>> weights = {"a": 3, "b": 1}
    >>> [by_weight(weights, ["a", "b"], Stats(draw=draw))[0] for draw in (0.0, 0.5, 0.74, 0.75)]
    ['a', 'a', 'a', 'b']
    """
    well, resting = _parted(candidates, stats)
    at = stats.draw * sum(weights.get(name, 0.0) for name in well)
    ordered = sorted(well, key=lambda name: -weights.get(name, 0.0))
    for name in well:
        at -= weights.get(name, 0.0)
        if at < 0:
            ordered.remove(name)
            return [name, *ordered, *resting]
    return [*ordered, *resting]


def _parted(candidates: Sequence[str], stats: Stats) -> tuple[list[str], list[str]]:
    well: list[str] = []
    resting: list[str] = []
    for name in candidates:
        (resting if stats.rests(name) else well).append(name)
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
        Without ``after_s``: when so large a share of the last answers had come; never before `FEW` were measured.
    """

    after_s: float | None = None
    quantile: float = 0.95

    def __post_init__(self) -> None:
        """Refuse what is no time and no share."""
        for name, value, high in (("after_s", self.after_s, inf), ("quantile", self.quantile, 1.0)):
            if value is not None and not (_is_number(value) and 0 <= value <= high):
                raise _refused(f"hedge.{name}", f"{value!r} is outside 0..{high:g}")


FEW: Final = 20
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
    if len(latencies_s) < FEW:
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
        Candidates and `Stats` to the candidates in the order in which to ask; it may leave some out.
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
    rank: Rank = in_order
    fallbacks: int = 3
    hedge: Hedge | None = None
    counts: bool = field(init=False, repr=False, compare=False)
    ours: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what is no route; see whether its ranking may go by tokens and prices, and is one of these here."""
        names: Any = self.candidates
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) for name in names):
            raise _refused("route", f"{names!r:.80} names nobody; give 'provider/model', one or more")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise _refused("route", f"{twice!r} is given twice; give each candidate once, or Weighted")
        bound: Any = self.fallbacks
        if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
            raise _refused("route.fallbacks", f"{bound!r} is not a whole number from 0")
        if not callable(self.rank):
            raise _refused("route.rank", f"{self.rank!r:.80} is no function of candidates and stats")
        rank = getattr(self.rank, "func", self.rank)
        object.__setattr__(self, "counts", rank not in UNCOUNTED)
        object.__setattr__(self, "ours", rank in (*UNCOUNTED, by_cost))


UNCOUNTED: Final = (in_order, by_turns, by_latency, by_weight)
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
    return Route(candidates, by_turns, fallbacks, hedge)


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
        raise _refused("route", f"{weights!r:.80} is no mapping of 'provider/model' to a weight")
    for name, weight in weights.items():
        if not _is_number(weight) or not 0 < weight < inf:
            raise _refused(f"route[{name!r}]", f"{weight!r} is no weight; give a number above 0")
    return Route(tuple(weights), partial(by_weight, dict(weights)), fallbacks, hedge)


def most_hopeful(errors: Sequence[LLMError]) -> int:
    """Choose which of several failures stands for all: one worth another try if any is, the soonest; else the first.

    Examples
    --------
    >>> from llmhub.core.errors import AuthFailed, RateLimited
    >>> most_hopeful([AuthFailed(), RateLimited(retry_after_s=9.0), RateLimited(retry_after_s=1.0)])
    2
    """
    again = [at for at, error in enumerate(errors) if is_transient(error)]
    return min(again, key=lambda at: retry_after_s(errors[at]) or 0.0) if again else 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _refused(path: str, said: str) -> InvalidRequestError:
    return InvalidRequestError(InvalidRequest(path=path, message=said))
