"""What it costs to show a live run: rows a second with the panel (in a real kernel) or the line, over those without.

``python benchmarks/progress.py`` measures in turns, with and without, and prints by how much a run takes longer: the
median over pairs of runs by the clock, the processor's time that goes into the reports themselves as a share of the
run's, and the quickest run of each by the processor's time. Only the second holds on a machine that is busy.
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
CELL: Final = "import sys; sys.path.insert(0, {here!r}); import progress; print('took', progress.took({url!r}, {runs}))"


class Terminal(io.StringIO):
    """A terminal that is written to and read by nobody."""

    def isatty(self) -> bool:
        return True


def once(hub: llmhub.Hub, rows: int, progress: Any) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    table = texts(rows)
    wall, cpu = time.perf_counter(), time.process_time()
    out = llmhub.complete_table(table, PROMPT, model=MODEL, hub=hub, concurrency=64, progress=progress)
    took = time.perf_counter() - wall, time.process_time() - cpu
    assert out.num_rows == rows
    return took


def cost(hub: llmhub.Hub, rows: int, runs: int, on: Callable[[], Any]) -> dict[str, float]:
    """Share by which it takes longer when it is shown."""
    once(hub, rows, on())
    reported: list[float] = []
    tell = ProgressReporter.report

    def timed(reports: ProgressReporter) -> None:
        start = time.thread_time()
        tell(reports)
        reported.append(time.thread_time() - start)

    setattr(ProgressReporter, "report", timed)  # noqa: B010 - for the time of the measurement
    pairs = []
    for _ in range(runs):
        first = random.random() < 0.5
        one = once(hub, rows, on() if first else False)
        other = once(hub, rows, False if first else on())
        pairs.append((one, other) if first else (other, one))
    setattr(ProgressReporter, "report", tell)  # noqa: B010 - as it was
    shown, hidden = ([pair[which] for pair in pairs] for which in (0, 1))
    return {
        "clock": statistics.median(one[0] / other[0] for one, other in pairs) - 1,
        "reports": sum(reported) / sum(one[1] for one in shown),
        "processor": min(one[1] for one in shown) / min(other[1] for other in hidden) - 1,
    }


def took(url: str, runs: int) -> str:
    """Measure fresh and cached rows where this runs: in a kernel, with its panel."""
    with tempfile.TemporaryDirectory() as folder, hub_at(url) as fresh:
        found = {"panel, fresh rows": cost(fresh, ROWS, runs, lambda: True)}
        with hub_at(url, cache=llmhub.DiskCache(f"{folder}/runs.db")) as kept:
            once(kept, CACHED_ROWS, False)
            found["panel, cached rows"] = cost(kept, CACHED_ROWS, runs, lambda: True)
    return json.dumps(found)


def in_kernel(url: str, runs: int) -> dict[str, dict[str, float]]:
    """Run `took` in a kernel of its own."""
    manager, client = start_new_kernel(kernel_name="python3")
    said: list[str] = []
    try:
        cell = CELL.format(here=str(HERE), url=url, runs=runs)
        reply = client.execute_interactive(cell, timeout=1800, output_hook=lambda message: said.append(_text(message)))
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    found: dict[str, dict[str, float]] = json.loads("".join(said).partition("took ")[2])
    return found


def _text(message: dict[str, Any]) -> str:
    return str(message["content"]["text"]) if message["msg_type"] == "stream" else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=15, help="pairs of runs, with and without")
    asked = parser.parse_args()
    with static_server() as url:
        found = in_kernel(url, asked.runs)
        standard = sys.stderr
        sys.stderr = Terminal()
        try:
            with hub_at(url) as hub:
                found["line, fresh rows"] = cost(hub, ROWS, asked.runs, lambda: text_display(explicit=True).report)
        finally:
            sys.stderr = standard
    for what, shares in found.items():
        print(f"{what:<20}" + "".join(f"  {kind} {share:+.1%}" for kind, share in shares.items()))


if __name__ == "__main__":
    main()
