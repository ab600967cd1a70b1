"""Agreement between judges, and of judges with labels that people gave: Cohen's kappa and Krippendorff's alpha.

Kappa compares two raters (Cohen 1960, 1968); alpha any number of raters, with missing ratings (Krippendorff 2011,
"Computing Krippendorff's alpha-reliability"). Both are 1 for perfect agreement and 0 for that of chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.evals.scoring import numeric_column
from llmhub.evals.statistics import FloatArray

if TYPE_CHECKING:
    from llmhub.evals.comparison import Comparison

Weights: TypeAlias = Literal["linear", "quadratic"]
Scale: TypeAlias = Literal["nominal", "ordinal", "interval"]

AGREEMENT: Final = pa.schema(
    [
        pa.field("left", pa.string(), metadata={"description": "name of a scorer or judge"}),
        pa.field("right", pa.string(), metadata={"description": "name of another, or of the column of labels"}),
        pa.field("responses", pa.int64(), metadata={"description": "responses that both scored"}),
        pa.field("equal", pa.float64(), metadata={"description": "share of them with equal scores"}),
        pa.field("kappa", pa.float64(), metadata={"description": "Cohen's kappa; null without variation"}),
        pa.field("weighted_kappa", pa.float64(), metadata={"description": "kappa with quadratic weights"}),
        pa.field("alpha", pa.float64(), metadata={"description": "Krippendorff's alpha for interval data"}),
        pa.field("mean_difference", pa.float64(), metadata={"description": "left minus right"}),
    ]
)
"""One row per pair of raters."""


def cohen_kappa(left: Sequence[Any], right: Sequence[Any], weights: Weights | None = None) -> float:
    """Return Cohen's kappa of two raters; NaN if both gave one and the same rating throughout.

    Parameters
    ----------
    left, right
        Ratings of the same items. Items that one of them did not rate (``None`` or NaN) are left out.
    weights
        Of a disagreement, for ratings that are numbers: by default all disagreements count alike; ``"linear"`` or
        ``"quadratic"`` in their distance.

    Examples
    --------
    >>> round(cohen_kappa(["a", "a", "b", "b"], ["a", "b", "b", "b"]), 3)
    0.5
    """
    if len(left) != len(right):
        raise invalid("right", f"{len(right):,} ratings do not match the {len(left):,} of the other rater")
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if not (_is_missing(a) or _is_missing(b))]
    if not pairs:
        return math.nan
    values = sorted({value for pair in pairs for value in pair}, key=lambda value: (str(type(value)), value))
    index = {value: number for number, value in enumerate(values)}
    table = np.zeros((len(values), len(values)))
    for a, b in pairs:
        table[index[a], index[b]] += 1
    table /= len(pairs)
    cost = _disagreement(values, weights)
    expected = float((cost * np.outer(table.sum(axis=1), table.sum(axis=0))).sum())
    return math.nan if expected == 0 else 1 - float((cost * table).sum()) / expected


def _disagreement(values: Sequence[Any], weights: Weights | None) -> Any:
    if weights is None:
        return 1 - np.eye(len(values))
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise invalid("weights", f"{weights!r} needs ratings that are numbers; omit weights") from error
    distance = np.abs(numbers[:, None] - numbers[None, :])
    return distance if weights == "linear" else distance**2


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def krippendorff_alpha(ratings: Any, scale: Scale = "nominal") -> float:
    """Return Krippendorff's alpha of several raters; NaN without variation or without an item with two ratings.

    Parameters
    ----------
    ratings
        Raters x items, as nested sequences or an array; ``None`` or NaN for a missing rating.
    scale
        Kind of disagreement: ``nominal`` (equal or not), ``ordinal``, or ``interval`` (squared distance).

    Examples
    --------
    >>> round(krippendorff_alpha([[1, 2, 3, 3], [1, 2, 3, 4]], "interval"), 3)
    0.889
    """
    if scale not in {"nominal", "ordinal", "interval"}:
        raise invalid("scale", f"{scale!r} is not a scale; pass 'nominal', 'ordinal' or 'interval'")
    items = [[value for value in item if not _is_missing(value)] for item in zip(*ratings, strict=True)]
    items = [item for item in items if len(item) > 1]
    values = sorted({value for item in items for value in item}, key=lambda value: (str(type(value)), value))
    if len(values) < 2:  # noqa: PLR2004 - one value cannot disagree
        return math.nan
    index = {value: number for number, value in enumerate(values)}
    coincidences = np.zeros((len(values), len(values)))
    for item in items:
        counts = np.bincount([index[value] for value in item], minlength=len(values)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(item) - 1)
    totals = coincidences.sum(axis=0)
    cost = _alpha_cost(values, totals, scale)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    denominator = float((cost * expected).sum())
    return math.nan if denominator == 0 else 1 - float((cost * coincidences).sum()) / denominator


def _alpha_cost(values: Sequence[Any], totals: FloatArray, scale: Scale) -> Any:
    """Return the squared difference of each pair of values."""
    if scale == "nominal":
        return 1 - np.eye(len(values))
    if scale == "interval":
        return _disagreement(values, "quadratic")
    between = np.cumsum(totals)
    middle = between - totals / 2
    return (middle[:, None] - middle[None, :]) ** 2


def comparison_agreement(comparison: Comparison, labels: str | None = None) -> pa.Table:
    """Return the agreement of each pair of a comparison's scorers, and of each with a column of labels."""
    size = len(comparison.results)
    scores = comparison.scores.column("score").to_numpy()
    ratings = {name: scores[n * size : (n + 1) * size] for n, name in enumerate(comparison.scorers)}
    if labels is not None:
        if labels in ratings:
            raise invalid("labels", f"{labels!r} is the name of a scorer; rename the column")
        ratings[labels] = _labels(comparison, labels)
    return pa.Table.from_pylist(list(_agreement_rows(ratings)), schema=AGREEMENT)


def _labels(comparison: Comparison, name: str) -> FloatArray:
    """Return the labels of the results, from the results themselves or from their input rows."""
    results, inputs = comparison.results, comparison.inputs
    if name in results.column_names:
        return numeric_column(results, name)
    if inputs is None or name not in inputs.column_names:
        raise invalid("labels", f"there is no column {name!r} in the results or the input rows")
    _, row = np.unique(results.column("row").to_numpy(), return_inverse=True)
    labels: FloatArray = numeric_column(inputs, name)[row.ravel()]
    return labels


def _agreement_rows(ratings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for left, right in combinations(ratings, 2):
        both = ~(np.isnan(ratings[left]) | np.isnan(ratings[right]))
        a, b = ratings[left][both], ratings[right][both]
        measures = {
            "equal": float((a == b).mean()) if len(a) else math.nan,
            "kappa": cohen_kappa(a.tolist(), b.tolist()),
            "weighted_kappa": cohen_kappa(a.tolist(), b.tolist(), "quadratic"),
            "alpha": krippendorff_alpha([a.tolist(), b.tolist()], "interval") if len(a) else math.nan,
            "mean_difference": float((a - b).mean()) if len(a) else math.nan,
        }
        known = {name: None if math.isnan(value) else value for name, value in measures.items()}
        yield {"left": left, "right": right, "responses": len(a), **known}
