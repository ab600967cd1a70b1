"""Differences between runs: rows are matched by content, and every changed value is listed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import diff

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")
PROMPT = "Say {q} in a word."
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


def test_compact_frames_are_compared_by_what_they_have(frame: pd.DataFrame, hub: llmhub.Hub) -> None:
    options: dict[str, Any] = {"model": MODELS, "hub": hub, "progress": False}
    compact = frame.llm.complete(PROMPT, **options)
    assert diff(compact, compact.iloc[::-1]).same
    assert diff(compact, frame.llm.complete(PROMPT, columns="all", **options)).same
    other = compact.copy()
    other.loc[other["response"].notna(), "response"] = "Something else."
    assert set(diff(compact, other).counts()) == {"response"}
    with pytest.raises(BadRequestError, match="diff needs results of llmhub, but there is no column 'provider'"):
        diff(compact, frame)


def test_labels_are_compared(frame: pd.DataFrame, hub: llmhub.Hub) -> None:
    labelled = frame.llm.classify(PROMPT, labels=["up", "down"], column="mood", model=MODELS, hub=hub, progress=False)
    opposite = {"up": "down", "down": "up"}
    moods = [opposite.get(mood) for mood in labelled["mood"]]
    other = labelled.assign(mood=moods, response=[f'{{"label": "{mood}"}}' for mood in moods])
    assert diff(labelled, labelled).same
    assert set(diff(labelled, other).counts()) == {"mood", "response"}
