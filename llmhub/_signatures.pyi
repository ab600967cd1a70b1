"""All options, for editors and type checkers; written by ``python -m tests.typing.write_signatures``."""

import typing
from collections.abc import AsyncIterator as AsyncIterator
from collections.abc import Callable as Callable
from collections.abc import Iterable as Iterable
from collections.abc import Iterator as Iterator
from collections.abc import Mapping as Mapping
from collections.abc import Sequence as Sequence
from concurrent.futures import Executor as Executor
from datetime import timedelta as timedelta
from decimal import Decimal as Decimal
from llmhub.api._completion import Completion as Completion
from llmhub.api.jobs import Job as Job
from llmhub.api.options import Messages as Messages
from llmhub.api.options import Models as Models
from llmhub.api.options import Prompt as Prompt
from llmhub.api.options import TablePrompt as TablePrompt
from llmhub.api.reranking import RankedText as RankedText
from llmhub.api.sink import Written as Written
from llmhub.cache.modes import CacheMode as CacheMode
from llmhub.cache.modes import Mode as Mode
from llmhub.core.embedding import TextKind as TextKind
from llmhub.core.errors import LLMError as LLMError
from llmhub.core.types import CompletionRequest as CompletionRequest
from llmhub.core.types import JSON as JSON
from llmhub.core.types import Schema as Schema
from llmhub.core.types import StreamChunk as StreamChunk
from llmhub.core.types import Tool as Tool
from llmhub.engine.batch_policy import LatePolicy as LatePolicy
from llmhub.engine.call import SendMode as SendMode
from llmhub.engine.decision_log import Decision as Decision
from llmhub.evals._compare import NameOrNames as NameOrNames
from llmhub.evals._evaluate import Evaluation as Evaluation
from llmhub.evals.comparison import Comparison as Comparison
from llmhub.evals.comparison import PairedTest as PairedTest
from llmhub.evals.judge import ScorerOrJudge as ScorerOrJudge
from llmhub.evals.scoring import FailurePolicy as FailurePolicy
from llmhub.evals.tasks import Task as Task
from llmhub.hub import Hub as Hub
from llmhub.notebook.show import ResultsView as ResultsView
from llmhub.plots.ridgeline import TokenKind as TokenKind
from llmhub.plots.tradeoff import ScoreSource as ScoreSource
from llmhub.progress.display import ProgressCallback as ProgressCallback
from llmhub.tables.embedding_plan import EmbeddingPlan as EmbeddingPlan
from llmhub.tables.embeddings import EmbeddingColumns as EmbeddingColumns
from llmhub.tables.embeddings import FloatMatrix as FloatMatrix
from llmhub.tables.pandas_types import DtypeBackend as DtypeBackend
from llmhub.tables.plan import Plan as Plan
from llmhub.tables.result_frames import ResultColumns as ResultColumns
from llmhub.tables.rows import Row as Row
from matplotlib.axes import Axes as Axes
from pathlib import Path as Path
from returns.result import Result as Result
from typing import Any as Any
from typing import Literal as Literal
import duckdb as duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

F = typing.TypeVar("F")
S = typing.TypeVar("S")

async def acomplete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | None = None,
    images: Any = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
) -> Completion:
    """Send a prompt and await the response (see `complete`). Cancelling the task cancels the call.

    Parameters
    ----------
    system : str | None
        System message; for rows, a template, the name of a column or a function of the row.
    images : Any
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    """

@typing.overload
async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> pa.Table:
    """Send a prompt for every row of a frame, awaited (see `complete_table`).

    Parameters
    ----------
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.
    """
@typing.overload
async def acomplete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> Written:
    """Send a prompt for every row of a frame, awaited (see `complete_table`).

    Parameters
    ----------
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.
    """

