"""The events of the engine: which ones a call makes, in which order, and that nobody's failure reaches a call."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import llmhub
from llmhub.engine.decision_log import Decision
from llmhub.engine.observer import (
    CALL_ORIGIN,
    NO_OBSERVERS,
    OBSERVED_CALL,
    OUTGOING_HEADERS,
    CacheHits,
    CallFinished,
    CallOrigin,
    CallStarted,
    Event,
    RequestFinished,
    RequestStarted,
    Waited,
)
from llmhub.observability.subscriptions import current_observers, subscribe
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"
QUICK = llmhub.Retry(base_s=0.002, cap_s=0.002)


def kinds(seen: Any) -> list[str]:
    return [type(event).__name__ for event in seen.events if type(event) is not Waited]


def test_a_call_starts_sends_a_request_and_finishes(hub: llmhub.Hub, seen: Any) -> None:
    answer = llmhub.complete("hi", model=MODEL, hub=hub)
    assert kinds(seen) == ["CallStarted", "RequestStarted", "RequestFinished", "CallFinished"]
    started, finished = seen.of(CallStarted)[0], seen.of(CallFinished)[0]
    (request,) = seen.of(RequestFinished)
    assert started.call_id == finished.call_id == request.call_id
    assert started.started_ns <= request.started_ns <= request.ended_ns <= finished.ended_ns
    assert finished.answer.outcome.unwrap().text == answer.text


def test_a_call_from_the_cache_sends_no_request(hub: llmhub.Hub, seen: Any) -> None:
    llmhub.complete("hi", model=MODEL, hub=hub)
    seen.events.clear()
    assert llmhub.complete("hi", model=MODEL, hub=hub).cache_hit
    assert kinds(seen) == ["CallStarted", "CallFinished"]
    assert seen.of(CallFinished)[0].answer.cache_hit


def test_retries_are_requests_decisions_and_waits(hub: llmhub.Hub, seen: Any) -> None:
    llmhub.complete("[[sim:500 twice]] hi", model=MODEL, hub=hub)
    assert [event.number for event in seen.of(RequestFinished)] == [1, 2, 3]
    assert [event.kind for event in seen.of(Decision)] == ["retry", "retry"]
    assert [event.reason for event in seen.of(Waited)].count("retry") == 2
    assert len(seen.of(CallFinished)) == 1
    assert seen.of(CallFinished)[0].answer.attempts == 3


def test_each_row_is_a_call_and_each_cached_row_a_hit(hub: llmhub.Hub, seen: Any) -> None:
    frame = {"text": [f"row {index % 40}" for index in range(50)]}
    llmhub.complete_table(frame, "{text}", model=MODEL, hub=hub, progress=False)
    assert len(seen.of(CallFinished)) == 40
    assert sum(event.rows for event in seen.of(CacheHits)) == 10
    seen.events.clear()
    llmhub.complete_table(frame, "{text}", model=[MODEL, "anthropic/claude-haiku-4-5"], hub=hub, progress=False)
    hits: dict[str, int] = {}
    for event in seen.of(CacheHits):
        hits[event.target.name] = hits.get(event.target.name, 0) + event.rows
    assert hits == {MODEL: 50, "anthropic/claude-haiku-4-5": 10}


def test_rows_wait_in_the_queue_of_their_run(hub: llmhub.Hub, seen: Any) -> None:
    frame = {"text": [f"row {index}" for index in range(30)]}
    llmhub.complete_table(frame, "{text}", model=MODEL, hub=hub, progress=False, concurrency=1)
    assert sum(event.queue_ns > 0 for event in seen.of(CallFinished)) > 20
    assert len({event.run_id for event in seen.of(CallFinished)}) == 1
    assert seen.of(CallFinished)[0].run_id


def test_waits_for_declared_limits_are_reported(simulator: SimulatorThread, seen: Any) -> None:
    with llmhub.Hub(simulator=simulator.url, limits={"openai": llmhub.Limit(rpm=1200, burst=0.001)}) as hub:
        llmhub.complete_table({"t": list("abc")}, "{t}", model=MODEL, hub=hub, progress=False)
    waits = [event for event in seen.of(Waited) if event.reason == "limit"]
    assert waits
    assert all(event.ended_ns - event.started_ns > 1_000_000 for event in waits)


def test_a_cancelled_call_ends_its_events(seen: Any, scripted: Any) -> None:
    served = scripted(["hang"])
    endpoints = {"openai": llmhub.Endpoint(base_url=served.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints) as hub:

        async def cancel() -> None:
            task = asyncio.ensure_future(llmhub.acomplete("hi", model=MODEL, hub=hub))
            await asyncio.to_thread(served.received.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
    assert kinds(seen) == ["CallStarted", "RequestStarted", "RequestFinished", "CallFinished"]
    assert seen.of(RequestFinished)[0].answer is None


def test_the_caller_reaches_the_events_of_its_calls(hub: llmhub.Hub, seen: Any) -> None:
    token = CALL_ORIGIN.set(CallOrigin(request_id="r1", key_id="k1", team="blue"))
    try:
        llmhub.complete("hi", model=MODEL, hub=hub)
        llmhub.complete_table({"t": ["x"]}, "{t}", model=MODEL, hub=hub, progress=False)
    finally:
        CALL_ORIGIN.reset(token)
    assert [event.origin.team for event in seen.of(CallFinished)] == ["blue", "blue"]


def test_a_run_tells_an_observer_nothing_after_it_has_ended(simulator: SimulatorThread) -> None:
    events: list[Event] = []
    ended: list[int] = []

    def end(*_: Any) -> None:
        if not ended:
            unsubscribe()
            ended.append(len(events))

    unsubscribe = subscribe(events.append, starts=False, on_answer=end)
    frame = {"t": ["first", *(f"[[sim:500]] {number}" for number in range(5))]}
    with llmhub.Hub(simulator=simulator.url, retry=QUICK, breaker=None) as hub:
        llmhub.complete_table(frame, "{t}", model=MODEL, hub=hub, progress=False, concurrency=1)
    assert ended == [len(events)] == [0]


def test_observers_add_headers_to_requests(scripted: Any, replies: Any) -> None:
    served = scripted([replies.answer()])

    def add(event: Event) -> None:
        if isinstance(event, RequestStarted):
            OUTGOING_HEADERS.set({"traceparent": "00-1-2-01"})

    unsubscribe = subscribe(add)
    try:
        with llmhub.Hub(endpoints={"openai": llmhub.Endpoint(base_url=served.url, api_key="k")}) as hub:
            llmhub.complete("hi", model=MODEL, hub=hub)
            unsubscribe()
            llmhub.complete("hi there", model=MODEL, hub=hub)
    finally:
        unsubscribe()
    assert b"traceparent: 00-1-2-01" in served.requests[0].lower()
    assert b"traceparent" not in served.requests[1].lower()


def test_a_failing_observer_reaches_neither_calls_nor_others(
    hub: llmhub.Hub, seen: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Event) -> None:
        raise RuntimeError("broken")

    unsubscribe = subscribe(fail)
    try:
        with caplog.at_level(logging.ERROR, "llmhub.observer"):
            assert llmhub.complete("hi", model=MODEL, hub=hub).text
    finally:
        unsubscribe()
    assert "an observer failed" in caplog.text
    assert kinds(seen)[-1] == "CallFinished"


def test_fallback_requests_belong_to_their_call(simulator: SimulatorThread, seen: Any) -> None:
    route = llmhub.Failover(MODEL, "anthropic/claude-haiku-4-5")
    with llmhub.Hub(simulator=simulator.url, route=route, retry=QUICK) as hub:
        llmhub.complete("[[sim:500 once]] hi", model=MODEL, hub=hub)
    assert [event.call.target.provider.name for event in seen.of(RequestFinished)][:2] == ["openai", "anthropic"]
    assert {event.call_id for event in seen.of(RequestFinished)} == {seen.of(CallFinished)[0].call_id}


def test_nothing_is_observed_unless_asked_for(hub: llmhub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an event was made")

    assert current_observers() == NO_OBSERVERS
    for name in ("CallStarted", "RequestStarted", "CallFinished", "RequestFinished", "CacheHits"):
        monkeypatch.setattr(f"llmhub.engine.observer.{name}", refuse)
    llmhub.complete("hi", model=MODEL, hub=hub)
    llmhub.complete_table({"t": ["x", "x"]}, "{t}", model=MODEL, hub=hub, progress=False)
    assert OBSERVED_CALL.get() is None
