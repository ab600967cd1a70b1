"""Simulated server of Amazon Bedrock's Converse and ConverseStream.

Sources: the service model of botocore 1.44.5;
https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html (read 2026-11-22);
error bodies as callers have reported them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.servers import sigv4
from llmhub.sim.servers.anthropic import sampling_error
from llmhub.sim.servers.aws_eventstream import encode_message
from llmhub.sim.servers.fake_provider import JSON_HEADERS, FakeProvider, bearer_token, encode_json, no_limit_headers
from llmhub.sim.servers.payload_rules import (
    NO_PARAMETERS,
    NUMBER,
    FieldRule,
    RuleViolation,
    as_integer,
    as_mapping,
    as_text,
    as_texts,
    find_violation,
    iter_objects,
    rename_set_fields,
    split_characters,
    split_words,
    unchecked_fields,
)
from llmhub.sim.tool_calls import offer_tools
from llmhub.sim.types import (
    SimError,
    SimErrorKind,
    SimHttpRequest,
    SimMessage,
    SimRequest,
    SimResponse,
    SimRoute,
    ToolOffer,
)

CONVERSE_PATH: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream)")
FIELDS: Final[Mapping[str, FieldRule]] = {
    "messages": FieldRule((list,), 1, required=True, item_type=dict),
    "system": FieldRule((list,)),
    "inferenceConfig": FieldRule((dict,)),
    "toolConfig": FieldRule((dict,)),
    **unchecked_fields(
        "additionalModelRequestFields additionalModelResponseFieldPaths guardrailConfig outputConfig performanceConfig "
        "promptVariables requestMetadata serviceTier"
    ),
}
INFERENCE_CONFIG_FIELDS: Final[Mapping[str, FieldRule]] = {
    "maxTokens": FieldRule((int,), 1),
    "temperature": FieldRule(NUMBER, 0, 1),
    "topP": FieldRule(NUMBER, 0, 1),
    "stopSequences": FieldRule((list,), 0, 2500, item_type=str),
}
SAMPLING: Final = {"temperature": "temperature", "topP": "top_p"}
PROFILE_ONLY_MODELS: Final = re.compile(r"anthropic\.claude-(?!3-(?!7)|v2|instant)")
"""Models that are available only by an inference profile, such as ``us.`` before the name."""
ALTERNATING_ROLES_MODELS: Final = re.compile(r"anthropic\.|amazon\.nova|meta\.|mistral\.")
"""Models that require user and assistant messages to alternate."""
FINISH_REASONS: Final = {
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
ERRORS: Final[Mapping[SimErrorKind, tuple[int, str, str]]] = {
    "invalid": (400, "ValidationException", "The request is not valid."),
    "auth": (403, "UnrecognizedClientException", "The security token included in the request is invalid."),
    "forbidden": (403, "AccessDeniedException", "You don't have access to the model with the specified model ID."),
    "not_found": (404, "UnknownOperationException", ""),
    "too_large": (413, "RequestEntityTooLargeException", "The request body is too large."),
    "rate_limited": (429, "ThrottlingException", ""),
    "quota": (400, "ServiceQuotaExceededException", "Your request exceeds the service quota for your account."),
    "server": (
        500,
        "InternalServerException",
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    "overloaded": (503, "ServiceUnavailableException", "Bedrock is unable to process your request."),
}
"""Status, exception and message of each kind of error."""
THROTTLING_MESSAGES: Final = {
    "requests": "Too many requests, please wait before trying again.",
    "tokens": "Too many tokens, please wait before trying again.",
}
STREAM_ERROR_TYPES: Final[Mapping[SimErrorKind, str]] = {
    "invalid": "validationException",
    "rate_limited": "throttlingException",
    "overloaded": "serviceUnavailableException",
    "server": "internalServerException",
}
"""Exceptions that can occur within a stream."""
PADDING_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""Characters of the padding of events."""


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match a model's two methods, and the control plane's list of models."""
    match = CONVERSE_PATH.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    if match:
        return SimRoute(model=unquote(match[1]), stream=match[2] == "converse-stream")
    listed = (http_request.method, http_request.subpath) == ("GET", "/foundation-models")
    return SimRoute(action="models") if listed else None


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check a bearer token, or a signature by access key `ACCESS_KEY_ID` with ``key`` as its secret."""
    token = bearer_token(http_request.headers)
    if token:
        detail = "Authentication failed: Please make sure your API Key is valid."
        return None if token == key else SimError(kind="forbidden", message=detail)
    signer = sigv4.signing_key_id(http_request)
    if not signer:
        return SimError(kind="auth", code="MissingAuthenticationTokenException", message="Missing Authentication Token")
    if signer != ACCESS_KEY_ID:
        return SimError(kind="auth")
    if sigv4.is_signature_valid(http_request, key):
        return None
    detail = (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details."
    )
    return SimError(kind="auth", code="InvalidSignatureException", message=detail)


