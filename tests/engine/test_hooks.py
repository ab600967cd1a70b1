"""Middleware as functions and as hooks, and the order in which they see a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful
from returns.result import Failure, Success

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError, InvalidRequest, LLMError, ServerError
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Text
from llmhub.engine.call import Answer, Call, Send, Target, chain
from llmhub.engine.hooks import MAX_RESENDS, exception_guard, hook_middleware, record_responses
from llmhub.engine.write_ahead import SEND_CONTEXT, SendContext
from llmhub.sim import SimulatorThread
from llmhub.types import ErrorAction


@dataclass
class Noted:
    """A hook that records its calls in all its functions."""

    name: str
    notes: list[str]

    def on_request(self, call: Call) -> None:
        self.notes.append(f"request {self.name}")

    async def on_response(self, call: Call, answer: Answer) -> None:
        self.notes.append(f"response {self.name}")

    def on_error(self, call: Call, error: LLMError) -> None:
        self.notes.append(f"error {self.name}")


@dataclass
class Mending:
    """A hook that returns actions for failures."""

    actions: list[Any]
    seen: list[LLMError] = field(default_factory=list)

    def on_error(self, call: Call, error: LLMError) -> Any:
        self.seen.append(error)
        return self.actions.pop(0) if self.actions else None


def target(name: str) -> Target:
    return Target(None, None, name.partition("/")[2], name)  # type: ignore[arg-type]


ASK = Call(target("a/m"), CompletionRequest(model="m", messages=(Message("user", "hi"),)))


def run(virtual: Any, hook: object, send: Send, call: Call = ASK) -> Answer:
    async def work(clock: Any) -> Answer:
        return await hook_middleware(hook, target)(send)(call)

    answer: Answer = virtual.run(work)
    return answer


def respond_with(*outcomes: Any, targets: list[str] | None = None) -> Send:
    """Return a `Send` with these outcomes in order, repeating the last: a text for a response, or an error."""
    left = list(outcomes)

    async def send(call: Call) -> Answer:
        if targets is not None:
            targets.append(call.target.name)
        outcome = left.pop(0) if len(left) > 1 else left[0]
        good = isinstance(outcome, str)
        outcome_value = Success(CompletionResponse(parts=(Text(outcome),))) if good else Failure(outcome)
        return Answer(outcome_value, attempts=1, total_s=1.0, rate_wait_s=0.5)

    return send


# Order


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.booleans())
def test_on_request_runs_in_order_and_on_response_in_reverse(virtual: Any, names: list[str], good: bool) -> None:
    notes: list[str] = []

    async def work(clock: Any) -> Answer:
        send = respond_with("hi" if good else ServerError())
        return await chain(send, *(hook_middleware(Noted(name, notes), target) for name in names))(ASK)

    virtual.run(work)
    back = "response" if good else "error"
    assert notes == [f"request {name}" for name in names] + [f"{back} {name}" for name in reversed(names)]


def test_hooks_and_functions_mix_in_the_order_given(scripted: Any, replies: Any) -> None:
    notes: list[str] = []

    def plain(send: Send) -> Send:
        async def send_hooked(call: Call) -> Answer:
            notes.append("request plain")
            answer = await send(call)
            notes.append("response plain")
            return answer

        return send_hooked

    server = scripted([replies.reply(b"{}", status=500)], [replies.answer()])
    middleware = (Noted("a", notes), plain, Noted("b", notes))
    with make_hub(server, middleware=middleware, retry=llmhub.Retry(base_s=0)) as hub:
        assert llmhub.complete("hi", model="compatible/m", hub=hub).text == "Hi"
    # The retry is inside: the hooks see a call once.
    assert notes == ["request a", "request plain", "request b", "response b", "response plain", "response a"]


def make_hub(server: Any, **more: Any) -> llmhub.Hub:
    endpoints = {"compatible": llmhub.Endpoint(base_url=server.url)}
    return llmhub.Hub(endpoints=endpoints, settings=Settings(), **{"retry": llmhub.Retry(attempts=1), **more})


# Replacing calls and answers


def test_hook_can_replace_call_and_answer(virtual: Any) -> None:
    class Changing:
        async def on_request(self, call: Call) -> Call:
            return replace(call, request=replace(call.request, temperature=0.5))

        def on_response(self, call: Call, answer: Answer) -> Answer:
            assert call.request.temperature == 0.5
            response = answer.outcome.unwrap()
            return replace(answer, outcome=Success(replace(response, parts=(Text(response.text.upper()),))))

    assert run(virtual, Changing(), respond_with("hi")).outcome.unwrap().text == "HI"


# Actions on failures


def test_retry_action_waits_and_counts_all_attempts(virtual: Any) -> None:
    async def work(clock: Any) -> None:
        hook = Mending([ErrorAction.Retry(after_s=7)])
        answer = await hook_middleware(hook, target)(respond_with(ServerError(), "hi"))(ASK)
        assert clock() == 7
        assert answer.outcome.unwrap().text == "hi"
        assert (answer.attempts, answer.total_s, answer.rate_wait_s) == (2, 2.0, 1.0)

    virtual.run(work)


@pytest.mark.parametrize(("named", "name"), [("b/other", "b/other"), ("b", "b/m")])
def test_fallback_action_names_a_model_or_a_provider(virtual: Any, named: str, name: str) -> None:
    targets: list[str] = []
    hook = Mending([ErrorAction.Fallback(named)])
    answer = run(virtual, hook, respond_with(ServerError(), "hi", targets=targets), replace(ASK, key=b"k"))
    assert answer.outcome.unwrap().text == "hi"
    assert targets == ["a/m", name]


@pytest.mark.parametrize("action", [ErrorAction.Propagate(), None])
def test_propagate_keeps_the_failure(virtual: Any, action: Any) -> None:
    targets: list[str] = []
    answer = run(virtual, Mending([action]), respond_with(ServerError(message="x"), targets=targets))
    assert answer.outcome.failure() == ServerError(message="x")
    assert len(targets) == 1


def test_resends_of_a_hook_are_bounded(virtual: Any) -> None:
    hook = Mending([ErrorAction.Retry()] * 100)
    answer = run(virtual, hook, respond_with(ServerError()))
    assert answer.attempts == 1 + MAX_RESENDS
    assert len(hook.seen) == MAX_RESENDS


def test_invalid_action_is_reported(virtual: Any) -> None:
    error = run(virtual, Mending(["again"]), respond_with(ServerError())).outcome.failure()
    assert isinstance(error, InvalidRequest)
    assert "on_error returned 'again'" in error.message


# Through the public functions


class Away:
    """Sends failed calls to another provider."""

    def on_error(self, call: Call, error: LLMError) -> Any:
        return ErrorAction.Fallback("openai/gpt-4o")


def test_redirected_conversation_reports_the_served_model(simulator: SimulatorThread) -> None:
    hub = llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), middleware=(Away(),), retry=llmhub.Retry(attempts=1)
    )
    frame = {"turns": [[{"role": "user", "content": "one [[sim:500 once]]"}]]}
    with hub:
        table = llmhub.complete_table(
            frame, messages="turns", model="anthropic/claude-haiku-4-5", hub=hub, progress=False
        )
    assert table.column("status").to_pylist() == ["ok"]
    assert table.column("served_model")[0].as_py().startswith("openai/gpt-4o")


def test_redirected_row_reports_the_served_model_and_its_price(simulator: SimulatorThread) -> None:
    hub = llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), middleware=(Away(),), cache=llmhub.MemoryCache(),
        retry=llmhub.Retry(attempts=1),
    )  # fmt: skip
    frame = {"t": ["one [[sim:500 once]]", "one [[sim:500 once]]", "two"]}
    with hub:
        table = llmhub.complete_table(frame, "{t}", model="anthropic/claude-haiku-4-5", hub=hub, progress=False)
        assert table.column("status").to_pylist() == ["ok"] * 3
        assert table.column("provider").to_pylist() == ["anthropic"] * 3
        assert table.column("model").to_pylist() == ["claude-haiku-4-5"] * 3
        served = table.column("served_model").to_pylist()
        assert served[0] == served[1]
        assert served[0].startswith("openai/gpt-4o")
        assert not served[2].startswith("openai/")
        # Each provider of the simulator fails once.
        assert table.column("attempts").to_pylist() == [3, 0, 1]
        assert table.column("cache_hit").to_pylist() == [False, True, False]
        assert ["openai/gpt-4o" in name for name in table.column("price_id").to_pylist()] == [True, True, False]
        worth, paid = (table.column(name).to_pylist() for name in ("list_cost_usd", "cost_usd"))
        assert worth[0] == worth[1] == paid[0] > paid[1] == 0
        # Stored under the key of the provider that answered.
        before = simulator.counts()["requests"]
        again = llmhub.complete_table(frame, "{t}", model="openai/gpt-4o", hub=hub, progress=False)
        assert again.column("cache_hit").to_pylist() == [True, True, False]
        assert again.column("served_model").to_pylist()[0] == served[0].removeprefix("openai/")
        assert simulator.counts()["requests"] == before + 1


def test_middleware_exception_fails_its_own_row_only(simulator: SimulatorThread) -> None:
    def failing(send: Send) -> Send:
        async def send_hooked(call: Call) -> Answer:
            if "bad" in call.request.messages[0].text:
                raise ZeroDivisionError("by nought")
            if "none" in call.request.messages[0].text:
                return None  # type: ignore[return-value]
            return await send(call)

        return send_hooked

    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=(failing,)) as hub:
        frame = {"t": ["good", "bad", "none"]}
        table = llmhub.complete_table(frame, "{t}", model="openai/gpt-4o-mini", hub=hub, progress=False)
    assert table.column("status").to_pylist() == ["ok", "error", "error"]
    errors = table.column("error").to_pylist()
    assert errors[1] == "middleware: a middleware failed: ZeroDivisionError: by nought"
    assert "it returned a NoneType, not an Answer" in errors[2]


class Rejecting:
    """A hook that raises for the responses to some requests."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_response(self, call: Call, answer: Answer) -> None:
        if "bad" in call.request.messages[0].text:
            raise self.error


