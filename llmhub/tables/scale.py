"""More than one process: one function over record batches, and the few lines that hand it to joblib.

``complete_batches`` takes batches in and gives batches of results out, one for one, so it fits whatever moves batches
about. `complete_parallel` cuts a frame into slices for the processes of any joblib backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.tables import frames
from llmhub.tables.schema import with_run

SLICES_PER_JOB: Final = 4
"""More slices than processes, so that none waits long for the slowest."""


def shifted(results: pa.Table, by: int) -> pa.Table:
    """Count the rows of a slice's results from where the slice began."""
    at = results.schema.get_field_index("row")
    rows = pa.array(results.column("row").to_numpy() + np.int64(by), pa.int64())
    return results.set_column(at, results.schema.field(at), rows)


def head(frame: Any) -> Any:
    """Give a frame's columns without its rows."""
    source = frames.arrow(frame)
    return source.iloc[:0] if frames.is_pandas(source) else source.slice(0, 0)


def slices(frame: Any, jobs: int) -> list[tuple[int, Any]]:
    """Cut a frame into parts of nearly equal size, each with the position of its first row.

    Examples
    --------
    >>> [(at, part.num_rows) for at, part in slices(pa.table({"x": range(10)}), 1)]
    [(0, 2), (2, 3), (5, 2), (7, 3)]
    """
    source = frames.arrow(frame)
    rows = len(source)
    many = max(1, min(rows, jobs * SLICES_PER_JOB))
    bounds = [rows * part // many for part in range(many + 1)]
    cut = (lambda low, high: source.iloc[low:high]) if frames.is_pandas(source) else _cut(source)
    return [(low, cut(low, high)) for low, high in pairwise(bounds)]


def _cut(table: pa.Table) -> Callable[[int, int], pa.Table]:
    return lambda low, high: table.slice(low, high - low)


def merged(parts: Iterable[pa.Table], run_id: str) -> pa.Table:
    """Put the results of slices together as one run's."""
    some = list(parts)
    schema = with_run(run_id)
    if some:
        at = schema.get_field_index("parsed")
        schema = schema.set(at, schema.field(at).with_type(some[0].schema.field(at).type))
    whole = [part.unify_dictionaries().cast(schema) for part in some]
    return pa.concat_tables(whole).unify_dictionaries() if whole else schema.empty_table()


def expect_jobs(jobs: int) -> int:
    """Give the number of processes that joblib makes of ``n_jobs``.

    Raises
    ------
    InvalidRequestError
        For 0, which joblib does not know.
    """
    import joblib  # noqa: PLC0415 - a third of a second, needed only where processes are asked for

    if jobs == 0:
        raise InvalidRequestError(
            InvalidRequest(path="n_jobs", message="0 processes; give 1 or more, or -1 for all cores")
        )
    return int(joblib.effective_n_jobs(jobs))


def batches_of(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Give a result as one batch with the exact schema, empty though it be."""
    found = table.combine_chunks().to_batches()
    return iter(found or [pa.RecordBatch.from_pylist([], schema=table.schema)])
