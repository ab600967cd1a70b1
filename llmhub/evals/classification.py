"""Metrics of classification: confusion matrix, precision, recall and F1 of each class, and kappa, for each model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.evals._scorer import Scorer, target_texts
from llmhub.evals.agreement import cohen_kappa
from llmhub.evals.comparison import Comparison
from llmhub.evals.scorers import BUILT_IN_SCORERS, scorer_from_identity
from llmhub.evals.scoring import read_layout
from llmhub.tables.result_frames import answer_texts

UNREADABLE: Final = ""
"""Predicted class of a response without a readable one, and of a failed row."""
MACRO: Final = "(macro average)"

CLASSES: Final = pa.schema(
    [
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("class", pa.string(), metadata={"description": "class, or '(macro average)' over the classes"}),
        pa.field("support", pa.int64(), metadata={"description": "responses whose target is the class"}),
        pa.field("predicted", pa.int64(), metadata={"description": "responses that name the class"}),
        pa.field("precision", pa.float64(), metadata={"description": "share of these that are right; null for none"}),
        pa.field("recall", pa.float64(), metadata={"description": "share of the support that is found"}),
        pa.field("f1", pa.float64(), metadata={"description": "harmonic mean of precision and recall"}),
        pa.field("accuracy", pa.float64(), metadata={"description": "share of all responses; of the average only"}),
        pa.field("kappa", pa.float64(), metadata={"description": "Cohen's kappa with the target; of the average only"}),
    ]
)
"""One row per model and class, and one per model with their averages."""
CONFUSION: Final = pa.schema(
    [
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("target", pa.string(), metadata={"description": "right class"}),
        pa.field("predicted", pa.string(), metadata={"description": "class that was named; empty for none"}),
        pa.field("responses", pa.int64(), metadata={"description": "number of responses"}),
    ]
)
"""One row per model and pair of classes that occurs."""


def class_metrics(comparison: Comparison, scorer: Scorer | str | None = None) -> pa.Table:
    """Return precision, recall and F1 of each class.

    Parameters
    ----------
    comparison
        Comparison whose responses are scored by a class, as with `llmhub.evals.scorers.label` or ``choice``.
    scorer
        The scorer, or its name if it is a built-in one; by default the first.

    Returns
    -------
    pyarrow.Table
        `CLASSES`. A failed row, and a response without a readable class, count as a miss of their class.

    Raises
    ------
    BadRequestError
        The scorer reads no class, or the comparison has no input rows.
    """
    rows = [row for model, pairs in _predictions(comparison, scorer) for row in _class_rows(model, pairs)]
    return pa.Table.from_pylist(rows, schema=CLASSES)


def confusion_matrix(comparison: Comparison, scorer: Scorer | str | None = None) -> pa.Table:
    """Return how often each class was named for each target, as `CONFUSION`; see `class_metrics`."""
    rows = []
    for model, pairs in _predictions(comparison, scorer):
        for target, predicted in sorted(set(pairs)):
            count = pairs.count((target, predicted))
            rows.append({"model": model, "target": target, "predicted": predicted, "responses": count})
    return pa.Table.from_pylist(rows, schema=CONFUSION)


def _predictions(comparison: Comparison, scorer: Scorer | str | None) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield, for each model, the target and the predicted class of each response."""
    chosen = _resolve_scorer(comparison, scorer)
    column = str(chosen.parameters.get("target", "target"))
    column = comparison.design.target if column == "target" and comparison.design.target else column
    inputs, results = comparison.inputs, comparison.results
    if inputs is None or column not in inputs.column_names:
        raise invalid("comparison", f"its input rows have no column {column!r} with the right classes")
    layout = read_layout(results, comparison.design.models)
    targets = [target_texts(value) for value in inputs.column(column).to_pylist()]
    responses = answer_texts(results, comparison.answers)
    statuses = results.column("status").to_pylist() if "status" in results.column_names else ["ok"] * len(responses)
    for index, model in enumerate(layout.model_names):
        pairs = []
        for position in np.flatnonzero(layout.model_index == index).tolist():
            accepted = targets[int(layout.row_index[position])]
            if not accepted or statuses[position] not in {"ok", "error"}:
                continue
            right, answer = chosen.read(accepted[0]), responses[position]
            named = None if answer is None else chosen.read(answer)
            pairs.append((str(accepted[0] if right is None else right), UNREADABLE if named is None else str(named)))
        yield model, pairs


def _resolve_scorer(comparison: Comparison, scorer: Scorer | str | None) -> Scorer:
    if isinstance(scorer, Scorer):
        return scorer
    name = scorer or next(iter(comparison.scorers), None)
    recorded = next((one for one in comparison.design.scorers if one["name"] == name), None)
    if recorded is None or name not in BUILT_IN_SCORERS:
        known = ", ".join(comparison.scorers) or "none"
        raise invalid(
            "scorer", f"{name!r} is not a built-in scorer of this comparison ({known}); pass the scorer itself"
        )
    rebuilt = scorer_from_identity(recorded)
    if not isinstance(rebuilt, Scorer):
        raise invalid("scorer", f"{name!r} is a judge, which reads no class; pass scorers.label or scorers.choice")
    return rebuilt


def _class_rows(model: str, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of `CLASSES` of one model."""
    classes = sorted({target for target, _ in pairs})
    measures = []
    for name in classes:
        support = sum(target == name for target, _ in pairs)
        predicted = sum(named == name for _, named in pairs)
        right = pairs.count((name, name))
        precision = right / predicted if predicted else None
        recall = right / support
        f1 = 2 * right / (predicted + support)
        measures.append((precision or 0.0, recall, f1))
        yield {
            "model": model,
            "class": name,
            "support": support,
            "predicted": predicted,
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }
    if not classes:
        return
    kappa = cohen_kappa([target for target, _ in pairs], [named for _, named in pairs])
    averages = [sum(values) / len(classes) for values in zip(*measures, strict=True)]
    yield {
        "model": model,
        "class": MACRO,
        "support": len(pairs),
        "predicted": sum(named != UNREADABLE for _, named in pairs),
        **dict(zip(("precision", "recall", "f1"), averages, strict=True)),
        "accuracy": sum(target == named for target, named in pairs) / len(pairs),
        "kappa": None if math.isnan(kappa) else kappa,
    }
