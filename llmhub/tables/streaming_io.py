"""More than one process: one function over record batches, and the few lines that hand it to joblib.

``complete_record_batches`` takes batches in and gives batches of results out, one for one, so it fits whatever moves batches
about. `complete_parallel` cuts a frame into slices for the processes of any joblib backend.

Results that leave as they come: to a folder of Parquet parts, or to an Arrow stream in a file.

A part is written under another name and renamed when it is whole, so what is there is complete. A stream that was cut
short is read as far as it goes. What is there already is not asked again, if it is good and answers the same question.

Rows to ask, drawn a block at a time from whatever holds them: a file, a dataset, a stream, batches, or a frame.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc, parquet

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.tables import files, frames
from llmhub.tables.schema import schema_for_run

SLICES_PER_JOB: Final = 4
"""More slices than processes, so that none waits long for the slowest."""


def offset_rows(results: pa.Table, by: int) -> pa.Table:
    """Count the rows of a slice's results from where the slice began."""
    at = results.schema.get_field_index("row")
    rows = pa.array(results.column("row").to_numpy() + np.int64(by), pa.int64())
    return results.set_column(at, results.schema.field(at), rows)


def without_rows(frame: Any) -> Any:
    """Give a frame's columns without its rows."""
    source = frames.pandas_or_arrow(frame)
    return source.iloc[:0] if frames.is_pandas(source) else source.slice(0, 0)


