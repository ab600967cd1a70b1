"""`run`: load-test models, bypassing the cache and retries.

Calls are prepared before the first one is sent, so that preparation is not measured. Responses are streamed, so that
times to the first token are known. Warm-up calls open the connections and are discarded.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import pyarrow as pa

from llmhub.api.default_hub import current_hub
from llmhub.api.options import CompletionOptions, Models
from llmhub.api.tables import build_table_run
from llmhub.bench.load import NOT_SENT, Load, LoadRun, one_at_a_time, run_load
from llmhub.bench.prompts import default_prompt, prompts_of_length
from llmhub.bench.stream_times import ChunkTimes, stream_times
from llmhub.bench.summary import SUMMARY, Targets, summarise_run
from llmhub.core.errors import invalid
from llmhub.core.types import Reasoning
from llmhub.engine.call import Answer, Call
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.retry import NO_RETRY
from llmhub.hub import Hub
from llmhub.tables import results
from llmhub.tables.schema import SIMULATED, is_simulated

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.tables.prompt_batch import PromptBatch

DEFAULT_WORDS: Final = 100
DEFAULT_MAX_TOKENS: Final = 256
"""Output token limit: enough to measure the time per token, at a low cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Result of a load test.

    Parameters
    ----------
    summary
        `llmhub.bench.summary.SUMMARY`: one row per model and load.
    runs
        Model, load, and calls in the results schema.
    """

    summary: pa.Table
    runs: tuple[tuple[str, Load, pa.Table], ...]

    @property
    def results(self) -> pa.Table:
        """Every call, in the results schema; runs are in the order of the summary."""
        return pa.concat_tables([table for *_, table in self.runs]).unify_dictionaries()

    def to_markdown(self) -> str:
        """Return the summary as a Markdown table."""
        from llmhub.bench.report import summary_markdown  # noqa: PLC0415 - loaded on display

        return summary_markdown(self.summary).replace("$", r"\$")

    def _repr_html_(self) -> str:
        """Return the HTML shown by notebooks."""
        from llmhub.bench.report import summary_html  # noqa: PLC0415 - loaded on display

        return summary_html(self.summary)

    def __repr__(self) -> str:
        """Return the summary as text."""
        return str(self)

    def __str__(self) -> str:
        """Return the summary as a table for a terminal."""
        from llmhub.bench.report import summary_text  # noqa: PLC0415 - loaded on display

        return summary_text(self.summary)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each model's latency against its answered calls per second."""
        from llmhub.bench.load_plot import load_plot  # noqa: PLC0415 - matplotlib is loaded on plotting

        return load_plot(self.summary, ax)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """Extent of a load test.

    Parameters
    ----------
    requests
        Measured calls per model and load.
    warmup
        Calls before them, one at a time, that are discarded.
    targets
        Service-level targets for the goodput.
    duration_s
        Seconds after which no more calls are sent; ``requests`` is then the most calls.
    level
        Confidence level of the intervals of quantiles.
    input_tokens
        Length of every prompt, which is made of random words, in tokens of the model's vocabulary as far as it is
        known; ``None`` for the given or the default prompts.
    output_tokens
        Length of every response: ``max_tokens``, and a prompt that asks for more. A server that reads ``ignore_eos``
        (pass ``extra={"ignore_eos": True}``) generates exactly as many; others may stop before.
    """

    requests: int = 100
    warmup: int = 3
    targets: Targets = field(default_factory=Targets)
    duration_s: float | None = None
    level: float = 0.95
    input_tokens: int | None = None
    output_tokens: int | None = None

    def __post_init__(self) -> None:
        """Validate the counts."""
        optional = [name for name in ("input_tokens", "output_tokens") if getattr(self, name) is not None]
        for name, minimum in (("requests", 1), ("warmup", 0), *((name, 1) for name in optional)):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
                raise invalid(name, f"{value!r} is not an integer >= {minimum}")
        if self.duration_s is not None and not self.duration_s > 0:
            raise invalid("duration_s", f"{self.duration_s!r} is not a duration; pass seconds > 0")
        if not 0 < self.level < 1:
            raise invalid("level", f"{self.level!r} is not a share; pass one such as 0.95")


