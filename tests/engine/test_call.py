"""Changed copies of calls, answers and requests equal those of `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from returns.result import Success

from llmhub.core.prepared import with_model
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse, Message
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.spending import Budgets
from llmhub.providers.registry import PROVIDERS

FIRST, SECOND = (Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in ("m", "n"))
REQUEST = CompletionRequest(model="m", messages=(Message("user", "hi"),))
CALL = Call(FIRST, REQUEST, print, stream=True, key=b"k", budgets=Budgets(), on_sent=print, sample=3)
ANSWER = Answer(
    Success(CompletionResponse()), 0.1, 0.2, 0.3, 0.4, 5, 0.6, cache_hit=True, dropped=("seed",), target=FIRST, key=b"k"
)


def test_with_target_keeps_all_but_what_belongs_to_the_first_target() -> None:
    routed = CALL.with_target(SECOND)
    request = replace(REQUEST, model="n")
    assert routed == replace(CALL, target=SECOND, request=request, prepared=None, key=None, requested_target=FIRST)
    assert routed.with_target(FIRST).requested_target is FIRST
    assert CALL.with_target(FIRST) is CALL
    assert replace(CALL, requested_target=SECOND).with_target(SECOND).requested_target is SECOND


def test_with_key_and_with_on_sent_change_one_field() -> None:
    assert CALL.with_key(b"x") == replace(CALL, key=b"x")
    assert CALL.with_on_sent(repr) == replace(CALL, on_sent=repr)


def test_attributed_to_changes_target_and_key() -> None:
    assert ANSWER.attributed_to(SECOND, b"x") == replace(ANSWER, target=SECOND, key=b"x")


@pytest.mark.parametrize(
    "request_", [REQUEST, replace(REQUEST, max_tokens=9, seed=7, stop=("x",), extra={"a": 1}, temperature=0.5)]
)
def test_with_model_changes_the_model(request_: CompletionRequest) -> None:
    before = replace(request_)
    assert with_model(request_, "n") == replace(request_, model="n")
    assert request_ == before
