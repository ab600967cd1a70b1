from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any
from zlib import crc32

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core.cache_key import CREDENTIALS, canonical_json, request_key, request_keyer
from llmhub.core.errors import Malformed
from llmhub.core.prepared import PLACEHOLDER, prompt_keyer, prompt_preparer, request_template
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint, Provider
from llmhub.core.serialization import (
    VALUE_VERSION,
    decode_response,
    encode_response,
    from_stored_response,
    pack,
    to_stored_response,
    unpack,
)
from llmhub.core.types import (
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Message,
    Part,
    Refusal,
    Schema,
    Text,
    Tool,
    ToolResult,
    Usage,
)
from llmhub.engine.call import Target
from llmhub.providers.registry import PROVIDERS
from llmhub.tables import prompt_batch

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), json_values, max_size=3)
parts = st.from_type(Part)
messages = st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), st.lists(parts, max_size=3))
finite = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model": st.text(max_size=8),
    "messages": st.lists(messages, max_size=3).map(tuple),
    **dict.fromkeys(("temperature", "top_p", "presence_penalty", "frequency_penalty"), st.none() | finite),
    **dict.fromkeys(("top_k", "max_tokens", "seed", "reasoning_budget", "logprobs"), st.none() | st.integers(-5, 5)),
    "stop": st.lists(st.text(max_size=4), max_size=2).map(tuple),
    "tools": st.lists(st.builds(Tool, st.text(max_size=4), st.text(max_size=4), objects), max_size=2).map(tuple),
    **dict.fromkeys(("tool_choice", "reasoning_effort", "user"), st.none() | st.text(max_size=4)),
    "parallel_tool_calls": st.none() | st.booleans(),
    "response_schema": st.none() | st.builds(Schema, objects),
    "n": st.integers(1, 3),
    "extra": objects,
    "unsupported": st.sampled_from(["error", "drop"]),
}
requests = st.builds(CompletionRequest, **VALUES)
HERE = Endpoint()
ASK = CompletionRequest(model="m", messages=(Message("user", "hi"),))
OPENAI = PROVIDERS["openai"]


def key(request: CompletionRequest = ASK, endpoint: Endpoint = HERE, provider: Provider = OPENAI, n: int = 0) -> bytes:
    return request_key(provider, endpoint, request, n)


# Keys of requests


def test_every_field_of_a_request_has_values_to_try() -> None:
    assert set(VALUES) == {field.name for field in fields(CompletionRequest)}


def exactly(value: object) -> bytes:
    """Tell values apart as JSON does: 1, 1.0 and true are three, and a mapping's order says nothing."""
    return msgspec.json.encode(value, order="deterministic")


@given(requests, requests, st.sampled_from(sorted(VALUES)))
def test_a_field_that_differs_changes_the_key(one: CompletionRequest, other: CompletionRequest, name: str) -> None:
    changed = replace(one, **{name: getattr(other, name)})
    old, new = getattr(one, name), getattr(changed, name)
    assume(old != new or exactly(old) != exactly(new))
    assert key(one) != key(changed)
    assert canonical_json(one) != canonical_json(changed)


def shuffled(value: Any) -> Any:
    """Give the same JSON with every mapping in another order."""
    match value:
        case Mapping():
            return {name: shuffled(value[name]) for name in reversed(list(value))}
        case list():
            return [shuffled(item) for item in value]
        case _:
            return value


@given(requests)
def test_equal_requests_have_equal_keys_whatever_the_order_of_mappings(request: CompletionRequest) -> None:
    tools = tuple(replace(tool, parameters=shuffled(tool.parameters)) for tool in request.tools)
    schema = request.response_schema
    twin = replace(
        request,
        extra=shuffled(request.extra),
        tools=tools,
        response_schema=schema and replace(schema, schema=shuffled(schema.schema)),
    )
    assert twin == request
    assert key(twin) == key(request)


