"""Answers to rows, and rows to the one Arrow table. One outcome, one row; order kept; schema exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.cache.store import KEY_BYTES
from llmhub.core.codec import StoredResponse, parts_of
from llmhub.core.cost import Price, nano_usd
from llmhub.core.errors import BudgetExceeded, Cancelled, LLMError, kind
from llmhub.core.schemas import json_in
from llmhub.core.types import ToolCall, text_of
from llmhub.engine.bulk import Block
from llmhub.engine.call import Answer, Target
from llmhub.engine.run import Landed as Landing
from llmhub.engine.run import Ran, Settled, kept_form
from llmhub.providers.prices import price_served
from llmhub.tables.columns import MICRO, Columns, gaps, joined, of_block, segments, woven
from llmhub.tables.money import Tokens, cost_columns, from_nanos, to_nanos
from llmhub.tables.prompts import Questions
from llmhub.tables.schema import RESULTS, with_run

NO_ANSWER: Final = Answer(Failure(Cancelled()))
"""Stands for the timings of a row that made no call: all absent."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What answered each row, in three lists side by side.

    ``kept`` holds what models said, ``failed`` what went wrong, ``calls`` the calls of this run; each ``None`` where
    there is none.
    """

    kept: list[StoredResponse | None]
    failed: list[LLMError | None]
    calls: list[Answer]


def table(questions: Questions, ran: Ran, run_id: str, at: float) -> pa.Table:
    """Make the results table of a run.

    Parameters
    ----------
    questions
        What was asked.
    ran
        What became of it.
    run_id
        Goes into the schema's metadata.
    at
        Time of the run (epoch seconds), for prices.
    """
    answers = settled(questions, ran)
    positions = np.arange(len(questions))
    return _table(questions, positions, _said(replace(ran, answers=answers)), answers, (with_run(run_id), at))


def part(questions: Questions, landed: Landed, schema: pa.Schema, at: float) -> pa.Table:
    """Make the rows of some positions, in the order in which they are given (see `table`)."""
    if isinstance(landed, Block):
        said = joined([of_block(landed)])
        return _table(questions, landed.positions, said, (), (schema, at))
    said = joined([_of_answers(landed.answers, landed.queued_s)])
    return _table(questions, np.asarray(landed.positions, np.int64), said, landed.answers, (schema, at))


def parts(questions: Questions, landed: Iterable[Landing], run_id: str, at: float) -> pa.Table:
    """Make the rows of whatever has landed so far, in input order (see `table`)."""
    schema = with_run(run_id)
    ones: list[tuple[int, Settled, float]] = []
    blocks: list[Landed] = []
    for one in landed:
        if isinstance(one, tuple):
            ones.append(one)
        else:
            blocks.append(one)
    if ones:
        blocks.append(Some(*zip(*ones, strict=True)))
    if not blocks:
        return schema.empty_table()
    whole = pa.concat_tables([part(questions, some, schema, at) for some in blocks]).unify_dictionaries()
    return whole.take(np.argsort(np.concatenate([np.asarray(some.positions, np.int64) for some in blocks])))


@dataclass(frozen=True, slots=True)
class Some:
    """Positions that have their answer, the answers (``None`` for what was skipped), and what each waited for."""

    positions: Sequence[int]
    answers: Sequence[Settled | None]
    queued_s: Sequence[float]


Landed: TypeAlias = Block | Some


def _table(
    questions: Questions,
    positions: Any,
    said: dict[str, pa.ChunkedArray],
    answers: Sequence[Settled | None],
    head: tuple[pa.Schema, float],
) -> pa.Table:
    """Make rows of what is known of their positions; ``head`` is the schema, and the time for prices."""
    schema, at = head
    which = _which(questions, positions)
    columns = {**_asked(questions, positions, which), **said, "request_key": _keys(questions, positions)}
    columns["parsed"] = _parsed(questions, which, columns["response"])
    elsewhere = {
        place: one.target for place, one in enumerate(answers) if isinstance(one, Answer) and one.target is not None
    }
    columns |= _priced([one.target for one in questions.asks], which, columns, elsewhere, at)
    columns["served_model"] = _signed(columns["served_model"], elsewhere)
    columns["cost_usd"] = _with_spent(columns["cost_usd"], answers, at)
    return pa.table([columns[name].cast(schema.field(name).type) for name in schema.names], schema=schema)


def settled(questions: Questions, ran: Ran) -> list[Settled | None]:
    """Give the answers by position, with those of the rows that could not be asked."""
    if not questions.wrong:
        return ran.answers
    answers = list(ran.answers)
    for row, error in questions.wrong.items():
        for position in range(row * questions.step, (row + 1) * questions.step):
            answers[position] = Answer(Failure(error))
    return answers


def _which(questions: Questions, positions: Any) -> Any:
    """Say of each position which of the targets it asks."""
    if questions.own is not None:
        return np.asarray(questions.own, np.int32)[positions // questions.samples]
    return (positions // questions.samples % max(1, len(questions.asks))).astype(np.int32)


def _said(ran: Ran) -> dict[str, pa.ChunkedArray]:
    """Say of each position what came of it: stretch by stretch, blocks from a store as they are."""
    stretches = list(segments(ran.blocks, len(ran.answers)))[::-1] or [(0, 0, None)]
    if isinstance(ran.blocks, list):
        ran.blocks.clear()  # so that each can go when it has been read
    return joined(_stretch(ran, *stretches.pop()) for _ in range(len(stretches)))


def _stretch(ran: Ran, low: int, high: int, block: Block | None) -> dict[str, pa.Array]:
    if block is None:
        return _of_answers(ran.answers[low:high], ran.queued_s[low:high])
    if len(block.positions) == high - low:
        return of_block(block)
    rest = gaps(low, high, block).tolist()
    return woven(low, high, block, _of_answers([ran.answers[at] for at in rest], [ran.queued_s[at] for at in rest]))


def _of_answers(answers: Sequence[Settled | None], queued_s: Sequence[float]) -> dict[str, pa.Array]:
    """Say what came of each of these, one by one."""
    rows = _sorted(answers)
    return {**_answered(rows.kept), **_timed(rows, answers, queued_s), **_failed(rows.failed, answers)}


def _keys(questions: Questions, positions: Any) -> pa.Array:
    """Give the keys; a row that was not asked has none."""
    asked = ~(np.frombuffer(questions.skipped, np.bool_) | np.frombuffer(questions.unread, np.bool_))
    asked[list(questions.wrong)] = False
    there = asked[positions // max(1, questions.step)]
    bits = None if there.all() else pa.py_buffer(np.packbits(there, bitorder="little"))
    keys = np.frombuffer(questions.keys, f"V{KEY_BYTES}")[positions]
    return pa.Array.from_buffers(pa.binary(KEY_BYTES), len(positions), [bits, pa.py_buffer(keys.tobytes())])


def _sorted(answers: Sequence[Settled | None]) -> _Rows:
    """Put every answer into its list."""
    kept: list[StoredResponse | None] = []
    failed: list[LLMError | None] = []
    calls: list[Answer] = []
    for answer in answers:
        if isinstance(answer, Answer):
            good = is_successful(answer.outcome)
            kept.append(kept_form(answer) if good else None)
            failed.append(None if good else answer.outcome.failure())
            calls.append(answer)
        else:
            kept.append(answer)
            failed.append(None)
            calls.append(NO_ANSWER)
    return _Rows(kept, failed, calls)


def _asked(questions: Questions, positions: Any, which: Any) -> dict[str, pa.Array]:
    """Say of each position which row, sample, provider and model it is."""
    targets = [one.target for one in questions.asks]
    return {
        "row": pa.array(positions // max(1, questions.step), pa.int64()),
        "sample": pa.array((positions % questions.samples).astype(np.int32)),
        "provider": _named(which, [target.provider.name for target in targets]),
        "model": _named(which, [target.model for target in targets]),
    }


def _named(which: Any, words: list[str]) -> pa.Array:
    """Make a dictionary column in which equal words are one entry."""
    distinct = list(dict.fromkeys(words))
    places = np.array([distinct.index(word) for word in words], dtype=np.int32)
    return pa.DictionaryArray.from_arrays(places[which] if words else which, pa.array(distinct, pa.string()))


def _timed(rows: _Rows, answers: Sequence[Settled | None], queued_s: Sequence[float]) -> dict[str, pa.Array]:
    """Say how long everything took; a hit keeps the provider's time of the original call, and waited for nothing."""
    hits = [isinstance(answer, StoredResponse) or (answer is not None and answer.cache_hit) for answer in answers]
    sources = [kept if kept is not None else call for kept, call in zip(rows.kept, rows.calls, strict=True)]
    started = [int(source.started_at * MICRO) if source.started_at else None for source in sources]
    floats = {
        "latency_s": [source.latency_s for source in sources],
        "ttft_s": [source.ttft_s for source in sources],
        "queue_s": [waited if call.attempts else None for waited, call in zip(queued_s, rows.calls, strict=True)],
        "rate_wait_s": [0.0 if call.rate_wait_s is None and call.attempts else call.rate_wait_s for call in rows.calls],
        "total_s": [
            None if call.total_s is None else call.total_s + waited
            for waited, call in zip(queued_s, rows.calls, strict=True)
        ],
    }
    return {
        **{name: pa.array(values, pa.float64()) for name, values in floats.items()},
        "attempts": pa.array([call.attempts for call in rows.calls], pa.int16()),
        "cache_hit": pa.array(hits, pa.bool_()),
        "dropped_params": pa.array([source.dropped for source in sources], pa.list_(pa.string())),
        "started_at": pa.array(started, pa.int64()).cast(pa.timestamp("us", tz="UTC")),
    }


