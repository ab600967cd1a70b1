"""Tables in files, by extension: read whole and checked, written whole or not at all.

Kinds of files that hold a table: how each is read, and how it is written.

Text is not guessed at: a CSV column holds numbers only where the numbers, written again, are the same text, so
that a prompt says what the file says.

Arrow values as text files hold them: what JSON knows stays, all else becomes plain text.
"""

from __future__ import annotations

import csv
import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyarrow as pa
from pyarrow import csv as arrow_csv
from pyarrow import ipc, parquet

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables.frames import ARROW_BACKEND, add_prefix


def read_table(path: Path, argument: str) -> pa.Table:
    """Read a table.

    Raises
    ------
    InvalidRequestError
        There is no such file, its extension is not known, or it is not what its extension says: names the
        ``argument``, the file, and what was found.
    """
    form = file_format(path, argument)
    try:
        table = form.read(path)
    except (OSError, pa.ArrowException, UnreadableFileError, UnicodeDecodeError, csv.Error) as error:
        # Arrow tells of a damaged file by an OSError, too, but one without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise _invalid_file(argument, path, f"cannot be read: {error.strerror or error}") from error
        said = _first_line(error)
        found = _detect_content(path)
        mismatch = f"its extension says {form.name}, but it holds {found}" if found else f"is no readable {form.name}"
        remedy = "; give it the extension of what it is, or convert it" if found else ""
        raise _invalid_file(argument, path, f"{mismatch} ({said}){remedy}") from error
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _invalid_file(argument, path, f"has {names.count(twice)} columns named {twice!r}; rename one")
    return table


def write_table(table: pa.Table, path: Path, argument: str) -> None:
    """Write a table: whole, under its name, or not at all.

    Raises
    ------
    InvalidRequestError
        The extension is not known.
    OSError
        It could not be written; what stood there before still does.
    """
    form = file_format(path, argument)
    with _atomic_write(path) as file:
        form.write(table, file)


def require_writable(schema: pa.Schema, path: Path, argument: str) -> None:
    """Write an empty table of ``schema`` beside ``path`` and take it away again, before anything is paid for.

    Raises
    ------
    InvalidRequestError
        The extension is not known, the folder is not there or may not be written, or the format cannot hold a column.
    """
    form = file_format(path, argument)
    if path.is_dir():
        raise _invalid_file(argument, path, "is a folder; give a file")
    draft = _temporary_path(path)
    try:
        with draft.open("xb") as file:
            form.write(schema.empty_table(), file)
    except FileNotFoundError as error:
        raise _invalid_file(argument, path, f"the folder {str(path.parent)!r} is not there; make it first") from error
    except OSError as error:
        raise _invalid_file(argument, path, f"cannot be written: {error.strerror or error}") from error
    except pa.ArrowException as error:
        said = f"{form.name} cannot hold a column of the input: {_first_line(error)}"
        raise _invalid_file(argument, path, f"{said}; choose another format") from error
    finally:
        draft.unlink(missing_ok=True)


def join_table(source: pa.Table, results: pa.Table, prefix: str) -> pa.Table:
    """Put results beside the rows they answer: long form, in row order, with the metadata of the run.

    Examples
    --------
    >>> join_table(pa.table({"q": ["a", "b"]}), pa.table({"row": [0, 0, 1], "status": ["ok", "ok", "error"]}), "llm_")
    pyarrow.Table
    q: string
    llm_row: int64
    llm_status: string
    ----
    q: [["a","a","b"]]
    llm_row: [[0,0,1]]
    llm_status: [["ok","ok","error"]]
    """
    left = source.take(results.column("row"))
    return ARROW_BACKEND.append_columns(left, add_prefix(results, prefix))


def file_format(path: Path, argument: str) -> FileFormat:
    """Find a file's format by its extension.

    Raises
    ------
    InvalidRequestError
        Names the extensions that are known.
    """
    form = FILE_FORMATS.get(path.suffix.lower())
    if form is None:
        said = f"its extension {path.suffix!r} is not known" if path.suffix else "it has no extension"
        raise _invalid_file(argument, path, f"{said}; there are {', '.join(FILE_FORMATS)}")
    return form


@contextmanager
def _atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write to a draft that takes the file's place when it is whole, and goes away when it is not."""
    target = path.resolve()
    draft = _temporary_path(target)
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


# What is wrong

MAGIC_BYTES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"FEA1", "Feather of version 1"),
    (b"PK\x03\x04", "a zip archive, perhaps a workbook"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "PDF"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"[", "one JSON array, not an object on each line"),
)
"""What files begin with."""


EXPECTED_CONTENT: Final[Mapping[str, frozenset[str]]] = {
    ".parquet": frozenset({"Parquet"}),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), frozenset({"an Arrow file", "an Arrow stream"})),
}
"""What an extension may well begin with."""


