"""Equal calls of several runs in one process are sent once, and what a stop does to calls that wait."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import llmhub
from llmhub.api import tables
from llmhub.cache.store import ClaimResult, Entry
from llmhub.config import Settings
from llmhub.core.errors import Cancelled
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutSpec, PlannedItem, Sender
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.write_ahead import WriteAheadLog
from llmhub.sim import Latency, Simulator, SimulatorThread, serving
from llmhub.sim.faults import Faults

MODEL = "openai/gpt-4o-mini"
CACHES = {"memory": lambda _: llmhub.MemoryCache(), "sqlite": lambda folder: folder / "runs.db"}


def hub_at(served: SimulatorThread, cache: Any, **options: Any) -> llmhub.Hub:
    endpoint = llmhub.Endpoint(base_url=served.base_url("openai"), api_key="k")
    return llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=cache, **options)


async def until_in_flight(served: SimulatorThread, count: int = 1) -> None:
    """Wait until the simulator, which runs in another thread, is answering so many requests."""
    while served.counts()["in_flight"] < count:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", CACHES)
async def test_equal_concurrent_calls_are_sent_once(tmp_path: Path, kind: str) -> None:
    with serving(Simulator(latency=Latency(0.05))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        responses = await asyncio.gather(*(llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(20)))
        assert served.counts()["requests"] == 1
    assert len({response.text for response in responses}) == 1


@pytest.mark.parametrize("mode", ["refresh", "write-only"])
@pytest.mark.parametrize("kind", CACHES)
async def test_calls_that_bypass_cached_responses_are_sent_one_after_another(
    tmp_path: Path, kind: str, mode: Literal["refresh", "write-only"]
) -> None:
    with serving(Simulator(latency=Latency(0.1))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        cached = await llmhub.acomplete("hi", model=MODEL, hub=hub)
        early = [asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub, cache=mode)) for _ in range(5)]
        await until_in_flight(served)
        # The request in flight was sent before these calls began, so they wait for it but do not use its response.
        late = [asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub, cache=mode)) for _ in range(5)]
        responses = await asyncio.gather(*early, *late)
        counts = served.counts()
        assert counts["max_in_flight"] == counts["max_identical"] == 1
        assert 3 <= counts["requests"] <= 11
        assert {response.text for response in responses} == {cached.text}


@pytest.mark.parametrize("kind", CACHES)
async def test_read_only_calls_are_sent_once_and_write_nothing(tmp_path: Path, kind: str) -> None:
    rows = {"t": ["hi", "ho", "hi"]}
    read_only = {"model": MODEL, "cache": "read-only", "progress": False}
    with serving(Simulator(latency=Latency(0.5))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        run = asyncio.create_task(asyncio.to_thread(llmhub.complete_table, rows, "{t}", hub=hub, **read_only))
        await until_in_flight(served, 2)
        calls = (llmhub.acomplete("hi", model=MODEL, hub=hub, cache="read-only") for _ in range(10))
        *responses, table = await asyncio.gather(*calls, run)
        assert served.counts()["requests"] == served.counts()["unique_prompts"] == 2
        assert len({response.text for response in responses}) == 1
        assert table.column("status").to_pylist() == ["ok"] * 3
        if kind == "sqlite":
            assert llmhub.ledger(hub=hub).num_rows == 0
        # Nothing was written, so a later call is sent again.
        await llmhub.acomplete("hi", model=MODEL, hub=hub, cache="read-only")
        assert served.counts()["requests"] == 3


@pytest.mark.parametrize("kind", CACHES)
async def test_recent_responses_expire_while_another_run_is_active(tmp_path: Path, kind: str) -> None:
    """Responses remembered in memory count as misses once they are older than ``max_age_s``."""
    mode = llmhub.CacheMode(max_age_s=0.05)
    with serving(Simulator()) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        hanging = asyncio.create_task(llmhub.acomplete("[[sim:hang]]", model=MODEL, hub=hub))
        await until_in_flight(served)
        for calls in (1, 2):
            await llmhub.acomplete("hi", model=MODEL, hub=hub, cache=mode)
            assert served.counts()["requests"] == 1 + calls
            await asyncio.sleep(0.1)
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)


@pytest.mark.parametrize("kind", CACHES)
async def test_a_fallback_and_a_direct_call_are_sent_once(tmp_path: Path, kind: str) -> None:
    down, up = "compatible/m", MODEL
    with serving(Simulator(latency=Latency(0.1))) as served:
        endpoints = {
            "compatible": llmhub.Endpoint(base_url="http://127.0.0.1:1/v1"),
            "openai": llmhub.Endpoint(base_url=served.base_url("openai"), api_key="k"),
        }
        route = llmhub.Failover(down, up)
        retry = llmhub.Retry(attempts=1)
        cache = CACHES[kind](tmp_path)
        with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=cache, route=route, retry=retry) as hub:
            calls = [llmhub.acomplete("hi", model=model, hub=hub) for model in (down, up, down, up)]
            run = asyncio.to_thread(
                llmhub.complete_table, {"t": ["hi", "ho"]}, "{t}", model=[up, down], hub=hub, progress=False
            )
            *responses, table = await asyncio.gather(*calls, run)
        counts = served.counts()
        assert counts["requests"] == counts["unique_prompts"] == 2
    assert len({response.text for response in responses}) == 1
    assert table.column("status").to_pylist() == ["ok"] * 4
    assert table.column("served_model").to_pylist()[0] == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("kind", CACHES)
async def test_a_waiting_call_is_sent_when_the_one_in_flight_is_cancelled(tmp_path: Path, kind: str) -> None:
    with serving(Simulator(latency=Latency(0.3))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        first = asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub))
        await until_in_flight(served)
        second = asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub))
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).text
        assert served.counts()["requests"] == 2


async def test_waiting_calls_share_a_failure(tmp_path: Path) -> None:
    simulator = Simulator(latency=Latency(0.1), faults=Faults(rate_500=1.0))
    with serving(simulator) as served, hub_at(served, tmp_path / "runs.db", retry=llmhub.Retry(attempts=1)) as hub:
        calls = [llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, llmhub.ConnectorError) for result in results)
        assert served.counts()["requests"] == 1


def test_without_a_cache_equal_calls_are_all_sent(simulator: SimulatorThread) -> None:
    async def send_three(hub: llmhub.Hub) -> None:
        await asyncio.gather(*(llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(3)))

    with hub_at(simulator, None) as hub:
        asyncio.run(send_three(hub))
    assert simulator.counts()["requests"] == 3


# Stopping


def in_own_task(send: Send) -> Send:
    async def send_in_task(call: Call) -> Answer:
        return await asyncio.create_task(send(call))  # type: ignore[arg-type] # `send` returns a coroutine here

    return send_in_task


def test_a_call_sent_in_the_task_of_a_middleware_is_drained_by_a_stop(tmp_path: Path) -> None:
    stop = StopSignal()

    def respond(_request: object) -> str:
        stop.request()
        return "drained"

    with serving(Simulator(latency=Latency(0.3), respond=respond)) as served:
        with hub_at(served, tmp_path / "runs.db", middleware=(in_own_task,)) as hub:
            options = {"concurrency": 1, "progress": False}
            run = tables.build_table_run({"q": ["a", "b", "c"]}, "{q}", MODEL, hub, options)
            table = submit(tables.run_table(run, None, stop)).result(30)
        assert served.counts()["requests"] == 1
    assert table.column("status").to_pylist() == ["ok", "cancelled", "cancelled"]


def test_a_call_stopped_between_two_attempts_reports_the_first(tmp_path: Path) -> None:
    with serving(Simulator(faults=Faults(rate_500=1.0))) as served:
        stop = StopSignal()
        retry = llmhub.Retry(base_s=3600.0, cap_s=3600.0, deadline_s=1e6)
        with hub_at(served, tmp_path / "runs.db", retry=retry) as hub:
            run = tables.build_table_run({"q": ["a"]}, "{q}", MODEL, hub, {"progress": False})
            future = submit(tables.run_table(run, None, stop))
            while llmhub.ledger(hub=hub).column("state").to_pylist() != ["error", "reserved"]:
                time.sleep(0.005)
            stop.request()
            table = future.result(30)
    assert table.column("status").to_pylist() == ["cancelled"]
    error = table.column("error").to_pylist()[0]
    assert error.startswith(
        "cancelled before the request was retried; 1 attempt had failed: openai: The server had an error"
    )
    assert table.column("attempts").to_pylist() == [1]


def must_not_run(*_args: object) -> Any:
    raise AssertionError


async def test_other_tasks_run_while_a_stopped_run_is_completed() -> None:
    """The keys of rows that were never started are computed with pauses."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def chunk(start: int) -> list[PlannedItem]:
        return [(position, position.to_bytes(32, "big"), must_not_run, "") for position in range(start, start + 10)]

    stop = StopSignal()
    stop.request()
    spec = FanOutSpec(size=1000, chunks=map(chunk, range(0, 1000, 10)))
    counting = asyncio.create_task(count_turns())
    result = await run_fan_out(spec, Sender(send=must_not_run, in_flight=set()), stop)
    counting.cancel()
    assert turns >= 100
    answers = [as_answer(outcome) for outcome in result.outcomes if outcome is not None]
    assert len(answers) == 1000
    assert all(isinstance(answer.outcome.failure(), Cancelled) for answer in answers)


