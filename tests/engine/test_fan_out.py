"""The fan-out: order, concurrency, the store, stopping and progress, with a scripted provider."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.cache.memory import MemoryCache
from llmhub.cache.store import Entry, Store, StoreError
from llmhub.core.errors import Cancelled, ServerError
from llmhub.core.provider import Endpoint
from llmhub.core.serialization import StoredResponse, encode_response, from_stored_response, unpack
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Text
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.fan_out import DRAIN_TIMEOUT_S, run_fan_out
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, PlannedItem, Sender
from llmhub.engine.progress import Progress, ProgressSink, ProgressTracker
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.store_access import StoreAccess
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]
TARGET: Any = Target(None, Endpoint(), "m", "p/m")  # type: ignore[arg-type]
NOT_SENT = "!cancelled before the request was sent"


def make_call(text: str, key: bytes | None = None) -> Call:
    return Call(TARGET, CompletionRequest(model="m", messages=(Message("user", text),)), key=key)


def key_of(text: str) -> bytes:
    return sha256(text.encode()).digest()


def items(texts: Iterable[str]) -> Iterator[PlannedItem]:
    return ((position, key_of(text), make_call, text) for position, text in enumerate(texts))


def chunks(texts: Iterable[str], size: int = 3) -> Iterator[list[PlannedItem]]:
    planned = list(items(texts))
    return iter([planned[start : start + size] for start in range(0, len(planned), size)])


@dataclass
class ScriptedProvider:
    """Answers each text with its upper case after a latency, or with an error, and records what was sent."""

    latency_s: float = 1.0
    latency_by_text: Mapping[str, float] = field(default_factory=dict)
    failing: frozenset[str] = frozenset()
    on_send: Callable[[str], None] = lambda _: None
    in_flight: set[asyncio.Task[object]] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    max_in_flight: int = 0

    async def send(self, call: Call) -> Answer:
        text = call.request.messages[-1].text
        task = asyncio.current_task()
        assert task is not None
        self.in_flight.add(task)
        self.sent.append(text)
        self.max_in_flight = max(self.max_in_flight, len(self.in_flight))
        try:
            self.on_send(text)
            await asyncio.sleep(self.latency_by_text.get(text, self.latency_s))
        finally:
            self.in_flight.discard(task)
        if text in self.failing:
            return Answer(Failure(ServerError(message=text)), attempts=1, total_s=1.0)
        return Answer(Success(CompletionResponse(parts=(Text(text.upper()),))), attempts=1, total_s=1.0, started_at=1e9)

    def sender(self, store: Store | None = None, **options: Any) -> Sender:
        return Sender(send=self.send, in_flight=self.in_flight, access=StoreAccess(store=store), **options)


async def run(
    texts: Sequence[str],
    provider: ScriptedProvider,
    stop: StopSignal | None = None,
    *,
    chunk_size: int = 3,
    store: Store | None = None,
    **options: Any,
) -> FanOutResult:
    spec = FanOutSpec(size=len(texts), chunks=chunks(texts, chunk_size), **options)
    return await run_fan_out(spec, provider.sender(store), stop or StopSignal())


def run_virtual(virtual: Any, texts: Sequence[str], provider: ScriptedProvider, *args: Any, **options: Any) -> Any:
    """Run texts in virtual time."""

    async def work(_clock: Clock) -> FanOutResult:
        return await run(texts, provider, *args, **options)

    return virtual.run(work)


def run_spec(virtual: Any, spec: FanOutSpec, sender: Sender, stop: StopSignal | None = None) -> FanOutResult:
    """Run a specification in virtual time."""

    async def work(_clock: Clock) -> FanOutResult:
        return await run_fan_out(spec, sender, stop or StopSignal())

    result: FanOutResult = virtual.run(work)
    return result


def words(result: FanOutResult) -> list[str]:
    """Return each outcome in a word: its text, ``!`` and the error's message, or nothing where there is none."""
    return [word(outcome) for outcome in result.outcomes]


def word(outcome: Any) -> str:
    if outcome is None:
        return ""
    answered = as_answer(outcome).outcome
    return answered.unwrap().text if is_successful(answered) else f"!{answered.failure().message}"


# Order, deduplication and concurrency


