from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import BadRequestError
from llmhub.datasets.splits import sample_by_hash, split_by_hash

SHARES = {"train": 0.7, "dev": 0.1, "test": 0.2}


def members(parts: dict[str, pa.Table]) -> dict[str, set[int]]:
    return {name: set(part.column("x").to_pylist()) for name, part in parts.items()}


@given(st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=60), st.integers(0, 5), st.randoms())
def test_a_row_stays_where_it_was(rows: list[int], seed: int, draw: Any) -> None:
    before = members(split_by_hash({"x": rows}, SHARES, seed=seed))
    assert set().union(*before.values()) == set(rows)
    assert sum(map(len, before.values())) == len(rows)
    more = [*rows, *range(20_000, 20_050)]
    draw.shuffle(more)
    after = members(split_by_hash({"x": more}, SHARES, seed=seed))
    assert all(its <= after[name] for name, its in before.items())


def test_shares_hold_on_average_and_in_each_stratum() -> None:
    frame = {"x": np.arange(30_000), "label": ["rare" if n % 30 == 0 else "usual" for n in range(30_000)]}
    for stratify in (None, "label"):
        parts = split_by_hash(frame, SHARES, stratify=stratify)
        for label, total in (("rare", 1_000), ("usual", 29_000)):
            for name, share in SHARES.items():
                found = parts[name].column("label").to_pylist().count(label)
                spread = (total * share * (1 - share)) ** 0.5
                assert abs(found - total * share) < 4.5 * spread


def test_equal_rows_are_in_one_part_and_an_id_may_say_which_are() -> None:
    frame = pd.DataFrame({"id": [n // 3 for n in range(300)], "x": range(300)})
    parts = split_by_hash(frame, {"a": 0.5, "b": 0.5}, columns=["id"])
    assert not set(parts["a"].column("id").to_pylist()) & set(parts["b"].column("id").to_pylist())


def test_another_seed_is_another_partition() -> None:
    frame = {"x": list(range(200))}
    assert members(split_by_hash(frame, SHARES)) != members(split_by_hash(frame, SHARES, seed=1))


@given(st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=60), st.integers(0, 30), st.randoms())
def test_a_sample_is_of_rows_and_not_of_places(rows: list[int], count: int, draw: Any) -> None:
    small = sample_by_hash({"x": rows}, rows=count).column("x").to_pylist()
    assert len(small) == min(count, len(rows))
    moved = list(rows)
    draw.shuffle(moved)
    assert set(sample_by_hash({"x": moved}, rows=count).column("x").to_pylist()) == set(small)
    assert set(small) <= set(sample_by_hash({"x": rows}, rows=count + 5).column("x").to_pylist())
    joined = sample_by_hash({"x": [*rows, 99_999]}, rows=count).column("x").to_pylist()
    assert len(set(small) - set(joined)) <= 1


def test_a_share_of_each_stratum_or_so_many_of_each() -> None:
    frame = {"x": list(range(1000)), "label": [n % 4 for n in range(1000)]}
    taken = sample_by_hash(frame, rows=7, stratify="label").column("label").to_pylist()
    assert {label: taken.count(label) for label in range(4)} == dict.fromkeys(range(4), 7)
    half, quarter = (set(sample_by_hash(frame, share=s).column("x").to_pylist()) for s in (0.5, 0.25))
    assert quarter < half
    assert 400 < len(half) < 600
    assert sample_by_hash(frame, share=1.0).num_rows == 1000
    assert sample_by_hash(frame, share=0.0).num_rows == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: split_by_hash({"x": [1]}, {"a": 0.5}), "shares: they sum to 0.5, not 1"),
        (lambda: split_by_hash({"x": [1]}, {}), "shares: they sum to 0, not 1"),
        (lambda: split_by_hash({"x": [1]}, {"a": 1.5, "b": -0.5}), r"shares\['a'\]: 1.5 is not between 0 and 1"),
        (lambda: split_by_hash({"x": [1]}, {"a": 1.0}, stratify="y"), "'y'"),
        (lambda: split_by_hash({"x": [1]}, {"a": 1.0}, columns=["y"]), "no column 'y'"),
        (lambda: sample_by_hash({"x": [1]}), "pass either rows= or share="),
        (lambda: sample_by_hash({"x": [1]}, rows=1, share=0.5), "pass either rows= or share="),
        (lambda: sample_by_hash({"x": [1]}, rows=-1), "rows: -1 is not a number of rows"),
        (lambda: sample_by_hash({"x": [1]}, share=2), "share: 2 is not between 0 and 1"),
    ],
)
def test_odd_input_is_refused_by_name(call: Any, said: str) -> None:
    with pytest.raises(BadRequestError, match=said):
        call()
