"""`evaluate`: run a task on a dataset with several models, score and compare.

With several samples per row it also estimates pass@k and the score of the majority answer.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import pyarrow as pa

from llmhub.api import current_hub
from llmhub.api.raising import keep_table
from llmhub.api.signatures import renamed_arguments, shows_options
from llmhub.core.errors import invalid
from llmhub.evals import statistics
from llmhub.evals._compare import (
    RUN_OPTIONS,
    AnalysisOptions,
    NameOrNames,
    check_scorers,
    group_clusters,
    pop_scoring_plan,
    run_comparison,
)
from llmhub.evals._scorer import Scorer
from llmhub.evals.analysis import MetricValues, compare_models, estimate_means
from llmhub.evals.comparison import PAIRS, Comparison
from llmhub.evals.dataset_reader import read_dataset
from llmhub.evals.scoring import BoolArray, ResponseLayout, read_layout
from llmhub.evals.statistics import FloatArray, FloatMatrix, IntArray
from llmhub.evals.tasks import Task
from llmhub.hub import Hub
from llmhub.tables import frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SAMPLE_METRICS: Final = pa.schema(
    [
        pa.field("scorer", pa.string(), metadata={"description": "name of the scorer"}),
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("metric", pa.string(), metadata={"description": "pass@k or majority"}),
        pa.field("k", pa.int32(), metadata={"description": "number of samples the metric is about"}),
        pa.field("value", pa.float64(), metadata={"description": "share of rows; null if no row has k samples"}),
        pa.field("low", pa.float64(), metadata={"description": "lower end of the confidence interval"}),
        pa.field("high", pa.float64(), metadata={"description": "upper end of the confidence interval"}),
        pa.field("rows", pa.int64(), metadata={"description": "number of rows"}),
    ]
)
"""Metrics of several samples per row: one row per binary scorer, model and metric."""


SAMPLE_PAIRS: Final = pa.schema(
    [SAMPLE_METRICS.field("scorer"), SAMPLE_METRICS.field("metric"), SAMPLE_METRICS.field("k")]
    + [field for field in PAIRS if field.name != "scorer"]
)
"""Paired differences of `SAMPLE_METRICS`: one row per binary scorer, metric and pair of models."""


class EvaluateOptions(AnalysisOptions, total=False):
    """Options of `evaluate`."""

    k: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Result of running a task with several models.

    Parameters
    ----------
    task
        The task as it was run, with the parameters of the call.
    dataset
        Input rows.
    comparison
        Responses, scores, metrics of each model and differences of each pair.
    samples
        `SAMPLE_METRICS`: pass@k and majority votes, for several samples per row.
    sample_pairs
        `SAMPLE_PAIRS`: paired difference and test of these metrics for each pair of models.
    """

    task: Task
    dataset: pa.Table
    comparison: Comparison
    samples: pa.Table
    sample_pairs: pa.Table = field(default_factory=SAMPLE_PAIRS.empty_table)

    @property
    def results(self) -> pa.Table:
        """Every response, in the results schema."""
        return self.comparison.results

    @property
    def scores(self) -> pa.Table:
        """Every score."""
        return self.comparison.scores

    def by(self, column: str) -> pa.Table:
        """Return the scores of each model in each group of rows; see `Comparison.by`."""
        return self.comparison.by(column)

    def write_report(self, path: str | Path, *, by: str | None = None, max_rows: int = 1000) -> Path:
        """Write the evaluation as one HTML file; see `Comparison.write_report`."""
        from llmhub.evals.report_file import write_report  # noqa: PLC0415 - loaded when it is needed

        return write_report(self.comparison, path, by=by, max_rows=max_rows, evaluation=self)

    def to_markdown(self) -> str:
        """Return the evaluation as Markdown."""
        from llmhub.evals.report import samples_markdown  # noqa: PLC0415 - loaded on display

        samples = samples_markdown(self.samples, self.sample_pairs, len(self.dataset))
        return "\n\n".join(part for part in (self.comparison.to_markdown(), samples) if part)

    def _repr_html_(self) -> str:
        """Return the HTML shown by notebooks."""
        from llmhub.evals.html_report import samples_html  # noqa: PLC0415 - loaded on display

        return self.comparison._repr_html_() + samples_html(self.samples, self.comparison, self.sample_pairs)

    def __repr__(self) -> str:
        """Return the Markdown report."""
        return self.to_markdown().replace(r"\$", "$")

    def plot(self, scorer: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each model's score and each pair's difference, with confidence intervals."""
        return self.comparison.plot(scorer, ax)


@renamed_arguments(models="model")
@shows_options(EvaluateOptions)
def evaluate(
    dataset: Any, task: Task, model: NameOrNames, *, hub: Hub | None = None, **options: Unpack[EvaluateOptions]
) -> Evaluation:
    """Run a task with several models, score the responses and compare the models.

    Responses are cached by the hub: an interrupted evaluation continues where it stopped.

    Parameters
    ----------
    dataset
        A frame, as for `complete_table`; a dataset of the ``datasets`` library; or the path of a CSV, JSON lines,
        Parquet or Arrow file.
    task
        Prompt and scoring; `llmhub.evals.tasks` has common ones.
    model
        Names of the models, as ``provider/model``.
    hub
        Hub that models and judges are called through; the default hub if ``None``.
    **options
        Those of the analysis, and those of `complete_table`, which override the parameters of the task.

    Raises
    ------
    BadRequestError
        An argument is missing or out of range; raised before anything is sent.
    """
    given: object = task
    if not isinstance(given, Task):
        raise invalid("task", f"{given!r:.80} is not a task; pass one of llmhub.evals.tasks, such as tasks.numeric()")
    merged: dict[str, Any] = {**task.parameters, **({"system": task.system} if task.system else {}), **options}
    sizes = _pass_at_k_sizes(merged.pop("k", None), merged.get("n", 1))
    for name in ("target", "scores"):
        if name in options:
            raise invalid(name, "is set by the task; remove this option")
    plan = replace(pop_scoring_plan(merged), target=task.target)
    hub = hub or current_hub()
    check_scorers(task.scorer_list, hub)
    source = frames.pandas_or_arrow(read_dataset(dataset))
    source = source if task.prepare is None else task.prepare(frames.to_table(source))
    names = (model,) if isinstance(model, str) else tuple(model)
    comparison = run_comparison(source, task.template, names, task.scorer_list, hub, plan, merged)
    parameters = {name: value for name, value in merged.items() if name not in RUN_OPTIONS and name != "system"}
    with keep_table(comparison.results):
        clusters = group_clusters(source, plan.group)
        values = list(_sample_values(comparison, task, sizes, clusters))
        return Evaluation(
            task=replace(task, parameters=parameters, system=merged.get("system")),
            dataset=frames.to_table(source),
            comparison=comparison,
            samples=pa.Table.from_pylist(
                [row for one in values for row in _metric_rows(one, comparison)], schema=SAMPLE_METRICS
            ),
            sample_pairs=pa.Table.from_pylist(
                [row for one in values for row in _metric_pairs(one, comparison)], schema=SAMPLE_PAIRS
            ),
        )


def _pass_at_k_sizes(k: Any, n: int) -> tuple[int, ...]:
    """Return the values of k, ascending."""
    if k is None:
        return tuple(sorted({1 << power for power in range(n.bit_length()) if 1 << power <= n} | {n})) if n > 1 else ()
    sizes = tuple(sorted({k} if isinstance(k, int) else set(k)))
    if any(not 1 <= size <= n for size in sizes):
        raise invalid("k", f"{k!r} is outside 1..{n}, the samples per row; pass a larger n=")
    return sizes


@dataclass(frozen=True, slots=True)
class _SampleValues:
    """Values of one metric of several samples, as rows x models."""

    scorer: str
    metric: str
    k: int
    values: MetricValues


def _sample_values(
    comparison: Comparison, task: Task, sizes: Sequence[int], clusters: IntArray | None
) -> Iterator[_SampleValues]:
    """Return pass@k and the majority's score of each row and model, for each binary scorer."""
    n = comparison.design.n
    if n < 2:  # noqa: PLR2004 - one sample has no majority
        return
    layout = read_layout(comparison.results, comparison.design.models)
    size = len(comparison.results)
    responses = comparison.results.column("response").to_pylist()
    for index, scorer in enumerate(task.scorer_list):
        part = comparison.scores.slice(index * size, size)
        if not (isinstance(scorer, Scorer) and size and part.column("right")[0].as_py()):
            continue
        counted = np.asarray(part.column("counted").to_numpy(), np.bool_)
        scores = np.nan_to_num(np.asarray(part.column("score").to_numpy(), np.float64))
        means, _ = layout.cell_means(scores, counted)
        cells = layout.row_index[counted] * len(layout.models) + layout.model_index[counted]
        tries = np.bincount(cells, minlength=means.size).reshape(means.shape).astype(np.float64)
        right = (np.nan_to_num(means) * tries).round()
        response_counts = np.full(len(layout.models), n * len(layout.row_ids))
        for k in sizes:
            passed = statistics.pass_at_k(right.ravel(), tries.ravel(), k).reshape(means.shape)
            values = MetricValues(passed, response_counts, clusters, is_binary=True, one_response_per_cell=False)
            yield _SampleValues(scorer.name, f"pass@{k}", k, values)
        majority = _majority_scores(scorer.read, responses, scores, counted, layout)
        values = MetricValues(majority, response_counts, clusters, is_binary=True, one_response_per_cell=False)
        yield _SampleValues(scorer.name, "majority", n, values)


def _metric_pairs(sample: _SampleValues, comparison: Comparison) -> Iterator[Mapping[str, Any]]:
    """Return the rows of `SAMPLE_PAIRS` of a metric."""
    for row in compare_models(sample.scorer, sample.values, comparison.design):
        yield {**row, "metric": sample.metric, "k": sample.k}


def _metric_rows(sample: _SampleValues, comparison: Comparison) -> Iterator[Mapping[str, Any]]:
    """Return the rows of `SAMPLE_METRICS` of a metric."""
    means, _ = estimate_means(sample.values, comparison.design.settings, pairs=False)
    for model, mean in zip(comparison.design.models, means, strict=True):
        has_rows = mean.rows > 0
        yield {
            "scorer": sample.scorer,
            "model": model,
            "metric": sample.metric,
            "k": sample.k,
            "value": mean.value if has_rows else None,
            "low": mean.interval.low if has_rows else None,
            "high": mean.interval.high if has_rows else None,
            "rows": mean.rows,
        }


def _majority_scores(
    read: Callable[[str], Hashable | None],
    responses: Sequence[str | None],
    scores: FloatArray,
    counted: BoolArray,
    layout: ResponseLayout,
) -> FloatMatrix:
    """Return the score of the most frequent answer to each row, as rows x models; ties get their mean score.

    A failed response, or one without a readable answer, has no vote. A counted row without votes scores 0.
    """
    votes: dict[tuple[int, int], dict[Hashable, list[float]]] = {}
    for position in np.flatnonzero(counted).tolist():
        cell = (int(layout.row_index[position]), int(layout.model_index[position]))
        ballot = votes.setdefault(cell, {})
        response = responses[position]
        answer = None if response is None else read(response)
        if answer is not None:
            ballot.setdefault(answer, []).append(float(scores[position]))
    majority = np.full((len(layout.row_ids), len(layout.models)), np.nan)
    for cell, ballot in votes.items():
        most_votes = max(map(len, ballot.values()), default=0)
        winners = [answer_scores[0] for answer_scores in ballot.values() if len(answer_scores) == most_votes]
        majority[cell] = sum(winners) / len(winners) if winners else 0.0
    return majority
