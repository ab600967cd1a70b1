"""Vectors of the simulated embedding models: texts that share words are similar.

A vector is the sum of a random vector for each word, and a little of one for the whole text, normalised. It depends on
the seed, the model and the text alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

MODEL_DIMENSIONS: Final = (
    (re.compile(r"embedding-3-large|gemini-embedding"), 3072),
    (re.compile(r"embedding-3-small|ada-002|embed-v4|titan-embed-text-v1"), 1536),
    (re.compile(r"embed-(english|multilingual)-light"), 384),
    (re.compile(r"mistral-embed|voyage|titan-embed|embed-(english|multilingual)|pplx-embed"), 1024),
)
"""Length of the vectors of models by name."""
DEFAULT_DIMENSIONS: Final = 768
TEXT_SHARE: Final = 0.3
"""Weight of the vector of the whole text, so that texts of the same words differ."""
WORD: Final = re.compile(r"\w+")
CACHED_WORDS: Final = 8192


def model_dimensions(model: str) -> int:
    """Return the length of a model's vectors.

    Examples
    --------
    >>> model_dimensions("text-embedding-3-small"), model_dimensions("nomic-embed-text")
    (1536, 768)
    """
    return next((size for pattern, size in MODEL_DIMENSIONS if pattern.search(model)), DEFAULT_DIMENSIONS)


def simulated_vector(text: str, model: str, dimensions: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector of a text, of length 1.

    Examples
    --------
    >>> def alike(first, second):
    ...     return float(simulated_vector(first, "m", 64, 0) @ simulated_vector(second, "m", 64, 0))
    >>> alike("the cat sat", "the cat slept") > 0.4 > alike("the cat sat", "stock prices fell")
    True
    """
    import numpy as np  # noqa: PLC0415 - most simulators serve no vectors

    salt = f"{seed}/{model}"
    total = TEXT_SHARE * _random_vector(f"text/{text}", salt, dimensions)
    for word in WORD.findall(text.lower()):
        total = total + _word_vector(word, salt, dimensions)
    vector: np.ndarray[Any, np.dtype[np.float32]] = (total / np.linalg.norm(total)).astype(np.float32)
    return vector


def _random_vector(text: str, salt: str, dimensions: int) -> Any:
    import numpy as np  # noqa: PLC0415 - as above

    digest = blake2b(f"{salt}/{text}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return generator.standard_normal(dimensions, np.float32)


@lru_cache(maxsize=CACHED_WORDS)
def _word_vector(word: str, salt: str, dimensions: int) -> Any:
    return _random_vector(f"word/{word}", salt, dimensions)
