"""`read_log` and `write_log`: evaluation logs of other tools as results, and results as their logs."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, Unpack, get_args

import pyarrow as pa

from llmhub.core.errors import BadRequestError, invalid
from llmhub.evals._compare import CompareOptions, compare
from llmhub.evals._evaluate import Evaluation
from llmhub.evals.comparison import Comparison
from llmhub.evals.judge import ScorerOrJudge
from llmhub.evals.logs import inspect_ai, lm_eval, openai_evals, promptfoo
from llmhub.evals.logs.log_rows import LogRow, by_model, from_comparison, not_a_log, to_results

LogFormat: TypeAlias = Literal["inspect_ai", "lm_eval", "promptfoo", "openai_evals"]
READERS: Final = {
    "inspect_ai": inspect_ai.read,
    "lm_eval": lm_eval.read,
    "promptfoo": promptfoo.read,
    "openai_evals": openai_evals.read,
}
WRITERS: Final = {
    "inspect_ai": inspect_ai.write,
    "lm_eval": lm_eval.write,
    "promptfoo": promptfoo.write,
    "openai_evals": openai_evals.write,
}
SUFFIXES: Final = {"inspect_ai": ".json", "lm_eval": "", "promptfoo": ".json", "openai_evals": ".jsonl"}
ONE_FILE: Final = frozenset({"promptfoo"})
"""Formats that hold several models in one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalLog:
    """Results of another evaluation tool.

    Parameters
    ----------
    results
        One row per response: ``row``, ``row_name`` (the tool's id), ``sample``, ``provider``, ``model``, ``status``,
        ``response``, ``error``, tokens, cost and time as far as they are known; then the input columns and the scores.
    scores
        Columns that hold scores.
    task
        Name of the task.
    """

    results: pa.Table
    scores: tuple[str, ...]
    task: str = ""

    def compare(
        self, *, scorers: ScorerOrJudge | Sequence[ScorerOrJudge] = (), **options: Unpack[CompareOptions]
    ) -> Comparison:
        """Compare the models by the log's scores; or by ``scorers``, which score the responses again.

        Parameters
        ----------
        scorers
            `Scorer` and `Judge` values.
        **options
            Those of `compare` for a finished table; ``scores`` chooses some of the log's scores.
        """
        if not scorers:
            options.setdefault("scores", self.scores)
        return compare(self.results, scorers=scorers, **options)

    def __repr__(self) -> str:
        """Return the size of the log and its scores."""
        models = len(self.results.group_by(["provider", "model"]).aggregate([]))
        return f"EvalLog({self.task!r}, {len(self.results):,} responses, {models} models, scores={self.scores!r})"


def read_log(*paths: str | Path, format: LogFormat | None = None, model: str | None = None) -> EvalLog:  # noqa: A002
    """Read evaluation logs of inspect_ai, lm-evaluation-harness, promptfoo or OpenAI evals.

    Rows with the same id in several logs are the same input, so that the models of these logs are compared in pairs.

    Parameters
    ----------
    *paths
        Logs: an ``.eval`` or ``.json`` file of inspect_ai, a folder or a ``samples_*.jsonl`` file of
        lm-evaluation-harness, a ``.json`` or ``.jsonl`` file of promptfoo, a record of OpenAI evals.
    format
        ``"inspect_ai"``, ``"lm_eval"``, ``"promptfoo"`` or ``"openai_evals"``; found by the content if ``None``.
    model
        Name of the model, instead of the log's; for the log of one model.

    Returns
    -------
    EvalLog
        The results; `EvalLog.compare` compares the models.

    Raises
    ------
    BadRequestError
        A file cannot be read, is not a log, or logs have the same ids for different inputs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> comparison = compare({"a": [1, 0, 1], "b": [1, 1, 1]}, model=["a", "b"])
    >>> with TemporaryDirectory() as folder:
    ...     log = read_log(*write_log(comparison, folder, format="inspect_ai"))
    >>> log
    EvalLog('comparison', 6 responses, 2 models, scores=('score',))
    >>> log.compare().pairs.column("difference").to_pylist()
    [-0.3333333333333333]
    """
    if not paths:
        raise invalid("path", "no log is given; pass the path of at least one")
    if format is not None and format not in READERS:
        raise invalid("format", f"{format!r} is not a format; use one of {', '.join(map(repr, READERS))}")
    rows: list[LogRow] = []
    tasks: list[str] = []
    for given in paths:
        path = Path(given)
        own, task = _read(path, format)
        if not own:
            raise not_a_log(path, "it has no samples")
        if model is not None and len({row.model for row in own}) > 1:
            raise invalid("model", f"{str(path)!r} has several models; remove model=")
        rows += own if model is None else [_renamed(row, model) for row in own]
        tasks.append(task)
    results, scores = to_results(rows)
    return EvalLog(results=results, scores=scores, task=", ".join(dict.fromkeys(filter(None, tasks))))


