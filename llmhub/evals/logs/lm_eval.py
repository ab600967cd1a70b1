"""Samples of lm-evaluation-harness: a folder of ``samples_TASK_DATE.jsonl`` beside ``results_DATE.json``.

Source: https://github.com/EleutherAI/lm-evaluation-harness, ``lm_eval/loggers/evaluation_tracker.py``, and files of
version 0.4.13 (read 2026-11-30). A document has one line for each filter; its scores are named ``metric,filter`` as in
the results. The response to a multiple-choice document is the choice with the highest likelihood.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llmhub.evals.logs.log_rows import (
    LogRow,
    jsonable_inputs,
    mean_and_error,
    not_a_log,
    target_text,
    to_score,
    to_text,
)

SAMPLES_FILE: Final = re.compile(r"samples_(?P<task>.+?)(?:_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+))?\.jsonl")


def read(path: Path) -> tuple[list[LogRow], str]:
    """Return the rows of a samples file, or of all in a folder, and the names of their tasks."""
    files = sorted(path.glob("samples_*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise not_a_log(path, "the folder has no samples_*.jsonl")
    rows: list[LogRow] = []
    tasks = []
    for file in files:
        match = SAMPLES_FILE.fullmatch(file.name)
        task = match["task"] if match else file.stem
        tasks.append(task)
        rows += _rows_of_file(file, task, _model_name(file, match["date"] if match else None))
    return rows, ", ".join(dict.fromkeys(tasks))


def _model_name(file: Path, date: str | None) -> str:
    """Return the model of the results of the same date; the name of the folder without results."""
    results = sorted(file.parent.glob("results_*.json"))
    same = [one for one in results if date is not None and date in one.name] or results[-1:]
    for one in same:
        content = json.loads(one.read_bytes())
        name = content.get("model_name") or (content.get("config") or {}).get("model")
        if name:
            return str(name)
    return file.resolve().parent.name


def _rows_of_file(file: Path, task: str, model: str) -> Iterator[LogRow]:
    documents: dict[int, list[Mapping[str, Any]]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip():
            sample = json.loads(line)
            documents.setdefault(sample["doc_id"], []).append(sample)
    for doc_id, samples in sorted(documents.items()):
        first = samples[0]
        doc = first.get("doc")
        scores = {
            f"{metric},{sample.get('filter', 'none')}": to_score(sample.get(metric))
            for sample in samples
            for metric in sample.get("metrics") or _metrics(sample)
        }
        yield LogRow(
            row_id=f"{task}/{doc_id}",
            model=model,
            response=_response(first),
            scores={name: value for name, value in scores.items() if value is not None},
            inputs={
                "input": _prompt(first),
                "target": first.get("target"),
                "task": task,
                **({"doc": to_text(doc)} if not isinstance(doc, Mapping) else doc),
            },
        )


RECORDED: Final = frozenset(
    {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    | {"doc_hash", "prompt_hash", "target_hash"}
)


def _metrics(sample: Mapping[str, Any]) -> list[str]:
    """Return the names of the metrics of a sample, of versions that do not list them."""
    return [name for name in sample if name not in RECORDED]


def _arguments(sample: Mapping[str, Any]) -> list[Sequence[Any]]:
    """Return the arguments of each request for a document, in order."""
    given = sample.get("arguments") or ()
    if isinstance(given, Mapping):
        return [list(one.values()) if isinstance(one, Mapping) else [one] for one in given.values()]
    return [list(one) for one in given]


def _prompt(sample: Mapping[str, Any]) -> str:
    arguments = _arguments(sample)
    return to_text(arguments[0][0]) if arguments and arguments[0] else ""


def _response(sample: Mapping[str, Any]) -> str | None:
    replies = [reply[0] if isinstance(reply, list) and reply else reply for reply in sample.get("resps") or ()]
    if not replies:
        return None
    if isinstance(replies[0], str):
        return replies[0]
    arguments = _arguments(sample)
    if len(replies) == len(arguments) > 1 and all(isinstance(reply, list) for reply in replies):
        best = max(range(len(replies)), key=lambda index: float(replies[index][0]))
        return str(arguments[best][-1]).strip()
    return to_text(replies[0])


def write(rows: Sequence[LogRow], task: str, _binary: frozenset[str], path: Path) -> None:
    """Write the rows of one model as a folder of samples and results."""
    path.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    task = re.sub(r"[^\w.-]", "_", task) or "task"
    ids = {row_id: number for number, row_id in enumerate(dict.fromkeys(row.row_id for row in rows))}
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    lines = [json.dumps(_to_sample(row, ids[row.row_id]), ensure_ascii=False) for row in rows if row.sample == 0]
    (path / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figures: dict[str, Any] = {"alias": task}
    for name in names:
        mean, error, _ = mean_and_error(rows, name)
        figures |= {f"{name},none": mean, f"{name}_stderr,none": "N/A" if error is None else error}
    results = {
        "results": {task: figures},
        "versions": {task: 1},
        "n-shot": {task: 0},
        "n-samples": {task: {"original": len(ids), "effective": len(ids)}},
        "higher_is_better": {task: dict.fromkeys(names, True)},
        "config": {"model": rows[0].model},
        "model_name": rows[0].model,
        "date": datetime.now(UTC).timestamp(),
    }
    (path / f"results_{date}.json").write_text(json.dumps(results, indent=2), encoding="utf-8")


def _to_sample(row: LogRow, doc_id: int) -> dict[str, Any]:
    doc, prompt, target = jsonable_inputs(row), str(row.inputs.get("input", "")), target_text(row)
    scores = {name: value for name, value in row.scores.items() if value is not None}
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
        "resps": [[row.response or ""]],
        "filtered_resps": [row.response or ""],
        "filter": "none",
        "metrics": list(scores),
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(prompt),
        "target_hash": _hash(str(target)),
        **scores,
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
