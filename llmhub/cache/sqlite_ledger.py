"""Claims and the ledger in the SQLite file that holds the answers.

Every holder of claims writes a log of its own: what it reserved, sent, and let go. Folded, a log says what its owner
holds; it is rewritten as soon as it is long, so it stays as short as what is under way. What came of every request is
added to a table that is only ever added to. Both are written in packs of many requests, a row for each: that costs a
few microseconds a request, where a row for each request would cost five times as much.

Who holds a claim: a process, told apart from every other that has had its number, here or elsewhere.
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
"""Changes in a log before it is rewritten."""


CHECKPOINT_PAGES: Final = 16_000
"""Pages of the log before they are moved into the file: keys come in no order, and so touch the same pages often."""


PRIMARY_CODE_MASK: Final = 0xFF
"""The part of an error's code that says its kind."""


RESERVED, SENT, UNSENT, RELEASED = range(4)


T = TypeVar("T")


ClaimLog: TypeAlias = Iterable[tuple[int, bytes]]
"""What an owner did: kinds and packs, in order."""


Connect: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


TryConnect: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection | None]]


def _decoder(kind: type[list[T]]) -> Callable[[bytes], list[T]]:
    """Read packs; one that is damaged is damage of the file."""
    decode = msgspec.msgpack.Decoder(kind).decode

    def read(pack: bytes) -> list[T]:
        try:
            return decode(pack)
        except msgspec.DecodeError as error:
            raise sqlite3.DatabaseError(f"a part of its ledger is damaged: {error}") from error

    return read


_ENCODE: Final = msgspec.msgpack.Encoder().encode


_OPEN: Final = _decoder(list[SentRequest])


_KEYS: Final = _decoder(list[bytes])


_ENDED: Final = _decoder(list[EndedRequest])


_LOG: Final = "INSERT INTO claims (owner, kind, pack) VALUES (?, ?, ?)"


def fold_log(log: ClaimLog) -> dict[bytes, SentRequest]:
    """Say what is held after a log.

    Examples
    --------
    >>> one = SentRequest(b"k", b"r")
    >>> fold_log([(RESERVED, _ENCODE([one])), (SENT, _ENCODE([one._replace(sent_at=1.0)]))])
    {b'k': SentRequest(key=b'k', run=b'r', model='', sent_at=1.0)}
    >>> fold_log([(RESERVED, _ENCODE([one])), (RELEASED, _ENCODE([b"k"]))])
    {}
    """
    held: dict[bytes, SentRequest] = {}
    for kind, pack in log:
        apply_change(held, kind, _OPEN(pack) if kind in {RESERVED, SENT} else _KEYS(pack))
    return held


def apply_change(held: dict[bytes, SentRequest], kind: int, things: Sequence[SentRequest] | Sequence[bytes]) -> None:
    """Bring what is held up to date by what was done next."""
    for thing in things:
        if isinstance(thing, SentRequest):
            held[thing.key] = thing
        elif kind == RELEASED:
            held.pop(thing, None)
        elif thing in held:
            held[thing] = SentRequest(thing, held[thing].run)


def open_ledger(connect: Connect, try_connect: TryConnect) -> tuple[Claims, Ledger, Callable[[], None]]:
    """Make the claims and the ledger of a file, and the function that lets go of both.

    Parameters
    ----------
    connect
        Gives the thread's connection for a block.
    try_connect
        Gives one that waits for nobody, and moves no pages from the log into the file, for which it would wait; none
        while the disk is slow.
    """
    kept = _SqliteLedger(connect, try_connect)
    return (
        Claims(claim=kept.claim, release=kept.release, heartbeat=kept.heartbeat),
        Ledger(
            commit=kept.commit, try_commit=kept.try_commit, requests=kept.requests, delete_before=kept.delete_before
        ),
        kept.close,
    )


