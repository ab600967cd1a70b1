"""What a results table says of each model: the numbers behind the plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.pricing import NANO_DIGITS
from llmhub.tables.cost_columns import to_nanos


def quantile(ordered: FloatArray, q: float) -> float:
    """Give the smallest of sorted latencies that ``q`` of them do not exceed."""
    return float(ordered[_rank_index(len(ordered), q)])


def _rank_index(count: int, share: float) -> int:
    # The product may lie a hair above a whole number that it should equal.
    return max(int(np.ceil(round(share * count, 6))) - 1, 0)


TOKEN_COLUMNS: Final = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
COLUMNS: Final = (
    "provider",
    "model",
    "status",
    "error_type",
    *TOKEN_COLUMNS,
    "cost_usd",
    "list_cost_usd",
    "latency_s",
    "ttft_s",
    "cache_hit",
)
"""The columns of the result schema that are summed up."""
FloatArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"
IntArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


class DataFrameLike(Protocol):
    """A data frame, pandas' or another that speaks Arrow."""

    @property
    def columns(self) -> Any:
        """The columns' names."""

    def __getitem__(self, names: Any, /) -> Any:
        """Take some columns."""


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model's part of a results table.

    Parameters
    ----------
    name
        ``provider/model``.
    rows, answered, failed, reused
        Rows in all; of these with an answer, with an error, and answered without a call of their own.
    errors
        How often each kind of error came.
    paid_usd, worth_usd, priced
        Cost of all rows with a known price, without and with what our cache saved, and how many answers these are.
    latency_s, ttft_s
        Latencies, and times to the first token, of the calls that were made and answered, sorted.
    tokens, counted
        Sums of the token columns over answers, and how many answers have counts.
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
    latency_s: FloatArray
    ttft_s: FloatArray
    tokens: Mapping[str, int]
    with_usage: int


def summarize_models(table: pa.Table | DataFrameLike) -> tuple[ModelSummary, ...]:
    """Sum up a results table by model, in the order in which models first appear.

    Raises
    ------
    ValueError
        A column of the result schema is not there.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> summarize_models(RESULTS.empty_table())
    ()
    """
    columns = extract_columns(table, COLUMNS)
    places, names = factorize_models(columns)
    rows = _rows(columns)
    return tuple(_summarize(name, rows, places == place) for place, name in enumerate(names))


@dataclass(frozen=True, slots=True)
class _Rows:
    """The columns of a table that sums are made of, as arrays."""

    ok: BoolArray
    failed: BoolArray
    cache_hits: BoolArray
    called: BoolArray
    priced: BoolArray
    with_usage: BoolArray
    billed: IntArray
    list_price: IntArray
    latency_s: FloatArray
    ttft_s: FloatArray
    tokens: Mapping[str, IntArray]
    errors: pa.Array


def _rows(columns: Mapping[str, pa.Array]) -> _Rows:
    """Read the columns; an answer's latency counts where a call was made for it."""
    ok, failed = (_flags(pc.equal(columns["status"].cast(pa.string()), status)) for status in ("ok", "error"))
    reused = _flags(columns["cache_hit"].cast(pa.bool_()))
    latency_s = to_floats(columns["latency_s"])
    return _Rows(
        ok=ok,
        failed=failed,
        cache_hits=reused,
        called=ok & ~reused & np.isfinite(latency_s),
        priced=ok & _flags(columns["list_cost_usd"].is_valid()),
        with_usage=ok & _flags(columns["input_tokens"].is_valid()),
        billed=to_nanos(columns["cost_usd"]),
        list_price=to_nanos(columns["list_cost_usd"]),
        latency_s=latency_s,
        ttft_s=to_floats(columns["ttft_s"]),
        tokens={name: _counts(columns[name]) for name in TOKEN_COLUMNS},
        errors=columns["error_type"].cast(pa.string()),
    )


