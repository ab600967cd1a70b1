"""A shared rate limiter on a Redis server: one script a booking, on the server's clock.

Per limit there is one key, the time up to which it is booked; per scope a pause, and the workers alive in sorted sets
by the time until which they count. Keys expire by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

from llmhub.cache.shared_limiter import (
    MAX_AHEAD_US,
    MEMBER_TTL_US,
    Lease,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
)

LIMIT_INFIX: Final = b"!limit:"
"""Between the namespace and the name of a limit; values have a colon there."""
TOTAL_TTL_MS: Final = 30 * 86_400_000
"""Lifetime of a total that nobody books."""
BOOK_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local job, worker, pause, ttl, ahead = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rates, position = tonumber(ARGV[6]), 7
local pause_key, jobs_key, workers_key, job_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function number(value) return string.format('%.0f', value) end
local paused_until = tonumber(redis.call('GET', pause_key) or 0)
if pause > 0 and now + pause > paused_until then
    paused_until = now + pause
    redis.call('SET', pause_key, number(paused_until), 'PX', number(math.ceil(pause / 1000)))
end
local tats, start = {}, nil
for at = 1, rates do
    local duration, burst, unused = tonumber(ARGV[position]), tonumber(ARGV[position + 1]), tonumber(ARGV[position + 2])
    local tat = tonumber(redis.call('GET', KEYS[4 + at]) or 0)
    if tat > now + ahead then tat = 0 else tat = tat - unused end
    tats[at] = {math.max(now - burst, tat), duration}
    if duration > 0 and (start == nil or tats[at][1] > start) then start = tats[at][1] end
    position = position + 3
end
if start == nil then start = now end
if paused_until > now and paused_until > start then start = paused_until end
local longest = 0
for at = 1, rates do
    local booked, duration = tats[at][1], tats[at][2]
    if duration > 0 then booked = start + duration end
    if duration > longest then longest = duration end
    redis.call('SET', KEYS[4 + at], number(booked), 'PX', number(math.ceil(math.max(booked - now, 0) / 1000) + 3600000))
end
local granted, used = {}, {}
for at = 4 + rates + 1, #KEYS do
    local amount, limit = tonumber(ARGV[position]), tonumber(ARGV[position + 1])
    if amount > 0 then
        amount = math.max(math.min(amount, limit - tonumber(redis.call('GET', KEYS[at]) or 0)), 0)
    end
    used[#used + 1] = number(redis.call('INCRBY', KEYS[at], number(amount)))
    redis.call('PEXPIRE', KEYS[at], ARGV[#ARGV])
    granted[#granted + 1] = number(amount)
    position = position + 2
end
local alive = math.max(start, now) + longest + ttl
for _, key in ipairs({jobs_key, workers_key, job_key}) do redis.call('ZREMRANGEBYSCORE', key, '-inf', number(now)) end
redis.call('ZADD', jobs_key, number(math.max(alive, tonumber(redis.call('ZSCORE', jobs_key, job) or 0))), job)
redis.call('ZADD', workers_key, number(alive), job .. ' ' .. worker)
redis.call('ZADD', job_key, number(alive), worker)
for _, key in ipairs({jobs_key, workers_key, job_key}) do redis.call('PEXPIRE', key, 2 * 3600000) end
return {
    number(start - now), number(math.max(paused_until - now, 0)),
    redis.call('ZCARD', jobs_key), redis.call('ZCARD', job_key), redis.call('ZCARD', workers_key), granted, used
}
"""
LEAVE_SCRIPT: Final = """
redis.call('ZREM', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
redis.call('ZREM', KEYS[3], ARGV[2])
if redis.call('ZCARD', KEYS[3]) == 0 then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
"""

ClientFactory: TypeAlias = Callable[[], AbstractContextManager[Any]]


def open_limiter(client: ClientFactory, namespace: bytes) -> SharedLimiter:
    """Return the limiter of a server; ``client`` is the context manager of its client."""
    limiter = _RedisLimiter(client, namespace + LIMIT_INFIX)
    return SharedLimiter(book=limiter.book, leave=limiter.leave)


class _RedisLimiter:
    """The limits on one server."""

    def __init__(self, client: ClientFactory, prefix: bytes) -> None:
        self._client, self._prefix = client, prefix

    def book(
        self,
        scope: str,
        member: Member,
        rates: Sequence[RateBooking],
        totals: Sequence[TotalBooking] = (),
        pause_us: int = 0,
    ) -> Lease:
        pause = self._prefix + b"pause:" + scope.encode()
        keys = [pause, *self._member_keys(scope, member)]
        keys += [self._prefix + b"rate:" + rate.name.encode() for rate in rates]
        keys += [self._prefix + b"total:" + total.name.encode() for total in totals]
        arguments: list[Any] = [*member, pause_us, MEMBER_TTL_US, MAX_AHEAD_US, len(rates)]
        for rate in rates:
            arguments += rate[1:]
        for total in totals:
            arguments += total[1:]
        with self._client() as client:
            reply = client.eval(BOOK_SCRIPT, len(keys), *keys, *arguments, TOTAL_TTL_MS)
        start, paused, jobs, job_workers, workers, granted, used = reply
        totals_granted, totals_used = tuple(map(int, granted)), tuple(map(int, used))
        return Lease(int(start), int(paused), jobs, job_workers, workers, totals_granted, totals_used)

    def leave(self, scope: str, member: Member) -> None:
        keys = self._member_keys(scope, member)
        with self._client() as client:
            client.eval(LEAVE_SCRIPT, len(keys), *keys, *member)

    def _member_keys(self, scope: str, member: Member) -> list[bytes]:
        """Return the keys of the jobs, of all workers, and of the workers of the member's job."""
        encoded = scope.encode()
        return [
            self._prefix + b"jobs:" + encoded,
            self._prefix + b"workers:" + encoded,
            self._prefix + b"workers:" + encoded + b" " + member.job.encode(),
        ]
