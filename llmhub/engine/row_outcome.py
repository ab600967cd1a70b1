"""Answers in their two forms, as a call gave them or as a store keeps them, and those that no call gave."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias

from returns.pipeline import is_successful
from returns.result import Failure, Success

from llmhub.core.errors import BudgetExceeded, Cancelled, Disconnected
from llmhub.core.serialization import StoredResponse, from_stored_response, to_stored_response
from llmhub.engine.call import Answer, Target

RowOutcome: TypeAlias = Answer | StoredResponse
"""What answered a row: a call of this run, or what a store had kept."""


CALLER_SPECIFIC_ERRORS: Final = (Cancelled, BudgetExceeded)
"""Failures that concern only who met them: nobody else's question has failed by them."""


def to_stored(answer: Answer) -> StoredResponse:
    """Bring a successful answer to the form in which stores and tables hold it."""
    return to_stored_response(
        answer.outcome.unwrap(),
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        started_at=answer.started_at,
        dropped=answer.dropped,
    )


def from_stored(kept: StoredResponse, target: Target | None = None, key: bytes | None = None) -> Answer:
    """Give what a store had kept as the answer it was."""
    return Answer(
        outcome=Success(from_stored_response(kept)),
        latency_s=kept.latency_s,
        ttft_s=kept.ttft_s,
        started_at=kept.started_at,
        cache_hit=True,
        dropped=kept.dropped,
        target=target,
        key=key,
    )


def as_answer(settled: RowOutcome) -> Answer:
    """Give what a store had kept as the answer it was."""
    if isinstance(settled, Answer):
        return settled
    return from_stored(settled)


def for_duplicate(answer: RowOutcome) -> RowOutcome:
    """Give an equal row the answer: it costs nothing more."""
    if isinstance(answer, StoredResponse):
        return answer
    good = is_successful(answer.outcome)
    if good and answer.target is None:
        return to_stored(answer)
    return replace(answer, cache_hit=good, attempts=0, rate_wait_s=None, total_s=None, billed_failures=())


def is_failure(answer: RowOutcome) -> bool:
    """Say whether an answer is a failure."""
    return isinstance(answer, Answer) and not is_successful(answer.outcome)


def is_shareable(answer: RowOutcome) -> bool:
    """Say whether an answer holds for whoever asks the same at the same time."""
    return isinstance(answer, StoredResponse) or not (
        is_failure(answer) and isinstance(answer.outcome.failure(), CALLER_SPECIFIC_ERRORS)
    )


def cancelled_outcome(sent: int = 0, *, was_in_flight: bool = False) -> Answer:
    """Answer a row whose run was stopped after so many requests for it."""
    if was_in_flight:
        said, sent = "stopped while it was in flight; the provider may have charged it", max(sent, 1)
    elif sent:
        said = f"stopped before it was sent again; {sent} {'try' if sent == 1 else 'tries'} had failed"
    else:
        said = "stopped before it was sent"
    return Answer(outcome=Failure(Cancelled(message=said)), attempts=sent)


def ambiguous_outcome() -> Answer:
    """Answer a row that is not sent again, since nobody knows what came of it."""
    said = (
        "it was sent by a run that ended before the answer came, and may have been charged; "
        "Hub(ambiguous='resend') sends it again"
    )
    return Answer(outcome=Failure(Disconnected(message=said, should_retry=False)))
