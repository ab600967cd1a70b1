"""A shared rate limiter in the SQLite file that holds the answers, for the processes of one computer.

Each booking is one short transaction that takes the write lock first. Processes on one computer share its clock; a step
of the clock moves what is booked, by at most an hour (`MAX_AHEAD_US`); what a wrong clock booked of a window counts
from then on.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from llmhub.cache.shared_limiter import (
    Lease,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
    WindowBooking,
    alive_time,
    begin_lease,
    book_window,
    next_tats,
    return_to_window,
)

CREATE_LIMITER_TABLES: Final = """
CREATE TABLE IF NOT EXISTS limits (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limit_workers (
    scope TEXT NOT NULL, job TEXT NOT NULL, worker TEXT NOT NULL, alive_until INTEGER NOT NULL,
    PRIMARY KEY (scope, job, worker)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS limit_windows (
    name TEXT NOT NULL, began INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (name, began)
) WITHOUT ROWID;
"""
_READ: Final = "SELECT value FROM limits WHERE name = ?"
_WRITE: Final = "INSERT INTO limits (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_FORGET: Final = "DELETE FROM limit_workers WHERE scope = ? AND job = ? AND worker = ?"
_READ_WINDOW: Final = "SELECT began, used FROM limit_windows WHERE name = ?"
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
        *,
        windows: Sequence[WindowBooking] = (),
        also_alive_in: str = "",
        leaves: bool = False,
    ) -> Lease:
        with self._connect() as connection:
            if not self._created:
                connection.executescript(CREATE_LIMITER_TABLES)
                self._created = True
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                # The clock is read once the lock is held, so that bookings are in the order of their times.
                now = int(self._clock() * 1e6)
                scopes = (scope, also_alive_in) if also_alive_in else (scope,)
                return self._book(connection, now, scopes, member, (rates, totals, windows, pause_us), leaves=leaves)

    def _book(
        self,
        connection: sqlite3.Connection,
        now: int,
        scopes: Sequence[str],
        member: Member,
        wanted: tuple[Sequence[RateBooking], Sequence[TotalBooking], Sequence[WindowBooking], int],
        *,
        leaves: bool,
    ) -> Lease:
        (rates, totals, windows, pause_us), scope = wanted, scopes[0]
        paused_until = _read(connection, f"pause:{scope}")
        if now + pause_us > paused_until and pause_us:
            paused_until = now + pause_us
            connection.execute(_WRITE, (f"pause:{scope}", paused_until))
        booked = [(_read(connection, f"rate:{rate.name}"), rate) for rate in rates]
        stored = [dict(connection.execute(_READ_WINDOW, (window.name,))) for window in windows]
        counted = [
            (return_to_window(now, entries, window), window) for entries, window in zip(stored, windows, strict=True)
        ]
        start, shares, is_booked = begin_lease(now, paused_until, booked, counted)
        names = (f"rate:{rate.name}" for rate in rates)
        tats = next_tats(start, now, booked, is_booked=is_booked)
        connection.executemany(_WRITE, list(zip(names, tats, strict=True)))
        for before, (entries, window), share in zip(stored, counted, shares, strict=True):
            after = book_window(now, max(start, now), entries, window, share) if share else entries
            _write_window(connection, window.name, before, after)
        granted, used = [], []
        for name, amount, limit in totals:
            total = _read(connection, f"total:{name}")
            granted.append(max(min(amount, limit - total), 0) if amount > 0 else amount)
            used.append(total + granted[-1])
            connection.execute(_WRITE, (f"total:{name}", used[-1]))
        alive_until = alive_time(start, now, max((rate.duration_us for rate in rates), default=0))
        connection.execute("DELETE FROM limit_workers WHERE alive_until <= ?", (now,))
        if leaves:
            connection.executemany(_FORGET, [(each, *member) for each in scopes])
        else:
            alive = [(each, *member, alive_until) for each in scopes]
            connection.executemany("INSERT OR REPLACE INTO limit_workers VALUES (?, ?, ?, ?)", alive)
        jobs, job_workers, workers = connection.execute(_COUNT, (member.job, scope)).fetchone()
        job_workers = job_workers or 0  # the sum over no rows is null
        paused_us = max(paused_until - now, 0)
        return Lease(start - now, paused_us, jobs, job_workers, workers, tuple(granted), tuple(used), shares)

    def leave(self, scope: str, member: Member) -> None:
        if not self._created:
            return
        with self._connect() as connection, connection:
            connection.execute(_FORGET, (scope, *member))


def _read(connection: sqlite3.Connection, name: str) -> int:
    """Return a stored number; 0 if there is none."""
    row = connection.execute(_READ, (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _write_window(
    connection: sqlite3.Connection, name: str, before: Mapping[int, int], after: Mapping[int, int]
) -> None:
    """Store the amounts of a window that have changed."""
    gone = [(name, began) for began in before if began not in after]
    changed = [(name, began, used) for began, used in after.items() if before.get(began) != used]
    connection.executemany("DELETE FROM limit_windows WHERE name = ? AND began = ?", gone)
    connection.executemany("INSERT OR REPLACE INTO limit_windows VALUES (?, ?, ?)", changed)
