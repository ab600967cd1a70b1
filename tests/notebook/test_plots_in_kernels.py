"""Plots in notebook cells of a fresh kernel, without ``%matplotlib inline``: one picture each, in two generations."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.notebook.conftest import Cell, Kernel, install_old_ipykernel, run_kernel

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="kernels of POSIX")]

SET_UP = """
import llmhub.plots
from llmhub.tables.schema import RESULTS
table = RESULTS.empty_table()
"""


@pytest.fixture(params=["installed", "6"])
def fresh(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Start a kernel that has not plotted yet."""
    with run_kernel(str(install_old_ipykernel(request.config)) if request.param == "6" else "") as kernel:
        kernel.run(SET_UP)
        yield kernel


def pictures(cell: Cell) -> int:
    return sum("image/png" in message["content"].get("data", {}) for message in cell.messages)


def texts(cell: Cell) -> list[str]:
    """Return what a cell shows as text, and not as a picture with a text beside it."""
    shown = [message["content"].get("data", {}) for message in cell.messages]
    return [data["text/plain"] for data in shown if "text/plain" in data and "image/png" not in data]


def run(kernel: Any, code: str) -> Cell:
    (cell,) = kernel.queue(code)
    kernel.finish(cell)
    return cell


def test_each_plot_is_drawn_once(fresh: Kernel) -> None:
    assert pictures(run(fresh, "ax = llmhub.plots.cost_by_model(table)")) == 1
    assert pictures(run(fresh, "llmhub.plots.cost_by_model(table)")) == 1
    assert pictures(run(fresh, "import matplotlib.pyplot as plt; llmhub.plots.cost_by_model(table); plt.show()")) == 1
    assert pictures(run(fresh, "llmhub.plots.cost_by_model(table); llmhub.plots.timeline(table)")) == 2


def test_no_text_stands_above_the_picture(fresh: Kernel) -> None:
    for code in (
        "llmhub.plots.cost_by_model(table)",
        "llmhub.plots.cost_by_model(table); llmhub.plots.timeline(table)",
        "display(llmhub.plots.timeline(table))",
    ):
        cell = run(fresh, code)
        assert texts(cell) == []
        assert pictures(cell) == code.count("table)")
    assert texts(run(fresh, "repr(llmhub.plots.cost_by_model(table))"))[0][1:].startswith("<PlotAxes: ")


def test_kept_plots_show_themselves_later(fresh: Kernel) -> None:
    run(fresh, "ax = llmhub.plots.cost_by_model(table)")
    assert pictures(run(fresh, "ax")) == 1
    assert pictures(run(fresh, "ax.figure")) == 1


def test_plots_are_drawn_with_another_backend(fresh: Kernel) -> None:
    cell = run(fresh, "import matplotlib; matplotlib.use('agg'); llmhub.plots.cost_by_model(table)")
    assert pictures(cell) == 1
