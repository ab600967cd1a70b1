"""Evaluations and comparisons as runs of MLflow and of Weights & Biases, through these libraries' own clients.

Where the runs go is decided by the client: a server, a local folder, or offline. Names and limits of both are kept:
characters that they refuse become underscores, and long parameters are cut.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyarrow import parquet

from llmhub.core.errors import invalid
from llmhub.core.optional_imports import import_optional
from llmhub.evals._evaluate import Evaluation
from llmhub.evals.comparison import Comparison
from llmhub.evals.logs.log_rows import from_comparison, to_text

if TYPE_CHECKING:
    import pyarrow as pa

NOT_IN_A_NAME: Final = re.compile(r"[^\w\-. ]")
"""Characters that MLflow does not take in the name of a metric or parameter; slashes are folders of its file store."""
MAX_PARAMETER_LENGTH: Final = 500
"""Characters of a parameter, the lowest limit of MLflow's servers."""
MAX_ROWS: Final = 1000


def log_to_mlflow(result: Evaluation | Comparison, *, run_name: str | None = None, by: str | None = None) -> str:
    """Log an evaluation or comparison to MLflow: a run with the report, and in it a run for each model.

    The run of a model has its metrics with their intervals and its parameters. Within ``mlflow.start_run()`` the runs
    belong to the active one; tracking server and experiment are those of ``mlflow.set_tracking_uri`` and
    ``mlflow.set_experiment``.

    Parameters
    ----------
    result
        Evaluation or comparison.
    run_name
        Name of the run; the task's name if ``None``.
    by
        Column whose groups of rows have metrics of their own; see `Comparison.by`.

    Returns
    -------
    str
        Id of the run that has the artifacts: ``report.html``, ``results.parquet``, ``models.json``, ``pairs.json``.

    Raises
    ------
    BadRequestError
        MLflow is not installed (the extra ``mlflow``), or the column does not exist.
    """
    comparison, name = _parts(result)
    groups = None if by is None else comparison.by(by)
    mlflow = import_optional("mlflow", "mlflow")
    with mlflow.start_run(run_name=run_name or name, nested=mlflow.active_run() is not None) as run:
        mlflow.log_params({_name(key): _cut(value) for key, value in _parameters(result).items()})
        mlflow.set_tag("llmhub", "comparison")
        for model in comparison.design.models:
            with mlflow.start_run(run_name=model, nested=True):
                mlflow.log_params({"model": model})
                mlflow.log_metrics({_name(key): value for key, value in _metrics(result, model, groups)})
        for table in ("models", "pairs"):
            mlflow.log_dict({table: getattr(comparison, table).to_pylist()}, f"{table}.json")
        with tempfile.TemporaryDirectory() as folder:
            parquet.write_table(comparison.results, Path(folder) / "results.parquet")
            result.write_report(Path(folder) / "report.html", by=by)
            mlflow.log_artifacts(folder)
        return str(run.info.run_id)


def log_to_wandb(
    result: Evaluation | Comparison,
    *,
    run: Any = None,
    by: str | None = None,
    max_rows: int = MAX_ROWS,
    **init: Any,
) -> str:
    """Log an evaluation or comparison to Weights & Biases.

    The run's summary has the metrics of each model as ``MODEL/METRIC``, its configuration the parameters; it has tables
    of models, pairs and responses, and the report as HTML.

    Parameters
    ----------
    result
        Evaluation or comparison.
    run
        Run to log to, which is left open; a new one, which is finished, if ``None``.
    by
        Column whose groups of rows have metrics of their own; see `Comparison.by`.
    max_rows
        Number of rows in the table of responses.
    **init
        Arguments of ``wandb.init``: ``project``, ``entity``, ``mode="offline"``, ``dir``, ...

    Returns
    -------
    str
        Id of the run.

    Raises
    ------
    BadRequestError
        wandb is not installed (the extra ``wandb``), or the column does not exist.
    """
    comparison, name = _parts(result)
    groups = None if by is None else comparison.by(by)
    wandb = import_optional("wandb", "wandb")
    if run is not None and init:
        raise invalid(next(iter(init)), "is an argument of a new run; remove it, or run=")
    own = wandb.init(**{"name": name, "project": "llmhub", **init}) if run is None else run
    try:
        own.config.update(_parameters(result), allow_val_change=True)
        own.summary.update(
            {
                f"{model}/{key}": value
                for model in comparison.design.models
                for key, value in _metrics(result, model, groups)
            }
        )
        tables = {
            "models": comparison.models,
            "pairs": comparison.pairs,
            **({} if groups is None else {"groups": groups}),
        }
        media = {table: _wandb_table(wandb, content) for table, content in tables.items()}
        media["responses"] = _responses(wandb, comparison, max_rows)
        with tempfile.TemporaryDirectory() as folder:
            report = result.write_report(Path(folder) / "report.html", by=by, max_rows=max_rows)
            own.log({**media, "report": wandb.Html(report.read_text(encoding="utf-8"), inject=False)})
        return str(own.id)
    finally:
        if run is None:
            own.finish()


