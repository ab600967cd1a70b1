"""Frozen datasets: rows in a canonical order, a fingerprint for each row, and a lock file; and their layout on disk.

``data.parquet`` (or ``data.jsonl``) holds the rows; ``rows.lock`` 96 bytes per row, the fingerprints of its input, its
content and its measurements; ``lock.json`` how the rows were produced; ``manifest.json`` the hashes of all files.
Requests, responses and scores are content; measurements of a run (`MEASUREMENT_COLUMNS`) are stored but not part of the
content hash, because they differ between equal runs. Layout version 1 had no manifest and no fingerprints of
measurements.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec
import numpy as np
import pandas as pd
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
from llmhub.datasets.folder import LOCK_FILE, not_frozen, open_regular, read_file
from llmhub.datasets.manifest import MANIFEST_FILE, manifest_digest
from llmhub.tables import files
from llmhub.tables.schema import RESULTS

ColumnRole: TypeAlias = Literal["input", "asked", "answer", "score", "measure"]
DatasetLayout: TypeAlias = Literal["parquet", "jsonl"]

LAYOUT_VERSION: Final = 2
"""Version of the layout on disk; datasets of a later version are rejected."""
ROWS_FILE: Final = "rows.lock"
DATA_FILES: Final[Mapping[DatasetLayout, str]] = {"parquet": "data.parquet", "jsonl": "data.jsonl"}
JUDGEMENTS_FILE: Final = "judgements.parquet"
ROW_RECORD_SIZES: Final[Mapping[int, int]] = {1: 2 * FINGERPRINT_SIZE, 2: 3 * FINGERPRINT_SIZE}
"""Bytes per row in ``rows.lock`` by layout version: fingerprints of input and content, and since 2 of measurements."""
ROW_ID: Final = "row_id"
"""Column with the id of the input row: 32 hexadecimal digits of its fingerprint."""
SCORE_PREFIX: Final = "score_"
"""Prefix of the column of a scorer's scores."""
INPUT_PREFIX: Final = "input_"
"""Prefix of the stored name of an input column that has the name of a result column."""
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
    """Column of a frozen dataset: name, role and Arrow type.

    ``source`` is the name of the input column, if the dataset stores it under another because a result column has it.
    """

    name: str
    role: ColumnRole
    type: str
    source: str = ""

    def to_json(self) -> dict[str, JSON]:
        """Return the column as it is recorded in a lock."""
        recorded: dict[str, JSON] = {"name": self.name, "role": self.role, "type": self.type}
        return recorded | ({"source": self.source} if self.source else {})


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
    digest
        SHA-256 of the manifest, ``sha256:...``: keep it to check with `llmhub.verify` that nothing was replaced. Empty
        for datasets without a manifest.
    """

    table: pa.Table
    lock: Mapping[str, Any]
    columns: tuple[DatasetColumn, ...]
    digest: str = ""

    def __repr__(self) -> str:
        """Return the number of rows and scores, and the digest."""
        digest = f", digest {self.digest}" if self.digest else ""
        return f"Frozen({self.table.num_rows:,} rows, {len(self.names('score'))} scores{digest})"

    def names(self, *roles: ColumnRole) -> list[str]:
        """Return the names of the columns with one of these roles."""
        return [column.name for column in self.columns if column.role in roles]

    def inputs(self) -> pa.Table:
        """Return the distinct input rows, in the order of their ids."""
        ids = self.table.column(ROW_ID).combine_chunks().dictionary_encode()
        first = np.unique(ids.indices.to_numpy(zero_copy_only=False), return_index=True)[1]
        return self.source_inputs(self.table.take(pa.array(np.sort(first))))

    def source_inputs(self, rows: pa.Table) -> pa.Table:
        """Return the input columns of rows under the names they had in the input frame."""
        inputs = [column for column in self.columns if column.role == "input"]
        return rows.select([column.name for column in inputs]).rename_columns(
            [column.source or column.name for column in inputs]
        )

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
    version
        Layout version of the fingerprints.
    """

    table: pa.Table
    columns: tuple[DatasetColumn, ...]
    input_fingerprints: Fingerprints
    content_fingerprints: Fingerprints
    version: int = LAYOUT_VERSION

    @property
    def rows_lock(self) -> bytes:
        """Content of ``rows.lock``."""
        parts = [self.input_fingerprints, self.content_fingerprints]
        if self.version > 1:
            parts.append(fingerprints(self.table, MEASUREMENT_COLUMNS, version=self.version))
        return np.concatenate(parts, axis=1).tobytes()

    @property
    def content_sha256(self) -> str:
        """SHA-256 of the content of all rows, whatever their order."""
        return content_hash(self.content_fingerprints)


