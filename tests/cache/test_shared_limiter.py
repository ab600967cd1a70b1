"""The limiter that processes share through a store: every store books alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import llmhub
from llmhub.cache.shared_limiter import (
    MEMBER_TTL_US,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
    WindowBooking,
    memory_limiter,
)
from llmhub.cache.sqlite_limiter import open_limiter
from llmhub.cache.store import StoreError

A, B = Member("job", "a"), Member("job", "b")
SECOND = 1_000_000
TOLERANCE_US = 900_000
"""Time that may pass between two bookings of a test."""


@pytest.fixture(params=["memory", "disk", "redis", "tier"])
def limiter(request: pytest.FixtureRequest, make_cache: Callable[..., Any]) -> Iterator[SharedLimiter]:
    if request.param == "memory":
        yield memory_limiter(lambda: int(time.time() * SECOND))
        return
    store = make_cache(request.param).open()
    yield store.limiter
    store.close()


def rate(seconds: float, burst: float = 0.0, *, name: str = "requests", unused: float = 0.0) -> RateBooking:
    return RateBooking(name, int(seconds * SECOND), int(burst * SECOND), int(unused * SECOND))


def test_bookings_follow_each_other(limiter: SharedLimiter) -> None:
    starts = [limiter.book("s", member, [rate(10)]).start_us / SECOND for member in (A, B, A)]
    assert starts == pytest.approx([0, 10, 20], abs=TOLERANCE_US / SECOND)
    assert limiter.book("s", A, [rate(1, name="other")]).start_us == 0


def test_a_burst_is_granted_once(limiter: SharedLimiter) -> None:
    starts = [limiter.book("s", A, [rate(10, burst=5)]).start_us / SECOND for _ in range(2)]
    assert starts == pytest.approx([-5, 5], abs=TOLERANCE_US / SECOND)


def test_limits_are_booked_together_from_the_latest_of_their_times(limiter: SharedLimiter) -> None:
    limiter.book("s", A, [rate(30)])
    both = limiter.book("s", A, [rate(10), rate(10, name="tokens")])
    assert both.start_us == pytest.approx(30 * SECOND, abs=TOLERANCE_US)
    assert limiter.book("s", A, [rate(1, name="tokens")]).start_us == pytest.approx(40 * SECOND, abs=TOLERANCE_US)


def test_unused_time_is_given_back(limiter: SharedLimiter) -> None:
    limiter.book("s", A, [rate(30)])
    limiter.book("s", A, [rate(0, unused=20)])
    assert limiter.book("s", B, [rate(10, unused=5)]).start_us == pytest.approx(5 * SECOND, abs=TOLERANCE_US)
    assert limiter.book("s", B, [rate(1, unused=-4)]).start_us == pytest.approx(19 * SECOND, abs=TOLERANCE_US)


def test_what_is_given_back_is_no_more_than_the_burst(limiter: SharedLimiter) -> None:
    limiter.book("s", A, [rate(0, burst=2, unused=100)])
    assert limiter.book("s", A, [rate(1, burst=2)]).start_us == pytest.approx(-2 * SECOND, abs=TOLERANCE_US)


def test_a_pause_is_for_everybody(limiter: SharedLimiter) -> None:
    limiter.book("s", A, [], pause_us=50 * SECOND)
    lease = limiter.book("s", B, [rate(1)])
    assert lease.start_us == lease.paused_us == pytest.approx(50 * SECOND, abs=TOLERANCE_US)
    shorter = limiter.book("s", B, [], pause_us=SECOND)
    assert shorter.paused_us == pytest.approx(50 * SECOND, abs=TOLERANCE_US)
    assert limiter.book("elsewhere", B, [rate(1, name="theirs")]).paused_us == 0


def test_workers_and_jobs_are_counted(limiter: SharedLimiter) -> None:
    other = Member("other", "c")
    leases = [limiter.book("s", member, [rate(0)]) for member in (A, A, B, other)]
    assert [(lease.jobs, lease.job_workers, lease.workers) for lease in leases] == [
        (1, 1, 1),
        (1, 1, 1),
        (1, 2, 2),
        (2, 1, 3),
    ]
    limiter.leave("s", B)
    limiter.leave("s", other)
    lease = limiter.book("s", A, [])
    assert (lease.jobs, lease.job_workers, lease.workers) == (1, 1, 1)


def test_totals_are_granted_as_far_as_they_go(limiter: SharedLimiter) -> None:
    lease = limiter.book("s", A, [rate(1)], [TotalBooking("usd", 70, 100), TotalBooking("calls", 1, 5)])
    assert (lease.totals, lease.used) == ((70, 1), (70, 1))
    assert limiter.book("s", B, [], [TotalBooking("usd", 70, 100)]).totals == (30,)
    assert limiter.book("s", B, [], [TotalBooking("usd", 1, 100)]).totals == (0,)
    assert limiter.book("s", A, [], [TotalBooking("usd", -20, 100)]).used == (80,)
    assert limiter.book("s", B, [], [TotalBooking("usd", 70, 100)]).totals == (20,)


def window(
    amount: int,
    *,
    minimum: int | None = None,
    allowed: int = 100,
    seconds: float = 1200,
    slides: bool = True,
    **back: int,
) -> WindowBooking:
    least = amount if minimum is None else minimum
    return WindowBooking("window", amount, least, allowed, int(seconds * SECOND), slides, **back)


@pytest.mark.parametrize("slides", [True, False])
def test_a_window_grants_what_is_left_and_then_begins_when_it_is_over(limiter: SharedLimiter, slides: bool) -> None:
    first = limiter.book("s", A, [], windows=[window(80, slides=slides)])
    assert (first.start_us, first.windows) == (0, (80,))
    second = limiter.book("s", B, [rate(1, burst=5)], windows=[window(50, minimum=1, slides=slides)])
    assert (second.windows, second.start_us) == ((20,), -5 * SECOND)
    third = limiter.book("s", B, [rate(1)], windows=[window(50, slides=slides)])
    slice_us = 20 * SECOND
    assert third.windows == (50,)
    assert 0 <= third.start_us - 1200 * SECOND + TOLERANCE_US <= slice_us + 2 * TOLERANCE_US
    assert limiter.book("s", A, [rate(1)]).start_us > third.start_us  # they begin together


def test_what_could_begin_only_tomorrow_is_not_booked(limiter: SharedLimiter) -> None:
    day = {"allowed": 10, "seconds": 86_400.0}
    limiter.book("s", A, [], windows=[window(9, **day)])  # type: ignore[arg-type]
    refused = limiter.book("s", A, [rate(10)], windows=[window(2, **day)])  # type: ignore[arg-type]
    assert refused.start_us > 86_000 * SECOND
    assert refused.windows == (0,)
    accepted = limiter.book("s", A, [rate(10)], windows=[window(1, **day)])  # type: ignore[arg-type]
    assert (accepted.start_us, accepted.windows) == (0, (1,))


@pytest.mark.parametrize("slides", [True, False])
def test_what_is_not_used_of_a_window_is_given_back(limiter: SharedLimiter, slides: bool) -> None:
    limiter.book("s", A, [], windows=[window(100, slides=slides)])
    lease = limiter.book("s", A, [], windows=[window(50, minimum=1, slides=slides, unused=30, age_us=0)])
    assert (lease.start_us, lease.windows) == (0, (30,))
    limiter.book("s", A, [], windows=[window(0, slides=slides, unused=10, age_us=0)])
    limiter.book("s", A, [], windows=[window(0, slides=slides, unused=-4, age_us=0)])
    assert limiter.book("s", A, [], windows=[window(50, minimum=1, slides=slides)]).windows == (6,)
    later = limiter.book("s", A, [], windows=[window(50, slides=slides)])
    assert later.start_us > 1100 * SECOND
    limiter.book("s", A, [], windows=[window(0, slides=slides, unused=50, age_us=-later.start_us)])
    limiter.book("s", A, [], windows=[window(0, slides=slides, unused=50, age_us=0)])
    lease = limiter.book("s", A, [], windows=[window(50, minimum=1, slides=slides)])
    assert (lease.start_us, lease.windows) == (0, (50,))


def test_a_worker_is_alive_in_a_second_scope(limiter: SharedLimiter) -> None:
    limiter.book("s", A, [rate(1)], also_alive_in="job")
    limiter.book("s", B, [])
    assert limiter.book("job", Member("driver", "d"), []).workers == 2
    limiter.book("s", A, [], [TotalBooking("usd", 3, 10)], also_alive_in="job", leaves=True)
    assert limiter.book("job", Member("driver", "d"), [], leaves=True).workers == 0
    lease = limiter.book("s", B, [], [TotalBooking("usd", 0, 10)])
    assert (lease.workers, lease.jobs, lease.used) == (1, 1, (3,))


def random_bookings(seed: int) -> Iterator[dict[str, Any]]:
    draw = Random(seed)
    for _ in range(40):
        windows = [
            WindowBooking(
                f"{'sliding' if slides else 'fixed'} window",
                amount := draw.choice([0, draw.randint(1, 90)]),
                draw.randint(1, amount) if amount else 0,
                100,
                1200 * SECOND,
                slides,
                draw.choice([0, 0, draw.randint(-20, 40)]),
                draw.choice([0, 30, -600]) * SECOND,
            )
            for slides in (True, False)
            if draw.random() < 0.7
        ]
        rates = [rate(draw.randint(0, 60), 5, unused=draw.choice([0, 10]))] * draw.randint(0, 1)
        yield {"rates": rates, "windows": windows}


@pytest.mark.parametrize("seed", range(8))
def test_every_store_has_the_same_arithmetic(limiter: SharedLimiter, seed: int) -> None:
    slice_us = 20 * SECOND
    while True:
        scale = uuid4().hex
        memory = memory_limiter(lambda: int(time.time() * SECOND))
        began, pairs = time.time() * SECOND // slice_us, []
        for booking in random_bookings(seed):
            named = {kind: [each._replace(name=scale + each.name) for each in booking[kind]] for kind in booking}
            pairs.append([store.book(scale, A, **named) for store in (memory, limiter)])
        if limiter.book(scale, A, []).workers and began == time.time() * SECOND // slice_us:
            break  # else a slice ended in between
    for expected, lease in pairs:
        assert lease.start_us == pytest.approx(expected.start_us, abs=TOLERANCE_US)
        assert lease.windows == expected.windows


def test_workers_of_two_stores_share_limits(make_cache: Callable[..., Any]) -> None:
    for kind in ("disk", "redis"):
        first, second = make_cache(kind).open(), make_cache(kind).open()
        assert first.limiter is not None
        assert second.limiter is not None
        first.limiter.book("s", A, [rate(10)])
        lease = second.limiter.book("s", B, [rate(10)])
        assert lease.start_us == pytest.approx(10 * SECOND, abs=TOLERANCE_US)
        assert lease.workers == 2
        first.close()
        second.close()


def test_dead_workers_are_forgotten() -> None:
    now = [0]
    limiter = memory_limiter(lambda: now[0])
    limiter.book("s", A, [rate(1)])
    now[0] = MEMBER_TTL_US
    assert limiter.book("s", B, []).workers == 2
    now[0] += 2 * SECOND
    assert limiter.book("s", B, []).workers == 1


def test_a_file_survives_a_clock_that_is_set_back(tmp_path: Path) -> None:
    cache = llmhub.DiskCache(tmp_path / "a.db")
    store = cache.open()
    day = [2 * 86_400.0]
    from llmhub.cache.sqlite import _SqliteStore  # noqa: PLC0415 - the connections of an open file

    file = _SqliteStore(tmp_path / "a.db", None, 5.0)
    limiter = open_limiter(file.connection, lambda: day[0])
    limiter.book("s", A, [rate(10)])
    day[0] -= 86_400.0
    assert limiter.book("s", A, [rate(10)]).start_us == 0
    file.close()
    store.close()


@pytest.mark.parametrize("slides", [True, False])
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_a_window_survives_a_clock_that_is_set_back(tmp_path: Path, kind: str, slides: bool) -> None:
    """What was booked counts from now on: it does not hold up everything until the clock is where it was."""
    now = [2 * 86_400.0]
    from llmhub.cache.sqlite import _SqliteStore  # noqa: PLC0415 - the connections of an open file

    file = _SqliteStore(tmp_path / "a.db", None, 5.0)
    on_file = open_limiter(file.connection, lambda: now[0])
    limiter = memory_limiter(lambda: int(now[0] * SECOND)) if kind == "memory" else on_file
    limiter.book("s", A, [], windows=[window(60, slides=slides)])
    now[0] -= 86_400.0
    lease = limiter.book("s", A, [], windows=[window(50, minimum=1, slides=slides)])
    assert (lease.start_us, lease.windows) == (0, (40,))
    later = limiter.book("s", A, [], windows=[window(50, slides=slides)])
    assert later.start_us == pytest.approx(1200 * SECOND, abs=20 * SECOND)
    file.close()


@pytest.mark.parametrize("slides", [True, False])
def test_a_window_survives_a_server_whose_clock_is_set_back(own_redis: Any, slides: bool) -> None:
    store = llmhub.RedisCache(own_redis.url).open()
    assert store.limiter is not None
    store.limiter.book("s", A, [], windows=[window(60, slides=slides)])
    with closing(redis.Redis.from_url(own_redis.url)) as client:
        (key,) = client.keys("*window:*")
        ((began, used),) = client.hgetall(key).items()
        day = 86_400 * SECOND // (20 * SECOND if slides else 1)
        client.hdel(key, began)
        client.hset(key, str(int(began) + day), used)
    lease = store.limiter.book("s", A, [], windows=[window(50, minimum=1, slides=slides)])
    assert (lease.start_us, lease.windows) == (0, (40,))
    store.close()


def test_a_lost_server_is_a_store_error(own_redis: Any) -> None:
    store = llmhub.RedisCache(own_redis.url).open()
    assert store.limiter is not None
    store.limiter.book("s", A, [rate(1)])
    own_redis.stop()
    with pytest.raises(StoreError):
        store.limiter.book("s", A, [rate(1)])
    store.close()


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.integers(0, 60), st.integers(0, 30))))
def test_no_more_than_the_burst_and_the_rate_begins_by_any_time(
    bookings: list[tuple[int, int, int, int]],
) -> None:
    """Amounts are in units of which one is restored in a second, so that durations are amounts."""
    now, burst = [100 * SECOND], 7
    limiter = memory_limiter(lambda: now[0])
    begins: list[tuple[int, int]] = []
    for worker, amount, elapsed, paused in bookings:
        now[0] += elapsed * SECOND // 4
        lease = limiter.book("s", Member("job", str(worker)), [rate(amount, burst)], pause_us=paused * SECOND // 8)
        begins.append((now[0] + lease.start_us, amount))
        assert lease.start_us >= lease.paused_us or not lease.paused_us
    for (first, _), (second, _) in pairwise(begins):
        assert first <= second
    for index, (begin, _) in enumerate(begins):
        booked = sum(amount for _, amount in begins[:index])
        assert booked * SECOND <= begin - 100 * SECOND + burst * SECOND


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(0, 40), st.integers(0, 9)), max_size=30))
def test_a_sliding_window_never_sees_more_than_its_allowance(bookings: list[tuple[int, int, int, int]]) -> None:
    now, length = [100_000 * SECOND], 60 * SECOND
    limiter = memory_limiter(lambda: now[0])
    used: list[tuple[int, int]] = []
    for amount, minimum, elapsed, unused in bookings:
        now[0] += elapsed * SECOND // 3
        lease = limiter.book("s", A, [], windows=[window(amount, minimum=min(minimum, amount), allowed=60, seconds=60)])
        (granted,) = lease.windows
        assert min(minimum, amount) <= granted <= amount
        back = min(unused, granted - 1)
        used.append((now[0] + lease.start_us, granted - back))
        limiter.book("s", A, [], windows=[window(0, allowed=60, seconds=60, unused=back, age_us=-lease.start_us)])
    for begin, _ in used:
        assert sum(amount for at, amount in used if begin <= at < begin + length) <= 60
