"""Kinds of files that hold a table: how each is read, and how it is written.

Text is not guessed at: a CSV column holds numbers only where the numbers, written again, are the same text, so
that a prompt says what the file says.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import ipc, parquet

from llmhub.tables.texts import line, text_column, values

BATCH: Final = 4096
"""Rows turned into text at a time."""
LARGEST_BLOCK: Final = 1 << 30


class UnreadableError(Exception):
    """A file that is not what its extension says; says what is wrong."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file."""

    name: str
    read: Callable[[Path], pa.Table]
    write: Callable[[pa.Table, IO[bytes]], None]


# Reading


def _read_parquet(path: Path) -> pa.Table:
    with parquet.ParquetFile(path) as file:
        return file.read()


def _read_arrow(path: Path) -> pa.Table:
    with path.open("rb") as file:
        whole = file.read(6) == b"ARROW1"
        file.seek(0)
        with (ipc.open_file if whole else ipc.open_stream)(file) as reader:
            return reader.read_all()


def _read_csv(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next((row for row in csv.reader(file) if row), None)
    if header is None:
        raise UnreadableError("it is empty; the first line names the columns")
    if header[0].lstrip().startswith("{"):
        raise UnreadableError("its first line begins like JSON")
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=min(max(path.stat().st_size, 1), LARGEST_BLOCK)),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table([_numbers(column) for column in table.columns], names=table.column_names)


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take a column of text for numbers where that loses nothing."""
    texts = column.to_pylist()
    if all(text is None for text in texts):
        return column
    for kind, arrow in ((int, pa.int64()), (float, pa.float64())):
        try:
            numbers = [None if text is None else _same(kind(text), text) for text in texts]
            return pa.chunked_array([numbers], arrow)
        except (ValueError, OverflowError):
            continue
    return column


def _same(number: float, text: str) -> float:
    """Give a number that is written as ``text`` is."""
    if str(number) != text or not math.isfinite(number):
        raise ValueError(text)
    return number


def _read_lines(path: Path) -> pa.Table:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                rows.append(decode(text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise UnreadableError(f"line {number} is no JSON object: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _column([row.get(name) for row in rows]) for name in names})


def _column(found: list[Any]) -> pa.Array:
    """Make a column; values of several kinds become text, as JSON writes them."""
    try:
        return pa.array(found)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        texts = (None if one is None else one if isinstance(one, str) else msgspec.json.encode(one) for one in found)
        return pa.array([text.decode() if isinstance(text, bytes) else text for text in texts], pa.string())


# Writing


def _write_parquet(table: pa.Table, file: IO[bytes]) -> None:
    parquet.write_table(table, file)


def _write_arrow(table: pa.Table, file: IO[bytes]) -> None:
    # A file, other than a stream, may not change a dictionary on the way.
    whole = table.unify_dictionaries()
    with ipc.new_file(file, whole.schema) as writer:
        writer.write_table(whole)


def _write_csv(table: pa.Table, file: IO[bytes]) -> None:
    columns = [text_column(column) for column in table.columns]
    arrow_csv.write_csv(pa.table(columns, names=table.column_names), file)


def _write_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column_names
    for start in range(0, len(table), BATCH):
        columns = [values(column) for column in table.slice(start, BATCH).columns]
        file.writelines(line(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


PARQUET: Final = Format("Parquet", _read_parquet, _write_parquet)
ARROW: Final = Format("Arrow", _read_arrow, _write_arrow)
CSV: Final = Format("CSV", _read_csv, _write_csv)
LINES: Final = Format("JSON lines", _read_lines, _write_lines)
FORMATS: Final[Mapping[str, Format]] = {
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".ipc": ARROW,
    ".csv": CSV,
    ".jsonl": LINES,
    ".ndjson": LINES,
}
"""Formats by extension."""
