"""Runs over a table at a service (`Hub(service=...)`): prompts are rendered here and sent there, results come back.

The service keeps the run: it goes on if this process ends, and a call with the same table attaches to it. Prompts that
are functions, local images and examples are rendered in this process, so that the service sees texts and conversations
only; structured outputs are parsed here, with the types of the caller.
"""

from __future__ import annotations

import concurrent.futures
import json
import queue
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmhub.api.options import RunOptions, budget_text, example_messages, parse_duration, split_options
from llmhub.api.raising import keep_table
from llmhub.api.service_client import ERRORS, ServiceClient
from llmhub.api.tables import model_names, structured_output
from llmhub.cache.modes import CacheMode
from llmhub.core.errors import InvalidRequest, Malformed, error_type_name, invalid, to_exception
from llmhub.core.tool_functions import split_tools
from llmhub.core.types import CompletionRequest, Image, Message, Text, ToolCall, ToolResult
from llmhub.engine import event_loop
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.progress import ModelProgress, Progress
from llmhub.hub import Hub
from llmhub.progress.display import ProgressDisplay, create_display
from llmhub.progress.widget import is_notebook

if TYPE_CHECKING:
    from decimal import Decimal

    import pyarrow as pa

    from llmhub.tables.plan import Plan
    from llmhub.tables.prompt_batch import PromptBatch
    from llmhub.tables.structured_outputs import OutputSchema

