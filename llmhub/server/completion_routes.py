"""Routes of completions in each dialect: parse the request, send it through the service, encode the answer.

A stream begins with its first content, so that an error before it has a status of its own. A client that leaves
cancels the provider's request, before and after the first token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from aiohttp import web
from returns.pipeline import is_successful

from llmhub.core.errors import TimedOut, invalid, to_exception
from llmhub.core.stream import Delta
from llmhub.core.types import Payload
from llmhub.engine.call import Answer, Target
from llmhub.server.app import json_response, open_stream, read_json, write, write_json
from llmhub.server.context import RequestContext
from llmhub.server.dialects import anthropic, gemini, hub_completions, openai_chat, openai_responses
from llmhub.server.dialects.dialect import Dialect, ParsedRequest, ReplyInfo, StreamEncoder
from llmhub.server.error_replies import status_of
from llmhub.server.input_token_estimate import estimate_input_tokens
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.service import NO_COSTS, Service

CACHE_HEADER: Final = "x-llmhub-cache"
UNSUPPORTED_HEADER: Final = "x-llmhub-unsupported"
COST_HEADER: Final = "x-llmhub-cost-usd"
CACHE_HIT_HEADER: Final = "x-llmhub-cache-hit"
SERVED_HEADER: Final = "x-llmhub-served-model"
DROPPED_HEADER: Final = "x-llmhub-dropped"
STREAM_ACTION: Final = "streamGenerateContent"
COUNT_ACTION: Final = "countTokens"
GEMINI_ACTIONS: Final = ("generateContent", STREAM_ACTION, COUNT_ACTION)
STREAM_SHARE: Final = 0.98
"""Share of a request's time after which its stream ends with an error, before the request is cut off."""
MAX_TIMER_S: Final = 86_400.0
OPTIONS: Final = (
    Parameter(
        name=CACHE_HEADER,
        place="header",
        description="How the cache is used.",
        schema={"type": "string", "enum": ["read-write", "read-only", "write-only", "refresh", "off"]},
    ),
    Parameter(
        name=UNSUPPORTED_HEADER,
        place="header",
        description="What happens to a parameter that the model does not support.",
        schema={"type": "string", "enum": ["error", "drop"]},
    ),
    Parameter(
        name="x-llmhub-lane",
        place="header",
        description="In which lane the call waits.",
        schema={"type": "string", "enum": ["interactive", "bulk"]},
    ),
)
"""Headers that every route of a completion reads."""


@dataclass(frozen=True, slots=True)
class ServedCompletion:
    """A parsed request on its way."""

    service: Service
    context: RequestContext
    dialect: Dialect
    parsed: ParsedRequest
    target: Target
    cache_mode: str | None = None

    def info(self, answer: Answer | None = None) -> ReplyInfo:
        """Return what a reply says besides the response."""
        parsed = self.parsed
        costs = NO_COSTS if answer is None else self.service.costs(self.target, answer)
        return ReplyInfo(
            id=self.context.request_id,
            model=parsed.request.model,
            created=int(time.time()),
            stream_usage=parsed.stream_usage,
            cost_usd=costs.billed_usd,
            list_cost_usd=costs.listed_usd,
            cache_hit=answer is not None and answer.cache_hit,
            attempts=0 if answer is None else answer.attempts,
            latency_s=None if answer is None else answer.latency_s,
            dropped=parsed.dropped if answer is None else (*parsed.dropped, *answer.dropped),
        )

    def send(self, on_deltas: Callable[[Sequence[Delta]], None] | None = None) -> Coroutine[Any, Any, Answer]:
        """Send it; ``on_deltas`` is called with its content as it arrives."""
        return self.service.send(
            self.parsed.request, self.context, on_deltas=on_deltas, cache_mode=self.cache_mode, target=self.target
        )


def parse_request(
    service: Service, request: web.Request, context: RequestContext, dialect: Dialect, payload: Payload
) -> ServedCompletion:
    """Parse a payload for its target, with the options in the headers of its request.

    Raises
    ------
    ConnectorError
        It cannot be expressed, or the caller may not use the model.
    """
    return apply_options(parse_payload(service, context, dialect, payload), request)