class _SqliteLedger:
    """The part of the file that one owner writes."""

    def __init__(self, guarded: Connect, hasty: TryConnect) -> None:
        self._guarded, self._hasty = guarded, hasty
        # Whoever writes the log and keeps account of it, that is one step to all others.
        self._accounting = threading.Lock()
        self._me: Owner | None = None
        self._changes = 0
        # What my log comes to; nothing where that must be read anew.
        self._held: dict[bytes, SentRequest] | None = None
        self._doubtful = False
        self._renew_at = 0.0
        self._company: tuple[int, int] = (0, 0)

    def claim(self, wishes: Sequence[ClaimRequest], resend: bool, again: bool) -> ClaimResult:
        with self._guarded() as connection:
            if again:
                # Most are held still: find that out without keeping others from writing.
                seen, _ = _looked_up(connection, wishes, self._me)
                if len(seen.held_elsewhere) == len(wishes):
                    return seen
            with _WriteTransaction(connection, self._lost):
                me = self._there(connection)
                alone = self._alone_still(connection)
                found, left = (ClaimResult(exclusive=True), {}) if alone else _looked_up(connection, wishes, me)
                found, left = _settled(connection, found, left)
                taken = [wish for wish in wishes if wish.key not in found.held_elsewhere]
                if not resend:
                    taken = [wish for wish in taken if wish.key not in found.ambiguous]
                # Who sends again does so in the name of the run that sent first, by which a provider may know it.
                self._log(connection, RESERVED, [SentRequest(key, found.ambiguous.get(key, run)) for key, run in taken])
                if resend:
                    _write_off(connection, left)
        return found

    def release(self, keys: Sequence[bytes]) -> None:
        with self._guarded() as connection, _WriteTransaction(connection, self._lost):
            self._log(connection, RELEASED, keys)

    def heartbeat(self) -> None:
        me = self._me
        if me is None:
            return
        with self._guarded() as connection, _WriteTransaction(connection, self._lost):
            self._say_alive(connection, me.id)

    def _say_alive(self, connection: sqlite3.Connection, me: int) -> bool:
        """Extend the lease; say whether there was one."""
        now = time.time()
        said = connection.execute("UPDATE owners SET lease_until = ? WHERE id = ?", (now + LEASE_S, me))
        self._renew_at = now + HEARTBEAT_S if said.rowcount else 0.0
        return said.rowcount > 0

    def try_commit(self, batch: LedgerBatch) -> bool:
        with self._hasty() as connection:
            return connection is not None and try_write(partial(self._commit_at_once, connection, batch))

    def _commit_at_once(self, connection: sqlite3.Connection, batch: LedgerBatch) -> bool:
        me = self._me
        more = batch.unsent or batch.ended or batch.released or self._doubtful
        if me is None or more or self._changes + len(batch.sent) > COMPACT_AFTER or time.time() >= self._renew_at:
            self._commit(connection, batch)
            return True
        # Marks alone: a statement is a transaction, and one costs a third of three.
        if not self._accounting.acquire(blocking=False):
            return False
        try:
            connection.execute(_LOG, (me.id, SENT, _ENCODE(batch.sent)))
            self._changes += len(batch.sent)
            if self._held is not None:
                apply_change(self._held, SENT, batch.sent)
        finally:
            self._accounting.release()
        return True

    def commit(self, batch: LedgerBatch) -> None:
        with self._guarded() as connection:
            self._commit(connection, batch)

    def _commit(self, connection: sqlite3.Connection, batch: LedgerBatch) -> None:
        with _WriteTransaction(connection, self._lost):
            self._there(connection)
            self._log(connection, SENT, batch.sent)
            self._log(connection, UNSENT, batch.unsent)
            _enter(connection, batch.ended)
            self._log(connection, RELEASED, batch.released)

    def requests(self) -> Iterator[EndedRequest]:
        with self._guarded() as connection:
            packs = connection.execute("SELECT pack FROM calls ORDER BY id")
            ended = [one for (pack,) in packs for one in _ENDED(pack)]
            owners = _owners(connection)
            logs = {one.id: list(fold_log(_log_of(connection, one.id)).values()) for one in owners}
            proved = {one.id: _proved(connection, logs[one.id]) for one, alive in owners.items() if not alive}
        yield from ended
        for owner, alive in owners.items():
            answered = proved.get(owner.id, {})
            yield from answered.values()
            for key, run, model, sent_at in logs[owner.id]:
                if key in answered:
                    continue
                if sent_at:
                    yield EndedRequest(key, run, model, "", "sent" if alive else "ambiguous", "", sent_at, 0.0)
                elif alive:
                    yield EndedRequest(key, run, model, "", "reserved", "", 0.0, 0.0)

    def delete_before(self, before: float) -> int:
        with self._guarded() as connection, _WriteTransaction(connection, self._lost):
            gone = connection.execute("SELECT pack FROM calls WHERE ended_at < ?", (before,)).fetchall()
            connection.execute("DELETE FROM calls WHERE ended_at < ?", (before,))
        return sum(len(_ENDED(pack)) for (pack,) in gone)

    def close(self) -> None:
        """Leave. What was never sent is given back; what was sent stays, for whoever asks it next."""
        me, self._me = self._me, None
        if me is None:
            return
        with self._guarded() as connection, _WriteTransaction(connection, self._lost):
            _bury(connection, me.id)

    def _lost(self) -> None:
        """Forget what the log comes to, and whether this owner is entered: what was written last is undone."""
        self._held, self._doubtful = None, True

    def _log(self, connection: sqlite3.Connection, kind: int, things: Sequence[SentRequest] | Sequence[bytes]) -> None:
        """Add to the log; rewrite it when it has become long."""
        if not things or self._me is None:
            return
        me = self._me.id
        with self._accounting:
            connection.execute(_LOG, (me, kind, _ENCODE(things)))
            self._changes += len(things)
            if self._held is not None:
                apply_change(self._held, kind, things)
            if self._changes > COMPACT_AFTER:
                self._changes = 0
                if self._held is None:
                    self._held = fold_log(_log_of(connection, me))
                _rewrite(connection, me, self._held.values())

    def _alone_still(self, connection: sqlite3.Connection) -> bool:
        """Say whether nobody else was there since the last claim: then nobody can have answered or hold anything."""
        now = connection.execute("SELECT (SELECT count(*) FROM owners), seq FROM sqlite_sequence WHERE name = 'owners'")
        before, self._company = self._company, now.fetchone()
        return self._company[0] == 1 and before == self._company

    def _there(self, connection: sqlite3.Connection) -> Owner:
        """Say who this is, the first time, and clear away what the dead had reserved."""
        if self._me is not None and (self._doubtful or time.time() >= self._renew_at):
            # One that was silent for long, or whose entry was undone, may be there no more.
            there = self._say_alive(connection, self._me.id)
            self._me, self._doubtful = self._me if there else None, False
        if self._me is None:
            me = current_owner()
            self._held = {}
            for one, alive in _owners(connection).items():
                if not alive:
                    _bury(connection, one.id)
            row = (me.host_id, me.pid, me.started_at, time.time() + LEASE_S)
            joined = connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES (?, ?, ?, ?)", row)
            self._me = replace(me, id=joined.lastrowid or 0)
            self._renew_at = time.time() + HEARTBEAT_S
        return self._me


