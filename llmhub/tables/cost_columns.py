"""Whole columns of costs: token columns and a price to exact ``decimal128(18, 9)`` USD.

The same sums as `llmhub.core.pricing.compute_cost_nano_usd`, row for row, done on arrays of whole ticks. Where those would
not fit into 64 bits, the rows are counted one by one with Python's unbounded integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.core.pricing import NANO_DIGITS, Price, PriceTicks, compute_cost_nano_usd
from llmhub.core.types import Usage

USD_TYPE: Final = pa.decimal128(18, NANO_DIGITS)
"""Money in a table: eighteen digits, nine of them after the point."""


MAX_NANO_USD: Final = 10**18 - 1
"""The largest number of billionths of a dollar that such a field holds."""


Int64Array: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"


BoolArray: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.bool_]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumns:
    """Token columns of equal length, as in the results table: ``int64``, null where the provider did not say."""

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
    """Take the token columns out of a results table."""
    return TokenColumns(**{name: _combined(table.column(name)) for name in TokenColumns.__slots__})


def cost_column(tokens: TokenColumns, price: Price | None) -> pa.Array:
    """Give the cost of each row in USD, rounded half to even.

    Null where the price is unknown, where the provider did not count input or output, and where the sum
    would not fit into the field (a billion dollars: a count that cannot be true).

    Examples
    --------
    >>> from decimal import Decimal
    >>> from llmhub.core.pricing import Rates
    >>> nothing = pa.nulls(2, pa.int64())
    >>> asked = TokenColumns(input_tokens=pa.array([1000, None]), output_tokens=pa.array([10, 10]),
    ...                cached_input_tokens=nothing, cache_write_tokens=nothing, reasoning_tokens=nothing)
    >>> each = Price(price_id="x@y", source="x", rates=Rates(input=Decimal("3e-6"), output=Decimal("15e-6")))
    >>> cost_column(asked, each).to_pylist()
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
    """Give the cost of each row at the price it names: ``price_index`` holds positions in ``prices``, null for none."""
    chosen = _int64_values(_combined(price_index), absent=-1)
    nanos = np.zeros(len(chosen), np.int64)
    known = np.zeros(len(chosen), np.bool_)
    for at, price in enumerate(prices):
        rows = np.flatnonzero(chosen == at)
        part = TokenColumns(**{name: getattr(tokens, name).take(pa.array(rows)) for name in TokenColumns.__slots__})
        costs = cost_column(part, price)
        nanos[rows] = to_nanos(costs)
        known[rows] = costs.is_valid().to_numpy(zero_copy_only=False)
    return from_nanos(nanos, known)


def from_nanos(nanos: Int64Array, known: BoolArray | None = None) -> pa.Array:
    """Make a money column out of billionths of a dollar; null where they are not ``known`` or do not fit.

    Examples
    --------
    >>> from_nanos(np.array([1_500_000_000, -1], np.int64)).to_pylist()
    [Decimal('1.500000000'), Decimal('-1E-9')]
    """
    fit = (nanos <= MAX_NANO_USD) & (nanos >= -MAX_NANO_USD)
    valid = fit if known is None else fit & known
    # A decimal128 is a 128-bit two's complement integer, its lower half first.
    halves = np.empty((len(nanos), 2), "<i8")
    halves[:, 0] = nanos
    halves[:, 1] = nanos >> 63
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(USD_TYPE, len(nanos), [bitmap, pa.py_buffer(halves)])


def to_nanos(money: pa.Array | pa.ChunkedArray) -> Int64Array:
    """Give a money column as billionths of a dollar, zero where it is null.

    Law: ``to_nanos(from_nanos(x)) == x`` for whatever fits.
    """
    whole = _combined(money)
    if not pa.types.is_decimal(whole.type):
        whole = whole.cast(pa.float64())  # a frame that lost its types, say in a CSV file
    whole = whole.cast(USD_TYPE)
    if len(whole) == 0:
        return np.zeros(0, np.int64)
    halves = np.frombuffer(whole.buffers()[1], "<i8").reshape(-1, 2)
    nanos: Int64Array = halves[whole.offset : whole.offset + len(whole), 0].copy()
    nanos[~whole.is_valid().to_numpy(zero_copy_only=False)] = 0
    return nanos


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _int64_values(column: pa.Array, absent: int = 0) -> Int64Array:
    return np.asarray(column.cast(pa.int64()).fill_null(absent).to_numpy(zero_copy_only=False), np.int64)


def _is_counted(tokens: TokenColumns) -> BoolArray:
    """Say which rows were counted."""
    taken, made = (column.is_valid().to_numpy(zero_copy_only=False) for column in tokens.columns[:2])
    known: BoolArray = taken & made
    return known


def _fits_int64(counts: Sequence[Int64Array], ticks: PriceTicks) -> bool:
    """Say whether no sum of ticks can leave 64 bits; the doubling is that of rounding."""
    dearest = max(max(rates) for _, rates in ticks.bands)
    most = sum(max(int(column.max()), -int(column.min())) for column in counts)
    step: int = 10 ** (ticks.decimal_places - NANO_DIGITS)
    return 2 * (most * max(dearest, 1) + ticks.per_request + step) < 2**63


def _nano_usd(counts: Sequence[Int64Array], ticks: PriceTicks) -> Int64Array:
    """Sum each row's ticks in its tier and round them."""
    taken, made, cached, written, reasoned = counts
    bounds = np.array([above for above, _ in ticks.bands[-2::-1]], np.int64)
    tier = np.searchsorted(bounds, taken, side="left")
    fresh, read, write, visible, thought = (
        np.array(rates, np.int64)[tier] for rates in zip(*(rates for _, rates in ticks.bands[::-1]), strict=True)
    )
    total: Int64Array = (
        ticks.per_request
        + np.maximum(taken - cached - written, 0) * fresh
        + cached * read
        + written * write
        + np.maximum(made - reasoned, 0) * visible
        + reasoned * thought
    )
    if ticks.decimal_places == NANO_DIGITS:
        return total
    step = 10 ** (ticks.decimal_places - NANO_DIGITS)
    nanos, rest = np.divmod(total, step)
    up = (2 * rest > step) | ((2 * rest == step) & (nanos % 2 == 1))
    rounded: Int64Array = nanos + up
    return rounded


def _cost_column_unbounded(tokens: TokenColumns, price: Price) -> pa.Array:
    """Count without bounds."""
    rows = zip(*(column.to_pylist() for column in tokens.columns), strict=True)
    exact = [compute_cost_nano_usd(Usage(**dict(zip(TokenColumns.__slots__, row, strict=True))), price) for row in rows]
    fit = [nanos if nanos is not None and -MAX_NANO_USD <= nanos <= MAX_NANO_USD else None for nanos in exact]
    known = np.array([nanos is not None for nanos in fit], np.bool_)
    return from_nanos(np.array([nanos or 0 for nanos in fit], np.int64), known)
