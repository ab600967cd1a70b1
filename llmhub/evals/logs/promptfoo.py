"""Results of promptfoo: ``promptfoo eval --output results.json`` or ``results.jsonl``.

Source: https://www.promptfoo.dev/docs/configuration/outputs and files of version 0.123 (read 2026-11-30). A row is one
test with one prompt. ``success`` is whether all assertions hold, ``score`` their weighted mean; ``failureReason`` 2 is
a failed call, 1 a failed assertion.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from llmhub.evals.logs.log_rows import LogRow, jsonable_inputs, not_a_log, target_text, to_score, to_text

CALL_FAILED: Final = 2


def read(path: Path) -> tuple[list[LogRow], str]:
    """Return the rows of a file of results, and the description of the evaluation."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        results, description = [json.loads(line) for line in text.splitlines() if line.strip()], ""
    else:
        content = json.loads(text)
        results = content["results"]["results"]
        description = str((content.get("config") or {}).get("description") or "")
    if not results:
        raise not_a_log(path, "it has no results")
    # Providers with the same id and no label of their own differ by their place among the prompts.
    order = sorted(results, key=lambda result: (result.get("testIdx", 0), result.get("promptIdx", 0)))
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(_prompt_key(one) for one in order))}
    seen: Counter[tuple[str, str]] = Counter()
    rows = []
    for result in order:
        row_id = f"{result.get('testIdx', 0)}/{prompts[_prompt_key(result)]}"
        model = _model(result)
        rows.append(_to_row(result, row_id, model, seen[row_id, model]))
        seen[row_id, model] += 1
    return rows, description


def _prompt_key(result: Mapping[str, Any]) -> str:
    prompt = result.get("prompt") or {}
    return str(result.get("promptId") or prompt.get("label") or prompt.get("raw", ""))


def _model(result: Mapping[str, Any]) -> str:
    provider = result.get("provider") or {}
    if isinstance(provider, str):
        return provider
    return str(provider.get("label") or provider.get("id", ""))


def _to_row(result: Mapping[str, Any], row_id: str, model: str, sample: int) -> LogRow:
    response = result.get("response") or {}
    failed = result.get("failureReason") == CALL_FAILED or "output" not in response
    usage = response.get("tokenUsage") or {}
    details = usage.get("completionDetails") or {}
    metadata = (result.get("testCase") or {}).get("metadata") or {}
    scores = {"success": result.get("success"), "score": result.get("score"), **(result.get("namedScores") or {})}
    return LogRow(
        row_id=row_id,
        model=model,
        sample=sample,
        response=None if failed else to_text(response.get("output")),
        error=str(result.get("error") or response.get("error") or "no output") if failed else None,
        scores={} if failed else {name: to_score(value) for name, value in scores.items()},
        inputs={
            "input": to_text((result.get("prompt") or {}).get("raw", "")),
            "prompt": (result.get("prompt") or {}).get("label", ""),
            **metadata,
            **(result.get("vars") or {}),
        },
        measurements={
            "input_tokens": usage.get("prompt"),
            "output_tokens": usage.get("completion"),
            "reasoning_tokens": details.get("reasoning"),
            "list_cost_usd": result.get("cost"),
            "latency_s": None if result.get("latencyMs") is None else result["latencyMs"] / 1000,
        },
    )


def write(rows: Sequence[LogRow], task: str, _binary: frozenset[str], path: Path) -> None:
    """Write the rows of all models as one file of results. The first score decides whether a test has passed."""
    models = list(dict.fromkeys(row.model for row in rows))
    tests = {row_id: index for index, row_id in enumerate(dict.fromkeys(row.row_id for row in rows))}
    results = [_to_result(row, tests[row.row_id], models.index(row.model)) for row in rows]
    content = {
        "evalId": f"eval-{uuid.uuid4().hex[:8]}",
        "results": {
            "version": 3,
            "timestamp": datetime.now(UTC).isoformat(),
            "prompts": [
                {"raw": task, "label": task, "provider": model, "metrics": _metrics(rows, model)} for model in models
            ],
            "results": results,
            "stats": {
                "successes": sum(result["success"] for result in results),
                "failures": sum(result["failureReason"] == 1 for result in results),
                "errors": sum(result["failureReason"] == CALL_FAILED for result in results),
                "tokenUsage": {},
            },
        },
        "config": {"description": task},
        "shareableUrl": None,
    }
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def _to_result(row: LogRow, test: int, prompt: int) -> dict[str, Any]:
    score = next(iter(row.scores.values()), None) or 0.0
    reason = CALL_FAILED if row.error is not None else int(score < 1)
    return {
        "id": str(uuid.uuid4()),
        "testIdx": test,
        "promptIdx": prompt,
        "provider": {"id": row.model, "label": row.model},
        "prompt": {"raw": str(row.inputs.get("input", "")), "label": "prompt"},
        "vars": {**jsonable_inputs(row), "target": target_text(row)},
        "response": {"error": row.error}
        if row.error is not None
        else {
            "output": row.response or "",
            "tokenUsage": {
                "prompt": row.measurements.get("input_tokens") or 0,
                "completion": row.measurements.get("output_tokens") or 0,
                "total": (row.measurements.get("input_tokens") or 0) + (row.measurements.get("output_tokens") or 0),
            },
        },
        "success": reason == 0,
        "score": score,
        "namedScores": {name: value for name, value in row.scores.items() if value is not None},
        "failureReason": reason,
        "latencyMs": round((row.measurements.get("latency_s") or 0) * 1000),
        "cost": row.measurements.get("list_cost_usd") or 0,
        "testCase": {"vars": {**jsonable_inputs(row), "target": target_text(row)}, "metadata": {}},
        **({"error": row.error} if row.error is not None else {}),
    }


def _metrics(rows: Sequence[LogRow], model: str) -> dict[str, Any]:
    own = [row for row in rows if row.model == model]
    scores = [next(iter(row.scores.values()), None) or 0.0 for row in own]
    errors = sum(row.error is not None for row in own)
    passed = sum(score >= 1 and row.error is None for score, row in zip(scores, own, strict=True))
    return {
        "score": sum(scores),
        "testPassCount": passed,
        "testFailCount": len(own) - passed - errors,
        "testErrorCount": errors,
    }