@given(
    st.lists(st.sampled_from("abcdefghij"), max_size=30),
    st.dictionaries(st.sampled_from("abcdefghij"), st.floats(0, 5)),
    st.frozensets(st.sampled_from("abcdefghij"), max_size=4),
    st.integers(1, 8),
    st.integers(1, 7),
)
def test_each_item_gets_its_outcome_and_equal_items_are_sent_once(
    virtual: Any, texts: list[str], latencies: dict[str, float], failing: frozenset[str], concurrency: int, size: int
) -> None:
    provider = ScriptedProvider(latency_by_text=latencies, failing=failing)
    result = run_virtual(virtual, texts, provider, chunk_size=size, concurrency=concurrency)
    assert words(result) == [f"!{text}" if text in failing else text.upper() for text in texts]
    assert sorted(provider.sent) == sorted(set(texts))
    assert provider.max_in_flight <= concurrency
    calls = [outcome for outcome in result.outcomes if isinstance(outcome, Answer) and outcome.attempts]
    assert len(calls) == len(set(texts))


@pytest.mark.parametrize(("concurrency", "count", "expected"), [(1, 5, 1), (4, 100, 4), (64, 10, 10), (200, 1000, 200)])
def test_concurrency_is_reached_and_not_exceeded(virtual: Any, concurrency: int, count: int, expected: int) -> None:
    provider = ScriptedProvider()
    texts = [str(number) for number in range(count)]
    run_virtual(virtual, texts, provider, chunk_size=CHUNK_SIZE, concurrency=concurrency)
    assert provider.max_in_flight == expected


def test_a_free_slot_is_used_at_once(virtual: Any) -> None:
    async def work(clock: Clock) -> float:
        texts = [str(number) for number in range(1000)]
        await run(texts, ScriptedProvider(latency_by_text={"0": 100.0}), chunk_size=CHUNK_SIZE, concurrency=10)
        return clock()

    assert virtual.run(work) == pytest.approx(111.0, abs=12)


def test_positions_without_an_item_have_no_outcome(virtual: Any) -> None:
    planned = [item for item in items("abcd") if item[0] in {1, 3}]
    result = run_spec(virtual, FanOutSpec(size=4, chunks=iter([planned])), ScriptedProvider().sender())
    assert words(result) == ["", "B", "", "D"]


@pytest.mark.parametrize("planned", [[], [[]], [[], [], []]])
def test_a_run_without_items_ends(virtual: Any, planned: list[list[PlannedItem]]) -> None:
    result = run_spec(virtual, FanOutSpec(size=0, chunks=iter(planned)), ScriptedProvider().sender())
    assert result.outcomes == []


def test_a_later_duplicate_gets_the_existing_outcome(virtual: Any) -> None:
    provider = ScriptedProvider(failing=frozenset("x"))
    texts = ["a", "x", *"bcdefgh" * 3, "a", "x"]
    result = run_virtual(virtual, texts, provider, chunk_size=2, concurrency=1)
    assert words(result)[-2:] == ["A", "!x"]
    assert isinstance(result.outcomes[-2], StoredResponse)
    assert isinstance(result.outcomes[-1], Answer)
    assert result.outcomes[-1].attempts == 0
    assert provider.sent.count("a") == provider.sent.count("x") == 1


def test_chunks_are_drawn_lazily(virtual: Any) -> None:
    drawn, max_tasks, concurrency = 0, 0, 50
    stop = StopSignal()
    drawn_at_send: list[int] = []

    def endless() -> Iterator[list[PlannedItem]]:
        nonlocal drawn
        for start in range(0, 1_000_000, 100):
            if stop.requested:
                return
            drawn += 100
            yield [(row, row.to_bytes(32, "big"), make_call, str(row)) for row in range(start, start + 100)]

    def count(_text: str) -> None:
        nonlocal max_tasks
        max_tasks = max(max_tasks, len(asyncio.all_tasks()))
        drawn_at_send.append(drawn)
        if len(drawn_at_send) == 1000:
            stop.request()

    provider = ScriptedProvider(on_send=count)
    spec = FanOutSpec(size=1_000_000, chunks=endless(), concurrency=concurrency)
    result = run_spec(virtual, spec, provider.sender(), stop)
    assert len(provider.sent) == 1000
    assert all(already <= sent + 2 * concurrency + 200 for sent, already in enumerate(drawn_at_send))
    assert drawn <= 1000 + 2 * concurrency + 200
    assert max_tasks <= 2 * concurrency + 5
    assert sum(outcome is not None for outcome in result.outcomes) == drawn


