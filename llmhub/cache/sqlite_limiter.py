"""A shared rate limiter in the SQLite file that holds the answers, for the processes of one computer.

Each booking is one short transaction that takes the write lock first. Processes on one computer share its clock; a step
of the clock moves what is booked, by at most an hour (`MAX_AHEAD_US`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from llmhub.cache.shared_limiter import (
    MEMBER_TTL_US,
    Lease,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
    next_start,
    next_tats,
)

CREATE_LIMITER_TABLES: Final = """
CREATE TABLE IF NOT EXISTS limits (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limit_workers (
    scope TEXT NOT NULL, job TEXT NOT NULL, worker TEXT NOT NULL, alive_until INTEGER NOT NULL,
    PRIMARY KEY (scope, job, worker)
) WITHOUT ROWID;
"""
_READ: Final = "SELECT value FROM limits WHERE name = ?"
_WRITE: Final = "INSERT INTO limits (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_COUNT: Final = "SELECT count(DISTINCT job), sum(job = ?), count(*) FROM limit_workers WHERE scope = ?"

Connect: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


def open_limiter(connect: Connect, clock: Callable[[], float] = time.time) -> SharedLimiter:
    """Return the limiter of a file.

    Parameters
    ----------
    connect
        Context manager of the thread's connection.
    clock
        Returns epoch seconds.
    """
    limiter = _SqliteLimiter(connect, clock)
    return SharedLimiter(book=limiter.book, leave=limiter.leave)


class _SqliteLimiter:
    """The limits in one file. Its tables are created at the first booking."""

    def __init__(self, connect: Connect, clock: Callable[[], float]) -> None:
        self._connect, self._clock = connect, clock
        self._created = False

    def book(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
    ) -> Lease:
        with self._connect() as connection:
            if not self._created:
                connection.executescript(CREATE_LIMITER_TABLES)
                self._created = True
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                # The clock is read once the lock is held, so that bookings are in the order of their times.
                return self._book(connection, int(self._clock() * 1e6), scope, member, (rates, totals, pause_us))

    def _book(
        self,
        connection: sqlite3.Connection,
        now: int,
        scope: str,
        member: Member,
        wanted: tuple[Sequence[RateBooking], Sequence[TotalBooking], int],
    ) -> Lease:
        rates, totals, pause_us = wanted
        paused_until = _read(connection, f"pause:{scope}")
        if now + pause_us > paused_until and pause_us:
            paused_until = now + pause_us
            connection.execute(_WRITE, (f"pause:{scope}", paused_until))
        booked = [(_read(connection, f"rate:{rate.name}"), rate) for rate in rates]
        start = next_start(now, paused_until, [pair for pair in booked if pair[1].duration_us])
        names = (f"rate:{rate.name}" for rate in rates)
        connection.executemany(_WRITE, list(zip(names, next_tats(start, now, booked), strict=True)))
        granted, used = [], []
        for name, amount, limit in totals:
            before = _read(connection, f"total:{name}")
            granted.append(max(min(amount, limit - before), 0) if amount > 0 else amount)
            used.append(before + granted[-1])
            connection.execute(_WRITE, (f"total:{name}", used[-1]))
        alive_until = max(start, now) + max((rate.duration_us for rate in rates), default=0) + MEMBER_TTL_US
        connection.execute("DELETE FROM limit_workers WHERE alive_until <= ?", (now,))
        connection.execute("INSERT OR REPLACE INTO limit_workers VALUES (?, ?, ?, ?)", (scope, *member, alive_until))
        jobs, job_workers, workers = connection.execute(_COUNT, (member.job, scope)).fetchone()
        paused_us = max(paused_until - now, 0)
        return Lease(start - now, paused_us, jobs, job_workers, workers, tuple(granted), tuple(used))

    def leave(self, scope: str, member: Member) -> None:
        if not self._created:
            return
        query = "DELETE FROM limit_workers WHERE scope = ? AND job = ? AND worker = ?"
        with self._connect() as connection, connection:
            connection.execute(query, (scope, *member))


def _read(connection: sqlite3.Connection, name: str) -> int:
    """Return a stored number; 0 if there is none."""
    row = connection.execute(_READ, (name,)).fetchone()
    return 0 if row is None else int(row[0])
