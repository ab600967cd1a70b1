"""Tasks: what is asked of a dataset's rows, how, and what is right, as one frozen value; and a few that are ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.evals import scorers as ready
from llmhub.evals._scorer import Scorer, check_name_and_version, identity
from llmhub.evals.judge import Judge, ScorerOrJudge

NUMBER_LAST: Final = 'Work it out step by step. End with a line "Answer: N", where N is the number alone.'
LETTER_LAST: Final = 'End with a line "Answer: X", where X is the letter of the right choice.'

__all__ = ["Task", "choice", "classification", "numeric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is asked of each row, and what is right.

    Parameters
    ----------
    name, version
        What results are known by.
    template
        The prompt, over the dataset's columns.
    scorers
        How answers are scored; models are ranked by the first.
    target
        The column that holds what is right; scorers see it as ``target``.
    system
        The turn before the prompt.
    parameters
        Of the answers: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> Task(name="sums", template="{a} + {b} = ", scorers=ready.numeric(), target="c").identity["name"]
    'sums'
    """

    name: str
    template: str
    scorers: ScorerOrJudge | Sequence[ScorerOrJudge]
    target: str | None = None
    system: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str = "1"

    def __post_init__(self) -> None:
        """Bring one scorer and several to the same form."""
        check_name_and_version(self.name, self.version)
        given = (self.scorers,) if isinstance(self.scorers, (Scorer, Judge)) else tuple(self.scorers)
        if not given:
            said = "a task needs at least one; give one of llmhub.scorers"
            raise BadRequestError(InvalidRequest(path="scorers", message=said))
        object.__setattr__(self, "scorers", given)

    @property
    def scorer_list(self) -> tuple[ScorerOrJudge, ...]:
        """The scorers, however they were given."""
        return (self.scorers,) if isinstance(self.scorers, (Scorer, Judge)) else tuple(self.scorers)

    @property
    def identity(self) -> dict[str, JSON]:
        """What it is known by: equal identities ask and score alike."""
        return {
            "name": self.name,
            "version": self.version,
            "template": self.template,
            "system": self.system,
            "target": self.target,
            "parameters": {**self.parameters},
            "scorers": [identity(one) for one in self.scorer_list],
        }


def numeric(question: str = "question", target: str = "answer", *, tolerance: float = 0.0, **parameters: Any) -> Task:
    r"""Give a task whose answers end in a number, as those of GSM8K.

    Parameters
    ----------
    question, target
        Columns. Of the target's text the last number counts, such as that after ``####``.
    tolerance
        How far off is still right.
    **parameters
        Of the answers: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> numeric().template
    '{question}\n\nWork it out step by step. End with a line "Answer: N", where N is the number alone.'
    """
    return Task(
        name="numeric",
        template=f"{{{question}}}\n\n{NUMBER_LAST}",
        scorers=(ready.numeric(tolerance=tolerance),),
        target=target,
        parameters=parameters,
    )


def choice(
    question: str = "question",
    options: Sequence[str] = ("A", "B", "C", "D"),
    target: str = "answer",
    **parameters: Any,
) -> Task:
    """Give a task of multiple choice: ``options`` are the columns that hold what can be chosen, one for each letter.

    The target is a letter, or a position from 0.

    Examples
    --------
    >>> print(choice(options=["yes", "no"]).template)
    {question}
    <BLANKLINE>
    A) {yes}
    B) {no}
    <BLANKLINE>
    End with a line "Answer: X", where X is the letter of the right choice.
    """
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]
    if not 2 <= len(options) <= 26:  # noqa: PLR2004 - letters
        said = f"{len(options)} cannot be told by letters; give 2 to 26 columns"
        raise BadRequestError(InvalidRequest(path="options", message=said))
    listed = "\n".join(f"{letter}) {{{column}}}" for letter, column in zip(letters, options, strict=True))
    return Task(
        name="choice",
        template=f"{{{question}}}\n\n{listed}\n\n{LETTER_LAST}",
        scorers=(ready.choice(letters=letters),),
        target=target,
        parameters=parameters,
    )


def classification(labels: Sequence[str], text: str = "text", target: str = "label", **parameters: Any) -> Task:
    r"""Give a task that puts each text under one of a few labels.

    Examples
    --------
    >>> classification(["spam", "ham"]).template
    '{text}\n\nWhich of these is it: spam, ham? Answer with that word alone.'
    """
    known = tuple(labels)
    if len(set(known)) < 2 or len(set(known)) < len(known):  # noqa: PLR2004 - one says nothing
        said = f"{known!r:.80} are no labels; give at least two, each once"
        raise BadRequestError(InvalidRequest(path="labels", message=said))
    listed = ", ".join(known).replace("{", "{{").replace("}", "}}")
    return Task(
        name="classification",
        template=f"{{{text}}}\n\nWhich of these is it: {listed}? Answer with that word alone.",
        scorers=(ready.label(known),),
        target=target,
        parameters=parameters,
    )
