"""What models cost and what they use: boards of bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from llmhub.drawing.canvas import Look, look_of, said
from llmhub.drawing.writing import amount, plain_amount, plain_usd, usd
from llmhub.notebook.board import Bar, Line, board
from llmhub.notebook.tally import Frame, Tally, counts_of, tally, want_of

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes

LIGHT: Final = 0.66
"""How far the bar of what the answers are worth fades behind that of what was paid."""
FADES: Final[Mapping[str, float]] = {"cached input": 0.8, "input": 0.55, "output": 0.0, "reasoning": -0.45}
"""The shade of each class of tokens: towards the background, or below zero towards the text's colour."""


def cost_by_model(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw what each model cost: paid now, before what its answers are worth without the cache.

    A price that is not known is said, not drawn as nothing.

    Parameters
    ----------
    table
        Results, with the columns of the result schema.
    ax
        Where to draw; a new figure's axes where it is left out.

    Raises
    ------
    ValueError
        A column of the result schema is not there.
    """
    tallies = tally(table)
    if want := want_of(tallies):
        return said(ax, "Cost by model", want)
    order = sorted(enumerate(tallies), key=lambda item: (-item[1].worth_usd, not item[1].priced, item[0]))
    lines = [Line(each.name, _cost(each), _paid(each, look_of(place))) for place, each in order]
    paid, worth = sum(each.paid_usd for each in tallies), sum(each.worth_usd for each in tallies)
    saved = worth > paid
    title = f"Cost by model: {usd(paid)} paid" + (f", {usd(worth)} worth" if saved else "")
    ax = board(
        lines,
        ax,
        title=title if any(each.priced for each in tallies) else "Cost by model: no price is known",
        subtitle=counts_of(tallies) + ("; light: what the cache saved" if saved else ""),
        unit="US dollars",
    )
    ax.xaxis.set_major_formatter(lambda value, _: plain_usd(value))
    return ax


def tokens_by_model(table: pa.Table | Frame, ax: Axes | None = None) -> Axes:
    """Draw the tokens of each model's answers: input and how much was cached, output and how much was reasoning.

    Parameters and errors are those of `cost_by_model`.
    """
    tallies = tally(table)
    if want := want_of(tallies):
        return said(ax, "Tokens by model", want)
    order = sorted(enumerate(tallies), key=lambda item: (-sum(_classes(item[1]).values()), item[0]))
    lines = [Line(each.name, _used(each), _stack(each, look_of(place))) for place, each in order]
    present = [name for name in FADES if any(_classes(each)[name] for each in tallies)]
    shades = f"; from light to dark: {', '.join(present)}" if len(present) > 1 else ""
    ax = board(lines, ax, title="Tokens by model", subtitle=counts_of(tallies) + shades, unit="tokens")
    ax.xaxis.set_major_formatter(lambda value, _: plain_amount(value))
    return ax


def _cost(each: Tally) -> str:
    """Say what a model cost, and of how many answers that is not known."""
    if not each.answered:
        return f"no answer, {each.failed:,} failed" if each.failed else "nothing sent"
    if not each.priced:
        return "price unknown"
    text = usd(each.paid_usd) + (f" paid, {usd(each.worth_usd)} worth" if each.worth_usd > each.paid_usd else "")
    unknown = each.answered - each.priced
    return text + (f"; {unknown:,} of unknown price" if unknown else "")


def _paid(each: Tally, look: Look) -> list[Bar]:
    """Put what was paid before what it is worth."""
    bars = [Bar(0, each.worth_usd, look.colour, LIGHT), Bar(0, each.paid_usd, look.colour)]
    return [bar for bar in bars if bar.width]


def _classes(each: Tally) -> Mapping[str, int]:
    """Take the token counts apart into classes that do not overlap."""
    count = each.tokens
    return {
        "cached input": count["cached_input_tokens"],
        "input": max(count["input_tokens"] - count["cached_input_tokens"], 0),
        "output": max(count["output_tokens"] - count["reasoning_tokens"], 0),
        "reasoning": count["reasoning_tokens"],
    }


def _used(each: Tally) -> str:
    """Say how many tokens went in and came out."""
    if not each.answered:
        return f"no answer, {each.failed:,} failed" if each.failed else "nothing sent"
    if not each.counted:
        return "not counted by the provider"
    unknown = each.answered - each.counted
    text = f"{amount(each.tokens['input_tokens'])} in, {amount(each.tokens['output_tokens'])} out"
    return text + (f"; {unknown:,} not counted" if unknown else "")


def _stack(each: Tally, look: Look) -> list[Bar]:
    """Put the classes side by side."""
    bars: list[Bar] = []
    start = 0
    for name, count in _classes(each).items():
        if count:
            bars.append(Bar(start, count, look.colour, FADES[name]))
        start += count
    return bars
