"""Calls for a single prompt: blocking, awaited, streamed, or as a ``Result``; and structured outputs of responses."""

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
    request_fields,
    system_messages,
    unknown_option,
)
from llmhub.api.raising import raise_if_cache_failed, raise_if_error, unwrap_or_raise, warn_run_problems
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.core import json_schema
from llmhub.core.errors import CacheError, Cancelled, ConnectorError, LLMError, invalid
from llmhub.core.messages import parse_messages
from llmhub.core.pricing import compute_cost
from llmhub.core.types import JSON, Choice, CompletionRequest, CompletionResponse, Message, Schema, StreamChunk, Usage
from llmhub.core.validation import validate_request
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal, run_in_background, run_sync, submit
from llmhub.hub import Hub
from llmhub.providers.prices import find_served_price

COMPLETION_OPTIONS: Final = REQUEST_OPTIONS | BUDGET_AND_CACHE_OPTIONS
T = TypeVar("T")


def complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> CompletionResponse:
    """Send a prompt and return the response. Works in scripts, in notebook cells, and while an event loop runs.

    Parameters
    ----------
    prompt
        Text, messages, or a whole `CompletionRequest`.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    **options
        Request parameters (``temperature``, ``max_tokens``, ``system``, ...); and ``budget_usd``, the maximum cost in
        US dollars: a request that could exceed it is not sent.

    Raises
    ------
    BadRequestError
        An argument is wrong; nothing was sent.
    ConnectorError
        The call failed. There is a subclass for each kind of failure.
    """
    answer = run_sync(partial(_execute, _build_run(prompt, model, hub, options)))
    if not is_successful(answer.outcome) and isinstance(answer.outcome.failure(), Cancelled):
        raise KeyboardInterrupt
    return unwrap_or_raise(answer.outcome)


async def acomplete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> CompletionResponse:
    """Send a prompt and await the response (see `complete`). Cancelling the task cancels the call."""
    answer = await run_in_background(_execute(_build_run(prompt, model, hub, options), StopSignal()))
    return unwrap_or_raise(answer.outcome)


