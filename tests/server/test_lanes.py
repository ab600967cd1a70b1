"""Two lanes: interactive before bulk in the service and at rate limits, and keys by their weights."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import Overloaded
from llmhub.core.provider import Endpoint
from llmhub.engine.call import Target
from llmhub.engine.decision_log import DecisionLog
from llmhub.engine.limits import ONE_REQUEST, Limit
from llmhub.engine.rate_limiter import Permit, RateLimiter
from llmhub.engine.scheduling import BULK_LANE
from llmhub.providers.registry import PROVIDERS
from llmhub.server.access import Caller
from llmhub.server.context import Lane, RequestContext
from llmhub.server.lanes import Lanes

TARGET = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")


def context(lane: Lane = "interactive", key: str = "k", weight: float = 1.0) -> RequestContext:
    caller = Caller(key_id=key, team="t", weight=weight)
    return RequestContext(request_id="r", caller=caller, lane=lane, deadline=0.0, route="POST /x")


class TestLanes:
    def test_interactive_call_waits_for_no_bulk_call(self, virtual: Any) -> None:
        async def work(_clock: Callable[[], float]) -> None:
            lanes = Lanes(4, 100)
            waiting = [asyncio.ensure_future(lanes.acquire(context("bulk"))) for _ in range(20)]
            await asyncio.sleep(0)
            assert lanes.in_use == {"interactive": 0, "bulk": 4}
            assert await asyncio.wait_for(lanes.acquire(context()), 1) is None
            for task in waiting:
                task.cancel()

        virtual.run(work)

    def test_bulk_calls_leave_the_slots_of_interactive_ones(self, virtual: Any) -> None:
        async def work(_clock: Callable[[], float]) -> None:
            lanes = Lanes(2, 100)
            await lanes.acquire(context())
            await lanes.acquire(context())
            bulk = asyncio.ensure_future(lanes.acquire(context("bulk")))
            later = asyncio.ensure_future(lanes.acquire(context()))
            await asyncio.sleep(0)
            lanes.release(context())
            await asyncio.sleep(0)
            assert (later.done(), bulk.done()) == (True, False)
            lanes.release(context())
            lanes.release(context())
            await asyncio.sleep(0)
            assert bulk.done()

        virtual.run(work)

    @pytest.mark.parametrize("lane", ["interactive", "bulk"])
    def test_keys_share_by_weight(self, virtual: Any, lane: Lane) -> None:
        async def work(_clock: Callable[[], float]) -> None:
            lanes, served = Lanes(1, 1000), Counter[str]()
            first = context(lane)
            await lanes.acquire(first)

            async def call(key: str, weight: float) -> None:
                await lanes.acquire(context(lane, key, weight))
                served[key] += 1
                if sum(served.values()) < 40:
                    lanes.release(context(lane, key, weight))

            tasks = [asyncio.ensure_future(call(*each)) for each in [("heavy", 3.0), ("light", 1.0)] for _ in range(60)]
            await asyncio.sleep(0)
            lanes.release(first)
            await asyncio.sleep(1)  # of virtual time
            assert sum(served.values()) == 40
            assert 28 <= served["heavy"] <= 32
            for task in tasks:
                task.cancel()

        virtual.run(work)

    def test_full_queue_is_refused(self, virtual: Any) -> None:
        async def work(_clock: Callable[[], float]) -> None:
            lanes = Lanes(1, 0)
            assert await lanes.acquire(context()) is None
            assert isinstance(await lanes.acquire(context()), Overloaded)
            assert isinstance(await lanes.acquire(context("bulk")), Overloaded)

        virtual.run(work)

    @given(st.lists(st.tuples(st.sampled_from(["interactive", "bulk"]), st.booleans()), max_size=30), st.integers(1, 3))
    def test_cancelled_calls_lose_no_slot(self, virtual: Any, calls: list[tuple[Lane, bool]], slots: int) -> None:
        async def work(_clock: Callable[[], float]) -> None:
            lanes = Lanes(slots, 100)

            async def call(lane: Lane) -> None:
                await lanes.acquire(context(lane))
                try:
                    await asyncio.sleep(1)
                    assert lanes.in_use["interactive"] <= slots
                finally:
                    lanes.release(context(lane))

            tasks = [(asyncio.ensure_future(call(lane)), leaves) for lane, leaves in calls]
            for task, leaves in tasks:
                await asyncio.sleep(0)
                if leaves:
                    task.cancel()
            await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
            assert (lanes.in_use, lanes.waiting) == ({"interactive": 0, "bulk": 0}, 0)

        virtual.run(work)


class TestRateLimits:
    def test_interactive_call_is_admitted_before_every_waiting_bulk_call(self, virtual: Any) -> None:
        """A bulk job in front of a limit slows an interactive call by at most the call that is next."""

        async def work(clock: Callable[[], float]) -> None:
            limiter = RateLimiter({"openai": Limit(rpm=60, burst=1)}, clock, DecisionLog(clock).record, adaptive=False)
            target, admitted = limiter.for_target(TARGET), []

            async def call(name: str, *, bulk: bool) -> None:
                BULK_LANE.set(bulk)
                permit = await limiter.acquire(target, ONE_REQUEST, clock())
                assert isinstance(permit, Permit)
                admitted.append(name)
                limiter.release(target)

            bulk = [asyncio.ensure_future(call(f"bulk {number}", bulk=True)) for number in range(50)]
            await asyncio.sleep(5.5)
            began = clock()
            before = len(admitted)
            await asyncio.gather(call("a", bulk=False), call("b", bulk=False))
            assert admitted[before:] == ["a", "b"]
            assert clock() - began <= 2.0
            for task in bulk:
                task.cancel()

        virtual.run(work)
