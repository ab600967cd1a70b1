"""Keys and accounts in one SQLite file, for the processes of one computer.

Each batch of operations is one short transaction. A reservation outlives the death of its process; what was written
last may be lost if the computer itself fails.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from llmhub.cache.access_store import (
    ALLOW,
    OWNER_TTL_S,
    AccessStore,
    AccountBalance,
    Admit,
    Charge,
    Enter,
    Expired,
    Operation,
    RateUse,
    Reserve,
    ReserveResult,
    Settle,
    UseNonce,
    decide_reservation,
    wait_of_rate,
)
from llmhub.cache.redis import is_dead
from llmhub.cache.store import StoreError
from llmhub.core.errors import invalid

BUSY_S: Final = 10.0
"""Time to wait for another process that is writing."""
APPLICATION_ID: Final = 0x6C6C6B73
"""``application_id`` of the file: 'llks'."""
CREATE: Final = f"""
PRAGMA journal_mode = WAL;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, spent INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    id TEXT PRIMARY KEY, owner BLOB NOT NULL, amount INTEGER NOT NULL, accounts BLOB NOT NULL,
    expired INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS reservations_of_owner ON reservations (owner);
CREATE TABLE IF NOT EXISTS owners (owner BLOB PRIMARY KEY, alive_until REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rates (name TEXT PRIMARY KEY, booked_until INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, expires_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nonces_by_time ON nonces (expires_at);
PRAGMA application_id = {APPLICATION_ID};
COMMIT;
"""
_ADD: Final = """
INSERT INTO accounts (name, spent, reserved) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET spent = spent + excluded.spent, reserved = reserved + excluded.reserved
"""
_USE_NONCE: Final = "INSERT INTO nonces (nonce, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING"
_FORGET_NONCES: Final = "DELETE FROM nonces WHERE expires_at <= ?"


def open_sqlite_access(path: Path, clock: Callable[[], float] = time.time) -> AccessStore:
    """Open the file, which is created readable by its owner only.

    Raises
    ------
    BadRequestError
        The file is something else, or cannot be read or created.
    """
    path = path.expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        file = _AccessFile(path, clock)
    except (sqlite3.Error, OSError) as error:
        raise invalid("access.store", f"cannot use {str(path)!r} for keys: {error}") from error
    return AccessStore(
        get=file.get,
        replace=file.replace,
        scan=file.scan,
        apply=file.apply,
        try_apply=file.try_apply,
        expire=file.expire,
        replicas=file.replicas,
        balances=file.balances,
        close=file.close,
    )


class _AccessFile:
    """One file, with one connection that threads use in turn."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path, self._clock = path, clock
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            self._set_up()
            self._nonblocking = self._open_nonblocking()
        except BaseException:
            self._connection.close()
            raise

    def _open_nonblocking(self) -> sqlite3.Connection:
        """Return a connection that waits for no lock, and leaves checkpoints to the other one."""
        connection = sqlite3.connect(self._path, timeout=0.0, check_same_thread=False, isolation_level=None)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def _set_up(self) -> None:
        (found,) = self._connection.execute("PRAGMA application_id").fetchone()
        (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and found != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is another kind of file")
        if not tables:
            self._create()
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def _create(self) -> None:
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._connection.executescript(CREATE)
            except sqlite3.OperationalError:
                # SQLite does not wait for the lock that switches a new file to write-ahead logging.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
            else:
                return

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                with _immediate(self._connection):
                    yield self._connection
            except sqlite3.Error as error:
                raise StoreError(f"{self._path}: {error}") from error

    def close(self) -> None:
        with self._lock, closing(self._connection), closing(self._nonblocking):
            pass

    # Keys

    def get(self, key_id: str) -> bytes | None:
        with self._transaction() as connection:
            row = connection.execute("SELECT record FROM keys WHERE id = ?", (key_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def replace(self, key_id: str, before: bytes | None, after: bytes) -> bool:
        with self._transaction() as connection:
            if before is None:
                done = connection.execute("INSERT INTO keys VALUES (?, ?) ON CONFLICT DO NOTHING", (key_id, after))
            else:
                change = "UPDATE keys SET record = ? WHERE id = ? AND record = ?"
                done = connection.execute(change, (after, key_id, before))
            return done.rowcount == 1

    def scan(self) -> list[bytes]:
        with self._transaction() as connection:
            return [bytes(record) for (record,) in connection.execute("SELECT record FROM keys ORDER BY id")]

    # Accounts

    def balances(self, prefix: str) -> list[AccountBalance]:
        query = "SELECT name, spent, reserved FROM accounts WHERE substr(name, 1, ?) = ? ORDER BY name"
        with self._transaction() as connection:
            return [AccountBalance(*row) for row in connection.execute(query, (len(prefix), prefix))]

    def apply(self, owner: bytes, operations: Sequence[Operation]) -> list[object]:
        with self._transaction() as connection:
            now = self._clock()
            self._report_alive(connection, owner, now)
            return [self._perform(connection, owner, operation, now) for operation in operations]

    def try_apply(self, owner: bytes, operations: Sequence[Operation]) -> list[object] | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            with _immediate(self._nonblocking) as connection:
                now = self._clock()
                return [self._perform(connection, owner, operation, now) for operation in operations]
        except sqlite3.Error:  # locked by another process; anything else is found out in a thread
            return None
        finally:
            self._lock.release()

    def _perform(self, connection: sqlite3.Connection, owner: bytes, operation: Operation, now: float) -> object:
        match operation:
            case Reserve():
                return _reserve(connection, owner, operation)
            case Settle(reservation, cost):
                _settle(connection, reservation, cost, now)
            case Enter(_, accounts, cost):  # after an error, nothing of a transaction was entered
                connection.executemany(_ADD, [(name, cost, 0) for name in accounts])
            case Admit(rates):
                return _admit(connection, rates, int(now * 1e6))
            case Charge(rates):
                _book(connection, rates, int(now * 1e6))
            case UseNonce(nonce, ttl_s):
                connection.execute(_FORGET_NONCES, (now,))
                return connection.execute(_USE_NONCE, (nonce, now + ttl_s)).rowcount == 1
        return None

    def _report_alive(self, connection: sqlite3.Connection, owner: bytes, now: float) -> None:
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, now + OWNER_TTL_S))

    def replicas(self) -> int:
        with self._transaction() as connection:
            query = "SELECT count(*) FROM owners WHERE alive_until > ?"
            (count,) = connection.execute(query, (self._clock(),)).fetchone()
        return int(count)

    def expire(self, owner: bytes) -> Expired:
        with self._transaction() as connection:
            now = self._clock()
            self._report_alive(connection, owner, now)
            connection.execute(_FORGET_NONCES, (now,))
            owners = connection.execute("SELECT owner, alive_until FROM owners").fetchall()
            dead = [found for found, alive_until in owners if alive_until <= now or is_dead(found)]
            count = total = 0
            for found in dead:
                query = "SELECT amount, accounts FROM reservations WHERE owner = ? AND NOT expired"
                for amount, accounts in connection.execute(query, (found,)).fetchall():
                    names = msgspec.json.decode(accounts)
                    connection.executemany(_ADD, [(name, amount, -amount) for name in names])
                    count, total = count + 1, total + amount
                connection.execute("UPDATE reservations SET expired = 1 WHERE owner = ?", (found,))
                connection.execute("DELETE FROM owners WHERE owner = ?", (found,))
                if is_dead(found):  # it will settle nothing any more
                    connection.execute("DELETE FROM reservations WHERE owner = ?", (found,))
        return Expired(count, total)


@contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Begin a transaction that writes, and commit it, or roll it back after an exception."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _balance(connection: sqlite3.Connection, name: str) -> AccountBalance:
    row = connection.execute("SELECT spent, reserved FROM accounts WHERE name = ?", (name,)).fetchone()
    return AccountBalance(name, *(row or ()))


def _reserve(connection: sqlite3.Connection, owner: bytes, operation: Reserve) -> ReserveResult:
    reservation, accounts, amount = operation
    if connection.execute("SELECT 1 FROM reservations WHERE id = ?", (reservation,)).fetchone():
        return ReserveResult(ALLOW, 0, 0, 0)
    result = decide_reservation(accounts, [_balance(connection, name) for name, _ in accounts], amount)
    if result.decision == ALLOW:
        names = [name for name, _ in accounts]
        connection.executemany(_ADD, [(name, 0, amount) for name in names])
        row = (reservation, owner, amount, msgspec.json.encode(names))
        connection.execute("INSERT INTO reservations (id, owner, amount, accounts) VALUES (?, ?, ?, ?)", row)
    return result


def _settle(connection: sqlite3.Connection, reservation: str, cost: int, _now: float) -> None:
    query = "DELETE FROM reservations WHERE id = ? RETURNING amount, accounts, expired"
    row = connection.execute(query, (reservation,)).fetchone()
    if row is not None:
        amount, accounts, expired = row
        change = (cost - amount, 0) if expired else (cost, -amount)
        connection.executemany(_ADD, [(name, *change) for name in msgspec.json.decode(accounts)])


def _booked_until(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT booked_until FROM rates WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _admit(connection: sqlite3.Connection, rates: Sequence[RateUse], now: int) -> int:
    wait = max((wait_of_rate(_booked_until(connection, rate.name), now, rate) for rate in rates), default=0)
    if not wait:
        _book(connection, rates, now)
    return wait


def _book(connection: sqlite3.Connection, rates: Sequence[RateUse], now: int) -> None:
    rows = [(rate.name, max(_booked_until(connection, rate.name), now) + rate.duration_us) for rate in rates]
    connection.executemany("INSERT OR REPLACE INTO rates VALUES (?, ?)", rows)
