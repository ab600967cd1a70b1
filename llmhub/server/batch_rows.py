"""One line of a batch: parsed, sent and encoded as the route of its endpoint would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.core.errors import ConnectorError, LLMError, Unsupported, to_exception
from llmhub.core.types import Payload
from llmhub.engine.call import Answer
from llmhub.server.batch_storage import BatchOwner
from llmhub.server.completion_routes import ServedCompletion, parse_payload
from llmhub.server.context import RequestContext
from llmhub.server.dialects import openai_chat, openai_responses
from llmhub.server.dialects.dialect import Dialect
from llmhub.server.dialects.openai_batches import InputLine
from llmhub.server.embedding_routes import answer_embeddings
from llmhub.server.service import Service

DIALECTS: Final[Mapping[str, Dialect]] = {
    "/v1/chat/completions": openai_chat.DIALECT,
    "/v1/responses": openai_responses.DIALECT,
}
"""Dialects of the endpoints of completions."""


class RowReply(NamedTuple):
    """Body of an answer, its cost, whether the cache answered, and the model."""

    body: Payload
    cost_usd: Decimal | None
    cache_hit: bool
    model: str


async def answer_row(
    service: Service, context: RequestContext, line: InputLine, owner: BatchOwner
) -> Result[RowReply, LLMError]:
    """Answer one line through the service."""
    try:
        dialect = DIALECTS.get(line.url)
        if dialect is None:
            embedded = await answer_embeddings(service, context, line.body, owner.cache_mode)
            model = service.target(str(line.body.get("model")), context).name
            return Success(RowReply(embedded.body, embedded.cost_usd, embedded.cache_hit, model))
        completion = parse_completion(service, context, dialect, line, owner)
        return encode_answer(completion, await completion.send())
    except ConnectorError as error:
        return Failure(error.error)


def parse_completion(
    service: Service, context: RequestContext, dialect: Dialect, line: InputLine, owner: BatchOwner
) -> ServedCompletion:
    """Parse a line for its target.

    Raises
    ------
    ConnectorError
        It cannot be expressed, asks for a stream, or names a model that the caller may not use.
    """
    completion = parse_payload(service, context, dialect, line.body)
    if completion.parsed.stream:
        raise to_exception(Unsupported(path="$.stream", message="a line of a batch cannot be streamed; leave it out"))
    parsed = completion.parsed
    if owner.unsupported == "drop":
        unsupported: Any = owner.unsupported
        parsed = replace(parsed, request=replace(parsed.request, unsupported=unsupported))
    return replace(completion, parsed=parsed, cache_mode=owner.cache_mode)


def encode_answer(completion: ServedCompletion, answer: Answer) -> Result[RowReply, LLMError]:
    """Return an answer in the format of its endpoint."""
    if not is_successful(answer.outcome):
        return Failure(answer.outcome.failure())
    info = completion.info(answer)
    body = completion.dialect.encode(answer.outcome.unwrap(), info)
    return Success(RowReply(body, info.cost_usd, info.cache_hit, completion.target.name))
