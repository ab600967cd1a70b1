"""Answers that were given before, looked up on the way: for questions that more than one may answer.

A run looks up by the thousand what it is about to ask (`llmhub.engine.run`), by everybody who may answer it. What is
looked up here is what a middleware made of that, or put to somebody else, and what was answered since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from typing import Final, TypeAlias

from returns.pipeline import is_successful

from llmhub.cache.store import Store, StoreError
from llmhub.core.codec import StoredResponse, unpack
from llmhub.core.provider import NO_JSON
from llmhub.engine.call import Answer, Call, Middleware, Send, Target
from llmhub.engine.loop import in_thread
from llmhub.engine.settled import Settled, kept_form, recalled

Candidates: TypeAlias = Callable[[Call], Sequence[tuple[Target, bytes]]]
"""Who may answer a call, and the key of the question as it would be put to each."""


class Lookups:
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
        recent: Callable[[bytes], Settled | None] = lambda _: None,
        looked: Container[bytes] = frozenset(),
    ) -> None:
        self._store = store
        self.recent = recent
        self.looked = looked
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
            return await in_thread(self._store.get_many, list(wanted))
        except StoreError:
            return {}


LOOKUPS: Final[ContextVar[Lookups | None]] = ContextVar("llmhub_lookups", default=None)
"""Where the run looks up that a call belongs to, if it may."""


def _read(value: bytes | None, key: bytes) -> StoredResponse | None:
    """Read a value, if there is one and it is whole."""
    kept = unpack(value, key) if value is not None else None
    return kept.unwrap() if kept is not None and is_successful(kept) else None


def cached(candidates: Candidates) -> Middleware:
    """Make the middleware that answers with what any candidate answered before, in the order of `candidates`."""

    def wrap(send: Send) -> Send:
        def sending(call: Call) -> Awaitable[Answer]:
            lookups = LOOKUPS.get()
            return send(call) if lookups is None else asking(call, lookups)

        async def asking(call: Call, lookups: Lookups) -> Answer:
            try:
                pairs = [(target, key) for target, key in candidates(call) if key != call.key]
            except NO_JSON:
                pairs = []  # what cannot be keyed is refused further on, by name
            looked = call.key is not None and call.key in lookups.looked
            found = await lookups.get([key for _, key in pairs]) if pairs and not looked else {}
            for target, key in pairs:
                kept = lookups.recent(key) or _read(found.get(key), key)
                if kept is not None:
                    who = None if call.asked is not None and call.asked.name == target.name else target
                    return recalled(kept_form(kept) if isinstance(kept, Answer) else kept, who, key)
            return await send(call)

        return sending

    return wrap
