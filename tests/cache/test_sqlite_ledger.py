"""Claims and the ledger in an SQLite file."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.cache import sqlite_ledger
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.sqlite_ledger import GRACE_S, Owner, current_owner, is_alive, process_start_time
from llmhub.cache.store import ClaimRequest, EndedRequest, LedgerBatch, SentRequest, Store

RUN = b"r" * 16


KEYS = [bytes([n]) * 32 for n in range(6)]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Open the same file again and again, each time as somebody else."""
    with ExitStack() as stack:

        def another() -> Store:
            store = DiskCache(tmp_path / "runs.db").open()
            stack.callback(store.close)
            return store

        yield another


def claimed(store: Store, *keys: bytes, resend: bool = True) -> Any:
    assert store.claims is not None
    return store.claims.claim([ClaimRequest(key, RUN) for key in keys], resend, False)


def commit(store: Store, **batch: Any) -> None:
    assert store.ledger is not None
    store.ledger.commit(LedgerBatch(**batch))


def failing(*_: object) -> None:
    raise sqlite3.OperationalError("the disk is full")


def broken(*_: object) -> None:
    raise ValueError("broken")


def states(store: Store) -> list[str]:
    assert store.ledger is not None
    return sorted(one.state for one in store.ledger.requests())


def test_a_key_is_one_owner_s_until_it_is_given_back(opened: Any) -> None:
    one, two = opened(), opened()
    assert not claimed(one, KEYS[0], KEYS[1]).held_elsewhere
    assert claimed(two, KEYS[1], KEYS[2]).held_elsewhere == {KEYS[1]}
    commit(one, released=[KEYS[1]])
    assert not claimed(two, KEYS[1]).held_elsewhere
    assert claimed(one, KEYS[1]).held_elsewhere == {KEYS[1]}


def test_owners_with_overlapping_sets_never_wait_for_each_other(opened: Any) -> None:
    one, two = opened(), opened()
    claimed(one, KEYS[0])
    claimed(two, KEYS[1])
    assert claimed(one, KEYS[1]).held_elsewhere == {KEYS[1]}
    assert claimed(two, KEYS[0]).held_elsewhere == {KEYS[0]}


def test_who_leaves_gives_back_what_it_reserved_and_leaves_in_doubt_what_it_sent(opened: Any) -> None:
    one, two = opened(), opened()
    claimed(one, KEYS[0], KEYS[1])
    commit(one, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert states(two) == ["reserved", "sent"]
    one.close()
    assert states(two) == ["ambiguous"]
    found = claimed(two, KEYS[0], KEYS[1], resend=False)
    assert (found.held_elsewhere, dict(found.ambiguous)) == (frozenset(), {KEYS[0]: RUN})
    assert dict(claimed(two, KEYS[0]).ambiguous) == {KEYS[0]: RUN}
    assert not claimed(two, KEYS[0]).ambiguous
    assert states(two) == ["ambiguous", "reserved", "reserved"]


def test_a_commit_that_may_not_wait_says_no_while_somebody_else_writes(opened: Any, tmp_path: Path) -> None:
    store = opened()
    batch = LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert store.ledger.try_commit(batch)
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    assert not store.ledger.try_commit(batch)
    assert time.monotonic() - began < 5
    other.execute("ROLLBACK")
    other.close()
    store.ledger.commit(batch)
    assert states(store) == ["sent"]


def test_a_log_stays_short(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ledger, "COMPACT_AFTER", 10)
    store = opened()
    for _ in range(50):
        claimed(store, *KEYS)
        commit(store, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)], released=KEYS[:3])
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone()[0] <= 10
    connection.close()
    assert states(store) == ["reserved"] * 3


