"""Requests for embeddings and their responses: many texts in one request, one vector of float32 for each.

A response stays bytes, 4 for each number, from the wire to the column that is built of them: a list of Python floats
would take eight times the memory and most of a run's time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, Literal, TypeAlias, get_args

from llmhub.core.types import JSON, CompletionResponse

TextKind: TypeAlias = Literal["document", "query"]
"""What a text is to a search: a document that is found, or a query that finds."""
TEXT_KINDS: Final = get_args(TextKind)
BYTES_PER_NUMBER: Final = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOptions:
    """Parameters that determine the vector of a text besides the model.

    Parameters
    ----------
    dimensions
        Length of the vectors; ``None`` for the model's own.
    kind
        Whether the texts are documents or queries; models that embed both alike ignore it.
    extra
        Fields of the provider's own API, merged into the payload last.
    query
        Query whose relevance each text is scored for: its vector is that score alone. ``None`` for an embedding.
    """

    dimensions: int | None = None
    kind: TextKind | None = None
    extra: Mapping[str, JSON] = field(default_factory=dict)
    query: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts to be embedded by one model in one HTTP request."""

    model: str
    texts: tuple[str, ...]
    options: EmbedOptions = field(default_factory=EmbedOptions)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class EmbeddingResponse(CompletionResponse):
    """The vectors of the texts of a request, in their order.

    Parameters
    ----------
    vectors
        Little-endian float32, one vector after the other; a view of the reply's, for one text of many.
    dimensions
        Length of each vector.
    text_tokens
        Tokens of each text, where the provider reports them; empty otherwise.

    Examples
    --------
    >>> EmbeddingResponse(vectors=bytes(16), dimensions=2)
    EmbeddingResponse(2 x 2)
    """

    vectors: bytes | memoryview = b""
    dimensions: int = 0
    text_tokens: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.vectors) // (BYTES_PER_NUMBER * self.dimensions) if self.dimensions else 0

    def __repr__(self) -> str:
        """Return the shape."""
        return f"EmbeddingResponse({len(self)} x {self.dimensions})"


def share_out(total: int, weights: Sequence[int]) -> list[int]:
    """Return whole shares of ``total`` in proportion to ``weights``, whose sum is exactly ``total``.

    Each share is off by less than one. Weights that are all zero count as equal.

    Examples
    --------
    >>> share_out(10, [1, 1, 1]), share_out(7, [0, 0]), share_out(0, [3, 4])
    ([3, 4, 3], [4, 3], [0, 0])
    """
    whole = sum(weights)
    if not whole:
        weights, whole = [1] * len(weights), len(weights)
    if not weights:
        return []
    # Rounding the running sums, and not the shares, makes them add up.
    ends = [(2 * total * end + whole) // (2 * whole) for end in accumulate(weights, initial=0)]
    return [end - start for start, end in pairwise(ends)]
