"""Batches that are passed on to the providers' own Batch APIs, at their price, by `llmhub.engine.batch_run`.

The rows are remembered in the ledger of the hub's cache, so that another process finds them in the provider's batches
and waits for them. What a row may cost is reserved in the budgets of its key before it is sent; the reservations of a
process that was killed count in full, and are not made again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from returns.pipeline import is_successful

from llmhub.core.cache_key import request_keyer, scoped_key
from llmhub.core.errors import ConnectorError, LLMError, Unsupported, to_exception
from llmhub.core.prepared import with_model
from llmhub.engine.batch_policy import BatchPolicy
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.fan_out_types import FanOutSpec, PlannedItem
from llmhub.engine.request_redaction import restore_answer
from llmhub.security.placeholders import Placeholders, redact_request
from llmhub.server.batch_reservations import BatchReservation, reserve_call
from llmhub.server.batch_rows import DIALECTS, parse_completion
from llmhub.server.batch_storage import BatchOwner
from llmhub.server.completion_routes import ServedCompletion
from llmhub.server.context import RequestContext
from llmhub.server.dialects.openai_batches import MODE_KEY, InputLine
from llmhub.server.service import Service

NO_LEDGER: Final = (
    "the Batch API of a provider needs a cache with a ledger, to remember what was sent; set server.cache to a file "
    "(sqlite:///runs.db)"
)
MODE_PATH: Final = f"$.metadata.{MODE_KEY}"
REMEDY: Final = f"leave {MODE_KEY} out of the batch's metadata"


def require_provider_batches(service: Service, path: str = MODE_PATH, remedy: str = REMEDY) -> None:
    """Raise unless the service can pass batches on.

    Raises
    ------
    UnsupportedError
        The hub has no ledger, or middleware that would not see the rows.
    """
    store = service.hub.runtime.store
    if store is None or store.ledger is None or store.ledger.batches is None:
        raise to_exception(Unsupported(path=path, message=f"{NO_LEDGER}, or {remedy}"))
    if service.hub.middleware:
        message = f"the middleware of this service does not see rows of a provider's batches; {remedy}"
        raise to_exception(Unsupported(path=path, message=message))


@dataclass(slots=True)
class ProviderRow:
    """A line on its way, and what was reserved for it in each budget of its key."""

    custom_id: str
    completion: ServedCompletion
    call: Call
    placeholders: Placeholders | None = None
    reservation: BatchReservation = field(default_factory=BatchReservation)

    def restore(self, answer: Answer) -> Answer:
        """Return the answer with the values in place of placeholders."""
        return answer if self.placeholders is None else restore_answer(answer, self.call.request, self.placeholders)


class ForwardedBatch:
    """The lines of one batch as rows of providers' batches. Use it on the engine's loop, except `chunks`."""

    def __init__(self, service: Service, context: RequestContext, owner: BatchOwner, *, is_reserved: bool) -> None:
        self.service = service
        self.context = context
        self.owner = owner
        self.is_reserved = is_reserved
        self.rows: dict[int, ProviderRow] = {}
        self.refused: list[tuple[str, LLMError]] = []
        self._loop = asyncio.get_running_loop()
        self._next = 0

    def spec(self, groups: Iterator[list[InputLine]], size: int, on_result: Any) -> FanOutSpec:
        """Return the work for the engine."""
        return FanOutSpec(
            size=size,
            chunks=self.chunks(groups),
            run_id=random.randbytes(16),  # noqa: S311 - an id, no secret
            on_result=on_result,
            draws_in_thread=True,
        )

    def policy(self, expires_at: float) -> BatchPolicy:
        """Return how the engine treats the provider's batches."""
        return BatchPolicy(
            deadline_s=max(expires_at - time.time(), 1.0), poll_s=self.service.settings.batches.provider_poll_s
        )

    def chunks(self, groups: Iterator[list[InputLine]]) -> Iterator[list[PlannedItem]]:
        """Yield the rows that may be sent; the others are noted as refused. It runs in a thread."""
        for group in groups:
            rows: list[ProviderRow] = []
            for line in group:
                try:
                    rows.append(self._row(line))
                except ConnectorError as error:
                    self.refused.append((line.custom_id, error.error))
            rows = asyncio.run_coroutine_threadsafe(self._reserve(rows), self._loop).result()
            items: list[PlannedItem] = []
            for row in rows:
                self.rows[self._next] = row
                assert row.call.key is not None  # noqa: S101 - set by `_row`
                items.append((self._next, row.call.key, _call_of, row))
                self._next += 1
            yield items

    def _row(self, line: InputLine) -> ProviderRow:
        dialect = DIALECTS.get(line.url)
        if dialect is None:
            raise to_exception(
                Unsupported(path="$.url", message="only completions are passed on to a provider's batches")
            )
        completion = parse_completion(self.service, self.context, dialect, line, self.owner)
        target = completion.target
        require_batch_api(self.service, target)
        request = with_model(completion.parsed.request, target.model)
        redactor, placeholders = self.service.hub.redactor, None
        if redactor is not None:
            request, placeholders = redact_request(request, redactor)
        key = request_keyer(target.provider, target.endpoint)(request, 0)
        scope = self.context.caller.cache_scope
        key = scoped_key(key, scope) if scope else key
        call = Call(target, request, key=key, requested_target=target, cache_scope=scope)
        return ProviderRow(line.custom_id, completion, call, placeholders)

    async def _reserve(self, rows: list[ProviderRow]) -> list[ProviderRow]:
        """Reserve what rows may cost in the budgets of their key; return those that fit."""
        own = self.context.caller.budgets
        if own is None:
            return rows
        admitted = []
        for row in rows:
            reserved = await reserve_call(self.service, own, row.call, is_reserved=self.is_reserved)
            if is_successful(reserved):
                row.reservation = reserved.unwrap()
                admitted.append(row)
            else:
                self.refused.append((row.custom_id, reserved.failure()))
        return admitted

    def release(self) -> None:
        """Release the reservations of rows without an answer."""
        for row in self.rows.values():
            row.reservation.settle(0)


def _call_of(row: ProviderRow, _key: bytes) -> Call:
    return row.call


def require_batch_api(service: Service, target: Target, path: str = "$.body.model", remedy: str = REMEDY) -> None:
    """Raise unless the service can send batches to a target.

    Raises
    ------
    UnsupportedError
        The provider has no Batch API that llmhub knows, or one that reads batches from object storage.
    """
    api, name = target.provider.batch, target.provider.name
    if api is None or len(service.hub.targets(target.name)) > 1:
        message = f"{target.name!r} has no Batch API that llmhub knows; {remedy}"
        raise to_exception(Unsupported(path=path, provider=name, message=message))
    if api.needs_storage or api.needs_role:
        message = f"{name} reads batches from object storage, which a service does not have; {remedy}"
        raise to_exception(Unsupported(path=path, provider=name, message=message))
