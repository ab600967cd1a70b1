"""The results of a run on disk, in the order in which they arrived: a file that is only appended to.

Each piece is a header (its length and its number of rows) and an Arrow stream. A process that is killed leaves at most
one incomplete piece at the end, which the next one cuts off. Positions of complete pieces never change, so that a
client can continue a download at the number of rows that it has.
"""

from __future__ import annotations

import os
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

HEADER: Final = struct.Struct("<QQ")
MAX_ROWS: Final = 1 << 16
"""Rows that one read returns."""


class ResultLog:
    """The results of one run. Its functions block, and may be called from any thread.

    Parameters
    ----------
    path
        The file; it is created if ``writable``.
    writable
        Whether to append, which one process at a time may do. An incomplete piece at the end is then cut off.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a+b" if writable else "rb")
        self._firsts: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self.rows = 0
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
            self._add(self._end + HEADER.size, length, rows)

    def _add(self, offset: int, length: int, rows: int) -> None:
        self._firsts.append(self.rows)
        self._places.append((offset, length))
        self._end = offset + length
        self.rows += rows

    def append(self, table: pa.Table) -> None:
        """Append results, durably as far as the death of a process goes."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema) as writer:
            writer.write_table(table.unify_dictionaries().combine_chunks())
        content = buffer.getvalue().to_pybytes()
        with self._lock:
            self._file.seek(0, os.SEEK_END)
            self._file.write(HEADER.pack(len(content), len(table)) + content)
            self._file.flush()
            self._add(self._end + HEADER.size, len(content), len(table))

    def read(self, after: int, limit: int = MAX_ROWS) -> pa.Table:
        """Return up to ``limit`` results after the first ``after``; the first piece has at least their schema."""
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        with self._lock:
            index = max(bisect_right(self._firsts, after) - 1, 0)
            tables: list[pa.Table] = []
            first, taken = self._firsts[index], 0
            while index < len(self._places) and (not tables or taken < limit):
                tables.append(self._piece(index))
                taken += len(tables[-1]) if len(tables) > 1 else max(len(tables[-1]) - (after - first), 0)
                index += 1
        table = pa.concat_tables(tables).unify_dictionaries() if len(tables) > 1 else tables[0]
        return table.slice(max(after - first, 0), limit)

    def __iter__(self) -> Iterator[pa.Table]:
        """Iterate over the pieces."""
        for index in range(len(self._places)):
            with self._lock:
                table = self._piece(index)
            yield table

    def _piece(self, index: int) -> pa.Table:
        import pyarrow as pa  # noqa: PLC0415 - imports Arrow

        offset, length = self._places[index]
        self._file.seek(offset)
        content = self._file.read(length)
        with pa.ipc.open_stream(pa.py_buffer(content)) as reader:
            table: pa.Table = reader.read_all()
        return table

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()