@pytest.mark.parametrize("name", ["temperature", "top_p", "presence_penalty", "frequency_penalty"])
def test_zero_is_zero_however_it_is_written(name: str) -> None:
    keys = {key(replace(ASK, **{name: zero})) for zero in (0, 0.0, -0.0)}
    assert len(keys) == 1
    assert keys != {key(ASK)}


def test_what_is_written_in_another_kind_of_sequence_is_the_same() -> None:
    loose: Any = {"messages": [Message("user", "hi")], "stop": ["a"], "tools": [Tool("f")]}
    assert key(CompletionRequest(model="m", **loose)) == key(replace(ASK, stop=("a",), tools=(Tool("f"),)))
    assert key(replace(ASK, stop="a")) == key(replace(ASK, stop=("a",)))  # type: ignore[arg-type]


def test_numbers_of_other_libraries_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    assert key(replace(ASK, max_tokens=5.0)) == key(replace(ASK, max_tokens=5))  # type: ignore[arg-type]
    given_ = replace(
        ASK, temperature=numpy.float64(0.5), max_tokens=numpy.int64(5), n=numpy.int32(2), top_p=numpy.float32(0.5)
    )
    assert key(given_) == key(replace(ASK, temperature=0.5, max_tokens=5, n=2, top_p=0.5))
    assert is_successful(prepare(OPENAI, Endpoint(), given_, 0.0))


def test_parts_with_the_same_fields_are_told_apart_by_their_kind() -> None:
    def asked(*said: Part) -> bytes:
        return key(replace(ASK, messages=(Message("assistant", said),)))

    assert len({asked(Text("a")), asked(Refusal("a")), asked(Text("a"), Text("")), asked()}) == 4
    assert asked(Image(url="u")) != asked(Document(url="u"))
    assert asked(ToolResult("1", "a")) != asked(ToolResult("1", (Text("a"),)))


@given(requests, requests)
def test_canonical_bytes_are_json_of_the_one_request(one: CompletionRequest, other: CompletionRequest) -> None:
    assert isinstance(msgspec.json.decode(canonical_json(one)), dict)
    assert (canonical_json(one) == canonical_json(other)) <= (one == other)


# Keys of addresses

ADDRESSES = {
    "base_url": Endpoint(base_url="http://localhost:8000/v1"),
    "another base_url": Endpoint(base_url="http://localhost:8001/v1"),
    "api_version": Endpoint(api_version="v2"),
    "region": Endpoint(region="eu-west-1"),
    "header": Endpoint(headers={"openai-beta": "a"}),
    "another header": Endpoint(headers={"openai-beta": "b"}),
    "header of another name": Endpoint(headers={"x-beta": "a"}),
    "nothing": Endpoint(),
}


@pytest.mark.parametrize("name", sorted(PROVIDERS))
def test_addresses_versions_and_headers_change_the_key(name: str) -> None:
    keys = {what: key(endpoint=endpoint, provider=PROVIDERS[name]) for what, endpoint in ADDRESSES.items()}
    assert len(set(keys.values())) == len(ADDRESSES)


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint(api_key="a"),
        Endpoint(access_key_id="a", secret_access_key="b", session_token="c"),
        *(Endpoint(headers={name.title(): "a"}) for name in sorted(CREDENTIALS)),
        Endpoint(base_url="https://api.openai.com/v1/"),
    ],
    ids=repr,
)
def test_who_asks_makes_no_difference(endpoint: Endpoint) -> None:
    assert key(endpoint=endpoint) == key()


def test_the_case_and_order_of_headers_make_no_difference() -> None:
    one, other = Endpoint(headers={"A-b": "1", "C": "2"}), Endpoint(headers={"c": "2", "a-B": "1"})
    assert key(endpoint=one) == key(endpoint=other)


def test_providers_and_samples_have_keys_of_their_own() -> None:
    keys = [key(provider=provider, endpoint=ADDRESSES["base_url"]) for provider in PROVIDERS.values()]
    keys += [key(n=sample) for sample in range(12)]
    assert len(set(keys)) == len(keys)
    assert {len(each) for each in keys} == {32}


