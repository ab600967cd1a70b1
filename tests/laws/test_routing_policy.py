from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import (
    AuthFailed,
    BadRequestError,
    ContextTooLong,
    LLMError,
    RateLimited,
    ServerError,
    is_transient,
)
from llmhub.engine.routing_policy import (
    COOLDOWN_S,
    MAX_COOLDOWN_S,
    MIN_LATENCY_SAMPLES,
    NO_STATS,
    REACTIONS,
    CandidateStats,
    CostOptimized,
    Failover,
    Hedge,
    LowLatency,
    RoundRobin,
    Route,
    RoutingStats,
    Weighted,
    by_cost,
    by_latency,
    by_rotation,
    by_weight,
    hedge_delay_s,
    in_order,
    most_retryable,
    on_abandoned,
    on_failure,
    on_start,
    on_success,
)

Rank = Callable[[Sequence[str], RoutingStats], Sequence[str]]
NAMES = ["a", "b", "c", "d"]
WEIGHTS = {"a": 5.0, "b": 3.0, "c": 1.5, "d": 0.5}
seconds = st.floats(0, 100)
usd = st.none() | st.floats(0, 1e-4)
measurements = st.builds(
    CandidateStats,
    latency_s=st.none() | st.floats(0.001, 60),
    measured_at=seconds,
    in_flight=st.integers(0, 100),
    consecutive_failures=st.integers(0, 3),
    cooldown_until=st.just(-inf) | seconds,
    retry_after_until=st.just(-inf) | seconds,
    output_tokens=st.none() | st.floats(0, 5000),
    input_usd=usd,
    output_usd=usd,
)
statistics = st.builds(
    RoutingStats,
    candidates=st.dictionaries(st.sampled_from(NAMES), measurements),
    now=seconds,
    turn=st.integers(0, 1000),
    draw=st.floats(0, 1, exclude_max=True),
    input_tokens=st.integers(0, 10_000),
    max_tokens=st.none() | st.integers(1, 10_000),
)
candidates = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)


def weighted(names: Sequence[str], stats: RoutingStats) -> Sequence[str]:
    return by_weight(WEIGHTS, names, stats)


RANKS = [in_order, by_rotation, by_latency, by_cost, weighted]


@pytest.mark.parametrize("rank", RANKS)
@given(candidates, statistics)
def test_ranking_is_a_permutation_with_cooling_candidates_last(
    rank: Rank, names: list[str], stats: RoutingStats
) -> None:
    ranked = list(rank(names, stats))
    assert sorted(ranked) == sorted(names)
    assert ranked == list(rank(names, stats)), "it is a function of its arguments"
    cooling = [stats.is_cooling_down(name) for name in ranked]
    assert cooling == sorted(cooling)


@given(candidates, statistics)
def test_failover_keeps_the_order_of_available_candidates(names: list[str], stats: RoutingStats) -> None:
    ranked = list(in_order(names, stats))
    assert [name for name in ranked if not stats.is_cooling_down(name)] == [
        name for name in names if not stats.is_cooling_down(name)
    ]


@given(candidates, statistics)
def test_rotation_is_even(names: list[str], stats: RoutingStats) -> None:
    available = [name for name in names if not stats.is_cooling_down(name)]
    turns = [RoutingStats(stats.candidates, stats.now, stats.turn + more) for more in range(len(available) * 3)]
    assert Counter(by_rotation(names, turn)[0] for turn in turns) == dict.fromkeys(available, 3)


@given(candidates, statistics)
def test_by_latency_prefers_the_faster_and_less_busy(names: list[str], stats: RoutingStats) -> None:
    def load(name: str) -> float:
        return stats.latency_s(name) ** 2 * (stats[name].in_flight + 1)

    available = [name for name in names if not stats.is_cooling_down(name)]
    first = by_latency(names, stats)[0]
    if len(available) > 1:
        # Any candidate may be first but the worst.
        assert sum(load(first) <= load(name) for name in available) >= 2
    pair_count = len(available) * (len(available) - 1)
    draws = [RoutingStats(stats.candidates, stats.now, 0, (pair + 0.5) / pair_count) for pair in range(pair_count)]
    if available:
        best = min(load(name) for name in available)
        assert not draws or any(load(by_latency(names, drawn)[0]) == best for drawn in draws)


