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
from llmhub.engine.fan_out_types import CHUNK_SIZE, FanOutResult, FanOutSpec, PlannedItem
from llmhub.engine.progress import Progress, ProgressSink, ProgressTracker
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.store_access import StoreAccess
from llmhub.providers.registry import PROVIDERS

Clock = Callable[[], float]


TARGET: Any = Target(None, None, "m", "p/m")  # type: ignore[arg-type]


def make(text: str, key: bytes | None = None) -> Call:
    return Call(TARGET, CompletionRequest(model="m", messages=(Message("user", text),)), key=key)


def key(text: str) -> bytes:
    return sha256(text.encode()).digest()


def items(texts: Iterable[str]) -> Iterator[PlannedItem]:
    return ((at, key(text), make, text) for at, text in enumerate(texts))


def chunks(texts: Sequence[str], size: int = 3) -> Iterator[list[PlannedItem]]:
    every = list(items(texts))
    return iter([every[at : at + size] for at in range(0, len(every), size)])


@dataclass
class Wire:
    """Answers each text with itself, as slowly and as badly as it is told, and remembers what went on."""

    took_s: Mapping[str, float] = field(default_factory=dict)
    usual_s: float = 1.0
    bad: frozenset[str] = frozenset()
    on_send: Callable[[str], None] = lambda _: None
    in_flight: set[asyncio.Task[object]] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    most: int = 0

    async def send(self, call: Call) -> Answer:
        text = call.request.messages[-1].text
        task = asyncio.current_task()
        assert task is not None
        self.in_flight.add(task)
        self.sent.append(text)
        self.most = max(self.most, len(self.in_flight))
        try:
            self.on_send(text)
            await asyncio.sleep(self.took_s.get(text, self.usual_s))
        finally:
            self.in_flight.discard(task)
        if text in self.bad:
            return Answer(Failure(ServerError(message=text)), attempts=1, total_s=1.0)
        return Answer(Success(CompletionResponse(parts=(Text(text.upper()),))), attempts=1, total_s=1.0, started_at=1e9)


def job(texts: Sequence[str], wire: Wire, *, size: int = 3, store: Store | None = None, **more: Any) -> FanOutSpec:
    access = StoreAccess(store=store)
    return FanOutSpec(
        size=len(texts), chunks=chunks(texts, size), send=wire.send, in_flight=wire.in_flight, access=access, **more
    )


def ran(virtual: Any, planned: FanOutSpec, stop: StopSignal | None = None) -> FanOutResult:
    async def work(clock: Clock) -> FanOutResult:
        return await run_fan_out(planned, stop or StopSignal())

    done: FanOutResult = virtual.run(work)
    return done


def said(settled: Any) -> str:
    """Give an answer in a word: its text, ``!`` and why it failed, or nothing where there is none."""
    if settled is None:
        return ""
    outcome = as_answer(settled).outcome
    return outcome.unwrap().text if is_successful(outcome) else f"!{outcome.failure().message}"


# Order, once, and no more at a time


@given(
    st.lists(st.sampled_from("abcdefghij"), max_size=30),
    st.dictionaries(st.sampled_from("abcdefghij"), st.floats(0, 5)),
    st.frozensets(st.sampled_from("abcdefghij"), max_size=4),
    st.integers(1, 8),
    st.integers(1, 7),
)
def test_every_item_gets_its_answer_in_its_place_and_equal_ones_are_sent_once(
    virtual: Any, texts: list[str], took_s: dict[str, float], bad: frozenset[str], concurrency: int, size: int
) -> None:
    wire = Wire(took_s=took_s, bad=bad)
    done = ran(virtual, job(texts, wire, size=size, concurrency=concurrency))
    assert [said(answer) for answer in done.outcomes] == [f"!{t}" if t in bad else t.upper() for t in texts]
    assert sorted(wire.sent) == sorted(set(texts))
    assert wire.most <= concurrency
    own = [answer for answer in done.outcomes if isinstance(answer, Answer) and answer.attempts]
    assert len(own) == len(set(texts))


@pytest.mark.parametrize(("concurrency", "count", "most"), [(1, 5, 1), (4, 100, 4), (64, 10, 10), (200, 1000, 200)])
def test_as_many_are_under_way_as_may_be(virtual: Any, concurrency: int, count: int, most: int) -> None:
    wire = Wire()
    ran(virtual, job([str(n) for n in range(count)], wire, size=CHUNK_SIZE, concurrency=concurrency))
    assert wire.most == most