def _answered(kept: Sequence[StoredResponse | None]) -> dict[str, pa.Array]:
    """Say what the models answered."""
    counts = zip(*(NO_COUNTS if one is None else one.usage for one in kept), strict=True) if kept else [()] * 5
    usage = {name: pa.array(values, pa.int64()) for name, values in zip(Tokens.__slots__, counts, strict=True)}
    return {
        "response": pa.array([None if one is None else _text(one) for one in kept], pa.string()),
        "served_model": pa.array([one.served_model or None if one else None for one in kept], pa.string()),
        "request_id": pa.array([one.request_id or None if one else None for one in kept], pa.string()),
        "finish_reason": pa.array([one.finish_reason if one else None for one in kept], pa.string()),
        "tool_calls": pa.array([_calls(one) for one in kept], RESULTS.field("tool_calls").type),
        **usage,
    }


def _parsed(questions: Questions, which: Any, responses: pa.ChunkedArray) -> pa.Array:
    """Give each answer that a schema was asked of as JSON text; null where it is none, or nothing was asked of it."""
    wanted = [one.request.response_schema is not None for one in questions.asks]
    if not any(wanted):
        return pa.nulls(len(responses), pa.string())
    texts = [
        json_in(text) if text is not None and wanted[target] else None
        for target, text in zip(which.tolist(), responses.to_pylist(), strict=True)
    ]
    return pa.array(texts, pa.string())


