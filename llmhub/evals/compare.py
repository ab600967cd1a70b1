"""The same rows through every model, and what can be said of the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.api import current_hub
from llmhub.api.options import TableOptions
from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.types import JSON
from llmhub.evals.comparison import Comparison, Design
from llmhub.evals.contrast import Settings, Test
from llmhub.evals.findings import Graded, compared
from llmhub.evals.grading import Failures, Scored
from llmhub.evals.inputs import (
    Plan,
    Scoring,
    clusters_of,
    dispatched,
    expect_inputs,
    expect_judges,
    first_of_rows,
    of_long,
    of_wide,
    scored_all,
    whole_rows,
)
from llmhub.evals.judging import Judge
from llmhub.evals.layout import Layout, layout
from llmhub.evals.score import Scorer, identity
from llmhub.evals.statistics import scipy
from llmhub.hub import Hub
from llmhub.tables import frames

Names: TypeAlias = str | Sequence[str]


class CompareOptions(TableOptions, total=False):
    """What a comparison takes besides: see `compare`."""

    scores: Names
    group: str
    target: str
    failures: Failures
    level: float
    power: float
    resamples: int
    random_state: int
    test: Test


def compare(
    frame: Any,
    prompt: str | None = None,
    *,
    models: Names = (),
    scorers: Scoring | Sequence[Scoring] = (),
    hub: Hub | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Put the same rows to every model, score the answers, and say what can be said of the difference.

    Rows are sent in an order drawn by ``random_state``, each to all models in turn, so that the time of day favours
    none; results come in the order of the frame. Answers from a cache stay out of the times.

    Parameters
    ----------
    frame
        Input rows, as for `complete_table`. Without a prompt: a results table that is ready, with the columns ``row``
        and ``model``; or a table of scores with a column for each of ``models``.
    prompt
        A template over its columns.
    models
        Whom to ask, as ``provider/model``.
    scorers
        `Scorer` and `Judge` values; the first is the one that models are ranked by.
    hub
        Who can be asked; the default hub unless given. Judges are asked through it too.
    **options
        Those of `complete_table` (``n``, ``stream=True`` for times to the first token, ``temperature``, ...), and:
        ``scores``, columns of a ready table that hold scores; ``group``, a column whose equal values are one cluster;
        ``target``, the column that answers are held against; ``failures``, ``"wrong"`` to count a failed row as the
        worst score or ``"left_out"``; ``level`` of the intervals and tests (0.95); ``power`` (0.8); ``resamples``
        (10,000); ``random_state`` (0); ``test``, ``"permutation"`` or ``"wilcoxon"``, for what is not plain right or
        wrong.

    Returns
    -------
    Comparison
        Each model's figures and each pair's difference, as Arrow tables.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: what is absent, given twice or out of range, by its name.

    Examples
    --------
    >>> found = compare({"small": [1, 0, 1, 1], "large": [1, 1, 1, 1]}, models=["small", "large"])
    >>> found.pairs.column("difference").to_pylist(), found.pairs.column("tied").to_pylist()
    ([-0.25], [True])
    """
    whole = dict(options)
    plan = planned(whole)
    given = (scorers,) if isinstance(scorers, (Scorer, Judge)) else tuple(scorers)
    names = (models,) if isinstance(models, str) else tuple(models)
    hub = hub or (current_hub() if prompt is not None or any(isinstance(each, Judge) for each in given) else None)
    expect_scorers(given, hub)
    if prompt is None:
        refuse_rest(whole)
        return _of_ready(frames.arrow(frame), names, given, hub, plan)
    return asked_of(frame, prompt, names, given, (hub or current_hub()), plan, whole)


def asked_of(
    frame: Any,
    prompt: Any,
    models: Sequence[str],
    scorers: Sequence[Scoring],
    hub: Hub,
    plan: Plan,
    options: dict[str, Any],
) -> Comparison:
    """Ask, score and compare."""
    source = frames.arrow(frame)
    expect_inputs(source, scorers, plan)
    if plan.scores:
        said = f"{plan.scores[0]!r}: answers are not there yet; give scorers= to score them"
        raise InvalidRequestError(InvalidRequest(path="scores", message=said))
    expect_judges(source, scorers, hub)
    rows = whole_rows(source, plan)
    clusters = clusters_of(rows, plan.group)
    table = dispatched(source, prompt, models, hub, plan.settings.seed, options)
    where = layout(table, models)
    scored, said_by = scored_all(table, where, rows, scorers, plan, hub)
    design = _design(where, scored, scorers, plan, prompt if isinstance(prompt, str) else repr(prompt))
    return compared(Graded(table, where, scored, said_by, clusters), replace(design, n=int(options.get("n", 1))))


