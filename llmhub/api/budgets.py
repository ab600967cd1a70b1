"""What a call may spend: its own budget, and its hub's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

from llmhub.api.options import RowOptions
from llmhub.core.budget import budget_of, usd
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.engine.budget import Prices, Purse, Wallet
from llmhub.engine.call import Target
from llmhub.hub import Hub


def purse_of(
    hub: Hub, targets: Iterable[Target], budget_usd: float | Decimal | Wallet | None, *, allow_unpriced: bool
) -> Purse | None:
    """Put together the budgets that a call must fit into; ``None`` where there is none.

    A `Wallet` instead of an amount is one that several calls share.

    Raises
    ------
    InvalidRequestError
        ``budget_usd`` is no amount; or there is a budget and no known price, and ``allow_unpriced`` is not said.
    """
    own = () if budget_usd is None else (shared_wallet(budget_usd),)
    shared = () if hub.runtime.wallet is None else (hub.runtime.wallet,)
    budget = bool(own or shared)
    if not budget and not any(route.counts for route in hub.directory.routes.values()):
        return None
    allowed = allow_unpriced or hub.allow_unpriced or not budget
    prices = Prices(time.time)
    for target in targets:
        # Looked up here, too, since the first look loads the table, and nobody else should wait for that.
        if prices.of(target) is None and not allowed:
            said = (
                f"{target.name!r} has no known price, so no budget can hold it; "
                "give allow_unpriced=True to let it pass uncounted, or no budget_usd"
            )
            raise InvalidRequestError(InvalidRequest(path="model", message=said))
    return Purse(own + shared, allowed) if budget else None


def shared_wallet(budget_usd: float | Decimal | Wallet) -> Wallet:
    """Make one wallet for a budget that several calls share."""
    return budget_usd if isinstance(budget_usd, Wallet) else Wallet(budget_of(budget_usd))


def split(hub: Hub, options: RowOptions, parts: int) -> tuple[Hub, RowOptions]:
    """Part every budget evenly among processes, which cannot see what the others spend."""
    if hub.budget_usd is not None:
        hub = replace(hub, budget_usd=_share(hub.budget_usd, parts))
    limit: Any = options.get("budget_usd")
    return hub, options if limit is None else {**options, "budget_usd": _share(limit, parts)}


def _share(amount: float | Decimal, parts: int) -> Decimal:
    return usd(budget_of(amount).limit // max(parts, 1))
