"""How many connections a process may open: its limit of open files (``ulimit -n``) less what else is open.

Without room a connection waits for another one; the last descriptors are left to files. A process that runs out of
descriptors cannot even read its price table. A limit of 1024 is usual on Linux, 256 on macOS.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

if sys.platform != "win32":
    import resource

DESCRIPTOR_FOLDERS: Final = ("/proc/self/fd", "/dev/fd")
"""Folders that list the open descriptors of the process that reads them, on Linux and on macOS."""
MIN_SPARE, MAX_SPARE, SPARE_SHARE = 16, 128, 0.25
"""Descriptors left for files, imports and databases: a share of the free ones, within bounds."""
COUNT_INTERVAL_S: Final = 0.5
"""How long a count of open descriptors is used: counting takes a moment where many are open."""
OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE})


def soft_limit() -> int | None:
    """Return the limit of open descriptors of this process; ``None`` if there is none."""
    if sys.platform == "win32":
        return None
    limit: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def count_open() -> int | None:
    """Return how many descriptors are open; ``None`` if the system does not list them."""
    for folder in DESCRIPTOR_FOLDERS:
        try:
            return len(os.listdir(folder))  # noqa: PTH208 - a path for each of a thousand entries would cost more
        except OSError:
            continue
    return None


def connection_room(limit: int | None, in_use: int) -> int | None:
    """Return how many connections fit, with so many descriptors in use for other things; ``None`` for any number.

    Examples
    --------
    >>> connection_room(1024, 24), connection_room(64, 20)
    (872, 28)
    """
    if limit is None:
        return None
    free = max(0, limit - in_use)
    return max(0, free - max(MIN_SPARE, min(MAX_SPARE, int(free * SPARE_SHARE))))


def is_out_of_descriptors(error: BaseException | None) -> bool:
    """Return whether an exception, or its cause, says that no descriptor is free."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            return True
        if isinstance(error, socket.gaierror) and _cannot_open():
            return True  # a look-up of a host name that could not read its configuration
        error = error.__cause__
    return False


def _cannot_open() -> bool:
    """Return whether no descriptor is free right now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in OUT_OF_DESCRIPTORS
    return False


class Connections(Protocol):
    """A pool of connections, each of which takes a descriptor."""

    @property
    def connection_count(self) -> int:
        """Number of connections that are open or being opened."""
        ...

    def close_idle(self) -> bool:
        """Close the connection that has been idle longest; return whether there was one."""
        ...


class DescriptorLimit:
    """The room for connections, shared by all pools on the running event loop.

    Parameters
    ----------
    limit, count
        Return the limit of descriptors and how many are open.
    clock
        Returns monotonic seconds.
    """

    def __init__(
        self,
        limit: Callable[[], int | None] = soft_limit,
        count: Callable[[], int | None] = count_open,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._count = count
        self._clock = clock
        # A pool of another loop, such as the parent's after a fork, cannot be used from here.
        self._loop_by_pool: WeakKeyDictionary[Connections, asyncio.AbstractEventLoop] = WeakKeyDictionary()
        self._room: int | None = None
        self._counted_at = float("-inf")

    def has_room(self, pool: Connections) -> bool:
        """Return whether there is room for another connection, of ``pool``."""
        if pool not in self._loop_by_pool:
            self._loop_by_pool[pool] = asyncio.get_running_loop()
        connections = sum(each.connection_count for each in self._pools())
        now = self._clock()
        if now - self._counted_at >= COUNT_INTERVAL_S:
            self._counted_at = now
            self._room = self.room(connections)
        return self._room is None or connections < self._room

    def room(self, connections: int = 0) -> int | None:
        """Return how many connections fit, ``connections`` of which are open already; ``None`` for any number."""
        limit = self._limit()
        in_use = None if limit is None else self._count()
        return connection_room(limit, 0 if in_use is None else max(0, in_use - connections))

    def make_room(self, pool: Connections | None = None) -> bool:
        """Close an idle connection, of ``pool`` if it has one; return whether there was one."""
        pools = sorted(self._pools(), key=lambda each: each is not pool)
        return any(each.close_idle() for each in pools)

    def on_exhausted(self) -> None:
        """Learn that no descriptor is free: there is room for the connections there are, until the next count."""
        self._counted_at = self._clock()
        self._room = sum(each.connection_count for each in self._pools())

    def _pools(self) -> list[Connections]:
        loop = asyncio.get_running_loop()
        return [pool for pool, own_loop in self._loop_by_pool.items() if own_loop is loop]


PROCESS_LIMIT: Final = DescriptorLimit()
"""The room of this process."""
