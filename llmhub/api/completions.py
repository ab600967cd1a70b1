"""Answers as typed values: what to ask for, and how to read what came.

One request: asked and waited for, awaited, streamed, or given as a value.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar, Unpack, overload
from uuid import uuid4

from returns.pipeline import is_successful
from returns.result import Failure, Result

from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    BUDGET_AND_CACHE_OPTIONS,
    REQUEST_OPTIONS,
    CompletionOptions,
    Prompt,
    budgets_for,
    raise_if_cache_failed,
    raise_if_error,
    request_fields,
    system_messages,
    unwrap_or_raise,
    warn_run_problems,
)
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.core import json_schema
from llmhub.core.errors import (
    BadRequestError,
    CacheError,
    Cancelled,
    ConnectorError,
    InvalidRequest,
    LLMError,
)
from llmhub.core.messages import parse_messages
from llmhub.core.pricing import compute_cost
from llmhub.core.types import JSON, Choice, CompletionRequest, CompletionResponse, Message, Schema, StreamChunk, Usage
from llmhub.core.validation import validate_request
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal, run_in_background, run_sync, submit
from llmhub.hub import Hub
from llmhub.providers.prices import find_served_price

T = TypeVar("T")


def schema_of(wanted: Schema | Mapping[str, JSON] | type[Any], name: str = "") -> Schema:
    """Make the schema that ``response_schema=`` makes of a JSON schema, a pydantic model or a dataclass.

    Raises
    ------
    InvalidRequestError
        What is wanted is no type and no schema.

    Examples
    --------
    >>> schema_of(list[int]).schema["properties"]
    {'value': {'type': 'array', 'items': {'type': 'integer'}}}
    """
    return unwrap_or_raise(json_schema.schema_of(wanted, name))


@overload
def parse(answer: CompletionResponse | Choice | str, wanted: type[T]) -> T: ...


@overload
def parse(answer: CompletionResponse | Choice | str, wanted: Schema | Mapping[str, JSON]) -> Any: ...


def parse(answer: CompletionResponse | Choice | str, wanted: Any) -> Any:
    """Give the value that an answer spells.

    Parameters
    ----------
    answer
        A response (or one of its ``others``), or its text.
    wanted
        What was asked for with ``response_schema=``: a pydantic model or a dataclass gives an instance of it, a JSON
        schema plain values, which are not checked against it.

    Raises
    ------
    MalformedError
        The answer does not fit; its error's ``path`` says where.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    >>> parse('{"name": "Ada"}', Person)
    Person(name='Ada')
    """
    return unwrap_or_raise(json_schema.parse(answer, wanted))


def complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
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
    answer = run_sync(partial(_execute, _build_run(prompt, model, hub, options)))
    if not is_successful(answer.outcome) and isinstance(answer.outcome.failure(), Cancelled):
        raise KeyboardInterrupt
    return unwrap_or_raise(answer.outcome)


async def acomplete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> CompletionResponse:
    """Ask a model and await the answer (see `complete`); cancelling it cancels the call."""
    answer = await run_in_background(_execute(_build_run(prompt, model, hub, options), StopSignal()))
    return unwrap_or_raise(answer.outcome)


def try_complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> Result[CompletionResponse, LLMError]:
    """Ask a model and give the outcome as a value (see `complete`): for those who compose with ``returns``."""
    try:
        return run_sync(partial(_execute, _build_run(prompt, model, hub, options))).outcome
    except ConnectorError as error:
        return Failure(error.error)


def stream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> Iterator[StreamChunk]:
    """Ask a model and give the answer as it comes; the last chunk holds the whole ``response``, and its cost.

    Closing the iterator early closes the connection. An answer from the cache comes in one piece.

    Raises
    ------
    ConnectorError
        When it fails, after whatever had come.
    """
    box: queue.SimpleQueue[StreamChunk | None] = queue.SimpleQueue()
    one = replace(_build_run(prompt, model, hub, options), on_chunk=_forward_content(box.put))
    future = submit(_execute(one, StopSignal()))
    future.add_done_callback(lambda _: box.put(None))
    try:
        while (chunk := box.get()) is not None:
            yield chunk
        yield from _closing_chunks(one, future.result())
    finally:
        future.cancel()


async def astream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> AsyncIterator[StreamChunk]:
    """Ask a model and give the answer as it comes, awaited (see `stream`)."""
    box: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(chunk: StreamChunk | None) -> None:
        with suppress(RuntimeError):  # the caller left, and its loop is closed
            loop.call_soon_threadsafe(box.put_nowait, chunk)

    one = replace(_build_run(prompt, model, hub, options), on_chunk=_forward_content(put))
    future = submit(_execute(one, StopSignal()))
    future.add_done_callback(lambda _: put(None))
    try:
        while (chunk := await box.get()) is not None:
            yield chunk
        for chunk in _closing_chunks(one, future.result()):
            yield chunk
    finally:
        future.cancel()


@dataclass(frozen=True, slots=True)
class _CompletionRun:
    """One request on its way: whom to ask, what, and who wants to see it come."""

    hub: Hub
    call: Call
    on_chunk: Callable[[StreamChunk], None] | None = None
    cache: CacheMode | None = None


def _build_run(prompt: Prompt, model: str | None, hub: Hub | None, options: CompletionOptions) -> _CompletionRun:
    """Check everything that can be known before sending."""
    spending = {name: value for name, value in options.items() if name in BUDGET_AND_CACHE_OPTIONS}
    request = _build_request(prompt, model, {name: value for name, value in options.items() if name not in spending})
    hub = hub or current_hub()
    if not request.model:
        raise BadRequestError(InvalidRequest(path="model", message="no model; give model='provider/model'"))
    target = hub.target(request.model)
    request = replace(request, model=target.model)
    raise_if_error(validate_request(request))
    limit: Any = spending.get("budget_usd")
    answering = hub.targets(target.name)
    purse = budgets_for(hub, answering, limit, allow_unpriced=bool(spending.get("allow_unpriced")))
    said: Any = spending.get("cache")
    mode = resolve_mode(said, hub.runtime.cache_mode)
    return _CompletionRun(hub, Call(target, request, budgets=purse, requested_target=target), cache=mode)


COMPLETION_OPTIONS: Final = REQUEST_OPTIONS | BUDGET_AND_CACHE_OPTIONS
"""What a call over one request takes."""


def _build_request(prompt: Prompt, model: str | None, options: Mapping[str, Any]) -> CompletionRequest:
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        raise BadRequestError(
            InvalidRequest(
                path=unknown[0], message=f"no such option; there are {', '.join(sorted(COMPLETION_OPTIONS))}"
            )
        )
    if isinstance(prompt, CompletionRequest):
        named: dict[str, Any] = {} if model is None else {"model": model}
        given = request_fields({"response_schema": prompt.response_schema, **options})
        changed = replace(prompt, **given, **named)
        return (
            replace(changed, messages=(*system_messages(options), *changed.messages))
            if "system" in options
            else changed
        )
    turns = (prompt,) if isinstance(prompt, Message) else parse_messages(prompt)
    return CompletionRequest(model=model or "", messages=(*system_messages(options), *turns), **request_fields(options))


async def _execute(one: _CompletionRun, stop: StopSignal) -> Answer:
    """Answer one request from the cache or the provider."""
    call = replace(one.call, on_chunk=one.on_chunk)
    sent = await one.hub.runtime.send(call, stop, cache_mode=one.cache, run_id=uuid4().bytes)
    warn_run_problems(sent)
    answer = _with_served_model(sent.answer)
    try:
        raise_if_cache_failed(sent)
    except CacheError as failed:
        failed.response = answer.outcome.value_or(None)
        raise
    return answer


def _with_served_model(answer: Answer) -> Answer:
    """Have what another answered than was asked say who: ``provider/model``."""
    who = answer.target
    if who is None:
        return answer
    named = answer.outcome.map(
        lambda said: replace(said, served_model=f"{who.provider.name}/{said.served_model or who.model}")
    )
    return replace(answer, outcome=named)


def _closing_chunks(one: _CompletionRun, answer: Answer) -> Iterator[StreamChunk]:
    """Give what a stream did not: an answer that came from the cache, and the whole with its cost, or the failure."""
    response = unwrap_or_raise(answer.outcome)
    if answer.cache_hit:
        yield StreamChunk(text=response.text, reasoning=response.reasoning, tool_calls=response.tool_calls)
    target = answer.target or one.call.target
    served = response.served_model
    worth = _list_price(
        target, response.usage, served.removeprefix(f"{target.provider.name}/") if answer.target else served
    )
    lost = [_list_price(spent.target, spent.usage, "") for spent in answer.billed_failures]
    unknown = None in (worth, *lost)
    paid = None if unknown else sum((each for each in (worth, *lost) if each is not None), Decimal(0))
    yield StreamChunk(response=response, cost_usd=Decimal(0) if answer.cache_hit else paid, list_cost_usd=worth)


def _list_price(target: Target, usage: Usage, served: str) -> Decimal | None:
    """Price what was counted, as of now."""
    price = find_served_price(target.provider.name, target.model, served, datetime.now(UTC))
    return None if price is None else compute_cost(usage, price)


def _forward_content(put: Callable[[StreamChunk], None]) -> Callable[[StreamChunk], None]:
    """Pass on what comes, but for the closing chunk, which is made when all that is known of the answer is there."""
    return lambda chunk: put(chunk) if chunk.response is None else None
