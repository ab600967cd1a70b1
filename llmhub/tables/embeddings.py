"""Embeddings of rows: texts to a plan of distinct ones, and their vectors to one Arrow table.

Costs are exact: those of the rows of a request add up to what the request cost. The column of vectors is one buffer,
without a copy for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.core.cache_key import embedding_keyer
from llmhub.core.embedding import BYTES_PER_NUMBER, EmbeddingResponse, EmbedOptions, share_out
from llmhub.core.errors import InvalidRequest, Malformed, error_type_name, invalid
from llmhub.core.pricing import Price, compute_cost_nano_usd
from llmhub.engine.call import Answer, Target
from llmhub.engine.embedding import EmbedResult
from llmhub.providers.batch_prices import batch_price
from llmhub.providers.prices import find_served_price
from llmhub.tables import frames
from llmhub.tables.cost_columns import from_nanos, mark_uncertain_costs
from llmhub.tables.outcome_columns import status_of
from llmhub.tables.schema import MICROSECONDS_PER_S, MODE_FIELD, RESULTS, SIMULATED

EMBEDDING: Final = "embedding"
"""Name of the column of vectors."""
COLUMNS: Final = (
    "row",
    "provider",
    "model",
    "served_model",
    "status",
    EMBEDDING,
    "error_type",
    "error",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "list_cost_usd",
    "latency_s",
    "rate_wait_s",
    "total_s",
    "attempts",
    "cache_hit",
    "request_key",
    "request_id",
    "price_id",
    "started_at",
)
"""Columns of a table of embeddings: those of `RESULTS` that are not of completions alone, and the vectors."""
COMPACT: Final = (EMBEDDING, "status", "error", "cost_usd", "input_tokens", "cache_hit")
"""Columns that every frame gets."""

EmbeddingColumns: TypeAlias = Literal["compact", "all"] | Sequence[str]
"""Result columns of a frame: the compact ones, all, or the compact ones and further names."""
FloatMatrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float32]]"


def embedding_columns(columns: EmbeddingColumns) -> tuple[str, ...]:
    """Return the names of the result columns of a frame, compact ones first.

    Raises
    ------
    BadRequestError
        ``columns`` names a column that embeddings do not have.

    Examples
    --------
    >>> embedding_columns(["price_id"])
    ('embedding', 'status', 'error', 'cost_usd', 'input_tokens', 'cache_hit', 'price_id')
    """
    if columns == "all":
        return COLUMNS
    further = () if columns == "compact" else (columns,) if isinstance(columns, str) else tuple(columns)
    for name in further:
        if name not in COLUMNS:
            message = frames.missing_column_message(name, COLUMNS).replace("the frame", "embeddings")
            raise invalid("columns", f"{message}; pass names of these, 'all' or 'compact'")
    return (*COMPACT, *(name for name in COLUMNS if name in further and name not in COMPACT))


@dataclass(frozen=True, slots=True)
class TextBatch:
    """The texts of the rows of a run, and which of them are to be sent.

    Parameters
    ----------
    texts, keys
        Distinct texts that can be sent, and their cache keys.
    index
        By row: the index of its text; -1 for a row without one.
    rows_of
        Rows of each text.
    errors
        Errors of rows whose text cannot be sent.
    """

    texts: Sequence[str]
    keys: Sequence[bytes]
    index: np.ndarray[Any, np.dtype[np.int64]]
    rows_of: Sequence[Sequence[int]]
    errors: dict[int, InvalidRequest]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.index)


def text_batch(rows: Sequence[str | None], target: Target, options: EmbedOptions) -> TextBatch:
    """Return the distinct texts of ``rows``; rows without a text are skipped.

    Examples
    --------
    >>> from llmhub.core.provider import Endpoint
    >>> from llmhub.providers.registry import PROVIDERS
    >>> target = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")
    >>> batch = text_batch(["a", None, "b", "a", ""], target, EmbedOptions())
    >>> batch.texts, batch.index.tolist(), batch.rows_of, list(batch.errors)
    (['a', 'b'], [0, -1, 1, 0, -1], [[0, 3], [2]], [4])
    """
    positions: dict[str, int] = {}
    rows_of: list[list[int]] = []
    errors: dict[int, InvalidRequest] = {}
    index = np.full(len(rows), -1, np.int64)
    for row, text in enumerate(rows):
        if text is None:
            continue
        position = positions.get(text)
        if position is None:
            error = _text_error(text)
            if error is not None:
                errors[row] = error
                continue
            position = positions[text] = len(rows_of)
            rows_of.append([])
        rows_of[position].append(row)
        index[row] = position
    texts = list(positions)
    keys = embedding_keyer(target.provider, target.endpoint, target.model, options)(texts)
    return TextBatch(texts, keys, index, rows_of, errors)


def _text_error(text: str) -> InvalidRequest | None:
    """Return why a text has no embedding; providers refuse a whole request for one such text."""
    if not text or text.isspace():
        return InvalidRequest(path="text", message="the text is empty")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return InvalidRequest(path="text", message="half of a surrogate pair, which is no text")
    return None


# Results


def embeddings_schema(dimensions: int, run_id: str, *, simulated: bool = False, with_mode: bool = False) -> pa.Schema:
    """Return the schema of a table of embeddings; ``with_mode`` with the column of how each row was sent.

    Examples
    --------
    >>> embeddings_schema(3, "r1").field("embedding").type
    FixedSizeListType(fixed_size_list<item: float>[3])
    """
    vector = pa.field(
        EMBEDDING, pa.list_(pa.float32(), dimensions), metadata={"description": "vector of the text, null unless ok"}
    )
    fields = [vector if name == EMBEDDING else RESULTS.field(name) for name in COLUMNS]
    fields += [MODE_FIELD] if with_mode else []
    mark = {SIMULATED: "true"} if simulated else {}
    version = (RESULTS.metadata or {})[b"schema_version"]
    return pa.schema(fields, metadata={"schema_version": version, "run_id": run_id, **mark})


def build_embeddings(
    batch: TextBatch,
    target: Target,
    options: EmbedOptions,
    result: EmbedResult,
    run_id: str,
    priced_at: float,
    on_problem: Callable[[str], None],
    *,
    with_mode: bool = False,
) -> pa.Table:
    """Return the table of a run of embeddings, one row for each row of the input.

    Parameters
    ----------
    priced_at
        Time for which prices are looked up (epoch seconds).
    on_problem
        Called with a message if costs are unknown because they could not be computed.
    with_mode
        Adds the column of how each row was sent.
    """
    answers = [outcome for outcome in result.run.outcomes if isinstance(outcome, Answer)]
    dimensions = _dimensions(answers, options)
    answers = [_with_length(answer, dimensions) for answer in answers]
    found = [_response(answer) for answer in answers]
    first_rows = {rows[0] for rows in batch.rows_of}
    rows = [_row(batch, answers, row, is_first=row in first_rows) for row in range(len(batch))]
    responses = [None if position < 0 else found[position] for position in batch.index.tolist()]
    errors = [None if answer is None or is_successful(answer.outcome) else answer.outcome.failure() for answer in rows]
    calls = [answer or Answer(Failure(InvalidRequest())) for answer in rows]
    is_hit = np.array([answer is not None and answer.cache_hit for answer in rows], np.bool_)
    started = [round(call.started_at * MICROSECONDS_PER_S) if call.started_at else None for call in calls]
    columns: dict[str, Any] = {
        "row": np.arange(len(batch)),
        "provider": [target.provider.name] * len(batch),
        "model": [target.model] * len(batch),
        "served_model": [response.served_model or None if response is not None else None for response in responses],
        "status": [
            "skipped" if answer is None else status_of(error) for answer, error in zip(rows, errors, strict=True)
        ],
        EMBEDDING: _vectors(batch, found, dimensions),
        "error_type": [None if error is None else error_type_name(error) for error in errors],
        "error": [None if error is None else error.message for error in errors],
        "input_tokens": [response.usage.input_tokens if response is not None else None for response in responses],
        "output_tokens": [response.usage.output_tokens if response is not None else None for response in responses],
        "latency_s": [call.latency_s for call in calls],
        "rate_wait_s": [call.rate_wait_s for call in calls],
        "total_s": [call.total_s for call in calls],
        "attempts": [call.attempts for call in calls],
        "cache_hit": pa.array(is_hit),
        "request_key": [batch.keys[position] if position >= 0 else None for position in batch.index.tolist()],
        "request_id": [response.request_id or None if response is not None else None for response in responses],
        "started_at": started,
        **_costs(batch, target, found, result, is_hit, priced_at, on_problem),
    }
    uncertain_requests = {row: call.uncertain_requests for row, call in enumerate(calls) if call.uncertain_requests}
    columns["price_id"] = mark_uncertain_costs(columns["price_id"], uncertain_requests)
    if with_mode:
        columns[MODE_FIELD.name] = [call.mode if call.attempts else None for call in calls]
    schema = embeddings_schema(dimensions, run_id, simulated=target.endpoint.simulated, with_mode=with_mode)
    arrays = [
        column if isinstance(column, pa.Array) and column.type == field.type else _to_array(column, field.type)
        for field, column in ((field, columns[field.name]) for field in schema)
    ]
    return pa.table(arrays, schema=schema)


def _to_array(values: Any, data_type: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(data_type):
        return pa.array(values, pa.string()).dictionary_encode()
    return values.cast(data_type) if isinstance(values, pa.Array) else pa.array(values, data_type)


def _dimensions(answers: Sequence[Answer], options: EmbedOptions) -> int:
    """Return the length of the vectors: that of most, or the one asked for if there are none."""
    lengths = [response.dimensions for answer in answers if (response := _response(answer)) is not None]
    return max(set(lengths), key=lengths.count) if lengths else options.dimensions or 0


def _with_length(answer: Answer, dimensions: int) -> Answer:
    """Return the answer, or an error if its vector is not of the length that the others have."""
    response = _response(answer)
    if response is None or response.dimensions == dimensions:
        return answer
    message = f"a vector of {response.dimensions} dimensions, while the others have {dimensions}"
    return Answer(Failure(Malformed(path="$", message=message)), attempts=answer.attempts, started_at=answer.started_at)


def _row(batch: TextBatch, answers: Sequence[Answer], row: int, *, is_first: bool) -> Answer | None:
    """Return the answer of a row; ``None`` if it was skipped. A text that another row sent counts as a cache hit."""
    if row in batch.errors:
        return Answer(Failure(batch.errors[row]))
    position = int(batch.index[row])
    if position < 0:
        return None
    answer = answers[position]
    if is_first:
        return answer
    return Answer(
        answer.outcome,
        latency_s=answer.latency_s,
        started_at=answer.started_at,
        cache_hit=is_successful(answer.outcome),
    )


def _response(answer: Answer | None) -> EmbeddingResponse | None:
    if answer is None or not is_successful(answer.outcome):
        return None
    response = answer.outcome.unwrap()
    return response if isinstance(response, EmbeddingResponse) else None


def _vectors(batch: TextBatch, responses: Sequence[EmbeddingResponse | None], dimensions: int) -> pa.Array:
    """Return the column of vectors: one buffer, null where there is none."""
    size = BYTES_PER_NUMBER * dimensions
    data = b"".join([response.vectors if response is not None else bytes(size) for response in responses])
    matrix = np.frombuffer(data, "<f4").reshape(len(responses), dimensions)
    has_vector = np.array([response is not None for response in responses] or [False], np.bool_)
    valid = np.where(batch.index >= 0, has_vector[np.maximum(batch.index, 0)], False)
    is_one_to_one = len(batch) == len(responses) and bool((batch.index == np.arange(len(batch))).all())
    if not is_one_to_one:
        taken = matrix[np.maximum(batch.index, 0)] if len(responses) else np.zeros((len(batch), dimensions), "<f4")
        matrix = np.where(valid[:, None], taken, np.float32(0))
    values = pa.Array.from_buffers(pa.float32(), matrix.size, [None, pa.py_buffer(np.ascontiguousarray(matrix))])
    bitmap = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(pa.list_(pa.float32(), dimensions), len(batch), [bitmap], children=[values])


# Costs


def _costs(
    batch: TextBatch,
    target: Target,
    responses: Sequence[EmbeddingResponse | None],
    result: EmbedResult,
    is_hit: np.ndarray[Any, np.dtype[np.bool_]],
    priced_at: float,
    on_problem: Callable[[str], None],
) -> dict[str, pa.Array]:
    """Return the columns of costs; the rows of a request add up to its cost."""
    rows = len(batch)
    try:
        nanos, price_ids = _text_costs(target, responses, result, datetime.fromtimestamp(priced_at, UTC))
        billed = _billed_costs(target, responses, result, nanos, price_ids, datetime.fromtimestamp(priced_at, UTC))
    except Exception as error:  # noqa: BLE001 - an unknown cost is no reason to lose a vector
        on_problem(f"prices could not be looked up, so costs are unknown ({type(error).__name__}: {error})")
        nanos, price_ids = [None] * len(responses), [None] * len(responses)
        billed = nanos
    listed, listed_known = _amounts(nanos, batch)
    paid, paid_known = _amounts(billed, batch)
    return {
        "list_cost_usd": from_nanos(listed, listed_known) if rows else from_nanos(listed),
        "cost_usd": from_nanos(np.where(is_hit, 0, paid), paid_known | is_hit),
        "price_id": pa.array(
            [price_ids[position] if position >= 0 else None for position in batch.index.tolist()], pa.string()
        ),
    }


def _amounts(
    nanos: Sequence[int | None], batch: TextBatch
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return the amounts of the rows, given those of the texts, and whether each is known."""
    by_row = [nanos[position] if position >= 0 else None for position in batch.index.tolist()]
    known = np.array([amount is not None for amount in by_row], np.bool_)
    return np.array([amount or 0 for amount in by_row], np.int64), known


