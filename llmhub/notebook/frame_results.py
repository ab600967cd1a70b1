"""How the results of a frame are returned: beside its rows, in a frame of its kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import pyarrow as pa

from llmhub.api.raising import keep_table
from llmhub.core.errors import invalid
from llmhub.tables import frames
from llmhub.tables.pandas_types import DtypeBackend

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class FrameResults(Generic[F]):
    """How the results of a frame are returned: beside its rows, in a frame of its kind.

    Parameters
    ----------
    source, native
        The frame, and the same as a frame with rows (see `llmhub.tables.frames.native_frame`).
    columns, prefix
        Names of the result columns, and their prefix.
    dtype_backend
        Types of the columns in a pandas frame.
    """

    source: F
    native: Any
    columns: tuple[str, ...]
    prefix: str
    dtype_backend: DtypeBackend | None

    def require_free_names(self, names: Sequence[str], argument: str) -> None:
        """Raise if a name is that of a column of the frame or of a result column."""
        taken = {*frames.column_names(self.native), *(self.prefix + name for name in self.columns)}
        clash = next((name for name in names if name in taken), None)
        if clash is not None:
            raise invalid(argument, f"{clash!r} is the name of another column; pass another {argument}= or prefix=")

    def join(self, table: pa.Table, fields: pa.Table | None = None) -> F:
        """Return the rows of the frame with typed fields, if any, and result columns."""
        with keep_table(table):
            results = frames.add_prefix(table.select(list(self.columns)), self.prefix)
            joined = frames.join_rows(self.native, table.column("row"), (fields, results), self.dtype_backend)
            return cast("F", frames.to_kind_of(self.source, joined))

    def iter_rows(self, tables: Iterator[pa.Table]) -> Iterator[Any]:
        """Yield the rows of tables of results, each as the library of the frame yields rows."""
        for table in tables:
            results = frames.add_prefix(table.select(list(self.columns)), self.prefix)
            joined = frames.join_rows(self.native, table.column("row"), (results,), self.dtype_backend)
            yield from frames.backend_of(joined).iter_rows(joined)
