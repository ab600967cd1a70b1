"""Conversations in a column: append what was asked and what the model answered."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llmhub.tables import frames, prompt_batch


def rendered_prompts(frame: Any, prompt: str | None) -> list[str]:
    """Return a template rendered for each row; empty where a value is missing, or without a template."""
    if prompt is None:
        return [""] * len(frames.native_frame(frame))
    batch = prompt_batch.batch_from_frame(frame, prompt, (), 1)
    rows = zip(*batch.columns, strict=True) if batch.columns else ((),) * batch.n_rows
    return [
        "" if any(value is None for value in row) else prompt_batch.prompt_text(batch.template.render(row))
        for row in rows
    ]


def continued(conversations: Sequence[Any], prompts: Sequence[str], results: pa.Table) -> list[Any]:
    """Return the conversations with the new turns; those of rows without a response are unchanged.

    Warns
    -----
    RuntimeWarning
        Some rows failed.
    """
    responses = results.column("response").to_pylist()
    statuses = results.column("status").to_pylist()
    transcripts = results.column("transcript").to_pylist() if "transcript" in results.column_names else None
    extended: list[Any] = []
    for index, (before, prompt, response) in enumerate(zip(conversations, prompts, responses, strict=True)):
        if statuses[index] != "ok":
            extended.append(before)
        elif transcripts is not None:
            extended.append([turn for turn in json.loads(transcripts[index]) if turn["role"] != "system"])
        else:
            asked = [{"role": "user", "content": prompt}] if prompt else []
            extended.append([*_turns(before), *asked, {"role": "assistant", "content": response or ""}])
    failed = Counter(status for status in statuses if status not in {"ok", "skipped"})
    if failed:
        counts = ", ".join(f"{status} {count:,}" for status, count in failed.most_common())
        message = f"{sum(failed.values()):,} conversations are unchanged, because their call failed ({counts})"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return extended


def _turns(cell: Any) -> list[Any]:
    """Return the turns of a cell: a list of messages, chat log as JSON text, a text, or nothing."""
    if cell is None:
        return []
    if isinstance(cell, str):
        is_log = cell.lstrip()[:1] == "[" and '"role"' in cell
        return list(json.loads(cell)) if is_log else [{"role": "user", "content": cell}]
    return [cell] if isinstance(cell, Mapping) or not hasattr(cell, "__iter__") else list(cell)


def with_column(frame: Any, name: str, values: list[Any]) -> Any:
    """Return a frame of the same kind with a column replaced or added."""
    if frames.is_pandas(frame):
        result = frame.copy(deep=False)
        result[name] = frames.series_for_frame(frame, values, name).astype(object)
        return result
    if frames.is_polars(frame, "DataFrame"):
        return frame.with_columns(frames.series_for_frame(frame, values, name).alias(name))
    column = pa.array(values)
    if name in frame.column_names:
        return frame.set_column(frame.column_names.index(name), name, column)
    return frame.append_column(name, column)
