"""Providers as machines: how fast they answer under a load, how steadily, and what that costs."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Unpack

import pyarrow as pa

from llmhub.api.default_hub import current_hub
from llmhub.api.options import CompletionOptions, Models
from llmhub.api.tables import build_table_run
from llmhub.bench.load import Load, LoadRun, one_at_a_time, run_load
from llmhub.bench.summary import SUMMARY, Targets, summarise_run
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.engine.call import Call
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.retry import NO_RETRY
from llmhub.hub import Hub
from llmhub.tables import results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.tables.prompt_batch import PromptBatch


DEFAULT_PROMPT: Final = (
    "Number {at}. In about a hundred words, explain {subject} to somebody who has never heard of it."
)


SUBJECTS: Final = ("tides", "yeast", "glaciers", "printing", "compasses", "vaccines", "lighthouses", "bridges")


DEFAULT_MAX_TOKENS: Final = 256
"""Tokens of an answer at most, unless told otherwise: long enough to time tokens, short enough to pay for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What was measured.

    Parameters
    ----------
    summary
        `llmhub.bench.summary.SUMMARY`: one row for each model and load.
    runs
        Each model and load, and its calls in the schema of results.
    """

    summary: pa.Table
    runs: tuple[tuple[str, Load, pa.Table], ...]

    @property
    def results(self) -> pa.Table:
        """Every call, in the schema of results; runs stand in the order of the summary."""
        return pa.concat_tables([table for *_, table in self.runs]).unify_dictionaries()

    def to_markdown(self) -> str:
        """Give the summary as a Markdown table."""
        from llmhub.bench.report import summary_markdown  # noqa: PLC0415 - loaded where it is shown

        return summary_markdown(self.summary)

    def _repr_html_(self) -> str:
        """Show itself in a notebook."""
        from llmhub.bench.report import summary_html  # noqa: PLC0415 - loaded where it is shown

        return summary_html(self.summary)

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Write the summary for a terminal."""
        from llmhub.bench.report import summary_text  # noqa: PLC0415 - loaded where it is shown

        return summary_text(self.summary)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw each model's latency over what it answered a second, load by load."""
        from llmhub.bench.load_plot import load_plot  # noqa: PLC0415 - matplotlib is loaded by those who plot

        return load_plot(self.summary, ax)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How a bench measures.

    Parameters
    ----------
    requests
        Measured calls of each model and load.
    warmup
        Calls before them, one at a time, which open connections and are left out.
    targets
        What a good answer keeps to.
    """

    requests: int = 100
    warmup: int = 3
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        """Refuse what measures nothing."""
        for name, least in (("requests", 1), ("warmup", 0)):
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadRequestError(InvalidRequest(path=name, message=f"{value!r} is no count from {least}"))


def bench(
    model: Models,
    *,
    load: Load | Sequence[Load] = (),
    prompts: Sequence[str] = (),
    measure: Measure | None = None,
    hub: Hub | None = None,
    **options: Unpack[CompletionOptions],
) -> Bench:
    """Measure models as machines: time to the first token and between tokens, throughput, goodput, errors, cost.

    Each model and load is measured on its own, one after another, past the cache and without retries: a refusal is a
    measurement. Answers are streamed.

    Parameters
    ----------
    model
        ``provider/model``, or several.
    load
        `one_at_a_time`, `concurrent`, `constant_rate`, `poisson`, or several of them (`sweep`).
    prompts
        What is asked, in turn; short explanations, each with a number of its own, unless given.
    measure
        How many calls, how many to warm up, and what a good answer keeps to.
    hub
        Who can be asked; the default hub unless given.
    **options
        Parameters of the answers; ``max_tokens`` is 256 unless given.

    Returns
    -------
    Bench
        The summary and every call.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: a model without a provider, a load that is none, a parameter out of range.

    Notes
    -----
    Time between tokens is the time from the first token to the end, divided by the tokens that the provider counted
    less one: pieces of a stream are no tokens. A call's ``queue_s`` is how long after it was due it was sent.
    """
    names = [model] if isinstance(model, str) else list(model)
    loads = [load] if isinstance(load, Load) else list(load) or [one_at_a_time()]
    measure = measure or Measure()
    hub = replace(hub or current_hub(), cache=None, retry=NO_RETRY)
    whole: dict[str, Any] = {"max_tokens": DEFAULT_MAX_TOKENS, **options, "stream": True, "progress": False}
    asked = [_asked(name, prompts, measure, hub, whole) for name in names]
    runs: list[tuple[str, Load, pa.Table]] = []
    rows: list[Mapping[str, Any]] = []
    with hub:
        for name, (before, questions) in zip(names, asked, strict=True):
            for one in loads:
                driven, table = run_sync(partial(_measured, hub, before, questions, one))
                runs.append((name, one, table))
                rows.append(summarise_run(name, one, table, driven.duration_s, measure.targets))
    return Bench(summary=pa.Table.from_pylist(rows, schema=SUMMARY), runs=tuple(runs))


def _asked(
    name: str, prompts: Sequence[str], measure: Measure, hub: Hub, options: Mapping[str, Any]
) -> tuple[PromptBatch, PromptBatch]:
    """Check everything before anything is sent; give what warms up, and what is measured."""
    texts = [_text(prompts, at) for at in range(measure.warmup + measure.requests)]
    parts = (texts[: measure.warmup], texts[measure.warmup :])
    before, after = (
        build_table_run(pa.table({"text": pa.array(part, pa.string())}), "{text}", name, hub, {**options})
        for part in parts
    )
    return before.batch, after.batch


def _text(prompts: Sequence[str], at: int) -> str:
    return (
        prompts[at % len(prompts)]
        if prompts
        else DEFAULT_PROMPT.format(at=at + 1, subject=SUBJECTS[at % len(SUBJECTS)])
    )


async def _measured(
    hub: Hub, before: PromptBatch, questions: PromptBatch, load: Load, stop: StopSignal
) -> tuple[LoadRun, pa.Table]:
    """Warm up, measure, and make the table."""
    loop = asyncio.get_running_loop()
    send = partial(run_load, send=hub.runtime.send_uncached, stop=stop, max_in_flight=hub.pool_size, clock=loop.time)
    await send(_calls(before), one_at_a_time())
    driven = await send(_calls(questions), load)
    ran = FanOutResult(list(driven.answers), driven.schedule_delay_s)
    return driven, results.results_table(questions, ran, uuid.uuid4().hex, time.time())


def _calls(questions: PromptBatch) -> list[Call]:
    """Make all calls beforehand, so that making them is not measured."""
    return [make(text, key) for chunk in questions.iter_chunks() for _, key, make, text in chunk]
