"""Measure the cost of showing progress: as a widget in a real kernel, and as a line in a terminal.

``python benchmarks/progress.py`` runs with and without progress in turns, and prints by how much a run takes longer:
``clock`` is the median ratio of wall times over pairs of runs, ``reports`` the processor time of the reports as a share
of the run's, ``processor`` the ratio of the shortest processor times. Only ``reports`` is reliable on a busy machine.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

from bench import HERE, MODEL, PROMPT, hub_at, static_server, texts
from jupyter_client.manager import start_new_kernel

import llmhub
from llmhub.engine.progress import ProgressReporter
from llmhub.progress.display import text_display

ROWS: Final = 5_000
CACHED_ROWS: Final = 100_000
MARK: Final = "figures "
CELL: Final = (
    "import sys; sys.path.insert(0, {here!r}); import progress; print({mark!r}, progress.widget_costs({url!r}, {runs}))"
)


class Terminal(io.StringIO):
    """A terminal whose output is discarded."""

    def isatty(self) -> bool:
        return True


def run_once(hub: llmhub.Hub, rows: int, progress: Any) -> tuple[float, float]:
    """Return the wall time and the processor time of one run, in seconds."""
    table = texts(rows)
    wall, cpu = time.perf_counter(), time.process_time()
    results = llmhub.complete_table(table, PROMPT, model=MODEL, hub=hub, concurrency=64, progress=progress)
    times = time.perf_counter() - wall, time.process_time() - cpu
    assert results.num_rows == rows
    return times


def progress_cost(hub: llmhub.Hub, rows: int, runs: int, on: Callable[[], Any]) -> dict[str, float]:
    """Return the shares by which a run takes longer with progress ``on()``."""
    run_once(hub, rows, on())
    report_times_s: list[float] = []
    report = ProgressReporter.report

    def timed_report(reporter: ProgressReporter) -> None:
        start = time.thread_time()
        report(reporter)
        report_times_s.append(time.thread_time() - start)

    setattr(ProgressReporter, "report", timed_report)  # noqa: B010 - during the measurement
    pairs = []
    for _ in range(runs):
        shown_first = random.random() < 0.5
        first = run_once(hub, rows, on() if shown_first else False)
        second = run_once(hub, rows, False if shown_first else on())
        pairs.append((first, second) if shown_first else (second, first))
    setattr(ProgressReporter, "report", report)  # noqa: B010 - as before
    shown, hidden = zip(*pairs, strict=True)
    return {
        "clock": statistics.median(with_s / without_s for (with_s, _), (without_s, _) in pairs) - 1,
        "reports": sum(report_times_s) / sum(cpu_s for _, cpu_s in shown),
        "processor": min(cpu_s for _, cpu_s in shown) / min(cpu_s for _, cpu_s in hidden) - 1,
    }


def widget_costs(url: str, runs: int) -> str:
    """Measure fresh and cached rows in this process, a kernel. Return the figures as JSON."""
    with tempfile.TemporaryDirectory() as folder, hub_at(url) as uncached:
        costs = {"widget, fresh rows": progress_cost(uncached, ROWS, runs, lambda: True)}
        with hub_at(url, cache=llmhub.DiskCache(f"{folder}/runs.db")) as caching:
            run_once(caching, CACHED_ROWS, False)
            costs["widget, cached rows"] = progress_cost(caching, CACHED_ROWS, runs, lambda: True)
    return json.dumps(costs)


def run_in_kernel(url: str, runs: int) -> dict[str, dict[str, float]]:
    """Run `widget_costs` in a kernel of its own."""
    manager, client = start_new_kernel(kernel_name="python3")
    output: list[str] = []
    try:
        cell = CELL.format(here=str(HERE), mark=MARK, url=url, runs=runs)
        reply = client.execute_interactive(
            cell, timeout=1800, output_hook=lambda message: output.append(_stream_text(message))
        )
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    costs: dict[str, dict[str, float]] = json.loads("".join(output).partition(MARK)[2])
    return costs


def _stream_text(message: dict[str, Any]) -> str:
    return str(message["content"]["text"]) if message["msg_type"] == "stream" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=15, help="pairs of runs, with and without progress")
    options = parser.parse_args()
    with static_server() as url:
        costs = run_in_kernel(url, options.runs)
        stderr = sys.stderr
        sys.stderr = Terminal()
        try:
            with hub_at(url) as hub:
                show = lambda: text_display(explicit=True).report  # noqa: E731
                costs["line, fresh rows"] = progress_cost(hub, ROWS, options.runs, show)
        finally:
            sys.stderr = stderr
    for label, shares in costs.items():
        print(f"{label:<20}" + "".join(f"  {kind} {share:+.1%}" for kind, share in shares.items()))


if __name__ == "__main__":
    main()
