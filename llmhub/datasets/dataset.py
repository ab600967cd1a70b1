"""Frozen datasets: rows in a canonical order, a fingerprint for each row, and a lock file; and their layout on disk.

``data.parquet`` (or ``data.jsonl``) holds the rows; ``rows.lock`` 64 bytes per row, the fingerprints of its input and
its content; ``lock.json`` how the rows were produced. Requests, responses and scores are content; measurements of a run
(`MEASUREMENT_COLUMNS`) are stored but not part of the content hash, because they differ between equal runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from llmhub.core.errors import BadRequestError, invalid
from llmhub.core.types import JSON
from llmhub.datasets import folder as folders
from llmhub.datasets.fingerprint import (
    FINGERPRINT_SIZE,
    Fingerprints,
    content_hash,
    dense_ranks,
    fingerprints,
    sort_order,
)
from llmhub.datasets.folder import LOCK_FILE, not_frozen, open_regular
from llmhub.tables import files, frames
from llmhub.tables.schema import RESULTS

ColumnRole: TypeAlias = Literal["input", "asked", "answer", "score", "measure"]
DatasetLayout: TypeAlias = Literal["parquet", "jsonl"]

LAYOUT_VERSION: Final = 2
"""Version of the layout on disk; datasets of a later version are rejected."""
ROWS_FILE: Final = "rows.lock"
DATA_FILES: Final[Mapping[DatasetLayout, str]] = {"parquet": "data.parquet", "jsonl": "data.jsonl"}
JUDGEMENTS_FILE: Final = "judgements.parquet"
ROW_RECORD_SIZE: Final = 2 * FINGERPRINT_SIZE
"""Bytes per row in ``rows.lock``: fingerprint of the input, fingerprint of the content."""
ROW_ID: Final = "row_id"
"""Column with the id of the input row: 32 hexadecimal digits of its fingerprint."""
SCORE_PREFIX: Final = "score_"
"""Prefix of the column of a scorer's scores."""
ROW_GROUP: Final = 131_072
"""Rows per Parquet row group."""

REQUEST_COLUMNS: Final = ("provider", "model", "sample")
RESPONSE_COLUMNS: Final = (
    "served_model", "status", "response", "parsed", "tool_calls", "finish_reason", "error_type", "input_tokens",
    "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "dropped_params",
)  # fmt: skip
"""Content of a response, by which two runs are compared."""
MEASUREMENT_COLUMNS: Final = (
    "error", "list_cost_usd", "price_id", "latency_s", "ttft_s", "request_id", "started_at", "request_key",
)  # fmt: skip
"""Stored, but not content: another run of the same requests measures other values."""


@dataclass(frozen=True, slots=True)
class DatasetColumn:
    """Column of a frozen dataset: name, role and Arrow type."""

    name: str
    role: ColumnRole
    type: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """Frozen dataset: rows in canonical order, and the lock.

    Parameters
    ----------
    table
        Inputs, responses, scores and measurements; one row per input row, model and sample.
    lock
        How the dataset was produced; see `llmhub.freeze`.
    columns
        Role and type of each column.
    """

    table: pa.Table
    lock: Mapping[str, Any]
    columns: tuple[DatasetColumn, ...]

    def __repr__(self) -> str:
        """Return the number of rows and scores."""
        return f"Frozen({self.table.num_rows:,} rows, {len(self.names('score'))} scores)"

    def names(self, *roles: ColumnRole) -> list[str]:
        """Return the names of the columns with one of these roles."""
        return [column.name for column in self.columns if column.role in roles]

    def inputs(self) -> pa.Table:
        """Return the distinct input rows, in the order of their ids."""
        ids = self.table.column(ROW_ID).combine_chunks().dictionary_encode()
        first = np.unique(ids.indices.to_numpy(zero_copy_only=False), return_index=True)[1]
        return self.table.select(self.names("input")).take(pa.array(np.sort(first)))

    @property
    def content_sha256(self) -> str:
        """SHA-256 of the content of all rows, whatever their order."""
        return str(self.lock["content_sha256"])


@dataclass(frozen=True, slots=True)
class CanonicalRows:
    """Rows in canonical order, with their fingerprints.

    Parameters
    ----------
    table, columns
        The rows, and role and type of each column.
    input_fingerprints, content_fingerprints
        Fingerprint of each row's input, and of its input and content.
    """

    table: pa.Table
    columns: tuple[DatasetColumn, ...]
    input_fingerprints: Fingerprints
    content_fingerprints: Fingerprints

    @property
    def rows_lock(self) -> bytes:
        """Content of ``rows.lock``."""
        return np.concatenate([self.input_fingerprints, self.content_fingerprints], axis=1).tobytes()

    @property
    def content_sha256(self) -> str:
        """SHA-256 of the content of all rows, whatever their order."""
        return content_hash(self.content_fingerprints)


