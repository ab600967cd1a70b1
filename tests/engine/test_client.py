"""A single call through the client: cache, single flight and stop requests, without the machinery of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from returns.pipeline import is_successful

import llmhub
from llmhub.cache.modes import CacheMode
from llmhub.cache.store import StoreError
from llmhub.config import Settings
from llmhub.core.errors import Cancelled, InvalidRequest
from llmhub.core.types import CompletionRequest, Message
from llmhub.engine import runtime
from llmhub.engine.call import Call
from llmhub.engine.client import SendResult
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.sim import Latency, Simulator, SimulatorThread, serving

MODEL = "openai/gpt-4o-mini"


def make_hub(server: SimulatorThread, **options: Any) -> llmhub.Hub:
    return llmhub.Hub(endpoints=server.endpoints(), settings=Settings(), **options)


def make_call(hub: llmhub.Hub, text: str = "hi", **fields: Any) -> Call:
    target = hub.target(MODEL)
    request = CompletionRequest(model=target.model, messages=(Message("user", text),), **fields)
    return Call(target, request, requested_target=target)


def send(hub: llmhub.Hub, call: Call, stop: StopSignal | None = None, mode: CacheMode | None = None) -> SendResult:
    return run_sync(lambda _: hub.runtime.send(call, stop or StopSignal(), cache_mode=mode))


def test_a_single_call_is_not_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> Any:
        raise AssertionError("a single call was sent as a run")

    monkeypatch.setattr(runtime, "run_fan_out", fail)
    with serving(Simulator()) as server, make_hub(server, cache=llmhub.MemoryCache()) as hub:
        first, second = (llmhub.complete("hi", model=MODEL, hub=hub) for _ in range(2))
        assert first.text == second.text
        assert "".join(chunk.text for chunk in llmhub.stream("ho", model=MODEL, hub=hub))
        assert server.counts()["requests"] == 2


def test_the_answer_is_stored_and_found(tmp_path: Path) -> None:
    with serving(Simulator()) as server, make_hub(server, cache=tmp_path / "runs.db") as hub:
        sent, cached = (send(hub, make_call(hub)).answer for _ in range(2))
        assert (sent.cache_hit, sent.attempts, cached.cache_hit, cached.attempts) == (False, 1, True, 0)
        assert sent.outcome.unwrap().text == cached.outcome.unwrap().text
        assert not send(hub, make_call(hub), mode=CacheMode("refresh")).answer.cache_hit


def test_a_request_without_json_form_is_an_error() -> None:
    with serving(Simulator()) as server, make_hub(server) as hub:
        error = send(hub, make_call(hub, extra={"bad": object()})).answer.outcome.failure()
        assert isinstance(error, InvalidRequest)
        assert "JSON" in error.message
        assert server.counts()["requests"] == 0


def stopped(begin: Callable[[StopSignal], None], latency_s: float) -> tuple[SendResult, float]:
    """Send a call that ``begin`` stops; return the result and the seconds elapsed."""
    stop = StopSignal()
    with (
        serving(Simulator(latency=Latency(latency_s))) as server,
        make_hub(server, cache=llmhub.MemoryCache()) as hub,
    ):
        llmhub.complete("warm up", model=MODEL, hub=hub)
        hub.runtime.client.loop.call_soon_threadsafe(begin, stop)
        start = time.perf_counter()
        return send(hub, make_call(hub), stop), time.perf_counter() - start


def test_nothing_is_sent_after_a_stop_request() -> None:
    stop = StopSignal()
    stop.request()
    with serving(Simulator()) as server, make_hub(server) as hub:
        answer = send(hub, make_call(hub), stop).answer
        assert isinstance(answer.outcome.failure(), Cancelled)
        assert (answer.attempts, server.counts()["requests"]) == (0, 0)


def test_a_stop_request_drains_a_request_in_flight() -> None:
    result, _ = stopped(lambda stop: asyncio.get_running_loop().call_later(0.1, stop.request), 0.3)
    assert is_successful(result.answer.outcome)


def test_a_second_stop_request_cancels_a_request_in_flight() -> None:
    def stop_twice(stop: StopSignal) -> None:
        asyncio.get_running_loop().call_later(0.1, lambda: (stop.request(), stop.request()))

    result, elapsed_s = stopped(stop_twice, 5.0)
    error = result.answer.outcome.failure()
    assert isinstance(error, Cancelled)
    assert "in flight" in error.message
    assert result.answer.attempts == 1
    assert elapsed_s < 3.0


def test_a_stop_request_cancels_a_call_that_waits_for_an_equal_one() -> None:
    with (
        serving(Simulator(latency=Latency(0.4))) as server,
        make_hub(server, cache=llmhub.MemoryCache()) as hub,
    ):

        async def work(stop: StopSignal) -> tuple[SendResult, SendResult]:
            asyncio.get_running_loop().call_later(0.15, stop.request)
            first = asyncio.create_task(hub.runtime.send(make_call(hub), StopSignal()))
            await asyncio.sleep(0.05)
            waiting = await hub.runtime.send(make_call(hub), stop)
            assert not first.done()
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0  # a time limit or a task group of the caller works as before
            return waiting, await first

        waiting, first = run_sync(work)
        assert isinstance(waiting.answer.outcome.failure(), Cancelled)
        assert is_successful(first.answer.outcome)
        assert server.counts()["requests"] == 1


def test_a_store_failure_is_reported_or_stops_a_strict_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise StoreError("disk is full")

    with serving(Simulator()) as server, make_hub(server, cache=llmhub.MemoryCache()) as hub:
        store = hub.runtime.client.store
        assert store is not None
        object.__setattr__(store, "get_many", fail)
        tolerant = send(hub, make_call(hub))
        assert is_successful(tolerant.answer.outcome)
        assert "disk is full" in tolerant.store_error
        strict = send(hub, make_call(hub, "other"), mode=CacheMode(strict=True))
        assert strict.stopped_by_store_failure
        assert isinstance(strict.answer.outcome.failure(), Cancelled)
