"""Times of the chunks of streams: gaps between them, and when the response itself began after streamed reasoning."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmhub.core.types import StreamChunk


@dataclass(slots=True)
class ChunkTimes:
    """Times at which the chunks of one call arrived, and the index of the first that is not reasoning."""

    times_s: list[float] = field(default_factory=list)
    first_output: int | None = None

    def record(self, chunk: StreamChunk) -> None:
        """Record the arrival of a chunk."""
        if self.first_output is None and (chunk.text or chunk.tool_calls):
            self.first_output = len(self.times_s)
        self.times_s.append(time.perf_counter())

    @property
    def output_delay_s(self) -> float:
        """Time from the first chunk to the first that is not reasoning; NaN without one."""
        return math.nan if self.first_output is None else self.times_s[self.first_output] - self.times_s[0]


@dataclass(frozen=True, slots=True)
class StreamTimes:
    """Gaps between chunks of all calls, and for each call the time from its first chunk to its first output."""

    gaps_s: Any
    output_delay_s: Any


def stream_times(chunks: Sequence[ChunkTimes]) -> StreamTimes:
    """Return the times of the chunks of calls.

    Examples
    --------
    >>> times = stream_times([ChunkTimes([1.0, 1.5, 1.75], first_output=1), ChunkTimes()])
    >>> times.gaps_s.tolist(), times.output_delay_s.tolist()
    ([0.5, 0.25], [0.5, nan])
    """
    gaps = [np.diff(own.times_s) for own in chunks if len(own.times_s) > 1]
    return StreamTimes(
        gaps_s=np.concatenate(gaps) if gaps else np.empty(0),
        output_delay_s=np.array([own.output_delay_s for own in chunks]),
    )
