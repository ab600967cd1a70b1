"""Freezing: results become a folder that a colleague can check, read with other tools, and run again."""

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
from llmhub.core.errors import BadRequestError, InvalidRequest
from llmhub.core.types import JSON
from llmhub.datasets import croissant, dataset
from llmhub.datasets.croissant import About
from llmhub.datasets.dataset import DATA_FILES, LAYOUT_VERSION, LOCK_FILE, ROWS_FILE, DatasetLayout, Frozen
from llmhub.datasets.provenance import (
    Recipe,
    endpoint_settings,
    package_versions,
    recipe_to_json,
    request_period,
    served_models,
)
from llmhub.datasets.splits import to_table
from llmhub.evals._evaluate import Evaluation
from llmhub.evals._scorer import identity
from llmhub.evals.comparison import Comparison
from llmhub.hub import Hub
from llmhub.tables.schema import RESULTS

CARD_FILE: Final = "README.md"


CROISSANT_FILE: Final = "croissant.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetParts:
    """What is frozen: input rows, results over them, scores of each result, and how it was asked.

    Parameters
    ----------
    inputs
        One row for each question.
    results
        With the result schema; ``row`` is the position in ``inputs``.
    scores
        By scorer's name, a value for each row of ``results``.
    recipe
        How it was asked.
    judgements
        What judges answered, as results; ``None`` without judges.
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
    """Write results as a dataset that can be checked, read by other tools, and run again.

    Parameters
    ----------
    result
        An evaluation, a comparison, or a frame of results: what ``df.llm.complete`` gave, whose other columns are the
        inputs, or a results table with ``data``.
    path
        The folder to write; made, or replaced where it holds a frozen dataset already.
    data
        The frame that was asked, for a results table without its inputs.
    recipe
        How a frame of results was asked, so that it can be run again; evaluations know it.
    about
        What it says of itself to others.
    layout
        ``"parquet"`` or ``"jsonl"``: how the rows are kept.
    hub
        The hub that was asked: its addresses count in the keys of requests. The default hub unless given.

    Returns
    -------
    Frozen
        What was written: ``data.parquet``, ``rows.lock`` (64 bytes a row), ``lock.json``, ``croissant.json`` and a card
        that ``datasets.load_dataset`` reads.

    Raises
    ------
    InvalidRequestError
        No results, columns that clash, or a folder that holds something else.

    Notes
    -----
    Laws: the hash of the content depends on what the rows say alone, not on their order, on when they were frozen, or
    on whether answers came from a cache; with the same versions of packages the files are the same to the byte.
    """
    if layout not in get_args(DatasetLayout):
        raise BadRequestError(InvalidRequest(path="layout", message=f"{layout!r} is not 'parquet' or 'jsonl'"))
    parts = to_parts(result, data)
    parts = replace(parts, recipe=recipe) if recipe is not None else parts
    folder = Path(path)
    canon = dataset.canonicalise(parts.inputs, parts.results, parts.scores)
    with _replaced(folder) as made:
        dataset.write_rows(made, canon.table, layout)
        (made / ROWS_FILE).write_bytes(canon.rows_lock)
        written = [DATA_FILES[layout], ROWS_FILE, *dataset.write_judgements(made, parts.judgements)]
        lock: dict[str, JSON] = {
            "format": "llmhub frozen dataset",
            "version": LAYOUT_VERSION,
            "content_sha256": canon.content_sha256,
            "rows": canon.table.num_rows,
            "inputs": pc.count_distinct(canon.table.column(dataset.ROW_ID)).as_py(),
            "data": DATA_FILES[layout],
            "files": {name: dataset.file_sha256(made / name) for name in written},
            "columns": [{"name": one.name, "role": one.role, "type": one.type} for one in canon.columns],
            **_told(parts, hub),
        }
        (made / LOCK_FILE).write_bytes(dataset.encode_json(lock))
        about = about or About()
        about = about if about.name else replace(about, name=folder.resolve().name)
        (made / CROISSANT_FILE).write_bytes(dataset.encode_json(croissant.metadata(about, lock)))
        (made / CARD_FILE).write_text(croissant.card(about, lock), encoding="utf-8")
    return Frozen(canon.table, lock, canon.columns)


def _told(parts: DatasetParts, hub: Hub | None) -> dict[str, JSON]:
    """Say how it was made."""
    recipe = parts.recipe
    return {
        "recipe": recipe_to_json(recipe),
        "models": served_models(parts.results),
        "asked_between": [*request_period(parts.results)],
        "endpoints": endpoint_settings(hub or current_hub(), recipe.models) if recipe.is_replayable else {},
        "packages": package_versions(),
    }


def to_parts(result: Any, data: Any) -> DatasetParts:
    """Take a result apart."""
    if isinstance(result, Evaluation):
        return replace(_of_comparison(result.comparison, result.dataset), recipe=_recipe(result))
    if isinstance(result, Comparison):
        if data is None:
            said = "a comparison does not hold the rows that were asked; give them as data="
            raise BadRequestError(InvalidRequest(path="data", message=said))
        return _of_comparison(result, to_table(data))
    table = to_table(result)
    missing = next((name for name in RESULTS.names if name not in table.column_names), None)
    if missing is not None:
        said = f"it has no column {missing!r}; give what df.llm.complete, complete_table or evaluate gave"
        raise BadRequestError(InvalidRequest(path="result", message=said))
    results = table.select(RESULTS.names)
    own = [name for name in table.column_names if name not in RESULTS.names]
    if data is not None:
        return DatasetParts(inputs=to_table(data), results=results)
    if not own:
        said = "a table of results does not hold the rows that were asked; give them as data="
        raise BadRequestError(InvalidRequest(path="data", message=said))
    at = pa.array(range(table.num_rows), pa.int64())
    return DatasetParts(inputs=table.select(own), results=results.set_column(0, RESULTS.field("row"), at))


def _of_comparison(found: Comparison, inputs: pa.Table) -> DatasetParts:
    """Take a comparison apart: its scores stand one scorer after another, each in the order of the results."""
    size = found.results.num_rows
    column = found.scores.column("score")
    scores = {name: column.slice(at * size, size).combine_chunks() for at, name in enumerate(found.scorers)}
    calls = list(found.judgements.values())
    return DatasetParts(
        inputs=inputs,
        results=found.results.select(RESULTS.names),
        scores=scores,
        judgements=pa.concat_tables(calls).unify_dictionaries() if calls else None,
    )


def _recipe(found: Evaluation) -> Recipe:
    """Say how an evaluation was made."""
    task, design = found.task, found.comparison.design
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
        scorers=tuple(identity(one) for one in task.scorer_list),
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
def _replaced(folder: Path) -> Iterator[Path]:
    """Write a folder beside its place and put it there once it is whole."""
    if folder.exists() and not (folder.is_dir() and ((folder / LOCK_FILE).exists() or not any(folder.iterdir()))):
        said = f"{str(folder)!r} is there and no frozen dataset; give another folder, or take it away"
        raise BadRequestError(InvalidRequest(path="path", message=said))
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    made.mkdir()
    try:
        yield made
        old = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        if folder.exists():
            folder.replace(old)
        made.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        with suppress(OSError):
            shutil.rmtree(made)
