"""Claims and the ledger, in the SQLite file that holds the answers.

- Each owner of claims appends its changes to a log of its own in the table ``claims``. Folding the log gives the
  requests the owner holds. A long log is compacted, so it stays about as short as the list of requests in flight.
- Finished requests are appended to the table ``calls``.
- Rows of both tables hold packs of many requests in MessagePack, which costs a few microseconds per request; a row per
  request would cost five times as much.
- An owner is identified by host, boot, process id namespace, process id and start time, so that a reused process id is
  not mistaken for it.
- Clocks are stepped and laptops sleep, so the clock alone does not decide whether an owner lives: on its host the
  process table does, elsewhere whether its lease changes while it is observed.

The file is long because claims and the ledger are written in the same transactions.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import msgspec
from returns.pipeline import is_successful

from llmhub.cache.processes import host_id, process_start_time
from llmhub.cache.recent_answers import read_recent
from llmhub.cache.release_listeners import SqliteReleases
from llmhub.cache.sqlite_batches import batch_ledger
from llmhub.cache.store import (
    HEARTBEAT_S,
    LEASE_S,
    OPEN_BATCH_STATES,
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
HOLDING_KINDS: Final = (RESERVED, SENT)
"""Changes after which an owner holds requests."""
_COUNT_OWNERS: Final = """
SELECT (SELECT count(*) FROM owners), (SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'owners')
"""
"""Number of owners, and the latest number that one was given."""
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


def open_ledger(
    connect: Connect, try_connect: TryConnect
) -> tuple[Claims, Ledger, Callable[[], None], Callable[[sqlite3.Connection], None]]:
    """Return the claims and the ledger of a file, the function that closes both, and one to call before each look-up.

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
        Claims(
            claim=ledger.claim,
            release=ledger.release,
            heartbeat=ledger.heartbeat,
            try_claim=ledger.try_claim,
            watch=SqliteReleases(ledger.version, ledger.held_elsewhere).watch,
        ),
        Ledger(
            commit=ledger.commit,
            try_commit=ledger.try_commit,
            requests=ledger.requests,
            delete_before=ledger.delete_before,
            batches=ledger.batches,
        ),
        ledger.close,
        ledger.before_look_up,
    )


