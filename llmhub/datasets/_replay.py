"""`replay`: run a frozen evaluation again from its own responses, without network access.

Prompts are rendered, responses looked up by request key, and scores computed; the data must be equal byte for byte.
Measurements (times, ids, prices) cannot be recomputed and are copied from the dataset.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from returns.result import Failure, Success

from llmhub.api import complete_table
from llmhub.api.options import MESSAGE_OPTIONS, REQUEST_OPTIONS
from llmhub.config import Settings
from llmhub.core import errors
from llmhub.core.errors import BadRequestError, InvalidRequest, LLMError, NotFound, invalid
from llmhub.core.provider import Endpoint
from llmhub.core.types import TOKEN_CLASSES, CompletionResponse, Part, Text, ToolCall, Usage
from llmhub.datasets import dataset
from llmhub.datasets._diff import Difference, diff
from llmhub.datasets._freeze import DatasetParts, to_parts
from llmhub.datasets.dataset import MEASUREMENT_COLUMNS, REQUEST_COLUMNS, ROW_ID, SCORE_PREFIX, Frozen
from llmhub.datasets.folder import endpoint_headers, not_frozen
from llmhub.datasets.provenance import Recipe, recipe_from_lock
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.retry import NO_RETRY
from llmhub.evals._compare import compare
from llmhub.evals._evaluate import Evaluation, evaluate
from llmhub.evals.judge import ScorerOrJudge
from llmhub.evals.scorers import scorer_from_identity
from llmhub.evals.statistics import IntArray
from llmhub.evals.tasks import Task
from llmhub.hub import Hub
from llmhub.tables.images import IMAGE_URL_SCHEMES
from llmhub.tables.schema import RESULTS

PLACEHOLDER_CREDENTIAL: Final = "replay"
"""Value of credentials that an endpoint must have but that are never sent."""
NOT_FROZEN: Final = Answer(
    Failure(NotFound(message="the dataset has no such request; its prompt or parameters are different"))
)
REPLAY_PARAMETERS: Final = REQUEST_OPTIONS | MESSAGE_OPTIONS | {"schema", "unsupported", "cache"}
"""Parameters of a recipe that are replayed; others write files, start processes or have no meaning in a lock file."""
REPLAY_JUDGE_OPTIONS: Final = (REQUEST_OPTIONS | {"schema", "unsupported"}) - {"images"}
REPLAY_DESIGN: Final = frozenset(
    {"failures", "level", "power", "resamples", "random_state", "test", "group", "baseline", "k"}
)
MAX_RESAMPLES: Final = 1_000_000
USAGE_FIELDS: Final = TOKEN_CLASSES


@dataclass(frozen=True, slots=True)
class Replay:
    """Result of running a frozen evaluation again; true if the data are equal byte for byte.

    Parameters
    ----------
    same
        Whether the data are equal byte for byte.
    difference
        Differences, row by row.
    frozen
        Dataset of the new run.
    evaluation
        Evaluation with its metrics and intervals; ``None`` if the responses were not scored.
    """

    same: bool
    difference: Difference
    frozen: Frozen
    evaluation: Evaluation | None = None

    def __bool__(self) -> bool:
        """Return whether the data are equal byte for byte."""
        return self.same

    def __repr__(self) -> str:
        """Return the report."""
        return str(self)

    def __str__(self) -> str:
        """Return a report of one or several lines."""
        return "byte-identical" if self.same else f"not byte-identical\n{self.difference}"


def replay(path: str | Path, *, scorers: Sequence[ScorerOrJudge] = (), hub: Hub | None = None) -> Replay:
    """Run a frozen evaluation again from its own responses, without network access.

    Parameters
    ----------
    path
        Folder written by `llmhub.freeze`.
    scorers
        Your own scorers that were used; built-in scorers and judges are rebuilt from their recorded identity.
    hub
        Hub whose endpoints have the headers and URL queries of the recorded requests. Needed only if there were any:
        they are part of the cache keys, and their values are not stored. Nothing is sent through it.

    Raises
    ------
    BadRequestError
        The folder holds no frozen dataset, its recipe is unknown, or a scorer is unknown; or the recipe has parameters
        that are not those of a request, such as ``sink``, or images that are local files.
    """
    folder = Path(path)
    kept = dataset.read(folder)
    recipe = recipe_from_lock(kept.lock["recipe"])
    if not (recipe.is_replayable or recipe.scorers):
        message = f"{str(folder)!r} has no recipe; freeze an evaluation, or pass freeze(..., recipe=...)"
        raise invalid("path", message)
    _check_recipe(folder, recipe, kept)
    is_column = [_is_score_column(recorded) for recorded in recipe.scorers]
    scorer_list = [
        _rebuild_scorer(folder, recorded, scorers)
        for recorded, given in zip(recipe.scorers, is_column, strict=True)
        if not given
    ]
    judgements = dataset.read_judgements(folder, kept.lock)
    answers = _answers_by_key(kept.table) | (_answers_by_key(judgements) if judgements is not None else {})
    endpoints = {name: _replay_endpoint(name, recorded, hub) for name, recorded in kept.lock["endpoints"].items()}
    middleware = (replay_middleware(answers),)
    with Hub(
        endpoints=endpoints, middleware=middleware, retry=NO_RETRY, settings=Settings(), local_files=False
    ) as offline:
        if recipe.is_replayable:
            parts, evaluation = _run_again(_input_rows(kept, recipe), recipe, scorer_list, offline)
        else:
            columns = [str(one["name"]) for one, given in zip(recipe.scorers, is_column, strict=True) if given]
            parts, evaluation = _score_again(kept, recipe, scorer_list, columns, offline), None
    results = _copy_measurements(parts.results, kept.table) if recipe.is_replayable else parts.results
    rows = dataset.canonicalise(parts.inputs, results, parts.scores)
    again = Frozen(rows.table, kept.lock, rows.columns)
    with tempfile.TemporaryDirectory() as written:
        dataset.write_rows(Path(written), rows.table, dataset.dataset_layout(kept.lock))
        same = (Path(written) / kept.lock["data"]).read_bytes() == (folder / kept.lock["data"]).read_bytes()
    return Replay(same, diff(kept, again), again, evaluation)


def _check_recipe(folder: Path, recipe: Recipe, kept: Frozen) -> None:
    """Raise unless the recipe only describes requests and their analysis: a dataset must not write or read files."""
    for part, settings, allowed in (
        ("parameters", recipe.parameters, REPLAY_PARAMETERS),
        ("design", recipe.design, REPLAY_DESIGN),
    ):
        unknown = next((name for name in settings if name not in allowed), None)
        if unknown is not None:
            raise not_frozen(folder, f"its recipe sets {part}[{unknown!r}], which is not replayed")
    resamples = recipe.design.get("resamples", 0)
    if not isinstance(resamples, int) or resamples > MAX_RESAMPLES:
        raise not_frozen(folder, f"its recipe sets design['resamples'] to {resamples!r:.40}, above {MAX_RESAMPLES:,}")
    rows = kept.table.num_rows
    if recipe.samples * len(recipe.models) > max(rows, 1):
        raise not_frozen(folder, f"its recipe has {recipe.samples:,} samples of each model, but the data {rows:,} rows")
    images = recipe.parameters.get("images")
    if images is not None:
        values = kept.table.column(images).to_pylist() if images in kept.table.column_names else [""]
        if not all(map(_is_remote_image, values)):
            raise not_frozen(folder, f"its recipe reads local files, the paths in the column {images!r}")


def _is_remote_image(value: Any) -> bool:
    """Return whether an image is given by its bytes or URL, and not by the path of a local file."""
    if isinstance(value, str):
        return value.lower().startswith(IMAGE_URL_SCHEMES)
    if isinstance(value, Mapping):
        return bool(value.get("bytes")) or _is_remote_image(value.get("path") or value.get("url"))
    return all(map(_is_remote_image, value)) if isinstance(value, list) else value is None or isinstance(value, bytes)


def _rebuild_scorer(folder: Path, recorded: Mapping[str, Any], custom: Sequence[ScorerOrJudge]) -> ScorerOrJudge:
    """Return the scorer with a recorded identity; a judge's options must be those of requests."""
    options = recorded["parameters"].get("options")
    unknown = next((name for name in options if name not in REPLAY_JUDGE_OPTIONS), None) if options else None
    if unknown is not None:
        raise not_frozen(folder, f"the judge {recorded['name']!r} has the option {unknown!r}, which is not replayed")
    try:
        return scorer_from_identity(recorded, custom)
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, re.error, RecursionError) as error:
        if isinstance(error, BadRequestError):
            raise
        raise not_frozen(folder, f"the scorer {recorded['name']!r:.80} cannot be rebuilt: {error}") from error