def canonicalise(
    inputs: pa.Table, results: pa.Table, scores: Mapping[str, pa.Array], answers: pa.Table | None = None
) -> CanonicalRows:
    """Join inputs, results and scores to one table in canonical order.

    Parameters
    ----------
    inputs
        Input rows.
    results
        Results, whose ``row`` is the position in ``inputs``.
    scores
        Scores of each result, by the scorer's name.
    answers
        What was read from each response: labels or extracted fields.

    Notes
    -----
    Law: the rows and their order depend on their content only, not on the order of the inputs.
    """
    answers = pa.table({}) if answers is None else answers
    answer_names = [*RESPONSE_COLUMNS, *answers.column_names]
    stored_names = _stored_names(inputs.column_names, scores, answers.column_names)
    rows = pa.table({stored_names[name]: _widened(inputs.column(name), name) for name in inputs.column_names})
    row_fingerprints, row = fingerprints(rows), results.column("row").to_numpy()
    content = {name: _widened(results.column(name)) for name in (*REQUEST_COLUMNS, *RESPONSE_COLUMNS)}
    content |= {name: _widened(answers.column(name)) for name in answers.column_names}
    content |= {SCORE_PREFIX + name: _widened(pa.chunked_array([values])) for name, values in scores.items()}
    responses = pa.table(content)
    content_fingerprints = fingerprints(responses, prefix=row_fingerprints[row])
    order = _canonical_order(dense_ranks(row_fingerprints)[row], responses, content_fingerprints)
    row_of, position = pa.array(row[order]), pa.array(order)
    measurements = pa.table({name: _widened(results.column(name)) for name in MEASUREMENT_COLUMNS})
    parts: list[tuple[ColumnRole, pa.Table]] = [
        ("asked", pa.table({ROW_ID: row_ids(row_fingerprints)}).take(row_of)),
        ("input", rows.take(row_of)),
        ("asked", responses.select(list(REQUEST_COLUMNS)).take(position)),
        ("answer", responses.select(answer_names).take(position)),
        ("score", responses.select([SCORE_PREFIX + name for name in scores]).take(position)),
        ("measure", measurements.take(position)),
    ]
    sources = {stored: name for name, stored in stored_names.items() if stored != name}
    columns = tuple(
        DatasetColumn(field.name, role, str(field.type), sources.get(field.name, "") if role == "input" else "")
        for role, part in parts
        for field in part.schema
    )
    table = pa.table({name: part.column(name) for _, part in parts for name in part.column_names})
    return CanonicalRows(table, columns, row_fingerprints[row[order]], content_fingerprints[order])


def recompute_fingerprints(data: Frozen) -> CanonicalRows:
    """Return the rows of a dataset with fingerprints computed from their present values."""
    version = int(data.lock.get("version", LAYOUT_VERSION))
    inputs = fingerprints(data.table, data.names("input"), version=version)
    content = [name for name in data.names("asked", "answer", "score") if name != ROW_ID]
    contents = fingerprints(data.table, content, prefix=inputs, version=version)
    return CanonicalRows(data.table, data.columns, inputs, contents, version)


def _stored_names(names: Sequence[str], scores: Mapping[str, pa.Array], answers: Sequence[str]) -> dict[str, str]:
    """Return the name that each input column is stored with: its own, unless a result column has it."""
    reserved = {ROW_ID, *REQUEST_COLUMNS, *RESPONSE_COLUMNS, *MEASUREMENT_COLUMNS, *answers}
    reserved |= {SCORE_PREFIX + name for name in scores}
    taken = reserved | set(names)
    stored = {}
    for name in names:
        stored[name] = name
        if name in reserved:
            stored[name] = INPUT_PREFIX + name
            while stored[name] in taken:
                stored[name] = INPUT_PREFIX + stored[name]
            taken.add(stored[name])
    return stored


