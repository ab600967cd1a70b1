"""Simulated server of the Gemini API: ``generateContent`` and ``streamGenerateContent``.

Sources: the types of google-genai 3.4.0; https://ai.google.dev/api/generate-content,
https://ai.google.dev/gemini-api/docs/rate-limits and https://ai.google.dev/gemini-api/docs/thinking
(read 2026-11-22); error bodies as callers have reported them. The message about a value out of range is not sourced.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Final
from urllib.parse import unquote

from llmhub.core.provider import HttpReply
from llmhub.core.types import Payload
from llmhub.sim.completions import choice_tokens
from llmhub.sim.servers.fake_provider import FakeProvider, encode_json, no_limit_headers
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
    split_words,
    unchecked_fields,
)
from llmhub.sim.tool_calls import offer_tools
from llmhub.sim.types import (
    SimChoice,
    SimError,
    SimErrorKind,
    SimHttpRequest,
    SimMessage,
    SimRequest,
    SimResponse,
    SimRoute,
    ToolOffer,
)

GENERATE_PATH: Final = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(generateContent|streamGenerateContent)")
MODELS_PATH: Final = re.compile(r"/v1(?:beta|alpha)?/models")
HEADERS: Final = {"content-type": "application/json; charset=UTF-8"}
FIELDS: Final[Mapping[str, FieldRule]] = {
    "contents": FieldRule((list,), 1, required=True, item_type=dict),
    "systemInstruction": FieldRule((dict,)),
    "generationConfig": FieldRule((dict,)),
    "tools": FieldRule((list, dict)),
    **unchecked_fields("cachedContent labels model safetySettings serviceTier store toolConfig"),
}
CONFIG: Final[Mapping[str, FieldRule]] = {
    "temperature": FieldRule(NUMBER, 0, 2),
    "topP": FieldRule(NUMBER, 0, 1),
    "topK": FieldRule(NUMBER, 1),
    "maxOutputTokens": FieldRule((int,), 1),
    "candidateCount": FieldRule((int,), 1, 8),
    "stopSequences": FieldRule((list,), 0, 5, item_type=str),
    "seed": FieldRule((int,)),
    "presencePenalty": FieldRule(NUMBER, -2, 2),
    "frequencyPenalty": FieldRule(NUMBER, -2, 2),
    "thinkingConfig": FieldRule((dict,)),
    **unchecked_fields(
        "audioTimestamp enableEnhancedCivicAnswers imageConfig logprobs mediaResolution modelSelectionConfig "
        "responseJsonSchema responseLogprobs responseMimeType responseModalities responseSchema routingConfig "
        "speechConfig"
    ),
}
SAMPLING: Final = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
ROLES: Final = {"user": "user", "model": "assistant", "function": "tool"}
PROTO_TYPE_NAMES: Final = {int: "TYPE_INT32", float: "TYPE_FLOAT"}
THINKING_MODELS: Final = re.compile(r"gemini-(2\.5-(?!flash-lite)|[3-9]|(pro|flash)-latest)")
"""Models that think by default."""
ALWAYS_THINKING_MODELS: Final = re.compile(r"gemini-(2\.5-pro|[3-9])")
"""Models whose thinking cannot be disabled."""
DEFAULT_THINKING_TOKENS: Final = 96
THINKING_LEVEL_TOKENS: Final = {"MINIMAL": 8, "LOW": 32, "MEDIUM": 96, "HIGH": 256, "XHIGH": 512}
FINISH_REASONS: Final = {"stop": "STOP", "stop_sequence": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
TOOL_CHOICES: Final = {"ANY": "required", "NONE": "none"}
QUOTA_EXHAUSTED_MESSAGE: Final = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
UNREGISTERED_CALLER_MESSAGE: Final = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
    "form of API consumer identity to call this API."
)
INTERNAL_ERROR_MESSAGE: Final = (
    "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
ERRORS: Final[Mapping[SimErrorKind, tuple[int, str, str]]] = {
    "invalid": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "auth": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "forbidden": (
        403,
        "PERMISSION_DENIED",
        UNREGISTERED_CALLER_MESSAGE,
    ),
    "not_found": (404, "NOT_FOUND", "Requested entity was not found."),
    "too_large": (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    "rate_limited": (
        429,
        "RESOURCE_EXHAUSTED",
        QUOTA_EXHAUSTED_MESSAGE,
    ),
    "quota": (
        429,
        "RESOURCE_EXHAUSTED",
        QUOTA_EXHAUSTED_MESSAGE,
    ),
    "server": (500, "INTERNAL", INTERNAL_ERROR_MESSAGE),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}
"""Status, name of the status, and message of each kind of error."""
RPC_TYPE_PREFIX: Final = "type.googleapis.com/google.rpc."
DAY_S: Final = 86_400


def match_route(http_request: SimHttpRequest) -> SimRoute | None:
    """Match a model's two methods, and the list of models."""
    match = GENERATE_PATH.fullmatch(http_request.subpath) if http_request.method == "POST" else None
    if match:
        streams = match[2] == "streamGenerateContent"
        whole_array = streams and "alt=sse" not in http_request.query
        return SimRoute(model=unquote(match[1]), stream=streams, as_array=whole_array)
    return (
        SimRoute(action="models")
        if http_request.method == "GET" and MODELS_PATH.fullmatch(http_request.subpath)
        else None
    )


