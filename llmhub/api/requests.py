"""One request: asked and waited for, awaited, streamed, or given as a value."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, Unpack
from uuid import uuid4

from returns.pipeline import is_successful
from returns.result import Failure, Result

from llmhub.api.budgets import purse_of
from llmhub.api.hubs import current_hub
from llmhub.api.options import (
    REQUEST_OPTIONS,
    SPENDING_OPTIONS,
    Options,
    Prompt,
    expect,
    expect_store,
    found,
    request_of,
    system_of,
    warn_of,
)
from llmhub.cache.access import CacheMode, mode_of
from llmhub.core.builder import messages_of
from llmhub.core.codec import request_key
from llmhub.core.cost import cost
from llmhub.core.errors import (
    CacheFailedError,
    Cancelled,
    ConnectorError,
    InvalidRequest,
    InvalidRequestError,
    LLMError,
)
from llmhub.core.provider import NO_JSON
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, StreamChunk, Usage
from llmhub.core.validity import validate
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.loop import Stop, run_here, run_sync, submit
from llmhub.engine.run import as_answer
from llmhub.hub import Hub
from llmhub.providers.prices import price_served


def complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> CompletionResponse:
    """Ask a model and wait for the answer. Works in scripts, in notebook cells and beside running loops.

    Parameters
    ----------
    prompt
        Text, messages, or a whole `CompletionRequest`.
    model
        ``provider/model``.
    hub
        Who can be asked; the default hub unless given.
    **options
        Parameters of the answer: ``temperature``, ``max_tokens``, ``system``, ...; and ``budget_usd``, what the call
        may cost: one that could exceed it is not sent.

    Raises
    ------
    ConnectorError
        One class for each kind of failure.
    """
    answer = run_sync(partial(_one, _planned(prompt, model, hub, options)))
    if not is_successful(answer.outcome) and isinstance(answer.outcome.failure(), Cancelled):
        raise KeyboardInterrupt
    return found(answer.outcome)


async def acomplete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> CompletionResponse:
    """Ask a model and await the answer (see `complete`); cancelling it cancels the call."""
    answer = await run_here(_one(_planned(prompt, model, hub, options), Stop()))
    return found(answer.outcome)


def try_complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> Result[CompletionResponse, LLMError]:
    """Ask a model and give the outcome as a value (see `complete`): for those who compose with ``returns``."""
    try:
        return run_sync(partial(_one, _planned(prompt, model, hub, options))).outcome
    except ConnectorError as error:
        return Failure(error.error)


def stream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> Iterator[StreamChunk]:
    """Ask a model and give the answer as it comes; the last chunk holds the whole ``response``, and its cost.

    Closing the iterator early closes the connection. An answer from the cache comes in one piece.

    Raises
    ------
    ConnectorError
        When it fails, after whatever had come.
    """
    box: queue.SimpleQueue[StreamChunk | None] = queue.SimpleQueue()
    one = replace(_planned(prompt, model, hub, options), on_chunk=_piece(box.put))
    future = submit(_one(one, Stop()))
    future.add_done_callback(lambda _: box.put(None))
    try:
        while (chunk := box.get()) is not None:
            yield chunk
        yield from _rest(one, future.result())
    finally:
        future.cancel()


async def astream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[Options]
) -> AsyncIterator[StreamChunk]:
    """Ask a model and give the answer as it comes, awaited (see `stream`)."""
    box: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(chunk: StreamChunk | None) -> None:
        with suppress(RuntimeError):  # the caller left, and its loop is closed
            loop.call_soon_threadsafe(box.put_nowait, chunk)

    one = replace(_planned(prompt, model, hub, options), on_chunk=_piece(put))
    future = submit(_one(one, Stop()))
    future.add_done_callback(lambda _: put(None))
    try:
        while (chunk := await box.get()) is not None:
            yield chunk
        for chunk in _rest(one, future.result()):
            yield chunk
    finally:
        future.cancel()


@dataclass(frozen=True, slots=True)
class _One:
    """One request on its way: whom to ask, what, and who wants to see it come."""

    hub: Hub
    call: Call
    on_chunk: Callable[[StreamChunk], None] | None = None
    cache: CacheMode | None = None


def _planned(prompt: Prompt, model: str | None, hub: Hub | None, options: Options) -> _One:
    """Check everything that can be known before sending."""
    spending = {name: value for name, value in options.items() if name in SPENDING_OPTIONS}
    request = _request(prompt, model, {name: value for name, value in options.items() if name not in spending})
    hub = hub or current_hub()
    if not request.model:
        raise InvalidRequestError(InvalidRequest(path="model", message="no model; give model='provider/model'"))
    target = hub.target(request.model)
    request = replace(request, model=target.model)
    expect(validate(request))
    limit: Any = spending.get("budget_usd")
    answering = hub.targets(target.name)
    purse = purse_of(hub, answering, limit, allow_unpriced=bool(spending.get("allow_unpriced")))
    said: Any = spending.get("cache")
    mode = mode_of(said, hub.runtime.cache_mode)
    return _One(hub, Call(target, request, purse=purse, asked=target), cache=mode)


KNOWN_OPTIONS: Final = REQUEST_OPTIONS | SPENDING_OPTIONS
"""What a call over one request takes."""


def _request(prompt: Prompt, model: str | None, options: Mapping[str, Any]) -> CompletionRequest:
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        raise InvalidRequestError(
            InvalidRequest(path=unknown[0], message=f"no such option; there are {', '.join(sorted(KNOWN_OPTIONS))}")
        )
    if isinstance(prompt, CompletionRequest):
        named: dict[str, Any] = {} if model is None else {"model": model}
        given = request_of({"response_schema": prompt.response_schema, **options})
        changed = replace(prompt, **given, **named)
        return replace(changed, messages=(*system_of(options), *changed.messages)) if "system" in options else changed
    turns = (prompt,) if isinstance(prompt, Message) else messages_of(prompt)
    return CompletionRequest(model=model or "", messages=(*system_of(options), *turns), **request_of(options))


async def _one(one: _One, stop: Stop) -> Answer:
    """Answer one request from the cache or the provider."""
    target = one.call.target
    try:
        key = request_key(target.provider, target.endpoint, one.call.request)
    except NO_JSON as bad:
        return Answer(Failure(InvalidRequest(path="$", message=f"the request has no JSON form: {bad}")))
    call = replace(one.call, on_chunk=one.on_chunk, key=key)
    ran = await one.hub.runtime.run(
        iter([[(0, key, lambda *_: call, "")]]), 1, 1, stop, cache=one.cache, run_id=uuid4().bytes
    )
    warn_of(ran)
    settled = ran.answers[0]
    assert settled is not None  # noqa: S101 - a run answers every item
    answer = _signed(as_answer(settled))
    try:
        expect_store(ran)
    except CacheFailedError as failed:
        failed.response = answer.outcome.value_or(None)
        raise
    return answer


def _signed(answer: Answer) -> Answer:
    """Have what another answered than was asked say who: ``provider/model``."""
    who = answer.target
    if who is None:
        return answer
    named = answer.outcome.map(
        lambda said: replace(said, served_model=f"{who.provider.name}/{said.served_model or who.model}")
    )
    return replace(answer, outcome=named)


def _rest(one: _One, answer: Answer) -> Iterator[StreamChunk]:
    """Give what a stream did not: an answer that came from the cache, and the whole with its cost, or the failure."""
    response = found(answer.outcome)
    if answer.cache_hit:
        yield StreamChunk(text=response.text, reasoning=response.reasoning, tool_calls=response.tool_calls)
    target = answer.target or one.call.target
    served = response.served_model
    worth = _worth(target, response.usage, served.removeprefix(f"{target.provider.name}/") if answer.target else served)
    lost = [_worth(spent.target, spent.usage, "") for spent in answer.spent]
    unknown = None in (worth, *lost)
    paid = None if unknown else sum((each for each in (worth, *lost) if each is not None), Decimal(0))
    yield StreamChunk(response=response, cost_usd=Decimal(0) if answer.cache_hit else paid, list_cost_usd=worth)


def _worth(target: Target, usage: Usage, served: str) -> Decimal | None:
    """Price what was counted, as of now."""
    price = price_served(target.provider.name, target.model, served, datetime.now(UTC))
    return None if price is None else cost(usage, price)


def _piece(put: Callable[[StreamChunk], None]) -> Callable[[StreamChunk], None]:
    """Pass on what comes, but for the closing chunk, which is made when all that is known of the answer is there."""
    return lambda chunk: put(chunk) if chunk.response is None else None
