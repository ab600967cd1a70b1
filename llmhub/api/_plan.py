"""Plans: what a run would send and cost, estimated without sending it, or after sending a small pilot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from hashlib import blake2b
from heapq import nsmallest
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final, Unpack
from uuid import uuid4

from returns.pipeline import is_successful
from returns.result import Failure, Result

from llmhub.api._tool_rows import count_turns
from llmhub.api.default_hub import current_hub
from llmhub.api.options import Models, RowOptions, TablePrompt, resolve_concurrency
from llmhub.api.raising import warn_cache_unavailable, warn_run_problems
from llmhub.api.signatures import shows_options
from llmhub.api.tables import SELF, RunCaller, TableRun, build_table_run, send_rows
from llmhub.cache.modes import resolve_mode, restrict
from llmhub.cache.store import Store, StoreError
from llmhub.core.errors import LLMError, invalid, to_exception
from llmhub.core.protocol import interpret_token_count, prepare_token_count
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.engine.call import Answer, Call
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.fan_out_types import PlannedItem
from llmhub.engine.row_outcome import as_answer
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan, PlanInputs
    from llmhub.tables.prompt_batch import ModelPrompts


COUNTS_IN_FLIGHT: Final = 8
"""Requests in flight that count tokens: they are not rate-limited here."""


@shows_options(RowOptions)
def plan(
    frame: Any,
    prompt: TablePrompt | None = None,
    *,
    model: Models,
    hub: Hub | None = None,
    pilot: int = 0,
    count_tokens: int = 0,
    **options: Unpack[RowOptions],
) -> Plan:
    """Estimate what `complete_table` would do: calls, cache hits, tokens, cost in US dollars, and duration.

    Nothing is sent and no credentials are needed, unless ``pilot`` or ``count_tokens`` is set. Estimates are 95 %
    prediction intervals.
    The length of responses is estimated from cached responses to requests of this run, or else from other cached
    responses of the model; without any, the interval is wide.

    Parameters
    ----------
    frame, prompt, model, hub, **options
        As in `complete_table`.
    pilot
        Number of rows per model to send first. They are chosen by hash: spread over the input, and the same in every
        call. Their responses are cached, so that the run does not send them again.
    count_tokens
        Number of rows per model whose input tokens the provider counts, chosen in the same way. The counts of all other
        rows are corrected by them. It costs nothing; Anthropic, Gemini, Vertex AI and Bedrock can do so.

    Returns
    -------
    Plan
        Prints as a table; ``plan.compare(results)`` compares it with the results of the run.

    Raises
    ------
    BadRequestError
        As in `complete_table`; or the responses of the pilot could not be cached.
    ConnectorError
        Every call of the pilot failed; this is the first error.
    """
    hub = hub or current_hub()
    if hub.service is not None:
        from llmhub.api import service_runs  # noqa: PLC0415 - for the hubs of a service only

        rows = {"pilot": _row_count("pilot", pilot), "count_tokens": _row_count("count_tokens", count_tokens)}
        return service_runs.plan_at_service(
            service_runs.build_service_run(frame, prompt, model, hub, dict(options)), **rows
        )
    return plan_run(frame, prompt, model, hub, dict(options), pilot=pilot, count_tokens=count_tokens)


def plan_run(
    frame: Any,
    prompt: TablePrompt | None,
    model: Models,
    hub: Hub,
    options: dict[str, Any],
    *,
    pilot: int = 0,
    count_tokens: int = 0,
    caller: RunCaller = SELF,
) -> Plan:
    """Return the plan of a run for a caller (see `plan`)."""
    from llmhub.tables.plan import build_plan  # noqa: PLC0415 - imports Arrow
    from llmhub.tables.prompt_batch import unique_prompts  # noqa: PLC0415 - as above

    pilot_rows, counted_rows = _row_count("pilot", pilot), _row_count("count_tokens", count_tokens)
    dry_run = not (pilot_rows or counted_rows)
    run = build_table_run(frame, prompt, model, hub, {**options, "progress": False}, dry_run=dry_run, caller=caller)
    store, prompts = _run_store(run), unique_prompts(run.batch)
    counted = _count_with_providers(run, prompts, counted_rows)
    try:
        estimate = build_plan(prompts, replace(_plan_inputs(run, store), counted=counted))
        if not pilot_rows:
            return replace(estimate, counted=len(counted))
        answers = _run_pilot(run, prompts, store, pilot_rows)
        turns = {key: count_turns(answer) for key, answer in answers.items()}
        inputs = replace(_plan_inputs(run, _run_store(run)), pilot=answers, pilot_turns=turns, counted=counted)
        estimate = build_plan(prompts, inputs)
    except StoreError as error:
        warn_cache_unavailable(str(error))
        return build_plan(prompts, _plan_inputs(run, None))
    return replace(estimate, pilot=len(answers), pilot_usd=_pilot_cost(prompts, answers), counted=len(counted))


def _row_count(argument: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise invalid(argument, f"must be an integer of 0 or more, not {value!r}")
    return int(value)


def _count_with_providers(run: TableRun, prompts: Sequence[ModelPrompts], rows: int) -> Mapping[bytes, int]:
    """Return the input tokens of some rows of each model, counted by its provider, by request key.

    Raises
    ------
    BadRequestError
        A provider counts no tokens.
    ConnectorError
        No row of a model could be counted.
    """
    if not rows:
        return {}
    calls = []
    for own in prompts:
        target = own.target_prompt.target
        if target.provider.token_counts is None:
            able = sorted(name for name, row in run.hub.resolver.providers.items() if row.token_counts is not None)
            message = f"{target.provider.name} has no endpoint that counts tokens; those of {', '.join(able)} have"
            raise invalid("count_tokens", message)
        chosen = nsmallest(rows, own.items.values(), key=_prompt_hash)
        calls += [make_call(prompt, key) for _, key, make_call, prompt in chosen]
    outcomes = run_sync(partial(_count_all, run, calls))
    for own in prompts:
        results = [outcome for call, outcome in zip(calls, outcomes, strict=True) if call.key in own.items]
        if results and not any(map(is_successful, results)):
            raise to_exception(results[0].failure())
    pairs = zip(calls, outcomes, strict=True)
    return {call.key: outcome.unwrap() for call, outcome in pairs if call.key is not None and is_successful(outcome)}


async def _count_all(run: TableRun, calls: Sequence[Call], _stop: StopSignal) -> list[Result[int, LLMError]]:
    """Ask the providers for the input tokens of some calls, a few at a time."""
    client = run.hub.runtime.client
    slots = asyncio.Semaphore(COUNTS_IN_FLIGHT)

    async def count(call: Call) -> Result[int, LLMError]:
        provider = call.target.provider

        async def send(endpoint: Endpoint) -> Result[HttpReply, LLMError]:
            prepared = prepare_token_count(provider, endpoint, call.request, time.time())
            if not is_successful(prepared):
                return Failure(prepared.failure())
            return await client.transport.fetch(provider.name, prepared.unwrap(), endpoint)

        async with slots:
            reply = await client.credentials.send(call.target, send)
        return reply.bind(partial(interpret_token_count, provider))

    return list(await asyncio.gather(*map(count, calls)))


def _run_store(run: TableRun) -> Store | None:
    """Return the store, restricted to the cache mode of the run."""
    runtime = run.hub.runtime
    return restrict(runtime.store, resolve_mode(run.options.cache, runtime.cache_mode))


def _plan_inputs(run: TableRun, store: Store | None) -> PlanInputs:
    from llmhub.tables.plan import PlanInputs  # noqa: PLC0415 - imports Arrow

    hub = run.hub
    names = [prompt.target.name for prompt in run.batch.target_prompts]
    return PlanInputs(
        store=store,
        tokenizer_folder=hub.settings.tokenizer_folder,
        priced_at=time.time(),
        concurrency=resolve_concurrency(hub, run.options),
        limits=hub.limits,
        candidates={name: hub.targets(name, allow_unconfigured=True) for name in names},
        mode=run.options.mode,
        max_turns=1 if run.options.tool_loop is None else run.options.tool_loop.max_turns,
    )


def _run_pilot(
    run: TableRun, prompts: Sequence[ModelPrompts], store: Store | None, rows: int
) -> Mapping[bytes, Answer]:
    """Send some rows to each model, and return the successful answers by request key."""
    from llmhub.tables.plan import cached_values  # noqa: PLC0415 - imports Arrow

    mode = resolve_mode(run.options.cache, run.hub.runtime.cache_mode)
    if store is None or not mode.writes:
        raise invalid("pilot", f"a pilot of {rows} rows needs a cache to keep its responses; pass Hub(cache=...)")
    chosen: list[PlannedItem] = []
    for own in prompts:
        cached = cached_values(own, store)
        uncached = (item for key, item in own.items.items() if key not in cached)
        # Ordered by hash and not taken at equal distances, because neighbouring or periodic rows may be alike.
        chosen += nsmallest(rows, uncached, key=_prompt_hash)
    if not chosen:
        return {}
    answers = run_sync(partial(_send_pilot, run, chosen))
    errors = [answer.outcome.failure() for answer in answers.values() if not is_successful(answer.outcome)]
    if errors and len(errors) == len(answers):
        raise to_exception(errors[0])
    return {key: answer for key, answer in answers.items() if is_successful(answer.outcome)}


def _prompt_hash(item: PlannedItem) -> bytes:
    from llmhub.tables.prompt_batch import prompt_text  # noqa: PLC0415 - imports Arrow

    return blake2b(prompt_text(item[3]).encode(errors="replace")).digest()


async def _send_pilot(run: TableRun, chosen: list[PlannedItem], stop: StopSignal) -> dict[bytes, Answer]:
    result = await send_rows(run, None, stop, run_id=uuid4().bytes, chunks=iter([chosen]))
    warn_run_problems(result)
    outcomes = ((item[1], result.outcome(item[0], item[1])) for item in chosen)
    return {key: as_answer(outcome) for key, outcome in outcomes if outcome is not None}


def _pilot_cost(prompts: Sequence[ModelPrompts], answers: Mapping[bytes, Answer]) -> Decimal | None:
    """Return the cost of a pilot in US dollars, or ``None`` if a price is unknown."""
    from llmhub.tables.plan import pilot_cost_usd  # noqa: PLC0415 - imports Arrow

    costs = []
    for own in prompts:
        sent = {key: answers[key] for key in own.items if key in answers and not answers[key].cache_hit}
        costs.append(pilot_cost_usd(sent, own.target_prompt.target, time.time()))
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None
