"""Logs that other tools wrote are read as results, and results are written as logs that are read alike.

The files in ``tests/fixtures/eval_logs`` were written by inspect_ai 0.3.285 (with its mock model),
lm-evaluation-harness 0.4.13 (dummy model), promptfoo 0.123.1 (echo provider) and OpenAI evals 3.0.1.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest

import llmhub
from llmhub.core.errors import BadRequestError
from llmhub.datasets import freeze, replay, verify
from llmhub.evals import Comparison, compare, read_log, read_samples, scorers, write_log
from llmhub.evals.logs.log_files import LogFormat

LOGS = Path(__file__).parents[1] / "fixtures" / "eval_logs"
LM_EVAL = LOGS / "lm_eval"
LEFT, RIGHT = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"


def score_of(comparison: Comparison, metric: str, model: str | None = None) -> float:
    rows = [row for row in comparison.models.to_pylist() if row["metric"] == metric and model in {None, row["model"]}]
    value: float = rows[0]["value"]
    return value


class TestInspect:
    @pytest.mark.parametrize("name", ["inspect.json", "inspect.eval"])
    def test_accuracy_is_that_of_the_tool(self, name: str) -> None:
        log = read_log(LOGS / name)
        own = json.loads((LOGS / "inspect.json").read_text())["results"]
        for score in own["scores"]:
            mine = score_of(log.compare(failures="left_out"), score["name"])
            assert mine == pytest.approx(score["metrics"]["accuracy"]["value"])
        assert (log.task, log.scores) == ("sums", ("match", "includes"))

    def test_samples_failures_and_tokens(self) -> None:
        table = read_log(LOGS / "inspect.eval").results
        rows = {(row["row_name"], row["sample"]): row for row in table.to_pylist()}
        assert len(rows) == 10
        assert (rows["sum-2", 1]["response"], rows["sum-2", 1]["match"]) == ("I think 5", 0.0)
        failed = rows["sum-3", 1]
        assert (failed["status"], failed["response"], failed["match"]) == ("error", None, None)
        assert "server said no" in failed["error"]
        first = rows["sum-0", 0]
        assert (first["input"], first["target"], first["subject"]) == ("What is 0 + 0?", ["0"], "even")
        assert rows["color", 0]["target"] == ["red", "blue", "yellow"]
        # inspect_ai counts ten input tokens and two that were read from the cache.
        assert (first["input_tokens"], first["cached_input_tokens"], first["output_tokens"]) == (12, 2, 4)
        assert (first["provider"], first["model"], first["finish_reason"]) == ("mockllm", "model", "stop")
        # A failed row counts as wrong unless it is left out.
        counted = score_of(read_log(LOGS / "inspect.eval").compare(), "match")
        assert counted == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)

    def test_logs_of_two_models_are_compared_in_pairs(self, tmp_path: Path) -> None:
        log = json.loads((LOGS / "inspect.json").read_text())
        log["eval"]["model"] = "openai/other"
        for sample in log["samples"][:3]:
            sample["scores"]["match"]["value"] = "I"
        log["samples"].reverse()
        (tmp_path / "other.json").write_text(json.dumps(log))
        comparison = read_log(LOGS / "inspect.json", tmp_path / "other.json").compare(scores="match")
        (pair,) = comparison.pairs.to_pylist()
        assert (pair["left"], pair["right"], pair["rows"]) == ("mockllm/model", "openai/other", 5)
        assert (pair["discordant_left"], pair["discordant_right"]) == (3, 0)
        assert comparison.by("subject").num_rows == 2 * (3 + 1)

    def test_scores_of_several_values_and_letters(self, tmp_path: Path) -> None:
        log = json.loads((LOGS / "inspect.json").read_text())
        values: list[Any] = [{"style": 0.5, "fact": "C"}, "P", "yes", "0.25", [1, 2]]
        for sample, value in zip(log["samples"], values, strict=True):
            sample["scores"] = {"own": {"value": value}}
        (tmp_path / "log.json").write_text(json.dumps(log))
        table = read_log(tmp_path / "log.json").results
        assert table.column("own").to_pylist() == [None, 0.5, 1.0, 0.25, None]
        assert (table.column("own/style")[0].as_py(), table.column("own/fact")[0].as_py()) == (0.5, 1.0)


class TestHarness:
    def test_scores_are_those_of_the_results(self) -> None:
        log = read_log(LM_EVAL)
        results = json.loads(next(LM_EVAL.glob("results_*.json")).read_text())["results"]
        comparison = log.compare()
        for figures in results.values():
            for name, value in figures.items():
                if "," in name and "stderr" not in name:
                    assert score_of(comparison, name) == pytest.approx(value)
        assert set(log.scores) == {"acc,none", "acc_norm,none", "exact_match,strict", "exact_match,loose"}

    def test_documents_and_choices(self) -> None:
        rows = {row["row_name"]: row for row in read_log(LM_EVAL, model="meta/llama").results.to_pylist()}
        assert list(rows) == ["toy_mc/0", "toy_mc/1", "toy_sums/0", "toy_sums/1", "toy_sums/2"]
        # The response is the choice with the highest likelihood; that of the other task is the generated text.
        assert (rows["toy_mc/1"]["response"], rows["toy_sums/1"]["response"]) == ("seven", "lol")
        assert rows["toy_sums/1"]["input"] == "Q: What is 20 + 22?\nA:"
        assert (rows["toy_sums/1"]["target"], rows["toy_sums/1"]["subject"]) == ("42", "hard")
        assert {(row["provider"], row["model"]) for row in rows.values()} == {("meta", "llama")}

    def test_responses_are_scored_again(self) -> None:
        (file,) = LM_EVAL.glob("samples_toy_sums_*")
        comparison = read_log(file).compare(scorers=scorers.numeric("target"))
        assert score_of(comparison, "numeric") == 0

    def test_results_alone_are_refused(self) -> None:
        (results,) = LM_EVAL.glob("results_*.json")
        with pytest.raises(BadRequestError, match="aggregated results only; pass the folder"):
            read_log(results)


class TestPromptfoo:
    @pytest.mark.parametrize("name", ["promptfoo.json", "promptfoo.jsonl"])
    def test_scores_are_those_of_the_tool(self, name: str) -> None:
        comparison = read_log(LOGS / name).compare()
        prompts = json.loads((LOGS / "promptfoo.json").read_text())["results"]["prompts"]
        for model in ("echo", "second"):
            own = [prompt["metrics"] for prompt in prompts if prompt["provider"] == model]
            tests = sum(one["testPassCount"] + one["testFailCount"] for one in own)
            assert score_of(comparison, "success", model) == pytest.approx(sum(p["testPassCount"] for p in own) / tests)
            assert score_of(comparison, "score", model) == pytest.approx(sum(p["score"] for p in own) / tests)
        assert comparison.pairs_of("success")[0]["rows"] == 8
        assert comparison.by("prompt").num_rows == 2 * 2 * (2 + 1)

    def test_a_failed_call_is_no_failed_assertion(self, tmp_path: Path) -> None:
        content = json.loads((LOGS / "promptfoo.json").read_text())
        failed = content["results"]["results"][0]
        failed |= {"failureReason": 2, "error": "API error: 500", "response": {"error": "API error: 500"}}
        (tmp_path / "results.json").write_text(json.dumps(content))
        rows = [row for row in read_log(tmp_path / "results.json").results.to_pylist() if row["status"] == "error"]
        assert [(row["error"], row["response"], row["success"]) for row in rows] == [("API error: 500", None, None)]


class TestOpenAIEvals:
    def test_record(self) -> None:
        log = read_log(LOGS / "openai_evals.jsonl")
        report = json.loads((LOGS / "openai_evals.jsonl").read_text().splitlines()[1])["final_report"]
        assert score_of(log.compare(), "match") == pytest.approx(report["accuracy"])
        rows = log.results.to_pylist()
        assert [row["row_name"] for row in rows] == ["toy.dev.0", "toy.dev.1", "toy.dev.2"]
        assert (rows[1]["response"], rows[1]["target"], rows[1]["match"]) == ("4", ["5", "five"], 0.0)
        assert rows[2]["input"] == "Name the capital of France."

    def test_samples_of_a_registry_are_rows(self, hub: llmhub.Hub) -> None:
        rows = read_samples(LOGS / "openai_evals_samples.jsonl")
        assert rows.column("target").to_pylist() == [["2"], ["5", "five"], ["Paris"]]
        assert rows.column("messages")[0].as_py() == [
            {"role": "system", "content": "Answer with the number alone."},
            {"role": "user", "content": "What is 1 + 1?"},
        ]
        assert rows.column("input").to_pylist() == ["What is 1 + 1?", "What is 2 + 3?", "Name the capital of France."]
        comparison = compare(rows, "{messages}", model=LEFT, scorers=scorers.exact("target"), hub=hub, progress=False)
        assert comparison.counts.column("ok").to_pylist() == [3]


@pytest.fixture
def comparison() -> Comparison:
    """Return a comparison of two models with a failure, several samples and two scorers."""
    rows = []
    for index in range(6):
        for sample in range(2):
            for provider, model in (LEFT.split("/"), RIGHT.split("/")):
                wrong = index % 3 == 0 and provider == "openai"
                failed = index == 4 and sample == 1
                rows.append(
                    {
                        "row": index, "sample": sample, "provider": provider, "model": model, "question": f"q{index}",
                        "subject": "ab"[index % 2], "answer": f"right {index}", "status": "error" if failed else "ok",
                        "response": None if failed else f"{'wrong' if wrong else 'right'} {index}",
                        "error": "it failed" if failed else None, "input_tokens": 7, "output_tokens": 3,
                        "latency_s": 0.5,
                    }
                )  # fmt: skip
    frame = pd.DataFrame(rows)
    return compare(frame, scorers=[scorers.exact("answer"), scorers.contains("answer")], target="answer")


@pytest.mark.parametrize("kind", get_args(LogFormat))
def test_written_logs_are_read_alike(comparison: Comparison, kind: LogFormat, tmp_path: Path) -> None:
    written = write_log(comparison, tmp_path / "log", format=kind)
    assert len(written) == (1 if kind == "promptfoo" else 2)
    assert all(path.exists() for path in written)
    log = read_log(*written)
    rows = {(row["provider"], row["row"], row["sample"]): row for row in log.results.to_pylist()}
    samples = 1 if kind in {"lm_eval", "openai_evals"} else 2
    assert len(rows) == 2 * 6 * samples
    assert rows["openai", 0, 0]["response"] == "wrong 0"
    assert rows["anthropic", 0, 0]["response"] == "right 0"
    again = log.compare(failures="left_out")
    name = {"openai_evals": "match", "lm_eval": "exact,none"}.get(kind, "exact")
    assert score_of(again, name, LEFT) == pytest.approx(4 / 6)
    assert score_of(again, name, RIGHT) == 1
    if samples == 2:
        assert rows["openai", 4, 1]["status"] == "error"
        assert rows["openai", 4, 1]["error"] == "it failed"


def test_unknown_files_are_refused(tmp_path: Path) -> None:
    cases = {
        "text.json": "no json",
        "list.json": "[1, 2]",
        "other.json": '{"a": 1}',
        "other.jsonl": '{"a": 1}',
        "inspect.json": '{"eval": {"model": "m"}, "samples": [{"id": 1}]}',
        "empty.json": '{"eval": {"model": "m"}, "samples": []}',
        "record.jsonl": '{"spec": 1}',
        "promptfoo.json": '{"results": {"results": [{}]}, "config": 3}',
        "broken.eval": "PK",
    }
    for name, text in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(BadRequestError, match=r"path: .*is not an evaluation log"):
            read_log(tmp_path / name)
    with pytest.raises(BadRequestError, match="cannot be read: No such file"):
        read_log(tmp_path / "absent.json")
    with pytest.raises(BadRequestError, match="is not an evaluation log"):
        read_log(tmp_path)
    with pytest.raises(BadRequestError, match="format: 'csv' is not a format"):
        read_log(tmp_path / "text.json", format="csv")  # type: ignore[arg-type]
    (tmp_path / "samples.jsonl").write_text('{"ideal": "x"}')
    with pytest.raises(BadRequestError, match="are not samples with 'input'"):
        read_samples(tmp_path / "samples.jsonl")


def test_cut_archive_is_refused(tmp_path: Path) -> None:
    whole = (LOGS / "inspect.eval").read_bytes()
    for size in range(1000, len(whole), 5003):
        (tmp_path / "cut.eval").write_bytes(whole[:size])
        with pytest.raises(BadRequestError, match="is not an evaluation log"):
            read_log(tmp_path / "cut.eval")


def test_logs_of_other_inputs_are_not_compared(tmp_path: Path) -> None:
    log = json.loads((LOGS / "inspect.json").read_text())
    log["eval"]["model"], log["samples"][0]["input"] = "other", "Something else?"
    (tmp_path / "other.json").write_text(json.dumps(log))
    with pytest.raises(BadRequestError, match=r"'color' has different inputs in these logs"):
        read_log(LOGS / "inspect.json", tmp_path / "other.json")


@pytest.mark.parametrize("name", ["inspect.eval", "lm_eval", "promptfoo.json", "openai_evals.jsonl"])
def test_read_logs_are_frozen_verified_and_replayed(name: str, tmp_path: Path) -> None:
    frozen = freeze(read_log(LOGS / name).compare(), tmp_path / "set")
    assert verify(tmp_path / "set", expect=frozen.digest)
    assert replay(tmp_path / "set")


def test_folder_of_one_model_has_its_name(tmp_path: Path) -> None:
    for model in ("small", "large"):
        (tmp_path / model).mkdir()
        for file in LM_EVAL.glob("samples_*"):
            shutil.copy(file, tmp_path / model)
    comparison = read_log(tmp_path / "small", tmp_path / "large").compare(scores=["acc,none"])
    assert comparison.design.models == ("small", "large")
