"""`compare`: send the same rows to several models, or read a finished table, then score and analyse the responses.

All arguments, judges included, are validated before the first request. Rows are sent in a random order, each to all
models in turn, so that the time of day favours no model; results keep the order of the frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, Final, TypeAlias, Unpack, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.api import current_hub
from llmhub.api.options import TableOptions, as_shared_budget
from llmhub.api.raising import keep_table
from llmhub.api.signatures import renamed_arguments, shows_options
from llmhub.api.tables import complete_table
from llmhub.core.budget import reconcile
from llmhub.core.errors import BudgetExceeded, invalid, to_exception
from llmhub.core.types import JSON
from llmhub.engine.spending import SharedBudget
from llmhub.evals._scorer import TARGET, Scorer, identity
from llmhub.evals.analysis import ScoredTable, build_comparison
from llmhub.evals.comparison import AnalysisSettings, Comparison, ComparisonDesign, PairedTest
from llmhub.evals.judge import JUDGE_FIELDS, Judge, JudgeOutcome, ScorerOrJudge, run_judge
from llmhub.evals.scoring import (
    ERROR,
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
from llmhub.evals.statistics import FloatArray, IntArray, import_scipy
from llmhub.hub import Hub
from llmhub.tables import frames
from llmhub.tables.cost_columns import to_nanos
from llmhub.tables.result_frames import answer_columns, answer_texts, results_table, with_rows
from llmhub.tables.schema import RESULTS

NameOrNames: TypeAlias = str | Sequence[str]


RUN_OPTIONS: Final = frozenset(
    {"n", "n_jobs", "concurrency", "progress", "on_error", "stream", "budget_usd", "allow_unpriced"}
)
"""Options that change no response."""


PLAN_OPTIONS: Final = ("group", "baseline", "target", "response", "failures")


class AnalysisOptions(TableOptions, total=False):
    """Options of `compare` and `evaluate` besides those of `complete_table`."""

    group: str
    baseline: str
    response: str
    failures: FailurePolicy
    level: float
    power: float
    resamples: int
    random_state: int
    test: PairedTest


class CompareOptions(AnalysisOptions, total=False):
    """Options of `compare`."""

    scores: NameOrNames
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringPlan:
    """Options of `compare` that shape scoring and analysis; see `ComparisonDesign`."""

    scores: tuple[str, ...] = ()
    group: str | None = None
    baseline: str | None = None
    target: str | None = None
    response: str | None = None
    failures: FailurePolicy = "wrong"
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)


@renamed_arguments(models="model")
@shows_options(CompareOptions)
def compare(
    frame: Any,
    prompt: str | None = None,
    *,
    model: NameOrNames = (),
    scorers: ScorerOrJudge | Sequence[ScorerOrJudge] = (),
    hub: Hub | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Send the same rows to every model, score the responses, and estimate the differences between models.

    Rows are sent in a random order given by ``random_state``, each to all models in turn, so that the time of day
    favours no model; results keep the order of the frame. Cached responses are excluded from latencies.

    Parameters
    ----------
    frame
        Input rows, as for `complete_table`. Without a prompt: a finished frame of results, or a table of scores with
        one column for each of these models. Of a classified or extracted frame the labels or fields are scored.
    prompt
        Prompt template over the columns.
    model
        Names of the models, as ``provider/model``.
    scorers
        `Scorer` and `Judge` values; models are ranked by the first.
    hub
        Hub that models and judges are called through; the default hub if ``None``.
    **options
        Those of the analysis, and those of `complete_table`.

    Returns
    -------
    Comparison
        Metrics of each model and the difference of each pair, as Arrow tables.

    Raises
    ------
    BadRequestError
        An argument is missing, duplicated or out of range; raised before anything is sent.

    Examples
    --------
    >>> comparison = compare({"small": [1, 0, 1, 1], "large": [1, 1, 1, 1]}, model=["small", "large"])
    >>> comparison.pairs.column("difference").to_pylist(), comparison.pairs.column("significant").to_pylist()
    ([-0.25], [False])
    """
    if isinstance(frame, str):
        raise invalid("frame", f"{frame!r} is a text, not rows; pass the rows first: compare(frame, {frame!r}, ...)")
    remaining = dict(options)
    plan = pop_scoring_plan(remaining)
    # A single value that is no scorer, such as a name or a function, is refused as a whole by `check_scorers`.
    given: Any = scorers
    is_single = isinstance(given, (Scorer, Judge, str)) or callable(given)
    scorer_list: Sequence[ScorerOrJudge] = (given,) if is_single else tuple(given)
    names = (model,) if isinstance(model, str) else tuple(model)
    needs_hub = prompt is not None or any(isinstance(scorer, Judge) for scorer in scorer_list)
    hub = hub or (current_hub() if needs_hub else None)
    check_scorers(scorer_list, hub)
    if prompt is None:
        reject_unused_options(remaining)
        return _compare_finished(frame, names, scorer_list, hub, plan)
    return run_comparison(frame, prompt, names, scorer_list, (hub or current_hub()), plan, remaining)


