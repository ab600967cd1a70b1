"""The other side of the Gemini API: ``generateContent`` and ``streamGenerateContent``.

Sources: the types of google-genai 3.4.0; https://ai.google.dev/api/generate-content,
https://ai.google.dev/gemini-api/docs/rate-limits and https://ai.google.dev/gemini-api/docs/thinking
(read 2026-11-22); error bodies as callers have reported them. The wording for a value out of range is not sourced.
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
"""Models that think unless told not to."""


ALWAYS_THINKING_MODELS: Final = re.compile(r"gemini-(2\.5-pro|[3-9])")
"""Models that cannot be told not to."""


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
"""Status, its name, and words of each kind of problem."""


RPC_TYPE_PREFIX: Final = "type.googleapis.com/google.rpc."


DAY_S: Final = 86_400


def match_route(incoming: SimHttpRequest) -> SimRoute | None:
    """Find a model's two methods, and the list of models."""
    asked = GENERATE_PATH.fullmatch(incoming.subpath) if incoming.method == "POST" else None
    if asked:
        streams = asked[2] == "streamGenerateContent"
        whole_array = streams and "alt=sse" not in incoming.query
        return SimRoute(model=unquote(asked[1]), stream=streams, as_array=whole_array)
    return SimRoute(action="models") if incoming.method == "GET" and MODELS_PATH.fullmatch(incoming.subpath) else None


def check_credentials(incoming: SimHttpRequest, key: str) -> SimError | None:
    """Check ``x-goog-api-key`` or the query's ``key``; a wrong key is a 400 here, a missing one a 403."""
    given = incoming.headers.get("x-goog-api-key") or incoming.query_parameters.get("key", "")
    if given == key:
        return None
    return SimError(kind="auth" if given else "forbidden")


def parse_request(payload: Payload, call: SimRoute) -> SimRequest | SimError:
    """Read a body whose field names may be written in either of protobuf's two ways."""
    body = _to_camel_case(payload)
    wrong = find_violation(body, FIELDS)
    if wrong is not None:
        return _violation_message(wrong, "")
    config = _to_camel_case(as_mapping(body.get("generationConfig")))
    wrong = find_violation(config, CONFIG)
    if wrong is not None:
        return _violation_message(wrong, "generation_config")
    thinking = _to_camel_case(as_mapping(config.get("thinkingConfig")))
    if thinking.get("thinkingBudget") is not None and thinking.get("thinkingLevel") is not None:
        return _invalid_request("You can only set only one of thinking budget and thinking level.")
    turns: list[SimMessage] = []
    if body.get("systemInstruction"):
        turns.append(SimMessage("system", _content_text(as_mapping(body["systemInstruction"]))))
    for at, content in enumerate(iter_objects(body["contents"])):
        turn = _parse_message(content, at)
        if isinstance(turn, SimError):
            return turn
        turns.append(turn)
    return SimRequest(
        model=call.model,
        messages=tuple(turns),
        stream=call.stream,
        as_array=call.as_array,
        max_tokens=as_integer(config.get("maxOutputTokens")),
        stop=as_texts(config.get("stopSequences")),
        n=as_integer(config.get("candidateCount")) or 1,
        tools=_parse_tools(body),
        schema=_response_schema(config),
        sampling=rename_set_fields(config, SAMPLING),
        reasoning_tokens=_reasoning_tokens(call.model, thinking),
        uses_cache=True,
    )


def _parse_tools(body: Mapping[str, object]) -> ToolOffer:
    """Read the functions that are declared, and the mode of calling them."""
    tools = body.get("tools")
    listed = [tools] if isinstance(tools, dict) else list(iter_objects(tools))
    functions = [
        _to_camel_case(each)
        for tool in listed
        for each in iter_objects(_to_camel_case(tool).get("functionDeclarations"))
    ]
    schemas = {
        as_text(each.get("name")): each.get("parametersJsonSchema") or each.get("parameters") or NO_PARAMETERS
        for each in functions
    }
    calling = _to_camel_case(
        as_mapping(_to_camel_case(as_mapping(body.get("toolConfig"))).get("functionCallingConfig"))
    )
    mode, allowed = as_text(calling.get("mode")).upper(), as_texts(calling.get("allowedFunctionNames"))
    among = {name: schema for name, schema in schemas.items() if not allowed or name in allowed}
    return offer_tools(among.items(), TOOL_CHOICES.get(mode, "auto"))


