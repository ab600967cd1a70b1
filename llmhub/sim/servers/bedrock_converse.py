"""The other side of Amazon Bedrock's Converse and ConverseStream.

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
"""Models that are reached only through an inference profile, such as ``us.`` before the name."""


ALTERNATING_ROLES_MODELS: Final = re.compile(r"anthropic\.|amazon\.nova|meta\.|mistral\.")
"""Models whose conversations have to alternate between user and assistant."""


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
"""Status, exception and words of each kind of problem."""


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
"""The exceptions a stream can hold."""


PADDING_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""What events are padded with."""


def match_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find a model's two methods, and the control plane's list of models."""
    asked = CONVERSE_PATH.fullmatch(incoming.subpath) if incoming.method == "POST" else None
    if asked:
        return SimRoute(model=unquote(asked[1]), stream=asked[2] == "converse-stream")
    listed = (incoming.method, incoming.subpath) == ("GET", "/foundation-models")
    return SimRoute(action="models") if listed else None


def check_credentials(incoming: SimHttpRequest, key: str) -> SimError | None:
    """Check a bearer key, or a signature made with ``key`` as the secret of the access key `ACCESS_KEY_ID`."""
    token = bearer_token(incoming.headers)
    if token:
        said = "Authentication failed: Please make sure your API Key is valid."
        return None if token == key else SimError(kind="forbidden", message=said)
    signer = sigv4.signing_key_id(incoming)
    if not signer:
        return SimError(kind="auth", code="MissingAuthenticationTokenException", message="Missing Authentication Token")
    if signer != ACCESS_KEY_ID:
        return SimError(kind="auth")
    if sigv4.is_signature_valid(incoming, key):
        return None
    said = (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details."
    )
    return SimError(kind="auth", code="InvalidSignatureException", message=said)


ACCESS_KEY_ID: Final = "AKIDSIMULATOR"


def parse_request(payload: Payload, call: SimRoute) -> SimRequest | SimError:
    """Read a Converse body."""
    if PROFILE_ONLY_MODELS.match(call.model):
        return _invalid_request(
            f"Invocation of model ID {call.model} with on-demand throughput isn’t supported. Retry your request with "  # noqa: RUF001 - the service's own apostrophe
            "the ID or ARN of an inference profile that contains this model."
        )
    config = as_mapping(payload.get("inferenceConfig"))
    for body, rules, place in ((payload, FIELDS, ""), (config, INFERENCE_CONFIG_FIELDS, "inferenceConfig")):
        wrong = find_violation(body, rules)
        if wrong is not None:
            return _violation_message(wrong, place)
    sampling = rename_set_fields(config, SAMPLING)
    refused = sampling_error(call.model, sampling)
    if refused:
        return _invalid_request(f"The model returned the following errors: {refused}")
    schema, turns = (
        _response_schema(payload),
        _parse_messages(payload, ALTERNATING_ROLES_MODELS.search(call.model) is not None),
    )
    if isinstance(schema, SimError):
        return schema
    if isinstance(turns, SimError):
        return turns
    return SimRequest(
        model=call.model,
        messages=turns,
        stream=call.stream,
        max_tokens=as_integer(config.get("maxTokens")),
        stop=as_texts(config.get("stopSequences")),
        tools=_parse_tools(as_mapping(payload.get("toolConfig"))),
        schema=schema,
        sampling=sampling,
        uses_cache=_uses_cache(payload),
    )


def _parse_tools(config: Mapping[str, object]) -> ToolOffer:
    """Read the tools and the choice among them."""
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
    """Read the schema that the answer has to fit, which is written as text."""
    form = as_mapping(as_mapping(payload.get("outputConfig")).get("textFormat"))
    said = as_mapping(as_mapping(form.get("structure")).get("jsonSchema")).get("schema")
    try:
        return None if said is None else msgspec.json.decode(as_text(said))
    except (msgspec.DecodeError, RecursionError):
        return _invalid_request("The schema in outputConfig.textFormat is not valid JSON.")


def _parse_messages(payload: Mapping[str, object], alternate: bool) -> tuple[SimMessage, ...] | SimError:
    """Read the conversation, which begins with the user and, with most models, alternates."""
    turns: list[SimMessage] = []
    if payload.get("system"):
        turns.append(
            SimMessage("system", "".join(as_text(block.get("text")) for block in iter_objects(payload["system"])))
        )
    wanted = "user"
    for at, each in enumerate(iter_objects(payload["messages"])):
        role, content = as_text(each.get("role")), each.get("content")
        if role not in {"user", "assistant"}:
            return _constraint_error(
                f"messages.{at + 1}.member.role", role, "satisfy enum value set: [user, assistant]"
            )
        if role != wanted and (alternate or at == 0):
            return _invalid_request(
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message."
                if at == 0
                else "A conversation must alternate between user and assistant roles. Make sure the conversation "
                "alternates between user and assistant roles and try again."
            )
        wanted = "assistant" if role == "user" else "user"
        for index, block in enumerate(iter_objects(content)):
            if "text" in block and not as_text(block["text"]).strip():
                return _invalid_request(
                    f"The text field in the ContentBlock object at messages.{at}.content.{index} is blank. Add text to "
                    "the text field, and try again."
                )
        if not isinstance(content, list) or not content:
            said = f"The content field in the Message object at messages.{at} is empty."
            return _invalid_request(f"{said} Add a ContentBlock object to the content field and try again.")
        tool = any("toolResult" in block for block in iter_objects(content))
        turns.append(
            SimMessage("tool" if tool else role, "".join(_content_text(block) for block in iter_objects(content)))
        )
    return tuple(turns)


def _content_text(block: Mapping[str, object]) -> str:
    inner = iter_objects(as_mapping(block.get("toolResult")).get("content"))
    return as_text(block.get("text")) + "".join(as_text(piece.get("text")) for piece in inner)


def _uses_cache(payload: Mapping[str, object]) -> bool:
    """Say whether any part of a body is marked for the cache."""
    places = list(iter_objects(payload.get("system")))
    for each in iter_objects(payload["messages"]):
        places.extend(iter_objects(each.get("content")))
    return any("cachePoint" in place for place in places)


def _violation_message(wrong: RuleViolation, place: str) -> SimError:
    """Say what is wrong with a body in the service's words."""
    path = f"{place}.{wrong.name}" if place else wrong.name
    match wrong.kind:
        case "unknown":
            return _invalid_request(
                f"Malformed input request: #{f'/{place}' if place else ''}: extraneous key [{wrong.name}] is not "
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
                path, wrong.value, f"have {_length_constraint(wrong)} greater than or equal to {wrong.rule.minimum:g}"
            )
        case "high":
            return _constraint_error(
                path, wrong.value, f"have {_length_constraint(wrong)} less than or equal to {wrong.rule.maximum:g}"
            )