def rejecting(error: BaseException) -> Any:
    """Return a middleware function that does the same, once it has sent a call twice."""

    def wrap(send: Send) -> Send:
        async def send_twice(call: Call) -> Answer:
            answer = await send(call)
            if "bad" in call.request.messages[0].text:
                await send(call)
                raise error
            return answer

        return send_twice

    return wrap


@pytest.mark.parametrize("make", [Rejecting, rejecting])
@pytest.mark.parametrize(
    "make_error",
    [
        ZeroDivisionError,
        lambda: BadRequestError(InvalidRequest(message="not this one")),
        asyncio.CancelledError,
        KeyboardInterrupt,
        SystemExit,
        GeneratorExit,
    ],
)
def test_whatever_is_raised_after_a_response_loses_neither_its_text_nor_its_cost(
    simulator: SimulatorThread, make_error: Callable[[], BaseException], make: Any
) -> None:
    error = make_error()  # anew, since it gets a table
    survives = isinstance(error, (Exception, asyncio.CancelledError))
    frame = {"t": ["one", "two", "bad", "three", "four"]}
    options: Any = {"model": "openai/gpt-4o-mini", "progress": False, "concurrency": 2}
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        expected = llmhub.complete_table(frame, "Say {t}", hub=hub, **options).to_pylist()
    before = simulator.counts()["requests"]
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=(make(error),)) as hub:
        if survives:
            table = llmhub.complete_table(frame, "Say {t}", hub=hub, **options)
        else:
            with pytest.raises(type(error)) as caught:
                llmhub.complete_table(frame, "Say {t}", hub=hub, **options)
            table = caught.value.table  # type: ignore[attr-defined]
    rows = table.to_pylist()
    sent = simulator.counts()["requests"] - before
    assert rows[2]["status"] == ("error" if survives else "cancelled")
    assert sum(row["attempts"] for row in rows) == sent
    for row, same in zip(rows, expected, strict=True):
        times = row["attempts"]
        assert row["response"] == (same["response"] if times else None)
        assert row["output_tokens"] == (same["output_tokens"] if times else None)
        assert (row["cost_usd"] or 0) == times * same["cost_usd"]
    assert rows[2]["attempts"] == (2 if make is rejecting else 1)


