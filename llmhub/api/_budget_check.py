"""Whether a run can start within its budget, checked before anything is sent."""

from __future__ import annotations

import time
from types import NoneType
from typing import TYPE_CHECKING, Any

from llmhub.api.options import RunOptions
from llmhub.cache.modes import resolve_mode, restrict
from llmhub.cache.store import StoreError
from llmhub.core.budget import parse_budget
from llmhub.core.errors import BudgetExceededError, InvalidRequest
from llmhub.engine.spending import SharedBudget, TargetPrices, require_call_fits
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.prompt_batch import PromptBatch


def require_budget_fits(hub: Hub, batch: PromptBatch, options: RunOptions) -> None:
    """Raise if the first call of a model could not be sent within the budget of this run, and is not in the cache.

    A budget of 0 is no mistake: only responses from the cache are wanted.
    """
    limit: Any = options.budget_usd
    if limit is None or isinstance(limit, SharedBudget):
        return
    budget = parse_budget(limit)
    if not budget.limit:
        return
    prices = TargetPrices(time.time)
    prompt = next(
        (prompt for prompt in batch.iter_prompts() if not isinstance(prompt, (InvalidRequest, NoneType))), None
    )
    if prompt is None:
        return
    for target_prompt in batch.target_prompts:
        target = target_prompt.target
        price = prices.lookup(target)
        if price is None or len(hub.targets(target.name)) > 1:
            continue
        try:
            require_call_fits(target, target_prompt.request_for(prompt), budget, price)
        except BudgetExceededError:
            if not _is_cached(hub, options, target_prompt.prompt_key(prompt, 0)):
                raise


def _is_cached(hub: Hub, options: RunOptions, key: bytes) -> bool:
    """Return whether a response is in the cache, as far as this run may read it."""
    store = restrict(hub.runtime.store, resolve_mode(options.cache, hub.runtime.cache_mode))
    try:
        return store is not None and bool(store.get_many([key]))
    except StoreError:
        return False  # the run reports it