def parse_payload(service: Service, context: RequestContext, dialect: Dialect, payload: Payload) -> ServedCompletion:
    """Parse a payload for its target.

    Raises
    ------
    ConnectorError
        It cannot be expressed, or the caller may not use the model.
    """
    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("$.model", "is missing; pass 'provider/model', such as 'openai/gpt-4o-mini'")
    provider = payload.get("provider") if dialect is hub_completions.DIALECT else None
    target = service.target(f"{provider}/{model}" if isinstance(provider, str) and provider else model, context)
    route = service.hub.resolver.resolve_route(target.name)
    candidates = (target,) if route is None else route.targets.values()
    native = all(each.provider.wire.name in dialect.wires for each in candidates)
    return ServedCompletion(service, context, dialect, dialect.parse(payload, native), target)


def apply_options(completion: ServedCompletion, request: web.Request) -> ServedCompletion:
    """Return a completion with the options in the headers of its request.

    Raises
    ------
    ConnectorError
        An option has an unknown value.
    """
    headers = request.headers
    if UNSUPPORTED_HEADER not in headers and CACHE_HEADER not in headers:
        return completion
    unsupported: Any = headers.get(UNSUPPORTED_HEADER, "error")
    if unsupported not in {"error", "drop"}:
        raise invalid(UNSUPPORTED_HEADER, f"must be error or drop, not {unsupported!r:.80}")
    parsed = completion.parsed
    if unsupported == "drop":
        parsed = replace(parsed, request=replace(parsed.request, unsupported=unsupported))
    return replace(completion, parsed=parsed, cache_mode=headers.get(CACHE_HEADER))


async def complete(
    dialect: Dialect, service: Service, request: web.Request, context: RequestContext
) -> web.StreamResponse:
    """Answer a request of a dialect whose payload names the model and says whether to stream."""
    payload = await read_json(service, request)
    return await answer(parse_request(service, request, context, dialect, payload), request)


async def answer(completion: ServedCompletion, request: web.Request) -> web.StreamResponse:
    """Send a parsed request, and return its response or stream."""
    if completion.parsed.stream:
        return await _stream(completion, request)
    result = await completion.send()
    if not is_successful(result.outcome):
        raise to_exception(result.outcome.failure())
    response, info = result.outcome.unwrap(), completion.info(result)
    headers = {
        CACHE_HIT_HEADER: "true" if info.cache_hit else "false",
        SERVED_HEADER: _header_text(response.served_model or completion.target.model),
        **({} if info.cost_usd is None else {COST_HEADER: f"{info.cost_usd:f}"}),
        **({DROPPED_HEADER: ", ".join(info.dropped)} if info.dropped else {}),
    }
    return write_json(request, completion.context, completion.dialect.encode(response, info), headers)


def _header_text(text: str) -> str:
    """Return text that a header can hold."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)


async def _stream(  # noqa: C901 - one loop
    completion: ServedCompletion, request: web.Request
) -> web.StreamResponse:
    """Stream a response: each piece is written as soon as the client accepts it."""
    encoder = completion.dialect.open_stream(completion.info())
    pieces: list[bytes] = []
    arrived = asyncio.Event()

    def on_deltas(deltas: Sequence[Delta]) -> None:
        piece = encoder.feed(deltas)
        if piece:
            pieces.append(piece)
            arrived.set()

    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(completion.send(on_deltas))
    sending.add_done_callback(lambda _: arrived.set())
    seconds = completion.context.deadline - loop.time()
    deadline = asyncio.Event()

    def on_deadline() -> None:
        deadline.set()
        arrived.set()

    timer = loop.call_later(min(seconds * STREAM_SHARE, MAX_TIMER_S), on_deadline)
    try:
        response: web.StreamResponse | None = None
        while True:
            await arrived.wait()
            arrived.clear()
            is_done = sending.done()
            has_begun = response is not None or bool(pieces)
            if not is_done and deadline.is_set():
                error = TimedOut(message="the stream did not end in time")
                if response is None:
                    raise to_exception(error)
                pieces.append(encoder.fail(error, status_of(error)))
            elif is_done:
                pieces.append(_last_piece(completion, encoder, sending.result(), has_begun=has_begun))
            piece = b"".join(pieces)
            pieces.clear()
            if response is None:
                response = await open_stream(request, completion.context, completion.dialect.stream_type)
            await write(completion.service, request, response, piece)
            if is_done or deadline.is_set():
                await response.write_eof()
                return response
    finally:
        timer.cancel()
        if not sending.done():
            sending.cancel()
            await asyncio.wait([sending])


def _last_piece(completion: ServedCompletion, encoder: StreamEncoder, result: Answer, *, has_begun: bool) -> bytes:
    """Return the end of a stream.

    Raises
    ------
    ConnectorError
        The call failed before there was any content.
    """
    if is_successful(result.outcome):
        return encoder.finish(result.outcome.unwrap(), completion.info(result))
    error = result.outcome.failure()
    if not has_begun:
        raise to_exception(error)
    return encoder.fail(error, status_of(error))


def completion_route(path: str, dialect: Dialect, request: Any, response: Any, summary: str) -> HttpRoute:
    """Return the route of a dialect whose payload names the model."""
    return HttpRoute(
        "POST",
        path,
        partial(complete, dialect),
        scope="completions",
        summary=summary,
        request=request,
        response=response,
        request_types=("application/json",),
        response_types=("application/json", dialect.stream_type),
        parameters=OPTIONS,
        encode_error=dialect.encode_error,
    )


async def generate_content(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Answer a Gemini request, whose path holds the model and the kind of answer."""
    model, _, action = request.match_info["call"].rpartition(":")
    if action not in GEMINI_ACTIONS:
        raise invalid("path", f"must end in {' or '.join(GEMINI_ACTIONS)}, not {action!r:.80}")
    payload = {**await read_json(service, request), "model": model, "stream": action == STREAM_ACTION}
    alt = request.query.get("alt", "json")
    if alt not in {"json", "sse"}:
        raise invalid("alt", f"must be json or sse, not {alt!r:.80}")
    dialect = gemini.DIALECT if alt == "sse" else gemini.ARRAY_DIALECT
    completion = parse_request(service, request, context, dialect, payload)
    if action == COUNT_ACTION:
        return json_response({"totalTokens": estimate_input_tokens(completion.parsed.request)})
    return await answer(completion, request)


