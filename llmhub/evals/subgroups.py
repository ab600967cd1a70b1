"""Scores by groups of rows, such as the subjects of a benchmark, and the mean of the groups.

The mean of the groups (macro average) counts every group alike, however many rows it has. Its interval combines those
of the groups, which are independent (the method of variance estimates recovery: Zou and Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.evals._compare import group_clusters
from llmhub.evals.analysis import MeanEstimate, MetricValues, estimate_means
from llmhub.evals.scoring import encode_categories, read_layout
from llmhub.evals.statistics import UNBOUNDED, ConfidenceInterval, FloatMatrix, IntArray
from llmhub.tables import frames

if TYPE_CHECKING:
    from llmhub.evals.comparison import Comparison

SUBGROUPS: Final = pa.schema(
    [
        pa.field("scorer", pa.string(), metadata={"description": "name of the scorer"}),
        pa.field(
            "group", pa.string(), metadata={"description": "value of the column; null for the mean of the groups"}
        ),
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("unit", pa.string(), metadata={"description": "share or score"}),
        pa.field("value", pa.float64(), metadata={"description": "mean score; null without scores"}),
        pa.field("low", pa.float64(), metadata={"description": "lower end of the interval; null if it is open"}),
        pa.field("high", pa.float64(), metadata={"description": "upper end of the interval; null if it is open"}),
        pa.field("rows", pa.int64(), metadata={"description": "number of rows, or of groups"}),
        pa.field("method", pa.string(), metadata={"description": "method of the interval"}),
    ]
)
"""One row per scorer, group and model."""


def scores_by_group(comparison: Comparison, column: str) -> pa.Table:
    """Return the scores of each model in each group of rows, and the mean of the groups."""
    inputs = comparison.inputs
    if inputs is None:
        raise invalid("column", "this comparison does not contain its input rows; compare a frame that has the column")
    frames.require_columns((column,), inputs, "column")
    layout = read_layout(comparison.results, comparison.design.models)
    values = inputs.column(column).to_pylist()
    labels = ["" if value is None else str(value) for value in values]
    names = list(dict.fromkeys(labels))
    groups = encode_categories(labels)
    clusters = group_clusters(inputs, comparison.design.group)
    rows: list[dict[str, Any]] = []
    size = len(comparison.results)
    for index, scorer in enumerate(comparison.scorers):
        part = comparison.scores.slice(index * size, size)
        scores = np.nan_to_num(np.asarray(part.column("score").to_numpy(), np.float64))
        means, _ = layout.cell_means(scores, np.asarray(part.column("counted").to_numpy(), np.bool_))
        is_binary = bool(size and part.column("right")[0].as_py())
        unit = "share" if is_binary else "score"
        estimates = list(_estimate_groups(comparison, means, groups, len(names), clusters, is_binary=is_binary))
        for name, estimate in zip(
            (*names, None), (*estimates, _mean_of_groups(estimates, groups, clusters)), strict=True
        ):
            rows += [
                _row(scorer, name, model, unit, one) for model, one in zip(layout.model_names, estimate, strict=True)
            ]
    return pa.Table.from_pylist(rows, schema=SUBGROUPS)


def _estimate_groups(
    comparison: Comparison,
    means: FloatMatrix,
    groups: IntArray,
    n_groups: int,
    clusters: IntArray | None,
    *,
    is_binary: bool,
) -> Iterator[list[MeanEstimate]]:
    """Return the estimates of each model, for each group of rows."""
    design = comparison.design
    for group in range(n_groups):
        in_group = groups == group
        counts = (~np.isnan(means[in_group])).sum(axis=0) * design.n
        own = None if clusters is None else encode_categories(clusters[in_group].tolist())
        metric = MetricValues(means[in_group], counts, own, is_binary=is_binary, one_response_per_cell=design.n == 1)
        estimates, _ = estimate_means(metric, design.settings, pairs=False)
        yield estimates


def _mean_of_groups(
    estimates: Sequence[Sequence[MeanEstimate]], groups: IntArray, clusters: IntArray | None
) -> list[MeanEstimate]:
    """Return the mean over the groups that have a score, for each model."""
    is_crossed = clusters is not None and len({*zip(clusters.tolist(), groups.tolist(), strict=True)}) > len(
        {*clusters}
    )
    means = []
    for of_model in zip(*estimates, strict=True):
        known = [estimate for estimate in of_model if estimate.rows]
        if not known:
            means.append(MeanEstimate(math.nan, UNBOUNDED, 0, 0, "none"))
            continue
        value = sum(estimate.value for estimate in known) / len(known)
        low, high = (
            math.hypot(*(estimate.value - estimate.interval[side] for estimate in known)) / len(known)
            for side in (0, 1)
        )
        interval = UNBOUNDED if is_crossed else ConfidenceInterval(value - low, value + high)
        means.append(MeanEstimate(value, interval, len(known), len(known), "mean of groups"))
    return means


def _row(scorer: str, group: str | None, model: str, unit: str, estimate: MeanEstimate) -> dict[str, Any]:
    ends = {"value": estimate.value, "low": estimate.interval.low, "high": estimate.interval.high}
    return {
        "scorer": scorer,
        "group": group,
        "model": model,
        "unit": unit,
        **{name: None if math.isnan(end) else end for name, end in ends.items()},
        "rows": estimate.rows,
        "method": estimate.method,
    }
