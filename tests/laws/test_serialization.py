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
    pack_response,
    to_stored_response,
    unpack,
)
from llmhub.core.types import (
    TOKEN_CLASSES,
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


def test_strategy_covers_every_field() -> None:
    assert set(VALUES) == {field.name for field in fields(CompletionRequest)}


def exactly(value: object) -> bytes:
    """Return a form that compares like JSON: 1, 1.0 and true differ, the order of mappings does not matter."""
    return msgspec.json.encode(value, order="deterministic")


@given(requests, requests, st.sampled_from(sorted(VALUES)))
def test_any_field_changes_the_key(left: CompletionRequest, other: CompletionRequest, name: str) -> None:
    changed = replace(left, **{name: getattr(other, name)})
    old, new = getattr(left, name), getattr(changed, name)
    assume(old != new or exactly(old) != exactly(new))
    assert key(left) != key(changed)
    assert canonical_json(left) != canonical_json(changed)


def shuffled(value: Any) -> Any:
    """Return the same JSON with mappings in another order."""
    match value:
        case Mapping():
            return {name: shuffled(value[name]) for name in reversed(list(value))}
        case list():
            return [shuffled(item) for item in value]
        case _:
            return value


@given(requests)
def test_order_of_mappings_does_not_change_the_key(request: CompletionRequest) -> None:
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
def test_zero_is_normalized(name: str) -> None:
    keys = {key(replace(ASK, **{name: zero})) for zero in (0, 0.0, -0.0)}
    assert len(keys) == 1
    assert keys != {key(ASK)}


def test_sequence_types_are_normalized() -> None:
    loose: Any = {"messages": [Message("user", "hi")], "stop": ["a"], "tools": [Tool("f")]}
    assert key(CompletionRequest(model="m", **loose)) == key(replace(ASK, stop=("a",), tools=(Tool("f"),)))
    assert key(replace(ASK, stop="a")) == key(replace(ASK, stop=("a",)))  # type: ignore[arg-type]


def test_numbers_of_other_libraries_are_normalized() -> None:
    numpy = pytest.importorskip("numpy")
    assert key(replace(ASK, max_tokens=5.0)) == key(replace(ASK, max_tokens=5))  # type: ignore[arg-type]
    given_ = replace(
        ASK, temperature=numpy.float64(0.5), max_tokens=numpy.int64(5), n=numpy.int32(2), top_p=numpy.float32(0.5)
    )
    assert key(given_) == key(replace(ASK, temperature=0.5, max_tokens=5, n=2, top_p=0.5))
    assert is_successful(prepare(OPENAI, Endpoint(), given_, 0.0))


def test_part_types_change_the_key() -> None:
    def key_of(*parts: Part) -> bytes:
        return key(replace(ASK, messages=(Message("assistant", parts),)))

    assert len({key_of(Text("a")), key_of(Refusal("a")), key_of(Text("a"), Text("")), key_of()}) == 4
    assert key_of(Image(url="u")) != key_of(Document(url="u"))
    assert key_of(ToolResult("1", "a")) != key_of(ToolResult("1", (Text("a"),)))


@given(requests, requests)
def test_canonical_json_is_json(left: CompletionRequest, other: CompletionRequest) -> None:
    assert isinstance(msgspec.json.decode(canonical_json(left)), dict)
    assert (canonical_json(left) == canonical_json(other)) <= (left == other)


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
def test_endpoint_changes_the_key(name: str) -> None:
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
def test_credentials_do_not_change_the_key(endpoint: Endpoint) -> None:
    assert key(endpoint=endpoint) == key()


def test_case_and_order_of_headers_do_not_change_the_key() -> None:
    left, other = Endpoint(headers={"A-b": "1", "C": "2"}), Endpoint(headers={"c": "2", "a-B": "1"})
    assert key(endpoint=left) == key(endpoint=other)


def test_provider_and_sample_change_the_key() -> None:
    keys = [key(provider=provider, endpoint=ADDRESSES["base_url"]) for provider in PROVIDERS.values()]
    keys += [key(n=sample) for sample in range(12)]
    assert len(set(keys)) == len(keys)
    assert {len(each) for each in keys} == {32}


@given(st.lists(requests, max_size=4))
def test_request_keyer_equals_request_key(requests: list[CompletionRequest]) -> None:
    keyer = request_keyer(OPENAI, Endpoint())
    assert [keyer(request, 1) for request in requests] == [key(request, n=1) for request in requests]


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
def test_prompt_keyer_equals_request_key(name: str, around: CompletionRequest, text: str, sample: int) -> None:
    provider, endpoint, ask = PROVIDERS[name], ADDRESSES["base_url"], request_template(around)
    assert ask(text) == replace(around, messages=(*around.messages, Message("user", text)))
    assert prompt_keyer(provider, endpoint, ask)(text, sample) == request_key(provider, endpoint, ask(text), sample)


@given(st.sampled_from(sorted(PROVIDERS)), plain, unsayable, st.booleans())
def test_prompt_preparer_equals_prepare(name: str, around: CompletionRequest, text: str, stream: bool) -> None:
    endpoint = replace(ADDRESSES["base_url"], api_key="k", access_key_id="a", secret_access_key="s")
    ask, provider = request_template(around), PROVIDERS[name]
    prepared = prompt_preparer(provider, endpoint, ask, stream=stream)(text, 1e9)
    assert prepared == prepare(provider, endpoint, ask(text), 1e9, stream=stream)


@given(*[st.sampled_from(sorted(PROVIDERS))] * 2, plain, unsayable, st.booleans(), st.integers(0, 9))
def test_prepared_prompt_for_another_target(
    first_name: str, other: str, around: CompletionRequest, text: str, stream: bool, sample: int
) -> None:
    endpoint = replace(ADDRESSES["base_url"], api_key="k", access_key_id="a", secret_access_key="s")
    first, second = (Target(PROVIDERS[name], endpoint, f"m-{name}", f"{name}/m") for name in (first_name, other))
    call = prompt_batch.prepare_target_prompt(first, around, stream=stream).text_call(text, b"k", sample)
    for _ in range(2):
        retargeted = call.with_target(second)
        assert retargeted.request == replace(call.request, model=second.model)
        assert retargeted.valid_prepared is not None
        prepared = retargeted.valid_prepared.http(retargeted.valid_prepared.text, 1e9)
        assert prepared == prepare(second.provider, endpoint, retargeted.request, 1e9, stream=stream)
        key = retargeted.valid_prepared.for_target(second).key(retargeted.valid_prepared.text, sample)
        halves = any("\ud800" <= letter <= "\udfff" for letter in text)
        # Lone surrogates are rejected, whatever their key.
        assert halves or key == request_key(second.provider, endpoint, retargeted.request, sample)
        # And to a third target, and back.
        call = retargeted.with_target(first)
    changed = replace(call, request=replace(call.request, temperature=0.5))
    assert changed.valid_prepared is None
    assert changed.with_target(second).valid_prepared is None or other == first_name


# Stored responses

usages = st.builds(
    Usage,
    **dict.fromkeys((*TOKEN_CLASSES, "cache_write_1h_tokens"), st.none() | st.integers(0, 2**63 - 1)),
    service_tier=st.sampled_from(["", "flex"]),
    reported_cost_usd=st.none() | st.decimals(0, 1000, allow_nan=False, allow_infinity=False),
    billed_units=st.sampled_from([(), (("web_search:requests", 2), ("audio:input_tokens", 2**62))]),
)
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
def test_stored_responses_round_trip(
    response: CompletionResponse,
    latency_s: float | None,
    ttft_s: float | None,
    started_at: float,
    dropped: tuple[str, ...],
) -> None:
    assert decode_response(encode_response(response)).unwrap() == response
    stored = to_stored_response(response, latency_s=latency_s, ttft_s=ttft_s, started_at=started_at, dropped=dropped)
    assert from_stored_response(stored) == response
    directly = pack_response(
        response, b"key", latency_s=latency_s, ttft_s=ttft_s, started_at=started_at, dropped=dropped
    )
    assert directly == pack(stored, b"key")
    again = unpack(pack(stored)).unwrap()
    assert from_stored_response(again) == response
    assert (again.latency_s, again.ttft_s, again.started_at, again.dropped) == (latency_s, ttft_s, started_at, dropped)


@given(
    st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: encode_response(CompletionResponse())[:1] + tail)
)
def test_arbitrary_bytes_are_malformed(value: bytes) -> None:
    assert isinstance(decode_response(value).failure(), Malformed)


