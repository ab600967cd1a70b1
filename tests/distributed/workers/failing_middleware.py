"""Failures that happen once; workers import them from this folder."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def is_first(marker: str) -> bool:
    """Create a file; return whether it did not exist."""
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def append(path: str, text: str) -> None:
    """Append text to a file."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(text)


@dataclass(frozen=True)
class KillOnce:
    """Ends the process at the first call whose prompt ends with a text, once calls before it are answered.

    Every process writes the prompts that it sends to a file beside ``marker``, and the one that ends its id to that.
    """

    marker: str
    text: str

    def __call__(self, send: Any) -> Any:
        async def killing(call: Any) -> Any:
            prompt = call.request.messages[-1].text
            append(f"{self.marker}.{os.getpid()}", f"{prompt}\n")
            if prompt.endswith(self.text) and is_first(self.marker):
                append(self.marker, str(os.getpid()))
                await asyncio.sleep(0.3)  # what was answered before is in the store
                os._exit(1)
            return await send(call)

        return killing


@dataclass(frozen=True)
class FailOnce:
    """Raises for the first results that it is given."""

    marker: str

    def on_table(self, results: Any) -> Any:
        """Return the results, or raise."""
        # Dask asks with two rows of its own for the types.
        if len(results) > 2 and is_first(self.marker):
            raise RuntimeError("this task fails once")
        return results

    def on_batches(self, results: Iterator[Any]) -> Iterator[Any]:
        """Yield the results, or raise."""
        return map(self.on_table, results)


class HoldAfter:
    """Holds the calls of each process after its first ones until a file exists.

    Parameters
    ----------
    folder
        Where each process leaves a file with its id at its first call, and where ``open`` lets the calls go on.
    calls
        How many calls a process may send before.
    """

    def __init__(self, folder: str, calls: int) -> None:
        self.folder = folder
        self.calls = calls
        self._sent = 0

    def __call__(self, send: Any) -> Any:
        async def holding(call: Any) -> Any:
            folder = Path(self.folder)
            if self._sent == 0:
                (folder / str(os.getpid())).touch()
            self._sent += 1
            while self._sent > self.calls and not (folder / "open").exists():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.02)
            return await send(call)

        return holding
