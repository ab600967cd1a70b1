"""Models as judges: grade single responses by a rubric, or compare responses pairwise.

Each pair is shown in both orders, because judges tend to prefer one position; a verdict that changes with the order
counts as a tie and as a disagreement. A failed response loses against one that did not fail. The target column is never
shown to a judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.core.types import JSON
from llmhub.evals._scorer import Scorer, check_name_and_version
from llmhub.evals.scoring import ScorerResult, ScoringInput, number_samples
from llmhub.evals.statistics import FloatArray
from llmhub.tables.result_frames import accepted_texts

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
"""Fields of a judge's prompt template that are not columns of the row."""

CallJudge = Callable[["Judge", pa.Table], pa.Table]
"""Function that sends one prompt per row of a table to the judge and returns ``n`` result rows for each, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Model that scores responses. It is called through the hub, so the cache, limits and budget apply.

    Parameters
    ----------
    name, version
        Identity of the scores.
    model
        The judging model, as ``provider/model``.
    rubric
        Grading criteria, in words.
    pairwise
        Whether to compare two responses (in both orders) instead of grading each one.
    prompt
        Prompt template. Fields: ``{input}``, the row with one line per column except the target; ``{response}``, or
        ``{first}`` and ``{second}``; ``{rubric}``, ``{low}``, ``{high}``; and the columns of the row by name.
    low, high
        Ends of the scale. A score outside is discarded.
    n
        Samples per prompt. Scores are averaged; samples that differ count as a disagreement.
    options
        Options of the judge's calls: ``temperature``, ``max_tokens``, ``system``, ...
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
        """Validate name, version and scale."""
        check_name_and_version(self.name, self.version)
        if not self.low < self.high:
            raise invalid("scale", f"({self.low!r}, {self.high!r}) is not a scale; pass (low, high) with low < high")

    @property
    def parameters(self) -> dict[str, JSON]:
        """Everything the scores depend on besides name and version."""
        names = ("model", "rubric", "pairwise", "prompt", "low", "high", "n")
        return {**{name: getattr(self, name) for name in names}, "options": {**self.options}}

    @property
    def worst(self) -> float:
        """Score of a failed row when failures are counted."""
        return 0.0 if self.pairwise else self.low


ScorerOrJudge = Scorer | Judge


def _check_fields(given: Mapping[str, Any]) -> None:
    """Raise if a keyword is not a field of `Judge`."""
    known = ("version", "prompt", "n", "options")
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        message = f"is not a field of a judge ({', '.join(known)}); parameters of its requests are options={{...}}"
        raise invalid(unknown, message)


def judge(model: str, rubric: str, *, scale: tuple[float, float] = (1, 5), name: str = "judge", **more: Any) -> Judge:
    """Return a judge that grades each response by a rubric.

    Parameters
    ----------
    model
        Any model of the hub, as ``provider/model``.
    rubric
        Grading criteria, in words.
    scale
        Lowest and highest score.
    **more
        Further fields of `Judge`: ``version``, ``prompt``, ``n``, ``options``.

    Examples
    --------
    >>> judge("openai/gpt-4o", "Is it polite?", options={"temperature": 0}).worst
    1.0
    """
    _check_fields(more)
    low, high = (float(end) for end in scale)
    return Judge(**{"version": "1", **more, "name": name, "model": model, "rubric": rubric, "low": low, "high": high})


def pairwise(model: str, rubric: str, *, name: str = "preferred", **more: Any) -> Judge:
    """Return a judge that compares responses pairwise, each pair in both orders.

    The score of a response is the share of its comparisons it won. If the two orders disagree, both responses get half
    a win, and the pair counts as a disagreement.

    The parameters are those of `judge`, except ``scale``.
    """
    _check_fields(more)
    fields = {"version": "1", "prompt": PAIRWISE_PROMPT, **more, "name": name, "model": model, "rubric": rubric}
    return Judge(**{**fields, "pairwise": True, "low": 0.0, "high": 1.0})


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Verdict on two responses to the same row, ``left`` and ``right`` as positions in the results.

    ``left_share`` is 1 if the left response won, 0 if it lost, and 0.5 for a tie or if the two orders disagree.
    """

    left: int
    right: int
    left_share: float
    consistent: bool = True
    judged: bool = True


@dataclass(frozen=True, slots=True)
class JudgeOutcome:
    """Scores of a judge, its own calls as a results table, and counts of its disagreements and unreadable responses.

    ``verdicts`` are those of a pairwise judge; ``decided`` counts its readable verdicts that are no tie, and
    ``first_won`` those of them for the response that was shown first.
    """

    scores: ScorerResult
    calls: pa.Table
    compared: int
    disagreed: int
    unreadable: int
    verdicts: tuple[PairVerdict, ...] = ()
    decided: int = 0
    first_won: int = 0


def run_judge(judge: Judge, scoring: ScoringInput, call: CallJudge) -> JudgeOutcome:
    """Score every response with a judge."""
    return _compare_pairs(judge, scoring, call) if judge.pairwise else _grade_each(judge, scoring, call)


def _grade_each(judge: Judge, scoring: ScoringInput, call: CallJudge) -> JudgeOutcome:
    """Grade each response on its own."""
    responses = scoring.responses
    positions = [position for position, response in enumerate(responses) if response is not None]
    prompts = [_prompt_fields(judge, scoring, position, {"response": responses[position]}) for position in positions]
    calls = call(judge, _prompt_table(prompts))
    scores = np.full(len(responses), np.nan)
    compared = disagreed = unreadable = 0
    notes: list[str | None] = [None] * len(responses)
    for position, replies in zip(positions, _group_replies(calls, len(positions)), strict=True):
        values = [value for reply in replies if (value := _parse_score(judge, reply)) is not None]
        unreadable += len(replies) - len(values)
        if values:
            scores[position] = sum(values) / len(values)
        else:
            notes[position] = "the judge returned no score"
        if len(values) > 1:
            compared += 1
            disagreed += len(set(values)) > 1
    return JudgeOutcome(_to_result(judge, scores, notes), calls, compared, disagreed, unreadable)


