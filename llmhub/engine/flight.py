"""What a worker is at: known to whatever task sends in its name."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llmhub.engine.books import Books


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
    strict
        Whether nothing goes out that is not written down.
    """

    run: bytes = b""
    books: Books | None = None
    sent: int = 0
    strict: bool = False


FLIGHT: Final[ContextVar[Flight | None]] = ContextVar("llmhub_flight", default=None)
"""The flight of the worker in whose name the present task sends; a task that a middleware makes inherits it."""
