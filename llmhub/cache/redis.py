"""A cache in Redis, or in what speaks its protocol: shared by machines (extra ``redis``).

A server that does not answer is left alone for a moment, longer each time, so that it costs little while it is away.

Claims on keys by leases on a Redis server: who holds one extends it, and whoever does so no more loses it.

A claim is a value under a name of its own, set where there is none and with a time to live; only who set it, by a token
that nobody else has, extends or deletes it.
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from llmhub.cache.store import (
    ABSENT,
    KEY_BYTES,
    LEASE_S,
    BlockValues,
    ClaimRequest,
    ClaimResult,
    Claims,
    Entry,
    Store,
    StoreError,
    StoreStats,
    valid_since,
    validate_seconds,
)
from llmhub.core.errors import BadRequestError, InvalidRequest

COMMAND_KEYS: Final = 500
"""Keys in one command."""


PIPELINE_COMMANDS: Final = 20
"""Commands sent before their answers are read."""


READ_BYTES: Final = 1 << 20
"""Bytes read from the socket at a time: answers come by the hundred."""


BACKOFF_S: Final = 0.25
"""How long a server that failed is left alone; twice as long each time."""


MAX_BACKOFF_S: Final = 1.5


SCHEMES: Final = frozenset({"redis", "rediss", "unix"})


_VALUE_HEADER: Final = struct.Struct("<dB")
"""Before each value: when it was filed, and the length of the model's name, which follows."""


_MAX_MODEL_BYTES: Final = 255


@dataclass(frozen=True, slots=True, repr=False)
class RedisCache:
    """Keeps answers on a Redis server.

    Parameters
    ----------
    url
        ``redis://user:password@host:6379/0``, ``rediss://...`` over TLS, or ``unix://path``.
    namespace
        Before each key, so that several may share a server.
    ttl_s
        How long an answer is kept; the server takes it out then.
    timeout_s
        How long to wait for the server.
    lease_s
        How long a question counts as asked whose asker does not say any more that it lives: for so long do other
        processes wait for one that was killed.
    """

    url: str = "redis://localhost:6379/0"
    namespace: str = "llmhub"
    ttl_s: float | None = None
    timeout_s: float = 2.0
    lease_s: float = LEASE_S

    def __post_init__(self) -> None:
        """Refuse an address that is none."""
        validate_seconds("ttl_s", self.ttl_s)
        validate_seconds("timeout_s", self.timeout_s)
        validate_seconds("lease_s", self.lease_s)
        if self.url.partition("://")[0] not in SCHEMES:
            said = (
                f"{redact_url(self.url)!r} is no address of a Redis server; give one such as 'redis://localhost:6379/0'"
            )
            raise BadRequestError(InvalidRequest(path="cache", message=said))

    def __repr__(self) -> str:
        return f"RedisCache({redact_url(self.url)!r}, namespace={self.namespace!r}, ttl_s={self.ttl_s!r})"

    def open(self) -> Store:
        """Make ready; the server is reached at first use.

        Raises
        ------
        InvalidRequestError
            The extra is not installed, or the address cannot be read.
        """
        server = _RedisStore(self)
        return Store(
            get_many=server.get_many,
            put_many=server.put_many,
            delete=server.delete,
            clear=server.clear,
            stats=server.stats,
            close=server.close,
            scan=server.scan,
            get_entries=server.get_entries,
            get_block=server.get_block,
            ttl_s=self.ttl_s,
            claims=server.claims,
        )


def redact_url(url: str) -> str:
    """Give an address without its password.

    Examples
    --------
    >>> redact_url("redis://me:secret@host:6379/0")
    'redis://host:6379/0'
    """
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        port = None
    # A password with a character that ends the host is taken apart in the wrong place.
    if port is None or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{url.partition('://')[0]}://..."
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


