"""Statistical analysis of scored responses: metrics of each model with intervals, and paired differences with tests.

Rows of one cluster count together, so dependence within a cluster does not narrow the intervals.
`estimate_means` works on any metric given as rows x models; `model_metrics` returns error rate, cost, tokens and
latency; `build_comparison` collects everything into a `Comparison`.

The file is long because metrics, pairs and the comparison made of them share one set of clusters and weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.evals import statistics
from llmhub.evals.comparison import (
    COUNTS,
    HEAD_TO_HEAD,
    JUDGES,
    MODELS,
    PAIRS,
    RATINGS,
    AnalysisSettings,
    Comparison,
    ComparisonDesign,
)
from llmhub.evals.head_to_head import Tournament, mean_shares
from llmhub.evals.judge import Judge, JudgeOutcome
from llmhub.evals.scoring import ERROR, OK, BoolArray, ResponseLayout, ScorerResult, numeric_column, scores_table
from llmhub.evals.statistics import UNBOUNDED, ConfidenceInterval, FloatArray, FloatMatrix, IntArray
from llmhub.plots.model_summary import quantile
from llmhub.tables.cost_columns import to_nanos

# Means and paired differences


@dataclass(frozen=True, slots=True)
class MetricValues:
    """Values of one metric, as rows x models.

    Parameters
    ----------
    values
        Mean of each row's responses; NaN for a row without one.
    response_counts
        Number of responses of each model.
    clusters
        Cluster of each row, counted from 0; ``None`` if rows are independent.
    is_binary
        Whether responses are correct or incorrect.
    one_response_per_cell
        Whether each value is of a single response.
    """

    values: FloatMatrix
    response_counts: IntArray
    clusters: IntArray | None = None
    is_binary: bool = False
    one_response_per_cell: bool = True

    @property
    def is_independent_binary(self) -> bool:
        """Whether the values are independent Bernoulli trials: single binary responses, not clustered."""
        return self.is_binary and self.one_response_per_cell and self.clusters is None


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """Estimate of one model's metric, its interval and the interval's method; NaN without data.

    ``unseen_share`` of an unbounded mean is `statistics.unseen_share`; NaN for other estimates.
    """

    value: float
    interval: ConfidenceInterval
    rows: int
    clusters: int
    method: str
    unseen_share: float = math.nan


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Difference of two models (``left`` minus ``right``, as model indices) over the rows that both have.

    ``interval`` and ``p`` are of one procedure; ``simultaneous`` is its interval at a level at which those of all pairs
    hold together. ``standard_error`` is that of the difference; ``discordant_left`` and ``discordant_right`` count the
    rows on which one model scored higher.
    """

    left: int
    right: int
    means: tuple[float, float]
    value: float
    interval: ConfidenceInterval
    simultaneous: ConfidenceInterval
    test: str
    p: float
    standard_error: float
    rows: int
    clusters: int
    discordant_left: int
    discordant_right: int


def estimate_means(
    metric: MetricValues, settings: AnalysisSettings, *, pairs: bool = True, baseline: int | None = None
) -> tuple[list[MeanEstimate], list[PairedDifference]]:
    """Estimate each model's mean and, with ``pairs``, the difference of each pair of models (see `model_pairs`)."""
    n_models = metric.values.shape[1]
    sums, counts = cluster_sums(metric.values, metric.clusters)
    means = [_estimate_mean(metric, sums[:, model], counts[:, model], model, settings) for model in range(n_models)]
    couples = model_pairs(n_models, baseline) if pairs else []
    if not couples or not len(metric.values):
        return means, []
    left, right = (np.array(side) for side in zip(*couples, strict=True))
    differences = metric.values[:, left] - metric.values[:, right]

    def means_of(pair: int) -> tuple[float, float]:
        both = metric.values[~np.isnan(differences[:, pair])][:, list(couples[pair])].mean(axis=0)
        return float(both[0]), float(both[1])

    return means, estimate_differences(metric, differences, couples, means_of, settings)


