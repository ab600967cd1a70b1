"""Copies equal those of `dataclasses.replace`."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.result import Success

from llmhub.core.prepared import field_replacer
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, CompletionResponse, Message
from llmhub.engine.call import Answer, Call, Target
from llmhub.providers.registry import PROVIDERS

HERE, THERE = (Target(PROVIDERS["openai"], Endpoint(), name, f"openai/{name}") for name in ("m", "n"))
ASKED = CompletionRequest(model="m", messages=(Message("user", "hi"),))
CALL = Call(HERE, ASKED, print, stream=True, key=b"k", on_sent=print, sample=3)
ANSWER = Answer(Success(CompletionResponse()), 0.1, 0.2, 0.3, 0.4, 5, 0.6, cache_hit=True, dropped=("seed",))
PAIRS = (
    (ASKED, CompletionRequest(model="n", messages=(), max_tokens=9, seed=7, stop=("x",), extra={"a": 1})),
    (CALL, Call(THERE, ASKED, repr, requested_target=HERE, key=b"other")),
    (ANSWER, Answer(Success(CompletionResponse()), 9.0, attempts=2, target=THERE, key=b"k")),
)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: type(pair[0]).__name__)
@given(st.data())
def test_field_replacer_equals_replace(pair: tuple[Any, Any], data: st.DataObject) -> None:
    value, source = pair
    names = data.draw(st.lists(st.sampled_from([field.name for field in fields(value)]), min_size=1, unique=True))
    new = {name: getattr(source, name) for name in names}
    before = replace(value)
    assert field_replacer(type(value), *names)(value, *new.values()) == replace(value, **new)
    assert value == before


def test_with_target_replaces_what_depends_on_the_target() -> None:
    retargeted = CALL.with_target(THERE)
    request = replace(CALL.request, model="n")
    assert retargeted == replace(CALL, target=THERE, request=request, prepared=None, key=None, requested_target=HERE)
    assert retargeted.with_target(HERE).requested_target is HERE
    assert CALL.with_target(HERE) is CALL
    assert replace(CALL, requested_target=THERE).with_target(THERE).requested_target is THERE
    assert CALL.with_on_sent(repr) == replace(CALL, on_sent=repr)


def test_answer_is_attributed_to_a_target() -> None:
    assert ANSWER.attributed_to(THERE, b"x") == replace(ANSWER, target=THERE, key=b"x")
