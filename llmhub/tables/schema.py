"""The Arrow schema of results, the same for every run.

Units and descriptions are in the field metadata; the schema metadata holds the schema version and the run id.
Both are written into users' files: a change of any of them, descriptions included, requires a new `SCHEMA_VERSION`.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = "1"
MICROSECONDS_PER_S: Final = 1_000_000
"""Ticks per second of the timestamp columns."""

_DICTIONARY: Final = pa.dictionary(pa.int32(), pa.string())
_TOOL_CALLS: Final = pa.list_(
    pa.struct([pa.field("id", pa.string()), pa.field("name", pa.string()), pa.field("arguments", pa.string())])
)
_USD: Final = pa.decimal128(18, 9)

SIMULATED: Final = "simulated"
"""Key of the schema metadata, and of ``attrs`` of pandas frames, that marks results of simulated providers."""


def _field(name: str, data_type: pa.DataType, description: str, unit: str = "") -> pa.Field:
    metadata = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, data_type, metadata=metadata)


RESULTS: Final[pa.Schema] = pa.schema(
    [
        _field("row", pa.int64(), "position of the input row"),
        _field("sample", pa.int32(), "which of n answers, from 0"),
        _field("provider", _DICTIONARY, "provider asked"),
        _field("model", _DICTIONARY, "model asked"),
        _field("served_model", pa.string(), "model as the provider answered"),
        _field("status", _DICTIONARY, "ok, error, skipped, budget or cancelled"),
        _field("response", pa.string(), "the answer's text"),
        _field("parsed", pa.string(), "structured output as JSON text"),
        _field("tool_calls", _TOOL_CALLS, "tools the model wants called"),
        _field("finish_reason", _DICTIONARY, "stop, length, tool_calls, content_filter, refusal or other"),
        _field("error_type", pa.string(), "kind of failure, null when ok"),
        _field("error", pa.string(), "redacted message, null when ok"),
        _field("input_tokens", pa.int64(), "includes what was cached", "tokens"),
        _field("output_tokens", pa.int64(), "includes reasoning", "tokens"),
        _field("cached_input_tokens", pa.int64(), "read from the provider's cache", "tokens"),
        _field("cache_write_tokens", pa.int64(), "written to the provider's cache", "tokens"),
        _field("reasoning_tokens", pa.int64(), "spent on reasoning", "tokens"),
        _field("cost_usd", _USD, "paid by this call now; null when the price is unknown", "USD"),
        _field("list_cost_usd", _USD, "worth of the call without our cache", "USD"),
        _field("latency_s", pa.float64(), "provider time of the last attempt", "s"),
        _field("ttft_s", pa.float64(), "to the first content or reasoning token; null when not streamed", "s"),
        _field("queue_s", pa.float64(), "waiting for a place among those in flight", "s"),
        _field("rate_wait_s", pa.float64(), "waiting for a rate limit", "s"),
        _field("total_s", pa.float64(), "from being taken up to being answered", "s"),
        _field("attempts", pa.int16(), "requests sent for this row"),
        _field("cache_hit", pa.bool_(), "answered without a call of its own"),
        _field("dropped_params", pa.list_(pa.string()), "what this provider could not be told"),
        _field("request_key", pa.binary(32), "SHA-256 of canonical request, endpoint and mapping version"),
        _field("request_id", pa.string(), "the provider's id of the call"),
        _field("price_id", pa.string(), "price table entry and date"),
        _field("started_at", pa.timestamp("us", tz="UTC"), "when the call was first sent"),
    ],
    metadata={"schema_version": SCHEMA_VERSION},
)
"""Long form: one row per input row, model and sample, in input order."""


MODE_FIELD: Final[pa.Field] = _field("mode", _DICTIONARY, "live or batch, null where nothing was sent")
"""The column that results of runs with batches have beside those of `RESULTS`."""


SIMULATED_USD: Final = pa.decimal128(20, 9)
"""Type of the amounts in frames without metadata (polars, DuckDB) that marks results of simulated providers.

It holds the same amounts as the type of `RESULTS`, and survives filters, joins and Parquet files.
"""


def mark_amounts(table: pa.Table) -> pa.Table:
    """Return results with `SIMULATED_USD` as the type of amounts, if they are of simulated providers.

    Examples
    --------
    >>> table = schema_for_run("r1", simulated=True).empty_table()
    >>> mark_amounts(table).schema.field("cost_usd").type
    Decimal128Type(decimal128(20, 9))
    """
    if not is_simulated(table.schema):
        return table
    usd = RESULTS.field("cost_usd").type
    fields = [field.with_type(SIMULATED_USD) if field.type == usd else field for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def schema_for_run(run_id: str, *, simulated: bool = False) -> pa.Schema:
    """Return `RESULTS` with the run id in the schema metadata, and whether the run was of simulated providers.

    Examples
    --------
    >>> schema_for_run("r1").metadata[b"run_id"]
    b'r1'
    """
    mark = {SIMULATED: "true"} if simulated else {}
    return RESULTS.with_metadata({"schema_version": SCHEMA_VERSION, "run_id": run_id, **mark})


def is_simulated(schema: pa.Schema) -> bool:
    """Return whether a table of results holds responses of simulated providers.

    Examples
    --------
    >>> is_simulated(schema_for_run("r1", simulated=True)), is_simulated(RESULTS)
    (True, False)
    """
    return bool((schema.metadata or {}).get(SIMULATED.encode()) == b"true")