def row_ids(row_fingerprints: Fingerprints) -> pa.Array:
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
    (lambda kind: str(kind) == "date64[ms]", pa.date32()),
    (lambda kind: str(kind) == "time32[s]", pa.time32("ms")),
)
"""Families of Arrow types, and the type that columns of the family are stored with."""
ITEM: Final = "item"
"""Name of the values of lists, which Arrow and Parquet call differently."""


def _widened(column: pa.ChunkedArray, name: str = "") -> Any:
    """Return a column in its stored type (see `stored_type`)."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        storage = [chunk.storage for chunk in column.chunks]
        column, kind = pa.chunked_array(storage, kind.storage_type), kind.storage_type
    if pa.types.is_run_end_encoded(kind):
        column = pc.run_end_decode(column)
    try:
        array = as_array(convert(column, stored_type(column.type)))
        parquet.write_table(pa.table({name: array.slice(0, 0)}), BytesIO())
    except (pa.ArrowException, TypeError, ValueError) as error:
        message = f"the column {name!r} of type {kind} cannot be stored ({error}); convert it to text or drop it"
        raise invalid("result", message) from error
    return array


def convert(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Cast a column; nested types that Arrow cannot cast are converted value by value."""
    if is_same_type(column.type, kind):
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return pa.chunked_array([pa.array(column.to_pylist(), kind)], kind)


def is_same_type(kind: pa.DataType, other: pa.DataType) -> bool:
    """Return whether two types are the same, names of nested fields included, which files store."""
    return bool(kind == other) and str(kind) == str(other)


def as_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):
        return combined.chunk(0) if combined.num_chunks else pa.array([], combined.type)
    return combined


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column of this type is stored with: the widest of its family, inside nested types too.

    Examples
    --------
    >>> str(stored_type(pa.large_list(pa.field("element", pa.int8()))))
    'list<item: int64>'
    """
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return stored_type(kind.storage_type)
    if types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if types.is_struct(kind):
        fields = [kind.field(index) for index in range(kind.num_fields)]
        return pa.struct([pa.field(field.name, stored_type(field.type)) for field in fields])
    if types.is_map(kind):
        return pa.map_(stored_type(kind.key_type), stored_type(kind.item_type))
    if hasattr(kind, "value_field"):
        return pa.list_(pa.field(ITEM, stored_type(kind.value_type)))
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
    columns = tuple(
        DatasetColumn(column["name"], column["role"], column["type"], column.get("source", ""))
        for column in lock["columns"]
    )
    _require_result_columns(folder, columns)
    file = folder / lock["data"]
    table = read_rows_file(file)
    missing = next((column.name for column in columns if column.name not in table.column_names), None)
    if missing is not None:
        raise not_frozen(folder, f"{file.name} has no column {missing!r}")
    try:
        schema = recorded_types(folder, lock)
        restored = {column.name: _restore_type(table.column(column.name), column, schema) for column in columns}
    except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        raise not_frozen(folder, f"the column types of {file.name} differ from {LOCK_FILE}: {error}") from error
    return Frozen(pa.table(restored), lock, columns, _digest(folder))


def _digest(folder: Path) -> str:
    """Return the digest of a folder's manifest; empty without one."""
    try:
        return manifest_digest(read_file(folder / MANIFEST_FILE))
    except OSError:
        return ""


def encode_schema(table: pa.Table) -> str:
    """Return the Arrow types of a table, as base64 of an IPC schema."""
    return base64.b64encode(table.schema.remove_metadata().serialize().to_pybytes()).decode()


def recorded_types(folder: Path, lock: Mapping[str, Any]) -> dict[str, pa.DataType]:
    """Return the Arrow type of each column that a lock records; those of plain types only for layout version 1."""
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(lock.get("schema", ""), validate=True)))
        return {field.name: field.type for field in schema}
    except (pa.ArrowException, ValueError, OSError, TypeError) as error:
        if "schema" not in lock:
            return {}
        raise not_frozen(folder, f"the schema in {LOCK_FILE} is not an Arrow schema ({error})") from error


