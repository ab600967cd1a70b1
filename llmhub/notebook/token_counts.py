"""Tokens of a column, counted by as many jobs as wanted, and kept if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import pyarrow as pa

from llmhub import api
from llmhub.tables import frames, prompt_batch
from llmhub.tables.rows import FrameColumns
from llmhub.tables.tokenizers import TokenCounts, VocabularySource, count_tokens


class CountOptions(TypedDict, total=False):
    """How tokens are counted: ``n_jobs`` as joblib counts jobs, and a ``joblib.Memory`` to keep counts in."""

    n_jobs: int
    memory: Any


def render_texts(frame: Any, prompt: str) -> list[str | None]:
    """Give a column's texts, or what a template makes of each row; ``None`` where a value is missing.

    Raises
    ------
    InvalidRequestError
        The prompt is neither a column nor a template over columns.

    Examples
    --------
    >>> render_texts(pa.table({"x": [1, None]}), "x"), render_texts(pa.table({"x": [1, None]}), "{x} more")
    (['1', None], ['1 more', None])
    """
    if isinstance(prompt, str) and (prompt in frames.column_names(frames.native_frame(frame)) or "{" not in prompt):
        return [None if value is None else str(value) for value in FrameColumns(frame).column(prompt)]
    asked = prompt_batch.batch_from_frame(frame, prompt, (), 1)
    rows = zip(*asked.columns, strict=True) if asked.columns else ((),) * asked.n_rows
    return [
        None if any(value is None for value in row) else prompt_batch.prompt_text(asked.template.render(row))
        for row in rows
    ]


def count_tokens_table(texts: Sequence[str | None], model: str, options: CountOptions) -> pa.Table:
    """Count the tokens of each text, null for a missing one (see `llmhub.tables.tokenizers.count_tokens`)."""
    said = [text for text in texts if text is not None]
    memory, jobs = options.get("memory"), options.get("n_jobs", 1)
    count = count_tokens_parallel if memory is None else memory.cache(count_tokens_parallel, ignore=["folder", "jobs"])
    found: TokenCounts = count(said, model, api.current_hub().settings.tokenizer_folder, jobs)
    each = iter(found.counts)
    tokens = pa.array([None if text is None else next(each) for text in texts], pa.int64())
    return pa.table({"tokens": tokens, "estimated": pa.array([found.estimated] * len(texts), pa.bool_())})


def count_tokens_parallel(texts: Sequence[str], model: str, folder: Any, jobs: int) -> TokenCounts:
    """Count in several jobs, where that is asked for, by the joblib backend that is in force."""
    vocabularies = VocabularySource(folder=folder)
    if jobs == 1 or len(texts) <= 1:
        return count_tokens(texts, model, vocabularies)
    import joblib  # noqa: PLC0415 - a third of a second, needed only where jobs are asked for

    from llmhub.tables import streaming_io  # noqa: PLC0415 - as above

    many = streaming_io.effective_jobs(jobs)
    step = -(-len(texts) // many)
    parts = (texts[at : at + step] for at in range(0, len(texts), step))
    done = joblib.Parallel(n_jobs=jobs)(joblib.delayed(count_tokens)(part, model, vocabularies) for part in parts)
    tokens = [count for part in done for count in part.counts]
    return TokenCounts(tokens, estimated=any(part.estimated for part in done), tokenizer=done[0].tokenizer)
