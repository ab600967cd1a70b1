"""Rows to ask, drawn a block at a time from whatever holds them: a file, a dataset, a stream, batches, or a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pyarrow import ipc, parquet

from llmhub.tables import files, frames

STREAMS: Final = frozenset({".arrows"})


def blocks(source: Any, rows: int, argument: str = "frame") -> Iterator[Any]:
    """Cut a source into blocks of so many rows; only the last is shorter.

    Parameters
    ----------
    source
        A path, something with ``to_batches`` or ``__arrow_c_stream__``, an iterable of batches or tables, or a frame.

    Examples
    --------
    >>> [len(block) for block in blocks(iter([pa.table({"x": range(3)}), pa.table({"x": range(4)})]), 5)]
    [5, 2]
    """
    if frames.is_pandas(source):
        for at in range(0, len(source), rows):
            yield source.iloc[at : at + rows]
        return
    waiting: list[pa.Table] = []
    held = 0
    for some in _tables(source, argument):
        waiting.append(some)
        held += len(some)
        if held < rows:
            continue
        whole = pa.concat_tables(waiting)
        for at in range(0, held - held % rows, rows):
            yield whole.slice(at, rows)
        # A copy, so that what was given away can go.
        rest = whole.slice(held - held % rows)
        waiting, held = ([rest] if len(rest) else []), len(rest)
    if held:
        yield pa.concat_tables(waiting)


def _tables(source: Any, argument: str) -> Iterator[pa.Table]:
    if isinstance(source, (str, Path)):
        yield from _of_file(Path(source), argument)
    elif isinstance(source, (pa.Table, pa.RecordBatch, Mapping)):
        yield frames.arrow(source)
    elif hasattr(source, "to_batches"):
        yield from map(frames.arrow, source.to_batches())
    elif hasattr(source, "__arrow_c_stream__"):
        yield from map(frames.arrow, pa.RecordBatchReader.from_stream(source))
    elif isinstance(source, Iterable):
        yield from map(frames.arrow, source)
    else:
        yield frames.arrow(source)


def _of_file(path: Path, argument: str) -> Iterator[pa.Table]:
    """Draw from a file: lazily from Parquet and Arrow, from text once it is read and checked whole."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(4096):
                yield pa.Table.from_batches([batch])
    elif path.suffix.lower() in STREAMS and path.is_file():
        with pa.OSFile(str(path), "rb") as opened, ipc.open_stream(opened) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    else:
        yield files.read(path, argument)
