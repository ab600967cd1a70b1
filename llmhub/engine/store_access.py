"""Access of one call or run to the open store, as its cache mode permits."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmhub.cache.store import Store
from llmhub.engine.cache_middleware import CacheLookups
from llmhub.engine.write_ahead import WriteAheadLog


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAccess:
    """Access of one call or run to the open store.

    Parameters
    ----------
    store
        Where responses are looked up and written, restricted to the cache mode; ``None`` without a cache.
    write_ahead
        Where keys are claimed and requests recorded; in memory only if the mode does not write.
    not_before
        Responses to requests sent before this time (epoch seconds) are not used.
    strict
        Whether a failure of the store stops the call or run.
    lookups
        Batched look-ups for `cache_middleware`; ``None`` if the mode does not read.
    checked_keys
        Keys already looked up for every candidate of their route, so that the middleware need not look them up again.
    """

    store: Store | None = None
    write_ahead: WriteAheadLog | None = None
    not_before: float = 0.0
    strict: bool = False
    lookups: CacheLookups | None = None
    checked_keys: set[bytes] = field(default_factory=set)
