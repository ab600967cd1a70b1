"""Claims and the ledger, in the SQLite file that holds the answers.

- Each owner of claims appends its changes to a log of its own in the table ``claims``. Folding the log gives the
  requests the owner holds. A long log is compacted, so it stays about as short as the list of requests in flight.
- Finished requests are appended to the table ``calls``.
- Rows of both tables hold packs of many requests in MessagePack, which costs a few microseconds per request; a row per
  request would cost five times as much.
- An owner is identified by host, boot, process id namespace, process id and start time, so that a reused process id is
  not mistaken for it.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import msgspec
from returns.pipeline import is_successful

from llmhub.cache.store import (
    HEARTBEAT_S,
    LEASE_S,
    ClaimRequest,
    ClaimResult,
    Claims,
    EndedRequest,
    Ledger,
    LedgerBatch,
    SentRequest,
)
from llmhub.core.serialization import unpack

CREATE_LEDGER_TABLES: Final = """
CREATE TABLE IF NOT EXISTS owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, realm TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL,
    lease_until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS claims (
    id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, kind INTEGER NOT NULL, pack BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, ended_at REAL NOT NULL, pack BLOB NOT NULL);
"""
COMPACT_AFTER: Final = 4096
"""Changes in a claim log before it is compacted."""
CHECKPOINT_PAGES: Final = 16_000
"""Size of SQLite's write-ahead log before it is checkpointed. Keys are random, so the same pages change repeatedly."""
PRIMARY_CODE_MASK: Final = 0xFF
"""Bits of an extended SQLite error code that hold the primary code."""
RESERVED, SENT, UNSENT, RELEASED = range(4)
"""Kinds of changes in a claim log. The numbers are stored."""
_APPEND: Final = "INSERT INTO claims (owner, kind, pack) VALUES (?, ?, ?)"

ClaimLog: TypeAlias = Iterable[tuple[int, bytes]]
"""Changes of an owner in order: their kind and pack."""
Connect: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]
TryConnect: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection | None]]

T = TypeVar("T")


def _decoder(kind: type[list[T]]) -> Callable[[bytes], list[T]]:
    """Return a decoder of packs that reports a damaged pack as damage of the file."""
    decode = msgspec.msgpack.Decoder(kind).decode

    def decode_pack(pack: bytes) -> list[T]:
        try:
            return decode(pack)
        except msgspec.DecodeError as error:
            raise sqlite3.DatabaseError(f"a part of its ledger is damaged: {error}") from error

    return decode_pack


_ENCODE: Final = msgspec.msgpack.Encoder().encode
_DECODE_SENT: Final = _decoder(list[SentRequest])
_DECODE_KEYS: Final = _decoder(list[bytes])
_DECODE_ENDED: Final = _decoder(list[EndedRequest])


def open_ledger(connect: Connect, try_connect: TryConnect) -> tuple[Claims, Ledger, Callable[[], None]]:
    """Return the claims and the ledger of a file, and the function that closes both.

    Parameters
    ----------
    connect
        Context manager of the thread's connection.
    try_connect
        Context manager of a connection that does not wait for locks and does not checkpoint; ``None`` while the disk is
        slow.
    """
    ledger = _SqliteLedger(connect, try_connect)
    return (
        Claims(claim=ledger.claim, release=ledger.release, heartbeat=ledger.heartbeat),
        Ledger(
            commit=ledger.commit,
            try_commit=ledger.try_commit,
            requests=ledger.requests,
            delete_before=ledger.delete_before,
        ),
        ledger.close,
    )