def _require_result_columns(folder: Path, columns: Sequence[DatasetColumn]) -> None:
    """Raise unless every column of requests, responses and measurements is there, and every score is a number.

    Further answers are labels or extracted fields.
    """
    expected: dict[str, tuple[ColumnRole, str]] = {ROW_ID: ("asked", "string")}
    roles: dict[ColumnRole, Sequence[str]] = {
        "asked": REQUEST_COLUMNS, "answer": RESPONSE_COLUMNS, "measure": MEASUREMENT_COLUMNS,
    }  # fmt: skip
    for role, names in roles.items():
        expected |= {name: (role, str(stored_type(RESULTS.field(name).type))) for name in names}
    found = {
        column.name: (column.role, column.type)
        for column in columns
        if column.role not in {"input", "score"} and (column.role != "answer" or column.name in expected)
    }
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


PLAIN_TYPES: Final[Mapping[str, pa.DataType]] = {str(field.type): field.type for field in RESULTS} | {
    str(kind): kind
    for kind in (
        pa.string(), pa.binary(), pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.null(), pa.date32(),
        pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.float64()),
    )
}  # fmt: skip
"""Arrow types by the name they have in locks of layout version 1, which have no schema."""


def _restore_type(
    column: pa.ChunkedArray, recorded: DatasetColumn, schema: Mapping[str, pa.DataType]
) -> pa.ChunkedArray:
    """Convert a column read from a file to its type in the lock; JSON lines have no bytes, decimals or times."""
    kind = schema.get(recorded.name, PLAIN_TYPES.get(recorded.type))
    if kind is None or is_same_type(kind, column.type):
        return column
    if str(kind) != recorded.type:
        raise ValueError(
            f"{recorded.name!r} has the type {kind} in the schema and {recorded.type} in the list of columns"
        )
    if needs_decoding(kind) and not needs_decoding(column.type):
        return pa.chunked_array([pa.array([from_jsonable(value, kind) for value in column.to_pylist()], kind)], kind)
    return convert(column, kind)


def needs_decoding(kind: pa.DataType) -> bool:
    """Return whether values of a type are written to JSON in another form, or hold such values."""
    types = pa.types
    if types.is_struct(kind):
        return any(needs_decoding(kind.field(index).type) for index in range(kind.num_fields))
    if types.is_map(kind):
        return True
    if hasattr(kind, "value_field"):
        return needs_decoding(kind.value_type)
    is_text_in_json = (types.is_temporal, types.is_decimal, types.is_fixed_size_binary, types.is_binary)
    return any(is_member(kind) for is_member in is_text_in_json)


def from_jsonable(value: Any, kind: pa.DataType) -> Any:  # noqa: PLR0911 - one return a kind
    """Return the value of an Arrow type from its JSON form (see `llmhub.tables.files.to_jsonable`).

    Examples
    --------
    >>> from_jsonable(["1.50", None], pa.list_(pa.decimal128(5, 2)))
    [Decimal('1.50'), None]
    """
    types = pa.types
    if value is None:
        return None
    if isinstance(value, str) and types.is_nested(kind):
        value = msgspec.json.decode(value)  # lists of values of several types are read as their JSON text
    if types.is_struct(kind):
        fields = (kind.field(index) for index in range(kind.num_fields))
        return {field.name: from_jsonable(value.get(field.name), field.type) for field in fields}
    if types.is_map(kind):
        pairs = value.items() if isinstance(value, Mapping) else value
        return [(from_jsonable(key, kind.key_type), from_jsonable(item, kind.item_type)) for key, item in pairs]
    if hasattr(kind, "value_field"):
        return [from_jsonable(item, kind.value_type) for item in value]
    if types.is_fixed_size_binary(kind) or types.is_binary(kind):
        return bytes.fromhex(value)
    if types.is_decimal(kind):
        return Decimal(value)
    if types.is_temporal(kind) and isinstance(value, str):
        return _time_from_text(value, kind)
    return value


def _time_from_text(text: str, kind: pa.DataType) -> Any:
    """Return a date, time, timestamp or duration from its text."""
    types = pa.types
    if types.is_date(kind):
        return date.fromisoformat(text)
    if types.is_time(kind):
        return time.fromisoformat(text)
    if types.is_duration(kind):
        return pd.Timedelta(text)
    moment = pd.Timestamp(text)
    return moment if kind.tz is None or moment.tz is not None else moment.tz_localize(kind.tz)


def encode_json(value: JSON | Mapping[str, Any]) -> bytes:
    """Encode a value as indented JSON with sorted keys, so that equal values have equal bytes."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"
