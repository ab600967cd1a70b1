"""Metadata of frozen datasets, read by the reference libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import llmhub
from llmhub.datasets import About, Frozen, Recipe, freeze

Complete = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(params=["parquet", "jsonl"])
def published(
    request: pytest.FixtureRequest,
    hub: llmhub.Hub,
    frame: pd.DataFrame,
    complete: Complete,
    recipe: Recipe,
    tmp_path: Path,
) -> tuple[Path, Frozen]:
    about = About(
        description="Words.",
        license="https://creativecommons.org/licenses/by/4.0/",
        creator="A. Person",
        url="https://example.org/words",
    )
    frozen = freeze(complete(frame), tmp_path / "words", recipe=recipe, hub=hub, about=about, layout=request.param)
    return tmp_path / "words", frozen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_reads_the_rows(published: tuple[Path, Frozen]) -> None:
    import mlcroissant  # noqa: PLC0415 - seconds to load

    folder, frozen = published
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert dataset.metadata.ctx.issues.errors == set()
    assert dataset.metadata.ctx.issues.warnings == set()
    records = list(dataset.records("rows"))
    assert len(records) == frozen.table.num_rows
    texts = [record["rows/response"] and record["rows/response"].decode() for record in records]
    assert texts == frozen.table.column("response").to_pylist()
    assert [record["rows/label"] for record in records] == frozen.table.column("label").to_pylist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_load_dataset_opens_the_folder(
    published: tuple[Path, Frozen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    import datasets  # noqa: PLC0415 - seconds to load

    folder, frozen = published
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["response"] == frozen.table.column("response").to_pylist()
    assert loaded["row_id"] == frozen.table.column("row_id").to_pylist()