def run(
    model: Models,
    *,
    load: Load | Sequence[Load] = (),
    prompts: Sequence[str] = (),
    measure: Measure | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Bench:
    """Measure latency, throughput, goodput, errors and cost of models under load.

    Each model and load is measured separately, one after another. The cache is bypassed and calls are not retried, so
    that rejected calls are measured too. Responses are streamed.

    Parameters
    ----------
    model
        ``provider/model``, or several.
    load
        `one_at_a_time`, `concurrent`, `constant_rate`, `poisson`, or several of them (`sweep`).
    prompts
        Prompts, used in turn; by default requests for short explanations, each of them different.
    measure
        Number of calls and of warm-up calls, service-level targets, and fixed lengths of prompts and responses.
    hub
        Hub that models are called through; the default hub if ``None``.
    **options
        Request parameters; ``max_tokens`` is 256 by default.

    Returns
    -------
    Bench
        The summary and every call.

    Raises
    ------
    BadRequestError
        A model has no provider, or a parameter is out of range; raised before anything is sent.

    Notes
    -----
    In an open load, latency and time to first token count from the time the call was due: a call that waited for a free
    connection, or for a limit of the hub, took that much longer. ``service_s`` is the provider's own time,
    ``schedule_delay_s`` and ``rate_wait_s`` are the waits. In a closed load no call waits, and the times are the
    provider's.

    The time per output token is that of ``vllm bench serve``: the time from the first token to the end of the response,
    divided by the number of tokens less one. Tokens are counted by the provider, because the chunks of a stream are not
    tokens; those of hidden reasoning came before the first token, and are not counted. The inter-token latency
    (``itl_s``) is the time between two pieces of a stream, over all calls, as in ``vllm bench serve``: a piece may hold
    several tokens. ``ttfo_s`` is the time to the first piece of the response itself, after reasoning that is streamed.
    ``queue_s`` of a call is its schedule delay: the time from its being due to its being sent.
    """
    names = [model] if isinstance(model, str) else list(model)
    loads = [load] if isinstance(load, Load) else list(load) or [one_at_a_time()]
    measure = measure or Measure()
    hub = replace(hub or current_hub(), cache=None, ambiguous="resend", retry=NO_RETRY)
    if measure.input_tokens is not None and prompts:
        raise invalid("prompts", "have lengths of their own; remove them, or input_tokens=")
    max_tokens = {"max_tokens": measure.output_tokens or DEFAULT_MAX_TOKENS}
    if measure.output_tokens is not None and options.get("max_tokens", measure.output_tokens) != measure.output_tokens:
        raise invalid("max_tokens", "is set by output_tokens; remove one of them")
    merged: dict[str, Any] = {**max_tokens, **options, "stream": True, "progress": False}
    batches = [_build_batches(name, prompts, measure, hub, merged) for name in names]
    runs: list[tuple[str, Load, pa.Table]] = []
    rows: list[Mapping[str, Any]] = []
    with hub:
        for name, (warmup, measured) in zip(names, batches, strict=True):
            for shape in loads:
                load_run, table, chunks = run_sync(partial(_measure_load, hub, warmup, measured, shape, measure))
                hidden = _hidden_tokens(load_run.answers)
                if measure.duration_s is not None:
                    sent = np.array([answer is not NOT_SENT for answer in load_run.answers], np.bool_)
                    table, hidden = table.filter(pa.array(sent)), hidden[sent]
                    chunks = [own for own, was_sent in zip(chunks, sent, strict=True) if was_sent]
                runs.append((name, shape, table))
                figures = summarise_run(
                    name,
                    shape,
                    table,
                    load_run.duration_s,
                    measure.targets,
                    hidden_tokens=hidden,
                    level=measure.level,
                    stream=stream_times(chunks),
                )
                rows.append(figures)
    simulated = any(is_simulated(table.schema) for *_, table in runs)
    schema = SUMMARY.with_metadata({**(SUMMARY.metadata or {}), SIMULATED: "true"}) if simulated else SUMMARY
    return Bench(summary=pa.Table.from_pylist(rows, schema=schema), runs=tuple(runs))


def _build_batches(
    model: str, prompts: Sequence[str], measure: Measure, hub: Hub, options: Mapping[str, Any]
) -> tuple[PromptBatch, PromptBatch]:
    """Validate all requests; return those of the warm-up and those to measure."""
    count = measure.warmup + measure.requests
    if measure.input_tokens is not None:
        texts = prompts_of_length(measure.input_tokens, count, model.partition("/")[2])
    else:
        words = DEFAULT_WORDS if measure.output_tokens is None else measure.output_tokens
        texts = [prompts[index % len(prompts)] if prompts else default_prompt(index, words) for index in range(count)]
    warmup, measured = (
        build_table_run(pa.table({"text": pa.array(part, pa.string())}), "{text}", model, hub, {**options})
        for part in (texts[: measure.warmup], texts[measure.warmup :])
    )
    return warmup.batch, measured.batch


def _hidden_tokens(answers: Sequence[Answer]) -> Any:
    """Return the reasoning tokens of each answer that the provider did not stream."""
    hidden = np.zeros(len(answers))
    for index, answer in enumerate(answers):
        response = answer.outcome.value_or(None)
        if response is not None and not any(isinstance(part, Reasoning) and part.text for part in response.parts):
            hidden[index] = response.usage.reasoning_tokens or 0
    return hidden


async def _measure_load(
    hub: Hub, warmup: PromptBatch, measured: PromptBatch, load: Load, measure: Measure, stop: StopSignal
) -> tuple[LoadRun, pa.Table, list[ChunkTimes]]:
    """Send the warm-up calls and then the load; return the run, its results table, and the times of all chunks."""
    clock = asyncio.get_running_loop().time
    send_load = partial(run_load, send=hub.runtime.send_uncached, stop=stop, max_in_flight=hub.pool_size, clock=clock)
    await send_load(_build_calls(warmup), one_at_a_time())
    duration_s = math.inf if measure.duration_s is None else measure.duration_s
    calls = _build_calls(measured)
    chunks = [ChunkTimes() for _ in calls]
    observed = [replace(call, on_chunk=own.record) for call, own in zip(calls, chunks, strict=True)]
    load_run = await send_load(observed, load, duration_s=duration_s)
    fan_out = FanOutResult(list(load_run.answers), load_run.schedule_delay_s)
    return load_run, results.build_results(measured, fan_out, uuid.uuid4().hex, time.time()), chunks


def _build_calls(batch: PromptBatch) -> list[Call]:
    return [build(text, key) for chunk in batch.iter_chunks() for _, key, build, text in chunk]
