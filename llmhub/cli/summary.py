"""A run in a few lines of text: a table of its models, and what went wrong."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from llmhub.drawing.writing import amount, seconds, shortened, usd
from llmhub.notebook.latency import quantile
from llmhub.notebook.tally import TOKENS, Tally, tally

if TYPE_CHECKING:
    import pyarrow as pa

NAME: Final = 34
"""Characters of a model's name."""
WIDTH: Final = 96
"""Characters of a line."""
NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the summary; one that is not ``always`` there is left out where every cell is empty."""

    head: str
    cell: Callable[[Tally], str]
    always: bool = True


def summary(results: pa.Table) -> str:
    """Sum up results by model, in a table for a terminal.

    Examples
    --------
    >>> from llmhub.tables.schema import RESULTS
    >>> summary(RESULTS.empty_table())
    'No rows.'
    """
    tallies = tally(results)
    if not tallies:
        return "No rows."
    whole = _whole(tallies)
    shown = [column for column in COLUMNS if column.always or column.cell(whole) != NONE]
    body = [[shortened(each.name, NAME), *(column.cell(each) for column in shown)] for each in tallies]
    last = [["in all", *(column.cell(whole) for column in shown)]] if len(tallies) > 1 else []
    rows = [["model", *(column.head for column in shown)], *body, *last]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1 : 1 + len(body)], *([rule, lines[-1]] if last else [])])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *cells = row
    right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
    return "  ".join([name.ljust(widths[0]), *right])


def _whole(tallies: Sequence[Tally]) -> Tally:
    """Take all models together."""
    return Tally(
        name="",
        rows=sum(each.rows for each in tallies),
        answered=sum(each.answered for each in tallies),
        failed=sum(each.failed for each in tallies),
        reused=sum(each.reused for each in tallies),
        errors={},
        paid_usd=sum(each.paid_usd for each in tallies),
        worth_usd=sum(each.worth_usd for each in tallies),
        priced=sum(each.priced for each in tallies),
        latency_s=np.sort(np.concatenate([each.latency_s for each in tallies])),
        ttft_s=np.sort(np.concatenate([each.ttft_s for each in tallies])),
        tokens={kind: sum(each.tokens[kind] for each in tallies) for kind in TOKENS},
        counted=sum(each.counted for each in tallies),
    )


def _number(count: int) -> str:
    return f"{count:,}" if count else NONE


def _latency(share: float) -> Callable[[Tally], str]:
    return lambda each: seconds(quantile(each.latency_s, share)) if len(each.latency_s) else NONE


def _tokens(kind: str) -> Callable[[Tally], str]:
    return lambda each: amount(each.tokens[kind]) if each.counted else NONE


def _money(each: Tally, amount_usd: float) -> str:
    """Write a sum; one that misses the price of some answers says so."""
    if not each.priced:
        return "unknown" if each.answered else NONE
    return usd(amount_usd) if each.priced == each.answered else f"over {usd(amount_usd)}"


COLUMNS: Final = (
    Column("ok", lambda each: f"{each.answered:,}"),
    Column("failed", lambda each: _number(each.failed)),
    Column("unanswered", lambda each: _number(each.rows - each.answered - each.failed), always=False),
    Column("cached", lambda each: _number(each.reused), always=False),
    Column("p50", _latency(0.50)),
    Column("p95", _latency(0.95)),
    Column("tokens in", _tokens("input_tokens")),
    Column("out", _tokens("output_tokens")),
    Column("cost", lambda each: _money(each, each.paid_usd)),
    Column("worth", lambda each: _money(each, each.worth_usd) if each.reused else NONE, always=False),
)


def failures(results: pa.Table) -> str:
    """Say how many rows failed of what kind, with the first of each kind."""
    names = ("status", "error_type", "error", "row", "provider", "model")
    columns = [results.column(name).to_pylist() for name in names]
    failed = [rest for status, *rest in zip(*columns, strict=True) if status == "error"]
    kinds = Counter(kind for kind, *_ in failed)
    first = {kind: rest for kind, *rest in reversed(failed)}
    lines = [f"{len(failed):,} of {len(results):,} rows failed; the first of each kind:"]
    for kind, count in kinds.most_common():
        said, row, provider, model = first[kind]
        where = f"row {row}, {provider}/{model}: {' '.join(said.removeprefix(f'{provider}: ').split())}"
        lines += textwrap.wrap(
            f"{count:>6,}  {kind:<15} {textwrap.shorten(where, 240, placeholder=' ...')}",
            WIDTH,
            subsequent_indent=" " * 24,
            drop_whitespace=True,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def count_statuses(results: pa.Table) -> Counter[str]:
    """Count the rows of each status."""
    return Counter(results.column("status").to_pylist())
