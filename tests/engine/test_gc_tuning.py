"""The garbage collector's threshold: raised during long runs, restored afterwards, untouched if the program set it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pyarrow as pa
import pytest
from returns.result import Success

import llmhub
from llmhub.config import Settings
from llmhub.core.types import Text
from llmhub.engine.call import Answer, Call
from llmhub.engine.gc_tuning import DEFAULT_GC_THRESHOLDS, MIN_ROWS, RELAXED_GC_THRESHOLD, relaxed_gc


@pytest.fixture(params=sorted(DEFAULT_GC_THRESHOLDS))
def default_threshold(request: pytest.FixtureRequest) -> Iterator[int]:
    before = gc.get_threshold()
    gc.set_threshold(request.param, 10, 10)
    yield request.param
    gc.set_threshold(*before)


def thresholds_during_run(rows: int, *, tune_gc: bool = True) -> set[int]:
    """Return the thresholds of generation 0 that the calls of a run observe."""
    seen: set[int] = set()

    def observe(_send: object) -> object:
        async def send(_call: Call) -> Answer:
            seen.add(gc.get_threshold()[0])
            return Answer(Success(llmhub.CompletionResponse(parts=(Text("ok"),))))

        return send

    endpoints = {"openai": llmhub.Endpoint(base_url="http://localhost:9/v1", api_key="key")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), middleware=(observe,), tune_gc=tune_gc) as hub:
        frame = pa.table({"text": [str(row) for row in range(rows)]})
        llmhub.complete_table(frame, "{text}", model="openai/gpt-4o-mini", hub=hub, progress=False)
    return seen


def test_the_threshold_is_raised_during_a_long_run_and_restored(default_threshold: int) -> None:
    assert thresholds_during_run(MIN_ROWS + 1) == {RELAXED_GC_THRESHOLD}
    assert gc.get_threshold() == (default_threshold, 10, 10)


def test_a_short_run_leaves_the_threshold_alone(default_threshold: int) -> None:
    assert thresholds_during_run(MIN_ROWS) == {default_threshold}


def test_tune_gc_false_leaves_the_threshold_alone(default_threshold: int) -> None:
    assert thresholds_during_run(MIN_ROWS + 1, tune_gc=False) == {default_threshold}


@pytest.mark.parametrize("custom", [0, 1, 699, 50_000])
def test_a_custom_threshold_is_kept(default_threshold: int, custom: int) -> None:
    gc.set_threshold(custom, 5, 3)
    assert thresholds_during_run(MIN_ROWS + 1) == {custom}
    assert gc.get_threshold() == (custom, 5, 3)


def test_a_threshold_set_during_a_run_is_kept(default_threshold: int) -> None:
    with relaxed_gc(MIN_ROWS + 1):
        gc.set_threshold(123, 4, 5)
    assert gc.get_threshold() == (123, 4, 5)


def test_the_threshold_is_restored_after_an_exception(default_threshold: int) -> None:
    with pytest.raises(ZeroDivisionError), relaxed_gc(MIN_ROWS + 1):
        1 / 0  # noqa: B018
    assert gc.get_threshold() == (default_threshold, 10, 10)


def test_overlapping_runs_restore_the_threshold_in_any_order(default_threshold: int) -> None:
    first, second = relaxed_gc(MIN_ROWS + 1), relaxed_gc(MIN_ROWS + 1)
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold()[0] == RELAXED_GC_THRESHOLD
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (default_threshold, 10, 10)


def test_a_burst_of_calls_does_not_trigger_a_collection(default_threshold: int) -> None:
    collections: list[dict[str, int]] = []
    with relaxed_gc(MIN_ROWS + 1):
        gc.collect()
        gc.callbacks.append(lambda _, info: collections.append(info))
        try:
            burst: list[list[list[object]]] = [[[] for _ in range(60)] for _ in range(100)]
        finally:
            gc.callbacks.pop()
    assert len(burst) == 100
    assert collections == []
