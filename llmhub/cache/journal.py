"""Claims and the ledger in the SQLite file that holds the answers.

Every holder of claims writes a log of its own: what it reserved, sent, and let go. Folded, a log says what its owner
holds; it is rewritten as soon as it is long, so it stays as short as what is under way. What came of every request is
added to a table that is only ever added to. Both are written in packs of many requests, a row for each: that costs a
few microseconds a request, where a row for each request would cost five times as much.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Final, TypeAlias, TypeVar

import msgspec
from returns.pipeline import is_successful

from llmhub.cache.ledger import BEAT_S, LEASE_S, Batch, Claimed, Claims, Ended, Ledger, Sent, Wish
from llmhub.cache.owner import Owner, is_alive, this
from llmhub.core.codec import unpack

CREATE: Final = """
CREATE TABLE IF NOT EXISTS owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, realm TEXT NOT NULL, pid INTEGER NOT NULL, born TEXT NOT NULL,
    lease_until REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS claims (
    id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, kind INTEGER NOT NULL, pack BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS calls (id INTEGER PRIMARY KEY, ended_at REAL NOT NULL, pack BLOB NOT NULL);
"""
LONG: Final = 4096
"""Changes in a log before it is rewritten."""
CHECKPOINT_PAGES: Final = 16_000
"""Pages of the log before they are moved into the file: keys come in no order, and so touch the same pages often."""
PRIMARY: Final = 0xFF
"""The part of an error's code that says its kind."""
RESERVED, SENT, UNSENT, RELEASED = range(4)

T = TypeVar("T")

Log: TypeAlias = Iterable[tuple[int, bytes]]
"""What an owner did: kinds and packs, in order."""
Guard: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]
Hasty: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection | None]]


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
_OPEN: Final = _decoder(list[Sent])
_KEYS: Final = _decoder(list[bytes])
_ENDED: Final = _decoder(list[Ended])
_LOG: Final = "INSERT INTO claims (owner, kind, pack) VALUES (?, ?, ?)"


def fold(log: Log) -> dict[bytes, Sent]:
    """Say what is held after a log.

    Examples
    --------
    >>> one = Sent(b"k", b"r")
    >>> fold([(RESERVED, _ENCODE([one])), (SENT, _ENCODE([one._replace(at=1.0)]))])
    {b'k': Sent(key=b'k', run=b'r', model='', at=1.0)}
    >>> fold([(RESERVED, _ENCODE([one])), (RELEASED, _ENCODE([b"k"]))])
    {}
    """
    held: dict[bytes, Sent] = {}
    for kind, pack in log:
        step(held, kind, _OPEN(pack) if kind in {RESERVED, SENT} else _KEYS(pack))
    return held


def step(held: dict[bytes, Sent], kind: int, things: Sequence[Sent] | Sequence[bytes]) -> None:
    """Bring what is held up to date by what was done next."""
    for thing in things:
        if isinstance(thing, Sent):
            held[thing.key] = thing
        elif kind == RELEASED:
            held.pop(thing, None)
        elif thing in held:
            held[thing] = Sent(thing, held[thing].run)


def journal(guarded: Guard, hasty: Hasty) -> tuple[Claims, Ledger, Callable[[], None]]:
    """Make the claims and the ledger of a file, and the function that lets go of both.

    Parameters
    ----------
    guarded
        Gives the thread's connection for a block.
    hasty
        Gives one that waits for nobody, and moves no pages from the log into the file, for which it would wait; none
        while the disk is slow.
    """
    kept = _Journal(guarded, hasty)
    return (
        Claims(claim=kept.claim, release=kept.release, beat=kept.beat),
        Ledger(commit=kept.commit, try_commit=kept.try_commit, requests=kept.requests, forget=kept.forget),
        kept.close,
    )


