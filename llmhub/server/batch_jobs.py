"""Batches of the service: lines of a file, sent in the bulk lane through the engine, resumed by any process.

What makes a batch safe to resume, whatever moment its process dies at: the line of an answer is appended to the output
before the next one is begun, and a process that takes a batch up sends only lines without one. An answer that arrived
and was not written is in the cache, if the hub has one that is kept.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Final

from returns.pipeline import is_successful

from llmhub.cache.store import StoreError
from llmhub.core.errors import Cancelled, ConnectorError, Overloaded, is_transient, to_exception
from llmhub.engine.call import Answer
from llmhub.engine.event_loop import StopSignal, run_in_thread
from llmhub.engine.fan_out_types import ResultEvent
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.engine.row_outcome import as_answer
from llmhub.server.active_batch import ActiveBatch, TaskWindow, Writing, written
from llmhub.server.batch_folder import iter_line_groups
from llmhub.server.batch_rows import RowReply, answer_row, encode_answer
from llmhub.server.batch_storage import (
    ERRORS,
    OUTPUT,
    BatchEntry,
    BatchLog,
    BatchOwner,
    BatchStore,
    ended_at,
    result_id,
)
from llmhub.server.context import RequestContext
from llmhub.server.dialects.openai_batches import (
    ENDED,
    OUTPUT_PURPOSE,
    PROVIDER_MODE,
    BatchObject,
    BatchProblem,
    BatchProblems,
    BatchState,
    FileObject,
    InputLine,
    RequestCounts,
    encode_failure,
    encode_output,
    encode_unsent,
    parse_line,
    read_written,
)
from llmhub.server.error_replies import error_text, status_of
from llmhub.server.open_run_store import open_batch_store
from llmhub.server.restored_caller import restore_caller
from llmhub.server.run_store import RunLostError
from llmhub.server.run_views import RunView
from llmhub.server.service import Service

if TYPE_CHECKING:
    from llmhub.server.batch_provider import ForwardedBatch

LOGGER: Final = logging.getLogger("llmhub.server")
PATROL_S: Final = 1.0
"""How often batches are taken up that another process has left, cancellations are seen, and progress is stored."""
READ_LINES: Final = 256
"""Lines that are read and parsed at a time, in a thread."""
MAX_PROBLEMS: Final = 100
BATCH_ROUTE: Final = "POST /v1/batches"
DAY_S: Final = 86_400.0
UNSENT: Final = {
    "expired": ("batch_expired", "the request was not sent within the completion window"),
    "cancelled": ("batch_cancelled", "the batch was cancelled before the request was sent"),
}
"""Code and message of the lines that were not sent, by the state at the end."""


class BatchJobs:
    """The batches of a service. Use it on the engine's loop only, except `list_runs`."""

    def __init__(self, service: Service, store: BatchStore) -> None:
        self.service = service
        self.store = store
        self.active: dict[str, ActiveBatch] = {}
        self._executing = asyncio.Semaphore(service.settings.batches.max_active)
        self._is_leaving = False
        self._changed = asyncio.Event()

    # Creation and cancellation

    async def create(self, context: RequestContext, batch: BatchObject, owner: BatchOwner) -> BatchObject | None:
        """Store a batch and begin it; return ``None`` if its input file is not there any more."""
        row = BatchEntry(context.team, batch, owner)
        if not await run_in_thread(self.store.add_batch, row):
            return None
        await self._take_up(row)
        return batch

    def check_room(self) -> None:
        """Raise if too many batches wait.

        Raises
        ------
        OverloadedError
            There are as many batches as the settings allow.
        """
        if len(self.active) >= self.service.settings.batches.max_unfinished:
            message = f"{len(self.active)} batches have not ended"
            raise to_exception(Overloaded(message=message, retry_after_s=60.0))

    async def cancel(self, batch_id: str, team: str) -> None:
        """Ask for the end of a batch; the process that executes it does so."""
        await run_in_thread(self.store.request_cancel, batch_id, team, time.time())
        if (active := self.active.get(batch_id)) is not None and active.row.team == team:
            self._end_early(active, "cancelled")

    async def find(self, batch_id: str, team: str) -> BatchObject | None:
        """Return the present state of a batch of a team."""
        active = self.active.get(batch_id)
        if active is not None and active.row.team == team:
            return active.batch
        row = await run_in_thread(self.store.find_batch, batch_id, team)
        if row is None:
            return None
        if row.cancel_at is not None and row.object.status in {"validating", "in_progress"}:
            row.object.status, row.object.cancelling_at = "cancelling", int(row.cancel_at)
        return row.object

    def present(self, row: BatchEntry) -> BatchObject:
        """Return a batch of the store as it is now, if this process executes it."""
        active = self.active.get(row.object.id)
        return active.batch if active is not None else row.object

    def list_runs(self, team: str | None, limit: int) -> Sequence[RunView]:
        """Return batches for the page. It blocks; any thread may ask."""
        return [self._view(row) for row in self.store.list_batches(team, limit)]

    def _view(self, row: BatchEntry) -> RunView:
        batch = self.present(row)
        counts = batch.request_counts
        return RunView(
            id=batch.id,
            kind="batch",
            team=row.team,
            key_id=row.owner.key_id,
            models=tuple(batch.models),
            state=batch.status,
            rows=counts.total,
            done=counts.completed + counts.failed,
            failed=counts.failed,
            billed_usd=batch.cost_usd,
            created_at=batch.created_at,
            ended_at=ended_at(batch),
        )

    # Upkeep

    async def patrol(self) -> None:
        """Take up batches that no process executes, see cancellations, and store progress, until cancelled."""
        removed_at = 0.0
        while True:
            try:
                for row in await run_in_thread(self.store.open_batches):
                    if (active := self.active.get(row.object.id)) is None:
                        await self._take_up(row)
                    elif row.cancel_at is not None:
                        self._end_early(active, "cancelled")
                for active in list(self.active.values()):
                    await self._tend(active)
                if time.time() > removed_at + DAY_S / 24:
                    removed_at = time.time()
                    keep_s = self.service.settings.batches.keep_days * DAY_S
                    await run_in_thread(self.store.remove_old, removed_at, keep_s)
            except (StoreError, RunLostError) as lost:
                LOGGER.warning("batches: %s", lost)
            except Exception:
                LOGGER.exception("batches: the folder cannot be used")
            await asyncio.sleep(PATROL_S)

    async def _tend(self, active: ActiveBatch) -> None:
        """Keep the lock of a batch that this process executes, store its progress, and see its end."""
        if active.batch.status in ENDED:
            return  # its lock is about to be released
        if time.time() > active.batch.expires_at:
            self._end_early(active, "expired")
        if await run_in_thread(active.lock.renew):
            await run_in_thread(self.store.save, active.batch, active.lock)
        else:
            self._lose(active)

    def leave(self) -> None:
        """Send no further line: the service is about to end, and another process goes on."""
        self._is_leaving = True
        self._changed.set()

    async def close(self) -> None:
        """Wait for the batches to leave off."""
        self.leave()
        tasks = [active.task for active in self.active.values() if active.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await run_in_thread(self.store.close)

    def _lose(self, active: ActiveBatch) -> None:
        """Leave a batch to the process that has taken it up."""
        active.is_lost = True
        if active.task is not None:
            active.task.cancel()

    def _end_early(self, active: ActiveBatch, state: BatchState) -> None:
        if active.ends_as is None and active.batch.status in {"validating", "in_progress"}:
            active.ends_as = state
            if state == "cancelled":
                active.change("cancelling")
            self._changed.set()

    # Execution

    async def _take_up(self, row: BatchEntry) -> None:
        """Execute a batch, unless another process does."""
        if self._is_leaving or row.object.id in self.active:
            return
        if row.owner.simulated != (self.service.hub.simulator is not None):
            return  # made for a simulator, or for real providers: left to a service that has those
        lock = await run_in_thread(self.store.try_lock, row.object.id)
        if lock is None:
            return
        current = await run_in_thread(self.store.find_batch, row.object.id, row.team)
        if current is None or current.object.id in self.active or current.object.status in ENDED:
            lock.release()
            return
        active = ActiveBatch(current, lock, current.object, ExitStack())
        self.active[current.object.id] = active
        if current.object.status != "finalizing" and current.cancel_at is not None:
            active.ends_as = "cancelled"
            active.change("cancelling")
        elif current.object.status != "finalizing" and time.time() > current.object.expires_at:
            active.ends_as = "expired"
        active.task = asyncio.create_task(self._execute(active))

    async def _execute(self, active: ActiveBatch) -> None:
        """Execute a batch to its end, or until the service ends."""
        batch = active.batch
        try:
            async with self._executing:
                await self._run(active)
        except asyncio.CancelledError:
            if not (self._is_leaving or active.is_lost):
                raise
        except (StoreError, RunLostError) as lost:
            LOGGER.warning("batch %s is left to the process that takes it up: %s", batch.id, lost)
        except ConnectorError as error:
            if is_transient(error.error):  # the store of keys is lost: it is taken up again
                LOGGER.warning("batch %s: %s", batch.id, error_text(error.error))
            else:
                await self._fail(active, [BatchProblem(code="batch_failed", message=error_text(error.error))])
        except Exception:
            LOGGER.exception("batch %s", batch.id)
            await self._fail(
                active, [BatchProblem(code="server_error", message="the log of the service has the cause")]
            )
        finally:
            try:
                await asyncio.shield(run_in_thread(self._leave_off, active))
            finally:
                self.active.pop(batch.id, None)

    def _leave_off(self, active: ActiveBatch) -> None:
        try:
            active.logs.close()
            if not active.is_lost:
                self.store.save(active.batch, active.lock)
                if active.batch.status in ENDED:
                    self.store.finish_batch(active.batch)
        except (StoreError, RunLostError) as lost:
            LOGGER.warning("batch %s: its state is not stored: %s", active.batch.id, lost)
        active.lock.release()

    async def _fail(self, active: ActiveBatch, problems: list[BatchProblem]) -> None:
        active.batch.errors = BatchProblems(data=problems)
        active.change("failed")

    async def _run(self, active: ActiveBatch) -> None:
        batch = active.batch
        if batch.status == "validating" or not batch.request_counts.total:
            problems = await run_in_thread(self._validate, batch)
            if problems:
                await self._fail(active, problems)
                return
            if active.ends_as is None:
                active.change("in_progress")
            await run_in_thread(self.store.save, batch, active.lock)
        context = await self._restore_context(active.row.owner, batch.id)
        await run_in_thread(self._open_logs, active)
        if active.row.owner.mode == PROVIDER_MODE:
            await self._send_by_provider(active, context)
        else:
            await self._send_lines(active, context)
        if self._is_leaving and active.ends_as is None:
            return
        batch.finalizing_at = int(time.time())
        if active.ends_as is None:
            batch.status = "finalizing"
        await run_in_thread(self._finish, active)

    async def _restore_context(self, owner: BatchOwner, batch_id: str) -> RequestContext:
        """Return whose requests the lines are, as the access to the service knows them now.

        Raises
        ------
        ConnectorError
            The key was revoked or has expired.
        """
        caller = await restore_caller(
            self.service.access,
            key_id=owner.key_id,
            team=owner.team,
            scopes=owner.scopes,
            models=owner.models,
            weight=owner.weight,
            cache_scope=owner.cache_scope,
        )
        return RequestContext(request_id=batch_id, caller=caller, lane="bulk", deadline=inf, route=BATCH_ROUTE)

    async def _send_lines(self, active: ActiveBatch, context: RequestContext) -> None:
        """Send the lines that are not answered yet, a bounded number at a time, until all are or the batch ends."""
        origin = CallOrigin(request_id=active.batch.id, key_id=context.key_id, team=context.team)
        CALL_ORIGIN.set(origin)  # of this task and of those it starts
        window = TaskWindow(self.service.settings.batches.concurrency, self._changed)
        groups = self._iter_missing(active)
        try:
            while not self._is_stopping(active):
                group = await run_in_thread(next, groups, None)
                if group is None:
                    break
                for line in group:
                    await window.wait_for_room(lambda: self._is_stopping(active))
                    if self._is_stopping(active):
                        break
                    window.start(self._send_line(active, context, line))
            await window.join()
        finally:
            await window.cancel()

    async def _send_by_provider(self, active: ActiveBatch, context: RequestContext) -> None:
        """Pass the lines that are not answered yet on to the providers' Batch APIs, and wait for the answers."""
        from llmhub.server.batch_provider import ForwardedBatch  # noqa: PLC0415 - few services need it

        batch, owner = active.batch, active.row.owner
        is_reserved = await run_in_thread(self.store.is_reserved, batch.id)
        work = ForwardedBatch(self.service, context, owner, is_reserved=is_reserved)
        await run_in_thread(lambda: self.store.set_reserved(batch.id, reserved=True))
        stop, policy = StopSignal(), work.policy(batch.expires_at)

        def on_result(event: ResultEvent) -> None:
            if isinstance(event, tuple):
                self._settle_row(active, work, event[0], as_answer(event[1]))

        relaying = asyncio.create_task(self._relay_end(active, stop, policy.cancel))
        try:
            spec = work.spec(self._iter_missing(active), batch.request_counts.total, on_result)
            await self.service.hub.runtime.run_batches(spec, stop, policy, cache_mode=owner.cache_mode)
        finally:
            relaying.cancel()
            for custom_id, error in work.refused:
                unsent = encode_failure(secrets.token_hex(12), custom_id, error, status_of(error))
                active.keep(self.write_failure(active, unsent))
            work.release()
            await asyncio.shield(run_in_thread(lambda: self.store.set_reserved(batch.id, reserved=False)))
            await active.wait_written()

    async def _relay_end(self, active: ActiveBatch, stop: StopSignal, cancel: StopSignal) -> None:
        """Stop the engine when the batch ends early, which cancels it at the provider, or when the service leaves."""
        while not self._is_stopping(active):
            self._changed.clear()
            await self._changed.wait()
        if active.ends_as is not None:
            cancel.request()
        else:
            stop.request()

    def _settle_row(self, active: ActiveBatch, work: ForwardedBatch, position: int, answer: Answer) -> None:
        """Write the answer of a row; one that is still in a batch, or was not sent, has none."""
        failure = None if is_successful(answer.outcome) else answer.outcome.failure()
        if isinstance(failure, Cancelled):
            return
        row, request_id = work.rows.pop(position), secrets.token_hex(12)
        result = encode_answer(row.completion, row.restore(answer))
        if is_successful(result):
            reply = result.unwrap()
            max_cost = row.reservation.max_cost
            row.reservation.settle(max_cost if reply.cost_usd is None else int(reply.cost_usd.scaleb(9)))
            active.keep(self.write_reply(active, request_id, row.custom_id, reply))
        else:
            row.reservation.settle(0)
            error = result.failure()
            line = encode_failure(request_id, row.custom_id, error, status_of(error))
            active.keep(self.write_failure(active, line))

    def _is_stopping(self, active: ActiveBatch) -> bool:
        return self._is_leaving or active.ends_as is not None

    async def _send_line(self, active: ActiveBatch, context: RequestContext, line: InputLine) -> None:
        """Send one line and write its answer; one that the end of the service cuts off is left to the next process."""
        request_id = secrets.token_hex(12)
        context = replace(context, request_id=request_id)
        self.service.request_started()  # so that the service waits for it when it ends
        try:
            result = await answer_row(self.service, context, line, active.row.owner)
            while isinstance(error := result.swap().value_or(None), Overloaded) and not error.provider:
                if self._is_stopping(active):
                    return
                await asyncio.sleep(error.retry_after_s or 1.0)
                result = await answer_row(self.service, context, line, active.row.owner)
            if not is_successful(result):
                refusal = result.failure()
                if not (isinstance(refusal, Cancelled) and self._is_leaving):
                    failure = encode_failure(request_id, line.custom_id, refusal, status_of(refusal))
                    await written(self.write_failure(active, failure))
                return
            await written(self.write_reply(active, request_id, line.custom_id, result.unwrap()))
        finally:
            self.service.request_ended()

    def write_reply(self, active: ActiveBatch, request_id: str, custom_id: str, reply: RowReply) -> Writing:
        """Append the line of an answer to the output."""
        line = encode_output(request_id, custom_id, reply.body, cost_usd=reply.cost_usd, cache_hit=reply.cache_hit)
        if reply.model not in active.batch.models:
            active.batch.models.append(reply.model)
        active.add_cost(reply.cost_usd)
        active.batch.request_counts.completed += 1
        return self._append(active.output, line)

    def write_failure(self, active: ActiveBatch, line: bytes) -> Writing:
        """Append a line to the errors."""
        active.batch.request_counts.failed += 1
        return self._append(active.errors, line)

    def _append(self, log: BatchLog | None, line: bytes) -> Writing:
        """Append a line at once, or in a thread if that waits for a server."""
        assert log is not None  # noqa: S101 - opened before
        if self.store.is_remote:
            return asyncio.ensure_future(run_in_thread(log.append, line))
        log.append(line)
        return None

    # Files, in threads

    def _validate(self, batch: BatchObject) -> list[BatchProblem]:
        """Check every line of the input, and count them; return what is wrong."""
        problems: list[BatchProblem] = []
        seen: set[str] = set()
        count, limit = 0, self.service.settings.batches.max_lines
        for group in iter_line_groups(self.store.input_path(batch), READ_LINES):
            for number, text in group:
                count += 1
                parsed = parse_line(text, batch.endpoint, number)
                if isinstance(parsed, InputLine) and parsed.custom_id in seen:
                    message = f"the custom_id {parsed.custom_id[:80]!r} is used twice"
                    parsed = BatchProblem(code="duplicate_custom_id", message=message, line=number, param="custom_id")
                if isinstance(parsed, InputLine):
                    seen.add(parsed.custom_id)
                elif len(problems) < MAX_PROBLEMS:
                    problems.append(parsed)
            if count > limit:
                return [BatchProblem(code="too_many_lines", message=f"the file has more than {limit:,} lines")]
        batch.request_counts = RequestCounts(total=count)
        if not count:
            problems.append(BatchProblem(code="empty_file", message="the file has no lines"))
        return problems

    def _open_logs(self, active: ActiveBatch) -> None:
        """Open output and errors, and count what earlier processes have written."""
        batch = active.batch
        active.output, active.errors = logs = [
            self.store.open_log(batch.id, name, active.lock) for name in (OUTPUT, ERRORS)
        ]
        counts = [0, 0]
        for index, log in enumerate(logs):
            active.logs.callback(log.close)
            for group in log.groups(READ_LINES):
                for _, line in group:
                    custom_id, cost = read_written(line)
                    active.done.add(custom_id)
                    active.add_cost(cost)
                    counts[index] += 1
        batch.request_counts.completed, batch.request_counts.failed = counts

    def _iter_missing(self, active: ActiveBatch) -> Iterator[list[InputLine]]:
        """Yield the lines that have no answer yet."""
        batch = active.batch
        for group in iter_line_groups(self.store.input_path(batch), READ_LINES):
            parsed = (parse_line(text, batch.endpoint, number) for number, text in group)
            yield [line for line in parsed if isinstance(line, InputLine) and line.custom_id not in active.done]

    def _finish(self, active: ActiveBatch) -> None:
        """Note the lines that were not sent, and make files of output and errors."""
        batch, state = active.batch, active.ends_as or "completed"
        if state in UNSENT:
            self._note_unsent(active, *UNSENT[state])
        active.logs.close()
        for name, attribute, log in (
            (OUTPUT, "output_file_id", active.output),
            (ERRORS, "error_file_id", active.errors),
        ):
            if log is not None and (size := log.total_bytes()):
                setattr(batch, attribute, self._add_result(active, name, size))
        active.change(state)

    def _note_unsent(self, active: ActiveBatch, code: str, message: str) -> None:
        assert active.output is not None  # noqa: S101 - opened before
        assert active.errors is not None  # noqa: S101 - as above
        answered = {
            read_written(line)[0]
            for log in (active.output, active.errors)
            for group in log.groups(READ_LINES)
            for _, line in group
        }
        for group in self._iter_missing(active):
            for line in group:
                if line.custom_id not in answered:
                    active.errors.append(encode_unsent(secrets.token_hex(12), line.custom_id, code, message))
                    active.batch.request_counts.failed += 1

    def _add_result(self, active: ActiveBatch, name: str, size: int) -> str:
        """Add a result as a file of the team; return its id, which is the same however often this is repeated."""
        batch, now = active.batch, time.time()
        file = FileObject(
            id=result_id(batch.id, name),
            bytes=size,
            created_at=int(now),
            filename=f"{batch.id}_{name}",
            purpose=OUTPUT_PURPOSE,
            expires_at=int(now + self.service.settings.batches.keep_days * DAY_S),
        )
        self.store.add_result(active.row.team, batch.id, name, file)
        return file.id


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """Open the batches of a service, and take up those that have not ended."""
    jobs = service.resources[BatchJobs] = BatchJobs(service, await run_in_thread(open_batch_store, service))
    service.on_drain(jobs.leave)
    service.run_sources.append(jobs)
    patrol = asyncio.create_task(jobs.patrol())
    try:
        yield
    finally:
        patrol.cancel()
        await asyncio.wait([patrol])
        await jobs.close()
