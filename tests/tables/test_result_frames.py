"""Results in users' frames: their types in pandas, and the way back to the exact schema."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather, ipc, parquet

from llmhub.core.errors import BadRequestError
from llmhub.tables import files, streaming_io
from llmhub.tables.frames import standard_types
from llmhub.tables.pandas_types import to_pandas
from llmhub.tables.result_frames import (
    COMPACT_COLUMNS,
    answer_columns,
    answer_texts,
    require_result_columns,
    result_columns,
    results_table,
    with_rows,
)
from llmhub.tables.schema import RESULTS

VALUES: dict[str, list[Any]] = {
    "row": [0, 0, 1, 1],
    "sample": [0] * 4,
    "provider": ["p", "q", "p", "q"],
    "model": ["a", "b", "a", "b"],
    "served_model": ["a-1", None, "a-1", "b-1"],
    "status": ["ok", "error", "ok", "skipped"],
    "response": ["yes", None, "\u017elu\u0165", None],
    "parsed": ['{"x":1}', None, None, None],
    "tool_calls": [[], None, [{"id": "1", "name": "f", "arguments": "{}"}], []],
    "finish_reason": ["stop", None, "length", None],
    "error_type": [None, "RateLimited", None, None],
    "error": [None, "slow down", None, None],
    "input_tokens": [1, None, 3, None],
    "output_tokens": [1, 2, 3, None],
    "cached_input_tokens": [None] * 4,
    "cache_write_tokens": [None] * 4,
    "reasoning_tokens": [0, None, 7, None],
    "cost_usd": [Decimal("0.000058500"), None, Decimal("123456.100000001"), Decimal(0)],
    "list_cost_usd": [Decimal("0.000058500"), None, Decimal("0.1"), None],
    "latency_s": [0.1, 0.25, None, None],
    "ttft_s": [None] * 4,
    "queue_s": [0.0, 0.5, None, None],
    "rate_wait_s": [0.0] * 4,
    "total_s": [0.1, 0.75, None, None],
    "attempts": [1, 2, 0, 0],
    "cache_hit": [False, False, True, False],
    "dropped_params": [[], ["seed"], [], None],
    "request_key": [b"\1" * 32, b"\xff" * 32, bytes(range(32)), None],
    "request_id": ["r1", None, None, None],
    "price_id": ["x@2026", None, None, None],
    "started_at": [datetime(2026, 11, 30, 1, 2, 3, 456789, UTC), None, datetime(2026, 11, 30, tzinfo=UTC), None],
}


def sample() -> pa.Table:
    columns = [
        pa.array(VALUES[field.name], pa.string()).dictionary_encode()
        if pa.types.is_dictionary(field.type)
        else pa.array(VALUES[field.name], field.type)
        for field in RESULTS
    ]
    return pa.table(columns, schema=RESULTS)


# Types in pandas

NATIVE_STRING = str(pd.Series(["text"]).dtype)


def test_pandas_types_are_its_own() -> None:
    frame = to_pandas(sample())
    kinds = {name: str(dtype) for name, dtype in frame.dtypes.items()}
    for name in ("provider", "model", "status", "finish_reason", "error_type"):
        assert kinds[name] == "category"
    for name in ("response", "error", "served_model", "request_key", "parsed", "request_id"):
        assert kinds[name] == NATIVE_STRING
    for name in ("cost_usd", "list_cost_usd", "latency_s", "ttft_s", "total_s"):
        assert kinds[name] == "float64"
    assert [kinds[name] for name in ("row", "sample", "attempts", "input_tokens")] == [
        "Int64",
        "Int32",
        "Int16",
        "Int64",
    ]
    assert kinds["cache_hit"] == "boolean"
    assert kinds["started_at"] == "datetime64[us, UTC]"
    assert frame["request_key"].iloc[2] == bytes(range(32)).hex()
    assert frame["cost_usd"].tolist()[0] == 0.0000585
    assert frame["tool_calls"].tolist() == VALUES["tool_calls"]


def test_types_do_not_depend_on_the_values() -> None:
    whole, empty = to_pandas(sample()), to_pandas(RESULTS.empty_table())
    for name in RESULTS.names:
        same = str(whole[name].dtype) == str(empty[name].dtype)
        assert same, name


def test_dtype_backends_are_those_of_pandas() -> None:
    arrow, nullable = to_pandas(sample(), "pyarrow"), to_pandas(sample(), "numpy_nullable")
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in arrow.dtypes)
    assert str(arrow["model"].dtype) == "string[pyarrow]"
    assert str(arrow["cost_usd"].dtype) == "double[pyarrow]"
    assert str(nullable["latency_s"].dtype) == "Float64"
    assert isinstance(nullable["response"].dtype, pd.StringDtype)
    with pytest.raises(BadRequestError, match="dtype_backend: 'numpy' is not a dtype backend"):
        to_pandas(sample(), "numpy")  # type: ignore[arg-type]


NUMBERS = pa.list_(pa.int64())


@pytest.mark.parametrize(
    "column",
    [
        pa.chunked_array([], NUMBERS),
        pa.chunked_array([pa.array([None, None], NUMBERS)]),
        pa.chunked_array([pa.array([[1], None, []], NUMBERS), pa.array([[2, None], []], NUMBERS)]),
        pa.chunked_array([pa.array([[[1]], [], [[], [2, 3]]], pa.list_(NUMBERS)).slice(1)]),
        pa.chunked_array([pa.array([[{"a": 1}], None])]),
        pa.chunked_array([pa.array([{"a": [1]}, None])]),
    ],
)
def test_lists_and_structures_are_those_of_python(column: pa.ChunkedArray) -> None:
    values = to_pandas(pa.table({"values": column}))["values"].tolist()
    assert values == column.to_pylist()
    empty = [value for value in values if value == []]
    assert len(set(map(id, empty))) == len(empty)  # one that is changed changes no other row


def test_sliced_and_chunked_keys_keep_their_rows() -> None:
    table = pa.concat_tables([sample().slice(1, 3), sample().slice(0, 2)])
    keys = to_pandas(table)["request_key"].tolist()
    assert keys == [key.hex() if key else keys[2] for key in table.column("request_key").to_pylist()]
    assert pd.isna(keys[2])


# The way back


def read_csv(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    frame.to_csv(folder / "r.csv", index=False)
    return pd.read_csv(folder / "r.csv")


def read_json(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    del folder
    return pd.read_json(io.StringIO(frame.to_json(orient="records", date_format="iso", date_unit="us")))


def read_parquet(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    frame.to_parquet(folder / "r.parquet")
    return pd.read_parquet(folder / "r.parquet")


def read_feather(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    frame.to_feather(folder / "r.feather")
    return pd.read_feather(folder / "r.feather")


def same(frame: pd.DataFrame, folder: Path) -> pd.DataFrame:
    del folder
    return frame


TRIPS: dict[str, Callable[[pd.DataFrame, Path], pd.DataFrame]] = {
    "pandas": same,
    "csv": read_csv,
    "json": read_json,
    "parquet": read_parquet,
    "feather": read_feather,
    "objects": lambda frame, _: frame.astype(object),
    "copy": lambda frame, _: frame.sort_values("model", ascending=False).sort_index().copy(),
}


@pytest.mark.parametrize("trip", TRIPS)
@pytest.mark.parametrize("dtype_backend", [None, "numpy_nullable", "pyarrow"])
def test_schema_is_restored(trip: str, dtype_backend: Any, tmp_path: Path) -> None:
    table = sample()
    if trip in {"parquet", "feather", "copy"} and dtype_backend == "pyarrow":
        table = table.drop_columns(["tool_calls", "dropped_params"])  # pandas cannot read the names of nested types
    frame = TRIPS[trip](to_pandas(table, dtype_backend), tmp_path)
    restored = results_table(frame)
    expected = table.to_pydict()
    for field in table.schema:
        assert restored.schema.field(field.name).type == field.type, field.name
        assert restored.column(field.name).to_pylist() == expected[field.name], field.name


@pytest.mark.parametrize("write", [parquet.write_table, feather.write_feather])
def test_files_of_the_arrow_table_are_read(write: Callable[..., Any], tmp_path: Path) -> None:
    write(sample(), tmp_path / "r")
    frame = (pd.read_parquet if write is parquet.write_table else pd.read_feather)(tmp_path / "r")
    assert results_table(frame).equals(sample())
    assert results_table(sample().to_pandas()).equals(sample())


def test_polars_and_arrow_are_read() -> None:
    assert results_table(pl.from_arrow(sample())).to_pydict() == sample().to_pydict()
    assert results_table(sample()).equals(sample())
    prefixed = sample().rename_columns([f"llm_{name}" for name in RESULTS.names]).append_column("model", [[1] * 4])
    assert results_table(prefixed, "llm_").column_names == RESULTS.names
    assert results_table(prefixed, "llm_", ["model", "status"]).column_names == ["model", "status"]


def test_texts_that_look_like_numbers_stay_texts() -> None:
    frame = pd.read_csv(io.StringIO("response,error,served_model\n42,,True\n7,,False\n"))
    table = results_table(frame)
    assert table.column("response").to_pylist() == ["42", "7"]
    assert table.column("served_model").to_pylist() == ["True", "False"]
    assert table.column("error").null_count == 2
    mixed = pd.DataFrame({"response": [1, "two", None]}, dtype=object)
    assert results_table(mixed).column("response").to_pylist() == ["1", "two", None]


def test_times_and_amounts_of_other_types() -> None:
    times = pd.to_datetime(["2026-11-30 01:02:03.5"])
    for values in (times, times.tz_localize("UTC"), times.tz_localize("Asia/Tokyo")):
        table = results_table(pd.DataFrame({"started_at": values}))
        assert table.column("started_at").type == RESULTS.field("started_at").type
    amounts = results_table({"cost_usd": [1, 2]}).column("cost_usd")
    assert amounts.to_pylist() == [Decimal(1), Decimal(2)]
    wrong = results_table({"cost_usd": [float("inf"), 1e300, None, -0.5]}).column("cost_usd")
    assert wrong.to_pylist() == [None, None, None, Decimal("-0.5")]
    assert results_table({"cost_usd": ["0.25"]}).column("cost_usd").to_pylist() == [Decimal("0.25")]


@pytest.mark.parametrize(
    "frame",
    [
        {"cost_usd": ["free"]},
        {"row": [1.5]},
        {"request_key": ["xyz"]},
        {"started_at": [17]},
        {"dropped_params": ["[1"]},
        {"tool_calls": ["[" * 100_000]},
    ],
    ids=lambda frame: next(iter(frame)),
)
def test_a_column_of_something_else_is_named(frame: Any) -> None:
    (name,) = frame
    with pytest.raises(BadRequestError, match=f"^frame: column '{name}' is not that of results"):
        results_table(frame)
    with pytest.raises(BadRequestError, match=r"^frame: column 'my' cannot be read"):
        results_table(pd.DataFrame({"my": [1, "a"]}, dtype=object))


# Columns


def test_columns_of_a_frame() -> None:
    assert result_columns("compact", "p/a", {}) == COMPACT_COLUMNS
    assert result_columns("compact", ["p/a"], {"n": 1}) == COMPACT_COLUMNS
    assert result_columns("compact", ["p/a", "q/b"], {}) == ("row", *COMPACT_COLUMNS)
    assert result_columns("compact", "p/a", {"n": 2}) == ("row", "sample", *COMPACT_COLUMNS)
    assert result_columns("all", "p/a", {}) == tuple(RESULTS.names)
    options = {"schema": dict, "stream": True, "unsupported": "drop", "tools": [1]}
    asked = ("parsed", "tool_calls", "ttft_s", "dropped_params")
    assert result_columns("compact", "p/a", options) == (*COMPACT_COLUMNS, *asked)
    assert result_columns("queue_s", "p/a", {}) == result_columns(["queue_s"], "p/a", {})
    assert result_columns(["queue_s", "model"], "p/a", {}) == (*COMPACT_COLUMNS, "queue_s")
    with pytest.raises(BadRequestError, match=r"columns: 'ttft' is not a column of results. Did you mean 'ttft_s'\?"):
        result_columns(["ttft"], "p/a", {})


def test_missing_columns_say_what_brings_them() -> None:
    with pytest.raises(BadRequestError, match=r"pass columns=\['ttft_s'\] or columns='all' to df.llm.complete"):
        require_result_columns(COMPACT_COLUMNS, ["model", "ttft_s"], "this")
    with pytest.raises(BadRequestError, match=r"there is no column 'model', only 'my_model'; pass prefix='my_'"):
        require_result_columns(["my_model"], ["model"], "this")
    with pytest.raises(BadRequestError, match="'grade' is not a column of the frame"):
        require_result_columns(COMPACT_COLUMNS, ["grade"], "this")
    require_result_columns(COMPACT_COLUMNS, ["model"], "this")


def test_rows_are_numbered_where_they_can_be_known() -> None:
    one = sample().filter([True, False, True, False]).select(["provider", "model"])
    assert with_rows(one, "this").to_pydict() | {"provider": 0, "model": 0} == {
        "provider": 0,
        "model": 0,
        "sample": [0, 0],
        "row": [0, 1],
    }
    with pytest.raises(BadRequestError, match="this needs the column 'row'"):
        with_rows(sample().select(["provider", "model"]), "this")


# Answers


def results(responses: list[str | None], **others: list[Any]) -> pa.Table:
    statuses = ["error" if text is None else "ok" for text in responses]
    return pa.table({**others, "status": statuses, "response": responses})


def test_labels_and_fields_are_found_by_their_values() -> None:
    words = ['{"label": "up"}', "Down.", None]
    assert answer_columns(results(words, mood=["up", "down", None], truth=["up", "up", "up"])) == ("mood",)
    assert answer_columns(results(words, truth=["up", "up", "up"])) == ("response",)
    # Words alone may equal a reference answer by chance, so they do not make a column of labels.
    assert answer_columns(results(["Up.", "Down."], label=["up", "down"])) == ("response",)
    both = results(['{"label": "up"}'], truth=["up"], mood=["up"])
    assert answer_columns(both) == ("mood",)
    assert answer_columns(both, exclude=["mood"]) == ("truth",)
    people = ['{"name": "Ada", "age": 36, "tags": ["x"]}', None, '{"name": "Bob"}']
    fields: dict[str, list[Any]] = {
        "its_name": ["Ada", None, "Bob"],
        "its_age": [36, None, 1],
        "its_tags": [["x"], None, []],
    }
    assert answer_columns(results(people, q=["a", "b", "c"], **fields)) == ("its_name", "its_age", "its_tags")
    assert answer_columns(results(people, name=["Ada", "x", "Eve"])) == ("response",)
    assert answer_columns(pa.table({"q": ["a"]})) == ("response",)
    assert answer_columns(pd.DataFrame({"odd": [1, "a"], "status": "ok", "response": "x"})) == ("response",)


def test_answers_as_text() -> None:
    table = pa.table({"n": [1, None], "t": ["a", None], "one": [{"x": "v"}, None], "two": [{"x": 1, "y": None}, None]})
    assert answer_texts(table, ["n"]) == ["1", None]
    assert answer_texts(table, ["t"]) == ["a", None]
    assert answer_texts(table, ["one"]) == ["v", None]
    assert answer_texts(table, ["two"]) == ['{"x": 1, "y": null}', None]


# Types on entry


def test_types_on_entry_are_those_arrow_supports() -> None:
    frame = pl.DataFrame(
        {
            "s": ["a", None],
            "c": pl.Series(["x", "y"], dtype=pl.Categorical),
            "e": pl.Series(["x", "y"], dtype=pl.Enum(["x", "y"])),
            "l": [["a"], []],
            "o": [{"a": "q"}, {"a": None}],
            "b": [b"1", None],
            "n": [1, 2],
        }
    )
    exported = pa.table(frame)
    table = standard_types(exported)
    assert table.to_pydict() == exported.to_pydict()
    words = pa.dictionary(pa.int32(), pa.string())
    assert table.schema.types == [
        pa.string(),
        words,
        words,
        pa.list_(pa.string()),
        pa.struct([("a", pa.string())]),
        pa.binary(),
        pa.int64(),
    ]
    assert standard_types(table) is table
    taken = table.take(pa.array([1, 0]))
    assert taken.column("s").to_pylist() == [None, "a"]


def test_files_and_streams_of_polars_are_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"t": ["a", "b", None]})
    frame.write_ipc(tmp_path / "views.arrow")
    frame.write_ipc_stream(tmp_path / "views.arrows")
    assert ipc.open_file(tmp_path / "views.arrow").schema.field("t").type == pa.string_view()
    assert files.read_table(tmp_path / "views.arrow", "frame").schema.field("t").type == pa.string()
    for source in (tmp_path / "views.arrows", frame, frame.lazy(), [frame, pd.DataFrame({"t": ["a", "b", None]})]):
        for block in streaming_io.iter_blocks(source, 2):
            assert block.schema.field("t").type == pa.string()
            assert block.take(pa.array([0])).num_rows == 1
