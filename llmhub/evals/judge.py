"""A model as judge: one answer at a time by a rubric, or two side by side, each pair shown both ways round."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.evals._scorer import Scorer, check_name_and_version
from llmhub.evals.scoring import ResponseLayout, ScorerResult, ScoringInput

POINTWISE_PROMPT: Final = """You grade an answer to a task.

Task:
{input}

Answer:
{response}

What to grade by:
{rubric}

Think briefly. Then end with a line "Score: N", where N is a number from {low} to {high}."""


PAIRWISE_PROMPT: Final = """You compare two answers to the same task.

Task:
{input}

Answer A:
{first}

Answer B:
{second}

What to compare by:
{rubric}

Think briefly. Then end with a line "Verdict: A", "Verdict: B" or "Verdict: tie"."""


SCORE_LINE: Final = re.compile(r"score\W{0,12}?(-?\d+(?:\.\d+)?)", re.IGNORECASE)


VERDICT_LINE: Final = re.compile(r"verdict\W{0,12}(A|B|tie)\b", re.IGNORECASE)


JUDGE_FIELDS: Final = ("input", "response", "first", "second", "rubric", "low", "high")
"""Places of a judge's prompt that are not columns of the row."""


CallJudge = Callable[["Judge", pa.Table], pa.Table]
"""Asks the judge every row of a table, and gives its answers: ``n`` rows for each, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """A model that scores answers. It is asked through the hub, so that cache, limits and budget hold for it too.

    Parameters
    ----------
    name, version
        What scores are known by.
    model
        ``provider/model``.
    rubric
        What to go by.
    pairwise
        Whether it compares two answers, shown both ways round, rather than grading each.
    prompt
        Its template: ``{input}`` is the row, a line for each column but the target; ``{response}``, or ``{first}`` and
        ``{second}``; ``{rubric}``, ``{low}``, ``{high}``; and columns of the row by name.
    low, high
        Ends of the scale; a score beyond them is not taken.
    n
        How often each question is put; scores are averaged, and where they differ counts as disagreement.
    options
        Of the judge's calls: ``temperature``, ``max_tokens``, ``system``, ...
    """

    name: str
    version: str
    model: str
    rubric: str
    pairwise: bool = False
    prompt: str = POINTWISE_PROMPT
    low: float = 1.0
    high: float = 5.0
    n: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be asked."""
        check_name_and_version(self.name, self.version)
        if not self.low < self.high:
            said = f"{self.low!r} to {self.high!r} is no scale; give (low, high)"
            raise BadRequestError(InvalidRequest(path="scale", message=said))

    @property
    def parameters(self) -> dict[str, JSON]:
        """What its scores depend on."""
        names = ("model", "rubric", "pairwise", "prompt", "low", "high", "n")
        return {**{name: getattr(self, name) for name in names}, "options": {**self.options}}

    @property
    def worst(self) -> float:
        """What a failed row is worth where failures count."""
        return 0.0 if self.pairwise else self.low


def judge(model: str, rubric: str, *, scale: tuple[float, float] = (1, 5), name: str = "judge", **more: Any) -> Judge:
    """Make a judge that grades each answer by a rubric.

    Parameters
    ----------
    model
        Any model of the hub, as ``provider/model``.
    rubric
        What to grade by, in words.
    scale
        Lowest and highest score.
    **more
        Further fields of `Judge`: ``version``, ``prompt``, ``n``, ``options``.

    Examples
    --------
    >>> judge("openai/gpt-4o", "Is it polite?", options={"temperature": 0}).worst
    1.0
    """
    low, high = (float(end) for end in scale)
    return Judge(**{"version": "1", **more, "name": name, "model": model, "rubric": rubric, "low": low, "high": high})


def pairwise(model: str, rubric: str, *, name: str = "preferred", **more: Any) -> Judge:
    """Make a judge that compares answers two by two, each pair both ways round.

    A model's score on a row is the share of its comparisons there that it won. Where the two ways round disagree,
    neither won: that counts a half for both, and as a disagreement.

    Parameters are those of `judge`.
    """
    own = {"version": "1", "prompt": PAIRWISE_PROMPT, **more, "name": name, "model": model, "rubric": rubric}
    return Judge(**{**own, "pairwise": True, "low": 0.0, "high": 1.0})


@dataclass(frozen=True, slots=True)
class JudgeOutcome:
    """What a judge said: its scores, its answers as results, and how often it was not at one with itself."""

    scores: ScorerResult
    calls: pa.Table
    compared: int
    disagreed: int
    unreadable: int


def run_judge(one: Judge, answers: ScoringInput, ask: CallJudge) -> JudgeOutcome:
    """Have a judge score every answer."""
    return _paired(one, answers, ask) if one.pairwise else _graded(one, answers, ask)


