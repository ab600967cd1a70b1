"""A frozen dataset: rows in one order that only what they say decides, a lock that knows each of them, on disk.

``data.parquet`` (or ``data.jsonl``) holds the rows, ``rows.lock`` 64 bytes for each: what was asked and what it came
to, as fingerprints; ``lock.json`` how all of it was made. Which columns say what is content, and what a run measured,
is a table here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.datasets.fingerprint import (
    FINGERPRINT_SIZE,
    Fingerprints,
    content_hash,
    dense_ranks,
    fingerprints,
    sort_order,
)
from llmhub.tables import files
from llmhub.tables.schema import RESULTS

ColumnRole: TypeAlias = Literal["input", "asked", "answer", "score", "measure"]


DatasetLayout: TypeAlias = Literal["parquet", "jsonl"]


LAYOUT_VERSION: Final = 1
"""Version of the layout; a later one is refused."""


LOCK_FILE: Final = "lock.json"


ROWS_FILE: Final = "rows.lock"


DATA_FILES: Final[Mapping[DatasetLayout, str]] = {"parquet": "data.parquet", "jsonl": "data.jsonl"}


JUDGEMENTS_FILE: Final = "judgements.parquet"


ROW_RECORD_SIZE: Final = 2 * FINGERPRINT_SIZE
"""Bytes a row in ``rows.lock``: the fingerprint of its input, and that of its content."""


ROW_ID: Final = "row_id"
"""The column that names an input row by what it says: 32 hexadecimal digits."""


SCORE_PREFIX: Final = "score_"
"""What stands before a scorer's name in the name of its column."""


ROW_GROUP: Final = 131_072


REQUEST_COLUMNS: Final = ("provider", "model", "sample")


RESPONSE_COLUMNS: Final = (
    "served_model", "status", "response", "parsed", "tool_calls", "finish_reason", "error_type", "input_tokens",
    "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens", "dropped_params",
)  # fmt: skip
"""What an answer says: content, by which two runs are compared."""


MEASUREMENT_COLUMNS: Final = (
    "error", "list_cost_usd", "price_id", "latency_s", "ttft_s", "request_id", "started_at", "request_key",
)  # fmt: skip
"""What a run found besides: kept, and no content, since another run of the same answers finds other values."""


@dataclass(frozen=True, slots=True)
class DatasetColumn:
    """A column of a frozen dataset and what it is there for."""

    name: str
    role: ColumnRole
    type: str


@dataclass(frozen=True, slots=True)
class Frozen:
    """A frozen dataset: its rows in their canonical order, and its lock.

    Parameters
    ----------
    table
        Inputs, answers, scores and measurements; one row for each input row, model and sample.
    lock
        How it was made: see `llmhub.freeze`.
    columns
        What each column is there for.
    """

    table: pa.Table
    lock: Mapping[str, Any]
    columns: tuple[DatasetColumn, ...]

    def __repr__(self) -> str:
        """Say what it holds: the table is read by asking for it."""
        return f"Frozen({self.table.num_rows:,} rows, {len(self.names('score'))} scores)"

    def names(self, *roles: ColumnRole) -> list[str]:
        """Name the columns that have one of these roles."""
        return [column.name for column in self.columns if column.role in roles]

    def inputs(self) -> pa.Table:
        """Give the input rows, each once, in the order of their ids."""
        ids = self.table.column(ROW_ID).combine_chunks()
        encoded = ids.dictionary_encode()
        first = np.unique(encoded.indices.to_numpy(zero_copy_only=False), return_index=True)[1]
        return self.table.select(self.names("input")).take(pa.array(np.sort(first)))

    @property
    def content_sha256(self) -> str:
        """The hash of what all rows say, whatever their order."""
        return str(self.lock["content_sha256"])


@dataclass(frozen=True, slots=True)
class CanonicalRows:
    """Rows in canonical order, and what ``rows.lock`` says of them.

    Parameters
    ----------
    table, columns
        The rows, and what each column is there for.
    inputs, contents
        Fingerprints of what was asked, and of that and what it came to.
    """

    table: pa.Table
    columns: tuple[DatasetColumn, ...]
    input_fingerprints: Fingerprints
    content_fingerprints: Fingerprints

    @property
    def rows_lock(self) -> bytes:
        """What ``rows.lock`` holds."""
        return np.concatenate([self.input_fingerprints, self.content_fingerprints], axis=1).tobytes()

    @property
    def content_sha256(self) -> str:
        """The hash of all that the rows say, whatever their order."""
        return content_hash(self.content_fingerprints)


