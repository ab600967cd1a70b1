"""One quantity of several models over the same rows: each model's mean, and each pair's difference, row by row.

Rows of one cluster are drawn together, so that what they share is not taken for knowledge.

From scored answers to a comparison: every figure into its table.

What a table of answers says of each model besides scores: failures, cost, tokens, times, each with its interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.evals import statistics
from llmhub.evals.comparison import COUNTS, JUDGES, MODELS, PAIRS, AnalysisSettings, Comparison, ComparisonDesign
from llmhub.evals.judge import Judge, JudgeOutcome
from llmhub.evals.scoring import ERROR, OK, BoolArray, ResponseLayout, ScorerResult, numeric_column, scores_table
from llmhub.evals.statistics import ConfidenceInterval, FloatArray, FloatMatrix, IntArray, bootstrap_sums
from llmhub.tables.cost_columns import to_nanos


@dataclass(frozen=True, slots=True)
class MetricValues:
    """What is compared.

    Parameters
    ----------
    values
        Rows x models: each row's mean over its answers; ``nan`` where a row has none.
    answers
        How many answers each model's values are of.
    clusters
        Which cluster each row is of, counted from 0; ``None`` where each row is its own.
    right
        Whether answers are right or wrong.
    single
        Whether each value is of one answer.
    """

    values: FloatMatrix
    response_counts: IntArray
    clusters: IntArray | None = None
    is_binary: bool = False
    one_response_per_cell: bool = True

    @property
    def is_independent_binary(self) -> bool:
        """Say whether rows are single answers, right or wrong, that know nothing of each other."""
        return self.is_binary and self.one_response_per_cell and self.clusters is None


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A model's mean, its interval and how that was found; ``nan`` where there is nothing to tell."""

    value: float
    interval: ConfidenceInterval
    rows: int
    clusters: int
    method: str


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """What ``left`` has over ``right``, over the rows that both have.

    ``error`` is its standard error; ``only_left`` and ``only_right`` count rows on which one did better.
    """

    left: int
    right: int
    means: tuple[float, float]
    value: float
    interval: ConfidenceInterval
    test: str
    p: float
    standard_error: float
    rows: int
    clusters: int
    discordant_left: int
    discordant_right: int


def cluster_sums(values: FloatMatrix, clusters: IntArray | None) -> tuple[FloatMatrix, FloatMatrix]:
    """Give the sums and the counts of what is there, by cluster.

    Examples
    --------
    >>> sums, counts = cluster_sums(np.array([[1.0], [np.nan], [2.0]]), np.array([0, 0, 1]))
    >>> sums.ravel().tolist(), counts.ravel().tolist()
    ([1.0, 2.0], [1.0, 1.0])
    """
    there = ~np.isnan(values)
    sums, counts = np.where(there, values, 0.0), there.astype(np.float64)
    if clusters is None:
        return sums, counts
    many = int(clusters.max()) + 1 if len(clusters) else 0
    grouped = np.zeros((2, many, values.shape[1]))
    for at in range(values.shape[1]):
        grouped[0, :, at] = np.bincount(clusters, sums[:, at], many)
        grouped[1, :, at] = np.bincount(clusters, counts[:, at], many)
    return grouped[0], grouped[1]


@dataclass(frozen=True, slots=True)
class _Resampled:
    """A quantity by cluster, and its sums and counts in each resample."""

    sums: FloatMatrix
    counts: FloatMatrix
    drawn: FloatMatrix
    drawn_counts: FloatMatrix


def estimate_means(
    quantity: MetricValues, settings: AnalysisSettings, *, pairs: bool = True
) -> tuple[list[MeanEstimate], list[PairedDifference]]:
    """Give each model's mean and, if wanted, each pair's difference."""
    models = quantity.values.shape[1]
    own = _draw(*cluster_sums(quantity.values, quantity.clusters), settings)
    means = [_mean(quantity, own, at, settings) for at in range(models)]
    couples = list(combinations(range(models), 2)) if pairs else []
    if not couples or not len(quantity.values):
        return means, []
    left, right = (np.array(side) for side in zip(*couples, strict=True))
    between = quantity.values[:, left] - quantity.values[:, right]
    both = _of_pairs(quantity, own, between, (left, right), settings)
    return means, _differences(quantity, between, both, couples, settings)


