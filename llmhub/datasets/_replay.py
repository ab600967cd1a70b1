"""A frozen evaluation run again from its own answers: prompts rendered, answers found, scores given, and no network.

Whatever a run measured of the world (times, ids, prices) is carried over; whatever follows from the rows, the recipe
and the answers is worked out anew, and has to come to the same bytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from returns.result import Failure, Success

from llmhub.api import complete_table
from llmhub.config import Settings
from llmhub.core import errors
from llmhub.core.errors import BadRequestError, InvalidRequest, LLMError, NotFound
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionResponse, Part, Text, ToolCall, Usage
from llmhub.datasets import dataset
from llmhub.datasets._diff import Difference, diff
from llmhub.datasets._freeze import DatasetParts, to_parts
from llmhub.datasets.dataset import MEASUREMENT_COLUMNS, Frozen
from llmhub.datasets.provenance import Recipe, recipe_from_lock
from llmhub.engine.call import Answer, Call, Middleware, Send
from llmhub.engine.retry import NO_RETRY
from llmhub.evals._evaluate import Evaluation, evaluate
from llmhub.evals.judge import ScorerOrJudge
from llmhub.evals.scorers import scorer_from_identity
from llmhub.evals.tasks import Task
from llmhub.hub import Hub

PLACEHOLDER_CREDENTIAL: Final = "replay"
"""Stands for credentials that nobody will see."""


NOT_FROZEN: Final = Answer(Failure(NotFound(message="no such request was frozen: its prompt or parameters differ")))


USAGE: Final = tuple(Usage.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of running a frozen evaluation again.

    Parameters
    ----------
    same
        Whether the data came out the same to the byte.
    difference
        What moved, if anything did.
    frozen
        What came out.
    evaluation
        The evaluation, with its figures and intervals; ``None`` where the answers were not scored.
    """

    same: bool
    difference: Difference
    frozen: Frozen
    evaluation: Evaluation | None = None

    def __bool__(self) -> bool:
        """Be true where all came out the same."""
        return self.same

    def __repr__(self) -> str:
        """Say it where it is shown."""
        return str(self)

    def __str__(self) -> str:
        """Say how it went."""
        return "the same to the byte" if self.same else f"not the same to the byte\n{self.difference}"


def replay(path: str | Path, *, scorers: Sequence[ScorerOrJudge] = ()) -> Replay:
    """Run a frozen evaluation again from its own answers, without a network.

    Parameters
    ----------
    path
        The folder that `llmhub.freeze` wrote.
    scorers
        Scorers of your own that it was scored with; llmhub's own, and judges, are found by name, version and
        parameters.

    Raises
    ------
    InvalidRequestError
        The folder holds no frozen dataset, it does not say how it was asked, or a scorer is not known.
    """
    folder = Path(path)
    kept = dataset.read(folder)
    recipe = recipe_from_lock(kept.lock["recipe"])
    if not recipe.is_replayable:
        said = f"{str(folder)!r} does not say how it was asked; freeze an evaluation, or give freeze(recipe=...)"
        raise BadRequestError(InvalidRequest(path="path", message=said))
    scored_by = [scorer_from_identity(said, scorers) for said in recipe.scorers]
    judgements = dataset.read_judgements(folder, kept.lock)
    answers = _answers(kept.table) | (_answers(judgements) if judgements is not None else {})
    endpoints = {name: _endpoint(said) for name, said in kept.lock["endpoints"].items()}
    with Hub(endpoints=endpoints, middleware=(replay_middleware(answers),), retry=NO_RETRY, settings=Settings()) as hub:
        parts, evaluation = _again(_inputs(kept, recipe), recipe, scored_by, hub)
    canon = dataset.canonicalise(parts.inputs, _carried(parts.results, kept.table), parts.scores)
    again = Frozen(canon.table, kept.lock, canon.columns)
    with tempfile.TemporaryDirectory() as made:
        dataset.write_rows(Path(made), canon.table, dataset.dataset_layout(kept.lock))
        same = (Path(made) / kept.lock["data"]).read_bytes() == (folder / kept.lock["data"]).read_bytes()
    return Replay(same, diff(kept, again), again, evaluation)