def canonicalise(inputs: pa.Table, results: pa.Table, scores: Mapping[str, pa.Array]) -> CanonicalRows:
    """Bring inputs, results and scores to one table in canonical order.

    Parameters
    ----------
    inputs
        The input rows.
    results
        Results with ``row`` as position in ``inputs``.
    scores
        By scorer's name, a value for each result.

    Notes
    -----
    Law: the rows and their order depend on what they say alone, not on the order of the inputs.
    """
    _expect_free(inputs.column_names, scores)
    rows = pa.table({name: _plain(inputs.column(name)) for name in inputs.column_names})
    ids, at = fingerprints(rows), results.column("row").to_numpy()
    said = {name: _plain(results.column(name)) for name in (*REQUEST_COLUMNS, *RESPONSE_COLUMNS)}
    said |= {SCORE_PREFIX + name: _plain(pa.chunked_array([values])) for name, values in scores.items()}
    answers = pa.table(said)
    contents = fingerprints(answers, prefix=ids[at])
    order = _order(dense_ranks(ids)[at], answers, contents)
    digits = ids.tobytes().hex()
    hexes = pa.array(
        [digits[at : at + FINGERPRINT_SIZE] for at in range(0, len(digits), 2 * FINGERPRINT_SIZE)], pa.string()
    )
    asked, place = pa.array(at[order]), pa.array(order)
    measured = pa.table({name: _plain(results.column(name)) for name in MEASUREMENT_COLUMNS})
    parts: list[tuple[ColumnRole, pa.Table]] = [
        ("asked", pa.table({ROW_ID: hexes}).take(asked)),
        ("input", rows.take(asked)),
        ("asked", answers.select(list(REQUEST_COLUMNS)).take(place)),
        ("answer", answers.select(list(RESPONSE_COLUMNS)).take(place)),
        ("score", answers.select([SCORE_PREFIX + name for name in scores]).take(place)),
        ("measure", measured.take(place)),
    ]
    columns = tuple(DatasetColumn(field.name, role, str(field.type)) for role, part in parts for field in part.schema)
    whole = {name: part.column(name) for _, part in parts for name in part.column_names}
    return CanonicalRows(pa.table(whole), columns, ids[at[order]], contents[order])


def recompute_fingerprints(data: Frozen) -> CanonicalRows:
    """Work out anew what ``rows.lock`` has to say of the rows as they are."""
    inputs = fingerprints(data.table, data.names("input"))
    said = [name for name in data.names("asked", "answer", "score") if name != ROW_ID]
    return CanonicalRows(data.table, data.columns, inputs, fingerprints(data.table, said, prefix=inputs))


def write_rows(folder: Path, table: pa.Table, layout: DatasetLayout) -> None:
    """Write the rows as a file whose bytes depend on the rows alone."""
    if layout == "jsonl":
        files.write_table(table, folder / DATA_FILES["jsonl"], "path")
        return
    parquet.write_table(
        table, folder / DATA_FILES["parquet"], compression="zstd", row_group_size=ROW_GROUP, write_statistics=True
    )


def write_judgements(folder: Path, judgements: pa.Table | None) -> list[str]:
    """Write what judges answered, where there were any; name the file."""
    if judgements is None:
        return []
    parquet.write_table(judgements.replace_schema_metadata(None), folder / JUDGEMENTS_FILE, compression="zstd")
    return [JUDGEMENTS_FILE]


def read_judgements(folder: Path, lock: Mapping[str, Any]) -> pa.Table | None:
    """Read what judges answered."""
    return files.read_table(folder / JUDGEMENTS_FILE, "path") if JUDGEMENTS_FILE in lock["files"] else None


def dataset_layout(lock: Mapping[str, Any]) -> DatasetLayout:
    """Say how a dataset keeps its rows."""
    return next(layout for layout, name in DATA_FILES.items() if name == lock["data"])