class _SqliteLedger:
    """The claims and requests of one owner. It is registered in ``owners`` at its first write."""

    def __init__(self, connect: Connect, try_connect: TryConnect) -> None:
        self._connect, self._try_connect = connect, try_connect
        # Appending to the log and updating the state kept of it must be one step for other threads.
        self._log_lock = threading.Lock()
        self._owner: Owner | None = None
        self._changes = 0
        # The folded log; None if it must be read again.
        self._held: dict[bytes, SentRequest] | None = None
        self._owner_uncertain = False
        self._renew_at = 0.0
        self._owners_seen: tuple[int, int] = (0, 0)

    def claim(self, requests: Sequence[ClaimRequest], resend: bool, again: bool) -> ClaimResult:
        with self._connect() as connection:
            if again:
                # Most are held still: check that without taking the write lock.
                result, _ = _look_up_holders(connection, requests, self._owner)
                if len(result.held_elsewhere) == len(requests):
                    return result
            with _WriteTransaction(connection, self._on_rollback):
                owner = self._ensure_owner(connection)
                exclusive = self._is_exclusive(connection)
                result, left_behind = (
                    (ClaimResult(exclusive=True), {}) if exclusive else _look_up_holders(connection, requests, owner)
                )
                result, left_behind = _settle_answered(connection, result, left_behind)
                granted = [request for request in requests if request.key not in result.held_elsewhere]
                if not resend:
                    granted = [request for request in granted if request.key not in result.ambiguous]
                # A resent request keeps the run that sent it first, which a provider may know it by.
                sent = [SentRequest(key, result.ambiguous.get(key, run)) for key, run in granted]
                self._append(connection, RESERVED, sent)
                if resend:
                    _record_ambiguous(connection, left_behind)
        return result

    def release(self, keys: Sequence[bytes]) -> None:
        with self._connect() as connection, _WriteTransaction(connection, self._on_rollback):
            self._append(connection, RELEASED, keys)

    def heartbeat(self) -> None:
        owner = self._owner
        if owner is None:
            return
        with self._connect() as connection, _WriteTransaction(connection, self._on_rollback):
            self._renew_lease(connection, owner.id)

    def _renew_lease(self, connection: sqlite3.Connection, owner: int) -> bool:
        """Extend the lease; return whether the owner was still registered."""
        now = time.time()
        updated = connection.execute("UPDATE owners SET lease_until = ? WHERE id = ?", (now + LEASE_S, owner))
        self._renew_at = now + HEARTBEAT_S if updated.rowcount else 0.0
        return updated.rowcount > 0

    def try_commit(self, batch: LedgerBatch) -> bool:
        with self._try_connect() as connection:
            return connection is not None and try_write(partial(self._commit_quickly, connection, batch))

    def _commit_quickly(self, connection: sqlite3.Connection, batch: LedgerBatch) -> bool:
        """Commit a batch of sent requests as a single statement; any other batch as a transaction."""
        owner = self._owner
        others = batch.unsent or batch.ended or batch.released or self._owner_uncertain
        too_long = self._changes + len(batch.sent) > COMPACT_AFTER
        if owner is None or others or too_long or time.time() >= self._renew_at:
            self._commit(connection, batch)
            return True
        # A statement outside a transaction is one by itself, at a third of the cost of BEGIN, INSERT and COMMIT.
        if not self._log_lock.acquire(blocking=False):
            return False
        try:
            connection.execute(_APPEND, (owner.id, SENT, _ENCODE(batch.sent)))
            self._changes += len(batch.sent)
            if self._held is not None:
                apply_change(self._held, SENT, batch.sent)
        finally:
            self._log_lock.release()
        return True

    def commit(self, batch: LedgerBatch) -> None:
        with self._connect() as connection:
            self._commit(connection, batch)

    def _commit(self, connection: sqlite3.Connection, batch: LedgerBatch) -> None:
        with _WriteTransaction(connection, self._on_rollback):
            self._ensure_owner(connection)
            self._append(connection, SENT, batch.sent)
            self._append(connection, UNSENT, batch.unsent)
            _insert_ended(connection, batch.ended)
            self._append(connection, RELEASED, batch.released)

    def requests(self) -> Iterator[EndedRequest]:
        with self._connect() as connection:
            packs = connection.execute("SELECT pack FROM calls ORDER BY id")
            ended = [request for (pack,) in packs for request in _DECODE_ENDED(pack)]
            owners = _owners(connection)
            logs = {owner.id: list(fold_log(_log_of(connection, owner.id)).values()) for owner in owners}
            answered = {owner.id: _answered(connection, logs[owner.id]) for owner, alive in owners.items() if not alive}
        yield from ended
        for owner, alive in owners.items():
            done = answered.get(owner.id, {})
            yield from done.values()
            for key, run, model, sent_at in logs[owner.id]:
                if key in done:
                    continue
                if sent_at:
                    yield EndedRequest(key, run, model, "", "sent" if alive else "ambiguous", "", sent_at, 0.0)
                elif alive:
                    yield EndedRequest(key, run, model, "", "reserved", "", 0.0, 0.0)

    def delete_before(self, before: float) -> int:
        with self._connect() as connection, _WriteTransaction(connection, self._on_rollback):
            packs = connection.execute("SELECT pack FROM calls WHERE ended_at < ?", (before,)).fetchall()
            connection.execute("DELETE FROM calls WHERE ended_at < ?", (before,))
        return sum(len(_DECODE_ENDED(pack)) for (pack,) in packs)

    def close(self) -> None:
        """Release the claims of requests that were not sent; sent ones stay, as ambiguous."""
        owner, self._owner = self._owner, None
        if owner is None:
            return
        with self._connect() as connection, _WriteTransaction(connection, self._on_rollback):
            _retire(connection, owner.id)

    def _on_rollback(self) -> None:
        """Discard what is known of the log and of the registration: the last write is undone."""
        self._held, self._owner_uncertain = None, True

    def _append(
        self, connection: sqlite3.Connection, kind: int, items: Sequence[SentRequest] | Sequence[bytes]
    ) -> None:
        """Append a change to this owner's log; compact the log if it is long."""
        if not items or self._owner is None:
            return
        owner = self._owner.id
        with self._log_lock:
            connection.execute(_APPEND, (owner, kind, _ENCODE(items)))
            self._changes += len(items)
            if self._held is not None:
                apply_change(self._held, kind, items)
            if self._changes > COMPACT_AFTER:
                self._changes = 0
                if self._held is None:
                    self._held = fold_log(_log_of(connection, owner))
                _replace_log(connection, owner, self._held.values())

    def _is_exclusive(self, connection: sqlite3.Connection) -> bool:
        """Return whether no other owner existed since the last claim, so that none can hold or have answered a key."""
        query = "SELECT (SELECT count(*) FROM owners), seq FROM sqlite_sequence WHERE name = 'owners'"
        before, self._owners_seen = self._owners_seen, connection.execute(query).fetchone()
        return self._owners_seen[0] == 1 and before == self._owners_seen

    def _ensure_owner(self, connection: sqlite3.Connection) -> Owner:
        """Register this owner if it is not, and retire dead ones."""
        if self._owner is not None and (self._owner_uncertain or time.time() >= self._renew_at):
            # After a long pause or a rollback it may not be registered any more.
            registered = self._renew_lease(connection, self._owner.id)
            self._owner, self._owner_uncertain = self._owner if registered else None, False
        if self._owner is None:
            owner = current_owner()
            self._held = {}
            for other, alive in _owners(connection).items():
                if not alive:
                    _retire(connection, other.id)
            row = (owner.host_id, owner.pid, owner.started_at, time.time() + LEASE_S)
            inserted = connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES (?, ?, ?, ?)", row)
            self._owner = replace(owner, id=inserted.lastrowid or 0)
            self._renew_at = time.time() + HEARTBEAT_S
        return self._owner