class _SqliteLedger:
    """The claims and requests of one owner. It is registered in ``owners`` at its first write."""

    def __init__(self, connect: Connect, try_connect: TryConnect) -> None:
        self._connect, self._try_connect = connect, try_connect
        self.batches = batch_ledger(connect)
        # Appending to the log and updating the state kept of it must be one step for other threads.
        self._log_lock = threading.Lock()
        self._owner: Owner | None = None
        self._changes = 0
        # The folded log; None if it must be read again.
        self._held: dict[bytes, SentRequest] | None = None
        self._owner_uncertain = False
        self._renew_at = 0.0
        self._owners_seen: tuple[int, int] | None = None
        self._observations = Observations(time.monotonic)

    def claim(self, requests: Sequence[ClaimRequest], resend: bool, again: bool) -> ClaimResult:
        with self._connect() as connection:
            if again:
                # Most are held still: check that without taking the write lock.
                result, _ = _look_up_holders(connection, requests, self._others(connection))
                if len(result.held_elsewhere) == len(requests):
                    return result
            return self._claim(connection, requests, resend)

    def try_claim(self, requests: Sequence[ClaimRequest], resend: bool) -> ClaimResult | None:
        if self._owner is None:  # it has to be registered first, which takes longer
            return None
        claimed: list[ClaimResult] = []

        def write(connection: sqlite3.Connection) -> bool:
            claimed.append(self._claim(connection, requests, resend))
            return True

        with self._try_connect() as connection:
            is_written = connection is not None and try_write(partial(write, connection))
        return claimed[0] if is_written else None

    def _claim(self, connection: sqlite3.Connection, requests: Sequence[ClaimRequest], resend: bool) -> ClaimResult:
        with _WriteTransaction(connection, self._on_rollback):
            self._ensure_owner(connection)
            exclusive = self._is_exclusive(connection)
            result, left_behind = (
                (ClaimResult(exclusive=True), {})
                if exclusive
                else _look_up_holders(connection, requests, self._others(connection))
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

    def version(self) -> int:
        """Return a number that changes when another connection writes to the file."""
        with self._connect() as connection:
            version: int = connection.execute("PRAGMA data_version").fetchone()[0]
            return version

    def held_elsewhere(self, keys: Iterable[bytes]) -> frozenset[bytes]:
        """Return which of some keys other owners hold."""
        with self._connect() as connection:
            requests = [ClaimRequest(key, b"") for key in keys]
            return _look_up_holders(connection, requests, self._others(connection))[0].held_elsewhere

    def heartbeat(self) -> None:
        owner = self._owner
        if owner is None:
            return
        with self._connect() as connection, _WriteTransaction(connection, self._on_rollback):
            self._renew_lease(connection, owner.id)

    def _renew_lease(self, connection: sqlite3.Connection, owner: int) -> bool:
        """Extend the lease; return whether the owner was still registered."""
        lease_until = time.time() + LEASE_S
        updated = connection.execute("UPDATE owners SET lease_until = ? WHERE id = ?", (lease_until, owner))
        self._renew_at = time.monotonic() + HEARTBEAT_S if updated.rowcount else 0.0
        return updated.rowcount > 0

    def try_commit(self, batch: LedgerBatch) -> bool:
        with self._try_connect() as connection:
            return connection is not None and try_write(partial(self._commit_quickly, connection, batch))

    def _commit_quickly(self, connection: sqlite3.Connection, batch: LedgerBatch) -> bool:
        """Commit a batch of sent requests as a single statement; any other batch as a transaction."""
        owner = self._owner
        others = batch.unsent or batch.ended or batch.released or self._owner_uncertain
        too_long = self._changes + len(batch.sent) > COMPACT_AFTER
        if owner is None or others or too_long or time.monotonic() >= self._renew_at:
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
            owners = self._owners(connection, final=True)
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
        for batch in self.batches.records():
            for key in self.batches.rows(batch.token) if batch.state in OPEN_BATCH_STATES else ():
                yield EndedRequest(
                    key,
                    batch.run,
                    batch.values.get("cache_name", batch.model),
                    "",
                    "batched",
                    "",
                    batch.created_at,
                    0.0,
                )

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
        # From here on it counts as dead for other owners of this process, even if it cannot be removed.
        for key in [key for key, ledger in tuple(OPEN_LEDGERS.items()) if ledger is self]:
            del OPEN_LEDGERS[key]
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

    def before_look_up(self, connection: sqlite3.Connection) -> None:
        """Note which owners exist before the first look-up, for the first claim."""
        if self._owners_seen is None:
            self._owners_seen = connection.execute(_COUNT_OWNERS).fetchone()

    def _is_exclusive(self, connection: sqlite3.Connection) -> bool:
        """Return whether no other owner existed since the last claim, so that none can hold or have answered a key.

        Before the first claim, since the first look-up: then none may have existed, and one has been added, which is
        this one.
        """
        before, (count, latest) = self._owners_seen, connection.execute(_COUNT_OWNERS).fetchone()
        self._owners_seen = count, latest
        return count == 1 and before in {(1, latest), (0, latest - 1)}

    def _ensure_owner(self, connection: sqlite3.Connection) -> Owner:
        """Register this owner if it is not, and retire dead ones."""
        if self._owner is not None and (self._owner_uncertain or time.monotonic() >= self._renew_at):
            # After a long pause or a rollback it may not be registered any more.
            registered = self._renew_lease(connection, self._owner.id)
            self._owner, self._owner_uncertain = self._owner if registered else None, False
        if self._owner is None:
            owner = current_owner()
            self._held = {}
            for other, alive in self._owners(connection).items():
                if not alive:
                    _retire(connection, other.id)
            row = (owner.host_id, owner.pid, owner.started_at, time.time() + LEASE_S)
            inserted = connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES (?, ?, ?, ?)", row)
            self._owner = replace(owner, id=inserted.lastrowid or 0)
            self._renew_at = time.monotonic() + HEARTBEAT_S
            OPEN_LEDGERS[_file_id(connection), self._owner.id] = self
        return self._owner

    def _others(self, connection: sqlite3.Connection) -> dict[Owner, bool]:
        """Return the other owners, each with whether it is alive."""
        return {owner: alive for owner, alive in self._owners(connection).items() if owner != self._owner}

    def _owners(self, connection: sqlite3.Connection, *, final: bool = False) -> dict[Owner, bool]:
        """Return all owners, each with whether it is alive; ``final`` decides about unobserved ones by their lease."""
        file, now = _file_id(connection), time.time()
        found: dict[Owner, bool] = {}
        for *identity, lease_until in connection.execute("SELECT id, realm, pid, born, lease_until FROM owners"):
            owner = Owner(*identity)
            unchanged_s = self._observations.unchanged_s(owner.id, lease_until)
            if final and not owner.is_local:
                unchanged_s = max(unchanged_s, CONFIRM_S)
            is_open = (file, owner.id) in OPEN_LEDGERS
            found[owner] = is_alive(owner, lease_until, now, unchanged_s, is_open=is_open)
        return found


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
        apply_change(held, kind, _DECODE_SENT(pack) if kind in HOLDING_KINDS else _DECODE_KEYS(pack))
    return held


def apply_change(held: dict[bytes, SentRequest], kind: int, items: Sequence[Any]) -> None:
    """Apply one change to the requests held, in place; its items are requests for `HOLDING_KINDS`, else keys."""
    if kind in HOLDING_KINDS:
        held.update([(request.key, request) for request in items])
    elif kind == RELEASED:
        for key in items:
            held.pop(key, None)
    else:
        held.update([(key, SentRequest(key, held[key].run)) for key in items if key in held])


def _log_of(connection: sqlite3.Connection, owner: int) -> ClaimLog:
    return connection.execute("SELECT kind, pack FROM claims WHERE owner = ? ORDER BY id", (owner,)).fetchall()


def _replace_log(connection: sqlite3.Connection, owner: int, held: Iterable[SentRequest]) -> None:
    """Replace a log by a single change that leads to the same state."""
    connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))
    if requests := list(held):
        connection.execute(_APPEND, (owner, RESERVED, _ENCODE(requests)))


