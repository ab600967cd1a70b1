"""Streams of record batches: the next batch begins in time, columns are kept, rows are unique, types are plain."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from returns.result import Success

import llmhub
from llmhub.api.record_batches import _Window
from llmhub.config import Settings
from llmhub.core.types import CompletionResponse, Text
from llmhub.engine import event_loop
from llmhub.engine.call import Answer
from llmhub.sim import SimulatorThread
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(simulator=simulator.url, settings=Settings()) as opened:
        yield opened


def batches(rows: int, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, size):
        numbers = range(start, min(start + size, rows))
        yield pa.record_batch({"id": [f"id {n}" for n in numbers], "text": [f"number {n}" for n in numbers]})


def complete(hub: llmhub.Hub, source: Any, **options: Any) -> list[pa.RecordBatch]:
    return list(llmhub.complete_record_batches(source, "{text}", model=MODEL, hub=hub, **options))


def test_results_are_those_of_one_table(hub: llmhub.Hub) -> None:
    done = complete(hub, batches(25, 10))
    assert [batch.num_rows for batch in done] == [10, 10, 5]
    whole = llmhub.complete_table(pa.Table.from_batches(batches(25, 10)), "{text}", model=MODEL, hub=hub)
    table = pa.Table.from_batches(done).unify_dictionaries()
    assert table.schema.equals(RESULTS, check_metadata=False)
    for name in ("row", "response", "status", "output_tokens", "request_key"):
        assert table.column(name).to_pylist() == whole.column(name).to_pylist()


def test_kept_columns_come_first_and_follow_their_rows(hub: llmhub.Hub) -> None:
    done = pa.Table.from_batches(complete(hub, batches(6, 4), keep=["id"], n=2))
    assert done.column_names[0] == "id"
    assert done.column("id").to_pylist() == [f"id {n // 2}" for n in range(12)]
    assert done.column("row").to_pylist() == [n // 2 for n in range(12)]


@pytest.mark.parametrize(
    ("keep", "message"),
    [("status", "result column"), (["id", "id"], "twice"), ([1], "int"), (["nothing"], "no column 'nothing'.*'text'")],
)
def test_wrong_columns_raise_before_anything_is_sent(
    hub: llmhub.Hub, simulator: SimulatorThread, keep: Any, message: str
) -> None:
    with pytest.raises(llmhub.BadRequestError, match=message):
        complete(hub, batches(3, 3), keep=keep)
    assert simulator.counts()["requests"] == 0


def test_rows_are_unique_over_partitions(hub: llmhub.Hub) -> None:
    rows = [
        row
        for partition in range(3)
        for batch in complete(hub, batches(4, 2), partition=partition)
        for row in batch.column("row").to_pylist()
    ]
    assert len(set(rows)) == 12
    assert rows[4] == 1 << 33
    with pytest.raises(llmhub.BadRequestError, match="partition"):
        llmhub.complete_record_batches([], "x", model=MODEL, hub=hub, partition=-1)


def test_plain_types_have_no_dictionaries_or_binaries_of_fixed_size(hub: llmhub.Hub) -> None:
    (plain,) = complete(hub, batches(2, 2), plain=True)
    (exact,) = complete(hub, batches(2, 2))
    assert not any(pa.types.is_dictionary(field.type) for field in plain.schema)
    assert plain.schema.field("request_key").type == pa.binary()
    assert plain.column("status").to_pylist() == exact.column("status").to_pylist()
    assert plain.column("request_key").to_pylist() == exact.column("request_key").to_pylist()


@dataclass
class Gate:
    """Holds the first call back until a call of the last batch is there; counts calls in flight."""

    opened: asyncio.Event
    in_flight: int = 0
    most: int = 0

    def __call__(self, send: Any) -> Any:
        async def gated(call: Any) -> Any:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            text = call.request.messages[-1].text
            if text == "number 5":
                self.opened.set()
            if text == "number 0":
                async with asyncio.timeout(30):
                    await self.opened.wait()
            try:
                return await send(call)
            finally:
                self.in_flight -= 1

        return gated


def test_a_batch_begins_while_calls_of_an_earlier_one_are_in_flight(simulator: SimulatorThread) -> None:
    gate = Gate(asyncio.Event())
    with llmhub.Hub(simulator=simulator.url, settings=Settings(), middleware=(gate,), concurrency=2) as hub:
        done = complete(hub, batches(40, 2))
    assert [batch.num_rows for batch in done] == [2] * 20
    assert all(before.column("row")[1].as_py() < after.column("row")[0].as_py() for before, after in pairwise(done))
    assert gate.most <= 2


def test_batches_are_drawn_only_when_they_are_needed(hub: llmhub.Hub) -> None:
    drawn: list[int] = []

    def source() -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches(400, 4)):
            drawn.append(number)
            yield batch

    results = llmhub.complete_record_batches(source(), "{text}", model=MODEL, hub=hub, concurrency=4)
    next(results)
    assert len(drawn) < 50
    results.close()  # type: ignore[attr-defined]
    assert len(drawn) < 50


def test_an_error_of_a_batch_is_raised_when_its_turn_comes() -> None:
    endpoints = {"openai": llmhub.Endpoint(base_url="http://127.0.0.1:9", api_key="k")}
    hub = llmhub.Hub(endpoints=endpoints, settings=Settings(), retry=llmhub.Retry(attempts=1))
    with pytest.raises(llmhub.APIConnectionError) as caught:
        complete(hub, batches(4, 2), on_error="raise")
    assert len(caught.value.table) == 2  # type: ignore[attr-defined]
    hub.close()


class IdleClock(selectors.DefaultSelector):
    """A selector that advances a clock instead of waiting, while the caller's thread waits for results."""

    now = 0.0
    caller_waits = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or not self.caller_waits:
            return super().select(timeout=0.01)  # until the caller's thread submits something
        self.now += timeout
        return ready


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdleClock]:
    """Give this process a background loop in virtual time."""
    selector, wait, background = IdleClock(), _Window._wait, event_loop._BackgroundLoop()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.now  # type: ignore[method-assign]

    async def marked_wait(window: _Window) -> None:
        selector.caller_waits = True
        try:
            await wait(window)
        finally:
            selector.caller_waits = False

    monkeypatch.setattr(_Window, "_wait", marked_wait)
    monkeypatch.setattr(event_loop, "_BACKGROUND", background)
    monkeypatch.setattr(event_loop, "new_event_loop", lambda: loop)
    yield selector
    if background.finalizer is not None:
        background.finalizer()