def _graded(one: Judge, given: ScoringInput, ask: CallJudge) -> JudgeOutcome:
    """Grade each answer by itself."""
    responses = given.responses
    places = [at for at, response in enumerate(responses) if response is not None]
    questions = [_question(one, given, at, {"response": responses[at]}) for at in places]
    calls = ask(one, _table(questions))
    said = _by_question(calls, len(places))
    scores, compared, disagreed, unreadable = np.full(len(responses), np.nan), 0, 0, 0
    notes: list[str | None] = [None] * len(responses)
    for at, answers in zip(places, said, strict=True):
        read = [value for answer in answers if (value := _score(one, answer)) is not None]
        unreadable += len(answers) - len(read)
        if read:
            scores[at] = sum(read) / len(read)
        else:
            notes[at] = "the judge gave no score"
        if len(read) > 1:
            compared += 1
            disagreed += len(set(read)) > 1
    scored = ScorerResult(
        one.name, one.version, is_binary=False, scores=scores, counted=~np.isnan(scores), notes=tuple(notes)
    )
    return JudgeOutcome(scored, calls, compared, disagreed, unreadable)


def _score(one: Judge, answer: str | None) -> float | None:
    """Read the last score within the scale."""
    found = [float(each) for each in SCORE_LINE.findall(answer or "")]
    return found[-1] if found and one.low <= found[-1] <= one.high else None


def _paired(one: Judge, given: ScoringInput, ask: CallJudge) -> JudgeOutcome:
    """Compare the answers of each row two by two, both ways round."""
    responses = given.responses
    couples = _couples(given.layout, responses)
    questions = [
        _question(one, given, left, {"first": responses[first], "second": responses[second]})
        for left, right in couples
        for first, second in ((left, right), (right, left))
    ]
    calls = ask(one, _table(questions))
    said = _by_question(calls, len(questions))
    won, held = np.zeros(len(responses)), np.zeros(len(responses))
    compared = disagreed = unreadable = 0
    for (left, right), there, back in zip(couples, said[::2], said[1::2], strict=True):
        for one_way, other_way in zip(there, back, strict=True):
            ahead, behind = _verdict(one_way), _verdict(other_way)
            unreadable += (ahead is None) + (behind is None)
            if ahead is None or behind is None:
                continue
            compared += 1
            disagreed += ahead != -behind
            share = 0.5 if ahead != -behind else (1 + ahead) / 2
            won[[left, right]] += (share, 1 - share)
            held[[left, right]] += 1
    with np.errstate(invalid="ignore"):
        scores = won / held
    answered = [response is not None for response in responses]
    notes = tuple(
        "not compared" if there and nothing else None for there, nothing in zip(answered, np.isnan(scores), strict=True)
    )
    scored = ScorerResult(one.name, one.version, is_binary=False, scores=scores, counted=~np.isnan(scores), notes=notes)
    return JudgeOutcome(scored, calls, compared, disagreed, unreadable)


def _couples(layout: ResponseLayout, responses: Sequence[str | None]) -> list[tuple[int, int]]:
    """Pair the answers of different models to the same row, sample by sample."""
    seen: dict[tuple[int, int], int] = {}
    together: dict[tuple[int, int], list[int]] = {}
    for at, response in enumerate(responses):
        cell = (int(layout.row_index[at]), int(layout.model_index[at]))
        sample = seen[cell] = seen.get(cell, -1) + 1
        if response is not None:
            together.setdefault((cell[0], sample), []).append(at)
    return [couple for places in together.values() for couple in combinations(places, 2)]


def _verdict(answer: str | None) -> int | None:
    """Read the last verdict: 1 for the first shown, -1 for the second, 0 for a tie."""
    found = VERDICT_LINE.findall(answer or "")
    return {"a": 1, "b": -1, "tie": 0}[found[-1].lower()] if found else None


def _question(one: Judge, given: ScoringInput, at: int, shown: Mapping[str, str | None]) -> dict[str, Any]:
    """Put together what the judge's template may name; the target stays out of the row that it is shown."""
    row = given.row(at)
    told = "\n".join(f"{name}: {row[name]}" for name in row if name not in given.hidden and row[name] is not None)
    scale = {"low": f"{one.low:g}", "high": f"{one.high:g}"}
    return {**row, "input": told, "rubric": one.rubric, **scale, **shown}


def _table(questions: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of texts, which is all that a prompt needs."""
    names = list(questions[0]) if questions else list(JUDGE_FIELDS)
    columns = {name: [None if each[name] is None else str(each[name]) for each in questions] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _by_question(calls: pa.Table, questions: int) -> list[list[str | None]]:
    """Give the answers to each question."""
    texts = calls.column("response").to_pylist()
    each = len(texts) // questions if questions else 0
    return [texts[at * each : (at + 1) * each] for at in range(questions)]


ScorerOrJudge = Scorer | Judge
