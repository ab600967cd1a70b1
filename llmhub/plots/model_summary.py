"""Totals of a results table by model: the numbers behind plots and summaries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.pricing import NANO_DIGITS
from llmhub.formatting.numbers import format_quantity
from llmhub.tables import schema
from llmhub.tables.cost_columns import to_nanos
from llmhub.tables.result_frames import require_result_columns, results_table

FloatArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"
IntArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

COLUMNS: Final = ("provider", "model", "status", "input_tokens", "output_tokens", "cost_usd", "latency_s", "cache_hit")
"""Result columns that a summary needs."""
CLASS_COLUMNS: Final = ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens")
TOKEN_COLUMNS: Final = ("input_tokens", "output_tokens", *CLASS_COLUMNS)
OPTIONAL_COLUMNS: Final = ("error_type", *CLASS_COLUMNS, "list_cost_usd", "ttft_s")
"""Result columns that a summary reads if they are there; compact results do not have them."""
MAX_ERROR_TYPES: Final = 4
"""Error types that `no_data_message` lists."""


class DataFrameLike(Protocol):
    """A data frame of pandas, or of another library with Arrow export."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""

    def __getitem__(self, names: Any, /) -> Any:
        """Select columns."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """Totals of the rows of one model.

    Parameters
    ----------
    name
        ``provider/model``.
    rows, answered, failed, cache_hits
        Number of rows; of those with an answer, with an error, and answered without a call of their own.
    errors
        Number of rows by error type, most frequent first.
    billed_usd, list_usd, priced, unpriced
        Cost of all rows with a known price in US dollars, billed and at list prices without our cache; and the number
        of answers with a known list price, and of those without a price. Results without the column ``list_cost_usd``
        have neither for cache hits.
    latency_s, ttft_s
        Sorted latencies and times to the first token of answered calls; cache hits are left out.
    tokens, with_usage
        Sums of the token columns over answers, and the number of answers with token counts.
    """

    name: str
    rows: int
    answered: int
    failed: int
    cache_hits: int
    errors: Mapping[str, int]
    billed_usd: float
    list_usd: float
    priced: int
    unpriced: int
    latency_s: FloatArray
    ttft_s: FloatArray
    tokens: Mapping[str, int]
    with_usage: int


def summarize_models(table: pa.Table | DataFrameLike) -> tuple[ModelSummary, ...]:
    """Summarise a results table by model, in order of first appearance.

    Raises
    ------
    BadRequestError
        A result column is missing.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> summarize_models(RESULTS.empty_table())
    ()
    """
    columns = extract_columns(table, COLUMNS, OPTIONAL_COLUMNS)
    codes, names = factorize_models(columns)
    arrays = _arrays(columns)
    return tuple(_summarize(name, arrays, codes == code) for code, name in enumerate(names))


def combine_summaries(summaries: Sequence[ModelSummary]) -> ModelSummary:
    """Return the totals of several models, of which there is at least one."""
    errors: Counter[str] = Counter()
    for summary in summaries:
        errors.update(summary.errors)
    return ModelSummary(
        name="",
        rows=sum(summary.rows for summary in summaries),
        answered=sum(summary.answered for summary in summaries),
        failed=sum(summary.failed for summary in summaries),
        cache_hits=sum(summary.cache_hits for summary in summaries),
        errors=dict(errors.most_common()),
        billed_usd=sum(summary.billed_usd for summary in summaries),
        list_usd=sum(summary.list_usd for summary in summaries),
        priced=sum(summary.priced for summary in summaries),
        unpriced=sum(summary.unpriced for summary in summaries),
        latency_s=np.sort(np.concatenate([summary.latency_s for summary in summaries])),
        ttft_s=np.sort(np.concatenate([summary.ttft_s for summary in summaries])),
        tokens={name: sum(summary.tokens[name] for summary in summaries) for name in TOKEN_COLUMNS},
        with_usage=sum(summary.with_usage for summary in summaries),
    )


def no_data_message(summaries: Sequence[ModelSummary]) -> str:
    """Return the reason why there are no answers to plot; empty if there are any.

    Examples
    --------
    >>> no_data_message(())
    'No rows'
    """
    if not summaries:
        return "No rows"
    total = combine_summaries(summaries)
    if total.answered:
        return ""
    if not total.failed:
        return f"No answers: none of {total.rows:,} rows was sent"
    by_type = ", ".join(f"{name} {count:,}" for name, count in list(total.errors.items())[:MAX_ERROR_TYPES])
    return f"No answers: {total.failed:,} of {total.rows:,} rows failed\n{by_type}"


def list_price_hint(summaries: Sequence[ModelSummary]) -> str:
    """Return how to get the list prices of cache hits if the results do not have them; empty otherwise."""
    is_unknown = any(model.priced + model.unpriced < model.answered for model in summaries)
    return "list prices of cached answers need columns=['list_cost_usd']" if is_unknown else ""


def count_summary(summaries: Sequence[ModelSummary]) -> str:
    """Return the number of answers, cache hits and failures as text."""
    answered = sum(summary.answered for summary in summaries)
    cache_hits = sum(summary.cache_hits for summary in summaries)
    failed = sum(summary.failed for summary in summaries)
    text = format_quantity(answered, "answer")
    return (
        text + (f", {cache_hits:,} from the cache" if cache_hits else "") + (f", {failed:,} failed" if failed else "")
    )


def quantile(ordered: FloatArray, q: float) -> float:
    """Return the smallest of sorted values that a share of ``q`` does not exceed (nearest-rank quantile)."""
    return float(ordered[rank_index(len(ordered), q)])


def rank_index(count: int, q: float) -> int:
    """Return the index of the nearest-rank quantile among ``count`` sorted values."""
    # Rounded first, because the product may exceed the integer it should equal by a rounding error.
    return max(int(np.ceil(round(q * count, 6))) - 1, 0)


def extract_columns(
    table: pa.Table | DataFrameLike, names: Sequence[str], optional: Sequence[str] = ()
) -> Mapping[str, pa.Array]:
    """Return columns of a frame of results, each as one array; ``optional`` ones if it has them.

    Raises
    ------
    BadRequestError
        A column is missing; the message says which ``columns=`` brings it.
    """
    results = results_table(table, columns=(*names, *optional)).combine_chunks()
    require_result_columns(results.column_names, names, "the plot", "table")
    return {name: _to_array(results.column(name)) for name in results.column_names}


def is_simulated(table: pa.Table | DataFrameLike) -> bool:
    """Return whether the results are those of simulated providers (see `llmhub.tables.schema.is_simulated`)."""
    return schema.is_simulated(results_table(table, columns=("cost_usd",)).schema)


def to_floats(column: pa.Array) -> FloatArray:
    """Return a numeric column as floats, with NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def factorize_models(columns: Mapping[str, pa.Array]) -> tuple[IntArray, Sequence[str]]:
    """Return an integer code per row, and the name of the model for each code, in order of first appearance."""
    providers, models = (
        pc.fill_null(columns[name].cast(pa.string()), "").dictionary_encode() for name in ("provider", "model")
    )
    n_models = max(len(models.dictionary), 1)
    pairs = providers.indices.to_numpy().astype(np.int64) * n_models + models.indices.to_numpy()
    unique, first_rows, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first_rows)
    code_of_unique = np.empty(len(unique), np.int64)
    code_of_unique[order] = np.arange(len(unique))
    names = [_model_name(providers[int(row)].as_py(), models[int(row)].as_py()) for row in first_rows[order]]
    return code_of_unique[inverse], names