def check_credentials(http_request: SimHttpRequest, key: str) -> SimError | None:
    """Check ``x-goog-api-key`` or the query's ``key``; a wrong key is a 400, a missing one a 403."""
    credential = http_request.headers.get("x-goog-api-key") or http_request.query_parameters.get("key", "")
    if credential == key:
        return None
    return SimError(kind="auth" if credential else "forbidden")


def parse_request(payload: Payload, route: SimRoute) -> SimRequest | SimError:
    """Parse a body whose field names are in camel case or snake case, as protobuf permits."""
    body = _to_camel_case(payload)
    violation = find_violation(body, FIELDS)
    if violation is not None:
        return _violation_message(violation, "")
    config = _to_camel_case(as_mapping(body.get("generationConfig")))
    violation = find_violation(config, CONFIG)
    if violation is not None:
        return _violation_message(violation, "generation_config")
    thinking = _to_camel_case(as_mapping(config.get("thinkingConfig")))
    if thinking.get("thinkingBudget") is not None and thinking.get("thinkingLevel") is not None:
        return _invalid_request("You can only set only one of thinking budget and thinking level.")
    messages: list[SimMessage] = []
    if body.get("systemInstruction"):
        messages.append(SimMessage("system", _content_text(as_mapping(body["systemInstruction"]))))
    for position, content in enumerate(iter_objects(body["contents"])):
        parsed = _parse_message(content, position)
        if isinstance(parsed, SimError):
            return parsed
        messages.append(parsed)
    return SimRequest(
        model=route.model,
        messages=tuple(messages),
        stream=route.stream,
        as_array=route.as_array,
        max_tokens=as_integer(config.get("maxOutputTokens")),
        stop=as_texts(config.get("stopSequences")),
        n=as_integer(config.get("candidateCount")) or 1,
        tools=_parse_tools(body),
        schema=_response_schema(config),
        sampling=rename_set_fields(config, SAMPLING),
        reasoning_tokens=_reasoning_tokens(route.model, thinking),
        uses_cache=True,
    )


def _parse_tools(body: Mapping[str, object]) -> ToolOffer:
    """Parse the declared functions and the calling mode."""
    tools = body.get("tools")
    listed = [tools] if isinstance(tools, dict) else list(iter_objects(tools))
    functions = [
        _to_camel_case(function)
        for tool in listed
        for function in iter_objects(_to_camel_case(tool).get("functionDeclarations"))
    ]
    schemas = {
        as_text(function.get("name")): function.get("parametersJsonSchema")
        or function.get("parameters")
        or NO_PARAMETERS
        for function in functions
    }
    calling = _to_camel_case(
        as_mapping(_to_camel_case(as_mapping(body.get("toolConfig"))).get("functionCallingConfig"))
    )
    mode, allowed = as_text(calling.get("mode")).upper(), as_texts(calling.get("allowedFunctionNames"))
    offered = {name: schema for name, schema in schemas.items() if not allowed or name in allowed}
    return offer_tools(offered.items(), TOOL_CHOICES.get(mode, "auto"))


def _response_schema(config: Mapping[str, object]) -> object:
    """Parse the response schema, in either notation; JSON mode is any object."""
    schema = config.get("responseJsonSchema") or config.get("responseSchema")
    return schema or ({"type": "object"} if config.get("responseMimeType") == "application/json" else None)


def _to_camel_case(payload: Mapping[str, object]) -> dict[str, object]:
    """Convert field names from snake case to camel case.

    Examples
    --------
    >>> _to_camel_case({"top_p": 1, "topK": 2})
    {'topP': 1, 'topK': 2}
    """
    return {re.sub(r"_([a-z])", lambda match: match[1].upper(), name): value for name, value in payload.items()}


