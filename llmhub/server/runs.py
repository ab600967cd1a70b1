"""Runs of the service: jobs over a table that outlive their client, and the process of the service.

The input, the results so far and the state of a run are on disk (`run_store`, `result_log`). A process that starts
takes up the runs that no other one executes: results in the log are not sent again, and responses that were stored but
not logged come from the cache, or from a journal in the folder of the run where no cache keeps them. Their cost counts
for the run, as the ledger has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmhub.cache.memory import MemoryCache
from llmhub.cache.modes import resolve_mode
from llmhub.cache.store import Store, StoreError, reach_of
from llmhub.core.errors import (
    AuthFailed,
    ConnectorError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unsupported,
    to_exception,
)
from llmhub.engine.event_loop import run_in_thread
from llmhub.engine.observer import CALL_ORIGIN, CallOrigin
from llmhub.server.access import Caller
from llmhub.server.active_run import (
    ActiveRun,
    digest_of,
    input_blocks,
    log_results,
    prepare_files,
    read_results,
)
from llmhub.server.context import RequestContext
from llmhub.server.error_replies import error_text
from llmhub.server.open_run_store import open_run_store
from llmhub.server.restored_caller import restore_caller
from llmhub.server.run_forecast import plan_of
from llmhub.server.run_resumption import budget_left, paid_keys, read_log, resumed_cache_mode
from llmhub.server.run_status import (
    RunCounter,
    RunForecast,
    RunStatus,
    RunTotals,
    sum_if_known,
)
from llmhub.server.run_store import UNFINISHED, RunLock, RunLostError, RunRecord, RunState, RunStore
from llmhub.server.run_views import RunView
from llmhub.server.service import Service
from llmhub.server.table_request import encode_request, request_from_json
from llmhub.server.table_upload import Upload

if TYPE_CHECKING:
    import pyarrow as pa

    from llmhub.server.table_work import TableWork


LOGGER: Final = logging.getLogger("llmhub.server")
PATROL_S: Final = 1.0
"""How often runs are taken up that another process has left, and stop requests of other processes are seen."""
LOOK_S: Final = 0.2
"""How often the log of a run that another process executes is read, while a client waits for its results."""
SATURATED_SHARE: Final = 0.9
REFUSALS: Final = (AuthFailed, PermissionDenied, NotFound, InvalidRequest, Unsupported)
"""Errors with which a run cannot be taken up again at any time."""
DAY_S: Final = 86_400.0
RUN_ROUTE: Final = "POST /v1/runs"
NO_ROOM_RETRY_S: Final = 30.0
_encode: Final = msgspec.json.Encoder().encode


class Runs:
    """The runs of a service. Use it on the engine's loop only."""

    def __init__(self, service: Service, store: RunStore) -> None:
        self.service = service
        self.store = store
        self.active: dict[str, ActiveRun] = {}
        self._executing = asyncio.Semaphore(service.settings.runs.max_active)
        self._is_leaving = False

    # Creation

    async def create(self, context: RequestContext, upload: Upload) -> tuple[RunRecord, bool]:
        """Create a run of an uploaded table, and begin it; return it, and whether it is new.

        An equal run of the team that has not ended is returned instead: a client that was cut off attaches to it.

        Raises
        ------
        ConnectorError
            The table lacks a column, an option is wrong, or too many runs wait.
        """
        from llmhub.server.table_work import TableWork  # noqa: PLC0415 - a service without tables is smaller

        work = TableWork(self.service, context, upload.request, waits=True)
        caller = context.caller
        digest = await run_in_thread(digest_of, upload, caller.key_id)
        same = await run_in_thread(self.store.find_unfinished, caller.team, digest)
        if same is not None:
            return same, False
        if len(self.active) >= self.service.settings.runs.max_unfinished:
            message = f"{len(self.active)} runs have not ended"
            raise to_exception(Overloaded(message=message, retry_after_s=NO_ROOM_RETRY_S))
        run_id = uuid.uuid4()
        await run_in_thread(self.store.prepare, run_id.hex)
        lock = await run_in_thread(self.store.try_lock, run_id.hex)
        assert lock is not None  # noqa: S101 - nobody else knows of it
        try:
            rows = await run_in_thread(prepare_files, work, upload, self.store, run_id, lock)
        except BaseException:
            await asyncio.shield(run_in_thread(self._discard, run_id.hex, lock))
            raise
        record = RunRecord(
            id=run_id.hex,
            team=caller.team,
            created_at=time.time(),
            state="queued",
            caller=_encode(_stored_caller(caller)),
            request=encode_request(upload.request),
            digest=digest,
            rows=rows,
            simulated=_is_simulated(work),
        )
        # A client that leaves now leaves a run behind, to which an equal call attaches, rather than half of one.
        await asyncio.shield(self._insert(record, work, lock))
        return record, True

    async def _insert(self, record: RunRecord, work: TableWork, lock: RunLock) -> None:
        try:
            await run_in_thread(self.store.insert, record)
        except BaseException:
            await run_in_thread(self._discard, record.id, lock)
            raise
        await self._begin(record, work, lock)

    def _discard(self, run_id: str, lock: RunLock) -> None:
        """Delete what was written of a run that was not created after all."""
        lock.release()
        self.store.discard(run_id)

    async def take_up(self) -> None:
        """Begin the runs that no process executes."""
        if self._is_leaving:
            return
        for record in await run_in_thread(self.store.unfinished):
            if record.id in self.active:
                continue
            lock = await run_in_thread(self.store.try_lock, record.id)
            if lock is None:
                continue
            try:
                work = await self._restored_work(record)
            except ConnectorError as error:
                lock.release()
                if isinstance(error.error, REFUSALS):
                    await self._end(record, "failed", error_text(error.error))
                continue
            except Exception:
                LOGGER.exception("run %s cannot be taken up", record.id)
                lock.release()
                await self._end(record, "failed", "the service had an internal error when it took the run up again")
                continue
            if work is None:
                lock.release()
                continue
            await self._begin(record, work, lock)

    async def _restored_work(self, record: RunRecord) -> TableWork | None:
        """Return the work of a run that an earlier process began; ``None`` if it is not for this service.

        Raises
        ------
        ConnectorError
            The key was revoked, or the model does not exist any more.
        """
        from llmhub.server.table_work import TableWork  # noqa: PLC0415 - as above

        caller = await restore_caller(self.service.access, **msgspec.json.decode(record.caller))
        context = RequestContext(
            request_id=f"run_{record.id}", caller=caller, lane="bulk", deadline=inf, route=RUN_ROUTE
        )
        work = TableWork(self.service, context, request_from_json(record.request), waits=True)
        return work if _is_simulated(work) == record.simulated else None

    async def _begin(self, record: RunRecord, work: TableWork, lock: RunLock) -> None:
        log = await run_in_thread(self.store.open_results, record.id, lock)
        counter = RunCounter(work.models, record.rows * len(work.models) * work.request.n)
        active = ActiveRun(record, work, lock, log, counter, is_resumed=record.started_at is not None)
        if record.state == "stopping":
            active.request_stop()
        self.active[record.id] = active
        active.task = asyncio.create_task(self._execute(active))

    # Execution

    async def _execute(self, active: ActiveRun) -> None:
        """Execute a run to its end, or until the service ends."""
        record = active.record
        state: RunState = "failed"
        error = ""
        try:
            # A run that waits for batches for hours keeps no other one waiting.
            async with nullcontext() if active.work.is_batch else self._executing:
                if active.is_leaving:
                    return
                if record.state == "queued":
                    active.record = record = replace(record, state="running", started_at=time.time())
                    await run_in_thread(
                        lambda: self.store.update(record.id, state="running", started_at=record.started_at)
                    )
                await self._send(active)
            state = "stopped" if active.is_stopping else "done"
        except ConnectorError as refusal:
            error = error_text(refusal.error)
        except asyncio.CancelledError:
            active.is_leaving = True
            raise
        except (StoreError, RunLostError) as lost:
            LOGGER.warning("run %s is left to the process that takes it up: %s", record.id, lost)
            active.is_leaving = True
        except Exception:
            LOGGER.exception("run %s", record.id)
            error = f"the service had an internal error; its log has the details under run {record.id}"
        finally:
            await asyncio.shield(self._close(active, state, error))

    async def _close(self, active: ActiveRun, state: RunState, error: str) -> None:
        """Record the end of a run, unless another process is to go on with it."""
        record = active.record
        if not active.is_leaving:
            totals = RunTotals(results=active.counter.results, models=active.counter.with_forecasts())
            with suppress(StoreError):  # then it is taken up again, and has nothing left to send
                await self._end(record, state, error, _encode(totals))
        await run_in_thread(active.log.close)
        await run_in_thread(active.lock.release)
        self.active.pop(record.id, None)
        active.notify()

    async def _store_totals(self, active: ActiveRun) -> None:
        """Store the counts so far, for clients of other processes, and until the next one takes the run up."""
        totals = _encode(RunTotals(results=active.counter.results, models=active.counter.with_forecasts()))
        if totals != active.record.summary:
            active.record = replace(active.record, summary=totals)
            await run_in_thread(lambda: self.store.update(active.record.id, summary=totals))

    async def _end(self, record: RunRecord, state: RunState, error: str, summary: bytes = b"") -> None:
        values: dict[str, object] = {"state": state, "error": error, "ended_at": time.time()}
        if summary:
            values["summary"] = summary
        await run_in_thread(lambda: self.store.update(record.id, **values))

    async def _send(self, active: ActiveRun) -> None:
        """Send the rows of a run that have no result in its log."""
        record, work = active.record, active.work
        logged, logged_keys = await run_in_thread(read_log, active) if active.is_resumed else (None, set())
        journal = await run_in_thread(self._open_journal, active)
        paid = await run_in_thread(paid_keys, active, journal) - logged_keys if active.is_resumed else set()
        work.options = {**work.options, **budget_left(active), **resumed_cache_mode(active)}
        origin = CALL_ORIGIN.set(
            CallOrigin(request_id=work.context.request_id, key_id=work.context.key_id, team=work.context.team)
        )
        forecast = None if record.forecast else asyncio.create_task(self._forecast(active))

        async def on_table(table: pa.Table) -> None:
            async with active.writing:
                await run_in_thread(log_results, active, table, paid)
            active.notify()

        try:
            blocks = input_blocks(await run_in_thread(self.store.input_path, record.id))
            run_id = uuid.UUID(record.id)
            await work.send(blocks, on_table, active.stop, run_id, is_logged=logged, journal=journal)
        finally:
            CALL_ORIGIN.reset(origin)
            if forecast is not None:
                forecast.cancel()
                with suppress(asyncio.CancelledError):
                    await forecast
            if journal is not None:
                await asyncio.shield(run_in_thread(journal.close))
        if not active.is_leaving:
            await run_in_thread(self.store.remove_journal, record.id)

    def _open_journal(self, active: ActiveRun) -> Store | None:
        """Open the journal of a run, unless a cache keeps its responses."""
        hub = self.service.hub
        cache: Any = hub.cache
        mode = resolve_mode(active.work.options.get("cache"), hub.runtime.cache_mode)
        is_kept = cache is not None and not isinstance(cache, MemoryCache) and (mode.reads or mode.writes)
        if is_kept and (not self.store.is_shared or reach_of(cache) == "machines"):
            return None
        return self.store.open_journal(active.record.id)

    async def _forecast(self, active: ActiveRun) -> None:
        """Plan a run, and store its forecast."""
        try:
            path = await run_in_thread(self.store.input_path, active.record.id)
            forecast = await run_in_thread(plan_of, active, path)
        except Exception:
            LOGGER.exception("run %s: no forecast", active.record.id)
            return
        active.record = replace(active.record, forecast=_encode(forecast))
        await run_in_thread(lambda: self.store.update(active.record.id, forecast=active.record.forecast))

    # What clients ask

    async def find(self, run_id: str, team: str) -> RunRecord:
        """Return a run of a team.

        Raises
        ------
        NotFoundError
            The team has no such run.
        """
        active = self.active.get(run_id)
        if active is not None and active.record.team == team:
            return active.record
        record = await run_in_thread(self.store.get, run_id, team)
        if record is None:
            raise to_exception(NotFound(path="id", message=f"there is no run {run_id!r:.80}"))
        return record

    def status(self, record: RunRecord) -> RunStatus:
        """Return the state of a run."""
        active = self.active.get(record.id)
        request = request_from_json(record.request)
        if active is not None:
            totals = RunTotals(results=active.counter.results, models=active.counter.with_forecasts())
        elif record.summary:
            totals = msgspec.json.decode(record.summary, type=RunTotals)
        else:
            totals = RunTotals()
        models = totals.models
        total = sum([model.total for model in models]) or record.rows * len(request.models) * request.n
        done = sum([model.ok + model.failed + model.skipped for model in models])
        rate = active.counter.rows_per_s if active is not None else 0.0
        limited_by, refused_by = self._limits(active) if active is not None else ("", "")
        return RunStatus(
            id=record.id,
            name=request.name,
            state="stopping" if active is not None and active.is_stopping else record.state,
            now=time.time(),
            created_at=record.created_at,
            started_at=record.started_at,
            ended_at=record.ended_at,
            rows=record.rows,
            total=total,
            done=done,
            results=totals.results,
            spent_usd=sum_if_known([model.spent_usd for model in models]),
            forecast_usd=sum_if_known([model.forecast_usd for model in models]),
            forecast=msgspec.json.decode(record.forecast, type=RunForecast) if record.forecast else None,
            rows_per_s=rate,
            remaining_s=(total - totals.results) / rate if rate else None,
            in_flight=active.work.counts.sending if active is not None else 0,
            limited_by=limited_by,
            refused_by=refused_by,
            error=record.error,
            simulated=record.simulated,
            mode=request.mode,
            key_id=msgspec.json.decode(record.caller)["key_id"],
            models=models,
        )

    def list_runs(self, team: str | None, limit: int) -> Sequence[RunView]:
        """Return the runs of a team, or of all, for the page. It blocks."""
        return [self._view(record) for record in self.store.latest(team, limit)]

    def _view(self, record: RunRecord) -> RunView:
        status = self.status(record)
        return RunView(
            id=record.id,
            kind="run",
            team=record.team,
            key_id=status.key_id,
            models=tuple(model.model for model in status.models),
            state=status.state,
            rows=status.total,
            done=status.done,
            failed=sum([model.failed for model in status.models]),
            billed_usd=status.spent_usd,
            forecast_usd=status.forecast_usd if status.forecast is None else status.forecast.expected_usd,
            created_at=record.created_at,
            ended_at=record.ended_at,
            remaining_s=status.remaining_s,
            waits_for=status.refused_by or status.limited_by,
        )

    def _limits(self, active: ActiveRun) -> tuple[str, str]:
        """Return what holds a run back, and what a provider says that refuses every request."""
        if active.record.state == "queued":
            return "other runs", ""
        client, counts = self.service.hub.runtime.client, active.work.counts
        names = [target.name for model in active.work.models for target in self.service.hub.targets(model)]
        reason = next(filter(None, map(client.rate_limiter.wait_reason, names)), "")
        refusal = next(filter(None, map(client.refusal, names)), "")
        if not reason and counts.waiting:
            reason = "other calls of the service"
        limit = active.work.options.get("concurrency") or self.service.hub.concurrency
        if not reason and counts.sending >= SATURATED_SHARE * limit:
            reason = "concurrency"
        return reason, refusal

    async def rows(self, record: RunRecord, after: int, limit: int, wait_s: float) -> tuple[pa.Table, bool]:
        """Return results after the first ``after``, and whether there can be no more.

        Waits up to ``wait_s`` for the first one.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            active = self.active.get(record.id)
            if active is None:
                record = await self.find(record.id, record.team)
            # Asked before the log is read: one that has ended gets no further results.
            has_ended = active is None and record.state not in UNFINISHED
            changed = None if active is None else active.changed
            table, rows = await run_in_thread(read_results, self.store, record.id, active, after, limit)
            is_late = asyncio.get_running_loop().time() >= deadline
            if len(table) or has_ended or is_late or self._is_leaving:
                return table, has_ended and after + len(table) >= rows
            # A run of another process is looked at from time to time.
            pause = asyncio.sleep(min(wait_s, LOOK_S)) if changed is None else changed.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await pause

    async def stop(self, record: RunRecord) -> None:
        """Send nothing more for a run; a second call cancels what is in flight too."""
        if record.state not in UNFINISHED:
            return
        await run_in_thread(lambda: self.store.update(record.id, state="stopping"))
        active = self.active.get(record.id)
        if active is not None:
            active.record = replace(active.record, state="stopping")
            active.request_stop()

    # Life

    async def patrol(self) -> None:
        """Take up what other processes have left, and stop what clients of other processes have stopped."""
        removed_at = 0.0
        while not self._is_leaving:
            try:
                for active in list(self.active.values()):
                    if not await run_in_thread(active.lock.renew):
                        self._abandon(active)
                await self.take_up()
                for active in list(self.active.values()):
                    record = await run_in_thread(self.store.get, active.record.id, active.record.team)
                    if record is not None and record.state == "stopping" and not active.is_stopping:
                        await self.stop(record)
                    await self._store_totals(active)
                if time.monotonic() - removed_at > DAY_S / 24:
                    removed_at = time.monotonic()
                    oldest = time.time() - self.service.settings.runs.keep_days * DAY_S
                    await run_in_thread(self.store.remove_ended_before, oldest)
                    await run_in_thread(self.store.remove_strays)
            except StoreError as error:
                LOGGER.warning("runs cannot be taken up: %s", error)
            except Exception:
                LOGGER.exception("runs cannot be taken up")
            await asyncio.sleep(PATROL_S)

    def leave(self) -> None:
        """Send nothing more: what is not answered is left to the next process."""
        if self._is_leaving:
            return
        self._is_leaving = True
        for active in self.active.values():
            self._abandon(active)

    def _abandon(self, active: ActiveRun) -> None:
        """Send nothing more for a run: another process goes on with it."""
        active.is_leaving = True
        active.stop.request()
        active.notify()

    async def close(self) -> None:
        """Wait for calls in flight, as long as the service's settings permit, and close everything."""
        self.leave()
        tasks = [active.task for active in self.active.values() if active.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self.service.settings.drain_timeout_s)
            for active in list(self.active.values()):
                active.stop.request()
            _, pending = await asyncio.wait(tasks, timeout=5.0)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
        await run_in_thread(self.store.close)


@asynccontextmanager
async def lifespan(service: Service) -> AsyncIterator[None]:
    """Open the runs of a service, and take up those that have not ended."""
    runs = Runs(service, await run_in_thread(open_run_store, service))
    service.resources[Runs] = runs
    service.on_drain(runs.leave)
    service.run_sources.append(runs)
    patrol = asyncio.create_task(runs.patrol())
    try:
        yield
    finally:
        patrol.cancel()
        await asyncio.wait([patrol])
        await runs.close()


def _is_simulated(work: TableWork) -> bool:
    hub = work.service.hub
    return any(target.endpoint.simulated for model in work.models for target in hub.targets(model))


def _stored_caller(caller: Caller) -> dict[str, Any]:
    """Return what is stored of a caller, to find it again."""
    return {
        "key_id": caller.key_id,
        "team": caller.team,
        "scopes": sorted(caller.scopes),
        "models": list(caller.models),
        "weight": caller.weight,
        "cache_scope": caller.cache_scope,
    }