def model_pairs(n_models: int, baseline: int | None = None) -> list[tuple[int, int]]:
    """Return all pairs of models, or with a baseline those of each other model with it.

    Examples
    --------
    >>> model_pairs(3), model_pairs(3, baseline=1)
    ([(0, 1), (0, 2), (1, 2)], [(0, 1), (2, 1)])
    """
    if baseline is None:
        return list(combinations(range(n_models), 2))
    return [(model, baseline) for model in range(n_models) if model != baseline]


def cluster_sums(values: FloatMatrix, clusters: IntArray | None) -> tuple[FloatMatrix, FloatMatrix]:
    """Return sums and counts of the known values, by cluster.

    Examples
    --------
    >>> sums, counts = cluster_sums(np.array([[1.0], [np.nan], [2.0]]), np.array([0, 0, 1]))
    >>> sums.ravel().tolist(), counts.ravel().tolist()
    ([1.0, 2.0], [1.0, 1.0])
    """
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0), known.astype(np.float64)
    if clusters is None:
        return sums, counts
    n_clusters = int(clusters.max()) + 1 if len(clusters) else 0
    grouped = np.zeros((2, n_clusters, values.shape[1]))
    for column in range(values.shape[1]):
        grouped[0, :, column] = np.bincount(clusters, sums[:, column], n_clusters)
        grouped[1, :, column] = np.bincount(clusters, counts[:, column], n_clusters)
    return grouped[0], grouped[1]


def _estimate_mean(
    metric: MetricValues, sums: FloatArray, counts: FloatArray, model: int, settings: AnalysisSettings
) -> MeanEstimate:
    """Estimate one model's mean: Wilson intervals for binary values, intervals of a studentised mean otherwise."""
    rows, clusters = int(counts.sum()), int((counts > 0).sum())
    if not rows:
        return MeanEstimate(math.nan, UNBOUNDED, 0, 0, "none")
    value = float(sums.sum() / rows)
    if metric.is_independent_binary:
        interval = statistics.wilson_interval(value, float(rows), settings.level)
        return MeanEstimate(value, interval, rows, clusters, "wilson")
    if metric.is_binary:
        responses = int(metric.response_counts[model])
        trials = statistics.effective_sample_size(value, sums, counts, responses, settings.level)
        interval = statistics.wilson_interval(value, trials, settings.level)
        return MeanEstimate(value, interval, rows, clusters, "wilson, clustered")
    interval = statistics.studentised_mean(sums, counts).interval(settings.level)
    method = "studentised" if metric.clusters is None else "studentised, clustered"
    unseen = statistics.unseen_share(clusters, settings.level)
    return MeanEstimate(value, interval, rows, clusters, method, unseen)


@dataclass(frozen=True, slots=True)
class PairProcedure:
    """Test of a pair of models, and the interval of the same procedure at any level."""

    test: str
    p: float
    interval: Callable[[float], ConfidenceInterval]


def estimate_differences(
    metric: MetricValues,
    differences: FloatMatrix,
    couples: Sequence[tuple[int, int]],
    means_of: Callable[[int], tuple[float, float]],
    settings: AnalysisSettings,
) -> list[PairedDifference]:
    """Estimate and test the difference of each pair of models.

    Parameters
    ----------
    metric
        Kind of the values and clusters of the rows.
    differences
        Rows x pairs; NaN for rows that one model of the pair lacks.
    couples
        Models of each pair, by their indices.
    means_of
        Function from the index of a pair to the means of its models.
    """
    sums, counts = cluster_sums(differences, metric.clusters)
    procedures = _pair_procedures(metric, differences, sums, counts, settings)
    tests = int((counts.sum(axis=0) > 0).sum())
    corrected_level = statistics.bonferroni_level(settings.level, tests)
    estimates = []
    for pair, (left, right) in enumerate(couples):
        difference, procedure = differences[:, pair], procedures[pair]
        rows, clusters = int(counts[:, pair].sum()), int((counts[:, pair] > 0).sum())
        estimates.append(
            PairedDifference(
                left=left,
                right=right,
                means=means_of(pair) if rows else (math.nan, math.nan),
                value=float(sums[:, pair].sum() / rows) if rows else math.nan,
                interval=procedure.interval(settings.level) if rows else UNBOUNDED,
                simultaneous=procedure.interval(corrected_level) if rows else UNBOUNDED,
                test=procedure.test,
                p=procedure.p if rows else math.nan,
                standard_error=statistics.clustered_standard_error(sums[:, pair], counts[:, pair])
                if rows
                else math.nan,
                rows=rows,
                clusters=clusters,
                discordant_left=int((difference > 0).sum()),
                discordant_right=int((difference < 0).sum()),
            )
        )
    return estimates


