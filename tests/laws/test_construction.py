"""Laws of fast constructors: their objects are those of the class's own constructor."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from llmhub.core.construction import fast_constructor
from llmhub.core.provider import HttpReply, HttpRequest, RateLimitInfo
from llmhub.core.types import CompletionRequest, CompletionResponse, Message, Text, Usage
from llmhub.engine.call import Answer, Call

KINDS = (Answer, Call, CompletionRequest, CompletionResponse, HttpReply, HttpRequest, Message, RateLimitInfo, Usage)
VALUES: dict[str, Any] = {"model": "m", "messages": (Message("user", "a"),), "parts": (Text("a"),), "stop": ("s",)}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_objects_equal_those_of_the_own_constructor(kind: type[Any]) -> None:
    names = [field.name for field in fields(kind)]
    values = {name: VALUES.get(name, number) for number, name in enumerate(names, start=1)}
    expected = kind(**values)
    for made in (fast_constructor(kind)(*values.values()), fast_constructor(kind)(**values)):
        assert type(made) is kind
        assert [getattr(made, name) for name in names] == [getattr(expected, name) for name in names]
        assert made == expected
        assert hash(made) == hash(expected)
        with pytest.raises(FrozenInstanceError):
            setattr(made, names[0], None)


def test_defaults_are_those_of_the_class() -> None:
    reply = fast_constructor(HttpReply)
    assert reply(200) == HttpReply(200)
    assert reply(200).headers is not reply(200).headers
    assert fast_constructor(Usage)() == Usage()
    with pytest.raises(TypeError):
        reply()


def test_objects_can_be_pickled() -> None:
    usage = fast_constructor(Usage)(1, 2)
    assert pickle.loads(pickle.dumps(usage)) == Usage(input_tokens=1, output_tokens=2)
