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

from llmhub.api.frames import Asked, asked_of
from llmhub.api.hubs import current_hub
from llmhub.api.options import Asking, Models, RowOptions, concurrency_of, warn_of, warn_of_store
from llmhub.cache.access import mode_of, narrowed
from llmhub.cache.store import Store, StoreError
from llmhub.core.errors import InvalidRequest, InvalidRequestError, to_exception
from llmhub.engine.call import Answer
from llmhub.engine.loop import Stop, run_sync
from llmhub.engine.run import Item, as_answer
from llmhub.hub import Hub

if TYPE_CHECKING:
    from llmhub.tables.plan import Plan


def plan(
    frame: Any,
    prompt: Asking | None = None,
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
    from llmhub.tables.plan import plan_of  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    many = _expect_count(pilot)
    hub = hub or current_hub()
    asked = asked_of(frame, prompt, model, hub, {**options, "progress": False}, bare=not many)
    store = _store(asked)
    try:
        made = plan_of(asked.questions, _ground(asked, store))
        if not many:
            return made
        answers = _piloted(asked, store, many)
        whole = plan_of(asked.questions, replace(_ground(asked, _store(asked)), pilot=answers))
    except StoreError as error:
        warn_of_store(str(error))
        return plan_of(asked.questions, _ground(asked, None))
    return replace(whole, pilot=len(answers), pilot_usd=_paid(asked, answers))


def _expect_count(pilot: Any) -> int:
    if isinstance(pilot, bool) or not isinstance(pilot, Integral) or pilot < 0:
        raise InvalidRequestError(InvalidRequest(path="pilot", message=f"{pilot!r} is not a whole number from 0"))
    return int(pilot)


def _store(asked: Asked) -> Store | None:
    """Give the store as this run may use it."""
    runtime = asked.hub.runtime
    return narrowed(runtime.store, mode_of(asked.options.cache, runtime.cache_mode))


def _ground(asked: Asked, store: Store | None) -> Any:
    from llmhub.tables.plan import Ground  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    hub = asked.hub
    names = [ask.target.name for ask in asked.questions.asks]
    return Ground(
        store=store,
        tokenizer_folder=hub.settings.tokenizer_folder,
        at=time.time(),
        concurrency=concurrency_of(hub, asked.options),
        limits=hub.limits,
        answering={name: hub.targets(name, bare=True) for name in names},
    )


def _piloted(asked: Asked, store: Store | None, many: int) -> Mapping[bytes, Answer]:
    """Ask some rows of each model, and give what came, by key."""
    from llmhub.tables.plan import drawn, held_of  # noqa: PLC0415 - Arrow is loaded when a frame is asked
    from llmhub.tables.prompts import text_of  # noqa: PLC0415 - as above

    mode = mode_of(asked.options.cache, asked.hub.runtime.cache_mode)
    if store is None or not mode.writes:
        said = f"a pilot of {many} rows counts towards the run only if its answers are kept; give Hub(cache=...)"
        raise InvalidRequestError(InvalidRequest(path="pilot", message=said))
    chosen: list[Item] = []
    for one in drawn(asked.questions):
        held = held_of(one, store)
        missing = (item for key, item in one.items.items() if key not in held)
        # As good as drawn, and the same each time: rows at equal distances may well be of one kind.
        chosen += nsmallest(many, missing, key=lambda item: blake2b(text_of(item[3]).encode(errors="replace")).digest())
    if not chosen:
        return {}
    answers = run_sync(partial(_asking, asked, chosen))
    failed = [answer.outcome.failure() for answer in answers.values() if not is_successful(answer.outcome)]
    if failed and len(failed) == len(answers):
        raise to_exception(failed[0])
    return {key: answer for key, answer in answers.items() if is_successful(answer.outcome)}


async def _asking(asked: Asked, chosen: list[Item], stop: Stop) -> dict[bytes, Answer]:
    concurrency = concurrency_of(asked.hub, asked.options)
    size = len(asked.questions)
    ran = await asked.hub.runtime.run(iter([chosen]), size, concurrency, stop, cache=asked.options.cache)
    warn_of(ran)
    came = ((item[1], ran.answers[item[0]]) for item in chosen)
    return {key: as_answer(answer) for key, answer in came if answer is not None}


def _paid(asked: Asked, answers: Mapping[bytes, Answer]) -> Decimal | None:
    """Give what a pilot cost, if all prices are known."""
    from llmhub.tables.plan import drawn, paid  # noqa: PLC0415 - Arrow is loaded when a frame is asked

    costs = []
    for one in drawn(asked.questions):
        own = {key: answers[key] for key in one.items if key in answers and not answers[key].cache_hit}
        costs.append(paid(own, one.ask.target, time.time()))
    known = [cost for cost in costs if cost is not None]
    return sum(known, Decimal(0)) if len(known) == len(costs) else None