# Claim logs


def fold_log(log: ClaimLog) -> dict[bytes, SentRequest]:
    """Return the requests an owner holds after the changes of its log.

    Examples
    --------
    >>> request = SentRequest(b"k", b"r")
    >>> fold_log([(RESERVED, _ENCODE([request])), (SENT, _ENCODE([request._replace(sent_at=1.0)]))])
    {b'k': SentRequest(key=b'k', run=b'r', model='', sent_at=1.0)}
    >>> fold_log([(RESERVED, _ENCODE([request])), (RELEASED, _ENCODE([b"k"]))])
    {}
    """
    held: dict[bytes, SentRequest] = {}
    for kind, pack in log:
        apply_change(held, kind, _DECODE_SENT(pack) if kind in {RESERVED, SENT} else _DECODE_KEYS(pack))
    return held


def apply_change(held: dict[bytes, SentRequest], kind: int, items: Sequence[SentRequest] | Sequence[bytes]) -> None:
    """Apply one change to the requests held, in place."""
    for item in items:
        if isinstance(item, SentRequest):
            held[item.key] = item
        elif kind == RELEASED:
            held.pop(item, None)
        elif item in held:
            held[item] = SentRequest(item, held[item].run)


def _log_of(connection: sqlite3.Connection, owner: int) -> ClaimLog:
    return connection.execute("SELECT kind, pack FROM claims WHERE owner = ? ORDER BY id", (owner,)).fetchall()


