"""Imports everything once, then forks a child for each job it is told of. Speaks JSON lines."""

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
from llmhub.config import Settings
from llmhub.engine import fan_out, runtime, transport  # noqa: F401 - imported so that no child has to
from llmhub.providers import prices
from llmhub.tables import prompt_batch, results  # noqa: F401
from llmhub.wire import openai_chat  # noqa: F401

MODEL = "openai/gpt-4o-mini"
prices.find_price("openai", "gpt-4o-mini", datetime.now(UTC))


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Ask a simulator questions, and say what came of it."""
    endpoint = llmhub.Endpoint(base_url=job["url"], api_key="k")
    models = job.get("route", ())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with llmhub.Hub(
            # One that is down, beside the simulator.
            endpoints={"openai": endpoint, "compatible": llmhub.Endpoint(base_url="http://127.0.0.1:1/v1")},
            route=llmhub.Failover(*models) if models else None,
            cache=job["store"],
            settings=Settings(),
            ambiguous=job.get("ambiguous", "resend"),
        ) as hub:
            table = llmhub.complete_table(
                pa.table({"q": job["questions"]}),
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
        "warnings": [str(one.message) for one in caught],
        "modules": list(sys.modules) if job.get("warm") else [],
    }


def begin(job: dict[str, Any], said: Path) -> int:
    """Fork a child that writes what came of its job to a file."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        done = work(job)
        draft = said.with_suffix(".tmp")
        draft.write_bytes(msgspec.json.encode(done))
        draft.replace(said)
        code = 0
    except BaseException:  # noqa: BLE001 - a child ends here, whatever happens
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Do what is asked, line by line."""
    gc.freeze()
    with tempfile.TemporaryDirectory() as folder:
        files: dict[int, Path] = {}
        answer({"ready": True})
        for number, line in enumerate(sys.stdin.buffer):
            match msgspec.json.decode(line):
                case {"start": job}:
                    said = Path(folder) / str(number)
                    pid = begin(job, said)
                    files[pid] = said
                    answer({"pid": pid})
                case {"warm": modules}:
                    for name in modules:
                        with contextlib.suppress(ImportError):
                            importlib.import_module(name)
                    gc.freeze()
                    answer({})
                case {"wait": pid}:
                    _, status = os.waitpid(pid, 0)
                    said = files.pop(pid)
                    done = msgspec.json.decode(said.read_bytes()) if said.exists() else {}
                    answer({**done, "killed": os.WIFSIGNALED(status), "code": status >> 8})


def answer(what: dict[str, Any]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
