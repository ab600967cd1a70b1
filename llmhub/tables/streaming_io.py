"""Tables in blocks: read sources block by block, write results as they arrive, and divide frames among processes.

Results go to a folder of Parquet parts or to one Arrow stream. A part is written under a temporary name and renamed,
so that every part is complete; a truncated stream is read up to its last complete batch. Results that are already there
and need not be sent again are kept, so that the same call resumes an interrupted run.
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

from llmhub.core.errors import invalid
from llmhub.tables import files, frames, locations
from llmhub.tables.schema import is_simulated, schema_for_run

STREAM_SUFFIX: Final = ".arrows"
"""Extension of Arrow streams, as registered: https://www.iana.org/assignments/media-types (read 2026-11-27)."""
JOURNAL_SUFFIX: Final = ".responses.db"
"""End of the name of the file in which responses are kept until their block is written."""
BLOCK_ROWS: Final = 4096
"""Input rows of one block of a streamed run, and of one part."""
READ_ROWS: Final = 4096
"""Rows read from a Parquet file at a time."""
FINISHED_STATUSES: Final = pa.array(["ok", "skipped"])
"""Statuses of rows that are not sent again."""
SLICES_PER_JOB: Final = 2
"""Slices per process, so that no process waits long for the slowest. Each opens its own connections."""


# Sources


def iter_blocks(source: Any, rows: int, argument: str = "frame") -> Iterator[Any]:
    """Yield a source in blocks of ``rows`` rows; only the last may be shorter.

    Parameters
    ----------
    source
        A path, an object with ``to_batches`` or ``__arrow_c_stream__``, an iterable of batches or tables, or a frame.
    rows
        Rows per block.
    argument
        Name of the caller's argument, for errors.

    Examples
    --------
    >>> [len(block) for block in iter_blocks(iter([pa.table({"x": range(3)}), pa.table({"x": range(4)})]), 5)]
    [5, 2]
    """
    if frames.is_pandas(source):
        for start in range(0, len(source), rows):
            yield source.iloc[start : start + rows]
        return
    pending: list[pa.Table] = []
    n_pending = 0
    for table in map(frames.to_table, _iter_tables(source, argument)):
        pending.append(table)
        n_pending += len(table)
        if n_pending < rows:
            continue
        combined = pa.concat_tables(pending)
        n_complete = n_pending - n_pending % rows
        for start in range(0, n_complete, rows):
            yield combined.slice(start, rows)
        rest = combined.slice(n_complete)
        pending, n_pending = ([rest] if len(rest) else []), len(rest)
    if n_pending:
        yield pa.concat_tables(pending)


def _iter_tables(source: Any, argument: str) -> Iterator[Any]:
    """Yield the parts of a source, each a frame."""
    if isinstance(source, (str, Path)):
        location = locations.parse_location(str(source))
        if isinstance(location, str) or location.is_dir():
            yield from locations.read_location(location, argument)
        else:
            yield from _iter_file(location, argument)
    elif isinstance(source, (pa.Table, pa.RecordBatch, Mapping)):
        yield source
    elif hasattr(source, "to_batches"):
        yield from source.to_batches()
    elif hasattr(source, "__arrow_c_stream__"):
        yield from pa.RecordBatchReader.from_stream(source)
    elif isinstance(source, Iterable):
        yield from source
    else:
        yield source


def _iter_file(path: Path, argument: str) -> Iterator[pa.Table]:
    """Yield the tables of a file: Parquet and Arrow streams lazily, other formats read and checked as a whole."""
    suffix = path.suffix.lower()
    if suffix == ".parquet" and path.is_file():
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(READ_ROWS):
                yield pa.Table.from_batches([batch])
    elif suffix == STREAM_SUFFIX and path.is_file():
        with pa.OSFile(str(path), "rb") as opened, ipc.open_stream(opened) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])
    else:
        yield files.read_table(path, argument)


# Sinks


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """Where the results of a streamed run are written.

    Parameters
    ----------
    read_finished
        ``read_finished(first, rows)``: the existing results of these input rows that need not be sent again, in row
        order, or ``None``.
    write
        ``write(first, results)``: write the results of the block that begins at input row ``first``.
    close
        Close the file, if any.
    journal_path
        Where responses are kept until their block is written, hidden from readers of the sink.
    append_only
        Whether existing results stay where they are and only new ones are written; otherwise ``write`` replaces all
        results of its block.
    """

    read_finished: Callable[[int, int], pa.Table | None]
    write: Callable[[int, pa.Table], None]
    close: Callable[[], None]
    journal_path: Path
    append_only: bool


