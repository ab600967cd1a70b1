"""Tools that run: call the functions a model asks for, send back what they return, until the model answers.

Each turn is a call of its own with its own cache key: an interrupted conversation continues from the cache, and budget,
rate limits and retries apply turn by turn. Functions run again when turns come from the cache, because their results
are part of the next request.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Final, TypeAlias

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.api._completion import BilledUsage, completion_of
from llmhub.core.errors import Cancelled, Unsupported
from llmhub.core.protocol import prepare
from llmhub.core.reasoning_details import REASONING_DETAILS
from llmhub.core.tool_functions import ToolFunction, result_text
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Image,
    Logprobs,
    Message,
    Opaque,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.core.validation import PART_PATH
from llmhub.engine.call import Answer, Call
from llmhub.engine.client import SendResult
from llmhub.engine.event_loop import StopSignal

TURN_COLUMNS: Final = ("turns", "transcript")
"""Columns that results of calls with functions have besides those of `RESULTS`."""
MAX_TURNS: Final = 5
"""Responses of the model in one conversation, unless ``max_turns`` says otherwise."""


@dataclass(frozen=True, slots=True)
class ToolLoop:
    """The functions of a call and how they are run.

    Parameters
    ----------
    functions
        By name.
    max_turns
        Maximum number of responses of the model; the last one is returned even if it calls tools.
    executor
        Where functions that are no coroutine functions run; threads if ``None``.
    context
        Context variables that functions in threads see: those of the caller.
    """

    functions: Mapping[str, ToolFunction]
    max_turns: int = MAX_TURNS
    executor: Executor | None = None
    context: contextvars.Context = field(default_factory=contextvars.copy_context, repr=False, compare=False)


@dataclass(slots=True)
class Conversation:
    """The turns of one call so far.

    Parameters
    ----------
    messages
        All messages that were exchanged, the last response included.
    answers
        The answer of each turn.
    billed, listed
        Tokens of all turns: those billed now, and all.
    """

    messages: tuple[Message, ...]
    answers: list[Answer] = field(default_factory=list)
    billed: list[BilledUsage] = field(default_factory=list)
    listed: list[BilledUsage] = field(default_factory=list)
    problems: list[SendResult] = field(default_factory=list)

    @property
    def turns(self) -> int:
        """Number of responses of the model."""
        return sum(is_successful(answer.outcome) for answer in self.answers)

    def answer(self) -> ConversationAnswer:
        """Return the last answer with the token counts, times and attempts of all turns."""
        last = self.answers[-1]
        usages = [answer.outcome.unwrap().usage for answer in self.answers if is_successful(answer.outcome)]
        outcome = last.outcome.map(lambda response: replace(response, usage=sum_usages(usages)))
        return ConversationAnswer(
            outcome=outcome,
            latency_s=_sum([answer.latency_s for answer in self.answers]),
            ttft_s=self.answers[0].ttft_s,
            rate_wait_s=_sum([answer.rate_wait_s for answer in self.answers]),
            total_s=_sum([answer.total_s for answer in self.answers]),
            attempts=sum(answer.attempts for answer in self.answers),
            started_at=self.answers[0].started_at,
            cache_hit=all(answer.cache_hit for answer in self.answers),
            dropped=last.dropped,
            limits=last.limits,
            billed_failures=tuple(failure for answer in self.answers for failure in answer.billed_failures),
            target=last.target,
            key=last.key,
            uncertain_requests=sum(answer.uncertain_requests for answer in self.answers),
            conversation=self,
        )

    def transcript(self) -> str:
        """Return the messages as a chat log in JSON, which ``messages=`` accepts."""
        return json.dumps([entry for message in self.messages for entry in _log_entries(message)], ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ConversationAnswer(Answer):
    """The last answer of a conversation, with the token counts, times and attempts of all turns."""

    conversation: Conversation | None = None


SendTurn: TypeAlias = Callable[[Call], Awaitable[SendResult]]
"""Answers the call of one turn from the cache or the provider."""


async def converse(
    call: Call,
    loop: ToolLoop,
    stop: StopSignal,
    send: SendTurn,
    first: Answer | None = None,
    *,
    is_routed: bool = False,
) -> Conversation:
    """Send a call, run the functions that the response calls, and go on until a response calls none.

    Parameters
    ----------
    send
        Answers the call of each turn.
    first
        The answer to the first turn, if the cache has it.
    is_routed
        Whether other models may answer: unsigned reasoning is then kept from them, since some refuse it.
    """
    conversation = Conversation(call.request.messages)
    for turn in range(loop.max_turns):
        if stop.requested and conversation.answers:
            conversation.answers.append(Answer(Failure(Cancelled(message="stopped between two turns"))))
            break
        sent = SendResult(first) if first is not None and not turn else await send(call)
        answer = sent.answer
        conversation.answers.append(answer)
        conversation.problems.append(sent)
        target = call.requested_target or call.target
        if not is_successful(answer.outcome):
            break
        response = answer.outcome.unwrap()
        turn_completion = completion_of(response, answer, target)
        conversation.billed += turn_completion.billed
        conversation.listed += turn_completion.listed
        parts = _parts_to_send(call, conversation.messages, response, is_routed=is_routed)
        conversation.messages = (*conversation.messages, Message("assistant", parts))
        calls = response.tool_calls
        known = [tool_call for tool_call in calls if tool_call.name in loop.functions]
        # A tool that is no function is for the caller, as are the calls of the last turn.
        if (
            not calls
            or turn + 1 == loop.max_turns
            or (len(known) < len(calls) and _has_declared(call.request, calls, loop))
        ):
            break
        results = await asyncio.gather(*(_run_tool(loop, tool_call) for tool_call in calls))
        conversation.messages = (*conversation.messages, Message("tool", _supported_results(call, results)))
        choice = call.request.tool_choice if call.request.tool_choice in {"auto", "none"} else None
        request = replace(call.request, messages=conversation.messages, tool_choice=choice)
        call = replace(call, request=request, key=None, prepared=None)
    return conversation


def _has_declared(request: CompletionRequest, calls: Sequence[ToolCall], loop: ToolLoop) -> bool:
    """Return whether a tool is called that is declared without a function."""
    declared = {tool.name for tool in request.tools} - set(loop.functions)
    return any(call.name in declared for call in calls)


async def _run_tool(loop: ToolLoop, call: ToolCall) -> ToolResult:
    """Run one function; whatever it raises is the result, so that the model can react to it."""
    function = loop.functions.get(call.name)
    if function is None:
        message = f"Error: there is no tool {call.name!r}; the tools are {', '.join(loop.functions)}"
        return ToolResult(call.id, message, call.name, is_error=True)
    task = asyncio.current_task()
    try:
        arguments = function.arguments(call.arguments)
        if inspect.iscoroutinefunction(function.function):
            value = await function.function(**arguments)
        else:
            work = partial(function.function, **arguments)
            run = work if loop.executor is not None else partial(loop.context.copy().run, work)
            value = await asyncio.get_running_loop().run_in_executor(loop.executor, partial(_run_contained, run))
            if inspect.isawaitable(value):
                value = await value
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        error = error.error if isinstance(error, _ToolExit) else error
        return ToolResult(call.id, f"Error: {type(error).__name__}: {error}", call.name, is_error=True)
    if isinstance(value, (Text, Image)):
        return ToolResult(call.id, (value,), call.name)
    return ToolResult(call.id, result_text(value), call.name)


class _ToolExit(Exception):  # noqa: N818 - it stands for another exception
    """An exception that a future cannot hold, or that the loop would take for its own."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _run_contained(run: Callable[[], Any]) -> Any:
    """Run a function in a thread or process; ``SystemExit`` and the like would end it, or close what awaits it."""
    try:
        return run()
    except Exception:
        raise
    except BaseException as error:  # noqa: BLE001 - a function of the user may raise anything
        raise _ToolExit(error) from None