def _of_ready(
    source: Any, models: Sequence[str], scorers: Sequence[Scoring], hub: Hub | None, plan: Plan
) -> Comparison:
    """Score, if asked to, and compare what is there."""
    if "model" in frames.names(source):
        table = of_long(source)
        if models:
            table = table.filter(pc.is_in(_named(table), pa.array(models)))
    else:
        table, plan = of_wide(source, models, plan)
    expect_inputs(table, scorers, plan)
    frames.expect_columns(plan.scores, table, "scores")
    if scorers:
        frames.expect_columns(("response",), table, "frame")
        expect_judges(table, scorers, hub)
    if not (scorers or plan.scores):
        said = "nothing is scored; give scores= for columns that hold scores, or scorers= to score the answers"
        raise InvalidRequestError(InvalidRequest(path="scores", message=said))
    where = layout(table, models)
    first = first_of_rows(table, where)
    rows = whole_rows(first, plan) if scorers else []
    clusters = None
    if plan.group is not None:
        clusters = clusters_of([{plan.group: each} for each in frames.column(first, plan.group)], plan.group)
    scored, said_by = scored_all(table, where, rows, scorers, plan, hub)
    design = _design(where, scored, scorers, plan, None)
    each = np.bincount(where.row * len(where.models) + where.which)
    return compared(Graded(table, where, scored, said_by, clusters), replace(design, n=int(each.max(initial=1))))


def _named(table: pa.Table) -> pa.Array:
    """Name each answer's model as a user types it."""
    model = table.column("model").cast(pa.string())
    if "provider" not in table.column_names:
        return model
    return pc.binary_join_element_wise(table.column("provider").cast(pa.string()), model, "/")


def _design(
    where: Layout, scored: Sequence[Scored], scorers: Sequence[Scoring], plan: Plan, prompt: str | None
) -> Design:
    """Say how it was made."""
    known = {one.name: identity(one) for one in scorers}
    plain: dict[str, JSON] = {"version": "", "parameters": {}}
    return Design(
        models=where.names,
        scorers=tuple(known.get(one.name, {"name": one.name, **plain}) for one in scored),
        prompt=prompt,
        group=plan.group,
        target=plan.target,
        failures=plan.failures,
        settings=plan.settings,
    )


def planned(options: dict[str, Any]) -> Plan:
    """Take out of options what shapes the comparison.

    Raises
    ------
    InvalidRequestError
        A value is out of range, or scipy is not installed.
    """
    scipy("stats")  # said here where it is absent, not when answers are paid for
    scores = options.pop("scores", ())
    given = {name: options.pop(name) for name in ("group", "target", "failures") if name in options}
    named = {"level": "level", "power": "power", "resamples": "resamples", "random_state": "seed", "test": "test"}
    settings = Settings(**{own: options.pop(name) for name, own in named.items() if name in options})
    plan = Plan(scores=(scores,) if isinstance(scores, str) else tuple(scores), settings=settings, **given)
    checks = (
        ("level", settings.level, 0 < settings.level < 1, "a share such as 0.95"),
        ("power", settings.power, 0 < settings.power < 1, "a share such as 0.8"),
        ("resamples", settings.resamples, settings.resamples >= 100, "a whole number from 100"),  # noqa: PLR2004
        ("random_state", settings.seed, settings.seed >= 0, "a whole number from 0"),
        ("test", settings.test, settings.test in {"permutation", "wilcoxon"}, "'permutation' or 'wilcoxon'"),
        ("failures", plan.failures, plan.failures in {"wrong", "left_out"}, "'wrong' or 'left_out'"),
        ("on_error", options.get("on_error"), options.get("on_error", "row") == "row", "'row': failures are counted"),
    )
    for path, value, good, remedy in checks:
        if not good:
            raise InvalidRequestError(InvalidRequest(path=path, message=f"{value!r} cannot be used; give {remedy}"))
    return plan


def expect_scorers(scorers: Sequence[Scoring], hub: Hub | None) -> None:
    """Refuse what is no scorer, two of one name, and a judge that cannot be asked."""
    known: set[str] = set()
    for one in scorers:
        given: object = one
        if not isinstance(given, (Scorer, Judge)):
            said = f"{one!r:.80} is no scorer; give one of llmhub.scorers, or make one with @llmhub.scorer(name)"
            raise InvalidRequestError(InvalidRequest(path="scorers", message=said))
        if one.name in known:
            said = f"two scorers are named {one.name!r}; give one another name"
            raise InvalidRequestError(InvalidRequest(path="scorers", message=said))
        known.add(one.name)
        if isinstance(one, Judge) and hub is not None:
            hub.target(one.model)


def refuse_rest(options: Mapping[str, Any]) -> None:
    """Refuse options of asking where nothing is asked."""
    if options:
        said = "a table that is ready is not asked again; give a prompt, or leave this out"
        raise InvalidRequestError(InvalidRequest(path=next(iter(options)), message=said))
