"""What a comparison found, as Arrow tables and the design that led to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.evals.scoring import FailurePolicy
from llmhub.evals.statistics import (
    PowerTarget,
    required_sample_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PairedTest: TypeAlias = Literal["permutation", "wilcoxon"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisSettings:
    """How sure, how often drawn, and by which test.

    Parameters
    ----------
    level
        Of the intervals; a test finds a difference below ``1 - level``.
    power
        Chance to see a difference that is there, for questions of size.
    resamples, seed
        Of the bootstrap and the permutation test.
    test
        For scores that are no plain right or wrong, or come in clusters: ``permutation`` of signs, or ``wilcoxon``.
    """

    level: float = 0.95
    power: float = 0.8
    resamples: int = 10_000
    seed: int = 0
    test: PairedTest = "permutation"

    @property
    def power_target(self) -> PowerTarget:
        """What questions of size go by."""
        return PowerTarget(self.level, self.power)


def _schema(*fields: tuple[str, pa.DataType, str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, metadata={"description": about}) for name, kind, about in fields])


MODELS: Final = _schema(
    ("model", pa.string(), "provider/model"),
    ("kind", pa.string(), "score or measure"),
    ("metric", pa.string(), "name of the scorer or measure"),
    ("unit", pa.string(), "share, score, USD, tokens or s"),
    ("value", pa.float64(), "estimate; null where there is nothing to tell"),
    ("low", pa.float64(), "lower end of the interval; null where the rows are too few to bound it"),
    ("high", pa.float64(), "upper end of the interval; null where the rows are too few to bound it"),
    ("rows", pa.int64(), "rows, or for quantiles calls, that it is of"),
    ("clusters", pa.int64(), "independent groups of these"),
    ("method", pa.string(), "how the interval was found"),
)
"""One row for each model and figure."""


PAIRS: Final = _schema(
    ("scorer", pa.string(), "name of the scorer"),
    ("left", pa.string(), "provider/model"),
    ("right", pa.string(), "provider/model"),
    ("left_score", pa.float64(), "mean over the rows that both have"),
    ("right_score", pa.float64(), "mean over the rows that both have"),
    ("difference", pa.float64(), "left less right"),
    ("low", pa.float64(), "lower end of the difference's bootstrap interval"),
    ("high", pa.float64(), "upper end of the difference's bootstrap interval"),
    ("test", pa.string(), "mcnemar, permutation or wilcoxon"),
    ("p", pa.float64(), "chance of as much where there is no difference"),
    ("p_holm", pa.float64(), "the same, corrected for the number of pairs of this scorer"),
    ("tied", pa.bool_(), "whether these rows cannot tell the two apart"),
    ("only_left", pa.int64(), "rows on which left did better"),
    ("only_right", pa.int64(), "rows on which right did better"),
    ("rows", pa.int64(), "rows that both have"),
    ("clusters", pa.int64(), "independent groups of these"),
    ("error", pa.float64(), "standard error of the difference"),
    ("detectable", pa.float64(), "smallest true difference that these rows would likely have shown"),
)
"""One row for each scorer and pair of models."""


COUNTS: Final = _schema(
    ("model", pa.string(), "provider/model"),
    ("asked", pa.int64(), "rows x samples"),
    ("ok", pa.int64(), "answered"),
    ("error", pa.int64(), "failed"),
    ("skipped", pa.int64(), "not asked: a value of the prompt is missing"),
    ("stopped", pa.int64(), "not asked: cancelled, or out of budget"),
    ("cached", pa.int64(), "answered without a call of their own; not in the times"),
    ("unscored", pa.int64(), "answers that some scorer could say nothing of"),
)
"""One row for each model: what became of its rows. Nothing is left out unsaid."""


JUDGES: Final = _schema(
    ("judge", pa.string(), "its name"),
    ("model", pa.string(), "provider/model"),
    ("calls", pa.int64(), "questions put to it"),
    ("failed", pa.int64(), "calls without an answer"),
    ("unreadable", pa.int64(), "answers, or none, in which no verdict could be read"),
    ("cost_usd", pa.decimal128(18, 9), "paid for it now"),
    ("list_cost_usd", pa.decimal128(18, 9), "worth of its calls without the cache"),
    ("compared", pa.int64(), "times it was asked the same twice: both ways round, or again"),
    ("disagreed", pa.int64(), "of these, how often it did not say the same"),
    ("disagreement", pa.float64(), "the share of these"),
    ("low", pa.float64(), "lower end of the share's interval"),
    ("high", pa.float64(), "upper end of the share's interval"),
)
"""One row for each judge: its own cost, and how far it can be believed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonDesign:
    """How a comparison was made: with the same data and design, the same figures come out.

    Parameters
    ----------
    models, scorers
        Who was compared, and by what: each scorer's name, version and parameters.
    prompt
        The template, if there was one.
    n
        Answers a row and model.
    group, target
        Columns of the clusters and of what is right.
    failures
        Whether a failed row counts as the ``worst`` score (``wrong``) or is ``left_out``.
    settings
        Level, power, resamples, seed and test.
    """

    models: tuple[str, ...]
    scorers: tuple[Mapping[str, JSON], ...] = ()
    prompt: str | None = None
    n: int = 1
    group: str | None = None
    target: str | None = None
    failures: FailurePolicy = "wrong"
    settings: AnalysisSettings = field(default_factory=AnalysisSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Models over the same rows.

    Parameters
    ----------
    results
        Every answer, in the schema of results (or the table that was given).
    scores
        Every score: `llmhub.evals._scorer.SCORES`.
    models
        `MODELS`: each model's figures with their intervals.
    pairs
        `PAIRS`: each pair's paired difference, test, and what these rows could have shown.
    counts
        `COUNTS`: what became of each model's rows.
    judges
        `JUDGES`: what each judge cost, and how often it disagreed with itself.
    judgements
        Each judge's own answers, by its name.
    design
        How it was made.
    """

    results: pa.Table
    scores: pa.Table
    models: pa.Table
    pairs: pa.Table
    counts: pa.Table
    judges: pa.Table
    judgements: Mapping[str, pa.Table]
    design: ComparisonDesign

    @property
    def scorers(self) -> tuple[str, ...]:
        """Names of the scorers, in order."""
        return tuple(str(each["name"]) for each in self.design.scorers)

    def ranked(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """Give the models' rows of `models` for one scorer (the first, unless named), the best first."""
        name = self._scorer(scorer)
        rows = self.models.filter((pc.field("kind") == "score") & (pc.field("metric") == name)).to_pylist()
        return sorted(rows, key=lambda row: -float("inf") if row["value"] is None else row["value"], reverse=True)

    def leaders(self, scorer: str | None = None) -> tuple[str, ...]:
        """Name the best model and those that these rows cannot tell from it, the best first."""
        names = [row["model"] for row in self.ranked(scorer) if row["value"] is not None]
        tied = {frozenset((row["left"], row["right"])) for row in self.pairs_of(scorer) if row["tied"]}
        return tuple(name for name in names if name == names[0] or frozenset((name, names[0])) in tied)

    def pairs_of(self, scorer: str | None = None) -> list[dict[str, Any]]:
        """Give the rows of `pairs` for one scorer (the first, unless named)."""
        found: list[dict[str, Any]] = self.pairs.filter(pc.field("scorer") == self._scorer(scorer)).to_pylist()
        return found

    def rows_needed(self, difference: float, *, power: float | None = None, scorer: str | None = None) -> pa.Table:
        """Say how many rows like these would likely show a true difference of ``difference``.

        Parameters
        ----------
        difference
            Of the scores, such as 0.02 for two points in a hundred.
        power
            Chance to see it; the design's unless given.
        scorer
            Which; the first unless named.

        Returns
        -------
        pyarrow.Table
            ``left right difference rows`` for each pair; null where these rows say nothing of the spread.

        Raises
        ------
        InvalidRequestError
            ``difference`` is no number but zero, or the power is outside 0..1.
        """
        wish = self.design.settings.power_target
        wish = wish if power is None else replace(wish, power=power)
        if not 0 < abs(difference) < float("inf") or not 0 < wish.power < 1:
            path, value = ("power", power) if 0 < abs(difference) < float("inf") else ("difference", difference)
            raise BadRequestError(InvalidRequest(path=path, message=f"{value!r} is none; give one such as 0.1"))
        pairs = self.pairs_of(scorer)
        many = [
            required_sample_size(pair["error"] or 0.0, pair["clusters"], difference, wish)
            * pair["rows"]
            / max(1, pair["clusters"])
            for pair in pairs
        ]
        return pa.table(
            {
                "left": pa.array([pair["left"] for pair in pairs], pa.string()),
                "right": pa.array([pair["right"] for pair in pairs], pa.string()),
                "difference": pa.array([float(difference)] * len(pairs), pa.float64()),
                "rows": pa.array([None if each != each else round(each) for each in many], pa.int64()),  # noqa: PLR0124
            }
        )

    def to_markdown(self) -> str:
        """Give the findings as Markdown: a line of what can be said, the models, the pairs."""
        from llmhub.evals.report import comparison_markdown  # noqa: PLC0415 - loaded where it is shown

        return comparison_markdown(self)

    def _repr_html_(self) -> str:
        """Show itself in a notebook."""
        from llmhub.evals.html_report import comparison_html  # noqa: PLC0415 - loaded where it is shown

        return comparison_html(self)

    def __repr__(self) -> str:
        """Say it in a few lines."""
        return self.to_markdown()

    def plot(self, scorer: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw each model's score and each pair's difference, with their intervals."""
        from llmhub.evals.forest_plot import forest_plot  # noqa: PLC0415 - matplotlib is loaded by those who plot

        return forest_plot(self, self._scorer(scorer), ax)

    def _scorer(self, name: str | None) -> str:
        if name is None and self.scorers:
            return self.scorers[0]
        if name not in self.scorers or name is None:
            said = f"{name!r} is no scorer of this comparison; there are {', '.join(self.scorers) or 'none'}"
            raise BadRequestError(InvalidRequest(path="scorer", message=said))
        return name
