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
from llmhub.sim.answers import spent
from llmhub.sim.calls import offer
from llmhub.sim.exchange import Answer, Call, Choice, Incoming, Kind, Offer, Problem, Question, Turn
from llmhub.sim.peers.record import Peer, encode, silent
from llmhub.sim.peers.shape import (
    NOTHING,
    NUMBER,
    Rule,
    Violation,
    chosen,
    free,
    mapping,
    objects,
    pieces,
    violation,
    whole,
    word,
    words,
)

ASK: Final = re.compile(r"/v1(?:beta|alpha)?/models/([^/:]+):(generateContent|streamGenerateContent)")
LIST: Final = re.compile(r"/v1(?:beta|alpha)?/models")
HEADERS: Final = {"content-type": "application/json; charset=UTF-8"}

FIELDS: Final[Mapping[str, Rule]] = {
    "contents": Rule((list,), 1, needed=True, items=dict),
    "systemInstruction": Rule((dict,)),
    "generationConfig": Rule((dict,)),
    "tools": Rule((list, dict)),
    **free("cachedContent labels model safetySettings serviceTier store toolConfig"),
}
CONFIG: Final[Mapping[str, Rule]] = {
    "temperature": Rule(NUMBER, 0, 2),
    "topP": Rule(NUMBER, 0, 1),
    "topK": Rule(NUMBER, 1),
    "maxOutputTokens": Rule((int,), 1),
    "candidateCount": Rule((int,), 1, 8),
    "stopSequences": Rule((list,), 0, 5, items=str),
    "seed": Rule((int,)),
    "presencePenalty": Rule(NUMBER, -2, 2),
    "frequencyPenalty": Rule(NUMBER, -2, 2),
    "thinkingConfig": Rule((dict,)),
    **free(
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
TYPED: Final = {int: "TYPE_INT32", float: "TYPE_FLOAT"}

THINKS: Final = re.compile(r"gemini-(2\.5-(?!flash-lite)|[3-9]|(pro|flash)-latest)")
"""Models that think unless told not to."""
ALWAYS: Final = re.compile(r"gemini-(2\.5-pro|[3-9])")
"""Models that cannot be told not to."""
THOUGHT: Final = 96
LEVELS: Final = {"MINIMAL": 8, "LOW": 32, "MEDIUM": 96, "HIGH": 256, "XHIGH": 512}
FINISH: Final = {"stop": "STOP", "stop_sequence": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP"}
CHOICES: Final = {"ANY": "required", "NONE": "none"}

EXHAUSTED: Final = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "head to: https://ai.google.dev/gemini-api/docs/rate-limits."
)
UNREGISTERED: Final = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or other "
    "form of API consumer identity to call this API."
)
INTERNAL: Final = (
    "An internal error has occurred. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
ERRORS: Final[Mapping[Kind, tuple[int, str, str]]] = {
    "invalid": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "auth": (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    "forbidden": (
        403,
        "PERMISSION_DENIED",
        UNREGISTERED,
    ),
    "not_found": (404, "NOT_FOUND", "Requested entity was not found."),
    "too_large": (400, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    "rate_limited": (
        429,
        "RESOURCE_EXHAUSTED",
        EXHAUSTED,
    ),
    "quota": (
        429,
        "RESOURCE_EXHAUSTED",
        EXHAUSTED,
    ),
    "server": (500, "INTERNAL", INTERNAL),
    "overloaded": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}
"""Status, its name, and words of each kind of problem."""
RPC: Final = "type.googleapis.com/google.rpc."
DAY_S: Final = 86_400


def locate(incoming: Incoming) -> Call | None:
    """Find a model's two methods, and the list of models."""
    asked = ASK.fullmatch(incoming.rest) if incoming.method == "POST" else None
    if asked:
        streams = asked[2] == "streamGenerateContent"
        whole_array = streams and "alt=sse" not in incoming.query
        return Call(model=unquote(asked[1]), stream=streams, array=whole_array)
    return Call(action="models") if incoming.method == "GET" and LIST.fullmatch(incoming.rest) else None


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check ``x-goog-api-key`` or the query's ``key``; a wrong key is a 400 here, a missing one a 403."""
    given = incoming.headers.get("x-goog-api-key") or incoming.parameters.get("key", "")
    if given == key:
        return None
    return Problem(kind="auth" if given else "forbidden")


def read(payload: Payload, call: Call) -> Question | Problem:
    """Read a body whose field names may be written in either of protobuf's two ways."""
    body = _camel(payload)
    wrong = violation(body, FIELDS)
    if wrong is not None:
        return _worded(wrong, "")
    config = _camel(mapping(body.get("generationConfig")))
    wrong = violation(config, CONFIG)
    if wrong is not None:
        return _worded(wrong, "generation_config")
    thinking = _camel(mapping(config.get("thinkingConfig")))
    if thinking.get("thinkingBudget") is not None and thinking.get("thinkingLevel") is not None:
        return _invalid("You can only set only one of thinking budget and thinking level.")
    turns: list[Turn] = []
    if body.get("systemInstruction"):
        turns.append(Turn("system", _spoken(mapping(body["systemInstruction"]))))
    for at, content in enumerate(objects(body["contents"])):
        turn = _turn(content, at)
        if isinstance(turn, Problem):
            return turn
        turns.append(turn)
    return Question(
        model=call.model,
        turns=tuple(turns),
        stream=call.stream,
        array=call.array,
        max_tokens=whole(config.get("maxOutputTokens")),
        stop=words(config.get("stopSequences")),
        n=whole(config.get("candidateCount")) or 1,
        tools=_offered(body),
        schema=_form(config),
        sampling=chosen(config, SAMPLING),
        reasoning=_thought(call.model, thinking),
        caches=True,
    )


def _offered(body: Mapping[str, object]) -> Offer:
    """Read the functions that are declared, and the mode of calling them."""
    tools = body.get("tools")
    listed = [tools] if isinstance(tools, dict) else list(objects(tools))
    functions = [_camel(each) for tool in listed for each in objects(_camel(tool).get("functionDeclarations"))]
    schemas = {
        word(each.get("name")): each.get("parametersJsonSchema") or each.get("parameters") or NOTHING
        for each in functions
    }
    calling = _camel(mapping(_camel(mapping(body.get("toolConfig"))).get("functionCallingConfig")))
    mode, allowed = word(calling.get("mode")).upper(), words(calling.get("allowedFunctionNames"))
    among = {name: schema for name, schema in schemas.items() if not allowed or name in allowed}
    return offer(among.items(), CHOICES.get(mode, "auto"))


def _form(config: Mapping[str, object]) -> object:
    """Read what the answer has to fit: a schema in either notation, or any object."""
    wanted = config.get("responseJsonSchema") or config.get("responseSchema")
    return wanted or ({"type": "object"} if config.get("responseMimeType") == "application/json" else None)


def _camel(payload: Mapping[str, object]) -> dict[str, object]:
    """Write snake-case names in camel case.

    Examples
    --------
    >>> _camel({"top_p": 1, "topK": 2})
    {'topP': 1, 'topK': 2}
    """
    return {re.sub(r"_([a-z])", lambda found: found[1].upper(), name): value for name, value in payload.items()}


def _turn(content: Mapping[str, object], at: int) -> Turn | Problem:
    """Read one content."""
    role, parts = content.get("role") or "user", content.get("parts")
    if word(role) not in ROLES:
        return _invalid("Please use a valid role: user, model.")
    place = f"GenerateContentRequest.contents[{at}].parts"
    if not isinstance(parts, list) or not parts:
        return _invalid(f"* {place}: contents.parts must not be empty.\n")
    for index, part in enumerate(objects(parts)):
        if not set(part) - {"thought", "thoughtSignature", "thought_signature"}:
            return _invalid(f"* {place}[{index}].data: required oneof field 'data' must have one initialized field\n")
    tool = any("functionResponse" in part or "function_response" in part for part in objects(parts))
    return Turn("tool" if tool else ROLES[word(role)], _spoken(content))


def _spoken(content: Mapping[str, object]) -> str:
    return "".join(word(part.get("text")) for part in objects(content.get("parts")))


def _thought(model: str, thinking: Mapping[str, object]) -> int:
    """Say about how many tokens of thinking a model spends."""
    if not THINKS.match(model):
        return 0
    level, budget = thinking.get("thinkingLevel"), whole(thinking.get("thinkingBudget"))
    if isinstance(level, str):
        return LEVELS.get(level.upper(), THOUGHT)
    if budget is None or budget < 0:
        return THOUGHT
    return THOUGHT if ALWAYS.match(model) and budget == 0 else min(budget, THOUGHT)


def _worded(wrong: Violation, place: str) -> Problem:
    """Say what is wrong with a body in Google's words."""
    snake = re.sub(r"[A-Z]", lambda found: f"_{found[0].lower()}", wrong.name)
    path = f"{place}.{snake}" if place else snake
    match wrong.what:
        case "unknown":
            at = f" at '{place}'" if place else ""
            return _unreadable(
                f'Invalid JSON payload received. Unknown name "{wrong.name}"{at}: Cannot find field.', place
            )
        case "kind":
            kind = TYPED.get(wrong.rule.kinds[-1], "type.googleapis.com/google.ai.generativelanguage")
            return _unreadable(f"Invalid value at '{path}' ({kind}), {encode(wrong.value).decode()}", path)
        case "missing" | "low" if wrong.name == "contents":
            return _invalid("* GenerateContentRequest.contents: contents is not specified\n")
        case _:
            low, high = (f"{bound:g}" for bound in (wrong.rule.low, wrong.rule.high))
            return _invalid(f"* GenerateContentRequest.{path}: {snake} must be in the range [{low}, {high}].\n")


def _invalid(message: str) -> Problem:
    return Problem(kind="invalid", message=message)


def _unreadable(message: str, place: str) -> Problem:
    """Name the field in ``param``: it makes the details say which one."""
    return Problem(kind="invalid", message=message, param=place)


def reply(answer: Answer) -> Payload:
    """Write an answer as a ``GenerateContentResponse``."""
    candidates = [
        {
            "content": {"parts": _parts(choice), "role": "model"} if choice.text or choice.calls else {"role": "model"},
            "finishReason": FINISH[choice.finish],
            "index": index,
        }
        for index, choice in enumerate(answer.choices)
    ]
    return {"candidates": candidates, **_tail(answer, answer.output_tokens - answer.reasoning_tokens)}


def _parts(choice: Choice) -> list[Payload]:
    """Write the text, or the calls."""
    return [{"functionCall": {"name": call.name, "args": call.arguments}} for call in choice.calls] or [
        {"text": choice.text}
    ]


def events(answer: Answer) -> Iterator[bytes]:
    """Write an answer as events, or as one JSON array; every chunk tells the usage so far."""
    if answer.question.array:
        for at, chunk in enumerate(_chunks(answer)):
            yield (b",\r\n" if at else b"[") + encode(chunk)
        yield b"]"
        return
    for chunk in _chunks(answer):
        yield b"data: %b\r\n\r\n" % encode(chunk)


def _chunks(answer: Answer) -> Iterator[Payload]:
    """Give the chunks of a stream; the last of a candidate has the reason why it ended, and calls whole."""
    said = 0
    for row in zip_longest(*(pieces(choice.text, 8) for choice in answer.choices)):
        for index, piece in enumerate(row):
            if piece is not None:
                said += len(piece)
                content = {"parts": [{"text": piece}], "role": "model"}
                yield {"candidates": [{"content": content, "index": index}], **_tail(answer, -(-said // 4))}
    total = sum(spent(choice) for choice in answer.choices)
    for index, choice in enumerate(answer.choices):
        content = {"parts": _parts(choice) if choice.calls else [{"text": ""}], "role": "model"}
        last = {"content": content, "finishReason": FINISH[choice.finish], "index": index}
        yield {"candidates": [last], **_tail(answer, total)}


def _tail(answer: Answer, said: int) -> Payload:
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
    return {"usageMetadata": usage, "modelVersion": answer.question.model, "responseId": answer.key[:22]}


def error(problem: Problem, _request_id: str) -> HttpReply:
    """Write a refusal; when to come again is in the body's details, not in a header."""
    return HttpReply(ERRORS[problem.kind][0], HEADERS, encode(_told(problem)))


def broken(problem: Problem, _request_id: str) -> bytes:
    """Write a problem as an event."""
    return b"data: %b\r\n\r\n" % encode(_told(problem))


def _told(problem: Problem) -> Payload:
    status, name, message = ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.model:
        message = (
            f"models/{problem.model} is not found for API version v1beta, or is not supported for generateContent. "
            "Call ModelService.ListModels to see the list of available models and their supported methods."
        )
    said: Payload = {"code": status, "message": problem.message or message, "status": name}
    details = _details(problem, str(said["message"]))
    return {"error": {**said, "details": details} if details else said}


def _details(problem: Problem, message: str) -> list[Payload]:
    """Write the details of those problems that have some."""
    match problem.kind:
        case "auth":
            service = {"service": "generativelanguage.googleapis.com"}
            return [
                {
                    "@type": f"{RPC}ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                    "metadata": service,
                },
                {"@type": f"{RPC}LocalizedMessage", "locale": "en-US", "message": message},
            ]
        case "invalid" if problem.param is not None:
            field = {"field": problem.param} if problem.param else {}
            return [{"@type": f"{RPC}BadRequest", "fieldViolations": [{**field, "description": message}]}]
        case "rate_limited" | "quota":
            return _exhausted(problem)
        case _:
            return []


def _exhausted(problem: Problem) -> list[Payload]:
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
        {"@type": f"{RPC}QuotaFailure", "violations": [violated]},
        {"@type": f"{RPC}Help", "links": links},
    ]
    if problem.retry_after_s is not None:
        details.append({"@type": f"{RPC}RetryInfo", "retryDelay": f"{problem.retry_after_s:.9g}s"})
    return details


def listing(models: Sequence[str]) -> Payload:
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


def request_id(digits: str) -> str:
    """Write an id; this provider sends none in a header."""
    return digits


GEMINI: Final = Peer(
    name="google",
    prefix="/google",
    models=("gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-2.5-pro"),
    locate=locate,
    authorize=authorize,
    read=read,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    garbled=b'data: {"candidates": [{"content": {"parts": [{"te\r\n\r\n',
    listing=listing,
    limits=silent,
    request_id=request_id,
    stream_type="text/event-stream",
)
