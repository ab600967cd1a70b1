"""Plots of a results table: cost, tokens, latency, throughput and trade-offs of the models in it.

Each function takes a table of results (an Arrow table or a data frame), draws on the given axes or those of a new
figure, and returns the axes. A new figure joins pyplot's: notebooks draw it below the cell, ``plt.show()`` opens its
window. A model has the same colour in all plots of a table.
"""

from __future__ import annotations

from llmhub.plots.bars import cost_by_model, tokens_by_model
from llmhub.plots.export import save
from llmhub.plots.latency import latency_ecdf, ttft_ecdf
from llmhub.plots.ridgeline import token_histogram
from llmhub.plots.throughput import throughput, timeline
from llmhub.plots.tradeoff import cost_against_latency, cost_against_quality

__all__ = [
    "cost_against_latency",
    "cost_against_quality",
    "cost_by_model",
    "latency_ecdf",
    "save",
    "throughput",
    "timeline",
    "token_histogram",
    "tokens_by_model",
    "ttft_ecdf",
]
