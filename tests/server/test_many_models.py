"""A client that names thousands of models, which exist or not, does not make the service's memory grow."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from returns.pipeline import is_successful

import llmhub
from llmhub.core.types import CompletionRequest, Message
from llmhub.engine.client import MAX_TARGETS
from llmhub.engine.event_loop import submit
from llmhub.server.access import LOCAL_CALLER
from llmhub.server.context import RequestContext
from llmhub.server.running import RunningService
from llmhub.server.service import Service

NAMES = 3300
MOST = 2000
"""Largest number of them that anything keeps."""
MARKER = "unheard-of-"
CONTEXT = RequestContext(request_id="r", caller=LOCAL_CALLER, lane="interactive", deadline=inf, route="x")


async def name_models(service: Service, first: int, last: int) -> int:
    """Send a request for each of many models; return how many were answered."""

    async def ask(number: int) -> bool:
        provider = ("openai", "anthropic", "nobody")[number % 3]
        prompt = "[[sim:500 always]]" if number % 5 == 0 else "Say hi"
        messages = (Message("user", prompt),)
        request = CompletionRequest(model=f"{provider}/{MARKER}{number}", messages=messages, max_tokens=4)
        return is_successful((await service.send(request, CONTEXT)).outcome)

    answered = 0
    for numbers in (
        itertools.batched(range(first, last), 50) if hasattr(itertools, "batched") else _batches(first, last)
    ):
        answered += sum(await asyncio.gather(*map(ask, numbers)))
    return answered


def _batches(first: int, last: int) -> list[range]:
    return [range(start, min(start + 50, last)) for start in range(first, last, 50)]


def large_containers() -> list[Any]:
    return [each for each in gc.get_objects() if isinstance(each, (dict, set, list, deque)) and len(each) > MOST]


def collections_of_models(others: set[int]) -> list[Any]:
    """Return the containers that hold many names of such models: not those of before, nor those of the simulator."""
    found = []
    for each in large_containers():
        if id(each) not in others:
            marked = sum(MARKER in str(item) for item in list(each))
            users = {type(user).__name__ for user in gc.get_referrers(each)}
            if marked > MOST and "RequestCounters" not in users:
                found.append((marked, users))
    return found


def test_state_of_models_is_bounded(serving: Callable[..., RunningService]) -> None:
    hub = {"retry": llmhub.Retry(attempts=1), "breaker": None, "route": llmhub.Failover("openai/a", "openai/b")}
    service = serving(hub=hub).service
    others = {id(each) for each in large_containers()}
    assert submit(name_models(service, 0, NAMES)).result() > NAMES // 3
    client: Any = service.hub.runtime.client
    assert len(client.rate_limiter.limiters()) <= MAX_TARGETS
    gc.collect()
    assert collections_of_models(others) == []
