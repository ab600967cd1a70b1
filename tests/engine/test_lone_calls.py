"""A single call with a ledger waits for no group commit and no thread; many at once share commits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import SentRequest, StoreError
from llmhub.core.types import CompletionRequest, Message
from llmhub.engine import write_ahead
from llmhub.engine.call import Call
from llmhub.engine.client import SendResult
from llmhub.engine.event_loop import StopSignal, submit
from llmhub.hub import Hub
from llmhub.sim import SimulatorThread


@pytest.fixture
def hub(simulator: SimulatorThread, tmp_path: Path) -> Iterator[Hub]:
    with Hub(simulator=simulator.url, cache=DiskCache(tmp_path / "runs.db")) as made:
        yield made


async def send(hub: Hub, prompt: str) -> SendResult:
    target = hub.target("openai/gpt-4o-mini")
    request = CompletionRequest(model=target.model, messages=(Message("user", prompt),))
    call = Call(target, request, requested_target=target)
    return await hub.runtime.send(call, StopSignal(), run_id=uuid4().bytes)


def test_calls_in_turn_do_not_wait_for_the_commit_interval(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_ahead, "COMMIT_INTERVAL_S", 600.0)

    async def in_turn() -> list[bool]:
        return [bool((await send(hub, f"Say {number}")).answer.outcome.unwrap().text) for number in range(5)]

    assert submit(in_turn()).result(30) == [True] * 5
    store = hub.runtime.store
    assert store is not None
    assert store.ledger is not None
    assert [request.state for request in store.ledger.requests()] == ["done"] * 5


def test_calls_in_turn_start_no_thread(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    async def in_turn() -> int:
        await send(hub, "the first registers the owner")
        started: list[object] = []
        submit_work = ThreadPoolExecutor.submit

        def count(executor: ThreadPoolExecutor, *arguments: Any, **more: Any) -> Any:
            started.append(arguments)
            return submit_work(executor, *arguments, **more)

        monkeypatch.setattr(ThreadPoolExecutor, "submit", count)
        for number in range(5):
            await send(hub, f"Say {number}")
        return len(started)

    assert submit(in_turn()).result(30) == 0


class NothingPending:
    """A run without responses to write."""

    def on_store_failure(self, error: StoreError) -> None:
        raise error

    def try_flush(self) -> bool:
        return True

    async def flush_pending(self) -> None:
        pass


async def test_requests_are_recorded_at_once_when_half_of_them_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_ahead, "COMMIT_INTERVAL_S", 600.0)
    store, run = DiskCache(tmp_path / "runs.db").open(), NothingPending()
    log = write_ahead.WriteAheadLog(store)
    log.register_run(run)

    def record(number: int) -> asyncio.Future[None]:
        return log.log_sent(SentRequest(bytes([number]) * 32, bytes(16), "openai/gpt-4o-mini", 1.0))

    await record(0)
    log.unanswered = 2
    first = record(1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not first.done()
    await asyncio.wait_for(asyncio.gather(first, record(2)), 30)
    assert store.ledger is not None
    assert [request.state for request in store.ledger.requests()] == ["sent"] * 3
    await log.unregister_run(run)
    store.close()


def test_equal_calls_at_once_are_sent_once(hub: Hub, simulator: SimulatorThread) -> None:
    async def at_once() -> list[SendResult]:
        return list(await asyncio.gather(*(send(hub, f"Say {number % 7}") for number in range(70))))

    results = submit(at_once()).result(30)
    assert simulator.counts()["requests"] == 7
    assert len({result.answer.outcome.unwrap().text for result in results}) <= 7
