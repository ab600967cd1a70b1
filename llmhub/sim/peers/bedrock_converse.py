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
from llmhub.sim.calls import offer
from llmhub.sim.exchange import Answer, Call, Incoming, Kind, Offer, Problem, Question, Turn
from llmhub.sim.peers import sigv4
from llmhub.sim.peers.anthropic import unsampled
from llmhub.sim.peers.eventstream import message
from llmhub.sim.peers.record import JSON, Peer, bearer, encode, silent
from llmhub.sim.peers.shape import (
    NOTHING,
    NUMBER,
    Rule,
    Violation,
    chosen,
    fragments,
    free,
    mapping,
    objects,
    pieces,
    violation,
    whole,
    word,
    words,
)

ASK: Final = re.compile(r"/model/([^/]+)/(converse|converse-stream)")
FIELDS: Final[Mapping[str, Rule]] = {
    "messages": Rule((list,), 1, needed=True, items=dict),
    "system": Rule((list,)),
    "inferenceConfig": Rule((dict,)),
    "toolConfig": Rule((dict,)),
    **free(
        "additionalModelRequestFields additionalModelResponseFieldPaths guardrailConfig outputConfig performanceConfig "
        "promptVariables requestMetadata serviceTier"
    ),
}
CONFIG: Final[Mapping[str, Rule]] = {
    "maxTokens": Rule((int,), 1),
    "temperature": Rule(NUMBER, 0, 1),
    "topP": Rule(NUMBER, 0, 1),
    "stopSequences": Rule((list,), 0, 2500, items=str),
}
SAMPLING: Final = {"temperature": "temperature", "topP": "top_p"}
PROFILED: Final = re.compile(r"anthropic\.claude-(?!3-(?!7)|v2|instant)")
"""Models that are reached only through an inference profile, such as ``us.`` before the name."""
ALTERNATING: Final = re.compile(r"anthropic\.|amazon\.nova|meta\.|mistral\.")
"""Models whose conversations have to alternate between user and assistant."""
FINISH: Final = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "tool_calls": "tool_use"}

