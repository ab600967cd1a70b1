"""Columns of rows that were sent in batches: costs at the price of batches, and how each row was sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa
from returns.pipeline import is_successful

from llmhub.core.pricing import Price, compute_cost_nano_usd
from llmhub.core.types import NO_USAGE, Usage
from llmhub.engine.call import Answer, Target
from llmhub.engine.fan_out_types import FanOutResult, ResultEvent
from llmhub.engine.row_outcome import RowOutcome
from llmhub.providers.batch_prices import batch_price
from llmhub.tables.cost_columns import TokenColumns, cost_column_by_price, from_nanos, to_nanos
from llmhub.tables.prompt_batch import PromptBatch
from llmhub.tables.schema import MODE_FIELD
from llmhub.tables.stored_columns import ArrowColumns

REPORTED: Final = "reported"
"""Beginning of the price id of a row whose cost is what the provider reports, before the provider's name."""


def batch_answers(outcomes: Sequence[RowOutcome | None]) -> list[int]:
    """Return the indices of the rows that a batch answered."""
    return [
        index
        for index, outcome in enumerate(outcomes)
        if isinstance(outcome, Answer) and outcome.mode == "batch" and is_successful(outcome.outcome)
    ]


def batch_costs(
    columns: ArrowColumns,
    in_batch: Sequence[int],
    usages: Mapping[int, Usage],
    targets: Sequence[Target],
    full: Sequence[Price | None],
    price_index: pa.Array,
) -> dict[str, pa.Array]:
    """Return the cost columns with rows that batches answered at the price of batches.

    They are priced by how they were sent, since providers report the tier of single requests for them. The list price
    is that of single requests.

    Parameters
    ----------
    columns
        The columns so far.
    in_batch
        Indices of the rows that a batch answered.
    usages
        Usage of those of them that say more of their cost than token counts.
    targets, full
        Target of each price, and the price of its single requests.
    price_index
        By row: index into both.
    """
    rows = np.array(in_batch)
    prices = [
        batch_price(target.provider.name, target.model, price) or price
        for target, price in zip(targets, full, strict=True)
    ]
    tokens = TokenColumns(**{name: columns[name] for name in TokenColumns.__slots__})
    listed, billed = to_nanos(columns["list_cost_usd"]), to_nanos(columns["cost_usd"])
    listed_known, billed_known = (
        columns[name].is_valid().to_numpy(zero_copy_only=False).copy() for name in ("list_cost_usd", "cost_usd")
    )
    for source, nanos, known in ((full, listed, listed_known), (prices, billed, billed_known)):
        costs = cost_column_by_price(tokens, source, price_index)
        nanos[rows] = to_nanos(costs)[rows]
        known[rows] = costs.is_valid().to_numpy(zero_copy_only=False)[rows]
    price_ids, index_of = columns["price_id"].to_pylist(), price_index.to_pylist()
    for row in in_batch:
        price, usage = prices[index_of[row]], replace(usages.get(row, NO_USAGE), service_tier="")
        price_ids[row] = None if price is None else price.price_id
        if not usage.has_billing_details:
            continue
        cost = compute_cost_nano_usd(usage, price)
        billed[row], billed_known[row] = cost or 0, cost is not None
        list_cost = compute_cost_nano_usd(replace(usage, reported_cost_usd=None), full[index_of[row]])
        listed[row], listed_known[row] = list_cost or 0, list_cost is not None
        if price is not None:
            price_ids[row] = price.id_for_usage(usage)
        if usage.reported_cost_usd is not None:
            price_ids[row] = f"{REPORTED}:{targets[index_of[row]].provider.name}"
    return {
        "list_cost_usd": from_nanos(listed, listed_known),
        "cost_usd": from_nanos(billed, billed_known),
        "price_id": pa.array(price_ids, pa.string()),
    }


def with_mode(table: pa.Table, result: FanOutResult) -> pa.Table:
    """Return the results of a run with batches with the column ``mode``: how each row was sent, null if it was not."""
    modes = [_mode_of(outcome) for outcome in result.outcomes]
    if result.packed is not None:
        for position in np.flatnonzero(result.packed.contains(np.arange(len(modes)))).tolist():
            modes[position] = "batch"
    return _append_mode(table, modes)


def with_mode_of_events(table: pa.Table, events: Sequence[ResultEvent], batch: PromptBatch) -> pa.Table:
    """Return results so far with the column ``mode``."""
    modes: dict[int, str | None] = {}
    for event in events:
        if isinstance(event, tuple):
            modes[event[0]] = _mode_of(event[1])
        elif event.attempts is not None:
            modes.update(dict.fromkeys(event.positions.tolist(), "batch"))
    per_row, n_samples = batch.positions_per_row, batch.n_samples
    names = [
        target_prompt.target.provider.name + "/" + target_prompt.target.model for target_prompt in batch.target_prompts
    ]
    columns = zip(*(table.column(name).to_pylist() for name in ("row", "sample", "provider", "model")), strict=True)
    positions = [
        row * per_row + (names.index(f"{provider}/{model}") * n_samples if len(names) > 1 else 0) + sample
        for row, sample, provider, model in columns
    ]
    return _append_mode(table, [modes.get(position) for position in positions])


def _append_mode(table: pa.Table, modes: Sequence[str | None]) -> pa.Table:
    column = pa.array(modes, pa.string()).dictionary_encode().cast(MODE_FIELD.type)
    return table.append_column(MODE_FIELD, column)


def _mode_of(outcome: RowOutcome | None) -> str | None:
    return outcome.mode if isinstance(outcome, Answer) and outcome.attempts else None


def last_events(events: Iterable[ResultEvent]) -> list[ResultEvent]:
    """Return the last event of each position: a row that was pending may have been answered since."""
    last: dict[int, ResultEvent] = {}
    blocks: list[ResultEvent] = []
    for event in events:
        if isinstance(event, tuple):
            last[event[0]] = event
            continue
        blocks.append(event)
        for position in event.positions.tolist():
            last.pop(position, None)
    return [*last.values(), *blocks]
