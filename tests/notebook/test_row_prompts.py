"""Prompts of rows: templates, functions, conversations, images, and system messages."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Result, Success

import llmhub
from llmhub.api import tables
from llmhub.config import Settings
from llmhub.core.cache_key import request_key
from llmhub.core.errors import BadRequestError
from llmhub.core.messages import parse_message
from llmhub.core.types import CompletionRequest, Image, Message, Text, ToolCall, ToolResult
from llmhub.engine.event_loop import StopSignal, run_sync
from llmhub.engine.fan_out_types import CHUNK_SIZE
from llmhub.hub import Hub
from llmhub.sim import SimulatorThread
from llmhub.tables import images, results
from llmhub.tables.images import parse_images
from llmhub.tables.prompt_batch import batch_from_frame, prepare_target_prompt
from llmhub.tables.row_prompts import RowExtras
from llmhub.tables.rows import Row, parse_conversation

MODEL = "openai/gpt-4o-mini"


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def hub(simulator: SimulatorThread) -> Iterator[llmhub.Hub]:
    with llmhub.Hub(endpoints=simulator.endpoints(), settings=Settings()) as compiled:
        yield compiled


@pytest.fixture
def compile_requests(hub: llmhub.Hub) -> Callable[..., list[CompletionRequest | None]]:
    """Return a function that returns the requests of a frame without sending them; ``None`` for skipped rows."""

    def requests(frame: Any, prompt: Any = None, **aside: Any) -> list[CompletionRequest | None]:
        asks = [prepare_target_prompt(hub.target(MODEL), CompletionRequest(model="", messages=()))]
        questions = batch_from_frame(frame, prompt, asks, 1, RowExtras(**aside))
        requests_by_row: list[CompletionRequest | None] = [None] * len(questions)
        for chunk in questions.iter_chunks():
            for position, key, call, spoken in chunk:
                compiled = call(spoken, key)
                assert key == request_key(compiled.target.provider, compiled.target.endpoint, compiled.request)
                requests_by_row[position] = compiled.request
        assert [at for at, request in enumerate(requests_by_row) if request is None] == [
            at for at in range(len(questions)) if questions.skipped[at] or at in questions.invalid_rows
        ]
        return requests_by_row

    return requests


def run(frame: pd.DataFrame, hub: Hub, prompt: Any = None, **options: Any) -> pd.DataFrame:
    return llmhub.llm(frame).complete(prompt, model=options.pop("model", MODEL), hub=hub, progress=False, **options)


# Functions of a row


def test_prompt_function_equals_template(compile_requests: Any) -> None:
    frame = pd.DataFrame({"t": ["one", "two"], "n": [1, 2]})
    by_name = compile_requests(frame, lambda row: f"{row['t']} {row['n']}")
    assert by_name == compile_requests(frame, lambda row: f"{row.t} {row.n}") == compile_requests(frame, "{t} {n}")


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT], ids=str)
def test_missing_value_read_by_a_function_skips_the_row(
    hub: llmhub.Hub, simulator: SimulatorThread, missing: Any
) -> None:
    frame = pd.DataFrame({"t": pd.Series(["one", missing], dtype=object), "u": [None, "x"]})
    assert run(frame, hub, lambda row: f"Say {row['t']}")["status"].tolist() == ["ok", "skipped"]
    assert run(frame, hub, lambda row: f"Say {row.t}")["status"].tolist() == ["ok", "skipped"]
    assert run(frame, hub, lambda row: f"Say {row.get('t', 'nothing')}")["status"].tolist() == ["ok", "ok"]
    assert run(frame, hub, lambda row: None if "t" in row else "x")["status"].tolist() == ["skipped"] * 2
    assert simulator.counts()["requests"] == 4


def test_prompt_function_may_return_conversations(compile_requests: Any) -> None:
    frame = pd.DataFrame({"t": ["a", "b", "c"]})
    turns = [Message("system", "Brief."), {"role": "user", "content": "b"}]
    requests = compile_requests(frame, lambda row: {"a": "a", "b": turns, "c": None}[row.t])
    assert [
        None if request is None else [(turn.role, turn.text) for turn in request.messages] for request in requests
    ] == [
        [("user", "a")],
        [("system", "Brief."), ("user", "b")],
        None,
    ]


def test_prompt_function_errors_are_raised_before_sending(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = pd.DataFrame({"text": ["a", "b"]})
    with pytest.raises(BadRequestError, match=r"^prompt: 'txt' is not a column of the frame. Did you mean 'text'\?"):
        run(frame, hub, lambda row: row["txt"])
    with pytest.raises(ZeroDivisionError) as caught:
        run(frame, hub, lambda row: str(1 / 0) if row.text == "b" else "fine")
    assert caught.value.__notes__ == ["prompt: raised for row 1"]
    with pytest.raises(BadRequestError, match=r"^prompt: .* an invalid value for row 0: .* int is not a message"):
        run(frame, hub, lambda _: 7)
    with pytest.raises(BadRequestError, match=r"^system: .* an invalid value for row 0: list is not a string"):
        run(frame, hub, "{text}", system=lambda _: ["x"])
    assert simulator.counts()["requests"] == 0


def test_prompt_function_is_called_once_per_row_in_this_thread(hub: llmhub.Hub) -> None:
    import threading  # noqa: PLC0415 - of this test alone

    calls: list[tuple[str, threading.Thread]] = []

    def prompt(row: Row) -> str:
        calls.append((row.t, threading.current_thread()))
        return f"Say {row.t}"

    run(pd.DataFrame({"t": ["a", "b"]}), hub, prompt, model=[MODEL, "anthropic/claude-haiku-4-5"], n=2)
    assert calls == [("a", threading.current_thread()), ("b", threading.current_thread())]


# System messages


def test_system_template(compile_requests: Any, hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    frame = pd.DataFrame({"t": ["a", "b", "c"], "lang": ["French", None, "Czech"]})
    requests = compile_requests(frame, "{t}", system="In {lang}.")
    assert [None if request is None else [turn.text for turn in request.messages] for request in requests] == [
        ["In French.", "a"],
        None,
        ["In Czech.", "c"],
    ]
    assert compile_requests(frame, "{t}", system=lambda row: f"In {row.lang}.") == requests
    answers = run(frame, hub, "{t}", system="Answer as {{}}.")
    same = llmhub.complete("a", model=MODEL, hub=hub, system="Answer as {}.").text
    assert answers["response"].iloc[0] == same
    with pytest.raises(BadRequestError, match=r"^system: 'language' is not a column"):
        run(frame, hub, "{t}", system="In {language}.")
    with pytest.raises(BadRequestError, match=r"^system: .*double the braces of text: \{\{ and \}\}"):
        run(frame, hub, "{t}", system='As {"a": 1')
    with pytest.raises(BadRequestError, match=r"^system: Series is not a template; write '\{column\}'"):
        run(frame, hub, "{t}", system=frame["lang"])
    assert simulator.counts()["requests"] == 4


def test_system_column(hub: llmhub.Hub, compile_requests: Any) -> None:
    frame = pd.DataFrame({"t": ["a", "b"], "how": ["Be {brief}.", None]})
    requests = compile_requests(frame, "{t}", system="how")
    assert [turn.text for turn in requests[0].messages] == ["Be {brief}.", "a"]
    assert requests[1] is None
    table_run = run(frame, hub, "{t}", system="how")
    assert table_run["response"].iloc[0] == llmhub.complete("a", model=MODEL, system="Be {brief}.", hub=hub).text
    assert table_run["status"].tolist() == ["ok", "skipped"]


def test_system_format_error_is_raised_before_sending(hub: llmhub.Hub, simulator: SimulatorThread) -> None:
    with pytest.raises(BadRequestError, match=r"^system: \{n:\.2f\} cannot format 'x'"):
        run(pd.DataFrame({"t": ["a"], "n": ["x"]}), hub, "{t}", system="{n:.2f}")
    assert simulator.counts()["requests"] == 0


# Conversations

TURNS = [
    ({"role": "user", "content": "hi"}, Message("user", "hi")),
    ({"role": "user", "content": [{"type": "text", "text": "hi"}]}, Message("user", "hi")),
    (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}}]},
        Message("user", Image(url="https://x/a.png", detail="low")),
    ),
    (
        {
            "role": "user",
            "content": [{"type": "image", "source": {"type": "base64", "data": "eA==", "media_type": "image/png"}}],
        },
        Message("user", Image(data="eA==", media_type="image/png")),
    ),
    (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        Message("assistant", ToolCall("1", "f", "{}")),
    ),
    ({"role": "tool", "tool_call_id": "1", "content": "42"}, Message("tool", ToolResult("1", "42"))),
    ({"role": "user", "content": "hi", "tool_calls": None, "name": None}, Message("user", "hi")),
    (Message("user", "hi"), Message("user", "hi")),
    ("hi", Message("user", "hi")),
    ({"role": "user", "content": [Text("a"), "b"]}, Message("user", [Text("a"), Text("b")])),
]


@pytest.mark.parametrize(("turn", "message"), TURNS)
def test_message_forms(turn: Any, message: Message) -> None:
    assert parse_message(turn) == Success(message)
    assert parse_conversation([turn]) == (message,)
    assert parse_conversation(np.array([turn], dtype=object)) == (message,)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (7, "int is not a message"),
        ({"content": "x"}, "dict is not a message"),
        ({"role": "user"}, "has no content"),
        ({"role": "user", "content": 7}, "int is not the content"),
        ({"role": "user", "content": [{"type": "video"}]}, "cannot parse a block of type 'video'"),
        ({"role": "user", "content": [{"type": "text"}]}, "cannot parse a block of type 'text'"),
        ({"role": "user", "content": [{"type": "image", "source": {}}]}, "cannot parse a block"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "a tool call needs an 'id'"),
        ({"role": "", "tool_calls": True}, "tool_calls must be a list"),
        ({"role": "assistant", "tool_calls": "f"}, "tool_calls must be a list"),
    ],
)
def test_invalid_messages(turn: Any, message: str) -> None:
    assert message in parse_message(turn).failure().message


KEYS = ["role", "content", "type", "text", "source", "image_url", "tool_calls", "tool_call_id"]


LOGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(LOGS)
def test_any_value_is_a_message_or_an_error(turn: Any) -> None:
    assert isinstance(parse_message(turn), Result)


def test_messages_column(hub: llmhub.Hub, compile_requests: Any) -> None:
    log = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "hi"}]
    frame = pd.DataFrame({"chat": [log, json.dumps(log), None, "hi", [{"role": "user"}], 7], "t": list("abcdef")})
    answers = run(frame, hub, messages="chat", columns=["request_key"])
    assert answers["status"].tolist() == ["ok", "ok", "skipped", "ok", "error", "error"]
    assert answers["cache_hit"].tolist() == [False, True, False, False, False, False]
    assert answers["error"].iloc[4].startswith("messages: row 4: message 0: a message with role 'user' has no content")
    assert answers["request_key"].isna().tolist() == [False, False, True, False, True, True]
    more = compile_requests(frame.iloc[[3]], "And {t}?", messages="chat", system="Be {t}.")
    assert [(turn.role, turn.text) for turn in more[0].messages] == [
        ("system", "Be d."),
        ("user", "hi"),
        ("user", "And d?"),
    ]


def test_template_of_a_conversation_column_only(hub: llmhub.Hub, compile_requests: Any) -> None:
    log = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "hi"}]
    values = [log, "hi", None, [Message("user", "ho")], ["no", "turns"], Message("user", "he"), np.array(log)]
    frame = pd.DataFrame({"chat": pd.Series(values, dtype=object)})
    requests = compile_requests(frame, "{chat}")
    assert [None if request is None else [turn.text for turn in request.messages] for request in requests] == [
        ["Brief.", "hi"],
        ["hi"],
        None,
        ["ho"],
        ["['no', 'turns']"],
        ["he"],
        ["Brief.", "hi"],
    ]
    texts = llmhub.llm(frame["chat"]).complete(model=MODEL, hub=hub, progress=False)
    assert texts.tolist()[0] == run(frame, hub, "{chat}")["response"].iloc[0]
    assert texts.isna().tolist() == [False, False, True, False, False, False, False]


def test_conversations_in_an_arrow_table(compile_requests: Any) -> None:
    log = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (requests,) = compile_requests(pa.table({"chat": [log]}), messages="chat")
    assert [(turn.role, turn.text) for turn in requests.messages] == [("user", "hi"), ("assistant", "ho")]


# Images


def test_image_forms(tmp_path: Path) -> None:
    from PIL import Image as Pil  # noqa: PLC0415 - matplotlib brings it

    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    data = base64.b64encode(PNG).decode()
    image = Image(data=data, media_type="image/png")
    for value in (PNG, bytearray(PNG), memoryview(PNG), str(file), file, {"bytes": PNG, "path": None}, image):
        assert parse_images(value) == (image,)
    for url in ("https://x.org/a.png", f"data:image/png;base64,{data}", "gs://b/a.png"):
        assert parse_images(url) == (Image(url=url),)
    assert parse_images([PNG, None, "https://x.org/a.png"]) == (image, Image(url="https://x.org/a.png"))
    (drawn,) = parse_images(Pil.new("CMYK", (2, 2)))  # type: ignore[misc]
    assert drawn.media_type == "image/png"
    assert base64.b64decode(drawn.data).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"%PDF-1.7", "not an image of a supported format"),
        (b"", "not an image"),
        ("nowhere.png", "cannot be read"),
        ("\0", "cannot be read"),
        (7, "int is not an image"),
        (np.zeros((2, 2)), "ndarray is not an image"),
        ({"bytes": None}, "without bytes, path or url"),
        ([PNG, 7], "int is not an image"),
        (math.pi, "float is not an image"),
    ],
    ids=str,
)
def test_invalid_images(value: Any, message: str) -> None:
    requests_by_row = parse_images(value)
    assert not isinstance(requests_by_row, tuple)
    assert message in requests_by_row.message


def test_invalid_image_fails_its_own_row(hub: llmhub.Hub, compile_requests: Any) -> None:
    frame = pd.DataFrame({"t": list("abcd"), "img": [PNG, "nowhere.png", None, ["https://x.org/1.png", PNG]]})
    answers = run(frame, hub, "What is {t}?", images="img", columns=["error_type"])
    assert answers["status"].tolist() == ["ok", "error", "skipped", "ok"]
    assert answers["error_type"].iloc[1] == "InvalidRequest"
    assert answers["error"].iloc[1] == "images: row 1: 'nowhere.png' cannot be read: No such file or directory"
    requests = compile_requests(frame, "What is {t}?", images="img")
    assert [type(part) for part in requests[0].messages[0].parts] == [Image, Text]
    assert [type(part) for part in requests[3].messages[0].parts] == [Image, Image, Text]
    assert compile_requests(frame, None, images="img")[0].messages[0].parts == requests[0].messages[0].parts[:1]


def test_images_are_read_in_chunks(hub: llmhub.Hub) -> None:
    big = PNG + bytes(3 << 20)
    asks = [prepare_target_prompt(hub.target(MODEL), CompletionRequest(model="", messages=()))]
    questions = batch_from_frame({"img": [big] * 9}, None, asks, 1, RowExtras(images="img"))
    assert [len(list(chunk)) for chunk in questions.iter_chunks()] == [4, 4, 1]


# Errors


def test_missing_prompt_is_rejected(hub: llmhub.Hub) -> None:
    frame = pd.DataFrame({"t": ["a"]})
    with pytest.raises(BadRequestError, match=r"^prompt: there is no prompt"):
        run(frame, hub)
    with pytest.raises(BadRequestError, match=r"^messages: Series is not a column name; pass messages='column'"):
        run(frame, hub, messages=frame["t"])
    with pytest.raises(BadRequestError, match=r"^images: 'img' is not a column"):
        run(frame, hub, "{t}", images="img")
    with pytest.raises(BadRequestError, match=r"^prompt: Series is not a template; write '\{column\}'"):
        run(frame, hub, frame["t"])


@given(st.lists(st.none() | st.text(max_size=5), max_size=6), st.integers(1, 3))
def test_fast_path_sends_the_same_requests(values: list[str | None], samples: int) -> None:
    hub = llmhub.Hub(endpoints={"openai": llmhub.Endpoint(api_key="k")}, settings=Settings())
    asks = [prepare_target_prompt(hub.target(MODEL), CompletionRequest(model="", messages=(), temperature=0.5))] * 2
    quick = batch_from_frame(pa.table({"t": pa.array(values, pa.string())}), "Say {t}", asks, samples)
    general = batch_from_frame(pa.table({"t": pa.array(values, pa.string())}), "Say {t}", asks, samples)
    object.__setattr__(general, "is_plain_text", False)
    items = [[(at, key) for chunk in request.iter_chunks() for at, key, _, _ in chunk] for request in (quick, general)]
    assert items[0] == items[1]
    assert (quick.keys, quick.skipped) == (general.keys, general.skipped)


def test_stopped_run_reads_no_more_images(
    hub: llmhub.Hub, simulator: SimulatorThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    reads: list[Path] = []

    def read(path: Path, _root: Path | None) -> bytes:
        reads.append(path)
        return PNG

    monkeypatch.setattr(images, "_read", read)
    count = CHUNK_SIZE + 100
    frame = pd.DataFrame({"img": [None, *(tmp_path / "a.png" for _ in range(count))], "t": range(count + 1)})
    table_run = tables.build_table_run(frame, "{t}", MODEL, hub, {"images": "img"})
    halted = False
    chunks = table_run.batch.iter_chunks(lambda: halted)
    assert len(list(next(chunks))) == CHUNK_SIZE
    halted = True
    rest = [position for chunk in chunks for position, *_ in chunk]
    assert (len(reads), rest) == (CHUNK_SIZE, list(range(CHUNK_SIZE + 1, count + 1)))
    stop = StopSignal()
    stop.request()
    again = tables.build_table_run(frame, "{t}", MODEL, hub, {"images": "img"})
    done = run_sync(lambda _: tables.execute(again, None, stop))
    table = results.build_results(again.batch, done, "r", 0.0)
    assert table.column("status").to_pylist() == ["skipped"] + ["cancelled"] * count
    assert table.column("request_key").null_count == count + 1
    assert (len(reads), simulator.counts()["requests"]) == (CHUNK_SIZE, 0)
