"""Answers to rows, and rows to the one Arrow table. One outcome, one row; order kept; schema exact."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful

from llmhub.core.cost import Price
from llmhub.core.errors import Cancelled, LLMError, kind
from llmhub.core.types import CompletionResponse
from llmhub.engine.call import Answer, Target
from llmhub.providers.prices import price_served
from llmhub.tables.money import Tokens, cost_columns, from_nanos, to_nanos
from llmhub.tables.prompts import Questions
from llmhub.tables.schema import RESULTS, with_run

MICRO: Final = 1_000_000
NO_ANSWER: Final = Answer(outcome=None)  # type: ignore[arg-type]  # stands where a row was skipped


def table(questions: Questions, answers: Sequence[Answer | None], run_id: str, at: float) -> pa.Table:
    """Make the results table of a run.

    Parameters
    ----------
    questions
        What was asked.
    answers
        What became of it, by position; ``None`` for a skipped row.
    run_id
        Goes into the schema's metadata.
    at
        Time of the run (epoch seconds), for prices.
    """
    each = [NO_ANSWER if answer is None else answer for answer in answers]
    responses = [_response(answer) for answer in each]
    errors = [_error(answer) for answer in each]
    columns = {
        **_asked(questions),
        **_timed(each),
        **_answered(responses),
        **_failed(errors, answers),
        "request_key": pa.array(questions.keys, pa.binary(32)),
    }
    columns |= _priced(questions, responses, columns, at)
    whole = with_run(run_id)
    return pa.table([columns[name].cast(whole.field(name).type) for name in whole.names], schema=whole)


def _response(answer: Answer) -> CompletionResponse | None:
    outcome = answer.outcome
    return outcome.unwrap() if answer is not NO_ANSWER and is_successful(outcome) else None


def _error(answer: Answer) -> LLMError | None:
    outcome = answer.outcome
    return outcome.failure() if answer is not NO_ANSWER and not is_successful(outcome) else None


def _asked(questions: Questions) -> dict[str, pa.Array]:
    """Say of each position which row, sample, provider and model it is."""
    targets = [one.target for one in questions.asks]
    rows, models, samples = questions.size, len(targets), questions.samples
    which = np.tile(np.repeat(np.arange(models, dtype=np.int32), samples), rows)
    return {
        "row": pa.array(np.repeat(np.arange(rows, dtype=np.int64), models * samples)),
        "sample": pa.array(np.tile(np.arange(samples, dtype=np.int32), rows * models)),
        "provider": _named(which, [target.provider.name for target in targets]),
        "model": _named(which, [target.model for target in targets]),
    }


def _named(which: Any, words: list[str]) -> pa.Array:
    """Make a dictionary column in which equal words are one entry."""
    distinct = list(dict.fromkeys(words))
    places = np.array([distinct.index(word) for word in words], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(places[which] if words else which, pa.array(distinct, pa.string()))


def _timed(each: Sequence[Answer]) -> dict[str, pa.Array]:
    """Say how long everything took; a row that waited for nothing waited zero."""
    started = [int(answer.started_at * MICRO) if answer.started_at else None for answer in each]
    return {
        "latency_s": pa.array([answer.latency_s for answer in each], pa.float64()),
        "ttft_s": pa.array([answer.ttft_s for answer in each], pa.float64()),
        "queue_s": pa.array([answer.queue_s for answer in each], pa.float64()),
        "rate_wait_s": pa.array(
            [0.0 if answer.rate_wait_s is None and answer.attempts else answer.rate_wait_s for answer in each],
            pa.float64(),
        ),
        "total_s": pa.array([answer.total_s for answer in each], pa.float64()),
        "attempts": pa.array([answer.attempts for answer in each], pa.int16()),
        "cache_hit": pa.array([answer.cache_hit for answer in each], pa.bool_()),
        "dropped_params": pa.array([list(answer.dropped) for answer in each], pa.list_(pa.string())),
        "started_at": pa.array(started, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    }


def _answered(responses: Sequence[CompletionResponse | None]) -> dict[str, pa.Array]:
    """Say what the model answered."""
    usages = [None if response is None else response.usage for response in responses]
    counts = {
        name: pa.array([None if usage is None else getattr(usage, name) for usage in usages], pa.int64())
        for name in Tokens.__slots__
    }
    return {
        "response": _strings([None if response is None else response.text for response in responses]),
        "served_model": _strings([response.served_model or None if response else None for response in responses]),
        "request_id": _strings([response.request_id or None if response else None for response in responses]),
        "finish_reason": _strings([response.finish_reason if response else None for response in responses]),
        "tool_calls": pa.array([_calls(response) for response in responses], RESULTS.field("tool_calls").type),
        "parsed": pa.nulls(len(responses), pa.string()),
        **counts,
    }


def _strings(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _calls(response: CompletionResponse | None) -> list[dict[str, str]] | None:
    if response is None:
        return None
    if len(response.parts) == 1 and response.finish_reason != "tool_calls":
        return []
    return [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in response.tool_calls]


def _failed(errors: Sequence[LLMError | None], answers: Sequence[Answer | None]) -> dict[str, pa.Array]:
    """Say what became of each row, and why."""
    status = [
        "skipped" if answer is None else "ok" if error is None else _status(error)
        for error, answer in zip(errors, answers, strict=True)
    ]
    return {
        "status": _strings(list(status)),
        "error_type": _strings([None if error is None else kind(error) for error in errors]),
        "error": _strings([None if error is None else str(error) for error in errors]),
    }


def _status(error: LLMError) -> str:
    return "cancelled" if isinstance(error, Cancelled) else "error"


def _priced(
    questions: Questions, responses: Sequence[CompletionResponse | None], columns: dict[str, pa.Array], at: float
) -> dict[str, pa.Array]:
    """Say what each answer is worth, and what was paid for it now."""
    targets = [one.target for one in questions.asks]
    step = questions.samples
    many = max(1, len(targets))
    found: dict[tuple[int, str], int] = {}
    which = [
        None if response is None else found.setdefault((position // step % many, response.served_model), len(found))
        for position, response in enumerate(responses)
    ]
    prices = [_price(targets[target], served, at) for target, served in found]
    named = pa.array([price.price_id if price else None for price in prices], pa.string())
    places = pa.array(which, pa.int64())
    worth = cost_columns(Tokens(**{name: columns[name] for name in Tokens.__slots__}), prices, places)
    nothing = from_nanos(np.zeros(len(which), np.int64))
    return {
        "list_cost_usd": worth,
        "cost_usd": pc.if_else(columns["cache_hit"], nothing, worth),
        "price_id": named.take(places),
    }


def _price(target: Target, served: str, at: float) -> Price | None:
    return price_served(target.provider.name, target.model, served, datetime.fromtimestamp(at, UTC))


def total_usd(column: pa.ChunkedArray) -> str:
    """Sum a money column exactly, as text; what is unknown is left out.

    Examples
    --------
    >>> from decimal import Decimal
    >>> total_usd(pa.chunked_array([pa.array([Decimal("0.1"), None], pa.decimal128(18, 9))]))
    '0.100000000'
    """
    nanos = sum(to_nanos(column).tolist())
    return f"{nanos // 10**9}.{nanos % 10**9:09d}"
