"""Constraints that a provider does not hold to go into descriptions, and are checked in the answer all the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pydantic
import pytest
from anthropic import transform_schema
from anthropic.types import OutputConfigParam
from google.genai import types
from hypothesis import given
from hypothesis import strategies as st
from openai.types.shared_params import ResponseFormatJSONSchema
from returns.pipeline import is_successful

from llmhub.core.json_schema import parse, schema_of
from llmhub.core.protocol import prepare
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, Message, Schema, Tool
from llmhub.providers.registry import PROVIDERS
from llmhub.providers.schema_support import CONSTRAINT_KEYWORDS, SCHEMA_SUPPORT, relax_schema

ENDPOINT = Endpoint(base_url="http://localhost", api_key="k", project="p", region="us-east-1")


MODELS = {"bedrock": "us.anthropic.claude-haiku-4-5", "google": "gemini-2.5-flash", "vertex": "gemini-2.5-flash"}


class Reading(pydantic.BaseModel):
    """What a gauge says."""

    depth: int = pydantic.Field(ge=1, lt=12, description="In metres.")
    code: str = pydantic.Field(min_length=2, max_length=4, pattern="^[A-Z]+$")
    seen: list[float] = pydantic.Field(min_length=1, max_length=3)
    page: pydantic.AnyUrl | None = None


WANTED = schema_of(Reading).unwrap()


GOOD = {"depth": 3, "code": "AB", "seen": [0.5], "page": None}


def asked(provider: str, **said: Any) -> CompletionRequest:
    model = MODELS.get(provider, "claude-haiku-4-5" if "anthropic" in provider else "gpt-4o-mini")
    return CompletionRequest(model=model, messages=(Message("user", "hi"),), **said)


def sent(provider: str, wanted: Schema) -> Any:
    """Give the schema that a provider is told."""
    made = prepare(PROVIDERS[provider], ENDPOINT, asked(provider, response_schema=wanted), 0.0).unwrap()
    body = json.loads(made.body)
    found = re.search(rb'"(?:schema|responseJsonSchema)":', made.body)
    assert found is not None
    match provider:
        case "anthropic" | "vertex-anthropic":
            OutputConfigParam(**body["output_config"])
            return body["output_config"]["format"]["schema"]
        case "google" | "vertex":
            types.GenerationConfig.model_validate(body["generationConfig"])
            return body["generationConfig"]["responseJsonSchema"]
        case "bedrock":
            return json.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
        case "openai-responses" | "azure-responses":
            return body["text"]["format"]["schema"]
        case _:
            pydantic.TypeAdapter(ResponseFormatJSONSchema).validate_python(body["response_format"])
            return body["response_format"]["json_schema"]["schema"]


def constraints(node: Any) -> set[tuple[str, str]]:
    """Give every constraint in a schema with its value."""
    if isinstance(node, list):
        return set().union(*map(constraints, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    inside = [value for key, value in node.items() if key not in {"properties", "$defs"}]
    inside += [one for key in ("properties", "$defs") for one in node.get(key, {}).values()]
    own = {(key, json.dumps(value)) for key, value in node.items() if key in CONSTRAINT_KEYWORDS}
    return own.union(*map(constraints, inside))


KEPT = {
    "anthropic": {"minItems", "format"},
    "vertex-anthropic": {"minItems", "format"},
    "bedrock": {"minItems", "format"},
    "google": {"minimum", "minItems", "maxItems", "format"},
    "vertex": {"minimum", "minItems", "maxItems", "format"},
    **dict.fromkeys(
        ("openai", "openai-responses", "azure", "azure-responses"),
        frozenset({"minimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "minItems", "maxItems"}),
    ),
}


@pytest.mark.parametrize("provider", KEPT)
def test_each_provider_is_told_what_it_holds_to(provider: str) -> None:
    told = sent(provider, WANTED)
    assert {key for key, _ in constraints(told)} == KEPT[provider]
    fields = told["properties"]
    depth = {"anthropic": "{exclusiveMaximum: 12, minimum: 1}", "google": "{exclusiveMaximum: 12}"}
    if provider in depth:
        assert fields["depth"]["description"] == f"In metres. {depth[provider]}"
        assert "pattern: ^[A-Z]+$" in fields["code"]["description"]
    assert told["description"] == "What a gauge says."
    assert told["required"] == ["depth", "code", "seen", "page"]


@pytest.mark.parametrize("provider", sorted(set(PROVIDERS) - set(KEPT) - {"deepseek", "groq", "databricks"}))
def test_a_provider_that_is_not_known_to_refuse_any_is_told_all(provider: str) -> None:
    request = asked(provider, response_schema=WANTED)
    assert PROVIDERS[provider].relax_schema(request) is request


def test_every_row_has_a_provider_and_a_source() -> None:
    named = [name for row in SCHEMA_SUPPORT for name in row.providers]
    assert len(set(named)) == len(named)
    assert set(named) <= set(PROVIDERS)
    for row in SCHEMA_SUPPORT:
        assert re.match(r"https://.*\(read \d{4}-\d\d-\d\d\)$", row.source, re.DOTALL)
        assert row.keywords | set(row.allowed_values) <= CONSTRAINT_KEYWORDS


def test_what_is_not_strict_is_left_to_a_provider_that_does_not_hold_it() -> None:
    loose = Schema({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, strict=False)
    assert sent("openai", loose)["uniqueItems"] is True
    assert "uniqueItems" not in sent("openai", Schema(loose.schema))
    assert sent("openai", Schema(loose.schema))["description"] == "{uniqueItems: true}"
    assert "uniqueItems" not in sent("anthropic", loose)


def test_strict_tools_are_eased_and_others_are_not() -> None:
    bounded = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}
    tools = (Tool("a", "", bounded, strict=True), Tool("b", "", bounded))
    eased = relax_schema("anthropic", asked("anthropic", tools=tools)).tools
    assert eased[0].parameters["properties"]["n"] == {"type": "integer", "description": "{maximum: 3}"}
    assert eased[1] is tools[1]


def test_a_field_may_be_called_as_a_constraint_is() -> None:
    schema = {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}, "pattern": {"enum": ["maximum"]}},
        "required": ["minimum", "pattern"],
        "additionalProperties": False,
    }
    assert sent("anthropic", Schema(schema)) == schema


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"depth": 0}, "$.depth"),
        ({"depth": 12}, "$.depth"),
        ({"code": "A"}, "$.code"),
        ({"code": "ABCDE"}, "$.code"),
        ({"code": "ab"}, "$.code"),
        ({"seen": []}, "$.seen"),
        ({"seen": [1, 2, 3, 4]}, "$.seen"),
    ],
)
def test_what_was_moved_is_checked_in_the_answer(wrong: dict[str, Any], path: str) -> None:
    for wanted in (Reading, WANTED, WANTED.schema):
        assert is_successful(parse(json.dumps(GOOD), wanted))
        failure = parse(json.dumps({**GOOD, **wrong}), wanted).failure()
        assert failure.path == path
        assert "not a" in failure.message


# Schemas of the kinds that the client of Anthropic rewrites itself.

BOUNDED = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={key: st.integers(0, 9) for key in ("minimum", "maximum", "exclusiveMinimum", "multipleOf")},
)


WORDS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": st.integers(0, 5),
        "pattern": st.just("^a"),
        "format": st.sampled_from(["date", "uri", "odd"]),
        "description": st.just("A word."),
    },
)


ANY = st.recursive(
    BOUNDED | WORDS | st.just({"enum": ["a", "b"]}),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"minItems": st.integers(0, 3), "maxItems": st.integers(0, 3), "uniqueItems": st.booleans()},
        ),
        st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda some: {"type": "object", "properties": some, "required": list(some), "additionalProperties": False},
            st.dictionaries(st.sampled_from(["a", "minimum", "format"]), inner, max_size=2),
        ),
    ),
    max_leaves=6,
)


@given(ANY)
def test_what_is_left_is_what_anthropics_client_leaves(schema: dict[str, Any]) -> None:
    """It finds nothing more to move, and keeps as many constraints of the whole as we do."""
    told = sent("anthropic", Schema(schema))
    assert transform_schema(told) == told
    assert constraints(told) == constraints(transform_schema(schema))


@given(ANY, st.sampled_from(sorted(KEPT)))
def test_easing_twice_changes_nothing(schema: dict[str, Any], provider: str) -> None:
    once = relax_schema(provider, asked(provider, response_schema=Schema(schema)))
    assert relax_schema(provider, once) is once
