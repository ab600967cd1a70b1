"""Results in the frames of users: which columns they get, and reading them back from any kind of frame.

Frames lose types on their way: pandas has no decimals, and CSV files have no types at all. So everything that takes
results, plots and scores among it, reads them with `results_table`, which restores the types of `RESULTS`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, Hint, invalid
from llmhub.core.json_schema import extract_json
from llmhub.tables import frames
from llmhub.tables.cost_columns import USD_TYPE, from_nanos
from llmhub.tables.pandas_types import KEY_TYPE
from llmhub.tables.schema import RESULTS, SIMULATED, SIMULATED_USD
from llmhub.tables.structured_outputs import LABEL_FIELD, find_label

ResultColumns: TypeAlias = Literal["compact", "all"] | Sequence[str]
"""Result columns of a frame: the compact ones, all, or the compact ones and further names."""

COMPACT_COLUMNS: Final = (
    "provider",
    "model",
    "response",
    "status",
    "error",
    "cost_usd",
    "latency_s",
    "input_tokens",
    "output_tokens",
    "cache_hit",
)
"""Columns that every frame of results gets."""
REQUESTED_COLUMNS: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    "sample": lambda options: options.get("n", 1) != 1,
    "parsed": lambda options: options.get("schema") is not None or options.get("response_schema") is not None,
    "tool_calls": lambda options: bool(options.get("tools")),
    "ttft_s": lambda options: bool(options.get("stream")),
    "dropped_params": lambda options: options.get("unsupported") == "drop",
}
"""Further columns of a frame, by whether the options of the call ask for what they hold."""
ROW: Final = "row"
"""Position of the input row; a frame has it where an input row has several results."""

MISSING_SHOWN: Final = 5
"""Missing columns that an error names."""


# Results to the columns of a frame


def result_columns(columns: ResultColumns, model: object, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the result columns of a frame, in the order of `RESULTS`, compact ones first.

    Parameters
    ----------
    columns
        ``"compact"``, ``"all"``, or names of columns besides the compact ones.
    model
        The model, or the models, of the call.
    options
        Its options, which may ask for further columns: ``n``, ``schema``, ``tools``, ``stream``, ``unsupported``.

    Raises
    ------
    BadRequestError
        ``columns`` is something else, or names a column that results do not have.

    Examples
    --------
    >>> result_columns(["ttft_s"], ["a/b", "c/d"], {"n": 3})
    ('row', 'sample', 'provider', 'model', 'response', 'status', 'error', ..., 'cache_hit', 'ttft_s')
    """
    if columns == "all":
        return tuple(RESULTS.names)
    further = () if columns == "compact" else (columns,) if isinstance(columns, str) else tuple(columns)
    for name in further:
        if name not in RESULTS.names:
            message = frames.missing_column_message(name, RESULTS.names).replace("the frame", "results")
            raise invalid("columns", f"{message}; pass names of these, 'all' or 'compact'")
    asked = {name for name, is_asked in REQUESTED_COLUMNS.items() if is_asked(options)} | set(further)
    models = () if isinstance(model, str) or not isinstance(model, Iterable) else tuple(model)
    if len(models) > 1 or "sample" in asked:
        asked.add(ROW)
    first = tuple(name for name in (ROW, "sample") if name in asked)
    rest = tuple(name for name in RESULTS.names if name in asked and name not in {*first, *COMPACT_COLUMNS})
    return (*first, *COMPACT_COLUMNS, *rest)


# Frames of users to results


def results_table(frame: Any, prefix: str = "", columns: Iterable[str] | None = None) -> pa.Table:
    """Return the results in a frame as an Arrow table in which the result columns have the types of `RESULTS`.

    Parameters
    ----------
    frame
        Results in any kind of frame, as ``df.llm.complete`` returns them, or as another tool read them from a file.
    prefix
        Prefix of the result columns, which is removed.
    columns
        Names of the columns to return, as far as the frame has them; all if omitted.

    Returns
    -------
    pyarrow.Table
        The columns of the frame in their order. Which of the result columns it has depends on the frame.

    Raises
    ------
    BadRequestError
        ``frame`` is not a frame, or a result column holds something else.

    Examples
    --------
    >>> table = results_table({"status": ["ok"], "cost_usd": [0.00015], "my": [1]})
    >>> table.column("cost_usd").to_pylist(), table.column("status").type
    ([Decimal('0.000150000')], DictionaryType(dictionary<values=string, indices=int32, ordered=0>))
    """
    source = frames.pandas_or_arrow(frame)
    names = frames.column_names(source)
    results = {prefix + name: name for name in RESULTS.names if prefix + name in names}
    wanted = None if columns is None else set(columns)
    found: dict[str, tuple[pa.Field, pa.ChunkedArray]] = {}
    is_marked = False
    for index, name in enumerate(names):
        own_name = results.get(name, name)
        if (wanted is not None and own_name not in wanted) or (name not in results and name in results.values()):
            continue
        field = RESULTS.field(own_name) if name in results else None
        column = _read_column(source, index, field)
        is_marked = is_marked or column.type == SIMULATED_USD
        column = column if field is None else _restored(column, field)
        found[own_name] = ((field or pa.field(name, column.type)).with_type(column.type), column)
    metadata = source.schema.metadata if isinstance(source, pa.Table) else _attrs_metadata(source)
    if is_marked:
        metadata = {**(metadata or {}), SIMULATED: "true"}
    fields = [field for field, _ in found.values()]
    return pa.table([column for _, column in found.values()], schema=pa.schema(fields, metadata=metadata))