def run_comparison(
    frame: Any,
    prompt: Any,
    models: Sequence[str],
    scorers: Sequence[ScorerOrJudge],
    hub: Hub,
    plan: ScoringPlan,
    options: dict[str, Any],
) -> Comparison:
    """Send the rows, score the responses and compare the models."""
    source = frames.pandas_or_arrow(frame)
    check_columns(source, scorers, plan)
    for argument, value in (("scores", plan.scores), ("response", plan.response)):
        if value:
            raise invalid(argument, "names a column of a finished table; omit it, or omit the prompt")
    check_judges(source, scorers, hub)
    rows = input_rows(source, plan)
    clusters = cluster_codes(rows, plan.group)
    check_baseline(plan.baseline, models)
    options = dict(options)
    budget = share_budget(options)
    table = complete_in_random_order(source, prompt, models, hub, plan.settings.seed, options)
    _require_answers_fit(table, options.get("budget_usd"))
    with keep_table(table):  # a scorer may raise anything
        layout = read_layout(table, models)
        responses = table.column("response").to_pylist() if scorers else []
        own_budget = remaining_budget(budget, table)
        results, outcomes = score_all(table, layout, rows, scorers, plan, hub, responses, own_budget)
        parameters = {name: value for name, value in options.items() if name not in RUN_OPTIONS}
        design = replace(
            _design(layout, results, scorers, plan), prompt=prompt, parameters=parameters, n=int(options.get("n", 1))
        )
        comparison = build_comparison(ScoredTable(table, layout, results, outcomes, clusters), design)
        return replace(comparison, inputs=frames.to_table(source), hub=hub)


def _compare_finished(
    source: Any, models: Sequence[str], scorers: Sequence[ScorerOrJudge], hub: Hub | None, plan: ScoringPlan
) -> Comparison:
    """Score a finished table, if scorers are given, and compare its models."""
    native = frames.native_frame(source)
    if "model" in frames.column_names(native):
        table = with_rows(results_table(number_rows(frames.to_table(native))), "compare")
        if models:
            table = table.filter(pc.is_in(_full_model_names(table), pa.array(models)))
    else:
        table, plan = wide_to_long(native, models, plan, responses=bool(scorers))
    _check_finished(table, scorers, hub, plan)
    layout = read_layout(table, models)
    check_baseline(plan.baseline, layout.model_names)
    first = first_response_per_row(table, layout)
    rows = input_rows(first, plan) if scorers else []
    clusters = group_clusters(first, plan.group)
    answers = _answer_columns(table, scorers, plan)
    responses = answer_texts(table, answers) if scorers else []
    results, outcomes = score_all(table, layout, rows, scorers, plan, hub, responses)
    samples = np.bincount(layout.row_index * len(layout.models) + layout.model_index)
    design = replace(_design(layout, results, scorers, plan), n=int(samples.max(initial=1)))
    comparison = build_comparison(ScoredTable(table, layout, results, outcomes, clusters), design)
    return replace(comparison, inputs=_own_columns(first, plan, answers), answers=answers, hub=hub)


