"""Reranking: score texts for a query, and rank them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from llmhub.api.embeddings import run_blocking, run_of_frame
from llmhub.api.options import RerankOptions, positive_int, unknown_option
from llmhub.api.signatures import shows_options
from llmhub.core.errors import invalid
from llmhub.hub import Hub

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class RankedText:
    """A text that was scored for a query.

    Parameters
    ----------
    index
        Its position among the texts.
    score
        Its relevance, mostly between 0 and 1; scores of different models cannot be compared.
    text
        The text.
    """

    index: int
    score: float
    text: str


@shows_options(RerankOptions)
def rerank(
    query: str,
    texts: Sequence[str],
    *,
    model: str,
    top_n: int | None = None,
    hub: Hub | None = None,
    **options: Unpack[RerankOptions],
) -> list[RankedText]:
    """Return texts by their relevance for a query, the most relevant first.

    Scores are cached one by one: with further texts, only those are sent.

    Parameters
    ----------
    query
        What the texts are to be relevant for.
    texts
        The texts.
    model
        ``provider/model``, such as ``cohere/rerank-v3.5``.
    top_n
        Number of texts to return; all if omitted.
    hub
        The hub to use; the default hub if omitted.

    Returns
    -------
    list of RankedText
        Index, score and text.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without reranking.
    ConnectorError
        A text has no score. The ``table`` of the exception has the scores of the others.

    Examples
    --------
    >>> with llmhub.simulate():                                                      # doctest: +SKIP
    ...     llmhub.rerank("boats", ["rain on roofs", "boats in the harbour"], model="cohere/rerank-v3.5")[0].index
    1
    """
    count = None if top_n is None else positive_int("top_n", top_n)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise invalid("texts", "must be a list of strings; use rerank_table for frames")
    given: dict[str, Any] = {**options, "on_error": "raise"}
    table = rerank_table({"text": list(texts)}, query, "text", model=model, hub=hub, **given)
    scores = table.column("score").to_pylist()
    order = sorted(range(len(scores)), key=table.column("rank").to_pylist().__getitem__)
    return [RankedText(index, scores[index], texts[index]) for index in order[:count]]


@shows_options(RerankOptions)
def rerank_table(
    frame: Any, query: str, prompt: str, *, model: str, hub: Hub | None = None, **options: Unpack[RerankOptions]
) -> pa.Table:
    """Score a text of every row of a frame for a query, and return scores, ranks and costs as one Arrow table.

    Parameters
    ----------
    frame
        A pandas or polars DataFrame, an Arrow table, a mapping of columns, or any object with ``__arrow_c_stream__``.
    query
        What the texts are to be relevant for.
    prompt
        The name of a column, or a template over the columns such as ``"{title}: {body}"``. A row that lacks a value is
        skipped.
    model
        ``provider/model``.
    hub
        The hub to use; the default hub if omitted.

    Returns
    -------
    pyarrow.Table
        One row for each row of the frame, in its order, with the columns of `embed_table`, but ``score`` and ``rank``
        in place of the vector.

    Raises
    ------
    BadRequestError
        Before anything is sent: a wrong argument, or a provider without reranking.
    ConnectorError
        With ``on_error="raise"``, the error of the first failed row. Its ``table`` has the results of all rows.
    """
    from llmhub.tables.rerank_scores import with_scores  # noqa: PLC0415 - imports Arrow

    if not isinstance(query, str) or not query.strip():
        raise invalid("query", f"must be a text, not {query!r:.80}")
    unknown = next((name for name in options if name not in RerankOptions.__annotations__), None)
    if unknown is not None:
        raise unknown_option(unknown, RerankOptions.__annotations__)
    return with_scores(run_blocking(run_of_frame(frame, prompt, model, hub, dict(options), query=query)))
