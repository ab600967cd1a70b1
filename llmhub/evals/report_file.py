"""A comparison or evaluation as one HTML file: figures, and the rows with the responses of all models side by side.

The file needs no server and loads nothing. Its script sets texts as texts, and a content security policy allows that
script alone, so that no response can act. Colours follow the light or dark theme of the reader.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from llmhub.core.errors import invalid
from llmhub.evals import report
from llmhub.evals.html_report import comparison_html, fit_scale, interval_svg, model_colors, samples_html
from llmhub.evals.logs.log_rows import LogRow, from_comparison
from llmhub.formatting.numbers import format_count, format_duration, format_usd
from llmhub.formatting.text import escape_control_characters

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.evals._evaluate import Evaluation
    from llmhub.evals.comparison import Comparison

MAX_ROWS: Final = 1000
MAX_TEXT_LENGTH: Final = 20_000
"""Characters of a text in the report."""


def write_report(
    comparison: Comparison,
    path: str | Path,
    *,
    by: str | None = None,
    max_rows: int = MAX_ROWS,
    evaluation: Evaluation | None = None,
) -> Path:
    """Write a comparison as one HTML file; see `Comparison.write_report`."""
    if isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 0:
        raise invalid("max_rows", f"{max_rows!r} is not a number of rows; pass an integer >= 0")
    groups = None if by is None else comparison.by(by)
    file = Path(path)
    try:
        file.write_text(report_html(comparison, groups, max_rows, evaluation), encoding="utf-8")
    except OSError as error:
        raise invalid("path", f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    return file


def report_html(
    comparison: Comparison, groups: pa.Table | None, max_rows: int, evaluation: Evaluation | None = None
) -> str:
    """Return the page."""
    assets = resources.files("llmhub.evals")
    style, script = (
        assets.joinpath(f"report_file.{kind}").read_text(encoding="utf-8").strip() for kind in ("css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    data, left_out = _rows_data(comparison, max_rows)
    title = evaluation.task.name if evaluation is not None else "Comparison"
    headline = report.headline(comparison) or f"{len(comparison.design.models)} models"
    note = f" The first {max_rows:,} rows are shown; {left_out:,} more are in the results." if left_out else ""
    content = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    options = "".join(
        f'<option value="{value}">{label}</option>'
        for value, label in (
            ("all", "all rows"),
            ("wrong", "some response not right"),
            ("right", "all responses right"),
            ("differ", "models differ"),
            ("failed", "failed calls"),
            ("unscored", "without a score"),
        )
    )
    samples = "" if evaluation is None else samples_html(evaluation.samples, comparison, evaluation.sample_pairs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}: {escape(headline)}</title>
<style>
{style}
</style>
</head>
<body>
<header><h1>{escape(title)}</h1></header>
<main>
<section class="scroll">{comparison_html(comparison)}{samples}</section>
{"" if groups is None else _groups_section(comparison, groups)}
<section id="samples">
<h2>Rows</h2>
<p class="dim">Responses of all models side by side.{note}</p>
<div class="filters" role="search">
<label>Text<input id="search" type="search" placeholder="in inputs and responses"></label>
<label>Scorer<select id="scorer"></select></label>
<label>Show<select id="show">{options}</select></label>
<label>Model<select id="model"></select></label>
<span id="count" class="count" aria-live="polite"></span>
</div>
<div id="items"></div>
<nav aria-label="Pages"><button id="previous" type="button">Previous</button><span id="page" class="dim"></span>
<button id="next" type="button">Next</button></nav>
</section>
</main>
<script id="rows" type="application/json">{content}</script>
<script>{script}</script>
</body>
</html>
"""