ACCESS_KEY_ID: Final = "AKIDSIMULATOR"


def parse_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a Converse body."""
    if PROFILE_ONLY_MODELS.match(route.model):
        return _invalid_request(
            f"Invocation of model ID {route.model} with on-demand throughput isn’t supported. Retry your request with "  # noqa: RUF001 - the service's own apostrophe
            "the ID or ARN of an inference profile that contains this model."
        )
    config = as_mapping(payload.get("inferenceConfig"))
    for body, rules, place in ((payload, FIELDS, ""), (config, INFERENCE_CONFIG_FIELDS, "inferenceConfig")):
        violation = find_violation(body, rules)
        if violation is not None:
            return _violation_message(violation, place)
    sampling = rename_set_fields(config, SAMPLING)
    refused = sampling_error(route.model, sampling)
    if refused:
        return _invalid_request(f"The model returned the following errors: {refused}")
    schema, messages = (
        _response_schema(payload),
        _parse_messages(payload, ALTERNATING_ROLES_MODELS.search(route.model) is not None),
    )
    if isinstance(schema, SimError):
        return schema
    if isinstance(messages, SimError):
        return messages
    return SimRequest(
        model=route.model,
        messages=messages,
        stream=route.stream,
        max_tokens=as_integer(config.get("maxTokens")),
        stop=as_texts(config.get("stopSequences")),
        tools=_parse_tools(as_mapping(payload.get("toolConfig"))),
        schema=schema,
        sampling=sampling,
        uses_cache=_uses_cache(payload),
    )


def _parse_tools(config: Mapping[str, object]) -> ToolOffer:
    """Parse the tools and the tool choice."""
    specs = [as_mapping(tool.get("toolSpec")) for tool in iter_objects(config.get("tools"))]
    tools = [
        (as_text(spec.get("name")), as_mapping(spec.get("inputSchema")).get("json") or NO_PARAMETERS)
        for spec in specs
        if spec
    ]
    choice = as_mapping(config.get("toolChoice"))
    named = as_text(as_mapping(choice.get("tool")).get("name")) or ("required" if "any" in choice else "auto")
    return offer_tools(tools, named)


def _response_schema(payload: Mapping[str, object]) -> object:
    """Parse the response schema, which is JSON text."""
    form = as_mapping(as_mapping(payload.get("outputConfig")).get("textFormat"))
    detail = as_mapping(as_mapping(form.get("structure")).get("jsonSchema")).get("schema")
    try:
        return None if detail is None else msgspec.json.decode(as_text(detail))
    except (msgspec.DecodeError, RecursionError):
        return _invalid_request("The schema in outputConfig.textFormat is not valid JSON.")


def _parse_messages(payload: Mapping[str, object], alternate: bool) -> tuple[SimMessage, ...] | SimError:
    """Parse the messages; the first must be a user message, and most models require roles to alternate."""
    messages: list[SimMessage] = []
    if payload.get("system"):
        messages.append(
            SimMessage("system", "".join(as_text(block.get("text")) for block in iter_objects(payload["system"])))
        )
    expected_role = "user"
    for position, message in enumerate(iter_objects(payload["messages"])):
        role, content = as_text(message.get("role")), message.get("content")
        if role not in {"user", "assistant"}:
            return _constraint_error(
                f"messages.{position + 1}.member.role", role, "satisfy enum value set: [user, assistant]"
            )
        if role != expected_role and (alternate or position == 0):
            return _invalid_request(
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message."
                if position == 0
                else "A conversation must alternate between user and assistant roles. Make sure the conversation "
                "alternates between user and assistant roles and try again."
            )
        expected_role = "assistant" if role == "user" else "user"
        for index, block in enumerate(iter_objects(content)):
            if "text" in block and not as_text(block["text"]).strip():
                return _invalid_request(
                    f"The text field in the ContentBlock object at messages.{position}.content.{index} is blank. "
                    "Add text to the text field, and try again."
                )
        if not isinstance(content, list) or not content:
            detail = f"The content field in the Message object at messages.{position} is empty."
            return _invalid_request(f"{detail} Add a ContentBlock object to the content field and try again.")
        tool = any("toolResult" in block for block in iter_objects(content))
        messages.append(
            SimMessage("tool" if tool else role, "".join(_content_text(block) for block in iter_objects(content)))
        )
    return tuple(messages)


def _content_text(block: Mapping[str, object]) -> str:
    inner = iter_objects(as_mapping(block.get("toolResult")).get("content"))
    return as_text(block.get("text")) + "".join(as_text(piece.get("text")) for piece in inner)


def _uses_cache(payload: Mapping[str, object]) -> bool:
    """Return whether any part of a body is marked for caching."""
    places = list(iter_objects(payload.get("system")))
    for message in iter_objects(payload["messages"]):
        places.extend(iter_objects(message.get("content")))
    return any("cachePoint" in place for place in places)


def _violation_message(violation: RuleViolation, place: str) -> SimError:
    """Return the service's message about a violation."""
    path = f"{place}.{violation.name}" if place else violation.name
    match violation.kind:
        case "unknown":
            return _invalid_request(
                f"Malformed input request: #{f'/{place}' if place else ''}: extraneous key [{violation.name}] is not "
                "permitted, please reformat your input and try again."
            )
        case "missing":
            return _invalid_request(
                f"1 validation error detected: Value at '{path}' failed to satisfy constraint: Member must not be null"
            )
        case "kind":
            return SimError(
                kind="invalid", code="SerializationException", message=f"Unexpected value type in payload at {path}"
            )
        case "low":
            return _constraint_error(
                path,
                violation.value,
                f"have {_length_constraint(violation)} greater than or equal to {violation.rule.minimum:g}",
            )
        case "high":
            return _constraint_error(
                path,
                violation.value,
                f"have {_length_constraint(violation)} less than or equal to {violation.rule.maximum:g}",
            )


