"""A cache on a Redis server (or one that speaks its protocol), shared by machines (extra ``redis``).

- Values are stored under ``namespace:key``, claims under ``namespace!claim:key``.
- A claim is a key set with ``NX`` and a time to live, whose value is a token of its owner; scripts extend and delete it
  only for the owner of the token. An owner that stops extending its claims loses them, at once if a process on its host
  finds that it has ended.
- After a failure the server is not contacted for a moment, longer each time, so that an outage costs little.
"""

from __future__ import annotations

import os
import secrets
import struct
import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate, islice
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from llmhub.cache.processes import host_id, process_start_time
from llmhub.cache.redis_limiter import open_limiter
from llmhub.cache.release_listeners import RedisReleases
from llmhub.cache.store import (
    ABSENT,
    KEY_BYTES,
    BlockValues,
    ClaimRequest,
    ClaimResult,
    Claims,
    Entry,
    OnReleased,
    Reach,
    Store,
    StoreError,
    StoreStats,
    valid_since,
    validate_seconds,
)
from llmhub.core.errors import invalid
from llmhub.core.secret import Secret

SCHEMES: Final = frozenset({"redis", "rediss", "unix"})
COMMAND_KEYS: Final = 500
"""Keys in one command."""
PIPELINE_COMMANDS: Final = 20
"""Commands sent before their replies are read."""
READ_BYTES: Final = 1 << 20
"""Bytes read from the socket at a time; replies hold hundreds of values."""
REDIS_LEASE_S: Final = 10.0
"""Lifetime of a claim. The server's clock counts it, so that it can be shorter than in a file."""
BACKOFF_S: Final = 0.25
"""Time for which a server is not contacted after a failure; doubles with each further failure."""
MAX_BACKOFF_S: Final = 1.5
_VALUE_HEADER: Final = struct.Struct("<dB")
"""Before each value: the time it was stored, and the length of the model's name, which follows."""
_MAX_MODEL_BYTES: Final = 255


@dataclass(frozen=True, slots=True, repr=False)
class RedisCache:
    """Keeps responses on a Redis server.

    Parameters
    ----------
    url
        ``redis://user:password@host:6379/0``, ``rediss://...`` for TLS, or ``unix://path``. The attribute has no
        password.
    namespace
        Prefix of the keys, for caches that share a server.
    ttl_s
        Age limit in seconds, after which the server deletes an entry.
    timeout_s
        Time in seconds to wait for the server.
    lease_s
        Lifetime in seconds of a claim that is not renewed: processes elsewhere wait this long for the requests of a
        process that was killed.
    password
        The password, if it is not part of ``url``.
    """

    url: str = "redis://localhost:6379/0"
    namespace: str = "llmhub"
    ttl_s: float | None = None
    timeout_s: float = 2.0
    lease_s: float = REDIS_LEASE_S
    password: Secret | str = ""

    def __post_init__(self) -> None:
        """Take the password out of the URL; validate the times and the scheme of the URL."""
        head, at, tail = self.url.rpartition("@")
        scheme, slashes, user_info = head.partition("://")
        user, colon, password = user_info.partition(":")
        if at and slashes and colon:
            object.__setattr__(self, "url", f"{scheme}://{user}{at if user else ''}{tail}")
            object.__setattr__(self, "password", Secret(unquote(password)))
        elif isinstance(self.password, str):
            object.__setattr__(self, "password", Secret(self.password))
        validate_seconds("ttl_s", self.ttl_s)
        validate_seconds("timeout_s", self.timeout_s)
        validate_seconds("lease_s", self.lease_s)
        if self.url.partition("://")[0] not in SCHEMES:
            raise invalid("cache", f"{redact_url(self.url)!r} is not a Redis URL such as 'redis://localhost:6379/0'")

    @property
    def reach(self) -> Reach:
        """Who can open the same store."""
        return "machines"

    @property
    def has_ledger(self) -> bool:
        """Whether requests are recorded before they are sent."""
        return False

    def __reduce__(self) -> tuple[type[RedisCache], tuple[Any, ...]]:
        """Pickle the cache with its password, so that other processes can open it."""
        password = self.password.reveal() if isinstance(self.password, Secret) else self.password
        return RedisCache, (self.url, self.namespace, self.ttl_s, self.timeout_s, self.lease_s, password)

    def __repr__(self) -> str:
        return f"RedisCache({redact_url(self.url)!r}, namespace={self.namespace!r}, ttl_s={self.ttl_s!r})"

    def open(self) -> Store:
        """Create the client. The server is contacted at first use.

        Raises
        ------
        BadRequestError
            The extra is not installed, or the URL cannot be parsed.
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
            limiter=server.limiter,
        )


def redact_url(url: str) -> str:
    """Return a URL without user and password.

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
    # A password that contains "/", "?" or "#" unescaped is split into the wrong parts.
    if port is None or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        return f"{url.partition('://')[0]}://..."
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


