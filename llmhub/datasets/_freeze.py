"""`freeze`: write results as a dataset that can be verified, opened by other tools, and replayed.

A folder is written beside its destination and then moved there, so that an interrupted run leaves no partial dataset.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
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
)
from llmhub.datasets.folder import LOCK_FILE, file_sha256
from llmhub.datasets.manifest import CROISSANT_FILE, SigningKey, load_signing_key, write_manifest
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
from llmhub.evals.comparison import Comparison, ComparisonDesign
from llmhub.evals.scoring import number_samples, read_layout
from llmhub.hub import Hub
from llmhub.security.redaction import Redactor, resolve_redactor
from llmhub.tables import frames
from llmhub.tables.redacted_tables import redact_table
from llmhub.tables.result_frames import answer_columns, answer_texts, require_result_columns, results_table, with_rows
from llmhub.tables.schema import RESULTS

CARD_FILE: Final = "README.md"
FROZEN_COLUMNS: Final = ("row", *dataset.REQUEST_COLUMNS, *dataset.RESPONSE_COLUMNS, *dataset.MEASUREMENT_COLUMNS)
"""Result columns that a dataset holds."""


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
    hub
        Hub the requests were sent through, if it is known.
    summary
        Results in Markdown, for the card.
    answers
        Labels or extracted fields of each result.
    """

    inputs: pa.Table
    results: pa.Table
    scores: Mapping[str, pa.Array] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    judgements: pa.Table | None = None
    hub: Hub | None = None
    summary: str = ""
    answers: pa.Table | None = None


def freeze(
    result: Any,
    path: str | Path,
    *,
    data: Any = None,
    recipe: Recipe | None = None,
    about: About | None = None,
    layout: DatasetLayout = "parquet",
    hub: Hub | None = None,
    overwrite: bool = False,
    signing_key: SigningKey | None = None,
    redact: bool | str | Sequence[str] | Redactor | None = None,
) -> Frozen:
    """Write results as a dataset that can be verified, opened by other tools, and replayed.

    Parameters
    ----------
    result
        An evaluation; a comparison, also of imported results; a frame returned by
        ``df.llm.complete(..., columns="all")``, whose other columns are the inputs; or a results table, with ``data``.
    path
        Folder to write. It must not exist, or be empty.
    data
        Input frame of a results table; or of a comparison, instead of the one it was made from.
    recipe
        How a frame of results was requested, needed to replay it; evaluations have their own.
    about
        Description of the dataset for other tools.
    layout
        File format of the rows: ``"parquet"`` or ``"jsonl"``.
    hub
        Hub the requests were sent through; its endpoints are part of the cache keys. By default the hub of the
        evaluation or comparison, and for frames the default hub.
    overwrite
        Replace a frozen dataset in the folder. A folder that holds anything else is never replaced.
    signing_key
        Ed25519 private key that signs the manifest: a key of ``cryptography``, PEM bytes, or the path of a PEM file
        (the extra ``signing``).
    redact
        What is replaced by its kind in all texts of the dataset, inputs and responses included: ``True`` for
        credentials and personal data of every kind, names of kinds, or a `Redactor`. The keys of the requests are kept;
        a dataset whose prompts were redacted cannot be replayed with new calls.

    Returns
    -------
    Frozen
        The dataset, with the digest of all files. The folder holds ``data.parquet``, ``rows.lock`` (96 bytes per row),
        ``lock.json``, ``croissant.json``, ``manifest.json``, ``manifest.sig`` if it is signed, and a card that
        ``datasets.load_dataset`` reads.

    Raises
    ------
    BadRequestError
        There are no results, a column cannot be stored, or the folder exists and is not empty.

    Notes
    -----
    Laws: the content hash depends on the content of the rows only, not on their order, the time of freezing, or
    whether responses were cached; with equal package versions the files are equal byte for byte.
    """
    if layout not in get_args(DatasetLayout):
        raise invalid("layout", f"{layout!r} is not a layout; use 'parquet' or 'jsonl'")
    folder = Path(path)
    _require_writable(folder, overwrite)
    signing_key = None if signing_key is None else load_signing_key(signing_key)
    parts = to_parts(result, data)
    parts = replace(parts, recipe=recipe) if recipe is not None else parts
    redactor = resolve_redactor(redact)
    parts = parts if redactor is None else _redacted(parts, redactor)
    rows = dataset.canonicalise(parts.inputs, parts.results, parts.scores, parts.answers)
    about = about or About()
    about = about if about.name else replace(about, name=folder.resolve().name)
    with _atomic_folder(folder) as partial:
        dataset.write_rows(partial, rows.table, layout)
        (partial / ROWS_FILE).write_bytes(rows.rows_lock)
        written = [DATA_FILES[layout], ROWS_FILE, *dataset.write_judgements(partial, parts.judgements)]
        hashes: dict[str, JSON] = {name: file_sha256(partial / name) for name in written}
        lock = _lock(rows, parts, layout, hashes, hub or parts.hub)
        (partial / LOCK_FILE).write_bytes(dataset.encode_json(lock))
        (partial / CROISSANT_FILE).write_bytes(dataset.encode_json(croissant.metadata(about, lock)))
        (partial / CARD_FILE).write_text(croissant.card(about, lock, parts.summary), encoding="utf-8")
        digest = write_manifest(partial, signing_key)
    return Frozen(rows.table, lock, rows.columns, digest)