def number_rows(table: pa.Table) -> pa.Table:
    """Return a results table whose ``row`` is an integer; ids of another kind are numbered and kept as ``row_name``."""
    if "row" not in table.column_names or pa.types.is_integer(table.column("row").type):
        return table
    ids = table.column("row")
    if ids.null_count:
        raise invalid("frame", f"column 'row' has {ids.null_count:,} missing values; fill or drop these rows")
    numbers = encode_categories([value if value.__hash__ else repr(value) for value in ids.to_pylist()])
    numbered = table.set_column(table.column_names.index("row"), "row", pa.array(numbers))
    return numbered if "row_name" in table.column_names else numbered.append_column("row_name", ids)


def _own_columns(rows: pa.Table, plan: ScoringPlan, answers: Sequence[str]) -> pa.Table:
    """Return the input columns of a finished table: neither results, answers nor scores; else the row numbers."""
    others = {*RESULTS.names, *plan.scores, *answers}
    names = [name for name in rows.column_names if name not in others]
    return rows.select(names or ["row"])


def _answer_columns(table: pa.Table, scorers: Sequence[ScorerOrJudge], plan: ScoringPlan) -> tuple[str, ...]:
    """Return the columns with the answers of a finished table: labels or fields, rather than their JSON."""
    if plan.response is not None:
        return (plan.response,)
    read = {name for scorer in scorers if isinstance(scorer, Scorer) for name in scorer.columns}
    columns = answer_columns(table, exclude={*read, *plan.scores, TARGET, plan.target or TARGET, plan.group or TARGET})
    if columns == ("response",) and "parsed" in table.column_names:
        return ("parsed",) if pa.types.is_struct(table.schema.field("parsed").type) else columns
    return columns


def _check_finished(table: pa.Table, scorers: Sequence[ScorerOrJudge], hub: Hub | None, plan: ScoringPlan) -> None:
    check_columns(table, scorers, plan)
    frames.require_columns(plan.scores, table, "scores")
    if scorers:
        frames.require_columns((plan.response or "response",), table, "response" if plan.response else "frame")
        check_judges(table, scorers, hub)
    if not (scorers or plan.scores):
        message = "no scores given; pass scores= for columns with scores, or scorers= to score the responses"
        raise invalid("scores", message)


def _full_model_names(table: pa.Table) -> pa.Array:
    """Return ``provider/model`` of each response."""
    model = table.column("model").cast(pa.string())
    if "provider" not in table.column_names:
        return model
    return pc.binary_join_element_wise(table.column("provider").cast(pa.string()), model, "/")


def _design(
    layout: ResponseLayout,
    results: Sequence[ScorerResult],
    scorers: Sequence[ScorerOrJudge],
    plan: ScoringPlan,
) -> ComparisonDesign:
    identities = {scorer.name: identity(scorer) for scorer in scorers}
    of_column: dict[str, JSON] = {"version": "", "parameters": {}}
    return ComparisonDesign(
        models=layout.model_names,
        scorers=tuple(identities.get(result.name, {"name": result.name, **of_column}) for result in results),
        group=plan.group,
        target=plan.target,
        baseline=plan.baseline,
        failures=plan.failures,
        settings=plan.settings,
    )


# Validation, before anything is sent