class RedisClient:
    """The client of one server, which is not contacted for a moment after a failure."""

    def __init__(self, cache: RedisCache) -> None:
        self._redis, self._errors = _connect(cache)
        self._url = redact_url(cache.url)
        self._lock = threading.Lock()
        self._backoff_s, self._paused_until = BACKOFF_S, 0.0
        self._last_error = ""

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Yield the client; raise `StoreError` for errors of the server, and during the backoff."""
        if time.monotonic() < self._paused_until:
            raise StoreError(f"{self._url}: {self._last_error} (not contacted again yet)")
        try:
            yield self._redis
        except self._errors as error:
            with self._lock:
                self._last_error = str(error) or type(error).__name__
                self._paused_until = time.monotonic() + self._backoff_s
                self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)
            raise StoreError(f"{self._url}: {self._last_error}") from error
        self._backoff_s = BACKOFF_S

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


class _RedisStore:
    """The values on one server, and counters."""

    def __init__(self, cache: RedisCache) -> None:
        self._server = RedisClient(cache)
        self._client = self._server.use
        self._ttl_s = cache.ttl_s
        self._prefix = cache.namespace.encode() + b":"
        self._hits = self._misses = 0
        self._lock = threading.Lock()
        self.claims, self._close_claims = open_claims(self._client, cache.namespace.encode(), cache.lease_s)
        self.limiter = open_limiter(self._client, cache.namespace.encode())

    def get_many(self, keys: Sequence[bytes], since: float = 0.0, /) -> Mapping[bytes, bytes]:
        since = valid_since(since, self._ttl_s)
        found: dict[bytes, bytes] = {}
        for key, value in zip(keys, self._get_raw(keys), strict=True):
            if value is not None and _VALUE_HEADER.unpack_from(value)[0] >= since:
                found[key] = value[_header_size(value) :]
        self._count(len(found), len(keys) - len(found))
        return found

    def get_block(self, keys: bytes, since: float = 0.0, /) -> BlockValues:
        since = valid_since(since, self._ttl_s)
        values = self._get_raw([keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)])
        headers = [
            ABSENT if value is None or _VALUE_HEADER.unpack_from(value)[0] < since else _header_size(value)
            for value in values
        ]
        lengths = [0 if value is None else len(value) for value in values]
        offsets = accumulate(lengths, initial=0)
        starts = array("q", [offset + max(0, header) for offset, header in zip(offsets, headers, strict=False)])
        pairs = zip(headers, lengths, strict=True)
        sizes = array("q", [ABSENT if header == ABSENT else max(0, length - header) for header, length in pairs])
        hits = len(sizes) - sizes.count(ABSENT)
        self._count(hits, len(sizes) - hits)
        return BlockValues(b"".join([value for value in values if value is not None]), starts, sizes)

    def get_entries(self, keys: Sequence[bytes], since: float = 0.0, /) -> Sequence[Entry]:
        since = valid_since(since, self._ttl_s)
        values = zip(keys, self._get_raw(keys), strict=True)
        entries = [_decode_entry(key, value) for key, value in values if value is not None]
        found = [entry for entry in entries if entry.created_at >= since]
        self._count(len(found), len(keys) - len(found))
        return found

    def _get_raw(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the stored bytes of keys, header included; ``None`` for values without a whole header."""
        values: list[bytes | None] = []
        names = list(map(self._prefix.__add__, keys))
        with self._client() as client:
            for start in range(0, len(names), COMMAND_KEYS * PIPELINE_COMMANDS):
                pipeline = client.pipeline(transaction=False)
                stop = min(start + COMMAND_KEYS * PIPELINE_COMMANDS, len(names))
                for low in range(start, stop, COMMAND_KEYS):
                    pipeline.mget(names[low : low + COMMAND_KEYS])
                for replies in pipeline.execute():
                    values += replies
        return [None if value is None or len(value) < _VALUE_HEADER.size else value for value in values]

    def put_many(self, entries: Iterable[Entry]) -> None:
        now = time.time()
        remaining = iter(entries)
        with self._client() as client:
            while batch := [self._encode_entry(entry, now) for entry in islice(remaining, COMMAND_KEYS)]:
                if self._ttl_s is None:
                    client.mset(dict(batch))
                    continue
                pipeline = client.pipeline(transaction=False)
                for key, value in batch:
                    pipeline.set(key, value, px=max(1, round(self._ttl_s * 1000)))
                pipeline.execute()

    def _encode_entry(self, entry: Entry, now: float) -> tuple[bytes, bytes]:
        model = entry.model.encode(errors="replace")[:_MAX_MODEL_BYTES]
        header = _VALUE_HEADER.pack(entry.created_at or now, len(model))
        return self._prefix + entry.key, header + model + entry.value

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._client() as client:
            for start in range(0, len(keys), COMMAND_KEYS):
                client.unlink(*(self._prefix + key for key in keys[start : start + COMMAND_KEYS]))

    def clear(self) -> None:
        for keys in self._key_batches():
            self.delete(keys)

    def scan(self) -> Iterator[Entry]:
        for keys in self._key_batches():
            values = self._get_raw(keys)
            yield from (_decode_entry(key, value) for key, value in zip(keys, values, strict=True) if value is not None)

    def _key_batches(self) -> Iterator[list[bytes]]:
        """Yield all keys in batches."""
        pattern = b"".join(b"\\" + char if char in b"*?[]\\" else char for char in _split_bytes(self._prefix)) + b"*"
        cursor, seen = 0, set[bytes]()
        while True:
            with self._client() as client:
                cursor, names = client.scan(cursor, match=pattern, count=COMMAND_KEYS)
            # SCAN may return a key twice while the keyspace grows.
            new = [name for name in dict.fromkeys(names) if name not in seen]
            seen.update(new)
            if new:
                yield [name[len(self._prefix) :] for name in new]
            if not cursor:
                return

    def stats(self) -> StoreStats:
        entries = size = 0
        for keys in self._key_batches():
            with self._client() as client:
                pipeline = client.pipeline(transaction=False)
                for key in keys:
                    pipeline.strlen(self._prefix + key)
                size += sum(pipeline.execute())
            entries += len(keys)
        with self._client() as client:
            evictions = int(client.info("stats").get("evicted_keys", 0))
        return StoreStats(entries=entries, size_bytes=size, hits=self._hits, misses=self._misses, evictions=evictions)

    def close(self) -> None:
        with suppress(StoreError):
            self._close_claims()
        self._server.close()

    def _count(self, hits: int, misses: int) -> None:
        with self._lock:
            self._hits += hits
            self._misses += misses


