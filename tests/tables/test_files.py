"""Tables in files: what is written is what is read, text is what the file says, and nothing is left half written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import ipc

from llmhub.core.errors import BadRequestError
from llmhub.tables.files import FILE_FORMATS, join_table, read_table, require_writable, write_table
from llmhub.tables.frames import join_schemas
from llmhub.tables.schema import RESULTS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COLUMNS = {
    "text": (TEXT, pa.string()),
    "number": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "share": (st.floats(allow_nan=False, allow_infinity=False), pa.float64()),
    "yes": (st.booleans(), pa.bool_()),
    "tags": (st.lists(TEXT, max_size=3), pa.list_(pa.string())),
    "pair": (
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": TEXT}),
        pa.struct([("a", pa.int64()), ("b", pa.string())]),
    ),
    "key": (st.binary(max_size=8), pa.binary()),
    "money": (st.decimals(-(10**8), 10**8, places=9), pa.decimal128(18, 9)),
    "at": (st.datetimes(timezones=st.just(UTC)), pa.timestamp("us", "UTC")),
    "day": (st.dates(), pa.date32()),
}


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table of every kind of column."""
    size = draw(st.integers(0, 6))
    columns = {
        name: pa.array(draw(st.lists(st.none() | values, min_size=size, max_size=size)), kind)
        for name, (values, kind) in COLUMNS.items()
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


def _written(table: pa.Table, folder: Path, suffix: str) -> pa.Table:
    path = folder / f"table{suffix}"
    write_table(table, path, "OUTPUT")
    return read_table(path, "INPUT")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".ipc"])
@given(table=tables())
def test_binary_formats_give_back_what_they_were_given(folder: Path, suffix: str, table: pa.Table) -> None:
    found = _written(table, folder, suffix)
    assert found.schema.equals(table.schema)
    assert found.equals(table)


@given(table=tables())
def test_json_lines_hold_plain_values_and_nulls(folder: Path, table: pa.Table) -> None:
    write_table(table, folder / "table.jsonl", "OUTPUT")
    found = [json.loads(line) for line in (folder / "table.jsonl").read_bytes().splitlines()]
    assert found == [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]


@given(table=tables())
def test_csv_holds_every_value_as_text(folder: Path, table: pa.Table) -> None:
    write_table(table, folder / "table.csv", "OUTPUT")
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(table)
    for was, row in zip(table.to_pylist(), found, strict=True):
        assert row["text"] == (was["text"] or "")
        assert row["number"] == ("" if was["number"] is None else str(was["number"]))
        assert row["share"] == "" if was["share"] is None else float(row["share"]) == was["share"]
        assert row["key"] == ("" if was["key"] is None else was["key"].hex())
        assert row["money"] == "" if was["money"] is None else Decimal(row["money"]) == was["money"]
        assert row["tags"] == "" if was["tags"] is None else json.loads(row["tags"]) == was["tags"]
        assert row["pair"] == "" if was["pair"] is None else json.loads(row["pair"]) == was["pair"]
        assert row["day"] == ("" if was["day"] is None else was["day"].isoformat())


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case Decimal():
            return f"{value:.9f}"
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case _:
            return value


@given(
    cells=st.lists(st.none() | TEXT | st.sampled_from(["007", "1", "-0", "1.50", "1e5", "nan", "NA", "true", "1_0"]))
)
@example(cells=["1", "2"])
@example(cells=["1.5", "2.25"])
@example(cells=["9223372036854775808"])
@example(cells=["inf"])
def test_a_csv_cell_makes_the_prompt_that_the_file_says(folder: Path, cells: list[str | None]) -> None:
    write_table(
        pa.table({"id": ["x"] * len(cells), "cell": pa.array(cells, pa.string())}), folder / "cells.csv", "OUTPUT"
    )
    found = read_table(folder / "cells.csv", "INPUT").column("cell").to_pylist()
    assert [None if cell is None else str(cell) for cell in found] == cells


def test_csv_columns_of_numbers_are_numbers(folder: Path) -> None:
    (folder / "n.csv").write_text("id,price,zip,day\n1,1.5,00501,2026-11-22\n2,,10001,\n", encoding="utf-8")
    found = read_table(folder / "n.csv", "INPUT")
    assert found.schema.types == [pa.int64(), pa.float64(), pa.string(), pa.string()]
    assert found.column("price").to_pylist() == [1.5, None]


