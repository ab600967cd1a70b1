from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Success

from llmhub.bench.load import (
    Load,
    LoadRun,
    arrivals,
    concurrent,
    constant_rate,
    one_at_a_time,
    poisson,
    run_load,
    sweep,
)
from llmhub.core.errors import BadRequestError, Cancelled
from llmhub.core.types import CompletionResponse, Text
from llmhub.engine.call import Answer
from llmhub.engine.event_loop import StopSignal

Clock = Callable[[], float]


LOADS = (one_at_a_time(), concurrent(3), concurrent(100), constant_rate(10), poisson(10, seed=3))


class Provider:
    """Takes a second for each call, and keeps a diary."""

    def __init__(self, clock: Clock, took_s: float = 1.0) -> None:
        self.clock, self.took_s = clock, took_s
        self.begun: list[float] = []
        self.under_way = self.most = 0

    async def send(self, call: Any) -> Answer:
        self.begun.append(self.clock())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.took_s)
        self.under_way -= 1
        return Answer(Success(CompletionResponse(parts=(Text(str(call)),), finish_reason="stop")), attempts=1)


def driven(virtual: Any, load: Load, count: int, *, took_s: float = 1.0, most: int = 1000) -> tuple[LoadRun, Provider]:
    async def work(clock: Clock) -> tuple[LoadRun, Provider]:
        provider = Provider(clock, took_s)
        calls: Any = list(range(count))
        return await run_load(calls, load, provider.send, StopSignal(), max_in_flight=most, clock=clock), provider

    found: tuple[LoadRun, Provider] = virtual.run(work)
    return found


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_every_call_is_sent_once_and_answers_keep_their_order(virtual: Any, load: Load) -> None:
    found, provider = driven(virtual, load, 20)
    assert [answer.outcome.unwrap().text for answer in found.answers] == [str(at) for at in range(20)]
    assert len(provider.begun) == 20


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_a_closed_load_keeps_so_many_under_way(virtual: Any, workers: int) -> None:
    found, provider = driven(virtual, concurrent(workers), 20)
    assert provider.most == workers
    assert found.duration_s == pytest.approx(math.ceil(20 / workers))
    assert found.schedule_delay_s == [0.0] * 20


def test_a_rate_does_not_wait_for_answers(virtual: Any) -> None:
    found, provider = driven(virtual, constant_rate(4), 20, took_s=30)
    assert provider.begun == pytest.approx([at / 4 for at in range(20)])
    assert found.schedule_delay_s == pytest.approx([0.0] * 20)
    assert found.duration_s == pytest.approx(19 / 4 + 30)


def test_what_waits_for_room_says_so(virtual: Any) -> None:
    """A slow provider must not hide behind calls that were never sent."""
    found, provider = driven(virtual, constant_rate(1), 6, took_s=3, most=1)
    assert provider.begun == pytest.approx([0, 3, 6, 9, 12, 15])
    assert found.schedule_delay_s == pytest.approx([0, 2, 4, 6, 8, 10])


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_a_stop_sends_no_more_and_waits_for_what_is_under_way(virtual: Any, load: Load) -> None:
    async def work(clock: Clock) -> tuple[LoadRun, Provider]:
        provider, stop = Provider(clock), StopSignal()
        asyncio.get_running_loop().call_later(0.35, stop.request)
        calls: Any = list(range(200))
        return await run_load(calls, load, provider.send, stop, max_in_flight=1000, clock=clock), provider

    found, provider = virtual.run(work)
    sent = [answer for answer in found.answers if answer.attempts]
    assert 0 < len(sent) == len(provider.begun) < 200
    assert max(provider.begun) <= 0.35
    assert provider.under_way == 0
    rest = [answer.outcome.failure() for answer in found.answers if not answer.attempts]
    assert all(isinstance(error, Cancelled) for error in rest)


@given(st.floats(0.01, 1e4), st.integers(1, 300), st.integers(0, 1000))
def test_random_arrivals_begin_at_once_and_do_not_fall(per_s: float, count: int, seed: int) -> None:
    times = arrivals(poisson(per_s, seed=seed), count)
    assert times is not None
    assert len(times) == count
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times == arrivals(poisson(per_s, seed=seed), count)


def test_random_gaps_are_those_of_a_poisson_process() -> None:
    times = arrivals(poisson(5, seed=1), 20_001)
    assert times is not None
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.2, rel=0.03)
    assert spread / mean == pytest.approx(1, rel=0.03)


def test_a_sweep_is_several_closed_loads() -> None:
    assert [str(load) for load in sweep((1, 4))] == ["1 at a time", "4 at a time"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either workers= or per_s="),
        ({"workers": 1, "per_s": 1}, "either workers= or per_s="),
        ({"workers": 0}, "load.workers: 0 is not a positive integer"),
        ({"workers": True}, "load.workers: True is not a positive integer"),
        ({"workers": 1.5}, "load.workers: 1.5 is not a positive integer"),
        ({"per_s": 0}, "load.per_s: 0 is not a rate"),
        ({"per_s": math.inf}, "load.per_s: inf is not a rate"),
    ],
)
def test_what_is_no_load_is_refused(options: Any, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        Load(**options)
