"""Claims and the ledger in an SQLite file."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.cache import processes, sqlite_ledger
from llmhub.cache.processes import process_start_time
from llmhub.cache.redis import RedisCache
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.sqlite_ledger import CONFIRM_S, GRACE_S, Owner, current_owner, is_alive
from llmhub.cache.store import HEARTBEAT_S, LEASE_S, ClaimRequest, EndedRequest, LedgerBatch, SentRequest, Store

RUN = b"r" * 16
KEYS = [bytes([n]) * 32 for n in range(6)]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Any]:
    """Return a function that opens the same file, each time as another owner."""
    with ExitStack() as stack:

        def open_another() -> Store:
            store = DiskCache(tmp_path / "runs.db").open()
            stack.callback(store.close)
            return store

        yield open_another


def claim(store: Store, *keys: bytes, resend: bool = True) -> Any:
    assert store.claims is not None
    return store.claims.claim([ClaimRequest(key, RUN) for key in keys], resend, False)


def commit(store: Store, **batch: Any) -> None:
    assert store.ledger is not None
    store.ledger.commit(LedgerBatch(**batch))


def raise_disk_full(*_: object) -> None:
    raise sqlite3.OperationalError("the disk is full")


def raise_broken(*_: object) -> None:
    raise ValueError("raise_broken")


def states(store: Store) -> list[str]:
    assert store.ledger is not None
    return sorted(request.state for request in store.ledger.requests())


def test_a_key_is_held_until_it_is_released(open_store: Any) -> None:
    first, second = open_store(), open_store()
    assert not claim(first, KEYS[0], KEYS[1]).held_elsewhere
    assert claim(second, KEYS[1], KEYS[2]).held_elsewhere == {KEYS[1]}
    commit(first, released=[KEYS[1]])
    assert not claim(second, KEYS[1]).held_elsewhere
    assert claim(first, KEYS[1]).held_elsewhere == {KEYS[1]}


def test_overlapping_claims_do_not_block(open_store: Any) -> None:
    first, second = open_store(), open_store()
    claim(first, KEYS[0])
    claim(second, KEYS[1])
    assert claim(first, KEYS[1]).held_elsewhere == {KEYS[1]}
    assert claim(second, KEYS[0]).held_elsewhere == {KEYS[0]}


def test_closing_releases_unsent_keys_and_leaves_sent_ones_ambiguous(open_store: Any) -> None:
    first, second = open_store(), open_store()
    claim(first, KEYS[0], KEYS[1])
    commit(first, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert states(second) == ["reserved", "sent"]
    first.close()
    assert states(second) == ["ambiguous"]
    result = claim(second, KEYS[0], KEYS[1], resend=False)
    assert (result.held_elsewhere, dict(result.ambiguous)) == (frozenset(), {KEYS[0]: RUN})
    assert dict(claim(second, KEYS[0]).ambiguous) == {KEYS[0]: RUN}
    assert not claim(second, KEYS[0]).ambiguous
    assert states(second) == ["ambiguous", "reserved", "reserved"]


@pytest.mark.parametrize("other", ["none", "before", "between", "during"])
def test_first_claim_is_exclusive_only_without_other_owners_since_the_first_look_up(
    open_store: Any, other: str
) -> None:
    """Only then no answer can have been stored since the look-up."""
    store, another = open_store(), open_store()
    if other in {"before", "during"}:
        claim(another, KEYS[1])
    if other == "before":
        another.close()
    assert not store.get_many(KEYS)
    if other == "between":
        claim(another, KEYS[1])
    another.close()
    assert claim(store, KEYS[0]).exclusive == (other in {"none", "before"})
    assert claim(store, KEYS[2]).exclusive


def test_first_claim_without_a_look_up_is_not_exclusive(open_store: Any) -> None:
    store = open_store()
    assert not claim(store, KEYS[0]).exclusive
    assert claim(store, KEYS[1]).exclusive


def test_try_commit_returns_false_while_locked(open_store: Any, tmp_path: Path) -> None:
    store = open_store()
    batch = LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert store.ledger.try_commit(batch)
    other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started_at = time.monotonic()
    assert not store.ledger.try_commit(batch)
    assert time.monotonic() - started_at < 5
    other.execute("ROLLBACK")
    other.close()
    store.ledger.commit(batch)
    assert states(store) == ["sent"]


def test_long_claim_logs_are_compacted(open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ledger, "COMPACT_AFTER", 10)
    store = open_store()
    for _ in range(50):
        claim(store, *KEYS)
        commit(store, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)], released=KEYS[:3])
    with closing(sqlite3.connect(tmp_path / "runs.db")) as connection, connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone()[0] <= 10
    connection.close()
    assert states(store) == ["reserved"] * 3


def test_state_in_memory_equals_the_folded_log(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another owner reads the same state, after rollbacks and compaction too."""
    monkeypatch.setattr(sqlite_ledger, "COMPACT_AFTER", 7)
    store, other, draw, sent = open_store(), open_store(), random.Random(3), set()
    for _ in range(120):
        keys = draw.sample(KEYS, 3)
        claim(store, *keys)
        assert store.ledger.try_commit(LedgerBatch(sent=[SentRequest(key, RUN, "p/m", 1.0) for key in keys]))
        sent.update(keys)
        if draw.random() < 0.3:
            with monkeypatch.context() as patch, pytest.raises(ValueError, match="raise_broken"):  # noqa: PT012 - patched for it
                patch.setattr(sqlite_ledger, "_insert_ended", raise_broken)
                commit(store, sent=[SentRequest(KEYS[0], RUN, "p/m", 2.0)], unsent=KEYS[:4], released=KEYS[3:])
        released = draw.sample(KEYS, 2)
        commit(store, released=released)
        sent.difference_update(released)
        assert {request.key for request in other.ledger.requests() if request.state == "sent"} == sent