def read(path: str | Path) -> Frozen:
    """Read a frozen dataset; `llmhub.verify` says whether it is as it was frozen.

    Raises
    ------
    InvalidRequestError
        The folder is none, or of a later version.
    """
    folder = Path(path)
    lock = read_lock(folder)
    columns = tuple(DatasetColumn(**column) for column in lock["columns"])
    file = folder / lock["data"]
    table = files.read_table(file, "path")
    missing = next((column.name for column in columns if column.name not in table.column_names), None)
    if missing is not None:
        raise _no_set(folder, f"{file.name} has no column {missing!r}")
    try:
        restored = {column.name: _restored(table.column(column.name), column.type) for column in columns}
    except (pa.ArrowException, ValueError) as error:
        raise _no_set(folder, f"{file.name} holds other kinds of values than {LOCK_FILE} says: {error}") from error
    return Frozen(pa.table(restored), lock, columns)


def read_lock(folder: Path) -> dict[str, Any]:
    """Read the lock of a frozen dataset."""
    try:
        lock = msgspec.json.decode((folder / LOCK_FILE).read_bytes())
    except OSError as error:
        raise _no_set(folder, f"it has no {LOCK_FILE} ({error.strerror or error})") from error
    except msgspec.DecodeError as error:
        raise _no_set(folder, f"{LOCK_FILE} is no JSON: {error}") from error
    if not isinstance(lock, dict) or not isinstance(lock.get("version"), int) or "columns" not in lock:
        raise _no_set(folder, f"{LOCK_FILE} is not one of llmhub's")
    if lock["version"] > LAYOUT_VERSION:
        raise _no_set(folder, f"it is of layout {lock['version']}, later than this version's {LAYOUT_VERSION}")
    return lock


def _restored(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Give a column its type again, where the file could not hold it: text lines know no bytes, decimals or times."""
    kind = TYPES.get(name)
    if kind is None or kind == column.type:
        return column
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
        return pa.chunked_array([[None if text is None else bytes.fromhex(text) for text in column.to_pylist()]], kind)
    return column.cast(kind)


def file_sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_json(value: JSON | Mapping[str, Any]) -> bytes:
    """Write JSON for people and for hashing: keys in order, indented."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"


def _order(inputs: Any, answers: pa.Table, contents: Fingerprints) -> Any:
    """Order rows by input, then provider, model and sample, then by what they say."""
    ranks = np.asarray(inputs, np.int64)
    for name in REQUEST_COLUMNS:
        dense = pc.rank(answers.column(name), tiebreaker="dense").to_numpy().astype(np.int64)
        ranks = ranks * (dense.max(initial=0) + 1) + dense
    return sort_order(contents, ranks)


def _plain(column: pa.ChunkedArray) -> Any:
    """Give a column in the one type that its kind of values is kept in."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    wanted = next((wide for holds, wide in WIDEST if holds(kind)), kind)
    return column.cast(wanted).combine_chunks()


WIDEST: Final = (
    (lambda kind: str(kind) in {"large_string", "string_view"}, pa.string()),
    (lambda kind: str(kind) in {"large_binary", "binary_view"}, pa.binary()),
    (pa.types.is_signed_integer, pa.int64()),
    (pa.types.is_unsigned_integer, pa.uint64()),
    (pa.types.is_floating, pa.float64()),
)
"""Kinds of types, and the one that stands for all of a kind."""


TYPES: Final[Mapping[str, pa.DataType]] = {str(field.type): field.type for field in RESULTS} | {
    str(kind): kind
    for kind in (
        pa.string(), pa.binary(), pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.null(), pa.date32(),
        pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.float64()),
    )
}  # fmt: skip


def _expect_free(names: Sequence[str], scores: Mapping[str, pa.Array]) -> None:
    taken = {
        ROW_ID,
        *REQUEST_COLUMNS,
        *RESPONSE_COLUMNS,
        *MEASUREMENT_COLUMNS,
        *(SCORE_PREFIX + name for name in scores),
    }
    clash = next((name for name in names if name in taken), None)
    if clash is not None:
        said = f"a column of the rows is named {clash!r}, as one of the results is; rename it"
        raise BadRequestError(InvalidRequest(path="result", message=said))


def _no_set(folder: Path, why: str) -> BadRequestError:
    return BadRequestError(
        InvalidRequest(path="path", message=f"{str(folder)!r} is no frozen dataset: {why}; llmhub.freeze writes one")
    )
