"""Tables in files, by extension: read whole and checked, written whole or not at all."""

from __future__ import annotations

import csv
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import pyarrow as pa

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables.formats import FORMATS, LINES, Format, UnreadableError
from llmhub.tables.kinds import ARROW, prefixed


def read(path: Path, argument: str) -> pa.Table:
    """Read a table.

    Raises
    ------
    InvalidRequestError
        There is no such file, its extension is not known, or it is not what its extension says: names the
        ``argument``, the file, and what was found.
    """
    form = format_of(path, argument)
    try:
        table = form.read(path)
    except (OSError, pa.ArrowException, UnreadableError, UnicodeDecodeError, csv.Error) as error:
        # Arrow tells of a damaged file by an OSError, too, but one without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise _wrong(argument, path, f"cannot be read: {error.strerror or error}") from error
        said = _first_line(error)
        found = _found(path)
        mismatch = f"its extension says {form.name}, but it holds {found}" if found else f"is no readable {form.name}"
        remedy = "; give it the extension of what it is, or convert it" if found else ""
        raise _wrong(argument, path, f"{mismatch} ({said}){remedy}") from error
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise _wrong(argument, path, f"has {names.count(twice)} columns named {twice!r}; rename one")
    return table


def write(table: pa.Table, path: Path, argument: str) -> None:
    """Write a table: whole, under its name, or not at all.

    Raises
    ------
    InvalidRequestError
        The extension is not known.
    OSError
        It could not be written; what stood there before still does.
    """
    form = format_of(path, argument)
    with _replaced(path) as file:
        form.write(table, file)


def expect_writable(schema: pa.Schema, path: Path, argument: str) -> None:
    """Write an empty table of ``schema`` beside ``path`` and take it away again, before anything is paid for.

    Raises
    ------
    InvalidRequestError
        The extension is not known, the folder is not there or may not be written, or the format cannot hold a column.
    """
    form = format_of(path, argument)
    if path.is_dir():
        raise _wrong(argument, path, "is a folder; give a file")
    draft = _draft(path)
    try:
        with draft.open("xb") as file:
            form.write(schema.empty_table(), file)
    except FileNotFoundError as error:
        raise _wrong(argument, path, f"the folder {str(path.parent)!r} is not there; make it first") from error
    except OSError as error:
        raise _wrong(argument, path, f"cannot be written: {error.strerror or error}") from error
    except pa.ArrowException as error:
        said = f"{form.name} cannot hold a column of the input: {_first_line(error)}"
        raise _wrong(argument, path, f"{said}; choose another format") from error
    finally:
        draft.unlink(missing_ok=True)


def beside(source: pa.Table, results: pa.Table, prefix: str) -> pa.Table:
    """Put results beside the rows they answer: long form, in row order, with the metadata of the run.

    Examples
    --------
    >>> beside(pa.table({"q": ["a", "b"]}), pa.table({"row": [0, 0, 1], "status": ["ok", "ok", "error"]}), "llm_")
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
    return ARROW.append(left, prefixed(results, prefix))


def format_of(path: Path, argument: str) -> Format:
    """Find a file's format by its extension.

    Raises
    ------
    InvalidRequestError
        Names the extensions that are known.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        said = f"its extension {path.suffix!r} is not known" if path.suffix else "it has no extension"
        raise _wrong(argument, path, f"{said}; there are {', '.join(FORMATS)}")
    return form


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Write to a draft that takes the file's place when it is whole, and goes away when it is not."""
    target = path.resolve()
    draft = _draft(target)
    try:
        with draft.open("xb") as file:
            yield file
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


# What is wrong

BEGINNINGS: Final[tuple[tuple[bytes, str], ...]] = (
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
OWN: Final[Mapping[str, frozenset[str]]] = {
    ".parquet": frozenset({"Parquet"}),
    **dict.fromkeys((".arrow", ".feather", ".ipc"), frozenset({"an Arrow file", "an Arrow stream"})),
}
"""What an extension may well begin with."""


def _found(path: Path) -> str:
    """Name what a file holds, where that is not what its extension says."""
    with path.open("rb") as file:
        head = file.read(512)
    known = next((name for mark, name in BEGINNINGS if head.lstrip(b" \r\n\t\xef\xbb\xbf").startswith(mark)), "")
    if known:
        return "" if known in OWN.get(path.suffix.lower(), ()) else known
    if not head:
        return ""
    if b"\0" in head:
        return "binary data"
    try:
        head[: head.rfind(b"\n") + 1].decode()
    except UnicodeDecodeError:
        return "text that is not UTF-8"
    if path.suffix.lower() in OWN or head.lstrip().startswith(b"{") != (FORMATS[path.suffix.lower()] is LINES):
        return "JSON lines" if head.lstrip().startswith(b"{") else "text"
    return ""


def _wrong(argument: str, path: Path, said: str) -> InvalidRequestError:
    return InvalidRequestError(InvalidRequest(path=argument, message=f"{str(path)!r}: {said}"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")
