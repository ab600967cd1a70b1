"""Calls for a single prompt: blocking, awaited, streamed, or as a ``Result``; and structured outputs of responses."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar, Unpack, overload
from uuid import uuid4

from returns.pipeline import is_successful
from returns.result import Failure, Result

from llmhub.api._completion import Completion, completion_of
from llmhub.api._tool_loop import Conversation, ToolLoop, converse, with_conversation
from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    BUDGET_AND_CACHE_OPTIONS,
    REQUEST_OPTIONS,
    CompletionOptions,
    Messages,
    Prompt,
    budgets_for,
    example_messages,
    request_fields,
    single_schema,
    system_messages,
    tool_loop,
    unknown_option,
)
from llmhub.api.raising import raise_if_cache_failed, raise_if_error, unwrap_or_raise, warn_run_problems
from llmhub.api.signatures import shows_options
from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.core import json_schema
from llmhub.core.errors import Cancelled, ConnectorError, InvalidRequest, LLMError, attach_response, invalid
from llmhub.core.messages import parse_messages
from llmhub.core.types import JSON, Choice, CompletionRequest, CompletionResponse, Message, Schema, StreamChunk
from llmhub.core.validation import validate_request
from llmhub.engine.call import Answer, Call
from llmhub.engine.event_loop import StopSignal, run_in_background, run_sync, submit
from llmhub.hub import Hub

CONTENT_OPTIONS: Final = frozenset({"images", "examples"})
"""Options that add messages to the prompt or content to its last message."""
COMPLETION_OPTIONS: Final = frozenset(CompletionOptions.__annotations__)
T = TypeVar("T")


@shows_options(CompletionOptions)
def complete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Completion:
    """Send a prompt and return the response. Works in scripts, in notebook cells, and while an event loop runs.

    Parameters
    ----------
    prompt
        Text, messages, or a whole `CompletionRequest`.
    messages
        A conversation that precedes the prompt, or stands in its place.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    **options
        Parameters of the request, ``schema``, ``images``, ``examples``, budget and cache mode.

    Returns
    -------
    Completion
        ``text``, ``parsed`` (with ``schema=``), ``cost_usd``, ``latency_s``, ``usage``, ``cache_hit`` and more.

    Raises
    ------
    BadRequestError
        An argument is wrong; nothing was sent.
    ConnectorError
        The call failed. There is a subclass for each kind of failure.
    """
    run = _build_run(_joined(prompt, messages), model, hub, options)
    answer = run_sync(partial(_execute, run), drain=run.hub.cache is not None)
    with _keep_response(answer):
        outcome = _completion(run, answer)
        if not is_successful(outcome) and isinstance(outcome.failure(), Cancelled):
            raise KeyboardInterrupt
        return unwrap_or_raise(outcome)


@shows_options(CompletionOptions)
async def acomplete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Completion:
    """Send a prompt and await the response (see `complete`). Cancelling the task cancels the call."""
    run = _build_run(_joined(prompt, messages), model, hub, options)
    stop = StopSignal()
    answer = await run_in_background(_execute(run, stop), stop if run.hub.cache is not None else None)
    with _keep_response(answer):
        return unwrap_or_raise(_completion(run, answer))


@shows_options(CompletionOptions)
def try_complete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Result[Completion, LLMError]:
    """Send a prompt and return the outcome as a ``returns.result.Result`` (see `complete`). Never raises an error."""
    try:
        run = _build_run(_joined(prompt, messages), model, hub, options)
        return _completion(run, run_sync(partial(_execute, run), drain=run.hub.cache is not None))
    except ConnectorError as error:
        return Failure(error.error)


@shows_options(CompletionOptions)
def stream(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Iterator[StreamChunk]:
    """Send a prompt and yield the response in chunks. The last chunk has the whole ``response`` and its cost.

    Closing the iterator early closes the connection. A cached response is yielded in one piece.

    Raises
    ------
    ConnectorError
        The call failed, possibly after some chunks.
    """
    chunks: queue.SimpleQueue[StreamChunk | None] = queue.SimpleQueue()
    run = replace(_build_run(_joined(prompt, messages), model, hub, options), on_chunk=chunks.put)
    future = submit(_execute(run, StopSignal()))
    future.add_done_callback(lambda _: chunks.put(None))
    try:
        while (chunk := chunks.get()) is not None:
            yield chunk
        yield from _closing_chunks(run, future.result())
    finally:
        future.cancel()


@shows_options(CompletionOptions)
async def astream(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> AsyncIterator[StreamChunk]:
    """Send a prompt and yield the response in chunks, awaited (see `stream`)."""
    chunks: asyncio.Queue[StreamChunk | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def put(chunk: StreamChunk | None) -> None:
        with suppress(RuntimeError):  # the caller's loop may be closed by now
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    run = replace(_build_run(_joined(prompt, messages), model, hub, options), on_chunk=put)
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
    output_type: Any = None
    tool_loop: ToolLoop | None = None
    conversation: list[Conversation] = field(default_factory=list)


def _build_run(prompt: Prompt, model: str | None, hub: Hub | None, options: CompletionOptions) -> _CompletionRun:
    """Validate everything that can be checked before sending."""
    given: dict[str, Any] = dict(options)
    spending = {name: given.pop(name) for name in list(given) if name in BUDGET_AND_CACHE_OPTIONS}
    output_type = single_schema(given)
    loop = tool_loop(given)
    request = _build_request(prompt, model, hub, given)
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
    call = Call(target, request, budgets=budgets, requested_target=target)
    return _CompletionRun(hub, call, cache=mode, output_type=output_type or request.response_schema, tool_loop=loop)


def _build_request(prompt: Prompt, model: str | None, hub: Hub | None, options: Mapping[str, Any]) -> CompletionRequest:
    """Return the request of a prompt with options; options override the fields of a given request."""
    unknown = sorted(set(options) - REQUEST_OPTIONS - CONTENT_OPTIONS)
    if unknown:
        raise unknown_option(unknown[0], COMPLETION_OPTIONS)
    content = {name: value for name, value in options.items() if name in CONTENT_OPTIONS}
    options = {name: value for name, value in options.items() if name not in content}
    system = (*system_messages(options), *example_messages(content.get("examples")))
    if isinstance(prompt, CompletionRequest):
        if content.get("images") is not None:
            raise invalid("images", "a CompletionRequest holds its images itself; add them to its messages")
        changes = request_fields({"response_schema": prompt.response_schema, **options})
        if model is not None:
            changes["model"] = model
        request = replace(prompt, **changes)
        return replace(request, messages=(*system, *request.messages)) if system else request
    _require_one_prompt(prompt)
    messages = _with_images(parse_messages(prompt), content.get("images"), hub)
    return CompletionRequest(model=model or "", messages=(*system, *messages), **request_fields(options))


def _joined(prompt: Prompt | None, messages: Messages | None) -> Prompt:
    """Return the prompt of a call: a conversation, a prompt, or a conversation that ends with the prompt."""
    if messages is None:
        if prompt is None:
            raise invalid("prompt", "missing; pass a text as the first argument, or a conversation as messages=[...]")
        return prompt
    if prompt is None:
        return messages
    if isinstance(prompt, CompletionRequest) or isinstance(messages, CompletionRequest):
        raise invalid("messages", "a CompletionRequest holds its messages itself; add these to them")
    _require_one_prompt(messages)
    _require_one_prompt(prompt)
    return (*parse_messages(messages), *parse_messages(prompt))


def _require_one_prompt(prompt: Any) -> None:
    """Raise for a list of texts, which is more likely several prompts than one conversation."""
    if isinstance(prompt, (list, tuple)) and len(prompt) > 1 and all(isinstance(item, str) for item in prompt):
        raise invalid(
            "prompt",
            f"a list of {len(prompt)} texts is not one prompt; for a response to each, pass them to "
            "complete_table({'text': texts}, '{text}', model=...) or a Series; for a conversation, give each message a "
            "role: {'role': 'user', 'content': ...}",
        )


def _with_images(messages: tuple[Message, ...], images: Any, hub: Hub | None) -> tuple[Message, ...]:
    """Return the messages with images placed before the text of the last user message."""
    if images is None:
        return messages
    from llmhub.tables.images import parse_images  # noqa: PLC0415 - imports Arrow

    parsed = parse_images(images, (hub or current_hub()).local_files)
    if isinstance(parsed, InvalidRequest):
        raise_if_error(parsed)
    else:
        index = max((index for index, message in enumerate(messages) if message.role == "user"), default=None)
        if index is None:
            return (*messages, Message("user", parsed))
        last = Message("user", (*parsed, *messages[index].parts))
        return (*messages[:index], last, *messages[index + 1 :])
    return messages


async def _execute(run: _CompletionRun, stop: StopSignal) -> Answer:
    """Return the answer from the cache or the provider."""
    call = replace(run.call, on_chunk=run.on_chunk)
    if run.tool_loop is not None:
        return await _execute_with_tools(run, call, run.tool_loop, stop)
    result = await run.hub.runtime.send(call, stop, cache_mode=run.cache, run_id=uuid4().bytes)
    answer = _with_served_model(result.answer)
    try:
        raise_if_cache_failed(result)
        warn_run_problems(result)
    except Exception as error:
        # A warning may be an exception, too; it must not lose a response that was paid for.
        attach_response(error, answer.outcome.value_or(None))
        raise
    return answer


async def _execute_with_tools(run: _CompletionRun, call: Call, loop: ToolLoop, stop: StopSignal) -> Answer:
    """Hold the conversation of a call with tools, and return its last answer with the totals of all turns."""
    send = partial(run.hub.runtime.send, stop=stop, cache_mode=run.cache, run_id=uuid4().bytes)
    conversation = await converse(call, loop, stop, send, is_routed=bool(run.hub.route))
    run.conversation.append(conversation)
    for result in conversation.problems:
        warn_run_problems(result)
        raise_if_cache_failed(result)
    return _with_served_model(conversation.answer())


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


def _completion(run: _CompletionRun, answer: Answer) -> Result[Completion, LLMError]:
    """Return the outcome of a call, with cost and timing."""
    target = run.call.target
    outcome = answer.outcome.map(lambda response: completion_of(response, answer, target, output_type=run.output_type))
    if not run.conversation:
        return outcome
    return outcome.map(lambda completion: with_conversation(completion, run.conversation[0]))


@contextmanager
def _keep_response(answer: Answer) -> Iterator[None]:
    """Attach a response after which a middleware failed to the exception of the failure."""
    try:
        yield
    except BaseException as error:
        if answer.failed_response is not None:
            attach_response(error, answer.failed_response)
        raise


def _closing_chunks(run: _CompletionRun, answer: Answer) -> Iterator[StreamChunk]:
    """Yield what was not streamed: the content of a cached response, then the whole response with its cost."""
    with _keep_response(answer):
        response = unwrap_or_raise(_completion(run, answer))
    if response.cache_hit:
        yield StreamChunk(text=response.text, reasoning=response.reasoning, tool_calls=response.tool_calls)
    yield StreamChunk(response=response, cost_usd=response.cost_usd, list_cost_usd=response.list_cost_usd)
