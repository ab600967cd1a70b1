from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import dataset as dataset_module
from llmhub.datasets._diff import diff
from llmhub.datasets._freeze import freeze
from llmhub.datasets._verify import verify
from llmhub.datasets.croissant import About
from llmhub.datasets.dataset import Frozen
from llmhub.datasets.provenance import Recipe
from llmhub.sim import SimulatorThread

PROMPT = "Say {q} in a word."


MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")


RECIPE = Recipe(prompt=PROMPT, models=MODELS, samples=2)


FRAME = pd.DataFrame({"q": ["one", "two", None, "two", "[[sim:400]] four"], "label": [1, 2, 3, 2, 4]})


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.MemoryCache(), retry=llmhub.Retry(attempts=1)) as hub:
        yield hub


def asked(frame: pd.DataFrame, hub: llmhub.Hub) -> pd.DataFrame:
    found: pd.DataFrame = frame.llm.complete(PROMPT, model=MODELS, hub=hub, n=2, progress=False)
    return found


@pytest.fixture
def folder(tmp_path: Path, hub: llmhub.Hub) -> Path:
    freeze(asked(FRAME, hub), tmp_path / "set", recipe=RECIPE, hub=hub)
    return tmp_path / "set"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def changed(folder: Path, column: str, at: int, value: Any) -> None:
    """Change one value of the data."""
    path = folder / "data.parquet"
    table = parquet.read_table(path)
    values = table.column(column).to_pylist()
    values[at] = value
    field = table.schema.field(column)
    place = table.schema.get_field_index(column)
    parquet.write_table(table.set_column(place, field, pa.array(values, field.type)), path, compression="zstd")


class TestFreeze:
    def test_frozen_twice_or_from_the_cache_it_is_the_same_to_the_byte(self, hub: llmhub.Hub, tmp_path: Path) -> None:
        fresh = freeze(asked(FRAME, hub), tmp_path / "set", recipe=RECIPE, hub=hub)
        first = files(tmp_path / "set")
        again = asked(FRAME, hub)
        assert again["cache_hit"].sum() > 0
        assert freeze(again, tmp_path / "set", recipe=RECIPE, hub=hub).content_sha256 == fresh.content_sha256
        assert files(tmp_path / "set") == first
        assert not [path for path in tmp_path.iterdir() if path.name != "set"]

    def test_the_order_of_the_rows_does_not_matter(self, hub: llmhub.Hub, folder: Path, tmp_path: Path) -> None:
        moved = FRAME.iloc[[4, 2, 0, 3, 1]]
        freeze(asked(moved, hub), tmp_path / "moved" / "set", recipe=RECIPE, hub=hub)
        assert files(tmp_path / "moved" / "set") == files(folder)

    @pytest.mark.parametrize("dtypes", ["numpy", "arrow", "object", "string"])
    def test_the_kind_of_frame_does_not_matter(
        self, hub: llmhub.Hub, folder: Path, tmp_path: Path, dtypes: str
    ) -> None:
        """Frames of different versions of pandas differ in their dtypes alone."""
        out = asked(FRAME, hub)
        kinds: dict[str, Any] = {
            "numpy": lambda: out.astype({"label": np.int32}),
            "arrow": lambda: out.astype({"q": pd.ArrowDtype(pa.large_string()), "label": pd.ArrowDtype(pa.int16())}),
            "object": lambda: out.astype({"q": object}),
            "string": lambda: out.astype({"q": "string[python]"}),
        }
        freeze(kinds[dtypes](), tmp_path / "other" / "set", recipe=RECIPE, hub=hub)
        assert files(tmp_path / "other" / "set") == files(folder)

    def test_a_results_table_takes_its_rows_from_data(self, hub: llmhub.Hub, folder: Path, tmp_path: Path) -> None:
        table = llmhub.complete_table(FRAME, PROMPT, model=MODELS, hub=hub, n=2, progress=False)
        freeze(table, tmp_path / "other" / "set", data=FRAME, recipe=RECIPE, hub=hub)
        assert files(tmp_path / "other" / "set") == files(folder)
        with pytest.raises(BadRequestError, match="data: a results table does not contain its input rows"):
            freeze(table, tmp_path / "bad")

    def test_lines_hold_the_same_content(self, hub: llmhub.Hub, folder: Path, tmp_path: Path) -> None:
        made = freeze(asked(FRAME, hub), tmp_path / "lines", recipe=RECIPE, hub=hub, layout="jsonl")
        assert made.content_sha256 == dataset_module.read(folder).content_sha256
        assert verify(tmp_path / "lines").ok
        assert dataset_module.read(tmp_path / "lines").table.equals(dataset_module.read(folder).table)

    def test_the_lock_says_how_it_was_made(self, folder: Path, simulator: SimulatorThread) -> None:
        lock = json.loads((folder / "lock.json").read_text())
        assert lock["recipe"]["prompt"] == PROMPT
        assert lock["recipe"]["samples"] == 2
        assert [model["asked"] for model in lock["models"]] == sorted(MODELS)
        assert lock["models"][1]["served"] == ["gpt-4o-mini-2024-07-18"]
        assert lock["models"][1]["price_ids"][0].startswith("genai-prices-")
        assert lock["models"][1]["tokenizer"] == "o200k_base"
        assert lock["endpoints"]["openai"]["base_url"].startswith("http://127.0.0.1")
        assert {"python", "pyarrow", "pandas", "llmhub"} <= set(lock["packages"])
        assert lock["rows"] == 20
        assert lock["inputs"] == 4
        assert {column["role"] for column in lock["columns"]} == {"input", "asked", "answer", "measure"}

    def test_no_key_is_written(self, simulator: SimulatorThread, tmp_path: Path) -> None:
        key, header = "sk-nobody-may-see-this", {"authorization": "Bearer sk-nor-this"}
        secret = {name: replace(at, api_key=key, headers=header) for name, at in simulator.endpoints().items()}
        with llmhub.Hub(endpoints=secret) as hub:
            freeze(asked(FRAME, hub), tmp_path / "set", recipe=RECIPE, hub=hub)
        assert not any(b"sk-no" in content for content in files(tmp_path / "set").values())

    def test_what_is_there_is_not_overwritten(self, hub: llmhub.Hub, tmp_path: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("...")
        with pytest.raises(BadRequestError, match="exists and is not a frozen dataset"):
            freeze(asked(FRAME, hub), tmp_path / "mine")
        assert (tmp_path / "mine" / "thesis.tex").read_text() == "..."

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda out: out.drop(columns="served_model"), "no column 'served_model'"),
            (
                lambda out: out.rename(columns={"label": "row_id"}),
                "the input column 'row_id' has the name of a result column",
            ),
        ],
    )
    def test_what_cannot_be_frozen_is_refused(self, hub: llmhub.Hub, tmp_path: Path, change: Any, said: str) -> None:
        with pytest.raises(BadRequestError, match=said):
            freeze(change(asked(FRAME, hub)), tmp_path / "set")
        assert list(tmp_path.iterdir()) == []


