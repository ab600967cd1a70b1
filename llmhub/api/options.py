"""Options of calls: parameters of the request, execution of a run over many rows, budgets.

The typed dictionaries exist for type checkers and editors; `split_options` validates what was passed at run time.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import timedelta
from decimal import Decimal
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict

from llmhub.api._tool_loop import MAX_TURNS, ToolLoop
from llmhub.api.raising import unwrap_or_raise
from llmhub.cache.modes import CacheMode, Mode, resolve_mode
from llmhub.core.budget import parse_budget
from llmhub.core.embedding import TextKind
from llmhub.core.errors import BadRequestError, Hint, invalid
from llmhub.core.json_schema import schema_of
from llmhub.core.tool_functions import split_tools
from llmhub.core.types import JSON, CompletionRequest, Message, Schema, Tool
from llmhub.engine.batch_policy import DEFAULT_POLL_S, LATE_POLICIES, BatchPolicy, LatePolicy
from llmhub.engine.call import SendMode, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.spending import Budgets, SharedBudget, TargetPrices
from llmhub.hub import Hub
from llmhub.progress.display import ProgressCallback
from llmhub.providers.prices import unpriced_id

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from llmhub.tables.rows import Row

Prompt: TypeAlias = str | Message | Sequence[str | Message | Mapping[str, object]] | CompletionRequest
"""Prompt of a single call: text, a message, a conversation, or a whole request."""
Messages: TypeAlias = Message | Sequence[str | Message | Mapping[str, object]]
"""Conversation of a single call, in place of a prompt or before it."""
Models: TypeAlias = str | Sequence[str]
"""One ``provider/model``, or several."""
TablePrompt: TypeAlias = "str | Callable[[Row], str | Sequence[object] | None]"
"""Prompt of a run over rows: a template over the columns, or a function from a row to text or a conversation."""


class BudgetOptions(TypedDict, total=False):
    """Budget of a call; ``allow_unpriced`` permits models without a known price, which do not count towards it."""

    budget_usd: float | Decimal
    allow_unpriced: bool


class CacheOptions(TypedDict, total=False):
    """Use of the hub's cache: a `CacheMode`, or the name of one."""

    cache: Mode | CacheMode


class RequestOptions(BudgetOptions, CacheOptions, total=False):
    """Request parameters, as in `CompletionRequest`, with budget and cache mode."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop: str | Sequence[str]
    seed: int
    presence_penalty: float
    frequency_penalty: float
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
    max_turns: int
    tool_executor: Executor
    tool_choice: str
    parallel_tool_calls: bool
    logprobs: int
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None
    reasoning_effort: str
    reasoning_budget: int
    user: str
    extra: Mapping[str, JSON]
    unsupported: Literal["error", "drop"]


class CompletionOptions(RequestOptions, total=False):
    """Options of `complete` and the other calls for a single prompt."""

    schema: Schema | Mapping[str, JSON] | type[Any]
    system: str
    images: Any
    examples: Any


class ExecutionOptions(TypedDict, total=False):
    """How a run over many rows is executed."""

    concurrency: int
    progress: bool | ProgressCallback
    on_error: Literal["row", "raise"]
    stream: bool


class MapOptions(ExecutionOptions, BudgetOptions, total=False):
    """Options of `map_rows`."""


class BatchOptions(TypedDict, total=False):
    """How rows are sent, and how batches of a provider's Batch API are treated."""

    mode: SendMode
    late: LatePolicy
    deadline: float | str | timedelta
    poll_s: float
    batch_tokens: int
    batch_storage: str
    batch_role: str


class MessageOptions(RequestOptions, ExecutionOptions, BatchOptions, total=False):
    """Messages beside the prompt of a row, and the number of samples per row."""

    system: str | Callable[[Row], str | None]
    messages: str
    images: str
    examples: Any
    n: int


class ChatOptions(RequestOptions, ExecutionOptions, BatchOptions, total=False):
    """Options of ``df.llm.chat``."""

    system: str | Callable[[Row], str | None]
    images: str
    examples: Any


class EmbeddingOptions(BudgetOptions, CacheOptions, BatchOptions, total=False):
    """Options of `embed_table` and the other calls for embeddings."""

    dimensions: int
    kind: TextKind
    batch_size: int
    extra: Mapping[str, JSON]
    concurrency: int
    progress: bool | ProgressCallback
    on_error: Literal["row", "raise"]


class RerankOptions(BudgetOptions, CacheOptions, total=False):
    """Options of `rerank` and `rerank_table`."""

    batch_size: int
    extra: Mapping[str, JSON]
    concurrency: int
    progress: bool | ProgressCallback
    on_error: Literal["row", "raise"]


