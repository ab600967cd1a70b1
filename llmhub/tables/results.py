"""Answers to rows, and rows to the one Arrow table. One outcome, one row; order kept; schema exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.cache.store import KEY_BYTES
from llmhub.core.errors import BudgetExceeded, Cancelled, LLMError, error_type_name
from llmhub.core.json_schema import extract_json
from llmhub.core.pricing import Price, compute_cost_nano_usd
from llmhub.core.serialization import StoredResponse, from_stored_parts
from llmhub.core.types import ToolCall, join_text
from llmhub.engine.block_lookup import StoredBlock
from llmhub.engine.call import Answer, Target
from llmhub.engine.fan_out_types import FanOutResult
from llmhub.engine.fan_out_types import ResultEvent as Landing
from llmhub.engine.row_outcome import RowOutcome, to_stored
from llmhub.providers.prices import find_served_price
from llmhub.tables.cost_columns import TokenColumns, cost_column_by_price, from_nanos, to_nanos
from llmhub.tables.prompt_batch import PromptBatch
from llmhub.tables.schema import RESULTS, schema_for_run
from llmhub.tables.stored_columns import (
    MICRO,
    ArrowColumns,
    block_columns,
    concat_columns,
    interleave,
    iter_segments,
    missing_positions,
)

NO_CALL: Final = Answer(Failure(Cancelled()))
"""Stands for the timings of a row that made no call: all absent."""


@dataclass(frozen=True, slots=True)
class _OutcomeLists:
    """What answered each row, in three lists side by side.

    ``kept`` holds what models said, ``failed`` what went wrong, ``calls`` the calls of this run; each ``None`` where
    there is none.
    """

    responses: list[StoredResponse | None]
    errors: list[LLMError | None]
    calls: list[Answer]


def results_table(batch: PromptBatch, outcome: FanOutResult, run_id: str, priced_at: float) -> pa.Table:
    """Make the results table of a run.

    Parameters
    ----------
    batch
        What was asked.
    outcome
        What became of it.
    run_id
        Goes into the schema's metadata.
    priced_at
        Time of the run (epoch seconds), for prices.
    """
    answers = outcomes_by_position(batch, outcome)
    positions = np.arange(len(batch))
    return _build_table(
        batch,
        positions,
        _outcome_columns(replace(outcome, outcomes=answers)),
        answers,
        (schema_for_run(run_id), priced_at),
    )


def results_part(batch: PromptBatch, completed: CompletedPart, schema: pa.Schema, priced_at: float) -> pa.Table:
    """Make the rows of some positions, in the order in which they are given (see `results_table`)."""
    if isinstance(completed, StoredBlock):
        said = concat_columns([block_columns(completed)])
        return _build_table(batch, completed.positions, said, (), (schema, priced_at))
    said = concat_columns([_columns_from_outcomes(completed.answers, completed.queued_s)])
    return _build_table(batch, np.asarray(completed.positions, np.int64), said, completed.answers, (schema, priced_at))


def completed_results(batch: PromptBatch, completed: Iterable[Landing], run_id: str, priced_at: float) -> pa.Table:
    """Make the rows of whatever has landed so far, in input order (see `results_table`)."""
    schema = schema_for_run(run_id)
    ones: list[tuple[int, RowOutcome, float]] = []
    blocks: list[CompletedPart] = []
    for one in completed:
        if isinstance(one, tuple):
            ones.append(one)
        else:
            blocks.append(one)
    if ones:
        blocks.append(CompletedRows(*zip(*ones, strict=True)))
    if not blocks:
        return schema.empty_table()
    whole = pa.concat_tables([results_part(batch, some, schema, priced_at) for some in blocks]).unify_dictionaries()
    return whole.take(np.argsort(np.concatenate([np.asarray(some.positions, np.int64) for some in blocks])))


@dataclass(frozen=True, slots=True)
class CompletedRows:
    """Positions that have their answer, the answers (``None`` for what was skipped), and what each waited for."""

    positions: Sequence[int]
    answers: Sequence[RowOutcome | None]
    queued_s: Sequence[float]


CompletedPart: TypeAlias = StoredBlock | CompletedRows


def _build_table(
    questions: PromptBatch,
    positions: Any,
    said: dict[str, pa.ChunkedArray],
    answers: Sequence[RowOutcome | None],
    head: tuple[pa.Schema, float],
) -> pa.Table:
    """Make rows of what is known of their positions; ``head`` is the schema, and the time for prices."""
    schema, at = head
    which = _target_index(questions, positions)
    columns = {
        **_request_columns(questions, positions, which),
        **said,
        "request_key": _request_keys(questions, positions),
    }
    columns["parsed"] = _parsed_column(questions, which, columns["response"])
    elsewhere = {
        place: one.target for place, one in enumerate(answers) if isinstance(one, Answer) and one.target is not None
    }
    columns |= _cost_columns([one.target for one in questions.target_prompts], which, columns, elsewhere, at)
    columns["served_model"] = _mark_fallbacks(columns["served_model"], elsewhere)
    columns["cost_usd"] = _add_failed_attempts(columns["cost_usd"], answers, at)
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def outcomes_by_position(batch: PromptBatch, outcome: FanOutResult) -> list[RowOutcome | None]:
    """Give the answers by position, with those of the rows that could not be asked."""
    if not batch.invalid_rows:
        return outcome.outcomes
    answers = list(outcome.outcomes)
    for row, error in batch.invalid_rows.items():
        for position in range(row * batch.positions_per_row, (row + 1) * batch.positions_per_row):
            answers[position] = Answer(Failure(error))
    return answers


def _target_index(questions: PromptBatch, positions: Any) -> Any:
    """Say of each position which of the targets it asks."""
    if questions.target_of_row is not None:
        return np.asarray(questions.target_of_row, np.int32)[positions // questions.n_samples]
    return (positions // questions.n_samples % max(1, len(questions.target_prompts))).astype(np.int32)


def _outcome_columns(ran: FanOutResult) -> dict[str, pa.ChunkedArray]:
    """Say of each position what came of it: stretch by stretch, blocks from a store as they are."""
    stretches = list(iter_segments(ran.blocks, len(ran.outcomes)))[::-1] or [(0, 0, None)]
    if isinstance(ran.blocks, list):
        ran.blocks.clear()  # so that each can go when it has been read
    return concat_columns(_segment_columns(ran, *stretches.pop()) for _ in range(len(stretches)))


def _segment_columns(ran: FanOutResult, low: int, high: int, block: StoredBlock | None) -> dict[str, pa.Array]:
    if block is None:
        return _columns_from_outcomes(ran.outcomes[low:high], ran.queue_s[low:high])
    if len(block.positions) == high - low:
        return block_columns(block)
    rest = missing_positions(low, high, block).tolist()
    return interleave(
        low, high, block, _columns_from_outcomes([ran.outcomes[at] for at in rest], [ran.queue_s[at] for at in rest])
    )


def _columns_from_outcomes(answers: Sequence[RowOutcome | None], queued_s: Sequence[float]) -> dict[str, pa.Array]:
    """Say what came of each of these, one by one."""
    rows = _split_outcomes(answers)
    return {
        **_response_columns(rows.responses),
        **_timing_columns(rows, answers, queued_s),
        **_status_columns(rows.errors, answers),
    }


def _request_keys(questions: PromptBatch, positions: Any) -> pa.Array:
    """Give the keys; a row that was not asked has none."""
    asked = ~(np.frombuffer(questions.skipped, np.bool_) | np.frombuffer(questions.not_reached, np.bool_))
    asked[list(questions.invalid_rows)] = False
    there = asked[positions // max(1, questions.positions_per_row)]
    bits = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    keys = np.frombuffer(questions.keys, f"V{KEY_BYTES}")[positions]
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), len(positions), [bits, pa.py_buffer(keys.tobytes())])


def _split_outcomes(answers: Sequence[RowOutcome | None]) -> _OutcomeLists:
    """Put every answer into its list."""
    kept: list[StoredResponse | None] = []
    failed: list[LLMError | None] = []
    calls: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Answer):
            good = is_successful(answer.outcome)
            kept.append(to_stored(answer) if good else None)
            failed.append(None if good else answer.outcome.failure())
            calls.append(answer)
        else:
            kept.append(answer)
            failed.append(None)
            calls.append(NO_CALL)
    return _OutcomeLists(kept, failed, calls)


def _request_columns(questions: PromptBatch, positions: Any, which: Any) -> dict[str, pa.Array]:
    """Say of each position which row, sample, provider and model it is."""
    targets = [one.target for one in questions.target_prompts]
    return {
        "row": pa.array(positions // max(1, questions.positions_per_row), pa.int64()),
        "sample": pa.array((positions % questions.n_samples).astype(np.int32)),
        "provider": _dictionary_column(which, [target.provider.name for target in targets]),
        "model": _dictionary_column(which, [target.model for target in targets]),
    }


def _dictionary_column(which: Any, words: list[str]) -> pa.Array:
    """Make a dictionary column in which equal words are one entry."""
    distinct = list(dict.fromkeys(words))
    places = np.array([distinct.index(word) for word in words], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(places[which] if words else which, pa.array(distinct, pa.string()))


def _timing_columns(
    rows: _OutcomeLists, answers: Sequence[RowOutcome | None], queued_s: Sequence[float]
) -> dict[str, pa.Array]:
    """Say how long everything took; a hit keeps the provider's time of the original call, and waited for nothing."""
    hits = [isinstance(answer, StoredResponse) or (answer is not None and answer.cache_hit) for answer in answers]
    sources = [kept if kept is not None else call for kept, call in zip(rows.responses, rows.calls, strict=True)]
    started = [int(source.started_at * MICRO) if source.started_at else None for source in sources]
    floats = {
        "latency_s": [source.latency_s for source in sources],
        "ttft_s": [source.ttft_s for source in sources],
        "queue_s": [waited if call.attempts else None for waited, call in zip(queued_s, rows.calls, strict=True)],
        "rate_wait_s": [0.0 if call.rate_wait_s is None and call.attempts else call.rate_wait_s for call in rows.calls],
        "total_s": [
            None if call.total_s is None else call.total_s + waited
            for waited, call in zip(queued_s, rows.calls, strict=True)
        ],
    }
    return {
        **{name: pa.array(values, pa.float64()) for name, values in floats.items()},
        "attempts": pa.array([call.attempts for call in rows.calls], pa.int16()),
        "cache_hit": pa.array(hits, pa.bool_()),
        "dropped_params": pa.array([source.dropped for source in sources], pa.list_(pa.string())),
        "started_at": pa.array(started, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    }


def _response_columns(kept: Sequence[StoredResponse | None]) -> dict[str, pa.Array]:
    """Say what the models answered."""
    counts = zip(*(NO_COUNTS if one is None else one.usage for one in kept), strict=True) if kept else [()] * 5
    usage = {name: pa.array(values, pa.int64()) for name, values in zip(TokenColumns.__slots__, counts, strict=True)}
    return {
        "response": pa.array([None if one is None else _response_text(one) for one in kept], pa.string()),
        "served_model": pa.array([one.served_model or None if one else None for one in kept], pa.string()),
        "request_id": pa.array([one.request_id or None if one else None for one in kept], pa.string()),
        "finish_reason": pa.array([one.finish_reason if one else None for one in kept], pa.string()),
        "tool_calls": pa.array([_tool_calls(one) for one in kept], RESULTS.field("tool_calls").type),
        **usage,
    }


def _parsed_column(questions: PromptBatch, which: Any, responses: pa.ChunkedArray) -> pa.Array:
    """Give each answer that a schema was asked of as JSON text; null where it is none, or nothing was asked of it."""
    wanted = [one.request.response_schema is not None for one in questions.target_prompts]
    if not any(wanted):
        return pa.nulls(len(responses), pa.string())
    texts = [
        extract_json(text) if text is not None and wanted[target] else None
        for target, text in zip(which.tolist(), responses.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())


NO_COUNTS: Final = (None, None, None, None, None)


def _response_text(kept: StoredResponse) -> str:
    return kept.parts if isinstance(kept.parts, str) else join_text(from_stored_parts(kept.parts))


def _tool_calls(kept: StoredResponse | None) -> list[dict[str, str]] | None:
    if kept is None:
        return None
    if isinstance(kept.parts, str):
        return []
    calls = (part for part in from_stored_parts(kept.parts) if isinstance(part, ToolCall))
    return [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]


def _status_columns(errors: Sequence[LLMError | None], answers: Sequence[RowOutcome | None]) -> dict[str, pa.Array]:
    """Say what became of each row, and why."""
    status = [
        "skipped" if answer is None else "ok" if error is None else _error_status(error)
        for error, answer in zip(errors, answers, strict=True)
    ]
    return {
        "status": pa.array(status, pa.string()),
        "error_type": pa.array([None if error is None else error_type_name(error) for error in errors], pa.string()),
        "error": pa.array([None if error is None else str(error) for error in errors], pa.string()),
    }


STATUS_BY_ERROR: Final[Mapping[type[LLMError], str]] = {Cancelled: "cancelled", BudgetExceeded: "budget"}
"""Failures that are no fault of anybody's; every other is an ``error``."""


def _error_status(error: LLMError) -> str:
    return STATUS_BY_ERROR.get(type(error), "error")


def _mark_fallbacks(served: pa.ChunkedArray, elsewhere: Mapping[int, Target]) -> pa.ChunkedArray:
    """Have rows that another answered than was asked say who: ``provider/model``."""
    if not elsewhere:
        return served
    names = served.to_pylist()
    for position, target in elsewhere.items():
        names[position] = f"{target.provider.name}/{names[position] or target.model}"
    return pa.chunked_array([pa.array(names, pa.string())])


def _cost_columns(
    targets: Sequence[Target], asked: Any, columns: ArrowColumns, elsewhere: Mapping[int, Target], at: float
) -> dict[str, pa.Array]:
    """Say what each answer is worth, and what was paid for it now: at the price of who answered."""
    served, which = _served_models(len(targets), asked, columns)
    prices = [_price_of(targets[target], name, at) for target, name in served]
    if elsewhere:
        places = which.to_pylist()
        whose: dict[tuple[str, str], int] = {}
        for position, target in elsewhere.items():
            if places[position] is not None:
                pair = (target.name, served[places[position]][1])
                if pair not in whose:
                    whose[pair] = len(prices)
                    prices.append(_price_of(target, pair[1], at))
                places[position] = whose[pair]
        which = pa.array(places, pa.int64())
    named = pa.array([price.price_id if price else None for price in prices], pa.string())
    worth = cost_column_by_price(
        TokenColumns(**{name: columns[name] for name in TokenColumns.__slots__}), prices, which
    )
    nothing = from_nanos(np.zeros(len(which), np.int64))
    return {
        "list_cost_usd": worth,
        "cost_usd": pc.if_else(columns["cache_hit"].combine_chunks(), nothing, worth),
        "price_id": named.take(which),
    }


def _add_failed_attempts(costs: pa.Array, answers: Sequence[RowOutcome | None], at: float) -> pa.Array:
    """Add what failed attempts cost, at the price of whoever was asked; a row that only failed cost just that."""
    spent = [(position, one) for position, one in enumerate(answers) if isinstance(one, Answer) and one.billed_failures]
    if not spent:
        return costs
    nanos = to_nanos(costs)
    known = costs.is_valid().to_numpy(zero_copy_only=False).copy()
    for position, call in spent:
        paid = [
            compute_cost_nano_usd(one.usage, found) if (found := _price_of(one.target, "", at)) else None
            for one in call.billed_failures
        ]
        known[position] |= not is_successful(call.outcome)
        known[position] &= None not in paid
        nanos[position] += sum(filter(None, paid))
    return from_nanos(nanos, known)


def _served_models(lanes: int, asked: Any, columns: ArrowColumns) -> tuple[list[tuple[int, str]], pa.Array]:
    """Name the pairs of a target and the model that served it, and say which of them each position is, if any."""
    models = columns["served_model"].combine_chunks().dictionary_encode()
    names = [*models.dictionary.to_pylist(), ""]
    name = np.asarray(models.indices.fill_null(len(names) - 1), np.int64)
    many = max(1, lanes)
    pair = asked.astype(np.int64) * len(names) + name
    there = np.asarray(pc.equal(columns["status"].combine_chunks(), "ok"))
    taken = np.flatnonzero(np.bincount(pair[there], minlength=many * len(names)))
    place = np.zeros(many * len(names), np.int64)
    place[taken] = np.arange(len(taken))
    served = [(one // len(names), names[one % len(names)]) for one in taken.tolist()]
    return served, pa.array(place[pair], mask=~there)


def _price_of(target: Target, served: str, at: float) -> Price | None:
    return find_served_price(target.provider.name, target.model, served, datetime.fromtimestamp(at, UTC))


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
