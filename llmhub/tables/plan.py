"""What a run would do before it does it: calls, cache hits, tokens, and what they would cost."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from llmhub.cache.store import Store
from llmhub.core import markup
from llmhub.core.cost import cost
from llmhub.core.types import Usage
from llmhub.providers.prices import price
from llmhub.tables.prompts import Ask, Questions, text_of
from llmhub.tables.tokens import EstimateWarning, count_tokens
from llmhub.tables.vocabulary import Vocabularies

USUAL_ANSWER: Final = 256
"""Tokens taken for an answer that ``max_tokens`` does not bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """What a run would do with one model.

    ``calls`` are what would be sent: rows less those skipped, equal to another, or in the cache. Tokens and money
    are those of the calls alone; ``output_tokens`` takes every answer to be as long as it may be, and ``usd`` is
    ``None`` where the price is unknown.
    """

    model: str
    rows: int
    skipped: int
    repeated: int
    cache_hits: int
    calls: int
    input_tokens: int
    output_tokens: int
    estimated: bool
    usd: Decimal | None
    price_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do, model by model. Nothing is sent to make it."""

    models: tuple[ModelPlan, ...]

    @property
    def calls(self) -> int:
        """Requests that would be sent."""
        return sum(model.calls for model in self.models)

    @property
    def usd(self) -> Decimal | None:
        """What it would cost, if all prices are known."""
        known = [model.usd for model in self.models if model.usd is not None]
        return sum(known, Decimal(0)) if len(known) == len(self.models) else None

    def __str__(self) -> str:
        """Write it as a table for a terminal."""
        rows = [HEAD, *map(_cells, self.models)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
        lines = [
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[*row[:-1], row[-1]] for row in map(_cells, self.models)]
        usd = self.usd
        total = f"{self.calls:,} calls" + ("" if usd is None else f", up to {usd:.6f} USD")
        why = "nothing is sent to plan; an answer is taken to be as long as it may be"
        return markup.whole(markup.grid(HEAD, rows, range(1, len(HEAD))), markup.facts([total, why]))


HEAD: Final = ("model", "rows", "in cache", "calls", "input tokens", "output tokens", "USD")


def _cells(model: ModelPlan) -> tuple[str, ...]:
    return (
        markup.line_of(model.model),
        f"{model.rows:,}",
        f"{model.cache_hits:,}",
        f"{model.calls:,}",
        f"{'about ' if model.estimated else ''}{model.input_tokens:,}",
        f"up to {model.output_tokens:,}",
        "unknown" if model.usd is None else f"up to {model.usd:.6f}",
    )


def plan_of(questions: Questions, store: Store | None, tokenizer_folder: Path | None, at: float) -> Plan:
    """Plan a run: what of it is in the store, and what the rest would take.

    Parameters
    ----------
    at
        Time for which prices are taken (epoch seconds).
    """
    fresh: dict[int, dict[bytes, str]] = {which: {} for which in range(len(questions.asks))}
    for chunk in questions.chunks():
        for position, key, _, spoken in chunk:
            which = position // questions.samples % len(questions.asks)
            fresh[which].setdefault(key, text_of(spoken))
    vocabularies = Vocabularies(folder=tokenizer_folder)
    return Plan(tuple(_model(questions, which, texts, store, vocabularies, at) for which, texts in fresh.items()))


def _model(
    questions: Questions,
    which: int,
    texts: dict[bytes, str],
    store: Store | None,
    vocabularies: Vocabularies,
    at: float,
) -> ModelPlan:
    ask = questions.asks[which]
    held = store.get_many(list(texts)) if store is not None else {}
    sent = [text for key, text in texts.items() if key not in held]
    rows = questions.size * questions.samples
    skipped = (sum(questions.skipped) + len(questions.wrong)) * questions.samples
    with warnings.catch_warnings():
        # The plan says itself which counts are estimates.
        warnings.simplefilter("ignore", EstimateWarning)
        counted = count_tokens([*sent, *_preamble(ask)], ask.target.model, vocabularies)
    system = sum(counted.tokens[len(sent) :])
    input_tokens = sum(counted.tokens[: len(sent)]) + system * len(sent)
    output_tokens = len(sent) * (ask.request.max_tokens or USUAL_ANSWER)
    found = price(ask.target.provider.name, ask.target.model, datetime.fromtimestamp(at, UTC))
    return ModelPlan(
        model=ask.target.name,
        rows=rows,
        skipped=skipped,
        repeated=rows - skipped - len(texts),
        cache_hits=len(held),
        calls=len(sent),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        estimated=counted.estimated,
        usd=cost(Usage(input_tokens=input_tokens, output_tokens=output_tokens), found) if found else None,
        price_id=found.price_id if found else "",
    )


def _preamble(ask: Ask) -> Sequence[str]:
    """Give the texts that every call repeats."""
    return [message.text for message in ask.request.messages]
