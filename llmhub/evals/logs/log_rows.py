"""Rows of an evaluation log, in the terms that all formats share, and their conversion from and to results.

A row is one response of one model to one input. Its id is that of the tool: rows of several logs with the same id are
the same input, so that models are compared in pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from llmhub.core.errors import BadRequestError, invalid
from llmhub.evals.scoring import number_samples, read_layout
from llmhub.tables.schema import RESULTS
from llmhub.tables.templates import parse_template

if TYPE_CHECKING:
    from llmhub.evals.comparison import Comparison

MEASUREMENTS: Final = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "list_cost_usd",
    "latency_s",
    "finish_reason",
)
"""Result columns that a log may have besides response and error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One response of one model, with its scores.

    Parameters
    ----------
    row_id, sample
        Identity of the input in its log; number of the response to it, from 0.
    model
        Model, as the tool names it.
    response, error
        Text of the response; message of the error of a failed call.
    scores
        Scores by the scorers' names; ``None`` without a score.
    inputs
        Columns of the input: ``input``, ``target`` and those of the tool's metadata.
    measurements
        Values of `MEASUREMENTS` that are known.
    """

    row_id: str
    model: str
    sample: int = 0
    response: str | None = None
    error: str | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)


def not_a_log(path: Path, reason: str) -> BadRequestError:
    """Return the error of a file that is not a log of the expected form."""
    return invalid("path", f"{str(path)!r} is not an evaluation log that can be read: {reason}")


def to_text(value: Any) -> str:
    r"""Return a value as text: text as it is, messages line by line with their role, anything else as JSON.

    Examples
    --------
    >>> to_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    'system: Be brief.\nuser: Hi'
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) and "content" in turn for turn in value):
        if len(value) == 1:
            return content_text(value[0]["content"])
        return "\n".join(f"{turn.get('role', 'user')}: {content_text(turn['content'])}" for turn in value)
    return json.dumps(value, ensure_ascii=False)