# Other owners


def _look_up_holders(
    connection: sqlite3.Connection, requests: Sequence[ClaimRequest], others: Mapping[Owner, bool]
) -> tuple[ClaimResult, Mapping[int, Sequence[SentRequest]]]:
    """Return which keys other owners hold, and what dead owners had sent of them, by the owner's id."""
    held: set[bytes] = set()
    ambiguous: dict[bytes, bytes] = {}
    left_behind: dict[int, Sequence[SentRequest]] = {}
    keys = [request.key for request in requests]
    for other, alive in others.items():
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
    sent = [request for request in held if request.sent_at]
    recent = read_recent(connection) if sent else {}
    for key, run, model, sent_at in sent:
        row = connection.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
        value = recent[key].value if key in recent else row and row[0]
        unpacked = None if value is None else unpack(value, key)
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

GRACE_S: Final = 600.0
"""Time for which a living process of this host keeps its claims without renewing its lease: it may be stopped."""
CONFIRM_S: Final = 2 * HEARTBEAT_S
"""Time for which an owner elsewhere whose lease has expired is observed: the clock may have been stepped."""
FORGOTTEN_S: Final = 86_400.0
"""Time after the end of its lease after which an owner elsewhere is not observed any more."""
FileId: TypeAlias = tuple[object, ...]
OPEN_LEDGERS: Final[WeakValueDictionary[tuple[FileId, int], _SqliteLedger]] = WeakValueDictionary()
"""The open ledgers of this process by file and owner id. An owner of this process that is not here is dead."""


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

    @property
    def is_local(self) -> bool:
        """Whether the system can be asked if its process exists."""
        return bool(self.started_at) and self.host_id == host_id()


class Observations:
    """How long the lease of each owner has been the same, whatever the clock says.

    Parameters
    ----------
    clock
        Returns monotonic seconds, which do not count the time for which a computer sleeps.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[float, float]] = {}

    def unchanged_s(self, owner: int, lease_until: float) -> float:
        """Return for how long the owner's lease has been observed to be ``lease_until``.

        Examples
        --------
        >>> times = iter([0.0, 7.0, 8.0])
        >>> observations = Observations(lambda: next(times))
        >>> [observations.unchanged_s(1, lease_until) for lease_until in (30.0, 30.0, 35.0)]
        [0.0, 7.0, 0.0]
        """
        now = self._clock()
        seen, since = self._seen.get(owner, (lease_until, now))
        if seen != lease_until:
            since = now
        self._seen[owner] = (lease_until, since)
        return now - since


def _file_id(connection: sqlite3.Connection) -> FileId:
    """Return what identifies the file of a connection within this process, whatever its path."""
    path: str = connection.execute("PRAGMA database_list").fetchone()[2]
    try:
        status = Path(path).stat()
    except OSError:
        return (path,)
    return (status.st_dev, status.st_ino)


def current_owner() -> Owner:
    """Return an unregistered owner for this process."""
    pid = os.getpid()
    return Owner(0, host_id(), pid, process_start_time(pid))


def is_alive(owner: Owner, lease_until: float, now: float, unchanged_s: float, *, is_open: bool = False) -> bool:
    """Return whether an owner may still hold its claims.

    Parameters
    ----------
    lease_until, now
        End of its lease and the time by this computer's clock, in epoch seconds. They decide about owners elsewhere
        only, and only together with what is observed.
    unchanged_s
        For how long its lease was observed to be the same; a living owner renews it every `HEARTBEAT_S`.
    is_open
        Whether it is an open ledger of this process.

    Examples
    --------
    >>> owner = Owner(1, "elsewhere", 7, "1")
    >>> is_alive(owner, lease_until=10.0, now=9.0, unchanged_s=0.0)
    True
    >>> [is_alive(owner, lease_until=10.0, now=9999.0, unchanged_s=seconds) for seconds in (0.0, CONFIRM_S)]
    [True, False]
    """
    if owner.is_local:
        if owner.pid == os.getpid():
            return is_open
        return process_start_time(owner.pid) == owner.started_at and unchanged_s < GRACE_S
    if now < lease_until:
        return unchanged_s < LEASE_S
    return now < lease_until + FORGOTTEN_S and unchanged_s < CONFIRM_S


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
