"""Embeddings on Amazon Bedrock: Titan's and Cohere's bodies behind ``InvokeModel``.

What differs here:

- Titan takes one text and reports its tokens beside the vector; version 1 takes no length.
- Cohere's body is that of its own API without the model; the tokens are in a header.

Sources: https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html and
model-parameters-embed-v4.html beside it (read 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse, EmbedRequest, TextKind
from llmhub.core.errors import LLMError, Malformed, Unsupported
from llmhub.core.payload import excerpt
from llmhub.core.provider import EmbedWire, HttpReply
from llmhub.core.types import Payload, Usage
from llmhub.wire.readers import as_count
from llmhub.wire.vectors import from_lists

INPUT_TYPES: Final[Mapping[TextKind, str]] = {"document": "search_document", "query": "search_query"}
COHERE_MODELS: Final = re.compile(r"cohere\.embed")
TITAN_V1_MODELS: Final = re.compile(r"titan-embed-text-v1|titan-embed-g1")
"""Models without a choice of the length."""
INPUT_COUNT_HEADER: Final = "x-amzn-bedrock-input-token-count"


class TitanReply(msgspec.Struct, gc=False):
    """The body of a reply of Titan."""

    embedding: list[float]
    inputTextTokenCount: object = None  # noqa: N815 - the API's name


class BedrockFloats(msgspec.Struct, gc=False):
    """Vectors of Cohere by number type."""

    vectors: list[list[float]] = msgspec.field(name="float")


class CohereReply(msgspec.Struct, gc=False):
    """The body of a reply of Cohere: by number type, or a bare list where none was asked for."""

    embeddings: list[list[float]] | BedrockFloats


_TITAN: Final = msgspec.json.Decoder(TitanReply)
_COHERE: Final = msgspec.json.Decoder(CohereReply)
DECODING_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def is_cohere(model: str) -> bool:
    """Return whether a model is one of Cohere's, which take many texts.

    Examples
    --------
    >>> is_cohere("us.cohere.embed-v4:0"), is_cohere("amazon.titan-embed-text-v2:0")
    (True, False)
    """
    return COHERE_MODELS.search(model) is not None


def encode(request: EmbedRequest) -> Result[Payload, LLMError]:
    """Encode the body for a model of Titan or Cohere."""
    options = request.options
    if is_cohere(request.model):
        kind = INPUT_TYPES[options.kind or "document"]
        payload: Payload = {
            "texts": list(request.texts),
            "input_type": kind,
            "embedding_types": ["float"],
            "truncate": "NONE",
        }
        return Success(payload if options.dimensions is None else {**payload, "output_dimension": options.dimensions})
    payload = {"inputText": "".join(request.texts)}
    if options.dimensions is not None:
        if TITAN_V1_MODELS.search(request.model):
            return Failure(Unsupported(path="$.dimensions", message=f"{request.model} has one length of vectors only"))
        payload["dimensions"] = options.dimensions
    return Success(payload)


def decode(request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode the body of a model of Titan or Cohere."""
    count = len(request.texts)
    try:
        if is_cohere(request.model):
            embeddings = _COHERE.decode(reply.body).embeddings
            lists = embeddings.vectors if isinstance(embeddings, BedrockFloats) else embeddings
            tokens = _header_count(reply)
            return from_lists(lists, count, "$.embeddings", _usage(tokens), request.model)
        body = _TITAN.decode(reply.body)
    except DECODING_ERRORS as error:
        return Failure(Malformed(path="$.embedding", message=f"no embeddings ({error}): {excerpt(reply.body)}"))
    return from_lists([body.embedding], count, "$.embedding", _usage(as_count(body.inputTextTokenCount)), request.model)


def _usage(tokens: int | None) -> Usage:
    return Usage(input_tokens=tokens, output_tokens=None if tokens is None else 0)


def _header_count(reply: HttpReply) -> int | None:
    text = reply.header(INPUT_COUNT_HEADER)
    return int(text) if text.isascii() and text.isdigit() else None


WIRE: Final = EmbedWire("bedrock_embeddings", encode, decode, has_kinds=True)
