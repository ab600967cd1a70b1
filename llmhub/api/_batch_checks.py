"""Checks of a run over rows that is to be sent in batches, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmhub.api.options import RunOptions
from llmhub.api.raising import raise_if_error
from llmhub.cache.modes import resolve_mode
from llmhub.core.errors import invalid
from llmhub.engine.call import Target
from llmhub.hub import Hub


def refuse_batches(options: Any, argument: str) -> None:
    """Raise for ``mode="batch"`` together with an argument that sends rows piecemeal."""
    if options.get("mode", "live") != "live":
        raise invalid(argument, "is not possible with mode='batch', which sends all rows together; omit it")


def require_batches(
    hub: Hub, options: RunOptions, targets: Iterable[Target], *, embeds: bool = False, dry_run: bool = False
) -> None:
    """Raise unless these models can be sent batches, of texts to embed if ``embeds``, and the hub can remember them."""
    for target in targets:
        if len(hub.targets(target.name, allow_unconfigured=dry_run)) > 1:
            raise invalid("mode", f"{target.name!r} is a route, and a batch is for one model; name the model")
        _require_batch_api(target, options, embeds=embeds, dry_run=dry_run)
    if hub.middleware:
        raise invalid("mode", "the middleware of this hub does not see rows of batches; pass mode='live'")
    if dry_run:
        return
    store = hub.runtime.store
    if not resolve_mode(options.cache, hub.runtime.cache_mode).writes:
        raise invalid("cache", "batches are remembered in the cache; pass a cache mode that writes, such as read-write")
    if store is None or store.ledger is None or store.ledger.batches is None:
        remedy = "pass Hub(cache=DiskCache(...)), or TieredCache(DiskCache(...), far)"
        raise invalid("mode", f"batches are remembered in a cache with a ledger, so that none is sent twice; {remedy}")


def _require_batch_api(target: Target, options: RunOptions, *, embeds: bool, dry_run: bool) -> None:
    """Raise unless a provider has a Batch API, and the call what that needs; a plan needs no storage."""
    name, api = target.provider.name, target.provider.batch
    if api is None:
        raise invalid("mode", f"{name} has no Batch API that llmhub knows; pass mode='live'")
    if embeds and api.embed_wire is None:
        raise invalid("mode", f"{name} has no batches of embeddings that llmhub knows; pass mode='live'")
    if dry_run:
        return
    storage = options.batch_storage or ""
    if api.needs_storage and not (storage.startswith(api.needs_storage) and len(storage) > len(api.needs_storage)):
        wanted = f"batch_storage='{api.needs_storage}bucket/folder'"
        raise invalid("batch_storage", f"{name} reads batches from object storage; pass {wanted}")
    if api.needs_role and not options.batch_role:
        raise invalid("batch_role", f"{name} needs the ARN of a role that may read and write the storage")
    raise_if_error(api.check(target.endpoint))
