from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets._freeze import freeze
from llmhub.datasets._replay import replay
from llmhub.datasets._verify import verify
from llmhub.datasets.provenance import Recipe
from llmhub.evals import judge as judge_module
from llmhub.evals import scorers, tasks
from llmhub.evals._evaluate import Evaluation, evaluate
from llmhub.evals._scorer import identity, scorer
from llmhub.evals.scorers import BUILT_IN_SCORERS, scorer_from_identity
from llmhub.sim import Simulator, SimulatorThread, serving

MODELS = ("openai/gpt-4o-mini", "anthropic/claude-haiku-4-5")


SUMS = pd.DataFrame({"a": range(12), "b": [n * 3 for n in range(12)], "answer": [n * 4 for n in range(12)]})


TASK = tasks.Task(
    name="sums", template="What is {a} + {b}?", scorers=scorers.numeric(), target="answer", system="Be brief."
)


def answer_sum(question: str) -> str:
    """Answer sums, some of them incorrectly; as a judge, give every response the same score."""
    words = question.replace("?", "").split()
    if "+" not in words:
        return "Score: 4"
    index = words.index("+")
    total = int(words[index - 1]) + int(words[index + 1])
    return f"The answer is {total + (total % 5 == 0)}."


@pytest.fixture
def hub() -> Iterator[llmhub.Hub]:
    with serving(Simulator(seed=1, respond=answer_sum)) as served:
        yield llmhub.Hub(endpoints=served.endpoints(), cache=llmhub.MemoryCache())