def _length_constraint(wrong: RuleViolation) -> str:
    return "length" if isinstance(wrong.value, (list, str)) else "value"


def _constraint_error(path: str, value: object, constraint: str) -> SimError:
    said = f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint"
    return _invalid_request(f"{said}: Member must {constraint}")


def _invalid_request(said: str) -> SimError:
    return SimError(kind="invalid", message=said)


def encode_reply(answer: SimResponse) -> Payload:
    """Write an answer as a Converse body."""
    choice = answer.choices[0]
    return {
        "metrics": {"latencyMs": int(answer.duration_s * 1000)},
        "output": {"message": {"content": _content_blocks(answer), "role": "assistant"}},
        "stopReason": FINISH_REASONS[choice.finish_reason],
        "usage": _usage_payload(answer),
    }


def _content_blocks(answer: SimResponse) -> list[Payload]:
    """Write the blocks: the text, or the calls."""
    choice = answer.choices[0]
    text: list[Payload] = [{"text": choice.text}] if choice.text else []
    return text + [
        {
            "toolUse": {
                "toolUseId": f"tooluse_{answer.id_digits[:20]}{at:02}",
                "name": call.name,
                "input": call.arguments,
            }
        }
        for at, call in enumerate(choice.tool_calls)
    ]


def encode_events(answer: SimResponse) -> Iterator[bytes]:
    """Write an answer as an event stream: text blocks have no start, and usage comes after the end."""
    choice, padding = answer.choices[0], answer.id_digits
    yield encode_event("messageStart", {"role": "assistant"}, padding)
    for index, block in enumerate(_content_blocks(answer)):
        used = as_mapping(block.get("toolUse"))
        if used:
            start = {"toolUse": {"toolUseId": used["toolUseId"], "name": used["name"]}}
            yield encode_event("contentBlockStart", {"contentBlockIndex": index, "start": start}, padding)
        texts: list[Payload] = [{"text": piece} for piece in split_words(as_text(block.get("text")), 3)]
        inputs = split_characters(encode_json(used["input"]).decode(), 6) if used else []
        for at, delta in enumerate(texts + [{"toolUse": {"input": piece}} for piece in inputs]):
            yield encode_event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}, padding[at % 32 :])
        yield encode_event("contentBlockStop", {"contentBlockIndex": index}, padding)
    yield encode_event("messageStop", {"stopReason": FINISH_REASONS[choice.finish_reason]}, padding)
    metrics = {"latencyMs": int(answer.duration_s * 1000)}
    yield encode_event("metadata", {"metrics": metrics, "usage": _usage_payload(answer)}, padding)


def encode_event(kind: str, data: Payload, padding: str) -> bytes:
    """Write one event, padded by as much as the first two digits of ``padding`` say."""
    padded = {**data, "p": PADDING_ALPHABET[: 1 + int(padding[:2], 16) % len(PADDING_ALPHABET)]}
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return encode_message(headers, encode_json(padded))


def _usage_payload(answer: SimResponse) -> Payload:
    """Count: what was read from the cache is not part of the input, but of the total."""
    return {
        "inputTokens": answer.input_tokens - answer.cached_tokens,
        "outputTokens": answer.output_tokens,
        "totalTokens": answer.input_tokens + answer.output_tokens,
        "cacheReadInputTokens": answer.cached_tokens,
        "cacheReadInputTokenCount": answer.cached_tokens,
        "cacheWriteInputTokens": 0,
        "cacheWriteInputTokenCount": 0,
    }


def encode_error(problem: SimError, _request_id: str) -> HttpReply:
    """Write a refusal: its kind is in a header, and nothing says when to come again."""
    status, exception, said = ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.model:
        status, exception, said = 400, "ValidationException", "The provided model identifier is invalid."
    kind = f"{problem.code or exception}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    body = {"message": problem.message or said or THROTTLING_MESSAGES[problem.scope]}
    return HttpReply(status, {**JSON_HEADERS, "x-amzn-errortype": kind}, encode_json(body))


def encode_stream_error(problem: SimError, _request_id: str) -> bytes:
    """Write a problem as an exception in a stream."""
    kind = STREAM_ERROR_TYPES.get(problem.kind, "modelStreamErrorException")
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    said = problem.message or ERRORS[problem.kind][2] or THROTTLING_MESSAGES[problem.scope]
    return encode_message(headers, encode_json({"message": said}))


def encode_model_list(models: Sequence[str]) -> Payload:
    """List models as the control plane does."""
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
    """Write an id."""
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
