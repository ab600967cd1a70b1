"""Costs of columns: equal to the cost of each row, exact, and null where a price or a count is unknown."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmhub.core.pricing import Price, PriceTier, Rates, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.providers.prices import find_price
from llmhub.tables.cost_columns import (
    MAX_NANO_USD,
    USD_TYPE,
    TokenColumns,
    cost_column,
    cost_column_by_price,
    from_nanos,
    to_nanos,
    token_columns,
)
from llmhub.tables.schema import RESULTS

MTOK = Decimal("1e-6")


def price_of(rates: str, *tiers: tuple[int, str], request: str = "0") -> Price:
    def read(text: str) -> Rates:
        input_, cached, write, output, reasoning = (Decimal(part) * MTOK for part in text.split())
        return Rates(input=input_, output=output, cached_input=cached, cache_write=write, reasoning=reasoning)

    price_tiers = tuple(PriceTier(above, read(text)) for above, text in tiers)
    return Price(price_id="t/x@d", source="t", rates=read(rates), tiers=price_tiers, request_usd=Decimal(request))


PRICES = (
    price_of("3 0.3 3.75 15 15"),
    price_of("0.0375 0.00375 0.046875 0.15 0.3"),
    price_of("1.25 0.125 1 10 10", (200_000, "2.5 0.25 2 15 15"), (500_000, "5 0.5 4 30 20"), request="0.012"),
    price_of("0.0833333333333333 0.01 0 0.04 0"),
    price_of("0 0 0 0 0"),
    price_of("0.0000000000000000000000000000001 0 0 0 0"),
)

ROWS = st.lists(
    st.tuples(*[st.none() | st.integers(0, 10**6) | st.sampled_from([0, 1, 200_000, 200_001, 2**62])] * 5), max_size=20
)


def tokens(rows: list[tuple[int | None, ...]]) -> TokenColumns:
    columns = zip(*rows, strict=True) if rows else [()] * 5
    return TokenColumns(**{n: pa.array(c, pa.int64()) for n, c in zip(TokenColumns.__slots__, columns, strict=True)})


def one_by_one(rows: list[tuple[int | None, ...]], price: Price) -> list[Decimal | None]:
    names = TokenColumns.__slots__
    costs = [compute_cost_nano_usd(Usage(**dict(zip(names, row, strict=True))), price) for row in rows]
    return [None if n is None or n > MAX_NANO_USD else Decimal(f"{n}E-9") for n in costs]


@settings(deadline=None)  # pyarrow loads its functions on first use
@given(ROWS, st.sampled_from(PRICES))
def test_the_cost_of_a_column_equals_the_cost_of_its_rows(rows: list[tuple[int | None, ...]], price: Price) -> None:
    column = cost_column(tokens(rows), price)
    assert column.type == USD_TYPE
    assert column.to_pylist() == one_by_one(rows, price)
    column.validate(full=True)


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 5), min_size=1, max_size=9), st.sampled_from(PRICES))
def test_the_cost_of_a_sliced_chunked_table(rows: list[tuple[int, ...]], price: Price) -> None:
    batch = pa.RecordBatch.from_arrays(list(tokens(rows).columns), names=list(TokenColumns.__slots__))
    table = pa.Table.from_batches([batch, batch]).slice(1)
    assert cost_column(token_columns(table), price).to_pylist() == one_by_one((rows + rows)[1:], price)


def test_costs_at_an_unknown_price_are_null() -> None:
    assert cost_column(tokens([(1, 1, 0, 0, 0)] * 3), None).to_pylist() == [None] * 3


def test_costs_of_uncounted_rows_are_null() -> None:
    rows = [(None, 1, 0, 0, 0), (1, None, 0, 0, 0), (1, 1, None, None, None)]
    assert cost_column(tokens(rows), PRICES[0]).to_pylist() == [None, None, Decimal("0.000018000")]


def test_an_impossibly_large_count_is_null_without_affecting_other_rows() -> None:
    rows = [(2**62, 1, None, None, None), (1, 1, None, None, None)]
    assert cost_column(tokens(rows), PRICES[0]).to_pylist() == [None, Decimal("0.000018000")]


def test_the_cost_of_no_rows_is_an_empty_column() -> None:
    empty = cost_column(tokens([]), PRICES[0])
    assert (len(empty), empty.type) == (0, USD_TYPE)
    assert len(cost_column_by_price(tokens([]), PRICES, pa.array([], pa.int32()))) == 0


def test_the_type_equals_that_of_the_results_schema() -> None:
    assert RESULTS.field("cost_usd").type == RESULTS.field("list_cost_usd").type == USD_TYPE


def test_each_row_is_billed_at_its_own_price() -> None:
    rows: list[tuple[int | None, ...]] = [(1000, 10, 0, 0, 0)] * 5
    prices = [PRICES[0], None, PRICES[1]]
    column = cost_column_by_price(tokens(rows), prices, pa.array([2, 0, 1, None, 0]))
    first, third = (one_by_one(rows[:1], price)[0] for price in (PRICES[0], PRICES[1]))
    assert column.to_pylist() == [third, first, None, None, first]


def test_dictionary_indices_may_be_price_indices() -> None:
    models = pa.array(["b", "a", "b"]).dictionary_encode()
    column = cost_column_by_price(tokens([(1, 0, 0, 0, 0)] * 3), [PRICES[0], PRICES[4]], models.indices)
    assert column.to_pylist() == [Decimal("0.000003000"), Decimal("0E-9"), Decimal("0.000003000")]


def test_a_real_price_with_tiers() -> None:
    price = find_price("google", "gemini-2.5-pro", datetime(2026, 11, 22, tzinfo=UTC))
    assert price is not None
    rows: list[tuple[int | None, ...]] = [(n * 1000, n, n * 10, None, n // 2) for n in range(400)]
    assert cost_column(tokens(rows), price).to_pylist() == one_by_one(rows, price)


@settings(deadline=None)
@given(st.lists(st.integers(-MAX_NANO_USD, MAX_NANO_USD)))
def test_nanos_round_trip(nanos: list[int]) -> None:
    column = from_nanos(np.array(nanos, np.int64))
    assert column.to_pylist() == [Decimal(f"{n}E-9") for n in nanos]
    assert to_nanos(column).tolist() == nanos
    assert (
        to_nanos(pa.chunked_array([column, column]).slice(len(nanos) // 2)).tolist() == (nanos * 2)[len(nanos) // 2 :]
    )


@pytest.mark.parametrize("nano", [MAX_NANO_USD + 1, -MAX_NANO_USD - 1, 2**63 - 1, -(2**63)])
def test_an_amount_out_of_range_is_null(nano: int) -> None:
    assert from_nanos(np.array([nano, 5], np.int64)).to_pylist() == [None, Decimal("5E-9")]


def test_null_amounts_are_zero_nanos() -> None:
    assert to_nanos(from_nanos(np.array([7, 8], np.int64), np.array([True, False]))).tolist() == [7, 0]
    assert to_nanos(pa.nulls(2, USD_TYPE)).tolist() == [0, 0]