ERRORS: Final[Mapping[Kind, tuple[int, str, str]]] = {
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
THROTTLED: Final = {
    "requests": "Too many requests, please wait before trying again.",
    "tokens": "Too many tokens, please wait before trying again.",
}
IN_STREAM: Final[Mapping[Kind, str]] = {
    "invalid": "validationException",
    "rate_limited": "throttlingException",
    "overloaded": "serviceUnavailableException",
    "server": "internalServerException",
}
"""The exceptions a stream can hold."""
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
"""What events are padded with."""


def locate(incoming: Incoming) -> Call | None:
    """Find a model's two methods, and the control plane's list of models."""
    asked = ASK.fullmatch(incoming.rest) if incoming.method == "POST" else None
    if asked:
        return Call(model=unquote(asked[1]), stream=asked[2] == "converse-stream")
    listed = (incoming.method, incoming.rest) == ("GET", "/foundation-models")
    return Call(action="models") if listed else None


def authorize(incoming: Incoming, key: str) -> Problem | None:
    """Check a bearer key, or a signature made with ``key`` as the secret of the access key `ACCESS_KEY_ID`."""
    token = bearer(incoming.headers)
    if token:
        said = "Authentication failed: Please make sure your API Key is valid."
        return None if token == key else Problem(kind="forbidden", message=said)
    signer = sigv4.signer(incoming)
    if not signer:
        return Problem(kind="auth", code="MissingAuthenticationTokenException", message="Missing Authentication Token")
    if signer != ACCESS_KEY_ID:
        return Problem(kind="auth")
    if sigv4.signed(incoming, key):
        return None
    said = (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details."
    )
    return Problem(kind="auth", code="InvalidSignatureException", message=said)


ACCESS_KEY_ID: Final = "AKIDSIMULATOR"


def read(payload: Payload, call: Call) -> Question | Problem:
    """Read a Converse body."""
    if PROFILED.match(call.model):
        return _invalid(
            f"Invocation of model ID {call.model} with on-demand throughput isn’t supported. Retry your request with "  # noqa: RUF001 - the service's own apostrophe
            "the ID or ARN of an inference profile that contains this model."
        )
    config = mapping(payload.get("inferenceConfig"))
    for body, rules, place in ((payload, FIELDS, ""), (config, CONFIG, "inferenceConfig")):
        wrong = violation(body, rules)
        if wrong is not None:
            return _worded(wrong, place)
    sampling = chosen(config, SAMPLING)
    refused = unsampled(call.model, sampling)
    if refused:
        return _invalid(f"The model returned the following errors: {refused}")
    schema, turns = _form(payload), _turns(payload, ALTERNATING.search(call.model) is not None)
    if isinstance(schema, Problem):
        return schema
    if isinstance(turns, Problem):
        return turns
    return Question(
        model=call.model,
        turns=turns,
        stream=call.stream,
        max_tokens=whole(config.get("maxTokens")),
        stop=words(config.get("stopSequences")),
        tools=_offered(mapping(payload.get("toolConfig"))),
        schema=schema,
        sampling=sampling,
        caches=_caches(payload),
    )


def _offered(config: Mapping[str, object]) -> Offer:
    """Read the tools and the choice among them."""
    specs = [mapping(tool.get("toolSpec")) for tool in objects(config.get("tools"))]
    tools = [
        (word(spec.get("name")), mapping(spec.get("inputSchema")).get("json") or NOTHING) for spec in specs if spec
    ]
    choice = mapping(config.get("toolChoice"))
    named = word(mapping(choice.get("tool")).get("name")) or ("required" if "any" in choice else "auto")
    return offer(tools, named)


def _form(payload: Mapping[str, object]) -> object:
    """Read the schema that the answer has to fit, which is written as text."""
    form = mapping(mapping(payload.get("outputConfig")).get("textFormat"))
    said = mapping(mapping(form.get("structure")).get("jsonSchema")).get("schema")
    try:
        return None if said is None else msgspec.json.decode(word(said))
    except (msgspec.DecodeError, RecursionError):
        return _invalid("The schema in outputConfig.textFormat is not valid JSON.")


def _turns(payload: Mapping[str, object], alternate: bool) -> tuple[Turn, ...] | Problem:
    """Read the conversation, which begins with the user and, with most models, alternates."""
    turns: list[Turn] = []
    if payload.get("system"):
        turns.append(Turn("system", "".join(word(block.get("text")) for block in objects(payload["system"]))))
    wanted = "user"
    for at, each in enumerate(objects(payload["messages"])):
        role, content = word(each.get("role")), each.get("content")
        if role not in {"user", "assistant"}:
            return _failed(f"messages.{at + 1}.member.role", role, "satisfy enum value set: [user, assistant]")
        if role != wanted and (alternate or at == 0):
            return _invalid(
                "A conversation must start with a user message. Try again with a conversation that starts with a user "
                "message."
                if at == 0
                else "A conversation must alternate between user and assistant roles. Make sure the conversation "
                "alternates between user and assistant roles and try again."
            )
        wanted = "assistant" if role == "user" else "user"
        for index, block in enumerate(objects(content)):
            if "text" in block and not word(block["text"]).strip():
                return _invalid(
                    f"The text field in the ContentBlock object at messages.{at}.content.{index} is blank. Add text to "
                    "the text field, and try again."
                )
        if not isinstance(content, list) or not content:
            said = f"The content field in the Message object at messages.{at} is empty."
            return _invalid(f"{said} Add a ContentBlock object to the content field and try again.")
        tool = any("toolResult" in block for block in objects(content))
        turns.append(Turn("tool" if tool else role, "".join(_spoken(block) for block in objects(content))))
    return tuple(turns)


def _spoken(block: Mapping[str, object]) -> str:
    inner = objects(mapping(block.get("toolResult")).get("content"))
    return word(block.get("text")) + "".join(word(piece.get("text")) for piece in inner)


def _caches(payload: Mapping[str, object]) -> bool:
    """Say whether any part of a body is marked for the cache."""
    places = list(objects(payload.get("system")))
    for each in objects(payload["messages"]):
        places.extend(objects(each.get("content")))
    return any("cachePoint" in place for place in places)


def _worded(wrong: Violation, place: str) -> Problem:
    """Say what is wrong with a body in the service's words."""
    path = f"{place}.{wrong.name}" if place else wrong.name
    match wrong.what:
        case "unknown":
            return _invalid(
                f"Malformed input request: #{f'/{place}' if place else ''}: extraneous key [{wrong.name}] is not "
                "permitted, please reformat your input and try again."
            )
        case "missing":
            return _invalid(
                f"1 validation error detected: Value at '{path}' failed to satisfy constraint: Member must not be null"
            )
        case "kind":
            return Problem(
                kind="invalid", code="SerializationException", message=f"Unexpected value type in payload at {path}"
            )
        case "low":
            return _failed(path, wrong.value, f"have {_measured(wrong)} greater than or equal to {wrong.rule.low:g}")
        case "high":
            return _failed(path, wrong.value, f"have {_measured(wrong)} less than or equal to {wrong.rule.high:g}")


def _measured(wrong: Violation) -> str:
    return "length" if isinstance(wrong.value, (list, str)) else "value"


def _failed(path: str, value: object, constraint: str) -> Problem:
    said = f"1 validation error detected: Value '{value}' at '{path}' failed to satisfy constraint"
    return _invalid(f"{said}: Member must {constraint}")


def _invalid(said: str) -> Problem:
    return Problem(kind="invalid", message=said)


def reply(answer: Answer) -> Payload:
    """Write an answer as a Converse body."""
    choice = answer.choices[0]
    return {
        "metrics": {"latencyMs": int(answer.duration_s * 1000)},
        "output": {"message": {"content": _content(answer), "role": "assistant"}},
        "stopReason": FINISH[choice.finish],
        "usage": _usage(answer),
    }


def _content(answer: Answer) -> list[Payload]:
    """Write the blocks: the text, or the calls."""
    choice = answer.choices[0]
    text: list[Payload] = [{"text": choice.text}] if choice.text else []
    return text + [
        {"toolUse": {"toolUseId": f"tooluse_{answer.key[:20]}{at:02}", "name": call.name, "input": call.arguments}}
        for at, call in enumerate(choice.calls)
    ]


def events(answer: Answer) -> Iterator[bytes]:
    """Write an answer as an event stream: text blocks have no start, and usage comes after the end."""
    choice, padding = answer.choices[0], answer.key
    yield event("messageStart", {"role": "assistant"}, padding)
    for index, block in enumerate(_content(answer)):
        used = mapping(block.get("toolUse"))
        if used:
            start = {"toolUse": {"toolUseId": used["toolUseId"], "name": used["name"]}}
            yield event("contentBlockStart", {"contentBlockIndex": index, "start": start}, padding)
        texts: list[Payload] = [{"text": piece} for piece in pieces(word(block.get("text")), 3)]
        inputs = fragments(encode(used["input"]).decode(), 6) if used else []
        for at, delta in enumerate(texts + [{"toolUse": {"input": piece}} for piece in inputs]):
            yield event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}, padding[at % 32 :])
        yield event("contentBlockStop", {"contentBlockIndex": index}, padding)
    yield event("messageStop", {"stopReason": FINISH[choice.finish]}, padding)
    metrics = {"latencyMs": int(answer.duration_s * 1000)}
    yield event("metadata", {"metrics": metrics, "usage": _usage(answer)}, padding)