def _attrs_metadata(frame: Any) -> dict[str, str]:
    """Return what the ``attrs`` of a pandas frame say of its results, as metadata of a schema."""
    return {SIMULATED: "true"} if frame.attrs.get(SIMULATED) else {}


def require_result_columns(present: Iterable[str], names: Sequence[str], use: str, argument: str = "frame") -> None:
    """Raise unless a frame of results has these columns.

    Parameters
    ----------
    present
        Columns of the frame.
    names
        Columns that are needed.
    use
        What needs them, for the message.
    argument
        Name of the caller's argument.

    Raises
    ------
    BadRequestError
        A column is missing; the message says which ``columns=`` brings it.
    """
    existing = list(present)
    missing = [name for name in names if name not in existing]
    if not missing:
        return
    foreign = next((name for name in missing if name not in RESULTS.names), None)
    if foreign is not None:
        raise invalid(argument, frames.missing_column_message(foreign, existing))
    if missing[0] in COMPACT_COLUMNS:
        message = f"{use} needs results of llmhub, but there is no column {missing[0]!r}"
        prefixed = next((name for name in existing if name.endswith(missing[0])), None)
        if prefixed is not None:
            prefix = prefixed.removesuffix(missing[0])
            raise invalid(argument, f"{message}, only {prefixed!r}", hint=Hint("prefix", prefix, purpose="read those"))
        raise invalid(argument, f"{message}; pass what df.llm.complete or complete_table returned")
    listed = ", ".join(map(repr, missing[:MISSING_SHOWN])) + (" and others" if len(missing) > MISSING_SHOWN else "")
    remedy = "columns='all'" if len(missing) > MISSING_SHOWN else f"columns={missing!r} or columns='all'"
    message = f"{use} needs the column{'s' if len(missing) > 1 else ''} {listed}, which compact results do not have"
    raise invalid(argument, f"{message}; pass {remedy} to df.llm.complete")


def with_rows(table: pa.Table, use: str, argument: str = "frame") -> pa.Table:
    """Return results with the columns ``row`` and ``sample``, which compact results of a single model do not have.

    Raises
    ------
    BadRequestError
        They are results of several models or samples, so that the rows cannot be known.

    Examples
    --------
    >>> with_rows(pa.table({"provider": ["a", "a"], "model": ["m", "m"]}), "wide").column("row").to_pylist()
    [0, 1]
    """
    if "sample" not in table.column_names:
        table = table.append_column(RESULTS.field("sample"), pa.array(np.zeros(len(table), np.int32)))
    if ROW in table.column_names:
        return table
    key = [name for name in ("provider", "model", "sample") if name in table.column_names]
    if len(table.select(key).group_by(key).aggregate([])) > 1:
        message = f"{use} needs the column {ROW!r}, which says which input row each result of several models answers"
        raise invalid(argument, f"{message}; ask all models in one call, model=[...], or pass columns='all' to each")
    return table.append_column(RESULTS.field(ROW), pa.array(np.arange(len(table))))


def complete_results(table: pa.Table, use: str, argument: str = "frame") -> tuple[pa.Table, frozenset[str]]:
    """Return results with all columns of `RESULTS`, null where compact results lack one, and the names of these.

    Raises
    ------
    BadRequestError
        A compact column is missing, or the rows cannot be known.
    """
    require_result_columns(table.column_names, COMPACT_COLUMNS, use, argument)
    table = with_rows(table, use, argument)
    absent = [field for field in RESULTS if field.name not in table.column_names]
    for field in absent:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    return table, frozenset(field.name for field in absent)