class RowOptions(MessageOptions, total=False):
    """Options of a run over rows (see `complete_table`)."""

    schema: Schema | Mapping[str, JSON] | type[Any]


class TypedTableOptions(MessageOptions, total=False):
    """Options of a call that sets the schema itself, such as ``df.llm.classify``."""

    n_jobs: int


class TableOptions(RowOptions, total=False):
    """Options of `complete_table`."""

    n_jobs: int
    engine: Literal["ray", "spark", "dask", "joblib"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run over rows is executed, validated.

    Fields have the meaning of the options of `complete_table`. ``schema_or_words`` drops the response schema for
    models that do not support one, because the prompt describes the format as well.
    """

    n: int = 1
    concurrency: int | None = None
    progress: bool | ProgressCallback | None = None
    on_error: Literal["row", "raise"] = "row"
    stream: bool = False
    budget_usd: float | Decimal | None = None
    allow_unpriced: bool = False
    cache: CacheMode | str | None = None
    schema: Any = None
    schema_or_words: bool = False
    max_turns: int | None = None
    tool_executor: Executor | None = None
    tool_loop: ToolLoop | None = None
    mode: SendMode = "live"
    late: LatePolicy = "wait"
    deadline: float | str | timedelta | None = None
    poll_s: float | None = None
    batch_tokens: int | None = None
    batch_storage: str | None = None
    batch_role: str | None = None

    def batch_policy(self, cancel: StopSignal) -> BatchPolicy:
        """Return how batches of this run are treated."""
        return BatchPolicy(
            late=self.late,
            deadline_s=None if self.deadline is None else parse_duration("deadline", self.deadline),
            poll_s=DEFAULT_POLL_S if self.poll_s is None else self.poll_s,
            cancel=cancel,
            max_tokens=self.batch_tokens,
            storage=self.batch_storage or "",
            role=self.batch_role or "",
        )


INTERNAL_OPTIONS: Final = frozenset({"schema_or_words", "tool_loop"})
RUN_OPTIONS: Final = frozenset(option.name for option in fields(RunOptions))
BUDGET_AND_CACHE_OPTIONS: Final = frozenset(BudgetOptions.__annotations__) | frozenset(CacheOptions.__annotations__)
MESSAGE_OPTIONS: Final = frozenset({"system", "messages", "images", "examples"})
REQUEST_OPTIONS: Final = frozenset(CompletionRequest.__dataclass_fields__) - {"model", "messages"} | {"system"}


def split_options(options: dict[str, Any]) -> tuple[CompletionRequest, RunOptions]:
    """Split options into the request they describe, without model and prompt, and the execution of the run.

    Raises
    ------
    BadRequestError
        An unknown option, or a value out of range.
    """
    loop = tool_loop(options)
    run_options = RunOptions(
        tool_loop=loop, **{name: options.pop(name) for name in list(options) if name in RUN_OPTIONS}
    )
    concurrency = run_options.concurrency
    run_options = replace(
        run_options,
        n=positive_int("n", run_options.n),
        concurrency=None if concurrency is None else positive_int("concurrency", concurrency),
    )
    resolve_mode(run_options.cache, CacheMode())
    progress: Any = run_options.progress
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise invalid("progress", f"must be True, False or a function of the progress, not {progress!r}")
    if run_options.on_error not in {"row", "raise"}:
        raise invalid("on_error", f"must be 'row' or 'raise', not {run_options.on_error!r}")
    validate_batch_options(run_options)
    unknown = sorted(set(options) - REQUEST_OPTIONS)
    if unknown:
        raise unknown_option(unknown[0], REQUEST_OPTIONS | RUN_OPTIONS | MESSAGE_OPTIONS)
    return CompletionRequest(model="", messages=system_messages(options), **request_fields(options)), run_options


DURATION_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


def parse_duration(name: str, value: float | str | timedelta) -> float:
    """Return a duration in seconds, given as such, as text (``"24h"``, ``"90m"``) or as a ``timedelta``.

    Examples
    --------
    >>> parse_duration("deadline", "24h"), parse_duration("deadline", 90)
    (86400.0, 90.0)
    """
    seconds: object = value
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str):
        match = DURATION.fullmatch(value.strip())
        seconds = float(match[1]) * DURATION_UNITS[match[2]] if match else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < MAX_DURATION_S:
        raise invalid(name, f"must be seconds above 0, a timedelta, or text such as '24h' or '90m', not {value!r:.80}")
    return float(seconds)


MAX_DURATION_S: Final = 366 * 86_400.0
BATCH_OPTIONS: Final = frozenset(BatchOptions.__annotations__) - {"mode"}


def validate_batch_options(options: RunOptions) -> None:
    """Raise for values of batch options that are none, and for options that batches do not have."""
    modes = ("live", "batch")
    if options.mode not in modes:
        raise invalid("mode", f"must be 'live' or 'batch', not {options.mode!r:.80}")
    if options.late not in LATE_POLICIES:
        raise invalid("late", f"must be 'wait', 'live' or 'error', not {options.late!r:.80}")
    if options.deadline is not None:
        parse_duration("deadline", options.deadline)
    if options.poll_s is not None:
        parse_duration("poll_s", options.poll_s)
    if options.batch_tokens is not None:
        positive_int("batch_tokens", options.batch_tokens)
    if options.mode == "live":
        changed = [name for name in sorted(BATCH_OPTIONS) if getattr(options, name) != getattr(RunOptions(), name)]
        if changed:
            raise invalid(changed[0], "is an option of batches", hint=Hint("mode", "batch", purpose="send batches"))
    elif options.stream:
        raise invalid("stream", "batches are not streamed; omit stream=True, or pass mode='live'")
    elif options.tool_loop is not None:
        raise invalid("tools", "functions do not run in batches; pass mode='live', or Tool values")


RETRY_REMEDY: Final = "pass Hub(retry=llmhub.Retry(attempts=...))"
ENDPOINT_REMEDY: Final = "pass Hub(endpoints={'provider': llmhub.Endpoint(api_key=..., base_url=...)})"
FOREIGN_OPTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("max_completion_tokens", "max_output_tokens", "max_new_tokens", "max_token"), "max_tokens"),
    **dict.fromkeys(("response_format", "response_model", "output_schema", "output_type", "text_format"), "schema"),
    **dict.fromkeys(("system_prompt", "system_message", "system_instruction", "instructions"), "system"),
    **dict.fromkeys(("image", "image_url", "image_urls"), "images"),
    **dict.fromkeys(("few_shot", "few_shot_examples", "fewshot", "demos", "shots"), "examples"),
    **dict.fromkeys(("models", "model_name", "engine", "deployment"), "model"),
    **dict.fromkeys(("max_workers", "workers", "num_workers", "max_concurrency", "max_concurrent_requests",
                     "batch_size", "max_parallel_requests", "parallelism", "num_threads"), "concurrency"),
    **dict.fromkeys(("num_completions", "num_samples", "n_samples", "samples", "candidate_count"), "n"),
    **dict.fromkeys(("stop_sequences", "stop_words"), "stop"),
    **dict.fromkeys(("random_seed", "random_state"), "seed"),
    **dict.fromkeys(("budget", "max_cost", "max_cost_usd", "max_budget"), "budget_usd"),
    **dict.fromkeys(("functions", "function"), "tools"),
    **dict.fromkeys(("function_call",), "tool_choice"),
    **dict.fromkeys(("verbose", "show_progress", "progress_bar"), "progress"),
    **dict.fromkeys(("use_cache", "caching", "cache_mode"), "cache"),
    **dict.fromkeys(("extra_body", "extra_params", "model_kwargs", "provider_options"), "extra"),
    **dict.fromkeys(("reasoning", "thinking", "effort"), "reasoning_effort"),
    **dict.fromkeys(("thinking_budget", "max_reasoning_tokens", "budget_tokens"), "reasoning_budget"),
    **dict.fromkeys(("drop_params",), "unsupported"),
    **dict.fromkeys(("top_logprobs",), "logprobs"),
    **dict.fromkeys(("errors", "raise_on_error"), "on_error"),
    **dict.fromkeys(("labels",), "df.llm.classify(labels=...)"),
}  # fmt: skip
"""Options of other libraries, and the option of llmhub that does the same."""
FOREIGN_REMEDIES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("retry", "retries", "max_retries", "num_retries", "max_attempts"), RETRY_REMEDY),
    **dict.fromkeys(("timeout", "request_timeout", "timeout_s"), "pass Hub(timeout=llmhub.Timeout(...))"),
    **dict.fromkeys(("api_key", "base_url", "api_base", "organization"), ENDPOINT_REMEDY),
    **dict.fromkeys(("rpm", "tpm", "requests_per_minute", "tokens_per_minute", "rate_limit"),
                    "pass Hub(limits={'provider': llmhub.Limit(rpm=..., tpm=...)})"),
    **dict.fromkeys(("fallbacks", "fallback"), "pass Hub(route=llmhub.Failover(...))"),
    "prompt": "it is the first argument",
    "logit_bias": "pass extra={'logit_bias': ...}",
}  # fmt: skip
"""Options of other libraries that are set elsewhere in llmhub, and how."""


def mode_columns(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the further result columns of a call with these options: ``mode`` if rows are sent in batches.

    Examples
    --------
    >>> mode_columns({"mode": "batch"}), mode_columns({})
    (('mode',), ())
    """
    return ("mode",) if options.get("mode") == "batch" else ()


def tool_loop(options: dict[str, Any]) -> ToolLoop | None:
    """Take the options of tools that run out of a call's options, and set its tools as they are sent.

    Raises
    ------
    BadRequestError
        A tool is none, or ``max_turns`` is not a positive integer.
    """
    max_turns, executor = options.pop("max_turns", None), options.pop("tool_executor", None)
    if options.get("tools") is None:
        return None
    options["tools"], functions = split_tools(options["tools"])
    if not functions:
        return None
    return ToolLoop(functions, MAX_TURNS if max_turns is None else positive_int("max_turns", max_turns), executor)


def unknown_option(name: str, known: Iterable[str]) -> BadRequestError:
    """Return the exception for an option that does not exist, with the one that was meant, if it is clear."""
    names = {*known, "model", "hub"} - INTERNAL_OPTIONS
    snake = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
    meant = FOREIGN_OPTIONS.get(snake, snake)
    if meant in names or "(" in meant:
        return invalid(name, f"no such option; did you mean {meant}?")
    if snake in FOREIGN_REMEDIES:
        return invalid(name, f"no such option; {FOREIGN_REMEDIES[snake]}")
    near = difflib.get_close_matches(snake, sorted(names), n=1)
    if near:
        return invalid(name, f"no such option; did you mean {near[0]}?")
    return invalid(name, f"no such option; the options are {', '.join(sorted(names))}")


def request_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a `CompletionRequest` that options set; ``response_schema`` is converted to a `Schema`."""
    optional = {"extra", "stop", "tools"}  # their defaults are empty, and None means the default
    values = {
        name: value
        for name, value in options.items()
        if name != "system" and (value is not None or name not in optional)
    }
    if values.get("response_schema") is not None:
        values["response_schema"] = unwrap_or_raise(schema_of(values["response_schema"]))
    return values


def single_schema(options: dict[str, Any]) -> Any:
    """Take ``schema`` out of a single call's options, set it as the response schema, and return the type to parse.

    ``response_schema`` is accepted as another name of it.
    """
    schema = options.pop("schema", None)
    if schema is None:
        return options.get("response_schema")
    if options.get("response_schema") is not None:
        raise invalid("schema", "schema= and response_schema= are the same; pass one of them")
    options["response_schema"] = schema
    return schema


def example_messages(examples: Any, prompt: Any = None) -> tuple[Message, ...]:
    """Return few-shot examples as turns of user and assistant.

    Parameters
    ----------
    examples
        Pairs of input and output; mappings with ``input`` and ``output``, or with ``output`` and the columns of the
        template; or a frame with these columns. Outputs other than text are sent as JSON.
    prompt
        Template of the run, which renders examples that have its columns.
    """
    if examples is None:
        return ()
    turns: list[Message] = []
    for index, example in enumerate(_example_rows(examples)):
        path = f"examples[{index}]"
        if isinstance(example, Mapping):
            if "output" not in example:
                raise invalid(path, f"has no 'output'; its keys are {', '.join(map(str, example)) or 'none'}")
            output = example["output"]
            question = example["input"] if "input" in example else _render_example(prompt, example, path)
        elif isinstance(example, (list, tuple)) and len(example) == 2:  # noqa: PLR2004 - a pair
            question, output = example
        else:
            raise invalid(path, f"expected a pair (input, output) or a mapping with both, not {example!r:.80}")
        text = output if isinstance(output, str) else json.dumps(_plain(output), ensure_ascii=False)
        turns += [Message("user", str(question)), Message("assistant", text)]
    return tuple(turns)


def _example_rows(examples: Any) -> Iterable[Any]:
    if isinstance(examples, str) or not (hasattr(examples, "__iter__") or hasattr(examples, "__arrow_c_stream__")):
        raise invalid("examples", f"expected pairs (input, output), mappings or a frame, not {examples!r:.80}")
    if isinstance(examples, Mapping) or hasattr(examples, "__arrow_c_stream__") or hasattr(examples, "columns"):
        from llmhub.tables import frames  # noqa: PLC0415 - imports Arrow
        from llmhub.tables.rows import FrameColumns  # noqa: PLC0415 - as above

        columns = FrameColumns(frames.pandas_or_arrow(examples))
        values = [columns.column(name, "examples") for name in columns.names]
        return [dict(zip(columns.names, row, strict=True)) for row in zip(*values, strict=True)]
    given: Iterable[Any] = examples
    return given


def _render_example(prompt: Any, example: Mapping[Any, Any], path: str) -> str:
    """Render the template of a run for an example that has the template's columns."""
    from llmhub.tables.templates import parse_template  # noqa: PLC0415 - only for such examples

    if not isinstance(prompt, str):
        raise invalid(path, "has no 'input'; pass pairs (input, output) or mappings with 'input' and 'output'")
    template = parse_template(prompt)
    missing = [name for name in template.fields if name not in example]
    if missing or not template.fields:
        raise invalid(path, f"has neither 'input' nor the columns of the prompt ({', '.join(missing) or 'none'})")
    return template.render(tuple(example[name] for name in template.fields))


def _plain(value: Any) -> Any:
    """Return a model instance or dataclass as plain values for JSON."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item() if hasattr(value, "item") else value


def system_messages(options: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the system message of ``system=``, if there is one."""
    return (Message("system", options["system"]),) if options.get("system") else ()


def resolve_concurrency(hub: Hub, options: RunOptions) -> int:
    """Return the maximum number of calls in flight.

    Raises
    ------
    BadRequestError
        It exceeds the connection pool of the hub.
    """
    concurrency = options.concurrency
    if concurrency is not None and not 1 <= concurrency <= hub.pool_size:
        raise invalid(
            "concurrency",
            f"must be between 1 and {hub.pool_size}, the size of the connection pool, not {concurrency}; "
            "pass Hub(pool_size=...) for more",
        )
    return concurrency or hub.concurrency


def positive_int(name: str, value: Any) -> int:
    """Convert an integer of any library, such as ``numpy.int64``, to ``int``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise invalid(name, f"must be an integer of 1 or more, not {value!r}")
    return int(value)


def budgets_for(
    hub: Hub,
    targets: Iterable[Target],
    budget_usd: float | Decimal | SharedBudget | None,
    *,
    allow_unpriced: bool,
    caller: Budgets | None = None,
) -> Budgets | None:
    """Return the budgets that apply to a call, or ``None`` if there are none.

    Parameters
    ----------
    hub
        Its own budget applies as well.
    targets
        Every model that may answer. Their prices are looked up now, because the first look-up loads the price table.
    budget_usd
        US dollars, or a `SharedBudget` that several calls spend together.
    allow_unpriced
        Whether models without a known price may be called; they do not count towards the budgets.
    caller
        Budgets of the caller that the hub works for, which apply as well.

    Raises
    ------
    BadRequestError
        ``budget_usd`` is not an amount; or a model has no known price, and ``allow_unpriced`` is false.
    """
    own = () if budget_usd is None else (as_shared_budget(budget_usd),)
    own_of_hub = hub.runtime.shared_budget
    shared: tuple[SharedBudget, ...] = () if own_of_hub is None else (own_of_hub,)
    allowed = allow_unpriced or hub.allow_unpriced or not (own or shared)
    if caller is not None and caller.shared:
        shared += tuple(budget for budget in caller.shared if budget not in shared)
        allowed = allowed and caller.allow_unpriced
    has_budget = bool(own or shared)
    if not has_budget and not any(route.needs_prices for route in hub.resolver.routes.values()):
        return None
    prices = TargetPrices(time.time)
    for target in targets:
        if prices.lookup(target) is None and not allowed:
            is_in_credits = unpriced_id(target.provider.name) is not None
            reason = "is billed in credits, not in USD" if is_in_credits else "has no known price"
            raise invalid(
                "model",
                f"{target.name!r} {reason}, so a budget cannot include it; "
                "pass allow_unpriced=True to call it without counting its cost, or omit budget_usd",
            )
    return Budgets(own + shared, allowed) if has_budget else None


def budget_text(budget_usd: float | Decimal | SharedBudget) -> str:
    """Return the limit of a budget as a decimal number of US dollars.

    Examples
    --------
    >>> budget_text(0.25)
    '0.25'
    """
    return f"{as_shared_budget(budget_usd).budget.limit_usd.normalize():f}"


def as_shared_budget(budget_usd: float | Decimal | SharedBudget) -> SharedBudget:
    """Return a budget that several calls can spend together."""
    return budget_usd if isinstance(budget_usd, SharedBudget) else SharedBudget(parse_budget(budget_usd))
