"""Costs of whole columns: token counts and a price to exact ``decimal128(18, 9)`` USD.

Computed on arrays of integer price ticks, with the same result row by row as
`llmhub.core.pricing.compute_cost_nano_usd`. Where a sum might exceed 64 bits, rows are computed one by one with
Python's unbounded integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.core.pricing import NANO_DIGITS, Price, PriceTicks, compute_cost_nano_usd
from llmhub.core.types import Usage

USD_TYPE: Final = pa.decimal128(18, NANO_DIGITS)
"""Arrow type of amounts: eighteen digits, nine of them after the decimal point."""
MAX_NANO_USD: Final = 10**18 - 1
"""Largest amount in billionths of a dollar that fits into `USD_TYPE`."""

Int64Array: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"
BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumns:
    """Token columns of equal length as in the results table: ``int64``, null where the provider reported no count."""

    input_tokens: pa.Array
    output_tokens: pa.Array
    cached_input_tokens: pa.Array
    cache_write_tokens: pa.Array
    reasoning_tokens: pa.Array

    @property
    def columns(self) -> tuple[pa.Array, ...]:
        """The columns in the order of `llmhub.core.types.Usage`."""
        return (
            self.input_tokens,
            self.output_tokens,
            self.cached_input_tokens,
            self.cache_write_tokens,
            self.reasoning_tokens,
        )


def token_columns(table: pa.Table | pa.RecordBatch) -> TokenColumns:
    """Return the token columns of a results table."""
    return TokenColumns(**{name: _combined(table.column(name)) for name in TokenColumns.__slots__})


def cost_column(tokens: TokenColumns, price: Price | None) -> pa.Array:
    """Return the cost of each row in USD, rounded half to even.

    Null where the price is unknown, where the provider did not report input or output tokens, and where the cost does
    not fit into `USD_TYPE` (a billion dollars, hence a wrong count).

    Examples
    --------
    >>> from decimal import Decimal
    >>> from llmhub.core.pricing import Rates
    >>> unknown = pa.nulls(2, pa.int64())
    >>> tokens = TokenColumns(input_tokens=pa.array([1000, None]), output_tokens=pa.array([10, 10]),
    ...                       cached_input_tokens=unknown, cache_write_tokens=unknown, reasoning_tokens=unknown)
    >>> price = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> cost_column(tokens, price).to_pylist()
    [Decimal('0.003150000'), None]
    """
    rows = len(tokens.input_tokens)
    if price is None or rows == 0:
        return pa.nulls(rows, USD_TYPE)
    counts = [_int64_values(column) for column in tokens.columns]
    if _fits_int64(counts, price.in_ticks):
        return from_nanos(_nano_usd(counts, price.in_ticks), _is_counted(tokens))
    return _cost_column_unbounded(tokens, price)


def cost_column_by_price(tokens: TokenColumns, prices: Sequence[Price | None], price_index: pa.Array) -> pa.Array:
    """Return the cost of each row in USD at its own price.

    Parameters
    ----------
    tokens
        Token counts.
    prices
        The distinct prices.
    price_index
        By row: index into ``prices``, null where there is no price.
    """
    index = _int64_values(_combined(price_index), null=-1)
    nanos = np.zeros(len(index), np.int64)
    is_known = np.zeros(len(index), np.bool_)
    for number, price in enumerate(prices):
        rows = np.flatnonzero(index == number)
        part = TokenColumns(**{name: getattr(tokens, name).take(pa.array(rows)) for name in TokenColumns.__slots__})
        costs = cost_column(part, price)
        nanos[rows] = to_nanos(costs)
        is_known[rows] = costs.is_valid().to_numpy(zero_copy_only=False)
    return from_nanos(nanos, is_known)


# Amounts as integers


def from_nanos(nanos: Int64Array, is_known: BoolArray | None = None) -> pa.Array:
    """Return billionths of a dollar as a USD column; null where not ``is_known`` or out of range.

    Examples
    --------
    >>> from_nanos(np.array([1_500_000_000, -1], np.int64)).to_pylist()
    [Decimal('1.500000000'), Decimal('-1E-9')]
    """
    in_range = (nanos <= MAX_NANO_USD) & (nanos >= -MAX_NANO_USD)
    valid = in_range if is_known is None else in_range & is_known
    # A decimal128 is a 128-bit two's complement integer, low half first.
    halves = np.empty((len(nanos), 2), "<i8")
    halves[:, 0] = nanos
    halves[:, 1] = nanos >> 63
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(USD_TYPE, len(nanos), [bitmap, pa.py_buffer(halves)])


def to_nanos(usd: pa.Array | pa.ChunkedArray) -> Int64Array:
    """Return a USD column as billionths of a dollar, zero where it is null.

    Law: ``to_nanos(from_nanos(x)) == x`` for amounts within range.
    """
    column = _combined(usd)
    if not pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())  # from a format without decimals, such as CSV
    column = column.cast(USD_TYPE)
    if len(column) == 0:
        return np.zeros(0, np.int64)
    halves = np.frombuffer(column.buffers()[1], "<i8").reshape(-1, 2)
    nanos: Int64Array = halves[column.offset : column.offset + len(column), 0].copy()
    nanos[~column.is_valid().to_numpy(zero_copy_only=False)] = 0
    return nanos


def mark_uncertain_costs(price_ids: pa.Array, uncertain_requests: Mapping[int, int]) -> pa.Array:
    """Mark rows with requests that may have been charged beyond their cost.

    Examples
    --------
    >>> mark_uncertain_costs(pa.array(["x@y", None, "x@y"]), {0: 1, 1: 3}).to_pylist()
    ['x@y + 1 of unknown cost', '3 of unknown cost', 'x@y']
    """
    if not uncertain_requests:
        return price_ids
    marked = price_ids.to_pylist()
    for index, count in uncertain_requests.items():
        unknown = f"{count} of unknown cost"
        marked[index] = unknown if marked[index] is None else f"{marked[index]} + {unknown}"
    return pa.array(marked, pa.string())


# Computation


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _int64_values(column: pa.Array, null: int = 0) -> Int64Array:
    return np.asarray(column.cast(pa.int64()).fill_null(null).to_numpy(zero_copy_only=False), np.int64)


def _is_counted(tokens: TokenColumns) -> BoolArray:
    """Return which rows have both input and output tokens."""
    has_input, has_output = (column.is_valid().to_numpy(zero_copy_only=False) for column in tokens.columns[:2])
    is_counted: BoolArray = has_input & has_output
    return is_counted


def _fits_int64(counts: Sequence[Int64Array], ticks: PriceTicks) -> bool:
    """Return whether no sum of ticks, doubled for rounding, can exceed 64 bits."""
    highest_rate = max(max(rates) for _, rates in ticks.bands)
    max_tokens = sum(max(int(column.max()), -int(column.min())) for column in counts)
    ticks_per_nano: int = 10 ** (ticks.decimal_places - NANO_DIGITS)
    return 2 * (max_tokens * max(highest_rate, 1) + ticks.per_request + ticks_per_nano) < 2**63


def _nano_usd(counts: Sequence[Int64Array], ticks: PriceTicks) -> Int64Array:
    """Return each row's cost in billionths of a dollar at the rates of its tier, rounded half to even."""
    input_, output, cached, cache_write, reasoning = counts
    tier_bounds = np.array([above for above, _ in ticks.bands[-2::-1]], np.int64)
    tier = np.searchsorted(tier_bounds, input_, side="left")
    input_rate, cached_rate, write_rate, output_rate, reasoning_rate = (
        np.array(rates, np.int64)[tier] for rates in zip(*(rates for _, rates in ticks.bands[::-1]), strict=True)
    )
    total: Int64Array = (
        ticks.per_request
        + np.maximum(input_ - cached - cache_write, 0) * input_rate
        + cached * cached_rate
        + cache_write * write_rate
        + np.maximum(output - reasoning, 0) * output_rate
        + reasoning * reasoning_rate
    )
    if ticks.decimal_places == NANO_DIGITS:
        return total
    ticks_per_nano = 10 ** (ticks.decimal_places - NANO_DIGITS)
    nanos, remainder = np.divmod(total, ticks_per_nano)
    round_up = (2 * remainder > ticks_per_nano) | ((2 * remainder == ticks_per_nano) & (nanos % 2 == 1))
    rounded: Int64Array = nanos + round_up
    return rounded


def _cost_column_unbounded(tokens: TokenColumns, price: Price) -> pa.Array:
    """Compute row by row with Python integers."""
    rows = zip(*(column.to_pylist() for column in tokens.columns), strict=True)
    names = TokenColumns.__slots__
    costs = [compute_cost_nano_usd(Usage(**dict(zip(names, row, strict=True))), price) for row in rows]
    in_range = [nanos if nanos is not None and -MAX_NANO_USD <= nanos <= MAX_NANO_USD else None for nanos in costs]
    is_known = np.array([nanos is not None for nanos in in_range], np.bool_)
    return from_nanos(np.array([nanos or 0 for nanos in in_range], np.int64), is_known)