def _read_column(source: Any, index: int, field: pa.Field | None) -> pa.ChunkedArray:
    """Return a column of a pandas or Arrow frame; a result column of mixed values as text."""
    try:
        return frames.backend_of(source).arrow_column(source, index)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError) as error:
        name = frames.column_names(source)[index]
        if field is None or not pa.types.is_string(field.type):
            message = f"column {name!r} cannot be read ({error}); convert its values to one type"
            raise invalid("frame", message) from error
        values = frames.column_values(source, name)
        return pa.chunked_array([[None if value is None else str(value) for value in values]], pa.string())


def _restored(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a result column in its type; ``parsed`` may also be a struct."""
    kind = column.type
    if kind == field.type or (field.name == "parsed" and pa.types.is_nested(kind)):
        return column
    if pa.types.is_null(kind):
        return pa.chunked_array([pa.nulls(len(column), field.type)])
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    try:
        return RESTORERS[str(field.type)](column)
    except (pa.ArrowException, ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise invalid("frame", f"column {field.name!r} is not that of results of llmhub: {error}") from error


def _to_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return strings; readers of CSV make numbers and booleans of texts that look so."""
    if pa.types.is_boolean(column.type):
        return pc.if_else(column, "True", "False").cast(pa.string())
    if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        return pa.chunked_array([[None if value is None else str(value) for value in column.to_pylist()]], pa.string())
    return column.cast(pa.string())


def _to_dictionary(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return _to_text(column).dictionary_encode().unify_dictionaries()


def _to_amounts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return exact amounts; those that are floats lie next to a billionth of a dollar."""
    if pa.types.is_decimal(column.type):
        return column.cast(USD_TYPE)
    usd = column.cast(pa.float64()).to_numpy()
    known = np.abs(usd) < 10 ** (USD_TYPE.precision - USD_TYPE.scale)  # False for NaN, too
    nanos = np.rint(np.where(known, usd, 0.0) * 10**USD_TYPE.scale)
    return pa.chunked_array([from_nanos(nanos.astype(np.int64), known)])


def _to_keys(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return request keys, from bytes or hexadecimal text."""
    if not pa.types.is_string(column.type):
        return column.cast(KEY_TYPE)
    # pandas reads a missing key as "" if the first keys are all digits.
    keys = [bytes.fromhex(text) if text else None for text in column.to_pylist()]
    return pa.chunked_array([pa.array(keys, KEY_TYPE)])


def _to_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return times in UTC; those without a time zone are taken for UTC."""
    target = RESULTS.field("started_at").type
    if pa.types.is_string(column.type):
        return column.cast(target)
    if not pa.types.is_timestamp(column.type):
        raise TypeError(f"{column.type} is not a time")
    times = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return times.cast(target) if column.type.tz else pc.assume_timezone(times, "UTC")


def _to_lists(column: pa.ChunkedArray, data_type: pa.DataType) -> pa.ChunkedArray:
    """Return lists, from lists or from text that JSON or Python wrote."""
    values = column.to_pylist()
    if pa.types.is_string(column.type):
        values = [_parse_list(value) for value in values]
    return pa.chunked_array([pa.array(values, data_type)])


def _parse_list(text: str | None) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


RESTORERS: Final[Mapping[str, Callable[[pa.ChunkedArray], pa.ChunkedArray]]] = {
    **{str(kind): partial(_to_lists, data_type=kind) for kind in RESULTS.types if pa.types.is_list(kind)},
    **{str(kind): partial(pc.cast, target_type=kind) for kind in RESULTS.types if pa.types.is_primitive(kind)},
    str(RESULTS.field("model").type): _to_dictionary,
    str(pa.string()): _to_text,
    str(USD_TYPE): _to_amounts,
    str(KEY_TYPE): _to_keys,
    str(RESULTS.field("started_at").type): _to_times,
}
"""How a column of another type becomes one of this type."""


# Answers

HEAD_ROWS: Final = 1000
"""First rows of a frame, in which the columns with the answers are looked for."""
INSPECTED_ANSWERS: Final = 200
"""Answers that are compared with the columns."""


def answer_columns(frame: Any, prefix: str = "", exclude: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the columns with the answers: the label of a classification, the extracted fields, or ``response``.

    Columns are recognized by their values, because no kind of frame says which call made them: they hold what the JSON
    in ``response`` says, in every row that is compared.

    Parameters
    ----------
    frame
        Results in any kind of frame.
    prefix
        Prefix of the result columns.
    exclude
        Columns that do not hold answers, such as the reference answers.

    Returns
    -------
    tuple
        Names of columns; ``response`` without the prefix.

    Examples
    --------
    >>> answer_columns(pa.table({"truth": ["b"], "mood": ["a"], "status": ["ok"], "response": ['{"label": "a"}']}))
    ('mood',)
    """
    native = frames.native_frame(frame)
    head = frames.backend_of(native).take_rows(native, np.arange(min(len(native), HEAD_ROWS)))
    results = results_table(head, prefix, ("response", "status"))
    if results.num_columns < 2:  # noqa: PLR2004 - both columns
        return ("response",)
    is_ok = pc.equal(results.column("status").cast(pa.string()), "ok").fill_null(False)
    answered = pa.array(np.flatnonzero(np.asarray(is_ok))[:INSPECTED_ANSWERS])
    others = {*(prefix + name for name in RESULTS.names), *exclude}
    columns = {
        name: column.take(answered).to_pylist()
        for index, name in enumerate(frames.column_names(head))
        if name not in others and (column := _readable_column(head, index)) is not None
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    inspected = list(zip(results.column("response").take(answered).to_pylist(), rows, strict=bool(columns)))
    return _label_column(list(columns), inspected) or _field_columns(list(columns), inspected) or ("response",)


def _readable_column(frame: Any, index: int) -> pa.ChunkedArray | None:
    """Return a column of a frame; ``None`` if its values have no common type, so that it holds no answers."""
    try:
        return _read_column(frame, index, None)
    except BadRequestError:
        return None


Inspected: TypeAlias = Sequence[tuple[str | None, Mapping[str, Any]]]
"""Responses, each with the values of the columns that may hold its answer."""


def _label_column(names: Sequence[str], rows: Inspected) -> tuple[str, ...]:
    """Return the last column that holds the label of every response; one response at least is JSON, as labels are."""
    if not any(set(_parse_object(text)) == {LABEL_FIELD} for text, _ in rows):
        return ()
    for name in reversed(names):
        labels = list(dict.fromkeys(str(row[name]) for _, row in rows))
        if all(find_label(text or "", labels) == str(row[name]) for text, row in rows):
            return (name,)
    return ()


def _field_columns(names: Sequence[str], rows: Inspected) -> tuple[str, ...]:
    """Return the columns of extracted fields: each is named after a field, with one prefix for all."""
    objects = [_parse_object(text) for text, _ in rows]
    fields = list(dict.fromkeys(key for value in objects for key in value))
    if not fields:
        return ()
    for prefix in (name.removesuffix(fields[0]) for name in names if name.endswith(fields[0])):
        columns = [prefix + field for field in fields]
        if set(columns) <= set(names) and all(
            _holds(row[prefix + field], expected)
            for value, (_, row) in zip(objects, rows, strict=True)
            for field, expected in value.items()
        ):
            return tuple(columns)
    return ()


def _holds(value: Any, expected: Any) -> bool:
    """Return whether a cell holds a JSON value; nested values, which frames change, are taken to be held."""
    return isinstance(expected, (list, dict)) or str(value) == str(expected) or value == expected


def _parse_object(text: str | None) -> Mapping[str, Any]:
    """Return the JSON object of a response; empty if it is something else."""
    body = extract_json(text or "")
    value = None if body is None else json.loads(body)
    return value if isinstance(value, dict) else {}


def accepted_texts(results: pa.Table) -> pa.ChunkedArray:
    """Return the texts of the responses, null for rows that failed, which may have a response nevertheless.

    Examples
    --------
    >>> accepted_texts(pa.table({"status": ["ok", "error"], "response": ["Hi", "rejected"]})).to_pylist()
    ['Hi', None]
    """
    is_ok = pc.equal(results.column("status").cast(pa.string()), "ok")
    return pc.if_else(is_ok, results.column("response"), pa.scalar(None, pa.string()))


def answer_texts(table: pa.Table, columns: Sequence[str]) -> list[str | None]:
    """Return the answers in one column as text, or those in several as JSON objects; ``None`` where there is none.

    A struct with a single field counts as the value of that field.

    Examples
    --------
    >>> table = pa.table({"name": ["Ada", None], "age": [36, None]})
    >>> answer_texts(table, ["age"]), answer_texts(table, ["name", "age"])
    (['36', None], ['{"name": "Ada", "age": 36}', None])
    """
    values = [table.column(name).to_pylist() for name in columns]
    if len(columns) == 1:
        return [None if value is None else _value_text(value) for value in values[0]]
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True))
    return [_value_text(row) if any(value is not None for value in row.values()) else None for row in rows]


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