def _draw(sums: FloatMatrix, counts: FloatMatrix, settings: AnalysisSettings) -> _Resampled:
    """Resample sums and counts together; counts that are all alike are drawn once."""
    same = bool((counts == counts[:, :1]).all())
    kept = counts[:, :1] if same else counts
    if not sums.size:
        nothing = np.zeros((settings.resamples, sums.shape[1]))
        return _Resampled(sums, counts, nothing, nothing)
    drawn = bootstrap_sums(np.hstack((sums, kept)), settings.resamples, settings.seed)
    many = sums.shape[1]
    return _Resampled(sums, counts, drawn[:, :many], np.broadcast_to(drawn[:, many:], drawn[:, :many].shape))


def _of_pairs(
    quantity: MetricValues,
    own: _Resampled,
    between: FloatMatrix,
    sides: tuple[IntArray, IntArray],
    settings: AnalysisSettings,
) -> _Resampled:
    """Give the pairs' columns: those of the models where no row is missing, and drawn anew where some are."""
    sums, counts = cluster_sums(between, quantity.clusters)
    if bool((own.counts == own.counts[:, :1]).all()) and not np.isnan(between).any():
        left, right = sides
        return _Resampled(sums, counts, own.drawn[:, left] - own.drawn[:, right], own.drawn_counts[:, left])
    return _draw(sums, counts, settings)


def _mean(quantity: MetricValues, own: _Resampled, at: int, settings: AnalysisSettings) -> MeanEstimate:
    """Tell of one model."""
    sums, counts = own.sums[:, at], own.counts[:, at]
    rows, clusters = int(counts.sum()), int((counts > 0).sum())
    if not rows:
        return MeanEstimate(math.nan, ConfidenceInterval(math.nan, math.nan), 0, 0, "none")
    value = float(sums.sum() / rows)
    if quantity.is_binary:
        trials = float(rows)
        if not quantity.is_independent_binary:
            error, answers = statistics.clustered_standard_error(sums, counts), int(quantity.response_counts[at])
            trials = statistics.effective_sample_size(value, error, clusters, answers, settings.level)
        method = "wilson" if quantity.is_independent_binary else "wilson, clustered"
        return MeanEstimate(value, statistics.wilson_interval(value, trials, settings.level), rows, clusters, method)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = own.drawn[:, at] / own.drawn_counts[:, at]
    method = "bootstrap" if quantity.clusters is None else "bootstrap, clustered"
    return MeanEstimate(value, statistics.percentile_interval(draws, clusters, settings.level), rows, clusters, method)


def _differences(
    quantity: MetricValues,
    between: FloatMatrix,
    both: _Resampled,
    couples: Sequence[tuple[int, int]],
    settings: AnalysisSettings,
) -> list[PairedDifference]:
    """Tell of all pairs."""
    p_values = _tested(quantity, between, both, settings)
    test = "mcnemar" if quantity.is_independent_binary else settings.test
    found = []
    for at, (left, right) in enumerate(couples):
        sums, counts, one = both.sums[:, at], both.counts[:, at], between[:, at]
        rows, clusters = int(counts.sum()), int((counts > 0).sum())
        shared = ~np.isnan(one)
        sides = quantity.values[shared][:, [left, right]].mean(axis=0) if rows else (math.nan, math.nan)
        found.append(
            PairedDifference(
                left=left,
                right=right,
                means=(float(sides[0]), float(sides[1])),
                value=float(sums.sum() / rows) if rows else math.nan,
                interval=_between(both, at, rows, clusters, quantity, settings),
                test=test,
                p=p_values[at] if rows else math.nan,
                standard_error=statistics.clustered_standard_error(sums, counts) if rows else math.nan,
                rows=rows,
                clusters=clusters,
                discordant_left=int((one > 0).sum()),
                discordant_right=int((one < 0).sum()),
            )
        )
    return found


def _between(
    both: _Resampled, at: int, rows: int, clusters: int, quantity: MetricValues, settings: AnalysisSettings
) -> ConfidenceInterval:
    """Give the interval of a difference."""
    if not rows:
        return ConfidenceInterval(math.nan, math.nan)
    if quantity.is_binary and not both.sums[:, at].any():
        # Nothing but agreement was seen, of which resamples can only say the same: the rule of three says more.
        most = statistics.wilson_interval(0.0, clusters, settings.level).high
        return ConfidenceInterval(-most, most)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = both.drawn[:, at] / both.drawn_counts[:, at]
    return statistics.percentile_interval(draws, clusters, settings.level)


