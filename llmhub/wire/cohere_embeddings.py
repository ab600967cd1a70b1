"""Cohere's embeddings: version 2 of its own API.

What differs here:

- ``input_type`` is required: a text is a document unless it is said to be a query.
- ``truncate: NONE`` makes a text that is too long an error; the API would otherwise cut it without a word.
- Vectors come by number type, here always ``float``; the tokens that are billed are in ``meta``.

Source: https://docs.cohere.com/reference/embed and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse, EmbedRequest, TextKind
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import excerpt
from llmhub.core.provider import EmbedWire, HttpReply
from llmhub.core.types import Payload, Usage
from llmhub.wire.readers import as_count, as_mapping
from llmhub.wire.vectors import from_lists

INPUT_TYPES: Final[Mapping[TextKind, str]] = {"document": "search_document", "query": "search_query"}


class CohereFloats(msgspec.Struct, gc=False):
    """Vectors by number type."""

    vectors: list[list[float]] = msgspec.field(name="float")


class CohereEmbedReply(msgspec.Struct, gc=False):
    """The body of a reply."""

    embeddings: CohereFloats
    meta: object = None


_DECODER: Final = msgspec.json.Decoder(CohereEmbedReply)


def encode(request: EmbedRequest) -> Result[Payload, LLMError]:
    """Encode a request."""
    options = request.options
    payload: Payload = {
        "model": request.model,
        "texts": list(request.texts),
        "input_type": INPUT_TYPES[options.kind or "document"],
        "embedding_types": ["float"],
        "truncate": "NONE",
    }
    if options.dimensions is not None:
        payload["output_dimension"] = options.dimensions
    return Success(payload)


def decode(request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply."""
    try:
        body = _DECODER.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"no embeddings ({error}): {excerpt(reply.body)}"
        return Failure(Malformed(path="$.embeddings.float", message=message))
    tokens = as_count(as_mapping(as_mapping(body.meta).get("billed_units")).get("input_tokens"))
    usage = Usage(input_tokens=tokens, output_tokens=None if tokens is None else 0)
    return from_lists(body.embeddings.vectors, len(request.texts), "$.embeddings.float", usage, request.model)


WIRE: Final = EmbedWire("cohere_embeddings", encode, decode, has_kinds=True)