def _pair_procedures(
    metric: MetricValues, differences: FloatMatrix, sums: FloatMatrix, counts: FloatMatrix, settings: AnalysisSettings
) -> list[PairProcedure]:
    """Return the test and interval of each pair, which never disagree."""
    n_pairs = differences.shape[1]
    if metric.is_independent_binary:
        return [_mcnemar_procedure(column) for column in differences.T]
    if settings.test == "permutation":
        p_values = statistics.permutation_test(sums, settings.resamples, settings.seed)
        flips = statistics.SignFlips(settings.resamples, settings.seed)
        intervals = statistics.sign_flip_intervals(sums, counts, flips, p_values)
        return [PairProcedure("permutation", p_values[pair], intervals[pair]) for pair in range(n_pairs)]
    if settings.test == "wilcoxon":
        return [_wilcoxon_procedure(sums[:, pair], counts[:, pair]) for pair in range(n_pairs)]
    return [_studentised_procedure(metric, sums[:, pair], counts[:, pair]) for pair in range(n_pairs)]


def _mcnemar_procedure(difference: FloatArray) -> PairProcedure:
    known = difference[~np.isnan(difference)]
    left, right = int((known > 0).sum()), int((known < 0).sum())

    def interval(level: float) -> ConfidenceInterval:
        return statistics.mcnemar_interval(left, right, len(known), level)

    return PairProcedure("mcnemar", statistics.mcnemar_test(left, right), interval)


def _studentised_procedure(metric: MetricValues, sums: FloatArray, counts: FloatArray) -> PairProcedure:
    mean = statistics.studentised_mean(sums, counts)

    def interval(level: float) -> ConfidenceInterval:
        if metric.is_binary and not sums.any():
            # Equal scores have no spread: the interval of a share of zero discordant clusters is used instead.
            bound = statistics.wilson_interval(0.0, mean.clusters, level).high
            return ConfidenceInterval(-bound, bound)
        return mean.interval(level)

    return PairProcedure("studentised", mean.p_value(), interval)


def _wilcoxon_procedure(sums: FloatArray, counts: FloatArray) -> PairProcedure:
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (sums / counts)[counts > 0]
    p_zero = statistics.wilcoxon_test(means)

    def interval(level: float) -> ConfidenceInterval:
        spread = float(np.std(means))
        if not spread > 0:
            return UNBOUNDED
        scale = spread / math.sqrt(len(means))
        return statistics.invert_test(
            lambda value: statistics.wilcoxon_test(means - value), float(np.median(means)), scale, level, p_zero
        )

    return PairProcedure("wilcoxon", p_zero, interval)


# Metrics of a results table besides scores


USD_PER_NANO: Final = 1e-9
MEAN_METRICS: Final = (
    ("cost_usd", "list_cost_usd", "USD"),
    ("input_tokens", "input_tokens", "tokens"),
    ("output_tokens", "output_tokens", "tokens"),
)
"""Means over responses: metric, column, unit. The cost is the list price, whether or not the response was cached."""
QUANTILE_METRICS: Final = (("latency", "latency_s", (0.50, 0.95, 0.99)), ("ttft", "ttft_s", (0.50, 0.95, 0.99)))
"""Quantiles over calls: prefix of the metric, column, quantiles. Cached responses are excluded."""


