"""Outcomes as objects to the columns of results that depend on the outcome alone, one row for each.

Responses that are bytes are read by `llmhub.tables.stored_columns`; the columns are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.errors import BudgetExceeded, Cancelled, LLMError, error_type_name
from llmhub.core.serialization import StoredResponse, from_stored_parts, to_stored_response
from llmhub.core.types import ToolCall, join_text
from llmhub.engine.call import Answer
from llmhub.engine.row_outcome import PENDING_CODE, RowOutcome, to_stored
from llmhub.tables.cost_columns import TokenColumns
from llmhub.tables.schema import MICROSECONDS_PER_S, RESULTS

NO_CALL: Final = Answer(Failure(Cancelled()))
"""Stands in for the call of a row without one, so that all its timings are null."""
NO_COUNTS: Final = (None, None, None, None, None)
STATUS_BY_ERROR: Final[Mapping[type[LLMError], str]] = {Cancelled: "cancelled", BudgetExceeded: "budget"}
"""Statuses of failures that are not errors of the call; all others are ``error``."""


@dataclass(frozen=True, slots=True)
class _OutcomeLists:
    """Outcomes in three lists of equal length: the response, the error, and the call of this run.

    Responses and errors are ``None``, and calls `NO_CALL`, where a row has none.
    """

    responses: list[StoredResponse | None]
    errors: list[LLMError | None]
    calls: list[Answer]


def columns_from_outcomes(outcomes: Sequence[RowOutcome | None], queue_s: Sequence[float]) -> dict[str, pa.Array]:
    """Convert outcomes one by one; the columns are those of `block_columns`."""
    lists = _split_outcomes(outcomes)
    return {
        **_response_columns(lists.responses),
        **_timing_columns(lists, outcomes, queue_s),
        **_status_columns(lists.errors, outcomes),
    }


def _split_outcomes(outcomes: Sequence[RowOutcome | None]) -> _OutcomeLists:
    responses: list[StoredResponse | None] = []
    errors: list[LLMError | None] = []
    calls: list[Answer] = []
    for outcome in outcomes:
        if isinstance(outcome, Answer):
            is_ok = is_successful(outcome.outcome)
            responses.append(to_stored(outcome) if is_ok else _failed_response(outcome))
            errors.append(None if is_ok else outcome.outcome.failure())
            calls.append(outcome)
        else:
            responses.append(outcome)
            errors.append(None)
            calls.append(NO_CALL)
    return _OutcomeLists(responses, errors, calls)


def _failed_response(answer: Answer) -> StoredResponse | None:
    """Return the response after which a middleware failed, which was paid for; ``None`` without one."""
    response = answer.failed_response
    return None if response is None else to_stored_response(response)


def _response_columns(responses: Sequence[StoredResponse | None]) -> dict[str, pa.Array]:
    counts: Any = [()] * len(NO_COUNTS)
    if responses:
        counts = zip(*(NO_COUNTS if response is None else response.usage for response in responses), strict=True)
    usage = {name: pa.array(values, pa.int64()) for name, values in zip(TokenColumns.__slots__, counts, strict=True)}
    return {
        "response": pa.array([None if each is None else response_text(each) for each in responses], pa.string()),
        "served_model": pa.array([each.served_model or None if each else None for each in responses], pa.string()),
        "request_id": pa.array([each.request_id or None if each else None for each in responses], pa.string()),
        "finish_reason": pa.array([each.finish_reason if each else None for each in responses], pa.string()),
        "tool_calls": pa.array([tool_calls_of(each) for each in responses], RESULTS.field("tool_calls").type),
        **usage,
    }


def response_text(response: StoredResponse) -> str:
    """Return the text of a stored response."""
    return response.parts if isinstance(response.parts, str) else join_text(from_stored_parts(response.parts))


def tool_calls_of(response: StoredResponse | None) -> list[dict[str, str]] | None:
    """Return the tool calls of a stored response as the column has them."""
    if response is None:
        return None
    if isinstance(response.parts, str):
        return []
    calls = (part for part in from_stored_parts(response.parts) if isinstance(part, ToolCall))
    return [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]


def _timing_columns(
    lists: _OutcomeLists, outcomes: Sequence[RowOutcome | None], queue_s: Sequence[float]
) -> dict[str, pa.Array]:
    """Return the timings; a cache hit has the latency of the original call and no waiting times."""
    responses, calls = lists.responses, lists.calls
    hits = [isinstance(each, StoredResponse) or (each is not None and each.cache_hit) for each in outcomes]
    sources = [call if response is None else response for response, call in zip(responses, calls, strict=True)]
    started = [int(source.started_at * MICROSECONDS_PER_S) if source.started_at else None for source in sources]
    floats = {
        "latency_s": [source.latency_s for source in sources],
        "ttft_s": [source.ttft_s for source in sources],
        "queue_s": [waited if call.attempts else None for waited, call in zip(queue_s, calls, strict=True)],
        "rate_wait_s": [0.0 if call.rate_wait_s is None and call.attempts else call.rate_wait_s for call in calls],
        "total_s": [
            None if call.total_s is None else call.total_s + waited for waited, call in zip(queue_s, calls, strict=True)
        ],
    }
    return {
        **{name: pa.array(values, pa.float64()) for name, values in floats.items()},
        "attempts": pa.array([call.attempts for call in calls], pa.int16()),
        "cache_hit": pa.array(hits, pa.bool_()),
        "dropped_params": pa.array([source.dropped for source in sources], pa.list_(pa.string())),
        "started_at": pa.array(started, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    }


def status_of(error: LLMError | None) -> str:
    """Return the status of a row with an error, or without one."""
    if error is None:
        return "ok"
    if error.code == PENDING_CODE and isinstance(error, Cancelled):
        return "pending"
    return STATUS_BY_ERROR.get(type(error), "error")


def _status_columns(errors: Sequence[LLMError | None], outcomes: Sequence[RowOutcome | None]) -> dict[str, pa.Array]:
    status = [
        "skipped" if outcome is None else status_of(error) for error, outcome in zip(errors, outcomes, strict=True)
    ]
    return {
        "status": pa.array(status, pa.string()),
        "error_type": pa.array([None if error is None else error_type_name(error) for error in errors], pa.string()),
        "error": pa.array([None if error is None else str(error) for error in errors], pa.string()),
    }
