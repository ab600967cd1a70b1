"""Schemas of types, and responses parsed to values of those types."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from returns.pipeline import is_successful

from llmhub.core.errors import InvalidRequest, Malformed
from llmhub.core.json_schema import extract_json, parse, response_parser, schema_of
from llmhub.core.types import CompletionResponse, Refusal, Schema, Text


@dataclass
class Address:
    """A postal address."""

    street: str
    number: int | None = None


@dataclass
class Person:
    name: str
    home: Address
    kind: Literal["friend", "foe"] = "friend"
    tags: list[str] = field(default_factory=list)


@dataclass
class Tree:
    value: int
    kids: list[Tree] = field(default_factory=list)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(TypedDict):
    x: float
    y: float


class Pair(NamedTuple):
    left: str
    right: str


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    home: Address = pydantic.Field(description="Where its basket is.")


class Pet(pydantic.BaseModel):
    """A pet."""

    animal: Cat | Dog = pydantic.Field(discriminator="kind")
    age: int = pydantic.Field(ge=0)


@pydantic.dataclasses.dataclass
class Checked:
    share: float = pydantic.Field(le=1)


TYPES: list[Any] = [Person, Tree, Color, Point, Pair, Pet, Checked, list[Pet], list[int], Literal["a", "b"], int | None]
WALKED = ("properties", "$defs")


def nodes(schema: Any) -> list[Mapping[str, Any]]:
    """Yield every schema within a schema."""
    if isinstance(schema, list):
        return [node for item in schema for node in nodes(item)]
    if not isinstance(schema, Mapping):
        return []
    inner = [nodes(list(value.values()) if key in WALKED else value) for key, value in schema.items()]
    return [schema, *(node for some in inner for node in some)]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_schemas_of_types_are_strict(type_: Any) -> None:
    schema = schema_of(type_).unwrap()
    assert schema.strict
    assert schema.schema["type"] == "object"
    for node in nodes(schema.schema):
        assert not {"default", "discriminator", "oneOf"} & node.keys()
        assert "$ref" not in node or node.keys() == {"$ref"}
        if "properties" in node:
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
    assert json.loads(json.dumps(schema.schema)) == schema.schema


ANSWERS: list[tuple[Any, str, Any]] = [
    (
        Person,
        '{"name":"Ada","home":{"street":"S","number":null},"kind":"foe","tags":["x"]}',
        Person("Ada", Address("S"), "foe", ["x"]),
    ),
    (Tree, '{"value":1,"kids":[{"value":2,"kids":[]}]}', Tree(1, [Tree(2)])),
    (Color, '{"value":"red"}', Color.RED),
    (Point, '{"x":1,"y":2.5}', {"x": 1.0, "y": 2.5}),
    (Pet, '{"animal":{"kind":"cat","lives":3},"age":1}', Pet(animal=Cat(kind="cat", lives=3), age=1)),
    (list[Pet], '{"value":[{"animal":{"kind":"cat"},"age":1}]}', [Pet(animal=Cat(kind="cat"), age=1)]),
    (Checked, '{"share":0.5}', Checked(share=0.5)),
    (list[int], '{"value":[1,2]}', [1, 2]),
    (list[int], "[1, 2]", [1, 2]),
    (Literal["a", "b"], '```json\n{"value": "b"}\n```', "b"),
    (int | None, '{"value":null}', None),
    ({"type": "object"}, '{"value":1}', {"value": 1}),
    (Schema({"type": "object"}), '{"a":[1]}', {"a": [1]}),
]


@pytest.mark.parametrize(("type_", "text", "value"), ANSWERS, ids=str)
def test_responses_are_parsed_to_their_type(type_: Any, text: str, value: Any) -> None:
    parsed = parse(text, type_).unwrap()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("type_", "text", "path"),
    [
        (Person, '{"name":"Ada","home":{"street":1}}', "$.home.street"),
        (Tree, '{"value":1,"kids":[{"value":"2"}]}', "$.kids[0].value"),
        (Pet, '{"animal":{"kind":"cat"},"age":-1}', "$.age"),
        (list[Pet], '{"value":[{"animal":{"kind":"cow"},"age":1}]}', "$[0].animal"),
        (Checked, '{"share":2}', "$.share"),
        (Color, '{"value":"green"}', "$"),
        (Person, "I cannot say.", "$"),
        (Person, "\ud800", "$"),
    ],
)
def test_mismatch_has_a_path(type_: Any, text: str, path: str) -> None:
    error = parse(text, type_).failure()
    assert isinstance(error, Malformed)
    assert error.path == path
    assert schema_of(type_).unwrap().name in error.message


@pytest.mark.parametrize("type_", [object, 3, "Person", {}, {1: 2}, None, Address("S"), Cat(kind="cat"), dict.keys])
def test_anything_but_a_type_or_schema_is_rejected(type_: Any) -> None:
    error = schema_of(type_).failure()
    assert isinstance(error, InvalidRequest)
    assert error.path == "$.response_schema"
    assert "pydantic model or a dataclass" in error.message or "JSON schema" in error.message
    assert not is_successful(response_parser(type_))


def test_schemas_keep_their_keywords() -> None:
    mine: dict[str, Any] = {
        "title": "My answer!",
        "type": "object",
        "properties": {"properties": {"type": "object", "properties": {"a": {"default": {"properties": {}}}}}},
        "required": ["properties"],
    }
    schema = schema_of(mine).unwrap()
    assert schema.name == "My_answer"
    assert not schema.strict  # one of its fields is optional, which no provider enforces
    inner = mine["properties"]["properties"]
    assert schema.schema == {
        **mine,
        "properties": {"properties": {**inner, "additionalProperties": False}},
        "additionalProperties": False,
    }
    assert "additionalProperties" not in mine
    assert schema_of(Schema(mine)).unwrap() == Schema(mine)


def test_keywords_beside_a_reference_are_kept() -> None:
    dog = schema_of(Dog).unwrap().schema
    assert dog["properties"]["home"]["description"] == "Where its basket is."  # type: ignore[index, call-overload]
    assert dog["properties"]["home"]["properties"]["street"] == {"title": "Street", "type": "string"}  # type: ignore[index, call-overload]


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (CompletionResponse(parts=(Text('{"name":'),), finish_reason="length"), "max_tokens"),
        (CompletionResponse(parts=(Refusal("No."),), finish_reason="refusal"), "refused"),
        (CompletionResponse(parts=(), finish_reason="content_filter"), "filtered"),
    ],
)
def test_mismatch_names_the_cause(response: CompletionResponse, why: str) -> None:
    assert why in parse(response, Person).failure().message


def test_pydantic_is_not_imported() -> None:
    code = (
        "import sys, dataclasses, llmhub\n"
        "@dataclasses.dataclass\nclass A:\n    a: int\n"
        "assert llmhub.parse('{\"a\": 1}', A) == A(1)\n"
        "assert llmhub.schema_of({'type': 'object'})\n"
        "assert 'pydantic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_extract_json(value: Any) -> None:
    compact = msgspec.json.encode(value).decode()
    assert extract_json(compact) == compact
    assert extract_json(f"```json\n{json.dumps(value, indent=2)}\n```") == extract_json(json.dumps(value))
    assert extract_json(json.dumps(value)) is not None


@given(st.text())
def test_parsing_never_raises(text: str) -> None:
    for type_ in (Person, Pet, list[int], {"type": "object"}):
        parsed = parse(text, type_)
        assert is_successful(parsed) or isinstance(parsed.failure(), Malformed)
    assert extract_json(text) is None or json.loads(extract_json(text) or "") == json.loads(text)


schemas = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "integer"}, {"enum": ["a"]}, True]),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "properties", "type", "$defs"]), inner, max_size=3).map(
            lambda fields: {"type": "object", "properties": fields}
        ),
        inner.map(lambda node: {"type": "array", "items": node}),
        st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some}),
    ),
    max_leaves=6,
)


@given(schemas.filter(lambda node: isinstance(node, dict)))
def test_schema_of_is_idempotent(schema: Any) -> None:
    once = schema_of(schema).unwrap()
    again = schema_of(once.schema).unwrap()
    assert (again.schema, again.strict) == (once.schema, once.strict)