@dataclass(frozen=True, slots=True)
class ModelMetric:
    """One metric of one model, given by its index."""

    model_index: int
    metric: str
    unit: str
    estimate: MeanEstimate


@dataclass(frozen=True, slots=True)
class MetricContext:
    """Layout and clusters of the responses, and the analysis settings."""

    layout: ResponseLayout
    clusters: IntArray | None
    settings: AnalysisSettings

    @property
    def responses_independent(self) -> bool:
        """Whether responses are independent: one per row and model, not clustered."""
        return self.clusters is None and self.layout.one_response_per_cell


def model_metrics(table: pa.Table, context: MetricContext) -> list[ModelMetric]:
    """Return the error rate, costs, tokens and latencies of each model, as far as the table has their columns."""
    columns = set(table.column_names)
    metrics: list[ModelMetric] = []
    answered = np.ones(len(table), np.bool_)
    if "status" in columns:
        status = np.asarray(table.column("status").cast(pa.string()).to_numpy(zero_copy_only=False))
        answered = status == OK
        metrics += _error_rates(status, context)
    metrics += _response_means(table, answered, context)
    if "cost_usd" in columns:
        metrics += _billed_totals(table, context)
    called = answered & ~_boolean_column(table, "cache_hit") if "cache_hit" in columns else answered
    for prefix, column, shares in QUANTILE_METRICS:
        if column in columns:
            metrics += _call_quantiles(prefix, shares, numeric_column(table, column), called, context)
    return metrics


def _boolean_column(table: pa.Table, name: str) -> BoolArray:
    values: BoolArray = np.asarray(pc.fill_null(table.column(name), False).to_numpy(), np.bool_)
    return values


def _error_rates(status: np.ndarray[tuple[int], np.dtype[np.object_]], context: MetricContext) -> Iterator[ModelMetric]:
    """Return the share of failed calls among completed ones."""
    completed: BoolArray = np.isin(status.astype(str), (OK, ERROR))
    values, counts = context.layout.cell_means((status == ERROR).astype(np.float64), completed)
    metric = MetricValues(
        values,
        counts,
        context.clusters,
        is_binary=True,
        one_response_per_cell=context.layout.one_response_per_cell,
    )
    means, _ = estimate_means(metric, context.settings, pairs=False)
    return (ModelMetric(model, "error_rate", "share", mean) for model, mean in enumerate(means))


