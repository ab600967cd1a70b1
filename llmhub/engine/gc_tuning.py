"""Raise the threshold of Python's garbage collector while many rows are in flight (``Hub(tune_gc=True)``).

A call in flight holds about sixty objects that could form cycles, and calls start and finish in bursts. With Python's
default threshold every burst triggers a collection; the survivors are promoted, so the whole heap is soon scanned,
which takes tens of milliseconds once pandas and pyarrow are loaded. Measured: up to a sixth of a run's time, with
almost nothing collected.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

DEFAULT_GC_THRESHOLDS: Final = frozenset({700, 2000})
"""Python's default thresholds of generation 0: 700 in 3.11 and 3.12, 2000 in 3.13.

Source: ``gc.get_threshold()`` (2026-11-27)."""
RELAXED_GC_THRESHOLD: Final = 10_000
"""Threshold during a run: more objects than a burst creates, and a few megabytes at most."""
MIN_ROWS: Final = 256
"""Runs with at most this many rows leave the threshold alone."""


@contextmanager
def relaxed_gc(rows: int, *, enabled: bool = True) -> Iterator[None]:
    """Raise the collector's threshold for the duration of a run over ``rows`` rows.

    A threshold that was changed by the program, or a disabled collector, is left as it is. Of overlapping runs, the one
    that raised the threshold restores it.

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
    if not enabled or first not in DEFAULT_GC_THRESHOLDS or rows <= MIN_ROWS:
        yield
        return
    gc.set_threshold(RELAXED_GC_THRESHOLD, *rest)
    try:
        yield
    finally:
        if gc.get_threshold()[0] == RELAXED_GC_THRESHOLD:
            gc.set_threshold(first, *rest)
