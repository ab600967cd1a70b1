"""Token counts of a column or of rendered prompts, optionally in several processes and cached by joblib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from llmhub import api
from llmhub.tables.tokenizers import TokenCounts, VocabularySource, count_tokens


class CountOptions(TypedDict, total=False):
    """``n_jobs``, the number of processes as in joblib, and ``memory``, a ``joblib.Memory`` that caches the counts."""

    n_jobs: int
    memory: Any


def count_tokens_table(texts: Sequence[str | None], model: str, options: CountOptions) -> pa.Table:
    """Return a table with the number of tokens of each text (null for ``None``), and whether it is an estimate."""
    present = [text for text in texts if text is not None]
    memory, n_jobs = options.get("memory"), options.get("n_jobs", 1)
    count = count_tokens_parallel if memory is None else memory.cache(count_tokens_parallel, ignore=["folder", "jobs"])
    result: TokenCounts = count(present, model, api.current_hub().settings.tokenizer_folder, n_jobs)
    counts = iter(result.counts)
    tokens = pa.array([None if text is None else next(counts) for text in texts], pa.int64())
    return pa.table({"tokens": tokens, "estimated": pa.array([result.estimated] * len(texts), pa.bool_())})


def count_tokens_parallel(texts: Sequence[str], model: str, folder: Path | None, jobs: int) -> TokenCounts:
    """Count the tokens of texts in ``jobs`` processes of the current joblib backend."""
    vocabularies = VocabularySource(folder=folder)
    if jobs == 1 or len(texts) <= 1:
        return count_tokens(texts, model, vocabularies)
    import joblib  # noqa: PLC0415 - takes a third of a second to import

    from llmhub.tables import streaming_io  # noqa: PLC0415 - only for several processes

    size = -(-len(texts) // streaming_io.effective_jobs(jobs))
    chunks = (texts[start : start + size] for start in range(0, len(texts), size))
    results = joblib.Parallel(n_jobs=jobs)(joblib.delayed(count_tokens)(chunk, model, vocabularies) for chunk in chunks)
    counts = [count for result in results for count in result.counts]
    estimated = any(result.estimated for result in results)
    return TokenCounts(counts, estimated=estimated, tokenizer=results[0].tokenizer)