def _response_means(table: pa.Table, answered: BoolArray, context: MetricContext) -> Iterator[ModelMetric]:
    """Return the means over responses, all from the same resamples."""
    present = [(name, column, unit) for name, column, unit in MEAN_METRICS if column in table.column_names]
    cells = []
    for _, column, _ in present:
        is_cost = column.endswith("_usd")
        values = to_nanos(table.column(column)) * USD_PER_NANO if is_cost else numeric_column(table, column)
        known = np.asarray(table.column(column).is_valid().to_numpy(), np.bool_) & answered
        cells.append(context.layout.cell_means(np.asarray(values, np.float64), known))
    if not cells:
        return
    matrix, counts = np.hstack([means for means, _ in cells]), np.concatenate([count for _, count in cells])
    metric = MetricValues(matrix, counts, context.clusters, one_response_per_cell=False)
    estimates, _ = estimate_means(metric, context.settings, pairs=False)
    n_models = len(context.layout.models)
    for column_index, estimate in enumerate(estimates):
        name, _, unit = present[column_index // n_models]
        yield ModelMetric(column_index % n_models, name, unit, estimate)


def _billed_totals(table: pa.Table, context: MetricContext) -> Iterator[ModelMetric]:
    """Return the total billed cost of each model; it is exact and has no interval."""
    n_models = len(context.layout.models)
    totals = np.bincount(context.layout.model_index, to_nanos(table.column("cost_usd")), n_models)
    rows = np.bincount(context.layout.model_index, minlength=n_models)
    for model in range(n_models):
        total = MeanEstimate(float(totals[model]) * USD_PER_NANO, UNBOUNDED, int(rows[model]), int(rows[model]), "sum")
        yield ModelMetric(model, "billed_usd", "USD", total)


def _call_quantiles(
    prefix: str, shares: tuple[float, ...], values: FloatArray, called: BoolArray, context: MetricContext
) -> Iterator[ModelMetric]:
    """Return quantiles over the calls that were made."""
    known = called & ~np.isnan(values)
    for model in range(len(context.layout.models)):
        of_model = known & (context.layout.model_index == model)
        for share in shares:
            estimate = _estimate_quantile(values[of_model], share, context.layout.row_index[of_model], context)
            yield ModelMetric(model, f"{prefix}_p{share * 100:.0f}_s", "s", estimate)


def _estimate_quantile(values: FloatArray, share: float, rows: IntArray, context: MetricContext) -> MeanEstimate:
    """Estimate a quantile; for clustered calls the interval uses the number of independent ones."""
    level = context.settings.level
    if not len(values):
        return MeanEstimate(math.nan, UNBOUNDED, 0, 0, "none")
    value = quantile(np.sort(values), share)
    if context.responses_independent:
        interval = statistics.quantile_interval(values, share, level)
        return MeanEstimate(value, interval, len(values), len(values), "order statistics")
    cluster = rows if context.clusters is None else context.clusters[rows]
    clusters = len(np.unique(cluster))
    interval = statistics.quantile_interval(values, share, level, cluster)
    return MeanEstimate(value, interval, len(values), clusters, "order statistics, clustered")


# The tables of a comparison


@dataclass(frozen=True, slots=True)
class ScoredTable:
    """Responses with their scores.

    Parameters
    ----------
    table
        Results table.
    layout
        Row and model of each response.
    scorer_results
        Result of each scorer.
    judge_outcomes
        Judges and what they returned besides scores.
    clusters
        Cluster of each row, if rows are clustered.
    """

    table: pa.Table
    layout: ResponseLayout
    scorer_results: Sequence[ScorerResult]
    judge_outcomes: Sequence[tuple[Judge, JudgeOutcome]] = ()
    clusters: IntArray | None = None


def build_comparison(scored: ScoredTable, design: ComparisonDesign) -> Comparison:
    """Analyse scored responses and return the comparison."""
    layout, settings = scored.layout, design.settings
    names = layout.model_names
    baseline = None if design.baseline is None else names.index(design.baseline)
    tournaments = {
        judge.name: Tournament(outcome.verdicts, layout, scored.clusters)
        for judge, outcome in scored.judge_outcomes
        if judge.pairwise
    }
    model_rows: list[dict[str, Any]] = []
    pair_rows: list[dict[str, Any]] = []
    for result in scored.scorer_results:
        values, counts = layout.cell_means(result.scores, result.counted)
        metric = MetricValues(
            values,
            counts,
            scored.clusters,
            is_binary=result.is_binary,
            one_response_per_cell=layout.one_response_per_cell,
        )
        means, differences = estimate_means(metric, settings, baseline=baseline)
        unit = "share" if result.is_binary else "score"
        model_rows += [_model_row(names[model], "score", result.name, unit, mean) for model, mean in enumerate(means)]
        tournament = tournaments.get(result.name)
        if tournament is not None:
            differences = _head_to_head_differences(tournament, metric, settings, baseline)
        pair_rows += _pair_rows(result.name, names, differences, settings)
    context = MetricContext(layout, scored.clusters, settings)
    model_rows += [
        _model_row(names[metric.model_index], "measure", metric.metric, metric.unit, metric.estimate)
        for metric in model_metrics(scored.table, context)
    ]
    judge_rows = [_judge_row(judge, outcome, settings.level) for judge, outcome in scored.judge_outcomes]
    return Comparison(
        results=scored.table,
        scores=scores_table(scored.table, scored.scorer_results),
        models=pa.Table.from_pylist(model_rows, schema=MODELS),
        pairs=pa.Table.from_pylist(pair_rows, schema=PAIRS),
        counts=_status_counts(scored),
        judges=pa.Table.from_pylist(judge_rows, schema=JUDGES),
        judgements={judge.name: outcome.calls for judge, outcome in scored.judge_outcomes},
        head_to_head=pa.Table.from_pylist(
            [row for judge, matches in tournaments.items() for row in matches.rows(judge)], schema=HEAD_TO_HEAD
        ),
        ratings=pa.Table.from_pylist(
            [row for judge, matches in tournaments.items() for row in matches.ratings(judge, settings)], schema=RATINGS
        ),
        design=design,
    )


def compare_models(name: str, metric: MetricValues, design: ComparisonDesign) -> list[dict[str, Any]]:
    """Return the rows of `PAIRS` for a metric given as rows x models of the design."""
    baseline = None if design.baseline is None else design.models.index(design.baseline)
    _, differences = estimate_means(metric, design.settings, baseline=baseline)
    return _pair_rows(name, design.models, differences, design.settings)


def _head_to_head_differences(
    tournament: Tournament, metric: MetricValues, settings: AnalysisSettings, baseline: int | None
) -> list[PairedDifference]:
    """Return the differences of pairs of models from their direct comparisons, not from those with other models."""
    couples = model_pairs(len(tournament.layout.models), baseline)
    differences = tournament.differences(couples)
    graded = replace(metric, is_binary=False)
    return estimate_differences(graded, differences, couples, lambda pair: mean_shares(differences[:, pair]), settings)


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _model_row(model: str, kind: str, metric: str, unit: str, estimate: MeanEstimate) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "metric": metric,
        "unit": unit,
        "value": _nan_to_none(estimate.value),
        "low": _nan_to_none(estimate.interval.low),
        "high": _nan_to_none(estimate.interval.high),
        "rows": estimate.rows,
        "clusters": estimate.clusters,
        "method": estimate.method,
        "unseen_share": _nan_to_none(estimate.unseen_share),
    }


