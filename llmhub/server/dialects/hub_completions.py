"""The hub's own API: fields are named as in `CompletionRequest`, and responses have their cost.

A request has ``model`` (``provider/model``, or beside it ``provider``), and ``messages`` or ``prompt``. Messages are
those that `llmhub.complete` reads. A stream sends one JSON object an event: ``{"text": ...}``, ``{"reasoning": ...}``,
``{"tool_call": ...}``, and at the end ``{"response": ...}``, which is the whole response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from llmhub.core.errors import LLMError, invalid
from llmhub.core.messages import parse_messages
from llmhub.core.stream import Delta, Fragment
from llmhub.core.types import (
    TOKEN_CLASSES,
    CompletionRequest,
    CompletionResponse,
    Document,
    Image,
    Message,
    Part,
    Payload,
    Reasoning,
    Schema,
    Text,
    Tool,
    ToolResult,
)
from llmhub.server.dialects.dialect import Dialect, ParsedRequest, ReplyInfo
from llmhub.server.dialects.part_stream import PartStream
from llmhub.server.dialects.reading import check_url, read_as
from llmhub.server.error_replies import encode_error

_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
MAX_RESPONSES: Final = 128
"""Largest ``n``."""


class HubTool(Struct, forbid_unknown_fields=True):
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool | None = None


class HubSchema(Struct, forbid_unknown_fields=True):
    """JSON schema of the response."""

    schema: dict[str, Any]
    name: str = "answer"
    strict: bool = True


class HubRequest(Struct, forbid_unknown_fields=True):
    """Body of ``POST /v1/completions``."""

    model: Annotated[str, Meta(min_length=1)]
    provider: str | None = None
    messages: list[dict[str, Any] | str] | None = None
    prompt: str | None = None
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: list[HubTool] | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    response_schema: HubSchema | None = None
    reasoning_effort: str | None = None
    reasoning_budget: int | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_RESPONSES)] = 1
    logprobs: int | None = None
    user: str | None = None
    stream: bool = False


class HubToolCall(Struct):
    """A tool call that the model requests."""

    id: str
    name: str
    arguments: str


class HubChoice(Struct):
    """A further response to a request with ``n > 1``."""

    text: str
    finish_reason: str


class HubCompletion(Struct):
    """Response of ``POST /v1/completions``; costs are in US dollars, ``null`` where a price is unknown."""

    id: str
    model: str
    text: str
    finish_reason: str
    served_model: str
    usage: dict[str, int | None]
    cost_usd: float | None
    list_cost_usd: float | None
    cache_hit: bool
    attempts: int
    latency_s: float | None
    reasoning: str = ""
    refusal: str = ""
    tool_calls: list[HubToolCall] = []
    others: list[HubChoice] = []
    dropped_params: list[str] = []


PARAMS: Final = (
    *("temperature", "top_p", "top_k", "max_tokens", "seed", "presence_penalty", "frequency_penalty", "tool_choice"),
    *("parallel_tool_calls", "reasoning_effort", "reasoning_budget", "n", "logprobs", "user"),
)
"""Fields that a `CompletionRequest` has with the same type."""


def parse(payload: Payload, _native: bool) -> ParsedRequest:
    """Parse a request; unknown fields are errors."""
    body = read_as(payload, HubRequest)
    if (body.messages is None) == (body.prompt is None):
        raise invalid("$.prompt", "pass either prompt or messages")
    given: Any = body.prompt if body.messages is None else body.messages
    messages = parse_messages(given)
    if body.system is not None:
        messages = (Message("system", body.system), *messages)
    _check_media(messages)
    request = CompletionRequest(
        model=f"{body.provider}/{body.model}" if body.provider else body.model,
        messages=messages,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        tools=tuple(Tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in body.tools or ()),
        response_schema=None
        if body.response_schema is None
        else Schema(body.response_schema.schema, body.response_schema.name, body.response_schema.strict),
        **{name: getattr(body, name) for name in PARAMS},
    )
    return ParsedRequest(request=request, stream=body.stream)


def _check_media(messages: Sequence[Message]) -> None:
    for message_index, message in enumerate(messages):
        for part_index, part in enumerate(message.parts):
            inner: tuple[Part, ...] = (part,)
            if isinstance(part, ToolResult) and not isinstance(part.content, str):
                inner = part.content
            for media in inner:
                if isinstance(media, (Image, Document)) and media.url:
                    check_url(media.url, f"$.messages[{message_index}].content[{part_index}]")


def encode(response: CompletionResponse, info: ReplyInfo) -> Payload:
    """Encode a response with its cost."""
    return {
        "id": info.id,
        "model": info.model,
        "text": response.text,
        "reasoning": response.reasoning,
        "refusal": response.refusal,
        "tool_calls": [_call(call.id, call.name, call.arguments) for call in response.tool_calls],
        "others": [{"text": choice.text, "finish_reason": choice.finish_reason} for choice in response.others],
        "finish_reason": response.finish_reason,
        "served_model": response.served_model,
        "usage": {name: getattr(response.usage, name) for name in TOKEN_CLASSES},
        "cost_usd": info.cost_usd,
        "list_cost_usd": info.list_cost_usd,
        "cache_hit": info.cache_hit,
        "attempts": info.attempts,
        "latency_s": info.latency_s,
        "dropped_params": list(info.dropped),
    }


def _call(call_id: str, name: str, arguments: str) -> Payload:
    return {"id": call_id, "name": name, "arguments": arguments}


class HubStream:
    """Encodes one response as events."""

    def __init__(self, _info: ReplyInfo) -> None:
        self._parts = PartStream()

    def feed(self, deltas: Sequence[Delta]) -> bytes:
        """Encode new text and reasoning of the first choice; calls are sent when they are complete."""
        return b"".join([self._event_of(fragment) for fragment in self._parts.feed(deltas)])

    def finish(self, response: CompletionResponse, info: ReplyInfo) -> bytes:
        """Encode the rest, the calls, and the whole response."""
        rest = [self._event_of(fragment) for fragment in self._parts.rest(response)]
        calls = [_event({"tool_call": _call(call.id, call.name, call.arguments)}) for call in response.tool_calls]
        return b"".join([*rest, *calls, _event({"response": encode(response, info)})])

    def fail(self, error: LLMError, status: int) -> bytes:
        """Encode an error."""
        return _event(encode_error(error, status, ""))

    @staticmethod
    def _event_of(fragment: Fragment) -> bytes:
        if fragment.choice:
            return b""
        match fragment.part:
            case Text(text):
                return _event({"text": text})
            case Reasoning(text) if text:
                return _event({"reasoning": text})
            case _:
                return b""


def _event(payload: Payload) -> bytes:
    return b"data: %b\n\n" % _encode(payload)


DIALECT: Final = Dialect(
    name="hub",
    wires=frozenset(),
    parse=parse,
    encode=encode,
    open_stream=HubStream,
    encode_error=encode_error,
)
