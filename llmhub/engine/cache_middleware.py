"""Answer a routed call from the cache with the stored response of any candidate of its route.

A run looks up its rows in blocks, for every candidate, before it sends anything (`llmhub.engine.fan_out`). This
middleware covers what changes afterwards: calls that a user's middleware has replaced or redirected, and responses that
have been stored since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from typing import Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.cache.store import Store, StoreError
from llmhub.core.protocol import JSON_ENCODING_ERRORS
from llmhub.core.serialization import StoredResponse, unpack
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.row_outcome import RowOutcome, from_stored, to_stored

CandidateKeys: TypeAlias = Callable[[Call], Sequence[tuple[Target, bytes]]]
"""Returns the targets that may answer a call, each with the key of the request as sent to it."""


class CacheLookups:
    """Batched look-ups in a store: keys requested in the same iteration of the event loop are fetched together.

    Parameters
    ----------
    store
        The store.
    recent
        Returns an outcome that may not have been written to the store yet.
    already_checked
        Keys of requests that the run has looked up at every candidate; they are not looked up again.
    """

    def __init__(
        self,
        store: Store,
        recent: Callable[[bytes], RowOutcome | None] = lambda _: None,
        already_checked: Container[bytes] = frozenset(),
    ) -> None:
        self._store = store
        self.recent = recent
        self.already_checked = already_checked
        self._requested: dict[bytes, None] = {}
        self._fetching: asyncio.Task[Mapping[bytes, bytes]] | None = None

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the stored values of ``keys``; empty if the store fails, since the call can be sent instead."""
        self._requested.update(dict.fromkeys(keys))
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return await asyncio.shield(self._fetching)

    async def _fetch(self) -> Mapping[bytes, bytes]:
        await asyncio.sleep(0)
        keys, self._requested, self._fetching = self._requested, {}, None
        try:
            return await run_in_thread(self._store.get_many, list(keys))
        except StoreError:
            return {}


CACHE_LOOKUPS: Final[ContextVar[CacheLookups | None]] = ContextVar("llmhub_lookups", default=None)
"""The look-ups of the call or run that the current task works for; ``None`` where its cache mode does not read."""


def cache_middleware(candidate_keys: CandidateKeys) -> Middleware:
    """Return the middleware that answers with the first stored response, in the order of ``candidate_keys``."""

    def wrap(send: Send) -> Send:
        def send_or_look_up(call: Call) -> Awaitable[Answer]:
            lookups = CACHE_LOOKUPS.get()
            return send(call) if lookups is None else look_up(call, lookups)

        async def look_up(call: Call, lookups: CacheLookups) -> Answer:
            try:
                pairs = [(target, key) for target, key in candidate_keys(call) if key != call.key]
            except JSON_ENCODING_ERRORS:
                pairs = []  # the call fails further on, with a message that names the field
            checked = call.key is not None and call.key in lookups.already_checked
            values = await lookups.get([key for _, key in pairs]) if pairs and not checked else {}
            for target, key in pairs:
                found = lookups.recent(key) or _decode_stored(values.get(key), key)
                if found is not None:
                    stored = to_stored(found) if isinstance(found, Answer) else found
                    requested = call.requested_target
                    is_requested = requested is not None and requested.name == target.name
                    return from_stored(stored, None if is_requested else target, key)
            return await send(call)

        return send_or_look_up

    return wrap


def _decode_stored(value: bytes | None, key: bytes) -> StoredResponse | None:
    """Return the stored response, or ``None`` if there is none or it is damaged."""
    stored = unpack(value, key) if value is not None else None
    return stored.unwrap() if stored is not None and is_successful(stored) else None