@given(st.lists(requests, max_size=4))
def test_one_keyer_keys_many_requests_like_each(asked: list[CompletionRequest]) -> None:
    whole = request_keyer(OPENAI, Endpoint())
    assert [whole(request, 1) for request in asked] == [key(request, n=1) for request in asked]


# One template's requests

texts = st.text() | st.sampled_from(["", " ", "\n", PLACEHOLDER, f"a{PLACEHOLDER}b", '"', "\\", "\u2028", "é", "\x00"])
unsayable = texts | st.sampled_from(["\ud800", "a\udfff"])
plain = st.builds(
    CompletionRequest,
    model=st.sampled_from(["m", "models/a b", "gpt-4o"]),
    messages=st.lists(st.builds(Message, st.just("system"), texts), max_size=1).map(tuple),
    temperature=st.none() | st.floats(0, 1),
    max_tokens=st.none() | st.integers(1, 9),
    extra=st.dictionaries(st.sampled_from(["x", "note"]), texts, max_size=1),
    stop=st.lists(texts, max_size=1).map(tuple),
)


@given(st.sampled_from(sorted(PROVIDERS)), plain, texts, st.integers(0, 3))
def test_a_text_is_keyed_like_the_request_that_asks_it(
    name: str, around: CompletionRequest, text: str, sample: int
) -> None:
    provider, endpoint, ask = PROVIDERS[name], ADDRESSES["base_url"], request_template(around)
    assert ask(text) == replace(around, messages=(*around.messages, Message("user", text)))
    assert prompt_keyer(provider, endpoint, ask)(text, sample) == request_key(provider, endpoint, ask(text), sample)


@given(st.sampled_from(sorted(PROVIDERS)), plain, unsayable, st.booleans())
def test_a_text_is_prepared_like_the_request_that_asks_it(
    name: str, around: CompletionRequest, text: str, stream: bool
) -> None:
    endpoint = replace(ADDRESSES["base_url"], api_key="k", access_key_id="a", secret_access_key="s")
    ask, provider = request_template(around), PROVIDERS[name]
    made = prompt_preparer(provider, endpoint, ask, stream=stream)(text, 1e9)
    assert made == prepare(provider, endpoint, ask(text), 1e9, stream=stream)


@given(*[st.sampled_from(sorted(PROVIDERS))] * 2, plain, unsayable, st.booleans(), st.integers(0, 9))
def test_a_text_put_to_somebody_else_is_prepared_and_keyed_like_the_request(
    asked: str, other: str, around: CompletionRequest, text: str, stream: bool, sample: int
) -> None:
    endpoint = replace(ADDRESSES["base_url"], api_key="k", access_key_id="a", secret_access_key="s")
    first, second = (Target(PROVIDERS[name], endpoint, f"m-{name}", f"{name}/m") for name in (asked, other))
    call = prompt_batch.prepare_target_prompt(first, around, stream=stream).text_call(text, b"k", sample)
    for _ in range(2):
        there = call.with_target(second)
        assert there.request == replace(call.request, model=second.model)
        assert there.valid_prepared is not None
        made = there.valid_prepared.prepare(there.valid_prepared.text, 1e9)
        assert made == prepare(second.provider, endpoint, there.request, 1e9, stream=stream)
        key = there.valid_prepared.for_target(second).key(there.valid_prepared.text, sample)
        halves = any("\ud800" <= letter <= "\udfff" for letter in text)
        # What has no bytes is refused, whatever its key.
        assert halves or key == request_key(second.provider, endpoint, there.request, sample)
        # And on from there, and back.
        call = there.with_target(first)
    changed = replace(call, request=replace(call.request, temperature=0.5))
    assert changed.valid_prepared is None
    assert changed.with_target(second).valid_prepared is None or other == asked


# Stored responses

usages = st.builds(Usage, **dict.fromkeys(Usage.__slots__, st.none() | st.integers(0, 2**63 - 1)))
responses = st.builds(
    CompletionResponse,
    parts=st.lists(parts, max_size=3).map(tuple),
    usage=usages,
    others=st.just(()),
    forced_tool=st.booleans(),
)
responses = responses | st.from_type(CompletionResponse).map(lambda response: replace(response, usage=Usage()))


