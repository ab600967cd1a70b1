"""Google's embeddings: the Gemini API's batches, and Vertex AI's two methods.

What differs here:

- ``batchEmbedContents`` takes a whole request for each text; older models report no tokens.
- Vertex: ``predict`` takes ``instances`` and counts the tokens of each; newer models have ``embedContent``, with one
  text in a request and the options in ``embedContentConfig``.
- The kind of a text is ``taskType``. gemini-embedding-2 and later take it as words of the text itself, so that none is
  sent to them.
- Vectors below the full length are not normalised by gemini-embedding-001.

Sources: https://ai.google.dev/api/embeddings, https://ai.google.dev/gemini-api/docs/embeddings,
https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api,
https://docs.cloud.google.com/python/docs/reference/aiplatform/latest/google.cloud.aiplatform_v1beta1.types.EmbedContentRequest
and recorded exchanges (read 2026-11-30).
"""

from __future__ import annotations

import re
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

TASK_TYPES: Final[Mapping[TextKind, str]] = {"document": "RETRIEVAL_DOCUMENT", "query": "RETRIEVAL_QUERY"}
NO_TASK_TYPE: Final = re.compile(r"gemini-embedding-([2-9]|[1-9]\d)")
"""Models that take the kind of a text as part of the text."""
CONTENT_MODELS: Final = NO_TASK_TYPE
"""Models of Vertex AI with ``embedContent`` instead of ``predict``."""


class Values(msgspec.Struct, gc=False):
    """One vector."""

    values: list[float]
    statistics: object = None


class GeminiEmbedReply(msgspec.Struct, gc=False):
    """The body of a reply of the Gemini API, or of Vertex AI's ``embedContent``."""

    embeddings: list[Values] = []
    embedding: Values | None = None
    usageMetadata: object = None  # noqa: N815 - the API's name


class Prediction(msgspec.Struct, gc=False):
    """One vector of ``predict``."""

    embeddings: Values


class Predictions(msgspec.Struct, gc=False):
    """The body of a reply of ``predict``."""

    predictions: list[Prediction]


_REPLY: Final = msgspec.json.Decoder(GeminiEmbedReply)
_PREDICTIONS: Final = msgspec.json.Decoder(Predictions)
DECODING_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def takes_content(model: str) -> bool:
    """Return whether a model of Vertex AI is called with ``embedContent``, one text at a time.

    Examples
    --------
    >>> takes_content("gemini-embedding-2"), takes_content("text-embedding-005")
    (True, False)
    """
    return CONTENT_MODELS.search(model) is not None


def encode(request: EmbedRequest) -> Result[Payload, LLMError]:
    """Encode a request of the Gemini API."""
    model = request.model if "/" in request.model else f"models/{request.model}"
    own = _options(request)
    return Success({"requests": [{"model": model, **_content(text), **own} for text in request.texts]})


def encode_vertex(request: EmbedRequest) -> Result[Payload, LLMError]:
    """Encode a request of Vertex AI."""
    if takes_content(request.model):
        config = _options(request)
        return Success({**_content("".join(request.texts)), **({"embedContentConfig": config} if config else {})})
    options = request.options
    task = {} if options.kind is None else {"task_type": TASK_TYPES[options.kind]}
    payload: Payload = {"instances": [{"content": text, **task} for text in request.texts]}
    if options.dimensions is not None:
        payload["parameters"] = {"outputDimensionality": options.dimensions}
    return Success(payload)


def decode(request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply of the Gemini API, or of ``embedContent``."""
    try:
        body = _REPLY.decode(reply.body)
    except DECODING_ERRORS as error:
        return Failure(Malformed(path="$.embeddings", message=f"no embeddings ({error}): {excerpt(reply.body)}"))
    vectors = body.embeddings if body.embedding is None else [body.embedding]
    tokens = as_count(as_mapping(body.usageMetadata).get("promptTokenCount"))
    usage = Usage(input_tokens=tokens, output_tokens=None if tokens is None else 0)
    lists = [vector.values for vector in vectors]
    return from_lists(lists, len(request.texts), "$.embeddings", usage, request.model)


def decode_vertex(request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply of Vertex AI; ``predict`` counts the tokens of each text."""
    if takes_content(request.model):
        return decode(request, reply)
    try:
        predictions = _PREDICTIONS.decode(reply.body).predictions
    except DECODING_ERRORS as error:
        return Failure(Malformed(path="$.predictions", message=f"no embeddings ({error}): {excerpt(reply.body)}"))
    embeddings = [prediction.embeddings for prediction in predictions]
    counts = [as_count(as_mapping(each.statistics).get("token_count")) for each in embeddings]
    known = [count for count in counts if count is not None]
    is_counted = len(known) == len(counts)
    usage = Usage(input_tokens=sum(known), output_tokens=0) if is_counted else Usage()
    lists = [each.values for each in embeddings]
    return from_lists(lists, len(request.texts), "$.predictions", usage, request.model, known if is_counted else ())


def _content(text: str) -> Payload:
    return {"content": {"parts": [{"text": text}]}}


def _options(request: EmbedRequest) -> Payload:
    options = request.options
    payload: Payload = {}
    if options.kind is not None and not NO_TASK_TYPE.search(request.model):
        payload["taskType"] = TASK_TYPES[options.kind]
    if options.dimensions is not None:
        payload["outputDimensionality"] = options.dimensions
    return payload


WIRE: Final = EmbedWire("gemini_embeddings", encode, decode, has_kinds=True)
VERTEX_WIRE: Final = EmbedWire("vertex_embeddings", encode_vertex, decode_vertex, has_kinds=True)