def _read(path: Path, given: LogFormat | None) -> tuple[list[LogRow], str]:
    """Return the rows of a log and its task; raise a clear error for any other file."""
    try:
        return READERS[given or _find_format(path)](path)
    except BadRequestError:
        raise
    except OSError as error:
        raise invalid("path", f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, NotImplementedError) as error:
        raise not_a_log(path, f"{type(error).__name__}: {error}") from error
    except zipfile.BadZipFile as error:
        raise not_a_log(path, str(error)) from error


def _find_format(path: Path) -> LogFormat:
    """Return the format of a log by its content."""
    if path.is_dir():
        return "lm_eval"
    if zipfile.is_zipfile(path):
        return "inspect_ai"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        first = json.loads(text.partition("\n")[0])
        marks: tuple[tuple[str, LogFormat], ...] = (
            ("spec", "openai_evals"), ("doc_id", "lm_eval"), ("promptIdx", "promptfoo"),
        )  # fmt: skip
    else:
        first = json.loads(text)
        marks = (("eval", "inspect_ai"), ("results", "promptfoo"))
    found = next((kind for mark, kind in marks if isinstance(first, Mapping) and mark in first), None)
    if found == "promptfoo" and isinstance(first.get("results"), Mapping) and "results" not in first["results"]:
        raise not_a_log(path, "it has aggregated results only; pass the folder or the file of the samples")
    if found is None:
        raise not_a_log(path, "its format is unknown; pass format= if it is one of " + ", ".join(map(repr, READERS)))
    return found


def _renamed(row: LogRow, model: str) -> LogRow:
    return replace(row, model=model)


def read_samples(path: str | Path) -> pa.Table:
    """Read the samples of an OpenAI evals registry as rows for `compare` and `evaluate`.

    Parameters
    ----------
    path
        JSON lines with ``input`` (text or messages) and ``ideal`` (one answer or several).

    Returns
    -------
    pyarrow.Table
        ``messages``, the conversation, for the prompt ``"{messages}"``; ``input``, its last turn as text; ``target``,
        the accepted answers.

    Raises
    ------
    BadRequestError
        The file cannot be read, or its lines are not samples.
    """
    file = Path(path)
    try:
        return openai_evals.read_samples(file)
    except OSError as error:
        raise invalid("path", f"{str(file)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadRequestError):
            raise
        raise not_a_log(file, f"{type(error).__name__}: {error}") from error


def write_log(result: Evaluation | Comparison, path: str | Path, *, format: LogFormat) -> tuple[Path, ...]:  # noqa: A002
    """Write an evaluation or a comparison as logs of another tool.

    Parameters
    ----------
    result
        Evaluation or comparison.
    path
        File to write; or, for several models in a format that holds one, the folder of their files. For ``"lm_eval"``
        always a folder.
    format
        ``"inspect_ai"`` (``.json``), ``"lm_eval"``, ``"promptfoo"`` or ``"openai_evals"``.

    Returns
    -------
    tuple of pathlib.Path
        The written files or folders, one a model where the format holds one model.

    Raises
    ------
    BadRequestError
        The format is unknown, there are no results, or the file cannot be written.

    Notes
    -----
    ``"lm_eval"`` and ``"openai_evals"`` hold one response to a row: the first sample is written.
    """
    if format not in get_args(LogFormat):
        raise invalid("format", f"{format!r} is not a format; use one of {', '.join(map(repr, WRITERS))}")
    comparison = result.comparison if isinstance(result, Evaluation) else result
    task = result.task.name if isinstance(result, Evaluation) else "comparison"
    rows = list(from_comparison(comparison))
    if not rows:
        raise invalid("result", "it has no results to write")
    units = {row["metric"]: row["unit"] for row in comparison.models.to_pylist() if row["kind"] == "score"}
    binary = frozenset(name for name, unit in units.items() if unit == "share")
    target = Path(path)
    parts = {"": rows} if format in ONE_FILE else by_model(rows)
    written = []
    try:
        for model, own in parts.items():
            file = target if len(parts) == 1 else target / (re.sub(r"[^\w.-]", "_", model) + SUFFIXES[format])
            file.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[format](own, task, binary, file)
            written.append(file)
    except OSError as error:
        raise invalid("path", f"{str(path)!r} cannot be written: {error.strerror or error}") from error
    return tuple(written)
