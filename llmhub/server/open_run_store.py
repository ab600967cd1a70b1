"""Choose where runs and batches of a service are kept: in a folder, or on the Redis server that replicas share."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from llmhub.cache.redis import RedisCache
from llmhub.cache.tiered import TieredCache
from llmhub.server.batch_folder import BatchFolder
from llmhub.server.batch_storage import BatchStore
from llmhub.server.run_store import FolderRunStore, RunStore

if TYPE_CHECKING:
    from llmhub.server.service import Service


class _Temporary:
    """Makes a store delete its folder when it is closed."""

    def __init__(self, folder: TemporaryDirectory[str]) -> None:
        super().__init__(Path(folder.name))  # type: ignore[call-arg] # of the store
        self._temporary = folder

    def close(self) -> None:
        """Close the store, and delete the folder."""
        super().close()  # type: ignore[misc] # of the store
        self._temporary.cleanup()


class _TemporaryRunStore(_Temporary, FolderRunStore):
    """Runs that end with the service."""


class _TemporaryBatchFolder(_Temporary, BatchFolder):
    """Files and batches that end with the service."""


def open_run_store(service: Service) -> RunStore:
    """Return where the runs of a service are kept: the configured folder, a Redis cache, or a folder beside the cache.

    Without any they end with the service. It blocks.
    """
    configured = service.settings.runs.folder
    server = None if configured else redis_behind(service.hub.cache)
    if server is not None:
        from llmhub.server.redis_run_store import RedisRunStore  # noqa: PLC0415 - where there is a server

        return RedisRunStore(server)
    folder = service.kept_folder(configured, "runs")
    return (
        FolderRunStore(folder) if folder is not None else _TemporaryRunStore(TemporaryDirectory(prefix="llmhub-runs-"))
    )


def open_batch_store(service: Service) -> BatchStore:
    """Return where files and batches are kept: the configured folder, a Redis cache, or a folder beside the cache.

    Without any they end with the service. It blocks.
    """
    settings = service.settings.batches
    server = None if settings.folder else redis_behind(service.hub.cache)
    if server is not None:
        from llmhub.server.redis_batch_store import RedisBatchStore  # noqa: PLC0415 - where there is a server

        return RedisBatchStore(server, settings.max_redis_bytes)
    folder = service.kept_folder(settings.folder, "batches")
    if folder is not None:
        return BatchFolder(folder)
    return _TemporaryBatchFolder(TemporaryDirectory(prefix="llmhub-batches-"))


def redis_behind(cache: object) -> RedisCache | None:
    """Return the Redis cache that a cache is, or shares responses by."""
    while isinstance(cache, TieredCache):
        cache = cache.far
    return cache if isinstance(cache, RedisCache) else None