def test_what_is_kept_in_mind_is_what_the_log_says(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: whatever is written, and undone, another reads what its writer holds; rewriting loses nothing."""
    monkeypatch.setattr(sqlite_ledger, "COMPACT_AFTER", 7)
    store, other, draw, sent = opened(), opened(), random.Random(3), set()
    for _ in range(120):
        some = draw.sample(KEYS, 3)
        claimed(store, *some)
        assert store.ledger.try_commit(LedgerBatch(sent=[SentRequest(key, RUN, "p/m", 1.0) for key in some]))
        sent.update(some)
        if draw.random() < 0.3:
            with monkeypatch.context() as breaking, pytest.raises(ValueError, match="broken"):  # noqa: PT012 - patched for it
                breaking.setattr(sqlite_ledger, "_insert_ended", broken)
                commit(store, sent=[SentRequest(KEYS[0], RUN, "p/m", 2.0)], unsent=KEYS[:4], released=KEYS[3:])
        gone = draw.sample(KEYS, 2)
        commit(store, released=gone)
        sent.difference_update(gone)
        assert {one.key for one in other.ledger.requests() if one.state == "sent"} == sent


def test_an_owner_whose_entry_was_undone_enters_again(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = opened(), opened()
    with monkeypatch.context() as breaking, pytest.raises(ValueError, match="broken"):  # noqa: PT012 - patched for it
        breaking.setattr(sqlite_ledger, "_insert_ended", broken)
        commit(one, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert states(two) == []
    assert one.ledger.try_commit(LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)]))
    assert states(two) == ["sent"]
    assert claimed(two, KEYS[0]).held_elsewhere == {KEYS[0]}


def test_who_left_and_could_not_say_so_is_not_waited_for_when_its_lease_is_over(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = opened(), opened()
    claimed(one, KEYS[0], KEYS[1])
    commit(one, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    with monkeypatch.context() as breaking:
        breaking.setattr(sqlite_ledger, "_retire", failing)
        one.close()
    assert claimed(two, *KEYS[:2]).held_elsewhere == set(KEYS[:2])
    later = time.time() + sqlite_ledger.LEASE_S + 1
    monkeypatch.setattr(sqlite_ledger.time, "time", lambda: later)
    assert dict(claimed(two, *KEYS[:2]).ambiguous) == {KEYS[0]: RUN}


def test_who_was_silent_for_long_and_was_buried_enters_again(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = opened(), opened(), opened()
    claimed(one, KEYS[0])
    commit(one, released=[KEYS[0]])
    later = time.time() + sqlite_ledger.LEASE_S + 1
    monkeypatch.setattr(sqlite_ledger.time, "time", lambda: later)
    claimed(two, KEYS[1])
    assert one.ledger.try_commit(LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)]))
    assert claimed(three, KEYS[0]).held_elsewhere == {KEYS[0]}


def test_what_ended_is_read_back_and_forgotten_by_age(opened: Any) -> None:
    store = opened()
    rows = [
        EndedRequest(key, RUN, "p/m", "m", "done", "", 1.0, 10.0 * n, 1, 2, 3, 4, 5) for n, key in enumerate(KEYS, 1)
    ]
    for row in rows:
        commit(store, ended=[row])
    assert list(store.ledger.requests()) == rows
    assert store.ledger.delete_before(31.0) == 3
    assert list(store.ledger.requests()) == rows[3:]


@given(st.lists(st.tuples(st.sampled_from(range(4)), st.lists(st.sampled_from(KEYS), max_size=4)), max_size=20))
def test_folding_a_rewritten_log_gives_the_same(steps: list[tuple[int, list[bytes]]]) -> None:
    log = []
    for kind, keys in steps:
        at = 1.0 if kind == sqlite_ledger.SENT else 0.0
        held = kind in {sqlite_ledger.RESERVED, sqlite_ledger.SENT}
        log.append((kind, sqlite_ledger._ENCODE([SentRequest(key, RUN, "", at) for key in keys] if held else keys)))
    whole = sqlite_ledger.fold_log(log)
    for cut in range(len(log) + 1):
        half = sqlite_ledger.fold_log(log[:cut])
        assert (
            sqlite_ledger.fold_log([(sqlite_ledger.RESERVED, sqlite_ledger._ENCODE(list(half.values()))), *log[cut:]])
            == whole
        )


def test_a_process_is_told_from_one_that_had_its_number_before() -> None:
    me = current_owner()
    assert me.started_at == process_start_time(os.getpid())
    if me.started_at:
        # Within one process the lease says it, and of others the system, but for those that are silent for long.
        assert is_alive(me, 11.0, 10.0)
        assert not is_alive(me, 10.0, 11.0)
        parent = replace(me, pid=os.getppid(), started_at=process_start_time(os.getppid()))
        assert is_alive(parent, 10.0, 11.0)
        assert not is_alive(parent, 10.0, 11.0 + GRACE_S)
        assert not is_alive(Owner(me.id, me.host_id, me.pid, me.started_at + "1"), 1e12, 0.0)
    assert not is_alive(Owner(1, me.host_id, 2**22 + 1, "1"), 1e12, 0.0) or not me.started_at
