"""Batches: rows a second from prompts to an uploaded file, and from a result file to stored answers and a table.

Run ``python benchmarks/batches.py --rows 100000``. A server in a process of its own takes files and answers each row at
once with the same completion, in any order; the run is a process of its own too, so that its memory can be read. Wall
times depend on what else runs.

Memory is the largest resident size of the run's process: the interpreter with pandas, pyarrow and llmhub, the prompts
as an Arrow table, what the run adds, and its table. The server is not in it. "Before" is the largest size before the
run begins, after one row has been sent to load what is loaded at first use; "after" is the size with the table, once
the run has ended. What the run holds beside its table while it goes on is at most the peak less what was before.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa

import llmhub
from llmhub.config import Settings
from llmhub.engine import batch_client

CUSTOM_ID = re.compile(rb'"custom_id":"([^"]+)"')
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 60}}],
    "usage": {"prompt_tokens": 120, "completion_tokens": 60, "total_tokens": 180},
    "service_tier": "default",
}
PROMPT = "Summarise the following review in one sentence: " + "The room was clean and the staff were kind. " * 8


class BatchServer(BaseHTTPRequestHandler):
    """Takes files, creates batches that end once all rows are there, and sends one result for each row of a file."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes] = {}  # noqa: RUF012 - one server a process
    rows: dict[str, int] = {}  # noqa: RUF012 - as above
    expected = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/files"):
            name = f"file-{len(self.files)}"
            tail = json.dumps({"status_code": 200, "request_id": "r", "body": ANSWER}).encode()
            ids = CUSTOM_ID.findall(body)
            random.Random(0).shuffle(ids)
            rows = (b'{"custom_id":"%b","response":%b,"error":null}\n' % (row, tail) for row in ids)
            self.files[name] = b"".join(rows)
            self.rows[name] = self.files[name].count(b"\n")
            self.reply(json.dumps({"id": name}).encode())
        else:
            self.reply(self.batch(json.loads(body)["input_file_id"]))

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.reply(self.files[self.path.split("/")[-2]] if name == "content" else self.batch(name))

    def batch(self, name: str) -> bytes:
        has_ended = self.rows[name] == 1 or sum(self.rows.values()) > self.expected
        status = "completed" if has_ended else "in_progress"
        return json.dumps({"id": name, "status": status, "output_file_id": name, "created_at": 1}).encode()

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    """Return the resident size now; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def measure(url: str, rows: int) -> dict[str, float]:
    """Run ``rows`` prompts through batches; return seconds and megabytes."""
    starts = range(0, rows, 1_000)
    prompts = [pa.array([f"{number} {PROMPT}" for number in range(at, min(at + 1_000, rows))]) for at in starts]
    frame = pa.table({"q": pa.chunked_array(prompts, pa.string())})
    marks: dict[str, list[float]] = {"sent": [], "read": [], "sent_cpu": [], "read_cpu": []}
    send, read = batch_client.BatchClient.send_step, batch_client.BatchClient.read_rows

    async def timed_send(self: Any, step: Any, batch: Any, file: Any) -> Any:
        sent = await send(self, step, batch, file)
        marks["sent"].append(time.perf_counter())
        marks["sent_cpu"].append(time.process_time())
        return sent

    async def timed_read(self: Any, *given: Any) -> Any:
        marks["read"].append(time.perf_counter())
        marks["read_cpu"].append(time.process_time())
        return await read(self, *given)

    batch_client.BatchClient.send_step = timed_send  # type: ignore[assignment, method-assign]
    batch_client.BatchClient.read_rows = timed_read  # type: ignore[assignment, method-assign]
    endpoint = llmhub.Endpoint(base_url=f"{url}/v1", api_key="k")
    with tempfile.TemporaryDirectory() as folder:
        cache = llmhub.DiskCache(Path(folder) / "cache.db")
        with llmhub.Hub(endpoints={"openai": endpoint}, cache=cache, settings=Settings()) as hub:
            warm: dict[str, Any] = {
                "model": "openai/gpt-4o-mini",
                "hub": hub,
                "mode": "batch",
                "poll_s": 0.01,
                "progress": False,
            }
            llmhub.complete_table({"q": ["warm"]}, "{q}", **warm)
            before_mb = peak_mb()
            for seen in marks.values():
                seen.clear()
            started, began = time.perf_counter(), time.process_time()
            table = llmhub.complete_table(frame, "{q}", **warm)
            ended = time.perf_counter()
            used = time.process_time() - began
            largest_mb, after_mb = peak_mb(), resident_mb()
    failed = [message for message in table.column("error").to_pylist() if message is not None]
    assert not failed, failed[0]
    build_cpu, file_cpu = (max(marks["sent_cpu"]) - began, began + used - min(marks["read_cpu"]))
    return {
        "build_cpu_s": build_cpu,
        "file_cpu_s": file_cpu,
        "build_s": max(marks["sent"]) - started,
        "file_s": ended - min(marks["read"]),
        "all_s": ended - started,
        "before_mb": before_mb,
        "peak_mb": largest_mb,
        "after_mb": after_mb,
        "input_mb": frame.nbytes / 1e6,
        "table_mb": table.nbytes / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        BatchServer.expected = args.rows
        http = ThreadingHTTPServer(("127.0.0.1", 0), BatchServer)
        print(http.server_address[1], flush=True)
        http.serve_forever()
    if args.url:
        print(json.dumps(measure(args.url, args.rows)))
        return
    print(f"{args.rows:,} rows in batches of 50,000")
    for _ in range(args.repeats):
        serve = [sys.executable, __file__, "--serve", "--rows", str(args.rows)]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            command = [sys.executable, __file__, "--url", url, "--rows", str(args.rows)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            server.kill()
        print(
            f"built and uploaded {args.rows / found['build_s']:>8,.0f} rows/s, filed and tabled "
            f"{args.rows / found['file_s']:>8,.0f} rows/s, in all {found['all_s']:.1f} s, "
            f"peak {found['peak_mb']:,.0f} MB ({found['before_mb']:,.0f} MB before, with {found['input_mb']:,.0f} MB "
            f"of prompts; {found['after_mb']:,.0f} MB after, with {found['table_mb']:,.0f} MB of results); by its own "
            f"CPU {args.rows / found['build_cpu_s']:,.0f} and {args.rows / found['file_cpu_s']:,.0f} rows/s"
        )


if __name__ == "__main__":
    main()
