"""A process that imports everything once and forks a child for each job. It speaks JSON lines on stdin and stdout."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import tempfile
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

import llmhub
from llmhub import distributed
from llmhub.api import embeddings  # noqa: F401 - imported before the fork, once for all children
from llmhub.cache import redis
from llmhub.config import Settings
from llmhub.engine import batch_run, fan_out, runtime, transport  # noqa: F401 - imported before the fork, once for all children
from llmhub.providers import prices
from llmhub.tables import prompt_batch, results  # noqa: F401 - as above
from llmhub.wire import openai_chat  # noqa: F401 - as above

MODEL = "openai/gpt-4o-mini"
prices.find_price("openai", "gpt-4o-mini", datetime.now(UTC))


def run_batch(job: dict[str, Any]) -> dict[str, Any]:
    """Send the prompts of a job in batches. Return the columns of the results."""
    batch_run.SETTLE_S, batch_run.CLAIM_POLL_S = 0.1, 0.02  # type: ignore[misc]
    provider = job["batch"].partition("/")[0]
    endpoint = llmhub.Endpoint(base_url=job["url"], api_key="k")
    with llmhub.Hub(endpoints={provider: endpoint}, cache=job["store"], settings=Settings()) as hub:
        table = llmhub.complete_table(
            pa.table({"q": job["prompts"]}),
            "{q}",
            model=job["batch"],
            hub=hub,
            mode="batch",
            poll_s=0.02,
            progress=False,
        )
    names = {"statuses": "status", "responses": "response", "hits": "cache_hit", "errors": "error"}
    return {name: table.column(column).to_pylist() for name, column in names.items()}


def run_embeddings(job: dict[str, Any]) -> dict[str, Any]:
    """Embed the prompts of a job. Return the columns of the results."""
    endpoint = llmhub.Endpoint(base_url=job["url"], api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, cache=job["store"], settings=Settings()) as hub:
        table = llmhub.embed_table(
            pa.table({"q": job["prompts"]}),
            "q",
            model=job["embed"],
            hub=hub,
            dimensions=job["dimensions"],
            batch_size=job["batch_size"],
            concurrency=job["concurrency"],
            progress=False,
        )
    names = {"statuses": "status", "responses": "embedding", "hits": "cache_hit", "errors": "error"}
    return {name: table.column(column).to_pylist() for name, column in names.items()}


def run_distributed(job: dict[str, Any]) -> dict[str, Any]:
    """Run a distributed job over the prompts, in record batches. Return columns of the results."""
    endpoint = llmhub.Endpoint(base_url=job["url"], api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, cache=job["store"], settings=Settings()) as hub:
        work = distributed.job("{q}", model=MODEL, hub=hub, concurrency=job["concurrency"])
        batches = pa.table({"q": job["prompts"]}).to_batches(max_chunksize=job["batch_rows"])
        table = pa.Table.from_batches(work(batches))
    return {"statuses": table.column("status").to_pylist(), "hits": table.column("cache_hit").to_pylist()}


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Send the prompts of a job to a simulator. Return the columns of the results."""
    if "batch" in job:
        return run_batch(job)
    if "embed" in job:
        return run_embeddings(job)
    if "batch_rows" in job:
        return run_distributed(job)
    endpoint = llmhub.Endpoint(base_url=job["url"], api_key="k")
    if job.get("elsewhere"):
        redis.host_id = lambda: "elsewhere"
    models = job.get("route", ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with llmhub.Hub(
            # The second endpoint is down.
            endpoints={"openai": endpoint, "compatible": llmhub.Endpoint(base_url="http://127.0.0.1:1/v1")},
            route=llmhub.Failover(*models) if models else None,
            cache=job["store"],
            settings=Settings(),
            ambiguous=job.get("ambiguous", "resend"),
        ) as hub:
            table = llmhub.complete_table(
                pa.table({"q": job["prompts"]}),
                "{q}",
                model=models[0] if models else MODEL,
                hub=hub,
                concurrency=job.get("concurrency", 8),
                cache=job.get("cache"),
                progress=False,
            )
    return {
        "statuses": table.column("status").to_pylist(),
        "responses": table.column("response").to_pylist(),
        "hits": table.column("cache_hit").to_pylist(),
        "errors": table.column("error").to_pylist(),
        "warnings": [str(warning.message) for warning in caught],
        "modules": list(sys.modules) if job.get("list_modules") else [],
    }


def fork_job(job: dict[str, Any], result_path: Path) -> int:
    """Fork a child that runs a job and writes its result to a file. Return the child's process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        result = run_job(job)
        draft = result_path.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(result))
        draft.replace(result_path)
        code = 0
    except BaseException:  # noqa: BLE001 - the child ends here in any case
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Serve requests until the end of stdin."""
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        result_paths: dict[int, Path] = {}
        reply({"ready": True})
        for number, line in enumerate(sys.stdin.buffer):
            match msgspec.json.decode(line):
                case {"start": job}:
                    path = Path(folder) / str(number)
                    pid = fork_job(job, path)
                    result_paths[pid] = path
                    reply({"pid": pid})
                case {"import": modules}:
                    for name in modules:
                        with contextlib.suppress(ImportError):
                            importlib.import_module(name)
                    gc.freeze()
                    reply({})
                case {"wait": pid}:
                    _, status = os.waitpid(pid, 0)
                    path = result_paths.pop(pid)
                    result = msgspec.json.decode(path.read_bytes()) if path.exists() else {}
                    reply({**result, "killed": os.WIFSIGNALED(status), "code": status >> 8})


def reply(message: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
