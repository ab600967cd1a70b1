"""Embeddings of many texts: look each up in the store, pack the missing ones into requests, and file every vector.

Texts are the unit of everything but the request: of cache keys, claims, errors and costs. A request is a pack of them,
bounded by their number and their estimated tokens. If a provider refuses a pack for one of its texts, the pack is
halved until that text stands alone: at most ``2 * log2(n)`` further requests, and one failed row.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_EVEN, Decimal
from functools import partial
from hashlib import sha256
from typing import Final

from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.cache.store import Entry
from llmhub.core.embedding import BYTES_PER_NUMBER, EmbeddingResponse, EmbedOptions, share_out
from llmhub.core.errors import ContentFiltered, ContextTooLong, InvalidRequest, LLMError, Malformed
from llmhub.core.pricing import NANO_DIGITS
from llmhub.core.provider import PackLimits
from llmhub.core.serialization import is_corrupt
from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import CompletionRequest, Message, Text, Usage
from llmhub.core.vector_serialization import pack_vector, unpack_vector
from llmhub.engine.batch_policy import BatchPolicy
from llmhub.engine.batch_run import BatchRun
from llmhub.engine.cache_writer import CacheWriter
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.client import Client
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import DRAIN_TIMEOUT_S, SWEEP_INTERVAL_S
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, PlannedItem
from llmhub.engine.hedging import OWNER_TASK
from llmhub.engine.progress import ProgressReporter, ProgressSink, ProgressTracker, RunSnapshot
from llmhub.engine.row_outcome import RowOutcome, aborted_outcome, as_answer, cancelled_outcome, from_stored_vector
from llmhub.engine.single_flight import RowCallbacks, SingleFlight
from llmhub.engine.spending import Budgets
from llmhub.engine.store_access import StoreAccess
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext

MAX_PACK_TEXTS: Final = 256
"""Texts of a request unless the caller wants more: larger packs take longer to come back, and are lost together."""
TOKEN_MARGIN: Final = 0.9
"""Share of a provider's limit that a pack may fill, since its tokens are estimated."""
SHRINK_FACTOR: Final = 0.8
"""After a pack that was too large as a whole, later ones have this share of its estimated tokens."""
SPLIT_ERRORS: Final = (ContextTooLong, InvalidRequest, ContentFiltered)
"""Errors of a pack that may be those of one of its texts."""
SAME_ERRORS: Final = 3
"""Single texts that must fail alike, before any text has succeeded, for the error to be one of every request."""