def event(kind: str, data: Payload, padding: str) -> bytes:
    """Write one event, padded by as much as the first two digits of ``padding`` say."""
    padded = {**data, "p": ALPHABET[: 1 + int(padding[:2], 16) % len(ALPHABET)]}
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return message(headers, encode(padded))


def _usage(answer: Answer) -> Payload:
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


def error(problem: Problem, _request_id: str) -> HttpReply:
    """Write a refusal: its kind is in a header, and nothing says when to come again."""
    status, exception, said = ERRORS[problem.kind]
    if problem.kind == "not_found" and problem.model:
        status, exception, said = 400, "ValidationException", "The provided model identifier is invalid."
    kind = f"{problem.code or exception}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    body = {"message": problem.message or said or THROTTLED[problem.scope]}
    return HttpReply(status, {**JSON, "x-amzn-errortype": kind}, encode(body))


def broken(problem: Problem, _request_id: str) -> bytes:
    """Write a problem as an exception in a stream."""
    kind = IN_STREAM.get(problem.kind, "modelStreamErrorException")
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    said = problem.message or ERRORS[problem.kind][2] or THROTTLED[problem.scope]
    return message(headers, encode({"message": said}))


def listing(models: Sequence[str]) -> Payload:
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


def request_id(digits: str) -> str:
    """Write an id."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


BEDROCK: Final = Peer(
    name="bedrock",
    prefix="/bedrock",
    models=(
        "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        "amazon.nova-lite-v1:0",
        "us.meta.llama3-3-70b-instruct-v1:0",
    ),
    locate=locate,
    authorize=authorize,
    read=read,
    reply=reply,
    events=events,
    error=error,
    broken=broken,
    garbled=message(
        {":event-type": "contentBlockDelta", ":content-type": "application/json", ":message-type": "event"},
        b'{"contentBlockIndex":0,"delta":{"te',
    ),
    listing=listing,
    limits=silent,
    request_id=request_id,
    id_header="x-amzn-requestid",
    stream_type="application/vnd.amazon.eventstream",
)
