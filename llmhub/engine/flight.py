"""What a worker is at: known to whatever task sends in its name."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from llmhub.engine.books import Books

AHEAD: Final = 16
"""Requests that are written down before their turn, at most."""
SHARE: Final = 4
"""There are so many workers to one such request: what a crash leaves in doubt is little more than what was sent."""
MANY: Final = 32
"""With fewer workers none is: they wait for their answers, not for being written down."""
LOOK: Final = 4
"""Items looked at for each that is wanted: those between may be for somebody else."""


@dataclass(slots=True)
class Flight:
    """The requests of one worker.

    Parameters
    ----------
    run
        The run it works for (16 bytes).
    books
        Where its requests are entered, if anywhere.
    sent
        Requests sent for the call it is at.
    make
        How the call it is at was made: what is made alike goes to the same target.
    ahead
        How many requests may be written down as sent before their turn.
    queue
        What the workers take up next, from the left, each with the time since when it waits.
    strict
        Whether nothing goes out that is not written down.
    """

    run: bytes = b""
    books: Books | None = None
    sent: int = 0
    make: object = None
    ahead: int = 0
    queue: deque[tuple[Any, float]] = field(default_factory=deque)
    strict: bool = False

    def next_up(self, many: int) -> list[bytes]:
        """Give the keys of those who are asked next of the same target.

        Examples
        --------
        >>> waiting = deque([((0, b"a", "x", ""), 0.0), ((1, b"b", "y", ""), 0.0), ((2, b"c", "x", ""), 0.0)])
        >>> Flight(make="x", queue=waiting).next_up(2)
        [b'a', b'c']
        """
        near = islice(self.queue, many * LOOK)
        return list(islice((key for (_, key, make, _), _ in near if make == self.make), many))


def ahead_of(concurrency: int, *, alone: bool = False) -> int:
    """Say how many requests may be written down before their turn; none where nobody claims them.

    Examples
    --------
    >>> ahead_of(16), ahead_of(32), ahead_of(1000)
    (0, 8, 16)
    """
    return 0 if alone or concurrency < MANY else min(AHEAD, concurrency // SHARE)


FLIGHT: Final[ContextVar[Flight | None]] = ContextVar("llmhub_flight", default=None)
"""The flight of the worker in whose name the present task sends; a task that a middleware makes inherits it."""
