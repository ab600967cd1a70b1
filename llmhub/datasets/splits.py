"""Deterministic splits and samples of a dataset by the content of its rows.

Each row is assigned a number from 0 (inclusive) to 1 (exclusive), derived from its fingerprint and a seed. The number
alone decides, so a row stays in its part when rows are reordered or added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmhub.api.signatures import renamed_arguments
from llmhub.core.errors import invalid
from llmhub.datasets.fingerprint import Fingerprints, fingerprints
from llmhub.tables import frames

TOLERANCE: Final = 1e-9


@renamed_arguments(seed="random_state")
def split_by_hash(
    frame: Any,
    shares: Mapping[str, float],
    *,
    random_state: int = 0,
    columns: Sequence[str] | None = None,
    stratify: str | None = None,
) -> dict[str, Any]:
    """Split a dataset by the content of its rows.

    Parameters
    ----------
    frame
        A frame of any kind, as for `llmhub.complete_table`.
    shares
        Share of each part by its name; they sum to 1: ``{"train": 0.8, "test": 0.2}``.
    random_state
        Seed; a different one gives a different split.
    columns
        Columns that identify a row, such as an id or the question; all by default.
    stratify
        Column whose values are split independently.

    Returns
    -------
    dict
        Parts by name, each a frame of the same kind with its rows in their original order.

    Raises
    ------
    BadRequestError
        The shares are invalid, or a column is missing.

    Notes
    -----
    Laws: the parts are disjoint and hold every row; equal rows are in the same part; the part of a row depends on that
    row, the seed and the shares only, so neither order nor further rows move it. Shares hold on average, as with
    independent random draws; with ``stratify`` they do so for each value.

    Examples
    --------
    >>> parts = split_by_hash({"x": list(range(1000))}, {"train": 0.8, "test": 0.2})
    >>> {name: part.num_rows for name, part in parts.items()}
    {'train': 790, 'test': 210}
    """
    _check_shares(shares)
    native = frames.native_frame(frame)
    draws = row_draws(frames.to_table(native), random_state, columns, stratify)
    bounds = np.concatenate([[0.0], np.cumsum(list(shares.values()))])
    bounds[-1] = 1.0
    part = np.searchsorted(bounds, draws, side="right") - 1
    return {name: _take(frame, native, part == index) for index, name in enumerate(shares)}


@renamed_arguments(seed="random_state")
def sample_by_hash(
    frame: Any,
    *,
    rows: int | None = None,
    share: float | None = None,
    random_state: int = 0,
    columns: Sequence[str] | None = None,
    stratify: str | None = None,
) -> Any:
    """Sample rows of a dataset by their content.

    Parameters
    ----------
    rows
        Number of rows; with ``stratify``, of rows of each value. The rows with the lowest numbers are taken.
    share
        Share of the rows; an alternative to ``rows``.
    frame, random_state, columns, stratify
        See `split_by_hash`.

    Returns
    -------
    frame of the same kind
        Rows in their original order; fewer than ``rows`` if the dataset has fewer.

    Raises
    ------
    BadRequestError
        Both or neither of ``rows`` and ``share`` are given, one is out of range, or a column is missing.

    Notes
    -----
    Laws: the order of the rows does not matter; with ``share``, further rows remove none from the sample; with
    ``rows``, a further row replaces at most one; a smaller sample is a subset of a larger one with the same seed.

    Examples
    --------
    >>> sample_by_hash({"x": list(range(100))}, rows=3).column("x").to_pylist()
    [17, 40, 72]
    """
    if (rows is None) == (share is None):
        raise invalid("rows", "pass either rows= or share=")
    if rows is not None and (isinstance(rows, bool) or rows < 0):
        raise invalid("rows", f"{rows!r} is not a number of rows; pass an integer >= 0")
    if share is not None and not 0 <= share <= 1:
        raise invalid("share", f"{share!r} is not between 0 and 1")
    native = frames.native_frame(frame)
    table = frames.to_table(native)
    draws = row_draws(table, random_state, columns, stratify)
    if share is not None:
        return _take(frame, native, draws < share)
    strata = _strata(table, stratify)
    order = np.lexsort((draws, strata))
    first_of_stratum = np.searchsorted(strata[order], strata[order], side="left")
    rank_in_stratum = np.empty(len(order), np.int64)
    rank_in_stratum[order] = np.arange(len(order)) - first_of_stratum
    return _take(frame, native, rank_in_stratum < np.int64(rows or 0))


def _take(frame: Any, native: Any, mask: Any) -> Any:
    """Return the rows of a frame where ``mask`` is true, as a frame of its kind."""
    return frames.to_kind_of(frame, frames.backend_of(native).take_rows(native, np.flatnonzero(mask)))


def row_draws(table: pa.Table, seed: int, columns: Sequence[str] | None, stratify: str | None = None) -> Any:
    """Return the number of each row, from 0 (inclusive) to 1 (exclusive)."""
    if stratify is not None:
        frames.require_columns([stratify], table, "stratify")
    # The encoding of version 1 is kept, so that no row moves to another part.
    prints = fingerprints(table, columns, version=1)
    if stratify is not None:
        prints = np.concatenate([prints, fingerprints(table, [stratify], version=1)], axis=1)
    return _to_unit_interval(prints, seed)


def _to_unit_interval(prints: Fingerprints, seed: int) -> Any:
    """Hash fingerprints with a seed to floats of 53 random bits."""
    seeded = hashlib.sha256(f"llmhub split {seed}".encode())
    draws = np.empty(len(prints), np.float64)
    for index, row in enumerate(prints):
        digest = seeded.copy()
        digest.update(row.tobytes())
        draws[index] = (int.from_bytes(digest.digest()[:8], "big") >> 11) * 2.0**-53
    return draws


def _strata(table: pa.Table, stratify: str | None) -> Any:
    if stratify is None:
        return np.zeros(table.num_rows, np.int64)
    column = table.column(stratify).combine_chunks()
    codes = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column, null_encoding="encode")
    return codes.indices.to_numpy(zero_copy_only=False)


def _check_shares(shares: Mapping[str, float]) -> None:
    bad = next((name for name, share in shares.items() if not 0 <= share <= 1), None)
    if bad is not None:
        raise invalid(f"shares[{bad!r}]", f"{shares[bad]!r} is not between 0 and 1")
    if not shares or abs(sum(shares.values()) - 1) > TOLERANCE:
        raise invalid(
            "shares", f"they sum to {sum(shares.values()):g}, not 1; pass {{'train': 0.8, 'test': 0.2}} or similar"
        )