class _Journal:
    """The part of the file that one owner writes."""

    def __init__(self, guarded: Guard, hasty: Hasty) -> None:
        self._guarded, self._hasty = guarded, hasty
        # Whoever writes the log and keeps account of it, that is one step to all others.
        self._accounting = threading.Lock()
        self._me: Owner | None = None
        self._changes = 0
        # What my log comes to; nothing where that must be read anew.
        self._held: dict[bytes, Sent] | None = None
        self._doubtful = False
        self._renew_at = 0.0
        self._company: tuple[int, int] = (0, 0)

    def claim(self, wishes: Sequence[Wish], resend: bool, again: bool) -> Claimed:
        with self._guarded() as connection:
            if again:
                # Most are held still: find that out without keeping others from writing.
                seen, _ = _looked_up(connection, wishes, self._me)
                if len(seen.held) == len(wishes):
                    return seen
            with _Writing(connection, self._lost):
                me = self._there(connection)
                alone = self._alone_still(connection)
                found, left = (Claimed(alone=True), {}) if alone else _looked_up(connection, wishes, me)
                found, left = _settled(connection, found, left)
                taken = [wish for wish in wishes if wish.key not in found.held]
                if not resend:
                    taken = [wish for wish in taken if wish.key not in found.unsure]
                # Who sends again does so in the name of the run that sent first, by which a provider may know it.
                self._log(connection, RESERVED, [Sent(key, found.unsure.get(key, run)) for key, run in taken])
                if resend:
                    _write_off(connection, left)
        return found

    def release(self, keys: Sequence[bytes]) -> None:
        with self._guarded() as connection, _Writing(connection, self._lost):
            self._log(connection, RELEASED, keys)

    def beat(self) -> None:
        me = self._me
        if me is None:
            return
        with self._guarded() as connection, _Writing(connection, self._lost):
            self._say_alive(connection, me.id)

    def _say_alive(self, connection: sqlite3.Connection, me: int) -> bool:
        """Extend the lease; say whether there was one."""
        now = time.time()
        said = connection.execute("UPDATE owners SET lease_until = ? WHERE id = ?", (now + LEASE_S, me))
        self._renew_at = now + BEAT_S if said.rowcount else 0.0
        return said.rowcount > 0

    def try_commit(self, batch: Batch) -> bool:
        with self._hasty() as connection:
            return connection is not None and not_busy(partial(self._commit_at_once, connection, batch))

    def _commit_at_once(self, connection: sqlite3.Connection, batch: Batch) -> bool:
        me = self._me
        more = batch.unsent or batch.ended or batch.released or self._doubtful
        if me is None or more or self._changes + len(batch.sent) > LONG or time.time() >= self._renew_at:
            self._commit(connection, batch)
            return True
        # Marks alone: a statement is a transaction, and one costs a third of three.
        if not self._accounting.acquire(blocking=False):
            return False
        try:
            connection.execute(_LOG, (me.id, SENT, _ENCODE(batch.sent)))
            self._changes += len(batch.sent)
            if self._held is not None:
                step(self._held, SENT, batch.sent)
        finally:
            self._accounting.release()
        return True

    def commit(self, batch: Batch) -> None:
        with self._guarded() as connection:
            self._commit(connection, batch)

    def _commit(self, connection: sqlite3.Connection, batch: Batch) -> None:
        with _Writing(connection, self._lost):
            self._there(connection)
            self._log(connection, SENT, batch.sent)
            self._log(connection, UNSENT, batch.unsent)
            _enter(connection, batch.ended)
            self._log(connection, RELEASED, batch.released)

    def requests(self) -> Iterator[Ended]:
        with self._guarded() as connection:
            packs = connection.execute("SELECT pack FROM calls ORDER BY id")
            ended = [one for (pack,) in packs for one in _ENDED(pack)]
            owners = _owners(connection)
            logs = {one.id: list(fold(_log_of(connection, one.id)).values()) for one in owners}
            proved = {one.id: _proved(connection, logs[one.id]) for one, alive in owners.items() if not alive}
        yield from ended
        for owner, alive in owners.items():
            answered = proved.get(owner.id, {})
            yield from answered.values()
            for key, run, model, sent_at in logs[owner.id]:
                if key in answered:
                    continue
                if sent_at:
                    yield Ended(key, run, model, "", "sent" if alive else "ambiguous", "", sent_at, 0.0)
                elif alive:
                    yield Ended(key, run, model, "", "reserved", "", 0.0, 0.0)

    def forget(self, before: float) -> int:
        with self._guarded() as connection, _Writing(connection, self._lost):
            gone = connection.execute("SELECT pack FROM calls WHERE ended_at < ?", (before,)).fetchall()
            connection.execute("DELETE FROM calls WHERE ended_at < ?", (before,))
        return sum(len(_ENDED(pack)) for (pack,) in gone)

    def close(self) -> None:
        """Leave. What was never sent is given back; what was sent stays, for whoever asks it next."""
        me, self._me = self._me, None
        if me is None:
            return
        with self._guarded() as connection, _Writing(connection, self._lost):
            _bury(connection, me.id)

    def _lost(self) -> None:
        """Forget what the log comes to, and whether this owner is entered: what was written last is undone."""
        self._held, self._doubtful = None, True

    def _log(self, connection: sqlite3.Connection, kind: int, things: Sequence[Sent] | Sequence[bytes]) -> None:
        """Add to the log; rewrite it when it has become long."""
        if not things or self._me is None:
            return
        me = self._me.id
        with self._accounting:
            connection.execute(_LOG, (me, kind, _ENCODE(things)))
            self._changes += len(things)
            if self._held is not None:
                step(self._held, kind, things)
            if self._changes > LONG:
                self._changes = 0
                if self._held is None:
                    self._held = fold(_log_of(connection, me))
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
            me = this()
            self._held = {}
            for one, alive in _owners(connection).items():
                if not alive:
                    _bury(connection, one.id)
            row = (me.realm, me.pid, me.born, time.time() + LEASE_S)
            joined = connection.execute("INSERT INTO owners (realm, pid, born, lease_until) VALUES (?, ?, ?, ?)", row)
            self._me = replace(me, id=joined.lastrowid or 0)
            self._renew_at = time.time() + BEAT_S
        return self._me