def _parts_to_send(
    call: Call, messages: tuple[Message, ...], response: CompletionResponse, *, is_routed: bool
) -> tuple[Part, ...]:
    """Return the parts of a response that go back to the model: reasoning only where the provider takes it."""
    keeps_unsigned = call.target.provider.wire.has_unsigned_reasoning and not is_routed
    parts = tuple(
        part
        for part in response.parts
        if not isinstance(part, Logprobs)
        and (keeps_unsigned or not (isinstance(part, Reasoning) and _is_unsigned(part)))
    )
    while any(isinstance(part, (Reasoning, Opaque)) for part in parts):
        request = replace(call.request, messages=(*messages, Message("assistant", parts)), unsupported="error")
        probe = prepare(call.target.provider, call.target.endpoint, request, time.time())
        error = None if is_successful(probe) else probe.failure()
        match = PART_PATH.fullmatch(error.path) if isinstance(error, Unsupported) else None
        if match is None or int(match[1]) != len(messages):
            break
        index = int(match[2])
        if not _is_unsigned(parts[index]):
            break
        parts = (*parts[:index], *parts[index + 1 :])
    return parts


def _is_unsigned(part: Part) -> bool:
    """Return whether a part is reasoning that the next turn can do without."""
    is_details = isinstance(part, Opaque) and part.kind == REASONING_DETAILS
    return is_details or (isinstance(part, Reasoning) and not (part.signature or part.redacted))