def _redacted(parts: DatasetParts, redactor: Redactor) -> DatasetParts:
    """Return the parts of a dataset with every text in them redacted."""
    recipe = parts.recipe
    return replace(
        parts,
        inputs=redact_table(parts.inputs, redactor),
        results=redact_table(parts.results, redactor),
        judgements=None if parts.judgements is None else redact_table(parts.judgements, redactor),
        answers=None if parts.answers is None else redact_table(parts.answers, redactor),
        summary=redactor.redact(parts.summary),
        recipe=replace(recipe, prompt=redactor.redact(recipe.prompt), system=redactor.redact(recipe.system)),
    )


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
        "columns": [column.to_json() for column in rows.columns],
        "schema": dataset.encode_schema(rows.table),
        "recipe": recipe_to_json(recipe),
        "models": served_models(parts.results),
        "asked_between": [*request_period(parts.results)],
        "endpoints": _endpoints(recipe, hub),
        "packages": package_versions(),
    }


def _endpoints(recipe: Recipe, hub: Hub | None) -> dict[str, JSON]:
    """Return the settings of the endpoints that requests and judges were sent to."""
    models = [*(recipe.models if recipe.is_replayable else ()), *recipe.judge_models]
    return endpoint_settings(hub or current_hub(), models) if models else {}


def to_parts(result: Any, data: Any) -> DatasetParts:
    """Return the parts of an evaluation, a comparison or a frame of results."""
    if isinstance(result, Evaluation):
        parts = _comparison_parts(result.comparison, result.dataset)
        return replace(parts, recipe=_evaluation_recipe(result), summary=result.comparison.to_markdown())
    if isinstance(result, Comparison):
        inputs = result.inputs if data is None else frames.to_table(data)
        if inputs is None:
            raise invalid("data", "this comparison does not contain its input rows; pass them as data=")
        return replace(_comparison_parts(result, inputs), recipe=_comparison_recipe(result.design))
    return _frame_parts(results_table(result), data)


def _frame_parts(table: pa.Table, data: Any) -> DatasetParts:
    table = with_rows(table, "freeze", "result")
    require_result_columns(table.column_names, FROZEN_COLUMNS, "freeze", "result")
    results = table.select(list(FROZEN_COLUMNS))
    if pa.types.is_nested(results.schema.field("parsed").type):
        texts = pa.array(answer_texts(results, ["parsed"]), pa.string())
        results = results.set_column(results.column_names.index("parsed"), RESULTS.field("parsed"), texts)
    read = [name for name in answer_columns(table) if name not in RESULTS.names]
    answers = table.select(read)
    if data is not None:
        return DatasetParts(inputs=frames.to_table(data), results=results, answers=answers)
    input_names = [name for name in table.column_names if name not in {*RESULTS.names, *read}]
    if not input_names:
        raise invalid("data", "a results table does not contain its input rows; pass them as data=")
    row = pa.array(range(table.num_rows), pa.int64())
    results = results.set_column(0, RESULTS.field("row"), row)
    return DatasetParts(inputs=table.select(input_names), results=results, answers=answers)


