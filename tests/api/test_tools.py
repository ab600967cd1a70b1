"""Tools that run: functions become tools, their results go back, and each turn is a call like any other."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import BadRequestError
from llmhub.core.tool_functions import function_tool, split_tools
from llmhub.core.types import Tool, ToolCall, ToolResult
from llmhub.sim import SimulatorThread
from llmhub.tables.rows import FrameColumns
from llmhub.types import Answer, Call, Send

MODEL = "openai/gpt-4o-mini"
MODELS = (
    MODEL,
    "openai-responses/gpt-4o-mini",
    "anthropic/claude-haiku-4-5",
    "google/gemini-2.0-flash",
    "bedrock/amazon.nova-lite-v1:0",
    "azure/gpt-4o",
)
ASK = "What now? [[sim:tool weather]]"


def weather(city: str, unit: Literal["celsius", "kelvin"] = "celsius", days: list[int] | None = None) -> dict[str, Any]:
    """Return the weather of a city.

    Parameters
    ----------
    city : str
        Name of the city.
    unit
        Unit of temperatures.
    """
    return {"city": city, "unit": unit, "days": days, "value": 21}


def clock(zone: str) -> str:
    """Return the time.

    Args:
        zone: Time zone, such as
            UTC.
    """
    return f"noon in {zone}"


def broken(city: str) -> str:
    """Return nothing."""
    raise RuntimeError(f"no weather in {city!r}")


@pytest.fixture
def sent() -> list[Call]:
    return []


@pytest.fixture
def hub(simulator: SimulatorThread, sent: list[Call]) -> Iterator[llmhub.Hub]:
    def record(send: Send) -> Send:
        async def recorded(call: Call) -> Answer:
            sent.append(call)
            return await send(call)

        return recorded

    with llmhub.Hub(
        endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache(), middleware=(record,)
    ) as open_hub:
        yield open_hub


def test_hints_and_docstring_become_the_schema() -> None:
    tool = function_tool(weather).tool
    parameters: Any = tool.parameters
    assert (tool.name, tool.description) == ("weather", "Return the weather of a city.")
    assert parameters["required"] == ["city"]
    assert parameters["properties"]["city"] == {"type": "string", "description": "Name of the city."}
    assert parameters["properties"]["unit"]["enum"] == ["celsius", "kelvin"]
    assert parameters["properties"]["unit"]["description"] == "Unit of temperatures."
    zone: Any = function_tool(clock).tool.parameters["properties"]
    assert zone["zone"]["description"] == "Time zone, such as UTC."


def test_mappings_of_every_api_become_tools() -> None:
    parameters = {"type": "object", "properties": {}}
    flat = {"type": "function", "name": "a", "description": "A", "parameters": parameters}
    nested = {"type": "function", "function": {**flat, "name": "b"}}
    anthropic = {"name": "c", "description": "A", "input_schema": parameters}
    tools, functions = split_tools([flat, nested, anthropic, Tool("d")])
    assert [tool.name for tool in tools] == ["a", "b", "c", "d"]
    assert [tool.parameters for tool in tools[:3]] == [parameters] * 3
    assert not functions


def variadic(*cities: str) -> str:
    return str(cities)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([7], r"tools\[0\]: int is not a tool; pass a function"),
        ([variadic], r"tools\[0\]: variadic takes \*cities"),
        ([weather, weather], r"tools\[1\]: another tool is named 'weather'"),
        ([lambda city: city], r"'<lambda>' cannot be the name of a tool"),
        ([{"type": "function"}], "has no 'name'"),
    ],
)
def test_tools_that_are_none_say_so(hub: llmhub.Hub, tools: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        llmhub.complete("Hi", model=MODEL, hub=hub, tools=tools)


@pytest.mark.parametrize("model", MODELS)
def test_results_go_back_until_the_model_answers(hub: llmhub.Hub, sent: list[Call], model: str) -> None:
    response = llmhub.complete(ASK, model=model, hub=hub, tools=[weather])
    assert (response.turns, response.tool_calls, len(sent)) == (2, (), 2)
    assert response.text
    roles = [message.role for message in response.transcript]
    assert roles == ["user", "assistant", "tool", "assistant"]
    (result,) = response.transcript[2].parts
    (call,) = response.transcript[1].parts[-1:]
    assert isinstance(result, ToolResult)
    assert isinstance(call, ToolCall)
    assert result.id == call.id
    assert json.loads(str(result.content))["city"] == json.loads(call.arguments)["city"]


DETAILS = [{"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}]


@pytest.mark.parametrize(
    ("name", "sent_back"),
    [
        ("groq", {"content": None, "reasoning": "hm"}),
        ("deepseek", {"content": None, "reasoning_content": "hm"}),
        ("mistral", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
        ("openrouter", {"content": None, "reasoning_details": DETAILS}),
        ("openai", {"content": None}),
        ("fireworks", {"content": None}),
    ],
)
def test_reasoning_goes_back_where_the_provider_takes_it(
    name: str, sent_back: dict[str, Any], scripted: Any, replies: Any
) -> None:
    """A loop went on without the reasoning, which DeepSeek refuses, or failed where details are not taken."""
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
    choice = {"index": 0, "message": {**message, "reasoning_details": DETAILS}, "finish_reason": "tool_calls"}
    server = scripted([replies.reply(json.dumps({"choices": [choice]}).encode())], [replies.answer("noon")])
    endpoints = {name: llmhub.Endpoint(base_url=server.url, api_key="k")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        assert llmhub.complete("q", model=f"{name}/m", hub=hub, tools=[clock]).text == "noon"
    turn = json.loads(server.bodies[1])["messages"][1]
    assert {field: turn[field] for field in turn if field not in {"role", "tool_calls"}} == sent_back


def test_reasoning_is_kept_from_models_of_a_route_that_refuse_it(scripted: Any, replies: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
    message = {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    first = scripted([replies.reply(json.dumps({"choices": [choice]}).encode())], [replies.reply(b"{}", status=500)])
    other = scripted([replies.answer("noon")])
    endpoints = {
        name: llmhub.Endpoint(base_url=server.url, api_key="k") for name, server in (("groq", first), ("openai", other))
    }
    route = {"fast": llmhub.Failover("groq/m", "openai/m")}
    with llmhub.Hub(endpoints=endpoints, settings=Settings(), cache=llmhub.MemoryCache(), route=route) as hub:
        assert llmhub.complete("q", model="fast", hub=hub, tools=[clock]).text == "noon"


def test_tokens_and_cost_are_those_of_all_turns(hub: llmhub.Hub) -> None:
    total = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather])
    tool = function_tool(weather).tool
    first = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[tool])
    assert first.tool_calls
    assert first.cache_hit
    last = llmhub.complete(list(total.transcript[:3]), model=MODEL, hub=hub, tools=[tool])
    assert last.cache_hit
    assert total.cost_usd is not None
    assert first.list_cost_usd is not None
    assert last.list_cost_usd is not None
    assert total.cost_usd == first.list_cost_usd + last.list_cost_usd
    tokens = (first.usage.input_tokens, last.usage.input_tokens, total.usage.input_tokens)
    assert tokens[0] is not None
    assert tokens[1] is not None
    assert tokens[0] + tokens[1] == tokens[2]


def test_a_second_run_takes_every_turn_from_the_cache(hub: llmhub.Hub, sent: list[Call]) -> None:
    first = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather])
    again = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather])
    assert again == first
    assert (again.cost_usd, again.cache_hit, len(sent)) == (Decimal(0), True, 2)


def test_exceptions_and_wrong_arguments_become_errors_of_the_tool(hub: llmhub.Hub) -> None:
    def weather(city: int) -> str:
        return str(city)

    failed = llmhub.complete("Go [[sim:tool broken]]", model="anthropic/claude-haiku-4-5", hub=hub, tools=[broken])
    (result,) = failed.transcript[2].parts
    assert isinstance(result, ToolResult)
    assert result.is_error
    assert str(result.content).startswith("Error: RuntimeError: no weather in ")
    plain = llmhub.complete("Go [[sim:tool broken]]", model=MODEL, hub=hub, tools=[broken])
    (result,) = plain.transcript[2].parts
    assert isinstance(result, ToolResult)
    assert str(result.content).startswith("Error: RuntimeError: ")
    assert plain.text
    wrong = function_tool(weather)
    with pytest.raises(llmhub.MalformedResponseError):
        wrong.arguments('{"city": "Rome"}')


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_ends_a_program_is_an_error_of_the_tool_that_raises_it(
    hub: llmhub.Hub, error: type[BaseException], is_async: bool
) -> None:
    """It would end the loop of all calls, or cancel them."""

    def weather(city: str) -> str:
        raise error

    async def weather_awaited(city: str) -> str:
        raise error

    weather_awaited.__name__ = "weather"
    tools = [weather_awaited if is_async else weather]
    table = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=tools, progress=False)
    assert table.column("turns").to_pylist() == [2, 0, 1, 2]
    assert f"Error: {error.__name__}" in table.column("transcript").to_pylist()[0]


def test_calls_of_one_turn_run_at_the_same_time(hub: llmhub.Hub) -> None:
    both = threading.Barrier(2, timeout=10)

    def one(x: str) -> str:
        both.wait()
        return "1"

    def two(x: str) -> str:
        both.wait()
        return "2"

    response = llmhub.complete("[[sim:tool one]] [[sim:tool two]]", model=MODEL, hub=hub, tools=[one, two])
    assert [part.content for part in response.transcript[2].parts if isinstance(part, ToolResult)] == ["1", "2"]


async def test_coroutine_functions_are_awaited(hub: llmhub.Hub) -> None:
    async def weather(city: str) -> str:
        return f"sun in {city}"

    response = await llmhub.acomplete(ASK, model=MODEL, hub=hub, tools=[weather])
    assert response.turns == 2
    assert "sun in" in str(response.transcript[2].parts[0])


def test_functions_run_in_processes(hub: llmhub.Hub) -> None:
    with ProcessPoolExecutor(1) as pool:
        response = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather], tool_executor=pool)
    assert '"value":21' in str(response.transcript[2].parts[0])


def test_max_turns_ends_the_conversation(hub: llmhub.Hub, sent: list[Call]) -> None:
    response = llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather], max_turns=1)
    assert (response.turns, len(sent), response.finish_reason) == (1, 1, "tool_calls")
    with pytest.raises(BadRequestError, match="max_turns"):
        llmhub.complete(ASK, model=MODEL, hub=hub, tools=[weather], max_turns=0)


def test_a_required_tool_is_required_once(hub: llmhub.Hub) -> None:
    response = llmhub.complete("Hi", model=MODEL, hub=hub, tools=[weather], tool_choice="required")
    assert (response.turns, response.tool_calls) == (2, ())


def test_chunks_of_all_turns_are_streamed(hub: llmhub.Hub) -> None:
    *chunks, last = llmhub.stream(ASK, model=MODEL, hub=hub, tools=[weather])
    assert isinstance(last.response, llmhub.Completion)
    assert last.response.turns == 2
    assert "".join(chunk.text for chunk in chunks).endswith(last.response.text)


FRAME = pd.DataFrame({"ask": ["Now? [[sim:tool weather]]", None, "Hi", "Then? [[sim:tool weather]]"]})


def test_rows_have_turns_transcripts_and_totals(hub: llmhub.Hub, sent: list[Call]) -> None:
    table = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather], concurrency=2)
    rows = table.to_pylist()
    assert [row["turns"] for row in rows] == [2, 0, 1, 2]
    assert [row["status"] for row in rows] == ["ok", "skipped", "ok", "ok"]
    assert len(sent) == 5
    assert rows[1]["transcript"] is None
    log = json.loads(rows[0]["transcript"])
    assert [entry["role"] for entry in log] == ["user", "assistant", "tool", "assistant"]
    assert log[-1]["content"] == rows[0]["response"]
    single = llmhub.complete(FRAME.ask[0], model=MODEL, hub=hub, tools=[weather])
    assert rows[0]["cost_usd"] == single.list_cost_usd
    assert rows[0]["input_tokens"] == single.usage.input_tokens
    again = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather])
    assert len(sent) == 5
    assert again.column("cost_usd").to_pylist()[0] == 0
    assert again.column("list_cost_usd").to_pylist() == table.column("list_cost_usd").to_pylist()
    assert again.column("request_key").to_pylist() == table.column("request_key").to_pylist()


def test_a_transcript_can_be_continued(hub: llmhub.Hub) -> None:
    table = llmhub.complete_table(FRAME[:1], "{ask}", model=MODEL, hub=hub, tools=[weather])
    more = llmhub.complete_table(table.select(["transcript"]), "And?", messages="transcript", model=MODEL, hub=hub)
    assert more.column("status").to_pylist() == ["ok"]


def test_the_budget_holds_turn_by_turn(hub: llmhub.Hub, sent: list[Call]) -> None:
    table = llmhub.complete_table(
        FRAME[:1], "{ask}", model=MODEL, hub=hub, tools=[weather], max_tokens=100, budget_usd=0.00029
    )
    (row,) = table.to_pylist()
    assert row["status"] == "budget"
    assert row["turns"] == 1
    assert row["cost_usd"] > 0


def test_frames_and_series_and_jobs_run_tools(hub: llmhub.Hub) -> None:
    job = llmhub.submit(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather])
    assert job.result().column("turns").to_pylist() == [2, 0, 1, 2]
    framed = FRAME.llm.complete("{ask}", model=MODEL, hub=hub, tools=[weather])
    assert framed["turns"].tolist() == [2, 0, 1, 2]
    assert FRAME.ask.llm.complete(model=MODEL, hub=hub, tools=[weather]).notna().tolist() == [True, False, True, True]


def test_streams_of_rows_run_tools(hub: llmhub.Hub) -> None:
    whole = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather])
    parts = list(llmhub.stream_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather]))
    streamed = pa.concat_tables(parts).sort_by("row")
    columns = ["row", "status", "response", "turns", "transcript", "list_cost_usd", "request_key"]
    assert streamed.select(columns).to_pylist() == whole.select(columns).to_pylist()
    rows = list(FRAME.llm.stream("{ask}", model=MODEL, hub=hub, tools=[weather]))
    assert sorted(row["turns"] for row in rows) == [0, 1, 2, 2]


@pytest.mark.parametrize("name", ["out", "out.arrows"])
def test_sinks_hold_the_turns_and_continue(hub: llmhub.Hub, sent: list[Call], tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"model": MODEL, "hub": hub, "tools": [weather], "sink": tmp_path / name}
    written = llmhub.complete_table(FRAME, "{ask}", **options)
    assert (written.rows, written.statuses, len(sent)) == (4, {"ok": 3, "skipped": 1}, 5)
    table = read_sink(tmp_path / name)
    assert table.column("turns").to_pylist() == [2, 0, 1, 2]
    assert written.cost_usd == sum(cost for cost in table.column("cost_usd").to_pylist() if cost)
    again = llmhub.complete_table(FRAME, "{ask}", **options)
    assert (again.reused_rows, again.rows, len(sent)) == (4, 0, 5)


def test_the_journal_of_a_sink_keeps_every_turn_and_is_removed(simulator: SimulatorThread, tmp_path: Path) -> None:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:
        options: dict[str, Any] = {"model": MODEL, "hub": hub, "sink": tmp_path / "out", "concurrency": 1}
        before = simulator.counts()["requests"]
        llmhub.complete_table(FRAME[:3], "{ask}", tools=[weather], **options)
        assert simulator.counts()["requests"] - before == 3
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["part-000000000000.parquet"]


def read_sink(path: Path) -> pa.Table:
    if path.is_dir():
        return pa.concat_tables([pq.read_table(part) for part in sorted(path.glob("*.parquet"))])
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_stream(file).read_all()


def test_first_turns_are_looked_up_in_blocks(simulator: SimulatorThread) -> None:
    lookups: list[int] = []

    class Counting(llmhub.MemoryCache):
        def open(self) -> Any:
            store = super().open()

            def get_many(keys: Any) -> Any:
                lookups.append(len(keys))
                return store.get_many(keys)

            return dataclasses.replace(store, get_many=get_many)

    frame = {"ask": [f"Row {number}" for number in range(40)]}
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=Counting()) as hub:
        first = llmhub.complete_table(frame, "{ask}", model=MODEL, hub=hub, tools=[weather])
        lookups.clear()
        again = llmhub.complete_table(frame, "{ask}", model=MODEL, hub=hub, tools=[weather])
    assert lookups == [40]
    assert again.column("response").to_pylist() == first.column("response").to_pylist()
    assert again.column("cache_hit").to_pylist() == [True] * 40
    assert again.column("turns").to_pylist() == [1] * 40


def test_equal_rows_share_a_conversation(simulator: SimulatorThread) -> None:
    called: list[str] = []

    def weather(city: str) -> str:
        called.append(city)
        return "sun"

    frame = {"ask": ["Now? [[sim:tool weather]]"] * 6}
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as hub:  # no cache
        before = simulator.counts()["requests"]
        rows = llmhub.complete_table(frame, "{ask}", model=MODEL, hub=hub, tools=[weather]).to_pylist()
        assert (simulator.counts()["requests"] - before, len(called)) == (2, 1)
    assert [row["turns"] for row in rows] == [2] * 6
    assert [bool(row["cost_usd"]) for row in rows] == [True] + [False] * 5
    assert len({row["list_cost_usd"] for row in rows}) == 1
    assert [row["cache_hit"] for row in rows] == [False] + [True] * 5


def test_results_so_far_of_a_job_have_turns(hub: llmhub.Hub) -> None:
    running, proceed = threading.Event(), threading.Event()

    def weather(city: str) -> str:
        running.set()
        proceed.wait(20)
        return "sun"

    frame = pd.DataFrame({"ask": ["Hi", "Now? [[sim:tool weather]]"]})
    job = llmhub.llm(frame).submit("{ask}", model=MODEL, hub=hub, tools=[weather], concurrency=1)
    assert running.wait(20)
    partial = job.table()
    proceed.set()
    assert partial["turns"].tolist() == [1]
    assert job.result()["turns"].tolist() == [1, 2]


@pytest.mark.slow
def test_tools_run_in_processes_of_rows(simulator: SimulatorThread, tmp_path: Path) -> None:
    cache = llmhub.DiskCache(tmp_path / "cache.db")
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=cache) as hub:
        table = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather], n_jobs=2)
    assert table.column("turns").to_pylist() == [2, 0, 1, 2]


def test_a_row_whose_prompt_fails_ends_the_run_with_the_others(hub: llmhub.Hub) -> None:
    def report(progress: Any) -> None:
        raise RuntimeError("no display")

    with pytest.warns(RuntimeWarning, match="no display"):
        table = llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather], progress=report)
    assert table.column("turns").to_pylist() == [2, 0, 1, 2]


def test_plans_forecast_turns(simulator: SimulatorThread) -> None:
    asked = [f"City {number} [[sim:tool weather]]" if number % 2 else f"City {number}" for number in range(60)]
    options: dict[str, Any] = {"model": MODEL, "tools": [weather], "max_turns": 3}
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings(), cache=llmhub.MemoryCache()) as hub:
        blind = llmhub.plan({"ask": asked}, "{ask}", hub=hub, **options)
        (model,) = blind.models
        assert (model.requests.low, model.requests.expected, model.requests.high) == (60, 120, 180)
        assert "With tools, 2 turns per row (1..3) and 64 tokens per result are assumed." in str(blind)
        assert "pilot=20" in str(blind)
        without = llmhub.plan({"ask": asked}, "{ask}", hub=hub, **{**options, "tools": [function_tool(weather).tool]})
        assert without.requests.high == 60
        assert without.usd is not None
        assert blind.usd is not None
        assert blind.usd.low <= without.usd.low
        assert blind.usd.high > 3 * without.usd.high
        estimate = llmhub.plan({"ask": asked}, "{ask}", hub=hub, pilot=20, **options)
        results = llmhub.complete_table({"ask": asked}, "{ask}", hub=hub, **options)
        again = llmhub.plan({"ask": asked}, "{ask}", hub=hub, **options)
    (model,) = estimate.models
    sent = sum(row["turns"] for row in results.to_pylist() if not row["cache_hit"])
    assert model.requests.low <= sent <= model.requests.high
    assert model.requests.high - model.requests.low < 60
    assert (model.basis, estimate.pilot) == ("pilot", 20)
    assert "are assumed" not in str(estimate)
    checks = {check.quantity: check.within_interval for check in estimate.compare(results).checks}
    assert (checks["input tokens"], checks["output tokens"], checks["USD"]) == (True, True, True)
    assert "30 of the rows in the cache go on with a call of a function" in str(again)
    assert list(estimate.to_pandas().filter(like="requests")) == ["requests", "requests_low", "requests_high"]


def test_progress_of_tools_is_shown(hub: llmhub.Hub) -> None:
    reports: list[Any] = []
    llmhub.complete_table(FRAME, "{ask}", model=MODEL, hub=hub, tools=[weather], progress=reports.append)
    assert (reports[-1].done, reports[-1].finished) == (3, True)


def frame_of(kind: str, columns: dict[str, list[Any]]) -> Any:
    if kind == "pandas":
        return pd.DataFrame(columns, index=[5, 5])
    return pa.table(columns) if kind == "arrow" else pl.DataFrame(columns)


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_chat_appends_turns_to_a_column(hub: llmhub.Hub, sent: list[Call], kind: str) -> None:
    frame = frame_of(kind, {"name": ["Ada", "Bob"]})
    once = llmhub.llm(frame).chat("I am {name}.", model=MODEL, hub=hub, system="Be brief.")
    twice = llmhub.llm(once).chat("Who is {name}?", model=MODEL, hub=hub, system="Be brief.")
    assert type(twice) is type(frame)
    (first, _) = [list(cell) for cell in FrameColumns(twice).column("messages")]
    assert [turn["role"] for turn in first] == ["user", "assistant", "user", "assistant"]
    assert [turn["content"] for turn in first][::2] == ["I am Ada.", "Who is Ada?"]
    assert [message.role for message in sent[-1].request.messages] == ["system", "user", "assistant", "user"]
    assert len(FrameColumns(frame).names) == 1


def test_a_failed_row_keeps_its_conversation(hub: llmhub.Hub) -> None:
    log = [{"role": "user", "content": "Hi"}]
    frame = pd.DataFrame({"talk": [log, None]})
    with pytest.warns(RuntimeWarning, match=r"1 conversations are unchanged.*\(budget 1\)"):
        after = llmhub.llm(frame).chat(model=MODEL, messages="talk", hub=hub, budget_usd=0)
    assert after.talk.tolist() == [log, None]


def test_chat_with_tools_keeps_their_turns(hub: llmhub.Hub) -> None:
    after = llmhub.llm(FRAME[:1]).chat("{ask}", model=MODEL, hub=hub, tools=[weather])
    assert [turn["role"] for turn in after.messages.iloc[0]] == ["user", "assistant", "tool", "assistant"]
    again = llmhub.llm(after).chat("Thanks", model=MODEL, hub=hub, tools=[weather])
    assert len(again.messages.iloc[0]) == 6