async def test_a_stop_signal_keeps_no_finished_run_alive() -> None:
    stop, sender = StopSignal(), Sender(send=must_not_run, in_flight=set())
    for _ in range(3):
        await run_fan_out(FanOutSpec(size=0, chunks=iter([])), sender, stop)
    assert not stop._listeners


SHARE_OF_ROWS = """
import sys
import llmhub
from llmhub.config import Settings
url, cache = sys.argv[1:3]
hub = llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=url, api_key="k")}, settings=Settings(),
                 cache=cache, concurrency=8)
frame = {"n": [str(number) for number in range(120)]}
llmhub.complete("Warm up", model="openai/gpt-4o-mini", hub=hub)
print("ready", flush=True)
sys.stdin.readline()
table = llmhub.complete_table(frame, "Say {n}", model="openai/gpt-4o-mini", hub=hub, progress=False)
assert set(table.column("status").to_pylist()) == {"ok"}
print(table.column("cache_hit").to_pylist().count(False), flush=True)
"""


def test_processes_with_equal_rows_share_them(tmp_path: Path) -> None:
    with serving(Simulator(latency=Latency(0.25))) as served:
        arguments = [sys.executable, "-c", SHARE_OF_ROWS, served.base_url("openai"), str(tmp_path / "runs.db")]
        processes = [
            subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [int(process.communicate(timeout=60)[0]) for process in processes]
        assert served.counts()["requests"] == 121
    # None may claim so much that the others have nothing to send: 120 rows are 15 rounds of 8.
    assert sum(outputs) == 120
    assert min(outputs) >= 8, outputs


def test_rows_that_others_answered_before_an_earlier_claim_are_not_sent(
    simulator: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process answers all rows after their look-up, and has ended by the first of several claims."""
    frame = {"n": [str(number) for number in range(60)]}
    with hub_at(simulator, tmp_path / "other.db") as other:
        table = llmhub.complete_table(frame, "Say {n}", model=MODEL, hub=other, progress=False)
    store = llmhub.DiskCache(tmp_path / "other.db").open()
    found = store.get_many(table.column("request_key").to_pylist())
    answers = [Entry(key, value, MODEL, time.time()) for key, value in found.items()]
    store.close()
    claimed: list[int] = []

    async def claim(self: WriteAheadLog, requests: Sequence[Any], *, repeated: bool) -> ClaimResult:
        if not claimed:
            await asyncio.to_thread(self.store.put_many, answers)
        claimed.append(len(requests))
        return ClaimResult(exclusive=len(claimed) > 1)

    monkeypatch.setattr(WriteAheadLog, "_claim_leases", claim)
    before = simulator.counts()["requests"]
    with hub_at(simulator, tmp_path / "runs.db", concurrency=16) as hub:
        second = llmhub.complete_table(frame, "Say {n}", model=MODEL, hub=hub, progress=False)
    assert set(second.column("status").to_pylist()) == {"ok"}
    assert len(claimed) > 1
    assert sum(claimed) == 60
    assert simulator.counts()["requests"] == before