def _inputs(kept: Frozen, recipe: Recipe) -> pa.Table:
    """Give the input rows as often as they were asked."""
    provider, _, model = recipe.models[0].partition("/")
    columns = kept.table
    asked = pc.and_(pc.equal(columns.column("provider"), provider), pc.equal(columns.column("model"), model))
    first = pc.and_(asked, pc.equal(columns.column("sample"), 0))
    return columns.filter(first).select(kept.names("input"))


def _again(
    inputs: pa.Table, recipe: Recipe, scored_by: Sequence[ScorerOrJudge], hub: Hub
) -> tuple[DatasetParts, Evaluation | None]:
    """Ask what was asked, and score it as it was scored."""
    options: dict[str, Any] = {**recipe.parameters, "n": recipe.samples, "progress": False}
    if not scored_by:
        options |= {"system": recipe.system} if recipe.system else {}
        results = complete_table(inputs, recipe.prompt, model=list(recipe.models), hub=hub, **options)
        return DatasetParts(inputs=inputs, results=results), None
    task = Task(
        name=recipe.name,
        version=recipe.version,
        template=recipe.prompt,
        system=recipe.system or None,
        target=recipe.target or None,
        scorers=scored_by,
    )
    found = evaluate(inputs, task, recipe.models, hub=hub, **{**options, **recipe.design})
    return to_parts(found, None), found


def replay_middleware(answers: Mapping[bytes, Answer]) -> Middleware:
    """Make the middleware that gives the answers that are there, and never sends anything."""

    def wrap(_send: Send) -> Send:
        async def give(call: Call) -> Answer:
            return answers.get(call.key or b"", NOT_FROZEN)

        return give

    return wrap


def _answers(table: pa.Table) -> dict[bytes, Answer]:
    """Make answers of rows again, by the key of their request."""
    names = ["request_key", "response", "tool_calls", "finish_reason", *USAGE, "served_model", "error_type", "error"]
    names += ["request_id", "dropped_params"]
    rows = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    return {row[0]: _answer(dict(zip(names, row, strict=True))) for row in rows if row[0] is not None}


def _answer(row: Mapping[str, Any]) -> Answer:
    if row["error_type"] is not None:
        kind: type[LLMError] = getattr(errors, row["error_type"], InvalidRequest)
        return Answer(Failure(kind(message=row["error"] or "")))
    parts: list[Part] = [Text(row["response"])] if row["response"] else []
    parts += [ToolCall(call["id"], call["name"], call["arguments"]) for call in row["tool_calls"] or ()]
    response = CompletionResponse(
        parts=tuple(parts) or (Text(""),),
        finish_reason=row["finish_reason"],
        usage=Usage(**{name: row[name] for name in USAGE}),
        served_model=row["served_model"] or "",
        request_id=row["request_id"] or "",
    )
    return Answer(Success(response), dropped=tuple(row["dropped_params"] or ()), attempts=1)


def _endpoint(said: Mapping[str, Any]) -> Endpoint:
    return Endpoint(
        **said,
        api_key=PLACEHOLDER_CREDENTIAL,
        access_key_id=PLACEHOLDER_CREDENTIAL,
        secret_access_key=PLACEHOLDER_CREDENTIAL,
    )


def _carried(results: pa.Table, kept: pa.Table) -> pa.Table:
    """Take over what was measured, request by request."""
    places: dict[bytes, int] = {}
    for at, key in enumerate(kept.column("request_key").to_pylist()):
        if key is not None:
            places.setdefault(key, at)
    keys = results.column("request_key").to_pylist()
    at = pa.array([None if key is None else places.get(key) for key in keys], pa.int64())
    for name in MEASUREMENT_COLUMNS:
        if name != "request_key":
            field = results.schema.field(name)
            values = kept.column(name).combine_chunks().take(at)
            results = results.set_column(results.schema.get_field_index(name), field, values.cast(field.type))
    return results
