"""Reranking: the relevance of texts for a query, as Cohere, Jina, Voyage and vLLM score it.

What differs here: a score is a vector of one number, so that requests, packs, the cache and costs are those of
embeddings. Scores come sorted, each with the index of its text. Voyage names their list ``data``; Jina and Voyage
repeat the texts unless told not to; Cohere bills searches, not tokens.

Sources: https://docs.cohere.com/reference/rerank, https://api.jina.ai/docs, https://docs.voyageai.com/reference/reranker-api,
https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html (read 2026-11-30).
"""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse, EmbedRequest
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import excerpt
from llmhub.core.provider import EmbedWire, HttpReply
from llmhub.core.types import Payload, Usage
from llmhub.wire.readers import as_count, as_mapping
from llmhub.wire.vectors import from_lists


class ScoredDocument(msgspec.Struct, gc=False):
    """The score of one text."""

    index: int
    relevance_score: float


class RerankReply(msgspec.Struct, gc=False):
    """The body of a reply."""

    results: list[ScoredDocument] = []
    data: list[ScoredDocument] = []
    usage: object = None
    model: object = ""


_DECODER: Final = msgspec.json.Decoder(RerankReply)


def encode(request: EmbedRequest, *, repeats_texts: bool = False) -> Result[Payload, LLMError]:
    """Encode a request; ``repeats_texts`` if the server has to be told not to return the texts."""
    payload: Payload = {"model": request.model, "query": request.options.query, "documents": list(request.texts)}
    return Success({**payload, "return_documents": False} if repeats_texts else payload)


def decode(request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply to the scores in the order of the texts."""
    try:
        body = _DECODER.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failure(Malformed(path="$.results", message=f"no scores ({error}): {excerpt(reply.body)}"))
    scores = {score.index: score.relevance_score for score in body.results or body.data}
    if sorted(scores) != list(range(len(request.texts))):
        return Failure(Malformed(path="$.results", message=f"{len(scores)} scores for {len(request.texts)} texts"))
    tokens = as_count(as_mapping(body.usage).get("total_tokens"))
    usage = Usage(input_tokens=tokens, output_tokens=None if tokens is None else 0)
    lists = [[scores[index]] for index in range(len(request.texts))]
    model = body.model if isinstance(body.model, str) and body.model else request.model
    return from_lists(lists, len(request.texts), "$.results", usage, model)


WIRE: Final = EmbedWire("reranking", encode, decode)
"""Cohere and vLLM."""
QUIET_WIRE: Final = EmbedWire("reranking", partial(encode, repeats_texts=True), decode)
"""Jina and Voyage."""
