"""Logs of inspect_ai: ``.eval`` archives and ``.json`` files.

Source: https://inspect.aisi.org.uk/eval-logs.html and files of version 0.3.285 (read 2026-11-30). An archive holds
``header.json``, or ``_journal/start.json`` while the run has not ended, and one file a sample; its members may be
compressed with Zstandard, which Python's ``zipfile`` reads from version 3.14 on. ``input_tokens`` leave out what was
read from or written to the provider's cache. Samples are numbered by ``epoch``, from 1.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from llmhub.evals.logs.log_rows import (
    LogRow,
    jsonable_inputs,
    mean_and_error,
    not_a_log,
    target_text,
    to_score,
    to_text,
)

ZSTANDARD: Final = 93
LOCAL_HEADER: Final = struct.Struct("<26xHH")
VALUES: Final[Mapping[str, float]] = {
    "C": 1.0,
    "P": 0.5,
    "I": 0.0,
    "N": 0.0,
    "true": 1.0,
    "yes": 1.0,
    "false": 0.0,
    "no": 0.0,
}
"""Scores that are written as letters or words: correct, partially correct, incorrect, no answer."""
FINISH_REASONS: Final = {
    "stop": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}


def read(path: Path) -> tuple[list[LogRow], str]:
    """Return the rows of a log, and the name of its task."""
    header, samples = _read_archive(path) if zipfile.is_zipfile(path) else _read_json(path)
    evaluation = header.get("eval")
    if not isinstance(evaluation, Mapping):
        raise not_a_log(path, "it has no 'eval'")
    model = str(evaluation.get("model", ""))
    return [_to_row(sample, model) for sample in samples], str(evaluation.get("task", ""))


def _read_json(path: Path) -> tuple[Mapping[str, Any], list[Any]]:
    log = json.loads(path.read_bytes())
    return log, log.get("samples") or []


def _read_archive(path: Path) -> tuple[Mapping[str, Any], list[Any]]:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = {member.filename: member for member in archive.infolist()}
        header = members.get("header.json") or members.get("_journal/start.json")
        if header is None:
            raise not_a_log(path, "the archive has no header.json")
        samples = [member for name, member in members.items() if name.startswith("samples/")]
        return (
            json.loads(_read_member(archive, file, header)),
            [json.loads(_read_member(archive, file, member)) for member in samples],
        )


def _read_member(archive: zipfile.ZipFile, file: Any, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type != ZSTANDARD:
        return archive.read(member)
    file.seek(member.header_offset)
    name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    file.seek(name_length + extra_length, 1)
    with pa.input_stream(pa.py_buffer(file.read(member.compress_size)), compression="zstd") as stream:
        content: bytes = stream.read(member.file_size)
        return content


def _to_row(sample: Mapping[str, Any], model: str) -> LogRow:
    output = sample.get("output") or {}
    usage = output.get("usage") or {}
    error = sample.get("error")
    cached, written = usage.get("input_tokens_cache_read"), usage.get("input_tokens_cache_write")
    input_tokens = usage.get("input_tokens")
    stop_reason = next((choice.get("stop_reason") for choice in output.get("choices") or ()), None)
    inputs: dict[str, Any] = {"input": to_text(sample["input"]), "target": sample.get("target")}
    if sample.get("choices"):
        inputs["choices"] = sample["choices"]
    return LogRow(
        row_id=str(sample["id"]),
        sample=int(sample.get("epoch", 1)) - 1,
        model=model,
        response=None if error else output.get("completion", ""),
        error=str(error.get("message", error)) if error else None,
        scores=dict(_scores(sample.get("scores") or {})),
        inputs=inputs | dict(sample.get("metadata") or {}),
        measurements={
            "input_tokens": None if input_tokens is None else input_tokens + (cached or 0) + (written or 0),
            "output_tokens": usage.get("output_tokens"),
            "cached_input_tokens": cached,
            "cache_write_tokens": written,
            "reasoning_tokens": usage.get("reasoning_tokens"),
            "list_cost_usd": usage.get("total_cost"),
            "latency_s": output.get("time"),
            "finish_reason": None if stop_reason is None else FINISH_REASONS.get(stop_reason, "other"),
        },
    )


def _scores(scores: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    """Yield the scores of a sample; one with several values has one score a value, ``scorer/value``."""
    for name, score in scores.items():
        value = score.get("value") if isinstance(score, Mapping) else score
        if isinstance(value, Mapping):
            yield from ((f"{name}/{key}", _number(part)) for key, part in value.items())
        else:
            yield name, _number(value)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            return VALUES[value] if value in VALUES else VALUES.get(value.lower()) or to_score(float(value))
        except ValueError:
            return None
    return to_score(value)


def write(rows: Sequence[LogRow], task: str, binary: frozenset[str], path: Path) -> None:
    """Write the rows of one model as a ``.json`` log."""
    now = datetime.now(UTC).isoformat()
    model = rows[0].model
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    ids = list(dict.fromkeys(row.row_id for row in rows))
    epochs = 1 + max(row.sample for row in rows)
    log = {
        "version": 2,
        "status": "success",
        "eval": {
            "created": now,
            "task": task,
            "dataset": {"name": task, "samples": len(ids), "sample_ids": ids},
            "model": model,
            "config": {"epochs": epochs},
            "scorers": [{"name": name} for name in names],
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(rows),
            "completed_samples": sum(row.error is None for row in rows),
            "scores": [_aggregate(rows, name) for name in names],
        },
        "stats": {"started_at": now, "completed_at": now},
        "samples": [_to_sample(row, binary) for row in rows],
    }
    path.write_text(json.dumps(log, ensure_ascii=False, indent=1), encoding="utf-8")


def _aggregate(rows: Sequence[LogRow], name: str) -> dict[str, Any]:
    mean, error, _ = mean_and_error(rows, name)
    metrics = {"mean": mean, "stderr": error}
    return {
        "name": name,
        "scorer": name,
        "params": {},
        "metrics": {key: {"name": key, "value": value} for key, value in metrics.items() if value is not None},
    }


def _to_sample(row: LogRow, binary: frozenset[str]) -> dict[str, Any]:
    text = str(row.inputs.get("input", ""))
    measured = row.measurements
    cached, written = measured.get("cached_input_tokens") or 0, measured.get("cache_write_tokens") or 0
    usage = {
        "input_tokens": (measured.get("input_tokens") or 0) - cached - written,
        "output_tokens": measured.get("output_tokens") or 0,
        "total_tokens": (measured.get("input_tokens") or 0) + (measured.get("output_tokens") or 0),
        "input_tokens_cache_read": cached or None,
        "input_tokens_cache_write": written or None,
        "reasoning_tokens": measured.get("reasoning_tokens"),
    }
    stop_reasons = {ours: theirs for theirs, ours in FINISH_REASONS.items() if theirs != "model_length"}
    output: dict[str, Any] = {"model": row.model, "choices": [], "completion": row.response or ""}
    if row.error is None:
        message = {"role": "assistant", "content": row.response or "", "source": "generate", "model": row.model}
        reason = stop_reasons.get(measured.get("finish_reason") or "stop", "unknown")
        output["choices"] = [{"message": message, "stop_reason": reason}]
        output |= {"time": measured.get("latency_s")}
        output |= {"usage": usage} if measured.get("output_tokens") is not None else {}
    return {
        "id": row.row_id,
        "epoch": row.sample + 1,
        "input": text,
        "target": target_text(row),
        "messages": [{"role": "user", "content": text}, *(choice["message"] for choice in output["choices"])],
        "output": output,
        "scores": {
            name: {"value": ("I", "C")[int(value)] if name in binary and value in {0.0, 1.0} else value}
            for name, value in row.scores.items()
            if value is not None
        },
        "metadata": jsonable_inputs(row),
        **({"error": {"message": row.error, "traceback": "", "traceback_ansi": ""}} if row.error is not None else {}),
    }