def try_complete(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> Result[CompletionResponse, LLMError]:
    """Send a prompt and return the outcome as a ``returns.result.Result`` (see `complete`). Never raises an error."""
    try:
        return run_sync(partial(_execute, _build_run(prompt, model, hub, options))).outcome
    except ConnectorError as error:
        return Failure(error.error)


def stream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> Iterator[StreamChunk]:
    """Send a prompt and yield the response in chunks. The last chunk has the whole ``response`` and its cost.

    Closing the iterator early closes the connection. A cached response is yielded in one piece.

    Raises
    ------
    ConnectorError
        The call failed, possibly after some chunks.
    """
    chunks: queue.SimpleQueue[StreamChunk | None] = queue.SimpleQueue()
    run = replace(_build_run(prompt, model, hub, options), on_chunk=chunks.put)
    future = submit(_execute(run, StopSignal()))
    future.add_done_callback(lambda _: chunks.put(None))
    try:
        while (chunk := chunks.get()) is not None:
            yield chunk
        yield from _closing_chunks(run, future.result())
    finally:
        future.cancel()


async def astream(
    prompt: Prompt, *, model: str | None = None, hub: Hub | None = None, **options: Unpack[CompletionOptions]
) -> AsyncIterator[StreamChunk]:
    """Send a prompt and yield the response in chunks, awaited (see `stream`)."""
    chunks: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(chunk: StreamChunk | None) -> None:
        with suppress(RuntimeError):  # the caller's loop may be closed by now
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    run = replace(_build_run(prompt, model, hub, options), on_chunk=put)
    future = submit(_execute(run, StopSignal()))
    future.add_done_callback(lambda _: put(None))
    try:
        while (chunk := await chunks.get()) is not None:
            yield chunk
        for chunk in _closing_chunks(run, future.result()):
            yield chunk
    finally:
        future.cancel()


def schema_of(schema: Schema | Mapping[str, JSON] | type[Any], name: str = "") -> Schema:
    """Convert a pydantic model, a dataclass, a type or a JSON schema to the `Schema` that ``response_schema=`` sends.

    Raises
    ------
    BadRequestError
        ``schema`` is neither a type nor a schema.

    Examples
    --------
    >>> schema_of(list[int]).schema["properties"]
    {'value': {'type': 'array', 'items': {'type': 'integer'}}}
    """
    return unwrap_or_raise(json_schema.schema_of(schema, name))


@overload
def parse(response: CompletionResponse | Choice | str, schema: type[T]) -> T: ...
@overload
def parse(response: CompletionResponse | Choice | str, schema: Schema | Mapping[str, JSON]) -> Any: ...
def parse(response: CompletionResponse | Choice | str, schema: Any) -> Any:
    """Parse the JSON text of a response.

    Parameters
    ----------
    response
        A response, one of its ``others``, or its text.
    schema
        What ``response_schema=`` was: a pydantic model or a dataclass returns an instance of it; a JSON schema returns
        plain values, which are not validated against it.

    Raises
    ------
    MalformedResponseError
        The text does not match; ``error.path`` says where.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Person:
    ...     name: str
    >>> parse('{"name": "Ada"}', Person)
    Person(name='Ada')
    """
    return unwrap_or_raise(json_schema.parse(response, schema))


@dataclass(frozen=True, slots=True)
class _CompletionRun:
    """A validated call that has not been sent."""

    hub: Hub
    call: Call
    on_chunk: Callable[[StreamChunk], None] | None = None
    cache: CacheMode | None = None


def _build_run(prompt: Prompt, model: str | None, hub: Hub | None, options: CompletionOptions) -> _CompletionRun:
    """Validate everything that can be checked before sending."""
    spending = {name: value for name, value in options.items() if name in BUDGET_AND_CACHE_OPTIONS}
    request = _build_request(prompt, model, {name: value for name, value in options.items() if name not in spending})
    hub = hub or current_hub()
    if not request.model:
        raise invalid("model", "missing; pass model='provider/model'")
    target = hub.target(request.model)
    request = replace(request, model=target.model)
    raise_if_error(validate_request(request))
    budget_usd: Any = spending.get("budget_usd")
    allow_unpriced = bool(spending.get("allow_unpriced"))
    budgets = budgets_for(hub, hub.targets(target.name), budget_usd, allow_unpriced=allow_unpriced)
    cache: Any = spending.get("cache")
    mode = resolve_mode(cache, hub.runtime.cache_mode)
    return _CompletionRun(hub, Call(target, request, budgets=budgets, requested_target=target), cache=mode)


def _build_request(prompt: Prompt, model: str | None, options: Mapping[str, Any]) -> CompletionRequest:
    """Return the request of a prompt with options; options override the fields of a given request."""
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        raise unknown_option(unknown[0], COMPLETION_OPTIONS)
    system = system_messages(options)
    if isinstance(prompt, CompletionRequest):
        changes = request_fields({"response_schema": prompt.response_schema, **options})
        if model is not None:
            changes["model"] = model
        request = replace(prompt, **changes)
        return replace(request, messages=(*system, *request.messages)) if "system" in options else request
    messages = (prompt,) if isinstance(prompt, Message) else parse_messages(prompt)
    return CompletionRequest(model=model or "", messages=(*system, *messages), **request_fields(options))


async def _execute(run: _CompletionRun, stop: StopSignal) -> Answer:
    """Return the answer from the cache or the provider."""
    call = replace(run.call, on_chunk=run.on_chunk)
    result = await run.hub.runtime.send(call, stop, cache_mode=run.cache, run_id=uuid4().bytes)
    warn_run_problems(result)
    answer = _with_served_model(result.answer)
    try:
        raise_if_cache_failed(result)
    except CacheError as error:
        error.response = answer.outcome.value_or(None)
        raise
    return answer


def _with_served_model(answer: Answer) -> Answer:
    """Set ``served_model`` to ``provider/model`` if a route sent the call to another model than was requested."""
    target = answer.target
    if target is None:
        return answer
    outcome = answer.outcome.map(
        lambda response: replace(
            response, served_model=f"{target.provider.name}/{response.served_model or target.model}"
        )
    )
    return replace(answer, outcome=outcome)


def _closing_chunks(run: _CompletionRun, answer: Answer) -> Iterator[StreamChunk]:
    """Yield what was not streamed: the content of a cached response, then the whole response with its cost."""
    response = unwrap_or_raise(answer.outcome)
    if answer.cache_hit:
        yield StreamChunk(text=response.text, reasoning=response.reasoning, tool_calls=response.tool_calls)
    target = answer.target or run.call.target
    served = response.served_model
    served_here = served.removeprefix(f"{target.provider.name}/") if answer.target else served
    list_cost = _list_price(target, response.usage, served_here)
    failed_costs = [_list_price(failure.target, failure.usage, "") for failure in answer.billed_failures]
    costs = [cost for cost in (list_cost, *failed_costs) if cost is not None]
    billed = sum(costs, Decimal(0)) if len(costs) == 1 + len(failed_costs) else None
    yield StreamChunk(response=response, cost_usd=Decimal(0) if answer.cache_hit else billed, list_cost_usd=list_cost)


def _list_price(target: Target, usage: Usage, served_model: str) -> Decimal | None:
    """Return the cost of a usage in US dollars at today's list price, if that is known."""
    price = find_served_price(target.provider.name, target.model, served_model, datetime.now(UTC))
    return None if price is None else compute_cost(usage, price)
