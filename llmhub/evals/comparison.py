"""The result of a comparison: Arrow tables of metrics, pairwise differences and row counts, and its design.

Every table has a fixed schema (`MODELS`, `PAIRS`, `COUNTS`, `JUDGES`); columns carry their description as metadata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import invalid
from llmhub.core.types import JSON
from llmhub.evals.scoring import FailurePolicy
from llmhub.evals.statistics import PowerTarget, mcnemar_rows, required_sample_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmhub.hub import Hub

PairedTest: TypeAlias = Literal["studentised", "permutation", "wilcoxon"]


def _schema(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"description": about}) for name, kind, about in fields])


MODELS: Final = _schema(
    ("model", pa.string(), "provider/model"),
    ("kind", pa.string(), "score or measure"),
    ("metric", pa.string(), "name of the scorer or measure"),
    ("unit", pa.string(), "share, score, USD, tokens or s"),
    ("value", pa.float64(), "estimate; null without data"),
    ("low", pa.float64(), "lower end of the confidence interval; null if there are too few rows to bound it"),
    ("high", pa.float64(), "upper end of the confidence interval; null if there are too few rows to bound it"),
    ("rows", pa.int64(), "number of rows, or for quantiles of calls"),
    ("clusters", pa.int64(), "number of independent clusters of these"),
    ("method", pa.string(), "method of the interval"),
    (
        "unseen_share",
        pa.float64(),
        "of a mean: largest share of rows that may be missing from the sample, a tail in which no interval covers",
    ),
)
"""One row per model and metric."""
PAIRS: Final = _schema(
    ("scorer", pa.string(), "name of the scorer"),
    ("left", pa.string(), "provider/model"),
    ("right", pa.string(), "provider/model"),
    ("left_score", pa.float64(), "mean over the rows scored for both models"),
    ("right_score", pa.float64(), "mean over the rows scored for both models"),
    ("difference", pa.float64(), "left minus right"),
    ("low", pa.float64(), "lower end of the difference's interval, of the same procedure as p; null if it is open"),
    ("high", pa.float64(), "upper end of the difference's interval, of the same procedure as p; null if it is open"),
    ("simultaneous_low", pa.float64(), "lower end of the interval that holds together with those of all pairs"),
    ("simultaneous_high", pa.float64(), "upper end of the interval that holds together with those of all pairs"),
    ("test", pa.string(), "mcnemar, studentised, permutation or wilcoxon"),
    ("p", pa.float64(), "p-value of the paired test"),
    ("p_holm", pa.float64(), "p-value corrected for the number of pairs of this scorer"),
    ("significant", pa.bool_(), "whether the corrected p-value is below 1 - level; null without common rows"),
    ("discordant_left", pa.int64(), "rows on which left scored higher"),
    ("discordant_right", pa.int64(), "rows on which right scored higher"),
    ("rows", pa.int64(), "rows scored for both models"),
    ("clusters", pa.int64(), "number of independent clusters of these"),
    ("standard_error", pa.float64(), "standard error of the difference"),
    (
        "minimum_detectable_effect",
        pa.float64(),
        "smallest true difference detected with the power; null: none",
    ),
)
"""One row per scorer and pair of models."""
COUNTS: Final = _schema(
    ("model", pa.string(), "provider/model"),
    ("total", pa.int64(), "rows x samples"),
    ("ok", pa.int64(), "with a response"),
    ("error", pa.int64(), "failed"),
    ("skipped", pa.int64(), "not sent: a value of the prompt is missing"),
    ("stopped", pa.int64(), "not sent: cancelled, or over budget"),
    ("cached", pa.int64(), "answered without a call of its own; excluded from latencies"),
    ("unscored", pa.int64(), "responses without a score from some scorer"),
)
"""One row per model: the status of its rows."""
JUDGES: Final = _schema(
    ("judge", pa.string(), "name of the judge"),
    ("model", pa.string(), "provider/model"),
    ("calls", pa.int64(), "number of calls"),
    ("failed", pa.int64(), "calls without a response"),
    ("unreadable", pa.int64(), "calls without a readable score or verdict"),
    ("cost_usd", pa.decimal128(18, 9), "billed for this run"),
    ("list_cost_usd", pa.decimal128(18, 9), "list price of all calls, cached ones included"),
    ("compared", pa.int64(), "repeated judgements: both orders of a pair, or several samples"),
    ("disagreed", pa.int64(), "repeated judgements that differ"),
    ("disagreement", pa.float64(), "share of repeated judgements that differ"),
    ("low", pa.float64(), "lower end of the share's interval"),
    ("high", pa.float64(), "upper end of the share's interval"),
    ("decided", pa.int64(), "readable verdicts that are no tie; null for a judge that is not pairwise"),
    ("first_won", pa.int64(), "verdicts of these for the response that was shown first"),
    ("first_share", pa.float64(), "share of them; 0.5 without a preference for a position"),
    ("first_low", pa.float64(), "lower end of the share's interval"),
    ("first_high", pa.float64(), "upper end of the share's interval"),
)
"""One row per judge: its cost, its consistency, and its preference for a position."""
HEAD_TO_HEAD: Final = _schema(
    ("judge", pa.string(), "name of the judge"),
    ("left", pa.string(), "provider/model"),
    ("right", pa.string(), "provider/model"),
    ("left_wins", pa.int64(), "verdicts for left, in both orders"),
    ("ties", pa.int64(), "verdicts of a tie, in both orders"),
    ("right_wins", pa.int64(), "verdicts for right, in both orders"),
    ("inconsistent", pa.int64(), "verdicts that changed with the order; half a win for each"),
    ("failed", pa.int64(), "pairs with a failed response, which loses; without a call"),
    ("left_share", pa.float64(), "share of the comparisons won by left; ties and inconsistent verdicts are half"),
)
"""One row per pairwise judge and pair of models: their direct comparisons."""
RATINGS: Final = _schema(
    ("judge", pa.string(), "name of the judge"),
    ("model", pa.string(), "provider/model"),
    ("rating", pa.float64(), "Bradley-Terry strength: log-odds of a win against the average model"),
    ("low", pa.float64(), "lower end of the rating's bootstrap interval"),
    ("high", pa.float64(), "upper end of the rating's bootstrap interval"),
    ("elo", pa.float64(), "rating on the Elo scale: 1000 + 400 / ln(10) times the rating"),
    ("wins", pa.float64(), "won comparisons, ties half"),
    ("comparisons", pa.int64(), "comparisons with any other model"),
)
"""One row per pairwise judge and model, with a half win of each model of a pair against the other added (see
`llmhub.evals.head_to_head`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """Settings of the statistical analysis.

    Parameters
    ----------
    level
        Confidence level of the intervals. A difference is significant if its corrected p-value is below ``1 - level``.
    power
        Probability of detecting a true difference, used for sample sizes.
    resamples, seed
        Of the permutation test and the bootstrap of ratings.
    test
        Paired test of graded or clustered scores, and the interval of the same procedure: ``studentised``, corrected
        for skewness; ``permutation`` of signs, for symmetric differences; or ``wilcoxon``, whose interval is that of
        the median difference. Independent binary scores are compared by McNemar's exact test.
    """

    level: float = 0.95
    power: float = 0.8
    resamples: int = 10_000
    seed: int = 0
    test: PairedTest = "studentised"

    @property
    def power_target(self) -> PowerTarget:
        """Level and power of sample-size calculations."""
        return PowerTarget(self.level, self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonDesign:
    """Design of a comparison. The same data and design give the same figures.

    Parameters
    ----------
    models, scorers
        Names of the models; name, version and parameters of each scorer.
    prompt
        Prompt template, or function of a row, if prompts were sent.
    parameters
        Request parameters and system message, if prompts were sent.
    n
        Samples per row and model.
    group, target
        Columns of the clusters and of the reference answers.
    baseline
        Model that all others are compared with; ``None`` if every pair is compared.
    failures
        Whether a failed row counts as the ``worst`` score (``wrong``) or is ``left_out``.
    settings
        Level, power, resamples, seed and test.
    """

    models: tuple[str, ...]
    scorers: tuple[Mapping[str, JSON], ...] = ()
    prompt: str | Callable[..., Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    group: str | None = None
    target: str | None = None
    baseline: str | None = None
    failures: FailurePolicy = "wrong"
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Comparison of models on the same rows.

    Parameters
    ----------
    results
        Every response, in the results schema (or the table that was passed).
    scores
        Every score: `llmhub.evals.SCORES`.
    models
        `MODELS`: metrics of each model, with confidence intervals.
    pairs
        `PAIRS`: paired difference and test of each pair of models, and its minimum detectable effect.
    counts
        `COUNTS`: status of each model's rows.
    judges
        `JUDGES`: cost and consistency of each judge, and its preference for a position.
    head_to_head
        `HEAD_TO_HEAD`: direct comparisons of each pair of models by pairwise judges.
    ratings
        `RATINGS`: Bradley-Terry strength of each model by pairwise judges.
    judgements
        Results table of each judge's own calls, by its name.
    design
        Design of the comparison.
    inputs
        Input rows, in the order of their numbers in ``results``.
    answers
        Columns of ``results`` that were scored: ``response``, labels or extracted fields.
    hub
        Hub that the requests were sent through.
    """

    results: pa.Table
    scores: pa.Table
    models: pa.Table
    pairs: pa.Table
    counts: pa.Table
    judges: pa.Table
    judgements: Mapping[str, pa.Table]
    design: ComparisonDesign
    head_to_head: pa.Table = field(default_factory=HEAD_TO_HEAD.empty_table)
    ratings: pa.Table = field(default_factory=RATINGS.empty_table)
    inputs: pa.Table | None = field(default=None, repr=False, compare=False)
    answers: tuple[str, ...] = field(default=("response",), repr=False, compare=False)
    hub: Hub | None = field(default=None, repr=False, compare=False)

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers, in order."""
        return tuple(str(scorer["name"]) for scorer in self.design.scorers)

    def ranked(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of `models` for one scorer (by default the first), best model first."""
        name = self._scorer_name(scorer)
        rows = self.models.filter((pc.field("kind") == "score") & (pc.field("metric") == name)).to_pylist()
        return sorted(rows, key=lambda row: -float("inf") if row["value"] is None else row["value"], reverse=True)

    def leaders(self, scorer: str | None = None) -> tuple[str, ...]:
        """Return the best model and those that do not differ significantly from it, best first.

        With a baseline, models that were not compared with the best one are among them.
        """
        names = [row["model"] for row in self.ranked(scorer) if row["value"] is not None]
        other = {
            frozenset((pair["left"], pair["right"]))
            for pair in self.pairs_of(scorer)
            if pair["significant"] is not False
        }
        return tuple(name for name in names if name == names[0] or frozenset((name, names[0])) not in other)

    def pairs_of(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of `pairs` for one scorer (by default the first)."""
        rows: list[dict[str, Any]] = self.pairs.filter(pc.field("scorer") == self._scorer_name(scorer)).to_pylist()
        return rows

    def rows_needed(self, difference: float, *, power: float | None = None, scorer: str | None = None) -> pa.Table:
        """Return how many rows like these would detect a true difference of ``difference``.

        Parameters
        ----------
        difference
            Difference of the scores, such as 0.02 for two percentage points.
        power
            Probability of detecting it; by default the design's.
        scorer
            Name of the scorer; by default the first.

        Returns
        -------
        pyarrow.Table
            Columns ``left right difference rows``, one row per pair; null if the spread is unknown. The power is that
            of each pair after Holm's correction, counted as Bonferroni's.

        Raises
        ------
        BadRequestError
            ``difference`` is zero or not finite, or ``power`` is not between 0 and 1.
        """
        target = self.design.settings.power_target
        target = target if power is None else replace(target, power=power)
        if not 0 < abs(difference) < float("inf"):
            raise invalid("difference", f"{difference!r} is not a nonzero number; pass one such as 0.02")
        if not 0 < target.power < 1:
            raise invalid("power", f"{power!r} is not between 0 and 1; pass one such as 0.8")
        pairs = self.pairs_of(scorer)
        target = replace(target, tests=sum(pair["p"] is not None for pair in pairs))
        needed = [_rows_needed(pair, difference, target) for pair in pairs]
        return pa.table(
            {
                "left": pa.array([pair["left"] for pair in pairs], pa.string()),
                "right": pa.array([pair["right"] for pair in pairs], pa.string()),
                "difference": pa.array([float(difference)] * len(pairs), pa.float64()),
                "rows": pa.array([None if rows != rows else round(rows) for rows in needed], pa.int64()),  # noqa: PLR0124
            }
        )

    def by(self, column: str) -> pa.Table:
        """Return the scores of each model in each group of rows, such as the subjects of a benchmark.

        Parameters
        ----------
        column
            Column of the input rows whose equal values form a group.

        Returns
        -------
        pyarrow.Table
            `llmhub.evals.subgroups.SUBGROUPS`: one row per scorer, group and model; and for each scorer and model the
            mean of the groups, whose ``group`` is null.

        Raises
        ------
        BadRequestError
            The column does not exist.

        Examples
        --------
        >>> from llmhub.evals import compare
        >>> frame = {"subject": ["law", "law", "art", "art"], "a": [1, 1, 0, 1], "b": [1, 0, 0, 0]}
        >>> table = compare(frame, model=["a", "b"]).by("subject")
        >>> table.select(["group", "model", "value"]).to_pylist()[0]
        {'group': 'law', 'model': 'a', 'value': 1.0}
        """
        from llmhub.evals.subgroups import scores_by_group  # noqa: PLC0415 - loaded when it is needed

        return scores_by_group(self, column)

    def agreement(self, labels: str | None = None) -> pa.Table:
        """Return how far scorers and judges agree, with each other and with labels.

        Parameters
        ----------
        labels
            Column of the results or of the input rows with the scores that people gave.

        Returns
        -------
        pyarrow.Table
            `llmhub.evals.agreement.AGREEMENT`: one row per pair of scorers.

        Raises
        ------
        BadRequestError
            The column does not exist or is not numeric.
        """
        from llmhub.evals.agreement import comparison_agreement  # noqa: PLC0415 - loaded when it is needed

        return comparison_agreement(self, labels)

    def to_markdown(self) -> str:
        """Return the comparison as Markdown: a headline, the models, the pairs and notes."""
        from llmhub.evals.report import comparison_markdown  # noqa: PLC0415 - loaded on display

        return comparison_markdown(self).replace("$", r"\$")

    def _repr_html_(self) -> str:
        """Return the HTML shown by notebooks."""
        from llmhub.evals.html_report import comparison_html  # noqa: PLC0415 - loaded on display

        return comparison_html(self)

    def __repr__(self) -> str:
        """Return the Markdown report."""
        return self.to_markdown().replace(r"\$", "$")

    def write_report(self, path: str | Path, *, by: str | None = None, max_rows: int = 1000) -> Path:
        """Write the comparison as one HTML file that needs no server: figures, and all models' responses side by side.

        Parameters
        ----------
        path
            File to write, such as ``report.html``; an existing file is replaced.
        by
            Column whose groups of rows have their own scores in the report; see `by`.
        max_rows
            Number of rows with their responses in the file.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        BadRequestError
            The column does not exist, or the file cannot be written.
        """
        from llmhub.evals.report_file import write_report  # noqa: PLC0415 - loaded when it is needed

        return write_report(self, path, by=by, max_rows=max_rows)

    def plot(self, scorer: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each model's score and each pair's difference, with confidence intervals."""
        from llmhub.evals.forest_plot import forest_plot  # noqa: PLC0415 - matplotlib is loaded on plotting

        return forest_plot(self, self._scorer_name(scorer), ax)

    def _scorer_name(self, name: str | None) -> str:
        if name is None and self.scorers:
            return self.scorers[0]
        if name not in self.scorers or name is None:
            known = ", ".join(self.scorers) or "none"
            raise invalid("scorer", f"{name!r} is not a scorer of this comparison; its scorers: {known}")
        return name


def _rows_needed(pair: Mapping[str, Any], difference: float, target: PowerTarget) -> float:
    """Return how many rows the test of a pair needs; NaN if the spread is unknown."""
    if pair["test"] == "mcnemar":
        discordant = pair["discordant_left"] + pair["discordant_right"]
        is_possible = discordant and abs(difference) <= 1
        return mcnemar_rows(difference, discordant / pair["rows"], target) if is_possible else math.nan
    clusters = required_sample_size(pair["standard_error"] or 0.0, pair["clusters"], difference, target)
    if pair["test"] in {"permutation", "wilcoxon"}:
        clusters = max(clusters, 1 - math.log2(1 - target.test_level))
    return float(clusters * pair["rows"] / max(1, pair["clusters"]))
