"""OpenAI Embeddings, the server's half.

What differs here:

- The input is one text or a list of them. Lists of token numbers are refused: they mean different texts to different
  models.
- Vectors are sent as numbers, or on request as the base64 of little-endian float32, which is what the official client
  asks for.

Source: https://platform.openai.com/docs/api-reference/embeddings and the types of openai 3.57.0 (read 2026-11-30).
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from llmhub.core.embedding import BYTES_PER_NUMBER, EmbeddingResponse, EmbedOptions
from llmhub.core.errors import invalid
from llmhub.core.types import Payload
from llmhub.server.dialects.reading import other_fields, read_as, unsupported

MAX_TEXTS: Final = 2048


class EmbeddingsRequest(Struct):
    """Body of ``POST /v1/embeddings``."""

    model: Annotated[str, Meta(min_length=1)]
    input: str | list[Any]
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class ParsedEmbeddings(Struct):
    """A parsed request: the texts, what determines their vectors besides, and the form in which they are sent."""

    texts: list[str]
    options: EmbedOptions
    encoding: str


FIELDS: Final = frozenset(EmbeddingsRequest.__struct_fields__)


def parse(payload: Payload, native: bool) -> ParsedEmbeddings:
    """Parse an Embeddings body."""
    body = read_as(payload, EmbeddingsRequest)
    extra: Mapping[str, Any] = other_fields(payload, FIELDS, native=native)
    given = [body.input] if isinstance(body.input, str) else body.input
    if not 1 <= len(given) <= MAX_TEXTS:
        raise invalid("$.input", f"must be 1 to {MAX_TEXTS} texts, not {len(given)}")
    texts: list[str] = []
    for index, text in enumerate(given):
        place = "$.input" if isinstance(body.input, str) else f"$.input[{index}]"
        if isinstance(text, (int, list)):
            raise unsupported(place, "token numbers mean different texts to different models; send the text")
        if not isinstance(text, str):
            raise invalid(place, f"must be a string, not {type(text).__name__}")
        if not text or text.isspace():
            raise invalid(place, "the text is empty")
        texts.append(text)
    return ParsedEmbeddings(
        texts, EmbedOptions(dimensions=body.dimensions, extra=extra), body.encoding_format or "float"
    )


def encode(responses: Sequence[EmbeddingResponse], model: str, encoding: str, input_tokens: int | None) -> Payload:
    """Encode the vectors of texts, one response for each.

    Examples
    --------
    >>> response = EmbeddingResponse(vectors=struct.pack("<2f", 0.5, -1.0), dimensions=2)
    >>> encode([response], "m", "float", 3)["data"]
    [{'object': 'embedding', 'index': 0, 'embedding': [0.5, -1.0]}]
    """
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(bytes(response.vectors), encoding)}
        for index, response in enumerate(responses)
    ]
    usage = None if input_tokens is None else {"prompt_tokens": input_tokens, "total_tokens": input_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _vector(vector: bytes, encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector).decode()
    return list(struct.unpack(f"<{len(vector) // BYTES_PER_NUMBER}f", vector))
