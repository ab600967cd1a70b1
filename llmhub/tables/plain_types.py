"""Arrow types that every engine knows, in place of those that some cannot read.

Spark has no binaries of fixed size; Dask cannot shuffle dictionaries, and pandas cannot read them back from Parquet.
Values stay the same.
"""

from __future__ import annotations

import pyarrow as pa


def plain_type(data_type: pa.DataType) -> pa.DataType:
    """Return the plain type of values of a type.

    Examples
    --------
    >>> plain_type(pa.dictionary(pa.int32(), pa.string())), plain_type(pa.list_(pa.binary(32)))
    (DataType(string), ListType(list<item: binary>))
    """
    if pa.types.is_dictionary(data_type):
        return plain_type(data_type.value_type)
    if pa.types.is_fixed_size_binary(data_type):
        return pa.binary()
    if pa.types.is_list(data_type):
        return pa.list_(plain_type(data_type.value_type))
    if pa.types.is_struct(data_type):
        return pa.struct([field.with_type(plain_type(field.type)) for field in data_type])
    return data_type


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with plain types and the same metadata.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> plain_schema(RESULTS).field("status").type, plain_schema(RESULTS).field("request_key").type
    (DataType(string), DataType(binary))
    """
    fields = [field.with_type(plain_type(field.type)) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def to_plain_types(table: pa.Table) -> pa.Table:
    """Return a table whose columns have plain types."""
    return table.cast(plain_schema(table.schema))
