"""Keys and accounts on a Redis server: one script an operation, on the server's clock.

Under ``namespace!access:`` there are one key a record, one hash an account (``spent`` and ``reserved``), one hash of
open reservations an owner, the owners in a sorted set by the time until which they count, and one key a rate limit.
Amounts are exact up to nine million dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from llmhub.cache.access_store import (
    ALLOW,
    OWNER_TTL_S,
    REJECT,
    TOMBSTONE_S,
    WAIT,
    AccessStore,
    AccountBalance,
    Admit,
    Charge,
    Enter,
    Expired,
    Operation,
    Reserve,
    ReserveResult,
    Settle,
    UseNonce,
)
from llmhub.cache.redis import COMMAND_KEYS, ClientFactory, RedisCache, RedisClient, is_dead

INFIX: Final = b"!access:"
"""Between the namespace and the names of this module; values have a colon there."""
DECISIONS: Final = (REJECT, ALLOW, WAIT)
RATE_TTL_MS: Final = 3_600_000
EXPIRED_TTL_MS: Final = 86_400_000
"""Time for which a process that was taken for dead may correct what was settled for it."""
_NUMBER: Final = """
local function number(value) return string.format('%.0f', value) end
local function negative(text) return text == '0' and text or '-' .. text end
"""
RESERVE_SCRIPT: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return {1, 0, '0', '0'} end
if redis.call('DEL', KEYS[2]) == 1 then return {2, 0, '0', '0'} end
local amount, waiting = tonumber(ARGV[2]), nil
for at = 3, #KEYS do
    local limit = tonumber(ARGV[at + 1])
    local spent = tonumber(redis.call('HGET', KEYS[at], 'spent') or 0)
    local reserved = tonumber(redis.call('HGET', KEYS[at], 'reserved') or 0)
    local balance = {at - 3, string.format('%.0f', spent), string.format('%.0f', reserved)}
    if spent + amount > limit then return {0, unpack(balance)} end
    if spent + reserved + amount > limit and not waiting then waiting = balance end
end
if waiting then return {2, unpack(waiting)} end
for at = 3, #KEYS do redis.call('HINCRBY', KEYS[at], 'reserved', ARGV[2]) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {1, 0, '0', '0'}
"""
SETTLE_SCRIPT: Final = (
    _NUMBER
    + """
local prefix, ttl = ARGV[3], ARGV[4]
local record = redis.call('HGET', KEYS[1], ARGV[1])
local expired = false
if not record then
    record = redis.call('HGET', KEYS[3], ARGV[1])
    expired = true
end
if not record then
    redis.call('SET', KEYS[2], '1', 'PX', ttl)
    return 0
end
local entry = cjson.decode(record)
for _, name in ipairs(entry[2]) do
    local account = prefix .. name
    if expired then
        redis.call('HINCRBY', account, 'spent', number(tonumber(ARGV[2]) - tonumber(entry[1])))
    else
        redis.call('HINCRBY', account, 'spent', ARGV[2])
        redis.call('HINCRBY', account, 'reserved', negative(entry[1]))
    end
end
redis.call('HDEL', expired and KEYS[3] or KEYS[1], ARGV[1])
return 1
"""
)
ENTER_SCRIPT: Final = """
if redis.call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then
    for at = 2, #KEYS do redis.call('HINCRBY', KEYS[at], 'spent', ARGV[1]) end
end
return 0
"""
ADMIT_SCRIPT: Final = (
    _NUMBER
    + """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local checks, ttl = ARGV[1] == '1', tonumber(ARGV[2])
local booked, wait = {}, 0
for at, key in ipairs(KEYS) do
    local duration, burst = tonumber(ARGV[1 + 2 * at]), tonumber(ARGV[2 + 2 * at])
    booked[at] = math.max(tonumber(redis.call('GET', key) or 0), now) + duration
    wait = math.max(wait, booked[at] - now - math.max(burst, duration))
end
if checks and wait > 0 then return number(wait) end
for at, key in ipairs(KEYS) do
    redis.call('SET', key, number(booked[at]), 'PX', number(math.ceil(math.max(booked[at] - now, 0) / 1000) + ttl))
end
return '0'
"""
)
ALIVE_SCRIPT: Final = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] + time[2] / 1000000 + tonumber(ARGV[2]), ARGV[1])
return 0
"""
OWNERS_SCRIPT: Final = """
local time = redis.call('TIME')
local found = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local now, owners = time[1] + time[2] / 1000000, {}
for at = 1, #found, 2 do owners[#owners + 1] = {found[at], tonumber(found[at + 1]) > now and 1 or 0} end
return owners
"""
EXPIRE_SCRIPT: Final = (
    _NUMBER
    + """