def open_sink(path: Path | str, prefix: str = "") -> Sink:
    """Open a sink: a file that ends with ``.arrows`` as an Arrow stream, any other path as a folder of Parquet parts.

    A URL is a folder in an object store.

    Raises
    ------
    BadRequestError
        The path has another extension, or cannot be created.
    """
    if isinstance(path, str):
        return _object_store_sink(path, prefix)
    try:
        if path.suffix == STREAM_SUFFIX:
            stream = _ArrowStreamFile(path, prefix)
            return Sink(
                read_finished=stream.read_finished,
                write=stream.write,
                close=stream.close,
                journal_path=path.with_name(f".{path.name}{JOURNAL_SUFFIX}"),
                append_only=True,
            )
        if path.suffix and not path.is_dir():
            raise invalid("sink", f"{str(path)!r} is neither a folder nor a file that ends with {STREAM_SUFFIX!r}")
        path.mkdir(parents=True, exist_ok=True)
        for temporary in path.glob(".*.tmp"):
            temporary.unlink()
        return _parquet_sink(path, prefix)
    except OSError as error:
        raise invalid("sink", f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def _object_store_sink(url: str, prefix: str) -> Sink:
    folder = locations.ObjectStoreFolder(url)
    return Sink(
        read_finished=lambda first, _rows: folder.read(first, lambda results: finished_rows(results, prefix)),
        write=folder.write,
        close=lambda: None,
        journal_path=folder.journal_path,
        append_only=False,
    )


def finished_rows(results: pa.Table, prefix: str = "") -> pa.Table:
    """Return the rows that need not be sent again."""
    status = results.column(f"{prefix}status")
    words = status.cast(pa.string()) if pa.types.is_dictionary(status.type) else status
    return results.filter(pc.is_in(words, FINISHED_STATUSES))


def sort_by_row(results: pa.Table, prefix: str = "") -> pa.Table:
    """Sort results by input row; the order within a row is kept."""
    order = np.argsort(results.column(f"{prefix}row").to_numpy(), kind="stable")
    return results.take(pa.array(order))


def _parquet_sink(folder: Path, prefix: str) -> Sink:
    def part_path(first: int) -> Path:
        return folder / f"part-{first:012d}.parquet"

    def read_finished(first: int, _rows: int) -> pa.Table | None:
        if not part_path(first).exists():
            return None
        with parquet.ParquetFile(part_path(first)) as file:
            return finished_rows(file.read(), prefix)

    def write(first: int, results: pa.Table) -> None:
        temporary = folder / f".{part_path(first).name}.{secrets.token_hex(4)}.tmp"
        try:
            parquet.write_table(results, temporary)
            temporary.replace(part_path(first))
        finally:
            temporary.unlink(missing_ok=True)

    return Sink(
        read_finished=read_finished,
        write=write,
        close=lambda: None,
        journal_path=folder / JOURNAL_SUFFIX,
        append_only=False,
    )


class _ArrowStreamFile:
    """An Arrow stream that is being written. It begins with a copy of the finished rows of an existing stream."""

    def __init__(self, path: Path, prefix: str) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        self._row = f"{prefix}row"
        self._file = pa.OSFile(str(temporary), "wb")
        self._writer: Any = None
        existing: list[pa.Table] = []
        for batch in _iter_complete_batches(path) if path.exists() else ():
            finished = finished_rows(pa.Table.from_batches([batch]), prefix)
            self.write(0, finished)
            existing.append(finished.select([self._row, f"{prefix}request_key"]))
        temporary.replace(path)
        self._finished = sort_by_row(pa.concat_tables(existing), prefix) if existing else None
        self._finished_rows = np.zeros(0, np.int64)
        if self._finished is not None:
            self._finished_rows = self._finished.column(self._row).to_numpy()

    def read_finished(self, first: int, rows: int) -> pa.Table | None:
        start, stop = np.searchsorted(self._finished_rows, [first, first + rows])
        return self._finished.slice(start, stop - start) if self._finished is not None and stop > start else None

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
    """Yield the batches of a stream up to the first incomplete one."""
    with pa.OSFile(str(path), "rb") as file:
        try:
            with ipc.open_stream(file) as reader:
                yield from reader
        except (pa.ArrowInvalid, OSError):
            return


# Slices for several processes


def split_frame(frame: Any, jobs: int, slices_per_job: int = SLICES_PER_JOB) -> list[tuple[int, Any]]:
    """Split a frame into slices of nearly equal size, each with the position of its first row.

    Examples
    --------
    >>> [(first, part.num_rows) for first, part in split_frame(pa.table({"x": range(10)}), 1)]
    [(0, 5), (5, 5)]
    """
    source = frames.pandas_or_arrow(frame)
    rows = len(source)
    n_slices = max(1, min(rows, jobs * slices_per_job))
    bounds = [rows * number // n_slices for number in range(n_slices + 1)]
    return [(start, _slice_rows(source, start, stop)) for start, stop in pairwise(bounds)]


def without_rows(frame: Any) -> Any:
    """Return a frame with the same columns and no rows."""
    return _slice_rows(frames.pandas_or_arrow(frame), 0, 0)


def _slice_rows(frame: Any, start: int, stop: int) -> Any:
    return frame.iloc[start:stop] if frames.is_pandas(frame) else frame.slice(start, stop - start)


def offset_rows(results: pa.Table, offset: int) -> pa.Table:
    """Add the position of a slice's first row to the ``row`` column of its results."""
    index = results.schema.get_field_index("row")
    rows = pa.array(results.column("row").to_numpy() + np.int64(offset), pa.int64())
    return results.set_column(index, results.schema.field(index), rows)


def replace_rows(results: pa.Table, others: pa.Table, position: str, duplicates: Mapping[int, int]) -> pa.Table:
    """Replace the results of input rows by those that other workers have for them.

    Parameters
    ----------
    results
        Results of all rows, in order.
    others
        Results of some rows, of plain types; those of one row follow each other in order. The column ``position`` has
        the number of their row.
    duplicates
        Rows whose request equals that of another row, by their number. Where ``results`` has no response for them, they
        get what the other row got.
    """
    positions = others.column(position).to_numpy()
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    rows, counts = np.unique(positions, return_counts=True)
    per_row = int(counts.max(initial=1))
    taken = np.arange(len(results))
    taken[positions * per_row + np.arange(len(positions)) % per_row] = len(results) + np.arange(len(positions))
    numbers = results.column("row").to_numpy().copy()
    answered = pc.is_null(results.column("error_type")).to_numpy(zero_copy_only=False)
    sent = set(rows.tolist())
    for row, original in duplicates.items():
        block = slice(row * per_row, (row + 1) * per_row)
        if original in sent and not answered[block].all():
            taken[block] = taken[original * per_row : (original + 1) * per_row]
    moved = others.take(pa.array(order)).select(results.schema.names)
    combined = pa.concat_tables([results.unify_dictionaries(), _cast_results(moved, results.schema)])
    whole = combined.unify_dictionaries().take(pa.array(taken))
    index = whole.schema.get_field_index("row")
    whole = whole.set_column(index, whole.schema.field(index), pa.array(numbers, pa.int64()))
    return whole.cast(results.schema).replace_schema_metadata(results.schema.metadata)


def _cast_results(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return results of plain types in the types of ``schema``."""
    columns = []
    for field in schema:
        column = table.column(field.name)
        if pa.types.is_dictionary(field.type):
            column = column.dictionary_encode().cast(field.type)
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=schema)


def concat_results(parts: Iterable[pa.Table], run_id: str) -> pa.Table:
    """Concatenate the results of slices into those of one run."""
    tables = list(parts)
    schema = schema_for_run(run_id, simulated=any(is_simulated(table.schema) for table in tables))
    if not tables:
        return schema.empty_table()
    index = schema.get_field_index("parsed")  # a struct if the run has an output schema
    schema = schema.set(index, schema.field(index).with_type(tables[0].schema.field(index).type))
    for name in tables[0].column_names[len(schema) :]:  # turns and transcripts
        schema = schema.append(tables[0].schema.field(name))
    return pa.concat_tables([table.unify_dictionaries().cast(schema) for table in tables]).unify_dictionaries()


def effective_jobs(jobs: int) -> int:
    """Return the number of processes that joblib starts for ``n_jobs``.

    Raises
    ------
    BadRequestError
        ``jobs`` is 0, which joblib does not accept.
    """
    import joblib  # noqa: PLC0415 - takes a third of a second to import

    if jobs == 0:
        raise invalid("n_jobs", "0 processes; pass 1 or more, or -1 for all cores")
    return int(joblib.effective_n_jobs(jobs))


def to_record_batches(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Return results as a single record batch with the exact schema, even if they are empty."""
    batches = table.combine_chunks().to_batches()
    return iter(batches or [pa.RecordBatch.from_pylist([], schema=table.schema)])
