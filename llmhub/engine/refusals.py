"""What refusals show of a limit, as pure values: how much was let through between them, and how many are too many."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple


class Refusal(NamedTuple):
    """A request was refused for a limit.

    Parameters
    ----------
    sent_at, number
        When it went, and as which of all that went.
    sent, under_way
        How many went so far, and how many of them are neither answered nor refused yet.
    retry_after_s
        When the provider said to come again.
    """

    sent_at: float
    number: float
    sent: float
    under_way: int
    retry_after_s: float | None = None


class Mark(NamedTuple):
    """A moment, and how many requests had been let through by then."""

    at: float
    passed: float


class Streak(NamedTuple):
    """Refusals that nothing explains.

    Parameters
    ----------
    before
        Refusals before it: all that came since count, those of an episode that is over as well.
    first, last
        The first and the last request of it; none where there is no streak.
    start
        Where it began.
    came
        When the last refusal came.
    """

    before: int = 0
    first: float = 0.0
    last: float = 0.0
    start: Mark = Mark(0.0, 0.0)
    came: float = -inf


NO_STREAK: Final = Streak()


def longer(streak: Streak, refusal: Refusal, mark: Mark, now: float, share: float, total: int) -> Streak:
    """Add a refusal, the last of ``total``; begin anew where they came to less than a ``share`` of what was sent.

    Examples
    --------
    >>> one = longer(NO_STREAK, Refusal(1.0, 7, 9, 2), Mark(1.0, 6), 1.1, 0.5, 1)
    >>> one.first, longer(one, Refusal(1.0, 8, 9, 2), Mark(1.0, 6), 1.1, 0.5, 2).last
    (7, 8)
    >>> longer(one, Refusal(2.0, 90, 90, 2), Mark(2.0, 88), 2.1, 0.5, 2).first
    90
    """
    number = refusal.number
    faded = refusal.sent_at >= streak.came and total - 1 - streak.before < share * (number - streak.first)
    if not streak.first or faded:
        return Streak(total - 1, number, number, mark, now)
    before, first, last, start, _ = streak
    if number < first:
        first, start = number, Mark(refusal.sent_at, start.passed - (first - number))
    return Streak(before, first, max(last, number), start, now)


def doubtful(streak: Streak, share: float, total: int) -> float:
    """Say how many refusals, ``total`` in all, there are more than a ``share`` of what was sent."""
    return total - streak.before - share * (streak.last - streak.first + 1)


def rate_between(anchor: Mark, mark: Mark, refusal: Refusal, now: float) -> float:
    """Give the least that a limit's rate can be, a second, by what it let through from one refusal to another.

    Examples
    --------
    >>> rate_between(Mark(0.0, 0), Mark(10.0, 101), Refusal(10.0, 105, 105, 3), 10.0)
    10.0
    """
    passed = mark.passed - anchor.passed - 1 - (refusal.sent - refusal.number)
    return max(passed, 0.5) / max(mark.at - anchor.at + now - refusal.sent_at, 1e-3)
