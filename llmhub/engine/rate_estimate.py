"""Estimate of the rate of a limit with a small burst, from which requests were accepted and which were refused.

A limit that allows only a few requests at once tells something with every reply: it refuses a request that comes a
little too early. The estimate is the posterior over a grid of rates (a discrete Bayes filter). For each rate it follows
the level that a token bucket of that rate has. A refusal makes the rates less probable whose bucket had a request left,
an acceptance those whose bucket was empty. Refusals by chance are part of the model, with their share as a second
dimension, so that they neither slow the run down nor hide the limit; a limit of the number at once competes with all
rates.

A request is sent when it is accepted with some probability. The probability varies from request to request between 0
and `MAX_PROBABILITY`, spread evenly: where the rate is known all values mean the same moment, and where it is not, they
search for it. So the rarer a rate, the rarer it is tried (as in Thompson sampling, without random numbers).

Replies are slower than requests. A request counts as accepted once a refusal would have arrived; until then it is
pending, and taken for accepted only where the next one is planned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, inf
from typing import Final, NamedTuple, TypeAlias

Values: TypeAlias = tuple[float, ...]
"""One number for each of `RATES`, or for each number of calls at once from 1."""
Rows: TypeAlias = tuple[Values, ...]
"""One row for each of `CHANCES`."""

RATES: Final[Values] = tuple(0.005 * 1.04**index for index in range(288))
"""Rates that are considered, in requests per second: from one in three minutes to 380."""
CHANCES: Final[Values] = (0.003, 0.03, 0.12)
"""Shares of the requests that may be refused by chance."""
PRIOR_OF_CHANCES: Final[Values] = (0.6, 0.2, 0.2)
"""Probability of each share before anything was refused."""
MAX_AT_ONCE: Final = 32
"""The largest number of calls at once that is considered."""
PRIOR_OF_AT_ONCE: Final = 0.1
"""Odds, before anything was refused, that the limit is one of the number at once and not one of the rate."""
MIN_ODDS, MAX_ODDS = 1e-6, 1e4
"""Bounds of the odds of a number at once, so that later evidence can change them."""
UNLIKELY: Final = 1e-3
"""Prior weight of a rate that is higher than what was accepted at the beginning."""
MIN_ACCEPTED: Final = 0.01
"""Probability that a request is accepted though the limit is reached, for servers that differ from the model."""
LEVEL_PRECISION: Final = 0.15
"""Requests by which a level may be wrong, since times are inexact and rates lie between those of the grid."""
CHANGES_PER_S: Final = 0.005
"""How often a limit is expected to change to any other rate."""
MAX_CHANGE: Final = 0.5
"""The largest probability of a change between two requests."""
CLUSTERED_FROM, CLUSTERED_CHANCE = 2, 0.5
"""After so many refusals in a row, another has at least this probability: they are not independent of each other."""
OUTAGE_FROM: Final = 4
"""Refusals in a row after which an acceptance may mean that the limit is what it was before them."""
COUNT_FROM: Final = 2
"""Refusals in a row whose end is the end of a window, or a moment at which a bucket was empty."""
COUNT_DEVIATION: Final = 2.0
"""Standard deviation of the number of requests accepted between two such moments."""
MAX_COUNTED: Final = 40
"""A larger number tells less than the requests themselves, and an outage may have been in between."""
MIN_COUNT_WEIGHT: Final = 0.01
"""Least factor of the weight of a rate that such a number contradicts."""
REFUSAL_MARGIN: Final = 1.1
"""A request that is not refused within this many times the latency of a refusal was accepted."""
LATENCY_WEIGHT: Final = 0.3
"""Weight of the latest refusal in the moving average of their latency."""
MAX_GROWTH: Final = 2.0
"""The next request is sent at no more than this many times a rate at which requests were accepted."""
FIRST_RATE_PER_S: Final = 2.0
"""The rate that `MAX_GROWTH` refers to in the beginning."""
MAX_PLANNED_BURST: Final = 1.5
"""Requests that may be sent at once, as far as the burst of the limit permits."""
MAX_PROBABILITY: Final = 0.5
"""The largest probability of being accepted that a request waits for."""
GOLDEN_RATIO: Final = (1 + 5**0.5) / 2
"""Multiples of it, modulo 1, are spread evenly whatever their number."""
BLOCKED_FROM, BLOCKED_SHARE = 3, 0.4
"""After so many refusals in a row, requests wait for at least this share of the time for which nothing was accepted."""
MAX_BLOCKED_SHARE: Final = 0.6
"""And after `OUTAGE_FROM`, for at most this share, so that the end of an outage is noticed."""
MAX_BLOCKED_WAIT_S: Final = 60.0
"""The longest such wait."""
MAX_REPLAYED: Final = 16
"""Pending requests that are replayed after a refusal; earlier ones hardly matter to the levels."""
NEGLIGIBLE: Final = 1e-6
"""Rates with less weight are left out where the next request is planned."""


class Pending(NamedTuple):
    """A request that may still be refused.

    Parameters
    ----------
    sent_at
        When it was sent.
    others
        Requests in flight then that the provider counted; ``None`` if that is not known.
    """

    sent_at: float
    others: int | None


class RateEstimate(NamedTuple):
    """The posterior of a limit, and what it was computed from.

    Parameters
    ----------
    weights
        Probability of each rate, for each share of refusals by chance.
    at_once_odds
        Odds of each number of calls at once against all rates.
    bursts, planned_bursts
        What a bucket of each rate holds at most, and how much of it is used.
    start
        Requests sent earlier are not part of the estimate.
    levels, planned_levels, resolved_at
        What each bucket held after the last request whose outcome is known, by either burst, and when that was sent.
    next_levels, next_at
        What each bucket holds at a later time, by the burst that is used, if all pending requests are accepted.
    pending
        Requests whose outcome is not known, in the order in which they were sent.
    refusal_s
        Latency of a refusal.
    known_from
        Since when it is known which requests in flight will be refused.
    tested_per_s
        The highest rate at which requests were accepted.
    refused_in_row, weights_before
        Refusals since the last acceptance, and the weights before them.
    accepted_at
        When the last request was sent that was accepted.
    counted_from, counted
        When the first request after refusals in a row was accepted, and requests accepted since; ``None`` before.
    planned
        Requests planned so far.
    """

    weights: Rows
    at_once_odds: Rows
    bursts: Values
    planned_bursts: Values
    start: float
    levels: Values
    planned_levels: Values
    resolved_at: float
    next_levels: Values
    next_at: float
    pending: tuple[Pending, ...]
    refusal_s: float
    known_from: float
    tested_per_s: float = FIRST_RATE_PER_S
    refused_in_row: int = 0
    weights_before: Rows = ()
    accepted_at: float = 0.0
    counted_from: float | None = None
    counted: int = 0
    planned: int = 0


def initial_estimate(now: float, accepted: float, elapsed_s: float, refusal_s: float) -> RateEstimate:
    """Return the estimate after a provider has accepted some requests in a time and refused the next ones.

    Parameters
    ----------
    accepted, elapsed_s
        The number of requests accepted, and the seconds in which they were sent.
    refusal_s
        Latency of the refusals in seconds.

    Examples
    --------
    >>> estimate = initial_estimate(now=1.0, accepted=3, elapsed_s=0.1, refusal_s=0.05)
    >>> round(min(estimate.bursts), 1), round(max(estimate.bursts), 1)
    (1.0, 3.0)
    """
    max_rate_per_s = (accepted + 0.5) / max(elapsed_s, 1e-3)
    prior = [1.0 if rate <= max_rate_per_s else UNLIKELY for rate in RATES]
    bursts = tuple([max(1.0, accepted - rate * elapsed_s) for rate in RATES])
    empty = (0.0,) * len(RATES)
    return RateEstimate(
        weights=_normalised([[share * weight for weight in prior] for share in PRIOR_OF_CHANCES]),
        at_once_odds=tuple([(PRIOR_OF_AT_ONCE * share / MAX_AT_ONCE,) * MAX_AT_ONCE for share in PRIOR_OF_CHANCES]),
        bursts=bursts,
        planned_bursts=tuple([min(burst, MAX_PLANNED_BURST) for burst in bursts]),
        start=now,
        levels=empty,
        planned_levels=empty,
        resolved_at=now,
        next_levels=empty,
        next_at=now,
        pending=(),
        refusal_s=refusal_s,
        known_from=now + REFUSAL_MARGIN * refusal_s,
        accepted_at=now,
    )


# Requests and refusals


def on_request(estimate: RateEstimate, now: float, others: int) -> RateEstimate:
    """Return the estimate after a request was sent with so many others in flight."""
    pending, known_until = estimate.pending, now - REFUSAL_MARGIN * estimate.refusal_s
    while pending and pending[0].sent_at <= known_until:
        estimate = _on_accepted(estimate, pending[0])
        pending = pending[1:]
    levels = _take(_refill(estimate.next_levels, estimate.planned_bursts, now - estimate.next_at))
    request = Pending(now, others if now >= estimate.known_from else None)
    return estimate._replace(next_levels=levels, next_at=now, pending=(*pending, request), planned=estimate.planned + 1)


def on_answer(estimate: RateEstimate, now: float, sent_at: float) -> RateEstimate:
    """Return the estimate after a request was answered that was sent at a time, if it ends a long row of refusals."""
    pending = estimate.pending
    if estimate.refused_in_row < BLOCKED_FROM or not pending or pending[0].sent_at != sent_at:
        return estimate
    levels = _refill(estimate.next_levels, estimate.planned_bursts, now - estimate.next_at)
    return _on_accepted(estimate, pending[0])._replace(pending=pending[1:], next_levels=levels, next_at=now)


def on_refusal(estimate: RateEstimate, now: float, sent_at: float) -> RateEstimate:
    """Return the estimate after the refusal of a request sent at a time; those sent before it were accepted."""
    pending, others = estimate.pending, None
    while pending and pending[0].sent_at < sent_at:
        estimate = _on_accepted(estimate, pending[0])
        pending = pending[1:]
    if pending and pending[0].sent_at == sent_at:
        others, pending = pending[0].others, pending[1:]
    estimate = _on_refused(estimate, Pending(sent_at, others))
    # The provider does not count a refused request among those in flight.
    pending = tuple([Pending(at, None if others is None else others - 1) for at, others in pending])
    levels, at = estimate.planned_levels, estimate.resolved_at
    for request in pending[-MAX_REPLAYED:]:
        levels = _take(_refill(levels, estimate.planned_bursts, request.sent_at - at))
        at = request.sent_at
    return estimate._replace(
        pending=pending,
        next_levels=_refill(levels, estimate.planned_bursts, now - at),
        next_at=now,
        refusal_s=estimate.refusal_s + LATENCY_WEIGHT * (now - sent_at - estimate.refusal_s),
        planned=estimate.planned + 1,
    )


def _on_refused(estimate: RateEstimate, request: Pending) -> RateEstimate:
    """Learn from the refusal of the first pending request."""
    elapsed_s = max(request.sent_at - estimate.resolved_at, 0.0)
    levels = _refill(estimate.levels, estimate.bursts, elapsed_s)
    prior = _changed(estimate.weights, elapsed_s)
    in_row = estimate.refused_in_row
    least_chance = CLUSTERED_CHANCE if in_row >= CLUSTERED_FROM else 0.0
    accepted = _acceptance(levels)
    weights = []
    for chance, row in zip(CHANCES, prior, strict=True):
        reliable = 1 - max(chance, least_chance)
        weights.append([weight * (1 - reliable * each) for weight, each in zip(row, accepted, strict=True)])
    return estimate._replace(
        weights=_normalised(weights),
        at_once_odds=_at_once_odds(estimate, request.others, _total(weights) / _total(prior), is_refused=True),
        levels=levels,
        planned_levels=_refill(estimate.planned_levels, estimate.planned_bursts, elapsed_s),
        resolved_at=max(request.sent_at, estimate.resolved_at),
        refused_in_row=in_row + 1,
        weights_before=estimate.weights_before if in_row else prior,
    )


def _on_accepted(estimate: RateEstimate, request: Pending) -> RateEstimate:
    """Learn from the acceptance of the first pending request."""
    elapsed_s = max(request.sent_at - estimate.resolved_at, 0.0)
    levels = _refill(estimate.levels, estimate.bursts, elapsed_s)
    prior = _changed(estimate.weights, elapsed_s)
    if estimate.refused_in_row >= OUTAGE_FROM:
        # Either the limit is as low as the refusals say, or an outage is over.
        prior = tuple(
            [
                tuple([(one + other) / 2 for one, other in zip(row, before, strict=True)])
                for row, before in zip(prior, estimate.weights_before, strict=True)
            ]
        )
    accepted = _acceptance(levels)
    weights = []
    for chance, row in zip(CHANCES, prior, strict=True):
        reliable = 1 - chance
        weights.append([weight * reliable * each for weight, each in zip(row, accepted, strict=True)])
    odds = _at_once_odds(estimate, request.others, _total(weights) / _total(prior), is_refused=False)
    counted_from, counted = estimate.counted_from, estimate.counted
    if estimate.refused_in_row >= COUNT_FROM:
        if counted_from is not None and counted <= MAX_COUNTED:
            factors = _count_factors(counted, request.sent_at - counted_from)
            weights = [[weight * factor for weight, factor in zip(row, factors, strict=True)] for row in weights]
        counted_from, counted = request.sent_at, 0
    tested_per_s = estimate.tested_per_s
    if elapsed_s:
        tested_per_s = max(tested_per_s, min(1 / elapsed_s, MAX_GROWTH * tested_per_s))
    return estimate._replace(
        weights=_normalised(weights),
        at_once_odds=odds,
        levels=_take(levels),
        planned_levels=_take(_refill(estimate.planned_levels, estimate.planned_bursts, elapsed_s)),
        resolved_at=max(request.sent_at, estimate.resolved_at),
        tested_per_s=tested_per_s,
        refused_in_row=0,
        accepted_at=request.sent_at,
        counted_from=counted_from,
        counted=counted + 1,
    )


def _at_once_odds(estimate: RateEstimate, others: int | None, probability_by_rate: float, *, is_refused: bool) -> Rows:
    """Return the odds of each number at once, compared with the probability of the outcome if a rate is the limit."""
    if others is None:
        return estimate.at_once_odds
    rows = []
    for chance, row in zip(CHANCES, estimate.at_once_odds, strict=True):
        below = (chance if is_refused else 1 - chance) / probability_by_rate
        above = (1 - MIN_ACCEPTED if is_refused else MIN_ACCEPTED) / probability_by_rate
        # A number up to that of the others was exceeded by the request.
        rows.append([each * above for each in row[:others]] + [each * below for each in row[others:]])
    scale = min(1.0, MAX_ODDS / max(map(max, rows)))
    return tuple([tuple([max(scale * each, MIN_ODDS) for each in row]) for row in rows])


def _count_factors(accepted: int, elapsed_s: float) -> list[float]:
    """Return how well each rate explains the number of requests accepted in a time: a window fits no bucket."""
    return [max(MIN_COUNT_WEIGHT, exp(-0.5 * ((accepted - rate * elapsed_s) / COUNT_DEVIATION) ** 2)) for rate in RATES]


# What follows from the estimate


class PlannedRequest(NamedTuple):
    """When the next request is to be sent.

    Parameters
    ----------
    rate_per_s
        The median of the rate, in requests per second.
    wait_s
        Seconds from the last request or refusal.
    """

    rate_per_s: float
    wait_s: float


def next_request(estimate: RateEstimate) -> PlannedRequest:
    """Return when the next request is to be sent.

    Examples
    --------
    >>> estimate = initial_estimate(now=0.0, accepted=1, elapsed_s=0.01, refusal_s=0.001)
    >>> accepted_at = 0.0
    >>> for _ in range(100):  # by a server that accepts two a second
    ...     now = estimate.next_at + next_request(estimate).wait_s
    ...     estimate = on_request(estimate, now, others=0)
    ...     if now >= accepted_at + 0.5:
    ...         accepted_at = now
    ...     else:
    ...         estimate = on_refusal(estimate, now + 0.001, sent_at=now)
    >>> 1.9 < next_request(estimate).rate_per_s < 2.1
    True
    """
    now, weights = estimate.next_at, _marginal(estimate.weights)
    waits = sorted(
        [
            ((1.0 - level) / rate, weight)
            for level, rate, weight in zip(estimate.next_levels, RATES, weights, strict=True)
            if weight > NEGLIGIBLE
        ]
    )
    probability = MAX_PROBABILITY * (estimate.planned * GOLDEN_RATIO % 1.0)
    wait_s = _quantile(waits, probability)
    sent_at = estimate.pending[-1].sent_at if estimate.pending else -inf
    least_s = sent_at + 1 / (MAX_GROWTH * estimate.tested_per_s) - now
    blocked_s = now - estimate.accepted_at
    if estimate.refused_in_row >= BLOCKED_FROM:
        least_s = max(least_s, min(BLOCKED_SHARE * blocked_s, MAX_BLOCKED_WAIT_S))
    if estimate.refused_in_row >= OUTAGE_FROM:
        wait_s = min(wait_s, MAX_BLOCKED_SHARE * blocked_s)
    return PlannedRequest(_quantile(zip(RATES, weights, strict=True), 0.5), max(wait_s, least_s, 0.0))


def _quantile(weighted: Iterable[tuple[float, float]], probability: float) -> float:
    """Return the first of sorted values, each with its weight, up to which the weights are a probability."""
    total = value = 0.0
    for value, weight in weighted:  # noqa: B007 - used after the loop
        total += weight
        if total >= probability:
            break
    return value


def max_at_once(estimate: RateEstimate, min_probability: float) -> int | None:
    """Return the number of calls at once that is the limit with at least a probability, or ``None``.

    Examples
    --------
    >>> estimate = initial_estimate(now=0.0, accepted=2, elapsed_s=0.01, refusal_s=0.001)
    >>> max_at_once(estimate, 0.9) is None
    True
    >>> for now in range(1, 9):  # refused if two others are in flight, accepted otherwise
    ...     estimate = on_request(estimate, now, now % 3)
    ...     if now % 3 == 2:
    ...         estimate = on_refusal(estimate, now + 0.001, now)
    >>> max_at_once(estimate, 0.9)
    2
    """
    odds = _marginal(estimate.at_once_odds)
    largest = max(odds)
    return odds.index(largest) + 1 if largest >= min_probability * (1 + sum(odds)) else None


# Arithmetic of rows


def _refill(levels: Values, bursts: Values, elapsed_s: float) -> Values:
    if elapsed_s <= 0:
        return levels
    return tuple(
        [
            level if (level := before + rate * elapsed_s) < burst else burst
            for before, rate, burst in zip(levels, RATES, bursts, strict=True)
        ]
    )


def _take(levels: Values) -> Values:
    """Take a request from each bucket; one that was accepted has left no debt."""
    return tuple([level - 1.0 if level > 1.0 else 0.0 for level in levels])


def _acceptance(levels: Values) -> list[float]:
    """Return the probability that a request is accepted at a level, refusals by chance left aside."""
    least = 1.0 - LEVEL_PRECISION * (1.0 - MIN_ACCEPTED)
    return [
        1.0 if level >= 1.0 else MIN_ACCEPTED if level <= least else 1.0 - (1.0 - level) / LEVEL_PRECISION
        for level in levels
    ]


def _changed(weights: Rows, elapsed_s: float) -> Rows:
    """Return the weights after a time in which the limit may have changed to any rate."""
    change = min(CHANGES_PER_S * elapsed_s, MAX_CHANGE)
    unchanged, rows = 1 - change, []
    for row in weights:
        changed_to_each = change * sum(row) / len(row)
        rows.append(tuple([unchanged * weight + changed_to_each for weight in row]))
    return tuple(rows)


def _marginal(rows: Rows) -> list[float]:
    return [first + second + third for first, second, third in zip(*rows, strict=True)]


def _total(rows: Sequence[Sequence[float]]) -> float:
    return sum([sum(row) for row in rows])


def _normalised(rows: Sequence[Sequence[float]]) -> Rows:
    total = _total(rows)
    return tuple([tuple([weight / total for weight in row]) for row in rows])
