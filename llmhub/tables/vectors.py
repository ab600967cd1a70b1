"""Vectors of texts as matrices, and the most similar ones among them.

Nothing here is an index: the search is exact, in blocks of numpy, and right for up to a few million vectors. For more,
the vectors go to DuckDB, FAISS or a vector database as they are.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from llmhub.core.errors import invalid
from llmhub.tables import frames

FloatMatrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float32]]"
BLOCK_ROWS: Final = 65_536
"""Vectors compared at a time: their products with a hundred queries take 26 MB."""
MATRIX_DIMENSIONS: Final = 2


class Similar(NamedTuple):
    """The most similar vectors, best first.

    Parameters
    ----------
    indices
        Positions in the matrix, of shape ``(queries, k)``.
    scores
        Cosine similarities, from -1 to 1.
    """

    indices: np.ndarray[Any, np.dtype[np.int64]]
    scores: np.ndarray[Any, np.dtype[np.float32]]


def matrix(vectors: Any) -> FloatMatrix:
    """Return a column of vectors as one matrix of float32, a row each; NaN where there is none.

    Parameters
    ----------
    vectors
        A pandas or polars Series, or an Arrow array, as ``embed`` returns it; or a matrix. The vectors of a pandas
        Series that are rows of one matrix are not copied.

    Raises
    ------
    BadRequestError
        The values are not vectors, or not of one length.

    Examples
    --------
    >>> matrix(pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)))
    array([[ 1.,  2.],
           [nan, nan]], dtype=float32)
    """
    if isinstance(vectors, np.ndarray) and vectors.ndim == MATRIX_DIMENSIONS:
        return np.asarray(vectors, np.float32)
    if frames.is_polars(vectors, "Series"):
        vectors = vectors.to_arrow()
    if isinstance(vectors, pa.ChunkedArray):
        vectors = pa.concat_arrays(vectors.chunks) if vectors.num_chunks != 1 else vectors.chunk(0)
    if frames.is_series(vectors) and hasattr(vectors.array, "__arrow_array__") and vectors.dtype != object:
        vectors = pa.array(vectors)
        vectors = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    if isinstance(vectors, pa.Array):
        return _matrix_of_arrow(vectors)
    return _matrix_of_objects(list(vectors))


def _matrix_of_arrow(vectors: pa.Array) -> FloatMatrix:
    if pa.types.is_null(vectors.type):
        return np.full((len(vectors), 0), np.nan, np.float32)
    if not pa.types.is_fixed_size_list(vectors.type):
        return _matrix_of_objects([None if value is None else np.asarray(value) for value in vectors.to_pylist()])
    width = vectors.type.list_size
    values = vectors.values.slice(vectors.offset * width, len(vectors) * width)
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float32).reshape(len(vectors), width)
    if not vectors.null_count:
        return numbers
    return np.where(np.asarray(vectors.is_valid())[:, None], numbers, np.float32(np.nan))


def _matrix_of_objects(values: list[Any]) -> FloatMatrix:
    shared = _shared_matrix(values)
    if shared is not None:
        return shared
    try:
        present = [np.asarray(value, np.float32) for value in values if not _is_missing(value)]
    except (TypeError, ValueError) as error:
        raise invalid("vectors", f"must be vectors of numbers: {error}") from error
    lengths = {array.shape for array in present}
    if len(lengths) > 1 or any(len(shape) != 1 for shape in lengths):
        raise invalid("vectors", f"must be vectors of one length, not of shapes {sorted(lengths)[:3]}")
    width = next(iter(lengths))[0] if lengths else 0
    rows = np.full((len(values), width), np.nan, np.float32)
    if present:
        rows[[index for index, value in enumerate(values) if not _is_missing(value)]] = present
    return rows


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN


def _shared_matrix(values: list[Any]) -> FloatMatrix | None:
    """Return the matrix whose rows, one after the other, the vectors are; ``None`` if they are not."""
    first = values[0] if values else None
    if not isinstance(first, np.ndarray) or first.ndim != 1 or not isinstance(first.base, np.ndarray):
        return None
    base = first.base
    size = len(first) * first.itemsize
    start = first.__array_interface__["data"][0]
    for index, value in enumerate(values):
        if not isinstance(value, np.ndarray) or value.base is not base or value.shape != first.shape:
            return None
        if value.dtype != np.float32 or value.__array_interface__["data"][0] != start + index * size:
            return None
    offset = start - base.__array_interface__["data"][0]
    flat = base.reshape(-1)[offset // first.itemsize :][: len(values) * len(first)]
    return flat.reshape(len(values), len(first))


def rows_of(vectors: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Return a column of vectors as arrays that share one matrix, ``None`` where there is none."""
    numbers = matrix(vectors)
    valid = np.asarray(vectors.is_valid())
    return [row if is_valid else None for row, is_valid in zip(numbers, valid, strict=True)]


def similarity(vectors: Any, queries: Any, k: int = 10) -> Similar:
    """Find the ``k`` vectors that are most similar to each query, by the cosine of their angle.

    Every vector is compared with every query, in blocks: the result is exact. Vectors with NaN are never found.

    Parameters
    ----------
    vectors
        A column of vectors or a matrix, as `matrix` takes it.
    queries
        The same, or one vector.
    k
        Number of vectors to find; fewer are found if there are fewer.

    Returns
    -------
    Similar
        ``indices`` and ``scores``, each of shape ``(queries, k)``, best first; ``(k,)`` for one vector.

    Examples
    --------
    >>> found = similarity(np.array([[1, 0], [0, 1], [1, 1]], np.float32), np.array([1, 0.1], np.float32), k=2)
    >>> found.indices.tolist(), found.scores.round(2).tolist()
    ([0, 2], [1.0, 0.7699999809265137])
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise invalid("k", f"must be an integer of 1 or more, not {k!r}")
    rows = matrix(vectors)
    is_single = isinstance(queries, np.ndarray) and queries.ndim == 1 and queries.dtype != object
    asked = _normalised(np.asarray(queries, np.float32)[None, :] if is_single else matrix(queries))
    if rows.shape[1] != asked.shape[1]:
        message = f"have {asked.shape[1]} dimensions, the vectors {rows.shape[1]}; use one model for both"
        raise invalid("queries", message)
    k = min(int(k), len(rows))
    scores = np.full((len(asked), 0), -np.inf, np.float32)
    indices = np.zeros((len(asked), 0), np.int64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = asked @ _normalised(rows[start : start + BLOCK_ROWS]).T
        np.nan_to_num(block, copy=False, nan=-np.inf)
        positions = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, indices = np.concatenate([scores, block], axis=1), np.concatenate([indices, positions], axis=1)
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, indices = np.take_along_axis(scores, best, 1), np.take_along_axis(indices, best, 1)
    order = np.lexsort((indices, -scores), axis=1)
    scores, indices = np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)
    return Similar(indices[0], scores[0]) if is_single else Similar(indices, scores)


def _normalised(rows: FloatMatrix) -> FloatMatrix:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    normalised: FloatMatrix = (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32, copy=False)
    return normalised
