"""Vectors as bytes: the values that a cache stores for the text of an embedding.

Layout: a version byte, a CRC-32, a fixed part, the vector as little-endian float32, and the names. 1,536 dimensions
take 6 kB, a sixth of what they take as JSON. The version byte is above all versions of responses, so that programs from
before there were vectors leave them alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from zlib import crc32

from returns.result import Failure, Result, Success

from llmhub.core.embedding import BYTES_PER_NUMBER, EmbeddingResponse
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.pricing import NANO_DIGITS
from llmhub.core.serialization import CORRUPT, checksum_seed
from llmhub.core.types import Usage

VECTOR_VERSION: Final = 0x80
"""First byte of a value that holds a vector."""
_HEADER: Final = struct.Struct("<BI")
_FIXED: Final = struct.Struct("<IqqddHH")
"""Dimensions, input tokens, reported cost in billionths of a dollar, latency, start time, and lengths of the names."""
UNKNOWN: Final = -1
"""Stored for a count or a cost that is ``None``."""


@dataclass(frozen=True, slots=True)
class StoredVector:
    """The vector of a text as it was stored: the response, and the latency and start of its call."""

    response: EmbeddingResponse
    latency_s: float
    started_at: float


def pack_vector(response: EmbeddingResponse, key: bytes, *, latency_s: float, started_at: float) -> bytes:
    """Encode the vector of one text to the value for ``key``.

    Examples
    --------
    >>> value = pack_vector(EmbeddingResponse(vectors=bytes(8), dimensions=2), b"k" * 32, latency_s=0.5, started_at=1.0)
    >>> len(value), unpack_vector(value, b"k" * 32).unwrap().response
    (53, EmbeddingResponse(1 x 2))
    """
    usage = response.usage
    cost = usage.reported_cost_usd
    served_model, request_id = response.served_model.encode()[:0xFFFF], response.request_id.encode()[:0xFFFF]
    fixed = _FIXED.pack(
        response.dimensions,
        UNKNOWN if usage.input_tokens is None else usage.input_tokens,
        UNKNOWN if cost is None else int(cost.scaleb(NANO_DIGITS)),
        latency_s,
        started_at,
        len(served_model),
        len(request_id),
    )
    names = served_model + request_id
    # The checksum of the parts, one after the other, spares a copy of the vector.
    checksum = crc32(names, crc32(response.vectors, crc32(fixed, checksum_seed(key))))
    return b"".join((_HEADER.pack(VECTOR_VERSION, checksum), fixed, response.vectors, names))


def is_vector(value: bytes) -> bool:
    """Return whether a stored value is a vector."""
    return value[:1] == bytes([VECTOR_VERSION])


def unpack_vector(value: bytes, key: bytes) -> Result[StoredVector, LLMError]:
    """Decode the value of `pack_vector`; a damaged value, and any other, is `Malformed`."""
    if not is_vector(value):
        return Failure(Malformed(message="a stored value that is no vector"))
    body = memoryview(value)[_HEADER.size :]
    if len(body) < _FIXED.size or crc32(body, checksum_seed(key)) != _HEADER.unpack_from(value)[1]:
        return Failure(Malformed(code=CORRUPT, message="damaged stored vector: checksum mismatch"))
    dimensions, tokens, cost, latency_s, started_at, model_size, id_size = _FIXED.unpack_from(body)
    model_start = _FIXED.size + BYTES_PER_NUMBER * dimensions
    id_start = model_start + model_size
    if id_start + id_size != len(body):
        return Failure(Malformed(code=CORRUPT, message="damaged stored vector: its lengths do not add up to its size"))
    response = EmbeddingResponse(
        vectors=body[_FIXED.size : model_start],
        dimensions=dimensions,
        usage=Usage(
            input_tokens=None if tokens == UNKNOWN else tokens,
            output_tokens=None if tokens == UNKNOWN else 0,
            reported_cost_usd=None if cost == UNKNOWN else Decimal(cost).scaleb(-NANO_DIGITS),
        ),
        served_model=str(body[model_start:id_start], "utf-8", "replace"),
        request_id=str(body[id_start:], "utf-8", "replace"),
    )
    return Success(StoredVector(response, latency_s, started_at))