def _input_rows(kept: Frozen, recipe: Recipe) -> pa.Table:
    """Return the input rows, duplicates included: those of the first model's first sample."""
    provider, _, model = recipe.models[0].partition("/")
    columns = kept.table
    of_model = pc.and_(pc.equal(columns.column("provider"), provider), pc.equal(columns.column("model"), model))
    return kept.source_inputs(columns.filter(pc.and_(of_model, pc.equal(columns.column("sample"), 0))))


def _run_again(
    inputs: pa.Table, recipe: Recipe, scorers: Sequence[ScorerOrJudge], hub: Hub
) -> tuple[DatasetParts, Evaluation | None]:
    """Send the same requests and, with scorers, evaluate the responses."""
    options: dict[str, Any] = {**recipe.parameters, "n": recipe.samples, "progress": False}
    if not scorers:
        options |= {"system": recipe.system} if recipe.system else {}
        results = complete_table(inputs, recipe.prompt, model=list(recipe.models), hub=hub, **options)
        return DatasetParts(inputs=inputs, results=results), None
    task = Task(
        name=recipe.name,
        version=recipe.version,
        template=recipe.prompt,
        system=recipe.system or None,
        target=recipe.target or None,
        scorers=scorers,
    )
    evaluation = evaluate(inputs, task, recipe.models, hub=hub, **{**options, **recipe.design})
    return to_parts(evaluation, None), evaluation


