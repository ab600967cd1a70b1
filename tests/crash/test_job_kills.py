"""A killed worker of a distributed job costs what was in flight, however slow the cache is that workers share."""

from __future__ import annotations

import random
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import llmhub
from llmhub.cache.store import Cache
from llmhub.sim import Latency, Simulator, serving

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX fork and signals")]

KILLS = 4
CONCURRENCY = 8
BATCH_ROWS = 40
ROWS = 120
DELAY_S = 0.02


@contextmanager
def slow_redis(server: Any, _folder: Path) -> Iterator[tuple[str, Cache]]:
    """Yield the URL of a proxy that holds back every command for a moment, and the cache behind it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving_thread = threading.Thread(target=_serve, args=(listener, server.port))
        serving_thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0", llmhub.RedisCache(server.url)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving_thread.join()


def _serve(listener: socket.socket, port: int) -> None:
    threads: list[threading.Thread] = []
    with suppress(OSError):  # shut down
        while True:
            client = listener.accept()[0]
            upstream = socket.create_connection(("127.0.0.1", port))
            for ends in ((client, upstream, DELAY_S), (upstream, client, 0.0)):
                threads.append(threading.Thread(target=_forward, args=ends))
                threads[-1].start()
    for thread in threads:
        thread.join()


def _forward(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Forward what arrives, later; nothing of a client that has ended meanwhile."""
    with source:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(delay_s)
                if not delay_s or not _has_ended(source):
                    target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def _has_ended(client: socket.socket) -> bool:
    try:
        return not client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


@contextmanager
def contended_file(_server: Any, folder: Path) -> Iterator[tuple[str, Cache]]:
    """Yield a file that another process, here a thread, locks for a moment again and again."""
    path, ended = folder / "jobs.db", threading.Event()
    llmhub.DiskCache(path).open().close()

    def lock_often() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
            while not ended.is_set():
                connection.execute("BEGIN IMMEDIATE")
                ended.wait(DELAY_S)
                connection.execute("COMMIT")
                ended.wait(DELAY_S)

    locking = threading.Thread(target=lock_often)
    locking.start()
    try:
        yield str(path), llmhub.DiskCache(path)
    finally:
        ended.set()
        locking.join()


@pytest.mark.parametrize("slow_store", [slow_redis, contended_file])
def test_a_killed_worker_costs_no_more_than_was_in_flight(
    fork_server: Any, redis_server: Any, tmp_path: Path, slow_store: Callable[..., Any]
) -> None:
    """Requests <= unique rows + those that had a slot at the kill: none of them is answered twice into the store."""
    rng, texts, lost_in_all = random.Random(7), list[str](), 0
    with (
        serving(Simulator(latency=Latency(0.002))) as served,
        slow_store(redis_server, tmp_path) as (url, cache),
    ):
        for kill in range(KILLS):
            own = [f"kill {kill}, row {number}" for number in range(ROWS)]
            job = {"url": served.base_url("openai"), "prompts": own, "concurrency": CONCURRENCY}
            enough = served.counts()["requests"] + rng.randrange(1, ROWS - 2 * CONCURRENCY)
            pid = fork_server.start(**job, store=url, batch_rows=BATCH_ROWS)
            while served.counts()["requests"] < enough:
                time.sleep(0.001)
            fork_server.kill(pid)
            assert fork_server.wait(pid)["killed"]
            while served.counts()["in_flight"]:
                time.sleep(0.001)
            texts += own
            with closing(cache.open()) as store:
                lost = served.counts()["requests"] - (lost_in_all + store.stats().entries)
            assert 0 <= lost <= CONCURRENCY
            lost_in_all += lost
            # The worker that the engine starts in its place sends what is missing.
            again = fork_server.wait(fork_server.start(**job, store=cache_url(cache), batch_rows=BATCH_ROWS))
            assert again["statuses"] == ["ok"] * ROWS
            assert served.counts()["requests"] == len(texts) + lost_in_all
        assert lost_in_all > 0


def cache_url(cache: Any) -> str:
    return str(cache.url if isinstance(cache, llmhub.RedisCache) else cache.path)
