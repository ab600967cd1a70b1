"""The part of a plan that is about batches: both prices, the saving, and how long answers may take."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from llmhub.core.pricing import Price
from llmhub.engine.call import SendMode, Target
from llmhub.formatting.numbers import format_usd
from llmhub.providers.batch_prices import batch_price
from llmhub.providers.registry import PROVIDERS
from llmhub.tables.forecast import CostInterval

if TYPE_CHECKING:
    from llmhub.tables.plan import ModelPlan

HOUR_S: Final = 3600.0
ZERO_USD: Final = CostInterval(Decimal(0), Decimal(0), Decimal(0))


def price_of_mode(target: Target, price: Price | None, mode: SendMode) -> Price | None:
    """Return the price of requests that are sent in this way, given that of single requests."""
    return (batch_price(target.provider.name, target.model, price) or price) if mode == "batch" else price


def total_usd(costs: Sequence[CostInterval | None]) -> CostInterval | None:
    """Return the sum of some costs; ``None`` if one of them is unknown."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, ZERO_USD) if len(known) == len(costs) else None


def batch_notes(models: Sequence[ModelPlan]) -> list[str]:
    """Return what a person should know before batches are sent."""
    notes = []
    live, batched = total_usd([model.live_usd for model in models]), total_usd([model.usd for model in models])
    if live is not None and batched is not None and live.expected:
        saving = live.expected - batched.expected
        share = saving / live.expected
        notes.append(
            f"In batches: {format_usd(batched.expected)} instead of {format_usd(live.expected)} by single requests, "
            f"a saving of {format_usd(saving)} ({share:.0%})."
        )
    apis = {name: PROVIDERS[name].batch for name in dict.fromkeys(model.model.partition("/")[0] for model in models)}
    known = {name: api for name, api in apis.items() if api is not None}
    if known:
        window = max(api.batch_limits.window_s for api in known.values())
        notes.append(f"Answers come within {window / HOUR_S:g} hours, mostly sooner; the same call goes on waiting.")
    for name, api in known.items():
        if not api.wire.keeps_results_of_expired:
            notes.append(
                f"A batch of {name} that expires has no results, so each has {api.batch_limits.rows:,} rows at most."
            )
    return notes