local time = redis.call('TIME')
local alive = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or 0)
if ARGV[3] ~= '1' and alive > time[1] + time[2] / 1000000 then return {0, '0'} end
local found, total = redis.call('HGETALL', KEYS[1]), 0
for at = 1, #found, 2 do
    local entry = cjson.decode(found[at + 1])
    for _, name in ipairs(entry[2]) do
        redis.call('HINCRBY', ARGV[2] .. name, 'spent', entry[1])
        redis.call('HINCRBY', ARGV[2] .. name, 'reserved', negative(entry[1]))
    end
    total = total + tonumber(entry[1])
    redis.call('HSET', KEYS[2], found[at], found[at + 1])
end
if #found > 0 then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return {#found / 2, number(total)}
"""
)
REPLACE_SCRIPT: Final = """
local present = redis.call('GET', KEYS[1])
if ARGV[1] == '0' then
    if present then return 0 end
elseif present ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[3])
return 1
"""


def open_redis_access(cache: RedisCache) -> AccessStore:
    """Open the store on the server of a cache; the server is contacted at first use.

    Raises
    ------
    BadRequestError
        The extra is not installed, or the URL cannot be parsed.
    """
    client = RedisClient(cache)
    server = _AccessServer(client.use, cache.namespace.encode() + INFIX)
    return AccessStore(
        get=server.get,
        replace=server.replace,
        scan=server.scan,
        apply=server.apply,
        expire=server.expire,
        replicas=server.replicas,
        balances=server.balances,
        close=client.close,
        is_shared=True,
    )


class _AccessServer:
    """The records and accounts on one server."""

    def __init__(self, client: ClientFactory, prefix: bytes) -> None:
        self._client, self._prefix = client, prefix
        self._accounts = prefix + b"account:"
        self._owners = prefix + b"owners"

    # Keys

    def get(self, key_id: str) -> bytes | None:
        with self._client() as client:
            record: bytes | None = client.get(self._prefix + b"key:" + key_id.encode())
        return record

    def replace(self, key_id: str, before: bytes | None, after: bytes) -> bool:
        name = self._prefix + b"key:" + key_id.encode()
        with self._client() as client:
            return bool(client.eval(REPLACE_SCRIPT, 1, name, int(before is not None), before or b"", after))

    def scan(self) -> list[bytes]:
        return [value for value in self._values(b"key:", lambda pipeline, name: pipeline.get(name)) if value]

    def balances(self, prefix: str) -> list[AccountBalance]:
        names = self._names(b"account:" + prefix.encode())
        values = self._read(names, lambda pipeline, name: pipeline.hmget(name, "spent", "reserved"))
        start = len(self._accounts)
        return sorted(
            AccountBalance(name[start:].decode(), int(spent or 0), int(reserved or 0))
            for name, (spent, reserved) in zip(names, values, strict=True)
        )

    def _values(self, prefix: bytes, read: Any) -> list[Any]:
        return self._read(self._names(prefix), read)

    def _names(self, prefix: bytes) -> list[bytes]:
        """Return the sorted names of the server's keys that begin with a prefix."""
        whole = self._prefix + prefix
        pattern = b"".join(b"\\" + bytes([char]) if char in b"*?[]\\" else bytes([char]) for char in whole) + b"*"
        with self._client() as client:
            return sorted(set(client.scan_iter(match=pattern, count=COMMAND_KEYS)))

    def _read(self, names: Sequence[bytes], read: Any) -> list[Any]:
        with self._client() as client:
            pipeline = client.pipeline(transaction=False)
            for name in names:
                read(pipeline, name)
            return list(pipeline.execute())

    # Accounts

    def apply(self, owner: bytes, operations: Sequence[Operation]) -> list[object]:
        with self._client() as client:
            pipeline = client.pipeline(transaction=False)
            pipeline.eval(ALIVE_SCRIPT, 1, self._owners, owner, OWNER_TTL_S)
            for operation in operations:
                self._queue(pipeline, owner, operation)
            _, *replies = pipeline.execute()
        return [_result(operation, reply) for operation, reply in zip(operations, replies, strict=True)]

    def _queue(self, pipeline: Any, owner: bytes, operation: Operation) -> None:
        match operation:
            case Reserve(reservation, accounts, amount):
                names = [name for name, _ in accounts]
                keys = [self._open(owner), self._mark("settled", reservation), *map(self._account, names)]
                # Numbers of JSON are inexact in Lua; the amount is text.
                record = msgspec.json.encode([str(amount), names])
                limits = [limit for _, limit in accounts]
                pipeline.eval(RESERVE_SCRIPT, len(keys), *keys, reservation, amount, record, *limits)
            case Settle(reservation, cost):
                keys = [self._open(owner), self._mark("settled", reservation), self._expired(owner)]
                ttl_ms = round(TOMBSTONE_S * 1000)
                pipeline.eval(SETTLE_SCRIPT, len(keys), *keys, reservation, cost, self._accounts, ttl_ms)
            case Enter(reservation, entered, cost):
                keys = [self._mark("entered", reservation), *map(self._account, entered)]
                pipeline.eval(ENTER_SCRIPT, len(keys), *keys, cost, round(TOMBSTONE_S * 1000))
            case Admit(rates) | Charge(rates):
                keys = [self._prefix + b"rate:" + rate.name.encode() for rate in rates]
                uses = [number for rate in rates for number in rate[1:]]
                checks = int(isinstance(operation, Admit))
                pipeline.eval(ADMIT_SCRIPT, len(keys), *keys, checks, RATE_TTL_MS, *uses)
            case UseNonce(nonce, ttl_s):
                pipeline.set(self._mark("nonce", nonce), 1, nx=True, px=max(1, round(ttl_s * 1000)))

    def expire(self, owner: bytes) -> Expired:
        count = total = 0
        with self._client() as client:
            client.eval(ALIVE_SCRIPT, 1, self._owners, owner, OWNER_TTL_S)
            for found, is_alive in client.eval(OWNERS_SCRIPT, 1, self._owners):
                ended = is_dead(found)
                if is_alive and not ended:
                    continue
                keys = [self._open(found), self._expired(found), self._owners]
                reply = client.eval(EXPIRE_SCRIPT, 3, *keys, found, self._accounts, int(ended), EXPIRED_TTL_MS)
                count, total = count + int(reply[0]), total + int(reply[1])
        return Expired(count, total)

    def replicas(self) -> int:
        with self._client() as client:
            return sum(is_alive for _, is_alive in client.eval(OWNERS_SCRIPT, 1, self._owners))

    def _account(self, name: str) -> bytes:
        return self._accounts + name.encode()

    def _mark(self, kind: str, name: str) -> bytes:
        return self._prefix + f"{kind}:{name}".encode()

    def _open(self, owner: bytes) -> bytes:
        return self._prefix + b"open:" + owner

    def _expired(self, owner: bytes) -> bytes:
        return self._prefix + b"expired:" + owner


def _result(operation: Operation, reply: Any) -> object:
    match operation:
        case Reserve():
            decision, position, spent, reserved = reply
            return ReserveResult(DECISIONS[decision], int(position), int(spent), int(reserved))
        case Admit():
            return int(reply)
        case UseNonce():
            return reply is not None
        case _:
            return None
