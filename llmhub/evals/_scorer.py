"""Scorers: a function of an input row and a response, with a name and a version; and the schema of score tables.

A scorer is a value; nothing is registered globally. A scorer that raises never loses a paid response: the response is
left unscored, and the exception's text becomes its note.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.core.types import JSON

InputRow: TypeAlias = Mapping[str, Any]
"""An input row: its columns by name, and the reference answer under ``target``."""

TARGET: Final = "target"
"""Column that scorers compare with by default."""


@dataclass(frozen=True, slots=True)
class Score:
    """Score of one response: ``value``, ``None`` if it cannot be scored, and an explanatory note."""

    value: float | None
    note: str = ""


ScoreLike: TypeAlias = Score | bool | float | None
"""Return type of a scoring function: correct or not, a number, ``None``, or any of them in a `Score` with a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Named and versioned scoring function. Calling a scorer calls its function.

    Parameters
    ----------
    name, version
        Identity of the scores. Change the version whenever the function's scores change.
    score
        Function of the row and the response text. It is not called for failed rows.
    right
        Whether scores are binary (1 correct, 0 incorrect) rather than graded; inferred from the values if ``None``.
    columns
        Columns of the row that the function reads; checked before anything is sent.
    parameters
        Arguments the scorer was built with, part of its identity.
    read
        Function that extracts the answer from a response. Responses with equal answers count as one in a majority vote.
    worst
        Score of a failed row when failures are counted.

    Examples
    --------
    >>> short = Scorer(name="short", version="1", score=lambda row, response: len(response) < 10)
    >>> short({}, "Yes.")
    True
    """

    name: str
    version: str
    score: Callable[[InputRow, str], ScoreLike] = field(repr=False)
    right: bool | None = None
    columns: tuple[str, ...] = ()
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    read: Callable[[str], Hashable | None] = field(default=str.strip, repr=False)
    worst: float = 0.0

    def __post_init__(self) -> None:
        """Validate name, version and function."""
        check_name_and_version(self.name, self.version)
        score: object = self.score
        if not callable(score):
            raise invalid("scorer", f"{score!r:.80} is not callable; pass a function of (row, response)")

    def __call__(self, row: InputRow, response: str) -> ScoreLike:
        """Score one response."""
        return self.score(row, response)


def check_name_and_version(name: object, version: object) -> None:
    """Raise if a scorer's or task's name or version is not a non-empty string."""
    for path, value in (("name", name), ("version", version)):
        if not isinstance(value, str) or not value.strip():
            example = "exact" if path == "name" else "1"
            raise invalid(path, f"{value!r:.80} is not a non-empty string; pass a {path} such as {example!r}")


def scorer(
    name: str,
    version: str = "1",
    *,
    right: bool | None = None,
    columns: Sequence[str] = (),
    read: Callable[[str], Hashable | None] = str.strip,
    worst: float = 0.0,
) -> Callable[[Callable[[InputRow, str], ScoreLike]], Scorer]:
    """Return a decorator that turns a function of (row, response) into a `Scorer`.

    The parameters are those of `Scorer`.

    Examples
    --------
    >>> @scorer("polite", "2")
    ... def polite(row, response):
    ...     return "please" in response.lower()
    >>> polite.version, polite({}, "Yes, please.")
    ('2', True)
    """

    def decorate(function: Callable[[InputRow, str], ScoreLike]) -> Scorer:
        return Scorer(
            name=name, version=version, score=function, right=right, columns=tuple(columns), read=read, worst=worst
        )

    return decorate


def identity(scorer_or_judge: Any) -> dict[str, JSON]:
    """Return name, version and parameters of a scorer or judge. Equal identities are assumed to score alike.

    Examples
    --------
    >>> identity(Scorer(name="short", version="1", score=lambda row, response: True))
    {'name': 'short', 'version': '1', 'parameters': {}}
    """
    return {
        "name": scorer_or_judge.name,
        "version": scorer_or_judge.version,
        "parameters": dict(scorer_or_judge.parameters),
    }


def to_score(value: ScoreLike) -> Score:
    """Convert a scoring function's return value to a `Score`; NaN becomes ``None``.

    Examples
    --------
    >>> to_score(True).value, to_score(None).value, to_score(float("nan")).value
    (1.0, None, None)
    """
    score = value if isinstance(value, Score) else Score(value)
    if score.value is None:
        return score
    number = float(score.value)
    return Score(number if number == number else None, score.note)  # noqa: PLR0124 - NaN


def try_score(scorer: Scorer, row: InputRow, response: str) -> tuple[Score, bool]:
    """Score one response. Return the score and whether the function returned a truth value (or nothing).

    A row without the target that the scorer reads has no score.
    """
    target = scorer.parameters.get("target")
    if isinstance(target, str) and target in scorer.columns and target in row and not target_texts(row[target]):
        return Score(None, f"the target {target!r} is missing"), True
    try:
        value = scorer.score(row, response)
        score = to_score(value)
    except Exception as error:  # noqa: BLE001 - user code may raise anything; the paid response must be kept
        return Score(None, f"{type(error).__name__}: {error}"), True
    plain = value.value if isinstance(value, Score) else value
    return score, plain is None or isinstance(plain, bool) or type(plain).__name__ == "bool"


MULTI_VALUE_TYPES: Final = (list, tuple, set, frozenset)


def target_texts(value: Any) -> list[str]:
    """Return a target as the list of accepted texts, without missing values.

    Examples
    --------
    >>> target_texts(7), target_texts(["a", None, "b"]), target_texts(None)
    (['7'], ['a', 'b'], [])
    """
    is_multiple = isinstance(value, MULTI_VALUE_TYPES) or type(value).__name__ == "ndarray"
    return [str(accepted) for accepted in (value if is_multiple else (value,)) if not _is_missing(accepted)]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN


_CATEGORY: Final = pa.dictionary(pa.int32(), pa.string())

SCORES: Final[pa.Schema] = pa.schema(
    [
        pa.field("row", pa.int64(), metadata={"description": "position of the input row"}),
        pa.field("sample", pa.int32(), metadata={"description": "sample number, from 0 to n - 1"}),
        pa.field("provider", _CATEGORY, metadata={"description": "requested provider"}),
        pa.field("model", _CATEGORY, metadata={"description": "requested model"}),
        pa.field("scorer", _CATEGORY, metadata={"description": "name of the scorer"}),
        pa.field("version", _CATEGORY, metadata={"description": "version of the scorer"}),
        pa.field("score", pa.float64(), metadata={"description": "score of the response; null if it has none"}),
        pa.field("right", pa.bool_(), metadata={"description": "whether scores are binary: 1 correct, 0 incorrect"}),
        pa.field("counted", pa.bool_(), metadata={"description": "whether the score enters the statistics"}),
        pa.field("note", pa.string(), metadata={"description": "explanation of the score, if there is one"}),
    ]
)
"""Long form: for each scorer in turn, one row per result, in the order of the results."""