def test_a_place_that_is_free_is_taken_at_once(virtual: Any) -> None:
    async def work(clock: Clock) -> float:
        texts = [str(n) for n in range(1000)]
        wire = Wire(took_s={"0": 100.0})
        await run_fan_out(job(texts, wire, size=CHUNK_SIZE, concurrency=10), StopSignal())
        return clock()

    assert virtual.run(work) == pytest.approx(111.0, abs=12)


def test_rows_that_no_item_names_stay_unanswered(virtual: Any) -> None:
    wire = Wire()
    named = [item for item in items("abcd") if item[0] in {1, 3}]
    done = ran(virtual, FanOutSpec(size=4, chunks=iter([named]), send=wire.send, in_flight=wire.in_flight))
    assert [said(answer) for answer in done.outcomes] == ["", "B", "", "D"]


@pytest.mark.parametrize("pieces", [[], [[]], [[], [], []]])
def test_nothing_to_do_is_done(virtual: Any, pieces: list[list[PlannedItem]]) -> None:
    wire = Wire()
    done = ran(virtual, FanOutSpec(size=0, chunks=iter(pieces), send=wire.send, in_flight=wire.in_flight))
    assert done.outcomes == []


def test_an_equal_item_that_comes_late_gets_the_answer_that_is_there(virtual: Any) -> None:
    wire = Wire(bad=frozenset("x"))
    done = ran(virtual, job(["a", "x", *"bcdefgh" * 3, "a", "x"], wire, size=2, concurrency=1))
    assert [said(done.outcomes[at]) for at in (-2, -1)] == ["A", "!x"]
    assert isinstance(done.outcomes[-2], StoredResponse)
    assert isinstance(done.outcomes[-1], Answer)
    assert done.outcomes[-1].attempts == 0
    assert wire.sent.count("a") == wire.sent.count("x") == 1


# A million rows are never a million tasks


def test_items_are_drawn_only_as_they_are_needed(virtual: Any) -> None:
    drawn, tasks_at_once, concurrency = 0, 0, 50
    stop = StopSignal()
    seen: list[int] = []

    def many() -> Iterator[list[PlannedItem]]:
        nonlocal drawn
        for start in range(0, 1_000_000, 100):
            if stop.requested:
                return
            drawn += 100
            yield [(at, at.to_bytes(32, "big"), make, str(at)) for at in range(start, start + 100)]

    def count(text: str) -> None:
        nonlocal tasks_at_once
        tasks_at_once = max(tasks_at_once, len(asyncio.all_tasks()))
        seen.append(drawn)
        if len(seen) == 1000:
            stop.request()

    wire = Wire(on_send=count)
    planned = FanOutSpec(
        size=1_000_000, chunks=many(), send=wire.send, in_flight=wire.in_flight, concurrency=concurrency
    )
    done = ran(virtual, planned, stop)
    assert len(wire.sent) == 1000
    assert all(already <= sent + 2 * concurrency + 200 for sent, already in enumerate(seen))
    assert drawn <= 1000 + 2 * concurrency + 200
    assert tasks_at_once <= 2 * concurrency + 5
    assert sum(answer is not None for answer in done.outcomes) == drawn


# Defects are not answers


class DefectError(Exception):
    pass


def test_a_defect_in_sending_comes_out_and_nothing_goes_on(virtual: Any) -> None:
    def explode(text: str) -> None:
        if text == "c":
            raise DefectError(text)

    wire = Wire(on_send=explode)
    with pytest.raises(DefectError, match="c"):
        ran(virtual, job("abcdefgh", wire, concurrency=2))
    assert len(wire.sent) <= 4
    assert not wire.in_flight


def test_a_defect_in_planning_comes_out(virtual: Any) -> None:
    def broken() -> Iterator[list[PlannedItem]]:
        yield list(items("ab"))
        raise DefectError("planning")

    wire = Wire()
    with pytest.raises(DefectError, match="planning"):
        ran(virtual, FanOutSpec(size=9, chunks=broken(), send=wire.send, in_flight=wire.in_flight, concurrency=1))


async def test_what_was_answered_before_a_defect_is_in_the_store() -> None:
    def explode(text: str) -> None:
        if text == "c":
            raise DefectError(text)

    wire, store = Wire(on_send=explode, usual_s=0), MemoryCache().open()
    with pytest.raises(DefectError):
        await run_fan_out(job("abc", wire, size=1, concurrency=1, store=store), StopSignal())
    assert set(store.get_many([key("a"), key("b"), key("c")])) == {key("a"), key("b")}


# The store


