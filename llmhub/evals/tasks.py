"""Evaluation tasks: prompt template, parameters and scorers as one frozen value; and constructors of common tasks.

The instructions at the end of a template are part of the cache key of every request: changing them changes the keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from llmhub.core.errors import invalid
from llmhub.core.types import JSON
from llmhub.evals import scorers as built_in
from llmhub.evals._scorer import Scorer, check_name_and_version, identity
from llmhub.evals.judge import Judge, ScorerOrJudge

NUMBER_INSTRUCTION: Final = 'Work it out step by step. End with a line "Answer: N", where N is the number alone.'
LETTER_INSTRUCTION: Final = 'End with a line "Answer: X", where X is the letter of the right choice.'
LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

__all__ = ["Task", "choice", "classification", "numeric"]


def __dir__() -> list[str]:
    """List the public names only, so that completion shows nothing foreign."""
    return sorted(__all__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Prompt template and scoring of an evaluation.

    Parameters
    ----------
    name, version
        Identity of the results.
    template
        Prompt template over the dataset's columns.
    scorers
        One scorer or judge, or several; models are ranked by the first.
    target
        Column with the reference answer; scorers see it as ``target``.
    system
        System message.
    parameters
        Request parameters: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> Task(name="sums", template="{a} + {b} = ", scorers=built_in.numeric(), target="c").identity["name"]
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
        """Validate the task and store the scorers as a tuple."""
        check_name_and_version(self.name, self.version)
        if not self.scorer_list:
            raise invalid("scorers", "a task needs at least one scorer; pass one of llmhub.evals.scorers")
        object.__setattr__(self, "scorers", self.scorer_list)

    @property
    def scorer_list(self) -> tuple[ScorerOrJudge, ...]:
        """The scorers as a tuple."""
        return (self.scorers,) if isinstance(self.scorers, (Scorer, Judge)) else tuple(self.scorers)

    @property
    def identity(self) -> dict[str, JSON]:
        """Everything the results depend on; tasks with equal identities send and score alike."""
        return {
            "name": self.name,
            "version": self.version,
            "template": self.template,
            "system": self.system,
            "target": self.target,
            "parameters": {**self.parameters},
            "scorers": [identity(scorer) for scorer in self.scorer_list],
        }


def numeric(question: str = "question", target: str = "answer", *, tolerance: float = 0.0, **parameters: Any) -> Task:
    r"""Return a task with numeric answers, such as GSM8K.

    Parameters
    ----------
    question, target
        Columns. The last number of the target counts, such as the one after ``####``.
    tolerance
        Absolute tolerance of a correct answer.
    **parameters
        Request parameters: ``temperature``, ``max_tokens``, ...

    Examples
    --------
    >>> numeric().template
    '{question}\n\nWork it out step by step. End with a line "Answer: N", where N is the number alone.'
    """
    return Task(
        name="numeric",
        template=f"{{{question}}}\n\n{NUMBER_INSTRUCTION}",
        scorers=(built_in.numeric(tolerance=tolerance),),
        target=target,
        parameters=parameters,
    )


def choice(
    question: str = "question",
    options: Sequence[str] = ("A", "B", "C", "D"),
    target: str = "answer",
    **parameters: Any,
) -> Task:
    """Return a multiple-choice task. ``options`` are the columns with the choices, one per letter.

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
    if not 2 <= len(options) <= len(LETTERS):  # noqa: PLR2004 - a choice needs an alternative
        raise invalid("options", f"{len(options)} columns cannot be lettered; pass 2 to {len(LETTERS)} columns")
    repeated = next((column for column in options if list(options).count(column) > 1), None)
    if repeated is not None:
        message = f"the column {repeated!r} is given twice; pass one column per choice (spread a column of lists)"
        raise invalid("options", message)
    letters = LETTERS[: len(options)]
    lines = "\n".join(f"{letter}) {{{column}}}" for letter, column in zip(letters, options, strict=True))
    return Task(
        name="choice",
        template=f"{{{question}}}\n\n{lines}\n\n{LETTER_INSTRUCTION}",
        scorers=(built_in.choice(letters=letters),),
        target=target,
        parameters=parameters,
    )


def classification(labels: Sequence[str], text: str = "text", target: str = "label", **parameters: Any) -> Task:
    r"""Return a task that assigns one of several labels to each text.

    Examples
    --------
    >>> classification(["spam", "ham"]).template
    '{text}\n\nWhich of these is it: spam, ham? Answer with that word alone.'
    """
    known = tuple(labels)
    if len(set(known)) < 2 or len(set(known)) < len(known):  # noqa: PLR2004 - one label classifies nothing
        raise invalid("labels", f"{known!r:.80} are not valid labels; pass at least two distinct labels")
    listed = ", ".join(known).replace("{", "{{").replace("}", "}}")
    return Task(
        name="classification",
        template=f"{{{text}}}\n\nWhich of these is it: {listed}? Answer with that word alone.",
        scorers=(built_in.label(known),),
        target=target,
        parameters=parameters,
    )
