"""Fixtures: Jupyter kernels of two generations, and JupyterLab in a browser."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from playwright.sync_api import sync_playwright

from tests.old_releases import install_release

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
OLD = "ipykernel>=6.29,<7"


@dataclass(slots=True)
class Cell:
    """A queued cell and its output so far."""

    id: str
    text: str = ""
    error: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    idle: bool = False
    replied: bool = False


class Kernel:
    """A kernel with a client that queues cells as "Run all" does."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self.client = manager, client
        self.cells: dict[str, Cell] = {}

    def queue(self, *codes: str) -> list[Cell]:
        """Queue cells without waiting."""
        cells = [Cell(self.client.execute(code, store_history=True)) for code in codes]
        self.cells.update((cell.id, cell) for cell in cells)
        return cells

    def until(self, met: Callable[[], bool]) -> None:
        """Process messages of the kernel until a condition holds."""
        deadline = time.monotonic() + WAIT_S
        while not met():
            state = {cell.id: (cell.text, cell.error) for cell in self.cells.values() if not cell.idle}
            assert time.monotonic() < deadline, f"the kernel does not get there: {state}"
            self._take()

    def finish(self, *cells: Cell) -> None:
        """Wait for cells; fail if one raised an error."""
        self.until(lambda: all(cell.idle and cell.replied for cell in cells))
        assert [cell.error for cell in cells if cell.error] == []

    def run(self, code: str) -> str:
        """Run a cell and return its output."""
        (cell,) = self.queue(code)
        self.finish(cell)
        return cell.text.strip()

    def interrupt(self) -> None:
        """Interrupt the kernel as the toolbar button does."""
        self.manager.interrupt_kernel()

    def _take(self) -> None:
        for channel in (self.client.iopub_channel, self.client.shell_channel):
            try:
                message = channel.get_msg(timeout=0.05)
            except queue.Empty:
                continue
            cell = self.cells.get(message["parent_header"].get("msg_id", ""))
            if cell is not None:
                _keep(cell, message)


def _keep(cell: Cell, message: dict[str, Any]) -> None:
    cell.messages.append(message)
    kind, content = message["msg_type"], message["content"]
    if kind == "stream":
        cell.text += content["text"]
    elif kind == "execute_result":
        cell.text += content["data"]["text/plain"]
    elif kind == "error":
        cell.error = f"{content['ename']}: {content['evalue']}"
    elif kind == "execute_reply":
        cell.replied = True
    elif kind == "status":
        cell.idle = content["execution_state"] == "idle"


def install_old_ipykernel(config: pytest.Config) -> Path:
    """Install an older ipykernel into a folder of its own, once."""
    return install_release(config, OLD)


@contextmanager
def run_kernel(first: str = "") -> Iterator[Kernel]:
    """Run a kernel with a folder first in its import path."""
    folders = [first, str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    # The kernel's own backend is under test; a backend that the caller chose for its scripts would replace it.
    environment.pop("MPLBACKEND", None)
    manager, client = start_new_kernel(startup_timeout=WAIT_S, kernel_name="python3", env=environment)
    try:
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module", params=["installed", "6"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Start a kernel of each generation."""
    with run_kernel(str(install_old_ipykernel(request.config)) if request.param == "6" else "") as kernel:
        version = kernel.run("import ipykernel; print(ipykernel.version_info[0])")
        assert (version == "6") == (request.param == "6")
        yield kernel


# JupyterLab in a browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SESSION = "jupyterapp.shell.currentWidget?.sessionContext?.session"


class Page:
    """A notebook opened in JupyterLab."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.path = page, path

    def run_all(self) -> None:
        """Choose "Run all" without waiting."""
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")

    def run(self, cell: int) -> None:
        """Run one code cell without waiting."""
        self.page.locator(".jp-CodeCell .jp-InputPrompt").nth(cell).click()
        self.page.evaluate("void jupyterapp.commands.execute('notebook:run-cell')")

    def until(self, state: str, cell: int) -> None:
        """Wait until the output of a code cell contains a text."""
        self.page.wait_for_function(
            "([said, cell]) => document.querySelectorAll('.jp-CodeCell')[cell]?.querySelector('.jp-OutputArea')"
            "?.innerText.includes(said)",
            arg=[state, cell],
        )

    def output(self, cell: int) -> Any:
        """Return the output of a code cell."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea")

    def interrupt(self) -> None:
        """Press the interrupt button of the toolbar."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name=interrupt]").click()

    def theme(self, name: str) -> None:
        """Change the theme."""
        self.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: {name!r}}})")

    def picture(self, name: str) -> None:
        """Take a screenshot."""
        self.page.screenshot(path=self.path.parent / f"{self.path.stem}-{name}.png")

    def saved(self) -> list[dict[str, Any]]:
        """Save the notebook, and return the code cells of the file."""
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        return [cell for cell in json.loads(self.path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


@dataclass(slots=True)
class Lab:
    """JupyterLab in a browser. Notebooks share a kernel, because starting one takes longer than most tests."""

    folder: Path
    page: Any
    kernel: str = ""

    @contextmanager
    def opened(self, name: str, *codes: str) -> Iterator[Page]:
        """Open a notebook with these cells when its kernel is ready."""
        cells = [nbformat.v4.new_code_cell(code) for code in codes]
        path = self.folder / f"{name}.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}), path)
        arguments = {"path": path.name, "factory": "Notebook", "kernel": {"id": self.kernel} if self.kernel else None}
        self.page.evaluate(f"jupyterapp.commands.execute('docmanager:open', {json.dumps(arguments)}).then(() => null)")
        self.page.wait_for_function(
            f"path => {SESSION}?.path === path && {SESSION}.kernel?.status === 'idle'", arg=path.name
        )
        self.kernel = self.page.evaluate(f"{SESSION}.kernel.id")
        yield Page(self.page, path)
        self.page.evaluate("jupyterapp.commands.execute('docmanager:save')")
        self.page.evaluate("jupyterapp.shell.currentWidget.dispose()")


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def fail_or_skip(what: str) -> None:
    """Fail in continuous integration, skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed; the build tests with it")


@contextmanager
def serving_lab(folder: Path) -> Iterator[tuple[str, str]]:
    """Run JupyterLab with settings of its own; yield URL and token."""
    runtime, settings = folder / "runtime", folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # The daily announcement would cover the buttons of the toolbar.
    news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(news), encoding="utf-8")
    (folder / "notebooks").mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--ServerApp.root_dir={folder / 'notebooks'}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with (folder / "lab.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + WAIT_S
        while not (version := [*runtime.glob("jpserver-*.json")]):
            assert process.poll() is None, (folder / "lab.log").read_text()
            assert time.monotonic() < deadline, (folder / "lab.log").read_text()
            time.sleep(0.05)
        while True:
            try:
                state = json.loads(version[0].read_text())
            except json.JSONDecodeError:
                continue
            break
        yield state["url"], state["token"]
    finally:
        process.terminate()
        process.wait(WAIT_S)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Start JupyterLab and a browser."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        fail_or_skip("chromium")
    folder = tmp_path_factory.mktemp("lab")
    with serving_lab(folder) as (url, token), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(WAIT_S * 1000)
            page.goto(f"{url}lab?token={token}&reset")
            page.wait_for_function("window.jupyterapp?.started.then(() => true)")
            yield Lab(folder / "notebooks", page)
        finally:
            browser.close()