def test_owner_registers_again_after_a_rollback(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = open_store(), open_store()
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="raise_broken"):  # noqa: PT012 - patched for it
        patch.setattr(sqlite_ledger, "_insert_ended", raise_broken)
        commit(first, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    assert states(second) == []
    assert first.ledger.try_commit(LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)]))
    assert states(second) == ["sent"]
    assert claim(second, KEYS[0]).held_elsewhere == {KEYS[0]}


def test_claims_of_an_owner_that_failed_to_close_are_free(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = open_store(), open_store()
    claim(first, KEYS[0], KEYS[1])
    commit(first, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_ledger, "_retire", raise_disk_full)
        first.close()
    assert dict(claim(second, *KEYS[:2]).ambiguous) == {KEYS[0]: RUN}


def test_retired_owner_registers_again(open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = open_store(), open_store(), open_store()
    claim(first, KEYS[0])
    commit(first, released=[KEYS[0]])
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_ledger, "is_alive", lambda *_, **__: False)
        claim(second, KEYS[1])
    first.claims.heartbeat()
    assert first.ledger.try_commit(LedgerBatch(sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)]))
    assert claim(third, KEYS[0]).held_elsewhere == {KEYS[0]}


@pytest.mark.parametrize("step_s", [20 * 60, 2 * 3600, 30 * 86_400, -3600])
def test_a_step_of_the_clock_frees_no_claim_of_a_living_owner(
    open_store: Any, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    first, second = open_store(), open_store()
    claim(first, *KEYS[:2])
    commit(first, sent=[SentRequest(KEYS[0], RUN, "p/m", 1.0)])
    clock = time.time
    monkeypatch.setattr(sqlite_ledger.time, "time", lambda: clock() + step_s)
    for store in (second, open_store()):
        assert claim(store, *KEYS[:2]).held_elsewhere == set(KEYS[:2])
        assert claim(store, *KEYS[:2]).ambiguous == {}
    commit(first, released=KEYS[:2])
    assert claim(second, *KEYS[:2]).held_elsewhere == frozenset()


HOLDER = """
import sys
from llmhub.cache.sqlite import DiskCache
from llmhub.cache.store import ClaimRequest, LedgerBatch, SentRequest
store, key, run = DiskCache(sys.argv[1]).open(), bytes.fromhex(sys.argv[2]), b"r" * 16
store.claims.claim([ClaimRequest(key, run)], True, False)
store.ledger.commit(LedgerBatch(sent=[SentRequest(key, run, "p/m", 1.0)]))
print("holds it", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("step_s", [20 * 60, 2 * 3600, 30 * 86_400, -3600])
def test_a_step_of_the_clock_frees_no_claim_of_another_living_process(
    open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    store, clock = open_store(), time.time
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "runs.db"), KEYS[0].hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds it\n"
        monkeypatch.setattr(sqlite_ledger.time, "time", lambda: clock() + step_s)
        assert claim(store, KEYS[0]).held_elsewhere == {KEYS[0]}
        assert claim(open_store(), KEYS[0]).held_elsewhere == {KEYS[0]}
        holder.kill()
        holder.wait()
        taken = claim(store, KEYS[0])
        assert (taken.held_elsewhere, set(taken.ambiguous)) == (frozenset(), {KEYS[0]})


def test_an_owner_elsewhere_is_observed_before_it_counts_as_dead(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container on the same disk: its processes are not in the table of this one, and a clock step hits both."""
    monotonic, wall = [0.0], [1e9]
    monkeypatch.setattr(sqlite_ledger.time, "monotonic", lambda: monotonic[0])
    monkeypatch.setattr(sqlite_ledger.time, "time", lambda: wall[0])
    monkeypatch.setattr(Owner, "is_local", property(lambda _: False))
    first, second = open_store(), open_store()
    claim(first, KEYS[0])
    wall[0] += 7200.0  # both wake up
    assert claim(second, KEYS[0]).held_elsewhere == {KEYS[0]}
    monotonic[0] += HEARTBEAT_S
    first.claims.heartbeat()
    monotonic[0] += HEARTBEAT_S
    assert claim(second, KEYS[0]).held_elsewhere == {KEYS[0]}
    wall[0] += 7200.0  # and this time the first one is dead
    monotonic[0] += CONFIRM_S
    assert claim(second, KEYS[0]).held_elsewhere == frozenset()


def test_an_owner_elsewhere_that_stops_renewing_its_lease_is_dead(
    open_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic, wall = [0.0], [1e9]
    monkeypatch.setattr(sqlite_ledger.time, "monotonic", lambda: monotonic[0])
    monkeypatch.setattr(sqlite_ledger.time, "time", lambda: wall[0])
    monkeypatch.setattr(Owner, "is_local", property(lambda _: False))
    first, second = open_store(), open_store()
    claim(first, KEYS[0])
    wall[0] -= 7200.0  # the clock that wrote the lease was ahead
    assert claim(second, KEYS[0]).held_elsewhere == {KEYS[0]}
    monotonic[0] += LEASE_S
    assert claim(second, KEYS[0]).held_elsewhere == frozenset()


def test_claims_of_a_dead_process_elsewhere_end_within_seconds() -> None:
    """But not before a living owner has missed two renewals."""
    assert 2 * HEARTBEAT_S <= CONFIRM_S <= LEASE_S <= 15.0
    elsewhere = Owner(1, "elsewhere", 7, "1")
    assert not is_alive(elsewhere, lease_until=10.0, now=9.0, unchanged_s=LEASE_S)
    assert not is_alive(elsewhere, lease_until=10.0, now=10.0, unchanged_s=CONFIRM_S)
    assert RedisCache("redis://host").lease_s <= 10.0


def test_ended_requests_are_listed_and_deleted_by_age(open_store: Any) -> None:
    store = open_store()
    rows = [
        EndedRequest(key, RUN, "p/m", "m", "done", "", 1.0, 10.0 * n, 1, 2, 3, 4, 5) for n, key in enumerate(KEYS, 1)
    ]
    for row in rows:
        commit(store, ended=[row])
    assert list(store.ledger.requests()) == rows
    assert store.ledger.delete_before(31.0) == 3
    assert list(store.ledger.requests()) == rows[3:]


@given(st.lists(st.tuples(st.sampled_from(range(4)), st.lists(st.sampled_from(KEYS), max_size=4)), max_size=20))
def test_compacting_a_log_keeps_its_state(steps: list[tuple[int, list[bytes]]]) -> None:
    log = []
    for kind, keys in steps:
        at = 1.0 if kind == sqlite_ledger.SENT else 0.0
        is_claim = kind in {sqlite_ledger.RESERVED, sqlite_ledger.SENT}
        log.append((kind, sqlite_ledger._ENCODE([SentRequest(key, RUN, "", at) for key in keys] if is_claim else keys)))
    expected = sqlite_ledger.fold_log(log)
    for cut in range(len(log) + 1):
        prefix = sqlite_ledger.fold_log(log[:cut])
        assert (
            sqlite_ledger.fold_log([(sqlite_ledger.RESERVED, sqlite_ledger._ENCODE(list(prefix.values()))), *log[cut:]])
            == expected
        )


def test_reused_process_id_is_not_the_owner() -> None:
    owner = current_owner()
    assert owner.started_at == process_start_time(os.getpid())
    if owner.started_at:
        # Of this process open ledgers are alive; of others those in the process table that renew their lease.
        assert is_alive(owner, 10.0, 11.0, 1e9, is_open=True)
        assert not is_alive(owner, 11.0, 10.0, 0.0, is_open=False)
        parent = replace(owner, pid=os.getppid(), started_at=process_start_time(os.getppid()))
        assert is_alive(parent, 10.0, 1e9, 0.0)
        assert not is_alive(parent, 10.0, 11.0, GRACE_S)
        assert not is_alive(replace(parent, started_at=parent.started_at + "1"), 1e12, 0.0, 0.0)
    assert not is_alive(Owner(1, owner.host_id, 2**22 + 1, "1"), 1e12, 0.0, 0.0) or not owner.started_at


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps")
def test_processes_are_told_apart_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on macOS."""
    monkeypatch.setattr(processes, "PROC", tmp_path / "none")
    owner = current_owner()
    assert owner.started_at
    assert owner.started_at == process_start_time(os.getpid())
    parent = replace(owner, pid=os.getppid(), started_at=process_start_time(os.getppid()))
    assert is_alive(parent, 10.0, 1e9, 0.0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_at = process_start_time(child.pid)
    child.kill()
    processes._start_time_of_ps.cache_clear()
    child_owner = replace(owner, pid=child.pid, started_at=started_at)
    while is_alive(child_owner, 1e12, 0.0, 0.0):  # until the kernel has ended it; it is not reaped yet
        processes._start_time_of_ps.cache_clear()
    assert started_at
    child.communicate()
    assert process_start_time(child.pid) == ""
