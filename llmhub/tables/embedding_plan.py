"""Plans of embeddings: what a run would send and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from llmhub.core.pricing import NANO_DIGITS, Price, compute_cost_nano_usd
from llmhub.core.types import Usage
from llmhub.engine.limits import Limit
from llmhub.formatting.html import Html, container, facts_line, html_table
from llmhub.formatting.numbers import format_duration, format_usd
from llmhub.formatting.text_tables import text_table

HEADER = ("model", "rows", "texts", "cached", "requests", "tokens", "USD")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingPlan:
    """The plan of a run of embeddings; it prints as a table.

    Parameters
    ----------
    model
        ``provider/model``.
    rows
        Rows of the input.
    texts, cached
        Distinct texts, and those of them whose vectors are in the cache.
    requests, tokens
        Requests that would be sent, and their tokens.
    usd
        Their cost; ``None`` if the price is unknown.
    estimated
        Whether another tokenizer than the model's counted the tokens.
    minutes
        How long the declared rate limits make the run take; 0 without any.
    live_usd
        The cost of single requests, where ``usd`` is that of batches; ``None`` otherwise.
    """

    model: str
    rows: int
    texts: int
    cached: int
    requests: int
    tokens: int
    usd: Decimal | None
    estimated: bool
    minutes: float = 0.0
    live_usd: Decimal | None = None

    def __str__(self) -> str:
        """Return the plan as a table for a terminal, followed by notes."""
        return "\n".join([text_table(HEADER, [self._cells()]), *self._notes()])

    def __repr__(self) -> str:
        """Return the plan as a table."""
        return str(self)

    def _repr_html_(self) -> Html:
        return container(html_table(HEADER, [self._cells()], range(1, len(HEADER))), facts_line(self._notes()))

    def _cells(self) -> tuple[str, ...]:
        counts = (self.rows, self.texts, self.cached, self.requests)
        usd = "unknown" if self.usd is None else format_usd(self.usd, symbol="")
        about = "~" if self.estimated else ""
        return (self.model, *(f"{count:,}" for count in counts), f"{about}{self.tokens:,}", usd)

    def _notes(self) -> list[str]:
        notes = ["Tokens are estimated: the model's tokenizer is not available here."] if self.estimated else []
        if self.live_usd and self.usd is not None:
            saving = self.live_usd - self.usd
            notes.append(
                f"In batches: {format_usd(self.usd)} instead of {format_usd(self.live_usd)} by single requests, "
                f"a saving of {format_usd(saving)} ({saving / self.live_usd:.0%})."
            )
        if self.minutes:
            notes.append(f"The rate limits make the run take {format_duration(self.minutes * 60)} or more.")
        return notes


def plan_requests(tokens: Sequence[int], max_texts: int, max_tokens: float) -> int:
    """Return the number of requests for texts of so many tokens each.

    Examples
    --------
    >>> plan_requests([10, 10, 10], 2, 1000), plan_requests([10, 10, 10], 10, 15), plan_requests([], 2, 1000)
    (2, 3, 0)
    """
    requests = texts = total = 0
    for count in tokens:
        if not texts or texts >= max_texts or total + count > max_tokens:
            requests, texts, total = requests + 1, 0, 0
        texts, total = texts + 1, total + count
    return requests


def plan_usd(tokens: int, price: Price | None) -> Decimal | None:
    """Return the cost of so many tokens in US dollars; ``None`` if the price is unknown."""
    nanos = compute_cost_nano_usd(Usage(input_tokens=tokens, output_tokens=0), price)
    return None if nanos is None else Decimal(nanos).scaleb(-NANO_DIGITS)


def minutes_of_limits(requests: int, tokens: int, limits: Iterable[Limit]) -> float:
    """Return the minutes that declared limits make a run take.

    Examples
    --------
    >>> minutes_of_limits(10, 5000, [Limit(rpm=100, tpm=1000)])
    5.0
    """
    needs = [
        (amount, allowed)
        for limit in limits
        for amount, allowed in ((requests, limit.rpm), (tokens, limit.tpm), (tokens, limit.input_tpm))
    ]
    return max((amount / allowed for amount, allowed in needs if allowed), default=0.0)
