"""Reports of a run to whoever watches it: often enough to be live, seldom enough to cost nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from llmhub.engine.loop import in_thread
from llmhub.engine.tally import Now, Tally, Watch

REPORT_S: Final = 0.2
SELDOM_S: Final = 1.0
"""Between two reports, at least; and at most."""
SHARE: Final = 0.01
"""Of the loop's time, what reports may take: where they take more, they come more seldom."""


class Reports:
    """Tells ``watch`` how far a run is.

    Parameters
    ----------
    tally
        What is counted.
    now
        Asked what the run knows by itself.
    """

    def __init__(self, watch: Watch, tally: Tally, now: Callable[[], Now]) -> None:
        self._watch: Watch | None = watch
        self._tally = tally
        self._now = now
        self._took_s = 0.0
        self._looking: asyncio.Task[None] | None = None
        self.error = ""

    async def go(self) -> None:
        """Report until cancelled; what is not known yet is looked up meanwhile."""
        while self._watch is not None:
            await asyncio.sleep(min(SELDOM_S, max(REPORT_S, self._took_s / SHARE)))
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_up())
            self.tell()

    async def end(self) -> None:
        """Report for the last time, when all is known."""
        if self._looking is not None:
            await self._looking
        await self._look_up()
        self.tell()

    async def _look_up(self) -> None:
        """Look up what answers cost that nobody knows yet: the first time takes half a second."""
        try:
            if self._watch is not None and (new := self._tally.new()):
                self._tally.learn(await in_thread(self._tally.look_up, new))
        except Exception as wrong:  # noqa: BLE001 - a price table may be anybody's, and no answer is lost for one
            self._give_up(wrong)

    def tell(self) -> None:
        """Report once. What goes wrong in that is the watcher's, and costs no answer."""
        if self._watch is None:
            return
        begun = time.perf_counter()
        try:
            self._watch.report(self._tally.progress(self._now()))
        except Exception as wrong:  # noqa: BLE001 - a caller's function may raise anything
            self._give_up(wrong)
        self._took_s = time.perf_counter() - begun

    def _give_up(self, wrong: Exception) -> None:
        self._watch = None
        self.error = f"{type(wrong).__name__}: {wrong}"
