"""A shared rate limiter on a Redis server: one script a booking, on the server's clock.

Per rate there is one key, the time up to which it is booked; per window a hash of the amounts in use, by slice or by
the beginning; per scope a pause, and the workers alive in sorted sets by the time until which they count. Keys expire
by themselves. The script has the arithmetic of `llmhub.cache.shared_limiter`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

from llmhub.cache.shared_limiter import (
    MAX_AHEAD_US,
    MEMBER_TTL_US,
    WINDOW_SLICES,
    Lease,
    Member,
    RateBooking,
    SharedLimiter,
    TotalBooking,
    WindowBooking,
)

LIMIT_INFIX: Final = b"!limit:"
"""Between the namespace and the name of a limit; values have a colon there."""
TOTAL_TTL_MS: Final = 30 * 86_400_000
"""Lifetime of a total that nobody books."""
BOOK_SCRIPT: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local job, worker, pause, ttl, ahead = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local rates, windows, slices = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local totals, total_ttl, scopes, leaves = tonumber(ARGV[9]), ARGV[10], tonumber(ARGV[11]), ARGV[12] == '1'
local position, key, pause_key = 13, 1, KEYS[1]
local function number(value) return string.format('%.0f', value) end
local function read(count)
    local values = {}
    for at = 1, count do values[at] = tonumber(ARGV[position + at - 1]) end
    position = position + count
    return values
end
local paused_until = tonumber(redis.call('GET', pause_key) or 0)
if pause > 0 and now + pause > paused_until then
    paused_until = now + pause
    redis.call('SET', pause_key, number(paused_until), 'PX', number(math.ceil(pause / 1000)))
end

local booked, start = {}, nil
for at = 1, rates do
    key = key + 1
    local values = read(3)
    local rate = {key = KEYS[key], duration = values[1], burst = values[2]}
    rate.tat = tonumber(redis.call('GET', rate.key) or 0)
    if rate.tat > now + ahead then rate.tat = 0 else rate.tat = rate.tat - values[3] end
    rate.tat = math.max(now - rate.burst, rate.tat)
    if rate.duration > 0 and (start == nil or rate.tat > start) then start = rate.tat end
    booked[at] = rate
end
if start == nil then start = now end
if paused_until > now and paused_until > start then start = paused_until end

local function total_of(window)
    local total = 0
    for _, entry in ipairs(window.entries) do total = total + entry[2] end
    return total
end
local function begin(window, at)
    if not window.slides then
        local entry = window.entries[#window.entries]
        if entry == nil or at >= entry[1] + window.length or entry[2] == 0 then return at, 0 end
        if entry[2] + window.minimum > window.allowed then
            return entry[1] + window.length * math.max(1, math.ceil(entry[2] / window.allowed)), 0
        end
        return math.max(at, entry[1]), entry[2]
    end
    local last = window.entries[#window.entries]
    if last then at = math.max(at, last[1] * window.slice) end
    local total = total_of(window)
    for _, entry in ipairs(window.entries) do
        local expires = (entry[1] + 1) * window.slice + window.length
        if expires > at then
            if total + window.minimum <= window.allowed then break end
            at = expires
        end
        total = total - entry[2]
    end
    return at, total
end
local counted = {}
for at = 1, windows do
    key = key + 1
    local values = read(7)
    local window = {
        key = KEYS[key], amount = values[1], minimum = values[2], allowed = values[3], length = values[4],
        slides = values[5] == 1, unused = values[6], age = values[7], entries = {}, granted = 0
    }
    window.slice = math.floor(window.length / slices)
    local flat = redis.call('HGETALL', window.key)
    local unit, amounts = window.slides and window.slice or 1, {}
    for field = 1, #flat, 2 do
        local began = tonumber(flat[field])
        if began > math.floor((now + ahead) / unit) then began = math.floor(now / unit) end
        amounts[began] = (amounts[began] or 0) + tonumber(flat[field + 1])
    end
    for began, amount in pairs(amounts) do window.entries[#window.entries + 1] = {began, amount} end
    table.sort(window.entries, function(a, b) return a[1] < b[1] end)
    local entries = window.entries
    if window.unused < 0 then
        if #entries == 0 then entries[1] = {window.slides and math.floor(now / window.slice) or now, 0} end
        entries[#entries][2] = entries[#entries][2] - window.unused
    elseif window.unused > 0 then
        local first, last, step = 1, #entries, 1
        if window.age < 0 then first, last, step = #entries, 1, -1 end
        for field = first, last, step do
            if window.slides or now - window.age >= entries[field][1] then
                local given = math.min(window.unused, entries[field][2])
                entries[field][2] = entries[field][2] - given
                window.unused = window.unused - given
            end
        end
        window.entries = {}
        for _, entry in ipairs(entries) do
            if entry[2] ~= 0 then window.entries[#window.entries + 1] = entry end
        end
    end
    counted[at] = window
end
local earliest = math.max(start, now)
local at, moved = earliest, true
while moved do
    moved = false
    local latest = at
    for _, window in ipairs(counted) do
        if window.amount > 0 then
            local begins
            begins, window.used = begin(window, at)
            if begins > latest then latest = begins end
        end
    end
    if latest > at then at, moved = latest, true end
end
if at > earliest then start = at end
local is_booked = at <= now + ahead or at == earliest
for _, window in ipairs(counted) do
    if window.amount > 0 and is_booked then
        window.granted = math.min(window.amount, math.max(window.allowed - window.used, window.minimum))
        local entries, kept = window.entries, {}
        for _, entry in ipairs(entries) do
            local expires = window.slides and (entry[1] + 1) * window.slice + window.length or entry[1] + window.length
            if entry[2] ~= 0 and expires > now then kept[#kept + 1] = entry end
        end
        local last, began = kept[#kept], at
        if window.slides then
            began = math.floor(at / window.slice)
            if last then began = math.max(began, last[1]) end
        elseif last and at < last[1] + window.length then
            began = last[1]
        end
        if last and last[1] == began then
            last[2] = last[2] + window.granted
        else
            kept[#kept + 1] = {began, window.granted}
        end
        window.entries = kept
    end
    redis.call('DEL', window.key)
    for _, entry in ipairs(window.entries) do redis.call('HSET', window.key, number(entry[1]), number(entry[2])) end
    redis.call('PEXPIRE', window.key, number(math.ceil((2 * window.length + ahead) / 1000)))
end

local longest = 0
for _, rate in ipairs(booked) do
    local tat = rate.tat
    if rate.duration > 0 and is_booked then tat = start + rate.duration end
    if rate.duration > longest then longest = rate.duration end
    redis.call('SET', rate.key, number(tat), 'PX', number(math.ceil(math.max(tat - now, 0) / 1000) + 3600000))
end
local granted, used, shares = {}, {}, {}
for total = 1, totals do
    key = key + 1
    local values = read(2)
    local amount, limit = values[1], values[2]
    if amount > 0 then
        amount = math.max(math.min(amount, limit - tonumber(redis.call('GET', KEYS[key]) or 0)), 0)
    end
    used[#used + 1] = number(redis.call('INCRBY', KEYS[key], number(amount)))
    redis.call('PEXPIRE', KEYS[key], total_ttl)
    granted[#granted + 1] = number(amount)
end
for _, window in ipairs(counted) do shares[#shares + 1] = number(window.granted) end
local alive = math.min(math.max(start, now) + longest, now + ahead) + ttl
local counts = {}
for scope = 1, scopes do
    local jobs_key, workers_key, job_key = KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
    key = key + 3
    for _, set in ipairs({jobs_key, workers_key, job_key}) do
        redis.call('ZREMRANGEBYSCORE', set, '-inf', number(now))
    end
    if leaves then
        redis.call('ZREM', workers_key, job .. ' ' .. worker)
        redis.call('ZREM', job_key, worker)
        if redis.call('ZCARD', job_key) == 0 then redis.call('ZREM', jobs_key, job) end
    else
        redis.call('ZADD', jobs_key, number(math.max(alive, tonumber(redis.call('ZSCORE', jobs_key, job) or 0))), job)
        redis.call('ZADD', workers_key, number(alive), job .. ' ' .. worker)
        redis.call('ZADD', job_key, number(alive), worker)
    end
    for _, set in ipairs({jobs_key, workers_key, job_key}) do redis.call('PEXPIRE', set, 2 * 3600000) end
    if scope == 1 then
        for at, set in ipairs({jobs_key, job_key, workers_key}) do counts[at] = redis.call('ZCARD', set) end
    end
end
return {
    number(start - now), number(math.max(paused_until - now, 0)), counts[1], counts[2], counts[3], granted, used, shares
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
        *,
        windows: Sequence[WindowBooking] = (),
        also_alive_in: str = "",
        leaves: bool = False,
    ) -> Lease:
        keys = [self._prefix + b"pause:" + scope.encode()]
        keys += [self._prefix + b"rate:" + rate.name.encode() for rate in rates]
        keys += [self._prefix + b"window:" + window.name.encode() for window in windows]
        keys += [self._prefix + b"total:" + total.name.encode() for total in totals]
        scopes = (scope, also_alive_in) if also_alive_in else (scope,)
        for each in scopes:
            keys += self._member_keys(each, member)
        counts = (len(rates), len(windows), WINDOW_SLICES, len(totals), TOTAL_TTL_MS, len(scopes), int(leaves))
        arguments: list[Any] = [*member, pause_us, MEMBER_TTL_US, MAX_AHEAD_US, *counts]
        for booking in (*rates, *windows, *totals):
            arguments += [int(value) for value in booking[1:]]
        with self._client() as client:
            reply = client.eval(BOOK_SCRIPT, len(keys), *keys, *arguments)
        start, paused, jobs, job_workers, workers, *amounts = reply
        granted, used, shares = (tuple(map(int, each)) for each in amounts)
        return Lease(int(start), int(paused), jobs, job_workers, workers, granted, used, shares)

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