Item = tuple[int, bytes]
"""A text to be sent: its position and its key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSpec:
    """The work of a run of embeddings.

    Parameters
    ----------
    target
        The model.
    texts, keys
        Distinct texts that can be sent, and the cache key of each.
    options
        What determines their vectors besides.
    limits
        Texts and tokens of a request.
    concurrency
        Maximum number of requests in flight.
    budgets
        The budgets of the run; ``None`` for those of the hub.
    run_id
        The run's id in the ledger (16 bytes).
    progress_sink
        Where progress is reported; ``None`` for nowhere.
    rows
        Number of rows of the run, for its progress.
    rows_of
        Rows of each text, if several rows have the same.
    """

    target: Target
    texts: Sequence[str]
    keys: Sequence[bytes]
    options: EmbedOptions
    limits: PackLimits
    concurrency: int = 64
    budgets: Budgets | None = None
    run_id: bytes = b""
    progress_sink: ProgressSink | None = None
    rows: int = 0
    rows_of: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class SentPack:
    """A request that was answered: the positions of its texts, and what the provider counted for them together."""

    positions: Sequence[int]
    usage: Usage
    served_model: str


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """The result of a run of embeddings.

    Parameters
    ----------
    run
        Outcomes by position, each the answer with the vector of one text, and the problems of the run.
    packs
        The requests that were answered.
    """

    run: FanOutResult
    packs: Sequence[SentPack]


@dataclass(slots=True)
class _Pack:
    """Texts that are gathered for one request."""

    positions: list[int] = field(default_factory=list)
    tokens: int = 0


async def run_embeddings(spec: EmbedSpec, client: Client, access: StoreAccess, stop: StopSignal) -> EmbedResult:
    """Embed every text, and return the outcomes. Failed requests are outcomes; only cancellation and defects raise.

    At the first request of ``stop`` nothing more is sent, and requests in flight are awaited; at the second they are
    cancelled. Whatever is raised has the outcomes so far in its ``embed_result``.
    """
    run = _EmbedRun(spec, client, access, stop)
    remove_listener = stop.add_listener(partial(asyncio.get_running_loop().call_soon_threadsafe, run.on_stop))
    try:
        result = await run.run()
    finally:
        remove_listener()
    if result.run.error is not None:
        result.run.error.embed_result = result  # type: ignore[attr-defined]
        raise result.run.error
    return result


async def run_embedding_batches(
    spec: EmbedSpec, client: Client, access: StoreAccess, policy: BatchPolicy, stop: StopSignal
) -> EmbedResult:
    """Embed every text through the provider's Batch API, one row for each (see `llmhub.engine.batch_run`).

    Whatever is raised has the outcomes so far in its ``embed_result``.
    """

    def make_call(text: str, key: bytes) -> Call:
        request = CompletionRequest(model=spec.target.model, messages=(Message("user", (Text(text),)),), max_tokens=0)
        return Call(spec.target, request, key=key, budgets=spec.budgets, embedding=spec.options)

    def chunks() -> Iterator[list[PlannedItem]]:
        for start in range(0, len(spec.texts), CHUNK_SIZE):
            positions = range(start, min(start + CHUNK_SIZE, len(spec.texts)))
            yield [(position, spec.keys[position], make_call, spec.texts[position]) for position in positions]

    fan_out = FanOutSpec(
        size=len(spec.texts),
        chunks=chunks(),
        concurrency=spec.concurrency,
        run_id=spec.run_id,
        progress_sink=spec.progress_sink,
    )
    try:
        return EmbedResult(await BatchRun(fan_out, client, access, policy, stop).run(), ())
    except BaseException as error:
        partial_result = getattr(error, "fan_out_result", None)
        if isinstance(partial_result, FanOutResult):
            error.embed_result = EmbedResult(partial_result, ())  # type: ignore[attr-defined] # for the table so far
        raise


class _EmbedRun:
    """One run. Everything happens on one event loop."""

    def __init__(self, spec: EmbedSpec, client: Client, access: StoreAccess, stop: StopSignal) -> None:
        self._spec = spec
        self._client = client
        self._access = access
        self._stop = stop
        self._outcomes: list[Answer | None] = [None] * len(spec.texts)
        self._tokens = [0] * len(spec.texts)
        self._packs: list[SentPack] = []
        self._writer = CacheWriter(access, stop.request)
        log = access.write_ahead
        callbacks: RowCallbacks[Item] = RowCallbacks(self._settle, self._look_up, self._outcomes.__getitem__)
        self._flight = SingleFlight(log, spec.run_id, callbacks, access.not_before) if log is not None else None
        self._max_texts = spec.limits.texts
        self._max_tokens = TOKEN_MARGIN * spec.limits.tokens
        self._slots = asyncio.Semaphore(spec.concurrency)
        self._workers: set[asyncio.Task[None]] = set()
        self._supplier: asyncio.Task[None] | None = None
        self._cancelled_in_flight: set[asyncio.Task[None]] = set()
        self._drain_until = float("inf")
        self._single_failures: Counter[str] = Counter()
        self._has_succeeded = False
        self._error: BaseException | None = None
        self._finished = False
        self._started = time.perf_counter()
        sink = spec.progress_sink
        self._reporter = (
            ProgressReporter(sink, ProgressTracker(spec.rows, sink, time.time()), self._snapshot) if sink else None
        )

    async def run(self) -> EmbedResult:
        log, reporter = self._access.write_ahead, self._reporter
        reporting = asyncio.create_task(reporter.run()) if reporter is not None else None
        if log is not None:
            log.register_run(self._writer)
        try:
            self._supplier = asyncio.create_task(self._supply())
            await asyncio.wait([self._supplier])
            self._raise_defect(self._supplier)
            while self._workers:
                await asyncio.wait(self._workers)
        except asyncio.CancelledError as error:
            self._fail(error)
            self._cancel_all()
            while self._workers:
                await asyncio.wait(self._workers)
        finally:
            if reporting is not None:
                reporting.cancel()
            await asyncio.shield(self._close())
        rest = cancelled_outcome() if self._error is None else aborted_outcome(self._error)
        for position, outcome in enumerate(self._outcomes):
            if outcome is None:
                self._settle(position, rest)
        self._finished = True
        if reporter is not None:
            await reporter.finish()
        return EmbedResult(
            FanOutResult(
                outcomes=list(self._outcomes),
                queue_s=(),
                damaged_values=len(self._writer.damaged_keys),
                store_error=self._writer.error or (log.failure_message if log is not None else ""),
                stopped_by_store_failure=self._writer.aborted_run,
                progress_error=reporter.error if reporter is not None else "",
                ambiguous_count=self._flight.ambiguous_count if self._flight is not None else 0,
                error=self._error,
            ),
            self._packs,
        )

    def _fail(self, error: BaseException) -> None:
        """Store the exception that ends the run, and stop sending."""
        self._error = self._error or error
        if not self._stop.requested:
            self._stop.request()

    def _raise_defect(self, task: asyncio.Task[None]) -> None:
        """Keep the exception of a task that has ended, if it is one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    async def _close(self) -> None:
        """Write what is left, and release all keys."""
        try:
            await self._writer.finish()
            if self._flight is not None:
                self._flight.close()
        except Exception as error:  # noqa: BLE001 - a defect must not lose the outcomes
            self._fail(error)
        if self._access.write_ahead is not None:
            await self._access.write_ahead.unregister_run(self._writer)

    # Supply of packs

    async def _supply(self) -> None:
        """Look the texts up, chunk by chunk, and send the missing ones in packs."""
        pack = _Pack()
        for start in range(0, len(self._spec.texts), CHUNK_SIZE):
            positions = range(start, min(start + CHUNK_SIZE, len(self._spec.texts)))
            missing = await self._look_up([(position, self._spec.keys[position]) for position in positions])
            self._count_misses(missing)
            granted = await self._flight.claim(missing) if self._flight is not None and missing else missing
            for full in self._fill(pack, granted):
                await self._start(full)
        await self._start(pack)
        while self._flight is not None and self._flight.has_waiting and not self._stop.requested:
            pack = _Pack()
            for full in self._fill(pack, await self._flight.next_ready()):
                await self._start(full)
            await self._start(pack)

    def _fill(self, pack: _Pack, items: Sequence[Item]) -> Iterator[_Pack]:
        """Add texts to ``pack``, and yield each pack that is full."""
        for position, _key in items:
            tokens = self._tokens[position] = estimate_tokens(self._spec.texts[position])
            is_full = len(pack.positions) >= self._max_texts or pack.tokens + tokens > self._max_tokens
            if pack.positions and is_full:
                yield _Pack(pack.positions, pack.tokens)
                pack.positions, pack.tokens = [], 0
            pack.positions.append(position)
            pack.tokens += tokens

    async def _start(self, pack: _Pack) -> None:
        """Send a pack in a task of its own, once one of the slots is free."""
        if not pack.positions or self._stop.requested:
            return
        await self._slots.acquire()
        task = asyncio.create_task(self._work(pack.positions))
        self._workers.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        self._slots.release()
        self._raise_defect(task)

    async def _look_up(self, items: Sequence[Item]) -> Sequence[Item]:
        """Settle the texts whose vectors are stored, and return the others."""
        if self._writer.store is None or not items:
            return items
        keys = [key for _, key in items]
        found = await self._writer.start_lookup(lambda store: store.get_many(keys))
        if not found:
            return items
        return [item for item in items if not self._settle_stored(item, found)]

    def _settle_stored(self, item: Item, found: Mapping[bytes, bytes]) -> bool:
        position, key = item
        value = found.get(key)
        if value is None:
            return False
        stored = unpack_vector(value, key)
        if is_successful(stored):
            self._settle(position, from_stored_vector(stored.unwrap()))
            return True
        if is_corrupt(stored.failure()):
            self._writer.damaged_keys.add(key)
        return False

    # Requests

    async def _work(self, positions: list[int]) -> None:
        access = self._access
        context = SendContext(self._spec.run_id, access.write_ahead, strict=access.strict)
        SEND_CONTEXT.set(context)
        OWNER_TASK.set(asyncio.current_task())
        try:
            await self._send(positions)
            if self._writer.holds_slots:
                await self._writer.wait_until_written(len(self._workers))
        except asyncio.CancelledError:
            was_in_flight = asyncio.current_task() in self._cancelled_in_flight
            cancelled = cancelled_outcome(
                context.requests_sent, was_in_flight=was_in_flight, last_error=context.last_error
            )
            self._settle_unsettled(positions, cancelled)
            raise
        except BaseException as error:
            self._settle_unsettled(positions, aborted_outcome(error, context.requests_sent))
            raise

    async def _send(self, positions: list[int], attempts: int = 0, uncertain_requests: int = 0) -> bool:
        """Send texts, in halves if one of them is refused; return whether all have their vectors.

        ``attempts`` have been made with these texts before, of which ``uncertain_requests`` are to be counted in them.
        """
        answer = await self._client.send_uncached(self._call(positions))
        attempts += answer.attempts
        uncertain_requests += answer.uncertain_requests
        checked = replace(
            _check_answer(answer, len(positions)), attempts=attempts, uncertain_requests=uncertain_requests
        )
        if is_successful(checked.outcome):
            self._settle_pack(positions, checked)
            return True
        error = checked.outcome.failure()
        if len(positions) == 1:
            self._single_failures[error.message] += 1
        elif self._may_be_one_text(error) and not self._stop.requested:
            middle = (len(positions) + 1) // 2
            halves = [
                await self._send(positions[:middle], attempts, uncertain_requests),
                await self._send(positions[middle:], attempts),
            ]
            if isinstance(error, ContextTooLong) and all(halves):
                tokens = sum(self._tokens[position] for position in positions)
                self._max_tokens = min(self._max_tokens, SHRINK_FACTOR * tokens)
            return all(halves)
        self._settle_unsettled(positions, checked)
        return False

    def _may_be_one_text(self, error: LLMError) -> bool:
        """Return whether an error may be that of one text of the pack, and not of every request like it."""
        if not isinstance(error, SPLIT_ERRORS):
            return False
        return self._has_succeeded or self._single_failures[error.message] < SAME_ERRORS

    def _call(self, positions: Sequence[int]) -> Call:
        spec = self._spec
        parts = tuple([Text(spec.texts[position]) for position in positions])
        request = CompletionRequest(model=spec.target.model, messages=(Message("user", parts),), max_tokens=0)
        key = sha256(b"".join([spec.keys[position] for position in positions])).digest()
        return Call(spec.target, request, key=key, budgets=spec.budgets, embedding=spec.options)

    # Outcomes

    def _settle_pack(self, positions: Sequence[int], answer: Answer) -> None:
        """Share the answer to a pack out to its texts, and file their vectors."""
        response = answer.outcome.unwrap()
        assert isinstance(response, EmbeddingResponse)  # noqa: S101 - checked by `_check_answer`
        self._has_succeeded = True
        self._packs.append(SentPack(positions, response.usage, response.served_model))
        usages = _share_usage(response, [self._tokens[position] for position in positions])
        vectors, size = memoryview(response.vectors), BYTES_PER_NUMBER * response.dimensions
        latency_s, started_at = answer.latency_s or 0.0, answer.started_at
        entries: list[Entry] = []
        outcomes: list[tuple[bytes, Answer]] = []
        model = self._spec.target.cache_name
        for index, position in enumerate(positions):
            own = EmbeddingResponse(
                vectors=vectors[size * index : size * (index + 1)],
                dimensions=response.dimensions,
                usage=usages[index],
                served_model=response.served_model,
                request_id=response.request_id,
            )
            outcome = Answer(
                Success(own), answer.latency_s, None, answer.rate_wait_s, answer.total_s, answer.attempts, started_at,
                uncertain_requests=0 if index else answer.uncertain_requests,
            )  # fmt: skip
            key = self._spec.keys[position]
            outcomes.append((key, outcome))
            if self._writer.store is not None:
                value = pack_vector(own, key, latency_s=latency_s, started_at=started_at)
                entries.append(Entry(key, value, model, started_at))
            self._settle(position, outcome)
        if entries:
            self._writer.enqueue_entries(entries)
        if self._flight is not None:
            for key, outcome in outcomes:
                self._flight.release(key, outcome, key if entries else None)

    def _settle_unsettled(self, positions: Sequence[int], outcome: Answer) -> None:
        """Settle the texts of a pack that have no outcome yet, and release their keys."""
        for position in positions:
            if self._outcomes[position] is None:
                self._settle(position, outcome)
                if self._flight is not None:
                    self._flight.release(self._spec.keys[position], outcome)
                if outcome.uncertain_requests:  # counted once, in the first text
                    outcome = replace(outcome, uncertain_requests=0)

    def _settle(self, position: int, outcome: RowOutcome) -> None:
        answer = as_answer(outcome)
        self._outcomes[position] = answer
        if self._reporter is None:
            return
        first, *others = self._spec.rows_of[position]
        self._reporter.add(first, answer)
        for row in others:
            is_hit = is_successful(answer.outcome)
            self._reporter.add(row, replace(answer, cache_hit=is_hit, billed_failures=(), uncertain_requests=0))

    def _count_misses(self, items: Sequence[Item]) -> None:
        if self._reporter is not None:
            self._reporter.add_misses([self._spec.rows_of[position][0] for position, _ in items])

    # Stopping

    def on_stop(self) -> None:
        """Stop sending; called on the loop at each request of the stop signal."""
        now = asyncio.get_running_loop().time()
        self._drain_until = now + (0.0 if self._stop.immediate else DRAIN_TIMEOUT_S)
        if self._supplier is not None:
            self._supplier.cancel()
        self._cancel_workers()

    def _cancel_workers(self) -> None:
        """Cancel the tasks whose request is not on the wire, and those on the wire once the drain timeout is over."""
        loop = asyncio.get_running_loop()
        is_late = loop.time() >= self._drain_until
        for task in tuple(self._workers):
            in_flight = task in self._client.transport.in_flight
            if is_late and in_flight:
                self._cancelled_in_flight.add(task)
            if is_late or not in_flight:
                task.cancel()
        if self._workers:
            loop.call_later(SWEEP_INTERVAL_S, self._cancel_workers)

    def _cancel_all(self) -> None:
        self._drain_until = 0.0
        if self._supplier is not None:
            self._supplier.cancel()
        self._cancel_workers()

    def _snapshot(self) -> RunSnapshot:
        """Return the current state for progress reports."""
        spec = self._spec
        return RunSnapshot(
            elapsed_s=time.perf_counter() - self._started,
            in_flight=sum(task in self._client.transport.in_flight for task in self._workers),
            started=len(self._workers),
            concurrency=spec.concurrency,
            finished=self._finished,
            stopping=self._stop.requested,
            blocked_by=self._client.rate_limiter.wait_reason(spec.target.name),
            refused_by=self._client.refusal(spec.target.name),
        )