def _parse_message(content: Mapping[str, object], position: int) -> SimMessage | SimError:
    """Parse one content."""
    role, parts = content.get("role") or "user", content.get("parts")
    if as_text(role) not in ROLES:
        return _invalid_request("Please use a valid role: user, model.")
    place = f"GenerateContentRequest.contents[{position}].parts"
    if not isinstance(parts, list) or not parts:
        return _invalid_request(f"* {place}: contents.parts must not be empty.\n")
    for index, part in enumerate(iter_objects(parts)):
        if not set(part) - {"thought", "thoughtSignature", "thought_signature"}:
            return _invalid_request(
                f"* {place}[{index}].data: required oneof field 'data' must have one initialized field\n"
            )
    tool = any("functionResponse" in part or "function_response" in part for part in iter_objects(parts))
    return SimMessage("tool" if tool else ROLES[as_text(role)], _content_text(content))


def _content_text(content: Mapping[str, object]) -> str:
    return "".join(as_text(part.get("text")) for part in iter_objects(content.get("parts")))


def _reasoning_tokens(model: str, thinking: Mapping[str, object]) -> int:
    """Return the approximate number of thinking tokens."""
    if not THINKING_MODELS.match(model):
        return 0
    level, budget = thinking.get("thinkingLevel"), as_integer(thinking.get("thinkingBudget"))
    if isinstance(level, str):
        return THINKING_LEVEL_TOKENS.get(level.upper(), DEFAULT_THINKING_TOKENS)
    if budget is None or budget < 0:
        return DEFAULT_THINKING_TOKENS
    return (
        DEFAULT_THINKING_TOKENS
        if ALWAYS_THINKING_MODELS.match(model) and budget == 0
        else min(budget, DEFAULT_THINKING_TOKENS)
    )


def _violation_message(violation: RuleViolation, place: str) -> SimError:
    """Return Google's message about a violation."""
    snake = re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", violation.name)
    path = f"{place}.{snake}" if place else snake
    match violation.kind:
        case "unknown":
            position = f" at '{place}'" if place else ""
            return _unknown_field_error(
                f'Invalid JSON payload received. Unknown name "{violation.name}"{position}: Cannot find field.', place
            )
        case "kind":
            kind = PROTO_TYPE_NAMES.get(violation.rule.types[-1], "type.googleapis.com/google.ai.generativelanguage")
            return _unknown_field_error(
                f"Invalid value at '{path}' ({kind}), {encode_json(violation.value).decode()}", path
            )
        case "missing" | "low" if violation.name == "contents":
            return _invalid_request("* GenerateContentRequest.contents: contents is not specified\n")
        case _:
            low, high = (f"{bound:g}" for bound in (violation.rule.minimum, violation.rule.maximum))
            return _invalid_request(f"* GenerateContentRequest.{path}: {snake} must be in the range [{low}, {high}].\n")


def _invalid_request(message: str) -> SimError:
    return SimError(kind="invalid", message=message)


def _unknown_field_error(message: str, place: str) -> SimError:
    """Return an error with the field in ``param``, which puts it into the details."""
    return SimError(kind="invalid", message=message, param=place)


def encode_reply(response: SimResponse) -> Payload:
    """Encode a response as a ``GenerateContentResponse``."""
    candidates = [
        {
            "content": {"parts": _content_parts(choice), "role": "model"}
            if choice.text or choice.tool_calls
            else {"role": "model"},
            "finishReason": FINISH_REASONS[choice.finish_reason],
            "index": index,
        }
        for index, choice in enumerate(response.choices)
    ]
    return {"candidates": candidates, **_final_chunk(response, response.output_tokens - response.reasoning_tokens)}


def _content_parts(choice: SimChoice) -> list[Payload]:
    """Encode the text, or the tool calls."""
    return [{"functionCall": {"name": call.name, "args": call.arguments}} for call in choice.tool_calls] or [
        {"text": choice.text}
    ]


def encode_events(response: SimResponse) -> Iterator[bytes]:
    """Encode a response as events, or as one JSON array; every chunk has the usage so far."""
    if response.request.as_array:
        for position, chunk in enumerate(_chunks(response)):
            yield (b",\r\n" if position else b"[") + encode_json(chunk)
        yield b"]"
        return
    for chunk in _chunks(response):
        yield b"data: %b\r\n\r\n" % encode_json(chunk)


