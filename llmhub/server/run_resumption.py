"""Take up a run that an earlier process has begun: what is logged and paid for, and what is left of its budget."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmhub.cache.modes import CacheMode, resolve_mode
from llmhub.cache.store import Store
from llmhub.core.budget import NANO_PER_USD, parse_budget
from llmhub.engine.spending import SharedBudget

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from llmhub.server.active_run import ActiveRun
    from llmhub.server.table_work import IsLogged
    from llmhub.tables.prompt_batch import PromptBatch


def read_log(active: ActiveRun) -> tuple[IsLogged | None, set[bytes]]:
    """Count the results that an earlier process has logged; return which those are, and the keys that it paid for."""
    import numpy as np  # noqa: PLC0415 - imported with Arrow

    if not active.log.rows:
        return None, set()
    hub, samples = active.work.service.hub, active.work.request.n
    targets = [hub.target(name) for name in active.work.models]
    index_of = {(target.provider.name, target.model): index for index, target in enumerate(targets)}
    per_row = len(targets) * samples
    flags = np.zeros(active.record.rows * per_row, np.bool_)
    paid: set[bytes] = set()
    for table in active.log:
        if not len(table):
            continue
        active.counter.add(table)
        names = zip(*(table.column(name).to_pylist() for name in ("provider", "model")), strict=True)
        models = np.array([index_of.get(pair, 0) for pair in names], np.int64)
        rows, sample = (table.column(name).to_numpy() for name in ("row", "sample"))
        flags[rows * per_row + models * samples + sample] = True
        columns = (table.column(name).to_pylist() for name in ("request_key", "cache_hit"))
        paid |= {key for key, hit in zip(*columns, strict=True) if key is not None and not hit}

    def is_logged(first: int, batch: PromptBatch) -> np.ndarray[Any, Any] | None:
        own = flags[first * per_row : first * per_row + len(batch)]
        return own if own.any() else None

    return is_logged, paid


def paid_keys(active: ActiveRun, journal: Store | None) -> set[bytes]:
    """Return the keys that earlier processes paid for in this run: those of its journal, or of the ledger."""
    if journal is not None:
        return {entry.key for entry in journal.scan()}
    store = active.work.service.hub.runtime.store
    if store is None or store.ledger is None:
        return set()
    own = uuid.UUID(active.record.id).bytes
    return {request.key for request in store.ledger.requests() if request.run == own and request.state == "done"}


def with_own_costs(table: pa.Table, paid: set[bytes]) -> pa.Table:
    """Return results in which the first response for each of these keys has its cost, and is none of the cache.

    An earlier process of the run paid for it, and was killed before it could log it. Its key is removed from ``paid``.
    """
    import pyarrow as pa  # noqa: PLC0415 - imports Arrow
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    own = []
    for key, hit in zip(table.column("request_key").to_pylist(), table.column("cache_hit").to_pylist(), strict=True):
        own.append(bool(hit) and key in paid)
        if own[-1]:
            paid.discard(key)
    if not any(own):
        return table
    mask = pa.array(own)
    for name, value in (("cost_usd", table.column("list_cost_usd")), ("cache_hit", pa.scalar(False))):
        index = table.schema.get_field_index(name)
        column = pc.if_else(mask, value, table.column(name)).cast(table.schema.field(index).type)
        table = table.set_column(index, table.schema.field(index), column)
    return table


def budget_left(active: ActiveRun) -> dict[str, Any]:
    """Return the budget of a run, which all its blocks share, with what earlier processes have spent of it."""
    given = active.work.request.budget_usd
    if given is None:
        return {}
    budget = parse_budget(given)
    spent = sum([model.spent_usd or 0 for model in active.counter.counts.values()])
    return {"budget_usd": SharedBudget(replace(budget, spent=int(spent * NANO_PER_USD)))}


def resumed_cache_mode(active: ActiveRun) -> dict[str, Any]:
    """Return the cache mode of a resumed run: responses that were received since it began are not paid for again."""
    work, started_at = active.work, active.record.started_at
    mode = resolve_mode(work.request.cache, work.service.hub.runtime.cache_mode)
    if not active.is_resumed or started_at is None or mode.reads or not mode.writes:
        return {}
    return {"cache": CacheMode("read-write", max_age_s=max(time.time() - started_at, 0.001), strict=mode.strict)}