def _check_answer(answer: Answer, count: int) -> Answer:
    """Return the answer to a pack, or the failure that it has no vector for each text."""
    if not is_successful(answer.outcome):
        return answer
    response = answer.outcome.unwrap()
    if isinstance(response, EmbeddingResponse) and len(response) == count:
        return answer
    found = len(response) if isinstance(response, EmbeddingResponse) else 0
    return replace(answer, outcome=Failure(Malformed(path="$", message=f"{found} vectors for {count} texts")))


def _share_usage(response: EmbeddingResponse, estimates: Sequence[int]) -> list[Usage]:
    """Return the usage of each text; the sums are those of the request."""
    usage, count = response.usage, len(estimates)
    tokens: Sequence[int | None] = [None] * count
    if response.text_tokens:
        tokens = response.text_tokens
    elif usage.input_tokens is not None:
        tokens = share_out(usage.input_tokens, estimates)
    costs: Sequence[Decimal | None] = [None] * count
    if usage.reported_cost_usd is not None:
        nanos = int(usage.reported_cost_usd.scaleb(NANO_DIGITS).to_integral_value(ROUND_HALF_EVEN))
        costs = [Decimal(share).scaleb(-NANO_DIGITS) for share in share_out(nanos, estimates)]
    # Many texts cost the same: one value for all of them.
    shares = {
        (own, cost): Usage(input_tokens=own, output_tokens=None if own is None else 0, reported_cost_usd=cost)
        for own, cost in {*zip(tokens, costs, strict=True)}
    }
    return [shares[share] for share in zip(tokens, costs, strict=True)]
