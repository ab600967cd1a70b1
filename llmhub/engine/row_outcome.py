"""The outcome of a row: the answer of a call, or a response as a store keeps it.

Responses read from a store stay in their stored form (`StoredResponse`) until a table is built: converting each one
would cost more than reading it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

from returns.result import Failure, Result, Success

from llmhub.core.embedding import EmbeddingResponse
from llmhub.core.errors import BudgetExceeded, Cancelled, Disconnected, LLMError
from llmhub.core.serialization import StoredResponse, from_stored_response, pack_response, to_stored_response, unpack
from llmhub.core.vector_serialization import StoredVector, is_vector, pack_vector, unpack_vector
from llmhub.engine.call import Answer, Target

RowOutcome: TypeAlias = Answer | StoredResponse
PENDING_CODE: Final = "batched"
"""Code of the `Cancelled` outcome of a row that is still in a batch at its provider."""
CALLER_SPECIFIC_ERRORS: Final = (Cancelled, BudgetExceeded)
"""Failures that belong to one caller: equal requests of other callers have not failed."""


def to_stored(answer: Answer) -> StoredResponse:
    """Convert a successful answer to the form kept in stores and tables."""
    return to_stored_response(
        answer.outcome.unwrap(),
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        started_at=answer.started_at,
        dropped=answer.dropped,
    )


def from_stored(stored: StoredResponse, target: Target | None = None, key: bytes | None = None) -> Answer:
    """Return a stored response as an answer that is a cache hit.

    ``target`` and ``key`` are set where another candidate than the requested one produced the response.
    """
    return Answer(
        outcome=Success(from_stored_response(stored)),
        latency_s=stored.latency_s,
        ttft_s=stored.ttft_s,
        started_at=stored.started_at,
        cache_hit=True,
        dropped=stored.dropped,
        target=target,
        key=key,
    )


def unpack_outcome(value: bytes, key: bytes) -> Result[RowOutcome, LLMError]:
    """Decode a value of the store: a response, or the vector of a text."""
    if not is_vector(value):
        return unpack(value, key)
    return unpack_vector(value, key).map(from_stored_vector)


def from_stored_vector(stored: StoredVector) -> Answer:
    """Return a stored vector as an answer that is a cache hit."""
    return Answer(Success(stored.response), latency_s=stored.latency_s, started_at=stored.started_at, cache_hit=True)


def pack_outcome(answer: Answer, key: bytes) -> bytes:
    """Encode a successful answer to the value for ``key``: a response, or the vector of one text."""
    response = answer.outcome.unwrap()
    if isinstance(response, EmbeddingResponse):
        return pack_vector(response, key, latency_s=answer.latency_s or 0.0, started_at=answer.started_at)
    return pack_response(
        response,
        key,
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        started_at=answer.started_at,
        dropped=answer.dropped,
    )


def as_answer(outcome: RowOutcome) -> Answer:
    """Return the outcome as an `Answer`, converting a stored response."""
    return outcome if isinstance(outcome, Answer) else from_stored(outcome)


def for_duplicate(outcome: RowOutcome) -> RowOutcome:
    """Return the outcome for another row with an equal request: a cache hit without attempts or cost."""
    if isinstance(outcome, StoredResponse):
        return outcome
    success = isinstance(outcome.outcome, Success)
    if success and outcome.target is None and not isinstance(outcome.outcome.unwrap(), EmbeddingResponse):
        return to_stored(outcome)
    return replace(
        outcome,
        cache_hit=success,
        attempts=0,
        rate_wait_s=None,
        total_s=None,
        billed_failures=(),
        uncertain_requests=0,
    )


def is_failure(outcome: RowOutcome) -> bool:
    """Return whether the outcome is a failure."""
    return isinstance(outcome, Answer) and not isinstance(outcome.outcome, Success)


def is_shareable(outcome: RowOutcome) -> bool:
    """Return whether the outcome also answers equal requests of other callers."""
    return isinstance(outcome, StoredResponse) or not (
        is_failure(outcome) and isinstance(outcome.outcome.failure(), CALLER_SPECIFIC_ERRORS)
    )


def cancelled_outcome(
    requests_sent: int = 0,
    *,
    was_in_flight: bool = False,
    last_error: LLMError | None = None,
    has_response: bool = False,
) -> Answer:
    """Return the outcome of a row whose run was stopped after ``requests_sent`` requests, the last with an error.

    Without requests, ``last_error`` says why none was sent. ``has_response`` is set for one that was stopped within a
    middleware, after a response.
    """
    if has_response:
        message = "cancelled while a middleware handled the response"
    elif was_in_flight:
        message = "cancelled while the request was in flight; the provider may have charged it"
        requests_sent = max(requests_sent, 1)
    elif requests_sent:
        attempts = "1 attempt" if requests_sent == 1 else f"{requests_sent} attempts"
        message = f"cancelled before the request was retried; {attempts} had failed"
        if last_error is not None:
            message += f": {last_error}"
    else:
        message = "cancelled before the request was sent"
        if last_error is not None:
            message += f"; {last_error}"
    return Answer(outcome=Failure(Cancelled(message=message)), attempts=requests_sent)


def aborted_outcome(error: BaseException, requests_sent: int = 0) -> Answer:
    """Return the outcome of a row without an answer in a run that an exception ended."""
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    charged = "; the provider may have charged this request" if requests_sent else ""
    return Answer(outcome=Failure(Cancelled(message=f"the run was ended by {cause}{charged}")), attempts=requests_sent)


def ambiguous_outcome() -> Answer:
    """Return the outcome of a row whose earlier request has an unknown result and is not sent again."""
    message = (
        "an earlier run sent this request and ended before its answer arrived; it may have been charged; "
        "Hub(ambiguous='resend') sends it again"
    )
    return Answer(outcome=Failure(Disconnected(message=message, should_retry=False)))
