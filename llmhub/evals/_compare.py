"""The same rows through every model, and what can be said of the difference.

What goes into a comparison: a frame asked in a drawn order, or a table that is ready; rows as scorers see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.api import current_hub
from llmhub.api.options import TableOptions
from llmhub.api.tables import complete_table
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.evals._scorer import TARGET, Scorer, identity
from llmhub.evals.analysis import ScoredTable, build_comparison
from llmhub.evals.comparison import AnalysisSettings, Comparison, ComparisonDesign, PairedTest
from llmhub.evals.judge import JUDGE_FIELDS, Judge, JudgeOutcome, ScorerOrJudge, run_judge
from llmhub.evals.scoring import (
    FailurePolicy,
    ResponseLayout,
    ScorerResult,
    ScoringInput,
    apply_failure_policy,
    encode_categories,
    make_input_rows,
    numeric_column,
    read_layout,
    score_responses,
    scores_from_column,
)
from llmhub.evals.statistics import IntArray, import_scipy
from llmhub.hub import Hub
from llmhub.tables import frames

NameOrNames: TypeAlias = str | Sequence[str]


class CompareOptions(TableOptions, total=False):
    """What a comparison takes besides: see `compare`."""

    scores: NameOrNames
    group: str
    target: str
    failures: FailurePolicy
    level: float
    power: float
    resamples: int
    random_state: int
    test: PairedTest


def compare(
    frame: Any,
    prompt: str | None = None,
    *,
    models: NameOrNames = (),
    scorers: ScorerOrJudge | Sequence[ScorerOrJudge] = (),
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
    plan = pop_scoring_plan(whole)
    given = (scorers,) if isinstance(scorers, (Scorer, Judge)) else tuple(scorers)
    names = (models,) if isinstance(models, str) else tuple(models)
    hub = hub or (current_hub() if prompt is not None or any(isinstance(each, Judge) for each in given) else None)
    check_scorers(given, hub)
    if prompt is None:
        reject_unused_options(whole)
        return _of_ready(frames.pandas_or_arrow(frame), names, given, hub, plan)
    return run_comparison(frame, prompt, names, given, (hub or current_hub()), plan, whole)


def run_comparison(
    frame: Any,
    prompt: Any,
    models: Sequence[str],
    scorers: Sequence[ScorerOrJudge],
    hub: Hub,
    plan: ScoringPlan,
    options: dict[str, Any],
) -> Comparison:
    """Ask, score and compare."""
    source = frames.pandas_or_arrow(frame)
    check_columns(source, scorers, plan)
    if plan.scores:
        said = f"{plan.scores[0]!r}: answers are not there yet; give scorers= to score them"
        raise BadRequestError(InvalidRequest(path="scores", message=said))
    check_judges(source, scorers, hub)
    rows = input_rows(source, plan)
    clusters = cluster_codes(rows, plan.group)
    table = complete_in_random_order(source, prompt, models, hub, plan.settings.seed, options)
    where = read_layout(table, models)
    scored, said_by = score_all(table, where, rows, scorers, plan, hub)
    design = _design(where, scored, scorers, plan, prompt if isinstance(prompt, str) else repr(prompt))
    return build_comparison(
        ScoredTable(table, where, scored, said_by, clusters), replace(design, n=int(options.get("n", 1)))
    )


def _of_ready(
    source: Any, models: Sequence[str], scorers: Sequence[ScorerOrJudge], hub: Hub | None, plan: ScoringPlan
) -> Comparison:
    """Score, if asked to, and compare what is there."""
    if "model" in frames.column_names(source):
        table = to_arrow(source)
        if models:
            table = table.filter(pc.is_in(_named(table), pa.array(models)))
    else:
        table, plan = wide_to_long(source, models, plan)
    check_columns(table, scorers, plan)
    frames.require_columns(plan.scores, table, "scores")
    if scorers:
        frames.require_columns(("response",), table, "frame")
        check_judges(table, scorers, hub)
    if not (scorers or plan.scores):
        said = "nothing is scored; give scores= for columns that hold scores, or scorers= to score the answers"
        raise BadRequestError(InvalidRequest(path="scores", message=said))
    where = read_layout(table, models)
    first = first_response_per_row(table, where)
    rows = input_rows(first, plan) if scorers else []
    clusters = None
    if plan.group is not None:
        clusters = cluster_codes([{plan.group: each} for each in frames.column_values(first, plan.group)], plan.group)
    scored, said_by = score_all(table, where, rows, scorers, plan, hub)
    design = _design(where, scored, scorers, plan, None)
    each = np.bincount(where.row_index * len(where.models) + where.model_index)
    return build_comparison(
        ScoredTable(table, where, scored, said_by, clusters), replace(design, n=int(each.max(initial=1)))
    )


def _named(table: pa.Table) -> pa.Array:
    """Name each answer's model as a user types it."""
    model = table.column("model").cast(pa.string())
    if "provider" not in table.column_names:
        return model
    return pc.binary_join_element_wise(table.column("provider").cast(pa.string()), model, "/")


