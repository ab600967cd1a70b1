"""Python's garbage collector, held back while many rows are under way.

A call under way holds some sixty objects that could form cycles. Calls go out and come back in bursts, so at the
interpreter's own setting every burst sets the collector going, and what it finds alive then counts as long-lived: it
soon looks through the whole heap, for tens of milliseconds where pandas and pyarrow are loaded. That took up to a sixth
of a run's time, and next to nothing was found.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

DEFAULT_GC_THRESHOLDS: Final = frozenset({700, 2000})
"""How many new objects set the collector going unless somebody says otherwise, by version.

Source: ``gc.get_threshold()`` of 3.11 and 3.12, and of 3.13 (2026-11-27)."""


RELAXED_GC_THRESHOLD: Final = 10_000
"""How many do while it is held back: more than any burst makes, and a few megabytes at most."""


MIN_ROWS: Final = 256
"""Rows from which on holding it back is worth it."""


@contextmanager
def relaxed_gc(rows: int) -> Iterator[None]:
    """Have the collector run more seldom while so many ``rows`` are worked on.

    Who has set it otherwise, or off, has it as they set it. Of runs that overlap, the one that held it back lets it go.

    Examples
    --------
    >>> import gc
    >>> before = gc.get_threshold()
    >>> with relaxed_gc(1_000):
    ...     gc.get_threshold()[0] in DEFAULT_GC_THRESHOLDS
    False
    >>> gc.get_threshold() == before
    True
    """
    first, *rest = gc.get_threshold()
    if first not in DEFAULT_GC_THRESHOLDS or rows <= MIN_ROWS:
        yield
        return
    gc.set_threshold(RELAXED_GC_THRESHOLD, *rest)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == RELAXED_GC_THRESHOLD:
            gc.set_threshold(first, *rest)