def _owners(connection: sqlite3.Connection, but: Owner | None = None) -> dict[Owner, bool]:
    """Name those who hold claims, and say who of them lives."""
    now = time.time()
    rows = connection.execute("SELECT id, realm, pid, born, lease_until FROM owners").fetchall()
    found = {Owner(*about): lease_until for *about, lease_until in rows}
    return {one: is_alive(one, until, now) for one, until in found.items() if one != but}


def _looked_up(
    connection: sqlite3.Connection, wishes: Sequence[Wish], me: Owner | None
) -> tuple[Claimed, Mapping[int, Sequence[Sent]]]:
    """See who holds what; give, too, what the dead had sent of it, by owner."""
    held: set[bytes] = set()
    unsure: dict[bytes, bytes] = {}
    left: dict[int, Sequence[Sent]] = {}
    keys = [wish.key for wish in wishes]
    for owner, alive in _owners(connection, but=me).items():
        log = fold(_log_of(connection, owner.id))
        theirs = [log[key] for key in keys if key in log]
        if alive:
            held.update(one.key for one in theirs)
        elif lost := [one for one in theirs if one.at]:
            left[owner.id] = lost
            unsure.update({one.key: one.run for one in lost})
    # Who took over from the dead holds it now.
    for key in held & unsure.keys():
        del unsure[key]
    return Claimed(frozenset(held), unsure), left


def _settled(
    connection: sqlite3.Connection, found: Claimed, left: Mapping[int, Sequence[Sent]]
) -> tuple[Claimed, Mapping[int, Sequence[Sent]]]:
    """Enter as done what the dead had sent and filed; give what is left in doubt."""
    unsure, doubtful = dict(found.unsure), dict(left)
    for owner, lost in left.items():
        proved = _proved(connection, lost)
        if proved:
            _enter(connection, list(proved.values()))
            connection.execute(_LOG, (owner, RELEASED, _ENCODE(list(proved))))
            doubtful[owner] = [one for one in lost if one.key not in proved]
            for key in proved:
                unsure.pop(key, None)
    return replace(found, unsure=unsure), doubtful


def _write_off(connection: sqlite3.Connection, left: Mapping[int, Sequence[Sent]]) -> None:
    """Enter as ambiguous, for good, what somebody sent who is gone."""
    now = time.time()
    for owner, lost in left.items():
        if not lost:
            continue
        _enter(connection, [Ended(key, run, model, "", "ambiguous", "", at, now) for key, run, model, at in lost])
        connection.execute(_LOG, (owner, RELEASED, _ENCODE([one.key for one in lost])))


def _proved(connection: sqlite3.Connection, held: Iterable[Sent]) -> dict[bytes, Ended]:
    """Find what is done, though who sent it died before writing that down: its answer is filed."""
    found: dict[bytes, Ended] = {}
    for key, run, model, sent_at in held:
        row = connection.execute("SELECT value, created_at FROM answers WHERE key = ?", (key,)).fetchone()
        kept = unpack(row[0], key) if sent_at and row is not None else None
        if kept is not None and is_successful(kept):
            said = kept.unwrap()
            ended_at = sent_at + (said.latency_s or 0.0)
            found[key] = Ended(key, run, model, said.served_model, "done", "", sent_at, ended_at, *said.usage)
    return found


def _enter(connection: sqlite3.Connection, ended: Sequence[Ended]) -> None:
    if ended:
        connection.execute("INSERT INTO calls (ended_at, pack) VALUES (?, ?)", (ended[-1].ended_at, _ENCODE(ended)))


def _bury(connection: sqlite3.Connection, owner: int) -> None:
    """Keep of an owner that is gone what it had sent, if anything, and forget the rest."""
    sent = [one for one in fold(_log_of(connection, owner)).values() if one.at]
    proved = _proved(connection, sent)
    _enter(connection, list(proved.values()))
    sent = [one for one in sent if one.key not in proved]
    _rewrite(connection, owner, sent)
    if sent:
        connection.execute("UPDATE owners SET born = '', lease_until = 0 WHERE id = ?", (owner,))
    else:
        connection.execute("DELETE FROM owners WHERE id = ?", (owner,))


def _log_of(connection: sqlite3.Connection, owner: int) -> Log:
    return connection.execute("SELECT kind, pack FROM claims WHERE owner = ? ORDER BY id", (owner,)).fetchall()


def _rewrite(connection: sqlite3.Connection, owner: int, held: Iterable[Sent]) -> None:
    """Put what a log comes to in its place."""
    connection.execute("DELETE FROM claims WHERE owner = ?", (owner,))
    if kept := list(held):
        connection.execute(_LOG, (owner, RESERVED, _ENCODE(kept)))


def not_busy(write: Callable[[], bool]) -> bool:
    """Write, unless somebody else does: say whether it is written."""
    try:
        return write()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & PRIMARY != sqlite3.SQLITE_BUSY:
            raise
        return False


class _Writing:
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
