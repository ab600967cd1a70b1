"""Live runs in JupyterLab in a browser: widget, interrupt button, stop button of a job."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
]

SET_UP = """
import pandas as pd, llmhub
hub = llmhub.Hub(endpoints={{"openai": llmhub.Endpoint(base_url="{url}/v1", api_key="k")}})
df = pd.DataFrame({{"n": range(50)}})
ask = dict(model=["openai/gpt-4o-mini", "openai/gpt-4.1-mini"], hub=hub, concurrency=4)
"""
COUNT = "table['status'].value_counts().to_dict()"
REFUSAL = b'{"error":{"message":"no","type":"invalid_request_error"}}'


class Peer:
    """A server that answers after it is released, and pauses after sixty answers."""

    def __init__(self, scripted: Callable[..., Any], replies: Any) -> None:
        self.start, self.more = threading.Event(), threading.Event()
        first = [[self.start, replies.answer()] for _ in range(55)]
        refused = [[self.start, replies.reply(REFUSAL, status=400)] for _ in range(5)]
        self._played = scripted(*refused, *first, [self.more, replies.answer()])

    @property
    def set_up(self) -> str:
        return SET_UP.format(url=self._played.url)

    @property
    def requests(self) -> int:
        return len(self._played.requests)


@pytest.fixture
def peer(scripted: Callable[..., Any], replies: Any) -> Peer:
    return Peer(scripted, replies)


def shares(page: Any, cell: int) -> list[float]:
    """Return the filled share of each bar as rendered."""
    measured: list[float] = page.output(cell).evaluate(
        """output => [...output.querySelectorAll('div')]
            .filter(div => div.style.height === '10px')
            .map(bar => [...bar.children].reduce((sum, part) => sum + part.getBoundingClientRect().width, 0)
                / bar.getBoundingClientRect().width)"""
    )
    return measured


def test_widget_updates_and_saved_notebook_has_static_html(lab: Any, peer: Peer) -> None:
    with lab.opened("moving", peer.set_up, "table = df.llm.complete('Say {n}', **ask)", COUNT) as page:
        page.run_all()
        page.until("0/100 rows", 1)
        assert shares(page, 1) == [0.0, 0.0]
        page.picture("0")
        peer.start.set()
        page.until("60/100 rows", 1)
        page.picture("60")
        page.theme("JupyterLab Dark")
        page.picture("60-dark")
        filled = shares(page, 1)
        assert sum(filled) / 2 == pytest.approx(0.6, abs=0.02)
        assert "5 failed" in page.output(1).inner_text()
        assert page.output(1).locator("button").count() == 0  # a cell that blocks hears no button
        peer.more.set()
        page.until("{'ok': 95, 'error': 5}", 2)
        page.picture("100-dark")
        assert shares(page, 1) == pytest.approx([1.0, 1.0], abs=0.02)
        (output,) = page.saved()[1]["outputs"]
        assert set(output["data"]) == {"text/html", "text/plain"}
        assert "100/100 rows" in "".join(output["data"]["text/html"])


def test_interrupt_of_a_blocking_cell_keeps_partial_results(lab: Any, peer: Peer) -> None:
    with lab.opened("interrupted", peer.set_up, "table = df.llm.complete('Say {n}', **ask)", COUNT) as page:
        page.run_all()
        peer.start.set()
        page.until("60/100 rows", 1)
        page.interrupt()
        page.until("stopping", 1)
        page.picture("stopping")
        peer.more.set()
        page.until("'cancelled': 36", 2)
        page.picture("stopped")
        assert "'ok': 59" in page.output(2).inner_text()
        assert peer.requests == 64
        assert "36 not sent" in page.output(1).inner_text()


def test_stop_button_of_an_awaiting_cell(lab: Any, peer: Peer) -> None:
    awaited = "table = await df.llm.acomplete('Say {n}', **ask)"
    with lab.opened("awaited", peer.set_up, awaited, COUNT) as page:
        page.run_all()
        peer.start.set()
        page.until("60/100 rows", 1)
        page.picture("60")
        page.output(1).locator("button", has_text=re.compile("Stop")).click()
        page.until("stopping", 1)
        page.picture("stopping")
        peer.more.set()
        page.until("'cancelled': 36", 2)
        assert peer.requests == 64
        assert page.output(1).locator("button").count() == 0


def test_stop_button_of_a_job_while_other_cells_run(lab: Any, peer: Peer) -> None:
    begun = "job = df.llm.submit('Say {n}', **ask)"
    finish = "table = job.result()\n" + COUNT
    with lab.opened("job", peer.set_up, begun, "job.done, len(job.table()) <= 60", finish) as page:
        peer.start.set()
        for cell in (0, 1, 2):
            page.run(cell)
        page.until("(False, True)", 2)
        page.until("60/100 rows", 1)
        page.picture("60")
        page.output(1).locator("button", has_text=re.compile("Stop")).click()
        page.until("stopping", 1)
        peer.more.set()
        page.until("64/100 rows", 1)
        page.run(3)
        page.until("'cancelled': 36", 3)
        page.picture("stopped")
        assert peer.requests == 64
        assert page.output(1).locator("button").count() == 0
        (output,) = page.saved()[1]["outputs"]
        assert set(output["data"]) == {"text/html", "text/plain"}


HOSTILE = r"""
import llmhub, pyarrow as pa
from llmhub.core.types import CompletionResponse, Text
from llmhub.tables.schema import RESULTS
evil = ("<script>window.owned = 1</script><img src=x onerror='window.owned = 1'><style>*{display:none}</style></pre>"
        "\x1b[31mred\x1b[0m \u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd $x^2$ and $y^2$ ")
row = {"row": 0, "sample": 0, "provider": "openai", "model": "m", "status": "ok", "response": evil * 5_000}
CompletionResponse(parts=(Text(evil),), served_model=evil)
"""


def test_hostile_response_is_not_executed(lab: Any) -> None:
    show = "llmhub.show(pa.Table.from_pylist([row, {**row, 'status': 'error', 'error': evil}], schema=RESULTS))"
    with lab.opened("hostile", HOSTILE, show) as page:
        page.run_all()
        page.until("characters", 1)
        for cell in (0, 1):
            output = page.output(cell)
            assert "\u2039ESC\u203a[31mred" in output.inner_text()
            assert output.locator("script, style, img, mjx-container").count() == 0
            text = output.locator("pre, [dir=auto]").first
            assert text.evaluate("block => getComputedStyle(block).unicodeBidi") in {
                "isolate",
                "plaintext",
            }
        assert page.page.evaluate("window.owned") is None
        page.picture("light")
        page.theme("JupyterLab Dark")
        page.picture("dark")
        page.theme("JupyterLab Light")
