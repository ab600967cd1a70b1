"""Arrow tables as pandas frames with native types, so that every method of pandas works on them.

Exact decimals and binary keys stay in the Arrow table: pandas has a type for neither, and it cannot read Arrow-backed
dictionaries and decimals back from the files that it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.cache.store import KEY_BYTES
from llmhub.core.errors import invalid
from llmhub.core.pricing import NANO_DIGITS
from llmhub.engine.gc_tuning import relaxed_gc
from llmhub.tables.cost_columns import USD_TYPE, to_nanos
from llmhub.tables.schema import SIMULATED, is_simulated

if TYPE_CHECKING:
    import pandas as pd

DtypeBackend: TypeAlias = Literal["numpy_nullable", "pyarrow"]
"""Kinds of types that pandas itself offers in its readers."""
DTYPE_BACKENDS: Final = (None, "numpy_nullable", "pyarrow")
KEY_TYPE: Final = pa.binary(KEY_BYTES)
"""Arrow type of request keys, which pandas gets as hexadecimal text."""
CATEGORY_SUFFIX: Final = "error_type"
"""Name of a string column with few distinct values; a prefix may precede it."""


def check_dtype_backend(dtype_backend: object) -> None:
    """Raise unless ``dtype_backend`` is ``None`` or one that pandas has.

    Raises
    ------
    BadRequestError
        It is another value.
    """
    if dtype_backend not in DTYPE_BACKENDS:
        message = f"{dtype_backend!r} is not a dtype backend; pass 'pyarrow' or 'numpy_nullable', or omit it"
        raise invalid("dtype_backend", message)


def to_pandas(table: pa.Table, dtype_backend: DtypeBackend | None = None) -> pd.DataFrame:
    """Return an Arrow table of results as a pandas DataFrame.

    Parameters
    ----------
    table
        A table, such as `llmhub.complete_table` returns.
    dtype_backend
        ``"pyarrow"`` or ``"numpy_nullable"``, as in the readers of pandas. If omitted, the types that pandas itself
        would choose, with nullable integers.

    Returns
    -------
    pandas.DataFrame
        Categories for columns with few distinct values (``provider``, ``model``, ``status``, ``finish_reason``,
        ``error_type``), floats for amounts, hexadecimal text for request keys, lists and dicts for nested values. Its
        ``attrs`` say ``simulated`` if simulated providers answered.

    Examples
    --------
    >>> import decimal
    >>> frame = to_pandas(pa.table({"cost_usd": [decimal.Decimal("0.10"), None], "row": [0, None]}))
    >>> frame.dtypes.to_dict()
    {'cost_usd': dtype('float64'), 'row': Int64Dtype()}
    """
    import pandas as pd  # noqa: PLC0415 - imported only where pandas is asked for

    check_dtype_backend(dtype_backend)
    convert = ARROW_BACKED if dtype_backend == "pyarrow" else NULLABLE if dtype_backend else NATIVE
    arrays = {index: _to_pandas_array(column, name, convert) for index, (name, column) in enumerate(_items(table))}
    frame = pd.DataFrame(arrays, index=pd.RangeIndex(len(table)), copy=False)
    frame.columns = pd.Index(table.column_names)
    if is_simulated(table.schema):
        frame.attrs[SIMULATED] = True
    return frame


def to_series(column: pa.ChunkedArray, dtype_backend: DtypeBackend | None = None, name: str = "") -> pd.Series[Any]:
    """Return an Arrow column as a pandas Series (see `to_pandas`)."""
    series: pd.Series[Any] = to_pandas(pa.table({name: column}), dtype_backend).iloc[:, 0]
    return series


def _items(table: pa.Table) -> list[tuple[str, pa.ChunkedArray]]:
    return list(zip(table.column_names, table.columns, strict=True))


Converter: TypeAlias = Callable[[pa.ChunkedArray], Any]
"""Function of an Arrow column that returns an array of pandas."""


def _to_pandas_array(column: pa.ChunkedArray, name: str, convert: Mapping[str, Converter]) -> Any:
    kind = column.type
    if kind == KEY_TYPE:
        return convert["string"](hexadecimal(column))
    if pa.types.is_decimal(kind):
        return convert["float"](decimal_floats(column))
    if pa.types.is_string(kind) and name.endswith(CATEGORY_SUFFIX):
        return convert["category"](column.dictionary_encode())
    return convert[_family(kind)](column)


def _family(kind: pa.DataType) -> str:
    return next((name for name, is_member in FAMILIES.items() if is_member(kind)), "other")


FAMILIES: Final[Mapping[str, Callable[[pa.DataType], bool]]] = {
    "category": lambda kind: pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type),
    "string": lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind),
    "integer": pa.types.is_integer,
    "float": pa.types.is_floating,
    "boolean": pa.types.is_boolean,
    "vector": lambda kind: pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type),
    "nested": pa.types.is_nested,
}
"""Families of Arrow types that are converted alike."""


def hexadecimal(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    r"""Return a column of `KEY_TYPE` as hexadecimal text.

    Examples
    --------
    >>> hexadecimal(pa.chunked_array([pa.array([b"\0" * 31 + b"\xff", None], KEY_TYPE)])).to_pylist()[0][-4:]
    '00ff'
    """
    return pa.chunked_array([_hexadecimal(chunk) for chunk in keys.chunks], pa.large_string())


def _hexadecimal(keys: pa.FixedSizeBinaryArray) -> pa.Array:
    rows, digits = len(keys), 2 * KEY_BYTES
    values = np.frombuffer(keys.buffers()[1] or b"", np.uint8)[
        keys.offset * KEY_BYTES : (keys.offset + rows) * KEY_BYTES
    ]
    text = pa.py_buffer(values.tobytes().hex().encode())
    offsets = pa.py_buffer(np.arange(0, digits * (rows + 1), digits, dtype=np.int64))
    valid = None if not keys.null_count else pa.py_buffer(np.packbits(keys.is_valid(), bitorder="little"))
    return pa.Array.from_buffers(pa.large_string(), rows, [valid, offsets, text])


def decimal_floats(amounts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a decimal column as the nearest floats.

    Examples
    --------
    >>> from decimal import Decimal
    >>> decimal_floats(pa.chunked_array([pa.array([Decimal("0.000058500"), None], USD_TYPE)])).to_pylist()
    [5.85e-05, None]
    """
    if amounts.type != USD_TYPE:
        return amounts.cast(pa.float64())
    # Arrow multiplies by the inexact 1e-9, which is off in the last digit; a quotient of two integers is rounded once.
    values = to_nanos(amounts) / 10**NANO_DIGITS
    return pa.chunked_array([pa.array(values, mask=amounts.is_null().to_numpy())], pa.float64())