async def aembed(
    text: str | Sequence[str],
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector of a text, or the matrix of several, awaited (see `embed`).

    Parameters
    ----------
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    """

async def aembed_table(
    frame: Any,
    prompt: str,
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> pa.Table:
    """Embed a text for every row of a frame, awaited (see `embed_table`).

    Parameters
    ----------
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    """

def astream(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | None = None,
    images: Any = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
) -> AsyncIterator[StreamChunk]:
    """Send a prompt and yield the response in chunks, awaited (see `stream`).

    Parameters
    ----------
    system : str | None
        System message; for rows, a template, the name of a column or a function of the row.
    images : Any
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    """

def compare(
    frame: Any,
    prompt: str | None = None,
    *,
    model: NameOrNames = (),
    scorers: ScorerOrJudge | Sequence[ScorerOrJudge] = (),
    hub: Hub | None = None,
    target: str | None = None,
    scores: NameOrNames = (),
    response: str | None = None,
    group: str | None = None,
    baseline: str | None = None,
    failures: FailurePolicy = 'wrong',
    level: float = 0.95,
    power: float = 0.8,
    resamples: int = 10000,
    random_state: int = 0,
    test: PairedTest = 'studentised',
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> Comparison:
    """Send the same rows to every model, score the responses, and estimate the differences between models.

    Rows are sent in a random order given by ``random_state``, each to all models in turn, so that the time of day
    favours no model; results keep the order of the frame. Cached responses are excluded from latencies.

    Parameters
    ----------
    frame
        Input rows, as for `complete_table`. Without a prompt: a finished frame of results, or a table of scores with
        one column for each of these models. Of a classified or extracted frame the labels or fields are scored.
    prompt
        Prompt template over the columns.
    model
        Names of the models, as ``provider/model``.
    scorers
        `Scorer` and `Judge` values; models are ranked by the first.
    hub
        Hub that models and judges are called through; the default hub if ``None``.
    target : str | None
        Column with the reference answer, for scorers that do not name one.
    scores : NameOrNames
        Columns of a finished table that hold scores, instead of ``scorers``.
    response : str | None
        Column of a finished table with the answers to score, if it is not found by itself.
    group : str | None
        Column whose equal values form one cluster, such as the paragraph that several questions are about.
    baseline : str | None
        Model that the others are compared with, instead of every pair.
    failures : FailurePolicy
        ``"wrong"`` to count a failed row as the worst score, or ``"left_out"``.
    level : float
        Confidence level of intervals and tests.
    power : float
        Power that minimum detectable effects and ``rows_needed`` are for.
    resamples : int
        Number of resamples of bootstrap intervals and permutation tests.
    random_state : int
        Seed of our own random numbers: the order of calls, and resamples.
    test : PairedTest
        Test of graded or clustered scores: ``"studentised"``, ``"permutation"`` or ``"wilcoxon"``.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.

    Returns
    -------
    Comparison
        Metrics of each model and the difference of each pair, as Arrow tables.

    Raises
    ------
    BadRequestError
        An argument is missing, duplicated or out of range; raised before anything is sent.

    Examples
    --------
    >>> comparison = compare({"small": [1, 0, 1, 1], "large": [1, 1, 1, 1]}, model=["small", "large"])
    >>> comparison.pairs.column("difference").to_pylist(), comparison.pairs.column("significant").to_pylist()
    ([-0.25], [False])
    """

def complete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | None = None,
    images: Any = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
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
    system : str | None
        System message; for rows, a template, the name of a column or a function of the row.
    images : Any
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.

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

def complete_parallel(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    n_jobs: int = -1,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> pa.Table:
    """Send a prompt for every row of a frame from several processes, if one core is the bottleneck.

    Parameters
    ----------
    frame, prompt, model, hub
        See `complete_table`. ``progress`` is not shown, and ``on_error="raise"`` raises for the first part that fails.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    n_jobs
        Number of processes as in joblib: -1 for one per core. ``joblib.parallel_config(backend=...)`` decides where
        they run (loky, dask, ray, spark). ``concurrency`` applies to each process. ``limits`` and responses are shared
        through the cache; without one, limits apply to each process. Budgets apply to all processes together, and
        ``hub.spending()`` includes what they have spent: loky, multiprocessing and threads reserve each call in this
        process; with other backends, each part of the frame gets a share of what is left.

    Raises
    ------
    ConnectorError
        As in `complete_table`. The ``table`` of any exception has the results of all parts that have ended.
    """

def complete_record_batches(
    batches: Iterable[pa.RecordBatch],
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    keep: Sequence[str] = (),
    partition: int = 0,
    plain: bool = False,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Send a prompt for every row of each record batch, and yield its results as record batches, in order.

    A few batches are in memory at a time: the next one begins when fewer rows are left than twice ``concurrency``.
    ``row`` counts on from batch to batch, and ``budget_usd`` applies to all batches together. Progress is shown only
    with ``progress=True``, and then for one batch after the other.

    Parameters
    ----------
    batches
        Record batches, or any frames with the same columns.
    prompt, model, hub
        See `complete_table`.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.
    keep
        Names of columns to put before those of the results, such as an id to join on.
    partition
        Number of this partition, if the batches are one of several: ``row`` begins at ``partition * 2**33``, so that it
        is unique over all of them.
    plain
        Return only types that every engine knows: strings in place of dictionaries, binaries of any size.

    Raises
    ------
    BadRequestError
        As in `complete_table`; or a column to keep does not exist, or has the name of a result column. Nothing is sent
        for its batch.
    """

@typing.overload
def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> pa.Table:
    """Send a prompt for every row of a frame to every model, and return the results as one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    prompt
        A template over the columns, such as ``"Summarise: {text}"``, or a function that takes a row and returns text,
        a conversation, or ``None`` to skip the row. A row that lacks a value the prompt uses is skipped.
    model
        ``provider/model``, or several.
    hub
        The hub to use; the default hub if omitted.
    sink
        Write results as they arrive instead of returning a table, holding a few thousand rows in memory: a folder for
        Parquet files (or its URL, such as ``s3://bucket/answers``), or a file name that ends in ``.arrows`` for an
        Arrow stream. ``frame`` may then also be a path, a URL, a pattern such as ``data/*.parquet``, a dataset, a
        ``RecordBatchReader`` or an iterable of batches. Repeating the call continues a stopped run.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order; with ``sink``, a
        `Written` that summarises the run.

    Raises
    ------
    BadRequestError
        Before anything is sent: the prompt names a column that does not exist, a model has no provider, or an option
        is out of range. A cell that cannot be sent, such as a missing image file, is an error of its own row.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    BaseException
        Any other exception that ends a run, warnings that are errors included, has the results so far in ``table``.
    """
@typing.overload
def complete_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    sink: str | Path,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> Written:
    """Send a prompt for every row of a frame to every model, and return the results as one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    prompt
        A template over the columns, such as ``"Summarise: {text}"``, or a function that takes a row and returns text,
        a conversation, or ``None`` to skip the row. A row that lacks a value the prompt uses is skipped.
    model
        ``provider/model``, or several.
    hub
        The hub to use; the default hub if omitted.
    sink
        Write results as they arrive instead of returning a table, holding a few thousand rows in memory: a folder for
        Parquet files (or its URL, such as ``s3://bucket/answers``), or a file name that ends in ``.arrows`` for an
        Arrow stream. ``frame`` may then also be a path, a URL, a pattern such as ``data/*.parquet``, a dataset, a
        ``RecordBatchReader`` or an iterable of batches. Repeating the call continues a stopped run.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.

    Returns
    -------
    pyarrow.Table
        ``rows x models x n`` rows with the schema `llmhub.tables.schema.RESULTS`, in input order; with ``sink``, a
        `Written` that summarises the run.

    Raises
    ------
    BadRequestError
        Before anything is sent: the prompt names a column that does not exist, a model has no provider, or an option
        is out of range. A cell that cannot be sent, such as a missing image file, is an error of its own row.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    BaseException
        Any other exception that ends a run, warnings that are errors included, has the results so far in ``table``.
    """

def duckdb_functions(
    con: duckdb.DuckDBPyConnection | None = None,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> duckdb.DuckDBPyConnection:
    """Register SQL functions that send prompts on a DuckDB connection.

    ``llm_complete(prompt)`` returns the response, ``llm_classify(prompt, labels)`` one of a list of labels,
    ``llm_extract(prompt, schema)`` the fields of a JSON schema as JSON text, ``llm_result(prompt)`` a struct with
    response, status, error, cost, latency and tokens, ``llm_embed(text)`` a vector (``FLOAT[]``; cast it to
    ``FLOAT[1536]`` for functions of arrays), and ``llm_count_tokens(text)`` a number of tokens. All take
    ``model := '...'``, and the first four ``system := '...'``. NULL gives NULL, as does a call that failed.

    Parameters
    ----------
    con
        The connection; DuckDB's default connection if omitted.
    model
        ``provider/model`` of calls that name none.
    hub
        The hub to use; the default hub if omitted.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Returns
    -------
    duckdb.DuckDBPyConnection
        The connection.

    Raises
    ------
    BadRequestError
        An option is wrong, the hub does not know the model, or DuckDB is not installed.

    Examples
    --------
    >>> import duckdb
    >>> con = llmhub.duckdb_functions(duckdb.connect(), model="openai/gpt-4o-mini")       # doctest: +SKIP
    >>> con.sql("SELECT llm_complete('Summarise: ' || text) FROM articles").fetchall()    # doctest: +SKIP
    """

@typing.overload
def embed(
    text: str,
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the vector of a text, or the matrix of several, as float32.

    Parameters
    ----------
    text
        One text, or a list of them.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Returns
    -------
    numpy.ndarray
        Of shape ``(dimensions,)`` for a text, and ``(len(text), dimensions)`` for a list.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without embeddings.
    ConnectorError
        A text has no vector. The ``table`` of the exception has the vectors of the others.

    Examples
    --------
    >>> with llmhub.simulate():                                                      # doctest: +SKIP
    ...     llmhub.embed("A cat.", model="openai/text-embedding-3-small").shape
    (1536,)
    """
@typing.overload
def embed(
    text: list[str] | tuple[str, ...],
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> FloatMatrix:
    """Return the vector of a text, or the matrix of several, as float32.

    Parameters
    ----------
    text
        One text, or a list of them.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Returns
    -------
    numpy.ndarray
        Of shape ``(dimensions,)`` for a text, and ``(len(text), dimensions)`` for a list.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without embeddings.
    ConnectorError
        A text has no vector. The ``table`` of the exception has the vectors of the others.

    Examples
    --------
    >>> with llmhub.simulate():                                                      # doctest: +SKIP
    ...     llmhub.embed("A cat.", model="openai/text-embedding-3-small").shape
    (1536,)
    """

def embed_table(
    frame: Any,
    prompt: str,
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> pa.Table:
    """Embed a text for every row of a frame, and return the vectors and their costs as one Arrow table.

    Distinct texts are sent once, in requests of many, and stored in the cache one by one: the next run sends only those
    that are new. A text that the provider refuses is an error of its own rows.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    prompt
        The name of a column, or a template over the columns such as ``"{title}: {body}"``. A row that lacks a value is
        skipped.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Returns
    -------
    pyarrow.Table
        One row for each row of the frame, with the columns of `llmhub.tables.embeddings.COLUMNS`. ``embedding`` is a
        ``fixed_size_list<float>``; the costs of the rows of a request add up to its cost.

    Raises
    ------
    BadRequestError
        Before anything is sent: the prompt names a column that does not exist, the provider has no embeddings, or an
        option is out of range.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    """

def evaluate(
    dataset: Any,
    task: Task,
    model: NameOrNames,
    *,
    hub: Hub | None = None,
    response: str | None = None,
    group: str | None = None,
    baseline: str | None = None,
    failures: FailurePolicy = 'wrong',
    level: float = 0.95,
    power: float = 0.8,
    resamples: int = 10000,
    random_state: int = 0,
    test: PairedTest = 'studentised',
    k: Sequence[int] | None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    n_jobs: int = 1,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
    engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
) -> Evaluation:
    """Run a task with several models, score the responses and compare the models.

    Responses are cached by the hub: an interrupted evaluation continues where it stopped.

    Parameters
    ----------
    dataset
        A frame, as for `complete_table`; a dataset of the ``datasets`` library; or the path of a CSV, JSON lines,
        Parquet or Arrow file.
    task
        Prompt and scoring; `llmhub.evals.tasks` has common ones.
    model
        Names of the models, as ``provider/model``.
    hub
        Hub that models and judges are called through; the default hub if ``None``.
    response : str | None
        Column of a finished table with the answers to score, if it is not found by itself.
    group : str | None
        Column whose equal values form one cluster, such as the paragraph that several questions are about.
    baseline : str | None
        Model that the others are compared with, instead of every pair.
    failures : FailurePolicy
        ``"wrong"`` to count a failed row as the worst score, or ``"left_out"``.
    level : float
        Confidence level of intervals and tests.
    power : float
        Power that minimum detectable effects and ``rows_needed`` are for.
    resamples : int
        Number of resamples of bootstrap intervals and permutation tests.
    random_state : int
        Seed of our own random numbers: the order of calls, and resamples.
    test : PairedTest
        Test of graded or clustered scores: ``"studentised"``, ``"permutation"`` or ``"wilcoxon"``.
    k : Sequence[int] | None
        Values of pass@k if ``n`` is above 1; powers of two up to ``n`` if omitted.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    n_jobs : int
        Number of processes (see `complete_parallel`).
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
        ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.

    Raises
    ------
    BadRequestError
        An argument is missing or out of range; raised before anything is sent.
    """

def plan(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    pilot: int = 0,
    count_tokens: int = 0,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> Plan:
    """Estimate what `complete_table` would do: calls, cache hits, tokens, cost in US dollars, and duration.

    Nothing is sent and no credentials are needed, unless ``pilot`` or ``count_tokens`` is set. Estimates are 95 %
    prediction intervals.
    The length of responses is estimated from cached responses to requests of this run, or else from other cached
    responses of the model; without any, the interval is wide.

    Parameters
    ----------
    frame, prompt, model, hub
        As in `complete_table`.
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    pilot
        Number of rows per model to send first. They are chosen by hash: spread over the input, and the same in every
        call. Their responses are cached, so that the run does not send them again.
    count_tokens
        Number of rows per model whose input tokens the provider counts, chosen in the same way. The counts of all other
        rows are corrected by them. It costs nothing; Anthropic, Gemini, Vertex AI and Bedrock can do so.

    Returns
    -------
    Plan
        Prints as a table; ``plan.compare(results)`` compares it with the results of the run.

    Raises
    ------
    BadRequestError
        As in `complete_table`; or the responses of the pilot could not be cached.
    ConnectorError
        Every call of the pilot failed; this is the first error.
    """

def plan_embeddings(
    frame: Any,
    prompt: str,
    *,
    model: str,
    hub: Hub | None = None,
    dimensions: int | None = None,
    kind: TextKind | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> EmbeddingPlan:
    """Estimate what `embed_table` would do: requests, cached texts, tokens and cost in US dollars.

    Nothing is sent, and no credentials are needed.

    Parameters
    ----------
    frame, prompt, model, hub
        As in `embed_table`.
    dimensions : int | None
        Length of the vectors; the model's own by default.
    kind : TextKind | None
        ``"document"`` or ``"query"``, for models that embed them differently.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.
    """

def rerank(
    query: str,
    texts: Sequence[str],
    *,
    model: str,
    top_n: int | None = None,
    hub: Hub | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
) -> list[RankedText]:
    """Return texts by their relevance for a query, the most relevant first.

    Scores are cached one by one: with further texts, only those are sent.

    Parameters
    ----------
    query
        What the texts are to be relevant for.
    texts
        The texts.
    model
        ``provider/model``, such as ``cohere/rerank-v3.5``.
    top_n
        Number of texts to return; all if omitted.
    hub
        The hub to use; the default hub if omitted.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.

    Returns
    -------
    list of RankedText
        Index, score and text.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without reranking.
    ConnectorError
        A text has no score. The ``table`` of the exception has the scores of the others.

    Examples
    --------
    >>> with llmhub.simulate():                                                      # doctest: +SKIP
    ...     llmhub.rerank("boats", ["rain on roofs", "boats in the harbour"], model="cohere/rerank-v3.5")[0].index
    1
    """

def rerank_table(
    frame: Any,
    query: str,
    prompt: str,
    *,
    model: str,
    hub: Hub | None = None,
    batch_size: int | None = None,
    extra: Mapping[str, JSON] | None = None,
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
) -> pa.Table:
    """Score a text of every row of a frame for a query, and return scores, ranks and costs as one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    query
        What the texts are to be relevant for.
    prompt
        The name of a column, or a template over the columns such as ``"{title}: {body}"``. A row that lacks a value is
        skipped.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.
    batch_size : int | None
        Maximum texts of a request; fewer where the provider's limits are lower (256).
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.

    Returns
    -------
    pyarrow.Table
        One row for each row of the frame, in its order, with the columns of `embed_table`, but ``score`` and ``rank``
        in place of the vector.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without reranking.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    """

def stream(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | None = None,
    images: Any = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
) -> Iterator[StreamChunk]:
    """Send a prompt and yield the response in chunks. The last chunk has the whole ``response`` and its cost.

    Closing the iterator early closes the connection. A cached response is yielded in one piece.

    Parameters
    ----------
    system : str | None
        System message; for rows, a template, the name of a column or a function of the row.
    images : Any
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.

    Raises
    ------
    ConnectorError
        The call failed, possibly after some chunks.
    """

def stream_table(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> Iterator[pa.Table]:
    """Send a prompt for every row of a frame, and yield tables of one or more results as they arrive.

    See `complete_table` for the parameters. Rows that are not sent, such as skipped ones, come last. Closing the
    iterator early sends nothing more and cancels calls in flight.

    Parameters
    ----------
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Raises
    ------
    BadRequestError
        As in `complete_table`, by this call and not by the iterator.
    ConnectorError
        With ``on_error="raise"``, the first failure, when it arrives; calls in flight are cancelled.
    """

def submit(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    system: str | Callable[[Row], str | None] | None = None,
    messages: str | None = None,
    images: str | None = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
    concurrency: int | None = None,
    progress: bool | ProgressCallback | None = None,
    on_error: Literal['row', 'raise'] = 'row',
    stream: bool = False,
    mode: SendMode = 'live',
    late: LatePolicy = 'wait',
    deadline: float | str | timedelta | None = None,
    poll_s: float | None = None,
    batch_tokens: int | None = None,
    batch_storage: str | None = None,
    batch_role: str | None = None,
) -> Job[pa.Table]:
    """Start a run over the rows of a frame in the background, and return a handle at once.

    See `complete_table` for the parameters. In a notebook, the run's progress appears below the cell, with a stop
    button in kernels that support it; elsewhere progress is only shown with ``progress=True``. The run ends with the
    process.

    Parameters
    ----------
    system : str | Callable[[Row], str | None] | None
        System message; for rows, a template, the name of a column or a function of the row.
    messages : str | None
        Name of a column of conversations, which precede the prompt.
    images : str | None
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    n : int
        Responses per row.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    concurrency : int | None
        Maximum number of calls in flight.
    progress : bool | ProgressCallback | None
        Whether to show progress, or a function to call with it; by default where a person watches.
    on_error : Literal['row', 'raise']
        ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
    stream : bool
        Stream responses to measure the time to the first token.
    mode : SendMode
        ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
    late : LatePolicy
        Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
    deadline : float | str | timedelta | None
        When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
    poll_s : float | None
        Seconds between the first two polls of a batch; the time grows to five minutes (30).
    batch_tokens : int | None
        Estimated prompt tokens of one batch, at most.
    batch_storage : str | None
        Object storage (``s3://bucket/folder``), for providers that read batches from there.
    batch_role : str | None
        ARN of the role that may read and write the storage.

    Raises
    ------
    BadRequestError
        As in `complete_table`, by this call. All other errors are raised by `Job.result`.
    """

def try_complete(
    prompt: Prompt | None = None,
    *,
    messages: Messages | None = None,
    model: str | None = None,
    hub: Hub | None = None,
    system: str | None = None,
    images: Any = None,
    examples: Any = None,
    schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    seed: int | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
    max_turns: int | None = None,
    tool_executor: Executor | None = None,
    tool_choice: str | None = None,
    parallel_tool_calls: bool | None = None,
    logprobs: int | None = None,
    reasoning_effort: str | None = None,
    reasoning_budget: int | None = None,
    user: str | None = None,
    extra: Mapping[str, JSON] | None = None,
    unsupported: Literal['error', 'drop'] = 'error',
    budget_usd: float | Decimal | None = None,
    allow_unpriced: bool = False,
    cache: Mode | CacheMode | None = None,
) -> Result[Completion, LLMError]:
    """Send a prompt and return the outcome as a ``returns.result.Result`` (see `complete`). Never raises an error.

    Parameters
    ----------
    system : str | None
        System message; for rows, a template, the name of a column or a function of the row.
    images : Any
        Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
    examples : Any
        Few-shot examples: pairs of input and output, mappings with both, or a frame.
    schema : Schema | Mapping[str, JSON] | type[Any] | None
        Pydantic model, dataclass or JSON schema that responses must match.
    response_schema : Schema | Mapping[str, JSON] | type[Any] | None
        Schema to request; a single call parses it like ``schema``, rows are not checked against it.
    temperature : float | None
        Sampling temperature; 0 for the most likely tokens.
    top_p : float | None
        Sample from the most likely tokens whose probabilities add up to this.
    top_k : int | None
        Sample from this many of the most likely tokens.
    max_tokens : int | None
        Maximum tokens of a response, reasoning included.
    stop : str | Sequence[str]
        Text, or several, that ends a response.
    seed : int | None
        Seed of the model's sampling, where the provider supports one.
    presence_penalty : float | None
        Penalty for tokens that have occurred.
    frequency_penalty : float | None
        Penalty for tokens by how often they have occurred.
    tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
        Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
    max_turns : int | None
        Maximum responses of the model in one conversation with tools (5).
    tool_executor : Executor | None
        Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
    tool_choice : str | None
        ``auto``, ``none``, ``required``, or the name of a tool.
    parallel_tool_calls : bool | None
        Whether the model may call several tools at once.
    logprobs : int | None
        Return log probabilities, with this many alternatives per token.
    reasoning_effort : str | None
        How much a reasoning model thinks, such as ``low`` or ``high``.
    reasoning_budget : int | None
        Maximum tokens of reasoning.
    user : str | None
        Pseudonymous id of your end user, for providers that accept one.
    extra : Mapping[str, JSON] | None
        Fields of the provider's own API, merged into the payload last.
    unsupported : Literal['error', 'drop']
        ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
    budget_usd : float | Decimal | None
        Maximum cost in US dollars; calls that could exceed it are not sent.
    allow_unpriced : bool
        Whether models without a known price may be called in spite of a budget; they do not count.
    cache : Mode | CacheMode | None
        Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
    """

class PlotAccessor:
    """Plots of one frame of results: ``df.llm.plot.cost_by_model()``."""

    def __init__(
        self,
        frame: Any,
        prefix: str = '',
    ) -> None:
        ...

    def __call__(
        self,
        *,
        prefix: str,
    ) -> PlotAccessor:
        """Return the plots of result columns whose names begin with ``prefix``."""

    def cost_against_latency(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot the list price of a thousand answers of each model over its median latency, with the Pareto front.

        A filled point is on the Pareto front: no other model is both cheaper and faster. Models without a known price or
        without a call of their own are counted in the subtitle.

        Parameters and errors are those of `cost_by_model`.
        """

    def cost_against_quality(
        self,
        ax: Axes | None = None,
        *,
        score: ScoreSource = 'score',
    ) -> Axes:
        """Plot the mean score of each model over the list price of a thousand answers, with the Pareto front.

        Parameters
        ----------
        table
            Results in any kind of frame, compact or with all columns.
        ax
            Axes to draw on; those of a new figure if omitted.
        score
            Name of a column of scores (numbers or booleans; null is left out), or a score for each ``provider/model``.
            Higher is better.

        Notes
        -----
        A filled point is on the Pareto front: no other model is both cheaper and better. Models without a known price or
        without a score are counted in the subtitle.

        Raises
        ------
        BadRequestError
            ``table`` is not a frame of results, or lacks the column of scores.
        """

    def cost_by_model(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot the billed cost of each model, in front of its cost at list prices without the cache.

        An unknown price is written out, not drawn as zero.

        Parameters
        ----------
        table
            Results in any kind of frame, compact or with all columns.
        ax
            Axes to draw on; those of a new figure if omitted.

        Raises
        ------
        BadRequestError
            ``table`` is not a frame of results, or lacks a column that the plot needs.
        """

    def latency_ecdf(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot the share of each model's calls that were answered within a time.

        Cache hits are left out; failures are counted in the legend. The median and the 95th and 99th percentile are marked;
        each is the latency of an actual call. Curves have at most 2,000 points, but the percentiles are exact.

        Parameters and errors are those of `cost_by_model`.
        """

    def throughput(
        self,
        ax: Axes | None = None,
        *,
        limits_rpm: Mapping[str, float] | None = None,
        decisions: Iterable[Decision] = (),
    ) -> Axes:
        """Plot the answers per second of each model over the time of the run.

        Parameters
        ----------
        table
            Results in any kind of frame with the columns of the times of a call (``columns="all"``).
        ax
            Axes to draw on; those of a new figure if omitted.
        limits_rpm
            Permitted requests per minute by model (``provider/model``), drawn as dashed lines.
        decisions
            Decisions of the engine (``hub.decisions()``), which add the 429 responses that were retried.

        Notes
        -----
        Models have separate ridges on one scale, which the axis at their left shows. Limits are drawn in the same unit,
        answers per second; they hold for a minute, so that the answers of a short time may exceed them. Cache hits are not
        drawn but counted in the subtitle. Ticks below a ridge are calls that were rejected with HTTP 429.

        Raises
        ------
        BadRequestError
            ``table`` is not a frame of results, or lacks a column that the plot needs.
        """

    def timeline(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot each call as a horizontal line, divided into queue, rate limit, earlier attempts, and provider.

        Parameters and errors are those of `cost_by_model`.

        Notes
        -----
        Each model has a band of its own, with its calls in the order in which they were sent, the first at the top. Of more
        calls than can be told apart every n-th is drawn, which the subtitle says. A failed call ends in a cross. Cache hits
        are not drawn. The waits of a call that was sent several times are drawn before its first attempt, but not before
        the start of the run.
        """

    def token_histogram(
        self,
        ax: Axes | None = None,
        *,
        kind: TokenKind = 'output',
    ) -> Axes:
        """Plot the distribution of token counts for each model.

        Parameters
        ----------
        table
            Results in any kind of frame, compact or with all columns.
        ax
            Axes to draw on; those of a new figure if omitted.
        kind
            ``"output"`` (including reasoning), ``"input"`` (including cached tokens) or ``"reasoning"``.

        Notes
        -----
        Cached answers are included, because the length is a property of the answer. The tick below a ridge is the median.
        Each ridge is scaled to its own maximum, so heights of different models cannot be compared.

        Raises
        ------
        BadRequestError
            ``table`` is not a frame of results, or lacks a column that the plot needs.
        ValueError
            ``kind`` is unknown.
        """

    def tokens_by_model(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot the tokens of each model: cached and other input, output and reasoning.

        Parameters and errors are those of `cost_by_model`.
        """

    def ttft_ecdf(
        self,
        ax: Axes | None = None,
    ) -> Axes:
        """Plot the share of each model's streamed calls that had a first token within a time (see `latency_ecdf`)."""

class ExprAccessor:
    """Accessor ``expr.llm`` of a polars expression of texts, or of structs whose fields a template names."""

    def __init__(
        self,
        expr: pl.Expr,
    ) -> None:
        ...

    def complete(
        self,
        prompt: str = '',
        *,
        model: str,
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> pl.Expr:
        """Send a prompt for every value, and return the responses, null where there is none.

        Parameters
        ----------
        prompt
            Instructions; the value replaces ``{}``, or follows after an empty line. Of a struct, a template over its
            fields: ``pl.struct("title", "text").llm.complete("{title}: {text}", ...)``.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        polars.Expr
            Texts; with ``schema=``, structs of typed fields.
        """

    def classify(
        self,
        prompt: str = '',
        *,
        labels: Any,
        model: str,
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> pl.Expr:
        """Send a prompt for every value, and return one of several labels for each.

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        polars.Expr
            Labels, null where there is none.
        """

    def extract(
        self,
        prompt: str = '',
        *,
        schema: Any,
        model: str,
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> pl.Expr:
        """Send a prompt for every value, and return the fields of its structured output as structs.

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        schema
            A pydantic model, a dataclass or a JSON schema.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        polars.Expr
            Structs, null without an answer; ``.struct.unnest()`` makes columns of their fields.
        """

    def embed(
        self,
        *,
        model: str,
        hub: Hub | None = None,
        dimensions: int | None = None,
        kind: TextKind | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, JSON] | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> pl.Expr:
        """Embed every value, and return the vectors, null where there is none.

        Parameters
        ----------
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        dimensions : int | None
            Length of the vectors; the model's own by default.
        kind : TextKind | None
            ``"document"`` or ``"query"``, for models that embed them differently.
        batch_size : int | None
            Maximum texts of a request; fewer where the provider's limits are lower (256).
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        polars.Expr
            An ``Array`` with ``dimensions=``, because polars has to know the type beforehand; a ``List`` without it.
        """

class SeriesAccessor(typing.Generic[S]):
    """Accessor ``series.llm`` of a series of texts."""

    def __init__(
        self,
        values: Any,
    ) -> None:
        ...

    def complete(
        self,
        prompt: str = '',
        *,
        model: str,
        hub: Hub | None = None,
        dtype_backend: DtypeBackend | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> S:
        """Send a prompt for every value, and return the responses as a series, null where there is none.

        Parameters
        ----------
        prompt
            Instructions; the value replaces ``{}``, or follows after an empty line.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        dtype_backend
            Type of the strings in a pandas Series, as in `FrameAccessor.complete`.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        series of the same kind
            Texts with the same index and name; with ``schema=``, structs of typed fields.
        """

    def embed(
        self,
        *,
        model: str,
        hub: Hub | None = None,
        dtype_backend: DtypeBackend | None = None,
        dimensions: int | None = None,
        kind: TextKind | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, JSON] | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> Any:
        """Embed every value, and return the vectors as a series, null where there is none.

        Parameters
        ----------
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        dtype_backend
            ``"pyarrow"`` for fixed-size lists in a pandas Series.
        dimensions : int | None
            Length of the vectors; the model's own by default.
        kind : TextKind | None
            ``"document"`` or ``"query"``, for models that embed them differently.
        batch_size : int | None
            Maximum texts of a request; fewer where the provider's limits are lower (256).
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        series of the same kind
            In pandas, float32 arrays that share one matrix, which `llmhub.matrix` returns; in polars an ``Array``; in
            Arrow a fixed-size list. See `llmhub.embed_table` for errors and costs.
        """

    def classify(
        self,
        prompt: str = '',
        *,
        labels: Any,
        model: str,
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> S:
        """Send a prompt for every value, and return one of several labels for each (see `FrameAccessor.classify`).

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.

        Returns
        -------
        series of the same kind
            Labels with the same index and name, null where there is none.
        """

    def extract(
        self,
        prompt: str = '',
        *,
        schema: Any,
        model: str,
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> Any:
        """Send a prompt for every value, and return the fields of its structured output as a frame.

        Parameters
        ----------
        prompt, model, hub
            As in `complete`.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        schema
            A pydantic model, a dataclass or a JSON schema.

        Returns
        -------
        frame of the same kind
            A typed column per field, with the index of the series; null without an answer (see `FrameAccessor.extract`
            for errors and costs).
        """

    def map(
        self,
        function: Callable[[Any], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
    ) -> S:
        """Call a function for every value; send the requests it returns, or return its values as a series.

        Parameters
        ----------
        function
            Takes a value; missing values are skipped. It may be a coroutine function, and it may block.
        model, hub
            As in `FrameAccessor.map`.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.

        Returns
        -------
        series of the same kind
            The values, or for requests the texts of the responses.
        """

    def count_tokens(
        self,
        *,
        model: str,
        n_jobs: int = 1,
        memory: Any = None,
    ) -> Any:
        """Count the tokens of each text (see `FrameAccessor.count_tokens`)."""

class FrameAccessor(typing.Generic[F]):
    """Accessor ``df.llm`` of a frame. Methods return frames of the same kind."""

    def __init__(
        self,
        frame: F,
    ) -> None:
        ...

    @property
    def plot(
        self,
    ) -> PlotAccessor:
        """Plots of a frame of results, such as ``df.llm.plot.cost_by_model()`` (see `llmhub.plots`)."""

    def complete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        n_jobs: int = 1,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
        engine: Literal['ray', 'spark', 'dask', 'joblib'] | None = None,
    ) -> F:
        """Send a prompt for every row to every model, and return the frame with result columns.

        Parameters
        ----------
        prompt
            A template over the columns, such as ``"Summarise: {text}"``, or a function that takes a row and returns
            text, a conversation, or ``None`` to skip the row.
        model
            ``provider/model``, or several: the result then has one row per input row and model (see `wide`).
        hub
            The hub to use; the default hub if omitted.
        columns
            Result columns: ``"compact"`` for provider, model, response, status, error, cost, latency, tokens and
            cache hit, and for what the call asks for (``row`` with several models, ``sample`` with ``n``, ``parsed``
            with ``schema``, ``ttft_s`` with ``stream``); ``"all"`` for every column of `complete_table`; or the names
            of columns besides the compact ones.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame, as in the readers of pandas.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        n_jobs : int
            Number of processes (see `complete_parallel`).
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        engine : Literal['ray', 'spark', 'dask', 'joblib'] | None
            ``"ray"``, ``"spark"``, ``"dask"`` or ``"joblib"``, whose workers send the rows.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and the result columns. In pandas they have its own types: categories
            for names, floats for costs and times. A row that lacks a value the prompt uses is not sent; its ``status``
            is ``skipped``. A LazyFrame is collected when it is sent.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """

    async def acomplete(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> F:
        """Send a prompt for every row, awaited (see `complete`).

        Parameters
        ----------
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        """

    def submit(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> Job[F]:
        """Start a run in the background, and return a handle at once (see `llmhub.submit`).

        Parameters
        ----------
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        Job
            ``result()`` returns the frame that `complete` returns; ``table()`` its rows so far; ``stop()`` stops it.
        """

    def stream(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> Iterator[Any]:
        """Send a prompt for every row, and yield each row of the result as it arrives (see `complete`).

        A row of a pandas frame is a Series named by its index label; of any other frame, a dict. Each has ``row``, the
        position of its input row. Closing the iterator early sends nothing more.

        Parameters
        ----------
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        """

    def chat(
        self,
        prompt: str | None = None,
        *,
        model: str,
        messages: str = 'messages',
        hub: Hub | None = None,
        system: str | Callable[[Row], str | None] | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> F:
        """Continue the conversation of every row, and return the frame with the new turns in its column.

        Parameters
        ----------
        prompt
            Template of the user's next message; without it, the model answers the conversation as it is.
        model
            ``provider/model``.
        messages
            Name of the column of conversations; a column that does not exist begins new ones.
        hub
            The hub to use; the default hub if omitted.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        frame of the same kind
            The frame with the column of conversations, each a list of mappings with ``role`` and ``content``. A row
            whose call failed keeps its conversation.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or several models.

        Warns
        -----
        RuntimeWarning
            Calls of some rows failed.
        """

    @typing.overload
    def map(
        self,
        function: Callable[[Row], CompletionRequest | None],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
    ) -> F:
        """Call a function for every row; send the requests it returns, or return its values as a series.

        Parameters
        ----------
        function
            Takes a row. ``row["text"]`` and ``row.text`` skip the row if the value is missing; ``row.get("text")`` does
            not. It may be a coroutine function, and it may block, for example in `llmhub.complete`.
        model
            ``provider/model`` for requests without a model.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.

        Returns
        -------
        frame or series of the same kind
            If the function returns `CompletionRequest` objects, the frame with result columns as from `complete`;
            otherwise the values with the index of the frame.
        """
    @typing.overload
    def map(
        self,
        function: Callable[[Row], Any],
        *,
        model: str | None = None,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
    ) -> Any:
        """Call a function for every row; send the requests it returns, or return its values as a series.

        Parameters
        ----------
        function
            Takes a row. ``row["text"]`` and ``row.text`` skip the row if the value is missing; ``row.get("text")`` does
            not. It may be a coroutine function, and it may block, for example in `llmhub.complete`.
        model
            ``provider/model`` for requests without a model.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.

        Returns
        -------
        frame or series of the same kind
            If the function returns `CompletionRequest` objects, the frame with result columns as from `complete`;
            otherwise the values with the index of the frame.
        """

    def extract(
        self,
        prompt: TablePrompt | None = None,
        *,
        schema: Any,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        field_prefix: str = '',
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        n_jobs: int = 1,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> F:
        """Send a prompt for every row, and return the fields of its structured output as typed columns.

        Parameters
        ----------
        prompt, model, hub, columns, dtype_backend
            As in `complete`.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        n_jobs : int
            Number of processes (see `complete_parallel`).
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        schema
            A pydantic model, a dataclass or a JSON schema.
        prefix
            Prefix of ``status``, ``error`` and the other result columns.
        field_prefix
            Prefix of the columns of the fields.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, a column per field (null without an answer), and result columns. A
            response that does not match the schema has the status ``error``, the error type ``Malformed``, and the text
            that the model wrote in ``response``.

        Raises
        ------
        BadRequestError
            Before anything is sent: ``schema`` is not a schema, or a field has the name of another column.
        """

    def classify(
        self,
        prompt: TablePrompt | None = None,
        *,
        labels: Any,
        model: Models,
        hub: Hub | None = None,
        columns: ResultColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        column: str = 'label',
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        n_jobs: int = 1,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> F:
        """Send a prompt for every row, and return one of several labels.

        Models that support a response schema can only return a label; all others are instructed in the system message.

        Parameters
        ----------
        prompt, model, hub, columns, dtype_backend
            As in `complete`.
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        n_jobs : int
            Number of processes (see `complete_parallel`).
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        labels
            Texts or numbers, an enum, or a mapping of labels to descriptions.
        prefix
            Prefix of ``status``, ``error`` and the other result columns.
        column
            Name of the column of labels.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, the label (in the spelling of ``labels``; null without an answer), and
            result columns. A response that is not a label is an error of its row.

        Raises
        ------
        BadRequestError
            Before anything is sent: ``labels`` are not labels, or ``column`` is the name of another column.
        """

    def embed(
        self,
        prompt: str,
        *,
        model: str,
        hub: Hub | None = None,
        columns: EmbeddingColumns = 'compact',
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        dimensions: int | None = None,
        kind: TextKind | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, JSON] | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> F:
        """Embed a text for every row, and return the frame with its vectors.

        Parameters
        ----------
        prompt
            The name of a column, or a template over the columns such as ``"{title}: {body}"``.
        model
            ``provider/model``.
        hub
            The hub to use; the default hub if omitted.
        columns
            Result columns: ``"compact"`` for ``embedding``, status, error, cost, tokens and cache hit, ``"all"`` for
            every column of `llmhub.embed_table`, or the names of columns besides the compact ones.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame.
        dimensions : int | None
            Length of the vectors; the model's own by default.
        kind : TextKind | None
            ``"document"`` or ``"query"``, for models that embed them differently.
        batch_size : int | None
            Maximum texts of a request; fewer where the provider's limits are lower (256).
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and the result columns. Vectors are float32 arrays that share one matrix
            in pandas, an ``Array`` in polars, ``FLOAT[n]`` in DuckDB.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """

    def rerank(
        self,
        query: str,
        prompt: str,
        *,
        model: str,
        hub: Hub | None = None,
        prefix: str = '',
        dtype_backend: DtypeBackend | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, JSON] | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
    ) -> F:
        """Score a text of every row for a query, and return the frame with scores and ranks, in its own order.

        Parameters
        ----------
        query
            What the texts are to be relevant for.
        prompt
            The name of a column, or a template over the columns such as ``"{title}: {body}"``.
        model
            ``provider/model``, such as ``cohere/rerank-v3.5``.
        hub
            The hub to use; the default hub if omitted.
        prefix
            Prefix of the names of the result columns.
        dtype_backend
            ``"pyarrow"`` or ``"numpy_nullable"`` for these types in a pandas frame.
        batch_size : int | None
            Maximum texts of a request; fewer where the provider's limits are lower (256).
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.

        Returns
        -------
        frame of the same kind
            The columns and index of the frame, and score, rank (from 1, the most relevant first), status, error, cost
            and cache hit.

        Raises
        ------
        BadRequestError
            Before anything is sent: a wrong argument, or a column with the name of a result column.
        """

    def plan_embeddings(
        self,
        prompt: str,
        *,
        model: str,
        hub: Hub | None = None,
        dimensions: int | None = None,
        kind: TextKind | None = None,
        batch_size: int | None = None,
        extra: Mapping[str, JSON] | None = None,
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> EmbeddingPlan:
        """Estimate what `embed` would send and cost, without sending (see `llmhub.plan_embeddings`).

        Parameters
        ----------
        dimensions : int | None
            Length of the vectors; the model's own by default.
        kind : TextKind | None
            ``"document"`` or ``"query"``, for models that embed them differently.
        batch_size : int | None
            Maximum texts of a request; fewer where the provider's limits are lower (256).
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        """

    def plan(
        self,
        prompt: TablePrompt | None = None,
        *,
        model: Models,
        hub: Hub | None = None,
        pilot: int = 0,
        count_tokens: int = 0,
        system: str | Callable[[Row], str | None] | None = None,
        messages: str | None = None,
        images: str | None = None,
        examples: Any = None,
        schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        response_schema: Schema | Mapping[str, JSON] | type[Any] | None = None,
        n: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        tools: Sequence[Callable[..., Any] | Tool | Mapping[str, Any]] = (),
        max_turns: int | None = None,
        tool_executor: Executor | None = None,
        tool_choice: str | None = None,
        parallel_tool_calls: bool | None = None,
        logprobs: int | None = None,
        reasoning_effort: str | None = None,
        reasoning_budget: int | None = None,
        user: str | None = None,
        extra: Mapping[str, JSON] | None = None,
        unsupported: Literal['error', 'drop'] = 'error',
        budget_usd: float | Decimal | None = None,
        allow_unpriced: bool = False,
        cache: Mode | CacheMode | None = None,
        concurrency: int | None = None,
        progress: bool | ProgressCallback | None = None,
        on_error: Literal['row', 'raise'] = 'row',
        stream: bool = False,
        mode: SendMode = 'live',
        late: LatePolicy = 'wait',
        deadline: float | str | timedelta | None = None,
        poll_s: float | None = None,
        batch_tokens: int | None = None,
        batch_storage: str | None = None,
        batch_role: str | None = None,
    ) -> Plan:
        """Estimate calls, cache hits, tokens, cost and duration of `complete` without sending (see `llmhub.plan`).

        Parameters
        ----------
        system : str | Callable[[Row], str | None] | None
            System message; for rows, a template, the name of a column or a function of the row.
        messages : str | None
            Name of a column of conversations, which precede the prompt.
        images : str | None
            Images for the prompt: URL, path, bytes, PIL image or a list of them; for rows, the name of a column.
        examples : Any
            Few-shot examples: pairs of input and output, mappings with both, or a frame.
        schema : Schema | Mapping[str, JSON] | type[Any] | None
            Pydantic model, dataclass or JSON schema that responses must match.
        response_schema : Schema | Mapping[str, JSON] | type[Any] | None
            Schema to request; a single call parses it like ``schema``, rows are not checked against it.
        n : int
            Responses per row.
        temperature : float | None
            Sampling temperature; 0 for the most likely tokens.
        top_p : float | None
            Sample from the most likely tokens whose probabilities add up to this.
        top_k : int | None
            Sample from this many of the most likely tokens.
        max_tokens : int | None
            Maximum tokens of a response, reasoning included.
        stop : str | Sequence[str]
            Text, or several, that ends a response.
        seed : int | None
            Seed of the model's sampling, where the provider supports one.
        presence_penalty : float | None
            Penalty for tokens that have occurred.
        frequency_penalty : float | None
            Penalty for tokens by how often they have occurred.
        tools : Sequence[Callable[..., Any] | Tool | Mapping[str, Any]]
            Tools: Python functions, which run when the model calls them, `Tool` values, or OpenAI-style mappings.
        max_turns : int | None
            Maximum responses of the model in one conversation with tools (5).
        tool_executor : Executor | None
            Executor for functions, such as a ``ProcessPoolExecutor``; threads by default.
        tool_choice : str | None
            ``auto``, ``none``, ``required``, or the name of a tool.
        parallel_tool_calls : bool | None
            Whether the model may call several tools at once.
        logprobs : int | None
            Return log probabilities, with this many alternatives per token.
        reasoning_effort : str | None
            How much a reasoning model thinks, such as ``low`` or ``high``.
        reasoning_budget : int | None
            Maximum tokens of reasoning.
        user : str | None
            Pseudonymous id of your end user, for providers that accept one.
        extra : Mapping[str, JSON] | None
            Fields of the provider's own API, merged into the payload last.
        unsupported : Literal['error', 'drop']
            ``"error"``, or ``"drop"`` to omit parameters that the provider does not support.
        budget_usd : float | Decimal | None
            Maximum cost in US dollars; calls that could exceed it are not sent.
        allow_unpriced : bool
            Whether models without a known price may be called in spite of a budget; they do not count.
        cache : Mode | CacheMode | None
            Cache mode: a `CacheMode`, or the name of one, such as ``off``, ``refresh`` or ``read-only``.
        concurrency : int | None
            Maximum number of calls in flight.
        progress : bool | ProgressCallback | None
            Whether to show progress, or a function to call with it; by default where a person watches.
        on_error : Literal['row', 'raise']
            ``"row"`` to record a failure in its row, ``"raise"`` to raise when the run is done.
        stream : bool
            Stream responses to measure the time to the first token.
        mode : SendMode
            ``"live"``, or ``"batch"`` to send rows through the provider's Batch API, cheaper and within a day.
        late : LatePolicy
            Rows that a batch did not process: ``"wait"`` for another batch, ``"live"`` to send them, ``"error"``.
        deadline : float | str | timedelta | None
            When rows of a batch are late: ``"6h"``, a ``timedelta`` or seconds.
        poll_s : float | None
            Seconds between the first two polls of a batch; the time grows to five minutes (30).
        batch_tokens : int | None
            Estimated prompt tokens of one batch, at most.
        batch_storage : str | None
            Object storage (``s3://bucket/folder``), for providers that read batches from there.
        batch_role : str | None
            ARN of the role that may read and write the storage.
        """

    def count_tokens(
        self,
        prompt: str,
        *,
        model: str,
        n_jobs: int = 1,
        memory: Any = None,
    ) -> F:
        """Count the tokens of a text column, or of a template rendered for each row.

        Parameters
        ----------
        prompt
            Name of a column, or a template such as ``"Summarise: {text}"``.
        model
            ``provider/model``, or the name of a model.
        **options
            ``n_jobs``, the number of processes of any joblib backend; ``memory``, a ``joblib.Memory`` that caches the
            counts.

        Returns
        -------
        frame of the same kind
            ``tokens`` (null for a missing text) and ``estimated``: whether another tokenizer was used, because that of
            the model is not public or could not be downloaded.
        """

    def show(
        self,
        *,
        rows: int = 10,
        columns: Sequence[str] | None = None,
        prefix: str = '',
    ) -> ResultsView:
        """Show results: totals, a line per model, and the first rows with their answers (see `llmhub.show`)."""

    def wide(
        self,
        *values: str,
        prefix: str = '',
    ) -> F:
        """Return one row per input row, with the answers of the models in columns.

        Parameters
        ----------
        *values
            Columns to return for each model; the labels, the extracted fields, or ``response`` if omitted.
        prefix
            Prefix of the result columns.

        Returns
        -------
        frame of the same kind
            The input columns, and a column ``provider/model`` for each model (``value provider/model`` with several
            values, ``provider/model #0`` with several samples).

        Raises
        ------
        BadRequestError
            The frame has no results in long form, or two answers for the same row, model and sample.
        """

@typing.overload
def llm(
    frame: pd.DataFrame,
) -> FrameAccessor[pd.DataFrame]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: pl.DataFrame,
) -> FrameAccessor[pl.DataFrame]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: pl.LazyFrame,
) -> FrameAccessor[pl.LazyFrame]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: pd.Series[Any],
) -> SeriesAccessor[pd.Series[str]]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: pl.Series,
) -> SeriesAccessor[pl.Series]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: pl.Expr,
) -> ExprAccessor:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
@typing.overload
def llm(
    frame: Any,
) -> FrameAccessor[Any]:
    """Return the accessor of a frame or series, typed for type checkers: ``llmhub.llm(df).complete(...)``.

    Methods return frames of the same kind for pandas, polars and DuckDB; Arrow tables for an Arrow table, a mapping of
    columns, or any other object with ``__arrow_c_stream__``.

    Raises
    ------
    BadRequestError
        ``frame`` is neither a frame nor a series.

    Examples
    --------
    >>> llm(pa.table({"text": ["Say hi"]})).count_tokens
    <bound method FrameAccessor.count_tokens of ...>
    """