# Defects are raised


class DefectError(Exception):
    pass


def raise_at_c(text: str) -> None:
    if text == "c":
        raise DefectError(text)


def test_a_defect_in_sending_is_raised_and_ends_the_run(virtual: Any) -> None:
    provider = ScriptedProvider(on_send=raise_at_c)
    with pytest.raises(DefectError, match="c"):
        run_virtual(virtual, "abcdefgh", provider, concurrency=2)
    assert len(provider.sent) <= 4
    assert not provider.in_flight


def test_a_defect_in_planning_is_raised(virtual: Any) -> None:
    def broken() -> Iterator[list[PlannedItem]]:
        yield list(items("ab"))
        raise DefectError("planning")

    with pytest.raises(DefectError, match="planning"):
        run_spec(virtual, FanOutSpec(size=9, chunks=broken(), concurrency=1), ScriptedProvider().sender())


async def test_responses_before_a_defect_are_cached() -> None:
    provider, store = ScriptedProvider(on_send=raise_at_c, latency_s=0), MemoryCache().open()
    with pytest.raises(DefectError):
        await run("abc", provider, chunk_size=1, concurrency=1, store=store)
    assert set(store.get_many([key_of(text) for text in "abc"])) == {key_of("a"), key_of("b")}


# The store


def packed(text: str, key: str = "a") -> bytes:
    return encode_response(CompletionResponse(parts=(Text(text),)), key_of(key))


async def test_stored_responses_are_not_sent_and_new_ones_are_stored() -> None:
    provider, store = ScriptedProvider(latency_s=0, failing=frozenset("d")), MemoryCache().open()
    store.put_many([Entry(key_of("a"), packed("stored"))])
    result = await run("abcda", provider, store=store)
    assert words(result) == ["stored", "B", "C", "!d", "stored"]
    assert isinstance(result.outcomes[0], StoredResponse)
    assert sorted(provider.sent) == ["b", "c", "d"]
    assert set(store.get_many([key_of(text) for text in "abcd"])) == {key_of(text) for text in "abc"}
    second = ScriptedProvider(latency_s=0)
    result = await run("abc", second, store=store)
    assert (second.sent, result.store_error) == ([], "")
    assert words(result) == ["stored", "B", "C"]