class TestVerify:
    def test_nothing_changed(self, folder: Path) -> None:
        found = verify(folder)
        assert found
        assert str(found) == f"intact: 20 rows, content sha256 {dataset_module.read(folder).content_sha256}"

    def test_one_character_of_one_answer_names_its_row(self, folder: Path) -> None:
        table = dataset_module.read(folder).table
        at = next(at for at, text in enumerate(table.column("response").to_pylist()) if text)
        changed(folder, "response", at, table.column("response")[at].as_py()[:-1] + "!")
        found = verify(folder)
        assert not found
        (change,) = found.changes
        assert (change.position, change.kind, change.row_id) == (at, "answer", table.column("row_id")[at].as_py())
        assert f"{change.provider}/{change.model}" in str(found)
        assert found.problems[0].startswith("data.parquet: its sha256 is")

    def test_an_input_that_changed_is_told_from_an_answer(self, folder: Path) -> None:
        changed(folder, "label", 3, 77)
        assert [(change.position, change.kind) for change in verify(folder).changes] == [(3, "input")]

    def test_rows_that_are_gone_or_new_are_named(self, folder: Path) -> None:
        path = folder / "data.parquet"
        table = parquet.read_table(path)
        at = table.column("label").to_pylist().index(1)
        parquet.write_table(pa.concat_tables([table.slice(0, at), table.slice(at + 1)]), path)
        assert [(change.position, change.kind) for change in verify(folder).changes] == [(at, "missing")]
        parquet.write_table(pa.concat_tables([table, table.slice(7, 1)]), path)
        assert [(change.position, change.kind) for change in verify(folder).changes] == [(20, "added")]

    def test_a_measurement_is_no_content_but_the_file_is_another(self, folder: Path) -> None:
        changed(folder, "latency_s", 0, 99.0)
        found = verify(folder)
        assert (found.ok, found.changed) == (False, 0)
        assert len(found.problems) == 1

    @pytest.mark.parametrize("name", ["data.parquet", "rows.lock"])
    def test_files_that_are_gone_or_cut_are_named(self, folder: Path, name: str) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-7])
        assert any(name in problem for problem in verify(folder).problems)
        (folder / name).unlink()
        assert f"{name}: No such file or directory" in verify(folder).problems

    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path, folder: Path) -> None:
        with pytest.raises(BadRequestError, match=r"not a frozen dataset: lock.json cannot be read"):
            verify(tmp_path)
        lock = json.loads((folder / "lock.json").read_text())
        (folder / "lock.json").write_text(json.dumps(lock | {"version": 99}))
        with pytest.raises(BadRequestError, match="layout version 99 is later than 1"):
            verify(folder)