def _chunks(response: SimResponse) -> Iterator[Payload]:
    """Yield the chunks of a stream; the last of a candidate has the finish reason and complete calls."""
    detail = 0
    for row in zip_longest(*(split_words(choice.text, 8) for choice in response.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                detail += len(piece)
                content = {"parts": [{"text": piece}], "role": "model"}
                yield {"candidates": [{"content": content, "index": index}], **_final_chunk(response, -(-detail // 4))}
    total = sum(choice_tokens(choice) for choice in response.choices)
    for index, choice in enumerate(response.choices):
        content = {"parts": _content_parts(choice) if choice.tool_calls else [{"text": ""}], "role": "model"}
        last = {"content": content, "finishReason": FINISH_REASONS[choice.finish_reason], "index": index}
        yield {"candidates": [last], **_final_chunk(response, total)}


def _final_chunk(response: SimResponse, detail: int) -> Payload:
    """Encode token counts; the prompt includes cached tokens, the candidates exclude thinking."""
    usage: Payload = {"promptTokenCount": response.input_tokens}
    if detail:
        usage["candidatesTokenCount"] = detail
    usage["totalTokenCount"] = response.input_tokens + detail + response.reasoning_tokens
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": response.input_tokens}]
    if response.cached_tokens:
        usage["cachedContentTokenCount"] = response.cached_tokens
    if response.reasoning_tokens:
        usage["thoughtsTokenCount"] = response.reasoning_tokens
    return {"usageMetadata": usage, "modelVersion": response.request.model, "responseId": response.id_digits[:22]}


def encode_error(error: SimError, _request_id: str) -> HttpReply:
    """Encode an error; the retry delay is in the details of the body, not in a header."""
    return HttpReply(ERRORS[error.kind][0], HEADERS, encode_json(_error_payload(error)))


def encode_stream_error(error: SimError, _request_id: str) -> bytes:
    """Encode an error as an event."""
    return b"data: %b\r\n\r\n" % encode_json(_error_payload(error))


def _error_payload(error: SimError) -> Payload:
    status, name, message = ERRORS[error.kind]
    if error.kind == "not_found" and error.model:
        message = (
            f"models/{error.model} is not found for API version v1beta, or is not supported for generateContent. "
            "Call ModelService.ListModels to see the list of available models and their supported methods."
        )
    detail: Payload = {"code": status, "message": error.message or message, "status": name}
    details = _error_details(error, str(detail["message"]))
    return {"error": {**detail, "details": details} if details else detail}


def _error_details(error: SimError, message: str) -> list[Payload]:
    """Return the details of an error, if its kind has any."""
    match error.kind:
        case "auth":
            service = {"service": "generativelanguage.googleapis.com"}
            return [
                {
                    "@type": f"{RPC_TYPE_PREFIX}ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                    "metadata": service,
                },
                {"@type": f"{RPC_TYPE_PREFIX}LocalizedMessage", "locale": "en-US", "message": message},
            ]
        case "invalid" if error.param is not None:
            field = {"field": error.param} if error.param else {}
            return [{"@type": f"{RPC_TYPE_PREFIX}BadRequest", "fieldViolations": [{**field, "description": message}]}]
        case "rate_limited" | "quota":
            return _quota_details(error)
        case _:
            return []


def _quota_details(error: SimError) -> list[Payload]:
    """Return the details of an exceeded quota, with its name and the retry delay."""
    metric, what = {
        "requests": ("generate_content_free_tier_requests", "GenerateRequests{}PerProjectPerModel-FreeTier"),
        "tokens": ("generate_content_free_tier_input_token_count", "GenerateContentInputTokensPerModel{}-FreeTier"),
    }[error.scope]
    violated = {
        "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
        "quotaId": what.format("PerDay" if error.kind == "quota" else "PerMinute"),
        "quotaDimensions": {"location": "global", "model": error.model},
        "quotaValue": str(error.limit),
    }
    page = "https://ai.google.dev/gemini-api/docs/rate-limits"
    links = [{"description": "Learn more about Gemini API quotas", "url": page}]
    details: list[Payload] = [
        {"@type": f"{RPC_TYPE_PREFIX}QuotaFailure", "violations": [violated]},
        {"@type": f"{RPC_TYPE_PREFIX}Help", "links": links},
    ]
    if error.retry_after_s is not None:
        details.append({"@type": f"{RPC_TYPE_PREFIX}RetryInfo", "retryDelay": f"{error.retry_after_s:.9g}s"})
    return details


def encode_model_list(models: Sequence[str]) -> Payload:
    """Encode the list of models."""
    rows = [
        {
            "name": f"models/{model}",
            "version": "001",
            "displayName": model.replace("-", " ").title(),
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 65_536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for model in models
    ]
    return {"models": rows}


def format_request_id(digits: str) -> str:
    """Format a response id; this provider sends none in a header."""
    return digits


GEMINI: Final = FakeProvider(
    name="google",
    prefix="/google",
    models=("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    match_route=match_route,
    check_credentials=check_credentials,
    parse_request=parse_request,
    encode_reply=encode_reply,
    encode_events=encode_events,
    encode_error=encode_error,
    encode_stream_error=encode_stream_error,
    malformed_event=b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n',
    encode_model_list=encode_model_list,
    limit_headers=no_limit_headers,
    format_request_id=format_request_id,
    stream_content_type="text/event-stream",
)