def test_csv_may_begin_with_a_mark_and_blank_lines_and_end_its_lines_as_windows_does(folder: Path) -> None:
    (folder / "w.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n')
    assert read_table(folder / "w.csv", "INPUT").to_pydict() == {"a": [1], "b": ["x\r\ny"]}


def test_json_lines_may_miss_fields_and_mix_kinds(folder: Path) -> None:
    (folder / "m.jsonl").write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": "two", "b": [1]}\n{"a": {"c": null}, "b": null}\n'
    )
    assert read_table(folder / "m.jsonl", "INPUT").to_pydict() == {
        "a": ["1", "two", '{"c":null}'],
        "b": [None, [1], None],
    }


def test_json_lines_keep_times_and_large_numbers_as_they_are_written(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"at": "2026-11-22T10:00:00", "n": 123456789012345678901}\n', encoding="utf-8")
    assert read_table(folder / "t.jsonl", "INPUT").to_pydict() == {
        "at": ["2026-11-22T10:00:00"],
        "n": ["123456789012345678901"],
    }


def test_an_arrow_stream_is_read_too(folder: Path) -> None:
    table = pa.table({"a": [1, 2]})
    with ipc.new_stream(folder / "s.arrow", table.schema) as stream:
        stream.write_table(table)
    assert read_table(folder / "s.arrow", "INPUT").equals(table)


def test_dictionaries_that_differ_from_chunk_to_chunk_fit_an_arrow_file(folder: Path) -> None:
    chunks = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c"])]
    table = pa.table({"word": pa.chunked_array(chunks)})
    assert _written(table, folder, ".arrow").column("word").to_pylist() == ["a", "b", "c"]


def test_values_that_no_text_format_knows_become_text(folder: Path) -> None:
    table = pa.table(
        {"span": pa.array([timedelta(days=1, seconds=2), None]), "half": pa.array([1.5, None], pa.float16())}
    )
    write_table(table, folder / "odd.csv", "OUTPUT")
    assert (folder / "odd.csv").read_text(encoding="utf-8").splitlines()[1] == '"1 day, 0:00:02","1.5"'
    write_table(table, folder / "odd.jsonl", "OUTPUT")
    assert json.loads((folder / "odd.jsonl").read_text(encoding="utf-8").splitlines()[0])["half"] == 1.5


@pytest.mark.parametrize("suffix", FILE_FORMATS)
def test_what_stood_there_still_does_when_writing_fails(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("as it was", encoding="utf-8")

    class FullError(OSError):
        """No room is left."""

    def full(*_: object) -> None:
        raise FullError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(FullError):
        write_table(pa.table({"a": [1]}), path, "OUTPUT")
    assert path.read_text(encoding="utf-8") == "as it was"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_table(pa.table({"a": [1]}), tmp_path / "link.csv", "OUTPUT")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text(encoding="utf-8") == '"a"\n1\n'


@pytest.mark.parametrize("suffix", FILE_FORMATS)
def test_the_results_fit_every_format_and_trying_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    require_writable(join_schemas(pa.schema([("id", pa.int64())]), RESULTS, ""), tmp_path / f"out{suffix}", "OUTPUT")
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([("odd", pa.struct([]))])
    with pytest.raises(BadRequestError, match="Parquet cannot hold a column of the input"):
        require_writable(schema, tmp_path / "out.parquet", "OUTPUT")
    require_writable(schema, tmp_path / "out.csv", "OUTPUT")
    assert list(tmp_path.iterdir()) == []


def test_results_stand_beside_their_rows_with_the_metadata_of_both() -> None:
    source = pa.table({"q": ["a", "b"]}).replace_schema_metadata({"mine": "1", "pandas": "{}", "run_id": "old"})
    results = pa.table({"row": pa.array([0, 0, 1]), "x": [1, 2, 3]}).replace_schema_metadata({"run_id": "r1"})
    joined = join_table(source, results, "")
    assert joined.to_pydict() == {"q": ["a", "a", "b"], "row": [0, 0, 1], "x": [1, 2, 3]}
    assert joined.schema.metadata == {b"mine": b"1", b"run_id": b"r1"}