def _tested(quantity: MetricValues, between: FloatMatrix, both: _Resampled, settings: AnalysisSettings) -> list[float]:
    """Give each pair's p-value."""
    if quantity.is_independent_binary:
        with np.errstate(invalid="ignore"):
            return [statistics.mcnemar_test(int((one > 0).sum()), int((one < 0).sum())) for one in between.T]
    if settings.test == "permutation":
        return statistics.permutation_test(both.sums, settings.resamples, settings.seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = both.sums / both.counts
    return [statistics.wilcoxon_test(one[~np.isnan(one)]) for one in means.T]


@dataclass(frozen=True, slots=True)
class ScoredTable:
    """Answers with their scores.

    Parameters
    ----------
    table
        The answers.
    layout
        Where they stand.
    scored
        What each scorer said.
    judged
        What each judge said besides.
    clusters
        Which group each row is of, if rows are grouped.
    """

    table: pa.Table
    layout: ResponseLayout
    scorer_results: Sequence[ScorerResult]
    judge_outcomes: Sequence[tuple[Judge, JudgeOutcome]] = ()
    clusters: IntArray | None = None


def build_comparison(graded: ScoredTable, design: ComparisonDesign) -> Comparison:
    """Give every figure that scored answers allow."""
    setting = MetricContext(graded.layout, graded.clusters, design.settings)
    names = graded.layout.model_names
    figures: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for one in graded.scorer_results:
        values, answers = graded.layout.cell_means(one.scores, one.counted)
        quantity = MetricValues(
            values,
            answers,
            graded.clusters,
            is_binary=one.is_binary,
            one_response_per_cell=graded.layout.one_response_per_cell,
        )
        means, differences = estimate_means(quantity, design.settings)
        unit = "share" if one.is_binary else "score"
        figures += [_figure(names[at], "score", one.name, unit, mean) for at, mean in enumerate(means)]
        pairs += _pairs(one.name, names, differences, design)
    figures += [
        _figure(names[each.model_index], "measure", each.metric, each.unit, each.estimate)
        for each in model_metrics(graded.table, setting)
    ]
    return Comparison(
        results=graded.table,
        scores=scores_table(graded.table, graded.scorer_results),
        models=pa.Table.from_pylist(figures, schema=MODELS),
        pairs=pa.Table.from_pylist(pairs, schema=PAIRS),
        counts=_counts(graded),
        judges=pa.Table.from_pylist([_judge(one, said, design) for one, said in graded.judge_outcomes], schema=JUDGES),
        judgements={one.name: said.calls for one, said in graded.judge_outcomes},
        design=design,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(model: str, kind: str, metric: str, unit: str, mean: MeanEstimate) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "metric": metric,
        "unit": unit,
        "value": _known(mean.value),
        "low": _known(mean.interval.low),
        "high": _known(mean.interval.high),
        "rows": mean.rows,
        "clusters": mean.clusters,
        "method": mean.method,
    }


def _pairs(
    scorer: str, names: Sequence[str], differences: Sequence[PairedDifference], design: ComparisonDesign
) -> list[dict[str, Any]]:
    """Put each pair into a row, its p-value corrected for the others."""
    corrected = iter(statistics.holm_correction([each.p for each in differences if not math.isnan(each.p)]))
    settings = design.settings
    found = []
    for each in differences:
        p_holm = None if math.isnan(each.p) else next(corrected)
        found.append(
            {
                "scorer": scorer,
                "left": names[each.left],
                "right": names[each.right],
                "left_score": _known(each.means[0]),
                "right_score": _known(each.means[1]),
                "difference": _known(each.value),
                "low": _known(each.interval.low),
                "high": _known(each.interval.high),
                "test": each.test,
                "p": _known(each.p),
                "p_holm": p_holm,
                "tied": None if p_holm is None else p_holm >= 1 - settings.level,
                "only_left": each.discordant_left,
                "only_right": each.discordant_right,
                "rows": each.rows,
                "clusters": each.clusters,
                "error": _known(each.standard_error),
                "detectable": _known(
                    statistics.minimum_detectable_effect(each.standard_error, each.clusters, settings.power_target)
                ),
            }
        )
    return found


def _counts(graded: ScoredTable) -> pa.Table:
    """Say what became of each model's rows."""
    table, which, models = graded.table, graded.layout.model_index, len(graded.layout.models)
    there = table.column_names
    plain = np.full(len(table), OK, object)
    status = table.column("status").cast(pa.string()).to_numpy() if "status" in there else plain
    cached = pc.fill_null(table.column("cache_hit"), False).to_numpy() if "cache_hit" in there else plain == ""
    unscored = np.zeros(len(table), np.bool_)
    for one in graded.scorer_results:
        unscored |= np.isnan(one.scores)
    kinds = {
        "asked": status == status,  # noqa: PLR0124 - all
        "ok": status == OK,
        "error": status == ERROR,
        "skipped": status == "skipped",
        "stopped": np.isin(status.astype(str), ("cancelled", "budget")),
        "cached": np.asarray(cached, np.bool_),
        "unscored": unscored & (status == OK),
    }
    columns = {name: np.bincount(which[np.asarray(flags, np.bool_)], minlength=models) for name, flags in kinds.items()}
    return pa.table({"model": list(graded.layout.model_names), **columns}, schema=COUNTS)


def _judge(one: Judge, said: JudgeOutcome, design: ComparisonDesign) -> Mapping[str, Any]:
    """Say what a judge cost, and how often it was not at one with itself."""
    calls, level = said.calls, design.settings.level
    share = said.disagreed / said.compared if said.compared else math.nan
    bounds = statistics.wilson_interval(share, said.compared, level) if said.compared else (None, None)
    return {
        "judge": one.name,
        "model": one.model,
        "calls": len(calls),
        "failed": sum(status != OK for status in calls.column("status").to_pylist()),
        "unreadable": said.unreadable,
        "cost_usd": _sum(calls, "cost_usd"),
        "list_cost_usd": _sum(calls, "list_cost_usd"),
        "compared": said.compared,
        "disagreed": said.disagreed,
        "disagreement": _known(share),
        "low": bounds[0],
        "high": bounds[1],
    }


def _sum(calls: pa.Table, name: str) -> Any:
    return pc.sum(calls.column(name).combine_chunks()).as_py()


USD_PER_NANO: Final = 1e-9


MEAN_METRICS: Final = (
    ("cost_usd", "list_cost_usd", "USD"),
    ("input_tokens", "input_tokens", "tokens"),
    ("output_tokens", "output_tokens", "tokens"),
)
"""Means over answers, by the column they are of. Cost is what an answer is worth, whether or not a cache had it."""


QUANTILE_METRICS: Final = (("latency", "latency_s", (0.50, 0.95, 0.99)), ("ttft", "ttft_s", (0.50, 0.95, 0.99)))
"""Quantiles over calls that were made; answers from a cache say nothing of today."""


@dataclass(frozen=True, slots=True)
class ModelMetric:
    """One figure of one model: ``model`` is its place."""

    model_index: int
    metric: str
    unit: str
    estimate: MeanEstimate


@dataclass(frozen=True, slots=True)
class MetricContext:
    """Where answers stand, which rows go together, and how sure to be."""

    layout: ResponseLayout
    clusters: IntArray | None
    settings: AnalysisSettings

    @property
    def responses_independent(self) -> bool:
        """Say whether answers know nothing of each other."""
        return self.clusters is None and self.layout.one_response_per_cell


def model_metrics(table: pa.Table, setting: MetricContext) -> list[ModelMetric]:
    """Give every figure that the table's columns allow."""
    there = set(table.column_names)
    found: list[ModelMetric] = []
    answered = np.ones(len(table), np.bool_)
    if "status" in there:
        status = np.asarray(table.column("status").cast(pa.string()).to_numpy(zero_copy_only=False))
        answered = status == OK
        found += _errors(status, setting)
    found += _averages(table, answered, setting)
    if "cost_usd" in there:
        found += _paid(table, setting)
    made = answered & ~_flags(table, "cache_hit") if "cache_hit" in there else answered
    for name, column, shares in QUANTILE_METRICS:
        if column in there:
            found += _times(name, shares, numeric_column(table, column), made, setting)
    return found


def _flags(table: pa.Table, name: str) -> BoolArray:
    found: BoolArray = np.asarray(pc.fill_null(table.column(name), False).to_numpy(), np.bool_)
    return found


def _errors(status: np.ndarray[tuple[int], np.dtype[np.object_]], setting: MetricContext) -> Iterator[ModelMetric]:
    """Give the share of failures among what was asked and came to an end."""
    asked: BoolArray = np.isin(status.astype(str), (OK, ERROR))
    values, answers = setting.layout.cell_means((status == ERROR).astype(np.float64), asked)
    quantity = MetricValues(
        values, answers, setting.clusters, is_binary=True, one_response_per_cell=setting.layout.one_response_per_cell
    )
    means, _ = estimate_means(quantity, setting.settings, pairs=False)
    return (ModelMetric(at, "error_rate", "share", mean) for at, mean in enumerate(means))


def _averages(table: pa.Table, answered: BoolArray, setting: MetricContext) -> Iterator[ModelMetric]:
    """Give means over answers, all from the same resamples."""
    wanted = [(name, column, unit) for name, column, unit in MEAN_METRICS if column in table.column_names]
    spread = []
    for _, column, _ in wanted:
        values = (
            to_nanos(table.column(column)) * USD_PER_NANO if column.endswith("_usd") else numeric_column(table, column)
        )
        known = np.asarray(table.column(column).is_valid().to_numpy(), np.bool_) & answered
        spread.append(setting.layout.cell_means(np.asarray(values, np.float64), known))
    if not spread:
        return
    values, answers = np.hstack([one for one, _ in spread]), np.concatenate([many for _, many in spread])
    means, _ = estimate_means(
        MetricValues(values, answers, setting.clusters, one_response_per_cell=False), setting.settings, pairs=False
    )
    models = len(setting.layout.models)
    for at, mean in enumerate(means):
        name, _, unit = wanted[at // models]
        yield ModelMetric(at % models, name, unit, mean)


def _paid(table: pa.Table, setting: MetricContext) -> Iterator[ModelMetric]:
    """Give what was paid in all, which is known and has no interval."""
    nanos = to_nanos(table.column("cost_usd"))
    models = len(setting.layout.models)
    totals = np.bincount(setting.layout.model_index, nanos, models)
    rows = np.bincount(setting.layout.model_index, minlength=models)
    for at in range(models):
        yield ModelMetric(at, "paid_usd", "USD", _exact(float(totals[at]) * USD_PER_NANO, int(rows[at])))


def _exact(value: float, rows: int) -> MeanEstimate:
    return MeanEstimate(value, ConfidenceInterval(math.nan, math.nan), rows, rows, "sum")


def _times(
    name: str, shares: tuple[float, ...], values: FloatArray, made: BoolArray, setting: MetricContext
) -> Iterator[ModelMetric]:
    """Give quantiles of a time over the calls that were made."""
    known = made & ~np.isnan(values)
    for at in range(len(setting.layout.models)):
        mine = known & (setting.layout.model_index == at)
        for share in shares:
            metric = f"{name}_p{share * 100:.0f}_s"
            yield ModelMetric(at, metric, "s", _quantile(values[mine], share, setting.layout.row_index[mine], setting))


def _quantile(values: FloatArray, share: float, rows: IntArray, setting: MetricContext) -> MeanEstimate:
    """Give a quantile; where answers come in clusters, their number counts for as much as it tells."""
    level = setting.settings.level
    if not len(values):
        return MeanEstimate(math.nan, ConfidenceInterval(math.nan, math.nan), 0, 0, "none")
    value = float(np.quantile(values, share, method="inverted_cdf"))
    if setting.responses_independent:
        bounds = statistics.quantile_interval(values, share, level)
        return MeanEstimate(value, bounds, len(values), len(values), "order statistics")
    cluster = rows if setting.clusters is None else setting.clusters[rows]
    counts: FloatArray = np.bincount(cluster, np.ones(len(cluster))).astype(np.float64)
    below: FloatArray = np.bincount(cluster, (values <= value).astype(np.float64)).astype(np.float64)
    kept = counts > 0
    many = int(kept.sum())
    reached = float(below.sum() / counts.sum())
    error = statistics.clustered_standard_error(below[kept], counts[kept])
    trials = statistics.effective_sample_size(reached, error, many, len(values), level)
    bounds = statistics.quantile_interval(values, share, level, trials)
    return MeanEstimate(value, bounds, len(values), many, "order statistics, clustered")
