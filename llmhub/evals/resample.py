"""The bootstrap of sums: many resamples of many clusters at once, as products of weights and columns.

A resample draws as many clusters as there are, with replacement; a cluster's weight is how often it was drawn. Clusters
that are alike in every column are drawn together, which is exact and makes right and wrong cheap however many
rows there are. Where many clusters are all different, weights are drawn one by one instead (the Poisson bootstrap:
Hanley and MacGibbon 2006, https://doi.org/10.1016/j.cmpb.2006.04.006; read 2026-11-27).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np

Floats: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.float64]]"
Matrix: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
Longs: TypeAlias = "np.ndarray[tuple[int], np.dtype[np.int64]]"

DISTINCT: Final = 2048
"""Kinds of clusters up to which weights are drawn exactly."""
WEIGHTS: Final = bytes(weight for weight, many in enumerate((94, 95, 46, 16, 4, 1)) for _ in range(many))
"""A byte to a weight: mean 1 and variance 1 exactly, third and fourth moments within 2 % of Poisson's."""
BLOCK: Final = 1 << 21
"""Weights held at a time: they stay in the processor's cache."""
AT_ONCE: Final = 16
"""Resamples in a product, or a multiple: the shape in which products are quickest."""


def resampled(columns: Matrix, resamples: int, seed: int) -> Matrix:
    """Give the sums of each column in each resample of the rows.

    Parameters
    ----------
    columns
        Clusters x columns.
    resamples
        How many.
    seed
        The same seed gives the same sums.

    Returns
    -------
    numpy.ndarray
        Resamples x columns. A column of ones gives how many clusters each resample holds.

    Examples
    --------
    >>> sums = resampled(np.array([[1.0, 1.0], [0.0, 1.0]]), 1000, 7)
    >>> sorted({(float(a), float(b)) for a, b in sums})
    [(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]
    """
    kinds, counts = alike(columns)
    draw = np.random.Generator(np.random.SFC64(seed))
    if len(kinds) <= DISTINCT:
        weights = draw.multinomial(len(columns), counts / len(columns), size=resamples)
        return weights @ kinds
    return _weighed(columns, resamples, draw)


def alike(columns: Matrix) -> tuple[Matrix, Longs]:
    """Give the distinct rows and how often each is there; all rows as they are where few are alike.

    Examples
    --------
    >>> alike(np.array([[1.0], [0.0], [1.0]]))
    (array([[0.], [1.]]), array([1, 2]))
    """
    # A thousand rows show whether there is anything to gain; sorting all of them would cost more than drawing.
    if len(columns) > DISTINCT and len(np.unique(columns[: 2 * DISTINCT], axis=0)) > DISTINCT:
        return columns, np.ones(len(columns), np.int64)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    return kinds, counts


def _weighed(columns: Matrix, resamples: int, draw: np.random.Generator) -> Matrix:
    """Sum with a weight drawn for each cluster of each resample."""
    clusters, many = columns.shape
    # Sums about the mean keep their digits in 32 bits; the last column counts what was drawn.
    middle = columns.mean(axis=0)
    small = np.ones((clusters, many + 1), np.float32)
    small[:, :many] = columns - middle
    at_once = max(AT_ONCE, BLOCK // clusters // AT_ONCE * AT_ONCE)
    sums = np.empty((resamples, many))
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        words = draw.integers(0, 2**64 - 1, size=-(-some * clusters // 8), dtype=np.uint64, endpoint=True)
        weights = np.frombuffer(words.tobytes().translate(WEIGHTS), np.uint8)[: some * clusters].reshape(some, clusters)
        drawn = (weights.astype(np.float32) @ small).astype(np.float64)
        sums[start : start + some] = drawn[:, :many] + drawn[:, many:] * middle
    return sums


def flipped(differences: Matrix, resamples: int, seed: int) -> Matrix:
    """Give the sums of each column when the sign of each row is drawn anew: what chance alone would do.

    Returns
    -------
    numpy.ndarray
        Resamples x columns.
    """
    kinds, counts = alike(differences)
    draw = np.random.Generator(np.random.SFC64(seed))
    if len(kinds) <= DISTINCT:
        ups = draw.binomial(counts, 0.5, size=(resamples, len(counts)))
        return (2 * ups - counts) @ kinds
    rows = len(differences)
    small = np.ascontiguousarray(differences, np.float32)
    whole = differences.sum(axis=0)
    at_once = max(AT_ONCE, BLOCK // rows // AT_ONCE * AT_ONCE)
    sums = np.empty((resamples, differences.shape[1]))
    for start in range(0, resamples, at_once):
        some = min(at_once, resamples - start)
        words = draw.integers(0, 2**64 - 1, size=-(-some * rows // 64), dtype=np.uint64, endpoint=True)
        signs = np.unpackbits(words.view(np.uint8), count=some * rows).reshape(some, rows)
        sums[start : start + some] = 2 * (signs.astype(np.float32) @ small).astype(np.float64) - whole
    return sums