def _design(
    where: ResponseLayout,
    scored: Sequence[ScorerResult],
    scorers: Sequence[ScorerOrJudge],
    plan: ScoringPlan,
    prompt: str | None,
) -> ComparisonDesign:
    """Say how it was made."""
    known = {one.name: identity(one) for one in scorers}
    plain: dict[str, JSON] = {"version": "", "parameters": {}}
    return ComparisonDesign(
        models=where.model_names,
        scorers=tuple(known.get(one.name, {"name": one.name, **plain}) for one in scored),
        prompt=prompt,
        group=plan.group,
        target=plan.target,
        failures=plan.failures,
        settings=plan.settings,
    )


def pop_scoring_plan(options: dict[str, Any]) -> ScoringPlan:
    """Take out of options what shapes the comparison.

    Raises
    ------
    InvalidRequestError
        A value is out of range, or scipy is not installed.
    """
    import_scipy("stats")  # said here where it is absent, not when answers are paid for
    scores = options.pop("scores", ())
    given = {name: options.pop(name) for name in ("group", "target", "failures") if name in options}
    named = {"level": "level", "power": "power", "resamples": "resamples", "random_state": "seed", "test": "test"}
    settings = AnalysisSettings(**{own: options.pop(name) for name, own in named.items() if name in options})
    plan = ScoringPlan(scores=(scores,) if isinstance(scores, str) else tuple(scores), settings=settings, **given)
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
            raise BadRequestError(InvalidRequest(path=path, message=f"{value!r} cannot be used; give {remedy}"))
    return plan


def check_scorers(scorers: Sequence[ScorerOrJudge], hub: Hub | None) -> None:
    """Refuse what is no scorer, two of one name, and a judge that cannot be asked."""
    known: set[str] = set()
    for one in scorers:
        given: object = one
        if not isinstance(given, (Scorer, Judge)):
            said = f"{one!r:.80} is no scorer; give one of llmhub.scorers, or make one with @llmhub.scorer(name)"
            raise BadRequestError(InvalidRequest(path="scorers", message=said))
        if one.name in known:
            said = f"two scorers are named {one.name!r}; give one another name"
            raise BadRequestError(InvalidRequest(path="scorers", message=said))
        known.add(one.name)
        if isinstance(one, Judge) and hub is not None:
            hub.target(one.model)


def reject_unused_options(options: Mapping[str, Any]) -> None:
    """Refuse options of asking where nothing is asked."""
    if options:
        said = "a table that is ready is not asked again; give a prompt, or leave this out"
        raise BadRequestError(InvalidRequest(path=next(iter(options)), message=said))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """How answers are scored and compared, apart from how they are had: see `ComparisonDesign` and `compare`."""

    scores: tuple[str, ...] = ()
    group: str | None = None
    target: str | None = None
    failures: FailurePolicy = "wrong"
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)


def check_columns(source: Any, scorers: Sequence[ScorerOrJudge], plan: ScoringPlan) -> None:
    """Refuse what names a column that is not there, before anything is sent."""
    for argument, name in (("group", plan.group), ("target", plan.target)):
        if name is not None:
            frames.require_columns((name,), source, argument)
    for one in scorers:
        if isinstance(one, Scorer):
            wanted = [name for name in one.columns if name != TARGET or plan.target is None]
            if TARGET in wanted and TARGET not in frames.column_names(source):
                said = f"{one.name!r} holds answers against a column {TARGET!r}, which is not there; give target='...'"
                raise BadRequestError(InvalidRequest(path="target", message=said))
            frames.require_columns(wanted, source, f"scorers[{one.name!r}]")


