"""Calls in notebook cells: blocking, awaited, queued by "Run all", interrupted; in two kernel generations."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from llmhub.sim import Latency, Simulator, SimulatorThread, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")]

ROWS = 100
SET_UP = """
import asyncio, json, pandas as pd, llmhub
from collections import Counter
from llmhub.sim import endpoints
hub = llmhub.Hub(endpoints=endpoints({url!r}), cache=llmhub.MemoryCache())
df = pd.DataFrame({{"n": range({rows})}})
ask = dict(model="openai/gpt-4o-mini", hub=hub, concurrency=4)
"""


@dataclass(slots=True)
class Peer:
    """A simulator in this process that counts requests."""

    served: SimulatorThread
    received: threading.Semaphore

    def wait_for(self, count: int) -> None:
        """Wait for ``count`` further requests."""
        for _ in range(count):
            assert self.received.acquire(timeout=60)

    @property
    def requests(self) -> int:
        count: int = self.served.counts()["requests"]
        return count


@pytest.fixture
def ready(kernel: Any) -> Iterator[Callable[..., Peer]]:
    """Return a function that sets up a kernel with a simulator of a given latency."""
    with ExitStack() as stack:

        def bring(latency_s: float) -> Peer:
            received = threading.Semaphore(0)

            def respond(prompt: str) -> str:
                received.release()
                return f"said {prompt}"

            served = stack.enter_context(serving(Simulator(latency=Latency(latency_s), respond=respond)))
            kernel.run(SET_UP.format(url=served.url, rows=ROWS))
            return Peer(served, received)

        yield bring
        kernel.run("hub.close()")


def test_run_all_with_blocking_and_awaiting_cells(kernel: Any, ready: Callable[..., Peer]) -> None:
    """Cells that are queued while one blocks run after it."""
    peer = ready(0.01)
    cells = kernel.queue(
        "first = df.llm.complete('Say {n}', **ask)",
        "second = await df.llm.acomplete('Say {n} again', **ask); print(Counter(second['status']), len(second))",
        "one = llmhub.complete('Hi', model=ask['model'], hub=hub)\n"
        "print(Counter(first['status']), first['response'][7], one.text)",
    )
    kernel.finish(*cells)
    assert cells[1].text.strip() == f"Counter({{'ok': {ROWS}}}) {ROWS}"
    assert cells[2].text.strip() == f"Counter({{'ok': {ROWS}}}) said Say 7 said Hi"
    assert peer.requests == 2 * ROWS + 1


def test_interrupt_of_a_blocking_cell_returns_partial_results(kernel: Any, ready: Callable[..., Peer]) -> None:
    """Nothing more is sent, calls in flight are in the table, and the next cells run."""
    peer = ready(0.05)
    first, *behind = kernel.queue(
        "table = df.llm.complete('Say {n}', **ask)",
        "print(json.dumps(Counter(table['status'])))",
        "again = await df.llm.acomplete('Say {n}', **ask | {'concurrency': 64})\n"
        "print(json.dumps(Counter(again['status'])))",
    )
    peer.wait_for(8)
    kernel.interrupt()
    kernel.finish(first, *behind)
    counted = json.loads(behind[0].text)
    assert counted == {"ok": counted["ok"], "cancelled": ROWS - counted["ok"]}
    assert 8 <= counted["ok"] < ROWS
    # Answers were cached, so the next run sent the rest only, and no request was lost.
    assert json.loads(behind[1].text) == {"ok": ROWS}
    assert peer.requests == ROWS


def test_second_interrupt_cancels_calls_in_flight(kernel: Any, ready: Callable[..., Peer]) -> None:
    peer = ready(3600.0)
    (cell,) = kernel.queue(
        "def told(p):\n    if p.stopping and not p.finished: print('stopping', p.in_flight)\n"
        "table = df.llm.complete('Say {n}', progress=told, **ask)\n"
        "print(dict(Counter(table['status'])), table['error'].str.contains('in flight').sum())"
    )
    peer.wait_for(4)
    kernel.interrupt()
    kernel.until(lambda: "stopping 4" in cell.text)
    kernel.interrupt()
    kernel.finish(cell)
    assert cell.text.splitlines()[-1] == f"{{'cancelled': {ROWS}}} 4"
    assert peer.requests == 4


def test_awaited_call_does_not_block_the_loop(kernel: Any, ready: Callable[..., Peer]) -> None:
    """Other tasks of the cell run meanwhile, and several calls run concurrently."""
    ready(0.01)
    output = kernel.run("""
ticks = 0
async def tick():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep(0.001)
ticking = asyncio.create_task(tick())
both = await asyncio.gather(*(df.llm.acomplete(say + " {n}", **ask) for say in ("Say", "Sing")))
ticking.cancel()
print(ticks > 5, [dict(Counter(frame["status"])) for frame in both])
""")
    assert output == f"True [{{'ok': {ROWS}}}, {{'ok': {ROWS}}}]"


def test_interrupt_of_an_awaiting_cell_keeps_cached_results(kernel: Any, ready: Callable[..., Peer]) -> None:
    """An interrupt cancels the awaiting cell, which gets no table, but the cache has the answers."""
    peer = ready(0.1)
    (cell,) = kernel.queue("await df.llm.acomplete('Say {n}', **ask)")
    peer.wait_for(8)
    kernel.interrupt()
    kernel.until(lambda: cell.idle and cell.replied)
    assert cell.error
    # The kernel continues, nothing is sent in the background, and cached answers are reused.
    kernel.run("while hub.runtime.client.transport.in_flight: await asyncio.sleep(0.01)")
    sent = peer.requests
    assert sent < ROWS
    output = kernel.run("print((await df.llm.acomplete('Say {n}', **ask | {'concurrency': 64}))['cache_hit'].sum())")
    assert int(output) >= 4
    assert peer.requests == sent + ROWS - int(output)


def test_widget_leaves_static_html_in_the_cell(kernel: Any, ready: Callable[..., Peer]) -> None:
    """The widget is replaced by static HTML at the end, and closed."""
    ready(0.1)
    kernel.run("import ipywidgets")
    (cell,) = kernel.queue("table = df.head(40).llm.complete('Say {n}', **ask); table.shape[0]")
    kernel.finish(cell)
    shown = [m["content"]["data"] for m in cell.messages if m["msg_type"] in {"display_data", "update_display_data"}]
    assert "text/html" in shown[0]
    assert "application/vnd.jupyter.widget-view+json" in shown[1]
    assert set(shown[-1]) == {"text/html", "text/plain"}
    assert "40/40 rows" in shown[-1]["text/html"]
    opened = {m["content"]["comm_id"] for m in cell.messages if m["msg_type"] == "comm_open"}
    closed = {m["content"]["comm_id"] for m in cell.messages if m["msg_type"] == "comm_close"}
    assert opened
    assert closed == opened
