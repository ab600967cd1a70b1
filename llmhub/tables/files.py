"""Tables in files: Parquet, Arrow, CSV and JSON lines, chosen by the extension.

Files are written under a temporary name and renamed, so that a file is complete or absent. Text is preserved: a CSV
column is read as numbers only if writing the numbers gives the same text, so that a prompt shows what the file shows.
The exception are texts that a spreadsheet would run as a formula: in CSV they are written after an apostrophe.
"""

from __future__ import annotations

import csv
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import ipc, parquet

from llmhub.core.errors import BadRequestError, invalid
from llmhub.tables.frames import standard_types

MAX_CSV_BLOCK_BYTES: Final = 1 << 30
FORMULA: Final = r"\A(\s*(?:=|@[A-Za-z.]+\(|[+\-]\S.*[|(]))"
"""Matches the beginning of a formula that calls something, and no list, mention or number: a response may be one that
sends data elsewhere. Source: https://owasp.org/www-community/attacks/CSV_Injection (read 2026-11-30)."""
JSON_BATCH_ROWS: Final = 4096
"""Rows converted to Python values at a time."""


class UnreadableFileError(Exception):
    """A file does not have the format of its extension; the message says why."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A file format: its name in messages, and functions that read and write a table."""

    name: str
    read: Callable[[Path], pa.Table]
    write: Callable[[pa.Table, IO[bytes]], None]


def file_format(path: Path, argument: str) -> FileFormat:
    """Return the format of a file's extension.

    Raises
    ------
    BadRequestError
        The extension is unknown; the message names the known ones.
    """
    known = FILE_FORMATS.get(path.suffix.lower())
    if known is None:
        problem = f"its extension {path.suffix!r} is not known" if path.suffix else "it has no extension"
        raise _invalid_file(argument, path, f"{problem}; use one of {', '.join(FILE_FORMATS)}")
    return known


def read_table(path: Path, argument: str) -> pa.Table:
    """Read a table.

    Raises
    ------
    BadRequestError
        The file does not exist, its extension is unknown, or its content has another format. The message names the
        ``argument``, the file, and the format that was found.
    """
    expected = file_format(path, argument)
    try:
        table = expected.read(path)
    except (OSError, pa.ArrowException, UnreadableFileError, UnicodeDecodeError, csv.Error) as error:
        # Arrow also raises OSError for corrupt files, but without an errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise _invalid_file(argument, path, f"cannot be read: {error.strerror or error}") from error
        reason, actual = _first_line(error), _detect_content(path)
        message = f"is not valid {expected.name} ({reason})"
        if actual:
            message = (
                f"its extension is that of {expected.name}, but it contains {actual} ({reason}); "
                "rename it to the matching extension, or convert it"
            )
        raise _invalid_file(argument, path, message) from error
    duplicate, count = next(iter(Counter(table.column_names).most_common(1)), ("", 0))
    if count > 1:
        raise _invalid_file(argument, path, f"has {count} columns named {duplicate!r}; rename one")
    return standard_types(table)


def write_table(table: pa.Table, path: Path, argument: str) -> None:
    """Write a table atomically.

    Raises
    ------
    BadRequestError
        The extension is unknown.
    OSError
        Writing failed; an existing file is unchanged.
    """
    write = file_format(path, argument).write
    with _atomic_write(path) as file:
        write(table, file)


def require_writable(schema: pa.Schema, path: Path, argument: str) -> None:
    """Raise unless a table with this schema can be written, by writing an empty one under a temporary name.

    Raises
    ------
    BadRequestError
        The extension is unknown, the folder does not exist or is not writable, or the format cannot hold a column.
    """
    expected = file_format(path, argument)
    if path.is_dir():
        raise _invalid_file(argument, path, "is a folder; pass a file")
    temporary = _temporary_path(path)
    try:
        with temporary.open("xb") as file:
            expected.write(schema.empty_table(), file)
    except FileNotFoundError as error:
        message = f"the folder {str(path.parent)!r} does not exist; create it first"
        raise _invalid_file(argument, path, message) from error
    except OSError as error:
        raise _invalid_file(argument, path, f"cannot be written: {error.strerror or error}") from error
    except pa.ArrowException as error:
        message = f"{expected.name} cannot hold a column of the input: {_first_line(error)}; choose another format"
        raise _invalid_file(argument, path, message) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces ``path`` on success and is deleted on failure."""
    target = path.resolve()
    temporary = _temporary_path(target)
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


# Reading


def _read_parquet(path: Path) -> pa.Table:
    with parquet.ParquetFile(path) as file:
        return file.read()


def _read_arrow(path: Path) -> pa.Table:
    with path.open("rb") as file:
        is_file_format = file.read(6) == b"ARROW1"
        file.seek(0)
        with (ipc.open_file if is_file_format else ipc.open_stream)(file) as reader:
            return reader.read_all()


def _read_csv(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next((row for row in csv.reader(file) if row), None)
    if header is None:
        raise UnreadableFileError("it is empty; the first line must name the columns")
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
    """Return a string column as integers or floats if that is lossless, else unchanged."""
    texts = column.to_pylist()
    if all(text is None for text in texts):
        return column
    for number_type, arrow_type in ((int, pa.int64()), (float, pa.float64())):
        try:
            numbers = [None if text is None else _require_same_text(number_type(text), text) for text in texts]
            return pa.chunked_array([numbers], arrow_type)
        except (ValueError, OverflowError):
            continue
    return column


def _require_same_text(number: float, text: str) -> float:
    """Return a finite number whose text is ``text``; raise ValueError otherwise."""
    if str(number) != text or not math.isfinite(number):
        raise ValueError(text)
    return number


def _read_json_lines(path: Path) -> pa.Table:
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    rows: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                raise UnreadableFileError(f"line {number} is not a JSON object: {error}") from error
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_column(values: list[Any]) -> pa.Array:
    """Return JSON values as a column; values of mixed types as strings, those that are not strings as JSON text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return pa.array([None if value is None else _to_text(value) for value in values], pa.string())


