"""A run as HTML: a bar for each model and the facts below, live and in what a saved notebook keeps. Pure.

Nothing but inline styles, of the kind that notebooks let through, and no colour for text or ground: so it reads on
light and dark themes alike. Money is written without a dollar sign, which notebooks would take for mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from llmhub.engine.progress import ModelProgress, Progress
from llmhub.formatting.palette import series_style
from llmhub.formatting.text import truncate_middle
from llmhub.progress.text import cost_text, join_items, status_items

MAX_MODELS: Final = 24
"""Models with a bar of their own."""


SEPARATOR: Final = " · "


ROW: Final = "display:flex;flex-wrap:wrap;align-items:center;margin:2px 0"


NAME: Final = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;margin-right:10px"


MAX_NAME_CHARS: Final = 30
"""Characters of a name that are seen at most; all are where the mouse rests on it."""


TRACK: Final = (
    "display:flex;width:14em;height:10px;overflow:hidden;border-radius:3px;margin-right:10px;"
    "background-color:rgba(128,128,128,0.25)"
)


SWATCH: Final = "display:inline-block;width:9px;height:9px;margin:0 4px 0 8px;border-radius:2px"


FIGURES: Final = "white-space:nowrap;font-variant-numeric:tabular-nums"


def progress_html(progress: Progress, note: str = "") -> str:
    """Draw a run.

    Parameters
    ----------
    note
        Said first below the bars: that it is being stopped, for example.
    """
    models = progress.models[:MAX_MODELS]
    wide = min(MAX_NAME_CHARS, max((len(model.model) for model in models), default=0))
    rows = "".join(_row(model, series_style(at).color, wide) for at, model in enumerate(models))
    more = len(progress.models) - len(models)
    rest = f'<div style="opacity:0.75">and {more:,} models more</div>' if more else ""
    said = SEPARATOR.join(text for text in (note, join_items(status_items(progress), SEPARATOR)) if text)
    below = f'<div style="opacity:0.75;{FIGURES};white-space:normal">{escape(said)}</div>'
    return f'<div style="font-size:13px;line-height:1.5;max-width:72em">{rows}{rest}{below}</div>'


def _row(model: ModelProgress, colour: str, wide: int) -> str:
    name = escape(model.model)
    short = escape(truncate_middle(model.model, wide))
    bar = "".join(_segment(many, model.total, style) for many, _, style in _parts(model, colour))
    return (
        f'<div style="{ROW}"><div style="width:{wide}ch;{NAME}" title="{name}">{short}</div>'
        f'<div style="{TRACK}">{bar}</div><div style="{FIGURES}">{_figures(model, colour)}</div></div>'
    )


def _parts(model: ModelProgress, colour: str) -> Sequence[tuple[int, str, str]]:
    """Part what is done: answered by the model, by the cache, not at all; each in its own style."""
    return (
        (model.done - model.cached - model.failed, "answered", f"background-color:{colour}"),
        (model.cached, "cached", f"background-color:{colour};opacity:0.45"),
        (model.failed, "failed", "background-color:currentColor"),
    )


def _segment(many: int, total: int, style: str) -> str:
    return f'<div style="width:{100 * many / total:.2f}%;{style}"></div>' if many and total else ""


def _figures(model: ModelProgress, colour: str) -> str:
    """Say in figures what the bar shows, each beside its colour."""
    shown: Iterable[str] = (
        f'<span style="{SWATCH};{style}"></span>{many:,} {word}' for many, word, style in _parts(model, colour) if many
    )
    cost = cost_text(model)
    return f"{model.done:,}/{model.total:,}{''.join(shown)}{f'{SEPARATOR}{cost}' if cost else ''}"