PROMPT: Final = "prompt"
"""The column of rendered prompts."""
WAIT_S: Final = 1.0
"""How long the service waits for results before it answers that there are none yet."""
CREATE_PATIENCE_S: Final = 3.0
FOLLOW_PATIENCE_S: Final = 600.0
"""How long a service that restarts is waited for: while a run is created, and once it exists."""
BOUNDARY: Final = "llmhub-table-6b1f0c1d7a"
PARAMETERS: Final = (
    *("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "tool_choice"),
    *("parallel_tool_calls", "reasoning_effort", "reasoning_budget", "logprobs", "user"),
)
"""Fields of a request that the service takes as they are."""
LOCAL_OPTIONS: Final[Mapping[str, str]] = {
    "engine": "the service sends the rows, and waits for the provider in place of the workers; omit it",
    "n_jobs": "the service sends the rows, so that further processes here would not be faster; omit it",
    "poll_s": "the service polls its batches, as its own settings say; omit it",
    "batch_storage": "a service has no object storage for batches; use a hub without a service, or omit it",
    "batch_role": "a service has no object storage for batches; use a hub without a service, or omit it",
    "tool_executor": "without functions among the tools, nothing runs here for a run of a service; omit it",
    "max_turns": "without functions among the tools, a run of a service has one turn; omit it",
}
"""Options that a run at a service does not have, and the remedy."""
ROW_BY_ROW: Final = "rows of a sink, or with functions among the tools, are sent to the service one by one; omit it"


@dataclass(frozen=True, slots=True)
class ServiceRun:
    """A run at a service that has not been sent.

    Parameters
    ----------
    hub
        The hub of the service.
    fields
        Fields of the request.
    prompts
        The rendered prompts: texts, or conversations as JSON.
    invalid_rows
        By row: why it has no valid prompt.
    options
        How the run is executed.
    output
        Schema of structured outputs.
    """

    hub: Hub
    fields: dict[str, Any]
    prompts: list[str | None]
    invalid_rows: Mapping[int, InvalidRequest]
    options: RunOptions
    output: OutputSchema | None = None

    def body(self) -> tuple[bytes, str]:
        """Return the form that is sent, and its media type."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        column = pa.chunked_array([pa.array(self.prompts, pa.string())])
        table = pa.table({PROMPT: column})
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table, max_chunksize=4096)
        head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="'
        kind = "content-type: application/vnd.apache.arrow.stream"
        parts = (
            f'{head}request"\r\n\r\n'.encode(),
            msgspec.json.encode(self.fields),
            f'\r\n{head}table"\r\n{kind}\r\n\r\n'.encode(),
            buffer.getvalue().to_pybytes(),
            f"\r\n--{BOUNDARY}--\r\n".encode(),
        )
        return b"".join(parts), f"multipart/form-data; boundary={BOUNDARY}"

    def display(self, stop: StopSignal | None, *, background: bool = False) -> ProgressDisplay | None:
        """Start the progress display."""
        if self.options.progress is False:
            return None
        return create_display(self.options.progress, self.initial_progress(), stop=stop, background=background)

    def initial_progress(self) -> Progress:
        """Return the progress before anything is sent."""
        names: Any = self.fields["model"]
        models = [names] if isinstance(names, str) else names
        total = len(self.prompts) * self.options.n
        each = tuple(ModelProgress(model=name, total=total) for name in models)
        return Progress(total=total * len(models), done=0, cached=0, failed=0, in_flight=0, elapsed_s=0.0, models=each)

    # Sending

    async def follow(
        self, stop: StopSignal, report: Callable[[Progress], object] | None
    ) -> AsyncIterator[tuple[pa.Table, dict[str, Any]]]:
        """Send the run, and yield its results as they come, each with the state of the run then.

        At the first request of ``stop`` the run is stopped at the service, at the second its calls are cancelled.
        """
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        client = ServiceClient(self.hub)
        body, content_type = await event_loop.run_in_thread(self.body)
        reply = await client.fetch(
            "POST", "/v1/runs", body=body, content_type=content_type, patience_s=CREATE_PATIENCE_S
        )
        state: dict[str, Any] = decode_state(reply.body)
        path, received, stops, is_complete = f"/v1/runs/{state['id']}", 0, 0, False
        while not is_complete:
            wanted = int(stop.requested) + int(stop.immediate)
            while stops < wanted:
                await client.fetch("DELETE", path, patience_s=FOLLOW_PATIENCE_S)
                stops += 1
            query = {"after": received, "wait_s": WAIT_S}
            reply = await client.fetch("GET", f"{path}/rows", query, patience_s=FOLLOW_PATIENCE_S)
            with pa.ipc.open_stream(reply.body) as reader:
                table = reader.read_all()
            received += len(table)
            is_complete = reply.header("x-llmhub-complete") == "true"
            if report is not None or is_complete or not len(table):
                state = decode_state((await client.fetch("GET", path, patience_s=FOLLOW_PATIENCE_S)).body)
                if report is not None:
                    report(progress_of(state))
            if len(table) or is_complete:
                yield table, state
        if state["state"] == "failed":
            kind = next((name for name in ERRORS if name in state["error"]), "ServerError")
            raise to_exception(ERRORS[kind](message=state["error"] or "the run failed at the service"))

    async def execute(
        self,
        stop: StopSignal,
        display: ProgressDisplay | None,
        on_table: Callable[[pa.Table], object] | None = None,
    ) -> pa.Table:
        """Send the run, and return the table of results in input order."""
        tables: list[pa.Table] = []
        models: list[str] = []
        report = None if display is None else display.report
        try:
            async for table, state in self.follow(stop, report):
                tables.append(table)
                models = [model["model"] for model in state["models"]]
                if on_table is not None:
                    on_table(table)
        finally:
            if display is not None:
                display.close()
        table = await event_loop.run_in_thread(partial(in_order, tables, models))
        return await event_loop.run_in_thread(self.finished, table)

    def finished(self, table: pa.Table, *, raises: bool = True) -> pa.Table:
        """Return results as a run in this process returns them: invalid rows as errors, and outputs parsed.

        Raises
        ------
        ConnectorError
            With ``on_error="raise"``, the error of the first failed row.
        """
        if self.invalid_rows:
            table = with_invalid_rows(table, self.invalid_rows)
        if self.output is not None:
            from llmhub.tables.structured_outputs import parse_structured_outputs  # noqa: PLC0415 - imports Arrow

            table = parse_structured_outputs(table, self.output)
        if raises and self.options.on_error == "raise":
            with keep_table(table):
                raise_first_error(table)
        return table


def decode_state(body: bytes) -> dict[str, Any]:
    """Return the state of a run, with exact amounts."""
    from decimal import Decimal  # noqa: PLC0415 - for this function only

    state: dict[str, Any] = msgspec.json.Decoder(float_hook=Decimal).decode(body)
    return state


def raise_first_error(table: pa.Table) -> None:
    """Raise the error of the first failed row, if there is one."""
    for kind, message in zip(table.column("error_type").to_pylist(), table.column("error").to_pylist(), strict=True):
        if kind is not None:
            raise to_exception(ERRORS.get(kind, Malformed)(message=message or ""))


def with_invalid_rows(table: pa.Table, invalid_rows: Mapping[int, InvalidRequest]) -> pa.Table:
    """Return results in which rows without a valid prompt are errors."""
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    rows = table.column("row").to_pylist()
    stated = {row: ("error", error_type_name(error), str(to_exception(error))) for row, error in invalid_rows.items()}
    for place, name in enumerate(("status", "error_type", "error")):
        column = table.column(name).to_pylist()
        changed = [stated[row][place] if row in stated else old for row, old in zip(rows, column, strict=True)]
        index = table.schema.get_field_index(name)
        array = pa.array(changed, pa.string())
        if pa.types.is_dictionary(table.schema.field(index).type):
            array = array.dictionary_encode()
        table = table.set_column(index, table.schema.field(index), array)
    return table


def in_order(tables: Sequence[pa.Table], models: Sequence[str]) -> pa.Table:
    """Return all results in input order, for each row in the order of the models."""
    import numpy as np  # noqa: PLC0415 - imported with Arrow
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow

    table = pa.concat_tables(tables).unify_dictionaries()
    pairs = zip(table.column("provider").to_pylist(), table.column("model").to_pylist(), strict=True)
    rank = {name: index for index, name in enumerate(models)}
    ranks = np.array([rank.get(f"{provider}/{model}", 0) for provider, model in pairs], np.int64)
    rows, samples = (table.column(name).to_numpy() for name in ("row", "sample"))
    ordered = table.take(pa.array(np.lexsort((samples, ranks, rows))))
    return ordered.unify_dictionaries().combine_chunks()


def progress_of(state: Mapping[str, Any]) -> Progress:
    """Return the progress of a run from its state at the service."""
    models = tuple(
        ModelProgress(
            model=model["model"],
            total=model["total"],
            done=model["ok"] + model["failed"],
            cached=model["cached"],
            failed=model["failed"],
            unanswered=model["over_budget"] + model["cancelled"],
            over_budget=model["over_budget"],
            input_tokens=model["input_tokens"],
            output_tokens=model["output_tokens"],
            spent_usd=as_decimal(model["spent_usd"]),
            forecast_usd=as_decimal(model["forecast_usd"]),
        )
        for model in state["models"]
    )
    remaining_s = state["remaining_s"]
    return Progress(
        total=state["total"],
        done=sum([model.done for model in models]),
        cached=sum([model.cached for model in models]),
        failed=sum([model.failed for model in models]),
        in_flight=state["in_flight"],
        elapsed_s=float((state["ended_at"] or state["now"]) - state["created_at"]),
        finished=state["ended_at"] is not None,
        stopping=state["state"] == "stopping",
        rows_per_s=float(state["rows_per_s"]),
        remaining_s=None if remaining_s is None else float(remaining_s),
        limited_by=state["limited_by"],
        refused_by=state["refused_by"],
        models=models,
        simulated=state["simulated"],
    )


def as_decimal(value: Any) -> Decimal | None:
    """Return an amount of JSON, which may be a whole number."""
    from decimal import Decimal  # noqa: PLC0415 - for this function only

    return None if value is None else Decimal(value)


# From the arguments of a call


def sends_row_by_row(options: Mapping[str, Any], sink: object = None) -> bool:
    """Return whether this process sends the rows of a run to the service, one by one in its bulk lane.

    It does for results that are written to a sink here, and for tools that are functions of this process.

    Raises
    ------
    BadRequestError
        The options need neither this process alone nor the service.
    """
    tools = options.get("tools")
    if sink is None and (tools is None or not split_tools(tools)[1]):
        return False
    refuse_local_options({name: options[name] for name in ("engine", "n_jobs") if name in options})
    if options.get("mode", "live") != "live":
        raise invalid("mode", ROW_BY_ROW)
    return True


def build_service_run(frame: Any, prompt: Any, model: Any, hub: Hub, options: dict[str, Any]) -> ServiceRun:
    """Validate the arguments of a run over a frame, and render its prompts.

    Raises
    ------
    BadRequestError
        As in `llmhub.complete_table`; or an option that a run at a service does not have.
    """
    from llmhub.tables import frames, prompt_batch, row_prompts  # noqa: PLC0415 - imports Arrow

    refuse_local_options(options)
    examples = example_messages(options.pop("examples", None), prompt)
    extras = row_prompts.RowExtras(
        system=options.pop("system", None),
        messages=options.pop("messages", None),
        images=options.pop("images", None),
        local_files=hub.local_files,
    )
    source = frames.pandas_or_arrow(frame)
    system = row_prompts.constant_system_prompt(extras.system, frames.column_names(source))
    if system is not None:
        options["system"], extras = system, replace(extras, system=None)
    elif extras.system is not None:  # after the system prompt, which each row renders
        extras, examples = replace(extras, examples=examples), ()
    return _build(lambda: prompt_batch.batch_from_frame(source, prompt, (), 1, extras), model, hub, options, examples)


def build_series_run(values: Any, prompt: str, model: Any, hub: Hub, options: dict[str, Any]) -> ServiceRun:
    """Validate the arguments of a run over a series, and render its prompts (see `build_service_run`)."""
    from llmhub.tables import prompt_batch  # noqa: PLC0415 - imports Arrow

    refuse_local_options(options)
    examples = example_messages(options.pop("examples", None))
    return _build(lambda: prompt_batch.batch_from_series(values, prompt, ()), model, hub, options, examples)


def refuse_local_options(options: dict[str, Any]) -> None:
    """Take options out that have their default, and raise for others that a run at a service does not have."""
    defaults: dict[str, Any] = {"n_jobs": 1}
    for name, remedy in LOCAL_OPTIONS.items():
        if options.get(name, defaults.get(name)) not in {None, defaults.get(name)}:
            raise invalid(name, remedy)
        options.pop(name, None)


def _build(
    make_batch: Callable[[], PromptBatch],
    model: Any,
    hub: Hub,
    options: dict[str, Any],
    examples: tuple[Message, ...],
) -> ServiceRun:
    output = structured_output(options)
    request, run_options = split_options(options)
    if run_options.tool_loop is not None:
        raise invalid("tools", "functions do not run at a service; pass tools that are Tool values, or use complete")
    names = model_names(model)
    texts, rows_invalid, is_plain = render(make_batch())
    fields = {
        "model": names[0] if len(names) == 1 else names,
        **request_fields_of(request, examples, run_options),
        **({PROMPT: f"{{{PROMPT}}}"} if is_plain else {"messages": PROMPT}),
    }
    return ServiceRun(hub, fields, texts, rows_invalid, run_options, output)


def render(batch: PromptBatch) -> tuple[list[str | None], dict[int, InvalidRequest], bool]:
    """Return the prompts of a batch as texts or as JSON, its invalid rows, and whether they are texts."""
    rows = zip(*batch.columns, strict=True) if batch.columns else iter(((),) * batch.n_rows)
    rendered: list[Any] = []
    invalid_rows: dict[int, InvalidRequest] = {}
    for row, values in enumerate(rows):
        prompt: Any = None if any(value is None for value in values) else batch.template.render(values)
        if isinstance(prompt, InvalidRequest):
            invalid_rows[row] = replace(prompt, message=f"row {row}: {prompt.message}")
            prompt = None
        rendered.append(prompt)
    if batch.is_plain_text:
        return rendered, invalid_rows, True
    return [None if each is None else conversation_json(each) for each in rendered], invalid_rows, False


def conversation_json(prompt: str | Sequence[Message]) -> str:
    """Return a prompt as the JSON of a conversation, in the form of chat logs.

    Examples
    --------
    >>> conversation_json([Message("user", (Text("Hi"), Image(url="https://example.org/a.png")))])
    '[{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image", "source": {"url": "https://...
    """
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    return json.dumps([_message(message) for message in messages])


def _message(message: Message) -> dict[str, Any]:
    if len(message.parts) == 1 and isinstance(result := message.parts[0], ToolResult):
        content = result.content if isinstance(result.content, str) else [_block(part) for part in result.content]
        return {"role": "tool", "tool_call_id": result.id, "name": result.name, "content": content}
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    blocks = [_block(part) for part in message.parts if not isinstance(part, ToolCall)]
    is_text = len(blocks) == 1 and blocks[0]["type"] == "text"
    return {
        "role": message.role,
        "content": blocks[0]["text"] if is_text else blocks,
        **({"tool_calls": [_call(call) for call in calls]} if calls else {}),
    }


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _block(part: Any) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image) and part.detail and part.url:
        return {"type": "image_url", "image_url": {"url": part.url, "detail": part.detail}}
    if isinstance(part, Image):
        source = {"url": part.url, "data": part.data, "media_type": part.media_type}
        return {"type": "image", "source": {name: value for name, value in source.items() if value}}
    raise invalid("prompt", f"a part of the type {type(part).__name__} cannot be sent to a service in a table")


def request_fields_of(request: CompletionRequest, examples: Sequence[Message], options: RunOptions) -> dict[str, Any]:
    """Return the fields of the request to the service."""
    fields = {name: value for name in PARAMETERS if (value := getattr(request, name)) is not None}
    system = "\n\n".join([message.text for message in request.messages])
    if system:
        fields["system"] = system.replace("{", "{{").replace("}", "}}")
    if examples:
        texts = [message.text for message in examples]
        fields["examples"] = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.tools:
        fields["tools"] = [
            {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
            for tool in request.tools
        ]
    if request.response_schema is not None:
        fields["response_schema"] = request.response_schema.schema
    if request.extra:
        fields["extra"] = dict(request.extra)
    if request.unsupported != "error":
        fields["unsupported"] = request.unsupported
    if options.budget_usd is not None:
        fields["budget_usd"] = budget_text(options.budget_usd)
    if options.cache is not None:
        fields["cache"] = _cache_mode(options.cache)
    fields |= _batch_fields(options)
    flags = ("allow_unpriced", "stream", "schema_or_words")
    fields |= {name: True for name in flags if getattr(options, name)}
    fields |= {} if options.concurrency is None else {"concurrency": options.concurrency}
    return {**fields, **({"n": options.n} if options.n != 1 else {})}


def _batch_fields(options: RunOptions) -> dict[str, Any]:
    """Return the fields of a run by the Batch APIs of providers."""
    if options.mode == "live":
        return {}
    deadline_s = None if options.deadline is None else parse_duration("deadline", options.deadline)
    given = {"mode": options.mode, "late": options.late, "deadline": deadline_s, "batch_tokens": options.batch_tokens}
    return {name: value for name, value in given.items() if value is not None}


def _cache_mode(mode: CacheMode | str) -> str:
    if isinstance(mode, CacheMode):
        if mode.max_age_s is not None or mode.strict:
            raise invalid("cache", "a service takes the names of modes only; omit max_age_s and strict")
        return mode.mode
    return mode


# The calls


def complete_at_service(run: ServiceRun) -> pa.Table:
    """Send a run, wait, and return its results."""
    return event_loop.run_sync(lambda stop: run.execute(stop, run.display(stop)))


async def acomplete_at_service(run: ServiceRun) -> pa.Table:
    """Send a run, and return its results, awaited on any loop."""
    stop = StopSignal()
    return await event_loop.run_in_background(run.execute(stop, run.display(stop)))


def stream_at_service(run: ServiceRun) -> Iterator[pa.Table]:
    """Send a run, and yield its results as they come. Closing the iterator stops the run."""
    arrived: queue.SimpleQueue[pa.Table | None] = queue.SimpleQueue()
    stop = StopSignal()
    future = event_loop.submit(run.execute(stop, run.display(stop), arrived.put))
    future.add_done_callback(lambda _: arrived.put(None))
    try:
        while (table := arrived.get()) is not None:
            if len(table):
                yield run.finished(table)
        future.result()
    finally:
        if not future.done():
            stop.request()
            stop.request()


def plan_at_service(run: ServiceRun, *, pilot: int, count_tokens: int) -> Plan:
    """Return the plan of a run, with the cache and the limits of the service."""
    from llmhub.tables.plan import Plan  # noqa: PLC0415 - imports Arrow

    extra = {name: value for name, value in (("pilot", pilot), ("count_tokens", count_tokens)) if value}
    body, content_type = replace(run, fields={**run.fields, **extra}).body()
    client = ServiceClient(run.hub)

    async def work(_stop: StopSignal) -> bytes:
        reply = await client.fetch(
            "POST", "/v1/plans", body=body, content_type=content_type, patience_s=CREATE_PATIENCE_S
        )
        return reply.body

    return msgspec.json.decode(event_loop.run_sync(work), type=Plan)


@dataclass(slots=True)
class ServiceJobState:
    """A started run at a service: its latest progress and its results so far (see `llmhub.api.jobs.JobState`)."""

    run: ServiceRun
    stop: StopSignal
    progress: Progress
    has_panel: bool = False
    tables: list[pa.Table] = field(default_factory=list)
    future: concurrent.futures.Future[pa.Table] = field(default_factory=concurrent.futures.Future)

    def partial_table(self) -> pa.Table:
        """Return a table of the results so far."""
        from llmhub.tables.schema import RESULTS  # noqa: PLC0415 - imports Arrow

        tables = list(self.tables)
        models = [model.model for model in self.progress.models]
        table = in_order(tables, models) if tables else RESULTS.empty_table()
        return self.run.finished(table, raises=False)

    def request_stop(self) -> None:
        """Stop the run at the service; a second call cancels its calls."""
        self.stop.request()


def submit_at_service(run: ServiceRun) -> ServiceJobState:
    """Start a run at a service, and return its state."""
    stop = StopSignal()
    state = ServiceJobState(run, stop, run.initial_progress())
    display = run.display(stop, background=True)
    state.has_panel = display is not None and is_notebook()

    def report(progress: Progress) -> None:
        state.progress = progress
        if display is not None:
            display.report(progress)

    recording = ProgressDisplay(report, display.close if display is not None else _no_op)
    state.future = event_loop.submit(run.execute(stop, recording, state.tables.append))
    return state


def _no_op() -> None:
    """Do nothing."""