@given(responses, st.integers(0, 10**6), st.integers(1, 255))
def test_any_corrupt_byte_is_malformed(response: CompletionResponse, position: int, change: int) -> None:
    value = bytearray(encode_response(response))
    value[position % len(value)] ^= change
    assert isinstance(decode_response(bytes(value)).failure(), Malformed)
    assert isinstance(decode_response(encode_response(response)[: position % len(value)]).failure(), Malformed)


def framed(body: bytes, version: int = VALUE_VERSION) -> bytes:
    """Return a body with a valid header."""
    return bytes([version]) + crc32(body).to_bytes(4, "big" if version == 1 else "little") + body


@given(
    st.binary(max_size=60) | st.binary(max_size=90).map(lambda body: b"\x01" + body),
    st.sampled_from([1, VALUE_VERSION]),
)
def test_invalid_body_with_valid_checksum_is_malformed(body: bytes, version: int) -> None:
    assert isinstance(decode_response(framed(body, version)).failure(), Malformed)


@given(responses, finite)
def test_values_of_version_1_can_be_read(response: CompletionResponse, started_at: float) -> None:
    stored = to_stored_response(response, latency_s=0.5, started_at=started_at)
    assert unpack(framed(msgspec.msgpack.encode(stored), 1), b"any key").unwrap() == unpack(pack(stored)).unwrap()


@given(responses, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_value_under_another_key_is_malformed(response: CompletionResponse, key: bytes, other: bytes) -> None:
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
def test_invalid_parts_are_malformed(value: bytes) -> None:
    assert decode_response(layout("a")).unwrap().text == "a"
    assert isinstance(decode_response(value).failure(), Malformed)
