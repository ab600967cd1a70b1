"""The runs of a service on a Redis server, for replicas that share nothing else.

Under ``namespace!runs:`` there are a hash a run (its record), two lists of its results (Arrow streams, and their
numbers of rows), a list of pieces of its input, a lease of the process that executes it (`RedisLease`), and sorted sets
of the runs by team and by end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from llmhub.cache.redis import ClientFactory, RedisCache
from llmhub.cache.store import Store, StoreError
from llmhub.server.redis_keyspace import UPLOAD_TTL_S, RedisKeyspace, RedisLease
from llmhub.server.result_log import ResultLog
from llmhub.server.run_store import COLUMNS, INPUT, UNFINISHED, RunLock, RunLostError, RunRecord

NUMBERS: Final[Mapping[str, type[float | int]]] = {
    "created_at": float,
    "started_at": float,
    "ended_at": float,
    "rows": int,
    "simulated": int,
}
TEXTS: Final = frozenset({"id", "team", "state", "error"})
UPDATE_SCRIPT: Final = """
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] ~= '' then
    redis.call('SREM', KEYS[2], ARGV[1])
    redis.call('ZADD', KEYS[3], ARGV[2], ARGV[1])
    redis.call('DEL', KEYS[4])
end
return 1
"""
"""Changes a run that has not ended; with a time of its end, its input is deleted."""
APPEND_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('RPUSH', KEYS[3], ARGV[3])
return 1
"""


class RedisResults(ResultLog):
    """The results of one run.

    Parameters
    ----------
    pieces, sizes
        Names of the lists.
    lease
        The lease with which to append; ``None`` to read only.
    """

    def __init__(self, client: ClientFactory, pieces: bytes, sizes: bytes, lease: RedisLease | None) -> None:
        super().__init__()
        self._client = client
        self._pieces = pieces
        self._sizes = sizes
        self._lease = lease
        with client() as server:
            for rows in server.lrange(sizes, 0, -1):
                self._add(int(rows))

    def _write_piece(self, content: bytes, rows: int) -> None:
        assert self._lease is not None  # noqa: S101 - opened for appending
        names, values = (self._lease.name, self._pieces, self._sizes), (self._lease.token, content, rows)
        with self._client() as server:
            if not server.eval(APPEND_SCRIPT, len(names), *names, *values):
                raise RunLostError("its lease has expired")

    def _read_piece(self, index: int) -> bytes:
        with self._client() as server:
            content: bytes | None = server.lindex(self._pieces, index)
        if content is None:
            raise StoreError("results of a run are missing; it was deleted")
        return content

    def close(self) -> None:
        """Do nothing: nothing is open."""