def split_frame(frame: Any, jobs: int) -> list[tuple[int, Any]]:
    """Cut a frame into parts of nearly equal size, each with the position of its first row.

    Examples
    --------
    >>> [(at, part.num_rows) for at, part in split_frame(pa.table({"x": range(10)}), 1)]
    [(0, 2), (2, 3), (5, 2), (7, 3)]
    """
    source = frames.pandas_or_arrow(frame)
    rows = len(source)
    many = max(1, min(rows, jobs * SLICES_PER_JOB))
    bounds = [rows * part // many for part in range(many + 1)]
    cut = (lambda low, high: source.iloc[low:high]) if frames.is_pandas(source) else _arrow_slicer(source)
    return [(low, cut(low, high)) for low, high in pairwise(bounds)]


def _arrow_slicer(table: pa.Table) -> Callable[[int, int], pa.Table]:
    return lambda low, high: table.slice(low, high - low)


def concat_results(parts: Iterable[pa.Table], run_id: str) -> pa.Table:
    """Put the results of slices together as one run's."""
    some = list(parts)
    schema = schema_for_run(run_id)
    if some:
        at = schema.get_field_index("parsed")
        schema = schema.set(at, schema.field(at).with_type(some[0].schema.field(at).type))
    whole = [part.unify_dictionaries().cast(schema) for part in some]
    return pa.concat_tables(whole).unify_dictionaries() if whole else schema.empty_table()


def effective_jobs(jobs: int) -> int:
    """Give the number of processes that joblib makes of ``n_jobs``.

    Raises
    ------
    InvalidRequestError
        For 0, which joblib does not know.
    """
    import joblib  # noqa: PLC0415 - a third of a second, needed only where processes are asked for

    if jobs == 0:
        raise BadRequestError(InvalidRequest(path="n_jobs", message="0 processes; give 1 or more, or -1 for all cores"))
    return int(joblib.effective_n_jobs(jobs))


def to_record_batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Give a result as one batch with the exact schema, empty though it be."""
    found = table.combine_chunks().to_batches()
    return iter(found or [pa.RecordBatch.from_pylist([], schema=table.schema)])


BLOCK_ROWS: Final = 4096
"""Input rows in a part."""


STREAM_SUFFIX: Final = ".arrows"
"""Extension of an Arrow stream, as registered: https://www.iana.org/assignments/media-types (read 2026-11-27)."""


FINISHED_STATUSES: Final = pa.array(["ok", "skipped"])
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

    read_finished: Callable[[int, int], pa.Table | None]
    write: Callable[[int, pa.Table], None]
    close: Callable[[], None]
    append_only: bool


def open_sink(path: Path, prefix: str = "") -> Sink:
    """Open a file that ends with ``.arrows`` as a stream, and all else as a folder of parts.

    Raises
    ------
    InvalidRequestError
        It is something else, or cannot be made.
    """
    try:
        if path.suffix == STREAM_SUFFIX:
            return _stream_sink(path, prefix)
        if path.suffix and not path.is_dir():
            said = f"{str(path)!r} is neither a folder nor a file that ends with {STREAM_SUFFIX!r}"
            raise BadRequestError(InvalidRequest(path="sink", message=said))
        path.mkdir(parents=True, exist_ok=True)
        for draft in path.glob(".*.tmp"):
            draft.unlink()
        return _parquet_sink(path, prefix)
    except OSError as error:
        said = f"{str(path)!r} cannot be written: {error.strerror or error}"
        raise BadRequestError(InvalidRequest(path="sink", message=said)) from error


def finished_rows(results: pa.Table, prefix: str = "") -> pa.Table:
    """Keep the rows that need not be asked again."""
    status = results.column(f"{prefix}status")
    words = status.cast(pa.string()) if pa.types.is_dictionary(status.type) else status
    return results.filter(pc.is_in(words, FINISHED_STATUSES))


def sort_by_row(results: pa.Table, prefix: str = "") -> pa.Table:
    """Put results in the order of their rows; what belongs to one row stays as it is."""
    order = np.argsort(results.column(f"{prefix}row").to_numpy(), kind="stable")
    return results.take(pa.array(order))


def _parquet_sink(folder: Path, prefix: str) -> Sink:
    def part(first: int) -> Path:
        return folder / f"part-{first:012d}.parquet"

    def kept(first: int, _rows: int) -> pa.Table | None:
        if not part(first).exists():
            return None
        with parquet.ParquetFile(part(first)) as file:
            return finished_rows(file.read(), prefix)

    def write(first: int, results: pa.Table) -> None:
        draft = folder / f".{part(first).name}.{secrets.token_hex(4)}.tmp"
        try:
            parquet.write_table(results, draft)
            draft.replace(part(first))
        finally:
            draft.unlink(missing_ok=True)

    return Sink(read_finished=kept, write=write, close=lambda: None, append_only=False)


def _stream_sink(path: Path, prefix: str) -> Sink:
    """Copy what is good of a stream that is there, and go on behind it."""
    stream = _ArrowStreamFile(path, prefix)
    return Sink(read_finished=stream.read_finished, write=stream.write, close=stream.close, append_only=True)


class _ArrowStreamFile:
    """An Arrow stream that is being written, and the index of what it began with."""

    def __init__(self, path: Path, prefix: str) -> None:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._row = f"{prefix}row"
        self._file = pa.OSFile(str(draft), "wb")
        self._writer: Any = None
        there: list[pa.Table] = []
        for batch in _iter_complete_batches(path) if path.exists() else ():
            some = finished_rows(pa.Table.from_batches([batch]), prefix)
            self.write(0, some)
            there.append(some.select([self._row, f"{prefix}request_key"]))
        draft.replace(path)
        self._finished = sort_by_row(pa.concat_tables(there), prefix) if there else None
        self._finished_rows = (
            np.zeros(0, np.int64) if self._finished is None else self._finished.column(self._row).to_numpy()
        )

    def read_finished(self, first: int, many: int) -> pa.Table | None:
        low, high = np.searchsorted(self._finished_rows, [first, first + many])
        return self._finished.slice(low, high - low) if self._finished is not None and high > low else None

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


def _iter_complete_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Read a stream as far as it is whole."""
    with pa.OSFile(str(path), "rb") as file:
        try:
            with ipc.open_stream(file) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError):
            return


STREAM_SUFFIXES: Final = frozenset({".arrows"})


def iter_blocks(source: Any, rows: int, argument: str = "frame") -> Iterator[Any]:
    """Cut a source into blocks of so many rows; only the last is shorter.

    Parameters
    ----------
    source
        A path, something with ``to_batches`` or ``__arrow_c_stream__``, an iterable of batches or tables, or a frame.

    Examples
    --------
    >>> [len(block) for block in iter_blocks(iter([pa.table({"x": range(3)}), pa.table({"x": range(4)})]), 5)]
    [5, 2]
    """
    if frames.is_pandas(source):
        for at in range(0, len(source), rows):
            yield source.iloc[at : at + rows]
        return
    waiting: list[pa.Table] = []
    held = 0
    for some in _iter_tables(source, argument):
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


def _iter_tables(source: Any, argument: str) -> Iterator[pa.Table]:
    if isinstance(source, (str, Path)):
        yield from _iter_file(Path(source), argument)
    elif isinstance(source, (pa.Table, pa.RecordBatch, Mapping)):
        yield frames.pandas_or_arrow(source)
    elif hasattr(source, "to_batches"):
        yield from map(frames.pandas_or_arrow, source.to_batches())
    elif hasattr(source, "__arrow_c_stream__"):
        yield from map(frames.pandas_or_arrow, pa.RecordBatchReader.from_stream(source))
    elif isinstance(source, Iterable):
        yield from map(frames.pandas_or_arrow, source)
    else:
        yield frames.pandas_or_arrow(source)


def _iter_file(path: Path, argument: str) -> Iterator[pa.Table]:
    """Draw from a file: lazily from Parquet and Arrow, from text once it is read and checked whole."""
    if path.suffix.lower() == ".parquet" and path.is_file():
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(4096):
                yield pa.Table.from_batches([batch])
    elif path.suffix.lower() in STREAM_SUFFIXES and path.is_file():
        with pa.OSFile(str(path), "rb") as opened, ipc.open_stream(opened) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    else:
        yield files.read_table(path, argument)
