"""Claims on keys by leases on a Redis server: who holds one extends it, and whoever does so no more loses it.

A claim is a value under a name of its own, set where there is none and with a time to live; only who set it, by a token
that nobody else has, extends or deletes it.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Final, TypeAlias

from llmhub.cache.ledger import Claimed, Claims, Wish

BATCH: Final = 500
"""Keys in one command."""
BEATS: Final = 6
"""How often a lease is extended before it would run out."""
MARK: Final = b"!claim:"
"""Between the namespace and a key; answers have a colon there."""
CLAIM: Final = """
local held = {}
for at, key in ipairs(KEYS) do
    if not redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then
        if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2])
        else held[#held + 1] = at end
    end
end
return held
"""
EXTEND: Final = """
local lost = {}
for at, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('PEXPIRE', key, ARGV[2])
    else lost[#lost + 1] = at end
end
return lost
"""
RELEASE: Final = """
for _, key in ipairs(KEYS) do
    if redis.call('GET', key) == ARGV[1] then redis.call('DEL', key) end
end
return {}
"""

Guard: TypeAlias = Callable[[], AbstractContextManager[Any]]


def leased(guarded: Guard, namespace: bytes, lease_s: float) -> tuple[Claims, Callable[[], None]]:
    """Make claims that are leases, and the function that lets go of all.

    Parameters
    ----------
    guarded
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
    kept = _Leases(guarded, namespace + MARK, max(1, round(lease_s * 1000)))
    return Claims(claim=kept.claim, release=kept.release, beat=kept.beat, beat_s=lease_s / BEATS), kept.close


class _Leases:
    """The claims that one holder has on a server."""

    def __init__(self, guarded: Guard, prefix: bytes, lease_ms: int) -> None:
        self._guarded, self._prefix, self._lease_ms = guarded, prefix, lease_ms
        self._token = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._held: set[bytes] = set()

    def claim(self, wishes: Sequence[Wish], _resend: bool, _again: bool) -> Claimed:
        keys = [wish.key for wish in wishes]
        # Before the server says so: what it grants is let go, though its answer should be lost.
        with self._lock:
            self._held.update(keys)
        held = frozenset(self._each(CLAIM, keys, self._lease_ms))
        with self._lock:
            self._held -= held
            # A sign of life that came just before the claim did not find them.
            self._held.update(key for key in keys if key not in held)
        return Claimed(held)

    def release(self, keys: Sequence[bytes]) -> None:
        with self._lock:
            self._held.difference_update(keys)
        for _ in self._each(RELEASE, keys):
            pass

    def beat(self) -> None:
        with self._lock:
            held = tuple(self._held)
        lost = set(self._each(EXTEND, held, self._lease_ms))
        with self._lock:
            self._held -= lost

    def close(self) -> None:
        self.release(tuple(self._held))

    def _each(self, script: str, keys: Sequence[bytes], *said: int) -> Iterator[bytes]:
        """Run a script over keys, a few hundred at a time; give the keys it names."""
        rest = iter(keys)
        while some := list(islice(rest, BATCH)):
            with self._guarded() as client:
                found = client.eval(script, len(some), *(self._prefix + key for key in some), self._token, *said)
            yield from (some[at - 1] for at in found)
