"""gRPC: official clients, by the generated stub and by reflection, against the service before the simulator."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import llmhub
from llmhub.cache.memory import MemoryCache
from llmhub.core.errors import BadRequestError
from llmhub.core.secret import Secret
from llmhub.core.types import (
    CacheMark,
    Choice,
    CompletionResponse,
    Document,
    Image,
    Logprobs,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from llmhub.engine.event_loop import background_loop
from llmhub.engine.retry import Retry
from llmhub.security.request_signing import SignedParts, sign_request
from llmhub.server.dialects.dialect import ReplyInfo
from llmhub.server.rpc import connector_pb2 as pb
from llmhub.server.rpc.connector_pb2_grpc import LLMConnectorServiceStub
from llmhub.server.rpc.proto_messages import from_response, to_request
from llmhub.server.running import RunningService
from llmhub.server.server_settings import GrpcSettings
from llmhub.server.virtual_keys import signing_secret
from llmhub.sim import Latency, Simulator, SimulatorThread
from llmhub.sim import serving as simulating
from tests.server.conftest import Keys, OneKey, until
from tests.server.write_grpc_code import PROTO, ROOT, write_code

Serving = Callable[..., RunningService]
ServeOn = Callable[..., AbstractContextManager[RunningService]]
MODEL = "openai/gpt-4o-mini"
PATIENCE_S = 20.0
SETTINGS = GrpcSettings(port=0)
KEY = (("authorization", f"Bearer {OneKey.key}"),)


def stub_of(channel: grpc.Channel) -> Any:
    stub: Any = LLMConnectorServiceStub
    return stub(channel)


@contextmanager
def channel_to(running: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(running.service.addresses["grpc"]) as channel:
        yield channel


@pytest.fixture
def paced() -> Iterator[SimulatorThread]:
    """Run a simulator whose streams begin at once and last for a second."""
    with simulating(Simulator(seed=7, latency=Latency(1.0, first=0.01))) as served:
        yield served


def ask(prompt: str = "Say hi", **fields: Any) -> pb.CompletionRequest:
    return pb.CompletionRequest(model=MODEL, prompt=prompt, **fields)


def failure(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


def details_of(error: Any) -> dict[str, Any]:
    """Return the details of a status by the names of their types."""
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    found = {}
    for detail in status.details:
        kind = getattr(error_details_pb2, detail.type_url.rpartition(".")[2])
        found[kind.__name__] = kind.FromString(detail.value)
    return found


# The generated code


def test_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    write_code(tmp_path)
    for name in ("connector_pb2.py", "connector_pb2.pyi", "connector_pb2_grpc.py"):
        written, kept = ((root / PROTO).with_name(name).read_text() for root in (tmp_path, ROOT))
        pattern = CONTENT[name]
        assert re.findall(pattern, written) == re.findall(pattern, kept) != [], f"{name} is old; {HOW_TO_WRITE}"


CONTENT = {
    "connector_pb2.py": r"AddSerializedFile\(.*\)",
    "connector_pb2.pyi": r"class \w+|    \w+: .*|def __init__.*",
    "connector_pb2_grpc.py": r"class \w+|def \w+|/llmhub[\w./]+|_pb2\.\w+\.\w+",
}
"""What the code says of the API, whichever version of the compiler has written it."""
HOW_TO_WRITE = "run python -m tests.server.write_grpc_code"


# Messages

PARTS = (
    Text("caf\u00e9"),
    Image(data="aGk=", media_type="image/png", detail="low"),
    Document(url="https://example.com/a.pdf", name="a.pdf"),
    ToolCall("c1", "look", '{"a": 1}', "sig"),
    ToolResult("c1", "ok", "look", is_error=True),
    ToolResult("c2", (Text("a"), Image(data="aGk=", media_type="image/png"))),
    Reasoning("hm", "sig", "red"),
    Refusal("no"),
    Opaque("citation", '{"type":"citation"}'),
    CacheMark("5m"),
)


def test_parts_of_a_response_are_those_of_the_next_request() -> None:
    response = CompletionResponse(
        parts=(*PARTS, Logprobs('["Hi",-0.5,[["Ho",-1.5]]],')),
        usage=Usage(input_tokens=3),
        others=(Choice((Text("b"),), "length"),),
    )
    message = from_response(response, ReplyInfo(id="r", model="m/x"))
    token = message.parts[-1].logprobs.tokens[0]
    assert (token.token, token.logprob, token.top[0].token) == ("Hi", -0.5, "Ho")
    assert (message.others[0].text, message.others[0].finish_reason) == ("b", "length")
    assert message.usage.HasField("input_tokens")
    assert not message.usage.HasField("output_tokens")
    assert not message.HasField("cost_nano_usd")
    turn = pb.Message(role="assistant", parts=message.parts)
    asked = to_request(pb.CompletionRequest(model="m/x", messages=[turn])).request
    assert asked.messages[0].parts == PARTS


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (pb.Part(), "$.messages[0].parts[0]"),
        (pb.Part(image=pb.Media(url="/etc/passwd")), "$.messages[0].parts[0].image"),
        (pb.Part(document=pb.Media(url="http://169.254.169.254/")), "$.messages[0].parts[0].document"),
        (
            pb.Part(opaque=pb.Opaque(kind="a", data='{"url": "http://10.0.0.1/"}')),
            "$.messages[0].parts[0].opaque.data.url",
        ),
        (pb.Part(opaque=pb.Opaque(kind="a", data="[")), "$.messages[0].parts[0].opaque.data"),
        (
            pb.Part(tool_result=pb.ToolResult(parts=[pb.Part(refusal="no")])),
            "$.messages[0].parts[0].tool_result.parts[0]",
        ),
    ],
)
def test_parts_that_cannot_be_sent_are_refused_with_their_place(part: pb.Part, path: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        to_request(pb.CompletionRequest(model="m/x", messages=[pb.Message(role="user", parts=[part])]))
    assert refused.value.error.path == path


STRINGS = (
    "",
    "a",
    "m/x",
    "user",
    "tool",
    "auto",
    "{}",
    "[]",
    "\x00",
    "\u00e9\U0001f600",
    "https://example.com/a",
    "data:,",
    "%",
)
VALUES: dict[int, tuple[Any, ...]] = {
    FieldDescriptor.TYPE_STRING: STRINGS,
    FieldDescriptor.TYPE_BYTES: (b"", b"hi", b"\xff" * 9),
    FieldDescriptor.TYPE_BOOL: (False, True),
    FieldDescriptor.TYPE_DOUBLE: (0.0, -1.0, float("nan"), float("inf"), 1e308),
    FieldDescriptor.TYPE_INT32: (0, 1, -1, 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (0, 1, -(2**63), 2**63 - 1),
}


def fill(message: Any, draw: Random, depth: int = 0) -> None:
    """Set random fields of a message to random values."""
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.5 or depth > 5:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None:
            inner = value.add() if field.is_repeated else value
            inner.SetInParent()
            fill(inner, draw, depth + 1)
        elif field.is_repeated:
            value.append(draw.choice(VALUES[field.type]))
        else:
            setattr(message, field.name, draw.choice(VALUES[field.type]))


@given(st.randoms(use_true_random=False))
def test_every_message_is_a_request_or_refused_with_its_place(draw: Random) -> None:
    message = pb.CompletionRequest()
    fill(message, draw)
    path, request = "", None
    try:
        request = to_request(message).request
    except BadRequestError as refused:
        path = refused.error.path
    assert path.startswith("$.") if request is None else len(request.messages) >= len(message.messages)


# Calls


def test_completion_has_its_cost_and_a_second_one_comes_from_the_cache(serving: Serving) -> None:
    running = serving(grpc=SETTINGS, hub={"cache": MemoryCache()})
    with channel_to(running) as channel:
        stub = stub_of(channel)
        request = ask(system="Be brief.", temperature=0.0, max_tokens=50, stop=["END"], seed=7, n=2)
        response, call = stub.SendCompletion.with_call(request, metadata=[("x-request-id", "mine-7")])
        again = stub.SendCompletion(request)
        fresh = stub.SendCompletion(request, metadata=[("x-llmhub-cache", "off")])
    assert response.text
    assert (response.id, response.model, response.attempts) == ("mine-7", MODEL, 1)
    assert dict(call.trailing_metadata())["x-request-id"] == "mine-7"
    assert response.usage.output_tokens > 0
    assert response.cost_nano_usd == response.list_cost_nano_usd > 0
    assert len(response.others) == 1
    assert (again.cache_hit, again.cost_nano_usd, again.text) == (True, 0, response.text)
    assert not fresh.cache_hit


def test_tools_and_structured_output(serving: Serving) -> None:
    running = serving(grpc=SETTINGS)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    with channel_to(running) as channel:
        stub = stub_of(channel)
        tool = pb.Tool(name="look", parameters=json.dumps(schema))
        response = stub.SendCompletion(ask("Go. [[sim:tool look]]", tools=[tool]))
        (call,) = [part.tool_call for part in response.parts if part.HasField("tool_call")]
        assert (call.name, set(json.loads(call.arguments)), response.finish_reason) == ("look", {"city"}, "tool_calls")
        result = pb.ToolResult(id=call.id, parts=[pb.Part(text="rain")])
        messages = [
            pb.Message(role="user", parts=[pb.Part(text="Go.")]),
            pb.Message(role="assistant", parts=response.parts),
            pb.Message(role="tool", parts=[pb.Part(tool_result=result)]),
        ]
        assert stub.SendCompletion(pb.CompletionRequest(model=MODEL, messages=messages, tools=[tool])).text
        chunks = list(stub.StreamCompletion(ask("Go. [[sim:tool look]]", tools=[tool])))
        assert [chunk.WhichOneof("content") for chunk in chunks][-2:] == ["tool_call", "response"]
        answer = stub.SendCompletion(ask(response_schema=pb.ResponseSchema(schema=json.dumps(schema))))
        assert set(json.loads(answer.text)) == {"city"}


def test_stream_is_that_of_the_response(serve_on: ServeOn, paced: SimulatorThread) -> None:
    with serve_on(paced.url, grpc=SETTINGS) as running, channel_to(running) as channel:
        chunks = list(stub_of(channel).StreamCompletion(ask("Tell a story")))
    *pieces, last = chunks
    assert len(pieces) > 2
    assert "".join(chunk.text for chunk in pieces) == last.response.text
    assert last.response.cost_nano_usd > 0


def test_clients_need_no_generated_code(serving: Serving) -> None:
    running = serving(grpc=SETTINGS)
    symbol = "llmhub.v1.LLMConnectorService"
    with channel_to(running) as channel:
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol),
        ]
        listed, described = reflected.ServerReflectionInfo(iter(questions))
        names = {service.name for service in listed.list_services_response.service}
        assert {symbol, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
        pool = descriptor_pool.DescriptorPool()
        for content in described.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(content))
        method = pool.FindServiceByName(symbol).methods_by_name["SendCompletion"]
        asked, answered = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        send = channel.unary_unary(
            f"/{symbol}/SendCompletion",
            request_serializer=asked.SerializeToString,
            response_deserializer=answered.FromString,
        )
        assert send(asked(model=MODEL, prompt="Say hi")).text


# Errors


def test_errors_have_codes_and_details(serving: Serving) -> None:
    running = serving(grpc=SETTINGS, access=OneKey())
    with channel_to(running) as channel:
        stub = stub_of(channel)

        def send(request: pb.CompletionRequest, *metadata: tuple[str, str]) -> Any:
            return failure(lambda: stub.SendCompletion(request, metadata=metadata))

        unknown = send(ask())
        assert unknown.code() is grpc.StatusCode.UNAUTHENTICATED
        assert details_of(unknown)["ErrorInfo"].reason == "AuthFailed"
        assert send(ask(), *KEY, ("x-scope", "none")).code() is grpc.StatusCode.PERMISSION_DENIED
        forbidden = send(pb.CompletionRequest(model="anthropic/claude-haiku-4-5", prompt="x"), *KEY)
        assert forbidden.code() is grpc.StatusCode.PERMISSION_DENIED
        wrong = send(pb.CompletionRequest(model="nobody/x", prompt="x"), *KEY, ("x-request-id", "mine-8"))
        assert wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = details_of(wrong)
        assert "nobody" in details["BadRequest"].field_violations[0].description
        assert details["RequestInfo"].request_id == "mine-8"
        assert "RetryInfo" not in details
        both = send(pb.CompletionRequest(model=MODEL, prompt="x", messages=[pb.Message(role="user")]), *KEY)
        assert details_of(both)["BadRequest"].field_violations[0].field == "$.prompt"
        for metadata in (("x-llmhub-unsupported", "maybe"), ("x-llmhub-lane", "fast"), ("x-llmhub-cache", "maybe")):
            assert send(ask(), *KEY, metadata).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert send(ask(temperature=9.0), *KEY).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert send(ask(n=1000), *KEY).code() is grpc.StatusCode.INVALID_ARGUMENT
        raw = channel.unary_unary("/llmhub.v1.LLMConnectorService/SendCompletion")
        assert failure(lambda: raw(b"\xff\xff", metadata=KEY)).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert until(lambda: running.service.active_requests == 0)


def test_provider_refusal_says_when_to_retry(serve_on: ServeOn, simulator: SimulatorThread) -> None:
    hub = {"retry": Retry(attempts=1)}
    with serve_on(simulator.url, grpc=SETTINGS, hub=hub) as running, channel_to(running) as channel:
        error: Any = failure(lambda: list(stub_of(channel).StreamCompletion(ask("[[sim:429 always]]"))))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details_of(error)["ErrorInfo"].metadata["provider"] == "openai"
    delay = details_of(error)["RetryInfo"].retry_delay.ToMilliseconds()
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(delay)


def test_defect_shows_no_detail(
    serving: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serving(grpc=SETTINGS)

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(type(running.service), "target", fail)
    with channel_to(running) as channel:
        error: Any = failure(lambda: stub_of(channel).SendCompletion(ask()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error.trailing_metadata()) + error.details()
    assert dict(error.trailing_metadata())["x-request-id"] in caplog.text


def test_messages_beyond_the_limit_are_refused(serving: Serving) -> None:
    running = serving(grpc=GrpcSettings(port=0, max_message_bytes=1000))
    with channel_to(running) as channel:
        error = failure(lambda: stub_of(channel).SendCompletion(ask("x" * 2000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_virtual_keys_and_signed_requests(keys: Keys) -> None:
    master = Secret("a master secret of these tests, long enough")
    running = keys.serve(signing_secret=master, server={"grpc": SETTINGS})
    poor, signing = keys.create(team="blue", budget_usd=0.000001), keys.create(must_sign=True)
    bearer = [("authorization", f"Bearer {poor.token}")]
    request = ask()
    url = f"http://{running.service.addresses['grpc']}/llmhub.v1.LLMConnectorService/SendCompletion"
    parts = SignedParts("POST", url, {}, request.SerializeToString())
    secret = signing_secret(master, signing.key.id, signing.key.digest)
    signature = sign_request(parts, key_id=signing.key.id, secret=secret, now=time.time(), nonce="n1")
    signed = [(name.lower(), value) for name, value in signature.items()]
    with channel_to(running) as channel:
        stub = stub_of(channel)
        assert failure(lambda: stub.SendCompletion(request)).code() is grpc.StatusCode.UNAUTHENTICATED
        exhausted = failure(lambda: stub.SendCompletion(ask(max_tokens=1000), metadata=bearer))
        assert exhausted.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(exhausted)["ErrorInfo"].reason == "BudgetExceeded"
        altered = failure(lambda: stub.SendCompletion(ask("Say ho"), metadata=signed))
        assert altered.code() is grpc.StatusCode.UNAUTHENTICATED
        assert stub.SendCompletion(request, metadata=signed).text
        replayed = failure(lambda: stub.SendCompletion(request, metadata=signed))
        assert replayed.code() is grpc.StatusCode.UNAUTHENTICATED


# Clients that leave


@pytest.mark.parametrize("method", ["SendCompletion", "StreamCompletion"])
@pytest.mark.parametrize("by", ["cancel", "deadline", "connection"])
def test_provider_is_cancelled_before_the_first_token(
    serving: Serving, simulator: SimulatorThread, method: str, by: str
) -> None:
    running = serving(grpc=SETTINGS)
    channel = grpc.insecure_channel(running.service.addresses["grpc"])
    send = getattr(stub_of(channel), method)
    send = send if method == "StreamCompletion" else send.future
    call = send(ask("[[sim:hang]]"), timeout=0.5 if by == "deadline" else None)
    assert until(lambda: simulator.counts()["in_flight"] == 1)
    if by == "cancel":
        call.cancel()
    elif by == "connection":
        channel.close()
    assert until(lambda: simulator.counts()["in_flight"] == 0)
    assert until(lambda: running.service.active_requests == 0)
    assert running.service.lanes.in_use == {"interactive": 0, "bulk": 0}
    expected = {"cancel": grpc.StatusCode.CANCELLED, "deadline": grpc.StatusCode.DEADLINE_EXCEEDED}
    assert by not in expected or call.code() is expected[by]
    channel.close()


def test_provider_is_cancelled_after_the_first_token_with_the_cost_entered(serve_on: ServeOn) -> None:
    with (
        simulating(Simulator(seed=7, latency=Latency(8.0, first=0.001))) as slow,
        serve_on(slow.url, grpc=SETTINGS, hub={"budget_usd": 5.0}) as running,
        channel_to(running) as channel,
    ):
        call = stub_of(channel).StreamCompletion(ask("Tell a story"))
        assert next(call).text
        assert slow.counts()["in_flight"] == 1
        call.cancel()
        assert until(lambda: slow.counts()["in_flight"] == 0)
        assert until(lambda: running.service.active_requests == 0)
        budget: Any = running.service.hub.spending()
        assert (budget.reserved, budget.spent > 0) == (0, True)


def test_service_has_a_deadline_of_its_own(serving: Serving, simulator: SimulatorThread) -> None:
    running = serving(grpc=SETTINGS, request_timeout_s=0.2)
    with channel_to(running) as channel:
        error = failure(lambda: stub_of(channel).SendCompletion(ask("[[sim:hang]]")))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert until(lambda: simulator.counts()["in_flight"] == 0)


def test_reader_that_does_not_read_is_cut_off(serve_on: ServeOn) -> None:
    text = " ".join(["x" * 500_000] * 20)
    with (
        simulating(Simulator(seed=7, respond=lambda _: text)) as large,
        serve_on(large.url, grpc=SETTINGS, write_timeout_s=0.2) as running,
        channel_to(running) as channel,
    ):
        call = stub_of(channel).StreamCompletion(ask("x"))
        assert until(lambda: running.service.active_requests == 1)
        assert until(lambda: running.service.active_requests == 0)
        assert failure(lambda: list(call)).code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_trace_goes_through_the_service(
    serve_on: ServeOn, simulator: SimulatorThread, scripted: Any, replies: Any
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    answering = scripted([replies.answer()])
    hub = {"endpoints": {"openai": llmhub.Endpoint(base_url=answering.url, api_key="k")}}
    trace_id, span_id = "ab" * 16, "cd" * 8
    metadata = [*KEY, ("traceparent", f"00-{trace_id}-{span_id}-01")]
    undo = llmhub.tracing.configure(tracer_provider=provider, metrics=False)
    try:
        with (
            serve_on(simulator.url, grpc=SETTINGS, access=OneKey(), hub=hub) as running,
            channel_to(running) as channel,
        ):
            stub_of(channel).SendCompletion(ask(), metadata=metadata)
            llmhub.observability.flush()
    finally:
        undo()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    server: Any = spans["llmhub.v1.LLMConnectorService/SendCompletion"]
    call: Any = spans[f"call {MODEL}"]
    assert f"{server.context.trace_id:032x}" == trace_id
    assert f"{server.parent.span_id:016x}" == span_id
    assert server.attributes["rpc.method"] == "SendCompletion"
    assert call.parent.span_id == server.context.span_id
    assert (call.attributes["llmhub.key_id"], call.attributes["llmhub.team"]) == ("key_7", "blue")
    assert f"traceparent: 00-{trace_id}-".encode() in answering.requests[0].lower()


# Health, drain, TLS, settings, traces


def health_of(channel: grpc.Channel) -> int:
    return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="")).status)


def test_health_needs_no_key_and_a_drained_service_is_not_serving(serving: Serving) -> None:
    running = serving(grpc=SETTINGS, access=OneKey())
    with channel_to(running) as channel:
        assert health_of(channel) == health_pb2.HealthCheckResponse.SERVING
        background_loop().call_soon_threadsafe(running.service.begin_drain)
        assert until(lambda: health_of(channel) == health_pb2.HealthCheckResponse.NOT_SERVING)
        error: Any = failure(lambda: stub_of(channel).SendCompletion(ask(), metadata=KEY))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details_of(error)["RetryInfo"].retry_delay.seconds == 1


def test_tls_with_certificates_of_clients(serving: Serving, tls_files: tuple[str, str]) -> None:
    certificate, key = tls_files
    settings = GrpcSettings(port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=certificate)
    address = serving(grpc=settings).service.addresses["grpc"]
    root, secret = Path(certificate).read_bytes(), Path(key).read_bytes()
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(root, secret, root)) as channel:
        assert stub_of(channel).SendCompletion(ask()).text
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(root)) as channel:
        refused = failure(lambda: stub_of(channel).SendCompletion(ask()))
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


def test_settings_that_cannot_be_used_are_named(
    serving: Serving, tls_files: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BadRequestError, match=r"server\.grpc\.port: cannot listen"),
    ):
        serving(grpc=GrpcSettings(port=taken.getsockname()[1]))
    with pytest.raises(BadRequestError, match=r"server\.grpc\.tls_key: is missing"):
        serving(grpc=GrpcSettings(port=0, tls_certificate=tls_files[0]))
    with pytest.raises(BadRequestError, match=r"server\.grpc\.tls_certificate: /nowhere/c cannot be read"):
        serving(grpc=GrpcSettings(port=0, tls_certificate="/nowhere/c", tls_key=tls_files[1]))
    monkeypatch.setitem(sys.modules, "grpc_reflection.v1alpha", None)
    with pytest.raises(BadRequestError, match=r"pip install 'llmhub\[grpc]'"):
        serving(grpc=SETTINGS)