async def count_tokens(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Estimate the input tokens of a request from its characters; nothing is sent."""
    payload = await read_json(service, request)
    completion = parse_request(service, request, context, anthropic.DIALECT, payload)
    return json_response(anthropic.TokenCount(estimate_input_tokens(completion.parsed.request)))


def gemini_route(version: str) -> HttpRoute:
    """Return the route of Gemini's API under the path of one of its versions, of which clients choose either."""
    return HttpRoute(
        "POST",
        f"/{version}/models/{{call:.+}}",
        generate_content,
        scope="completions",
        summary="Answer in the format of Gemini: {model}:generateContent, streamGenerateContent or countTokens",
        request=gemini.GenerateContentRequest,
        response=dict[str, Any],
        request_types=("application/json",),
        response_types=("application/json", gemini.DIALECT.stream_type),
        parameters=(
            Parameter(
                name="call",
                place="path",
                description="provider/model and the kind of answer",
                schema={"type": "string", "pattern": "^.+:(generateContent|streamGenerateContent|countTokens)$"},
                required=True,
            ),
            Parameter(
                name="alt",
                description="form of a stream: events, or one JSON array",
                schema={"type": "string", "enum": ["sse", "json"]},
            ),
            *OPTIONS,
        ),
        encode_error=gemini.encode_error,
    )


GROUP: Final = RouteGroup(
    name="completions",
    routes=(
        completion_route(
            "/v1/chat/completions",
            openai_chat.DIALECT,
            openai_chat.ChatRequest,
            dict[str, Any],
            "Answer in the format of OpenAI's Chat Completions",
        ),
        completion_route(
            "/v1/responses",
            openai_responses.DIALECT,
            openai_responses.ResponsesRequest,
            dict[str, Any],
            "Answer in the format of OpenAI's Responses",
        ),
        completion_route(
            "/v1/messages",
            anthropic.DIALECT,
            anthropic.MessagesRequest,
            dict[str, Any],
            "Answer in the format of Anthropic's Messages",
        ),
        HttpRoute(
            "POST",
            "/v1/messages/count_tokens",
            count_tokens,
            scope="completions",
            summary="Estimate the input tokens of a Messages request; nothing is sent",
            request=anthropic.MessagesRequest,
            response=anthropic.TokenCount,
            request_types=("application/json",),
            encode_error=anthropic.encode_error,
        ),
        *(gemini_route(version) for version in ("v1beta", "v1")),
        completion_route(
            "/v1/completions",
            hub_completions.DIALECT,
            hub_completions.HubRequest,
            hub_completions.HubCompletion,
            "Answer in the hub's own format, with the cost",
        ),
    ),
)