def _model_name(provider: str, model: str) -> str:
    return model if not provider or model.startswith(f"{provider}/") else f"{provider}/{model}"


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Columns of a results table as arrays with one element per row."""

    ok: BoolArray
    failed: BoolArray
    cache_hits: BoolArray
    called: BoolArray
    priced: BoolArray
    unpriced: BoolArray
    with_usage: BoolArray
    billed: IntArray
    list_price: IntArray
    latency_s: FloatArray
    ttft_s: FloatArray
    tokens: Mapping[str, IntArray]
    errors: pa.Array


def _arrays(columns: Mapping[str, pa.Array]) -> _Arrays:
    ok, failed = (_flags(pc.equal(columns["status"].cast(pa.string()), status)) for status in ("ok", "error"))
    cache_hits = _flags(columns["cache_hit"].cast(pa.bool_()))
    latency_s = to_floats(columns["latency_s"])
    rows, cost = len(ok), columns["cost_usd"]
    # Without a list price, the cost of a call is its list price, and that of a cache hit is unknown.
    list_cost = columns.get("list_cost_usd", pc.if_else(pa.array(ok & ~cache_hits), cost, None))
    priced = ok & _flags(list_cost.is_valid())
    tokens = {name: columns.get(name, pa.nulls(rows, pa.int64())) for name in TOKEN_COLUMNS}
    return _Arrays(
        ok=ok,
        failed=failed,
        cache_hits=cache_hits,
        # A cache hit repeats the latency of the call that was cached, so it is left out.
        called=ok & ~cache_hits & np.isfinite(latency_s),
        priced=priced,
        unpriced=ok & ~priced if "list_cost_usd" in columns else ok & _flags(cost.is_null()),
        with_usage=ok & _flags(columns["input_tokens"].is_valid()),
        billed=to_nanos(cost),
        list_price=to_nanos(list_cost),
        latency_s=latency_s,
        ttft_s=to_floats(columns.get("ttft_s", pa.nulls(rows, pa.float64()))),
        tokens={name: _counts(column) for name, column in tokens.items()},
        errors=columns.get("error_type", pa.nulls(rows, pa.string())).cast(pa.string()),
    )


def _summarize(name: str, arrays: _Arrays, mask: BoolArray) -> ModelSummary:
    """Return the totals of the rows in ``mask``."""
    answers = mask & arrays.ok
    return ModelSummary(
        name=name,
        rows=int(mask.sum()),
        answered=int(answers.sum()),
        failed=int((mask & arrays.failed).sum()),
        cache_hits=int((answers & arrays.cache_hits).sum()),
        errors=_error_counts(arrays.errors.filter(pa.array(mask & arrays.failed))),
        billed_usd=int(arrays.billed[mask].sum()) / 10**NANO_DIGITS,
        list_usd=int(arrays.list_price[mask].sum()) / 10**NANO_DIGITS,
        priced=int((mask & arrays.priced).sum()),
        unpriced=int((mask & arrays.unpriced).sum()),
        latency_s=np.sort(arrays.latency_s[mask & arrays.called]),
        ttft_s=np.sort(arrays.ttft_s[mask & arrays.called & np.isfinite(arrays.ttft_s)]),
        tokens={column: int(counts[answers].sum()) for column, counts in arrays.tokens.items()},
        with_usage=int((mask & arrays.with_usage).sum()),
    )


def _to_array(column: pa.ChunkedArray) -> pa.Array:
    """Return one array, with dictionary values decoded."""
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _flags(column: pa.Array) -> BoolArray:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), np.bool_)


def _counts(column: pa.Array) -> IntArray:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), np.int64)


def _error_counts(errors: pa.Array) -> Mapping[str, int]:
    counts = pc.fill_null(errors, "error").value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: -entry["counts"])}
