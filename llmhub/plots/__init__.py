"""Plots of results tables: cost, latency, throughput, token counts and trade-offs by model."""

from __future__ import annotations

from llmhub.plots.api import (
    cost_against_latency,
    cost_against_quality,
    cost_by_model,
    latency_ecdf,
    save,
    throughput,
    timeline,
    token_histogram,
    tokens_by_model,
    ttft_ecdf,
)

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