def _owners(connection: sqlite3.Connection, but: Owner | None = None) -> dict[Owner, bool]:
    """Name those who hold claims, and say who of them lives."""
    now = time.time()
    rows = connection.execute("SELECT id, realm, pid, born, lease_until FROM owners").fetchall()
    found = {Owner(*about): lease_until for *about, lease_until in rows}
    return {one: is_alive(one, until, now) for one, until in found.items() if one != but}


def _looked_up(
    connection: sqlite3.Connection, wishes: Sequence[ClaimRequest], me: Owner | None
) -> tuple[ClaimResult, Mapping[int, Sequence[SentRequest]]]:
    """See who holds what; give, too, what the dead had sent of it, by owner."""
    held: set[bytes] = set()
    unsure: dict[bytes, bytes] = {}
    left: dict[int, Sequence[SentRequest]] = {}
    keys = [wish.key for wish in wishes]
    for owner, alive in _owners(connection, but=me).items():
        log = fold_log(_log_of(connection, owner.id))
        theirs = [log[key] for key in keys if key in log]
        if alive:
            held.update(one.key for one in theirs)
        elif lost := [one for one in theirs if one.sent_at]:
            left[owner.id] = lost
            unsure.update({one.key: one.run for one in lost})
    # Who took over from the dead holds it now.
    for key in held & unsure.keys():
        del unsure[key]
    return ClaimResult(frozenset(held), unsure), left


def _settled(
    connection: sqlite3.Connection, found: ClaimResult, left: Mapping[int, Sequence[SentRequest]]
) -> tuple[ClaimResult, Mapping[int, Sequence[SentRequest]]]:
    """Enter as done what the dead had sent and filed; give what is left in doubt."""
    unsure, doubtful = dict(found.ambiguous), dict(left)
    for owner, lost in left.items():
        proved = _proved(connection, lost)
        if proved:
            _enter(connection, list(proved.values()))
            connection.execute(_LOG, (owner, RELEASED, _ENCODE(list(proved))))
            doubtful[owner] = [one for one in lost if one.key not in proved]
            for key in proved:
                unsure.pop(key, None)
    return replace(found, ambiguous=unsure), doubtful


def _write_off(connection: sqlite3.Connection, left: Mapping[int, Sequence[SentRequest]]) -> None:
    """Enter as ambiguous, for good, what somebody sent who is gone."""
    now = time.time()
    for owner, lost in left.items():
        if not lost:
            continue
        _enter(
            connection, [EndedRequest(key, run, model, "", "ambiguous", "", at, now) for key, run, model, at in lost]
        )
        connection.execute(_LOG, (owner, RELEASED, _ENCODE([one.key for one in lost])))


