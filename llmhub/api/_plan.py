"""What a run would do before it does it; a pilot finds out what nothing else tells."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from heapq import nsmallest
from numbers import Integral
from typing import TYPE_CHECKING, Any, Unpack

from returns.pipeline import is_successful

from llmhub.api.default_hub import current_hub
from llmhub.api.options import (
    Models,
    RowOptions,
    TablePrompt,
    resolve_concurrency,
    warn_cache_unavailable,
    warn_run_problems,
)
from llmhub.api.tables import TableRun, build_table_run
from llmhub.cache.modes import resolve_mode, restrict
from llmhub.cache.store import Store, StoreError
from llmhub.core.errors import BadRequestError, InvalidRequest, to_exception
from llmhub.engine.call import Answer
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.fan_out_types import PlannedItem
from llmhub.engine.row_outcome import as_answer
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan


def plan(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    pilot: int = 0,
    **options: Unpack[RowOptions],
) -> Plan:
    """Say what a run would do: calls, cache hits, tokens, USD and minutes, and what it would wait for.

    Nothing is sent and no credentials are needed, unless a pilot is asked for. Numbers that are not known come as
    intervals that hold 19 of 20 times. How long the answers are is judged by those in the cache to questions of this
    run, or else by the model's other answers there; where there are none, it is a guess, and a wide one.

    Parameters
    ----------
    frame, prompt, model, hub, **options
        As in `complete_table`.
    pilot
        Rows to ask of each model to find out, as good as drawn but always the same; their answers are kept in the
        cache, so that they count towards the run.

    Returns
    -------
    Plan
        Prints as a table; ``plan.against(results)`` holds it against what the run did.

    Raises
    ------
    InvalidRequestError
        As in `complete_table`; or a pilot whose answers could not be kept.
    ConnectorError
        Every call of the pilot failed; this is how the first did.
    """
    from llmhub.tables.plan import build_plan  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    many = _pilot_size(pilot)
    hub = hub or current_hub()
    asked = build_table_run(frame, prompt, model, hub, {**options, "progress": False}, dry_run=not many)
    store = _run_store(asked)
    try:
        made = build_plan(asked.batch, _plan_inputs(asked, store))
        if not many:
            return made
        answers = _run_pilot(asked, store, many)
        whole = build_plan(asked.batch, replace(_plan_inputs(asked, _run_store(asked)), pilot=answers))
    except StoreError as error:
        warn_cache_unavailable(str(error))
        return build_plan(asked.batch, _plan_inputs(asked, None))
    return replace(whole, pilot=len(answers), pilot_usd=_pilot_cost(asked, answers))


def _pilot_size(pilot: Any) -> int:
    if isinstance(pilot, bool) or not isinstance(pilot, Integral) or pilot < 0:
        raise BadRequestError(InvalidRequest(path="pilot", message=f"{pilot!r} is not a whole number from 0"))
    return int(pilot)


def _run_store(asked: TableRun) -> Store | None:
    """Give the store as this run may use it."""
    runtime = asked.hub.runtime
    return restrict(runtime.store, resolve_mode(asked.options.cache, runtime.cache_mode))


def _plan_inputs(asked: TableRun, store: Store | None) -> Any:
    from llmhub.tables.plan import PlanInputs  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = asked.hub
    names = [ask.target.name for ask in asked.batch.target_prompts]
    return PlanInputs(
        store=store,
        tokenizer_folder=hub.settings.tokenizer_folder,
        priced_at=time.time(),
        concurrency=resolve_concurrency(hub, asked.options),
        limits=hub.limits,
        candidates={name: hub.targets(name, bare=True) for name in names},
    )


def _run_pilot(asked: TableRun, store: Store | None, many: int) -> Mapping[bytes, Answer]:
    """Ask some rows of each model, and give what came, by key."""
    from llmhub.tables.plan import cached_values, unique_prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.prompt_batch import prompt_text  # noqa: PLC0415 - as above

    mode = resolve_mode(asked.options.cache, asked.hub.runtime.cache_mode)
    if store is None or not mode.writes:
        said = f"a pilot of {many} rows counts towards the run only if its answers are kept; give Hub(cache=...)"
        raise BadRequestError(InvalidRequest(path="pilot", message=said))
    chosen: list[PlannedItem] = []
    for one in unique_prompts(asked.batch):
        held = cached_values(one, store)
        missing = (item for key, item in one.items.items() if key not in held)
        # As good as drawn, and the same each time: rows at equal distances may well be of one kind.
        chosen += nsmallest(
            many, missing, key=lambda item: blake2b(prompt_text(item[3]).encode(errors="replace")).digest()
        )
    if not chosen:
        return {}
    answers = run_sync(partial(_send_pilot, asked, chosen))
    failed = [answer.outcome.failure() for answer in answers.values() if not is_successful(answer.outcome)]
    if failed and len(failed) == len(answers):
        raise to_exception(failed[0])
    return {key: answer for key, answer in answers.items() if is_successful(answer.outcome)}


async def _send_pilot(asked: TableRun, chosen: list[PlannedItem], stop: StopSignal) -> dict[bytes, Answer]:
    concurrency = resolve_concurrency(asked.hub, asked.options)
    size = len(asked.batch)
    ran = await asked.hub.runtime.run(iter([chosen]), size, concurrency, stop, cache_mode=asked.options.cache)
    warn_run_problems(ran)
    came = ((item[1], ran.outcomes[item[0]]) for item in chosen)
    return {key: as_answer(answer) for key, answer in came if answer is not None}


def _pilot_cost(asked: TableRun, answers: Mapping[bytes, Answer]) -> Decimal | None:
    """Give what a pilot cost, if all prices are known."""
    from llmhub.tables.plan import pilot_cost_usd, unique_prompts  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    costs = []
    for one in unique_prompts(asked.batch):
        own = {key: answers[key] for key in one.items if key in answers and not answers[key].cache_hit}
        costs.append(pilot_cost_usd(own, one.target_prompt.target, time.time()))
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None