def _groups_section(comparison: Comparison, groups: pa.Table) -> str:
    """Return the table of the scores of each group and model."""
    colors = model_colors(comparison)
    parts = ["<section><h2>Scores by group</h2>"]
    for scorer in comparison.scorers:
        rows = [row for row in groups.to_pylist() if row["scorer"] == scorer]
        cells = {(row["group"], row["model"]): row for row in rows}
        format_value = report.score_formatter(rows[0]["unit"] if rows else "score")
        scale = fit_scale(rows)
        head = "".join(f'<th colspan="2">{escape(name)}</th>' for name in colors)
        body = []
        for group in dict.fromkeys(row["group"] for row in rows):
            own = [cells[group, model] for model in colors]
            label = "<b>mean of the groups</b>" if group is None else escape(group)
            values = "".join(
                f'<td class="left">{interval_svg(scale, row["value"], row, colors[row["model"]])}</td>'
                f'<td class="num">{"" if row["value"] is None else escape(format_value(row["value"]))}'
                f"<small>{escape(report.format_interval(row, format_value))}</small></td>"
                for row in own
            )
            body.append(f'<tr><td>{label}</td>{values}<td class="num">{max(row["rows"] for row in own):,}</td></tr>')
        head = f"<thead><tr><th>{escape(scorer)}</th>{head}<th>rows</th></tr></thead>"
        parts.append(f'<div class="llmhub-eval scroll"><table>{head}<tbody>{"".join(body)}</tbody></table></div>')
    return "".join([*parts, "</section>"])


def _rows_data(comparison: Comparison, max_rows: int) -> tuple[dict[str, Any], int]:
    """Return what the page's script shows, and the number of rows that are left out."""
    size = len(comparison.results)
    notes = [
        comparison.scores.column("note").slice(index * size, size).to_pylist()
        for index in range(len(comparison.scorers))
    ]
    models = list(comparison.design.models)
    rows: dict[str, dict[str, Any]] = {}
    total: set[str] = set()
    columns: dict[str, None] = {}
    inputs: dict[str, Mapping[str, Any]] = {}
    for position, row in enumerate(from_comparison(comparison)):
        total.add(row.row_id)
        if row.row_id not in rows:
            if len(rows) >= max_rows:
                continue
            rows[row.row_id] = {"name": row.row_id, "answers": []}
            inputs[row.row_id] = row.inputs
            columns |= dict.fromkeys(name for name, value in row.inputs.items() if value is not None)
        own_notes = [_cut(own[position]) for own in notes]
        rows[row.row_id]["answers"].append(_answer(row, models.index(row.model), own_notes))
    for row_id, shown in rows.items():
        shown["inputs"] = [_text(inputs[row_id].get(name)) for name in columns]
        shown["answers"].sort(key=lambda answer: (answer["model"], answer["sample"]))
    colors = model_colors(comparison)
    return {
        "models": [{"name": name, "color": colors[name]} for name in models],
        "scorers": _scorers(comparison),
        "columns": list(columns),
        "samples": comparison.design.n,
        "rows": list(rows.values()),
    }, len(total) - len(rows)


def _scorers(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the name of each scorer, whether it is binary, and its best and worst score."""
    size = len(comparison.results)
    scorers = []
    for index, name in enumerate(comparison.scorers):
        values = comparison.scores.column("score").slice(index * size, size).to_numpy()
        known = values[np.isfinite(values)]
        is_binary = report.score_unit(comparison, name) == "share"
        best, worst = (1.0, 0.0) if is_binary or not len(known) else (float(known.max()), float(known.min()))
        scorers.append({"name": name, "binary": is_binary, "best": best, "worst": worst})
    return scorers


def _answer(row: LogRow, model: int, notes: Sequence[str | None]) -> dict[str, Any]:
    measured = row.measurements
    facts = [
        None if (latency := measured.get("latency_s")) is None else format_duration(latency),
        None if (tokens := measured.get("output_tokens")) is None else f"{format_count(tokens)} tokens",
        None if (cost := measured.get("list_cost_usd")) is None else format_usd(cost),
        None if (reason := measured.get("finish_reason")) in {None, "stop"} else str(reason),
    ]
    return {
        "model": model,
        "sample": row.sample,
        "response": _cut(row.response),
        "error": _cut(row.error),
        "scores": list(row.scores.values()),
        "notes": list(notes),
        "facts": " \u00b7 ".join(fact for fact in facts if fact),
    }


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return _cut(value)
    if isinstance(value, (int, float)):
        return str(value)
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str | None) -> str | None:
    """Return the first characters of a text, with control characters made visible, and how many were left out."""
    if text is None:
        return None
    more = len(text) - MAX_TEXT_LENGTH
    shown = escape_control_characters(text[:MAX_TEXT_LENGTH])
    return shown if more <= 0 else f"{shown}\n\u2026 {more:,} characters more"