def _is_score_column(recorded: Mapping[str, Any]) -> bool:
    """Return whether scores were given as a column of a finished table, which has no version."""
    return recorded["version"] == "" and not recorded["parameters"]


def _score_again(
    kept: Frozen, recipe: Recipe, scorers: Sequence[ScorerOrJudge], columns: Sequence[str], hub: Hub
) -> DatasetParts:
    """Score the frozen responses again, of results whose requests are not known; columns of scores are kept."""
    rows = _number_input_rows(kept)
    results = {name: kept.table.column(name) for name in RESULTS.names if name in kept.table.column_names}
    table = pa.table({"row": rows, **results})
    inputs = kept.source_inputs(kept.table)
    scores = {name: kept.table.column(SCORE_PREFIX + name) for name in columns}
    taken = set(table.column_names) | set(scores)
    scored = pa.table({**dict(zip(table.column_names, table.columns, strict=True)), **scores})
    for name in inputs.column_names:
        if name not in taken:
            scored = scored.append_column(name, inputs.column(name))
    given = {"target": recipe.target} if recipe.target else {}
    options: dict[str, Any] = {**recipe.design, **given, "scores": columns}
    comparison = compare(scored, scorers=scorers, hub=hub, **options)
    parts = to_parts(comparison, inputs.take(pa.array(np.unique(rows, return_index=True)[1])))
    order = {name: index for index, name in enumerate(str(scorer["name"]) for scorer in recipe.scorers)}
    ordered = {name: parts.scores[name] for name in sorted(parts.scores, key=lambda name: order.get(name, len(order)))}
    return replace(parts, scores=ordered)