def _comparison_parts(comparison: Comparison, inputs: pa.Table) -> DatasetParts:
    """Split a comparison; its scores are in the order of the scorers, and for each in the order of the results."""
    size = comparison.results.num_rows
    column = comparison.scores.column("score")
    scores = {name: column.slice(index * size, size).combine_chunks() for index, name in enumerate(comparison.scorers)}
    calls = list(comparison.judgements.values())
    return DatasetParts(
        inputs=inputs,
        results=_complete_results(comparison.results),
        scores=scores,
        judgements=pa.concat_tables(calls).unify_dictionaries() if calls else None,
        hub=comparison.hub,
        summary=comparison.to_markdown(),
    )


def _complete_results(table: pa.Table) -> pa.Table:
    """Return a results table with every column of `RESULTS`; imported results lack some.

    Rows are numbered from 0 in the order of their ids. A row without status is one with a response, ``ok``.
    """
    size = len(table)
    layout = read_layout(table)
    names = layout.model_names
    split = [name.partition("/") if "/" in name else ("", "", name) for name in names]
    given = {
        "row": pa.array(layout.row_index),
        "provider": pa.array([split[index][0] for index in layout.model_index], pa.string()),
        "model": pa.array([split[index][2] for index in layout.model_index], pa.string()),
    }
    defaults = {"sample": pa.array(number_samples(layout)), "status": pa.array(["ok"] * size, pa.string())}
    columns = []
    for wanted in RESULTS:
        values = given.get(wanted.name)
        if values is None and wanted.name in table.column_names:
            values = _to_result_column(table.column(wanted.name), wanted)
        if values is None:
            values = defaults.get(wanted.name, pa.nulls(size, pa.null()))
        columns.append(values if values.type == wanted.type else _to_result_column(pa.chunked_array([values]), wanted))
    return pa.table(columns, schema=RESULTS)


def _to_result_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Convert a column of imported results to the type it has in `RESULTS`."""
    if column.type == field.type:
        return column
    try:
        if pa.types.is_dictionary(field.type):
            return column.cast(pa.string()).dictionary_encode().cast(field.type)
        return dataset.convert(column, field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        message = f"the column {field.name!r} of type {column.type} is not {field.type} ({error}); convert or rename it"
        raise invalid("result", message) from error


def _evaluation_recipe(evaluation: Evaluation) -> Recipe:
    task = evaluation.task
    return replace(
        _comparison_recipe(evaluation.comparison.design),
        name=task.name,
        version=task.version,
        target=task.target or "",
        scorers=tuple(identity(scorer) for scorer in task.scorer_list),
    )


def _comparison_recipe(design: ComparisonDesign) -> Recipe:
    """Return the recipe of a comparison; without a prompt if its requests cannot be described in JSON."""
    settings = design.settings
    parameters = {name: value for name, value in design.parameters.items() if name != "system"}
    system = design.parameters.get("system") or ""
    prompt = design.prompt if isinstance(design.prompt, str) else ""
    is_described = bool(prompt) and isinstance(system, str) and _is_json(parameters)
    return Recipe(
        name="comparison",
        prompt=prompt if is_described else "",
        system=system if is_described else "",
        parameters=parameters if is_described else {},
        models=design.models,
        samples=design.n,
        target=design.target or "",
        scorers=design.scorers,
        design={
            "failures": design.failures,
            "level": settings.level,
            "power": settings.power,
            "resamples": settings.resamples,
            "random_state": settings.seed,
            "test": settings.test,
            **({"group": design.group} if design.group else {}),
            **({"baseline": design.baseline} if design.baseline else {}),
        },
    )


def _is_json(parameters: Mapping[str, Any]) -> bool:
    """Return whether parameters are the same after a round trip through JSON."""
    try:
        return bool(msgspec.json.decode(msgspec.json.encode(parameters)) == parameters)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError):
        return False


def _require_writable(folder: Path, overwrite: bool) -> None:
    """Raise if a folder holds something that may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder.is_dir() and (folder / LOCK_FILE).exists()):
        raise invalid("path", f"{str(folder)!r} exists and is not a frozen dataset; choose another folder or remove it")
    if not overwrite:
        message = f"{str(folder)!r} holds a frozen dataset; pass overwrite=True to replace it, or choose another folder"
        raise invalid("path", message)


@contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces ``folder`` once it is complete."""
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