def stored(text: str, under: str = "a") -> bytes:
    return encode_response(CompletionResponse(parts=(Text(text),)), key(under))


async def test_what_is_in_the_store_is_not_sent_and_what_is_new_is_filed() -> None:
    wire, store = Wire(usual_s=0, bad=frozenset("d")), MemoryCache().open()
    store.put_many([Entry(key("a"), stored("kept"))])
    done = await run_fan_out(job("abcda", wire, store=store), StopSignal())
    assert [said(answer) for answer in done.outcomes] == ["kept", "B", "C", "!d", "kept"]
    assert isinstance(done.outcomes[0], StoredResponse)
    assert sorted(wire.sent) == ["b", "c", "d"]
    assert set(store.get_many([key(text) for text in "abcd"])) == {key(text) for text in "abc"}
    again = Wire(usual_s=0)
    done = await run_fan_out(job("abc", again, store=store), StopSignal())
    assert (again.sent, done.store_error) == ([], "")
    assert [said(answer) for answer in done.outcomes] == ["kept", "B", "C"]


async def test_the_store_is_asked_in_bulk_and_off_the_loop() -> None:
    asked: list[int] = []
    threads: set[int] = set()
    kept = MemoryCache().open()

    def get_many(keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        asked.append(len(keys))
        threads.add(threading.get_ident())
        return kept.get_many(keys)

    def put_many(entries: Iterable[Entry]) -> None:
        threads.add(threading.get_ident())
        kept.put_many(entries)

    wire = Wire(usual_s=0)
    store = replace(kept, get_many=get_many, put_many=put_many)
    await run_fan_out(job([str(n) for n in range(100)], wire, size=50, store=store), StopSignal())
    assert asked == [50, 50]
    assert threading.get_ident() not in threads
    assert kept.stats().entries == 100


async def test_equal_items_are_looked_up_once() -> None:
    asked: list[bytes] = []
    kept = MemoryCache().open()
    store = replace(kept, get_many=lambda keys: (asked.extend(keys), kept.get_many(keys))[1])
    await run_fan_out(job("aabab" * 20, Wire(usual_s=0), size=10, store=store), StopSignal())
    assert sorted(asked) == sorted([key("a"), key("b")])


@pytest.mark.parametrize("damaged", [b"", b"\x00", stored("a")[:-1], stored("a").replace(b"a", b"b"), b"\xff" * 40])
async def test_a_damaged_value_is_a_miss_and_is_written_anew(damaged: bytes) -> None:
    wire, store = Wire(usual_s=0), MemoryCache().open()
    store.put_many([Entry(key("a"), damaged)])
    done = await run_fan_out(job("aa", wire, store=store), StopSignal())
    assert [said(answer) for answer in done.outcomes] == ["A", "A"]
    assert wire.sent == ["a"]
    assert store.get_many([key("a")])[key("a")] != damaged


def failing(where: str, after: int = 0) -> Store:
    """Give a store that cannot read, or cannot write, from some time on."""
    kept, times = MemoryCache().open(), 0

    def fail(*_: object) -> Any:
        nonlocal times
        times += 1
        if times > after:
            raise StoreError("the disk is full")
        return getattr(kept, where)(*_)

    return replace(kept, **{where: fail})


@pytest.mark.parametrize("where", ["get_many", "put_many"])
@pytest.mark.parametrize("after", [0, 2])
async def test_a_store_that_fails_is_left_alone_and_the_run_goes_on(where: str, after: int) -> None:
    wire = Wire(usual_s=0.03)
    texts = [str(n) for n in range(40)]
    done = await run_fan_out(job(texts, wire, size=4, concurrency=4, store=failing(where, after)), StopSignal())
    assert "the disk is full" in done.store_error
    assert ("could not be cached" in done.store_error) == (where == "put_many")
    assert not done.stopped_by_store_failure
    assert [said(answer) for answer in done.outcomes] == texts
    assert sorted(wire.sent) == sorted(texts)


# Stopping


def test_stopped_once_nothing_more_is_sent_and_what_is_in_flight_is_drained(virtual: Any) -> None:
    stop = StopSignal()
    wire = Wire(on_send=lambda text: stop.request() if text == "d" else None, took_s={"c": 30.0})
    done = ran(virtual, job("abcdefghaf", wire, concurrency=2), stop)
    never = "!cancelled before the request was sent"
    assert wire.sent == ["a", "b", "c", "d"]
    assert [said(answer) for answer in done.outcomes] == ["A", "B", "C", "D", *[never] * 4, "A", never]
    assert all(isinstance(as_answer(a).outcome.failure(), Cancelled) for a in done.outcomes[4:8] if a is not None)
    assert [as_answer(answer).attempts for answer in done.outcomes[4:8] if answer is not None] == [0] * 4


def test_stopped_twice_what_is_in_flight_is_cut_off_and_said_so(virtual: Any) -> None:
    stop = StopSignal()

    def ask(text: str) -> None:
        if text == "d":
            stop.request()
            asyncio.get_running_loop().call_later(0.5, stop.request)

    wire = Wire(on_send=ask, took_s={"a": 0.1, "b": 0.1, "c": 0.2})
    done = ran(virtual, job("abcdefd", wire, concurrency=2), stop)
    cut = "!cancelled while the request was in flight; the provider may have charged it"
    assert [said(a) for a in done.outcomes[:4]] == ["A", "B", "C", cut]
    assert [said(a) for a in done.outcomes[4:6]] == ["!cancelled before the request was sent"] * 2
    assert as_answer(done.outcomes[3]).attempts == 1  # type: ignore[arg-type]
    assert as_answer(done.outcomes[6]).attempts == 0  # type: ignore[arg-type]
    assert not wire.in_flight


def test_a_drain_has_an_end(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        stop = StopSignal()
        wire = Wire(on_send=lambda _: stop.request(), usual_s=1e6)
        return await run_fan_out(job("ab", wire, concurrency=1), stop), clock()

    done, at = virtual.run(work)
    assert at == pytest.approx(DRAIN_TIMEOUT_S, abs=1.0)
    assert "in flight" in said(done.outcomes[0])


def test_a_call_that_waits_to_try_again_is_let_go_at_once(virtual: Any) -> None:
    async def work(clock: Clock) -> tuple[FanOutResult, float]:
        stop = StopSignal()

        async def send(call: Call) -> Answer:
            asyncio.get_running_loop().call_later(1.0, stop.request)
            await asyncio.sleep(1e6)  # not in flight: between two attempts
            raise AssertionError

        planned = FanOutSpec(size=1, chunks=chunks("a"), send=send, in_flight=set())
        return await run_fan_out(planned, stop), clock()

    done, at = virtual.run(work)
    assert at == pytest.approx(1.0)
    assert isinstance(as_answer(done.outcomes[0]).outcome.failure(), Cancelled)


def test_a_call_that_fails_while_draining_does_not_try_again(virtual: Any) -> None:
    async def work(clock: Clock) -> float:
        stop, in_flight = StopSignal(), set()

        async def send(call: Call) -> Answer:
            task = asyncio.current_task()
            in_flight.add(task)
            stop.request()
            await asyncio.sleep(2.0)
            in_flight.discard(task)
            await asyncio.sleep(1e6)  # the pause before the next attempt
            raise AssertionError

        await run_fan_out(FanOutSpec(size=1, chunks=chunks("a"), send=send, in_flight=in_flight), stop)
        return clock()

    assert virtual.run(work) == pytest.approx(2.0, abs=0.2)


def test_stopped_before_it_began_nothing_is_sent(virtual: Any) -> None:
    stop = StopSignal()
    stop.request()
    wire = Wire()
    done = ran(virtual, job("aba", wire), stop)
    assert wire.sent == []
    assert [said(answer) for answer in done.outcomes] == ["!cancelled before the request was sent"] * 3


async def test_a_run_can_be_stopped_from_another_thread() -> None:
    stop, begun = StopSignal(), threading.Event()

    def ask() -> None:
        assert begun.wait(10)
        stop.request()
        stop.request()

    asker = threading.Thread(target=ask)
    asker.start()
    wire = Wire(on_send=lambda _: begun.set(), usual_s=1e6)
    done = await run_fan_out(job("abc", wire, concurrency=1), stop)
    asker.join()
    assert [said(answer)[:10] for answer in done.outcomes] == ["!cancelled"] * 3


async def test_what_was_drained_is_in_the_store() -> None:
    stop, store = StopSignal(), MemoryCache().open()
    wire = Wire(on_send=lambda _: stop.request(), usual_s=0.01)
    await run_fan_out(job("abc", wire, concurrency=1, store=store), stop)
    assert set(store.get_many([key(text) for text in "abc"])) == {key("a")}


async def test_cancelling_the_awaiting_task_ends_all_and_keeps_what_had_come() -> None:
    store, landed = MemoryCache().open(), asyncio.Event()
    wire = Wire(took_s={"a": 0.0}, usual_s=1e6, on_send=lambda text: landed.set() if text == "c" else None)
    task = asyncio.create_task(run_fan_out(job("abcd", wire, concurrency=2, store=store), StopSignal()))
    await landed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not wire.in_flight
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert response_of_key(store, "a") == "A"


def response_of_key(store: Store, text: str) -> str:
    return from_stored_response(unpack(store.get_many([key(text)])[key(text)], key(text)).unwrap()).text


# What a call knows of itself


def test_a_call_says_by_which_key_it_is_asked(virtual: Any) -> None:
    seen: dict[str, bytes | None] = {}

    async def send(call: Call) -> Answer:
        seen[call.request.messages[-1].text] = call.key
        return Answer(Failure(ServerError(message="")))

    ran(virtual, FanOutSpec(size=2, chunks=chunks("ab"), send=send, in_flight=set()))
    assert seen == {"a": key("a"), "b": key("b")}


# Progress


async def test_progress_is_told_as_it_is_and_comes_to_an_end() -> None:
    told: list[Progress] = []
    store = MemoryCache().open()
    store.put_many([Entry(key("a"), stored("kept"))])
    wire = Wire(usual_s=0.12, bad=frozenset("c"))
    await run_fan_out(
        job("abcdeb", wire, concurrency=1, store=store, progress_sink=ProgressSink(told.append)), StopSignal()
    )
    last = told[-1]
    assert (last.total, last.done, last.cached, last.failed, last.in_flight) == (6, 6, 2, 1, 0)
    assert [progress.finished for progress in told] == [False] * (len(told) - 1) + [True]
    assert all(one.done <= two.done for one, two in pairwise(told))
    assert len(told) >= 2
    assert any(progress.in_flight == 1 for progress in told)


def test_progress_is_told_ten_times_a_second_at_most(virtual: Any) -> None:
    told: list[Progress] = []
    ran(
        virtual,
        job([str(n) for n in range(1000)], Wire(usual_s=0.01), concurrency=10, progress_sink=ProgressSink(told.append)),
    )
    assert 4 <= len(told) <= 11


async def test_progress_says_which_limit_holds_it_back() -> None:
    """In the words of whoever keeps the calls waiting; else by what the run's own calls show."""
    held = {"openai/b": "requests a minute"}
    for holds, said in ((lambda name: held.get(name, ""), "requests a minute"), (lambda _: "", "concurrency")):
        told: list[Progress] = []
        targets = [Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in "ab"]
        wire = Wire(usual_s=0.3)
        await run_fan_out(
            job("abcd", wire, concurrency=2, progress_sink=ProgressSink(told.append, targets), blocked_by=holds),
            StopSignal(),
        )
        assert said in {one.limited_by for one in told[:-1]}
        assert told[-1].limited_by == ""


async def test_a_price_that_cannot_be_looked_up_costs_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(tally: ProgressTracker, served: object) -> None:
        raise DefectError("no table")

    monkeypatch.setattr(ProgressTracker, "look_up_prices", look_up)
    target = Target(PROVIDERS["openai"], Endpoint(), "a", "openai/a")
    done = await run_fan_out(
        job("abc", Wire(usual_s=0.2), concurrency=1, progress_sink=ProgressSink(lambda _: None, [target])), StopSignal()
    )
    assert [said(answer) for answer in done.outcomes] == ["A", "B", "C"]
    assert done.progress_error == "DefectError: no table"


def test_reports_that_take_long_come_more_seldom(virtual: Any) -> None:
    """So that they take no more than a hundredth of the time, whatever they do."""
    told: list[Progress] = []

    def report(progress: Progress) -> None:
        time.sleep(0.02)
        told.append(progress)

    ran(
        virtual,
        job([str(n) for n in range(1000)], Wire(usual_s=0.1), concurrency=10, progress_sink=ProgressSink(report)),
    )
    assert 8 <= len(told) <= 14


def test_a_report_that_fails_does_not_cost_the_answers(virtual: Any) -> None:
    def report(progress: Progress) -> None:
        raise DefectError("the widget is gone")

    done = ran(virtual, job("abc", Wire(usual_s=0.3), concurrency=1, progress_sink=ProgressSink(report)))
    assert [said(answer) for answer in done.outcomes] == ["A", "B", "C"]


def test_time_before_being_taken_up_is_told_apart() -> None:
    """Measured by the wall clock, so only what must hold whatever it says."""
    done = asyncio.run(run_fan_out(job("abc", Wire(usual_s=0.02), concurrency=1, size=3), StopSignal()))
    first, second, third = done.queue_s
    assert 0 <= first < second < third
    assert second >= 0.02
