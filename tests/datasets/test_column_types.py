"""Column types and names: whatever `freeze` writes is verified, replayed to the byte, and loaded by other tools."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import Recipe, freeze, read, replay, verify
from llmhub.evals import compare, evaluate, scorers, tasks
from llmhub.sim import SimulatorThread

MODEL = "openai/gpt-4o-mini"
NOON = dt.datetime(2026, 11, 29, 12, 0, 0, 123456)  # noqa: DTZ001 - a time without zone is one of the types
COLUMNS: dict[str, pa.Array] = {
    "int8": pa.array([1, None, 3], pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "float16": pa.array([0.5, None, 2.0], pa.float32()).cast(pa.float16()),
    "float32": pa.array([0.5, None, float("nan")], pa.float32()),
    "bool": pa.array([True, None, False]),
    "large_string": pa.array(["a", None, "é\n"], pa.large_string()),
    "binary": pa.array([b"\0\xff", None, b""], pa.binary()),
    "fixed_binary": pa.array([b"abcd", None, b"efgh"], pa.binary(4)),
    "null": pa.nulls(3),
    "date32": pa.array([NOON.date(), None, dt.date(1969, 12, 31)], pa.date32()),
    "date64": pa.array([NOON.date(), None, dt.date(1969, 12, 31)], pa.date64()),
    "time32": pa.array([dt.time(1, 2, 3), None, dt.time(4)], pa.time32("s")),
    "time64": pa.array([dt.time(1, 2, 3, 4), None, dt.time(4)], pa.time64("us")),
    "timestamp_s": pa.array([NOON.replace(microsecond=0), None, None], pa.timestamp("s")),
    "timestamp_us": pa.array([NOON, None, None], pa.timestamp("us")),
    "timestamp_ns": pa.array([1_700_000_000_123_456_789, None, -1], pa.int64()).cast(pa.timestamp("ns")),
    "timestamp_zone": pa.array([NOON, None, None], pa.timestamp("us", "Europe/Berlin")),
    "duration": pa.array([dt.timedelta(days=3, seconds=5), None, dt.timedelta(0)], pa.duration("us")),
    "decimal": pa.array([Decimal("1.50"), None, Decimal("-0.01")], pa.decimal128(20, 2)),
    "decimal256": pa.array([Decimal("1.5"), None, Decimal(-2)], pa.decimal256(50, 1)),
    "dictionary": pa.array(["x", None, "x"]).dictionary_encode(),
    "list": pa.array([["a", None], None, []], pa.list_(pa.string())),
    "list_int8": pa.array([[1, 2], None, []], pa.list_(pa.int8())),
    "large_list": pa.array([[1.5], None, []], pa.large_list(pa.float32())),
    "fixed_list": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
    "list_decimal": pa.array([[Decimal("1.5")], None, []], pa.list_(pa.decimal128(9, 1))),
    "list_timestamp": pa.array([[NOON], None, []], pa.list_(pa.timestamp("us", "UTC"))),
    "list_list": pa.array([[["a"], []], None, []], pa.list_(pa.list_(pa.string()))),
    "struct": pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": None}]),
    "struct_time": pa.array([{"at": NOON}, None, {"at": None}], pa.struct([("at", pa.timestamp("us", "UTC"))])),
    "list_struct": pa.array([[{"label": "A", "text": "one"}], None, []]),
    "map": pa.array([[("a", 1), ("b", 2)], None, []], pa.map_(pa.string(), pa.int32())),
    "map_int": pa.array([[(1, Decimal("1.5"))], None, []], pa.map_(pa.int64(), pa.decimal128(9, 1))),
}
NAMES = (
    "a column",
    "größe",
    "a/b",
    "100%",
    "tab\tbed",
    "model",
    "status",
    "row_id",
    "score_numeric",
    "'quoted'",
    "input_model",
)


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), cache=llmhub.MemoryCache()) as hub:
        yield hub


def freeze_table(hub: llmhub.Hub, table: pa.Table, folder: Path, layout: Any) -> None:
    results = llmhub.complete_table(table, "Say {q}.", model=MODEL, hub=hub, progress=False)
    recipe = Recipe(prompt="Say {q}.", models=(MODEL,))
    freeze(results, folder, data=table, recipe=recipe, hub=hub, layout=layout)


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_column_type_is_verified_and_replayed(hub: llmhub.Hub, tmp_path: Path, name: str, layout: str) -> None:
    table = pa.table({"q": ["one", "two", "three"], name: COLUMNS[name]})
    freeze_table(hub, table, tmp_path / "set", layout)
    assert verify(tmp_path / "set")
    replayed = replay(tmp_path / "set")
    assert replayed.difference.same
    assert replayed
    stored = read(tmp_path / "set").table
    given = {row["q"]: row[name] for row in table.to_pylist() if not name.startswith(("float", "timestamp_ns"))}
    assert {row["q"]: row[name] for row in stored.to_pylist() if row["q"] in given} == given


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_columns_of_all_types_and_names_together(hub: llmhub.Hub, tmp_path: Path, layout: str) -> None:
    named = {name: pa.array([1, 2, None]) for name in NAMES}
    freeze_table(hub, pa.table({"q": ["one", "two", "three"], **COLUMNS, **named}), tmp_path / "set", layout)
    assert verify(tmp_path / "set")
    assert replay(tmp_path / "set")
    assert set(read(tmp_path / "set").inputs().column_names) == {"q", *COLUMNS, *NAMES}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_croissant_loads_records_of_all_types_and_names(hub: llmhub.Hub, tmp_path: Path, layout: str) -> None:
    import mlcroissant  # noqa: PLC0415 - seconds to load

    named = {name: pa.array(["x", "y", None]) for name in NAMES}
    freeze_table(hub, pa.table({"q": ["one", "two", "three"], **COLUMNS, **named}), tmp_path / "set", layout)
    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "set" / "croissant.json"))
    assert dataset.metadata.ctx.issues.errors == set()
    records = list(dataset.records("rows"))
    stored = read(tmp_path / "set").table
    assert len(records) == stored.num_rows
    by_question = {record["rows/q"].decode(): record for record in records}
    assert [list(by_question["one"]["rows/list_int8"]), by_question["one"]["rows/decimal"]] == [[1, 2], 1.5]
    assert by_question["one"]["rows/timestamp_zone"] == pd.Timestamp(NOON, tz="UTC")
    assert by_question["one"]["rows/a%20column"] == b"x"
    assert by_question["one"]["rows/input_input_model"] == b"x"


def test_column_that_cannot_be_stored_says_so(hub: llmhub.Hub, tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1])])
    results = llmhub.complete_table({"q": ["one"]}, "{q}", model=MODEL, hub=hub, progress=False)
    with pytest.raises(BadRequestError, match=r"the column 'u' .*cannot be stored"):
        freeze(results, tmp_path / "set", data=pa.table({"q": ["one"], "u": union}))
    assert not (tmp_path / "set").exists()


def test_naive_and_zoned_timestamps_differ(hub: llmhub.Hub, tmp_path: Path) -> None:
    for name, kind in (("naive", pa.timestamp("us")), ("zoned", pa.timestamp("us", "UTC"))):
        table = pa.table({"q": ["one"], "at": pa.array([NOON], kind)})
        freeze_table(hub, table, tmp_path / name, "parquet")
    assert read(tmp_path / "naive").content_sha256 != read(tmp_path / "zoned").content_sha256


# Comparisons, imported results, templates that are functions


def test_comparison_is_frozen_with_its_hub_and_replayed(hub: llmhub.Hub, tmp_path: Path) -> None:
    frame = pd.DataFrame({"q": ["one", "two"], "truth": ["one", "two"]})
    models = [MODEL, "anthropic/claude-haiku-4-5"]
    comparison = compare(frame, "Say {q}.", model=models, scorers=scorers.contains("truth"), hub=hub, progress=False)
    freeze(comparison, tmp_path / "set")  # no default hub: there are no credentials in the environment
    assert verify(tmp_path / "set")
    assert replay(tmp_path / "set")
    card = (tmp_path / "set" / "README.md").read_text()
    for part in ("## Results", "## Columns", "## Citation", "analysis: failures wrong", "contains 1 ("):
        assert part in card


def test_evaluation_is_frozen_with_the_hub_it_ran_on(hub: llmhub.Hub, tmp_path: Path) -> None:
    task = tasks.Task(name="t", template="Say {q}.", scorers=scorers.contains("q"))
    evaluation = evaluate(pd.DataFrame({"q": ["one", "two"]}), task, [MODEL], hub=hub, progress=False)
    freeze(evaluation, tmp_path / "set")
    assert replay(tmp_path / "set")


def test_template_that_is_a_function_is_frozen_and_scored_again(hub: llmhub.Hub, tmp_path: Path) -> None:
    frame = pd.DataFrame({"q": ["one", "two"], "model": ["x", "y"]})
    comparison = compare(
        frame, lambda row: f"Say {row['q']}.", model=[MODEL], scorers=scorers.contains("q"), hub=hub, progress=False
    )
    freeze(comparison, tmp_path / "set")
    assert replay(tmp_path / "set")


@pytest.mark.parametrize("ids", [[1, 1, 2, 2], ["a", "a", "b", "b"], [0.5, 0.5, 1.5, 1.5]])
def test_imported_results_are_frozen_and_scored_again(tmp_path: Path, ids: list[Any]) -> None:
    table = pa.table(
        {
            "row": ids,
            "model": ["m1", "m2", "m1", "m2"],
            "response": ["It is 4", "5", "7", "8"],
            "truth": [4, 4, 8, 8],
        }
    )
    comparison = compare(table, scorers=scorers.numeric("truth"))
    freeze(comparison, tmp_path / "set")
    assert verify(tmp_path / "set")
    replayed = replay(tmp_path / "set")
    assert replayed, replayed
    scored = replayed.frozen.table.select(["model", "score_numeric"]).to_pylist()
    assert sorted(tuple(row.values()) for row in scored) == [("m1", 0.0), ("m1", 1.0), ("m2", 0.0), ("m2", 1.0)]


def test_imported_scores_are_frozen_and_compared_again(tmp_path: Path) -> None:
    comparison = compare({"a": [1, 0, 1], "b": [1, 1, 1], "id": ["x", "y", "z"]}, model=["a", "b"])
    freeze(comparison, tmp_path / "set")
    assert read(tmp_path / "set").names("input") == ["id"]
    assert replay(tmp_path / "set")


def test_wide_frame_of_answers_is_scored() -> None:
    frame = {"a": ["4", "5"], "b": ["4", "6"], "truth": [4, 6]}
    comparison = compare(frame, model=["b", "a"], scorers=scorers.numeric("truth"))
    assert comparison.pairs.select(["left", "right", "difference"]).to_pylist() == [
        {"left": "b", "right": "a", "difference": 0.5}
    ]
    with pytest.raises(BadRequestError, match=r"model: the column 'a' .*holds text, not scores; pass scorers="):
        compare(frame, model=["a", "b"])