def _billed_costs(
    target: Target,
    responses: Sequence[EmbeddingResponse | None],
    result: EmbedResult,
    listed: Sequence[int | None],
    price_ids: list[str | None],
    when: datetime,
) -> Sequence[int | None]:
    """Return what each text costs: the list price, or that of batches for texts that were sent in one."""
    outcomes = result.run.outcomes
    in_batch = [position for position, each in enumerate(outcomes) if isinstance(each, Answer) and each.mode == "batch"]
    billed = list(listed)
    prices: dict[str, Price | None] = {}
    for position in in_batch:
        response = responses[position]
        if response is None:
            continue
        name = response.served_model
        if name not in prices:
            full = find_served_price(target.provider.name, target.model, name, when)
            prices[name] = batch_price(target.provider.name, target.model, full) or full
        price = prices[name]
        billed[position] = compute_cost_nano_usd(response.usage, price)
        if response.usage.reported_cost_usd is None:
            price_ids[position] = None if price is None else price.price_id
    return billed


def _text_costs(
    target: Target, responses: Sequence[EmbeddingResponse | None], result: EmbedResult, when: datetime
) -> tuple[list[int | None], list[str | None]]:
    """Return the cost of each text in billionths of a dollar, and the id of its price."""
    prices: dict[str, Price | None] = {}

    def price_of(served_model: str) -> Price | None:
        if served_model not in prices:
            prices[served_model] = find_served_price(target.provider.name, target.model, served_model, when)
        return prices[served_model]

    nanos: list[int | None] = [None] * len(responses)
    ids: list[str | None] = [None] * len(responses)
    for positions, total in _pack_costs(result, price_of):
        weights = [response.usage.input_tokens or 0 for position in positions if (response := responses[position])]
        for position, share in zip(positions, share_out(total, weights), strict=True):
            nanos[position] = share
    for position, response in enumerate(responses):
        if response is None:
            continue
        price = price_of(response.served_model)
        if nanos[position] is None:
            nanos[position] = compute_cost_nano_usd(response.usage, price)
        is_reported = response.usage.reported_cost_usd is not None
        ids[position] = f"reported:{target.provider.name}" if is_reported else price.price_id if price else None
    return nanos, ids


def _pack_costs(result: EmbedResult, price_of: Callable[[str], Price | None]) -> Iterator[tuple[Sequence[int], int]]:
    """Yield the texts and the cost of each request whose cost follows from its tokens."""
    for pack in result.packs:
        if pack.usage.reported_cost_usd is None:
            total = compute_cost_nano_usd(pack.usage, price_of(pack.served_model))
            if total is not None:
                yield pack.positions, total