def pop_scoring_plan(options: dict[str, Any]) -> ScoringPlan:
    """Remove the options of scoring and analysis from ``options`` and return them as a plan.

    Raises
    ------
    BadRequestError
        A value is out of range, or scipy is not installed.
    """
    import_scipy("stats")  # a missing library must be reported before responses are paid for
    scores = options.pop("scores", ())
    given = {name: options.pop(name) for name in PLAN_OPTIONS if name in options}
    fields = {"level": "level", "power": "power", "resamples": "resamples", "random_state": "seed", "test": "test"}
    settings = AnalysisSettings(**{own: options.pop(name) for name, own in fields.items() if name in options})
    plan = ScoringPlan(scores=(scores,) if isinstance(scores, str) else tuple(scores), settings=settings, **given)
    on_error = options.get("on_error", "row")
    checks = (
        ("level", settings.level, _is_share(settings.level), "a share such as 0.95"),
        ("power", settings.power, _is_share(settings.power), "a share such as 0.8"),
        ("resamples", settings.resamples, _is_integer_from(settings.resamples, 100), "an integer >= 100"),
        ("random_state", settings.seed, _is_integer_from(settings.seed, 0), "an integer >= 0"),
        ("test", settings.test, settings.test in get_args(PairedTest), "'studentised', 'permutation' or 'wilcoxon'"),
        ("failures", plan.failures, plan.failures in get_args(FailurePolicy), "'wrong' or 'left_out'"),
        ("group", plan.group, plan.group is None or isinstance(plan.group, str), "the name of one column"),
        ("target", plan.target, plan.target is None or isinstance(plan.target, str), "the name of one column"),
        ("on_error", on_error, on_error == "row", "'row', since failures are part of the comparison"),
    )
    for path, value, is_valid, remedy in checks:
        if not is_valid:
            raise invalid(path, f"{value!r} is not valid; pass {remedy}")
    return plan


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < 1


def _is_integer_from(value: Any, lowest: int) -> bool:
    return isinstance(value, Integral) and int(value) >= lowest


def check_scorers(scorers: Sequence[ScorerOrJudge], hub: Hub | None) -> None:
    """Raise if a value is not a scorer, if two have the same name, or if a judge's model is unknown to the hub."""
    names: set[str] = set()
    for scorer in scorers:
        value: object = scorer
        if not isinstance(value, (Scorer, Judge)):
            message = (
                f"{scorer!r:.80} is not a scorer; pass one of llmhub.evals.scorers, or use @llmhub.evals.scorer(name)"
            )
            raise invalid("scorers", message)
        if scorer.name in names:
            raise invalid("scorers", f"two scorers are named {scorer.name!r}; rename one of them")
        names.add(scorer.name)
        if isinstance(scorer, Judge) and hub is not None:
            hub.target(scorer.model)


def check_baseline(baseline: str | None, models: Sequence[str]) -> None:
    """Raise if the baseline is not one of the models."""
    if baseline is not None and baseline not in models:
        raise invalid("baseline", f"{baseline!r} is not one of the models; pass one of {', '.join(map(repr, models))}")


def reject_unused_options(options: Mapping[str, Any]) -> None:
    """Raise if options of requests are given for a finished table."""
    if options:
        raise invalid(next(iter(options)), "has no effect on a finished table; pass a prompt or remove this option")


def check_columns(source: Any, scorers: Sequence[ScorerOrJudge], plan: ScoringPlan) -> None:
    """Raise if a column that is named by an argument or read by a scorer is missing."""
    for argument, name in (("group", plan.group), ("target", plan.target)):
        if name is not None:
            frames.require_columns((name,), source, argument)
    for scorer in scorers:
        if isinstance(scorer, Scorer):
            columns = [name for name in scorer.columns if name != TARGET or plan.target is None]
            if TARGET in columns and TARGET not in frames.column_names(source):
                message = f"scorer {scorer.name!r} reads the column {TARGET!r}, which is missing; pass target='...'"
                raise invalid("target", message)
            frames.require_columns(columns, source, f"scorers[{scorer.name!r}]")


def check_judges(source: Any, scorers: Sequence[ScorerOrJudge], hub: Hub | None) -> None:
    """Raise if a judge's prompt or options are invalid, found by completing an empty table with it."""
    for scorer in scorers:
        if isinstance(scorer, Judge):
            names = dict.fromkeys((*frames.column_names(source), TARGET, *JUDGE_FIELDS))
            _call_judge(scorer, pa.table({name: pa.array([], pa.string()) for name in names}), hub)


# Rows and responses