def _summarize(name: str, rows: _Rows, its: BoolArray) -> ModelSummary:
    """Sum up the rows that are one model's."""
    answers = its & rows.ok
    return ModelSummary(
        name=name,
        rows=int(its.sum()),
        answered=int(answers.sum()),
        failed=int((its & rows.failed).sum()),
        cache_hits=int((answers & rows.cache_hits).sum()),
        errors=_error_counts(rows.errors.filter(pa.array(its & rows.failed))),
        billed_usd=int(rows.billed[its].sum()) / 10**NANO_DIGITS,
        list_usd=int(rows.list_price[its].sum()) / 10**NANO_DIGITS,
        priced=int((its & rows.priced).sum()),
        latency_s=np.sort(rows.latency_s[its & rows.called]),
        ttft_s=np.sort(rows.ttft_s[its & rows.called & np.isfinite(rows.ttft_s)]),
        tokens={kind: int(count[answers].sum()) for kind, count in rows.tokens.items()},
        with_usage=int((its & rows.with_usage).sum()),
    )


def extract_columns(table: pa.Table | DataFrameLike, names: Sequence[str]) -> Mapping[str, pa.Array]:
    """Take some columns, each in one piece.

    Raises
    ------
    ValueError
        A column is not there.
    """
    there = table.column_names if isinstance(table, pa.Table) else list(table.columns)
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"not a table of results: it has no column {', '.join(missing)}")
    chosen = table.select(list(names)) if isinstance(table, pa.Table) else pa.table(table[list(names)])
    whole = chosen.combine_chunks()
    return {name: _to_array(whole.column(name)) for name in names}


def _to_array(column: pa.ChunkedArray) -> pa.Array:
    """Give one array, words as plain strings."""
    array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _flags(column: pa.Array) -> BoolArray:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), np.bool_)


def _counts(column: pa.Array) -> IntArray:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), 0).to_numpy(zero_copy_only=False), np.int64)


def to_floats(column: pa.Array) -> FloatArray:
    """Give numbers as an array, NaN where there is none."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def factorize_models(columns: Mapping[str, pa.Array]) -> tuple[IntArray, Sequence[str]]:
    """Give each row the number of its model, and the models' names, in order of first appearance."""
    who, what = (
        pc.fill_null(columns[name].cast(pa.string()), "").dictionary_encode() for name in ("provider", "model")
    )
    pairs = who.indices.to_numpy().astype(np.int64) * max(len(what.dictionary), 1) + what.indices.to_numpy()
    found, first, which = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(found), np.int64)
    place[order] = np.arange(len(found))
    names = [_model_name(who[int(row)].as_py(), what[int(row)].as_py()) for row in first[order]]
    return place[which], names


def _model_name(provider: str, model: str) -> str:
    return model if not provider or model.startswith(f"{provider}/") else f"{provider}/{model}"


def _error_counts(errors: pa.Array) -> Mapping[str, int]:
    counted = pc.fill_null(errors, "error").value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counted, key=lambda each: -each["counts"])}


def no_data_message(tallies: Sequence[ModelSummary]) -> str:
    """Say what a plot of answers would want: nothing if there are any.

    Examples
    --------
    >>> no_data_message(())
    'No rows'
    """
    if not tallies:
        return "No rows"
    if any(each.answered for each in tallies):
        return ""
    kinds: dict[str, int] = {}
    for each in tallies:
        for kind, count in each.errors.items():
            kinds[kind] = kinds.get(kind, 0) + count
    rows, failed = sum(each.rows for each in tallies), sum(each.failed for each in tallies)
    if not failed:
        return f"No answers: none of {rows:,} rows was sent"
    worst = sorted(kinds.items(), key=lambda item: -item[1])[:4]
    return f"No answers: {failed:,} of {rows:,} rows failed\n" + ", ".join(f"{kind} {n:,}" for kind, n in worst)


def count_summary(tallies: Sequence[ModelSummary]) -> str:
    """Count the answers, those from a cache, and the failures."""
    answered = sum(each.answered for each in tallies)
    reused = sum(each.cache_hits for each in tallies)
    failed = sum(each.failed for each in tallies)
    text = f"{answered:,} answer{'' if answered == 1 else 's'}"
    return text + (f", {reused:,} from the cache" if reused else "") + (f", {failed:,} failed" if failed else "")
