"""The files and batches of a service on a Redis server, for replicas that share nothing else.

Under ``namespace!batches:`` there are a hash a file and a hash a batch (their records), a list of pieces a file (its
content), a lease of the process that executes a batch, and sorted sets by team and by end. The output of a batch is the
content of its later file from its first line on, so that nothing is copied in the end. Batches hold the contents that
they need: a file that is deleted meanwhile loses its record, and its content with the last batch that holds it.

The content of all files together is bounded, since the server keeps it in memory.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from llmhub.cache.redis import RedisCache
from llmhub.cache.store import StoreError
from llmhub.core.errors import ConnectorError, InvalidRequest, to_exception
from llmhub.server.batch_folder import UPLOAD_SUFFIX
from llmhub.server.batch_storage import ERRORS, INPUT, OUTPUT, BatchEntry, BatchOwner, ended_at, result_id
from llmhub.server.dialects.openai_batches import ENDED, BatchObject, FileObject
from llmhub.server.redis_keyspace import RedisKeyspace, RedisLease
from llmhub.server.run_store import RunLock, RunLostError

VALID_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
DROP: Final = """
local function drop(content, sizes, total, id)
    redis.call('DECRBY', total, redis.call('HGET', sizes, id) or 0)
    redis.call('HDEL', sizes, id)
    redis.call('DEL', content)
