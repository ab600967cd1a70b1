"""Scorers by how much an answer and its target share, through the libraries that others report with.

Each gives a number from 0 to 1, and needs the ``overlap`` extra. Of several targets the nearest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Final, Literal

from llmhub.core.errors import InvalidRequest, InvalidRequestError
from llmhub.core.types import JSON
from llmhub.evals.extras import wanted
from llmhub.evals.score import TARGET, Row, Scorer, Verdict, texts_of

ROUGE: Final = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL", target: str = TARGET) -> Scorer:
    """Give the F measure of ROUGE, by rouge-score.

    Examples
    --------
    >>> rouge()({"target": "the cat sat"}, "the cat")
    0.8
    """
    if kind not in ROUGE:
        raise InvalidRequestError(InvalidRequest(path="kind", message=f"{kind!r} is none of {', '.join(ROUGE)}"))
    wanted("rouge_score", "overlap")
    return _number(kind, partial(_rouge, kind, target), target, {"kind": kind})


@cache
def _rouger(kind: str) -> Any:
    return wanted("rouge_score.rouge_scorer", "overlap").RougeScorer([kind])


def _rouge(kind: str, target: str, row: Row, response: str) -> Verdict:
    measured: float = _rouger(kind).score_multi(texts_of(row[target]), response)[kind].fmeasure
    return round(measured, 15)


def bleu(target: str = TARGET) -> Scorer:
    """Give the sentence's BLEU as a share, by sacrebleu with its exponential smoothing.

    Examples
    --------
    >>> bleu()({"target": "the cat sat on the mat"}, "the cat sat on the mat")
    1.0
    """
    wanted("sacrebleu", "overlap")
    return _number("bleu", partial(_bleu, target), target, {})


def _bleu(target: str, row: Row, response: str) -> Verdict:
    measured: float = wanted("sacrebleu", "overlap").sentence_bleu(response, texts_of(row[target])).score
    return round(measured / 100, 15)


def edit_similarity(target: str = TARGET) -> Scorer:
    """Give 1 less the Levenshtein distance as a share of the longer text, by rapidfuzz.

    Examples
    --------
    >>> edit_similarity()({"target": "kitten"}, "mitten")
    0.8333333333333334
    """
    wanted("rapidfuzz", "overlap")
    return _number("edit_similarity", partial(_similar, target), target, {})


def _similar(target: str, row: Row, response: str) -> Verdict:
    measure = wanted("rapidfuzz.distance.Levenshtein", "overlap").normalized_similarity
    return max(float(measure(response, each)) for each in texts_of(row[target]))


def _number(name: str, score: Any, target: str, parameters: Mapping[str, JSON]) -> Scorer:
    return Scorer(
        name=name,
        version="1",
        score=score,
        right=False,
        columns=(target,),
        parameters={"target": target, **parameters},
    )