def _parts(result: object) -> tuple[Comparison, str]:
    """Return the comparison of a result, and its name."""
    if isinstance(result, Evaluation):
        return result.comparison, result.task.name
    if isinstance(result, Comparison):
        return result, "comparison"
    raise invalid(
        "result", f"{type(result).__name__} is no evaluation or comparison; pass what evaluate or compare returned"
    )


def _name(text: str) -> str:
    """Return a name that MLflow takes, with points for slashes.

    Examples
    --------
    >>> _name("exact_match,strict"), _name("numeric/pass@1")
    ('exact_match_strict', 'numeric.pass_1')
    """
    return NOT_IN_A_NAME.sub("_", text.replace("/", "."))


def _cut(value: Any) -> str:
    text = to_text(value)
    return text if len(text) <= MAX_PARAMETER_LENGTH else text[: MAX_PARAMETER_LENGTH - 1] + "\u2026"


def _parameters(result: Evaluation | Comparison) -> dict[str, Any]:
    """Return what a result depends on: task, prompt, request parameters, scorers and design, as JSON values."""
    comparison, name = _parts(result)
    design = comparison.design
    given: dict[str, Any] = {
        "task": name,
        "prompt": design.prompt if isinstance(design.prompt, str) else None,
        "models": list(design.models),
        "n": design.n,
        "rows": len(comparison.inputs) if comparison.inputs is not None else None,
        "group": design.group,
        "baseline": design.baseline,
        "failures": design.failures,
        "level": design.settings.level,
        "scorers": [f"{scorer['name']} {scorer['version']}".strip() for scorer in design.scorers],
        **{f"parameters/{key}": value for key, value in design.parameters.items()},
    }
    return {key: json.loads(json.dumps(value, default=str)) for key, value in given.items() if value is not None}


def _metrics(result: Evaluation | Comparison, model: str, groups: pa.Table | None) -> Iterator[tuple[str, float]]:
    """Yield the metrics of a model with the ends of their intervals, as far as they are known."""
    comparison, _ = _parts(result)
    rows: list[tuple[str, Mapping[str, Any]]] = [(row["metric"], row) for row in comparison.models.to_pylist()]
    if isinstance(result, Evaluation):
        rows += [(f"{row['scorer']}/{row['metric']}", row) for row in result.samples.to_pylist()]
    if groups is not None:
        rows += [(f"{row['scorer']}/{row['group'] or 'mean of groups'}", row) for row in groups.to_pylist()]
    for name, row in rows:
        if row["model"] == model:
            for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                if row[key] is not None:
                    yield name + suffix, float(row[key])


def _wandb_table(wandb: Any, table: pa.Table) -> Any:
    return wandb.Table(columns=table.column_names, data=[list(row.values()) for row in table.to_pylist()])


def _responses(wandb: Any, comparison: Comparison, max_rows: int) -> Any:
    """Return the table of responses with their scores."""
    columns = ["row", "model", "sample", "input", "target", "response", "error", *comparison.scorers]
    data: list[list[Any]] = []
    rows: dict[str, None] = {}
    for row in from_comparison(comparison):
        if row.row_id not in rows and len(rows) >= max_rows:
            continue
        rows[row.row_id] = None
        target = row.inputs.get("target")
        texts = [row.inputs.get("input"), None if target is None else to_text(_jsonable(target))]
        scores = [row.scores.get(name) for name in comparison.scorers]
        data.append([row.row_id, row.model, row.sample, *texts, row.response, row.error, *scores])
    return wandb.Table(columns=columns, data=data)


def _jsonable(value: Any) -> Any:
    return value if isinstance(value, (str, list)) else str(value)
