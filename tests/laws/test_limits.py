"""Windows: never more than allowed in any window, in the order of booking, and all that is allowed."""

from __future__ import annotations

from itertools import pairwise
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.engine.limits import FixedWindow, SlidingWindow, TokenBucket, WindowState, refund, take

sizes = st.floats(1, 100)
buckets = st.builds(lambda rate_s, capacity: TokenBucket(rate_s, capacity, capacity, 0.0), st.floats(0.01, 100), sizes)
fixed = st.builds(lambda allowed, window_s: FixedWindow(allowed, window_s, 0.0), sizes, sizes)
sliding = st.builds(SlidingWindow, sizes, sizes, st.just(()), st.just(0.0))
states = buckets | fixed | sliding
gaps = st.just(0.0) | st.floats(0, 40)
arrivals = st.lists(st.tuples(gaps, st.floats(0, 1)), max_size=40)


def max_at_once(state: WindowState) -> float:
    return state.capacity if isinstance(state, TokenBucket) else state.allowed


def permitted(state: WindowState, seconds: float) -> float:
    """Return the most that any ``seconds`` seconds may see: burst + rate x t."""
    match state:
        case TokenBucket():
            return state.capacity + state.rate_per_s * seconds
        case FixedWindow():
            return state.allowed * (2 + floor(seconds / state.window_s))
        case SlidingWindow():
            return state.allowed * (1 + floor(seconds / state.window_s))


def grants(state: WindowState, demand: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Book ``(seconds after the previous, cost)`` pairs; return when each is granted, and its cost."""
    now, granted = 0.0, []
    for gap, cost in demand:
        now += gap
        state, wait = take(state, now, cost)
        assert wait >= 0
        granted.append((now + wait, cost))
    return granted


@given(states, arrivals)
def test_no_window_exceeds_its_allowance(state: WindowState, demand: list[tuple[float, float]]) -> None:
    granted = grants(state, [(gap, share * max_at_once(state)) for gap, share in demand])
    for first, (start, _) in enumerate(granted):
        inside = 0.0
        for at, cost in granted[first:]:
            inside += cost
            assert inside <= permitted(state, max(at - start, 0.0)) * (1 + 1e-6) + 1e-6


@given(states, st.lists(st.tuples(gaps, st.floats(0, 3)), max_size=40))
def test_bookings_are_in_order_whatever_their_cost(state: WindowState, demand: list[tuple[float, float]]) -> None:
    times = [at for at, _ in grants(state, [(gap, share * max_at_once(state)) for gap, share in demand])]
    assert all(later >= earlier - 1e-6 for earlier, later in pairwise(times))


@given(states, st.floats(0, 1))
def test_first_booking_does_not_wait(state: WindowState, share: float) -> None:
    assert take(state, 7.0, share * max_at_once(state))[1] == 0.0


@given(states)
def test_cost_above_the_allowance_is_admitted_alone(state: WindowState) -> None:
    after, wait = take(state, 0.0, 3 * max_at_once(state))
    assert wait == 0.0
    assert take(after, 0.0, max_at_once(state))[1] > 0.0


@pytest.mark.parametrize(
    ("state", "share"),
    [(TokenBucket(1.0, 10.0, 10.0, 0.0), 1.0), (FixedWindow(60, 60.0, 0.0), 1.0), (SlidingWindow(60, 60.0), 0.98)],
)
def test_continuous_demand_uses_the_whole_allowance(state: WindowState, share: float) -> None:
    granted = grants(state, [(0.0, 1.0)] * 1200)
    assert 1200 / granted[-1][0] >= share


@given(states, st.floats(0, 1), st.floats(0, 1))
def test_refund_can_be_taken_again_and_no_more(state: WindowState, share: float, unused: float) -> None:
    cost = share * max_at_once(state)
    booked, _ = take(state, 0.0, cost)
    returned = refund(booked, unused * cost, 0.0)
    left = max_at_once(state) - cost * (1 - unused)
    assert take(returned, 0.0, left * (1 - 1e-6))[1] <= 1e-6
    if left < max_at_once(state) * 0.99:
        assert take(returned, 0.0, left + 0.01 * max_at_once(state))[1] > 0


@pytest.mark.parametrize("state", [FixedWindow(10, 60.0, 0.0), SlidingWindow(10, 60.0)])
def test_refund_of_an_ended_window_changes_nothing(state: WindowState) -> None:
    for at in (0.0, 70.0):
        state, _ = take(state, at, 10.0)
    assert take(refund(state, 10.0, 0.0), 70.0, 1.0)[1] > 0


@pytest.mark.parametrize("state", [FixedWindow(10, 60.0, 0.0), SlidingWindow(10, 60.0), TokenBucket(1, 10.0, 10.0, 0)])
def test_negative_refund_books_the_excess(state: WindowState) -> None:
    state, _ = take(state, 0.0, 1.0)
    assert take(refund(state, -9.0, 0.0), 0.0, 1.0)[1] > 0


def test_clock_going_back_grants_nothing_twice() -> None:
    bucket, _ = take(TokenBucket(1.0, 1.0, 1.0, 100.0), 100.0, 1.0)
    assert take(bucket, 50.0, 1.0) == (TokenBucket(1.0, 1.0, -1.0, 100.0), 51.0)