async def test_the_store_is_read_in_bulk_and_in_threads() -> None:
    lookups: list[int] = []
    threads: set[int] = set()
    backing = MemoryCache().open()

    def get_many(keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        lookups.append(len(keys))
        threads.add(threading.get_ident())
        return backing.get_many(keys)

    def put_many(entries: Iterable[Entry]) -> None:
        threads.add(threading.get_ident())
        backing.put_many(entries)

    store = replace(backing, get_many=get_many, put_many=put_many)
    await run([str(number) for number in range(100)], ScriptedProvider(latency_s=0), chunk_size=50, store=store)
    assert lookups == [50, 50]
    assert threading.get_ident() not in threads
    assert backing.stats().entries == 100


async def test_equal_items_are_looked_up_once() -> None:
    lookups: list[bytes] = []
    backing = MemoryCache().open()
    store = replace(backing, get_many=lambda keys: (lookups.extend(keys), backing.get_many(keys))[1])
    await run("aabab" * 20, ScriptedProvider(latency_s=0), chunk_size=10, store=store)
    assert sorted(lookups) == sorted([key_of("a"), key_of("b")])


@pytest.mark.parametrize("damaged", [b"", b"\x00", packed("a")[:-1], packed("a").replace(b"a", b"b"), b"\xff" * 40])
async def test_a_damaged_value_is_a_miss_and_is_replaced(damaged: bytes) -> None:
    provider, store = ScriptedProvider(latency_s=0), MemoryCache().open()
    store.put_many([Entry(key_of("a"), damaged)])
    result = await run("aa", provider, store=store)
    assert words(result) == ["A", "A"]
    assert provider.sent == ["a"]
    assert store.get_many([key_of("a")])[key_of("a")] != damaged


def failing_store(method: str, after: int = 0) -> Store:
    """Return a store of which one method fails after so many calls."""
    backing, calls = MemoryCache().open(), 0

    def fail(*args: object) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise StoreError("the disk is full")
        return getattr(backing, method)(*args)

    return replace(backing, **{method: fail})


@pytest.mark.parametrize("method", ["get_many", "put_many"])
@pytest.mark.parametrize("after", [0, 2])
async def test_the_run_continues_without_a_store_that_fails(method: str, after: int) -> None:
    provider = ScriptedProvider(latency_s=0.03)
    texts = [str(number) for number in range(40)]
    result = await run(texts, provider, chunk_size=4, concurrency=4, store=failing_store(method, after))
    assert "the disk is full" in result.store_error
    assert ("could not be cached" in result.store_error) == (method == "put_many")
    assert not result.stopped_by_store_failure
    assert words(result) == texts
    assert sorted(provider.sent) == sorted(texts)


# Stopping


def test_the_first_stop_sends_nothing_more_and_drains_requests_in_flight(virtual: Any) -> None:
    stop = StopSignal()
    provider = ScriptedProvider(
        on_send=lambda text: stop.request() if text == "d" else None, latency_by_text={"c": 30.0}
    )
    result = run_virtual(virtual, "abcdefghaf", provider, stop, concurrency=2)
    assert provider.sent == ["a", "b", "c", "d"]
    assert words(result) == ["A", "B", "C", "D", *[NOT_SENT] * 4, "A", NOT_SENT]
    not_sent = [as_answer(outcome) for outcome in result.outcomes[4:8] if outcome is not None]
    assert all(isinstance(answer.outcome.failure(), Cancelled) for answer in not_sent)
    assert [answer.attempts for answer in not_sent] == [0] * 4


def test_the_second_stop_cancels_requests_in_flight(virtual: Any) -> None:
    stop = StopSignal()

    def stop_twice(text: str) -> None:
        if text == "d":
            stop.request()
            asyncio.get_running_loop().call_later(0.5, stop.request)

    provider = ScriptedProvider(on_send=stop_twice, latency_by_text={"a": 0.1, "b": 0.1, "c": 0.2})
    result = run_virtual(virtual, "abcdefd", provider, stop, concurrency=2)
    in_flight = "!cancelled while the request was in flight; the provider may have charged it"
    assert words(result)[:6] == ["A", "B", "C", in_flight, NOT_SENT, NOT_SENT]
    assert as_answer(result.outcomes[3]).attempts == 1
    assert as_answer(result.outcomes[6]).attempts == 0
    assert not provider.in_flight


def test_draining_times_out(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        stop = StopSignal()
        provider = ScriptedProvider(on_send=lambda _: stop.request(), latency_s=1e6)
        return await run("ab", provider, stop, concurrency=1), clock()

    result, ended_at = virtual.run(work)
    assert ended_at == pytest.approx(DRAIN_TIMEOUT_S, abs=1.0)
    assert "in flight" in words(result)[0]


def test_a_call_waiting_to_be_retried_is_cancelled_at_once(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        stop = StopSignal()

        async def send(_call: Call) -> Answer:
            asyncio.get_running_loop().call_later(1.0, stop.request)
            await asyncio.sleep(1e6)  # not in flight: between two attempts
            raise AssertionError

        spec = FanOutSpec(size=1, chunks=chunks("a"))
        return await run_fan_out(spec, Sender(send=send, in_flight=set()), stop), clock()

    result, ended_at = virtual.run(work)
    assert ended_at == pytest.approx(1.0)
    assert isinstance(as_answer(result.outcomes[0]).outcome.failure(), Cancelled)


def test_a_call_that_fails_while_draining_is_not_retried(virtual: Any) -> None:
    async def work(clock: Clock) -> float:
        stop, in_flight = StopSignal(), set()

        async def send(_call: Call) -> Answer:
            task = asyncio.current_task()
            in_flight.add(task)
            stop.request()
            await asyncio.sleep(2.0)
            in_flight.discard(task)
            await asyncio.sleep(1e6)  # the delay before the next attempt
            raise AssertionError

        await run_fan_out(FanOutSpec(size=1, chunks=chunks("a")), Sender(send=send, in_flight=in_flight), stop)
        return clock()

    assert virtual.run(work) == pytest.approx(2.0, abs=0.2)


def test_a_run_stopped_before_its_start_sends_nothing(virtual: Any) -> None:
    stop = StopSignal()
    stop.request()
    provider = ScriptedProvider()
    result = run_virtual(virtual, "aba", provider, stop)
    assert provider.sent == []
    assert words(result) == [NOT_SENT] * 3


async def test_a_run_can_be_stopped_from_another_thread() -> None:
    stop, started = StopSignal(), threading.Event()

    def stop_twice() -> None:
        assert started.wait(10)
        stop.request()
        stop.request()

    thread = threading.Thread(target=stop_twice)
    thread.start()
    provider = ScriptedProvider(on_send=lambda _: started.set(), latency_s=1e6)
    result = await run("abc", provider, stop, concurrency=1)
    thread.join()
    assert [text[:10] for text in words(result)] == ["!cancelled"] * 3


async def test_drained_responses_are_cached() -> None:
    stop, store = StopSignal(), MemoryCache().open()
    provider = ScriptedProvider(on_send=lambda _: stop.request(), latency_s=0.01)
    await run("abc", provider, stop, concurrency=1, store=store)
    assert set(store.get_many([key_of(text) for text in "abc"])) == {key_of("a")}


async def test_cancelling_the_task_ends_all_calls_and_keeps_cached_responses() -> None:
    store, third_sent = MemoryCache().open(), asyncio.Event()
    provider = ScriptedProvider(
        latency_by_text={"a": 0.0}, latency_s=1e6, on_send=lambda text: third_sent.set() if text == "c" else None
    )
    task = asyncio.create_task(run("abcd", provider, concurrency=2, store=store))
    await third_sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not provider.in_flight
    assert asyncio.all_tasks() == {asyncio.current_task()}
    value = store.get_many([key_of("a")])[key_of("a")]
    assert from_stored_response(unpack(value, key_of("a")).unwrap()).text == "A"


def test_a_call_has_the_key_of_its_item(virtual: Any) -> None:
    keys: dict[str, bytes | None] = {}

    async def send(call: Call) -> Answer:
        keys[call.request.messages[-1].text] = call.key
        return Answer(Failure(ServerError(message="")))

    run_spec(virtual, FanOutSpec(size=2, chunks=chunks("ab")), Sender(send=send, in_flight=set()))
    assert keys == {"a": key_of("a"), "b": key_of("b")}


# Progress


async def test_progress_is_reported_until_the_end() -> None:
    reports: list[Progress] = []
    store = MemoryCache().open()
    store.put_many([Entry(key_of("a"), packed("stored"))])
    provider = ScriptedProvider(latency_s=0.12, failing=frozenset("c"))
    await run("abcdeb", provider, concurrency=1, store=store, progress_sink=ProgressSink(reports.append))
    last = reports[-1]
    assert (last.total, last.done, last.cached, last.failed, last.in_flight) == (6, 6, 2, 1, 0)
    assert [report.finished for report in reports] == [False] * (len(reports) - 1) + [True]
    assert all(earlier.done <= later.done for earlier, later in pairwise(reports))
    assert len(reports) >= 2
    assert any(report.in_flight == 1 for report in reports)


def test_progress_is_reported_a_few_times_a_second(virtual: Any) -> None:
    reports: list[Progress] = []
    texts, sink = [str(number) for number in range(1000)], ProgressSink(reports.append)
    run_virtual(virtual, texts, ScriptedProvider(latency_s=0.01), concurrency=10, progress_sink=sink)
    assert 4 <= len(reports) <= 11


@pytest.mark.parametrize(
    ("blocked", "expected"), [({"openai/b": "requests a minute"}, "requests a minute"), ({}, "concurrency")]
)
async def test_progress_names_the_limiting_factor(blocked: dict[str, str], expected: str) -> None:
    reports: list[Progress] = []
    targets = [Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in "ab"]
    sink = ProgressSink(reports.append, targets)
    spec = FanOutSpec(size=4, chunks=chunks("abcd"), concurrency=2, progress_sink=sink)
    sender = ScriptedProvider(latency_s=0.3).sender(blocked_by=lambda name: blocked.get(name, ""))
    await run_fan_out(spec, sender, StopSignal())
    assert expected in {report.limited_by for report in reports[:-1]}
    assert reports[-1].limited_by == ""


async def test_a_failing_price_lookup_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up_prices(_tracker: ProgressTracker, _models: object) -> None:
        raise DefectError("no table")

    monkeypatch.setattr(ProgressTracker, "look_up_prices", look_up_prices)
    sink = ProgressSink(lambda _: None, [Target(PROVIDERS["openai"], Endpoint(), "a", "openai/a")])
    result = await run("abc", ScriptedProvider(latency_s=0.2), concurrency=1, progress_sink=sink)
    assert words(result) == ["A", "B", "C"]
    assert result.progress_error == "DefectError: no table"


def test_slow_reports_are_made_less_often(virtual: Any) -> None:
    """Reports take at most a hundredth of the time."""
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        time.sleep(0.02)
        reports.append(progress)

    texts = [str(number) for number in range(1000)]
    run_virtual(virtual, texts, ScriptedProvider(latency_s=0.1), concurrency=10, progress_sink=ProgressSink(report))
    assert 8 <= len(reports) <= 14


def test_a_failing_report_does_not_end_the_run(virtual: Any) -> None:
    def report(_progress: Progress) -> None:
        raise DefectError("the widget is gone")

    sink = ProgressSink(report)
    result = run_virtual(virtual, "abc", ScriptedProvider(latency_s=0.3), concurrency=1, progress_sink=sink)
    assert words(result) == ["A", "B", "C"]


def test_queue_time_is_measured_apart() -> None:
    """By the wall clock, so only lower bounds are checked."""
    result = asyncio.run(run("abc", ScriptedProvider(latency_s=0.02), concurrency=1))
    first, second, third = result.queue_s
    assert 0 <= first < second < third
    assert second >= 0.02


def test_interim_reports_come_before_the_end_only(virtual: Any) -> None:
    reports: list[Progress] = []
    sink = ProgressSink(reports.append, interim=True)
    texts = [str(number) for number in range(100)]
    run_virtual(virtual, texts, ScriptedProvider(latency_s=0.12), concurrency=10, progress_sink=sink)
    assert [(report.done, report.finished) for report in reports] == [(40, False), (80, False)]
    reports.clear()
    run_virtual(virtual, texts[:40], ScriptedProvider(latency_s=0.12), concurrency=10, progress_sink=sink)
    assert reports == []


async def test_a_crash_loses_no_more_answers_than_are_in_flight() -> None:
    """However slow the store is, no request is sent while as many as run at once are not written."""
    stored, unwritten, writes, written = MemoryCache().open(), list[int](), list[int](), 0

    def put_slowly(entries: Iterable[Entry]) -> None:
        nonlocal written
        batch = list(entries)
        time.sleep(0.02)
        stored.put_many(batch)
        writes.append(len(batch))
        written += len(batch)

    provider = ScriptedProvider(latency_s=0, on_send=lambda _: unwritten.append(len(provider.sent) - written))
    store = replace(stored, put_many=put_slowly, nonblocking_put=None)
    texts = [str(number) for number in range(200)]
    result = await run(texts, provider, concurrency=16, store=store, chunk_size=200)
    assert words(result) == [text.upper() for text in texts]
    assert stored.stats().entries == 200
    assert max(unwritten) == 16
    assert len(writes) < 100  # what gathers during a write goes with the next one


async def test_a_store_that_fails_holds_no_slot() -> None:
    """Requests go on without it, and their responses are written once it works again."""
    stored, failures = MemoryCache().open(), 1

    def put(entries: Iterable[Entry]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise StoreError("is starting")
        stored.put_many(list(entries))

    provider = ScriptedProvider(latency_s=0)
    store = replace(stored, put_many=put, nonblocking_put=None)
    result = await run([str(number) for number in range(40)], provider, concurrency=4, store=store, chunk_size=40)
    assert len(provider.sent) == 40
    assert "all responses were cached in the end" in result.store_error
    assert stored.stats().entries == 40
