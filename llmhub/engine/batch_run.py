"""Runs through providers' Batch APIs: rows are looked up, put into batches, polled for, and stored when answered.

What makes a run safe to repeat, whatever moment it dies at:

- A key is in the ledger's batch before it is sent, and in one batch only. Repeating a run finds it there and waits.
- The intent to create a batch is recorded before the request, with a token that the provider returns. A process that
  finds an intent whose owner is dead lists the provider's batches: it adopts the one with the token, or else knows that
  nothing was sent.
- Answers are stored under the keys of single requests before their batch is marked as collected.

The file is long because the states of a batch are one concept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from returns.pipeline import is_successful
from returns.result import Failure

from llmhub.cache.store import (
    BatchLedger,
    BatchRecord,
    ClaimRequest,
    StoreError,
)
from llmhub.core.batch import BatchRow, BatchStatus, LateReason
from llmhub.core.budget import BudgetDecision, check_budget, reserve
from llmhub.core.errors import (
    TRANSIENT,
    BudgetExceeded,
    Cancelled,
    InvalidRequest,
    LLMError,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
)
from llmhub.core.pricing import compute_cost_nano_usd
from llmhub.core.provider import public_url
from llmhub.core.types import CompletionResponse
from llmhub.engine.batch_client import BatchClient, RowFile, is_refusal
from llmhub.engine.batch_policy import BatchPolicy
from llmhub.engine.batch_results import EMBEDS, BatchCollector, DecodedRows, counted_keys, finish_if_stored
from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal, run_in_thread
from llmhub.engine.fan_out import ItemPlanner, run_fan_out
from llmhub.engine.fan_out_types import FanOutResult, FanOutSpec, Sender
from llmhub.engine.open_batch import (
    BUILD_ROWS,
    EncodedRow,
    OpenBatch,
    WaitingRow,
    WaitingRows,
    encode_rows,
    even_rows,
)
from llmhub.engine.progress import ProgressReporter, ProgressTracker, RunSnapshot
from llmhub.engine.result_collector import ResultCollector
from llmhub.engine.row_outcome import PENDING_CODE, RowOutcome, unpack_outcome
from llmhub.engine.spending import UNPRICED_MESSAGE, SharedBudget, TargetPrices, budget_error, max_cost_nano_usd
from llmhub.providers.batch_prices import batch_price

if TYPE_CHECKING:
    from llmhub.engine.client import Client
    from llmhub.engine.store_access import StoreAccess

MAX_POLL_S: Final = 300.0
POLL_GROWTH: Final = 1.5
MIN_PAUSE_S: Final = 0.001
SETTLE_S: Final = 10.0
"""Time after which a batch that a dead process was creating is in the provider's list, if it exists."""
MAX_BATCHES_PER_ROW: Final = 3
"""Batches that a row is sent in before it is an error."""
COLLECTING: Final = "collecting"
"""Name of the value of a record whose results have been begun to be stored."""


class BatchRegistry:
    """State that runs of one client share: locks of batches, and reservations of rows that are in batches."""

    def __init__(self) -> None:
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.reserved: dict[bytes, tuple[tuple[SharedBudget, ...], int]] = {}

    def settle(self, key: bytes, budgets: tuple[SharedBudget, ...], cost: int) -> None:
        """Release the reservation of a row and book its cost; a row reserved elsewhere is only booked."""
        own, max_cost = self.reserved.pop(key, (budgets, 0))
        for budget in own:
            budget.reconcile(max_cost, cost)


def claim_key(token: str) -> bytes:
    """Return the key under which a batch is claimed across processes while it is created or collected."""
    return hashlib.sha256(b"batch " + token.encode()).digest()


