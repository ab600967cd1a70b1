"""Who asks what: several runs of a process, and what a stop does to requests that others send."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Literal

import pytest

import llmhub
from llmhub.api import tables
from llmhub.config import Settings
from llmhub.core.errors import Cancelled
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.engine.fan_out import run_fan_out
from llmhub.engine.fan_out_types import FanOutSpec, Sender
from llmhub.engine.row_outcome import as_answer
from llmhub.sim import Latency, Simulator, SimulatorThread, serving
from llmhub.sim.faults import Faults

MODEL = "openai/gpt-4o-mini"


CACHES = {"memory": lambda _: llmhub.MemoryCache(), "sqlite": lambda folder: folder / "runs.db"}


def hub_at(served: SimulatorThread, cache: Any, **more: Any) -> llmhub.Hub:
    endpoint = llmhub.Endpoint(base_url=served.base_url("openai"), api_key="k")
    return llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), cache=cache, **more)


@pytest.mark.parametrize("kind", CACHES)
async def test_equal_calls_at_the_same_time_are_sent_once(tmp_path: Path, kind: str) -> None:
    with serving(Simulator(latency=Latency(0.05))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        said = await asyncio.gather(*(llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(20)))
        assert served.counts()["requests"] == 1
    assert len({one.text for one in said}) == 1


@pytest.mark.parametrize("mode", ["refresh", "write-only"])
@pytest.mark.parametrize("kind", CACHES)
async def test_what_is_asked_anew_is_asked_one_after_the_other(
    tmp_path: Path, kind: str, mode: Literal["refresh", "write-only"]
) -> None:
    with serving(Simulator(latency=Latency(0.1))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        before = await llmhub.acomplete("hi", model=MODEL, hub=hub)
        early = [asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub, cache=mode)) for _ in range(5)]
        while served.counts()["in_flight"] < 1:  # noqa: ASYNC110 - it is asked in another thread
            await asyncio.sleep(0.005)
        # These come too late to be answered by what is under way, and wait for it all the same.
        late = [asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub, cache=mode)) for _ in range(5)]
        said = await asyncio.gather(*early, *late)
        counts = served.counts()
        assert counts["max_in_flight"] == counts["max_alike"] == 1
        assert 3 <= counts["requests"] <= 11
        assert {one.text for one in said} == {before.text}


@pytest.mark.parametrize("kind", CACHES)
async def test_who_may_only_read_asks_once_too_and_writes_nothing(tmp_path: Path, kind: str) -> None:
    rows = {"t": ["hi", "ho", "hi"]}
    read_only = {"model": MODEL, "cache": "read-only", "progress": False}
    with serving(Simulator(latency=Latency(0.5))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        asked = asyncio.create_task(asyncio.to_thread(llmhub.complete_table, rows, "{t}", hub=hub, **read_only))
        while served.counts()["in_flight"] < 2:  # noqa: ASYNC110 - it is asked in another thread
            await asyncio.sleep(0.005)
        asking = (llmhub.acomplete("hi", model=MODEL, hub=hub, cache="read-only") for _ in range(10))
        *said, table = await asyncio.gather(*asking, asked)
        assert served.counts()["requests"] == served.counts()["unique_prompts"] == 2
        assert len({one.text for one in said}) == 1
        assert table.column("status").to_pylist() == ["ok"] * 3
        if kind == "sqlite":
            assert llmhub.ledger(hub=hub).num_rows == 0
        # Nothing of it was filed: whoever comes later asks anew.
        await llmhub.acomplete("hi", model=MODEL, hub=hub, cache="read-only")
        assert served.counts()["requests"] == 3


@pytest.mark.parametrize("kind", CACHES)
async def test_what_was_answered_while_another_run_goes_on_is_old_in_time(tmp_path: Path, kind: str) -> None:
    """An answer that is remembered while runs go on counts as a miss, like a kept one, once it is too old."""
    young = llmhub.CacheMode(max_age_s=0.05)
    with serving(Simulator()) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        other = asyncio.create_task(llmhub.acomplete("[[sim:hang]]", model=MODEL, hub=hub))
        while not served.counts()["in_flight"]:  # noqa: ASYNC110 - it is asked in another thread
            await asyncio.sleep(0.005)
        for asked in (1, 2):
            await llmhub.acomplete("hi", model=MODEL, hub=hub, cache=young)
            assert served.counts()["requests"] == 1 + asked
            await asyncio.sleep(0.1)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)


@pytest.mark.parametrize("kind", CACHES)
async def test_whoever_is_asked_in_another_s_place_is_asked_once(tmp_path: Path, kind: str) -> None:
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
            asking = [llmhub.acomplete("hi", model=model, hub=hub) for model in (down, up, down, up)]
            table = asyncio.to_thread(
                llmhub.complete_table, {"t": ["hi", "ho"]}, "{t}", model=[up, down], hub=hub, progress=False
            )
            *said, rows = await asyncio.gather(*asking, table)
        counts = served.counts()
        assert counts["requests"] == counts["unique_prompts"] == 2
    assert len({one.text for one in said}) == 1
    assert rows.column("status").to_pylist() == ["ok"] * 4
    assert rows.column("served_model").to_pylist()[0] == "gpt-4o-mini-2024-07-18"


@pytest.mark.parametrize("kind", CACHES)
async def test_who_waits_asks_when_who_asked_is_cancelled(tmp_path: Path, kind: str) -> None:
    with serving(Simulator(latency=Latency(0.3))) as served, hub_at(served, CACHES[kind](tmp_path)) as hub:
        first = asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub))
        while not served.counts()["requests"]:  # noqa: ASYNC110 - it is asked in another thread
            await asyncio.sleep(0.005)
        second = asyncio.create_task(llmhub.acomplete("hi", model=MODEL, hub=hub))
        await asyncio.sleep(0.05)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).text
        assert served.counts()["requests"] == 2


async def test_those_who_wait_share_a_failure_and_ask_no_more(tmp_path: Path) -> None:
    faults = Simulator(latency=Latency(0.1), faults=Faults(rate_500=1.0))
    with serving(faults) as served, hub_at(served, tmp_path / "runs.db", retry=llmhub.Retry(attempts=1)) as hub:
        asking = [llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(5)]
        failed = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(one, llmhub.ConnectorError) for one in failed)
        assert served.counts()["requests"] == 1


def test_without_a_cache_equal_calls_are_calls_of_their_own(simulator: SimulatorThread) -> None:
    async def both(hub: llmhub.Hub) -> None:
        await asyncio.gather(*(llmhub.acomplete("hi", model=MODEL, hub=hub) for _ in range(3)))

    with hub_at(simulator, None) as hub:
        asyncio.run(both(hub))
    assert simulator.counts()["requests"] == 3


def in_a_task(send: Send) -> Send:
    async def sending(call: Call) -> Answer:
        return await asyncio.create_task(send(call))  # type: ignore[arg-type] # what is sent is a coroutine

    return sending


def test_what_a_middleware_sends_in_a_task_of_its_own_lands_after_a_stop(tmp_path: Path) -> None:
    stop = StopSignal()
    with serving(Simulator(latency=Latency(0.3), respond=lambda _: (stop.request(), "landed")[1])) as served:
        hub = hub_at(served, tmp_path / "runs.db", middleware=(in_a_task,))
        with hub:
            asked = tables.build_table_run(
                {"q": ["a", "b", "c"]}, "{q}", MODEL, hub, {"concurrency": 1, "progress": False}
            )
            table = submit(tables.run_table(asked, None, stop)).result(30)
        assert served.counts()["requests"] == 1
    assert table.column("status").to_pylist() == ["ok", "cancelled", "cancelled"]


def test_a_call_that_was_stopped_between_two_tries_says_that_it_was_sent(tmp_path: Path) -> None:
    with serving(Simulator(faults=Faults(rate_500=1.0))) as served:
        stop = StopSignal()
        retry = llmhub.Retry(base_s=3600.0, cap_s=3600.0, deadline_s=1e6)
        with hub_at(served, tmp_path / "runs.db", retry=retry) as hub:
            asked = tables.build_table_run({"q": ["a"]}, "{q}", MODEL, hub, {"progress": False})
            done = submit(tables.run_table(asked, None, stop))
            while llmhub.ledger(hub=hub).column("state").to_pylist() != ["error", "reserved"]:
                time.sleep(0.005)
            stop.request()
            table = done.result(30)
    assert table.column("status").to_pylist() == ["cancelled"]
    assert table.column("error").to_pylist() == ["cancelled before the request was retried; 1 attempt had failed"]
    assert table.column("attempts").to_pylist() == [1]


async def test_a_long_rest_is_keyed_with_pauses(virtual: Any) -> None:
    """While a stopped run keys what it never began, the loop goes on with other work."""
    turns = 0

    def make(_text: Any, _key: bytes) -> Call:
        raise AssertionError

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def send(_call: Call) -> Answer:
        raise AssertionError

    stop = StopSignal()
    stop.request()
    chunks = ([(at * 10 + n, (at * 10 + n).to_bytes(32, "big"), make, "") for n in range(10)] for at in range(100))
    counting = asyncio.create_task(count())
    done = await run_fan_out(FanOutSpec(size=1000, chunks=chunks), Sender(send=send, in_flight=set()), stop)
    counting.cancel()
    assert turns >= 100
    answers = [as_answer(answer) for answer in done.outcomes if answer is not None]
    assert len(answers) == 1000
    assert all(isinstance(answer.outcome.failure(), Cancelled) for answer in answers)


async def test_a_wish_to_stop_keeps_nothing_of_the_runs_that_are_over() -> None:
    async def send(_call: Call) -> Answer:
        raise AssertionError

    stop, sender = StopSignal(), Sender(send=send, in_flight=set())
    for _ in range(3):
        await run_fan_out(FanOutSpec(size=0, chunks=iter([])), sender, stop)
    assert not stop._listeners