def complete_in_random_order(
    frame: Any, prompt: Any, models: Sequence[str], hub: Hub, seed: int, options: Mapping[str, Any]
) -> pa.Table:
    """Complete the rows in a random order and return the results in the order of the frame."""
    source = frames.pandas_or_arrow(frame)
    size = len(source)
    order = np.random.default_rng(seed).permutation(size)
    shuffled = source.iloc[order] if frames.is_pandas(source) else source.take(pa.array(order))
    results = complete_table(shuffled, prompt, model=list(models), hub=hub, **options)
    with keep_table(results):
        per_row = len(results) // size if size else 0
        positions = (np.argsort(order)[:, None] * per_row + np.arange(per_row)).ravel()
        ordered = results.take(pa.array(positions))
        row = pa.array(np.repeat(np.arange(size, dtype=np.int64), per_row))
        index = ordered.column_names.index("row")
        ordered = ordered.set_column(index, ordered.schema.field("row"), row)
        return ordered.replace_schema_metadata(results.schema.metadata)


def input_rows(source: Any, plan: ScoringPlan) -> list[dict[str, Any]]:
    """Return the rows of a frame as scorers read them."""
    columns = {name: frames.column_values(source, name) for name in dict.fromkeys(frames.column_names(source))}
    return make_input_rows(columns, plan.target) if columns else [{}] * len(source)


def group_clusters(source: Any, group: str | None) -> IntArray | None:
    """Return the cluster of each row of a frame, by the values of its column ``group``."""
    if group is None:
        return None
    return cluster_codes([{group: value} for value in frames.column_values(source, group)], group)


def cluster_codes(rows: Sequence[Mapping[str, Any]], group: str | None) -> IntArray | None:
    """Return the cluster of each row as an integer from 0; ``None`` without ``group``.

    Raises
    ------
    BadRequestError
        A row has no group.
    """
    if group is None:
        return None
    values = [row[group] for row in rows]
    if None in values:
        raise invalid("group", f"{group!r} is missing in row {values.index(None)}; give every row a group")
    return encode_categories([value if value.__hash__ else repr(value) for value in values])


def wide_to_long(
    source: Any, models: Sequence[str], plan: ScoringPlan, *, responses: bool = False
) -> tuple[pa.Table, ScoringPlan]:
    """Reshape a table with one column per model to one row per score, or per response if ``responses``.

    The other columns are kept.

    Raises
    ------
    BadRequestError
        ``models`` is empty or names a missing column, or scores are not numbers.
    """
    if not models:
        message = "without a prompt, pass a results table with a column 'model', or model= for columns with scores"
        raise invalid("model", message)
    frames.require_columns(models, source, "models")
    if plan.scores:
        raise invalid("scores", f"{plan.scores[0]!r}: the columns of model= hold the scores; remove scores=")
    table = frames.to_table(source)
    n_rows, n_models = len(table), len(models)
    row = np.repeat(np.arange(n_rows), n_models)
    others = [name for name in table.column_names if name not in models]
    model = pa.DictionaryArray.from_arrays(np.tile(np.arange(n_models, dtype=np.int32), n_rows), list(models))
    columns: dict[str, Any] = {"row": pa.array(row), "model": model}
    value_name = "response" if responses else "score"
    if responses:
        texts = [_texts(table.column(name)) for name in models]
        columns[value_name] = pa.array([text for answers in zip(*texts, strict=True) for text in answers], pa.string())
    else:
        scores = np.stack([_wide_scores(table, name) for name in models], axis=1).ravel()
        columns[value_name] = pa.array(scores, from_pandas=True)
    clash = next((name for name in others if name in columns), None)
    if clash is not None:
        raise invalid("frame", f"the column {clash!r} has a name that is needed for the table of scores; rename it")
    columns |= {name: table.column(name).take(pa.array(row)) for name in others}
    return pa.table(columns), plan if responses else replace(plan, scores=("score",))


def _wide_scores(table: pa.Table, name: str) -> FloatArray:
    kind = table.column(name).type
    if str(kind) in {"string", "large_string", "string_view"}:
        message = f"the column {name!r} of model= holds text, not scores; pass scorers= to score it as responses"
        raise invalid("model", message)
    return numeric_column(table, name)


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else str(value) for value in column.to_pylist()]


