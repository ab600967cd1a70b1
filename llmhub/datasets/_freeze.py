"""`freeze`: write results as a dataset that can be verified, opened by other tools, and replayed.

A folder is written beside its destination and then moved there, so that an interrupted run leaves no partial dataset.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.compute as pc

from llmhub.api.default_hub import current_hub
from llmhub.core.errors import invalid
from llmhub.core.types import JSON
from llmhub.datasets import croissant, dataset
from llmhub.datasets.croissant import About
from llmhub.datasets.dataset import (
    DATA_FILES,
    LAYOUT_VERSION,
    ROWS_FILE,
    CanonicalRows,
    DatasetLayout,
    Frozen,
    to_table,
)
from llmhub.datasets.folder import LOCK_FILE, file_sha256
from llmhub.datasets.provenance import (
    Recipe,
    endpoint_settings,
    package_versions,
    recipe_to_json,
    request_period,
    served_models,
)
from llmhub.evals._evaluate import Evaluation
from llmhub.evals._scorer import identity
from llmhub.evals.comparison import Comparison
from llmhub.hub import Hub
from llmhub.tables.schema import RESULTS

CARD_FILE: Final = "README.md"
CROISSANT_FILE: Final = "croissant.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParts:
    """Parts of a dataset before they are joined.

    Parameters
    ----------
    inputs
        Input rows.
    results
        Results, whose ``row`` is the position in ``inputs``.
    scores
        Scores of each result, by the scorer's name.
    recipe
        How the results were requested.
    judgements
        Calls of judges as a results table; ``None`` without judges.
    """

    inputs: pa.Table
    results: pa.Table
    scores: Mapping[str, pa.Array] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    judgements: pa.Table | None = None


def freeze(
    result: Any,
    path: str | Path,
    *,
    data: Any = None,
    recipe: Recipe | None = None,
    about: About | None = None,
    layout: DatasetLayout = "parquet",
    hub: Hub | None = None,
) -> Frozen:
    """Write results as a dataset that can be verified, opened by other tools, and replayed.

    Parameters
    ----------
    result
        An evaluation; a comparison, with ``data``; a frame returned by ``df.llm.complete``, whose other columns are the
        inputs; or a results table, with ``data``.
    path
        Folder to write. It is created, or replaced if it holds a frozen dataset.
    data
        Input frame of a comparison or results table.
    recipe
        How a frame of results was requested, needed to replay it; evaluations have their own.
    about
        Description of the dataset for other tools.
    layout
        File format of the rows: ``"parquet"`` or ``"jsonl"``.
    hub
        Hub the requests were sent through; its endpoints are part of the cache keys. The default hub if ``None``.

    Returns
    -------
    Frozen
        The dataset. The folder holds ``data.parquet``, ``rows.lock`` (64 bytes per row), ``lock.json``,
        ``croissant.json`` and a card that ``datasets.load_dataset`` reads.

    Raises
    ------
    BadRequestError
        There are no results, columns clash, or the folder holds something else.

    Notes
    -----
    Laws: the content hash depends on the content of the rows only, not on their order, the time of freezing, or
    whether responses were cached; with equal package versions the files are equal byte for byte.
    """
    if layout not in get_args(DatasetLayout):
        raise invalid("layout", f"{layout!r} is not a layout; use 'parquet' or 'jsonl'")
    parts = to_parts(result, data)
    parts = replace(parts, recipe=recipe) if recipe is not None else parts
    folder = Path(path)
    rows = dataset.canonicalise(parts.inputs, parts.results, parts.scores)
    about = about or About()
    about = about if about.name else replace(about, name=folder.resolve().name)
    with _atomic_folder(folder) as partial:
        dataset.write_rows(partial, rows.table, layout)
        (partial / ROWS_FILE).write_bytes(rows.rows_lock)
        written = [DATA_FILES[layout], ROWS_FILE, *dataset.write_judgements(partial, parts.judgements)]
        hashes: dict[str, JSON] = {name: file_sha256(partial / name) for name in written}
        lock = _lock(rows, parts, layout, hashes, hub)
        (partial / LOCK_FILE).write_bytes(dataset.encode_json(lock))
        (partial / CROISSANT_FILE).write_bytes(dataset.encode_json(croissant.metadata(about, lock)))
        (partial / CARD_FILE).write_text(croissant.card(about, lock), encoding="utf-8")
    return Frozen(rows.table, lock, rows.columns)


def _lock(
    rows: CanonicalRows, parts: DatasetParts, layout: DatasetLayout, hashes: dict[str, JSON], hub: Hub | None
) -> dict[str, JSON]:
    """Return the content of ``lock.json``."""
    recipe = parts.recipe
    return {
        "format": "llmhub frozen dataset",
        "version": LAYOUT_VERSION,
        "content_sha256": rows.content_sha256,
        "rows": rows.table.num_rows,
        "inputs": pc.count_distinct(rows.table.column(dataset.ROW_ID)).as_py(),
        "data": DATA_FILES[layout],
        "files": hashes,
        "columns": [{"name": column.name, "role": column.role, "type": column.type} for column in rows.columns],
        "recipe": recipe_to_json(recipe),
        "models": served_models(parts.results),
        "asked_between": [*request_period(parts.results)],
        "endpoints": endpoint_settings(hub or current_hub(), recipe.models) if recipe.is_replayable else {},
        "packages": package_versions(),
    }


def to_parts(result: Any, data: Any) -> DatasetParts:
    """Return the parts of an evaluation, a comparison or a frame of results."""
    if isinstance(result, Evaluation):
        return replace(_comparison_parts(result.comparison, result.dataset), recipe=_evaluation_recipe(result))
    if isinstance(result, Comparison):
        if data is None:
            raise invalid("data", "a comparison does not contain its input rows; pass them as data=")
        return _comparison_parts(result, to_table(data))
    return _frame_parts(to_table(result), data)


def _frame_parts(table: pa.Table, data: Any) -> DatasetParts:
    missing = next((name for name in RESULTS.names if name not in table.column_names), None)
    if missing is not None:
        message = f"there is no column {missing!r}; pass the result of df.llm.complete, complete_table or evaluate"
        raise invalid("result", message)
    results = table.select(RESULTS.names)
    if data is not None:
        return DatasetParts(inputs=to_table(data), results=results)
    input_names = [name for name in table.column_names if name not in RESULTS.names]
    if not input_names:
        raise invalid("data", "a results table does not contain its input rows; pass them as data=")
    row = pa.array(range(table.num_rows), pa.int64())
    return DatasetParts(inputs=table.select(input_names), results=results.set_column(0, RESULTS.field("row"), row))


def _comparison_parts(comparison: Comparison, inputs: pa.Table) -> DatasetParts:
    """Split a comparison; its scores are in the order of the scorers, and for each in the order of the results."""
    size = comparison.results.num_rows
    column = comparison.scores.column("score")
    scores = {name: column.slice(index * size, size).combine_chunks() for index, name in enumerate(comparison.scorers)}
    calls = list(comparison.judgements.values())
    return DatasetParts(
        inputs=inputs,
        results=comparison.results.select(RESULTS.names),
        scores=scores,
        judgements=pa.concat_tables(calls).unify_dictionaries() if calls else None,
    )


def _evaluation_recipe(evaluation: Evaluation) -> Recipe:
    task, design = evaluation.task, evaluation.comparison.design
    settings = design.settings
    return Recipe(
        name=task.name,
        version=task.version,
        prompt=task.template,
        system=task.system or "",
        parameters=task.parameters,
        models=design.models,
        samples=design.n,
        target=task.target or "",
        scorers=tuple(identity(scorer) for scorer in task.scorer_list),
        design={
            "failures": design.failures,
            "level": settings.level,
            "power": settings.power,
            "resamples": settings.resamples,
            "random_state": settings.seed,
            "test": settings.test,
            **({"group": design.group} if design.group else {}),
        },
    )


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` once it is complete."""
    if folder.exists() and not (folder.is_dir() and ((folder / LOCK_FILE).exists() or not any(folder.iterdir()))):
        raise invalid("path", f"{str(folder)!r} exists and is not a frozen dataset; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    partial.mkdir()
    try:
        yield partial
        replaced = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        if folder.exists():
            folder.replace(replaced)
        partial.replace(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)