def _proved(connection: sqlite3.Connection, held: Iterable[SentRequest]) -> dict[bytes, EndedRequest]:
    """Find what is done, though who sent it died before writing that down: its answer is filed."""
    found: dict[bytes, EndedRequest] = {}
    for key, run, model, sent_at in held:
        row = connection.execute("SELECT value, created_at FROM answers WHERE key = ?", (key,)).fetchone()
        kept = unpack(row[0], key) if sent_at and row is not None else None
        if kept is not None and is_successful(kept):
            said = kept.unwrap()
            ended_at = sent_at + (said.latency_s or 0.0)
            found[key] = EndedRequest(key, run, model, said.served_model, "done", "", sent_at, ended_at, *said.usage)
    return found


def _enter(connection: sqlite3.Connection, ended: Sequence[EndedRequest]) -> None:
    if ended:
        connection.execute("INSERT INTO calls (ended_at, pack) VALUES (?, ?)", (ended[-1].ended_at, _ENCODE(ended)))


def _bury(connection: sqlite3.Connection, owner: int) -> None:
    """Keep of an owner that is gone what it had sent, if anything, and forget the rest."""
    sent = [one for one in fold_log(_log_of(connection, owner)).values() if one.sent_at]
    proved = _proved(connection, sent)
    _enter(connection, list(proved.values()))
    sent = [one for one in sent if one.key not in proved]
    _rewrite(connection, owner, sent)
    if sent:
        connection.execute("UPDATE owners SET born = '', lease_until = 0 WHERE id = ?", (owner,))
    else:
        connection.execute("DELETE FROM owners WHERE id = ?", (owner,))


def _log_of(connection: sqlite3.Connection, owner: int) -> ClaimLog:
    return connection.execute("SELECT kind, pack FROM claims WHERE owner = ? ORDER BY id", (owner,)).fetchall()


def _rewrite(connection: sqlite3.Connection, owner: int, held: Iterable[SentRequest]) -> None:
    """Put what a log comes to in its place."""
    connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))
    if kept := list(held):
        connection.execute(_LOG, (owner, RESERVED, _ENCODE(kept)))


def try_write(write: Callable[[], bool]) -> bool:
    """Write, unless somebody else does: say whether it is written."""
    try:
        return write()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & PRIMARY_CODE_MASK != sqlite3.SQLITE_BUSY:
            raise
        return False


class _WriteTransaction:
    """A transaction that begins by taking the right to write; ``undone`` is called before that is let go again."""

    __slots__ = ("_connection", "_undone")

    def __init__(self, connection: sqlite3.Connection, undone: Callable[[], None] = lambda: None) -> None:
        self._connection, self._undone = connection, undone

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        good = False
        try:
            if kind is None:
                self._connection.execute("COMMIT")
                good = True
        finally:
            if not good:
                self._undone()
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")


PROC: Final = Path("/proc")


GRACE_S: Final = 600.0
"""How long after its lease a process that lives is waited for: it may be held up, or suspended."""


DEAD_STATES: Final = frozenset("ZXx")
"""States of a process that is gone, though its parent has not taken note."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A holder of claims.

    Parameters
    ----------
    id
        Given by the store; two in one process are two.
    realm
        Host, boot and space of process numbers: within one, a number names a process.
    pid, born
        The process's number, and when it was started; empty where the system does not say.
    """

    id: int
    host_id: str
    pid: int
    started_at: str


def current_owner() -> Owner:
    """Make an owner of this process."""
    pid = os.getpid()
    return Owner(0, _host_id(), pid, process_start_time(pid))


def is_alive(one: Owner, lease_until: float, now: float) -> bool:
    """Say whether an owner may still hold what it claimed.

    In the same realm the system knows whether the process is there; elsewhere the lease says it. One that lives may
    have left and not have been able to write that down: it counts as gone when it has long not said anything, and
    within this process, where nobody can be held up alone, when its lease is over.

    Examples
    --------
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=9.0)
    True
    >>> is_alive(Owner(1, "elsewhere", 7, "1"), lease_until=10.0, now=11.0)
    False
    """
    if one.started_at and one.host_id == _host_id():
        return process_start_time(one.pid) == one.started_at and now < lease_until + (
            0.0 if one.pid == os.getpid() else GRACE_S
        )
    return now < lease_until


def process_start_time(pid: int) -> str:
    """Say when a process was started, in the system's own count; empty where it is gone, or nobody knows."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    # The name in parentheses may hold anything.
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0].decode() in DEAD_STATES else fields[19].decode()


@lru_cache(maxsize=1)
def _host_id() -> str:
    boot = namespace = ""
    with suppress(OSError):
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str((PROC / "self/ns/pid").readlink())
    return f"{socket.gethostname()} {boot} {namespace}"