def _pair_rows(
    scorer: str, names: Sequence[str], differences: Sequence[PairedDifference], settings: AnalysisSettings
) -> list[dict[str, Any]]:
    """Return the rows of `PAIRS` for one scorer, with p-values corrected for the number of pairs."""
    tested = [pair.p for pair in differences if not math.isnan(pair.p)]
    corrected = iter(statistics.holm_correction(tested))
    target = replace(settings.power_target, tests=len(tested))
    rows = []
    for pair in differences:
        p_holm = None if math.isnan(pair.p) else next(corrected)
        effect = _minimum_detectable_effect(pair, target)
        simultaneous = _agreeing_interval(pair, p_holm, settings.level)
        rows.append(
            {
                "scorer": scorer,
                "left": names[pair.left],
                "right": names[pair.right],
                "left_score": _nan_to_none(pair.means[0]),
                "right_score": _nan_to_none(pair.means[1]),
                "difference": _nan_to_none(pair.value),
                "low": _nan_to_none(pair.interval.low),
                "high": _nan_to_none(pair.interval.high),
                "simultaneous_low": _nan_to_none(simultaneous.low),
                "simultaneous_high": _nan_to_none(simultaneous.high),
                "test": pair.test,
                "p": _nan_to_none(pair.p),
                "p_holm": p_holm,
                "significant": None if p_holm is None else p_holm < 1 - settings.level,
                "discordant_left": pair.discordant_left,
                "discordant_right": pair.discordant_right,
                "rows": pair.rows,
                "clusters": pair.clusters,
                "standard_error": _nan_to_none(pair.standard_error),
                "minimum_detectable_effect": _nan_to_none(effect),
            }
        )
    return rows


