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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.api._completion import BilledUsage, completion_of, total_cost
from llmhub.cache.modes import CacheMode
from llmhub.core.errors import Cancelled, Unsupported
from llmhub.core.protocol import prepare
from llmhub.core.tool_functions import ToolFunction, result_text
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Image,
    Logprobs,
    Message,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.engine.call import Answer, Call
from llmhub.engine.client import SendResult
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.progress import ProgressReporter, ProgressTracker, RunSnapshot
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.api.tables import TableRun
    from llmhub.engine.fan_out_types import OnResult, PlannedItem
    from llmhub.progress.display import ProgressDisplay

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

    def answer(self) -> Answer:
        """Return the last answer with the token counts, times and attempts of all turns."""
        last = self.answers[-1]
        usages = [answer.outcome.unwrap().usage for answer in self.answers if is_successful(answer.outcome)]
        outcome = last.outcome.map(lambda response: replace(response, usage=sum_usages(usages)))
        return replace(
            last,
            outcome=outcome,
            latency_s=_sum([answer.latency_s for answer in self.answers]),
            ttft_s=self.answers[0].ttft_s,
            rate_wait_s=_sum([answer.rate_wait_s for answer in self.answers]),
            total_s=_sum([answer.total_s for answer in self.answers]),
            attempts=sum(answer.attempts for answer in self.answers),
            started_at=self.answers[0].started_at,
            cache_hit=all(answer.cache_hit for answer in self.answers),
            billed_failures=tuple(failure for answer in self.answers for failure in answer.billed_failures),
        )

    def transcript(self) -> str:
        """Return the messages as a chat log in JSON, which ``messages=`` accepts."""
        return json.dumps([entry for message in self.messages for entry in _log_entries(message)], ensure_ascii=False)


async def converse(
    hub: Hub,
    call: Call,
    loop: ToolLoop,
    stop: StopSignal,
    cache_mode: CacheMode | str | None,
    run_id: bytes,
) -> Conversation:
    """Send a call, run the functions that the response calls, and go on until a response calls none."""
    conversation = Conversation(call.request.messages)
    for turn in range(loop.max_turns):
        if stop.requested and conversation.answers:
            conversation.answers.append(Answer(Failure(Cancelled(message="stopped between two turns"))))
            break
        sent = await hub.runtime.send(call, stop, cache_mode=cache_mode, run_id=run_id)
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
        conversation.messages = (*conversation.messages, Message("assistant", _parts_to_send(response)))
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
    try:
        arguments = function.arguments(call.arguments)
        if inspect.iscoroutinefunction(function.function):
            value = await function.function(**arguments)
        else:
            work = partial(function.function, **arguments)
            run = work if loop.executor is not None else partial(loop.context.copy().run, work)
            value = await asyncio.get_running_loop().run_in_executor(loop.executor, run)
            if inspect.isawaitable(value):
                value = await value
    except Exception as error:  # noqa: BLE001 - a function of the user may raise anything
        return ToolResult(call.id, f"Error: {type(error).__name__}: {error}", call.name, is_error=True)
    if isinstance(value, (Text, Image)):
        return ToolResult(call.id, (value,), call.name)
    return ToolResult(call.id, result_text(value), call.name)


def _parts_to_send(response: CompletionResponse) -> tuple[Any, ...]:
    """Return the parts of a response that go back to the model: reasoning only where it is signed."""
    return tuple(
        part
        for part in response.parts
        if not isinstance(part, Logprobs)
        and not (isinstance(part, Reasoning) and not (part.signature or part.redacted))
    )


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
    for each in fields(Usage):
        values = [getattr(usage, each.name) for usage in usages]
        is_text = isinstance(values[-1], str)  # the service tier
        totals[each.name] = values[-1] if is_text else _sum(values)
    return Usage(**totals)