class RedisRunStore:
    """The runs on a server. Its functions block, and may be called from any thread.

    Parameters
    ----------
    cache
        The server, the namespace, and the lifetime of leases.
    """

    is_shared: Final = True

    def __init__(self, cache: RedisCache) -> None:
        self._keys = RedisKeyspace(cache, "runs")
        self._name, self._use, self.folder = self._keys.name, self._keys.use, self._keys.folder

    # Files

    def prepare(self, run_id: str) -> None:
        """Do nothing: lists are made by their first entries."""

    def discard(self, run_id: str) -> None:
        """Delete what was written of a run that was not created after all."""
        self._forget(run_id)
        with suppress(StoreError), self._use() as client:  # else it expires
            client.delete(*(self._name(kind, run_id) for kind in ("input", "results", "sizes")))

    def try_lock(self, run_id: str) -> RedisLease | None:
        """Return the lease of a run, or ``None`` if another process has it, or another service of this one."""
        return self._keys.try_lease(run_id)

    def store_input(self, run_id: str) -> None:
        """Send the input to the server, where it is kept until the run ends."""
        self._keys.send_file(self.input_path(run_id), self._name("input", run_id))
        with self._use() as client:
            for kind in ("results", "sizes"):
                client.expire(self._name(kind, run_id), UPLOAD_TTL_S)

    def input_path(self, run_id: str) -> Path:
        """Return the file of the input; what another process has received is fetched."""
        path = self.folder / f"{run_id}-{INPUT}"
        if not path.exists():
            self._keys.fetch_file(self._name("input", run_id), path)
        return path

    def _forget(self, run_id: str) -> None:
        (self.folder / f"{run_id}-{INPUT}").unlink(missing_ok=True)

    def open_results(self, run_id: str, lock: RunLock | None = None) -> RedisResults:
        """Open the results of a run, for appending if its lock is given."""
        lease = lock if isinstance(lock, RedisLease) else None
        return RedisResults(self._keys.client, self._name("results", run_id), self._name("sizes", run_id), lease)

    def open_journal(self, run_id: str) -> Store:
        """Open the journal of a run, which keeps its responses where no cache does that all replicas share."""
        return replace(self._journal(run_id).open(), claims=None, limiter=None)

    def remove_journal(self, run_id: str) -> None:
        """Delete the journal of a run."""
        store = self._journal(run_id).open()
        store.clear()
        store.close()

    def _journal(self, run_id: str) -> RedisCache:
        return replace(self._keys.cache, namespace=self._name("journal", run_id).decode(), ttl_s=None)

    # Records

    def insert(self, record: RunRecord) -> None:
        """Add a run."""
        fields = {name: _encoded(getattr(record, name)) for name in COLUMNS if getattr(record, name) is not None}
        with self._use() as client:
            pipeline = client.pipeline()
            pipeline.hset(self._name("run", record.id), mapping=fields)
            for kind in ("input", "results", "sizes"):
                pipeline.persist(self._name(kind, record.id))
            for name in (self._name("team", record.team), self._name("all")):
                pipeline.zadd(name, {record.id: record.created_at})
            pipeline.sadd(self._name("unfinished"), record.id)
            pipeline.execute()

    def update(self, run_id: str, **values: object) -> None:
        """Change fields of a run that has not ended."""
        ended_at = values.get("ended_at")
        pairs = [part for name, value in values.items() for part in (name, _encoded(value))]
        names = (
            self._name("run", run_id),
            self._name("unfinished"),
            self._name("ended"),
            self._name("input", run_id),
        )
        with self._use() as client:
            client.eval(UPDATE_SCRIPT, len(names), *names, run_id, "" if ended_at is None else ended_at, *pairs)
        if ended_at is not None:
            self._forget(run_id)

    def get(self, run_id: str, team: str) -> RunRecord | None:
        """Return a run of a team; ``None`` if it has none of this id."""
        found = self._read([run_id])
        return found[0] if found and found[0].team == team else None

    def find_unfinished(self, team: str, digest: bytes) -> RunRecord | None:
        """Return a run of a team for the same input and request that has not ended."""
        same = (record for record in self.unfinished() if record.team == team and record.digest == digest)
        return next(same, None)

    def unfinished(self) -> Sequence[RunRecord]:
        """Return all runs that have not ended, oldest first."""
        with self._use() as client:
            ids = client.smembers(self._name("unfinished"))
        records = self._read(each.decode() for each in ids)
        return sorted(
            (record for record in records if record.state in UNFINISHED), key=lambda each: (each.created_at, each.id)
        )

    def latest(self, team: str | None, limit: int, before: str = "") -> Sequence[RunRecord]:
        """Return the runs of a team, or of all, newest first, from the one after the run ``before`` on."""
        name = self._name("all") if team is None else self._name("team", team)
        with self._use() as client:
            rank = client.zrevrank(name, before) if before else -1
            ids = [] if rank is None else client.zrange(name, rank + 1, rank + limit, desc=True)
        return self._read(each.decode() for each in ids)

    def _read(self, run_ids: Iterable[str]) -> list[RunRecord]:
        """Return the runs of these ids that there are."""
        names = [self._name("run", run_id) for run_id in run_ids if run_id.isalnum()]
        if not names:
            return []
        with self._use() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(name)
            found = pipeline.execute()
        return [_record(fields) for fields in found if fields]

    def remove_ended_before(self, moment: float) -> int:
        """Delete the runs that ended before a time, with their results; return their number."""
        with self._use() as client:
            ids = [each.decode() for each in client.zrange(self._name("ended"), "-inf", f"({moment}", byscore=True)]
        for record in self._read(ids):
            with self._use() as client:
                pipeline = client.pipeline()
                pipeline.delete(*(self._name(kind, record.id) for kind in ("run", "input", "results", "sizes")))
                for name in (self._name("team", record.team), self._name("all")):
                    pipeline.zrem(name, record.id)
                pipeline.execute()
        if ids:
            with self._use() as client:
                client.zrem(self._name("ended"), *ids)
        return len(ids)

    def remove_strays(self) -> None:
        """Do nothing: what is left of uploads expires."""

    def close(self) -> None:
        """Close the connections, and delete local copies of inputs."""
        self._keys.close()


def _encoded(value: object) -> bytes | str | float:
    match value:
        case bool():
            return int(value)
        case bytes() | str() | int():
            return value
        case float():
            return repr(value)
        case _:
            raise TypeError(value)


def _record(fields: Mapping[bytes, bytes]) -> RunRecord:
    """Return a record from the fields of its hash."""
    values: dict[str, Any] = {}
    for name in COLUMNS:
        raw = fields.get(name.encode())
        if raw is not None:
            values[name] = NUMBERS[name](raw) if name in NUMBERS else raw.decode() if name in TEXTS else raw
    return RunRecord(**{**values, "simulated": bool(values["simulated"])})
