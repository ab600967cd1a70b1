"""The results table of a run whose ordinary table could not be built, so that responses are not lost.

Nothing here works on columns as a whole or looks anything up: one response that cannot be stored must not take the
others with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from returns.pipeline import is_successful

from llmhub.core.errors import error_type_name
from llmhub.core.serialization import TEXT_LAYOUT, StoredResponse, unpack
from llmhub.engine.block_lookup import TEXT_FIELDS, StoredBlock
from llmhub.engine.call import Answer
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.row_outcome import RowOutcome, to_stored
from llmhub.tables.cost_columns import TokenColumns
from llmhub.tables.outcome_columns import STATUS_BY_ERROR, response_text, tool_calls_of
from llmhub.tables.prompt_batch import PromptBatch
from llmhub.tables.results import CompletedPart, CompletedRows
from llmhub.tables.schema import MICROSECONDS_PER_S


def rescue_table(batch: PromptBatch, result: FanOutResult, schema: pa.Schema) -> pa.Table:
    """Return the results table without anything that may fail: row by row, without costs and parsed values.

    A value that cannot be stored is null; an invalid character of a response is replaced. A stored response that was
    being read is still in the cache, and its row is cancelled here.
    """
    stored: dict[int, RowOutcome] = {
        position: value for block in result.blocks for position, value in _iter_stored(batch, block)
    }
    if result.packed is not None:
        for position in np.flatnonzero(result.packed.contains(np.arange(len(batch)))).tolist():
            with suppress(OSError):  # it is still in the cache
                stored[position] = result.packed.answer(position, batch.key_of(position))
    outcomes = [outcome or stored.get(position) for position, outcome in enumerate(result.outcomes)]
    return rescue_part(batch, CompletedRows(range(len(batch)), outcomes, result.queue_s), schema)


def rescue_part(batch: PromptBatch, completed: CompletedPart, schema: pa.Schema) -> pa.Table:
    """Return the table of some positions (see `rescue_table`)."""
    if isinstance(completed, StoredBlock):
        stored = dict(_iter_stored(batch, completed))
        completed = CompletedRows(tuple(stored), tuple(stored.values()), [0.0] * len(stored))
    rows = [
        _rescued_row(batch, *values)
        for values in zip(completed.positions, completed.outcomes, completed.queue_s, strict=True)
    ]
    columns = [_rescued_array([row.get(field.name) for row in rows], field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _iter_stored(batch: PromptBatch, block: StoredBlock) -> Iterator[tuple[int, StoredResponse]]:
    """Decode the stored responses of a block one by one."""
    for position, start, fixed in zip(block.positions.tolist(), block.starts.tolist(), block.fixed, strict=True):
        size = TEXT_LAYOUT.size + sum(int(fixed[name]) for name in TEXT_FIELDS)
        key = batch.key_of(position)
        response = unpack(block.values[start : start + size], key)
        if is_successful(response):
            yield position, response.unwrap()


def _rescued_row(batch: PromptBatch, position: int, outcome: RowOutcome | None, queue_s: float) -> dict[str, Any]:
    """Return the values of one row as plain Python objects."""
    row = position // max(1, batch.positions_per_row)
    index = position // batch.n_samples % max(1, len(batch.target_prompts))
    if batch.target_of_row is not None:
        index = batch.target_of_row[row]
    target = batch.target_prompts[index].target
    values: dict[str, Any] = {
        "row": row,
        "sample": position % batch.n_samples,
        "provider": target.provider.name,
        "model": target.model,
        "status": "skipped" if batch.skipped[row] else "cancelled",
        "attempts": 0,
        "cache_hit": False,
        "request_key": batch.key_of(position),
    }
    if isinstance(outcome, Answer):
        values |= {
            name: getattr(outcome, name) for name in ("latency_s", "ttft_s", "rate_wait_s", "total_s", "attempts")
        }
        values |= {"queue_s": queue_s, "cache_hit": outcome.cache_hit}
        if not is_successful(outcome.outcome):
            error = outcome.outcome.failure()
            status = STATUS_BY_ERROR.get(type(error), "error")
            return values | {"status": status, "error_type": error_type_name(error), "error": str(error)}
        outcome = to_stored(outcome)
    elif outcome is not None:
        values |= {"latency_s": outcome.latency_s, "ttft_s": outcome.ttft_s, "cache_hit": True}
    if outcome is None:
        return values
    started_at = int(outcome.started_at * MICROSECONDS_PER_S) if outcome.started_at else None
    return values | {
        "status": "ok",
        "response": response_text(outcome),
        "tool_calls": tool_calls_of(outcome),
        "finish_reason": outcome.finish_reason,
        "served_model": outcome.served_model or None,
        "request_id": outcome.request_id or None,
        "dropped_params": list(outcome.dropped),
        "started_at": started_at,
        **dict(zip(TokenColumns.__slots__, outcome.usage, strict=True)),
    }


def _rescued_array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    """Return values as an array; null, or text with its invalid characters replaced, where one does not fit."""
    plain_type = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    try:
        array = pa.array(values, plain_type)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
        array = pa.array([_rescued_value(value, plain_type) for value in values], plain_type)
    return array.cast(data_type)


def _rescued_value(value: Any, data_type: pa.DataType) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    try:
        pa.array([value], data_type)
    except (pa.ArrowException, ArithmeticError, TypeError, ValueError):
        return None
    return value
