"""Differences between runs: rows are matched by content, and every changed value is listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llmhub.core.errors import BadRequestError
from llmhub.datasets import diff

Complete = Callable[[pd.DataFrame], pd.DataFrame]


def test_run_equals_itself_in_any_order(frame: pd.DataFrame, complete: Complete, folder: Path) -> None:
    difference = diff(folder, complete(frame.iloc[::-1]))
    assert difference.same
    assert str(difference) == "no differences in 20 rows"


def test_changed_values_are_listed(frame: pd.DataFrame, complete: Complete, folder: Path) -> None:
    other = complete(frame)
    position = int(np.flatnonzero(other["response"].notna())[0])
    other.iloc[position, other.columns.get_loc("response")] = "Something else."
    other.iloc[position, other.columns.get_loc("served_model")] = "gpt-next"
    difference = diff(folder, other)
    assert difference.counts() == {"served_model": 1, "response": 1}
    changes = {row["column"]: row for row in difference.changes.to_pylist()}
    assert changes["served_model"]["after"] == "gpt-next"
    assert changes["response"]["after"] == "Something else."
    assert "response: 1 row changed" in str(difference)


def test_rows_in_one_run_only_are_listed(frame: pd.DataFrame, complete: Complete, folder: Path) -> None:
    difference = diff(folder, complete(frame.iloc[[0, 1, 2, 3]]))
    assert (difference.compared, difference.only_before.num_rows, difference.only_after.num_rows) == (16, 4, 0)
    assert "4 rows only before" in str(difference)
    # The second of two equal rows is a row of its own.
    difference = diff(complete(frame.iloc[[0, 1]]), complete(frame.iloc[[0, 1, 3]]))
    assert (difference.compared, difference.only_before.num_rows, difference.only_after.num_rows) == (8, 0, 4)


def test_rows_are_matched_by_common_input_columns(frame: pd.DataFrame, complete: Complete) -> None:
    assert diff(complete(frame), complete(frame.assign(note="later"))).same
    with pytest.raises(BadRequestError, match="no input column in common"):
        diff(complete(frame), complete(frame.rename(columns={"label": "l"})).drop(columns="q"))
