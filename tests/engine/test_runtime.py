"""What lives as long as a hub: opened at first use, its own, let go whole, and not shared with a forked child."""

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


def hub(url: str, **more: Any) -> llmhub.Hub:
    endpoints = {"compatible": llmhub.Endpoint(base_url=url)}
    return llmhub.Hub(endpoints=endpoints, settings=Settings(), **{"retry": llmhub.Retry(attempts=1), **more})


def ask(made: llmhub.Hub, text: str = "hi", model: str = "compatible/m") -> str:
    return llmhub.complete(text, model=model, hub=made).text


# Opening and closing


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path, scripted: Any, speech: Any) -> None:
    server = scripted([speech.answer()])
    with hub(server.url, cache=llmhub.DiskCache(tmp_path / "runs.db")) as made:
        made.target("compatible/m")
        assert (server.connections, (tmp_path / "runs.db").exists()) == (0, False)
        ask(made)
        assert (server.connections, (tmp_path / "runs.db").exists()) == (1, True)


def test_closing_lets_go_and_the_next_call_opens_again(scripted: Any, speech: Any) -> None:
    server, stores = scripted([speech.answer()]), Stores()
    made = hub(server.url, cache=stores)
    made.close()
    for many in (1, 2):
        ask(made, str(many))
        assert (server.connections, len(stores.opened), stores.closed) == (many, many, many - 1)
        made.close()
        assert server.gone.wait(10)
        assert stores.closed == many
        made.close()
        assert stores.closed == many


class Stores:
    """A cache that remembers what was opened and closed."""

    def __init__(self) -> None:
        self.opened: list[Store] = []
        self.closed = 0

    def open(self) -> Store:
        def close() -> None:
            self.closed += 1

        self.opened.append(replace(llmhub.MemoryCache().open(), close=close))
        return self.opened[-1]


def test_a_hub_that_is_forgotten_lets_go_by_itself(scripted: Any, speech: Any) -> None:
    server, stores = scripted([speech.answer()]), Stores()
    made = hub(server.url, cache=stores)
    ask(made)
    del made
    gc.collect()
    assert server.gone.wait(10)
    assert stores.closed == 1


async def test_a_hub_can_be_closed_from_inside_the_loop(scripted: Any, speech: Any) -> None:
    server = scripted([speech.answer()])
    made = hub(server.url)
    await llmhub.acomplete("hi", model="compatible/m", hub=made)

    async def close() -> None:
        made.close()

    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(close(), background_loop()))
    assert await asyncio.get_running_loop().run_in_executor(None, server.gone.wait, 10)


def test_many_threads_open_one_store(scripted: Any, speech: Any) -> None:
    server, stores = scripted([speech.answer()]), Stores()
    with hub(server.url, cache=stores) as made:
        threads = [threading.Thread(target=ask, args=(made, str(number))) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(stores.opened), stores.closed) == (1, 1)


# Hubs share nothing


def test_two_hubs_share_neither_connections_nor_answers_nor_addresses(scripted: Any, speech: Any) -> None:
    one, other = scripted([speech.answer("one")]), scripted([speech.answer("other")])
    with hub(one.url, cache=llmhub.MemoryCache()) as first, hub(other.url, cache=llmhub.MemoryCache()) as second:
        assert [ask(first), ask(second), ask(first), ask(second)] == ["one", "other"] * 2
        first.close()
        assert ask(second, "again") == "other"
    assert (len(one.requests), len(other.requests)) == (1, 2)


def test_two_hubs_may_share_a_cache_that_is_a_file(tmp_path: Path, scripted: Any, speech: Any) -> None:
    server, cache = scripted([speech.answer()]), llmhub.DiskCache(tmp_path / "runs.db")
    with hub(server.url, cache=cache) as first, hub(server.url, cache=cache) as second:
        assert ask(first) == ask(second)
    assert len(server.requests) == 1


def test_limits_of_one_hub_do_not_bind_another(scripted: Any, speech: Any) -> None:
    server = scripted([speech.answer()])
    limit = {"compatible": llmhub.Limit(rpm=0.001)}
    with hub(server.url, limits=limit) as bound, hub(server.url, limits=limit) as other:
        assert ask(bound, "1") == ask(other, "2") == "Hi"


# The order of what stands around a call