NO_COUNTS: Final = (None, None, None, None, None)


def _text(kept: StoredResponse) -> str:
    return kept.parts if isinstance(kept.parts, str) else text_of(parts_of(kept.parts))


def _calls(kept: StoredResponse | None) -> list[dict[str, str]] | None:
    if kept is None:
        return None
    if isinstance(kept.parts, str):
        return []
    calls = (part for part in parts_of(kept.parts) if isinstance(part, ToolCall))
    return [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in calls]


def _failed(errors: Sequence[LLMError | None], answers: Sequence[Settled | None]) -> dict[str, pa.Array]:
    """Say what became of each row, and why."""
    status = [
        "skipped" if answer is None else "ok" if error is None else _status(error)
        for error, answer in zip(errors, answers, strict=True)
    ]
    return {
        "status": pa.array(status, pa.string()),
        "error_type": pa.array([None if error is None else kind(error) for error in errors], pa.string()),
        "error": pa.array([None if error is None else str(error) for error in errors], pa.string()),
    }


STATUS: Final[Mapping[type[LLMError], str]] = {Cancelled: "cancelled", BudgetExceeded: "budget"}
"""Failures that are no fault of anybody's; every other is an ``error``."""


def _status(error: LLMError) -> str:
    return STATUS.get(type(error), "error")


