"""Two replicas on one Redis server: one budget, one limit, the same runs, and what happens while it does not answer."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from decimal import Decimal
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import llmhub
from llmhub.cache.access_store import AccessStore
from llmhub.cache.redis_access import open_redis_access
from llmhub.core.budget import nano_to_usd
from llmhub.core.errors import BadRequestError
from llmhub.engine.event_loop import submit
from llmhub.server.access_settings import AccessSettings
from llmhub.server.batch_folder import BatchFolder
from llmhub.server.batch_storage import OUTPUT, BatchEntry, BatchOwner, BatchStore
from llmhub.server.dialects.openai_batches import BatchObject, FileObject
from llmhub.server.key_access import KeyAccess
from llmhub.server.redis_batch_store import RedisBatchStore
from llmhub.server.redis_run_store import RedisRunStore
from llmhub.server.run_store import FolderRunStore, RunLostError, RunRecord
from llmhub.server.running import RunningService
from llmhub.server.virtual_keys import KeyOptions, KeyRegistry
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from tests.server.conftest import ServiceProcess, service_process
from tests.server.test_batches_client import chat_line, client_of, create, results, wait
from tests.server.test_keys import chat
from tests.server.test_runs import ask, begin, decode, download, rows_after, state_of, texts
from tests.server.test_stress import until

TIMEOUT_S = 0.2


@dataclass(frozen=True)
class Shared:
    """A Redis server that replicas share, and its store of keys."""

    server: Any
    cache: llmhub.RedisCache
    store: AccessStore

    @property
    def registry(self) -> KeyRegistry:
        return KeyRegistry(self.store)

    @property
    def url(self) -> str:
        return f"{self.server.url}?timeout_s={TIMEOUT_S}"

    def stop(self) -> None:
        """Let the server answer nothing, as if its machine hung."""
        os.kill(self.server.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.server.process.pid, signal.SIGCONT)

    def spent(self, key_id: str) -> tuple[Decimal, int]:
        """Return what a key has spent in all, and what is reserved."""
        (found,) = [
            (nano_to_usd(spent), reserved)
            for name, spent, reserved in self.store.balances(f"key:{key_id}/")
            if name.endswith("/total")
        ]
        return found


@pytest.fixture
def shared(own_redis: Any) -> Iterator[Shared]:
    cache = llmhub.RedisCache(own_redis.url, timeout_s=TIMEOUT_S)
    store = open_redis_access(cache)
    held = Shared(own_redis, cache, store)
    yield held
    held.resume()
    store.close()


def ask_all(urls: list[str], token: str, count: int) -> list[tuple[int, dict[str, str], Any]]:
    """Send requests at once, to the replicas in turn, each with a prompt of its own."""
    turns = cycle(urls)
    prompts = [(next(turns), [{"role": "user", "content": f"Say {number:03d}"}]) for number in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda each: chat(each[0], token, messages=each[1]), prompts))


def test_replicas_keep_one_budget_and_one_limit_and_are_closed_without_the_server(
    shared: Shared, simulator: SimulatorThread
) -> None:
    limited = shared.registry.create(KeyOptions(rpm=10)).token
    key, spending = shared.registry.create(KeyOptions(budget_usd=Decimal("0.0005")))
    arguments = ("--keys", "--cache", shared.url)
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        started = pool.map(lambda _: stack.enter_context(service_process(simulator.url, *arguments)), range(2))
        urls = [served.url for served in started]

        began = time.monotonic()
        statuses = Counter(status for status, _, _ in ask_all(urls, limited, 30))
        refilled = int((time.monotonic() - began) / 6.0) + 1
        assert statuses.keys() == {200, 429}
        assert 10 <= statuses[200] <= 10 + refilled

        replies = ask_all(urls, spending, 100)
        statuses = Counter(status for status, _, _ in replies)
        assert statuses.keys() == {200, 402}
        costs = sum(Decimal(headers["x-llmhub-cost-usd"]) for status, headers, _ in replies if status == 200)
        assert until(lambda: shared.spent(key.id) == (costs, 0))
        assert Decimal("0.0004") < costs <= Decimal("0.0005")

        sent = simulator.counts()["requests"]
        fresh = shared.registry.create(KeyOptions(budget_usd=Decimal(1))).token
        shared.stop()
        for token in (limited, fresh):
            for status, headers, body in ask_all(urls, token, 4):
                assert (status, headers["x-should-retry"], "cannot be reached" in str(body)) == (503, "true", True)
                assert int(headers["retry-after"]) >= 1
        assert simulator.counts()["requests"] == sent
        shared.resume()
        for url in urls:
            assert until(lambda url=url: chat(url, fresh)[0] == 200)  # type: ignore[misc]


def test_replicas_use_their_part_of_each_limit_if_that_is_declared(
    shared: Shared, serving: Callable[..., RunningService]
) -> None:
    settings = AccessSettings(keys=True, store_lost="local", refresh_s=0.0)
    budget = Decimal("0.001")
    key, spending = shared.registry.create(KeyOptions(budget_usd=budget))
    limited = shared.registry.create(KeyOptions(rpm=10)).token
    unknown = shared.registry.create(KeyOptions()).token
    accesses = [KeyAccess(settings, open_redis_access(shared.cache)) for _ in range(2)]
    urls = [serving(access=access).url for access in accesses]
    replies = [*ask_all(urls, spending, 4), *ask_all(urls, limited, 2)]
    assert {status for status, _, _ in replies} == {200}
    for access in accesses:
        submit(access.accounts.beat()).result(20)
        assert access.accounts.replicas == 2

    shared.stop()
    total = Decimal(0)
    for replica, url in enumerate(urls):
        costs = [Decimal(headers["x-llmhub-cost-usd"]) for _, headers, _ in replies[replica:4:2]]
        statuses: list[int] = []
        while 402 not in statuses:
            status, headers, _ = chat(url, spending)
            statuses.append(status)
            if status == 200:
                costs.append(Decimal(headers["x-llmhub-cost-usd"]))
        assert set(statuses) == {200, 402}
        # Half of the budget, of which the replica has spent a part before.
        assert budget / 4 < sum(costs) <= budget / 2
        total += sum(costs)
        found = Counter(status for status, _, _ in ask_all([url], limited, 12))
        assert 5 <= found[200] <= 6
        assert found[429] == 12 - found[200]
        assert chat(url, unknown)[0] == 503
    shared.resume()
    assert until(lambda: not any(access.accounts.error for access in accesses))
    assert until(lambda: shared.spent(key.id) == (total, 0))


class TestRuns:
    """Runs of replicas that share a Redis server and no folder."""

    def test_run_of_a_killed_replica_is_followed_and_taken_up_by_another(
        self, redis_server: Any, tmp_path: Path
    ) -> None:
        with simulating(Simulator(latency=Latency(0.05))) as slow, ExitStack() as stack:

            def replica(number: int) -> ServiceProcess:
                folder = tmp_path / str(number)
                folder.mkdir()
                places = dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"), str(folder))
                return stack.enter_context(service_process(slow.url, "--cache", redis_server.url, variables=places))

            with ThreadPoolExecutor(2) as pool:
                first, second = pool.map(replica, range(2))
            run = begin(first.url, texts(60), concurrency=4)
            tables = [rows_after(second.url, run["id"], 0)[0]]
            logged = len(tables[0])
            assert logged
            assert state_of(second.url, run["id"])["state"] == "running"
            listed = decode(ask(second.url, "GET", "/v1/runs")[2])["data"]
            assert [each["id"] for each in listed] == [run["id"]]
            first.process.kill()
            results = download(second.url, run["id"], tables)
            assert sorted(results.column("row").to_pylist()) == list(range(60))
            assert set(results.column("status").to_pylist()) == {"ok"}
            assert state_of(second.url, run["id"])["state"] == "done"
            assert 60 <= slow.counts()["requests"] <= 60 + 60 - logged  # what was logged is not sent again
        assert not list(tmp_path.rglob("service-runs"))

    def test_store_keeps_one_executor_and_lists_as_the_folder_does(self, redis_server: Any, tmp_path: Path) -> None:
        cache = llmhub.RedisCache(redis_server.url, lease_s=0.2)
        mine, other, folder = RedisRunStore(cache), RedisRunStore(cache), FolderRunStore(tmp_path)
        with closing(mine), closing(other), closing(folder):
            records = [
                RunRecord(
                    id=f"{number:032x}", team="ab"[number % 2], created_at=5.0 + number // 2, state="queued",
                    caller=b"{}", request=b"\x00\xff", digest=bytes([number]), rows=number, simulated=number == 1,
                )
                for number in range(7)
            ]  # fmt: skip
            for record in records:
                for store in (mine, folder):
                    store.insert(record)
            for store in (mine, folder):
                store.update(records[2].id, state="running", started_at=6.5, summary=b"{}")
                store.update(records[3].id, state="done", ended_at=9.0, error="")
            seen = [
                [
                    store.latest("a", 2), store.latest("a", 2, records[4].id), store.latest(None, 9),
                    store.unfinished(),
                    store.find_unfinished("b", bytes([5])), store.find_unfinished("b", bytes([3])),
                    store.get(records[1].id, "b"), store.get(records[1].id, "a"), store.get("none", "a"),
                    store.remove_ended_before(9.5), store.latest("b", 9),
                ]
                for store in (other, folder)
            ]  # fmt: skip
            assert seen[0] == seen[1]

            run_id = records[0].id
            mine.input_path(run_id).write_bytes(b"input")
            mine.store_input(run_id)
            assert other.input_path(run_id).read_bytes() == b"input"
            lease = mine.try_lock(run_id)
            assert lease is not None
            assert other.try_lock(run_id) is None
            log = mine.open_results(run_id, lease)
            log.append(pa.table({"row": [1, 2]}))
            assert lease.renew()
            assert until(lambda: (taken := other.try_lock(run_id)) is not None and taken.renew())
            assert not lease.renew()
            with pytest.raises(RunLostError):
                log.append(pa.table({"row": [3]}))
            lease.release()
            assert other.try_lock(run_id) is None
            assert other.open_results(run_id).read(1).column("row").to_pylist() == [2]
            # A process that is late says nothing of a run that another one has ended.
            other.update(run_id, state="done", ended_at=10.0)
            mine.update(run_id, state="stopping")
            ended = mine.get(run_id, "a")
            assert ended is not None
            assert ended.state == "done"

    def test_lost_store_of_runs_is_no_internal_error(
        self, own_redis: Any, serving: Callable[..., RunningService]
    ) -> None:
        url = serving(hub={"cache": llmhub.RedisCache(own_redis.url)}).url
        own_redis.stop()
        for path in ("/v1/runs", "/v1/files", "/v1/batches"):
            status, headers, content = ask(url, "GET", path)
            assert (status, headers["x-should-retry"]) == (503, "true")
            assert b"cannot be reached" in content


class TestBatches:
    """Files and batches of replicas that share a Redis server and no folder."""

    def test_batch_of_a_killed_replica_is_taken_up_by_another(self, redis_server: Any, tmp_path: Path) -> None:
        with simulating(Simulator(latency=Latency(0.05))) as slow, ExitStack() as stack:

            def replica(number: int) -> ServiceProcess:
                folder = tmp_path / str(number)
                folder.mkdir()
                places = dict.fromkeys(("XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR"), str(folder))
                variables = {**places, "LLMHUB_SERVER_BATCHES_CONCURRENCY": "4"}
                return stack.enter_context(service_process(slow.url, "--cache", redis_server.url, variables=variables))

            with ThreadPoolExecutor(2) as pool:
                first, second = pool.map(replica, range(2))
            client, other = client_of(first.url), client_of(second.url)
            batch_id = create(client, [chat_line(f"n{number}") for number in range(60)])
            wait(other, batch_id, lambda batch: batch.request_counts.completed >= 4)
            first.process.kill()
            batch = wait(other, batch_id)
            answered = results(other, batch.output_file_id)
            assert (batch.status, len(answered)) == ("completed", 60)
            assert batch.request_counts.model_dump() == {"total": 60, "completed": 60, "failed": 0}
            assert 60 <= slow.counts()["requests"] <= 60 + 4
            assert [each.id for each in other.batches.list()] == [batch_id]
            assert {each.purpose for each in other.files.list()} == {"batch", "batch_output"}
            for each in other.files.list():
                other.files.delete(each.id)
            assert other.files.list().data == []
        assert not list(tmp_path.rglob("service-batches"))

    @pytest.fixture(params=["folder", "redis"])
    def store(self, request: pytest.FixtureRequest, redis_server: Any, tmp_path: Path) -> Iterator[BatchStore]:
        cache = llmhub.RedisCache(redis_server.url, lease_s=0.2)
        with closing(RedisBatchStore(cache, 100) if request.param == "redis" else BatchFolder(tmp_path)) as opened:
            yield opened

    @staticmethod
    def add(store: BatchStore, name: str, content: bytes = b"{}\n", team: str = "a") -> FileObject:
        file = FileObject(
            id=f"file-{name}",
            bytes=len(content),
            created_at=1,
            filename=f"{name}.jsonl",
            purpose="batch" if name < "m" else "batch_output",
            expires_at=1000 + ord(name),
        )
        path = store.upload_path()
        path.write_bytes(content)
        store.add_file(team, file, path)
        return file

    def test_files_are_listed_alike(self, store: BatchStore) -> None:
        files = [self.add(store, name) for name in "abcz"]
        self.add(store, "o", team="b")
        assert store.list_files("a", 9) == files[::-1]
        assert store.list_files("a", 9, oldest_first=True) == files
        assert store.list_files("a", 2, after="file-z", purpose="batch") == files[2:0:-1]
        assert store.list_files("a", 9, after="file-o") == store.list_files("a", 9, after="no id") == []
        assert (store.find_file("file-a", "a"), store.find_file("file-a", "b")) == (files[0], None)
        assert (store.bytes_of_team("a"), store.bytes_of_team("b")) == (12, 3)
        assert [store.delete_file("file-b", team) for team in ("b", "a", "a")] == [False, True, False]
        store.remove_old(1000 + ord("b"), 0)
        assert [file.id for file in store.list_files("a", 9)] == ["file-z", "file-c"]
        with store.open_content("file-c") as content:
            assert content.read() == b"{}\n"
        with pytest.raises(FileNotFoundError):
            store.open_content("file-a")

    def test_batches_hold_what_they_need_and_one_process_executes_each(self, store: BatchStore) -> None:
        self.add(store, "a", b"one\ntwo\n")
        owner = BatchOwner(key_id="k", team="a", scopes=(), models=(), weight=1.0, cache_scope="")
        made = [
            BatchObject(
                id=f"batch_{name}",
                endpoint="/v1/responses",
                input_file_id="file-a",
                completion_window="24h",
                status="validating",
                created_at=number,
                expires_at=9,
            )
            for number, name in enumerate(("x", "y"))
        ]
        assert [store.add_batch(BatchEntry("a", batch, owner)) for batch in made] == [True, True]
        assert store.delete_file("file-a", "a")
        assert not store.add_batch(BatchEntry("a", msgspec.structs.replace(made[0], id="batch_z"), owner))
        assert [entry.object.id for entry in store.list_batches("a", 9)] == ["batch_y", "batch_x"]
        assert [entry.object.id for entry in store.list_batches(None, 9, "batch_y")] in ([], ["batch_x"])
        assert [entry.object.id for entry in store.open_batches()] == ["batch_x", "batch_y"]
        assert [store.request_cancel("batch_y", team, 7.0) for team in ("b", "a")] == [False, True]
        found = store.find_batch("batch_y", "a")
        assert found is not None
        assert (found.cancel_at, found.owner, store.find_batch("batch_y", "b")) == (7.0, owner, None)

        batch, lock = made[0], store.try_lock("batch_x")
        assert lock is not None
        assert store.try_lock("batch_x") is None
        assert store.input_path(batch).read_bytes() == b"one\ntwo\n"
        store.set_reserved(batch.id, reserved=True)
        assert store.is_reserved(batch.id)
        log = store.open_log(batch.id, OUTPUT, lock)
        for line in (b"1\n", b"2\n", b"3\n"):
            log.append(line)
        assert list(log.groups(2)) == [[(1, b"1"), (2, b"2")], [(3, b"3")]]
        log.close()
        result = FileObject(id="file-xo", bytes=log.total_bytes(), created_at=1, filename="x", purpose="batch_output")
        for _ in range(2):
            store.add_result("a", batch.id, OUTPUT, result)
        batch.status, batch.completed_at = "completed", 5
        store.save(batch, lock)
        store.finish_batch(batch)
        lock.release()
        assert (store.list_files("a", 9), store.bytes_of_team("a")) == ([result], 6)
        with store.open_content("file-xo") as content:
            assert content.read() == b"1\n2\n3\n"
        assert [entry.object.id for entry in store.open_batches()] == ["batch_y"]
        store.finish_batch(made[1])  # the last that holds the deleted input
        if isinstance(store, RedisBatchStore):
            self.add(store, "b", b"x" * 94)
        store.remove_old(6 + 1.0, 1.0)
        assert [entry.object.id for entry in store.list_batches("a", 9)] == ["batch_y"]

    def test_server_has_bounded_room_and_a_lost_lease_writes_nothing(self, redis_server: Any) -> None:
        cache = llmhub.RedisCache(redis_server.url, lease_s=0.05)
        with closing(RedisBatchStore(cache, 10)) as store:
            self.add(store, "a", b"123456789\n")
            with pytest.raises(BadRequestError, match=r"have 10 bytes, and may have 10 \(server.batches.max_redis_"):
                self.add(store, "b")
            assert [file.id for file in store.list_files("a", 9)] == ["file-a"]
            lock = store.try_lock("batch_x")
            assert lock is not None
            assert until(lambda: store.try_lock("batch_x") is not None)
            with pytest.raises(RunLostError):
                store.open_log("batch_x", OUTPUT, lock).append(b"1\n")
            assert not lock.renew()