def noted(name: str, notes: list[str]) -> Callable[[Send], Send]:
    def wrap(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            notes.append(name)
            return await send(call)

        return sending

    return wrap


def test_middleware_sees_a_call_once_however_often_it_is_tried(scripted: Any, speech: Any) -> None:
    failing = speech.reply(b"{}", status=500)
    server, notes = scripted([failing], [failing], [speech.answer()]), []
    middleware = (noted("outer", notes), noted("inner", notes))
    with hub(server.url, middleware=middleware, retry=llmhub.Retry(attempts=3, base_s=0.001)) as made:
        assert ask(made) == "Hi"
    assert notes == ["outer", "inner"]
    assert len(server.requests) == 3


def test_middleware_may_answer_itself_or_ask_something_else(scripted: Any, speech: Any) -> None:
    server = scripted([speech.answer()])

    def louder(send: Send) -> Send:
        async def sending(call: Call) -> Answer:
            message = replace(call.request.messages[0], role="user")
            text = llmhub.Message("user", message.text.upper())
            return await send(replace(call, request=replace(call.request, messages=(text,))))

        return sending

    with hub(server.url, middleware=(louder,)) as made:
        llmhub.complete_table({"t": ["quiet"]}, "{t}", model="compatible/m", hub=made, progress=False)
    assert b"QUIET" in server.bodies[0]


@pytest.mark.parametrize("limited", [["openai"], [MODEL], ["openai", MODEL]])
def test_the_limits_of_a_provider_and_of_a_model_both_hold(limited: list[str]) -> None:
    """A limit of one request a minute lets one through; the second waits for longer than this test."""
    with serving(Simulator()) as simulator:
        limits = {name: llmhub.Limit(rpm=1) for name in limited}
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), limits=limits) as made:
            table = run_until(made, simulator, {"t": ["a", "b", "c"]}, answered=1)
            assert table.column("status").to_pylist() == ["ok", "cancelled", "cancelled"]
            assert table.column("rate_wait_s").to_pylist()[0] == 0.0
        assert simulator.counts()["requests"] == 1


def test_a_limit_binds_only_its_own_model() -> None:
    with serving(Simulator()) as simulator:
        limits = {MODEL: llmhub.Limit(rpm=1)}
        with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), limits=limits) as made:
            assert all(ask(made, str(number), "openai/gpt-4o") for number in range(3))
            assert ask(made, "1", MODEL)


def run_until(made: llmhub.Hub, simulator: SimulatorThread, frame: Any, *, answered: int) -> Any:
    """Run a table and stop it as soon as so many were answered."""
    from llmhub.api import tables  # noqa: PLC0415 - how a run is stopped is not public
    from llmhub.engine.event_loop import StopSignal, submit  # noqa: PLC0415 - as above

    stop = StopSignal()

    def watch(progress: Any) -> None:
        if progress.done >= answered and not progress.finished:
            stop.request()

    asked = tables.build_table_run(frame, "{t}", MODEL, made, {"progress": watch})
    return submit(tables.run_table(asked, asked.start_display(), stop)).result(30)


# Processes


def python(program: str, *, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("end", ["", "hub.close()", "del hub", "import sys; sys.exit(0)"])
def test_a_program_ends_without_a_word(simulator: SimulatorThread, tmp_path: Path, end: str) -> None:
    """Connections, stores and threads are let go at the end, whoever forgot them."""
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
def test_a_forked_child_asks_on_connections_of_its_own_and_harms_none_of_its_parents(
    scripted: Any, speech: Any, tmp_path: Path
) -> None:
    """The child inherits the sockets: it must neither use nor unhook them."""
    waited = threading.Event()
    server = scripted([speech.answer("first")], [speech.answer("child")], [waited, speech.answer("parent")])
    program = f"""
        import gc, os, time, llmhub
        endpoint = llmhub.Endpoint(base_url={server.url!r})
        cache = llmhub.DiskCache({str(tmp_path / "runs.db")!r})
        timeout, retry = llmhub.Timeout(total_s=3), llmhub.Retry(attempts=1)
        hub = llmhub.Hub(endpoints={{"compatible": endpoint}}, cache=cache, timeout=timeout, retry=retry)
        ask = lambda text: print(llmhub.complete(text, model="compatible/m", hub=hub).text, flush=True)
        ask("1")
        time.sleep(0.5)  # the timer that watches over calls goes to rest, so that nothing but the hub holds them
        child = os.fork()
        if child == 0:
            ask("2")
            gc.collect()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        ask("3")
        ask("1")
        ask("2")
    """
    threading.Timer(0.3, waited.set).start()
    done = python(program)
    assert (done.returncode, done.stdout) == (0, "first\nchild\nparent\nfirst\nchild\n"), done.stderr
    assert done.stderr == ""
    assert (server.connections, len(server.requests)) == (2, 3)


def test_a_hub_goes_to_another_process_without_what_is_open(simulator: SimulatorThread) -> None:
    import pickle  # noqa: PLC0415 - of this one test

    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as made:
        said = ask(made, model=MODEL)
        with pickle.loads(pickle.dumps(made)) as again:
            assert again.endpoints == made.endpoints
            assert ask(again, model=MODEL) == said
    assert simulator.counts()["requests"] == 2


def test_calls_under_way_fail_or_end_when_their_hub_is_closed(scripted: Any) -> None:
    server = scripted(["hang"])
    made = hub(server.url)
    outcomes: list[Any] = []
    caller = threading.Thread(target=lambda: outcomes.append(llmhub.try_complete("hi", model="compatible/m", hub=made)))
    caller.start()
    assert server.asked.wait(10)
    made.close()
    caller.join(10)
    assert isinstance(outcomes[0].failure(), Disconnected)


def test_the_store_of_a_runtime_can_be_looked_into(scripted: Any, speech: Any) -> None:
    with hub(scripted([speech.answer()]).url, cache=llmhub.MemoryCache()) as made:
        ask(made)
        store = made.runtime.store
        assert store is not None
        assert store.stats().entries == 1
        store.put_many([Entry(b"k", b"v")])
        assert made.runtime.store is store
    with hub("http://localhost") as bare:
        assert bare.runtime.store is None