def _detect_content(path: Path) -> str:
    """Name what a file holds, where that is not what its extension says."""
    with path.open("rb") as file:
        head = file.read(512)
    known = next((name for mark, name in MAGIC_BYTES if head.lstrip(b" \r\n\t\xef\xbb\xbf").startswith(mark)), "")
    if known:
        return "" if known in EXPECTED_CONTENT.get(path.suffix.lower(), ()) else known
    if not head:
        return ""
    if b"\0" in head:
        return "binary data"
    try:
        head[: head.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    if path.suffix.lower() in EXPECTED_CONTENT or head.lstrip().startswith(b"{") != (
        FILE_FORMATS[path.suffix.lower()] is JSON_LINES_FORMAT
    ):
        return "JSON lines" if head.lstrip().startswith(b"{") else "text"
    return ""


def _invalid_file(argument: str, path: Path, said: str) -> BadRequestError:
    return BadRequestError(InvalidRequest(path=argument, message=f"{str(path)!r}: {said}"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")


JSON_BATCH_ROWS: Final = 4096
"""Rows turned into text at a time."""


MAX_CSV_BLOCK_BYTES: Final = 1 << 30


class UnreadableFileError(Exception):
    """A file that is not what its extension says; says what is wrong."""


@dataclass(frozen=True, slots=True)
class FileFormat:
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
        raise UnreadableFileError("it is empty; the first line names the columns")
    if header[0].lstrip().startswith("{"):
        raise UnreadableFileError("its first line begins like JSON")
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=min(max(path.stat().st_size, 1), MAX_CSV_BLOCK_BYTES)),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    return pa.table([_to_numbers(column) for column in table.columns], names=table.column_names)


def _to_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take a column of text for numbers where that loses nothing."""
    texts = column.to_pylist()
    if all(text is None for text in texts):
        return column
    for kind, arrow in ((int, pa.int64()), (float, pa.float64())):
        try:
            numbers = [None if text is None else _require_same_text(kind(text), text) for text in texts]
            return pa.chunked_array([numbers], arrow)
        except (ValueError, OverflowError):
            continue
    return column


def _require_same_text(number: float, text: str) -> float:
    """Give a number that is written as ``text`` is."""
    if str(number) != text or not math.isfinite(number):
        raise ValueError(text)
    return number


def _read_json_lines(path: Path) -> pa.Table:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                rows.append(decode(text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise UnreadableFileError(f"line {number} is no JSON object: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_column(found: list[Any]) -> pa.Array:
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
    columns = [csv_column(column) for column in table.columns]
    arrow_csv.write_csv(pa.table(columns, names=table.column_names), file)


def _write_json_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column_names
    for start in range(0, len(table), JSON_BATCH_ROWS):
        columns = [json_values(column) for column in table.slice(start, JSON_BATCH_ROWS).columns]
        file.writelines(json_line(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))


PARQUET_FORMAT: Final = FileFormat("Parquet", _read_parquet, _write_parquet)


ARROW_FORMAT: Final = FileFormat("Arrow", _read_arrow, _write_arrow)


CSV_FORMAT: Final = FileFormat("CSV", _read_csv, _write_csv)


JSON_LINES_FORMAT: Final = FileFormat("JSON lines", _read_json_lines, _write_json_lines)


FILE_FORMATS: Final[Mapping[str, FileFormat]] = {
    ".parquet": PARQUET_FORMAT,
    ".arrow": ARROW_FORMAT,
    ".feather": ARROW_FORMAT,
    ".ipc": ARROW_FORMAT,
    ".csv": CSV_FORMAT,
    ".jsonl": JSON_LINES_FORMAT,
    ".ndjson": JSON_LINES_FORMAT,
}
"""Formats by extension."""


_ENCODER: Final = msgspec.json.Encoder()


def json_values(column: pa.ChunkedArray) -> list[Any]:
    """Give a column's values as JSON takes them.

    Decimals and times become text, bytes their hexadecimal digits, and nan null; lists and structs keep their form.

    Examples
    --------
    >>> json_values(pa.chunked_array([[b"ab", None]])), json_values(pa.chunked_array([[{"x": Decimal("0E-9")}]]))
    (['6162', None], [{'x': '0.000000000'}])
    """
    return [to_jsonable(value) for value in column.to_pylist()]


def csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column that a CSV file can hold: numbers, truth values and text stay, nested values become JSON text.

    Examples
    --------
    >>> csv_column(pa.chunked_array([[["a", "b"], None]])).to_pylist()
    ['["a","b"]', None]
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if any(holds(kind) for holds in CSV_NATIVE_TYPES):
        return column
    return pa.chunked_array(
        [[None if value is None else _to_text(value) for value in json_values(column)]], pa.string()
    )


CSV_NATIVE_TYPES: Final = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)
"""Types that a CSV file holds as they are."""


def to_jsonable(value: Any) -> Any:
    """Bring one value to what JSON takes.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> to_jsonable([datetime(2026, 11, 22, tzinfo=UTC), float("nan"), Decimal("1.50")])
    ['2026-11-22T00:00:00Z', None, '1.50']
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    for kind, form in JSON_CONVERTERS:
        if isinstance(value, kind):
            return form(value)
    return str(value)


def _iso_time(value: date | time) -> str:
    """Write a time as ISO 8601 does, UTC as Z."""
    said = value.isoformat()
    return f"{said.removesuffix('+00:00')}Z" if said.endswith("+00:00") else said


JSON_CONVERTERS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (float, lambda value: value if math.isfinite(value) else None),
    (Decimal, lambda value: format(value, "f")),
    (bytes, bytes.hex),
    (dict, lambda value: {str(key): to_jsonable(each) for key, each in value.items()}),
    ((list, tuple), lambda value: [to_jsonable(each) for each in value]),
    ((date, time), _iso_time),
)
"""What becomes of values that JSON does not take as they are; a datetime is a date, too."""


def json_line(row: dict[str, Any]) -> bytes:
    """Write one row as a line of JSON."""
    return _ENCODER.encode(row) + b"\n"


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else _ENCODER.encode(value).decode()
