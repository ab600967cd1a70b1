"""SQL functions that send prompts, registered on a DuckDB connection.

DuckDB calls a Python function for every vector of 2,048 rows, in threads of its own. Each call is a run over these
rows: equal prompts are sent once, and the cache answers those sent before. The functions are volatile, so that
``EXPLAIN`` sends nothing, and macros around them give the model a default.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Unpack

import pyarrow as pa

from llmhub import api
from llmhub.api import EmbeddingOptions, RowOptions
from llmhub.api.options import as_shared_budget
from llmhub.api.signatures import shows_options
from llmhub.core.errors import invalid
from llmhub.hub import Hub
from llmhub.notebook import token_counts
from llmhub.tables.pandas_types import decimal_floats
from llmhub.tables.result_frames import COMPACT_COLUMNS, accepted_texts
from llmhub.tables.schema import RESULTS
from llmhub.tables.structured_outputs import extract_labels, parse_labels, with_label_options

if TYPE_CHECKING:
    import duckdb

TEXT: Final = "VARCHAR"
SQL_TYPES: Final = {"string": TEXT, "double": "DOUBLE", "int64": "BIGINT", "bool": "BOOLEAN"}
"""SQL types by Arrow type."""
MAX_RECENT_VECTORS: Final = 16
"""Vectors of structs that are kept until all their fields are read."""
RECENT_S: Final = 1.0
"""How long they are kept: a query that is repeated sends failed calls again."""


def _sql_field(name: str) -> pa.Field:
    """Return a compact column as a field of a type that SQL has: text for dictionaries, floats for amounts."""
    kind = RESULTS.field(name).type
    plain = pa.string() if pa.types.is_dictionary(kind) else pa.float64() if pa.types.is_decimal(kind) else kind
    return pa.field(name, plain)


RESULT_TYPE: Final = pa.struct([_sql_field(name) for name in COMPACT_COLUMNS])
"""Type of a whole result: the compact columns."""


@shows_options(RowOptions)
def duckdb_functions(
    con: duckdb.DuckDBPyConnection | None = None,
    *,
    model: str | None = None,
    hub: Hub | None = None,
    **options: Unpack[RowOptions],
) -> duckdb.DuckDBPyConnection:
    """Register SQL functions that send prompts on a DuckDB connection.

    ``llm_complete(prompt)`` returns the response, ``llm_classify(prompt, labels)`` one of a list of labels,
    ``llm_extract(prompt, schema)`` the fields of a JSON schema as JSON text, ``llm_result(prompt)`` a struct with
    response, status, error, cost, latency and tokens, ``llm_embed(text)`` a vector (``FLOAT[]``; cast it to
    ``FLOAT[1536]`` for functions of arrays), and ``llm_count_tokens(text)`` a number of tokens. All take
    ``model := '...'``, and the first four ``system := '...'``. NULL gives NULL, as does a call that failed.

    Parameters
    ----------
    con
        The connection; DuckDB's default connection if omitted.
    model
        ``provider/model`` of calls that name none.
    hub
        The hub to use; the default hub if omitted.

    Returns
    -------
    duckdb.DuckDBPyConnection
        The connection.

    Raises
    ------
    BadRequestError
        An option is wrong, the hub does not know the model, or DuckDB is not installed.

    Examples
    --------
    >>> import duckdb
    >>> con = llmhub.duckdb_functions(duckdb.connect(), model="openai/gpt-4o-mini")       # doctest: +SKIP
    >>> con.sql("SELECT llm_complete('Summarise: ' || text) FROM articles").fetchall()    # doctest: +SKIP
    """
    con = con or _default_connection()
    hub = hub or api.current_hub()
    given: dict[str, Any] = {"progress": False, **options, "hub": hub}
    for name in ("n", "schema", "messages", "images"):
        if name in options:
            raise invalid(name, "cannot be set for SQL functions, which return one response to one text; omit it")
    if given.get("budget_usd") is not None:
        given["budget_usd"] = as_shared_budget(given["budget_usd"])  # of all vectors together
    if model is not None:
        _validate(model, given)
    for function in _functions(given):
        _register(con, function, model)
    return con


def _default_connection() -> duckdb.DuckDBPyConnection:
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise invalid("con", "duckdb is not installed; run pip install 'llmhub[duckdb]'") from error
    return duckdb.default_connection()


def _validate(model: str, options: Mapping[str, Any]) -> None:
    """Raise if a call with these options would be rejected, by a run over no rows."""
    api.complete_table({"prompt": pa.array([], pa.string())}, "{prompt}", model=model, **options)


class RecentVectors:
    """Structs of the latest vectors by their arguments.

    DuckDB evaluates ``unnest(f(text))`` once for each field, which must not send each prompt as often.

    Parameters
    ----------
    fields
        Number of fields of a struct, which is how often it is returned.
    """

    def __init__(self, fields: int) -> None:
        self._fields = fields
        self._recent: dict[bytes, tuple[pa.Array, int, float]] = {}
        self._lock = threading.Lock()

    def evaluate(self, columns: Sequence[pa.ChunkedArray], compute: Callable[[], pa.Array]) -> pa.Array:
        """Return the structs for the arguments of a vector: those of a moment ago, or those that are computed now."""
        text = repr([column.to_pylist() for column in columns])
        key = blake2b(text.encode(errors="surrogatepass")).digest()
        with self._lock:
            values, uses_left, used_at = self._recent.pop(key, (None, 0, 0.0))
        if time.monotonic() - used_at > RECENT_S:
            values = None
        if values is None:
            values, uses_left = compute(), self._fields
        with self._lock:
            if uses_left > 1:
                self._recent[key] = (values, uses_left - 1, time.monotonic())
            while len(self._recent) > MAX_RECENT_VECTORS:
                self._recent.pop(next(iter(self._recent)))
        return values


@dataclass(frozen=True, slots=True)
class _SqlFunction:
    """A SQL function.

    Parameters
    ----------
    name, parameters
        Name without prefix, and the parameters with their SQL types; ``model`` and ``system`` follow them.
    returns, arrow_type
        SQL type and Arrow type of the values.
    call
        ``call(texts, *others)``: the values for texts that have the other arguments in common.
    has_system
        Whether the function takes ``system``.
    recent
        Structs of the latest vectors; ``None`` for other values.
    """

    name: str
    parameters: Mapping[str, str]
    returns: str
    arrow_type: pa.DataType
    call: Callable[..., list[Any]]
    has_system: bool = True
    recent: RecentVectors | None = None

    @property
    def settings(self) -> tuple[str, ...]:
        """Parameters that a call may omit."""
        return ("model", "system") if self.has_system else ("model",)

    def evaluate(self, *columns: pa.ChunkedArray) -> pa.Array:
        """Return the value for each row of a vector: one run for all rows that differ in their text only."""
        if self.recent is None:
            return self._evaluate(columns)
        return self.recent.evaluate(columns, partial(self._evaluate, columns))

    def _evaluate(self, columns: Sequence[pa.ChunkedArray]) -> pa.Array:
        texts, *others = (column.to_pylist() for column in columns)
        groups: dict[str, list[int]] = {}
        for row, arguments in enumerate(zip(*others, strict=True)):
            groups.setdefault(repr(arguments), []).append(row)
        values: list[Any] = [None] * len(texts)
        for rows in groups.values():
            answers = self.call([texts[row] for row in rows], *(other[rows[0]] for other in others))
            for row, answer in zip(rows, answers, strict=True):
                values[row] = answer
        return pa.array(values, self.arrow_type)


def _functions(options: Mapping[str, Any]) -> list[_SqlFunction]:
    """Return the SQL functions, with the options of their calls."""

    def run(texts: Sequence[str | None], model: str | None, system: str | None, **more: Any) -> pa.Table:
        if model is None:
            raise invalid("model", "the call names no model; pass model := 'provider/model'")
        given = {**options, **more, **({"system": system} if system is not None else {})}
        return api.complete_series(pa.array(texts, pa.string()), "", model=model, **given)

    def complete(texts: Sequence[str | None], model: str | None, system: str | None) -> list[Any]:
        return _values(accepted_texts(run(texts, model, system)))

    def result(texts: Sequence[str | None], model: str | None, system: str | None) -> list[Any]:
        table = run(texts, model, system).select(COMPACT_COLUMNS)
        index = table.column_names.index("cost_usd")
        plain: list[Any] = table.set_column(index, "cost_usd", decimal_floats(table.column("cost_usd"))).to_pylist()
        return plain

    def classify(
        texts: Sequence[str | None], labels: Sequence[str], model: str | None, system: str | None
    ) -> list[Any]:
        known = parse_labels(labels)
        own = options if system is None else {**options, "system": system}
        prepared = with_label_options(known, labels, dict(own), template=False)
        more = {name: prepared[name] for name in ("response_schema", "schema_or_words")}
        return _values(extract_labels(run(texts, model, prepared["system"], **more), known)[1])

    def extract(texts: Sequence[str | None], schema: str, model: str | None, system: str | None) -> list[Any]:
        table = run(texts, model, system, schema=_parse_schema(schema))
        return [None if value is None else json.dumps(value) for value in table.column("parsed").to_pylist()]

    def count_tokens(texts: Sequence[str | None], model: str | None) -> list[Any]:
        if model is None:
            raise invalid("model", "the call names no model; pass model := 'provider/model'")
        return _values(token_counts.count_tokens_table(texts, model, {}).column("tokens"))

    return [
        _SqlFunction("complete", {"prompt": TEXT}, TEXT, pa.string(), complete),
        _SqlFunction(
            "result",
            {"prompt": TEXT},
            _sql_struct(),
            RESULT_TYPE,
            result,
            recent=RecentVectors(RESULT_TYPE.num_fields),
        ),
        _SqlFunction("classify", {"prompt": TEXT, "labels": f"{TEXT}[]"}, TEXT, pa.string(), classify),
        _SqlFunction("extract", {"prompt": TEXT, "schema": TEXT}, TEXT, pa.string(), extract),
        _SqlFunction(
            "embed", {"text": TEXT}, "FLOAT[]", pa.list_(pa.float32()), partial(_embed, options), has_system=False
        ),
        _SqlFunction("count_tokens", {"text": TEXT}, "BIGINT", pa.int64(), count_tokens, has_system=False),
    ]


def _embed(options: Mapping[str, Any], texts: Sequence[str | None], model: str | None) -> list[Any]:
    """Return the vector of each text."""
    if model is None:
        raise invalid("model", "the call names no model; pass model := 'provider/model'")
    given = {name: value for name, value in options.items() if name in EmbeddingOptions.__annotations__}
    table = api.embed_series(pa.array(texts, pa.string()), model=model, hub=options["hub"], **given)
    return _values(table.column("embedding"))


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return values


def _parse_schema(text: str) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise invalid("schema", f"{text!r:.80} is not a JSON schema: {error}") from error


def _sql_struct() -> str:
    fields = ", ".join(f"{each.name} {SQL_TYPES[str(each.type)]}" for each in RESULT_TYPE)
    return f"STRUCT({fields})"


def _register(con: duckdb.DuckDBPyConnection, function: _SqlFunction, model: str | None) -> None:
    """Register a function, and the macro that calls it with defaults; earlier ones of the same name are replaced."""
    import duckdb  # noqa: PLC0415 - an extra

    raw_name = f"_llmhub_{function.name}"
    with contextlib.suppress(duckdb.Error):
        con.remove_function(raw_name)
    types: list[Any] = [*function.parameters.values(), *(TEXT for _ in function.settings)]
    options: dict[str, Any] = {"type": "arrow", "null_handling": "special", "side_effects": True}
    names = [*function.parameters, *function.settings]
    con.create_function(raw_name, with_parameters(function.evaluate, names), types, function.returns, **options)
    default = "" if model is None else " := " + _quote(model)
    settings = [f"model{default}", *(["system := NULL"] if function.has_system else [])]
    parameters = ", ".join([*function.parameters, *settings])
    con.execute(f"CREATE OR REPLACE TEMP MACRO llm_{function.name}({parameters}) AS {raw_name}({', '.join(names)})")


def with_parameters(evaluate: Callable[..., pa.Array], names: Sequence[str]) -> Callable[..., pa.Array]:
    """Return a function whose signature has these parameters, since DuckDB counts them there."""

    def call(*columns: pa.ChunkedArray) -> pa.Array:
        return evaluate(*columns)

    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name in names]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # read by inspect
    return call


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