def _split_bytes(text: bytes) -> Iterator[bytes]:
    return (text[at : at + 1] for at in range(len(text)))


def _header_size(value: bytes) -> int:
    """Return the length of the header and the model's name before a value."""
    return _VALUE_HEADER.size + value[_VALUE_HEADER.size - 1]


def _decode_entry(key: bytes, value: bytes) -> Entry:
    created_at, _ = _VALUE_HEADER.unpack_from(value)
    start = _header_size(value)
    return Entry(key, value[start:], value[_VALUE_HEADER.size : start].decode(errors="replace"), created_at)


def _connect(cache: RedisCache) -> tuple[Any, tuple[type[Exception], ...]]:
    """Return a client that does not retry, and the exceptions it raises.

    redis-py retries for seconds by default (8.1, read 2026-11-20), which an outage would cost at every call.
    """
    try:
        import redis  # noqa: PLC0415 - an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise invalid("cache", "a Redis cache needs the redis package: pip install 'llmhub[redis]'") from error
    try:
        client = redis.Redis.from_url(
            cache.url,
            password=(cache.password.reveal() if isinstance(cache.password, Secret) else cache.password) or None,
            socket_timeout=cache.timeout_s,
            socket_connect_timeout=cache.timeout_s,
            socket_read_size=READ_BYTES,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise invalid("cache", f"{redact_url(cache.url)!r} cannot be parsed as a Redis URL") from None
    return client, (redis.RedisError, OSError)


# Claims

HEARTBEATS_PER_LEASE: Final = 6
"""How often a lease is extended before it would expire."""
CLAIM_INFIX: Final = b"!claim:"
"""Between the namespace and the key of a claim; values have a colon there."""
RELEASED_INFIX: Final = b"!released:"
"""Between the namespace and the token of an owner, in the name of the channel on which it publishes releases."""
CLAIM_SCRIPT: Final = """
local held = {}
for at, key in ipairs(KEYS) do
    if not redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then
        local owner = redis.call('GET', key)
        if owner == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2])
        else held[#held + 1] = {at, owner} end
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

RANDOM_BYTES: Final = 16
"""Length of the part of a token that no other owner has."""
HOST_BYTES: Final = 8
"""Length of the digest of the host."""

ClientFactory: TypeAlias = Callable[[], AbstractContextManager[Any]]


def make_token() -> bytes:
    """Return a token for a new owner: random bytes, a digest of the host, process id and start time."""
    pid = os.getpid()
    return secrets.token_bytes(RANDOM_BYTES) + _host_digest() + f"{pid} {process_start_time(pid)}".encode()


def is_dead(token: bytes) -> bool:
    """Return whether the owner of a token is known to have ended: it was a process of this host.

    Examples
    --------
    >>> is_dead(make_token()), is_dead(b"token of an earlier version")
    (False, False)
    """
    host, process = token[RANDOM_BYTES : RANDOM_BYTES + HOST_BYTES], token[RANDOM_BYTES + HOST_BYTES :]
    pid, _, started_at = process.partition(b" ")
    if host != _host_digest() or not pid.isdigit() or not started_at:
        return False
    return process_start_time(int(pid)) != started_at.decode()


def _host_digest() -> bytes:
    return blake2b(host_id().encode(), digest_size=HOST_BYTES).digest()


def open_claims(client: ClientFactory, namespace: bytes, lease_s: float) -> tuple[Claims, Callable[[], None]]:
    """Return claims kept as leases, and the function that releases all of them.

    Parameters
    ----------
    client
        Context manager of the client.
    namespace
        Prefix of the keys.
    lease_s
        Lifetime in seconds of a claim that is not extended.

    Notes
    -----
    The server does not know whether a dead owner had sent a request, so no key is ever ``ambiguous``: it is granted to
    the next claim after the lease has expired.
    """
    claims = _LeaseClaims(client, namespace, max(1, round(lease_s * 1000)))
    heartbeat_s = lease_s / HEARTBEATS_PER_LEASE
    return (
        Claims(
            claim=claims.claim,
            release=claims.release,
            heartbeat=claims.heartbeat,
            heartbeat_s=heartbeat_s,
            watch=claims.watch,
        ),
        claims.close,
    )


class _LeaseClaims:
    """The claims of one owner on a server."""

    def __init__(self, client: ClientFactory, namespace: bytes, lease_ms: int) -> None:
        self._client, self._prefix, self._lease_ms = client, namespace + CLAIM_INFIX, lease_ms
        self._channel = namespace + RELEASED_INFIX
        self._token = make_token()
        self._lock = threading.Lock()
        self._held: set[bytes] = set()
        self._owners: dict[bytes, bytes] = {}
        self._releases = RedisReleases(
            self._open_pubsub,
            self._channel,
            self._changed_owner,
            is_dead,
            key_bytes=KEY_BYTES,
            check_s=lease_ms / 1000,
        )

    def claim(self, requests: Sequence[ClaimRequest], _resend: bool, _again: bool) -> ClaimResult:
        keys = [request.key for request in requests]
        # Before the reply: if it is lost, what the server granted must still be released.
        with self._lock:
            self._held.update(keys)
        holders = dict(self._run_script(CLAIM_SCRIPT, keys, self._token, self._lease_ms))
        if left_behind := self._release_of_dead(holders):
            for key in left_behind:
                del holders[key]
            holders |= self._run_script(CLAIM_SCRIPT, left_behind, self._token, self._lease_ms)
        held_elsewhere = frozenset(holders)
        with self._lock:
            self._owners.update(holders)
            self._held -= held_elsewhere
            # A heartbeat between the two may have dropped keys that were not granted yet.
            self._held.update(key for key in keys if key not in held_elsewhere)
        return ClaimResult(held_elsewhere)

    def _release_of_dead(self, holders: Mapping[bytes, bytes]) -> list[bytes]:
        """Release the claims of processes of this host that have ended; return their keys."""
        dead = [token for token in set(holders.values()) if token != self._token and is_dead(token)]
        for token in dead:
            self._release(token, [key for key, holder in holders.items() if holder == token])
        return [key for key, holder in holders.items() if holder in dead]

    def release(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            self._held.difference_update(keys)
        self._release(self._token, keys)

    def _release(self, token: bytes, keys: Sequence[bytes]) -> None:
        for _ in self._run_script(RELEASE_SCRIPT, keys, token):
            pass
        with self._client() as client:
            for start in range(0, len(keys), COMMAND_KEYS):
                client.publish(self._channel + token, b"".join(keys[start : start + COMMAND_KEYS]))

    def watch(self, keys: Collection[bytes], on_released: OnReleased) -> Callable[[], None]:
        """Call ``on_released`` for keys that their owners release (see `Claims`)."""
        with self._lock:
            owners = {key: self._owners.pop(key, b"") for key in keys}
        return self._releases.watch(owners, on_released)

    def _open_pubsub(self) -> Any:
        with self._client() as client:
            return client.pubsub()

    def _changed_owner(self, owners: Mapping[bytes, bytes]) -> list[bytes]:
        """Return the keys that their owner does not hold any more."""
        keys, now_held_by = list(owners), list[bytes | None]()
        with self._client() as client:
            for start in range(0, len(keys), COMMAND_KEYS):
                now_held_by += client.mget([self._prefix + key for key in keys[start : start + COMMAND_KEYS]])
        return [key for key, owner in zip(keys, now_held_by, strict=True) if owner is None or owner != owners[key]]

    def heartbeat(self) -> None:
        with self._lock:
            held = tuple(self._held)
        lost = {key for key, _ in self._run_script(EXTEND_SCRIPT, held, self._token, self._lease_ms)}
        with self._lock:
            self._held -= lost

    def close(self) -> None:
        self.release(tuple(self._held))

    def _run_script(self, script: str, keys: Sequence[bytes], *arguments: bytes | int) -> Iterator[tuple[bytes, bytes]]:
        """Run a script over batches of keys; yield the keys it returns, each with its owner if it returns that."""
        remaining = iter(keys)
        while batch := list(islice(remaining, COMMAND_KEYS)):
            names = [self._prefix + key for key in batch]
            with self._client() as client:
                found = client.eval(script, len(batch), *names, *arguments)
            for each in found:
                position, owner = each if isinstance(each, list) else (each, b"")
                yield batch[position - 1], owner or b""