def check_judges(source: Any, scorers: Sequence[ScorerOrJudge], hub: Hub | None) -> None:
    """Refuse a judge that could not be asked, before anything is paid for, by putting no question to it."""
    for one in scorers:
        if isinstance(one, Judge):
            names = dict.fromkeys((*frames.column_names(source), TARGET, *JUDGE_FIELDS))
            _ask(one, pa.table({name: pa.array([], pa.string()) for name in names}), hub)


def complete_in_random_order(
    frame: Any, prompt: Any, models: Sequence[str], hub: Hub, seed: int, options: Mapping[str, Any]
) -> pa.Table:
    """Ask rows in an order that a seed draws, and give the results in the order of the frame."""
    source = frames.pandas_or_arrow(frame)
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


def input_rows(source: Any, plan: ScoringPlan) -> list[dict[str, Any]]:
    """Give a frame's rows as scorers see them."""
    columns = {name: frames.column_values(source, name) for name in dict.fromkeys(frames.column_names(source))}
    return make_input_rows(columns, plan.target) if columns else [{}] * len(source)


def cluster_codes(rows: Sequence[Mapping[str, Any]], group: str | None) -> IntArray | None:
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
        raise BadRequestError(InvalidRequest(path="group", message=said))
    return encode_categories([value if value.__hash__ else repr(value) for value in values])


def wide_to_long(source: Any, models: Sequence[str], plan: ScoringPlan) -> tuple[pa.Table, ScoringPlan]:
    """Bring a table with a column of scores for each model to one row for each score.

    Raises
    ------
    InvalidRequestError
        A model is no column, or none is given.
    """
    if not models:
        said = "without a prompt, give a results table with a column 'model', or models= for columns that hold scores"
        raise BadRequestError(InvalidRequest(path="models", message=said))
    frames.require_columns(models, source, "models")
    if plan.scores:
        said = f"{plan.scores[0]!r}: the columns of models= hold the scores; leave scores= out"
        raise BadRequestError(InvalidRequest(path="scores", message=said))
    kept = _table(source)
    size, many = len(kept), len(models)
    row = np.repeat(np.arange(size), many)
    which = pa.DictionaryArray.from_arrays(np.tile(np.arange(many, dtype=np.int32), size), list(models))
    scores = pa.array(np.concatenate([numeric_column(kept, name) for name in models]), from_pandas=True)
    columns = {"row": pa.array(row), "model": which, "score": scores.take(pa.array(_across(size, many)))}
    if plan.group is not None:
        columns[plan.group] = kept.column(plan.group).take(pa.array(row))
    return pa.table(columns), replace(plan, scores=("score",))


def _across(size: int, many: int) -> IntArray:
    """Say where, in columns laid end to end, each value of a table read row by row is."""
    return np.arange(size * many).reshape(many, size).T.ravel()


def to_arrow(source: Any) -> pa.Table:
    """Give a results table as an Arrow table."""
    return _table(source)


def _table(source: Any) -> pa.Table:
    return pa.Table.from_pandas(source, preserve_index=False) if frames.is_pandas(source) else source


def first_response_per_row(table: pa.Table, where: ResponseLayout) -> pa.Table:
    """Give the first answer's line of each row: what a ready table says of the row itself."""
    _, first = np.unique(where.row_index, return_index=True)
    return table.take(pa.array(first))


def score_all(
    table: pa.Table,
    where: ResponseLayout,
    rows: Sequence[Mapping[str, Any]],
    scorers: Sequence[ScorerOrJudge],
    plan: ScoringPlan,
    hub: Hub | None,
) -> tuple[list[ScorerResult], list[tuple[Judge, JudgeOutcome]]]:
    """Have every scorer score every answer; judges are asked through the hub."""
    found = [apply_failure_policy(scores_from_column(table, name), table, plan.failures) for name in plan.scores]
    said: list[tuple[Judge, JudgeOutcome]] = []
    responses = table.column("response").to_pylist() if scorers else []
    answers = ScoringInput(responses, where, rows, frozenset({TARGET, *([plan.target] if plan.target else ())}))
    for one in scorers:
        if isinstance(one, Judge):
            verdict = run_judge(one, answers, lambda each, asked: _ask(each, asked, hub))
            said.append((one, verdict))
            scored = verdict.scores
        else:
            scored = score_responses(one, answers)
        found.append(apply_failure_policy(scored, table, plan.failures, one.worst))
    return found, said


def _ask(one: Judge, questions: pa.Table, hub: Hub | None) -> pa.Table:
    return complete_table(
        questions, one.prompt, model=one.model, hub=hub, **{"progress": False, **one.options, "n": one.n}
    )
