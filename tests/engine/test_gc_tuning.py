"""The garbage collector's pace belongs to whoever runs the program: what a run changes, it puts back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest
from returns.result import Success

from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Text
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutSpec, PlannedItem
from llmhub.engine.gc_tuning import DEFAULT_GC_THRESHOLDS, MIN_ROWS, RELAXED_GC_THRESHOLD, relaxed_gc

TARGET: Any = Target(None, None, "m", "p/m")  # type: ignore[arg-type]


SAID = Success(CompletionResponse(parts=(Text("so"),)))


@pytest.fixture(params=sorted(DEFAULT_GC_THRESHOLDS))
def pythons(request: pytest.FixtureRequest) -> Iterator[int]:
    before = gc.get_threshold()
    gc.set_threshold(request.param, 10, 10)
    yield request.param
    gc.set_threshold(*before)


def seen_in_a_run(rows: int) -> set[int]:
    """The threshold at each call."""
    seen: set[int] = set()

    def make(text: str, key: bytes | None = None) -> Call:
        return Call(TARGET, CompletionRequest(model="m", messages=(Message("user", text),)), key=key)

    async def send(_: Call) -> Answer:
        seen.add(gc.get_threshold()[0])
        return Answer(SAID)

    items: list[PlannedItem] = [(at, sha256(b"%d" % at).digest(), make, str(at)) for at in range(rows)]
    asyncio.run(run_fan_out(FanOutSpec(size=rows, chunks=iter([items]), send=send, in_flight=()), StopSignal()))
    return seen


def test_it_is_held_back_while_many_rows_run_and_not_after(pythons: int) -> None:
    assert seen_in_a_run(MIN_ROWS + 1) == {RELAXED_GC_THRESHOLD}
    assert gc.get_threshold() == (pythons, 10, 10)


def test_a_few_rows_leave_it_alone(pythons: int) -> None:
    assert seen_in_a_run(MIN_ROWS) == {pythons}


@pytest.mark.parametrize("set_by_hand", [0, 1, 699, 50_000])
def test_who_set_it_keeps_it(pythons: int, set_by_hand: int) -> None:
    gc.set_threshold(set_by_hand, 5, 3)
    assert seen_in_a_run(MIN_ROWS + 1) == {set_by_hand}
    assert gc.get_threshold() == (set_by_hand, 5, 3)


def test_what_is_set_meanwhile_stays(pythons: int) -> None:
    with relaxed_gc(MIN_ROWS + 1):
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_it_is_put_back_after_a_defect(pythons: int) -> None:
    with pytest.raises(ZeroDivisionError), relaxed_gc(MIN_ROWS + 1):
        1 / 0  # noqa: B018
    assert gc.get_threshold() == (pythons, 10, 10)


def test_runs_that_overlap_put_it_back_in_any_order(pythons: int) -> None:
    first, second = relaxed_gc(MIN_ROWS + 1), relaxed_gc(MIN_ROWS + 1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (pythons, 10, 10)


def test_a_burst_of_calls_does_not_set_it_going(pythons: int) -> None:
    counts: list[dict[str, int]] = []
    with relaxed_gc(MIN_ROWS + 1):
        gc.collect()
        gc.callbacks.append(lambda _, about: counts.append(about))
        try:
            burst = [[[] for _ in range(60)] for _ in range(100)]
        finally:
            gc.callbacks.pop()
    assert len(burst) == 100
    assert counts == []
