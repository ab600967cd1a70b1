"""Outcomes of a run to the results table (`llmhub.tables.schema.RESULTS`): one row per position, in input order.

Responses that the cache returned as a block of bytes are read column by column, without an object for each; all others
are converted one by one. Prices are those at the time of the run, of the model that answered rather than the requested
one. A row that was not sent (skipped, invalid or stopped early) has no key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.cache.store import KEY_BYTES
from llmhub.core.errors import attach_table
from llmhub.core.json_schema import extract_json
from llmhub.core.pricing import Price, compute_cost_nano_usd
from llmhub.core.serialization import StoredResponse, stored_usage
from llmhub.core.types import Usage
from llmhub.engine.block_lookup import StoredBlock
from llmhub.engine.call import Answer, Target
from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
from llmhub.engine.row_outcome import RowOutcome, aborted_outcome
from llmhub.providers.prices import find_served_price, unpriced_id
from llmhub.tables.batch_columns import REPORTED, batch_answers, batch_costs
from llmhub.tables.cost_columns import (
    TokenColumns,
    cost_column_by_price,
    from_nanos,
    mark_uncertain_costs,
    to_nanos,
)
from llmhub.tables.outcome_columns import columns_from_outcomes
from llmhub.tables.prompt_batch import PromptBatch
from llmhub.tables.row_redaction import restore_columns
from llmhub.tables.schema import schema_for_run
from llmhub.tables.stored_columns import (
    ArrowColumns,
    block_columns,
    concat_columns,
    interleave,
    iter_segments,
    missing_positions,
)

OUTCOMES_AT_ONCE: Final = 8_192
"""Outcomes whose columns are built at a time."""
COST_COLUMNS: Final = ("list_cost_usd", "cost_usd", "price_id")


@dataclass(frozen=True, slots=True)
class CompletedRows:
    """Outcomes of some positions.

    Parameters
    ----------
    positions
        Positions in the batch.
    outcomes
        Their outcomes, ``None`` for a skipped row.
    queue_s
        Seconds each waited for a concurrency slot.
    """

    positions: Sequence[int]
    outcomes: Sequence[RowOutcome | None]
    queue_s: Sequence[float]


CompletedPart: TypeAlias = StoredBlock | CompletedRows


def _ignore_problem(_problem: str) -> None:
    """Do nothing."""


def build_results(
    batch: PromptBatch,
    result: FanOutResult,
    run_id: str,
    priced_at: float,
    on_problem: Callable[[str], None] = _ignore_problem,
) -> pa.Table:
    """Return the results table of a run.

    Parameters
    ----------
    batch
        The prompts of the run.
    result
        Their outcomes. Its blocks, if a list, are emptied to free memory while the table is built.
    run_id
        Written into the schema metadata.
    priced_at
        Time for which prices are looked up (epoch seconds).
    on_problem
        Called with a message if costs are unknown because they could not be computed.

    Raises
    ------
    BaseException
        Whatever prevented it, with a table of the responses in ``table`` (see `llmhub.tables.rescue`).
    """
    outcomes = outcomes_by_position(batch, result)
    schema = schema_for_run(run_id, simulated=batch.is_simulated)
    try:
        if result.packed:
            return _build_by_segments(batch, replace(result, outcomes=outcomes), schema, priced_at, on_problem)
        positions = np.arange(len(batch))
        columns = _outcome_columns(replace(result, outcomes=outcomes))
        return _build_table(batch, positions, columns, outcomes, schema, priced_at, on_problem)
    except BaseException as error:
        from llmhub.tables.rescue import rescue_table  # noqa: PLC0415 - it imports this module

        attach_table(error, rescue_table(batch, replace(result, outcomes=outcomes), schema))
        raise


def results_part(batch: PromptBatch, completed: CompletedPart, schema: pa.Schema, priced_at: float) -> pa.Table:
    """Return the results of some positions, in their order in ``completed`` (see `build_results`)."""
    try:
        if isinstance(completed, StoredBlock):
            columns = concat_columns([block_columns(completed)])
            in_batch = () if completed.attempts is None else range(len(completed.positions))
            return _build_table(batch, completed.positions, columns, (), schema, priced_at, in_batch=in_batch)
        columns = concat_columns([columns_from_outcomes(completed.outcomes, completed.queue_s)])
        positions = np.asarray(completed.positions, np.int64)
        return _build_table(batch, positions, columns, completed.outcomes, schema, priced_at)
    except BaseException as error:
        from llmhub.tables.rescue import rescue_part  # noqa: PLC0415 - it imports this module

        attach_table(error, rescue_part(batch, completed, schema))
        raise


def completed_results(batch: PromptBatch, events: Iterable[ResultEvent], run_id: str, priced_at: float) -> pa.Table:
    """Return the results of the positions completed so far, in input order (see `build_results`)."""
    schema = schema_for_run(run_id, simulated=batch.is_simulated)
    rows: list[tuple[int, RowOutcome, float]] = []
    parts: list[CompletedPart] = []
    for event in events:
        if isinstance(event, tuple):
            rows.append(event)
        else:
            parts.append(event)
    if rows:
        parts.append(CompletedRows(*zip(*rows, strict=True)))
    if not parts:
        return schema.empty_table()
    table = pa.concat_tables([results_part(batch, part, schema, priced_at) for part in parts]).unify_dictionaries()
    return table.take(np.argsort(np.concatenate([np.asarray(part.positions, np.int64) for part in parts])))


def outcomes_by_position(batch: PromptBatch, result: FanOutResult) -> list[RowOutcome | None]:
    """Return the outcomes by position, including the errors of rows without a valid prompt.

    In a run that an exception ended, a row without an outcome is cancelled, and not skipped.
    """
    if not batch.invalid_rows and result.error is None:
        return result.outcomes
    outcomes = list(result.outcomes)
    if result.error is not None:
        aborted = aborted_outcome(result.error)
        for position in _unsettled_positions(batch, result):
            outcomes[position] = aborted
    for row, error in batch.invalid_rows.items():
        for position in range(row * batch.positions_per_row, (row + 1) * batch.positions_per_row):
            outcomes[position] = Answer(Failure(error))
    return outcomes


def _unsettled_positions(batch: PromptBatch, result: FanOutResult) -> list[int]:
    """Return the positions of rows to be sent that have neither an outcome nor a stored response."""
    stored = {int(position) for block in result.blocks for position in block.positions}
    packed = result.packed if result.packed is not None else ()
    unsettled = []
    for position, outcome in enumerate(result.outcomes):
        row = position // max(1, batch.positions_per_row)
        if outcome is None and position not in stored and position not in packed and not batch.skipped[row]:
            unsettled.append(position)
            if not any(batch.key_of(position)):
                batch.not_reached[row] = 1  # it was not planned, so it has no key
    return unsettled


def _build_table(
    batch: PromptBatch,
    positions: Any,
    outcome_columns: dict[str, pa.ChunkedArray],
    outcomes: Sequence[RowOutcome | None],
    schema: pa.Schema,
    priced_at: float,
    on_problem: Callable[[str], None] = _ignore_problem,
    in_batch: Sequence[int] = (),
) -> pa.Table:
    """Return the table of some positions, given the columns that depend on the outcome alone.

    ``in_batch`` are the indices of rows that batches answered and that have no outcome as an object.
    """
    target_index = _target_index(batch, positions)
    outcome_columns = restore_columns(batch, positions, target_index, outcome_columns)
    columns = {
        **_request_columns(batch, positions, target_index),
        **outcome_columns,
        "request_key": _request_keys(batch, positions),
    }
    columns["parsed"] = _parsed_column(batch, target_index, columns["response"])
    fallbacks = {
        index: outcome.target
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Answer) and outcome.target is not None
    }
    targets = [target_prompt.target for target_prompt in batch.target_prompts]
    try:
        costs = _cost_columns(targets, target_index, columns, fallbacks, priced_at)
        costs |= _apply_billing({**columns, **costs}, outcomes, targets, target_index, priced_at)
        batch_rows = [*batch_answers(outcomes), *in_batch]
        costs |= _apply_batch_prices({**columns, **costs}, outcomes, batch_rows, targets, target_index, priced_at)
        costs["cost_usd"] = _add_failed_attempts(costs["cost_usd"], outcomes, priced_at)
        costs["price_id"] = mark_uncertain_costs(costs["price_id"], _uncertain_requests(outcomes))
    except Exception as error:  # noqa: BLE001 - an unknown cost is no reason to lose a response
        on_problem(f"prices could not be looked up, so costs are unknown ({type(error).__name__}: {error})")
        costs = {name: pa.nulls(len(positions), schema.field(name).type) for name in COST_COLUMNS}
    columns |= costs
    columns["served_model"] = _mark_fallbacks(columns["served_model"], fallbacks)
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


# Columns of the request


def _target_index(batch: PromptBatch, positions: Any) -> Any:
    """Return the index of the requested target by position."""
    if batch.target_of_row is not None:
        return np.asarray(batch.target_of_row, np.int32)[positions // batch.n_samples]
    return (positions // batch.n_samples % max(1, len(batch.target_prompts))).astype(np.int32)


def _request_columns(batch: PromptBatch, positions: Any, target_index: Any) -> dict[str, pa.Array]:
    targets = [target_prompt.target for target_prompt in batch.target_prompts]
    return {
        "row": pa.array(positions // max(1, batch.positions_per_row), pa.int64()),
        "sample": pa.array((positions % batch.n_samples).astype(np.int32)),
        "provider": _dictionary_column(target_index, [target.provider.name for target in targets]),
        "model": _dictionary_column(target_index, [target.model for target in targets]),
    }


def _dictionary_column(target_index: Any, names: list[str]) -> pa.Array:
    """Return the names of the targets as a dictionary column without duplicate entries."""
    distinct = list(dict.fromkeys(names))
    codes = np.array([distinct.index(name) for name in names], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        codes[target_index] if names else target_index, pa.array(distinct, pa.string())
    )


def _request_keys(batch: PromptBatch, positions: Any) -> pa.Array:
    """Return the cache keys; null for rows that have none."""
    has_key = ~(np.frombuffer(batch.skipped, np.bool_) | np.frombuffer(batch.not_reached, np.bool_))
    has_key[list(batch.invalid_rows)] = False
    valid = has_key[positions // max(1, batch.positions_per_row)]
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    keys = np.frombuffer(batch.keys, f"V{KEY_BYTES}")[positions]
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), len(positions), [bitmap, pa.py_buffer(keys.tobytes())])


# Columns of the outcome


def _outcome_columns(result: FanOutResult) -> dict[str, pa.ChunkedArray]:
    """Return the columns of all positions, segment by segment."""
    return concat_columns(_segment_columns(result, *segment) for segment in _taken_segments(result))


def _taken_segments(result: FanOutResult) -> Iterator[tuple[int, int, StoredBlock | None]]:
    """Yield the segments of all positions (see `iter_segments`). Each block can be freed once it has been read."""
    segments = list(_short_segments(iter_segments(result.blocks, len(result.outcomes))))[::-1] or [(0, 0, None)]
    if isinstance(result.blocks, list):
        result.blocks.clear()
    while segments:
        yield segments.pop()


def _build_by_segments(
    batch: PromptBatch,
    result: FanOutResult,
    schema: pa.Schema,
    priced_at: float,
    on_problem: Callable[[str], None],
) -> pa.Table:
    """Return the table of a run with batches, a segment at a time: no more of their answers exist as objects."""
    problems: list[str] = []
    parts: list[pa.Table] = []
    for segment in _taken_segments(result):
        parts.append(_segment_table(batch, result, segment, schema, priced_at, problems.append))
        pa.default_memory_pool().release_unused()  # what these columns were made of
    for problem in dict.fromkeys(problems):
        on_problem(problem)
    return pa.concat_tables(parts).unify_dictionaries()


def _segment_table(
    batch: PromptBatch,
    result: FanOutResult,
    segment: tuple[int, int, StoredBlock | None],
    schema: pa.Schema,
    priced_at: float,
    on_problem: Callable[[str], None],
) -> pa.Table:
    """Return the table of the positions of one segment of a run with batches."""
    start, stop, block = segment
    packed, outcomes = result.packed, result.outcomes[start:stop]
    assert packed is not None  # noqa: S101 - checked by the caller
    in_packed = np.flatnonzero(packed.contains(np.arange(start, stop))) + start
    answers = packed.block(in_packed)
    in_answers = np.zeros(stop - start, np.bool_)
    in_answers[answers.positions - start] = True
    for position in in_packed[~in_answers[in_packed - start]].tolist():
        outcomes[position - start] = packed.answer(position, batch.key_of(position))
    is_other = ~in_answers
    if block is not None:
        is_other[block.positions - start] = False
    others = np.flatnonzero(is_other)
    queue_s = result.queue_s[start:stop]
    chosen = others.tolist()
    columns = columns_from_outcomes([outcomes[index] for index in chosen], [queue_s[index] for index in chosen])
    at = others + start
    for part in (answers, block):
        if part is not None and len(part.positions):
            columns, at = interleave(part, at, columns), np.sort(np.concatenate([part.positions, at]))
    in_batch = np.flatnonzero(in_answers).tolist()
    positions = np.arange(start, stop)
    columns = concat_columns([columns])
    return _build_table(batch, positions, columns, outcomes, schema, priced_at, on_problem, in_batch)


def _short_segments(
    segments: Iterable[tuple[int, int, StoredBlock | None]],
) -> Iterator[tuple[int, int, StoredBlock | None]]:
    """Split segments without a block, so that the objects their columns are made of do not exist all at once."""
    for start, stop, block in segments:
        step = OUTCOMES_AT_ONCE if block is None else max(1, stop - start)
        for first in range(start, stop, step):
            yield first, min(first + step, stop), block


def _segment_columns(result: FanOutResult, start: int, stop: int, block: StoredBlock | None) -> dict[str, pa.Array]:
    if block is None:
        return columns_from_outcomes(result.outcomes[start:stop], result.queue_s[start:stop])
    if len(block.positions) == stop - start:
        return block_columns(block)
    others = missing_positions(start, stop, block)
    outcomes, queue_s = [result.outcomes[index] for index in others], [result.queue_s[index] for index in others]
    return interleave(block, others, columns_from_outcomes(outcomes, queue_s))


def _parsed_column(batch: PromptBatch, target_index: Any, responses: pa.ChunkedArray) -> pa.Array:
    """Return the JSON text of responses to requests with a schema; null for others and for responses without JSON."""
    has_schema = [target_prompt.request.response_schema is not None for target_prompt in batch.target_prompts]
    if not any(has_schema):
        return pa.nulls(len(responses), pa.string())
    texts = [
        extract_json(text) if text is not None and has_schema[target] else None
        for target, text in zip(target_index.tolist(), responses.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())


def _mark_fallbacks(served_model: pa.ChunkedArray, fallbacks: Mapping[int, Target]) -> pa.ChunkedArray:
    """Write the served model of rows answered by a fallback as ``provider/model``."""
    if not fallbacks:
        return served_model
    names = served_model.to_pylist()
    for index, target in fallbacks.items():
        names[index] = f"{target.provider.name}/{names[index] or target.model}"
    return pa.chunked_array([pa.array(names, pa.string())])


# Costs


def _cost_columns(
    targets: Sequence[Target],
    target_index: Any,
    columns: ArrowColumns,
    fallbacks: Mapping[int, Target],
    priced_at: float,
) -> dict[str, pa.Array]:
    """Return list price, cost and price id by position; a cache hit costs nothing."""
    served, price_index = _served_models(len(targets), target_index, columns)
    prices = [_price_of(targets[target], model, priced_at) for target, model in served]
    unpriced = [unpriced_id(targets[target].provider.name) for target, _ in served]
    if fallbacks:
        price_index = _price_fallbacks(fallbacks, served, price_index, prices, priced_at)
    ids = [price.price_id if price else name for price, name in zip_longest(prices, unpriced)]
    price_ids = pa.array(ids, pa.string())
    tokens = TokenColumns(**{name: columns[name] for name in TokenColumns.__slots__})
    list_cost = cost_column_by_price(tokens, prices, price_index)
    zero = from_nanos(np.zeros(len(price_index), np.int64))
    return {
        "list_cost_usd": list_cost,
        "cost_usd": pc.if_else(columns["cache_hit"].combine_chunks(), zero, list_cost),
        "price_id": price_ids.take(price_index),
    }


def _apply_billing(
    columns: ArrowColumns,
    outcomes: Sequence[RowOutcome | None],
    targets: Sequence[Target],
    target_index: Any,
    priced_at: float,
) -> dict[str, pa.Array]:
    """Return the cost columns with the rows replaced whose responses say more of their cost than token counts."""
    billed: dict[int, tuple[Usage, Target]] = {}
    for index, outcome in enumerate(outcomes):
        usage, target = _billed_usage(outcome)
        if usage is not None:
            billed[index] = (usage, target or targets[target_index[index]])
    if not billed:
        return {}
    nanos, is_hit = to_nanos(columns["list_cost_usd"]), np.asarray(columns["cache_hit"].combine_chunks())
    is_known = columns["list_cost_usd"].is_valid().to_numpy(zero_copy_only=False).copy()
    price_ids = columns["price_id"].to_pylist()
    served = columns["served_model"].to_pylist()
    for index, (usage, target) in billed.items():
        price = _price_of(target, served[index] or "", priced_at)
        cost = compute_cost_nano_usd(usage, price)
        nanos[index], is_known[index] = cost or 0, cost is not None
        if usage.reported_cost_usd is not None:
            price_ids[index] = f"{REPORTED}:{target.provider.name}"
        elif price is not None:
            price_ids[index] = price.id_for_usage(usage)
    return {
        "list_cost_usd": from_nanos(nanos, is_known),
        "cost_usd": from_nanos(np.where(is_hit, 0, nanos), is_known | is_hit),
        "price_id": pa.array(price_ids, pa.string()),
    }


def _apply_batch_prices(
    columns: ArrowColumns,
    outcomes: Sequence[RowOutcome | None],
    in_batch: Sequence[int],
    targets: Sequence[Target],
    target_index: Any,
    priced_at: float,
) -> dict[str, pa.Array]:
    """Return the cost columns with rows that batches answered, ``in_batch``, at the price of batches."""
    if not in_batch:
        return {}
    served, price_index = _served_models(len(targets), target_index, columns)
    prices = [_price_of(targets[target], model, priced_at) for target, model in served]
    found = ((row, _billed_usage(outcomes[row])[0]) for row in in_batch if outcomes)
    usages = {row: usage for row, usage in found if usage is not None}
    return batch_costs(columns, in_batch, usages, [targets[target] for target, _ in served], prices, price_index)


def _billed_usage(outcome: RowOutcome | None) -> tuple[Usage | None, Target | None]:
    """Return the usage of a response if it says more of its cost than token counts, and who answered if known."""
    if isinstance(outcome, StoredResponse):
        usage, target = stored_usage(outcome), None
    elif outcome is None or not is_successful(outcome.outcome):
        return None, None
    else:
        usage, target = outcome.outcome.unwrap().usage, outcome.target
    return (usage if usage.has_billing_details else None), target


def _served_models(n_targets: int, target_index: Any, columns: ArrowColumns) -> tuple[list[tuple[int, str]], pa.Array]:
    """Return the distinct pairs of target and served model, and by position the index of its pair; null unless ok."""
    models = columns["served_model"].combine_chunks().dictionary_encode()
    names = [*models.dictionary.to_pylist(), ""]
    model_index = np.asarray(models.indices.fill_null(len(names) - 1), np.int64)
    pair = target_index.astype(np.int64) * len(names) + model_index
    is_ok = np.asarray(pc.equal(columns["status"].combine_chunks(), "ok"))
    n_pairs = max(1, n_targets) * len(names)
    used = np.flatnonzero(np.bincount(pair[is_ok], minlength=n_pairs))
    index_of_pair = np.zeros(n_pairs, np.int64)
    index_of_pair[used] = np.arange(len(used))
    pairs = [(code // len(names), names[code % len(names)]) for code in used.tolist()]
    return pairs, pa.array(index_of_pair[pair], mask=~is_ok)


def _price_fallbacks(
    fallbacks: Mapping[int, Target],
    served: Sequence[tuple[int, str]],
    price_index: pa.Array,
    prices: list[Price | None],
    priced_at: float,
) -> pa.Array:
    """Append the prices of fallback targets to ``prices``, and return the index with their rows redirected to them."""
    indices = price_index.to_pylist()
    known: dict[tuple[str, str], int] = {}
    for position, target in fallbacks.items():
        if indices[position] is not None:
            pair = (target.name, served[indices[position]][1])
            if pair not in known:
                known[pair] = len(prices)
                prices.append(_price_of(target, pair[1], priced_at))
            indices[position] = known[pair]
    return pa.array(indices, pa.int64())


def _add_failed_attempts(costs: pa.Array, outcomes: Sequence[RowOutcome | None], priced_at: float) -> pa.Array:
    """Add the cost of billed attempts that failed, at the price of the target that billed them.

    A row that failed has that cost alone; it is null where one of the prices is unknown.
    """
    billed = [
        (index, outcome)
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Answer) and outcome.billed_failures
    ]
    if not billed:
        return costs
    nanos = to_nanos(costs)
    is_known = costs.is_valid().to_numpy(zero_copy_only=False).copy()
    for index, call in billed:
        attempt_costs = [
            compute_cost_nano_usd(attempt.usage, _price_of(attempt.target, "", priced_at))
            for attempt in call.billed_failures
        ]
        is_known[index] |= not is_successful(call.outcome)
        is_known[index] &= None not in attempt_costs
        nanos[index] += sum(filter(None, attempt_costs))
    return from_nanos(nanos, is_known)


def _uncertain_requests(outcomes: Sequence[RowOutcome | None]) -> dict[int, int]:
    """Return the number of requests that may have been charged beyond ``cost_usd``, of the rows that have any."""
    return {
        index: outcome.uncertain_requests
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Answer) and outcome.uncertain_requests
    }


def _price_of(target: Target, served_model: str, priced_at: float) -> Price | None:
    return find_served_price(target.provider.name, target.model, served_model, datetime.fromtimestamp(priced_at, UTC))