def _length_constraint(violation: RuleViolation) -> str:
    return "length" if isinstance(violation.value, (list, str)) else "value"


def _constraint_error(path: str, value: object, constraint: str) -> SimError:
    detail = f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint"
    return _invalid_request(f"{detail}: Member must {constraint}")


def _invalid_request(detail: str) -> SimError:
    return SimError(kind="invalid", message=detail)


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response as a Converse body."""
    choice = response.choices[0]
    return {
        "metrics": {"latencyMs": int(response.duration_s * 1000)},
        "output": {"message": {"content": _content_blocks(response), "role": "assistant"}},
        "stopReason": FINISH_REASONS[choice.finish_reason],
        "usage": _usage_payload(response),
    }


def _content_blocks(response: SimResponse) -> list[Payload]:
    """Encode the text, or the tool calls."""
    choice = response.choices[0]
    text: list[Payload] = [{"text": choice.text}] if choice.text else []
    return text + [
        {
            "toolUse": {
                "toolUseId": f"tooluse_{response.id_digits[:20]}{position:02}",
                "name": call.name,
                "input": call.arguments,
            }
        }
        for position, call in enumerate(choice.tool_calls)
    ]


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as an event stream; text blocks have no start event, and usage is sent after the end."""
    choice, padding = response.choices[0], response.id_digits
    yield encode_event("messageStart", {"role": "assistant"}, padding)
    for index, block in enumerate(_content_blocks(response)):
        used = as_mapping(block.get("toolUse"))
        if used:
            start = {"toolUse": {"toolUseId": used["toolUseId"], "name": used["name"]}}
            yield encode_event("contentBlockStart", {"contentBlockIndex": index, "start": start}, padding)
        texts: list[Payload] = [{"text": piece} for piece in split_words(as_text(block.get("text")), 3)]
        inputs = split_characters(encode_json(used["input"]).decode(), 6) if used else []
        for position, delta in enumerate(texts + [{"toolUse": {"input": piece}} for piece in inputs]):
            yield encode_event(
                "contentBlockDelta", {"contentBlockIndex": index, "delta": delta}, padding[position % 32 :]
            )
        yield encode_event("contentBlockStop", {"contentBlockIndex": index}, padding)
    yield encode_event("messageStop", {"stopReason": FINISH_REASONS[choice.finish_reason]}, padding)
    metrics = {"latencyMs": int(response.duration_s * 1000)}
    yield encode_event("metadata", {"metrics": metrics, "usage": _usage_payload(response)}, padding)


