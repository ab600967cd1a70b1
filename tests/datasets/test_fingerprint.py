from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import BadRequestError
from llmhub.datasets.fingerprint import content_hash, dense_ranks, fingerprints, sort_order

VALUES = st.one_of(st.none(), st.text(max_size=5), st.sampled_from(["", "-", ";", "1:a;", "a;1:b"]))


ROWS = st.lists(st.tuples(VALUES, VALUES, st.none() | st.integers(-(2**40), 2**40)), min_size=1, max_size=12)


def table(rows: list[tuple[Any, Any, Any]]) -> pa.Table:
    a, b, n = zip(*rows, strict=True)
    return pa.table({"a": pa.array(a, pa.string()), "b": pa.array(b, pa.string()), "n": pa.array(n, pa.int64())})


def prints(column: pa.Array, name: str = "x") -> list[bytes]:
    return [one.tobytes() for one in fingerprints(pa.table({name: column}))]


@given(ROWS)
def test_rows_are_equal_where_their_values_are_and_nowhere_else(rows: list[tuple[Any, Any, Any]]) -> None:
    found = [one.tobytes() for one in fingerprints(table(rows))]
    for at, row in enumerate(rows):
        for other, its in enumerate(rows):
            assert (found[at] == found[other]) == (row == its)


@given(ROWS, st.randoms())
def test_order_of_rows_and_columns_chunks_and_widths_do_not_count(rows: list[tuple[Any, Any, Any]], draw: Any) -> None:
    order = list(range(len(rows)))
    draw.shuffle(order)
    plain = table(rows)
    moved = table([rows[at] for at in order])
    moved = pa.concat_tables([moved.slice(0, 1), moved.slice(1)]).select(["n", "b", "a"])
    columns = {
        "n": moved.column("n"),
        "b": moved.column("b").cast(pa.large_string()),
        "a": moved.column("a").dictionary_encode(),
    }
    assert (fingerprints(pa.table(columns)) == fingerprints(plain)[order]).all()
    assert content_hash(fingerprints(pa.table(columns))) == content_hash(fingerprints(plain))


def test_a_name_and_a_kind_count() -> None:
    one = pa.array([1, None], pa.int8())
    assert prints(one) == prints(one.cast(pa.uint64()))
    assert prints(one) != prints(one, "y")
    assert prints(one)[0] != prints(one.cast(pa.string()))[0]
    assert prints(one)[0] != prints(one.cast(pa.float64()))[0]


def test_floats_are_told_apart_exactly() -> None:
    values = [0.1, math.nextafter(0.1, 1), 1e300, -1e-300, math.inf, 0.0]
    assert len(set(prints(pa.array(values)))) == len(values)
    assert prints(pa.array([-0.0])) == prints(pa.array([0.0]))
    assert prints(pa.array([math.nan])) == prints(pa.array([None], pa.float64()))
    assert prints(pa.array([0.5], pa.float32())) == prints(pa.array([0.5], pa.float64()))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False, None]),
        pa.array([Decimal("1.5"), Decimal("1.50001"), None], pa.decimal128(18, 9)),
        pa.array([*(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)), None], pa.timestamp("us", tz="UTC")),
        pa.array([b"a", b"", None]),
        pa.array([b"ab", b"cd", None], pa.binary(2)),
        pa.array([["a", "b"], ["ab"], [], None], pa.list_(pa.string())),
        pa.array([[], [], None], pa.list_(pa.string())),
        pa.array([{"k": 1}, {"k": 2}, None]),
    ],
)  # fmt: skip
def test_every_kind_of_value_has_its_own(column: pa.Array) -> None:
    found = prints(column)
    distinct = {repr(value) for value in column.to_pylist()}
    assert len(set(found)) == len(distinct)
    assert found == prints(pa.concat_arrays([column, column]))[: len(column)]


def test_zoned_moments_are_one_moment() -> None:
    moment = pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    assert prints(moment) == prints(moment.cast(pa.timestamp("ns", tz="Europe/Berlin")))


def test_what_comes_before_counts() -> None:
    rows = pa.table({"x": ["a", "a"]})
    before = fingerprints(pa.table({"y": [1, 2]}))
    one, other = fingerprints(rows, prefix=before)
    assert one.tobytes() != other.tobytes()
    assert len(fingerprints(pa.table({"x": pa.array([], pa.string())}), prefix=before[:0])) == 0


def test_large_tables_are_hashed_batch_by_batch_alike() -> None:
    values = np.arange(150_000)
    whole = fingerprints(pa.table({"x": values}))
    assert (whole[140_000:] == fingerprints(pa.table({"x": values[140_000:]}))).all()
    assert (whole[70_000:] == fingerprints(pa.table({"x": values[70_000:]}), ["x"])).all()


def test_order_and_ranks_agree_with_bytes() -> None:
    found = fingerprints(pa.table({"x": [3, 1, 3, 2]}))
    as_bytes = [one.tobytes() for one in found]
    assert [as_bytes[at] for at in sort_order(found)] == sorted(as_bytes)
    places = sorted(set(as_bytes))
    assert dense_ranks(found).tolist() == [places.index(one) for one in as_bytes]


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(BadRequestError, match="no column 'y'; the columns are x"):
        fingerprints(pa.table({"x": [1]}), ["y"])