def _replace_log(connection: sqlite3.Connection, owner: int, held: Iterable[SentRequest]) -> None:
    """Replace a log by a single change that leads to the same state."""
    connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))
    if requests := list(held):
        connection.execute(_APPEND, (owner, RESERVED, _ENCODE(requests)))


# Other owners


def _owners(connection: sqlite3.Connection, exclude: Owner | None = None) -> dict[Owner, bool]:
    """Return the owners other than ``exclude``, each with whether it is alive."""
    now = time.time()
    rows = connection.execute("SELECT id, realm, pid, born, lease_until FROM owners").fetchall()
    leases = {Owner(*identity): lease_until for *identity, lease_until in rows}
    return {owner: is_alive(owner, lease_until, now) for owner, lease_until in leases.items() if owner != exclude}


def _look_up_holders(
    connection: sqlite3.Connection, requests: Sequence[ClaimRequest], owner: Owner | None
) -> tuple[ClaimResult, Mapping[int, Sequence[SentRequest]]]:
    """Return which keys other owners hold, and what dead owners had sent of them, by the owner's id."""
    held: set[bytes] = set()
    ambiguous: dict[bytes, bytes] = {}
    left_behind: dict[int, Sequence[SentRequest]] = {}
    keys = [request.key for request in requests]
    for other, alive in _owners(connection, exclude=owner).items():
        log = fold_log(_log_of(connection, other.id))
        overlap = [log[key] for key in keys if key in log]
        if alive:
            held.update(request.key for request in overlap)
        elif sent := [request for request in overlap if request.sent_at]:
            left_behind[other.id] = sent
            ambiguous.update({request.key: request.run for request in sent})
    # A living owner that took a key over from a dead one holds it.
    for key in held & ambiguous.keys():
        del ambiguous[key]
    return ClaimResult(frozenset(held), ambiguous), left_behind


def _settle_answered(
    connection: sqlite3.Connection, result: ClaimResult, left_behind: Mapping[int, Sequence[SentRequest]]
) -> tuple[ClaimResult, Mapping[int, Sequence[SentRequest]]]:
    """Record as done what dead owners had sent and stored an answer of; return what remains ambiguous."""
    ambiguous, unanswered = dict(result.ambiguous), dict(left_behind)
    for owner, sent in left_behind.items():
        answered = _answered(connection, sent)
        if answered:
            _insert_ended(connection, list(answered.values()))
            connection.execute(_APPEND, (owner, RELEASED, _ENCODE(list(answered))))
            unanswered[owner] = [request for request in sent if request.key not in answered]
            for key in answered:
                ambiguous.pop(key, None)
    return replace(result, ambiguous=ambiguous), unanswered


def _record_ambiguous(connection: sqlite3.Connection, left_behind: Mapping[int, Sequence[SentRequest]]) -> None:
    """Record as ambiguous, finally, what dead owners had sent, and release it."""
    now = time.time()
    for owner, sent in left_behind.items():
        if not sent:
            continue
        ended = [EndedRequest(key, run, model, "", "ambiguous", "", at, now) for key, run, model, at in sent]
        _insert_ended(connection, ended)
        connection.execute(_APPEND, (owner, RELEASED, _ENCODE([request.key for request in sent])))


