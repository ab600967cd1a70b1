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


LOADS = (one_at_a_time(), concurrent(3), concurrent(100), constant_rate(10), poisson(10, random_state=3))


class Provider:
    """Answers each call after ``took_s`` seconds and records when it was sent."""

    def __init__(self, clock: Clock, took_s: float = 1.0) -> None:
        self.clock, self.took_s = clock, took_s
        self.started_at: list[float] = []
        self.in_flight = self.max_in_flight = 0

    async def send(self, call: Any) -> Answer:
        self.started_at.append(self.clock())
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await asyncio.sleep(self.took_s)
        self.in_flight -= 1
        return Answer(Success(CompletionResponse(parts=(Text(str(call)),), finish_reason="stop")), attempts=1)


def run_virtual_load(
    virtual: Any, load: Load, count: int, *, took_s: float = 1.0, max_in_flight: int = 1000
) -> tuple[LoadRun, Provider]:
    async def work(clock: Clock) -> tuple[LoadRun, Provider]:
        provider = Provider(clock, took_s)
        calls: Any = list(range(count))
        load_run = await run_load(calls, load, provider.send, StopSignal(), max_in_flight=max_in_flight, clock=clock)
        return load_run, provider

    result: tuple[LoadRun, Provider] = virtual.run(work)
    return result


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_every_call_is_sent_once_and_answers_keep_their_order(virtual: Any, load: Load) -> None:
    load_run, provider = run_virtual_load(virtual, load, 20)
    assert [answer.outcome.unwrap().text for answer in load_run.answers] == [str(index) for index in range(20)]
    assert len(provider.started_at) == 20


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_closed_load_keeps_a_fixed_number_in_flight(virtual: Any, workers: int) -> None:
    load_run, provider = run_virtual_load(virtual, concurrent(workers), 20)
    assert provider.max_in_flight == workers
    assert load_run.duration_s == pytest.approx(math.ceil(20 / workers))
    assert load_run.schedule_delay_s == [0.0] * 20


def test_open_load_does_not_wait_for_answers(virtual: Any) -> None:
    load_run, provider = run_virtual_load(virtual, constant_rate(4), 20, took_s=30)
    assert provider.started_at == pytest.approx([index / 4 for index in range(20)])
    assert load_run.schedule_delay_s == pytest.approx([0.0] * 20)
    assert load_run.duration_s == pytest.approx(19 / 4 + 30)


def test_schedule_delay_of_calls_that_wait_for_a_slot(virtual: Any) -> None:
    """Waiting for a slot is measured, so that a slow provider cannot hide behind calls that were not sent."""
    load_run, provider = run_virtual_load(virtual, constant_rate(1), 6, took_s=3, max_in_flight=1)
    assert provider.started_at == pytest.approx([0, 3, 6, 9, 12, 15])
    assert load_run.schedule_delay_s == pytest.approx([0, 2, 4, 6, 8, 10])


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_stop_sends_no_more_calls_and_awaits_those_in_flight(virtual: Any, load: Load) -> None:
    async def work(clock: Clock) -> tuple[LoadRun, Provider]:
        provider, stop = Provider(clock), StopSignal()
        asyncio.get_running_loop().call_later(0.35, stop.request)
        calls: Any = list(range(200))
        return await run_load(calls, load, provider.send, stop, max_in_flight=1000, clock=clock), provider

    load_run, provider = virtual.run(work)
    sent = [answer for answer in load_run.answers if answer.attempts]
    assert 0 < len(sent) == len(provider.started_at) < 200
    assert max(provider.started_at) <= 0.35
    assert provider.in_flight == 0
    rest = [answer.outcome.failure() for answer in load_run.answers if not answer.attempts]
    assert all(isinstance(error, Cancelled) for error in rest)


@given(st.floats(0.01, 1e4), st.integers(1, 300), st.integers(0, 1000))
def test_random_arrivals_start_at_zero_and_do_not_decrease(per_s: float, count: int, seed: int) -> None:
    times = arrivals(poisson(per_s, random_state=seed), count)
    assert times is not None
    assert len(times) == count
    assert times[0] == 0.0
    assert times == sorted(times)
    assert times == arrivals(poisson(per_s, random_state=seed), count)


def test_random_gaps_are_exponential() -> None:
    times = arrivals(poisson(5, random_state=1), 20_001)
    assert times is not None
    gaps = [b - a for a, b in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(0.2, rel=0.03)
    assert spread / mean == pytest.approx(1, rel=0.03)


def test_sweep_returns_closed_loads() -> None:
    assert [str(load) for load in sweep((1, 4))] == ["1 at a time", "4 at a time"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either concurrency= or per_s="),
        ({"concurrency": 1, "per_s": 1}, "either concurrency= or per_s="),
        ({"concurrency": 0}, "load.concurrency: 0 is not a positive integer"),
        ({"concurrency": True}, "load.concurrency: True is not a positive integer"),
        ({"concurrency": 1.5}, "load.concurrency: 1.5 is not a positive integer"),
        ({"per_s": 0}, "load.per_s: 0 is not a rate"),
        ({"per_s": math.inf}, "load.per_s: inf is not a rate"),
    ],
)
def test_invalid_load_raises(options: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        Load(**options)
