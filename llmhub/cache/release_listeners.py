"""Report when claims of other processes are released, so that callers need not try again and again.

A watch is for some keys, and each of them is reported once: it was released, its owner died, or its lease may have
expired. One thread of a store listens as long as there are watches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LISTEN_S: Final = 0.25
"""Longest wait for a message before owners of this host are checked for being alive."""
CHECK_S: Final = 0.05
"""Shortest time between two looks at the claims in a file that was written to."""
VERSION_S: Final = 0.02
"""Time between two looks at the version of a file, which costs microseconds."""
LINGER_S: Final = 5.0
"""Time for which a thread without watches waits for the next one."""
RETRY_S: Final = 0.5
"""Pause after a failure of the store."""


@dataclass(slots=True, eq=False)
class _Watched:
    """Keys by their owner, as far as it is known, and the callback."""

    owners: dict[bytes, bytes]
    on_released: Callable[[Collection[bytes]], None]


class _Watches:
    """The watches of one store, and the thread that serves them."""

    def __init__(self, serve: Callable[[_Watches], None]) -> None:
        self.changed = threading.Event()
        self._serve = serve
        self._lock = threading.Lock()
        self._watched: list[_Watched] = []
        self._thread: threading.Thread | None = None

    def add(
        self, owners: Mapping[bytes, bytes], on_released: Callable[[Collection[bytes]], None]
    ) -> Callable[[], None]:
        """Add a watch; return the function that ends it."""
        watched = _Watched(dict(owners), on_released)
        with self._lock:
            self._watched.append(watched)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, args=(self,), name="llmhub-claims", daemon=True)
                self._thread.start()
        self.changed.set()

        def cancel() -> None:
            watched.owners = {}

        return cancel

    def owners(self) -> dict[bytes, bytes]:
        """Return all keys that are watched, each with its owner."""
        with self._lock:
            self._watched = [watched for watched in self._watched if watched.owners]
            return {key: owner for watched in self._watched for key, owner in tuple(watched.owners.items())}

    def report(self, keys: Iterable[bytes]) -> None:
        """Call back the watches of some keys, and watch these no more."""
        reported = set(keys)
        with self._lock:
            watches = tuple(self._watched)
        for watched in watches:
            owners = watched.owners
            if released := reported & owners.keys():
                watched.owners = {key: owner for key, owner in owners.items() if key not in released}
                watched.on_released(released)

    def end(self) -> bool:
        """Return whether the thread may end: there has been no watch for a while."""
        self.changed.clear()
        if self.owners() or self.changed.wait(LINGER_S):
            return False
        with self._lock:
            if self._watched:
                return False
            self._thread = None
        return True


class RedisReleases:
    """Releases that owners publish on a Redis server, each on a channel of its own.

    Parameters
    ----------
    open_pubsub
        Returns a new subscription.
    channel
        Precedes the token of an owner in the name of its channel.
    changed_owner
        Returns which of some keys their owner does not hold any more.
    is_dead
        Returns whether an owner is known to have ended.
    key_bytes
        Length of a key in messages.
    check_s
        Interval at which all keys are checked, for leases that expire without a message.
    """

    def __init__(
        self,
        open_pubsub: Callable[[], Any],
        channel: bytes,
        changed_owner: Callable[[Mapping[bytes, bytes]], Sequence[bytes]],
        is_dead: Callable[[bytes], bool],
        *,
        key_bytes: int,
        check_s: float,
    ) -> None:
        self._open_pubsub, self._channel = open_pubsub, channel
        self._changed_owner, self._is_dead = changed_owner, is_dead
        self._key_bytes, self._check_s = key_bytes, check_s
        self._watches = _Watches(self._serve)
        self.watch = self._watches.add

    def _serve(self, watches: _Watches) -> None:
        while not watches.end():
            try:
                pubsub = self._open_pubsub()
                try:
                    self._listen(watches, pubsub)
                finally:
                    pubsub.close()
            except Exception:  # noqa: BLE001 - whoever claims next sees the failure
                watches.report(watches.owners())
                time.sleep(RETRY_S)

    def _listen(self, watches: _Watches, pubsub: Any) -> None:
        subscribed: set[bytes] = set()
        known: set[bytes] = set()
        checked_at = time.monotonic()
        while owners := watches.owners():
            if new := set(owners.values()) - subscribed:
                pubsub.subscribe(*(self._channel + owner for owner in new))
                subscribed |= new
            message = pubsub.get_message(timeout=LISTEN_S)
            if message is None:
                watches.report([key for key, owner in owners.items() if self._is_dead(owner)])
            elif message["type"] == "message":
                data = message["data"]
                watches.report(data[at : at + self._key_bytes] for at in range(0, len(data), self._key_bytes))
            # A key may have been released between the claim that failed and the watch.
            is_due = time.monotonic() - checked_at > self._check_s or not owners.keys() <= known
            known |= owners.keys()
            if is_due or (message is not None and message["type"] == "subscribe"):
                # What was released before the subscription began, or whose lease has expired.
                checked_at = time.monotonic()
                watches.report(self._changed_owner(owners))


class SqliteReleases:
    """Releases in an SQLite file, whose version changes whenever another connection writes to it.

    Parameters
    ----------
    version
        Returns the version of the file.
    held
        Returns which of some keys other owners hold.
    """

    def __init__(self, version: Callable[[], int], held: Callable[[Collection[bytes]], Collection[bytes]]) -> None:
        self._version, self._held = version, held
        self._watches = _Watches(self._serve)

    def watch(self, keys: Iterable[bytes], on_released: Callable[[Collection[bytes]], None]) -> Callable[[], None]:
        """Call ``on_released`` for keys that are released; return the function that ends the watch."""
        return self._watches.add(dict.fromkeys(keys, b""), on_released)

    def _serve(self, watches: _Watches) -> None:
        while not watches.end():
            try:
                self._look(watches)
            except Exception:  # noqa: BLE001 - whoever claims next sees the failure
                watches.report(watches.owners())
                time.sleep(RETRY_S)

    def _look(self, watches: _Watches) -> None:
        seen, checked_at = -1, -LISTEN_S
        while keys := watches.owners().keys():
            version, now = self._version(), time.monotonic()
            # A dead owner writes nothing.
            if (version != seen and now - checked_at >= CHECK_S) or now - checked_at >= LISTEN_S:
                seen, checked_at = version, now
                watches.report(keys - set(self._held(keys)))
            time.sleep(VERSION_S)