def _response_schema(config: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema in either notation, or any object."""
    wanted = config.get("responseJsonSchema") or config.get("responseSchema")
    return wanted or ({"type": "object"} if config.get("responseMimeType") == "application/json" else None)


def _to_camel_case(payload: Mapping[str, object]) -> dict[str, object]:
    """Write snake-case names in camel case.

    Examples
    --------
    >>> _to_camel_case({"top_p": 1, "topK": 2})
    {'topP': 1, 'topK': 2}
    """
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in payload.items()}


def _parse_message(content: Mapping[str, object], at: int) -> SimMessage | SimError:
    """Read one content."""
    role, parts = content.get("role") or "user", content.get("parts")
    if as_text(role) not in ROLES:
        return _invalid_request("Please use a valid role: user, model.")
    place = f"GenerateContentRequest.contents[{at}].parts"
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
    """Say about how many tokens of thinking a model spends."""
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


def _violation_message(wrong: RuleViolation, place: str) -> SimError:
    """Say what is wrong with a body in Google's words."""
    snake = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", wrong.name)
    path = f"{place}.{snake}" if place else snake
    match wrong.kind:
        case "unknown":
            at = f" at '{place}'" if place else ""
            return _unknown_field_error(
                f'Invalid JSON payload received. Unknown name "{wrong.name}"{at}: Cannot find field.', place
            )
        case "kind":
            kind = PROTO_TYPE_NAMES.get(wrong.rule.types[-1], "type.googleapis.com/google.ai.generativelanguage")
            return _unknown_field_error(
                f"Invalid value at '{path}' ({kind}), {encode_json(wrong.value).decode()}", path
            )
        case "missing" | "low" if wrong.name == "contents":
            return _invalid_request("* GenerateContentRequest.contents: contents is not specified\n")
        case _:
            low, high = (f"{bound:g}" for bound in (wrong.rule.minimum, wrong.rule.maximum))
            return _invalid_request(f"* GenerateContentRequest.{path}: {snake} must be in the range [{low}, {high}].\n")


def _invalid_request(message: str) -> SimError:
    return SimError(kind="invalid", message=message)


def _unknown_field_error(message: str, place: str) -> SimError:
    """Name the field in ``param``: it makes the details say which one."""
    return SimError(kind="invalid", message=message, param=place)


def encode_reply(answer: SimResponse) -> Payload:
    """Write an answer as a ``GenerateContentResponse``."""
    candidates = [
        {
            "content": {"parts": _content_parts(choice), "role": "model"}
            if choice.text or choice.tool_calls
            else {"role": "model"},
            "finishReason": FINISH_REASONS[choice.finish_reason],
            "index": index,
        }
        for index, choice in enumerate(answer.choices)
    ]
    return {"candidates": candidates, **_final_chunk(answer, answer.output_tokens - answer.reasoning_tokens)}


def _content_parts(choice: SimChoice) -> list[Payload]:
    """Write the text, or the calls."""
    return [{"functionCall": {"name": call.name, "args": call.arguments}} for call in choice.tool_calls] or [
        {"text": choice.text}
    ]


def encode_events(answer: SimResponse) -> Iterator[bytes]:
    """Write an answer as events, or as one JSON array; every chunk tells the usage so far."""
    if answer.request.as_array:
        for at, chunk in enumerate(_chunks(answer)):
            yield (b",\r\n" if at else b"[") + encode_json(chunk)
        yield b"]"
        return
    for chunk in _chunks(answer):
        yield b"data: %b\r\n\r\n" % encode_json(chunk)


def _chunks(answer: SimResponse) -> Iterator[Payload]:
    """Give the chunks of a stream; the last of a candidate has the reason why it ended, and calls whole."""
    said = 0
    for row in zip_longest(*(split_words(choice.text, 8) for choice in answer.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                said += len(piece)
                content = {"parts": [{"text": piece}], "role": "model"}
                yield {"candidates": [{"content": content, "index": index}], **_final_chunk(answer, -(-said // 4))}
    total = sum(choice_tokens(choice) for choice in answer.choices)
    for index, choice in enumerate(answer.choices):
        content = {"parts": _content_parts(choice) if choice.tool_calls else [{"text": ""}], "role": "model"}
        last = {"content": content, "finishReason": FINISH_REASONS[choice.finish_reason], "index": index}
        yield {"candidates": [last], **_final_chunk(answer, total)}


def _final_chunk(answer: SimResponse, said: int) -> Payload:
    """Count: the prompt includes what was cached, the candidates leave out what was thought."""
    usage: Payload = {"promptTokenCount": answer.input_tokens}
    if said:
        usage["candidatesTokenCount"] = said
    usage["totalTokenCount"] = answer.input_tokens + said + answer.reasoning_tokens
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": answer.input_tokens}]
    if answer.cached_tokens:
        usage["cachedContentTokenCount"] = answer.cached_tokens
    if answer.reasoning_tokens:
        usage["thoughtsTokenCount"] = answer.reasoning_tokens
    return {"usageMetadata": usage, "modelVersion": answer.request.model, "responseId": answer.id_digits[:22]}


def encode_error(problem: SimError, _request_id: str) -> HttpReply:
    """Write a refusal; when to come again is in the body's details, not in a header."""
    return HttpReply(ERRORS[problem.kind][0], HEADERS, encode_json(_error_payload(problem)))


def encode_stream_error(problem: SimError, _request_id: str) -> bytes:
    """Write a problem as an event."""
    return b"data: %b\r\n\r\n" % encode_json(_error_payload(problem))


def _error_payload(problem: SimError) -> Payload:
    status, name, message = ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.model:
        message = (
            f"models/{problem.model} is not found for API version v1beta, or is not supported for generateContent. "
            "Call ModelService.ListModels to see the list of available models and their supported methods."
        )
    said: Payload = {"code": status, "message": problem.message or message, "status": name}
    details = _error_details(problem, str(said["message"]))
    return {"error": {**said, "details": details} if details else said}


def _error_details(problem: SimError, message: str) -> list[Payload]:
    """Write the details of those problems that have some."""
    match problem.kind:
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
        case "invalid" if problem.param is not None:
            field = {"field": problem.param} if problem.param else {}
            return [{"@type": f"{RPC_TYPE_PREFIX}BadRequest", "fieldViolations": [{**field, "description": message}]}]
        case "rate_limited" | "quota":
            return _quota_details(problem)
        case _:
            return []


def _quota_details(problem: SimError) -> list[Payload]:
    """Say which quota is gone and when to come again."""
    metric, what = {
        "requests": ("generate_content_free_tier_requests", "GenerateRequests{}PerProjectPerModel-FreeTier"),
        "tokens": ("generate_content_free_tier_input_token_count", "GenerateContentInputTokensPerModel{}-FreeTier"),
    }[problem.scope]
    violated = {
        "quotaMetric": f"generativelanguage.googleapis.com/{metric}",
        "quotaId": what.format("PerDay" if problem.kind == "quota" else "PerMinute"),
        "quotaDimensions": {"location": "global", "model": problem.model},
        "quotaValue": str(problem.limit),
    }
    page = "https://ai.google.dev/gemini-api/docs/rate-limits"
    links = [{"description": "Learn more about Gemini API quotas", "url": page}]
    details: list[Payload] = [
        {"@type": f"{RPC_TYPE_PREFIX}QuotaFailure", "violations": [violated]},
        {"@type": f"{RPC_TYPE_PREFIX}Help", "links": links},
    ]
    if problem.retry_after_s is not None:
        details.append({"@type": f"{RPC_TYPE_PREFIX}RetryInfo", "retryDelay": f"{problem.retry_after_s:.9g}s"})
    return details


def encode_model_list(models: Sequence[str]) -> Payload:
    """List models."""
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
    """Write an id; this provider sends none in a header."""
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
