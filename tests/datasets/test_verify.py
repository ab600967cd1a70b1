"""Verification: changed, added and missing rows are identified, and so are damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from llmhub.core.errors import BadRequestError
from llmhub.datasets import read, verify


def change_value(folder: Path, column: str, position: int, value: Any) -> None:
    """Change one value of the data."""
    path = folder / "data.parquet"
    table = parquet.read_table(path)
    values = table.column(column).to_pylist()
    values[position] = value
    index = table.schema.get_field_index(column)
    field = table.schema.field(column)
    parquet.write_table(table.set_column(index, field, pa.array(values, field.type)), path, compression="zstd")


def changes(folder: Path) -> list[tuple[int, str]]:
    return [(change.position, change.kind) for change in verify(folder).changes]


def test_unchanged_dataset_is_intact(folder: Path) -> None:
    verification = verify(folder)
    assert verification
    frozen = read(folder)
    assert str(verification).splitlines() == [
        f"intact: 20 rows, content sha256 {frozen.content_sha256}",
        f"digest {frozen.digest}, not compared with one you keep: pass expect= or public_key=",
    ]


def test_one_changed_character_identifies_its_row(folder: Path) -> None:
    table = read(folder).table
    position = next(index for index, text in enumerate(table.column("response").to_pylist()) if text)
    change_value(folder, "response", position, table.column("response")[position].as_py()[:-1] + "!")
    verification = verify(folder)
    assert not verification
    (change,) = verification.changes
    row_id = table.column("row_id")[position].as_py()
    assert (change.position, change.kind, change.row_id) == (position, "answer", row_id)
    assert f"{change.provider}/{change.model}" in str(verification)
    assert verification.problems[0].startswith("data.parquet: its sha256 is")


def test_changed_input_is_distinguished_from_a_changed_response(folder: Path) -> None:
    change_value(folder, "label", 3, 77)
    assert changes(folder) == [(3, "input")]


def test_missing_and_added_rows_are_identified(folder: Path) -> None:
    path = folder / "data.parquet"
    table = parquet.read_table(path)
    position = table.column("label").to_pylist().index(1)
    parquet.write_table(pa.concat_tables([table.slice(0, position), table.slice(position + 1)]), path)
    assert changes(folder) == [(position, "missing")]
    parquet.write_table(pa.concat_tables([table, table.slice(7, 1)]), path)
    assert changes(folder) == [(20, "added")]


def test_changed_measurement_identifies_its_row(folder: Path) -> None:
    change_value(folder, "latency_s", 0, 99.0)
    verification = verify(folder)
    assert [(change.position, change.kind) for change in verification.changes] == [(0, "measurement")]
    assert len(verification.problems) == 1


@pytest.mark.parametrize("name", ["data.parquet", "rows.lock"])
def test_truncated_and_missing_files_are_reported(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-7])
    assert any(name in problem for problem in verify(folder).problems)
    (folder / name).unlink()
    assert f"{name}: No such file or directory" in verify(folder).problems


def test_other_folders_and_later_layouts_raise(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(BadRequestError, match=r"not a frozen dataset: lock.json cannot be read"):
        verify(tmp_path)
    lock = json.loads((folder / "lock.json").read_text())
    (folder / "lock.json").write_text(json.dumps(lock | {"version": 99}))
    with pytest.raises(BadRequestError, match="layout version 99 is later than 2"):
        verify(folder)
