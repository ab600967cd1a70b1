"""Parts and samples of a dataset by what rows say: the same whatever their order, and whatever else is there.

Each row gets a number from 0 to 1 from its fingerprint and a seed. That number alone decides, so a row that is moved,
or joined by others, stays where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.datasets.fingerprint import Fingerprints, fingerprints
from llmhub.tables import frames

TOLERANCE: Final = 1e-9


def split_by_hash(
    frame: Any,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    stratify: str | None = None,
) -> dict[str, pa.Table]:
    """Part a dataset by what its rows say.

    Parameters
    ----------
    frame
        A pandas DataFrame, an Arrow table, a mapping of columns, or anything with ``__arrow_c_stream__``.
    shares
        The parts by name and their shares, which add up to 1: ``{"train": 0.8, "test": 0.2}``.
    seed
        Another seed is another partition.
    columns
        The columns that say which rows are one and the same, such as an id or the question; all where it is left out.
    stratify
        A column whose values are each parted on their own.

    Returns
    -------
    dict
        The parts, by name, each with its rows in the order they had.

    Raises
    ------
    InvalidRequestError
        Shares that are no shares, or a column that is not there.

    Notes
    -----
    Laws: the parts are disjoint and hold every row; equal rows are in one part; a row's part depends on that row, the
    seed and the shares alone, so neither order nor further rows move it. Shares hold on average, as they do where each
    row is drawn by itself. In ``stratify`` they do so for each value by itself.

    Examples
    --------
    >>> parts = split_by_hash({"x": list(range(1000))}, {"train": 0.8, "test": 0.2})
    >>> {name: part.num_rows for name, part in parts.items()}
    {'train': 790, 'test': 210}
    """
    _expect_shares(shares)
    table = to_table(frame)
    draws = row_draws(table, seed, columns, stratify)
    bounds = np.concatenate([[0.0], np.cumsum(list(shares.values()))])
    bounds[-1] = 1.0
    which = np.searchsorted(bounds, draws, side="right") - 1
    return {name: table.filter(pa.array(which == at)) for at, name in enumerate(shares)}


def sample_by_hash(
    frame: Any,
    *,
    rows: int | None = None,
    share: float | None = None,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    stratify: str | None = None,
) -> pa.Table:
    """Take some rows of a dataset by what they say.

    Parameters
    ----------
    rows
        How many; of each value of ``stratify`` where that is given. Those with the lowest numbers are taken.
    share
        Or which share of them.
    frame, seed, columns, stratify
        See `split_by_hash`.

    Returns
    -------
    pyarrow.Table
        The rows in the order they had; fewer than ``rows`` where there are not so many.

    Raises
    ------
    InvalidRequestError
        Both or neither of ``rows`` and ``share``, one out of range, or a column that is not there.

    Notes
    -----
    Laws: the order of rows does not matter; with ``share``, further rows take none away; with ``rows``, a further row
    takes the place of at most one; a smaller sample is part of a larger one of the same seed.

    Examples
    --------
    >>> sample_by_hash({"x": list(range(100))}, rows=3).column("x").to_pylist()
    [17, 40, 72]
    """
    if (rows is None) == (share is None):
        raise BadRequestError(InvalidRequest(path="rows", message="give either rows= or share="))
    if rows is not None and (isinstance(rows, bool) or rows < 0):
        raise BadRequestError(InvalidRequest(path="rows", message=f"{rows!r} is no number of rows; give >= 0"))
    if share is not None and not 0 <= share <= 1:
        raise BadRequestError(InvalidRequest(path="share", message=f"{share!r} is outside 0..1"))
    table = to_table(frame)
    draws = row_draws(table, seed, columns, stratify)
    if share is not None:
        return table.filter(pa.array(draws < share))
    strata = _strata(table, stratify)
    order = np.lexsort((draws, strata))
    ranks = np.empty(len(order), np.int64)
    begins = np.searchsorted(strata[order], strata[order], side="left")
    ranks[order] = np.arange(len(order)) - begins
    return table.filter(pa.array(ranks < np.int64(rows or 0)))


def row_draws(table: pa.Table, seed: int, columns: Sequence[str] | None, stratify: str | None = None) -> Any:
    """Give each row its number from 0 (included) to 1 (excluded)."""
    if stratify is not None:
        frames.require_columns([stratify], table, "stratify")
    prints = fingerprints(table, columns)
    if stratify is not None:
        prints = np.concatenate([prints, fingerprints(table, [stratify])], axis=1)
    return _numbers(prints, seed)


def to_table(frame: Any) -> pa.Table:
    """Give any frame as an Arrow table; pandas' index is left behind."""
    source = frames.pandas_or_arrow(frame)
    return pa.Table.from_pandas(source, preserve_index=False) if frames.is_pandas(source) else source


def _numbers(prints: Fingerprints, seed: int) -> Any:
    """Turn fingerprints and a seed into numbers of 53 bits."""
    head = hashlib.sha256(f"llmhub split {seed}".encode())
    found = np.empty(len(prints), np.float64)
    for at, one in enumerate(prints):
        digest = head.copy()
        digest.update(one.tobytes())
        found[at] = (int.from_bytes(digest.digest()[:8], "big") >> 11) * 2.0**-53
    return found


def _strata(table: pa.Table, stratify: str | None) -> Any:
    if stratify is None:
        return np.zeros(table.num_rows, np.int64)
    column = table.column(stratify).combine_chunks()
    codes = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column, null_encoding="encode")
    return codes.indices.to_numpy(zero_copy_only=False)


def _expect_shares(shares: Mapping[str, float]) -> None:
    bad = next((name for name, share in shares.items() if not 0 <= share <= 1), None)
    if bad is not None:
        raise BadRequestError(InvalidRequest(path=f"shares[{bad!r}]", message=f"{shares[bad]!r} is outside 0..1"))
    if not shares or abs(sum(shares.values()) - 1) > TOLERANCE:
        said = f"they add up to {sum(shares.values()):g}, not 1; give such as {{'train': 0.8, 'test': 0.2}}"
        raise BadRequestError(InvalidRequest(path="shares", message=said))
