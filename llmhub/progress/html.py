"""Progress of a run as HTML: a bar per model, and the figures of the whole run below. Pure.

Styles are inline and of the kind that notebooks keep when they sanitize output, and nothing sets the colour of text or
background, so that it is readable on light and dark themes. Costs are written without a dollar sign, which notebooks
read as the start of mathematics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from llmhub.engine.progress import ModelProgress, Progress
from llmhub.formatting.html import DOT_SEPARATOR
from llmhub.formatting.palette import series_style
from llmhub.formatting.text import truncate_middle
from llmhub.progress.text import cost_text, join_items, status_items

MAX_MODELS: Final = 24
"""Models that get a bar."""
MAX_NAME_CHARS: Final = 30
"""Characters of a model's name before it is truncated; the full name is its tooltip."""
ROW_STYLE: Final = "display:flex;flex-wrap:wrap;align-items:center;margin:2px 0"
NAME_STYLE: Final = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;margin-right:10px"
TRACK_STYLE: Final = (
    "display:flex;width:14em;height:10px;overflow:hidden;border-radius:3px;margin-right:10px;"
    "background-color:rgba(128,128,128,0.25)"
)
SWATCH_STYLE: Final = "display:inline-block;width:9px;height:9px;margin:0 4px 0 8px;border-radius:2px"
FIGURES_STYLE: Final = "white-space:nowrap;font-variant-numeric:tabular-nums"


def progress_html(progress: Progress, note: str = "") -> str:
    """Return the progress as HTML.

    Parameters
    ----------
    progress
        The state to show.
    note
        Text in front of the figures below the bars, such as the state of the job.
    """
    models = progress.models[:MAX_MODELS]
    name_chars = min(MAX_NAME_CHARS, max((len(model.model) for model in models), default=0))
    rows = "".join(_row(model, series_style(index).color, name_chars) for index, model in enumerate(models))
    hidden = len(progress.models) - len(models)
    more = f'<div style="opacity:0.75">and {hidden:,} models more</div>' if hidden else ""
    figures = DOT_SEPARATOR.join(text for text in (note, join_items(status_items(progress), DOT_SEPARATOR)) if text)
    summary = f'<div style="opacity:0.75;{FIGURES_STYLE};white-space:normal">{escape(figures)}</div>'
    return f'<div style="font-size:13px;line-height:1.5;max-width:72em">{rows}{more}{summary}</div>'


def _row(model: ModelProgress, color: str, name_chars: int) -> str:
    """Return one model's name, bar and figures."""
    name = escape(model.model)
    short = escape(truncate_middle(model.model, name_chars))
    bar = "".join(_segment(count, model.total, style) for count, _, style in _segments(model, color))
    return (
        f'<div style="{ROW_STYLE}"><div style="width:{name_chars}ch;{NAME_STYLE}" title="{name}">{short}</div>'
        f'<div style="{TRACK_STYLE}">{bar}</div><div style="{FIGURES_STYLE}">{_figures(model, color)}</div></div>'
    )


def _segments(model: ModelProgress, color: str) -> Sequence[tuple[int, str, str]]:
    """Return the number, label and style of answered, cached and failed rows."""
    return (
        (model.done - model.cached - model.failed, "answered", f"background-color:{color}"),
        (model.cached, "cached", f"background-color:{color};opacity:0.45"),
        (model.failed, "failed", "background-color:currentColor"),
    )


def _segment(count: int, total: int, style: str) -> str:
    return f'<div style="width:{100 * count / total:.2f}%;{style}"></div>' if count and total else ""


def _figures(model: ModelProgress, color: str) -> str:
    """Return a legend of the bar with its figures, and the cost."""
    legend: Iterable[str] = (
        f'<span style="{SWATCH_STYLE};{style}"></span>{count:,} {label}'
        for count, label, style in _segments(model, color)
        if count
    )
    cost = cost_text(model)
    return f"{model.done:,}/{model.total:,}{''.join(legend)}{f'{DOT_SEPARATOR}{cost}' if cost else ''}"