def first_response_per_row(table: pa.Table, layout: ResponseLayout) -> pa.Table:
    """Return the first result of each row, from which the row's own columns are read."""
    _, first = np.unique(layout.row_index, return_index=True)
    return table.take(pa.array(first))


# Scoring


def score_all(
    table: pa.Table,
    layout: ResponseLayout,
    rows: Sequence[Mapping[str, Any]],
    scorers: Sequence[ScorerOrJudge],
    plan: ScoringPlan,
    hub: Hub | None,
    responses: Sequence[str | None],
    budget: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[list[ScorerResult], list[tuple[Judge, JudgeOutcome]]]:
    """Score every response with every scorer; judges are called through the hub, within the budget of the call."""
    results = [apply_failure_policy(scores_from_column(table, name), table, plan.failures) for name in plan.scores]
    outcomes: list[tuple[Judge, JudgeOutcome]] = []
    hidden = frozenset({TARGET, *([plan.target] if plan.target else ())})
    scoring = ScoringInput(responses, layout, rows, hidden, _failed_positions(table, plan.failures))
    for scorer in scorers:
        if isinstance(scorer, Judge):
            outcome = run_judge(scorer, scoring, lambda judge, prompts: _call_judge(judge, prompts, hub, budget))
            outcomes.append((scorer, outcome))
            result = outcome.scores
        else:
            result = score_responses(scorer, scoring)
        results.append(apply_failure_policy(result, table, plan.failures, scorer.worst))
    return results, outcomes


def _failed_positions(table: pa.Table, failures: FailurePolicy) -> frozenset[int]:
    """Return the positions of failed responses, if they count as the worst."""
    if failures != "wrong" or "status" not in table.column_names:
        return frozenset()
    return frozenset(np.flatnonzero(pc.equal(table.column("status").cast(pa.string()), ERROR).to_numpy()).tolist())


def share_budget(options: dict[str, Any]) -> dict[str, Any]:
    """Return the budget options of judges, which spend the budget of the call together with its answers.

    ``options`` are changed to hold the shared budget. With ``n_jobs`` answers are spent from a budget of their own.
    """
    given = {name: options[name] for name in ("budget_usd", "allow_unpriced") if options.get(name) is not None}
    if "budget_usd" not in given:
        return {}
    if options.get("n_jobs", 1) == 1:
        options["budget_usd"] = given["budget_usd"] = as_shared_budget(given["budget_usd"])
    return given


def _require_answers_fit(table: pa.Table, budget: Any) -> None:
    """Raise if no call fitted into the budget; one of 0 asks for cached responses only.

    A budget that is shared with judges is not checked before the first call, as that of `complete_table` is.
    """
    if not isinstance(budget, SharedBudget) or not budget.budget.limit:
        return
    statuses = set(table.column("status").cast(pa.string()).to_pylist())
    if "budget" in statuses and not statuses - {"budget", "skipped"}:
        message = (
            f"no call fits into the budget of ${budget.budget.limit_usd:f}; nothing was sent."
            " Pass a larger budget_usd or a smaller max_tokens"
        )
        raise to_exception(BudgetExceeded(path="budget_usd", message=message))


def remaining_budget(budget: dict[str, Any], table: pa.Table) -> dict[str, Any]:
    """Return the budget options of judges after the answers, if these spent from a budget of their own."""
    limit = budget.get("budget_usd")
    if limit is None or isinstance(limit, SharedBudget):
        return budget
    # What is spent is booked, so that single calls of judges are refused and not the whole run.
    shared = as_shared_budget(limit)
    shared.budget = reconcile(shared.budget, 0, int(to_nanos(table.column("cost_usd")).sum()))
    return {**budget, "budget_usd": shared}


def _call_judge(
    judge: Judge, prompts: pa.Table, hub: Hub | None, budget: Mapping[str, Any] = MappingProxyType({})
) -> pa.Table:
    options: dict[str, Any] = {"progress": False, **judge.options, **budget, "n": judge.n}
    return complete_table(prompts, judge.prompt, model=judge.model, hub=hub, **options)