class BatchRun:
    """One run through Batch APIs. Everything happens on one event loop, apart from encoding, decoding and the store."""

    def __init__(
        self, spec: FanOutSpec, client: Client, access: StoreAccess, policy: BatchPolicy, stop: StopSignal
    ) -> None:
        from llmhub.engine.packed_answers import PackedAnswers  # noqa: PLC0415 - imports numpy

        store = client.store
        assert store is not None  # noqa: S101 - checked by `require_batches`
        assert store.ledger is not None  # noqa: S101 - as above
        assert store.ledger.batches is not None  # noqa: S101 - as above
        self._spec, self._client, self._access, self._policy, self._stop = spec, client, access, policy, stop
        self._store = store
        self._ledger: BatchLedger = store.ledger.batches
        self._registry = client.batches
        self._prices = TargetPrices(time.time)
        sink = spec.progress_sink
        self._reporter = (
            ProgressReporter(sink, ProgressTracker(spec.size, sink, time.time()), self._snapshot)
            if sink is not None
            else None
        )
        self.error: BaseException | None = None
        self._results = ResultCollector(spec, self._reporter, self._fail, PackedAnswers(spec.size))
        self._writer = CacheWriter(access, stop.request)
        self._planner = ItemPlanner(spec, access, None, self._writer, self._results)
        self._open: dict[str, OpenBatch] = {}
        self._filling: dict[str, OpenBatch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._live_lock = asyncio.Lock()
        self._placing = asyncio.Lock()
        self._storing = asyncio.Lock()
        self._reserved: set[bytes] = set()
        self._planned = False
        self._live_results: list[FanOutResult] = []
        self._max_rows: dict[str, int] = {}
        self._store_problem = ""
        self._started = time.perf_counter()
        self._finished = False

    async def run(self) -> FanOutResult:  # noqa: C901 - everything that has to be closed, whatever happens
        """Answer every item, and return the outcomes; rows that are left in batches are pending."""
        loop = asyncio.get_running_loop()
        listener = partial(loop.call_soon_threadsafe, self._wake.set)
        remove = [self._stop.add_listener(listener), self._policy.cancel.add_listener(listener)]
        log, reporter = self._access.write_ahead, self._reporter
        reporting = asyncio.create_task(reporter.run()) if reporter is not None else None
        if log is not None:
            log.register_run(self._writer)
        try:
            await self._plan()
            while self._tasks:
                done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                self._tasks -= done
                for task in done:
                    if (error := task.exception()) is not None:
                        self._fail(error)
        except asyncio.CancelledError as error:
            self.error = self.error or error
        except Exception as error:  # noqa: BLE001 - raised with the outcomes so far
            self._fail(error)
        finally:
            for unsubscribe in remove:
                unsubscribe()
            if reporting is not None:
                reporting.cancel()
            await asyncio.shield(self._close())
        self._finished = True
        if reporter is not None:
            await reporter.finish()
        result = self._result()
        self._results.first_positions.clear()  # or else the keys of all rows stay until garbage is collected
        if result.error is not None:
            result.error.fan_out_result = result  # type: ignore[attr-defined]
            raise result.error
        return result

    async def attend(self, record: BatchRecord, target: Target) -> None:
        """Wait for one batch of the ledger and store its results."""
        self._open[record.token] = opened = self._found(record, target)
        self._planned = True
        self._start(self._attend_found(opened))
        await self.run()

    async def _close(self) -> None:
        """Stop all tasks, and settle what is left as pending or cancelled."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for opened in (*self._open.values(), *self._filling.values()):
            if opened.file is not None:
                opened.file.close()
                opened.file = None
            if opened.record.state == "draft":
                await self._discard(opened)
            for row, pending in self._pending_answers(opened, opened.rows):
                self._settle(row, pending)
        await self._writer.finish()
        if self._access.write_ahead is not None:
            await self._access.write_ahead.unregister_run(self._writer)
        try:
            await self._results.cancel_missing(await self._planner.remaining_chunks())
        except Exception as error:  # noqa: BLE001 - planning may be what failed
            self._fail(error)

    def _result(self) -> FanOutResult:
        live = self._live_results
        return FanOutResult(
            outcomes=self._results.outcomes,
            queue_s=self._results.queue_s,
            blocks=self._results.blocks,
            packed=self._results.packed,
            damaged_values=len(self._writer.damaged_keys),
            store_error=self._store_problem
            or self._writer.error
            or next((result.store_error for result in live if result.store_error), ""),
            stopped_by_store_failure=self._writer.aborted_run,
            progress_error=self._reporter.error if self._reporter is not None else "",
            ambiguous_count=sum(result.ambiguous_count for result in live),
            error=self.error,
        )

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        if not self._is_stopping():
            self._stop.request()

    def _is_stopping(self) -> bool:
        return self._stop.requested

    async def _pause(self, seconds: float) -> bool:
        """Wait; return early, and whether the run goes on, once a stop or a cancellation is requested."""
        if self._is_stopping():
            return False
        self._wake.clear()
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
        return not self._is_stopping()

    # Rows into batches

    async def _plan(self) -> None:
        """Look all rows up, and put those that are not in the store into batches."""
        while not self._is_stopping():
            planned = await self._planner.next_missing()
            if planned is None:
                break
            missing, _ = planned
            if self._reporter is not None:
                self._reporter.add_misses([item[0] for item in missing])
            for start in range(0, len(missing), BUILD_ROWS):
                async with self._placing:
                    await self._place([WaitingRow(item) for item in missing[start : start + BUILD_ROWS]])
        async with self._placing:
            self._planned = True
            self._submit_filled()
        await self._finish_stored()

    async def _finish_stored(self) -> None:
        """Mark batches as collected whose answers a process stored just before it died: nothing else looks for them."""
        for record in await run_in_thread(self._ledger.records):
            has_ended = record.state == "open" and record.ended_at > 0 and record.token not in self._open
            if has_ended and await self._claim(record.token):
                try:
                    await run_in_thread(finish_if_stored, self._ledger, self._store, record.token)
                finally:
                    await self._release_claim(record.token)

    async def _again(self, rows: Sequence[WaitingRow]) -> None:
        """Look rows up in the store once more, and place those that are not there."""
        async with self._placing:
            await self._place(await self._settle_stored(rows))
            self._submit_filled()

    async def _place(self, rows: Sequence[WaitingRow]) -> None:
        """Join rows that are in batches already; put the others into new batches. Call it while placing is locked."""
        if not rows:
            return
        found = await run_in_thread(self._ledger.find, [row.item[1] for row in rows])
        new: defaultdict[str, list[tuple[WaitingRow, Call]]] = defaultdict(list)
        for row in rows:
            _, key, make_call, prompt = row.item
            token = found.get(key)
            call = make_call(prompt, key)
            if token is not None:
                await self._join(token, row, call.target)
            else:
                new[call.target.name].append((row, call))
        for pairs in new.values():
            for start in range(0, len(pairs), BUILD_ROWS):
                await self._fill(pairs[start : start + BUILD_ROWS])

    async def _join(self, token: str, row: WaitingRow, target: Target) -> None:
        """Wait for a row that is in a batch of this or another process."""
        opened = self._open.get(token) or self._filling.get(token)
        if opened is None:
            record = await run_in_thread(self._ledger.get, token)
            if record is None:
                await self._place(await self._settle_stored([row]))
                return
            opened = self._open[token] = self._found(record, target)
            opened.rows.add(row)
            self._start(self._attend_found(opened))
        else:
            opened.rows.add(row)
        self._announce(opened, [row])

    async def _settle_stored(self, rows: Sequence[WaitingRow]) -> list[WaitingRow]:
        """Settle rows whose answers are in the store by now, and return the others."""
        keys = [row.item[1] for row in rows]
        values = await run_in_thread(self._store.get_many, keys)
        missing: list[WaitingRow] = []
        for row in rows:
            value = values.get(row.item[1])
            stored = unpack_outcome(value, row.item[1]) if value is not None else None
            if stored is not None and is_successful(stored):
                self._results.settle(row.item[0], stored.unwrap())
            else:
                missing.append(row)
        return missing

    async def _fill(self, pairs: Sequence[tuple[WaitingRow, Call]]) -> None:
        """Encode rows of one target, and add them to the batch being filled; begin another one where it is full."""
        pairs = self._without_unsupported(pairs)
        if not pairs:
            return
        target = pairs[0][1].target
        affordable: list[tuple[WaitingRow, Call]] = []
        for row, call in pairs:
            error = self._reserve(row, call)
            if error is None:
                affordable.append((row, call))
            else:
                self._settle(row, Answer(Failure(error)))
        while affordable:
            embeds = affordable[0][1].embedding is not None
            opened = self._filling.get(target.name) or await self._begin(target, embeds=embeds)
            encoded, failures = await run_in_thread(encode_rows, affordable, opened)
            for row, error in failures:
                self._release(row)
                self._settle(row, Answer(Failure(error)))
            if not encoded and not failures:  # the batch is full
                self._submit(target.name)
                continue
            await self._record_rows(opened, encoded)
            affordable = affordable[len(encoded) + len(failures) :]

    def _without_unsupported(self, pairs: Sequence[tuple[WaitingRow, Call]]) -> Sequence[tuple[WaitingRow, Call]]:
        """Refuse rows that batches of their provider cannot have, or send them by themselves; return the others."""
        api = pairs[0][1].target.provider.batch
        if api is None or api.check_request is None:
            return pairs
        errors = [api.check_request(call.request) for _, call in pairs]
        refused = [(row, error) for (row, _), error in zip(pairs, errors, strict=True) if error is not None]
        if self._policy.late == "live":
            if refused:
                self._start(self._send_live([row for row, _ in refused], batches=0))
        else:
            for row, error in refused:
                self._settle(row, Answer(Failure(error)))
        return [pair for pair, error in zip(pairs, errors, strict=True) if error is None]

    async def _record_rows(self, opened: OpenBatch, encoded: Sequence[EncodedRow]) -> None:
        """Record rows as rows of a batch, and write those that no other batch has and that are not answered by now."""
        keys = [row.key for row in encoded]
        taken = await run_in_thread(self._ledger.add_rows, opened.record.token, keys)
        # Another process may have collected a batch since this run looked the keys up.
        answered = await run_in_thread(self._store.get_many, [key for key in keys if key not in taken])
        if answered:
            await run_in_thread(self._ledger.remove_rows, opened.record.token, list(answered))
        new = [row for row in encoded if row.key not in taken and row.key not in answered]
        assert opened.file is not None  # noqa: S101 - it is being filled
        await run_in_thread(opened.file.add, [row.data for row in new])
        for row in new:
            opened.rows.add(row.row)
            opened.order.append(row.key)
            opened.tokens += row.tokens
        others = [row for row in encoded if row.key in taken or row.key in answered]
        for other in others:
            if other.key in self._reserved:
                self._release(other.row)
            if other.key in taken:
                await self._join(taken[other.key], other.row, opened.target)
        if answered:
            await self._place(await self._settle_stored([other.row for other in others if other.key in answered]))

    async def _begin(self, target: Target, *, embeds: bool) -> OpenBatch:
        """Begin a batch: record it as a draft, of which nothing is sent."""
        client = self._batch_client(target, embeds=embeds)
        values = {"cache_name": target.cache_name, **({EMBEDS: "1"} if embeds else {})}
        if client.api.needs_storage:
            values |= {"storage": self._policy.storage, "role": self._policy.role}
        record = BatchRecord(
            token=uuid.uuid4().hex,
            model=target.name,
            state="draft",
            base_url=public_url(client.base_url),  # the ledger holds no credential
            created_at=time.time(),
            run=self._spec.run_id,
            values=values,
        )
        await self._claim(record.token)
        await run_in_thread(self._ledger.put, record)
        opened = OpenBatch(
            record,
            target,
            client,
            WaitingRows(self._spec.make_again),
            file=RowFile(client.wire.separator),
            max_rows=self._max_rows.get(target.name) or even_rows(self._spec.size, client.limits),
            max_tokens=self._policy.max_tokens,
        )
        self._filling[target.name] = opened
        return opened

    def _submit_filled(self) -> None:
        """Submit what is being filled, once all rows of the run have been planned."""
        for name in list(self._filling) if self._planned else ():
            self._submit(name)

    def _submit(self, target_name: str) -> None:
        """Submit the batch being filled for a target."""
        opened = self._filling.pop(target_name)
        if not opened.rows:
            self._start(self._discard(opened))
            return
        if len(opened.rows) < opened.client.limits.min_rows:
            self._start(self._refuse_small(opened))
            return
        opened.record = opened.record._replace(rows=len(opened.order))
        self._open[opened.record.token] = opened
        self._start(self._attend_new(opened))

    async def _refuse_small(self, opened: OpenBatch) -> None:
        """Treat the rows of a batch that has fewer than its provider takes: another batch would not have more."""
        rows = opened.rows.take_all()
        await self._discard(opened)
        for row in rows:
            self._release(row)
        if self._policy.late == "live" and not self._is_stopping():
            await self._send_live(rows, batches=0)
            return
        provider, least = opened.target.provider.name, opened.client.limits.min_rows
        message = (
            f"a batch of {provider} takes {least:,} rows or more, and there are {len(rows):,}; late='live' sends them "
            "by themselves"
        )
        for row in rows:
            self._settle(row, Answer(Failure(InvalidRequest(provider=provider, message=message)), attempts=row.sent))

    def _start(self, work: Any) -> None:
        self._tasks.add(asyncio.get_running_loop().create_task(work))

    def _batch_client(self, target: Target, *, embeds: bool) -> BatchClient:
        return BatchClient(self._client.transport, self._client.credentials, target, self._pause, embeds)

    def _found(self, record: BatchRecord, target: Target) -> OpenBatch:
        client = self._batch_client(target, embeds=EMBEDS in record.values)
        return OpenBatch(record, target, client, WaitingRows(self._spec.make_again))

    # Budgets

    def _reserve(self, row: WaitingRow, call: Call) -> LLMError | None:
        """Reserve the maximum cost of a row, at the price of batches; return an error if it does not fit."""
        budgets = call.budgets or self._client.default_budgets
        if not budgets.shared:
            return None
        if row.item[1] in self._registry.reserved:  # by another run of this client, whose batch will have the row
            return None
        target = call.target
        full = self._prices.lookup(target)
        price = batch_price(target.provider.name, target.model, full) or full
        if price is None and not budgets.allow_unpriced:
            return BudgetExceeded(provider=target.provider.name, message=UNPRICED_MESSAGE)
        max_cost = max_cost_nano_usd(target, call.request, price) if price is not None else 0
        for shared in budgets.shared:
            if check_budget(shared.budget, max_cost) is not BudgetDecision.ALLOW:
                return budget_error(shared.budget, max_cost, call)
        for shared in budgets.shared:
            shared.budget = reserve(shared.budget, max_cost)
        self._registry.reserved[row.item[1]] = (budgets.shared, max_cost)
        self._reserved.add(row.item[1])
        return None

    def _release(self, row: WaitingRow) -> None:
        """Release the reservation of a row that was not sent, or cost nothing."""
        if row.item[1] in self._registry.reserved:
            self._registry.settle(row.item[1], (), 0)

    def _book(self, key: bytes, target: Target, answer: Answer) -> None:
        """Book the cost of an answer in the budgets."""
        own = self._registry.reserved.get(key)
        shared = own[0] if own is not None else self._client.default_budgets.shared
        if not shared:
            return
        cost = 0
        if is_successful(answer.outcome):
            cost = self._cost(target, answer.outcome.unwrap()) or (own[1] if own is not None else 0)
        self._registry.settle(key, shared, cost)

    def _cost(self, target: Target, response: CompletionResponse) -> int | None:
        full = self._prices.lookup(target, response.served_model)
        price = batch_price(target.provider.name, target.model, full) or full
        return compute_cost_nano_usd(replace(response.usage, service_tier=""), price)

    # Batches

    async def _attend_new(self, opened: OpenBatch) -> None:
        """Submit a batch and wait for it."""
        try:
            error = await self._create(opened)
        finally:
            await self._release_claim(opened.record.token)
        if error is not None:
            await self._on_refused(opened, error, {})
            return
        if opened.record.state == "open":
            self._close_file(opened)
            self._announce(opened)
            await self._wait_for(opened)

    async def _create(self, opened: OpenBatch) -> LLMError | None:
        """Take all steps of a submission; return an error if the provider refuses it."""
        steps = opened.client.wire.steps
        assert opened.file is not None  # noqa: S101 - it has been filled
        await self._save(opened, rows=len(opened.order))
        for step in steps[:-1]:
            sent = await opened.client.repeat_step(step, opened.batch, opened.file)
            if not is_successful(sent):
                return None if self._is_stopping() else sent.failure()
            await self._save(opened, values={**opened.record.values, **sent.unwrap()})
        backoff_s = self._policy.poll_s
        while not self._is_stopping() and not self._policy.cancel.requested:
            await self._save(opened, state="intent", intent_at=time.time())
            sent = await opened.client.send_step(steps[-1], opened.batch, opened.file)
            opened.refusal = "" if is_successful(sent) else str(sent.failure())
            if is_successful(sent):
                await self._save(opened, state="open", values={**opened.record.values, **sent.unwrap()})
                return None
            error = sent.failure()
            if not is_refusal(error):
                if await self._find(opened):
                    return None
                if self._is_stopping():
                    return None
            elif type(error) not in TRANSIENT:
                await self._save(opened, state="draft")
                return error
            await self._save(opened, state="draft")
            await self._pause(max(error.retry_after_s or 0.0, backoff_s))
            backoff_s = min(backoff_s * 2, MAX_POLL_S)
        return None

    async def _find(self, opened: OpenBatch) -> bool:
        """Look for a batch whose creation had no answer; return whether the provider has it. Repeats until known."""
        wire = opened.client.wire
        await self._pause(opened.record.intent_at + SETTLE_S - time.time())
        while not self._is_stopping():
            listed = await opened.client.listed(opened.batch, opened.record.intent_at)
            if is_successful(listed):
                break
            await self._pause(self._policy.poll_s)
        else:
            return False
        if wire.returns_token:
            found = [status for status in listed.unwrap() if status.token == opened.record.token]
            for extra in found[:-1]:  # the oldest one is kept
                duplicate = replace(opened.batch, values={**opened.record.values, "id": extra.id})
                if not extra.ended:
                    await opened.client.cancel(duplicate)
            candidates = found[-1:]
        else:
            candidates = await self._candidates(opened, listed.unwrap())
        if not candidates:
            return False
        values = {**opened.record.values, "id": candidates[-1].id}
        if not wire.returns_token:
            values["unconfirmed"] = "1"
        await self._save(opened, state="open", values=values)
        return True

    async def _candidates(self, opened: OpenBatch, listed: Sequence[BatchStatus]) -> list[BatchStatus]:
        """Return the batches that may be one of ours, where the provider has no field for a name of ours."""
        records = await run_in_thread(self._ledger.records)
        known = {record.values.get("id", "") for record in records}
        known.update(opened.record.values.get("foreign", "").split())
        since = opened.record.intent_at - CREATED_SLACK_S
        return [
            status
            for status in listed
            if status.id not in known and status.total == opened.record.rows and status.created_at >= since
        ]

    async def _attend_found(self, opened: OpenBatch) -> None:
        """Wait for a batch that another run began; take it over if its owner is dead."""
        token = opened.record.token
        while opened.record.state in {"draft", "intent"}:
            if self._is_stopping():
                return
            if await self._claim(token):
                try:
                    record = await run_in_thread(self._ledger.get, token)
                    if record is None:
                        await self._lose(opened)
                        return
                    opened.record = record
                    if record.state == "draft" or (record.state == "intent" and not await self._find(opened)):
                        if self._is_stopping():
                            return
                        await run_in_thread(self._ledger.remove, token)
                        await self._lose(opened)
                        return
                finally:
                    await self._release_claim(token)
            else:
                await self._pause(min(self._policy.poll_s, CLAIM_POLL_S))
                record = await run_in_thread(self._ledger.get, token)
                if record is None:
                    await self._lose(opened)
                    return
                opened.record = record
        if opened.record.state == "open":
            self._announce(opened)
            await self._wait_for(opened)
        else:
            await self._lose(opened)

    async def _lose(self, opened: OpenBatch) -> None:
        """Place the rows of a batch that no longer exists again; some may have been answered."""
        self._open.pop(opened.record.token, None)
        rows = opened.rows.take_all()
        await self._again(rows)

    async def _discard(self, opened: OpenBatch) -> None:
        """Delete a draft, of which nothing was sent."""
        self._close_file(opened)
        await run_in_thread(self._ledger.remove, opened.record.token)
        await self._release_claim(opened.record.token)
        for row in opened.rows:
            self._release(row)

    async def _wait_for(self, opened: OpenBatch) -> None:
        """Poll a batch until it has ended, and collect it."""
        interval_s = self._policy.poll_s
        while not self._is_stopping():
            if self._policy.cancel.requested and not opened.cancelled:
                opened.cancelled = True
                await opened.client.cancel(opened.batch)
            polled = await opened.client.status(opened.batch)
            opened.refusal = "" if is_successful(polled) else str(polled.failure())
            if is_successful(polled):
                status = polled.unwrap()
                await self._note(opened, status)
                if status.ended:
                    await self._collect(opened, status)
                    return
                if self._is_overdue(opened):
                    if self._policy.late == "wait":
                        return
                    opened.cancelled = True
                    await opened.client.cancel(opened.batch)
                    interval_s = self._policy.poll_s
            elif type(error := polled.failure()) in TRANSIENT:
                interval_s = min(max(interval_s * 2, error.retry_after_s or 0.0), max(MAX_POLL_S, interval_s))
                interval_s = max(interval_s, error.retry_after_s or 0.0)
            else:
                await self._on_gone(opened, error)
                return
            await self._pause(min(interval_s, max(self._overdue_in(opened), MIN_PAUSE_S)))
            if opened.cancelled or self._policy.cancel.requested:
                interval_s = self._policy.poll_s
            else:
                interval_s = min(interval_s * POLL_GROWTH, max(MAX_POLL_S, self._policy.poll_s))

    def _is_overdue(self, opened: OpenBatch) -> bool:
        return self._overdue_in(opened) <= 0

    def _overdue_in(self, opened: OpenBatch) -> float:
        """Return the seconds until the rows of a batch are late."""
        deadline_s = self._policy.deadline_s
        since = opened.record.intent_at or opened.record.created_at
        return inf if deadline_s is None or opened.cancelled else since + deadline_s - time.time()

    async def _note(self, opened: OpenBatch, status: BatchStatus) -> None:
        """Record the counts of a batch, where they changed."""
        record = opened.record
        ended_at = (record.ended_at or time.time()) if status.ended else 0.0
        noted = (record.label, record.succeeded, record.failed, record.ended_at)
        if noted != (status.label, status.succeeded, status.failed, ended_at):
            counts = {"succeeded": status.succeeded, "failed": status.failed}
            await self._save(opened, label=status.label, ended_at=ended_at, **counts)

    async def _collect(self, opened: OpenBatch, status: BatchStatus) -> None:
        """Store the results of a batch that has ended, settle its rows, and treat those without a result as late."""
        token = opened.record.token
        while not await self._claim(token):
            if not await self._pause(min(self._policy.poll_s, CLAIM_POLL_S)):
                return
        try:
            record = await run_in_thread(self._ledger.get, token)
            if record is None or record.state != "open":
                await self._lose(opened)
                return
            if status.error is not None:
                await self._finish(record._replace(state="failed", ended_at=time.time()))
                opened.record = record._replace(state="failed")
                await self._on_refused(opened, status.error, status.bad_rows)
                return
            position_of, seen = self._results.first_positions.get, bytearray(self._spec.size)
            collector = BatchCollector(opened.target, opened.record, self._store, opened.rows, position_of, seen)
            if COLLECTING in record.values:
                collector.counted = await run_in_thread(counted_keys, self._store, record)
            else:
                await self._save(opened, values={**opened.record.values, COLLECTING: "1"})
            late = await self._read(opened, status, collector)
            if late is None:
                return
            if record.values.get("unconfirmed") and not collector.is_confirmed:
                for row, _ in late:
                    opened.rows.add(row)
                await self._on_foreign(opened)
                return
            ended = opened.record._replace(state="collected", ended_at=time.time())
            await self._finish(ended)
            opened.record = ended
        finally:
            await self._release_claim(token)
        self._open.pop(token, None)
        self._ended.set()
        await self._on_late(opened, late)

    async def _finish(self, record: BatchRecord) -> None:
        """Close a batch, and release rows without an answer that no run waits for."""
        for key in await run_in_thread(self._ledger.rows, record.token) if self._registry.reserved else ():
            if key in self._registry.reserved:
                self._registry.settle(key, (), 0)
        await run_in_thread(self._ledger.finish, record)

    async def _read(  # noqa: C901 - one case for each fate of a row
        self, opened: OpenBatch, status: BatchStatus, collector: BatchCollector
    ) -> list[tuple[WaitingRow, LateReason | Answer]] | None:
        """Read the results; return the rows that are late, or ``None`` if the results could not be read or stored."""
        late: list[tuple[WaitingRow, LateReason | Answer]] = []

        storing: list[Awaitable[DecodedRows]] = []

        async def on_rows(decode: Callable[[], list[BatchRow]]) -> None:
            # Rows are stored while the next ones are decoded: SQLite leaves the interpreter to other threads.
            decoded = await run_in_thread(collector.decode, decode)
            await on_stored()
            storing.append(asyncio.create_task(self._store_rows(collector, decoded)))

        async def on_stored() -> None:
            ready: list[tuple[int, bytes, Answer]] = []
            for filed in (await storing.pop()).filed if storing else ():
                row = opened.rows.pop(filed.key)
                if filed.answer is not None:
                    self._book(filed.key, opened.target, filed.answer)
                    if row is not None and not self._is_late(filed.answer):
                        answer = filed.answer if not row.sent else replace(filed.answer, attempts=row.sent + 1)
                        if filed.value is None:
                            self._settle(row, answer)
                        elif not self._results.is_settled(row.item[0]):
                            ready.append((row.item[0], filed.value, answer))
                    elif row is not None:
                        late.append((row, filed.answer))
                elif row is not None:
                    self._release(row)
                    late.append((row, filed.late or "missing"))
            if ready:
                self._results.settle_packed(*zip(*ready, strict=True))

        try:
            try:
                read = await opened.client.read_rows(opened.batch, status.files, on_rows)
            finally:
                await asyncio.shield(on_stored())
        except StoreError as error:
            self._store_problem = f"results of a batch could not be stored: {error}; the same call collects them again"
            if self._access.write_ahead is not None:
                self._access.write_ahead.fail(error)
            return None
        if not is_successful(read):
            if self._is_stopping():
                return None
            await self._on_gone(opened, read.failure())
            return None
        reason: LateReason = "expired" if status.label.startswith(("expired", "timeout")) else "missing"
        reason = "cancelled" if opened.cancelled or status.label.startswith("cancel") else reason
        for row in opened.rows.take_all():
            self._release(row)
            late.append((row, reason))
        return late

    async def _store_rows(self, collector: BatchCollector, decoded: DecodedRows) -> DecodedRows:
        """Store some rows of one batch at a time: batches that write at once would wait for each other's locks."""
        async with self._storing:
            return await run_in_thread(collector.store_rows, decoded)

    def _is_late(self, answer: Answer) -> bool:
        """Return whether a failed row may succeed when it is sent again, and is to be."""
        return (
            self._policy.late != "error"
            and not is_successful(answer.outcome)
            and type(answer.outcome.failure()) in TRANSIENT
        )

    async def _on_foreign(self, opened: OpenBatch) -> None:
        """Go on without a batch that turned out not to be ours; our rows were never sent."""
        record = opened.record
        foreign = f"{record.values.get('foreign', '')} {record.values.get('id', '')}".strip()
        values = {name: value for name, value in record.values.items() if name not in {"id", "unconfirmed"}}
        await self._save(opened, state="intent", values={**values, "foreign": foreign})
        if await self._find(opened):
            self._start(self._wait_for(opened))
            return
        await run_in_thread(self._ledger.remove, record.token)
        await self._lose(opened)

    async def _on_gone(self, opened: OpenBatch, error: LLMError) -> None:
        """Fail the rows of a batch that cannot be read any more, and close it if the provider does not have it."""
        if error.status == 404:  # noqa: PLR2004 - the batch or its results were deleted
            await self._finish(opened.record._replace(state="failed", ended_at=time.time()))
        self._open.pop(opened.record.token, None)
        for row in opened.rows.take_all():
            self._release(row)
            self._settle(row, Answer(Failure(error), attempts=row.sent + 1, mode="batch"))

    async def _on_refused(self, opened: OpenBatch, error: LLMError, bad_rows: Mapping[int, str]) -> None:
        """Treat the rows of a batch that the provider refused as a whole, which costs nothing."""
        self._open.pop(opened.record.token, None)
        if opened.record.state == "draft":
            await run_in_thread(self._ledger.remove, opened.record.token)
        self._close_file(opened)
        for number, message in bad_rows.items():
            key = opened.order[number - 1] if 0 < number <= len(opened.order) else None
            row = opened.rows.pop(key) if key is not None else None
            if row is not None:
                self._release(row)
                refused = InvalidRequest(provider=opened.target.provider.name, message=message)
                self._settle(row, Answer(Failure(refused), attempts=row.sent + 1, mode="batch"))
        rows = opened.rows.take_all()
        for row in rows:
            self._release(row)
        answer = Answer(Failure(replace(error, provider=opened.target.provider.name)), mode="batch")
        if isinstance(error, RateLimited) and await self._make_room(opened):
            await self._again(rows)
        elif bad_rows and not isinstance(error, QuotaExhausted):
            await self._again([row._replace(sent=row.sent + 1) for row in rows])
        else:
            await self._on_late(opened, [(row, answer) for row in rows])

    async def _make_room(self, opened: OpenBatch) -> bool:
        """Wait until another batch has ended, because too many tokens are enqueued; without another, halve the batch.

        Return whether sending it again may help.
        """
        name = opened.target.provider.name
        others = [other for other in self._open.values() if other.target.provider.name == name]
        if not others:
            self._max_rows[opened.target.name] = max(1, len(opened.order) // 2)
            return len(opened.order) > 1 and not self._is_stopping()
        self._ended.clear()
        while not self._is_stopping() and not self._ended.is_set():
            await self._pause(min(self._policy.poll_s, CLAIM_POLL_S))
            if not any(other in self._open.values() for other in others):
                break
        return not self._is_stopping()

    # Late rows

    async def _on_late(self, opened: OpenBatch, late: Sequence[tuple[WaitingRow, LateReason | Answer]]) -> None:
        """Send late rows again, in a batch or by themselves, or settle them as errors."""
        policy = self._policy
        again: list[WaitingRow] = []
        live: list[WaitingRow] = []
        for row, reason in late:
            was_cancelled = reason == "cancelled" and policy.cancel.requested
            is_final = isinstance(reason, Answer) and isinstance(reason.outcome.failure(), QuotaExhausted)
            if policy.late == "live" and not was_cancelled and not is_final and not self._is_stopping():
                live.append(row)
            elif policy.late == "wait" and not was_cancelled and not is_final and row.sent + 1 < MAX_BATCHES_PER_ROW:
                again.append(row._replace(sent=row.sent + 1))
            else:
                self._settle(row, self._late_answer(opened, row, reason))
        if live:
            await self._send_live(live)
        if again:
            if not any(isinstance(reason, str) for _, reason in late):
                await self._pause(policy.poll_s)  # every one of them failed
            await self._again(again)

    def _late_answer(self, opened: OpenBatch, row: WaitingRow, reason: LateReason | Answer) -> Answer:
        """Return the outcome of a row that is not sent again."""
        if isinstance(reason, Answer):
            return replace(reason, attempts=row.sent + 1)
        provider, name = opened.target.provider.name, opened.batch.id
        if reason == "cancelled" and self._policy.cancel.requested:
            error: LLMError = Cancelled(provider=provider, message=f"batch {name} was cancelled before this row")
        elif reason == "missing":
            error = ServerError(provider=provider, message=f"batch {name} has no result for this row")
        else:
            error = TimedOut(
                provider=provider,
                message=f"batch {name} did not process this row in time; late='live' sends such rows by themselves",
            )
        return Answer(Failure(error), attempts=row.sent + 1, mode="batch")

    async def _send_live(self, rows: Sequence[WaitingRow], batches: int = 1) -> None:
        """Send rows by themselves, through the ordinary engine and within the budget.

        ``batches`` is in how many batches they were sent since they were placed.
        """
        sent_before = {row.item[0]: row.sent + batches for row in rows}
        spec = replace(
            self._spec,
            chunks=iter([[row.item for row in rows]]),
            progress_sink=None,
            on_result=None,
            on_stored=None,
        )
        client = self._client
        sender = Sender(
            send=client.send_uncached,
            in_flight=client.transport.in_flight,
            access=self._access,
            blocked_by=client.rate_limiter.wait_reason,
        )
        async with self._live_lock:
            result = await run_fan_out(spec, sender, self._stop)
        self._live_results.append(result)
        for position, before in sent_before.items():
            outcome = result.outcomes[position]
            if isinstance(outcome, Answer):
                outcome = replace(outcome, attempts=outcome.attempts + before)
            if outcome is not None:
                self._results.settle(position, outcome)

    # Outcomes

    def _settle(self, row: WaitingRow, outcome: RowOutcome) -> None:
        if not self._results.is_settled(row.item[0]):
            self._results.settle(row.item[0], outcome)

    def _announce(self, opened: OpenBatch, rows: Iterable[WaitingRow] | None = None) -> None:
        """Report rows that are in a batch, or all of them, as pending."""
        if self._spec.on_result is not None:
            for row, pending in self._pending_answers(opened, opened.rows if rows is None else rows):
                self._spec.on_result((row.item[0], pending, 0.0))

    def _pending_answers(self, opened: OpenBatch, rows: Iterable[WaitingRow]) -> Iterator[tuple[WaitingRow, Answer]]:
        """Yield rows that are left in a batch with their outcomes; rows that were sent equally often share one."""
        answers: dict[int, Answer] = {}
        for row in rows:
            if row.sent not in answers:
                answers[row.sent] = self._pending_answer(opened, row.sent)
            yield row, answers[row.sent]

    def _pending_answer(self, opened: OpenBatch, sent: int) -> Answer:
        """Return the outcome of a row left in a batch, or whose batch was not created, that was in ``sent`` others."""
        record = opened.record
        if record.state == "draft":
            refusal = f"; {opened.refusal}" if opened.refusal else ""
            return Answer(Failure(Cancelled(message=f"cancelled before the batch was sent{refusal}")))
        name = record.values.get("id") or "that is being created"
        message = f"in batch {name} at {opened.target.provider.name}; the same call again collects it"
        error = Cancelled(code=PENDING_CODE, message=message)
        started_at = record.intent_at or record.created_at
        return Answer(Failure(error), attempts=sent + 1, started_at=started_at, mode="batch")

    def _snapshot(self) -> RunSnapshot:
        opened = [each for each in self._open.values() if each.record.state in {"intent", "open"}]
        rows = sum(len(each.rows) for each in opened)
        done = sum(each.record.succeeded + each.record.failed for each in opened)
        total = sum(each.record.rows for each in opened)
        return RunSnapshot(
            elapsed_s=time.perf_counter() - self._started,
            in_flight=rows,
            started=rows,
            concurrency=max(rows, 1),
            finished=self._finished,
            stopping=self._is_stopping(),
            blocked_by=f"the provider, which has processed {done:,} of {total:,} rows" if opened else "",
            refused_by=next((each.refusal for each in self._open.values() if each.refusal), ""),
        )

    # The ledger

    async def _save(self, opened: OpenBatch, **changes: Any) -> None:
        opened.record = opened.record._replace(**changes)
        await run_in_thread(self._ledger.put, opened.record)

    async def _claim(self, token: str) -> bool:
        """Claim a batch, within this process and across processes; return whether it is ours."""
        lock = self._registry.locks[token]
        if lock.locked():
            return False
        await lock.acquire()
        claims = self._store.claims
        if claims is None:
            return True
        request = ClaimRequest(claim_key(token), self._spec.run_id or bytes(16))
        result = await run_in_thread(claims.claim, [request], True, False)
        if request.key in result.held_elsewhere:
            lock.release()
            return False
        return True

    async def _release_claim(self, token: str) -> None:
        lock = self._registry.locks.pop(token, None)
        if self._store.claims is not None:
            await run_in_thread(self._store.claims.release, [claim_key(token)])
        if lock is not None and lock.locked():
            lock.release()

    def _close_file(self, opened: OpenBatch) -> None:
        if opened.file is not None:
            opened.file.close()
            opened.file = None


CLAIM_POLL_S: Final = 1.0
"""Longest time between two attempts to take over a batch of another process."""
CREATED_SLACK_S: Final = 600.0
"""How much earlier than the intent a provider may say that a batch was created."""
