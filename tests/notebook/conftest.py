"""Kernels as notebooks run in: the one that is installed, and the generation before it, put beside it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
OLD = "ipykernel>=6.29,<7"


@dataclass(slots=True)
class Cell:
    """A cell that was queued, and what it has shown so far."""

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
        """Send cells without waiting for any."""
        cells = [Cell(self.client.execute(code, store_history=True)) for code in codes]
        self.cells.update((cell.id, cell) for cell in cells)
        return cells

    def until(self, met: Callable[[], bool]) -> None:
        """Take in what the kernel says until something is so."""
        deadline = time.monotonic() + WAIT_S
        while not met():
            said = {cell.id: (cell.text, cell.error) for cell in self.cells.values() if not cell.idle}
            assert time.monotonic() < deadline, f"the kernel does not get there: {said}"
            self._take()

    def finish(self, *cells: Cell) -> None:
        """Wait until cells are done; an error in one fails."""
        self.until(lambda: all(cell.idle and cell.replied for cell in cells))
        assert [cell.error for cell in cells if cell.error] == []

    def run(self, code: str) -> str:
        """Run a cell and give what it wrote."""
        (cell,) = self.queue(code)
        self.finish(cell)
        return cell.text.strip()

    def interrupt(self) -> None:
        """Do what the toolbar's button does."""
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


def beside(config: pytest.Config) -> Path:
    """Put the older ipykernel into a folder of its own, once; without a network there is none to test with."""
    folder: Path = config.cache.mkdir("ipykernel6")  # type: ignore[union-attr]
    if not (folder / "ipykernel").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--retries", "1", "--timeout", "15"]
        done = subprocess.run(
            [*command, "--target", str(folder), OLD], capture_output=True, text=True, check=False, timeout=WAIT_S
        )
        if done.returncode:
            if os.environ.get("CI"):
                pytest.fail(f"{OLD} could not be had: {done.stderr}")
            pytest.skip(f"{OLD} could not be had; it is tested where there is a network")
    return folder


@pytest.fixture(scope="module", params=["installed", "6"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """Start a kernel of each generation."""
    folders = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    if request.param == "6":
        folders.insert(0, str(beside(request.config)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    manager, client = start_new_kernel(startup_timeout=WAIT_S, kernel_name="python3", env=environment)
    try:
        kernel = Kernel(manager, client)
        found = kernel.run("import ipykernel; print(ipykernel.version_info[0])")
        assert (found == "6") == (request.param == "6")
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