end
"""
"""Deletes the content of a file."""
ADD_FILE_SCRIPT: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 1 end
local size = tonumber(ARGV[3])
if ARGV[5] ~= '' then
    if tonumber(redis.call('GET', KEYS[6]) or 0) + size > tonumber(ARGV[5]) then return 0 end
    redis.call('HSET', KEYS[5], ARGV[1], size)
    redis.call('INCRBY', KEYS[6], size)
end
redis.call('HSET', KEYS[1], 'team', ARGV[2], 'bytes', size, 'object', ARGV[6])
redis.call('PERSIST', KEYS[2])
redis.call('ZADD', KEYS[3], redis.call('INCR', KEYS[8]), ARGV[1])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[1])
redis.call('HINCRBY', KEYS[7], ARGV[2], size)
return 1
"""
"""Adds a file, with a limit of all contents if its own is not counted yet."""
DELETE_FILE_SCRIPT: Final = f"""{DROP}
if redis.call('HGET', KEYS[1], 'team') ~= ARGV[2] then return 0 end
redis.call('HINCRBY', KEYS[7], ARGV[2], -redis.call('HGET', KEYS[1], 'bytes'))
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
if redis.call('SCARD', KEYS[8]) == 0 then drop(KEYS[2], KEYS[5], KEYS[6], ARGV[1]) end
return 1
"""
RELEASE_CONTENT_SCRIPT: Final = f"""{DROP}
redis.call('SREM', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 and redis.call('SCARD', KEYS[3]) == 0 then
    drop(KEYS[2], KEYS[4], KEYS[5], ARGV[1])
end
"""
ADD_BATCH_SCRIPT: Final = """
if redis.call('HGET', KEYS[1], 'team') ~= ARGV[2] then return 0 end
for index = 7, 9 do redis.call('SADD', KEYS[index], ARGV[1]) end
redis.call('HSET', KEYS[2], 'team', ARGV[2], 'object', ARGV[3], 'owner', ARGV[4])
local number = redis.call('INCR', KEYS[6])
redis.call('ZADD', KEYS[3], number, ARGV[1])
redis.call('ZADD', KEYS[4], number, ARGV[1])
redis.call('SADD', KEYS[5], ARGV[1])
return 1
"""
APPEND_LINE_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[3])
redis.call('HINCRBY', KEYS[3], ARGV[2], #ARGV[3])
redis.call('INCRBY', KEYS[4], #ARGV[3])
return 1
"""
SAVE_SCRIPT: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'object', ARGV[3])
if ARGV[4] ~= '' then
    redis.call('SREM', KEYS[3], ARGV[2])
    redis.call('ZADD', KEYS[4], ARGV[4], ARGV[2])
end
return 1
"""
CANCEL_SCRIPT: Final = """
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 0 then return 0 end
if redis.call('HGET', KEYS[1], 'team') ~= ARGV[2] then return 0 end
redis.call('HSETNX', KEYS[1], 'cancel_at', ARGV[3])
return 1
"""
LEASE_LOST: Final = "its lease has expired"
_encode: Final = msgspec.json.Encoder().encode
_decode_file: Final = msgspec.json.Decoder(FileObject).decode
_decode_batch: Final = msgspec.json.Decoder(BatchObject).decode
_decode_owner: Final = msgspec.json.Decoder(BatchOwner).decode


@dataclass(frozen=True, slots=True)
class RedisLineLog:
    """The output or the errors of a batch.

    Parameters
    ----------
    keys
        The keys of batches on the server.
    file_id
        Id of the file that the lines will be.
    lease
        The lease with which lines are appended.
    """

    keys: RedisKeyspace
    file_id: str
    lease: RedisLease

    def append(self, line: bytes) -> None:
        """Append a line, while the lease is held."""
        names = (
            self.lease.name,
            self.keys.name("content", self.file_id),
            self.keys.name("sizes"),
            self.keys.name("total"),
        )
        with self.keys.use() as client:
            if not client.eval(APPEND_LINE_SCRIPT, len(names), *names, self.lease.token, self.file_id, line):
                raise RunLostError(LEASE_LOST)

    def groups(self, size: int) -> Iterator[list[tuple[int, bytes]]]:
        """Yield the lines with their numbers, from 1, in lists of at most ``size``."""
        name, first = self.keys.name("content", self.file_id), 0
        while True:
            with self.keys.use() as client:
                lines = client.lrange(name, first, first + size - 1)
            if not lines:
                return
            yield [(number, line.strip()) for number, line in enumerate(lines, first + 1)]
            first += len(lines)

    def total_bytes(self) -> int:
        """Return the size of all lines."""
        with self.keys.use() as client:
            return int(client.hget(self.keys.name("sizes"), self.file_id) or 0)

    def close(self) -> None:
        """Do nothing: nothing is open."""


class RedisBatchStore:
    """The files and batches on a server. Its functions block, and may be called from any thread.

    Parameters
    ----------
    cache
        The server, the namespace, and the lifetime of leases.
    max_bytes
        Size of the content of all files.
    """

    is_remote: Final = True

    def __init__(self, cache: RedisCache, max_bytes: int) -> None:
        self._keys = RedisKeyspace(cache, "batches")
        self._name, self._use, self.folder = self._keys.name, self._keys.use, self._keys.folder
        self._max_bytes = max_bytes

    def close(self) -> None:
        """Close the connections, and delete local copies of inputs."""
        self._keys.close()

    def _eval(self, script: str, names: Sequence[bytes], *values: object) -> Any:
        with self._use() as client:
            return client.eval(script, len(names), *names, *values)

    # Files

    def upload_path(self) -> Path:
        """Return where the content of a new file is written first."""
        return self.folder / f"{secrets.token_hex(12)}{UPLOAD_SUFFIX}"

    def _file_names(self, file_id: str, team: str) -> list[bytes]:
        """Return the keys that the scripts for files have in common."""
        of_file = [self._name(kind, file_id) for kind in ("file", "content")]
        shared = [self._name(kind) for kind in ("expiring", "sizes", "total", "team-bytes")]
        return [*of_file, self._name("files", team), *shared]

    def add_file(self, team: str, file: FileObject, content: Path) -> None:
        """Send the content of a file to the server, and add the file.

        Raises
        ------
        BadRequestError
            There is no room for it.
        """
        self._check_room("file", file.bytes)
        name = self._name("content", file.id)
        self._keys.send_file(content, name)
        if not self._add_file(team, file, self._max_bytes):
            with suppress(StoreError), self._use() as client:  # else it expires
                client.delete(name)
            raise self._no_room("file", self._total(), file.bytes)

    def _add_file(self, team: str, file: FileObject, limit: int | str) -> bool:
        names = [*self._file_names(file.id, team), self._name("sequence")]
        values = (file.id, team, file.bytes, file.expires_at or "+inf", limit, _encode(file))
        return bool(self._eval(ADD_FILE_SCRIPT, names, *values))

    def _total(self) -> int:
        with self._use() as client:
            return int(client.get(self._name("total")) or 0)

    def _check_room(self, path: str, size: int) -> None:
        total = self._total()
        if total + size > self._max_bytes:
            raise self._no_room(path, total, size)

    def _no_room(self, path: str, total: int, size: int) -> ConnectorError:
        message = (
            f"the files of all teams on the Redis server have {total} bytes, and may have {self._max_bytes} "
            f"(server.batches.max_redis_bytes); this one needs {size} more: delete some, or ask for more room"
        )
        return to_exception(InvalidRequest(path=path, message=message, status=413))

    def find_file(self, file_id: str, team: str) -> FileObject | None:
        """Return a file of a team; ``None`` if it has none of this id."""
        found = next(iter(self._read("file", [file_id])), None)
        return _decode_file(found[b"object"]) if found and found[b"team"].decode() == team else None

    def _read(self, kind: str, ids: Iterable[str]) -> list[Mapping[bytes, bytes]]:
        """Return the records of these ids that there are."""
        names = [self._name(kind, each) for each in ids if VALID_ID.fullmatch(each)]
        if not names:
            return []
        with self._use() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                pipeline.hgetall(name)
            return [fields for fields in pipeline.execute() if fields]

    def _page(self, name: bytes, limit: int, after: str, *, oldest_first: bool) -> list[str]:
        """Return the ids of a sorted set, from the one after ``after`` on."""
        if after and not VALID_ID.fullmatch(after):
            return []
        with self._use() as client:
            rank = -1
            if after:
                rank = client.zrank(name, after) if oldest_first else client.zrevrank(name, after)
            ids = [] if rank is None else client.zrange(name, rank + 1, rank + limit, desc=not oldest_first)
        return [each.decode() for each in ids]

    def list_files(
        self, team: str, limit: int, *, after: str = "", purpose: str = "", oldest_first: bool = False
    ) -> list[FileObject]:
        """Return the files of a team, from the one after ``after`` on."""
        found: list[FileObject] = []
        while len(found) < limit:
            ids = self._page(self._name("files", team), limit, after, oldest_first=oldest_first)
            if not ids:
                break
            files = [_decode_file(fields[b"object"]) for fields in self._read("file", ids)]
            found += [file for file in files if not purpose or file.purpose == purpose]
            after = ids[-1]
        return found[:limit]

    def bytes_of_team(self, team: str) -> int:
        """Return the size of all files of a team."""
        with self._use() as client:
            return int(client.hget(self._name("team-bytes"), team) or 0)

    def open_content(self, file_id: str) -> IO[bytes]:
        """Open a copy of the content of a file; raise `FileNotFoundError` if it is not there any more."""
        path = self.upload_path()
        if not self._keys.fetch_file(self._name("content", file_id), path):
            raise FileNotFoundError(file_id)
        file = path.open("rb")
        path.unlink()
        return file

    def delete_file(self, file_id: str, team: str) -> bool:
        """Delete a file of a team; return whether it was there. A batch that reads it keeps its content."""
        if not VALID_ID.fullmatch(file_id):
            return False
        names = [*self._file_names(file_id, team), self._name("holders", file_id)]
        return bool(self._eval(DELETE_FILE_SCRIPT, names, file_id, team))

    # Batches

    def _held(self, batch: BatchObject) -> tuple[str, ...]:
        """Return the files whose content a batch needs until it ends."""
        return (batch.input_file_id, *(result_id(batch.id, name) for name in (OUTPUT, ERRORS)))

    def add_batch(self, row: BatchEntry) -> bool:
        """Add a batch that holds its input; return whether that is still there.

        Raises
        ------
        BadRequestError
            There is no room for its output.
        """
        self._check_room("input_file_id", 1)
        batch = row.object
        names = [
            self._name("file", batch.input_file_id),
            self._name("batch", batch.id),
            self._name("team", row.team),
            *(self._name(kind) for kind in ("all", "open", "sequence")),
            *(self._name("holders", file_id) for file_id in self._held(batch)),
        ]
        return bool(self._eval(ADD_BATCH_SCRIPT, names, batch.id, row.team, _encode(batch), _encode(row.owner)))

    def try_lock(self, batch_id: str) -> RedisLease | None:
        """Return the lease of a batch, or ``None`` if another process has it, or another service of this one."""
        return self._keys.try_lease(batch_id)

    def input_path(self, batch: BatchObject) -> Path:
        """Return the input of a batch, which is fetched once.

        Raises
        ------
        StoreError
            It is not there any more.
        """
        path = self.folder / f"{batch.id}-{INPUT}"
        if not path.exists() and not self._keys.fetch_file(self._name("content", batch.input_file_id), path):
            raise StoreError("the input of a batch is missing")
        return path

    def open_log(self, batch_id: str, name: str, lock: RunLock) -> RedisLineLog:
        """Open the output or the errors of a batch for appending."""
        return RedisLineLog(self._keys, result_id(batch_id, name), _lease(lock))

    def add_result(self, team: str, batch_id: str, name: str, file: FileObject) -> None:  # noqa: ARG002 - in the id
        """Make a file of the output or the errors, whose lines are its content already; twice is as once."""
        self._add_file(team, file, "")

    def is_reserved(self, batch_id: str) -> bool:
        """Return whether a process has reserved the cost of the lines of a batch, and has not released it."""
        with self._use() as client:
            return bool(client.hexists(self._name("batch", batch_id), "reserved"))

    def set_reserved(self, batch_id: str, *, reserved: bool) -> None:
        """Note whether the cost of the lines is reserved."""
        with self._use() as client:
            if reserved:
                client.hset(self._name("batch", batch_id), "reserved", 1)
            else:
                client.hdel(self._name("batch", batch_id), "reserved")

    def save(self, batch: BatchObject, lock: RunLock) -> None:
        """Store the present state of a batch, while its lease is held."""
        lease = _lease(lock)
        names = (lease.name, self._name("batch", batch.id), self._name("open"), self._name("ended"))
        ended = (ended_at(batch) or 0) if batch.status in ENDED else ""
        if not self._eval(SAVE_SCRIPT, names, lease.token, batch.id, _encode(batch), ended):
            raise RunLostError(LEASE_LOST)

    def request_cancel(self, batch_id: str, team: str, now: float) -> bool:
        """Ask the process that executes a batch to cancel it; return whether the team has an open one of this id."""
        names = (self._name("batch", batch_id), self._name("open"))
        return bool(self._eval(CANCEL_SCRIPT, names, batch_id, team, repr(now)))

    def find_batch(self, batch_id: str, team: str) -> BatchEntry | None:
        """Return a batch of a team; ``None`` if it has none of this id."""
        return next((entry for entry in self._entries([batch_id]) if entry.team == team), None)

    def _entries(self, ids: Iterable[str]) -> list[BatchEntry]:
        return [_entry(fields) for fields in self._read("batch", ids)]

    def list_batches(self, team: str | None, limit: int, after: str = "") -> Sequence[BatchEntry]:
        """Return the batches of a team, or of all, the newest first, from the one after ``after`` on."""
        name = self._name("all") if team is None else self._name("team", team)
        return self._entries(self._page(name, limit, after, oldest_first=False))

    def open_batches(self) -> Sequence[BatchEntry]:
        """Return all batches that have not ended, the oldest first."""
        with self._use() as client:
            ids = [each.decode() for each in client.smembers(self._name("open"))]
        return sorted(self._entries(ids), key=lambda entry: (entry.object.created_at, entry.object.id))

    # Upkeep

    def finish_batch(self, batch: BatchObject) -> None:
        """Let go of the contents that a batch has held, and delete its local copy."""
        (self.folder / f"{batch.id}-{INPUT}").unlink(missing_ok=True)
        for file_id in self._held(batch):
            kinds = (self._name(kind, file_id) for kind in ("file", "content", "holders"))
            self._eval(RELEASE_CONTENT_SCRIPT, [*kinds, self._name("sizes"), self._name("total")], file_id, batch.id)

    def remove_old(self, now: float, keep_s: float) -> None:
        """Delete expired files, and batches that ended long ago; what is left of uploads expires."""
        with self._use() as client:
            expired = client.zrange(self._name("expiring"), "-inf", f"({now}", byscore=True)
            ended = client.zrange(self._name("ended"), "-inf", f"({now - keep_s}", byscore=True)
            for each in expired:
                team = client.hget(self._name("file", each.decode()), "team")
                if team is not None:
                    self.delete_file(each.decode(), team.decode())
        for entry in self._entries(each.decode() for each in ended):
            batch_id = entry.object.id
            self.finish_batch(entry.object)  # a process may have been killed before it did
            with self._use() as client:
                pipeline = client.pipeline()
                pipeline.delete(self._name("batch", batch_id))
                for name in (self._name("team", entry.team), self._name("all"), self._name("ended")):
                    pipeline.zrem(name, batch_id)
                pipeline.execute()


def _lease(lock: RunLock) -> RedisLease:
    assert isinstance(lock, RedisLease)  # noqa: S101 - made by `try_lock`
    return lock


def _entry(fields: Mapping[bytes, bytes]) -> BatchEntry:
    """Return a batch from the fields of its hash."""
    cancel_at = fields.get(b"cancel_at")
    return BatchEntry(
        fields[b"team"].decode(),
        _decode_batch(fields[b"object"]),
        _decode_owner(fields[b"owner"]),
        None if cancel_at is None else float(cancel_at),
    )