def _supported_results(call: Call, results: Sequence[ToolResult]) -> tuple[ToolResult, ...]:
    """Return results without the mark of an error where the provider has none; the text says that it is one."""
    if not any(result.is_error for result in results):
        return tuple(results)
    messages = (*call.request.messages, Message("tool", tuple(results)))
    probe = prepare(call.target.provider, call.target.endpoint, replace(call.request, messages=messages), time.time())
    error = None if is_successful(probe) else probe.failure()
    if isinstance(error, Unsupported) and error.path.endswith(".is_error"):
        return tuple(replace(result, is_error=False) for result in results)
    return tuple(results)


def _log_entries(message: Message) -> list[dict[str, Any]]:
    """Return a message as entries of a chat log."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    if results:
        return [
            {
                "role": "tool",
                "tool_call_id": result.id,
                "name": result.name,
                "content": result.content if isinstance(result.content, str) else f"{len(result.content)} parts",
            }
            for result in results
        ]
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    entry: dict[str, Any] = {"role": message.role, "content": message.text}
    if calls:
        entry["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return [entry]


def sum_usages(usages: Sequence[Usage]) -> Usage:
    """Return the token counts of several responses together; ``None`` where no response has a count."""
    totals: dict[str, Any] = {}
    units: dict[str, int] = {}
    for name, count in (unit for usage in usages for unit in usage.billed_units):
        units[name] = units.get(name, 0) + count
    for each in fields(Usage):
        values = [getattr(usage, each.name) for usage in usages]
        is_text = isinstance(values[-1], str)  # the service tier
        is_units = isinstance(values[-1], tuple)
        totals[each.name] = tuple(units.items()) if is_units else values[-1] if is_text else _sum(values)
    return Usage(**totals)


def _sum(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def turn_columns(tools: Any) -> tuple[str, ...]:
    """Return the further result columns of a call with these tools: `TURN_COLUMNS` if some are functions."""
    given = [tools] if callable(tools) else tools if isinstance(tools, (list, tuple)) else ()
    return TURN_COLUMNS if any(callable(tool) for tool in given) else ()


def with_conversation(completion: Any, conversation: Conversation) -> Any:
    """Return the completion of a conversation: the last response with the cost and tokens of all turns."""
    return replace(
        completion,
        turns=conversation.turns,
        transcript=conversation.messages,
        billed=tuple(conversation.billed),
        listed=tuple(conversation.listed),
    )