@given(candidates, statistics)
def test_by_cost_ranks_cheapest_first_and_unpriced_last(names: list[str], stats: RoutingStats) -> None:
    for part in (True, False):
        ranked = [name for name in by_cost(names, stats) if stats.is_cooling_down(name) is part]
        worth = [inf if stats.expected_cost_usd(name) is None else stats.expected_cost_usd(name) for name in ranked]
        assert worth == sorted(worth, key=float)  # type: ignore[arg-type]


def test_expected_cost_counts_input_and_output() -> None:
    stats_of_a = CandidateStats(input_usd=2.0, output_usd=10.0, output_tokens=7.0)
    assert RoutingStats({"a": stats_of_a}, input_tokens=5).expected_cost_usd("a") == 5 * 2 + 7 * 10
    assert RoutingStats({"a": stats_of_a}, input_tokens=5, max_tokens=3).expected_cost_usd("a") == 5 * 2 + 3 * 10
    assert RoutingStats({"a": CandidateStats(input_usd=2.0)}).expected_cost_usd("a") is None
    # Long inputs go where input tokens are cheap, long outputs where output tokens are.
    stats = {"in": CandidateStats(input_usd=1.0, output_usd=9.0), "out": CandidateStats(input_usd=2.0, output_usd=1.0)}
    assert by_cost(["in", "out"], RoutingStats(stats, input_tokens=10_000, max_tokens=1))[0] == "in"
    assert by_cost(["in", "out"], RoutingStats(stats, input_tokens=1, max_tokens=1000))[0] == "out"


@given(candidates)
def test_by_weight_distributes_in_proportion(names: list[str]) -> None:
    draws = 400
    firsts = Counter(weighted(names, RoutingStats(draw=(at + 0.5) / draws))[0] for at in range(draws))
    total_weight = sum(WEIGHTS[name] for name in names)
    for name in names:
        assert abs(firsts[name] / draws - WEIGHTS[name] / total_weight) < 2 / draws


# Statistics

errors = st.sampled_from([kind() for kind in get_args(LLMError)]) | st.builds(RateLimited, retry_after_s=seconds)
events = st.lists(st.tuples(st.floats(0, 5), st.none() | errors | st.just("left"), st.floats(0, 10)), max_size=30)


@given(events)
def test_counts_add_up_and_cooldowns_end(happened: list[tuple[float, Any, float]]) -> None:
    measured, now = NO_STATS, 0.0
    for gap_s, end, latency_s in happened:
        now += gap_s
        measured = on_start(measured)
        if end == "left":
            measured = on_abandoned(measured, latency_s, now)
        elif end is None:
            measured = on_success(measured, latency_s, 10, now)
            assert measured.consecutive_failures == 0
            assert not RoutingStats({"a": measured}, now=max(now, measured.retry_after_until)).is_cooling_down("a")
        else:
            before = measured
            measured = on_failure(measured, end, now)
            asked_s = end.retry_after_s or 0.0
            if REACTIONS[type(end)].cools_down:
                assert RoutingStats({"a": measured}, now=now).is_cooling_down("a")
                assert measured.retry_after_until >= now + asked_s
                assert measured.cooldown_until <= now + MAX_COOLDOWN_S
            else:
                assert (measured.consecutive_failures, measured.cooldown_until) == (
                    before.consecutive_failures,
                    before.cooldown_until,
                )
        if measured.latency_s is not None:
            assert 0 <= measured.latency_s <= 10
    assert measured.in_flight == 0
    ends = Counter("left" if end == "left" else end is None for _, end, _ in happened)
    assert (measured.success_count, measured.failure_count) == (ends[True], ends[False])
    assert not RoutingStats({"a": measured}, now=now + max(MAX_COOLDOWN_S, 100.0)).is_cooling_down("a")


def test_cooldowns_double_and_failures_during_one_count_once() -> None:
    measured, now, rests = NO_STATS, 0.0, []
    for _ in range(9):
        for _ in range(64):  # all in flight
            measured = on_failure(on_start(measured), ServerError(), now)
        rests.append(measured.cooldown_until - now)
        now = measured.cooldown_until
    assert rests == [min(MAX_COOLDOWN_S, COOLDOWN_S * 2.0**n) for n in range(9)]


