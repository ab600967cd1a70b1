"""An evaluation as one call: a dataset, a task, some models."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Unpack

import numpy as np
import pyarrow as pa

from llmhub.api import current_hub
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.evals import statistics
from llmhub.evals._compare import (
    CompareOptions,
    NameOrNames,
    check_scorers,
    cluster_codes,
    pop_scoring_plan,
    run_comparison,
)
from llmhub.evals._scorer import Scorer
from llmhub.evals.analysis import MetricValues, estimate_means
from llmhub.evals.comparison import Comparison
from llmhub.evals.scoring import ResponseLayout, read_layout
from llmhub.evals.statistics import FloatMatrix, IntArray
from llmhub.evals.tasks import Task
from llmhub.hub import Hub
from llmhub.tables import files, frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SAMPLE_METRICS: Final = pa.schema(
    [
        pa.field("scorer", pa.string(), metadata={"description": "name of the scorer"}),
        pa.field("model", pa.string(), metadata={"description": "provider/model"}),
        pa.field("metric", pa.string(), metadata={"description": "pass@k, or majority"}),
        pa.field("k", pa.int32(), metadata={"description": "answers that it takes"}),
        pa.field("value", pa.float64(), metadata={"description": "share of rows; null where no row has k answers"}),
        pa.field("low", pa.float64(), metadata={"description": "lower end of the interval"}),
        pa.field("high", pa.float64(), metadata={"description": "upper end of the interval"}),
        pa.field("rows", pa.int64(), metadata={"description": "rows that it is of"}),
    ]
)
"""What several answers a row are worth together: one row for each scorer of right and wrong, model and figure."""


class EvaluateOptions(CompareOptions, total=False):
    """What an evaluation takes besides: see `evaluate`."""

    k: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What models made of a task.

    Parameters
    ----------
    task
        As it was asked, parameters of the call included.
    dataset
        The rows.
    comparison
        Every answer and score, each model's figures, each pair's difference.
    samples
        `SAMPLE_METRICS`: pass@k and majority votes, where rows were answered several times.
    """

    task: Task
    dataset: pa.Table
    comparison: Comparison
    samples: pa.Table

    @property
    def results(self) -> pa.Table:
        """Every answer, in the schema of results."""
        return self.comparison.results

    @property
    def scores(self) -> pa.Table:
        """Every score."""
        return self.comparison.scores

    def to_markdown(self) -> str:
        """Give the findings as Markdown."""
        from llmhub.evals.report import samples_markdown  # noqa: PLC0415 - loaded where it is shown

        return "\n\n".join(part for part in (self.comparison.to_markdown(), samples_markdown(self.samples)) if part)

    def _repr_html_(self) -> str:
        """Show itself in a notebook."""
        from llmhub.evals.html_report import samples_html  # noqa: PLC0415 - loaded where it is shown

        return self.comparison._repr_html_() + samples_html(self.samples, self.comparison)

    def __repr__(self) -> str:
        """Say it in a few lines."""
        return self.to_markdown()

    def plot(self, scorer: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each model's score and each pair's difference, with their intervals."""
        return self.comparison.plot(scorer, ax)


def evaluate(
    dataset: Any, task: Task, models: NameOrNames, *, hub: Hub | None = None, **options: Unpack[EvaluateOptions]
) -> Evaluation:
    """Put a task to models, score the answers and compare.

    What was answered before comes from the hub's cache: an evaluation that was stopped goes on where it was.

    Parameters
    ----------
    dataset
        A frame, as for `complete_table`; a dataset of the ``datasets`` library; or the path of a CSV, JSON lines,
        Parquet or Arrow file.
    task
        What is asked and what is right: `llmhub.tasks` has some.
    models
        Whom to ask, as ``provider/model``.
    hub
        Who can be asked; the default hub unless given.
    **options
        Those of `compare` but ``target`` and ``scores``, which are the task's; and ``k``, the sizes of pass@k where
        ``n`` is more than one: powers of two up to ``n`` unless given. Parameters of the answers go before the task's
        own.

    Raises
    ------
    InvalidRequestError
        Before anything is sent: what is absent or out of range, by its name.
    """
    whole: dict[str, Any] = {**task.parameters, **({"system": task.system} if task.system else {}), **options}
    sizes = _sizes(whole.pop("k", None), whole.get("n", 1))
    for name in ("target", "scores"):
        if name in options:
            raise BadRequestError(InvalidRequest(path=name, message="is the task's; leave it out"))
    plan = replace(pop_scoring_plan(whole), target=task.target)
    hub = hub or current_hub()
    check_scorers(task.scorer_list, hub)
    source = frames.pandas_or_arrow(_opened(dataset))
    names = (models,) if isinstance(models, str) else tuple(models)
    comparison = run_comparison(source, task.template, names, task.scorer_list, hub, plan, whole)
    table = pa.Table.from_pandas(source, preserve_index=False) if frames.is_pandas(source) else source
    clusters = None
    if plan.group is not None:
        clusters = cluster_codes([{plan.group: each} for each in frames.column_values(source, plan.group)], plan.group)
    kept = {name: value for name, value in whole.items() if name not in RUN_OPTIONS and name != "system"}
    return Evaluation(
        task=replace(task, parameters=kept, system=whole.get("system")),
        dataset=table,
        comparison=comparison,
        samples=pa.Table.from_pylist(list(_sampled(comparison, task, sizes, clusters)), schema=SAMPLE_METRICS),
    )


RUN_OPTIONS: Final = frozenset({"n", "concurrency", "progress", "on_error", "stream", "budget_usd", "allow_unpriced"})
"""Options of a run, which change no answer."""


def _opened(dataset: Any) -> Any:
    """Read a file, and a dataset of the ``datasets`` library, which has its rows in Arrow."""
    if isinstance(dataset, (str, Path)):
        return files.read_table(Path(dataset), "dataset")
    return dataset.with_format("arrow")[:] if hasattr(dataset, "with_format") else dataset


def _sizes(k: Any, n: int) -> tuple[int, ...]:
    """Give the sizes of pass@k, the smallest first."""
    if k is None:
        return tuple(sorted({1 << each for each in range(n.bit_length()) if 1 << each <= n} | {n})) if n > 1 else ()
    sizes = tuple(sorted({k} if isinstance(k, int) else set(k)))
    if any(not 1 <= each <= n for each in sizes):
        said = f"{k!r} is outside 1..{n}, the answers a row; give n= more"
        raise BadRequestError(InvalidRequest(path="k", message=said))
    return sizes


def _sampled(
    comparison: Comparison, task: Task, sizes: Sequence[int], clusters: IntArray | None
) -> Iterator[Mapping[str, Any]]:
    """Give what several answers a row are worth together."""
    if comparison.design.n < 2:  # noqa: PLR2004 - one answer is no vote
        return
    where = read_layout(comparison.results)
    size = len(comparison.results)
    responses = comparison.results.column("response").to_pylist()
    for at, one in enumerate(task.scorer_list):
        part = comparison.scores.slice(at * size, size)
        if not (isinstance(one, Scorer) and size and part.column("right")[0].as_py()):
            continue
        counted = np.asarray(part.column("counted").to_numpy(), np.bool_)
        scores = np.nan_to_num(np.asarray(part.column("score").to_numpy(), np.float64))
        means, _ = where.cell_means(scores, counted)
        cells = np.bincount(
            where.row_index[counted] * len(where.models) + where.model_index[counted], minlength=means.size
        )
        many = cells.reshape(means.shape).astype(np.float64)
        right = np.nan_to_num(means) * many
        for k in sizes:
            passed = statistics.pass_at_k(right.ravel().round(), many.ravel(), k).reshape(means.shape)
            yield from _figures(passed, f"pass@{k}", k, one.name, where, comparison, clusters)
        votes = _majority(one.read, responses, scores, counted, where)
        yield from _figures(votes, "majority", comparison.design.n, one.name, where, comparison, clusters)


def _figures(
    values: FloatMatrix,
    metric: str,
    k: int,
    scorer: str,
    where: ResponseLayout,
    comparison: Comparison,
    clusters: IntArray | None,
) -> Iterator[Mapping[str, Any]]:
    """Give each model's mean of a figure that each row has."""
    answers = np.full(len(where.models), comparison.design.n * len(where.row_ids))
    quantity = MetricValues(values, answers, clusters, is_binary=True, one_response_per_cell=False)
    means, _ = estimate_means(quantity, comparison.design.settings, pairs=False)
    for name, mean in zip(where.model_names, means, strict=True):
        known = mean.rows > 0
        yield {
            "scorer": scorer,
            "model": name,
            "metric": metric,
            "k": k,
            "value": mean.value if known else None,
            "low": mean.interval.low if known else None,
            "high": mean.interval.high if known else None,
            "rows": mean.rows,
        }


def _majority(
    read: Callable[[str], Hashable | None],
    responses: Sequence[str | None],
    scores: Any,
    counted: Any,
    where: ResponseLayout,
) -> FloatMatrix:
    """Give the score of each row's most frequent answer; where several are as frequent, their mean.

    An answer that says nothing readable, or failed, has no vote; a row without any vote is wrong if it counts at all.
    """
    votes: dict[tuple[int, int], dict[Hashable, list[float]]] = {}
    for at in np.flatnonzero(counted).tolist():
        ballot = votes.setdefault((int(where.row_index[at]), int(where.model_index[at])), {})
        response = responses[at]
        said = None if response is None else read(response)
        if said is not None:
            ballot.setdefault(said, []).append(float(scores[at]))
    found = np.full((len(where.row_ids), len(where.models)), np.nan)
    for cell, ballot in votes.items():
        most = max(map(len, ballot.values()), default=0)
        first = [worth[0] for worth in ballot.values() if len(worth) == most]
        found[cell] = sum(first) / len(first) if first else 0.0
    return found