def _answered(connection: sqlite3.Connection, held: Iterable[SentRequest]) -> dict[bytes, EndedRequest]:
    """Return the requests whose answer is stored although their sender died before it recorded that."""
    answered: dict[bytes, EndedRequest] = {}
    for key, run, model, sent_at in held:
        row = connection.execute("SELECT value, created_at FROM answers WHERE key = ?", (key,)).fetchone()
        unpacked = unpack(row[0], key) if sent_at and row is not None else None
        if unpacked is not None and is_successful(unpacked):
            stored = unpacked.unwrap()
            ended_at = sent_at + (stored.latency_s or 0.0)
            answered[key] = EndedRequest(
                key, run, model, stored.served_model, "done", "", sent_at, ended_at, *stored.usage
            )
    return answered


def _insert_ended(connection: sqlite3.Connection, ended: Sequence[EndedRequest]) -> None:
    if ended:
        connection.execute("INSERT INTO calls (ended_at, pack) VALUES (?, ?)", (ended[-1].ended_at, _ENCODE(ended)))


def _retire(connection: sqlite3.Connection, owner: int) -> None:
    """Remove an owner; if it had sent requests without an answer, keep it and them, as dead."""
    sent = [request for request in fold_log(_log_of(connection, owner)).values() if request.sent_at]
    answered = _answered(connection, sent)
    _insert_ended(connection, list(answered.values()))
    sent = [request for request in sent if request.key not in answered]
    _replace_log(connection, owner, sent)
    if sent:
        connection.execute("UPDATE owners SET born = '', lease_until = 0 WHERE id = ?", (owner,))
    else:
        connection.execute("DELETE FROM owners WHERE id = ?", (owner,))


# Owners as processes

PROC: Final = Path("/proc")
GRACE_S: Final = 600.0
"""Time after the end of its lease for which a living process keeps its claims: it may be stopped or suspended."""
DEAD_STATES: Final = frozenset("ZXx")
"""States in ``/proc/PID/stat`` of a process that has ended but was not reaped."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A holder of claims.

    Parameters
    ----------
    id
        Row in ``owners``; a process that opens the file twice is two owners.
    host_id
        Host, boot and process id namespace; within one, a process id is unique at a time.
    pid, started_at
        Process id, and start time in clock ticks since boot; empty where the system does not tell.
    """

    id: int
    host_id: str
    pid: int
    started_at: str


def current_owner() -> Owner:
    """Return an unregistered owner for this process."""
    pid = os.getpid()
    return Owner(0, _host_id(), pid, process_start_time(pid))


def is_alive(owner: Owner, lease_until: float, now: float) -> bool:
    """Return whether an owner may still hold its claims. Times are epoch seconds.

    On this host the system is asked whether the process exists; of another host only the lease is known. A living
    process that failed to record its end counts as dead `GRACE_S` after its lease, or at once if it is this process,
    which cannot be suspended alone.

    Examples
    --------
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=9.0)
    True
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=11.0)
    False
    """
    if owner.started_at and owner.host_id == _host_id():
        grace_s = 0.0 if owner.pid == os.getpid() else GRACE_S
        return process_start_time(owner.pid) == owner.started_at and now < lease_until + grace_s
    return now < lease_until


def process_start_time(pid: int) -> str:
    """Return the start time of a process in clock ticks since boot; empty if it ended or ``/proc`` does not exist."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    # The command name in parentheses may contain anything, parentheses included.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0].decode() in DEAD_STATES else fields[19].decode()


@lru_cache(maxsize=1)
def _host_id() -> str:
    boot = namespace = ""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((PROC / "self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {namespace}"


# Writing


def try_write(write: Callable[[], bool]) -> bool:
    """Call ``write`` and return its result, or false if the database is locked."""
    try:
        return write()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & PRIMARY_CODE_MASK != sqlite3.SQLITE_BUSY:
            raise
        return False


class _WriteTransaction:
    """A transaction that takes the write lock first; ``on_rollback`` is called before a failed one releases it."""

    __slots__ = ("_connection", "_on_rollback")

    def __init__(self, connection: sqlite3.Connection, on_rollback: Callable[[], None] = lambda: None) -> None:
        self._connection, self._on_rollback = connection, on_rollback

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        committed = False
        try:
            if kind is None:
                self._connection.execute("COMMIT")
                committed = True
        finally:
            if not committed:
                self._on_rollback()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
