"""Generated values match their schema, as verified by jsonschema."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llmhub.sim.schema_values import generate_match, generate_value
from llmhub.sim.tool_calls import choose_tool_calls, offer_tools
from llmhub.sim.types import SimMessage, SimRequest

NAMES = st.text("abcxyz_", min_size=1, max_size=5)
PATTERNS = (
    r"^\d{5}$",
    r"^[A-Z]{2,3}-\d+$",
    r"(red|green) [^a-z]",
    r"^\w+@\w+\.(com|org)$",
    r"^(?=a)a.?b*$",
    r"\Aa+?\s\S\Z",
)


def _bounded(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return bounds with at least one number between them."""
    low, wide = st.integers(-1000, 1000), st.integers(2, 50)
    inside = st.fixed_dictionaries({"type": st.just(kind)})
    both = st.builds(lambda a, w: {"type": kind, "minimum": a, "maximum": a + w}, low, wide)
    without = st.builds(lambda a, w: {"type": kind, "exclusiveMinimum": a, "exclusiveMaximum": a + w}, low, wide)
    value = st.builds(lambda word, a: {"type": kind, word: a}, st.sampled_from(["minimum", "exclusiveMaximum"]), low)
    steps = st.builds(
        lambda m, a: {"type": kind, "multipleOf": m, "minimum": a}, st.sampled_from([1, 3, 0.5, 250]), low
    )
    return inside | both | without | value | steps


TEXTS = st.one_of(
    st.just({"type": "string"}),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more}, *[st.integers(0, 60)] * 2
    ),
    st.builds(
        lambda form: {"type": "string", "format": form}, st.sampled_from(["date", "email", "ipv4", "uuid", "odd"])
    ),
    st.builds(lambda pattern: {"type": "string", "pattern": pattern}, st.sampled_from(PATTERNS)),
)
LEAVES = st.one_of(
    TEXTS,
    _bounded("integer"),
    _bounded("number"),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}, {}, True, {"minimum": 3}]),
    st.builds(lambda values: {"enum": values}, st.lists(st.none() | st.integers() | NAMES, min_size=1, max_size=4)),
    st.builds(lambda value: {"const": value}, st.none() | st.booleans() | NAMES),
    st.just({"$ref": "#/$defs/node"}),
)
NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
        "kids": {"type": "array", "items": {"$ref": "#/$defs/node"}},
        "sum": {"anyOf": [{"$ref": "#/$defs/sum"}, {"$ref": "#/$defs/one"}]},
    },
    "required": ["value", "left", "kids", "sum"],
    "additionalProperties": False,
}
DEFS = {
    "node": NODE,
    "sum": {"type": "object", "properties": {"of": {"$ref": "#/$defs/node"}}, "required": ["of"]},
    "one": {"type": "object", "properties": {"of": {"const": 1}}, "required": ["of"]},
}


def _wider(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(NAMES, inner, max_size=4)
    return st.one_of(
        st.builds(lambda some: {"type": "object", "properties": some, "required": list(some)[:2]}, fields),
        st.builds(lambda some: {"properties": some, "additionalProperties": False}, fields),
        st.builds(
            lambda value, least: {"type": "object", "additionalProperties": value, "minProperties": least},
            inner,
            st.integers(0, 5),
        ),
        st.builds(lambda value, least: {"type": "array", "items": value, "minItems": least}, inner, st.integers(0, 4)),
        st.builds(lambda value, most: {"type": "array", "items": value, "maxItems": most}, inner, st.integers(0, 2)),
        st.builds(
            lambda some: {"type": "array", "prefixItems": some, "items": False}, st.lists(inner, min_size=1, max_size=3)
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda value, more: {"allOf": [{"type": "object", "properties": value}, {"properties": more}]},
            fields,
            st.just({"same": True}),
        ),
        st.just({"type": "array", "items": {"enum": [1, 2, 3, 4]}, "uniqueItems": True, "minItems": 2}),
    )


SCHEMAS = st.recursive(LEAVES, _wider, max_leaves=8)


@given(SCHEMAS, st.binary(min_size=1, max_size=64), st.text(max_size=40))
def test_generated_values_match_their_schema(schema: Any, digest: bytes, prompt: str) -> None:
    root = {**schema, "$defs": DEFS} if isinstance(schema, dict) else schema
    value = generate_value(root, digest, prompt)
    Draft202012Validator(root, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)
    assert generate_value(root, digest, prompt) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)
