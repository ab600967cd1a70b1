"""Laws of the dialects: a recorded request that a dialect parses, our wire encodes to a payload of the same meaning;
a response that it encodes, our wire decodes to the same, streamed or not; any other payload is refused with a path."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core.errors import ConnectorError
from llmhub.core.protocol import StreamDecoder, interpret, interpret_stream, prepare
from llmhub.core.provider import Endpoint, HttpReply
from llmhub.core.types import (
    NO_USAGE,
    Choice,
    CompletionResponse,
    Document,
    Image,
    Logprobs,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    Usage,
)
from llmhub.providers.registry import PROVIDERS
from llmhub.server.dialects import anthropic, gemini, openai_chat, openai_responses
from llmhub.server.dialects.dialect import Dialect, ReplyInfo

Body = Mapping[str, Any]


def load_round_trip() -> ModuleType:
    """Import the recorded requests and their equivalent forms from the tests of the wires."""
    name = "recorded_round_trip"
    path = Path(__file__).parents[1] / "wire" / "test_recorded_round_trip.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RECORDED = load_round_trip()


@dataclass(frozen=True)
class Case:
    """A dialect, the recorded APIs that it answers for, and the provider whose wire is its other half."""

    dialect: Dialect
    apis: tuple[str, ...]
    provider: str
    refused: Mapping[str, str]
    has_unknown_usage: bool = False


CASES = {
    "openai_chat": Case(openai_chat.DIALECT, ("chat_completions",), "openai", {}, has_unknown_usage=True),
    "gemini": Case(
        gemini.DIALECT,
        ("generate_content", "stream_generate_content"),
        "google",
        {"vertex.generate_content.654cb61a34a5": "it reads a bucket with the credentials of the service"},
        has_unknown_usage=True,
    ),
    "openai_responses": Case(openai_responses.DIALECT, ("responses",), "openai-responses", {}),
    "anthropic": Case(anthropic.DIALECT, ("messages",), "anthropic", {}),
}


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    responses = (RECORDED.folder() / "openai-responses.jsonl").read_text("utf-8").split("\n")
    return [*RECORDED.recorded(), *(json.loads(line) for line in responses if line)]


def reencoded(case: Case, row: Body) -> Any:
    """Parse a recorded request by the dialect and encode it by the wire; return the body or the error."""
    body = row["request"]["body"]
    model = RECORDED.model_of(row)
    try:
        parsed = case.dialect.parse({**body, "model": model}, True)
    except ConnectorError as error:
        return error.error
    provider = PROVIDERS[case.provider]
    if row["api"] in RECORDED.APIS:
        form = RECORDED.FORMATS[RECORDED.APIS[row["api"]]]
        name = form.providers.get(row["provider"], row["provider"])
        provider = PROVIDERS[name if name in PROVIDERS else form.default_provider]
    endpoint = Endpoint(base_url="http://localhost", api_key="k", region="us-east-1", project="p")
    prepared = prepare(provider, endpoint, replace(parsed.request, model=model), 0.0, stream=row["streaming"])
    return json.loads(prepared.unwrap().body) if is_successful(prepared) else prepared.failure()


DEFAULTS = {"top_logprobs": 0, "logprobs": False}
"""Values that mean the same as their absence, beside those of `RECORDED`."""


def normalized(body: Body, row: Body) -> Any:
    if row["api"] == "responses":
        return normalized_responses(body)
    explicit = {name: value for name, value in body.items() if name not in DEFAULTS or value != DEFAULTS[name]}
    return RECORDED.normalized(explicit, row)


ASSUMED = {"store", "include", "stream", "stream_options", "truncation", "instructions", "input"}
"""Fields of Responses that the wire sets itself, or that are normalized apart."""


def normalized_responses(body: Body) -> Any:
    """Return a Responses body without what has no meaning: defaults, ids of items, one text or a list of one."""
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    opening = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
    rest = {
        ("safety_identifier" if name == "user" else name): value for name, value in body.items() if name not in ASSUMED
    }
    rest["tools"] = [
        {"strict": True, **filled(tool)} if tool["type"] == "function" else tool for tool in body.get("tools") or []
    ]
    form = (body.get("text") or {}).get("format") or {}
    text = {
        **(body.get("text") or {}),
        "format": {} if form.get("type") == "text" else {"strict": False, **form} if form else {},
    }
    rest["text"] = filled(text)
    if body.get("reasoning"):
        rest["reasoning"] = filled(body["reasoning"])
    return {**filled(rest), "input": [responses_item(item) for item in (*opening, *items)]}


def filled(fields: Body) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, [], {}, "")}


def responses_item(item: Body) -> Any:
    kept = {
        name: value
        for name, value in filled(item).items()
        if name not in {"status", "type"} or value not in {"completed", "message"}
    }
    if item.get("type") != "reasoning":
        kept.pop("id", None)
    if kept.get("role") == "developer":
        kept["role"] = "system"
    for name in ("content", "output"):
        if isinstance(kept.get(name), list):
            blocks = [filled(block) for block in kept[name]]
            kept[name] = [
                {"text": block["text"]} if "text" in block and set(block) <= {"type", "text"} else block
                for block in blocks
            ]
            if name == "output" and all(set(block) == {"text"} for block in kept[name]):
                kept[name] = "".join(block["text"] for block in kept[name])
        elif name == "content" and isinstance(kept.get(name), str):
            kept[name] = [{"text": kept[name]}]
    return kept


@pytest.mark.corpus
@pytest.mark.parametrize("name", CASES)
def test_recorded_requests_keep_their_meaning(name: str, rows: list[Any]) -> None:
    case = CASES[name]
    differing = {}
    for row in (row for row in rows if row["api"] in case.apis):
        body = reencoded(case, row)
        if not isinstance(body, dict):
            differing[row["id"]] = str(body)
        elif normalized(body, row) != normalized(row["request"]["body"], row):
            differing[row["id"]] = "differs"
        if any(row["request"]["body"].get(field) for field in openai_responses.STORED):
            assert differing.pop(row["id"]) != "differs"
    allowed = {*case.refused, *RECORDED.NOT_ENCODABLE}
    assert {row: why for row, why in differing.items() if row not in allowed} == {}
    assert set(case.refused) <= set(differing)


@pytest.mark.corpus
@pytest.mark.parametrize("name", CASES)
def test_requests_for_other_apis_are_portable_or_refused_with_a_path(name: str, rows: list[Any]) -> None:
    case = CASES[name]
    for row in (row for row in rows if row["api"] in case.apis):
        try:
            request = case.dialect.parse({"model": "m", **row["request"]["body"]}, False).request
        except ConnectorError as error:
            path = error.error.path
        else:
            path = "$.model"
            assert not any(isinstance(part, Opaque) for message in request.messages for part in message.parts)
            assert not request.extra
        assert path.startswith("$.")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def mutated(draw: Callable[..., Any], value: Any) -> Any:
    """Return a payload with one value somewhere in it replaced by another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: mutated(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], mutated(draw, value[index]), *value[index + 1 :]]
    return draw(json_values)