def _signed(served: pa.ChunkedArray, elsewhere: Mapping[int, Target]) -> pa.ChunkedArray:
    """Have rows that another answered than was asked say who: ``provider/model``."""
    if not elsewhere:
        return served
    names = served.to_pylist()
    for position, target in elsewhere.items():
        names[position] = f"{target.provider.name}/{names[position] or target.model}"
    return pa.chunked_array([pa.array(names, pa.string())])


def _priced(
    targets: Sequence[Target], asked: Any, columns: Columns, elsewhere: Mapping[int, Target], at: float
) -> dict[str, pa.Array]:
    """Say what each answer is worth, and what was paid for it now: at the price of who answered."""
    served, which = _served(len(targets), asked, columns)
    prices = [_price(targets[target], name, at) for target, name in served]
    if elsewhere:
        places = which.to_pylist()
        whose: dict[tuple[str, str], int] = {}
        for position, target in elsewhere.items():
            if places[position] is not None:
                pair = (target.name, served[places[position]][1])
                if pair not in whose:
                    whose[pair] = len(prices)
                    prices.append(_price(target, pair[1], at))
                places[position] = whose[pair]
        which = pa.array(places, pa.int64())
    named = pa.array([price.price_id if price else None for price in prices], pa.string())
    worth = cost_columns(Tokens(**{name: columns[name] for name in Tokens.__slots__}), prices, which)
    nothing = from_nanos(np.zeros(len(which), np.int64))
    return {
        "list_cost_usd": worth,
        "cost_usd": pc.if_else(columns["cache_hit"].combine_chunks(), nothing, worth),
        "price_id": named.take(which),
    }


def _with_spent(costs: pa.Array, answers: Sequence[Settled | None], at: float) -> pa.Array:
    """Add what failed attempts cost, at the price of whoever was asked; a row that only failed cost just that."""
    spent = [(position, one) for position, one in enumerate(answers) if isinstance(one, Answer) and one.spent]
    if not spent:
        return costs
    nanos = to_nanos(costs)
    known = costs.is_valid().to_numpy(zero_copy_only=False).copy()
    for position, call in spent:
        paid = [nano_usd(one.usage, found) if (found := _price(one.target, "", at)) else None for one in call.spent]
        known[position] |= not is_successful(call.outcome)
        known[position] &= None not in paid
        nanos[position] += sum(filter(None, paid))
    return from_nanos(nanos, known)


def _served(lanes: int, asked: Any, columns: Columns) -> tuple[list[tuple[int, str]], pa.Array]:
    """Name the pairs of a target and the model that served it, and say which of them each position is, if any."""
    models = columns["served_model"].combine_chunks().dictionary_encode()
    names = [*models.dictionary.to_pylist(), ""]
    name = np.asarray(models.indices.fill_null(len(names) - 1), np.int64)
    many = max(1, lanes)
    pair = asked.astype(np.int64) * len(names) + name
    there = np.asarray(pc.equal(columns["status"].combine_chunks(), "ok"))
    taken = np.flatnonzero(np.bincount(pair[there], minlength=many * len(names)))
    place = np.zeros(many * len(names), np.int64)
    place[taken] = np.arange(len(taken))
    served = [(one // len(names), names[one % len(names)]) for one in taken.tolist()]
    return served, pa.array(place[pair], mask=~there)


def _price(target: Target, served: str, at: float) -> Price | None:
    return price_served(target.provider.name, target.model, served, datetime.fromtimestamp(at, UTC))


def total_usd(column: pa.ChunkedArray) -> str:
    """Sum a money column exactly, as text; what is unknown is left out.

    Examples
    --------
    >>> from decimal import Decimal
    >>> total_usd(pa.chunked_array([pa.array([Decimal("0.1"), None], pa.decimal128(18, 9))]))
    '0.100000000'
    """
    nanos = sum(to_nanos(column).tolist())
    return f"{nanos // 10**9}.{nanos % 10**9:09d}"