def test_small_batches_take_little_longer_than_one_large_one(clock: IdleClock) -> None:
    """Within 1.15 of its time, though a few calls take long. One batch after another would take three times as long."""
    rows, size, concurrency, rng = 640, 50, 32, random.Random(7)
    latencies = {f"number {n}": 0.2 * rng.lognormvariate(0, 0.8) for n in range(rows)}

    def answer_late(_send: Any) -> Any:
        async def answering(call: Any) -> Answer:
            await asyncio.sleep(latencies[call.request.messages[-1].text])
            return Answer(Success(CompletionResponse(parts=(Text("yes"),))), attempts=1)

        return answering

    endpoints = {"openai": llmhub.Endpoint(base_url="http://127.0.0.1:9", api_key="k")}
    options: Any = {"endpoints": endpoints, "middleware": (answer_late,), "concurrency": concurrency}
    with llmhub.Hub(settings=Settings(), **options) as hub:

        def duration_s(batch_rows: int) -> float:
            began = clock.now
            done = complete(hub, batches(rows, batch_rows))
            assert sum(batch.num_rows for batch in done) == rows
            return clock.now - began

        whole, small = duration_s(rows), duration_s(size)
    assert sum(latencies.values()) / concurrency <= whole < 10
    assert small <= 1.15 * whole