@pytest.mark.corpus
@pytest.mark.parametrize("name", CASES)
def test_any_payload_is_parsed_or_refused(name: str, rows: list[Any]) -> None:
    case = CASES[name]
    bodies = [row["request"]["body"] for row in rows if row["api"] in case.apis]

    @given(st.data())
    def check(data: st.DataObject) -> None:
        body = mutated(data.draw, data.draw(st.sampled_from(bodies)))
        payload = {"model": "m", **body} if isinstance(body, dict) else {"model": "m", "messages": body}
        for native in (True, False):
            with suppress(ConnectorError):
                case.dialect.parse(payload, native)

    check()


# Responses

INFO = ReplyInfo(id="r1", model="m", created=1)
USAGES = (
    NO_USAGE,
    Usage(input_tokens=9, output_tokens=5, cached_input_tokens=0, reasoning_tokens=0),
    Usage(input_tokens=9, output_tokens=5, cached_input_tokens=4, reasoning_tokens=2),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
calls = st.builds(
    ToolCall,
    st.uuids().map(lambda value: f"call_{value.hex[:8]}"),
    st.just("f"),
    st.sampled_from(["{}", '{"a":1}', '{"b":"\\n"}']),
)


def decoded(case: Case, response: CompletionResponse, *, stream: bool, cuts: Sequence[int] = ()) -> Any:
    """Encode a response by the dialect and decode it by the wire; a stream is fed piece by piece."""
    provider = PROVIDERS[case.provider]
    if not stream:
        body = json.dumps(case.dialect.encode(response, INFO)).encode()
        return interpret(provider, HttpReply(200, {"content-type": "application/json"}, body)).unwrap()
    # The deltas that the service would see are those of the dialect's own stream of the response.
    first = case.dialect.open_stream(INFO).finish(response, INFO)
    deltas: list[Any] = []
    decoder = StreamDecoder(provider, HttpReply(200, {}, b""))
    encoder = case.dialect.open_stream(INFO)
    pieces = [first[start:end] for start, end in zip((0, *cuts), (*cuts, len(first)), strict=True)]
    encoded = []
    for piece in pieces:
        deltas += (new := decoder.feed(piece))
        encoded.append(encoder.feed(new))
    encoded.append(encoder.finish(decoder.close(deltas).unwrap(), INFO))
    return interpret_stream(provider, HttpReply(200, {"content-type": "text/event-stream"}, b""), encoded).unwrap()


def responses(case: Case) -> st.SearchStrategy[CompletionResponse]:
    """Return responses that the API can express."""
    optional: list[st.SearchStrategy[list[Part]]] = [
        st.lists(st.builds(Reasoning, texts), max_size=1),
        st.lists(st.builds(Text, texts), max_size=1),
        st.lists(calls, max_size=3, unique_by=lambda call: call.id),
    ]

    def build(parts: list[list[Part]], reason: Any, usage: Usage) -> CompletionResponse:
        flat = tuple(part for group in parts for part in group)
        finish = "tool_calls" if any(isinstance(part, ToolCall) for part in flat) else reason
        return CompletionResponse(parts=flat, finish_reason=finish, usage=usage, served_model="m", request_id="")

    return st.builds(
        build,
        st.tuples(*optional).map(list),
        st.sampled_from(["stop", "length"]),
        st.sampled_from(USAGES if case.has_unknown_usage else USAGES[1:]),
    ).filter(lambda response: bool(response.parts))


def comparable(response: CompletionResponse) -> Any:
    parts = tuple(replace(part, signature="") if isinstance(part, Reasoning) else part for part in response.parts)
    return replace(response, request_id="", served_model="", parts=parts)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_wires_decode_what_dialects_encode(name: str, stream: bool) -> None:
    case = CASES[name]

    @given(responses(case), st.data())
    def check(response: CompletionResponse, data: st.DataObject) -> None:
        cuts: list[int] = []
        if stream:
            length = len(case.dialect.open_stream(INFO).finish(response, INFO))
            cuts = sorted(data.draw(st.lists(st.integers(0, length), max_size=6)))
        assert comparable(decoded(case, response, stream=stream, cuts=cuts)) == comparable(response)

    check()


PNG_URL = "data:image/png;base64,iVBORw0KGgo="


class TestChatResponses:
    """What the strategies above leave out."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_further_choices_refusals_and_log_probabilities(self, stream: bool) -> None:
        case = CASES["openai_chat"]
        response = CompletionResponse(
            parts=(Text("Hi"), Logprobs('["Hi",-0.5,[["Hi",-0.5],["Ho",-1.5]]],')),
            finish_reason="stop",
            others=(Choice((Text("Ho"),), "length"),),
        )
        assert comparable(decoded(case, response, stream=stream)) == comparable(response)
        refused = CompletionResponse(parts=(Refusal("No."),), finish_reason="refusal")
        assert comparable(decoded(case, refused, stream=stream)) == comparable(refused)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("name", ["openai_chat", "gemini"])
    def test_recordings(self, name: str, stream: bool) -> None:
        """Gemini's have no id, and no transcript beside them."""
        parts: tuple[Part, ...] = (Document(data="UklGRgA=", media_type="audio/wav"),)
        if name == "openai_chat":
            parts = (Text("Hi"), Document(data="UklGRgA=", media_type="audio/wav", name="audio_1"))
        response = CompletionResponse(parts=parts)
        assert comparable(decoded(CASES[name], response, stream=stream)) == comparable(response)

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("name", ["openai_chat", "gemini", "openai_responses"])
    def test_images(self, name: str, stream: bool) -> None:
        """The items of Responses have more than the image; those of that API itself come as they were."""
        images = (Image(data="iVBORw0KGgo=", media_type="image/png"), Image(data="UklGRg==", media_type="image/webp"))
        found = decoded(CASES[name], CompletionResponse(parts=(Text("Hi"), *images)), stream=stream)
        assert (found.text, found.images) == ("Hi", images)
        if name == "openai_responses":
            assert comparable(decoded(CASES[name], found, stream=stream)) == comparable(found)

    def test_images_of_an_earlier_answer(self) -> None:
        turn = {"role": "assistant", "content": "Hi", "images": [{"type": "image_url", "image_url": {"url": PNG_URL}}]}
        payload = {"model": "m", "messages": [{"role": "user", "content": "q"}, turn]}
        request = openai_chat.DIALECT.parse(payload, False).request
        prepared = prepare(PROVIDERS["google"], Endpoint(api_key="k"), request, 0.0).unwrap()
        parts = json.loads(prepared.body)["contents"][1]["parts"]
        assert parts == [{"text": "Hi"}, {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}]
        prepared = prepare(PROVIDERS["openrouter"], Endpoint(api_key="k"), request, 0.0).unwrap()
        assert json.loads(prepared.body)["messages"][1] == turn

    def test_recording_of_an_earlier_answer_is_given_by_its_id(self) -> None:
        turn = {"role": "assistant", "audio": {"id": "audio_1"}}
        payload = {"model": "m", "messages": [{"role": "user", "content": "q"}, turn]}
        request = openai_chat.DIALECT.parse(payload, True).request
        prepared = prepare(PROVIDERS["openai"], Endpoint(api_key="k"), request, 0.0).unwrap()
        assert json.loads(prepared.body)["messages"][1] == {**turn, "content": None}
