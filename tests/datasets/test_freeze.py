"""Freezing: equal content gives equal bytes, the lock records the provenance, and nothing else is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import Recipe, freeze, read, verify
from llmhub.sim import SimulatorThread

Complete = Callable[[pd.DataFrame], pd.DataFrame]


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_repeated_and_cached_runs_give_equal_bytes(
    hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, recipe: Recipe, tmp_path: Path
) -> None:
    frozen = freeze(complete(frame), tmp_path / "set", recipe=recipe, hub=hub)
    first = read_files(tmp_path / "set")
    cached = complete(frame)
    assert cached["cache_hit"].sum() > 0
    assert (
        freeze(cached, tmp_path / "set", recipe=recipe, hub=hub, overwrite=True).content_sha256 == frozen.content_sha256
    )
    assert read_files(tmp_path / "set") == first
    assert not [path for path in tmp_path.iterdir() if path.name != "set"]


def test_order_of_the_rows_does_not_matter(
    hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, recipe: Recipe, folder: Path, tmp_path: Path
) -> None:
    shuffled = frame.iloc[[4, 2, 0, 3, 1]]
    freeze(complete(shuffled), tmp_path / "shuffled" / "set", recipe=recipe, hub=hub)
    assert read_files(tmp_path / "shuffled" / "set") == read_files(folder)


@pytest.mark.parametrize("dtypes", ["numpy", "arrow", "object", "string"])
def test_column_types_do_not_matter(
    hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, recipe: Recipe, folder: Path, tmp_path: Path, dtypes: str
) -> None:
    """Frames of different pandas versions differ in their dtypes."""
    results = complete(frame)
    casts: dict[str, dict[str, Any]] = {
        "numpy": {"label": np.int32},
        "arrow": {"q": pd.ArrowDtype(pa.large_string()), "label": pd.ArrowDtype(pa.int16())},
        "object": {"q": object},
        "string": {"q": "string[python]"},
    }
    freeze(results.astype(casts[dtypes]), tmp_path / "other" / "set", recipe=recipe, hub=hub)
    assert read_files(tmp_path / "other" / "set") == read_files(folder)


def test_results_table_takes_its_input_rows_from_data(
    hub: llmhub.Hub, frame: pd.DataFrame, recipe: Recipe, folder: Path, tmp_path: Path
) -> None:
    table = llmhub.complete_table(frame, recipe.prompt, model=recipe.models, hub=hub, n=recipe.samples, progress=False)
    freeze(table, tmp_path / "other" / "set", data=frame, recipe=recipe, hub=hub)
    assert read_files(tmp_path / "other" / "set") == read_files(folder)
    with pytest.raises(BadRequestError, match="data: a results table does not contain its input rows"):
        freeze(table, tmp_path / "bad")


def test_json_lines_hold_the_same_content(
    hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, recipe: Recipe, folder: Path, tmp_path: Path
) -> None:
    frozen = freeze(complete(frame), tmp_path / "lines", recipe=recipe, hub=hub, layout="jsonl")
    assert frozen.content_sha256 == read(folder).content_sha256
    assert verify(tmp_path / "lines").ok
    assert read(tmp_path / "lines").table.equals(read(folder).table)


def test_lock_records_the_provenance(recipe: Recipe, folder: Path) -> None:
    lock = json.loads((folder / "lock.json").read_text())
    assert lock["recipe"]["prompt"] == recipe.prompt
    assert lock["recipe"]["samples"] == recipe.samples
    assert [model["asked"] for model in lock["models"]] == sorted(recipe.models)
    assert lock["models"][1]["served"] == ["gpt-4o-mini-2024-07-18"]
    assert lock["models"][1]["price_ids"][0].startswith("genai-prices-")
    assert lock["models"][1]["tokenizer"] == "o200k_base"
    assert lock["endpoints"]["openai"]["base_url"].startswith("http://127.0.0.1")
    assert {"python", "pyarrow", "pandas", "llmhub"} <= set(lock["packages"])
    assert lock["rows"] == 20
    assert lock["inputs"] == 4
    assert {column["role"] for column in lock["columns"]} == {"input", "asked", "answer", "measure"}


def test_no_credential_is_written(
    simulator: SimulatorThread, frame: pd.DataFrame, recipe: Recipe, tmp_path: Path
) -> None:
    key, headers = "sk-nobody-may-see-this", {"authorization": "Bearer sk-nor-this"}
    endpoints = {
        name: replace(endpoint, api_key=key, headers=headers) for name, endpoint in simulator.endpoints().items()
    }
    with llmhub.Hub(endpoints=endpoints) as hub:
        results = frame.llm.complete(recipe.prompt, model=recipe.models, hub=hub, progress=False, columns="all")
        freeze(results, tmp_path / "set", recipe=recipe, hub=hub)
    assert not any(b"sk-no" in content for content in read_files(tmp_path / "set").values())


def test_other_folders_are_not_overwritten(
    hub: llmhub.Hub, frame: pd.DataFrame, complete: Complete, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    with pytest.raises(BadRequestError, match="exists and is not a frozen dataset"):
        freeze(complete(frame), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "..."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda results: results.drop(columns="served_model"), "freeze needs the column 'served_model'"),
    ],
)
def test_invalid_results_raise_and_write_nothing(
    frame: pd.DataFrame, complete: Complete, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        freeze(change(complete(frame)), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []
