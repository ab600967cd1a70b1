"""Tables of reranking: those of embeddings, with a score and a rank in place of a vector."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from llmhub.tables.embeddings import EMBEDDING

SCORE: Final = "score"
RANK: Final = "rank"
COMPACT: Final = (SCORE, RANK, "status", "error", "cost_usd", "cache_hit")
"""Columns that every frame gets."""


def with_scores(table: pa.Table) -> pa.Table:
    """Return a table of embeddings of one dimension with their numbers as scores, and ranks from 1, the best first.

    Rows without a score have no rank; of equal scores, the earlier row ranks first.
    """
    vectors = table.column(EMBEDDING).combine_chunks()
    is_valid = vectors.is_valid().to_numpy(zero_copy_only=False)
    scores = np.full(len(table), -np.inf, np.float32)
    if is_valid.any():
        scores[is_valid] = vectors.drop_null().flatten().to_numpy(zero_copy_only=False)
    ranks = np.empty(len(table), np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(table) + 1)
    position = table.column_names.index(EMBEDDING)
    scored = table.set_column(position, SCORE, pa.array(scores, pa.float32(), mask=~is_valid))
    return scored.add_column(position + 1, RANK, pa.array(ranks, pa.int64(), mask=~is_valid))