class TestDiff:
    def test_a_run_equals_itself_in_any_order(self, hub: llmhub.Hub, folder: Path) -> None:
        found = diff(folder, asked(FRAME.iloc[::-1], hub))
        assert found.same
        assert str(found) == "no differences in 20 rows"

    def test_what_moved_is_shown_row_by_row(self, hub: llmhub.Hub, folder: Path) -> None:
        other = asked(FRAME, hub)
        at = int(np.flatnonzero(other["response"].notna())[0])
        other.iloc[at, other.columns.get_loc("response")] = "Something else."
        other.iloc[at, other.columns.get_loc("served_model")] = "gpt-next"
        found = diff(folder, other)
        assert found.counts() == {"served_model": 1, "response": 1}
        moved = {row["column"]: row for row in found.changes.to_pylist()}
        assert moved["served_model"]["after"] == "gpt-next"
        assert moved["response"]["after"] == "Something else."
        assert "response: 1 row changed" in str(found)

    def test_rows_that_only_one_has_are_named(self, hub: llmhub.Hub, folder: Path) -> None:
        found = diff(folder, asked(FRAME.iloc[[0, 1, 2, 3]], hub))
        assert (found.compared, found.only_before.num_rows, found.only_after.num_rows) == (16, 4, 0)
        assert "4 rows only before" in str(found)
        # The second of two equal rows has a place of its own.
        found = diff(asked(FRAME.iloc[[0, 1]], hub), asked(FRAME.iloc[[0, 1, 3]], hub))
        assert (found.compared, found.only_before.num_rows, found.only_after.num_rows) == (8, 0, 4)

    def test_further_columns_do_not_part_rows(self, hub: llmhub.Hub) -> None:
        assert diff(asked(FRAME, hub), asked(FRAME.assign(note="later"), hub)).same
        with pytest.raises(BadRequestError, match="no input column in common"):
            diff(asked(FRAME, hub), asked(FRAME.rename(columns={"label": "l"}), hub).drop(columns="q"))


class TestOthersTools:
    @pytest.fixture(params=["parquet", "jsonl"])
    def written(self, request: pytest.FixtureRequest, hub: llmhub.Hub, tmp_path: Path) -> tuple[Path, Frozen]:
        about = About(
            description="Words.", license="https://creativecommons.org/licenses/by/4.0/", creator="A. Person",
            url="https://example.org/words",
        )  # fmt: skip
        made = freeze(asked(FRAME, hub), tmp_path / "words", recipe=RECIPE, hub=hub, about=about, layout=request.param)
        return tmp_path / "words", made

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_croissant_is_valid_and_reads_the_rows(self, written: tuple[Path, Frozen]) -> None:
        import mlcroissant  # noqa: PLC0415 - seconds to load

        folder, made = written
        dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
        assert dataset.metadata.ctx.issues.errors == set()
        assert dataset.metadata.ctx.issues.warnings == set()
        records = list(dataset.records("rows"))
        assert len(records) == made.table.num_rows
        texts = [record["rows/response"] and record["rows/response"].decode() for record in records]
        assert texts == made.table.column("response").to_pylist()
        assert [record["rows/label"] for record in records] == made.table.column("label").to_pylist()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_datasets_opens_the_folder(
        self, written: tuple[Path, Frozen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        import datasets  # noqa: PLC0415 - seconds to load

        folder, made = written
        found = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert found["response"] == made.table.column("response").to_pylist()
        assert found["row_id"] == made.table.column("row_id").to_pylist()