def _sum(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# Rows


@dataclass(slots=True)
class ToolRows:
    """The conversations of a run over rows.

    Parameters
    ----------
    run
        The run.
    loop
        Its tools.
    stop
        Ends it between two turns.
    run_id
        Identifies its calls in the ledger.
    on_result
        Called with each outcome.
    """

    run: TableRun
    loop: ToolLoop
    stop: StopSignal
    run_id: bytes
    on_result: OnResult | None = None
    conversations: dict[int, Conversation] = field(default_factory=dict)
    outcomes: list[Any] = field(default_factory=list)
    tracker: ProgressTracker | None = None
    in_flight: int = 0
    finished: bool = False
    started: float = field(default_factory=time.monotonic)

    async def hold(self, display: ProgressDisplay | None, concurrency: int) -> FanOutResult:
        """Hold all conversations, ``concurrency`` at a time, and return their outcomes."""
        size = len(self.run.batch)
        self.outcomes = [None] * size
        reporter = self._reporter(display, concurrency)
        reporting = asyncio.create_task(reporter.run()) if reporter is not None else None
        items = iter([item for chunk in self.run.batch.iter_chunks(lambda: self.stop.requested) for item in chunk])
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, size)):
                    group.create_task(self._work(items))
        finally:
            if reporting is not None and reporter is not None:
                reporting.cancel()
                self.finished = True
                await reporter.finish()
            if display is not None:
                display.close()
        return self._result("" if reporter is None else reporter.error)

    def _reporter(self, display: ProgressDisplay | None, concurrency: int) -> ProgressReporter | None:
        if display is None:
            return None
        sink = self.run.progress_sink(display.report)
        self.tracker = ProgressTracker(len(self.run.batch), sink, time.time())

        def snapshot() -> RunSnapshot:
            return RunSnapshot(
                time.monotonic() - self.started,
                in_flight=self.in_flight,
                concurrency=concurrency,
                finished=self.finished,
                stopping=self.stop.requested,
            )

        return ProgressReporter(sink, self.tracker, snapshot)

    async def _work(self, items: Iterator[PlannedItem]) -> None:
        for item in items:
            self.in_flight += 1
            await self._hold_one(item)
            self.in_flight -= 1

    async def _hold_one(self, item: PlannedItem) -> None:
        position, key, make_call, prompt = item
        if self.tracker is not None:
            self.tracker.add_misses([position])
        if self.stop.requested:
            answer = Answer(Failure(Cancelled(message="cancelled before the request was sent")))
        else:
            call = make_call(prompt, key)
            cache_mode = self.run.options.cache
            conversation = await converse(self.run.hub, call, self.loop, self.stop, cache_mode, self.run_id)
            self.conversations[position] = conversation
            answer = conversation.answer()
        self.outcomes[position] = answer
        if self.tracker is not None:
            self.tracker.add(position, answer)
        if self.on_result is not None:
            self.on_result((position, answer, 0.0))

    def _result(self, progress_error: str) -> FanOutResult:
        problems = [sent for conversation in self.conversations.values() for sent in conversation.problems]
        return FanOutResult(
            self.outcomes,
            [0.0] * len(self.outcomes),
            damaged_values=sum(sent.damaged_values for sent in problems),
            store_error=next((sent.store_error for sent in problems if sent.store_error), ""),
            stopped_by_store_failure=any(sent.stopped_by_store_failure for sent in problems),
            progress_error=progress_error,
            ambiguous_count=sum(sent.ambiguous_count for sent in problems),
        )


def with_turns(table: pa.Table, conversations: Mapping[int, Conversation], priced_at: float) -> pa.Table:
    """Return results with the cost of all turns, and the columns ``turns`` and ``transcript``."""
    import pyarrow as pa  # noqa: PLC0415 - imported where tables are made

    rows = [conversations.get(position) for position in range(table.num_rows)]
    for name, used in (("cost_usd", "billed"), ("list_cost_usd", "listed")):
        costs = [_row_cost(row, used, priced_at) for row in rows]
        index = table.column_names.index(name)
        old = table.column(name).to_pylist()
        merged = [new if row is not None else kept for row, new, kept in zip(rows, costs, old, strict=True)]
        table = table.set_column(index, table.schema.field(name), pa.array(merged, table.schema.field(name).type))
    turns = pa.array([0 if row is None else row.turns for row in rows], pa.int32())
    transcripts = pa.array([None if row is None else row.transcript() for row in rows], pa.string())
    metadata = table.schema.metadata
    return (
        table.append_column("turns", turns).append_column("transcript", transcripts).replace_schema_metadata(metadata)
    )


def _row_cost(row: Conversation | None, used: str, priced_at: float) -> Decimal | None:
    if row is None or not row.turns:
        return None
    cost = total_cost(getattr(row, used), priced_at)
    return None if cost is None else round(cost, 9)


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
