"""Scorers by how much an answer and its target share, through the libraries that others report with.

Each gives a number from 0 to 1, and needs the ``overlap`` extra. Of several targets the nearest counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Final, Literal

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.evals._scorer import TARGET, InputRow, ScoreLike, Scorer, target_texts
from llmhub.evals.optional_imports import import_optional

ROUGE_TYPES: Final = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL", target: str = TARGET) -> Scorer:
    """Give the F measure of ROUGE, by rouge-score.

    Examples
    --------
    >>> rouge()({"target": "the cat sat"}, "the cat")
    0.8
    """
    if kind not in ROUGE_TYPES:
        raise BadRequestError(InvalidRequest(path="kind", message=f"{kind!r} is none of {', '.join(ROUGE_TYPES)}"))
    import_optional("rouge_score", "overlap")
    return _similarity_scorer(kind, partial(_rouge, kind, target), target, {"kind": kind})


@cache
def _rouger(kind: str) -> Any:
    return import_optional("rouge_score.rouge_scorer", "overlap").RougeScorer([kind])


def _rouge(kind: str, target: str, row: InputRow, response: str) -> ScoreLike:
    measured: float = _rouger(kind).score_multi(target_texts(row[target]), response)[kind].fmeasure
    return round(measured, 15)


def bleu(target: str = TARGET) -> Scorer:
    """Give the sentence's BLEU as a share, by sacrebleu with its exponential smoothing.

    Examples
    --------
    >>> bleu()({"target": "the cat sat on the mat"}, "the cat sat on the mat")
    1.0
    """
    import_optional("sacrebleu", "overlap")
    return _similarity_scorer("bleu", partial(_bleu, target), target, {})


def _bleu(target: str, row: InputRow, response: str) -> ScoreLike:
    measured: float = import_optional("sacrebleu", "overlap").sentence_bleu(response, target_texts(row[target])).score
    return round(measured / 100, 15)


def edit_similarity(target: str = TARGET) -> Scorer:
    """Give 1 less the Levenshtein distance as a share of the longer text, by rapidfuzz.

    Examples
    --------
    >>> edit_similarity()({"target": "kitten"}, "mitten")
    0.8333333333333334
    """
    import_optional("rapidfuzz", "overlap")
    return _similarity_scorer("edit_similarity", partial(_similar, target), target, {})


def _similar(target: str, row: InputRow, response: str) -> ScoreLike:
    measure = import_optional("rapidfuzz.distance.Levenshtein", "overlap").normalized_similarity
    return max(float(measure(response, each)) for each in target_texts(row[target]))


def _similarity_scorer(name: str, score: Any, target: str, parameters: Mapping[str, JSON]) -> Scorer:
    return Scorer(
        name=name,
        version="1",
        score=score,
        right=False,
        columns=(target,),
        parameters={"target": target, **parameters},
    )