# Converters


def _categorical(column: pa.ChunkedArray) -> Any:
    """Return categories of the type that pandas gives to strings, even if there are none."""
    import pandas as pd  # noqa: PLC0415 - see to_pandas

    encoded = column.unify_dictionaries().combine_chunks()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    array = chunks[0] if chunks else pa.array([], column.type)
    if array.dictionary.null_count or len(array.dictionary.unique()) < len(array.dictionary):
        return column.to_pandas().array
    codes = np.asarray(array.indices.fill_null(-1).to_numpy(zero_copy_only=False))
    categories = pd.Index(_string_array(pa.chunked_array([array.dictionary.cast(pa.string())])))
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories), validate=False)


def _as_pandas_would(column: pa.ChunkedArray) -> Any:
    return column.to_pandas().array


def _string_array(column: pa.ChunkedArray) -> Any:
    """Return the strings in the type that pandas gives to strings: ``str``, or objects before pandas 3."""
    import pandas as pd  # noqa: PLC0415 - see to_pandas

    native: Any = pd.Series(["text"]).dtype
    return _object_array(column.to_pylist()) if native is np.dtype(object) else native.__from_arrow__(column)


def _nested(column: pa.ChunkedArray) -> Any:
    """Return lists and structures as Python has them. Most rows of results have none, or an empty list."""
    if column.null_count == len(column):
        return np.full(len(column), None, object)
    if not pa.types.is_list(column.type):
        return column.to_pylist()
    with relaxed_gc(len(column)):  # a million lists are no garbage
        return _lists(column)


def _lists(column: pa.ChunkedArray) -> Any:
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy()
    values = np.full(len(column), None, object)
    values[lengths == 0] = _objects([[] for _ in range(int((lengths == 0).sum()))])
    values[lengths > 0] = _objects(column.filter(pa.array(lengths > 0)).to_pylist())
    return values


def _objects(values: Sequence[Any]) -> Any:
    """Return an array of one dimension, whatever its values are."""
    return np.fromiter(values, object, len(values))


def _object_array(values: Any) -> Any:
    import pandas as pd  # noqa: PLC0415 - see to_pandas

    return pd.Series(values, dtype=object).array


def _vectors(column: pa.ChunkedArray) -> list[Any]:
    """Return vectors as arrays that share one matrix."""
    from llmhub.tables.vectors import rows_of  # noqa: PLC0415 - it reads frames, which convert types here

    return rows_of(column)


def _with_dtype(name: str) -> Converter:
    """Return a converter to one dtype of pandas."""

    def convert(column: pa.ChunkedArray) -> Any:
        import pandas as pd  # noqa: PLC0415 - see to_pandas

        dtype: Any = pd.api.types.pandas_dtype(name)
        return dtype.__from_arrow__(column)

    return convert


def _integer_array(column: pa.ChunkedArray) -> Any:
    return _with_dtype(str(column.type).replace("int", "Int").replace("u", "U"))(column)


def _float_array(column: pa.ChunkedArray) -> Any:
    return column.to_numpy()


def _arrow_array(column: pa.ChunkedArray) -> Any:
    import pandas as pd  # noqa: PLC0415 - see to_pandas

    extension: Any = pd.arrays.ArrowExtensionArray(column)
    return extension


def _decoded_arrow_array(column: pa.ChunkedArray) -> Any:
    """Decode dictionaries: pandas cannot sort them, nor read their type back from a file."""
    return _arrow_array(column.cast(pa.string()))


NATIVE: Final[Mapping[str, Converter]] = {
    "category": _categorical,
    "string": _string_array,
    "integer": _integer_array,
    "float": _float_array,
    "boolean": _with_dtype("boolean"),
    "vector": lambda column: _object_array(_vectors(column)),
    "nested": lambda column: _object_array(_nested(column)),
    "other": _as_pandas_would,
}
NULLABLE: Final[Mapping[str, Converter]] = {**NATIVE, "string": _with_dtype("string"), "float": _with_dtype("Float64")}
ARROW_BACKED: Final[Mapping[str, Converter]] = {
    **dict.fromkeys((*FAMILIES, "other"), _arrow_array),
    "category": _decoded_arrow_array,
}