# Writing


def _write_parquet(table: pa.Table, file: IO[bytes]) -> None:
    parquet.write_table(table, file)


def _write_arrow(table: pa.Table, file: IO[bytes]) -> None:
    # Unlike a stream, the file format cannot replace a dictionary between batches.
    unified = table.unify_dictionaries()
    with ipc.new_file(file, unified.schema) as writer:
        writer.write_table(unified)


def _write_csv(table: pa.Table, file: IO[bytes]) -> None:
    columns = [_quote_formulas(csv_column(column)) for column in table.columns]
    arrow_csv.write_csv(pa.table(columns, names=table.column_names), file)


def _quote_formulas(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column whose formulas begin with an apostrophe: a spreadsheet shows the text and does not run it."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return pc.replace_substring_regex(column, FORMULA, r"'\1", max_replacements=1)
    return column


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


# Values in text formats

_ENCODER: Final = msgspec.json.Encoder()
CSV_NATIVE_TYPES: Final = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_null,
)
"""Predicates of the types that are written to CSV unchanged."""


def json_values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values as JSON values (see `to_jsonable`).

    Examples
    --------
    >>> json_values(pa.chunked_array([[b"ab", None]])), json_values(pa.chunked_array([[{"x": Decimal("0E-9")}]]))
    (['6162', None], [{'x': '0.000000000'}])
    """
    return [to_jsonable(value) for value in column.to_pylist()]


def csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as CSV can hold it: numbers, booleans and strings unchanged, nested values as JSON text.

    Examples
    --------
    >>> csv_column(pa.chunked_array([[["a", "b"], None]])).to_pylist()
    ['["a","b"]', None]
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if any(is_native(column.type) for is_native in CSV_NATIVE_TYPES):
        return column
    return pa.chunked_array(
        [[None if value is None else _to_text(value) for value in json_values(column)]], pa.string()
    )


def to_jsonable(value: Any) -> Any:
    """Convert a value to JSON: decimals, dates and times to text, bytes to hexadecimal digits, NaN to null.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> to_jsonable([datetime(2026, 11, 22, tzinfo=UTC), float("nan"), Decimal("1.50")])
    ['2026-11-22T00:00:00Z', None, '1.50']
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    for types, convert in JSON_CONVERTERS:
        if isinstance(value, types):
            return convert(value)
    return str(value)


def _iso_time(value: date | time) -> str:
    """Format a date or time in ISO 8601, with Z for UTC."""
    text = value.isoformat()
    return f"{text.removesuffix('+00:00')}Z" if text.endswith("+00:00") else text


JSON_CONVERTERS: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any], Any]], ...]] = (
    (float, lambda value: value if math.isfinite(value) else None),
    (Decimal, lambda value: format(value, "f")),
    (bytes, bytes.hex),
    (dict, lambda value: {str(key): to_jsonable(item) for key, item in value.items()}),
    ((list, tuple), lambda value: [to_jsonable(item) for item in value]),
    ((date, time), _iso_time),
)
"""Converters by type, of values that JSON cannot hold unchanged; datetime is a subclass of date."""


def json_line(row: dict[str, Any]) -> bytes:
    """Encode a row as a line of JSON."""
    return _ENCODER.encode(row) + b"\n"


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else _ENCODER.encode(value).decode()


# Errors

MAGIC_BYTES: Final[tuple[tuple[bytes, str], ...]] = (
    (b"PAR1", "Parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"FEA1", "Feather version 1"),
    (b"PK\x03\x04", "a zip archive, perhaps a workbook"),
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"SQLite format 3", "an SQLite database"),
    (b"%PDF", "PDF"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"[", "one JSON array instead of an object per line"),
)
"""First bytes of file formats, and their names in messages."""
EXPECTED_CONTENT: Final[Mapping[str, frozenset[str]]] = {
    ".parquet": frozenset({"Parquet"}),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), frozenset({"an Arrow file", "an Arrow stream"})),
}
"""Names of `MAGIC_BYTES` that are correct for an extension."""


def _detect_content(path: Path) -> str:
    """Return the name of a file's format if it is not that of its extension, else an empty string."""
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(512)
    stripped = start.lstrip(b" \r\n\t\xef\xbb\xbf")
    name = next((name for magic, name in MAGIC_BYTES if stripped.startswith(magic)), "")
    if name:
        return "" if name in EXPECTED_CONTENT.get(suffix, ()) else name
    if not start:
        return ""
    if b"\0" in start:
        return "binary data"
    try:
        start[: start.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    is_json = start.lstrip().startswith(b"{")
    if suffix in EXPECTED_CONTENT or is_json != (FILE_FORMATS[suffix] is JSON_LINES_FORMAT):
        return "JSON lines" if is_json else "text"
    return ""


def _invalid_file(argument: str, path: Path, message: str) -> BadRequestError:
    return invalid(argument, f"{str(path)!r}: {message}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
