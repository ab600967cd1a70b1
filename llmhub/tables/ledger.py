"""The ledger as a table: every request that went out, what became of it, and what was paid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

import pyarrow as pa

from llmhub.cache.store import EndedRequest
from llmhub.core.pricing import NANO_DIGITS, Price, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.providers.prices import find_served_price

MICRO: Final = 1_000_000
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
"""One row for each request, retries and all; ``state`` is done, error, ambiguous, sent or reserved."""


def ledger_table(requests: Iterable[EndedRequest]) -> pa.Table:
    """Make a table of requests, at the prices of the day on which they were sent.

    Examples
    --------
    >>> ledger_table([]).num_rows
    0
    """
    every = list(requests)
    return pa.table(
        {
            "run_id": [one.run.hex() or None for one in every],
            "model": [one.model or None for one in every],
            "served_model": [one.served_model or None for one in every],
            "state": [one.state for one in every],
            "error_type": [one.error_type or None for one in every],
            "sent_at": [int(one.sent_at * MICRO) or None for one in every],
            "ended_at": [int(one.ended_at * MICRO) or None for one in every],
            "input_tokens": [one.input_tokens for one in every],
            "output_tokens": [one.output_tokens for one in every],
            "cost_usd": _request_costs(every),
            "request_key": [one.key for one in every],
        },
        schema=LEDGER,
    )


def _request_costs(every: Sequence[EndedRequest]) -> list[Decimal | None]:
    """Say what each cost, where the provider counted and the price is known."""
    prices: dict[tuple[str, str, int], Price | None] = {}
    costs: list[Decimal | None] = []
    for one in every:
        usage = Usage(
            input_tokens=one.input_tokens,
            output_tokens=one.output_tokens,
            cached_input_tokens=one.cached_input_tokens,
            cache_write_tokens=one.cache_write_tokens,
            reasoning_tokens=one.reasoning_tokens,
        )
        key = (one.model, one.served_model, int(one.sent_at // DAY_S))
        if key not in prices and one.input_tokens is not None:
            provider, _, name = one.model.partition("/")
            prices[key] = find_served_price(provider, name, one.served_model, datetime.fromtimestamp(one.sent_at, UTC))
        found = prices.get(key)
        nanos = compute_cost_nano_usd(usage, found) if found is not None else None
        costs.append(None if nanos is None else Decimal(nanos).scaleb(-NANO_DIGITS))
    return costs
