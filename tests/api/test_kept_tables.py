"""No exception loses a table of paid responses: whatever is raised carries it in its ``table`` attribute."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import dataset

import llmhub
import llmhub.errors
from llmhub.api import map_rows, sink, table_stream, tables
from llmhub.cache.store import Store, StoreError
from llmhub.config import Settings
from llmhub.core.errors import attach_table, to_exception
from llmhub.engine import cache_writer, event_loop, progress
from llmhub.sim import SimulatorThread
from llmhub.tables import frames, results, streaming_io, structured_outputs
from llmhub.tables.schema import RESULTS

MODEL = "openai/gpt-4o-mini"
ROWS = 12
FRAME = {"n": [str(number) for number in range(ROWS)]}
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}

EXCEPTIONS = [
    pytest.param(OSError(24, "Too many open files"), id="OSError"),
    pytest.param(MemoryError(), id="MemoryError"),
    pytest.param(RuntimeError("broken"), id="RuntimeError"),
    pytest.param(RuntimeWarning("a warning as an error"), id="Warning"),
    pytest.param(KeyboardInterrupt(), id="KeyboardInterrupt"),
]
FAILURES = EXCEPTIONS[:-1]


class Abort(BaseException):
    """An exception of another library that is no `Exception`."""


def raising_function(error: BaseException, after: int = 0) -> Callable[..., Any]:
    """Return a function that raises ``error``, from its call number ``after`` on if it is called in between."""

    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def hub_at(simulator: SimulatorThread, **options: Any) -> llmhub.Hub:
    return llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), concurrency=4, **options)


def ask(hub: llmhub.Hub, **options: Any) -> pa.Table:
    return llmhub.complete_table(FRAME, "Say {n}", model=MODEL, hub=hub, **{"progress": False, **options})


def assert_complete(table: Any) -> None:
    """Check that a table has the response of every row."""
    assert isinstance(table, pa.Table)
    assert table.schema.names == RESULTS.names
    assert table.column("row").to_pylist() == list(range(ROWS))
    assert table.column("status").to_pylist() == ["ok"] * ROWS
    assert all(table.column("response").to_pylist())


def assert_paid_rows(table: Any, paid: int) -> None:
    """Check that a table has ``paid`` responses, and that the other rows are cancelled."""
    statuses = table.column("status").to_pylist()
    assert len(statuses) == ROWS
    assert statuses.count("ok") == paid
    assert statuses.count("cancelled") == ROWS - paid


# After the responses have arrived


@pytest.mark.parametrize("error", FAILURES)
def test_a_failing_price_lookup_leaves_the_price_unknown(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with hub_at(simulator) as hub:
        with monkeypatch.context() as patch:
            patch.setattr(results, "find_served_price", raising_function(error))
            with pytest.warns(RuntimeWarning, match="prices could not be looked up"):
                table = ask(hub)
        assert_complete(table)
        assert table.column("cost_usd").null_count == ROWS
        assert table.column("input_tokens").null_count == 0
        # The next run looks prices up again.
        assert ask(hub).column("cost_usd").null_count == 0


PLACES_AFTER = [
    pytest.param(results, "columns_from_outcomes", id="columns"),
    pytest.param(results, "_parsed_column", id="parsed"),
    pytest.param(results, "_build_table", id="table"),
    pytest.param(tables, "warn_run_problems", id="warnings"),
    pytest.param(tables, "raise_if_cache_failed", id="cache check"),
    pytest.param(structured_outputs, "parse_structured_outputs", id="schema"),
]


@pytest.mark.parametrize("error", EXCEPTIONS)
@pytest.mark.parametrize(("module", "name"), PLACES_AFTER)
def test_an_exception_after_the_responses_carries_the_table(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, error: BaseException
) -> None:
    monkeypatch.setattr(module, name, raising_function(error))
    with hub_at(simulator) as hub, pytest.raises(type(error)) as caught:
        ask(hub, schema=SCHEMA)
    assert caught.value is error
    table = caught.value.table  # type: ignore[attr-defined]
    assert table.num_rows == ROWS
    assert all(table.column("response").to_pylist())
    assert table.column("input_tokens").null_count == 0
    assert any("table" in note for note in caught.value.__notes__)


# While the run is under way


def test_a_defect_of_one_row_ends_the_run_with_the_responses_so_far(simulator: SimulatorThread) -> None:
    """Requests in flight are paid for, so they are awaited; nothing more is sent."""
    error = RuntimeError("broken")

    def wrap(send: Any) -> Any:
        async def send_or_fail(call: Any) -> Any:
            if call.request.messages[-1].text == "Say 5":
                raise error
            return await send(call)

        return send_or_fail

    with hub_at(simulator) as hub:
        client = hub.runtime.client
        client.send_uncached = client.send_unobserved = wrap(client.send_unobserved)
        with pytest.raises(RuntimeError) as caught:
            ask(hub)
    assert caught.value is error
    paid = simulator.counts()["requests"]
    assert_paid_rows(caught.value.table, paid)  # type: ignore[attr-defined]
    assert caught.value.table.column("error")[5].as_py() == "the run was ended by RuntimeError: broken"  # type: ignore[attr-defined]
    assert 3 <= paid < ROWS


def test_system_exit_of_a_middleware_leaves_the_loop_running(simulator: SimulatorThread) -> None:
    def exit_at_once(_send: Any) -> Any:
        async def send(_call: Any) -> Any:
            raise SystemExit(3)

        return send

    with hub_at(simulator, middleware=(exit_at_once,)) as hub, pytest.raises(SystemExit) as caught:
        ask(hub)
    assert caught.value.code == 3
    assert caught.value.table.num_rows == ROWS  # type: ignore[attr-defined]
    with hub_at(simulator) as hub:
        assert_complete(ask(hub))


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("name", ["add", "add_misses", "progress", "look_up_prices"])
def test_a_failing_progress_tracker_ends_the_reports_only(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    with hub_at(simulator) as hub:
        if name != "progress":
            monkeypatch.setattr(progress.ProgressTracker, name, raising_function(error))
        reports: list[Any] = []
        report = raising_function(error) if name == "progress" else reports.append
        with pytest.warns(RuntimeWarning, match="progress"):
            assert_complete(ask(hub, progress=report))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError()])
def test_what_ends_a_program_ends_the_reports_only_if_a_progress_callback_raises_it(
    simulator: SimulatorThread, error: BaseException
) -> None:
    with hub_at(simulator) as hub, pytest.warns(RuntimeWarning, match=f"progress.*{type(error).__name__}"):
        assert_complete(ask(hub, progress=raising_function(error)))


@dataclass(frozen=True)
class BrokenCache:
    """A cache whose store raises ``error`` in one of its functions."""

    name: str
    error: Exception
    cache: Any

    def open(self) -> Store:
        store = self.cache.open()
        fail = raising_function(self.error)
        if self.name == "claim":
            return replace(store, claims=replace(store.claims, claim=fail))
        if self.name in {"commit", "try_commit"}:
            return replace(store, ledger=replace(store.ledger, **{self.name: fail}))
        return replace(store, **{self.name: fail})


STORE_FUNCTIONS = ["get_many", "get_block", "put_many", "nonblocking_put", "claim", "commit", "try_commit"]


@pytest.mark.parametrize("error", [StoreError("disk"), *FAILURES])
@pytest.mark.parametrize("name", STORE_FUNCTIONS)
def test_whatever_a_store_raises_is_a_warning(
    simulator: SimulatorThread, tmp_path: Path, name: str, error: Exception
) -> None:
    cache = BrokenCache(name, error, llmhub.DiskCache(tmp_path / "runs.db"))
    with hub_at(simulator, cache=cache) as hub, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_complete(ask(hub))
    assert all(issubclass(warning.category, RuntimeWarning) for warning in caught)
    assert caught or name in {"get_many", "commit"}  # not used here while the other functions work


@pytest.mark.parametrize("name", ["put_many", "claim", "try_commit"])
def test_a_warning_that_is_an_error_carries_the_table(simulator: SimulatorThread, tmp_path: Path, name: str) -> None:
    cache = BrokenCache(name, StoreError("disk"), llmhub.DiskCache(tmp_path / "runs.db"))
    with hub_at(simulator, cache=cache) as hub, pytest.raises(RuntimeWarning) as caught:
        ask(hub)
    assert_complete(caught.value.table)  # type: ignore[attr-defined]


def test_a_warning_that_is_an_error_carries_the_response_of_a_single_call(
    simulator: SimulatorThread, tmp_path: Path
) -> None:
    cache = BrokenCache("put_many", StoreError("disk"), llmhub.DiskCache(tmp_path / "runs.db"))
    with hub_at(simulator, cache=cache) as hub, pytest.raises(RuntimeWarning) as caught:
        llmhub.complete("Say hi", model=MODEL, hub=hub)
    assert caught.value.response.text  # type: ignore[attr-defined]


def test_a_response_that_cannot_be_stored_is_returned(simulator: SimulatorThread, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        cache_writer, "pack_outcome", raising_function(UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "x"))
    )
    with hub_at(simulator, cache=llmhub.MemoryCache()) as hub, pytest.warns(RuntimeWarning, match="cannot be encoded"):
        assert_complete(ask(hub))


def test_half_a_surrogate_pair_does_not_lose_the_other_rows(scripted: Any, replies: Any) -> None:
    server = scripted([replies.answer("half \\ud83d")], [replies.answer("whole")])
    endpoint = llmhub.Endpoint(base_url=f"{server.url}/v1", api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), concurrency=1) as hub:
        try:
            table = ask(hub)
        except UnicodeEncodeError as error:
            table = error.table  # type: ignore[attr-defined]
    responses = table.column("response").to_pylist()
    assert responses[1:] == ["whole"] * (ROWS - 1)


# Interrupted


def test_the_third_interrupt_carries_the_table(simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "run_sync", interrupted_at_the_end)
    with hub_at(simulator) as hub, pytest.raises(KeyboardInterrupt) as caught:
        ask(hub)
    assert_complete(caught.value.table)  # type: ignore[attr-defined]


def interrupted_at_the_end(work: Any, **options: Any) -> Any:
    event_loop.run_sync(work, **options)
    raise KeyboardInterrupt


async def test_a_cancelled_run_carries_the_table(scripted: Any, replies: Any) -> None:
    never = threading.Event()
    server = scripted([replies.answer("one")], [replies.answer("two")], [never])
    endpoint = llmhub.Endpoint(base_url=f"{server.url}/v1", api_key="k")
    with llmhub.Hub(endpoints={"openai": endpoint}, settings=Settings(), concurrency=1) as hub:
        asking = asyncio.ensure_future(llmhub.acomplete_table(FRAME, "Say {n}", model=MODEL, hub=hub, progress=False))
        while len(server.requests) < 3:  # noqa: ASYNC110 - received in another thread
            await asyncio.sleep(0.005)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await asking
        never.set()
    assert_paid_rows(caught.value.table, 2)  # type: ignore[attr-defined]


# Other ways to run


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_an_exception_while_a_frame_is_joined_carries_the_table(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    frame = pd.DataFrame(FRAME)
    with hub_at(simulator) as hub:
        monkeypatch.setattr(frames, "join_rows", raising_function(error))
        with pytest.raises(type(error)) as caught:
            frame.llm.complete("Say {n}", model=MODEL, hub=hub, progress=False)
        assert_complete(caught.value.table)  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", EXCEPTIONS)
def test_an_exception_while_a_series_is_made_carries_the_table(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(frames, "series_like", raising_function(error))
    with hub_at(simulator) as hub, pytest.raises(type(error)) as caught:
        pd.Series(FRAME["n"]).llm.complete("Say {}", model=MODEL, hub=hub, progress=False)
    assert_complete(caught.value.table)  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", EXCEPTIONS)
@pytest.mark.parametrize("name", ["_write_results", "_billed_usd"])
def test_an_exception_of_a_sink_carries_the_table_of_its_block(
    simulator: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    monkeypatch.setattr(sink, name, raising_function(error))
    with hub_at(simulator) as hub, pytest.raises(type(error)) as caught:
        ask(hub, sink=tmp_path / "parts")
    assert_complete(caught.value.table)  # type: ignore[attr-defined]


def test_the_table_of_an_exception_is_written_to_the_sink(
    simulator: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "warn_run_problems", raising_function(RuntimeWarning("as an error")))
    with hub_at(simulator) as hub, pytest.raises(RuntimeWarning):
        ask(hub, sink=tmp_path / "parts")
    assert_complete(dataset.dataset(tmp_path / "parts").to_table())


ENDS: list[BaseException] = [
    ValueError("no more"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    StopAsyncIteration(),
    Abort(),
]


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("is_awaited", [False, True])
def test_whatever_a_source_raises_is_raised_once_the_blocks_before_it_are_in_the_sink(
    simulator: SimulatorThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    is_awaited: bool,
) -> None:
    monkeypatch.setattr(streaming_io, "BLOCK_ROWS", ROWS)

    def batches() -> Iterator[pa.Table]:
        yield pa.table(FRAME)
        raise error

    with hub_at(simulator) as hub:
        options: Any = {"model": MODEL, "hub": hub, "progress": False, "sink": tmp_path / "parts"}

        async def ask_awaited() -> BaseException | None:
            try:
                await llmhub.acomplete_table(batches(), "Say {n}", **options)
            except BaseException as raised:  # noqa: BLE001 - whatever a source raises
                await asyncio.sleep(0)  # as a program that closes its own connections
                return raised
            return None

        if is_awaited:
            raised = asyncio.run(ask_awaited())
        else:
            with pytest.raises(type(error)) as caught:
                llmhub.complete_table(batches(), "Say {n}", **options)
            raised = caught.value
    assert (type(raised), str(raised)) == (type(error), str(error))
    assert_complete(dataset.dataset(tmp_path / "parts").to_table())
    assert list((tmp_path / "parts").glob(".*")) == []  # the journal is closed and removed


def test_a_stream_that_raises_for_a_failure_carries_the_rows_that_came_with_it(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("broken")
    monkeypatch.setattr(table_stream, "apply_schema", raising_function(error))
    with hub_at(simulator) as hub, pytest.raises(RuntimeError) as caught:
        list(llmhub.stream_table(FRAME, "Say {n}", model=MODEL, hub=hub, progress=False))
    assert set(caught.value.table.column("status").to_pylist()) == {"ok"}  # type: ignore[attr-defined]


def test_the_values_of_a_map_are_kept(simulator: SimulatorThread) -> None:
    error = OSError("broken")

    def say(row: Any) -> str:
        if row.n == "5":
            raise error
        return llmhub.complete(f"Say {row.n}", model=MODEL).text

    with hub_at(simulator) as hub, pytest.raises(OSError, match="broken") as caught:
        map_rows(FRAME, say, hub=hub, concurrency=1)
    assert [bool(value) for value in vars(caught.value)["values"]] == [True] * 5 + [False] * 7


def test_exceptions_are_pickled_with_their_table(simulator: SimulatorThread) -> None:
    with hub_at(simulator) as hub:
        table = ask(hub)
    error = to_exception(llmhub.errors.RateLimited(message="slow"))
    attach_table(error, table)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.table) == (type(error), str(error), table)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_n_jobs_with_on_error_raise_keeps_the_table(simulator: SimulatorThread, n_jobs: int) -> None:
    frame = {"n": [*FRAME["n"][:5], "[[sim:quota]]", *FRAME["n"][6:]]}
    with hub_at(simulator) as hub, pytest.raises(llmhub.errors.QuotaExceededError) as caught:
        llmhub.complete_table(frame, "Say {n}", model=MODEL, hub=hub, n_jobs=n_jobs, on_error="raise", progress=False)
    statuses = caught.value.table.column("status").to_pylist()
    assert statuses == ["ok"] * 5 + ["error"] + ["ok"] * 6