def _to_result(judge: Judge, scores: Any, notes: Sequence[str | None]) -> ScorerResult:
    return ScorerResult(
        judge.name, judge.version, is_binary=False, scores=scores, counted=~np.isnan(scores), notes=tuple(notes)
    )


def _parse_score(judge: Judge, reply: str | None) -> float | None:
    """Return the last score in a reply; ``None`` without one, or if it is outside the scale."""
    values = [float(value) for value in SCORE_LINE.findall(reply or "")]
    return values[-1] if values and judge.low <= values[-1] <= judge.high else None


def _compare_pairs(judge: Judge, scoring: ScoringInput, call: CallJudge) -> JudgeOutcome:
    """Compare the responses to each row pairwise, in both orders; a failed response loses without a call."""
    responses = scoring.responses
    pairs, verdicts = _response_pairs(scoring)
    prompts = [
        _prompt_fields(judge, scoring, left, {"first": responses[first], "second": responses[second]})
        for left, right in pairs
        for first, second in ((left, right), (right, left))
    ]
    calls = call(judge, _prompt_table(prompts))
    replies = _group_replies(calls, len(prompts))
    compared = disagreed = unreadable = decided = first_won = 0
    for (left, right), in_order, swapped in zip(pairs, replies[::2], replies[1::2], strict=True):
        for reply, swapped_reply in zip(in_order, swapped, strict=True):
            shown = (_parse_verdict(reply), _parse_verdict(swapped_reply))
            unreadable += shown.count(None)
            decided += sum(verdict in {1, -1} for verdict in shown)
            first_won += shown.count(1)
            verdict, swapped_verdict = shown
            if verdict is None or swapped_verdict is None:
                continue
            consistent = verdict == -swapped_verdict
            compared += 1
            disagreed += not consistent
            verdicts.append(PairVerdict(left, right, (1 + verdict) / 2 if consistent else 0.5, consistent))
    scores = _win_shares(len(responses), verdicts)
    notes = [
        "not compared" if response is not None and missing else None
        for response, missing in zip(responses, np.isnan(scores), strict=True)
    ]
    result = _to_result(judge, scores, notes)
    return JudgeOutcome(result, calls, compared, disagreed, unreadable, tuple(verdicts), decided, first_won)


def _win_shares(size: int, verdicts: Sequence[PairVerdict]) -> FloatArray:
    """Return the share of its comparisons that each response won; NaN without one."""
    wins, comparisons = np.zeros(size), np.zeros(size)
    for verdict in verdicts:
        wins[[verdict.left, verdict.right]] += (verdict.left_share, 1 - verdict.left_share)
        comparisons[[verdict.left, verdict.right]] += 1
    with np.errstate(invalid="ignore"):
        shares: FloatArray = wins / comparisons
    return shares


def _response_pairs(scoring: ScoringInput) -> tuple[list[tuple[int, int]], list[PairVerdict]]:
    """Pair the responses of different models to the same row and sample.

    Returns
    -------
    tuple
        The pairs to judge; and the verdicts on pairs with a failed response: it loses, and two failed ones tie.
    """
    layout = scoring.layout
    samples = number_samples(layout)
    positions_of: dict[tuple[int, int], list[int]] = {}
    for position, response in enumerate(scoring.responses):
        if response is not None or position in scoring.failed:
            row, sample = int(layout.row_index[position]), int(samples[position])
            positions_of.setdefault((row, sample), []).append(position)
    pairs, verdicts = [], []
    for positions in positions_of.values():
        for left, right in combinations(sorted(positions, key=lambda one: int(layout.model_index[one])), 2):
            answered = (left not in scoring.failed, right not in scoring.failed)
            if all(answered):
                pairs.append((left, right))
            else:
                verdicts.append(PairVerdict(left, right, (1 + answered[0] - answered[1]) / 2, judged=False))
    return pairs, verdicts


def _parse_verdict(reply: str | None) -> int | None:
    """Return the last verdict in a reply: 1 for the first response, -1 for the second, 0 for a tie."""
    verdicts = VERDICT_LINE.findall(reply or "")
    return {"a": 1, "b": -1, "tie": 0}[verdicts[-1].lower()] if verdicts else None


def _prompt_fields(
    judge: Judge, scoring: ScoringInput, position: int, responses: Mapping[str, str | None]
) -> dict[str, Any]:
    """Return the values of the judge's template fields, without hidden columns in ``{input}``."""
    row = scoring.row(position)
    lines = [f"{name}: {row[name]}" for name in row if name not in scoring.hidden and row[name] is not None]
    scale = {"low": f"{judge.low:g}", "high": f"{judge.high:g}"}
    return {**row, "input": "\n".join(lines), "rubric": judge.rubric, **scale, **responses}


def _prompt_table(prompts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the template fields as a table of strings."""
    names = list(prompts[0]) if prompts else list(JUDGE_FIELDS)
    columns = {name: [None if fields[name] is None else str(fields[name]) for fields in prompts] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _group_replies(calls: pa.Table, n_prompts: int) -> list[list[str | None]]:
    """Group the judge's replies by prompt."""
    texts = accepted_texts(calls).to_pylist()
    n = len(texts) // n_prompts if n_prompts else 0
    return [texts[index * n : (index + 1) * n] for index in range(n_prompts)]
