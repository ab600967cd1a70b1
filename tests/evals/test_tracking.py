"""Comparisons as runs of MLflow and Weights & Biases, through their own clients without a network."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import parquet

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.evals import Comparison, compare, log_to_mlflow, log_to_wandb, scorers, tasks

LEFT, RIGHT = "openai/a", "anthropic/b"
pytestmark = [
    pytest.mark.slow,
    # What these clients do at import and exit is theirs.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def comparison() -> Comparison:
    rows = [
        {
            "row": index, "provider": name.partition("/")[0], "model": name.partition("/")[2], "question": f"q{index}",
            "answer": "yes", "subject": "law" if index % 2 else "art", "latency_s": 0.5,
            "response": "no" if name == LEFT and index % 3 == 0 else "yes",
        }
        for index in range(30)
        for name in (LEFT, RIGHT)
    ]  # fmt: skip
    return compare(pd.DataFrame(rows), scorers=scorers.exact("answer"), target="answer", baseline=RIGHT)


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return MLflow's client with a tracking store in a folder."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow  # noqa: PLC0415 - of these tests alone

    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    mlflow.set_experiment("evaluations")
    yield mlflow
    while mlflow.active_run() is not None:
        mlflow.end_run()


def test_mlflow_run_with_a_run_for_each_model(comparison: Comparison, mlflow: Any, tmp_path: Path) -> None:
    run_id = log_to_mlflow(comparison, by="subject", run_name="nightly")
    client = mlflow.MlflowClient()
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["scorers"] == '["exact 1"]'
    assert parent.data.params["baseline"] == RIGHT
    experiment = client.get_experiment_by_name("evaluations")
    runs = client.search_runs([experiment.experiment_id])
    children = {run.data.params["model"]: run for run in runs if run.info.run_id != run_id}
    assert set(children) == {LEFT, RIGHT}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {run_id}
    metrics = children[LEFT].data.metrics
    (row,) = [row for row in comparison.ranked() if row["model"] == LEFT]
    assert [metrics[name] for name in ("exact", "exact_low", "exact_high")] == [row["value"], row["low"], row["high"]]
    assert metrics["latency_p50_s"] == 0.5
    assert metrics["exact.art"] == pytest.approx(10 / 15)
    assert metrics["exact.mean of groups"] == pytest.approx(20 / 30)
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files == {"report.html", "results.parquet", "models.json", "pairs.json"}
    local = Path(client.download_artifacts(run_id, "results.parquet", str(tmp_path)))
    assert parquet.read_table(local).equals(comparison.results)


def test_mlflow_run_within_an_active_one(comparison: Comparison, mlflow: Any) -> None:
    with mlflow.start_run() as outer:
        run_id = log_to_mlflow(comparison)
    run = mlflow.get_run(run_id)
    assert run.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert mlflow.active_run() is None


def test_wandb_run_offline(comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    import wandb  # noqa: PLC0415 - of this test alone

    settings = wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True)
    run = wandb.init(mode="offline", dir=str(tmp_path), settings=settings)
    run_id = log_to_wandb(comparison, run=run, by="subject", max_rows=5)
    assert run_id == run.id
    (row,) = [row for row in comparison.ranked() if row["model"] == LEFT]
    assert run.summary[f"{LEFT}/exact"] == row["value"]
    assert run.summary[f"{LEFT}/exact/art"] == pytest.approx(10 / 15)
    assert run.config["baseline"] == RIGHT
    run.finish()
    tables = {path.name.partition("_")[0]: json.loads(path.read_text()) for path in tmp_path.rglob("*.table.json")}
    assert set(tables) == {"models", "pairs", "groups", "responses"}
    assert len(tables["responses"]["data"]) == 5 * 2
    assert tables["responses"]["columns"][-1] == "exact"
    assert [path.read_text()[:15] for path in tmp_path.rglob("report*.html")] == ["<!doctype html>"]
    assert list(tmp_path.rglob("run-*.wandb"))
    with pytest.raises(BadRequestError, match="project: is an argument of a new run"):
        log_to_wandb(comparison, run=run, project="p")


def test_evaluation_with_samples(mlflow: Any) -> None:
    rows = {"question": ["1 + 1?"] * 3, "answer": ["2"] * 3}
    with llmhub.simulate():
        evaluation = llmhub.evaluate(rows, tasks.numeric(), "openai/gpt-4o-mini", n=2, progress=False)
    log_to_mlflow(evaluation)
    (child,) = mlflow.search_runs(filter_string="params.model = 'openai/gpt-4o-mini'", output_format="list")
    assert "numeric.pass_2" in child.data.metrics


@pytest.mark.parametrize(("log", "library"), [(log_to_mlflow, "mlflow"), (log_to_wandb, "wandb")])
def test_missing_library_is_named(
    comparison: Comparison, log: Any, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadRequestError, match=rf"pip install 'llmhub\[{library}\]'"):
        log(comparison)
    with pytest.raises(BadRequestError, match="result: str is no evaluation or comparison"):
        log("text")
