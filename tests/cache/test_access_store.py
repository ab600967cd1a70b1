"""Stores of keys and accounts: SQLite and Redis agree with a plain model, and lose nothing when a process dies."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llmhub
from llmhub.cache.access_store import (
    AccessStore,
    AccountBalance,
    AccountLimit,
    Admit,
    Charge,
    Enter,
    Expired,
    RateUse,
    Reserve,
    ReserveResult,
    Settle,
    UseNonce,
)
from llmhub.cache.processes import host_id
from llmhub.cache.redis import make_token
from llmhub.cache.redis_access import open_redis_access
from llmhub.cache.sqlite_access import open_sqlite_access
from llmhub.core.errors import BadRequestError

DOLLAR = 1_000_000_000


@pytest.fixture(params=["sqlite", "redis"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], AccessStore]:
    """Return a function that opens the same store again, of each kind in turn."""
    if request.param == "sqlite":
        return lambda: open_sqlite_access(tmp_path / "keys.db")
    url = request.getfixturevalue("redis_server").url
    cache = llmhub.RedisCache(url, namespace=f"access-{tmp_path}")
    return lambda: open_redis_access(cache)


@pytest.fixture
def store(reopen: Callable[[], AccessStore]) -> Iterator[AccessStore]:
    opened = reopen()
    yield opened
    opened.close()


def balance(store: AccessStore, name: str) -> tuple[int, int]:
    return next(((spent, reserved) for found, spent, reserved in store.balances(name) if found == name), (0, 0))


class TestRecords:
    def test_a_record_is_replaced_only_if_nobody_changed_it(self, store: AccessStore) -> None:
        assert store.get("a") is None
        assert store.replace("a", None, b"1")
        assert not store.replace("a", None, b"2")
        assert not store.replace("a", b"0", b"2")
        assert store.replace("a", b"1", b"2")
        assert store.replace("b", None, b"3")
        assert (store.get("a"), store.scan()) == (b"2", [b"2", b"3"])

    def test_a_file_of_another_kind_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "runs.db"
        llmhub.DiskCache(path).open().close()
        before = path.read_bytes()
        with pytest.raises(BadRequestError, match="another kind"):
            open_sqlite_access(path)
        assert path.read_bytes() == before


class TestAccounts:
    def test_a_reservation_fits_every_account_or_none(self, store: AccessStore) -> None:
        owner, day, total = make_token(), AccountLimit("k:day", 10), AccountLimit("k:total", 6)
        first, second, third = store.apply(
            owner, [Reserve("1", (day, total), 4), Reserve("2", (day, total), 4), Reserve("3", (day, total), 7)]
        )
        assert (first.decision, second, third.decision) == (  # type: ignore[attr-defined]
            "allow",
            ReserveResult("wait", 1, 0, 4),
            "reject",
        )
        assert (balance(store, "k:day"), balance(store, "k:total")) == ((0, 4), (0, 4))

    def test_operations_that_are_repeated_count_once(self, store: AccessStore) -> None:
        owner, account = make_token(), AccountLimit("k", 10)
        for _ in range(2):
            store.apply(owner, [Reserve("1", (account,), 4)])
        for _ in range(2):
            store.apply(owner, [Settle("1", 3)])
        assert balance(store, "k") == (3, 0)
        for _ in range(2 if store.is_shared else 1):  # in a file, an operation that failed has changed nothing
            store.apply(owner, [Enter("2", ("k",), 2)])
        assert balance(store, "k") == (5, 0)

    def test_a_locked_file_is_left_to_a_thread(self, tmp_path: Path) -> None:
        store = open_sqlite_access(tmp_path / "keys.db")
        assert store.try_apply is not None
        account, owner = AccountLimit("k", 10), make_token()
        with closing(sqlite3.connect(tmp_path / "keys.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert store.try_apply(owner, [Reserve("1", (account,), 4)]) is None
            other.execute("ROLLBACK")
        assert store.try_apply(owner, [Reserve("1", (account,), 4)]) == [ReserveResult("allow", 0, 0, 0)]
        assert balance(store, "k") == (0, 4)
        store.close()

    def test_a_call_that_costs_nothing(self, store: AccessStore) -> None:
        store.apply(make_token(), [Reserve("1", (AccountLimit("k", 0),), 0), Settle("1", 0)])
        assert balance(store, "k") == (0, 0)

    @settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(calls=st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 5)), max_size=12))
    def test_any_history_agrees_with_a_plain_model(self, store: AccessStore, calls: list[Any]) -> None:
        owner, name = make_token(), f"model-{os.urandom(8).hex()}"
        spent = reserved = 0
        limit = 9
        for number, (amount, is_settled, cost) in enumerate(calls):
            (result,) = store.apply(owner, [Reserve(f"{name}{number}", (AccountLimit(name, limit),), amount)])
            expected = "reject" if spent + amount > limit else "wait" if spent + reserved + amount > limit else "allow"
            assert isinstance(result, ReserveResult)
            assert result.decision == expected
            if expected == "allow":
                reserved += amount
                if is_settled:
                    paid = min(cost, amount)
                    store.apply(owner, [Settle(f"{name}{number}", paid)])
                    spent, reserved = spent + paid, reserved - amount
            assert balance(store, name) == (spent, reserved)

    def test_many_threads_reserve_no_more_than_there_is(self, reopen: Callable[[], AccessStore]) -> None:
        stores = [reopen() for _ in range(4)]
        account = AccountLimit("shared", DOLLAR)

        def spend(index: int) -> int:
            owner, paid = make_token(), 0
            for number in range(25):
                call = f"{index}-{number}"
                (result,) = stores[index].apply(owner, [Reserve(call, (account,), 13_333_333)])
                assert isinstance(result, ReserveResult)
                if result.decision == "allow":
                    stores[index].apply(owner, [Settle(call, 12_345_679)])
                    paid += 12_345_679
            return paid

        with ThreadPoolExecutor(4) as pool:
            paid = sum(pool.map(spend, range(4)))
        assert balance(stores[0], "shared") == (paid, 0)
        assert DOLLAR - 13_333_333 < paid <= DOLLAR
        for store in stores:
            store.close()


DIES = """
import os, sys
from llmhub.cache.access_store import AccountLimit, Reserve, Settle
from tests.cache.test_access_store import open_at
from llmhub.cache.redis import make_token
store, account = open_at(sys.argv[1]), AccountLimit("k", 100)
store.apply(make_token(), [Reserve("1", (account,), 10), Reserve("2", (account,), 20), Settle("1", 3)])
os.kill(os.getpid(), 9)
"""


def open_at(address: str) -> AccessStore:
    if address.startswith("redis://"):
        url, _, namespace = address.partition("#")
        return open_redis_access(llmhub.RedisCache(url, namespace=namespace))
    return open_sqlite_access(Path(address))


class TestDeaths:
    @pytest.mark.parametrize("kind", ["sqlite", "redis"])
    def test_reservations_of_a_killed_process_are_settled_at_their_maximum(
        self, kind: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        server = request.getfixturevalue("redis_server").url if kind == "redis" else ""
        address = f"{server}#dies-{tmp_path}" if server else str(tmp_path / "keys.db")
        killed = subprocess.run([sys.executable, "-c", DIES, address], check=False)
        assert killed.returncode == -9
        store = open_at(address)
        assert balance(store, "k") == (3, 20)
        assert store.expire(make_token()) == Expired(1, 20)
        assert balance(store, "k") == (23, 0)
        assert store.expire(make_token()) == Expired()
        store.close()

    def test_a_process_taken_for_dead_corrects_what_was_settled_for_it(self, tmp_path: Path) -> None:
        now = [1000.0]
        store = open_sqlite_access(tmp_path / "keys.db", lambda: now[0])
        stopped, other = b"stopped on another machine", b"other"
        store.apply(stopped, [Reserve("1", (AccountLimit("k", 100),), 40)])
        assert store.replicas() == 1
        assert store.expire(other) == Expired()
        now[0] += 60.0
        assert store.expire(other) == Expired(1, 40)
        assert (balance(store, "k"), store.replicas()) == ((40, 0), 1)
        store.apply(stopped, [Settle("1", 7), Settle("1", 7)])
        assert balance(store, "k") == (7, 0)
        store.close()

    def test_the_same_on_a_server(self, redis_server: Any, tmp_path: Path) -> None:
        cache = llmhub.RedisCache(redis_server.url, namespace=f"late-{tmp_path}")
        store = open_redis_access(cache)
        assert host_id()
        stopped = b"stopped on another machine"
        store.apply(stopped, [Reserve("1", (AccountLimit("k", 100),), 40)])
        with llmhub.cache.redis.RedisClient(cache).use() as client:
            client.zadd(f"{cache.namespace}!access:owners", {stopped: 1.0})
        assert store.expire(make_token()) == Expired(1, 40)
        store.apply(stopped, [Settle("1", 7), Settle("1", 7)])
        assert balance(store, "k") == (7, 0)
        # A reservation that arrives after it was given up is not made.
        store.apply(stopped, [Settle("2", 0), Reserve("2", (AccountLimit("k", 100),), 5)])
        assert store.balances("k") == [AccountBalance("k", 7, 0)]
        store.close()


class TestRates:
    def test_a_limit_admits_its_burst_and_then_its_rate(self, tmp_path: Path) -> None:
        now = [1000.0]
        store = open_sqlite_access(tmp_path / "keys.db", lambda: now[0])
        use = Admit((RateUse("k", 20_000_000, 60_000_000),))  # three a minute
        assert store.apply(b"o", [use] * 4) == [0, 0, 0, 20_000_000]
        now[0] += 20.0
        assert store.apply(b"o", [use, use]) == [0, 20_000_000]
        store.apply(b"o", [Charge((RateUse("k", -20_000_000, 60_000_000),))])
        assert store.apply(b"o", [use]) == [0]
        store.close()

    def test_owners_share_a_limit(self, reopen: Callable[[], AccessStore]) -> None:
        stores = [reopen(), reopen()]
        use = Admit((RateUse("shared", 10_000_000_000, 60_000_000_000), RateUse("other", 1, 60_000_000)))
        waits = [stores[turn % 2].apply(make_token(), [use])[0] for turn in range(10)]
        assert waits[:6] == [0] * 6
        assert all(isinstance(wait, int) and 9_000_000_000 < wait <= 10_000_000_000 for wait in waits[6:])
        for store in stores:
            store.close()

    def test_a_nonce_is_new_once(self, store: AccessStore) -> None:
        assert store.apply(make_token(), [UseNonce("n", 60.0), UseNonce("n", 60.0)]) == [True, False]