@pytest.fixture
def block_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call opening a connection raises."""

    def forbid(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    def block() -> None:
        for name in ("connect", "connect_ex", "sendto"):
            monkeypatch.setattr(socket.socket, name, forbid)

    return block


def evaluate_sums(hub: llmhub.Hub, task: tasks.Task = TASK, **options: Any) -> Evaluation:
    return evaluate(SUMS, task, MODELS, hub=hub, progress=False, resamples=200, **options)


@pytest.mark.parametrize("layout", ["parquet", "jsonl"])
def test_evaluation_is_replayed_without_network(
    hub: llmhub.Hub, tmp_path: Path, block_network: Callable[[], None], layout: Any
) -> None:
    evaluation = evaluate_sums(hub, n=2)
    freeze(evaluation, tmp_path / "set", hub=hub, layout=layout)
    block_network()
    replayed = replay(tmp_path / "set")
    assert replayed
    assert str(replayed) == "byte-identical"
    assert replayed.evaluation is not None
    assert replayed.evaluation.comparison.pairs.equals(evaluation.comparison.pairs)
    scores = [row for row in evaluation.comparison.models.to_pylist() if row["kind"] == "score"]
    assert [row for row in replayed.evaluation.comparison.models.to_pylist() if row["kind"] == "score"] == scores


def test_frame_of_results_is_replayed(hub: llmhub.Hub, tmp_path: Path, block_network: Callable[[], None]) -> None:
    prompt = "What is {a} + {b}?"
    frame_results = SUMS.assign(a=[*range(11), None]).llm.complete(
        prompt, model=MODELS, hub=hub, temperature=0.5, progress=False, columns="all"
    )
    recipe = Recipe(prompt=prompt, models=MODELS, parameters={"temperature": 0.5})
    freeze(frame_results, tmp_path / "set", recipe=recipe, hub=hub)
    block_network()
    replayed = replay(tmp_path / "set")
    assert replayed
    assert replayed.evaluation is None


def test_judge_is_replayed_from_its_own_calls(
    hub: llmhub.Hub, tmp_path: Path, block_network: Callable[[], None]
) -> None:
    judge = judge_module.judge("openai/gpt-4o", "Is it brief?")
    task = tasks.Task(name="brief", template="What is {a} + {b}?", scorers=(judge, scorers.contains("answer")))
    freeze(evaluate_sums(hub, task), tmp_path / "set", hub=hub)
    assert verify(tmp_path / "set")
    block_network()
    replayed = replay(tmp_path / "set")
    assert replayed
    assert set(replayed.frozen.table.column("score_judge").to_pylist()) == {4.0}
    (tmp_path / "set" / "judgements.parquet").unlink()
    assert not verify(tmp_path / "set")


def test_failures_are_replayed_as_failures(tmp_path: Path, block_network: Callable[[], None]) -> None:
    with serving(Simulator(seed=1)) as served:
        hub = llmhub.Hub(endpoints=served.endpoints(), retry=llmhub.Retry(attempts=1))
        frame = pd.DataFrame({"q": ["fine", "[[sim:500 always]] doomed", "[[sim:429 always]] late"]})
        task = tasks.Task(name="t", template="{q}", scorers=scorers.regex("."))
        freeze(evaluate(frame, task, MODELS, hub=hub, progress=False, resamples=100), tmp_path / "set", hub=hub)
    block_network()
    replayed = replay(tmp_path / "set")
    assert replayed
    assert set(replayed.frozen.table.column("error_type").to_pylist()) == {None, "ServerError", "RateLimited"}


def test_changed_response_changes_its_score(hub: llmhub.Hub, tmp_path: Path) -> None:
    freeze(evaluate_sums(hub), tmp_path / "set", hub=hub)
    path = tmp_path / "set" / "data.parquet"
    table = parquet.read_table(path)
    texts = ["The answer is -7." for _ in range(table.num_rows)]
    column = table.schema.get_field_index("response")
    parquet.write_table(table.set_column(column, "response", pa.array(texts)), path)
    replayed = replay(tmp_path / "set")
    assert not replayed
    assert replayed.difference.counts().keys() == {"score_numeric"}
    assert set(replayed.frozen.table.column("score_numeric").to_pylist()) == {0.0}


def test_changed_prompt_finds_no_responses(hub: llmhub.Hub, tmp_path: Path) -> None:
    freeze(evaluate_sums(hub), tmp_path / "set", hub=hub)
    lock = json.loads((tmp_path / "set" / "lock.json").read_text())
    lock["recipe"]["prompt"] = "How much is {a} + {b}?"
    (tmp_path / "set" / "lock.json").write_text(json.dumps(lock))
    replayed = replay(tmp_path / "set")
    assert not replayed
    assert set(replayed.frozen.table.column("error_type").to_pylist()) == {"NotFound"}


def test_custom_scorer_must_be_passed(hub: llmhub.Hub, tmp_path: Path) -> None:
    @scorer("short", "3")
    def short(_row: Any, response: str) -> bool:
        return len(response) < 17

    task = tasks.Task(name="t", template="What is {a} + {b}?", scorers=short)
    freeze(evaluate_sums(hub, task), tmp_path / "set", hub=hub)
    assert replay(tmp_path / "set", scorers=[short])
    with pytest.raises(BadRequestError, match="'short' is not a built-in scorer; pass yours"):
        replay(tmp_path / "set")

    @scorer("short", "4")
    def shorter(_row: Any, response: str) -> bool:
        return len(response) < 16

    with pytest.raises(BadRequestError, match="'short' has version '4', but scores were recorded with version '3'"):
        replay(tmp_path / "set", scorers=[shorter])


def test_dataset_without_recipe_raises(simulator: SimulatorThread, tmp_path: Path) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints()) as hub:
        frame_results = SUMS.llm.complete("{a}", model=MODELS[0], hub=hub, progress=False, columns="all")
        freeze(frame_results, tmp_path / "set", hub=hub)
    with pytest.raises(BadRequestError, match="has no recipe"):
        replay(tmp_path / "set")


PARAMETERS: dict[str, dict[str, Any]] = {
    "regex": {"pattern": r"\d+"},
    "label": {"labels": ["yes", "no"]},
    "json_valid": {"schema": {"type": "object"}},
    **{kind: {"kind": kind} for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")},
}


@pytest.mark.parametrize("name", sorted(BUILT_IN_SCORERS))
def test_built_in_scorers_are_rebuilt_from_their_identity(name: str) -> None:
    scorer = BUILT_IN_SCORERS[name](**PARAMETERS.get(name, {}))
    assert scorer.name == name
    assert identity(scorer_from_identity(identity(scorer))) == identity(scorer)
