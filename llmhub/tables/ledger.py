"""The request ledger as a table: every request sent, its state, and its cost as stated or at the prices of that day."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import pyarrow as pa

from llmhub.cache.store import EndedRequest
from llmhub.core.pricing import NANO_DIGITS, Price, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.engine.call import SIMULATED_PREFIX
from llmhub.providers.prices import find_served_price
from llmhub.tables.schema import MICROSECONDS_PER_S

DAY_S: Final = 86_400
_TIME: Final = pa.timestamp("us", tz="UTC")
LEDGER: Final[pa.Schema] = pa.schema(
    [
        pa.field("run_id", pa.string()),
        pa.field("model", pa.string()),
        pa.field("served_model", pa.string()),
        pa.field("state", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("sent_at", _TIME),
        pa.field("ended_at", _TIME),
        pa.field("input_tokens", pa.int64()),
        pa.field("output_tokens", pa.int64()),
        pa.field("cost_usd", pa.decimal128(18, 9)),
        pa.field("request_key", pa.binary(32)),
    ]
)
"""One row per request, retries included; ``state`` is done, error, ambiguous, sent, reserved or batched.

Names of simulated models begin with ``simulated/``.
"""


def ledger_table(requests: Iterable[EndedRequest]) -> pa.Table:
    """Return the requests as a table with the schema `LEDGER`.

    Examples
    --------
    >>> ledger_table([]).num_rows
    0
    """
    rows = list(requests)
    return pa.table(
        {
            "run_id": [row.run.hex() or None for row in rows],
            "model": [row.model or None for row in rows],
            "served_model": [row.served_model or None for row in rows],
            "state": [row.state for row in rows],
            "error_type": [row.error_type or None for row in rows],
            "sent_at": [int(row.sent_at * MICROSECONDS_PER_S) or None for row in rows],
            "ended_at": [int(row.ended_at * MICROSECONDS_PER_S) or None for row in rows],
            "input_tokens": [row.input_tokens for row in rows],
            "output_tokens": [row.output_tokens for row in rows],
            "cost_usd": _request_costs(rows),
            "request_key": [row.key for row in rows],
        },
        schema=LEDGER,
    )


def _request_costs(requests: Sequence[EndedRequest]) -> list[Decimal | None]:
    """Return the cost of each request; ``None`` where the token counts or the price are unknown.

    A request to a simulator costs nothing.
    """
    prices: dict[tuple[str, str, int], Price | None] = {}
    costs: list[Decimal | None] = []
    for request in requests:
        if request.model.startswith(SIMULATED_PREFIX):
            costs.append(Decimal(0))
            continue
        usage = Usage(
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
            cached_input_tokens=request.cached_input_tokens,
            cache_write_tokens=request.cache_write_tokens,
            reasoning_tokens=request.reasoning_tokens,
            cache_write_1h_tokens=request.cache_write_1h_tokens,
            service_tier=request.service_tier,
            reported_cost_usd=Decimal(request.reported_cost_usd) if request.reported_cost_usd else None,
            billed_units=request.billed_units,
        )
        key = (request.model, request.served_model, int(request.sent_at // DAY_S))
        if key not in prices and request.input_tokens is not None:
            provider, _, name = request.model.partition("/")
            sent_at = datetime.fromtimestamp(request.sent_at, UTC)
            prices[key] = find_served_price(provider, name, request.served_model, sent_at)
        price = prices.get(key)
        nanos = compute_cost_nano_usd(usage, price)
        costs.append(None if nanos is None else Decimal(nanos).scaleb(-NANO_DIGITS))
    return costs