def encode_event(kind: str, data: Payload, padding: str) -> bytes:
    """Encode one event; the first two hexadecimal digits of ``padding`` are the length of its padding."""
    padded = {**data, "p": PADDING_ALPHABET[: 1 + int(padding[:2], 16) % len(PADDING_ALPHABET)]}
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode_message(headers, encode_json(padded))


def _usage_payload(response: SimResponse) -> Payload:
    """Encode token counts; cached tokens are part of the total, but not of the input."""
    return {
        "inputTokens": response.input_tokens - response.cached_tokens,
        "outputTokens": response.output_tokens,
        "totalTokens": response.input_tokens + response.output_tokens,
        "cacheReadInputTokens": response.cached_tokens,
        "cacheReadInputTokenCount": response.cached_tokens,
        "cacheWriteInputTokens": 0,
        "cacheWriteInputTokenCount": 0,
    }


def encode_error(error: SimError, _request_id: str) -> HttpReply:
    """Encode an error; its type is in a header, and there is no ``retry-after``."""
    status, exception, detail = ERRORS[error.kind]
    if error.kind == "not_found" and error.model:
        status, exception, detail = 400, "ValidationException", "The provided model identifier is invalid."
    kind = f"{error.code or exception}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    body = {"message": error.message or detail or THROTTLING_MESSAGES[error.scope]}
    return HttpReply(status, {**JSON_HEADERS, "x-amzn-errortype": kind}, encode_json(body))


def encode_stream_error(error: SimError, _request_id: str) -> bytes:
    """Encode an error as an exception within a stream."""
    kind = STREAM_ERROR_TYPES.get(error.kind, "modelStreamErrorException")
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    detail = error.message or ERRORS[error.kind][2] or THROTTLING_MESSAGES[error.scope]
    return encode_message(headers, encode_json({"message": detail}))


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the control plane's list of models."""
    rows = [
        {
            "modelArn": f"arn:aws:bedrock:us-east-1::foundation-model/{model}",
            "modelId": model,
            "modelName": model,
            "providerName": model.removeprefix("us.").partition(".")[0].title(),
            "inputModalities": ["TEXT"],
            "outputModalities": ["TEXT"],
            "responseStreamingSupported": True,
        }
        for model in models
    ]
    return {"modelSummaries": rows}


def format_request_id(digits: str) -> str:
    """Format a request id."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


BEDROCK: Final = FakeProvider(
    name="bedrock",
    prefix="/bedrock",
    models=(
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "amazon.nova-lite-v1:0",
        "us.meta.llama3-3-70b-instruct-v1:0",
    ),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    malformed_event=encode_message(
        {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"},
        b'{"contentBlockIndex":0,"delta":{"te',
    ),
    encode_model_list=encode_model_list,
    limit_headers=no_limit_headers,
    format_request_id=format_request_id,
    request_id_header="x-amzn-requestid",
    stream_content_type="application/vnd.amazon.eventstream",
)
