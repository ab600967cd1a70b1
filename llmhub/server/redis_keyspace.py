"""Keys of the parts of a service on a Redis server: their names, leases, and the content of files in pieces.

Keys begin with ``namespace!part:``. A lease that is not renewed expires, and a process that has lost it cannot write
any more. The lease of a process of the same host is seen to be over as soon as that process has ended.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from llmhub.cache.redis import (
    EXTEND_SCRIPT,
    RELEASE_SCRIPT,
    ClientFactory,
    RedisCache,
    RedisClient,
    is_dead,
    make_token,
)
from llmhub.cache.store import StoreError

PIECE_BYTES: Final = 4 << 20
"""Size of a piece of a file."""
UPLOAD_TTL_S: Final = 3600
"""Lifetime of what is written of something that is not created in the end."""


class RedisLease:
    """The lease of the process that executes a run or a batch."""

    def __init__(self, client: ClientFactory, name: bytes, token: bytes, lease_ms: int) -> None:
        self.name = name
        self.token = token
        self._client = client
        self._lease_ms = lease_ms

    def renew(self) -> bool:
        """Keep the lease for another while; return whether it is still held."""
        with self._client() as client:
            return not client.eval(EXTEND_SCRIPT, 1, self.name, self.token, self._lease_ms)

    def release(self) -> None:
        """Let another process execute the run or batch."""
        with suppress(StoreError), self._client() as client:  # else it expires
            client.eval(RELEASE_SCRIPT, 1, self.name, self.token)


class RedisKeyspace:
    """The keys of one part of a service, and a folder of this machine for local copies of files.

    Functions block, and may be called from any thread.

    Parameters
    ----------
    cache
        The server, the namespace, and the lifetime of leases.
    part
        Name of the part.
    """

    def __init__(self, cache: RedisCache, part: str) -> None:
        self.cache = cache
        self.part = part
        self._server = RedisClient(cache)
        self.client: ClientFactory = self._server.use
        self._prefix = f"{cache.namespace}!{part}:".encode()
        self._lease_ms = max(1, round(cache.lease_s * 1000))
        self._scratch = TemporaryDirectory(prefix=f"llmhub-{part}-")
        self.folder = Path(self._scratch.name)

    def name(self, kind: str, of: str = "") -> bytes:
        """Return the name of a key."""
        return self._prefix + (f"{kind}:{of}" if of else kind).encode()

    def use(self) -> AbstractContextManager[Any]:
        """Return a context with a client, in which failures of the server are a `StoreError`."""
        return self.client()

    def try_lease(self, of: str) -> RedisLease | None:
        """Return the lease of a run or batch; ``None`` if another process has it, or another service of this one."""
        name, token = self.name("lease", of), make_token()
        with self.use() as client:
            for _ in range(2):
                if client.set(name, token, nx=True, px=self._lease_ms):
                    return RedisLease(self.client, name, token, self._lease_ms)
                owner = client.get(name)
                if owner is None or not is_dead(owner):
                    return None
                client.eval(RELEASE_SCRIPT, 1, name, owner)
        return None

    def send_file(self, path: Path, name: bytes) -> None:
        """Send a file to the server, piece by piece; it expires unless the key is made persistent."""
        with path.open("rb") as file, self.use() as client:
            while piece := file.read(PIECE_BYTES):
                client.rpush(name, piece)
                client.expire(name, UPLOAD_TTL_S)

    def fetch_file(self, name: bytes, path: Path) -> bool:
        """Write the pieces of a file on the server to a path; return whether there are any."""
        partial = path.with_suffix(".partial")
        with self.use() as client:
            count = client.llen(name)
            if not count:
                return False
            with partial.open("wb") as file:
                for index in range(count):
                    file.write(client.lindex(name, index) or b"")
        partial.rename(path)
        return True

    def close(self) -> None:
        """Close the connections, and delete the folder."""
        self._server.close()
        self._scratch.cleanup()
