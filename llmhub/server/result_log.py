"""The results of a run, in the order in which they arrived; on disk, a file that is only appended to.

Each piece is a header (its length and its number of rows) and an Arrow stream. A process that is killed leaves at most
one incomplete piece at the end, which the next one cuts off. Positions of complete pieces never change, so that a
client can continue a download at the number of rows that it has.
"""

from __future__ import annotations

import os
import struct
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

HEADER: Final = struct.Struct("<QQ")
MAX_ROWS: Final = 1 << 16
"""Rows that one read returns."""


class ResultLog(ABC):
    """The results of one run, in pieces. Its functions block, and may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._firsts: list[int] = []
        self.rows = 0

    @abstractmethod
    def _read_piece(self, index: int) -> bytes:
        """Return a piece, an Arrow stream; the lock is held."""

    @abstractmethod
    def _write_piece(self, content: bytes, rows: int) -> None:
        """Append a piece; the lock is held."""

    @abstractmethod
    def close(self) -> None:
        """Close the log."""

    def _add(self, rows: int) -> None:
        """Note a piece that was found or written."""
        self._firsts.append(self.rows)
        self.rows += rows

    def append(self, table: pa.Table) -> None:
        """Append results, durably as far as the death of a process goes."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema) as writer:
            writer.write_table(table.unify_dictionaries().combine_chunks())
        content = buffer.getvalue().to_pybytes()
        with self._lock:
            self._write_piece(content, len(table))
            self._add(len(table))

    def read(self, after: int, limit: int = MAX_ROWS) -> pa.Table:
        """Return up to ``limit`` results after the first ``after``; the first piece has at least their schema."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        with self._lock:
            index = max(bisect_right(self._firsts, after) - 1, 0)
            tables: list[pa.Table] = []
            first, taken = self._firsts[index], 0
            while index < len(self._firsts) and (not tables or taken < limit):
                tables.append(self._piece(index))
                taken += len(tables[-1]) if len(tables) > 1 else max(len(tables[-1]) - (after - first), 0)
                index += 1
        table = pa.concat_tables(tables).unify_dictionaries() if len(tables) > 1 else tables[0]
        return table.slice(max(after - first, 0), limit)

    def __iter__(self) -> Iterator[pa.Table]:
        """Iterate over the pieces."""
        for index in range(len(self._firsts)):
            with self._lock:
                table = self._piece(index)
            yield table

    def _piece(self, index: int) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        with pa.ipc.open_stream(pa.py_buffer(self._read_piece(index))) as reader:
            table: pa.Table = reader.read_all()
        return table


class ResultFile(ResultLog):
    """The results of one run in a file.

    Parameters
    ----------
    path
        The file; it is created if ``writable``.
    writable
        Whether to append, which one process at a time may do. An incomplete piece at the end is then cut off.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        super().__init__()
        self._file = path.open("a+b" if writable else "rb")
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self._scan()
        if writable:
            self._file.truncate(self._end)

    def _scan(self) -> None:
        """Find the complete pieces."""
        size = os.fstat(self._file.fileno()).st_size
        while self._end + HEADER.size <= size:
            self._file.seek(self._end)
            length, rows = HEADER.unpack(self._file.read(HEADER.size))
            if self._end + HEADER.size + length > size:
                return
            self._place(length)
            self._add(rows)

    def _place(self, length: int) -> None:
        self._places.append((self._end + HEADER.size, length))
        self._end += HEADER.size + length

    def _write_piece(self, content: bytes, rows: int) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(HEADER.pack(len(content), rows) + content)
        self._file.flush()
        self._place(len(content))

    def _read_piece(self, index: int) -> bytes:
        offset, length = self._places[index]
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
