"""The runtime of a hub: opened at first use, closed as a whole, and not shared with other hubs or forked children."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import Entry, Store
from llmhub.config import Settings
from llmhub.core.errors import Disconnected
from llmhub.engine.call import Answer, Call, Send
from llmhub.engine.event_loop import background_loop
from llmhub.sim import Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"


def hub_at(url: str, **options: Any) -> llmhub.Hub:
    endpoints = {"compatible": llmhub.Endpoint(base_url=url)}
    return llmhub.Hub(endpoints=endpoints, settings=Settings(), **{"retry": llmhub.Retry(attempts=1), **options})


def complete(hub: llmhub.Hub, text: str = "hi", model: str = "compatible/m") -> str:
    return llmhub.complete(text, model=model, hub=hub).text


# Opening and closing


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path, scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    with hub_at(server.url, cache=llmhub.DiskCache(tmp_path / "runs.db")) as hub:
        hub.target("compatible/m")
        assert (server.connections, (tmp_path / "runs.db").exists()) == (0, False)
        complete(hub)
        assert (server.connections, (tmp_path / "runs.db").exists()) == (1, True)


def test_closing_releases_everything_and_the_next_call_opens_it_again(scripted: Any, replies: Any) -> None:
    server, stores = scripted([replies.answer()]), CountingCache()
    hub = hub_at(server.url, cache=stores)
    hub.close()
    for count in (1, 2):
        complete(hub, str(count))
        assert (server.connections, len(stores.opened), stores.closed) == (count, count, count - 1)
        hub.close()
        assert server.disconnected.wait(10)
        assert stores.closed == count
        hub.close()
        assert stores.closed == count


class CountingCache:
    """A cache that counts the stores it opened and closed."""

    def __init__(self) -> None:
        self.opened: list[Store] = []
        self.closed = 0

    def open(self) -> Store:
        def close() -> None:
            self.closed += 1

        self.opened.append(replace(llmhub.MemoryCache().open(), close=close))
        return self.opened[-1]


def test_a_garbage_collected_hub_is_closed(scripted: Any, replies: Any) -> None:
    server, stores = scripted([replies.answer()]), CountingCache()
    hub = hub_at(server.url, cache=stores)
    complete(hub)
    del hub
    gc.collect()
    assert server.disconnected.wait(10)
    assert stores.closed == 1


async def test_a_hub_can_be_closed_on_the_background_loop(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    hub = hub_at(server.url)
    await llmhub.acomplete("hi", model="compatible/m", hub=hub)

    async def close() -> None:
        hub.close()

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(close(), background_loop()))
    assert await asyncio.get_running_loop().run_in_executor(None, server.disconnected.wait, 10)


def test_threads_share_one_store(scripted: Any, replies: Any) -> None:
    server, stores = scripted([replies.answer()]), CountingCache()
    with hub_at(server.url, cache=stores) as hub:
        threads = [threading.Thread(target=complete, args=(hub, str(number))) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(stores.opened), stores.closed) == (1, 1)


# Isolation between hubs


def test_hubs_share_no_connections_responses_or_endpoints(scripted: Any, replies: Any) -> None:
    first_server, second_server = scripted([replies.answer("one")]), scripted([replies.answer("other")])
    with (
        hub_at(first_server.url, cache=llmhub.MemoryCache()) as first,
        hub_at(second_server.url, cache=llmhub.MemoryCache()) as second,
    ):
        assert [complete(first), complete(second), complete(first), complete(second)] == ["one", "other"] * 2
        first.close()
        assert complete(second, "again") == "other"
    assert (len(first_server.requests), len(second_server.requests)) == (1, 2)


def test_hubs_may_share_a_cache_file(tmp_path: Path, scripted: Any, replies: Any) -> None:
    server, cache = scripted([replies.answer()]), llmhub.DiskCache(tmp_path / "runs.db")
    with hub_at(server.url, cache=cache) as first, hub_at(server.url, cache=cache) as second:
        assert complete(first) == complete(second)
    assert len(server.requests) == 1


def test_rate_limits_are_per_hub(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])
    limit = {"compatible": llmhub.Limit(rpm=0.001)}
    with hub_at(server.url, limits=limit) as first, hub_at(server.url, limits=limit) as second:
        assert complete(first, "1") == complete(second, "2") == "Hi"


# The order of the middleware


def recording(name: str, seen: list[str]) -> Callable[[Send], Send]:
    def wrap(send: Send) -> Send:
        async def send_recorded(call: Call) -> Answer:
            seen.append(name)
            return await send(call)

        return send_recorded

    return wrap


def test_middleware_sees_a_call_once_for_all_attempts(scripted: Any, replies: Any) -> None:
    failing = replies.reply(b"{}", status=500)
    server, seen = scripted([failing], [failing], [replies.answer()]), []
    middleware = (recording("outer", seen), recording("inner", seen))
    with hub_at(server.url, middleware=middleware, retry=llmhub.Retry(attempts=3, base_s=0.001)) as hub:
        assert complete(hub) == "Hi"
    assert seen == ["outer", "inner"]
    assert len(server.requests) == 3


def test_middleware_may_replace_the_request(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer()])

    def upper_case(send: Send) -> Send:
        async def send_upper_case(call: Call) -> Answer:
            message = replace(call.request.messages[0], role="user")
            text = llmhub.Message("user", message.text.upper())
            return await send(replace(call, request=replace(call.request, messages=(text,))))

        return send_upper_case

    with hub_at(server.url, middleware=(upper_case,)) as hub:
        llmhub.complete_table({"t": ["quiet"]}, "{t}", model="compatible/m", hub=hub, progress=False)
    assert b"QUIET" in server.bodies[0]


@pytest.mark.parametrize("limited", [["openai"], [MODEL], ["openai", MODEL]])
def test_limits_of_a_provider_and_of_a_model_apply_together(limited: list[str]) -> None:
    """One request per minute admits one request; the second one would wait longer than this test."""
    with serving(Simulator()) as simulator:
        limits = {name: llmhub.Limit(rpm=1) for name in limited}
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), limits=limits) as hub:
            table = run_until(hub, simulator, {"t": ["a", "b", "c"]}, answered=1)
            assert table.column("status").to_pylist() == ["ok", "cancelled", "cancelled"]
            assert table.column("rate_wait_s").to_pylist()[0] == 0.0
        assert simulator.counts()["requests"] == 1


def test_a_limit_applies_to_its_own_model_only() -> None:
    with serving(Simulator()) as simulator:
        limits = {MODEL: llmhub.Limit(rpm=1)}
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), limits=limits) as hub:
            assert all(complete(hub, str(number), "openai/gpt-4o") for number in range(3))
            assert complete(hub, "1", MODEL)


def run_until(hub: llmhub.Hub, simulator: SimulatorThread, frame: Any, *, answered: int) -> Any:
    """Run a table and stop it as soon as so many rows are answered."""
    from llmhub.api import tables  # noqa: PLC0415 - stopping a run is not public
    from llmhub.engine.event_loop import StopSignal, submit  # noqa: PLC0415 - as above

    stop = StopSignal()

    def stop_when_answered(progress: Any) -> None:
        if progress.done >= answered and not progress.finished:
            stop.request()

    run = tables.build_table_run(frame, "{t}", MODEL, hub, {"progress": stop_when_answered})
    return submit(tables.run_table(run, run.start_display(), stop)).result(30)


# Processes


def python(program: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("end", ["", "hub.close()", "del hub", "import sys; sys.exit(0)"])
def test_a_program_exits_cleanly(simulator: SimulatorThread, tmp_path: Path, end: str) -> None:
    """Connections, stores and threads are closed at exit even if the hub is not."""
    done = python(
        f"""
        import llmhub
        endpoint = llmhub.Endpoint(base_url={simulator.base_url("openai")!r}, api_key="k")
        hub = llmhub.Hub(endpoints={{"openai": endpoint}}, cache=llmhub.DiskCache({str(tmp_path / "runs.db")!r}))
        print(llmhub.complete("hi", model={MODEL!r}, hub=hub).finish_reason)
        chunks = llmhub.stream("tell me", model={MODEL!r}, hub=hub)
        next(chunks)
        {end}
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "stop\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_uses_its_own_connections_and_leaves_those_of_its_parent_intact(
    scripted: Any, replies: Any, tmp_path: Path
) -> None:
    """The child inherits the sockets: it must neither use them nor unregister them."""
    waited = threading.Event()
    server = scripted([replies.answer("first")], [replies.answer("child")], [waited, replies.answer("parent")])
    program = f"""
        import gc, os, time, llmhub
        endpoint = llmhub.Endpoint(base_url={server.url!r})
        cache = llmhub.DiskCache({str(tmp_path / "runs.db")!r})
        timeout, retry = llmhub.Timeout(total_s=3), llmhub.Retry(attempts=1)
        hub = llmhub.Hub(endpoints={{"compatible": endpoint}}, cache=cache, timeout=timeout, retry=retry)
        complete = lambda text: print(llmhub.complete(text, model="compatible/m", hub=hub).text, flush=True)
        complete("1")
        time.sleep(0.5)  # until the deadline timer is idle, so that only the hub references the connections
        child = os.fork()
        if child == 0:
            complete("2")
            gc.collect()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        complete("3")
        complete("1")
        complete("2")
    """
    threading.Timer(0.3, waited.set).start()
    done = python(program)
    assert (done.returncode, done.stdout) == (0, "first\nchild\nparent\nfirst\nchild\n"), done.stderr
    assert done.stderr == ""
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_pickled_hub_opens_its_own_connections(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        text = complete(hub, model=MODEL)
        with pickle.loads(pickle.dumps(hub)) as again:
            assert again.endpoints == hub.endpoints
            assert complete(again, model=MODEL) == text
    assert simulator.counts()["requests"] == 2


def test_equal_hubs_that_a_process_unpickles_share_a_runtime(simulator: SimulatorThread) -> None:
    import copy  # noqa: PLC0415 - of this one test
    import pickle  # noqa: PLC0415

    with llmhub.Hub(simulator=simulator.url, settings=Settings()) as hub:
        first, second = (pickle.loads(pickle.dumps(hub)) for _ in range(2))
        assert first is second
        assert first.runtime is not hub.runtime
        assert pickle.loads(pickle.dumps(first)) is first
        equal = llmhub.Hub(simulator=simulator.url, settings=Settings())
        assert pickle.loads(pickle.dumps(equal)) is first
        other = llmhub.Hub(simulator=simulator.url, settings=Settings(), concurrency=3)
        assert pickle.loads(pickle.dumps(other)) is not first
        assert copy.deepcopy(copy.copy(hub)) is hub
        first.close()


def test_unpickled_hubs_share_a_runtime_if_only_their_functions_are_copies(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    hub = llmhub.Hub(simulator=simulator.url, settings=Settings(), middleware=(PickledByValue(),))
    pickled = pickle.dumps(hub)
    first, second = pickle.loads(pickled), pickle.loads(pickled)
    assert first is second
    assert pickle.loads(pickle.dumps(llmhub.Hub(simulator=simulator.url, middleware=(PickledByValue(),)))) is not first


class PickledByValue:
    """A middleware whose copies are not equal, as functions of a notebook."""

    def __call__(self, send: Any) -> Any:
        return send


def test_copies_of_a_hub_with_a_budget_share_it(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    hub = llmhub.Hub(simulator=simulator.url, settings=Settings(), budget_usd=1.0)
    first = pickle.loads(pickle.dumps(hub))
    assert complete(first, model="openai/gpt-4o-mini")
    spent = first.spending().spent
    assert spent > 0
    assert complete(hub, model="openai/gpt-4o-mini")
    second = pickle.loads(pickle.dumps(hub))
    assert second is first
    assert second.spending().spent == spent + hub.spending().spent  # type: ignore[union-attr]
    hub.close()
    first.close()


def test_a_call_in_flight_fails_when_its_hub_is_closed(scripted: Any) -> None:
    server = scripted(["hang"])
    hub = hub_at(server.url)
    outcomes: list[Any] = []
    caller = threading.Thread(target=lambda: outcomes.append(llmhub.try_complete("hi", model="compatible/m", hub=hub)))
    caller.start()
    assert server.received.wait(10)
    hub.close()
    caller.join(10)
    assert isinstance(outcomes[0].failure(), Disconnected)


def test_the_open_store_is_accessible(scripted: Any, replies: Any) -> None:
    with hub_at(scripted([replies.answer()]).url, cache=llmhub.MemoryCache()) as hub:
        complete(hub)
        store = hub.runtime.store
        assert store is not None
        assert store.stats().entries == 1
        store.put_many([Entry(b"k", b"v")])
        assert hub.runtime.store is store
    with hub_at("http://localhost") as uncached:
        assert uncached.runtime.store is None
