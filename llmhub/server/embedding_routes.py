"""The route of embeddings: distinct texts are sent once, and vectors are cached one by one."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web
from returns.pipeline import is_successful

from llmhub.core.cache_key import embedding_keyer, scoped_key
from llmhub.core.embedding import EmbeddingResponse
from llmhub.core.errors import Cancelled, ServerError, Unsupported, invalid, to_exception
from llmhub.core.pricing import compute_cost
from llmhub.core.provider import PackLimits
from llmhub.core.token_estimate import estimate_tokens
from llmhub.core.types import Payload
from llmhub.engine.call import Answer, Target
from llmhub.engine.event_loop import StopSignal
from llmhub.engine.row_outcome import as_answer
from llmhub.engine.scheduling import BULK_LANE
from llmhub.server.app import read_json, write_json
from llmhub.server.completion_routes import CACHE_HEADER, CACHE_HIT_HEADER, COST_HEADER, OPTIONS
from llmhub.server.context import RequestContext
from llmhub.server.dialects import openai_embeddings
from llmhub.server.dialects.openai_error_body import encode_openai_error
from llmhub.server.routes import HttpRoute, RouteGroup
from llmhub.server.service import Service

if TYPE_CHECKING:
    from llmhub.engine.embedding import EmbedSpec

WIRE_PREFIX: Final = "openai"
CONCURRENCY: Final = 8
"""Requests to the provider at once, for one request of a client."""


async def embed(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Answer a request for embeddings in OpenAI's format, by the model of any provider that has them."""
    payload = await read_json(service, request)
    reply = await answer_embeddings(service, context, payload, request.headers.get(CACHE_HEADER))
    cost = reply.cost_usd
    headers = {
        CACHE_HIT_HEADER: "true" if reply.cache_hit else "false",
        **({} if cost is None else {COST_HEADER: f"{cost:f}"}),
    }
    return write_json(request, context, reply.body, headers)


class EmbeddingsReply(NamedTuple):
    """Vectors in the format of the API, their cost, and whether the cache had all of them."""

    body: Payload
    cost_usd: Decimal | None
    cache_hit: bool


async def answer_embeddings(
    service: Service, context: RequestContext, payload: Payload, cache_mode: str | None = None
) -> EmbeddingsReply:
    """Embed the texts of a payload.

    Raises
    ------
    ConnectorError
        The payload is wrong, the caller may not use the model, or a text has no vector.
    """
    from llmhub.engine.embedding import EmbedSpec  # noqa: PLC0415 - a service without embeddings is smaller

    model = payload.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("$.model", "is missing; pass 'provider/model', such as 'openai/text-embedding-3-small'")
    target = service.target(model, context)
    limits = _limits(service, target)
    native = target.provider.wire.name.startswith(WIRE_PREFIX)
    parsed = openai_embeddings.parse(payload, native)
    redactor = service.hub.redactor
    texts = parsed.texts if redactor is None else list(map(redactor.redact, parsed.texts))
    distinct = list(dict.fromkeys(texts))
    keys = embedding_keyer(target.provider, target.endpoint, target.model, parsed.options)(distinct)
    scope = context.caller.cache_scope
    spec = EmbedSpec(
        target=target,
        texts=distinct,
        keys=[scoped_key(key, scope) for key in keys] if scope else keys,
        options=parsed.options,
        limits=limits,
        concurrency=CONCURRENCY,
        budgets=service.budgets_of(context.caller),
        run_id=random.randbytes(16),  # noqa: S311 - an id, no secret
        rows=len(distinct),
    )
    answers = dict(zip(distinct, await _answers(service, context, spec, cache_mode), strict=True))
    responses = [_response(answers[text]) for text in texts]
    tokens = [_response(answer).usage.input_tokens for answer in answers.values()]
    known = [count for count in tokens if count is not None]
    body = openai_embeddings.encode(
        responses, model, parsed.encoding, sum(known) if len(known) == len(tokens) else None
    )
    cost = _cost(service, target, list(answers.values()))
    return EmbeddingsReply(body, cost, all(answer.cache_hit for answer in answers.values()))


def _limits(service: Service, target: Target) -> PackLimits:
    embeddings = target.provider.embeddings
    if embeddings is None or len(service.hub.targets(target.name)) > 1:
        message = f"{target.name!r} has no embeddings; name one model of a provider that has"
        raise to_exception(Unsupported(path="model", message=message))
    return embeddings.limits(target.model)


async def _answers(service: Service, context: RequestContext, spec: EmbedSpec, cache_mode: str | None) -> list[Answer]:
    """Return an answer for each distinct text.

    Raises
    ------
    ConnectorError
        A text has no vector, or the queue is full.
    """
    limits = context.caller.limits
    tokens = sum(map(estimate_tokens, spec.texts)) if limits is not None and limits.counts_tokens else 0
    refusal = await service.admit_tokens(tokens, context)
    if refusal is not None:
        raise to_exception(refusal)
    if context.lane == "bulk":
        BULK_LANE.set(True)
    refusal = await service.lanes.acquire(context)
    if refusal is not None:
        raise to_exception(refusal)
    try:
        result = await service.hub.runtime.embed(spec, StopSignal(), cache_mode=cache_mode)
    finally:
        service.lanes.release(context)
    outcomes = [outcome for outcome in result.run.outcomes if outcome is not None]
    if len(outcomes) != len(spec.texts):
        raise to_exception(Cancelled(message="the service is stopping", retry_after_s=1.0))
    answers = [as_answer(outcome) for outcome in outcomes]
    failed = next((answer for answer in answers if not is_successful(answer.outcome)), None)
    if failed is not None:
        raise to_exception(failed.outcome.failure())
    return answers


def _response(answer: Answer) -> EmbeddingResponse:
    response = answer.outcome.unwrap()
    if not isinstance(response, EmbeddingResponse):
        raise to_exception(ServerError(message="the answer has no vector"))
    return response


def _cost(service: Service, target: Target, answers: list[Answer]) -> Decimal | None:
    """Return what the vectors were billed; ``None`` where a price is unknown."""
    total = Decimal(0)
    for answer in answers:
        if not answer.cache_hit:
            response = _response(answer)
            cost = compute_cost(response.usage, service.prices.lookup(target, response.served_model))
            if cost is None:
                return None
            total += cost
    return total


GROUP: Final = RouteGroup(
    name="embeddings",
    routes=(
        HttpRoute(
            "POST",
            "/v1/embeddings",
            embed,
            scope="embeddings",
            summary="Embed texts in the format of OpenAI's Embeddings",
            request=openai_embeddings.EmbeddingsRequest,
            response=dict[str, Any],
            request_types=("application/json",),
            parameters=OPTIONS,
            encode_error=encode_openai_error,
        ),
    ),
)
