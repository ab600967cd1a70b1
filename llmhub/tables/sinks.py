"""Results that leave as they come: to a folder of Parquet parts, or to an Arrow stream in a file.

A part is written under another name and renamed when it is whole, so what is there is complete. A stream that was cut
short is read as far as it goes. What is there already is not asked again, if it is good and answers the same question.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc, parquet

from llmhub.core.errors import InvalidRequest, InvalidRequestError

ROWS: Final = 4096
"""Input rows in a part."""
STREAM: Final = ".arrows"
"""Extension of an Arrow stream, as registered: https://www.iana.org/assignments/media-types (read 2026-11-27)."""
GOOD: Final = pa.array(["ok", "skipped"])
"""What need not be asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Where results go.

    Parameters
    ----------
    kept
        ``kept(first, rows)`` gives what is there of these input rows and good, in row order, or nothing.
    write
        ``write(first, results)`` puts down what came of a block: in the place of what was there, or behind it.
    close
        Ends it.
    appends
        Whether what is there stays, and only what is new is written.
    """

    kept: Callable[[int, int], pa.Table | None]
    write: Callable[[int, pa.Table], None]
    close: Callable[[], None]
    appends: bool


def open_sink(path: Path, prefix: str = "") -> Sink:
    """Open a file that ends with ``.arrows`` as a stream, and all else as a folder of parts.

    Raises
    ------
    InvalidRequestError
        It is something else, or cannot be made.
    """
    try:
        if path.suffix == STREAM:
            return _stream(path, prefix)
        if path.suffix and not path.is_dir():
            said = f"{str(path)!r} is neither a folder nor a file that ends with {STREAM!r}"
            raise InvalidRequestError(InvalidRequest(path="sink", message=said))
        path.mkdir(parents=True, exist_ok=True)
        for draft in path.glob(".*.tmp"):
            draft.unlink()
        return _parts(path, prefix)
    except OSError as error:
        said = f"{str(path)!r} cannot be written: {error.strerror or error}"
        raise InvalidRequestError(InvalidRequest(path="sink", message=said)) from error


def good(results: pa.Table, prefix: str = "") -> pa.Table:
    """Keep the rows that need not be asked again."""
    status = results.column(f"{prefix}status")
    words = status.cast(pa.string()) if pa.types.is_dictionary(status.type) else status
    return results.filter(pc.is_in(words, GOOD))


def in_rows(results: pa.Table, prefix: str = "") -> pa.Table:
    """Put results in the order of their rows; what belongs to one row stays as it is."""
    order = np.argsort(results.column(f"{prefix}row").to_numpy(), kind="stable")
    return results.take(pa.array(order))


def _parts(folder: Path, prefix: str) -> Sink:
    def part(first: int) -> Path:
        return folder / f"part-{first:012d}.parquet"

    def kept(first: int, _rows: int) -> pa.Table | None:
        if not part(first).exists():
            return None
        with parquet.ParquetFile(part(first)) as file:
            return good(file.read(), prefix)

    def write(first: int, results: pa.Table) -> None:
        draft = folder / f".{part(first).name}.{secrets.token_hex(4)}.tmp"
        try:
            parquet.write_table(results, draft)
            draft.replace(part(first))
        finally:
            draft.unlink(missing_ok=True)

    return Sink(kept=kept, write=write, close=lambda: None, appends=False)


def _stream(path: Path, prefix: str) -> Sink:
    """Copy what is good of a stream that is there, and go on behind it."""
    stream = _Stream(path, prefix)
    return Sink(kept=stream.kept, write=stream.write, close=stream.close, appends=True)


class _Stream:
    """An Arrow stream that is being written, and the index of what it began with."""

    def __init__(self, path: Path, prefix: str) -> None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._row = f"{prefix}row"
        self._file = pa.OSFile(str(draft), "wb")
        self._writer: Any = None
        there: list[pa.Table] = []
        for batch in _readable(path) if path.exists() else ():
            some = good(pa.Table.from_batches([batch]), prefix)
            self.write(0, some)
            there.append(some.select([self._row, f"{prefix}request_key"]))
        draft.replace(path)
        self._held = in_rows(pa.concat_tables(there), prefix) if there else None
        self._rows = np.zeros(0, np.int64) if self._held is None else self._held.column(self._row).to_numpy()

    def kept(self, first: int, many: int) -> pa.Table | None:
        low, high = np.searchsorted(self._rows, [first, first + many])
        return self._held.slice(low, high - low) if self._held is not None and high > low else None

    def write(self, _first: int, results: pa.Table) -> None:
        if not len(results):
            return
        if self._writer is None:
            self._writer = ipc.new_stream(self._file, results.schema)
        self._writer.write_table(results)
        self._file.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file.close()


def _readable(path: Path) -> Iterator[pa.RecordBatch]:
    """Read a stream as far as it is whole."""
    with pa.OSFile(str(path), "rb") as file:
        try:
            with ipc.open_stream(file) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError):
            return