def to_table(frame: Any) -> pa.Table:
    """Return any frame as an Arrow table, without a pandas index."""
    source = frames.pandas_or_arrow(frame)
    return pa.Table.from_pandas(source, preserve_index=False) if frames.is_pandas(source) else source


def canonicalise(inputs: pa.Table, results: pa.Table, scores: Mapping[str, pa.Array]) -> CanonicalRows:
    """Join inputs, results and scores to one table in canonical order.

    Parameters
    ----------
    inputs
        Input rows.
    results
        Results, whose ``row`` is the position in ``inputs``.
    scores
        Scores of each result, by the scorer's name.

    Notes
    -----
    Law: the rows and their order depend on their content only, not on the order of the inputs.
    """
    _require_no_clash(inputs.column_names, scores)
    rows = pa.table({name: _widened(inputs.column(name)) for name in inputs.column_names})
    row_fingerprints, row = fingerprints(rows), results.column("row").to_numpy()
    content = {name: _widened(results.column(name)) for name in (*REQUEST_COLUMNS, *RESPONSE_COLUMNS)}
    content |= {SCORE_PREFIX + name: _widened(pa.chunked_array([values])) for name, values in scores.items()}
    responses = pa.table(content)
    content_fingerprints = fingerprints(responses, prefix=row_fingerprints[row])
    order = _canonical_order(dense_ranks(row_fingerprints)[row], responses, content_fingerprints)
    row_of, position = pa.array(row[order]), pa.array(order)
    measurements = pa.table({name: _widened(results.column(name)) for name in MEASUREMENT_COLUMNS})
    parts: list[tuple[ColumnRole, pa.Table]] = [
        ("asked", pa.table({ROW_ID: _row_ids(row_fingerprints)}).take(row_of)),
        ("input", rows.take(row_of)),
        ("asked", responses.select(list(REQUEST_COLUMNS)).take(position)),
        ("answer", responses.select(list(RESPONSE_COLUMNS)).take(position)),
        ("score", responses.select([SCORE_PREFIX + name for name in scores]).take(position)),
        ("measure", measurements.take(position)),
    ]
    columns = tuple(DatasetColumn(field.name, role, str(field.type)) for role, part in parts for field in part.schema)
    table = pa.table({name: part.column(name) for _, part in parts for name in part.column_names})
    return CanonicalRows(table, columns, row_fingerprints[row[order]], content_fingerprints[order])


def recompute_fingerprints(data: Frozen) -> CanonicalRows:
    """Return the rows of a dataset with fingerprints computed from their present values."""
    inputs = fingerprints(data.table, data.names("input"))
    content = [name for name in data.names("asked", "answer", "score") if name != ROW_ID]
    return CanonicalRows(data.table, data.columns, inputs, fingerprints(data.table, content, prefix=inputs))


def _require_no_clash(names: Sequence[str], scores: Mapping[str, pa.Array]) -> None:
    reserved = {ROW_ID, *REQUEST_COLUMNS, *RESPONSE_COLUMNS, *MEASUREMENT_COLUMNS}
    reserved |= {SCORE_PREFIX + name for name in scores}
    clash = next((name for name in names if name in reserved), None)
    if clash is not None:
        raise invalid("result", f"the input column {clash!r} has the name of a result column; rename it")


def _row_ids(row_fingerprints: Fingerprints) -> pa.Array:
    """Return the first half of each fingerprint as hexadecimal digits."""
    digits = row_fingerprints.tobytes().hex()
    starts = range(0, len(digits), 2 * FINGERPRINT_SIZE)
    return pa.array([digits[start : start + FINGERPRINT_SIZE] for start in starts], pa.string())


def _canonical_order(row_ranks: Any, responses: pa.Table, contents: Fingerprints) -> Any:
    """Return the order of rows by input, provider, model, sample, and then content."""
    ranks = np.asarray(row_ranks, np.int64)
    for name in REQUEST_COLUMNS:
        dense = pc.rank(responses.column(name), tiebreaker="dense").to_numpy().astype(np.int64)
        ranks = ranks * (dense.max(initial=0) + 1) + dense
    return sort_order(contents, ranks)


WIDEST_TYPES: Final[tuple[tuple[Callable[[pa.DataType], Any], pa.DataType], ...]] = (
    (lambda kind: str(kind) in {"large_string", "string_view"}, pa.string()),
    (lambda kind: str(kind) in {"large_binary", "binary_view"}, pa.binary()),
    (pa.types.is_signed_integer, pa.int64()),
    (pa.types.is_unsigned_integer, pa.uint64()),
    (pa.types.is_floating, pa.float64()),
)
"""Families of Arrow types, and the type that columns of the family are stored with."""
STORED_TYPES: Final[Mapping[str, pa.DataType]] = {str(field.type): field.type for field in RESULTS} | {
    str(kind): kind
    for kind in (
        pa.string(), pa.binary(), pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.null(), pa.date32(),
        pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.float64()),
    )
}  # fmt: skip
"""Arrow types by the name they have in the lock."""


