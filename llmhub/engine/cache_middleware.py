"""Answers that were given before, looked up on the way: for questions that more than one may answer.

A run looks up by the thousand what it is about to ask (`llmhub.engine.fan_out`), by everybody who may answer it. What is
looked up here is what a middleware made of that, or put to somebody else, and what was answered since.
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
"""Who may answer a call, and the key of the question as it would be put to each."""


class CacheLookups:
    """Looks keys up in a store beside the loop: those that are wanted in one turn of it, together.

    Parameters
    ----------
    store
        Where.
    recent
        Gives what was answered just now, and may not be filed yet.
    looked
        Keys of questions that the run has looked up already, by everybody who may answer them.
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
        self._wanted: dict[bytes, None] = {}
        self._next: asyncio.Task[Mapping[bytes, bytes]] | None = None

    async def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Give what is there; nothing where the store fails, since it can be done without."""
        self._wanted.update(dict.fromkeys(keys))
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._fetch())
        return await asyncio.shield(self._next)

    async def _fetch(self) -> Mapping[bytes, bytes]:
        await asyncio.sleep(0)
        wanted, self._wanted, self._next = self._wanted, {}, None
        try:
            return await run_in_thread(self._store.get_many, list(wanted))
        except StoreError:
            return {}


CACHE_LOOKUPS: Final[ContextVar[CacheLookups | None]] = ContextVar("llmhub_lookups", default=None)
"""Where the run looks up that a call belongs to, if it may."""


def _decode_stored(value: bytes | None, key: bytes) -> StoredResponse | None:
    """Read a value, if there is one and it is whole."""
    kept = unpack(value, key) if value is not None else None
    return kept.unwrap() if kept is not None and is_successful(kept) else None


def cache_middleware(candidates: CandidateKeys) -> Middleware:
    """Make the middleware that answers with what any candidate answered before, in the order of `candidates`."""

    def wrap(send: Send) -> Send:
        def sending(call: Call) -> Awaitable[Answer]:
            lookups = CACHE_LOOKUPS.get()
            return send(call) if lookups is None else asking(call, lookups)

        async def asking(call: Call, lookups: CacheLookups) -> Answer:
            try:
                pairs = [(target, key) for target, key in candidates(call) if key != call.key]
            except JSON_ENCODING_ERRORS:
                pairs = []  # what cannot be keyed is refused further on, by name
            looked = call.key is not None and call.key in lookups.already_checked
            found = await lookups.get([key for _, key in pairs]) if pairs and not looked else {}
            for target, key in pairs:
                kept = lookups.recent(key) or _decode_stored(found.get(key), key)
                if kept is not None:
                    who = (
                        None
                        if call.requested_target is not None and call.requested_target.name == target.name
                        else target
                    )
                    return from_stored(to_stored(kept) if isinstance(kept, Answer) else kept, who, key)
            return await send(call)

        return sending

    return wrap
