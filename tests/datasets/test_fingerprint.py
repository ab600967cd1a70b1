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
    return [row.tobytes() for row in fingerprints(pa.table({name: column}))]


@given(ROWS)
def test_fingerprints_are_equal_iff_values_are_equal(rows: list[tuple[Any, Any, Any]]) -> None:
    found = [row.tobytes() for row in fingerprints(table(rows))]
    for index, row in enumerate(rows):
        for other_index, other in enumerate(rows):
            assert (found[index] == found[other_index]) == (row == other)


@given(ROWS, st.randoms())
def test_order_chunks_and_type_widths_do_not_matter(rows: list[tuple[Any, Any, Any]], rng: Any) -> None:
    order = list(range(len(rows)))
    rng.shuffle(order)
    original = table(rows)
    shuffled = table([rows[index] for index in order])
    shuffled = pa.concat_tables([shuffled.slice(0, 1), shuffled.slice(1)]).select(["n", "b", "a"])
    columns = {
        "n": shuffled.column("n"),
        "b": shuffled.column("b").cast(pa.large_string()),
        "a": shuffled.column("a").dictionary_encode(),
    }
    assert (fingerprints(pa.table(columns)) == fingerprints(original)[order]).all()
    assert content_hash(fingerprints(pa.table(columns))) == content_hash(fingerprints(original))


def test_column_name_and_kind_matter() -> None:
    first = pa.array([1, None], pa.int8())
    assert prints(first) == prints(first.cast(pa.uint64()))
    assert prints(first) != prints(first, "y")
    assert prints(first)[0] != prints(first.cast(pa.string()))[0]
    assert prints(first)[0] != prints(first.cast(pa.float64()))[0]


def test_floats_are_encoded_exactly() -> None:
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
def test_distinct_values_of_every_kind_have_distinct_fingerprints(column: pa.Array) -> None:
    found = prints(column)
    distinct = {repr(value) for value in column.to_pylist()}
    assert len(set(found)) == len(distinct)
    assert found == prints(pa.concat_arrays([column, column]))[: len(column)]


def test_time_zone_of_a_timestamp_does_not_matter() -> None:
    moment = pa.array([datetime(2026, 1, 1, 12, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    assert prints(moment) == prints(moment.cast(pa.timestamp("ns", tz="Europe/Berlin")))


def test_prefix_matters() -> None:
    rows = pa.table({"x": ["a", "a"]})
    prefix = fingerprints(pa.table({"y": [1, 2]}))
    first, second = fingerprints(rows, prefix=prefix)
    assert first.tobytes() != second.tobytes()
    assert len(fingerprints(pa.table({"x": pa.array([], pa.string())}), prefix=prefix[:0])) == 0


def test_fingerprints_do_not_depend_on_batches() -> None:
    values = np.arange(150_000)
    all_rows = fingerprints(pa.table({"x": values}))
    assert (all_rows[140_000:] == fingerprints(pa.table({"x": values[140_000:]}))).all()
    assert (all_rows[70_000:] == fingerprints(pa.table({"x": values[70_000:]}), ["x"])).all()


def test_order_and_ranks_follow_the_bytes() -> None:
    found = fingerprints(pa.table({"x": [3, 1, 3, 2]}))
    as_bytes = [row.tobytes() for row in found]
    assert [as_bytes[index] for index in sort_order(found)] == sorted(as_bytes)
    distinct_bytes = sorted(set(as_bytes))
    assert dense_ranks(found).tolist() == [distinct_bytes.index(row) for row in as_bytes]


def test_missing_column_raises() -> None:
    with pytest.raises(BadRequestError, match="no column 'y'; the columns are x"):
        fingerprints(pa.table({"x": [1]}), ["y"])