def _widened(column: pa.ChunkedArray) -> Any:
    """Cast a column to the stored type of its family; dictionaries are decoded."""
    return column.cast(stored_type(column.type)).combine_chunks()


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of this type is stored with."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return next((widest for is_member, widest in WIDEST_TYPES if is_member(kind)), kind)


# Files


def write_rows(folder: Path, table: pa.Table, layout: DatasetLayout) -> None:
    """Write the rows to a file whose bytes depend on the rows only."""
    if layout == "jsonl":
        files.write_table(table, folder / DATA_FILES["jsonl"], "path")
        return
    parquet.write_table(
        table, folder / DATA_FILES["parquet"], compression="zstd", row_group_size=ROW_GROUP, write_statistics=True
    )


def write_judgements(folder: Path, judgements: pa.Table | None) -> list[str]:
    """Write the calls of judges, if there are any; return the name of the file in a list."""
    if judgements is None:
        return []
    parquet.write_table(judgements.replace_schema_metadata(None), folder / JUDGEMENTS_FILE, compression="zstd")
    return [JUDGEMENTS_FILE]


def read_judgements(folder: Path, lock: Mapping[str, Any]) -> pa.Table | None:
    """Return the calls of judges; ``None`` if there were none."""
    return read_rows_file(folder / JUDGEMENTS_FILE) if JUDGEMENTS_FILE in lock["files"] else None


def read_rows_file(path: Path) -> pa.Table:
    """Read a table from a regular file.

    Raises
    ------
    BadRequestError
        The file is missing, is not a regular file, or its content is not of its format.
    """
    try:
        with open_regular(path):
            pass
        return files.read_table(path, "path")
    except (OSError, pa.ArrowException, ValueError, RecursionError) as error:
        if isinstance(error, BadRequestError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise not_frozen(path.parent, f"{path.name} cannot be read ({reason})") from error


def dataset_layout(lock: Mapping[str, Any]) -> DatasetLayout:
    """Return the layout of a dataset's rows."""
    return next(layout for layout, name in DATA_FILES.items() if name == lock["data"])


def read(path: str | Path) -> Frozen:
    """Read a frozen dataset. `llmhub.verify` checks whether it is unchanged.

    Raises
    ------
    BadRequestError
        The folder holds no frozen dataset, or one of a later version.
    """
    folder = Path(path)
    lock = read_lock(folder)
    columns = tuple(DatasetColumn(**column) for column in lock["columns"])
    _require_result_columns(folder, columns)
    file = folder / lock["data"]
    table = read_rows_file(file)
    missing = next((column.name for column in columns if column.name not in table.column_names), None)
    if missing is not None:
        raise not_frozen(folder, f"{file.name} has no column {missing!r}")
    try:
        restored = {column.name: _restore_type(table.column(column.name), column.type) for column in columns}
    except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        raise not_frozen(folder, f"the column types of {file.name} differ from {LOCK_FILE}: {error}") from error
    return Frozen(pa.table(restored), lock, columns)


def _require_result_columns(folder: Path, columns: Sequence[DatasetColumn]) -> None:
    """Raise unless every column of requests, responses and measurements is there, and every score is a number."""
    expected: dict[str, tuple[ColumnRole, str]] = {ROW_ID: ("asked", "string")}
    roles: dict[ColumnRole, Sequence[str]] = {
        "asked": REQUEST_COLUMNS, "answer": RESPONSE_COLUMNS, "measure": MEASUREMENT_COLUMNS,
    }  # fmt: skip
    for role, names in roles.items():
        expected |= {name: (role, str(stored_type(RESULTS.field(name).type))) for name in names}
    found = {column.name: (column.role, column.type) for column in columns if column.role not in {"input", "score"}}
    differing = next((name for name in (*expected, *found) if expected.get(name) != found.get(name)), None)
    if differing is not None:
        wanted = expected.get(differing, ("input", "any"))
        message = f"{LOCK_FILE} must list the column {differing!r} with role {wanted[0]!r} and type {wanted[1]!r}"
        raise not_frozen(folder, message)
    for column in columns:
        if column.role == "score" and not (column.name.startswith(SCORE_PREFIX) and column.type == "double"):
            message = f"{LOCK_FILE} lists the score {column.name!r} with type {column.type!r}, not 'double'"
            raise not_frozen(folder, message)


def read_lock(folder: Path) -> dict[str, Any]:
    """Return the content of ``lock.json``; raise `BadRequestError` unless the folder holds a frozen dataset."""
    return folders.read_lock(folder, LAYOUT_VERSION)


def _restore_type(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Cast a column read from JSON lines, which have no bytes, decimals or times, to its type in the lock."""
    kind = STORED_TYPES.get(name)
    if kind is None or kind == column.type:
        return column
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return pa.chunked_array([[None if text is None else bytes.fromhex(text) for text in column.to_pylist()]], kind)
    return column.cast(kind)


def encode_json(value: JSON | Mapping[str, Any]) -> bytes:
    """Encode a value as indented JSON with sorted keys, so that equal values have equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
