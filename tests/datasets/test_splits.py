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
def test_row_stays_in_its_part_when_rows_are_added_or_reordered(rows: list[int], seed: int, rng: Any) -> None:
    before = members(split_by_hash({"x": rows}, SHARES, random_state=seed))
    assert set().union(*before.values()) == set(rows)
    assert sum(map(len, before.values())) == len(rows)
    more_rows = [*rows, *range(20_000, 20_050)]
    rng.shuffle(more_rows)
    after = members(split_by_hash({"x": more_rows}, SHARES, random_state=seed))
    assert all(part_rows <= after[name] for name, part_rows in before.items())


def test_shares_hold_overall_and_in_each_stratum() -> None:
    frame = {"x": np.arange(30_000), "label": ["rare" if n % 30 == 0 else "usual" for n in range(30_000)]}
    for stratify in (None, "label"):
        parts = split_by_hash(frame, SHARES, stratify=stratify)
        for label, total in (("rare", 1_000), ("usual", 29_000)):
            for name, share in SHARES.items():
                size = parts[name].column("label").to_pylist().count(label)
                standard_deviation = (total * share * (1 - share)) ** 0.5
                assert abs(size - total * share) < 4.5 * standard_deviation


def test_rows_with_equal_ids_are_in_the_same_part() -> None:
    frame = pd.DataFrame({"id": [n // 3 for n in range(300)], "x": range(300)})
    parts = split_by_hash(frame, {"a": 0.5, "b": 0.5}, columns=["id"])
    assert not set(parts["a"]["id"]) & set(parts["b"]["id"])


def test_different_seed_gives_a_different_split() -> None:
    frame = {"x": list(range(200))}
    assert members(split_by_hash(frame, SHARES)) != members(split_by_hash(frame, SHARES, random_state=1))


@given(st.lists(st.integers(0, 10_000), unique=True, min_size=1, max_size=60), st.integers(0, 30), st.randoms())
def test_sample_depends_on_content_and_not_on_position(rows: list[int], count: int, rng: Any) -> None:
    small = sample_by_hash({"x": rows}, rows=count).column("x").to_pylist()
    assert len(small) == min(count, len(rows))
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert set(sample_by_hash({"x": shuffled}, rows=count).column("x").to_pylist()) == set(small)
    assert set(small) <= set(sample_by_hash({"x": rows}, rows=count + 5).column("x").to_pylist())
    with_one_more = sample_by_hash({"x": [*rows, 99_999]}, rows=count).column("x").to_pylist()
    assert len(set(small) - set(with_one_more)) <= 1


def test_stratified_sample_by_rows_and_by_share() -> None:
    frame = {"x": list(range(1000)), "label": [n % 4 for n in range(1000)]}
    labels = sample_by_hash(frame, rows=7, stratify="label").column("label").to_pylist()
    assert {label: labels.count(label) for label in range(4)} == dict.fromkeys(range(4), 7)
    half, quarter = (set(sample_by_hash(frame, share=s).column("x").to_pylist()) for s in (0.5, 0.25))
    assert quarter < half
    assert 400 < len(half) < 600
    assert sample_by_hash(frame, share=1.0).num_rows == 1000
    assert sample_by_hash(frame, share=0.0).num_rows == 0


@pytest.mark.parametrize(
    ("call", "message"),
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
def test_invalid_arguments_raise(call: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        call()


def test_the_former_name_of_the_seed_is_accepted_with_a_warning() -> None:
    frame = {"x": list(range(50))}
    former: dict[str, Any] = {"seed": 1}
    with pytest.warns(DeprecationWarning, match=r"^split_by_hash: seed= is now random_state="):
        before = members(split_by_hash(frame, SHARES, **former))
    assert before == members(split_by_hash(frame, SHARES, random_state=1))