def test_one_call_probes_a_failed_candidate() -> None:
    measured = on_failure(on_start(NO_STATS), ServerError(), 0.0)
    assert RoutingStats({"a": measured}, now=COOLDOWN_S / 2).is_cooling_down("a")
    assert not RoutingStats({"a": measured}, now=COOLDOWN_S).is_cooling_down("a")
    assert RoutingStats({"a": on_start(measured)}, now=COOLDOWN_S).is_cooling_down("a")


def test_retry_after_outlasts_a_success() -> None:
    measured = on_failure(on_start(on_start(NO_STATS)), RateLimited(retry_after_s=20.0), 0.0)
    measured = on_success(measured, 0.1, 10, 0.05)
    assert RoutingStats({"a": measured}, now=19.9).is_cooling_down("a")
    assert not RoutingStats({"a": measured}, now=20.0).is_cooling_down("a")


def test_latency_decays_with_age() -> None:
    def first(now: float) -> str:
        of = {"slow": CandidateStats(latency_s=8.0), "quick": CandidateStats(latency_s=1.0, measured_at=now)}
        return by_latency(["slow", "quick"], RoutingStats(of, now))[0]

    assert [first(now) for now in (0.0, 20.0, 29.0, 31.0)] == ["quick", "quick", "quick", "slow"]


def test_every_error_has_a_reaction() -> None:
    assert set(REACTIONS) == set(get_args(LLMError))
    assert not any(reaction.cools_down and not reaction.falls_back for reaction in REACTIONS.values())


@given(st.lists(errors, min_size=1))
def test_most_retryable_is_transient_if_any_is(came: list[LLMError]) -> None:
    chosen = came[most_retryable(came)]
    assert is_transient(chosen) == any(map(is_transient, came))
    if is_transient(chosen):
        waits = [error.retry_after_s or 0.0 for error in came if is_transient(error)]
        assert (chosen.retry_after_s or 0.0) == min(waits)
    else:
        assert chosen is came[0]


# Hedges


@given(st.lists(st.floats(0, 100), max_size=200), st.floats(0, 1))
def test_hedge_delay_is_a_quantile_of_the_latencies(latencies_s: list[float], quantile: float) -> None:
    delay_s = hedge_delay_s(Hedge(quantile=quantile), latencies_s)
    assert (delay_s is None) == (len(latencies_s) < MIN_LATENCY_SAMPLES)
    if delay_s is not None:
        assert sum(latency_s <= delay_s for latency_s in latencies_s) >= quantile * len(latencies_s)
    assert hedge_delay_s(Hedge(after_s=3.0), latencies_s) == 3.0


# Invalid routes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Failover, "needs one or more"),
        (lambda: Failover("a/b", "a/b"), "'a/b' is repeated"),
        (lambda: RoundRobin("a/b", fallbacks=-1), "route.fallbacks: must be an integer from 0, not -1"),
        (lambda: LowLatency("a/b", fallbacks=True), "route.fallbacks"),
        (lambda: CostOptimized(3), "needs one or more"),  # type: ignore[arg-type]
        (lambda: Weighted({"a/b": 0}), r"route\['a/b'\]: must be a number above 0, not 0"),
        (lambda: Weighted({"a/b": "much"}), "must be a number above 0"),  # type: ignore[dict-item]
        (lambda: Weighted(["a/b"]), "needs a mapping"),  # type: ignore[arg-type]
        (lambda: Weighted({}), "needs one or more"),
        (lambda: Route(("a/b",), rank="first"), "must be a function"),  # type: ignore[arg-type]
        (lambda: Hedge(after_s=-1), r"hedge.after_s: must be a number of seconds from 0, not -1"),
        (lambda: Hedge(quantile=1.5), r"hedge.quantile: must be a number from 0 to 1, not 1.5"),
    ],
)
def test_invalid_route_names_its_field(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        make()


def test_context_too_long_causes_no_cooldown() -> None:
    assert REACTIONS[ContextTooLong] == (True, False)
    assert REACTIONS[AuthFailed] == (True, True)