def test_a_series_of_texts_has_none_for_a_rejected_response(simulator: SimulatorThread) -> None:
    texts = ["good", "bad"]
    hook = Rejecting(ValueError("no"))
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=(hook,)) as hub:
        options: Any = {"model": "openai/gpt-4o-mini", "hub": hub, "progress": False}
        values = [
            llmhub.llm(pd.Series(texts)).complete("Say {}", **options).tolist(),
            pl.DataFrame({"t": texts}).select(llmhub.llm(pl.col("t")).complete("Say {}", **options))["t"].to_list(),
        ]
    for good, bad in values:
        assert good
        assert bad is None or pd.isna(bad)


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_exception_after_the_response_of_a_single_call_carries_it(
    simulator: SimulatorThread, error: BaseException
) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=(Rejecting(error),)) as hub:
        good = llmhub.complete("good", model="openai/gpt-4o-mini", hub=hub)
        with pytest.raises((BadRequestError, KeyboardInterrupt)) as caught:
            llmhub.complete("bad", model="openai/gpt-4o-mini", hub=hub)
    assert caught.value.response.text  # type: ignore[attr-defined]
    assert caught.value.response.usage.output_tokens  # type: ignore[attr-defined]
    assert good.text


def test_a_run_that_is_stopped_while_a_middleware_has_a_response_keeps_it(simulator: SimulatorThread) -> None:
    reached = threading.Event()

    class Waiting:
        async def on_response(self, call: Call, answer: Answer) -> None:
            reached.set()
            await asyncio.Event().wait()

    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=(Waiting(),)) as hub:
        job = llmhub.submit({"t": ["one"]}, "Say {t}", model="openai/gpt-4o-mini", hub=hub)
        assert reached.wait(30)
        job.stop()
        job.stop()
        (row,) = job.result(30).to_pylist()
    assert (row["status"], row["attempts"]) == ("cancelled", 1)
    assert row["error"] == "cancelled while a middleware handled the response"
    assert row["response"]
    assert row["cost_usd"] > 0


