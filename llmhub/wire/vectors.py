"""Vectors from the wire: base64 of several number types, or lists of numbers, to float32.

Servers do not say of which type the numbers behind base64 are. Their width is the bytes of a vector over its
dimensions; if these are unknown, the reading whose vector has length 1 counts, since most models normalise. Recorded:
float64 from vLLM (32,768 bytes for 4,096 dimensions), int8 from Perplexity (256 bytes for 256 dimensions).
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, Final

from returns.result import Failure, Result, Success

from llmhub.core.embedding import BYTES_PER_NUMBER, EmbeddingResponse
from llmhub.core.errors import LLMError, Malformed
from llmhub.core.types import Usage

FLOAT32, FLOAT64, INT8 = "f", "d", "b"
WIDTHS: Final = {FLOAT32: 4, FLOAT64: 8, INT8: 1}
"""Bytes of each type of number, by its code in `array`."""
NORM_TOLERANCE: Final = 0.02
"""How far the length of a normalised vector may be from 1, after rounding to a narrow type."""


def float32_bytes(values: Sequence[float]) -> bytes:
    """Return numbers as little-endian float32.

    Examples
    --------
    >>> float32_bytes([1.0, -2.0]).hex()
    '0000803f000000c0'
    """
    numbers = array(FLOAT32, values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def decode_vectors(
    vectors: Sequence[bytes], dimensions: int | None, default: str = FLOAT32, path: str = "$"
) -> Result[list[bytes], LLMError]:
    """Return the bytes behind base64, of vectors of one type, as little-endian float32.

    Parameters
    ----------
    dimensions
        Expected length of the vectors; ``None`` if unknown.
    default
        Type of the numbers that the server is known to send, used if the length is unknown.

    Examples
    --------
    >>> decode_vectors([bytes([1, 255])], 2).unwrap() == [float32_bytes([1.0, -1.0])]
    True
    >>> decode_vectors([bytes(6)], 4).failure().message
    '6 bytes are no vector of 4 dimensions'
    """
    first = vectors[0]
    code = _number_type(first, dimensions, default)
    odd = next((vector for vector in vectors if len(vector) != len(first)), first if code is None else None)
    if code is None or odd is not None:
        size = len(first if odd is None else odd)
        message = f"{size} bytes are no vector" + ("" if dimensions is None else f" of {dimensions} dimensions")
        return Failure(Malformed(path=path, message=message))
    if code == FLOAT32:
        return Success(list(vectors))
    return Success([float32_bytes(_numbers(vector, code)) for vector in vectors])


def _number_type(data: bytes, dimensions: int | None, default: str) -> str | None:
    """Return the code of the type of the numbers, ``None`` if none fits."""
    size = len(data)
    if dimensions:
        return next((code for code, width in WIDTHS.items() if size == width * dimensions), None)
    if not size or size % WIDTHS[default]:
        return None
    if default == FLOAT32 and not size % WIDTHS[FLOAT64] and not _is_unit(_numbers(data, FLOAT32)):
        return FLOAT64 if _is_unit(_numbers(data, FLOAT64)) else default
    return default


def _numbers(data: bytes, code: str) -> Sequence[float]:
    numbers: Any = array(code, data)
    if sys.byteorder == "big":
        numbers.byteswap()
    values: Sequence[float] = numbers
    return values


def _is_unit(numbers: Iterable[float]) -> bool:
    return abs(math.hypot(*numbers) - 1) < NORM_TOLERANCE


def join_vectors(
    vectors: Sequence[bytes], count: int, path: str, usage: Usage, served_model: str, text_tokens: tuple[int, ...] = ()
) -> Result[EmbeddingResponse, LLMError]:
    """Return the response of ``vectors``, which must be ``count`` and of one length.

    Examples
    --------
    >>> join_vectors([bytes(8), bytes(8)], 2, "$.data", Usage(), "m").unwrap()
    EmbeddingResponse(2 x 2)
    >>> join_vectors([bytes(8)], 2, "$.data", Usage(), "m").failure().message
    '1 vectors for 2 texts'
    """
    if len(vectors) != count or not count:
        return Failure(Malformed(path=path, message=f"{len(vectors)} vectors for {count} texts"))
    size = len(vectors[0])
    if not size or size % BYTES_PER_NUMBER or any(len(vector) != size for vector in vectors):
        return Failure(Malformed(path=path, message="the vectors are empty, or not of one length"))
    return Success(
        EmbeddingResponse(
            vectors=b"".join(vectors),
            dimensions=size // BYTES_PER_NUMBER,
            usage=usage,
            served_model=served_model,
            text_tokens=text_tokens if len(text_tokens) == count else (),
        )
    )


def from_lists(
    lists: Sequence[list[float]], count: int, path: str, usage: Usage, served_model: str, tokens: Sequence[int] = ()
) -> Result[EmbeddingResponse, LLMError]:
    """Return the response of vectors that came as lists of numbers."""
    try:
        vectors = [float32_bytes(values) for values in lists]
    except (OverflowError, TypeError) as error:
        return Failure(Malformed(path=path, message=f"not a vector: {error}"))
    return join_vectors(vectors, count, path, usage, served_model, tuple(tokens))