def content_text(content: Any) -> str:
    """Return the text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def to_score(value: Any) -> float | None:
    """Return a number or truth value as a score; ``None`` for anything else.

    Examples
    --------
    >>> to_score(True), to_score(0.5), to_score(float("nan")), to_score([1, 2])
    (1.0, 0.5, None, None)
    """
    if isinstance(value, (bool, int, float)) and math.isfinite(value):
        return float(value)
    return None


def to_results(rows: Sequence[LogRow]) -> tuple[pa.Table, tuple[str, ...]]:
    """Return a table of results with the columns of the inputs and the scores, and the names of the score columns.

    Raises
    ------
    BadRequestError
        Two rows have the same id and different inputs.
    """
    _check_inputs(rows)
    numbers = {row_id: number for number, row_id in enumerate(dict.fromkeys(row.row_id for row in rows))}
    split = [row.model.partition("/") if "/" in row.model else ("", "", row.model) for row in rows]
    columns: dict[str, Any] = {
        "row": pa.array([numbers[row.row_id] for row in rows], pa.int64()),
        "row_name": pa.array([row.row_id for row in rows], pa.string()),
        "sample": pa.array([row.sample for row in rows], pa.int32()),
        "provider": pa.array([provider for provider, *_ in split], pa.string()),
        "model": pa.array([model for *_, model in split], pa.string()),
        "status": pa.array(["ok" if row.error is None else "error" for row in rows], pa.string()),
        "response": pa.array([row.response for row in rows], pa.string()),
        "error": pa.array([row.error for row in rows], pa.string()),
    }
    for name in MEASUREMENTS:
        values = [row.measurements.get(name) for row in rows]
        if any(value is not None for value in values):
            columns[name] = _measured(name, values)
    scores = {
        name: "score_" + name if name in {*RESULTS.names, *columns} else name for row in rows for name in row.scores
    }
    inputs = dict.fromkeys(name for row in rows for name in row.inputs)
    taken = {*RESULTS.names, *columns, *scores.values()}
    for name in inputs:
        columns["input_" + name if name in taken else name] = _column([row.inputs.get(name) for row in rows])
    for name, column in scores.items():
        columns[column] = pa.array([row.scores.get(name) for row in rows], pa.float64())
    return pa.table(columns), tuple(scores.values())


def _check_inputs(rows: Sequence[LogRow]) -> None:
    """Raise if rows with the same id have different inputs: logs of different datasets cannot be compared."""
    known: dict[str, Any] = {}
    for row in rows:
        text = row.inputs.get("input")
        if known.setdefault(row.row_id, text) != text:
            message = f"the row {row.row_id!r} has different inputs in these logs; read logs of one dataset together"
            raise invalid("path", message)


def _measured(name: str, values: Sequence[Any]) -> pa.Array:
    kind = RESULTS.field(name).type
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).dictionary_encode()
    if pa.types.is_decimal(kind):
        return pa.array(values, pa.float64()).cast(kind)
    return pa.array(values, kind)


def _column(values: Sequence[Any]) -> pa.Array:
    """Return values as a column; values of several types become texts, or lists of texts if any is a list."""
    try:
        column = pa.array(values)
    except (pa.ArrowException, OverflowError):
        column = pa.nulls(0, pa.struct([]))
    if not _holds_empty_struct(column.type):
        return column
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) or value is None else [value] for value in values]
        return pa.array([None if one is None else [to_text(item) for item in one] for one in lists])
    return pa.array([None if value is None else to_text(value) for value in values], pa.string())


def _holds_empty_struct(kind: pa.DataType) -> bool:
    """Return whether a type has a struct without fields, which files cannot hold."""
    if pa.types.is_struct(kind):
        return not kind.num_fields or any(_holds_empty_struct(one.type) for one in kind)
    return pa.types.is_list(kind) and _holds_empty_struct(kind.value_type)


def from_comparison(comparison: Comparison) -> Iterator[LogRow]:
    """Yield the responses of a comparison with their scores and inputs.

    The rendered prompt is the input if the prompt is a template; else the input row as JSON.
    """
    table, inputs = comparison.results, comparison.inputs
    layout = read_layout(table, comparison.design.models)
    samples = number_samples(layout)
    rows: list[dict[str, Any]] = inputs.to_pylist() if inputs is not None else [{} for _ in layout.row_ids]
    texts = list(_rendered(rows, comparison.design.prompt))
    size = len(table)
    scores = {
        name: comparison.scores.column("score").slice(index * size, size).to_pylist()
        for index, name in enumerate(comparison.scorers)
    }
    present = {name: table.column(name).to_pylist() for name in MEASUREMENTS if name in table.column_names}
    errors = table.column("error").to_pylist() if "error" in table.column_names else [None] * size
    status = table.column("status").to_pylist() if "status" in table.column_names else ["ok"] * size
    responses = table.column("response").to_pylist() if "response" in table.column_names else [None] * size
    target = comparison.design.target or "target"
    for position in range(size):
        number = int(layout.row_index[position])
        row = rows[number]
        yield LogRow(
            row_id=str(row.get("row_name", number)),
            model=layout.model_names[int(layout.model_index[position])],
            sample=int(samples[position]),
            response=responses[position],
            error=None if status[position] == "ok" else errors[position] or str(status[position]),
            scores={name: values[position] for name, values in scores.items()},
            inputs={
                "input": texts[number],
                "target": row.get(target),
                **{name: value for name, value in row.items() if name not in {"input", "target", "row_name", target}},
            },
            measurements={name: _plain(values[position]) for name, values in present.items()},
        )


def _rendered(rows: Iterable[Mapping[str, Any]], prompt: Any) -> Iterator[str]:
    template = parse_template(prompt) if isinstance(prompt, str) else None
    for row in rows:
        if template is None:
            yield to_text(row["input"]) if "input" in row else json.dumps(_jsonable(row), ensure_ascii=False)
        else:
            yield template.render(tuple(row.get(name) for name in template.fields))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, str)) else float(value)


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def jsonable_inputs(row: LogRow) -> dict[str, Any]:
    """Return the input columns of a row besides ``input`` and ``target``, as JSON values."""
    return {name: _jsonable(value) for name, value in row.inputs.items() if name not in {"input", "target"}}


def target_text(row: LogRow) -> str | list[str]:
    """Return the reference answer as text, or as texts if there are several."""
    target = row.inputs.get("target")
    if isinstance(target, (list, tuple, np.ndarray)):
        return [str(value) for value in target]
    return "" if target is None else str(target)


def by_model(rows: Iterable[LogRow]) -> dict[str, list[LogRow]]:
    """Return the rows of each model."""
    models: dict[str, list[LogRow]] = {}
    for row in rows:
        models.setdefault(row.model, []).append(row)
    return models


def mean_and_error(rows: Sequence[LogRow], score: str) -> tuple[float | None, float | None, int]:
    """Return a score's mean over the inputs, its standard error, and the number of inputs with a score."""
    means: dict[str, list[float]] = {}
    for row in rows:
        value = row.scores.get(score)
        if value is not None:
            means.setdefault(row.row_id, []).append(value)
    values = np.array([sum(own) / len(own) for own in means.values()])
    if not len(values):
        return None, None, 0
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return float(values.mean()), error, len(values)