def test_a_response_that_a_middleware_fails_is_billed(virtual: Any) -> None:
    class Failing:
        def on_response(self, call: Call, answer: Answer) -> Answer:
            return replace(answer, outcome=Failure(InvalidRequest(message="no")))

    async def work(clock: Any) -> Answer:
        SEND_CONTEXT.set(SendContext())
        send = chain(respond_with("hi"), exception_guard, hook_middleware(Failing(), target), record_responses)
        return await send(ASK)

    answer: Answer = virtual.run(work)
    (billed,) = answer.billed_failures
    assert billed.response is not None
    assert billed.response.text == "hi"
    assert answer.attempts == 1


def test_stream_passes_through_the_middleware(simulator: SimulatorThread) -> None:
    notes: list[str] = []
    hooks = (Noted("a", notes), Noted("b", notes))
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), middleware=hooks) as hub:
        assert "".join(chunk.text for chunk in llmhub.stream("hi", model="openai/gpt-4o-mini", hub=hub))

        async def read() -> list[Any]:
            return [chunk async for chunk in llmhub.astream("ho", model="openai/gpt-4o-mini", hub=hub)]

        assert asyncio.run(read())
    assert notes == ["request a", "request b", "response b", "response a"] * 2


@pytest.mark.parametrize("wrong", [3, object()])
def test_object_without_hook_functions_is_refused(wrong: Any) -> None:
    with pytest.raises(BadRequestError, match=r"middleware\[0\]: must be a function send"):
        llmhub.Hub(settings=Settings(), middleware=(wrong,))


def test_on_error_is_not_called_on_success(virtual: Any) -> None:
    hook = Mending([ErrorAction.Retry()])
    assert is_successful(run(virtual, hook, respond_with("hi")).outcome)
    assert hook.seen == []