@example(CompletionResponse(parts=(Text("{}"),), forced_tool=True), None, None, 0.0, ())
@given(responses, st.none() | finite, st.none() | finite, finite, st.lists(st.text()).map(tuple))
def test_a_stored_response_comes_back_whole(
    response: CompletionResponse, latency_s: float | None, ttft_s: float | None, at: float, dropped: tuple[str, ...]
) -> None:
    assert decode_response(encode_response(response)).unwrap() == response
    kept = to_stored_response(response, latency_s=latency_s, ttft_s=ttft_s, started_at=at, dropped=dropped)
    assert from_stored_response(kept) == response
    again = unpack(pack(kept)).unwrap()
    assert from_stored_response(again) == response
    assert (again.latency_s, again.ttft_s, again.started_at, again.dropped) == (latency_s, ttft_s, at, dropped)


@given(
    st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: encode_response(CompletionResponse())[:1] + tail)
)
def test_arbitrary_bytes_are_malformed_and_never_raise(value: bytes) -> None:
    assert isinstance(decode_response(value).failure(), Malformed)


@given(responses, st.integers(0, 10**6), st.integers(1, 255))
def test_one_wrong_byte_is_never_taken_for_an_answer(response: CompletionResponse, at: int, change: int) -> None:
    value = bytearray(encode_response(response))
    value[at % len(value)] ^= change
    assert isinstance(decode_response(bytes(value)).failure(), Malformed)
    assert isinstance(decode_response(encode_response(response)[: at % len(value)]).failure(), Malformed)


def framed(body: bytes, version: int = VALUE_VERSION) -> bytes:
    """Give a body that is no answer the head of one."""
    return bytes([version]) + crc32(body).to_bytes(4, "big" if version == 1 else "little") + body


@given(
    st.binary(max_size=60) | st.binary(max_size=90).map(lambda body: b"\x01" + body),
    st.sampled_from([1, VALUE_VERSION]),
)
def test_what_bears_the_right_checksum_and_is_no_answer_is_malformed(body: bytes, version: int) -> None:
    assert isinstance(decode_response(framed(body, version)).failure(), Malformed)


@given(responses, finite)
def test_a_value_of_the_first_layout_is_still_read(response: CompletionResponse, at: float) -> None:
    kept = to_stored_response(response, latency_s=0.5, started_at=at)
    assert unpack(framed(msgspec.msgpack.encode(kept), 1), b"any key").unwrap() == unpack(pack(kept)).unwrap()


@given(responses, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_value_under_another_key_is_never_taken_for_an_answer(
    response: CompletionResponse, key: bytes, other: bytes
) -> None:
    assume(key[:4] != other[:4])
    value = encode_response(response, key)
    assert decode_response(value, key).unwrap() == response
    assert isinstance(decode_response(value, other).failure(), Malformed)


def layout(*fields: object, kind: int = 0) -> bytes:
    usage = [None] * 5
    return framed(b"\0" + msgspec.msgpack.encode([[[kind, fields]], "stop", usage, "", "", [], None, None, 0.0, []]))


@pytest.mark.parametrize(
    "value",
    [
        layout("a", "b"),
        layout(kind=0),
        layout(1),
        layout(True),
        layout("a", kind=99),
        layout("a", "b", kind=-1),
        layout("1", [[6, ["a"]]], "", False, kind=4),
        layout("1", [[0, ["a"]]], "", kind=4),
        layout("1", 7, "", False, kind=4),
        layout(kind=4),
        framed(b"\0" + b"\x91" * 100_000),
        framed(layout("a")[5:].replace(b"\xa1a", b"\x91" * 100_000)),
    ],
    ids=lambda value: value[5:25].hex(),
)
def test_parts_that_cannot_be_are_malformed(value: bytes) -> None:
    assert decode_response(layout("a")).unwrap().text == "a"
    assert isinstance(decode_response(value).failure(), Malformed)