def _minimum_detectable_effect(pair: PairedDifference, target: statistics.PowerTarget) -> float:
    """Return the smallest true difference that the pair's test detects with the target's power; NaN for none."""
    if pair.test == "mcnemar":
        discordant = pair.discordant_left + pair.discordant_right
        return statistics.mcnemar_detectable(pair.rows, discordant / pair.rows, target) if discordant else math.nan
    if pair.test in {"permutation", "wilcoxon"} and 2.0 ** (1 - pair.clusters) > 1 - target.test_level:
        return math.nan  # even if all clusters favour one model, p is above the level
    return statistics.minimum_detectable_effect(pair.standard_error, pair.clusters, target)


def _agreeing_interval(pair: PairedDifference, p_holm: float | None, level: float) -> ConfidenceInterval:
    """Return the simultaneous interval; of a significant pair, it ends at 0 where Bonferroni's would reach beyond.

    Holm's correction rejects a little more than Bonferroni's, whose intervals are the simultaneous ones.
    """
    low, high = pair.simultaneous
    if p_holm is None or p_holm >= 1 - level:
        return pair.simultaneous
    return ConfidenceInterval(max(low, 0.0), high) if pair.value > 0 else ConfidenceInterval(low, min(high, 0.0))


def _status_counts(scored: ScoredTable) -> pa.Table:
    """Count the rows of each model by status."""
    table, layout = scored.table, scored.layout
    size, columns = len(table), table.column_names
    all_ok = np.full(size, OK, object)
    status = table.column("status").cast(pa.string()).to_numpy() if "status" in columns else all_ok
    unscored = np.zeros(size, np.bool_)
    for result in scored.scorer_results:
        unscored |= np.isnan(result.scores)
    masks = {
        "total": np.ones(size, np.bool_),
        "ok": status == OK,
        "error": status == ERROR,
        "skipped": status == "skipped",
        "stopped": np.isin(status.astype(str), ("cancelled", "budget")),
        "cached": _boolean_column(table, "cache_hit") if "cache_hit" in columns else np.zeros(size, np.bool_),
        "unscored": unscored & (status == OK),
    }
    counts = {
        name: np.bincount(layout.model_index[np.asarray(mask, np.bool_)], minlength=len(layout.models))
        for name, mask in masks.items()
    }
    return pa.table({"model": list(layout.model_names), **counts}, schema=COUNTS)


def _judge_row(judge: Judge, outcome: JudgeOutcome, level: float) -> Mapping[str, Any]:
    """Return the row of `JUDGES` of one judge."""
    calls = outcome.calls
    share = outcome.disagreed / outcome.compared if outcome.compared else math.nan
    interval = statistics.wilson_interval(share, outcome.compared, level)
    first = outcome.first_won / outcome.decided if outcome.decided else math.nan
    first_interval = statistics.wilson_interval(first, outcome.decided, level)
    return {
        "judge": judge.name,
        "model": judge.model,
        "calls": len(calls),
        "failed": sum(status != OK for status in calls.column("status").to_pylist()),
        "unreadable": outcome.unreadable,
        "cost_usd": _column_sum(calls, "cost_usd"),
        "list_cost_usd": _column_sum(calls, "list_cost_usd"),
        "compared": outcome.compared,
        "disagreed": outcome.disagreed,
        "disagreement": _nan_to_none(share),
        "low": _nan_to_none(interval.low),
        "high": _nan_to_none(interval.high),
        "decided": outcome.decided if judge.pairwise else None,
        "first_won": outcome.first_won if judge.pairwise else None,
        "first_share": _nan_to_none(first),
        "first_low": _nan_to_none(first_interval.low),
        "first_high": _nan_to_none(first_interval.high),
    }


def _column_sum(table: pa.Table, name: str) -> Any:
    return pc.sum(table.column(name).combine_chunks()).as_py()