class _RedisStore:
    """The client of one server, and what came of asking it."""

    def __init__(self, said: RedisCache) -> None:
        self._client, self._wrong = _connect(said)
        self._address = redact_url(said.url)
        self._ttl_s = said.ttl_s
        self._prefix = said.namespace.encode() + b":"
        self._hits = self._misses = 0
        self._lock = threading.Lock()
        self._rest_s, self._until = BACKOFF_S, 0.0
        self._last = ""
        self.claims, self._leave = open_claims(self._guarded, said.namespace.encode(), said.lease_s)

    @contextmanager
    def _guarded(self) -> Iterator[Any]:
        """Give the client, and tell what goes wrong in the store's own words."""
        if time.monotonic() < self._until:
            raise StoreError(f"{self._address}: {self._last} (not asked again so soon)")
        try:
            yield self._client
        except self._wrong as error:
            with self._lock:
                self._last = str(error) or type(error).__name__
                self._until = time.monotonic() + self._rest_s
                self._rest_s = min(2 * self._rest_s, MAX_BACKOFF_S)
            raise StoreError(f"{self._address}: {self._last}") from error
        self._rest_s = BACKOFF_S

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        since = valid_since(since, self._ttl_s)
        found: dict[bytes, bytes] = {}
        for key, value in zip(keys, self._values(keys), strict=True):
            if value is not None and _VALUE_HEADER.unpack_from(value)[0] >= since:
                found[key] = value[_VALUE_HEADER.size + value[_VALUE_HEADER.size - 1] :]
        self._count(len(found), len(keys) - len(found))
        return found

    def get_block(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        since = valid_since(since, self._ttl_s)
        values = self._values([keys[at : at + KEY_BYTES] for at in range(0, len(keys), KEY_BYTES)])
        heads = [
            ABSENT
            if value is None or _VALUE_HEADER.unpack_from(value)[0] < since
            else _VALUE_HEADER.size + value[_VALUE_HEADER.size - 1]
            for value in values
        ]
        lengths = [0 if value is None else len(value) for value in values]
        begins = accumulate(lengths, initial=0)
        starts = array("q", [begin + max(0, head) for begin, head in zip(begins, heads, strict=False)])
        pairs = zip(heads, lengths, strict=True)
        sizes = array("q", [ABSENT if head == ABSENT else max(0, length - head) for head, length in pairs])
        hits = len(sizes) - sizes.count(ABSENT)
        self._count(hits, len(sizes) - hits)
        return BlockValues(b"".join([value for value in values if value is not None]), starts, sizes)

    def get_entries(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        since = valid_since(since, self._ttl_s)
        values = zip(keys, self._values(keys), strict=True)
        entries = [_entry(key, value) for key, value in values if value is not None]
        found = [entry for entry in entries if entry.created_at >= since]
        self._count(len(found), len(keys) - len(found))
        return found

    def _values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Ask for many at once; a value that is too short to be one of ours is none."""
        values: list[bytes | None] = []
        named = list(map(self._prefix.__add__, keys))
        with self._guarded() as client:
            for start in range(0, len(named), COMMAND_KEYS * PIPELINE_COMMANDS):
                pipe = client.pipeline(transaction=False)
                for low in range(start, min(start + COMMAND_KEYS * PIPELINE_COMMANDS, len(named)), COMMAND_KEYS):
                    pipe.mget(named[low : low + COMMAND_KEYS])
                for some in pipe.execute():
                    values += some
        return [None if value is None or len(value) < _VALUE_HEADER.size else value for value in values]

    def put_many(self, entries: Iterable[Entry]) -> None:
        now = time.time()
        rest = iter(entries)
        with self._guarded() as client:
            while some := [self._written(entry, now) for entry in islice(rest, COMMAND_KEYS)]:
                if self._ttl_s is None:
                    client.mset(dict(some))
                    continue
                pipe = client.pipeline(transaction=False)
                for key, value in some:
                    pipe.set(key, value, px=max(1, round(self._ttl_s * 1000)))
                pipe.execute()

    def _written(self, entry: Entry, now: float) -> tuple[bytes, bytes]:
        name = entry.model.encode(errors="replace")[:_MAX_MODEL_BYTES]
        return self._prefix + entry.key, _VALUE_HEADER.pack(entry.created_at or now, len(name)) + name + entry.value

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._guarded() as client:
            for start in range(0, len(keys), COMMAND_KEYS):
                client.unlink(*(self._prefix + key for key in keys[start : start + COMMAND_KEYS]))

    def clear(self) -> None:
        for some in self._batches():
            self.delete(some)

    def scan(self) -> Iterator[Entry]:
        for some in self._batches():
            values = self._values(some)
            yield from (_entry(key, value) for key, value in zip(some, values, strict=True) if value is not None)

    def _batches(self) -> Iterator[list[bytes]]:
        """Give the keys there are, a few hundred at a time."""
        pattern = b"".join(b"\\" + one if one in b"*?[]\\" else one for one in _bytes(self._prefix)) + b"*"
        cursor, seen = 0, set[bytes]()
        while True:
            with self._guarded() as client:
                cursor, some = client.scan(cursor, match=pattern, count=COMMAND_KEYS)
            # A server that grows meanwhile may name a key twice.
            new = [key for key in dict.fromkeys(some) if key not in seen]
            seen.update(new)
            if new:
                yield [key[len(self._prefix) :] for key in new]
            if not cursor:
                return

    def stats(self) -> StoreStats:
        entries = size = 0
        for some in self._batches():
            with self._guarded() as client:
                pipe = client.pipeline(transaction=False)
                for key in some:
                    pipe.strlen(self._prefix + key)
                size += sum(pipe.execute())
            entries += len(some)
        with self._guarded() as client:
            evictions = int(client.info("stats").get("evicted_keys", 0))
        return StoreStats(entries=entries, size_bytes=size, hits=self._hits, misses=self._misses, evictions=evictions)

    def close(self) -> None:
        with suppress(StoreError):
            self._leave()
        self._client.close()

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses


def _bytes(text: bytes) -> Iterator[bytes]:
    return (text[at : at + 1] for at in range(len(text)))


def _entry(key: bytes, value: bytes) -> Entry:
    at, length = _VALUE_HEADER.unpack_from(value)
    start = _VALUE_HEADER.size + length
    return Entry(key, value[start:], value[_VALUE_HEADER.size : start].decode(errors="replace"), at)


def _connect(said: RedisCache) -> tuple[Any, tuple[type[Exception], ...]]:
    """Make a client that tries once, and name what it raises.

    The client's own default is to try again for seconds (redis-py 8.1, read 2026-11-20): a server that is away would
    cost that much at each question.
    """
    try:
        import redis  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        message = "a cache in Redis needs its client: pip install 'llmhub[redis]'"
        raise BadRequestError(InvalidRequest(path="cache", message=message)) from error
    try:
        client = redis.Redis.from_url(
            said.url,
            socket_timeout=said.timeout_s,
            socket_connect_timeout=said.timeout_s,
            socket_read_size=READ_BYTES,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        message = f"{redact_url(said.url)!r} cannot be read as an address of a Redis server"
        raise BadRequestError(InvalidRequest(path="cache", message=message)) from None
    return client, (redis.RedisError, OSError)


CLAIM_BATCH: Final = 500
"""Keys in one command."""


HEARTBEATS_PER_LEASE: Final = 6
"""How often a lease is extended before it would run out."""


CLAIM_INFIX: Final = b"!claim:"
"""Between the namespace and a key; answers have a colon there."""


CLAIM_SCRIPT: Final = """
local held = {}
for at, key in ipairs(KEYS) do
    if not redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then
        if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2])
        else held[#held + 1] = at end
    end
end
return held
"""


EXTEND_SCRIPT: Final = """
local lost = {}
for at, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2])
    else lost[#lost + 1] = at end
end
return lost
"""


RELEASE_SCRIPT: Final = """
for _, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return {}
"""


ClientFactory: TypeAlias = Callable[[], AbstractContextManager[Any]]


def open_claims(client: ClientFactory, namespace: bytes, lease_s: float) -> tuple[Claims, Callable[[], None]]:
    """Make claims that are leases, and the function that lets go of all.

    Parameters
    ----------
    client
        Gives the client for a block.
    namespace
        Before each key.
    lease_s
        How long a claim lives that is not extended.

    Notes
    -----
    What became of a request whose owner died is not known here, so nothing is ever ``unsure``: its key is granted to
    who asks next once the lease has run out.
    """
    kept = _LeaseClaims(client, namespace + CLAIM_INFIX, max(1, round(lease_s * 1000)))
    return Claims(
        claim=kept.claim, release=kept.release, heartbeat=kept.heartbeat, heartbeat_s=lease_s / HEARTBEATS_PER_LEASE
    ), kept.close


class _LeaseClaims:
    """The claims that one holder has on a server."""

    def __init__(self, guarded: ClientFactory, prefix: bytes, lease_ms: int) -> None:
        self._guarded, self._prefix, self._lease_ms = guarded, prefix, lease_ms
        self._token = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._held: set[bytes] = set()

    def claim(self, wishes: Sequence[ClaimRequest], _resend: bool, _again: bool) -> ClaimResult:
        keys = [wish.key for wish in wishes]
        # Before the server says so: what it grants is let go, though its answer should be lost.
        with self._lock:
            self._held.update(keys)
        held = frozenset(self._each(CLAIM_SCRIPT, keys, self._lease_ms))
        with self._lock:
            self._held -= held
            # A sign of life that came just before the claim did not find them.
            self._held.update(key for key in keys if key not in held)
        return ClaimResult(held)

    def release(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            self._held.difference_update(keys)
        for _ in self._each(RELEASE_SCRIPT, keys):
            pass

    def heartbeat(self) -> None:
        with self._lock:
            held = tuple(self._held)
        lost = set(self._each(EXTEND_SCRIPT, held, self._lease_ms))
        with self._lock:
            self._held -= lost

    def close(self) -> None:
        self.release(tuple(self._held))

    def _each(self, script: str, keys: Sequence[bytes], *said: int) -> Iterator[bytes]:
        """Run a script over keys, a few hundred at a time; give the keys it names."""
        rest = iter(keys)
        while some := list(islice(rest, CLAIM_BATCH)):
            with self._guarded() as client:
                found = client.eval(script, len(some), *(self._prefix + key for key in some), self._token, *said)
            yield from (some[at - 1] for at in found)
