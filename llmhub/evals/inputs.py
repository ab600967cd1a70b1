"""What goes into a comparison: a frame asked in a drawn order, or a table that is ready; rows as scorers see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from llmhub.api.frames import complete_table
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.evals.contrast import Settings
from llmhub.evals.grading import Answers, Failures, Scored, grade, ready, rows_of, settled
from llmhub.evals.judging import OWN, Judge, Judged, judged
from llmhub.evals.layout import Layout, codes, numbers
from llmhub.evals.resample import Longs
from llmhub.evals.score import TARGET, Scorer
from llmhub.hub import Hub
from llmhub.tables import frames

Scoring = Scorer | Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How answers are scored and compared, apart from how they are had: see `Design` and `compare`."""

    scores: tuple[str, ...] = ()
    group: str | None = None
    target: str | None = None
    failures: Failures = "wrong"
    settings: Settings = field(default_factory=Settings)


def expect_inputs(source: Any, scorers: Sequence[Scoring], plan: Plan) -> None:
    """Refuse what names a column that is not there, before anything is sent."""
    for argument, name in (("group", plan.group), ("target", plan.target)):
        if name is not None:
            frames.expect_columns((name,), source, argument)
    for one in scorers:
        if isinstance(one, Scorer):
            wanted = [name for name in one.columns if name != TARGET or plan.target is None]
            if TARGET in wanted and TARGET not in frames.names(source):
                said = f"{one.name!r} holds answers against a column {TARGET!r}, which is not there; give target='...'"
                raise InvalidRequestError(InvalidRequest(path="target", message=said))
            frames.expect_columns(wanted, source, f"scorers[{one.name!r}]")


def expect_judges(source: Any, scorers: Sequence[Scoring], hub: Hub | None) -> None:
    """Refuse a judge that could not be asked, before anything is paid for, by putting no question to it."""
    for one in scorers:
        if isinstance(one, Judge):
            names = dict.fromkeys((*frames.names(source), TARGET, *OWN))
            _ask(one, pa.table({name: pa.array([], pa.string()) for name in names}), hub)


def dispatched(
    frame: Any, prompt: Any, models: Sequence[str], hub: Hub, seed: int, options: Mapping[str, Any]
) -> pa.Table:
    """Ask rows in an order that a seed draws, and give the results in the order of the frame."""
    source = frames.arrow(frame)
    size = len(source)
    order = np.random.default_rng(seed).permutation(size)
    drawn = source.iloc[order] if frames.is_pandas(source) else source.take(pa.array(order))
    asked = complete_table(drawn, prompt, model=list(models), hub=hub, **options)
    each = len(asked) // size if size else 0
    places = (np.argsort(order)[:, None] * each + np.arange(each)).ravel()
    found = asked.take(pa.array(places))
    row = pa.array(np.repeat(np.arange(size, dtype=np.int64), each))
    at = found.column_names.index("row")
    return found.set_column(at, found.schema.field("row"), row).replace_schema_metadata(asked.schema.metadata)


def whole_rows(source: Any, plan: Plan) -> list[dict[str, Any]]:
    """Give a frame's rows as scorers see them."""
    columns = {name: frames.column(source, name) for name in dict.fromkeys(frames.names(source))}
    return rows_of(columns, plan.target) if columns else [{}] * len(source)


def clusters_of(rows: Sequence[Mapping[str, Any]], group: str | None) -> Longs | None:
    """Give each row's cluster.

    Raises
    ------
    InvalidRequestError
        A row is of no group.
    """
    if group is None:
        return None
    values = [row[group] for row in rows]
    if None in values:
        said = f"{group!r} is missing in row {values.index(None)}; each row needs a group of its own or another's"
        raise InvalidRequestError(InvalidRequest(path="group", message=said))
    return codes([value if value.__hash__ else repr(value) for value in values])


def of_wide(source: Any, models: Sequence[str], plan: Plan) -> tuple[pa.Table, Plan]:
    """Bring a table with a column of scores for each model to one row for each score.

    Raises
    ------
    InvalidRequestError
        A model is no column, or none is given.
    """
    if not models:
        said = "without a prompt, give a results table with a column 'model', or models= for columns that hold scores"
        raise InvalidRequestError(InvalidRequest(path="models", message=said))
    frames.expect_columns(models, source, "models")
    if plan.scores:
        said = f"{plan.scores[0]!r}: the columns of models= hold the scores; leave scores= out"
        raise InvalidRequestError(InvalidRequest(path="scores", message=said))
    kept = _table(source)
    size, many = len(kept), len(models)
    row = np.repeat(np.arange(size), many)
    which = pa.DictionaryArray.from_arrays(np.tile(np.arange(many, dtype=np.int32), size), list(models))
    scores = pa.array(np.concatenate([numbers(kept, name) for name in models]), from_pandas=True)
    columns = {"row": pa.array(row), "model": which, "score": scores.take(pa.array(_across(size, many)))}
    if plan.group is not None:
        columns[plan.group] = kept.column(plan.group).take(pa.array(row))
    return pa.table(columns), replace(plan, scores=("score",))


def _across(size: int, many: int) -> Longs:
    """Say where, in columns laid end to end, each value of a table read row by row is."""
    return np.arange(size * many).reshape(many, size).T.ravel()


def of_long(source: Any) -> pa.Table:
    """Give a results table as an Arrow table."""
    return _table(source)


def _table(source: Any) -> pa.Table:
    return pa.Table.from_pandas(source, preserve_index=False) if frames.is_pandas(source) else source


def first_of_rows(table: pa.Table, where: Layout) -> pa.Table:
    """Give the first answer's line of each row: what a ready table says of the row itself."""
    _, first = np.unique(where.row, return_index=True)
    return table.take(pa.array(first))


def scored_all(
    table: pa.Table,
    where: Layout,
    rows: Sequence[Mapping[str, Any]],
    scorers: Sequence[Scoring],
    plan: Plan,
    hub: Hub | None,
) -> tuple[list[Scored], list[tuple[Judge, Judged]]]:
    """Have every scorer score every answer; judges are asked through the hub."""
    found = [settled(ready(table, name), table, plan.failures) for name in plan.scores]
    said: list[tuple[Judge, Judged]] = []
    responses = table.column("response").to_pylist() if scorers else []
    answers = Answers(responses, where, rows, frozenset({TARGET, *([plan.target] if plan.target else ())}))
    for one in scorers:
        if isinstance(one, Judge):
            verdict = judged(one, answers, lambda each, asked: _ask(each, asked, hub))
            said.append((one, verdict))
            scored = verdict.scored
        else:
            scored = grade(one, answers)
        found.append(settled(scored, table, plan.failures, one.worst))
    return found, said


def _ask(one: Judge, questions: pa.Table, hub: Hub | None) -> pa.Table:
    return complete_table(
        questions, one.prompt, model=one.model, hub=hub, **{"progress": False, **one.options, "n": one.n}
    )