KEYWORDS = (
    *("type", "properties", "required", "items", "enum", "const", "anyOf", "allOf", "$ref", "nullable", "format"),
    *("minimum", "maximum", "multipleOf", "minItems", "maxItems", "pattern", "minLength", "maxLength", "prefixItems"),
    *("additionalProperties", "minProperties", "maxProperties", "uniqueItems"),
)
ODD = st.dictionaries(st.sampled_from(KEYWORDS), JSON)


@given(ODD | JSON)
def test_any_schema_gets_a_value(schema: Any) -> None:
    """An invalid schema must not fail the server, or its error would be lost."""
    generate_value(schema, b"seed")


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "STRING", "nullable": False}, lambda value: isinstance(value, str)),
        (
            {"type": "ARRAY", "minItems": "2", "maxItems": "2", "items": {"type": "INTEGER"}},
            lambda value: len(value) == 2,
        ),
        ({"type": "NUMBER", "minimum": 3, "maximum": 3}, lambda value: value == 3),
        (
            {"type": "number", "minimum": 0.25, "maximum": 0.5, "exclusiveMinimum": True},
            lambda value: 0.25 < value <= 0.5,
        ),
        ({"type": "array", "items": {"type": "string"}}, lambda value: 1 <= len(value) <= 3),
        ({"type": "object"}, lambda value: 1 <= len(value) <= 3),
        ({"type": "object", "properties": {}}, lambda value: value == {}),
        (
            {"type": "integer", "description": "Metres.\n\n{minimum: 3, exclusiveMaximum: 5}"},
            lambda value: value in {3, 4},
        ),
        ({"type": "string", "description": "{minLength: 2, pattern: ^[A-Z]{2,3}$}"}, lambda value: value.isupper()),
        ({"$ref": "#"}, lambda value: isinstance(value, str)),
        ({"type": "string", "pattern": "("}, lambda value: isinstance(value, str)),
    ],
)
def test_other_notations_and_edge_cases(schema: Any, fits: Any) -> None:
    assert all(fits(generate_value(schema, bytes([index]))) for index in range(50))


def test_values_depend_on_digest_and_prompt() -> None:
    schema = {"type": "object", "properties": {"size": {"enum": ["S", "M", "L"]}, "note": {"type": "string"}}}
    values = [generate_value(schema, bytes([index]), "Harbour lighthouse [[sim:tool secret]]") for index in range(60)]
    assert {value["size"] for value in values} == {"S", "M", "L"}
    text = " ".join(value["note"] for value in values)
    assert "Harbour" in text
    assert "lighthouse" in text
    assert "secret" not in text


@given(st.sampled_from(PATTERNS), st.integers(0, 1 << 60))
def test_patterns_are_matched(pattern: str, drawn: int) -> None:
    text = generate_match(pattern, lambda purpose, below: (drawn + len(purpose)) % below)
    assert text is not None
    assert re.search(pattern, text)


def request(*turns: tuple[str, str], choice: str = "auto", parallel: bool = True) -> SimRequest:
    tools = offer_tools([("look", {}), ("find", {})], choice, parallel=parallel)
    return SimRequest(model="m", messages=tuple(SimMessage(*turn) for turn in turns), tools=tools)


@pytest.mark.parametrize(
    ("question", "names"),
    [
        (request(("user", "Go.")), []),
        (request(("user", "Go. [[sim:tool find]]")), ["find"]),
        (request(("user", "[[sim:tool look]] [[sim:tool find]]"), ("system", "Be brief.")), ["look", "find"]),
        (request(("user", "[[sim:tool look]] [[sim:tool find]]"), parallel=False), ["look"]),
        (request(("user", "[[sim:tool other]]")), []),
        (request(("user", "[[sim:tool find]]"), choice="none"), []),
        (request(("user", "[[sim:tool find]]"), choice="look"), ["look"]),
        (request(("user", "[[sim:tool find]]"), choice="required"), ["find"]),
        (request(("user", "Go."), choice="nobody"), []),
        (request(("user", "[[sim:tool find]]"), ("assistant", ""), ("tool", "found")), []),
    ],
)
def test_which_tools_are_called(question: SimRequest, names: list[str]) -> None:
    assert [call.name for call in choose_tool_calls(question, b"seed")] == names


def test_a_required_tool_is_called() -> None:
    question = request(("user", "Go."), choice="required")
    assert {choose_tool_calls(question, bytes([index]))[0].name for index in range(9)} == {"look", "find"}
