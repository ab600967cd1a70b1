"""OpenAI's embeddings, and those of the many servers that copy them.

What differs here:

- All texts are one list, ``input``; their vectors come back with an ``index`` each, which some servers leave out.
- ``encoding_format: base64`` is a quarter of the size of numbers in JSON and a twentieth of the time to read, but is
  asked for only where the numbers behind it are known to be float32 (`EmbedDialect.base64`).
- Names of the length and of the kind of text differ: ``output_dimension`` and ``input_type`` at Voyage and Mistral.
- Voyage counts ``total_tokens`` only.

Sources: https://platform.openai.com/docs/api-reference/embeddings, https://docs.voyageai.com/reference/embeddings-api,
https://docs.mistral.ai/api/#tag/embeddings, https://docs.perplexity.ai/api-reference/embeddings-post and recorded
exchanges (read 2026-11-30).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse, EmbedRequest, TextKind
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.payload import excerpt
from llmhub.core.provider import EmbedWire, HttpReply
from llmhub.core.types import Payload, Usage
from llmhub.wire.readers import as_count, as_mapping, reported_cost
from llmhub.wire.vectors import FLOAT32, INT8, decode_vectors, float32_bytes, join_vectors


@dataclass(frozen=True, slots=True)
class EmbedDialect:
    """How a server writes embeddings.

    Parameters
    ----------
    base64
        Whether to ask for base64, because it is known to hold float32.
    dimensions
        Name of the field with the length of the vectors.
    kind
        Name of the field with the kind of the texts; empty if there is none.
    kinds
        Its values.
    number_type
        Type of the numbers behind base64 if the length is unknown (see `llmhub.wire.vectors`).
    """

    base64: bool = False
    dimensions: str = "dimensions"
    kind: str = ""
    kinds: Mapping[TextKind, str] = field(default_factory=lambda: {"document": "document", "query": "query"})
    number_type: str = FLOAT32


class Item(msgspec.Struct, gc=False):
    """One vector of a reply."""

    embedding: bytes | list[float]
    index: int | None = None


class OpenAIEmbedReply(msgspec.Struct, gc=False):
    """The body of a reply."""

    data: list[Item]
    model: str = ""
    usage: object = None


_DECODER: Final = msgspec.json.Decoder(OpenAIEmbedReply)


def encode(dialect: EmbedDialect, request: EmbedRequest) -> Result[Payload, LLMError]:
    """Encode a request."""
    options = request.options
    payload: Payload = {"model": request.model, "input": list(request.texts)}
    if dialect.base64:
        payload["encoding_format"] = "base64"
    if options.dimensions is not None:
        payload[dialect.dimensions] = options.dimensions
    if dialect.kind and options.kind is not None:
        payload[dialect.kind] = dialect.kinds[options.kind]
    return Success(payload)


def decode(dialect: EmbedDialect, request: EmbedRequest, reply: HttpReply) -> Result[EmbeddingResponse, LLMError]:
    """Decode a reply: base64 or lists of numbers, in the order of ``index``."""
    try:
        body = _DECODER.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Failure(Malformed(path="$.data", message=f"no embeddings ({error}): {excerpt(reply.body)}"))
    count, items = len(request.texts), body.data
    indices = [position if item.index is None else item.index for position, item in enumerate(items)]
    if sorted(indices) != list(range(count)):
        return Failure(Malformed(path="$.data", message=f"the indices are not those of {count} texts"))
    by_index: list[Item] = [items[0]] * count
    for index, item in zip(indices, items, strict=True):
        by_index[index] = item
    vectors = _vectors(by_index, request.options.dimensions, dialect.number_type)
    usage = _usage(body.usage)
    return vectors.bind(lambda found: join_vectors(found, count, "$.data", usage, body.model))


def _vectors(items: Sequence[Item], dimensions: int | None, number_type: str) -> Result[list[bytes], LLMError]:
    """Decode vectors of one form: base64, or numbers."""
    encoded = [item.embedding for item in items if isinstance(item.embedding, bytes)]
    if len(encoded) == len(items):
        return decode_vectors(encoded, dimensions, number_type, "$.data[*].embedding")
    try:
        return Success([float32_bytes(item.embedding) for item in items if isinstance(item.embedding, list)])
    except OverflowError as error:
        return Failure(Malformed(path="$.data[*].embedding", message=str(error)))


def _usage(usage: object) -> Usage:
    counts = as_mapping(usage)
    tokens = as_count(counts.get("prompt_tokens"))
    tokens = as_count(counts.get("total_tokens")) if tokens is None else tokens
    return Usage(
        input_tokens=tokens, output_tokens=None if tokens is None else 0, reported_cost_usd=reported_cost(counts)
    )


def embed_wire(name: str, dialect: EmbedDialect) -> EmbedWire:
    """Return the wire of a dialect; its name is part of cache keys."""
    return EmbedWire(name, partial(encode, dialect), partial(decode, dialect), has_kinds=bool(dialect.kind))


WIRE: Final = embed_wire("openai_embeddings", EmbedDialect())
BASE64_WIRE: Final = embed_wire("openai_embeddings", EmbedDialect(base64=True))
INT8_WIRE: Final = embed_wire("openai_embeddings", EmbedDialect(number_type=INT8))
MISTRAL_WIRE: Final = embed_wire("openai_embeddings", EmbedDialect(dimensions="output_dimension"))
VOYAGE_WIRE: Final = embed_wire(
    "openai_embeddings", EmbedDialect(base64=True, dimensions="output_dimension", kind="input_type")
)
