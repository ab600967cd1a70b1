"""The estimate of a rate: laws of the posterior, and what it finds against servers that are followed by hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.engine.adaptive_limit import (
    MAX_IN_FLIGHT,
    AdaptiveState,
    RefusedRequest,
    on_pace_wait,
    on_paced_request,
    on_rate_limited,
    slow_start,
)
from llmhub.engine.rate_estimate import (
    CHANCES,
    MAX_AT_ONCE,
    RATES,
    RateEstimate,
    initial_estimate,
    max_at_once,
    next_request,
    on_answer,
    on_refusal,
    on_request,
)

Accepts = Callable[[float], bool]
steps = st.lists(st.tuples(st.floats(0, 5), st.booleans(), st.integers(0, 40), st.floats(0, 1)), max_size=60)


def follow(estimate: RateEstimate, accepts: Accepts, requests: int) -> tuple[RateEstimate, int]:
    """Send requests when they are due, refused at once, and return the estimate and how many were accepted."""
    accepted = 0
    for _ in range(requests):
        now = estimate.next_at + next_request(estimate).wait_s
        estimate = on_request(estimate, now, 0)
        if accepts(now):
            accepted += 1
            estimate = on_answer(estimate, now + 0.001, now)
        else:
            estimate = on_refusal(estimate, now + 0.001, now)
    return estimate, accepted


def bucket(rate_per_s: float, burst: float, chance: float = 0.0) -> Accepts:
    """Return a server that is a token bucket, which is empty at first, and refuses a share by chance besides."""
    level, updated_at, draw = 0.0, 0.0, random.Random(1)

    def accepts(now: float) -> bool:
        nonlocal level, updated_at
        level, updated_at = min(burst, level + (now - updated_at) * rate_per_s), now
        if draw.random() < chance or level < 1 - 1e-9:
            return False
        level -= 1
        return True

    return accepts


@given(steps, st.integers(1, 8), st.floats(0, 1), st.floats(0, 2))
def test_weights_are_a_distribution_whatever_happens(
    steps: list[tuple[float, bool, int, float]], accepted: int, elapsed_s: float, refusal_s: float
) -> None:
    estimate, now = initial_estimate(0.0, accepted, elapsed_s, refusal_s), 0.0
    for gap, is_refused, others, latency_s in steps:
        now += gap
        estimate = on_request(estimate, now, others)
        if is_refused:
            estimate = on_refusal(estimate, now + latency_s, now)
            now += latency_s
        assert sum(map(sum, estimate.weights)) == pytest.approx(1.0)
        assert [len(row) for row in estimate.weights] == [len(RATES)] * len(CHANCES)
        assert all(weight >= 0 for row in estimate.weights for weight in row)
        for levels, bursts in ((estimate.levels, estimate.bursts), (estimate.next_levels, estimate.planned_bursts)):
            assert all(0 <= level <= burst for level, burst in zip(levels, bursts, strict=True))
        rate_per_s, wait_s = next_request(estimate)
        assert RATES[0] <= rate_per_s <= RATES[-1]
        assert wait_s >= 0
        assert isfinite(wait_s)
        assert max_at_once(estimate, 0.5) in {None, *range(1, MAX_AT_ONCE + 1)}


@given(st.floats(0.05, 20), st.integers(1, 30))
def test_a_refusal_never_makes_the_next_request_come_sooner_than_an_acceptance(gap: float, requests: int) -> None:
    """Of two runs that differ in the last reply, the one that was refused has the lower rate."""
    estimate = initial_estimate(0.0, 2, 0.05, 0.001)
    for number in range(1, requests + 1):
        estimate = on_request(estimate, number * gap, 0)
    now = estimate.next_at
    refused = on_refusal(estimate, now + 0.001, now)
    accepted = on_request(estimate, now + 0.01, 0)
    assert next_request(refused).rate_per_s <= next_request(accepted).rate_per_s


@pytest.mark.parametrize("rate_per_s", [0.05, 0.7, 4.0, 30.0, 200.0])
@pytest.mark.parametrize("burst", [1.0, 4.0])
def test_the_rate_of_a_bucket_is_found(rate_per_s: float, burst: float) -> None:
    estimate, _ = follow(initial_estimate(0.0, burst, 0.01, 0.001), bucket(rate_per_s, burst), 150)
    assert next_request(estimate).rate_per_s == pytest.approx(rate_per_s, rel=0.06)
    start = estimate.next_at
    after, accepted = follow(estimate, bucket(rate_per_s, burst), 300)
    assert accepted >= 0.9 * rate_per_s * (after.next_at - start)


@pytest.mark.parametrize("chance", [0.02, 0.1])
def test_refusals_by_chance_do_not_slow_it_down(chance: float) -> None:
    estimate, _ = follow(initial_estimate(0.0, 1, 0.01, 0.001), bucket(4.0, 1.0, chance), 200)
    assert next_request(estimate).rate_per_s == pytest.approx(4.0, rel=0.1)


def test_a_limit_that_is_raised_or_lowered_is_found_again() -> None:
    estimate, _ = follow(initial_estimate(0.0, 1, 0.01, 0.001), bucket(4.0, 1.0), 200)
    raised, _ = follow(estimate, bucket(40.0, 1.0), 400)
    assert next_request(raised).rate_per_s == pytest.approx(40.0, rel=0.1)
    lowered, _ = follow(raised, bucket(2.0, 1.0), 200)
    assert next_request(lowered).rate_per_s == pytest.approx(2.0, rel=0.1)


def test_after_an_outage_the_rate_is_that_of_before() -> None:
    """The end of an outage is noticed within as much time again."""
    estimate, _ = follow(initial_estimate(0.0, 1, 0.01, 0.001), bucket(4.0, 1.0), 200)
    end = estimate.next_at + 60.0
    requests = 0
    while estimate.next_at < end:
        estimate, _ = follow(estimate, lambda _: False, 1)
        requests += 1
    assert requests <= 30
    after, _ = follow(estimate, bucket(4.0, 1.0), 40)
    assert after.next_at - end <= 60.0 + 1.5 * 40 / 4.0


def test_what_is_in_flight_is_told_from_a_rate() -> None:
    estimate, draw = initial_estimate(0.0, 3, 0.01, 0.001), random.Random(2)
    for number in range(1, 60):
        others = draw.randrange(6)
        estimate = on_request(estimate, float(number), others)
        if others >= 3:
            estimate = on_refusal(estimate, number + 0.001, float(number))
    assert max_at_once(estimate, 0.95) == 3


def test_a_refused_request_does_not_count_among_those_in_flight() -> None:
    """Each request is sent while the refusal of the one before is on its way."""
    estimate = initial_estimate(0.0, 1, 0.01, 0.5)
    for number in range(2, 100):
        now = float(number)
        estimate = on_request(estimate, now, 1)  # refused: one is in flight
        estimate = on_request(estimate, now + 0.1, 1)  # accepted: the refused one is all there is
        estimate = on_refusal(estimate, now + 0.5, now)
    assert [others for _, others in estimate.pending] == [0]
    assert max_at_once(estimate, 0.9) == 1


def crowd_of(accepted: int) -> AdaptiveState:
    """Return the state after a provider accepted a few requests and refused the next ten."""
    state = slow_start(0.0)
    for number in range(1, 11):
        refusal = RefusedRequest(0.01, float(accepted + number), float(accepted + 10), 10 - number, others=accepted)
        state, _ = on_rate_limited(state, 0.02, refusal)
    return state


def test_a_provider_that_accepts_few_requests_at_once_is_measured_by_an_estimate() -> None:
    assert crowd_of(3).estimate is not None
    assert crowd_of(300).estimate is None


def crowd_followed_by(accepts: Accepts, requests: int) -> tuple[AdaptiveState, int]:
    """Send requests when the pace permits them, until one is refused or there is no estimate; return how many."""
    state, now = crowd_of(3), 0.02
    for sent in range(1, requests + 1):
        assert state.pace is not None
        now = max(now, state.pace.updated_at) + max(0.0, 1.0 - state.pace.level) / state.pace.rate_per_s
        state = on_paced_request(on_pace_wait(state), state.pace, now, 0)
        if state.estimate is None:
            return state, sent
        if not accepts(now):
            number = 13.0 + sent
            state, _ = on_rate_limited(state, now + 0.001, RefusedRequest(now, number, number, 0, others=0))
            if state.estimate is None:
                return state, sent
    return state, requests


def test_a_rate_above_those_that_are_estimated_is_left_to_the_pace_once_it_is_refused() -> None:
    state, sent = crowd_followed_by(bucket(340.0, 3.0), 1_000)
    assert sent < 1_000
    assert state.pace is not None
    assert state.pace.rate_per_s == pytest.approx(340.0, rel=0.1)


def test_a_rate_above_all_of_the_grid_is_not_held_at_the_highest_of_them() -> None:
    state, sent = crowd_followed_by(lambda _: True, 1_000)
    assert sent < 1_000
    assert (state.estimate, state.pace) == (None, None)


def test_a_long_retry_after_is_waited_for_if_nothing_was_accepted_before() -> None:
    state, pauses = crowd_of(3), []
    for number in range(1, 4):
        assert state.pace is not None
        now = 0.5 * number
        state = on_paced_request(state, state.pace, now, 0)
        sent = 13.0 + number
        state, pause_s = on_rate_limited(state, now + 0.01, RefusedRequest(now, sent, sent, 0, 20.0, others=0))
        pauses.append(pause_s)
    assert pauses == [None, pytest.approx(20.0, abs=0.1), pytest.approx(20.0, abs=0.1)]


def test_the_number_in_flight_is_limited_where_that_is_the_limit() -> None:
    state, now, sent = crowd_of(2), 1.0, 12.0
    for number in range(40):
        assert state.pace is not None
        others = number % 4
        if others >= state.window:
            continue
        now += 1.0
        sent += 1
        state = on_paced_request(state, state.pace, now, others)
        if others >= 2:
            state, _ = on_rate_limited(state, now + 0.01, RefusedRequest(now, sent, sent, others, others=others))
    assert state.window == 2.0 < MAX_IN_FLIGHT