def _number_input_rows(kept: Frozen) -> IntArray:
    """Return the number of the input row of each result; equal input rows are told apart by their results' order."""
    ids = [ROW_ID, *REQUEST_COLUMNS]
    frame = kept.table.select(ids).to_pandas()
    frame["copy"] = frame.groupby(ids, sort=False, dropna=False).cumcount()
    numbers: IntArray = frame.groupby([ROW_ID, "copy"], sort=False).ngroup().to_numpy(np.int64)
    return numbers


def replay_middleware(answers: Mapping[bytes, Answer]) -> Middleware:
    """Return middleware that answers calls by their request key and never sends one."""

    def wrap(_send: Send) -> Send:
        async def look_up(call: Call) -> Answer:
            return answers.get(call.key or b"", NOT_FROZEN)

        return look_up

    return wrap


def _answers_by_key(table: pa.Table) -> dict[bytes, Answer]:
    """Return the answers in a results table by request key."""
    names = ["request_key", "response", "tool_calls", "finish_reason", *USAGE_FIELDS, "served_model", "error_type"]
    names += ["error", "request_id", "dropped_params"]
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    return {row[0]: _to_answer(dict(zip(names, row, strict=True))) for row in rows if row[0] is not None}


def _to_answer(row: Mapping[str, Any]) -> Answer:
    if row["error_type"] is not None:
        error: type[LLMError] = getattr(errors, row["error_type"], InvalidRequest)
        return Answer(Failure(error(message=row["error"] or "")))
    parts: list[Part] = [Text(row["response"])] if row["response"] else []
    parts += [ToolCall(call["id"], call["name"], call["arguments"]) for call in row["tool_calls"] or ()]
    response = CompletionResponse(
        parts=tuple(parts) or (Text(""),),
        finish_reason=row["finish_reason"],
        usage=Usage(**{name: row[name] for name in USAGE_FIELDS}),
        served_model=row["served_model"] or "",
        request_id=row["request_id"] or "",
    )
    return Answer(Success(response), dropped=tuple(row["dropped_params"] or ()), attempts=1)


def _replay_endpoint(provider: str, recorded: Mapping[str, Any], hub: Hub | None) -> Endpoint:
    """Return an endpoint whose cache keys are those of the recorded one."""
    headers, names = endpoint_headers(recorded)
    base_url = recorded["base_url"]
    if names or recorded.get("query"):
        own = hub.endpoints.get(provider) if hub is not None else None
        missing = [name for name in names if own is None or name not in own.headers]
        if own is None or missing:
            lacking = ", ".join(map(repr, missing or names or recorded["query"]))
            message = (
                f"requests to {provider!r} had {lacking} in headers or URL, which are part of the cache keys and whose"
                f" values are not stored; pass the hub whose endpoint has them"
            )
            raise invalid("hub", message)
        headers |= {name: own.headers[name] for name in names}
        base_url = own.base_url if recorded.get("query") else base_url
    placeholder = PLACEHOLDER_CREDENTIAL
    return Endpoint(
        base_url=base_url,
        project=recorded["project"],
        api_version=recorded["api_version"],
        region=recorded["region"],
        headers=headers,
        # Those of an earlier version are part of the recorded keys whatever their names.
        cache_key_names=(*headers, *recorded.get("query", ())),
        api_key=placeholder,
        access_key_id=placeholder,
        secret_access_key=placeholder,
    )


def _copy_measurements(results: pa.Table, kept: pa.Table) -> pa.Table:
    """Return the results with the recorded measurements of the same request keys."""
    position_of: dict[bytes, int] = {}
    for position, key in enumerate(kept.column("request_key").to_pylist()):
        if key is not None:
            position_of.setdefault(key, position)
    keys = results.column("request_key").to_pylist()
    positions = pa.array([None if key is None else position_of.get(key) for key in keys], pa.int64())
    for name in MEASUREMENT_COLUMNS:
        if name != "request_key":
            field = results.schema.field(name)
            values = kept.column(name).combine_chunks().take(positions).cast(field.type)
            results = results.set_column(results.schema.get_field_index(name), field, values)
    return results
