"""What a scorer is: a plain function of a row and an answer, with a name and a version; and the table of scores."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import pyarrow as pa

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON

InputRow: TypeAlias = Mapping[str, Any]
"""An input row: its columns by name, and ``target``, what the answer is held against."""


TARGET: Final = "target"
"""The column that scorers read unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Score:
    """What an answer is worth: ``value``, ``None`` where that cannot be said, and a note on why."""

    value: float | None
    note: str = ""


ScoreLike: TypeAlias = Score | bool | float | None
"""What a function may give: right or wrong, a number, nothing, or any of them with a note."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """How answers are scored, as a value. It is called like the function it is made of.

    Parameters
    ----------
    name, version
        What scores are known by; a change of the function that changes scores is a new version.
    score
        From the row and the answer's text to what it is worth. It is not asked about failed rows.
    right
        Whether it says right or wrong (1 or 0) rather than how much; ``None`` to go by what it gives.
    columns
        Columns of the row that it reads; looked for before anything is sent.
    parameters
        What it was made with, for whoever wants to know or to hash it.
    read
        What an answer says: answers that read alike are one vote.
    worst
        What a failed row is worth where failures count.

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
        """Refuse what could not be told apart later."""
        check_name_and_version(self.name, self.version)
        score: object = self.score
        if not callable(score):
            said = f"{score!r:.80} is no function; give one of (row, response)"
            raise BadRequestError(InvalidRequest(path="scorer", message=said))

    def __call__(self, row: InputRow, response: str) -> ScoreLike:
        """Score one answer."""
        return self.score(row, response)


def check_name_and_version(name: object, version: object) -> None:
    """Refuse a scorer without a name or version."""
    for path, value in (("name", name), ("version", version)):
        if not isinstance(value, str) or not value.strip():
            said = f"{value!r:.80} is no {path} of a scorer; give a text such as {'exact' if path == 'name' else '1'!r}"
            raise BadRequestError(InvalidRequest(path=path, message=said))


def scorer(
    name: str,
    version: str = "1",
    *,
    right: bool | None = None,
    columns: Sequence[str] = (),
    read: Callable[[str], Hashable | None] = str.strip,
    worst: float = 0.0,
) -> Callable[[Callable[[InputRow, str], ScoreLike]], Scorer]:
    """Make a scorer of a function of (row, response); nothing is registered anywhere: the value is the scorer.

    Parameters are those of `Scorer`.

    Examples
    --------
    >>> @scorer("polite", "2")
    ... def polite(row, response):
    ...     return "please" in response.lower()
    >>> polite.version, polite({}, "Yes, please.")
    ('2', True)
    """

    def made(function: Callable[[InputRow, str], ScoreLike]) -> Scorer:
        return Scorer(
            name=name, version=version, score=function, right=right, columns=tuple(columns), read=read, worst=worst
        )

    return made


def identity(one: Any) -> dict[str, JSON]:
    """Give what a scorer or judge is known by: equal identities are taken to score alike.

    Examples
    --------
    >>> identity(Scorer(name="short", version="1", score=lambda row, response: True))
    {'name': 'short', 'version': '1', 'parameters': {}}
    """
    return {"name": one.name, "version": one.version, "parameters": dict(one.parameters)}


def to_score(verdict: ScoreLike) -> Score:
    """Bring what a function gave to one form.

    Examples
    --------
    >>> to_score(True).value, to_score(None).value, to_score(float("nan")).value
    (1.0, None, None)
    """
    if isinstance(verdict, Score):
        value, note = verdict.value, verdict.note
    else:
        value, note = verdict, ""
    if value is None:
        return Score(None, note)
    number = float(value)
    return Score(number if number == number else None, note)  # noqa: PLR0124 - not a number


def try_score(one: Scorer, row: InputRow, response: str) -> tuple[Score, bool]:
    """Score one answer, whatever the function does, and say whether it gave right or wrong."""
    try:
        verdict = one.score(row, response)
        score = to_score(verdict)
    except Exception as wrong:  # noqa: BLE001 - a user's function may raise anything; what is paid for stays
        return Score(None, f"{type(wrong).__name__}: {wrong}"), True
    value = verdict.value if isinstance(verdict, Score) else verdict
    return score, value is None or isinstance(value, bool) or type(value).__name__ == "bool"


MULTI_VALUE_TYPES: Final = (list, tuple, set, frozenset)


def target_texts(value: Any) -> list[str]:
    """Give a target as texts: one, or several of which one is enough.

    Examples
    --------
    >>> target_texts(7), target_texts(["a", "b"])
    (['7'], ['a', 'b'])
    """
    several = value if isinstance(value, MULTI_VALUE_TYPES) or type(value).__name__ == "ndarray" else (value,)
    return [str(each) for each in several]


_WORDS: Final = pa.dictionary(pa.int32(), pa.string())


SCORES: Final[pa.Schema] = pa.schema(
    [
        pa.field("row", pa.int64(), metadata={"description": "position of the input row"}),
        pa.field("sample", pa.int32(), metadata={"description": "which of n answers, from 0"}),
        pa.field("provider", _WORDS, metadata={"description": "provider asked"}),
        pa.field("model", _WORDS, metadata={"description": "model asked"}),
        pa.field("scorer", _WORDS, metadata={"description": "name of the scorer"}),
        pa.field("version", _WORDS, metadata={"description": "version of the scorer"}),
        pa.field("score", pa.float64(), metadata={"description": "what the answer is worth; null: cannot be said"}),
        pa.field("right", pa.bool_(), metadata={"description": "whether the scorer says right (1) or wrong (0)"}),
        pa.field("counted", pa.bool_(), metadata={"description": "whether the score enters the statistics"}),
        pa.field("note", pa.string(), metadata={"description": "why a score is what it is, where there is a reason"}),
    ]
)
"""Long form: for each scorer in turn, every row of the results, in their order."""
