"""Scorers of the textual overlap between response and target: ROUGE, BLEU and edit similarity.

Values are computed by the reference libraries (the ``overlap`` extra) and lie between 0 and 1. With several targets the
best match counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, Final, Literal

from llmhub.core.errors import invalid
from llmhub.core.optional_imports import import_optional
from llmhub.core.types import JSON
from llmhub.evals._scorer import TARGET, InputRow, ScoreLike, Scorer, target_texts

ROUGE_TYPES: Final = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(kind: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL", target: str = TARGET) -> Scorer:
    """Return a scorer of the ROUGE F-measure, computed by rouge-score.

    Examples
    --------
    >>> rouge()({"target": "the cat sat"}, "the cat")
    0.8
    """
    if kind not in ROUGE_TYPES:
        raise invalid("kind", f"{kind!r} is not a ROUGE type; use one of {', '.join(ROUGE_TYPES)}")
    import_optional("rouge_score", "overlap")
    return _similarity_scorer(kind, partial(_rouge, kind, target), target, {"kind": kind})


@cache
def _rouge_scorer(kind: str) -> Any:
    return import_optional("rouge_score.rouge_scorer", "overlap").RougeScorer([kind])


def _rouge(kind: str, target: str, row: InputRow, response: str) -> ScoreLike:
    f_measure: float = _rouge_scorer(kind).score_multi(target_texts(row[target]), response)[kind].fmeasure
    return round(f_measure, 15)


def bleu(target: str = TARGET) -> Scorer:
    """Return a scorer of sentence BLEU between 0 and 1, computed by sacrebleu with exponential smoothing.

    Examples
    --------
    >>> bleu()({"target": "the cat sat on the mat"}, "the cat sat on the mat")
    1.0
    """
    import_optional("sacrebleu", "overlap")
    return _similarity_scorer("bleu", partial(_bleu, target), target, {})


def _bleu(target: str, row: InputRow, response: str) -> ScoreLike:
    percent: float = import_optional("sacrebleu", "overlap").sentence_bleu(response, target_texts(row[target])).score
    return round(percent / 100, 15)


def edit_similarity(target: str = TARGET) -> Scorer:
    """Return a scorer of the normalized Levenshtein similarity, computed by rapidfuzz.

    The similarity is 1 minus the edit distance divided by the length of the longer text.

    Examples
    --------
    >>> edit_similarity()({"target": "kitten"}, "mitten")
    0.8333333333333334
    """
    import_optional("rapidfuzz", "overlap")
    return _similarity_scorer("edit_similarity", partial(_edit_similarity, target), target, {})


def _edit_similarity(target: str, row: InputRow, response: str) -> ScoreLike:
    similarity = import_optional("rapidfuzz.distance.Levenshtein", "overlap").normalized_similarity
    return max(float(similarity(response, text)) for text in target_texts(row[target]))


def _similarity_scorer(name: str, score: Any, target: str, parameters: Mapping[str, JSON]) -> Scorer:
    return Scorer(
        name=name,
        version="1",
        score=score,
        right=False,
        columns=(target,),
        parameters={"target": target, **parameters},
    )
