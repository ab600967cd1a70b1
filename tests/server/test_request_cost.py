"""What a request leaves behind, and the deadlines that all requests share."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from llmhub.server.deadlines import Deadlines
from llmhub.server.running import RunningService, serving
from llmhub.server.server_settings import ServerSettings
from llmhub.server.service import open_service
from llmhub.sim import Simulator
from llmhub.sim import serving as simulating

REQUESTS = 40


@pytest.fixture
def running() -> Iterator[RunningService]:
    with simulating(Simulator()) as simulator:
        settings = ServerSettings(port=0, cache="none", simulator=simulator.url)
        with serving(open_service(settings)) as service:
            yield service


def test_a_request_leaves_no_cyclic_garbage(running: RunningService) -> None:
    """It would keep requests in memory until the garbage collector runs, which then takes a tenth of the CPU time."""
    connection = http.client.HTTPConnection(urlsplit(running.url).netloc)

    def ask(count: int) -> None:
        for number in range(count):
            message = {"role": "user", "content": f"Say {number}"}
            body = json.dumps({"model": "openai/gpt-4o-mini", "messages": [message]})
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
            reply = connection.getresponse()
            assert reply.status == 200, reply.read()
            reply.read()

    ask(3)
    gc.collect()
    gc.disable()
    try:
        gc.set_debug(gc.DEBUG_SAVEALL)
        ask(REQUESTS)
        gc.collect()
        kinds = Counter(type(each).__qualname__ for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    connection.close()
    assert [name for name in ("Task", "coroutine", "Context", "ReplyParser") if kinds[name] >= REQUESTS] == []


class TestDeadlines:
    async def test_only_the_block_whose_time_is_over_is_cancelled(self) -> None:
        deadlines, loop = Deadlines(), asyncio.get_running_loop()
        now = loop.time()

        async def hold(at: float) -> str:
            try:
                with deadlines.limit(at):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "over"
            raise AssertionError

        late = asyncio.create_task(hold(now + 60))
        early = [asyncio.create_task(hold(now + 0.01)) for _ in range(2)]
        assert await asyncio.gather(*early) == ["over"] * 2
        assert not late.done()
        assert [task.cancelling() for task in early] == [0, 0]
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late

    async def test_what_ends_in_time_is_left_alone(self) -> None:
        deadlines = Deadlines()
        with deadlines.limit(asyncio.get_running_loop().time() + 0.01):
            pass
        await asyncio.sleep(0.02)

    async def test_a_cancellation_of_another_passes_through(self) -> None:
        deadlines, entered = Deadlines(), asyncio.Event()

        async def hold() -> None:
            with deadlines.limit(0.0):  # over at once
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(hold())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
