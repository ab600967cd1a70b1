"""Records and samples of OpenAI evals.

Source: https://github.com/openai/evals, ``evals/record.py`` and ``docs/build-eval.md``, and files of version 3.0.1
(read 2026-11-30). A record is JSON lines: the specification, the final report, and events of samples (``sampling``,
``match``, ``metrics``). The samples of a registry are JSON lines with ``input``, messages or text, and ``ideal``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmhub.evals.logs.log_rows import LogRow, content_text, mean_and_error, not_a_log, target_text, to_score, to_text


def read(path: Path) -> tuple[list[LogRow], str]:
    """Return the rows of a record, and the name of the eval."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    spec = next((line["spec"] for line in lines if "spec" in line), None)
    if not isinstance(spec, Mapping):
        raise not_a_log(path, "it has no line with 'spec'")
    model = next(iter(spec.get("completion_fns") or ()), "")
    samples: dict[str, dict[str, Any]] = {}
    for line in lines:
        if "sample_id" in line and isinstance(line.get("data"), Mapping):
            samples.setdefault(str(line["sample_id"]), {}).setdefault(str(line["type"]), line["data"])
    ordered = sorted(samples.items(), key=lambda item: _natural(item[0]))
    return [_to_row(sample_id, events, str(model)) for sample_id, events in ordered], str(spec.get("base_eval", ""))


def _natural(sample_id: str) -> tuple[str, int]:
    """Return a key that orders ``eval.split.10`` after ``eval.split.2``."""
    name, _, number = sample_id.rpartition(".")
    return (name, int(number)) if number.isdigit() else (sample_id, 0)


def _to_row(sample_id: str, events: Mapping[str, Mapping[str, Any]], model: str) -> LogRow:
    sampling, match = events.get("sampling", {}), events.get("match", {})
    sampled = match.get("sampled", sampling.get("sampled"))
    sampled = sampled[0] if isinstance(sampled, list) and sampled else sampled
    error = events.get("error")
    scores = {"match": to_score(match.get("correct"))} if match else {}
    scores |= {name: to_score(value) for name, value in events.get("metrics", {}).items()}
    return LogRow(
        row_id=sample_id,
        model=model,
        response=None if sampled is None else to_text(sampled),
        error=str(error.get("message", error)) if error is not None and sampled is None else None,
        scores=scores,
        inputs={"input": to_text(sampling.get("prompt", match.get("prompt", ""))), "target": match.get("expected")},
    )


def write(rows: Sequence[LogRow], task: str, binary: frozenset[str], path: Path) -> None:
    """Write the rows of one model as a record; right or wrong by the first scorer is ``match``, others ``metrics``."""
    run_id, now = uuid.uuid4().hex[:20], datetime.now(UTC).isoformat(sep=" ")
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    spec = {
        "completion_fns": [rows[0].model],
        "eval_name": f"{task}.test.v0",
        "base_eval": task,
        "split": "test",
        "run_config": {},
        "created_by": "",
        "run_id": run_id,
        "created_at": now,
    }
    report = {"accuracy" if name == names[0] else name: mean_and_error(rows, name)[0] for name in names}
    lines: list[Mapping[str, Any]] = [{"spec": spec}, {"final_report": report, "run_id": run_id}]
    first = names[0] if names and names[0] in binary else None
    for row in rows:
        if row.sample == 0:
            for kind, data in _events(row, first):
                event = {"run_id": run_id, "event_id": len(lines) - 2, "sample_id": f"{task}.test.{row.row_id}"}
                lines.append({**event, "type": kind, "data": data, "created_by": "", "created_at": now})
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def _events(row: LogRow, matched: str | None) -> list[tuple[str, Mapping[str, Any]]]:
    prompt = str(row.inputs.get("input", ""))
    if row.error is not None:
        return [("error", {"type": "error", "message": row.error})]
    events: list[tuple[str, Mapping[str, Any]]] = [
        ("sampling", {"prompt": prompt, "sampled": [row.response or ""], "model": row.model})
    ]
    score = row.scores.get(matched) if matched is not None else None
    if score is not None:
        data = {"correct": score == 1, "expected": target_text(row), "picked": None, "sampled": row.response or ""}
        events.append(("match", data))
    others = {name: value for name, value in row.scores.items() if name != matched and value is not None}
    return [*events, ("metrics", others)] if others else events


def read_samples(path: Path) -> pa.Table:
    """Return the samples of a registry as rows: ``messages``, ``input`` (the last of them) and ``target``."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows or any(not isinstance(row, Mapping) or "input" not in row for row in rows):
        raise not_a_log(path, "its lines are not samples with 'input' and 'ideal'")
    turns = [
        row["input"] if isinstance(row["input"], list) else [{"role": "user", "content": row["input"]}] for row in rows
    ]
    ideals = [row.get("ideal") for row in rows]
    message = pa.struct([pa.field("role", pa.string()), pa.field("content", pa.string())])
    messages = [
        [{"role": str(turn.get("role", "user")), "content": content_text(turn["content"])} for turn in own]
        for own in turns
    ]
    return pa.table(
        {
            "messages": pa.array(messages, pa.list_(message)),
            "input": pa.array([content_text(own[-1]["content"]) for own in turns], pa.string()),
            "target": pa.array(
                [None if ideal is None else [to_text(one) for one in (ideal if isinstance(ideal, list) else [ideal])]
                 for ideal in ideals],
                pa.list_(pa.string()),
            ),
        }
    )  # fmt: skip
