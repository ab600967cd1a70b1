"""Constraints that a provider does not enforce move into descriptions, and are validated in the answer all the same."""

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
from llmhub.providers import anthropic, bedrock, google, openai
from llmhub.providers.registry import PROVIDERS
from llmhub.providers.schema_support import CONSTRAINT_KEYWORDS, SchemaSupport

ENDPOINT = Endpoint(base_url="http://localhost", api_key="k", project="p", region="us-east-1")
MODELS = {"bedrock": "us.anthropic.claude-haiku-4-5", "google": "gemini-2.5-flash", "vertex": "gemini-2.5-flash"}


class Reading(pydantic.BaseModel):
    """Reading of a gauge."""

    depth: int = pydantic.Field(ge=1, lt=12, description="In metres.")
    code: str = pydantic.Field(min_length=2, max_length=4, pattern="^[A-Z]+$")
    seen: list[float] = pydantic.Field(min_length=1, max_length=3)
    page: pydantic.AnyUrl | None = None


READING_SCHEMA = schema_of(Reading).unwrap()
VALID_ANSWER = {"depth": 3, "code": "AB", "seen": [0.5], "page": None}


def build_request(provider: str, **fields: Any) -> CompletionRequest:
    model = MODELS.get(provider, "claude-haiku-4-5" if "anthropic" in provider else "gpt-4o-mini")
    return CompletionRequest(model=model, messages=(Message("user", "hi"),), **fields)


def sent_schema(provider: str, schema: Schema) -> Any:
    """Return the schema in the body that is sent to a provider."""
    prepared = prepare(PROVIDERS[provider], ENDPOINT, build_request(provider, response_schema=schema), 0.0).unwrap()
    body = json.loads(prepared.body)
    found = re.search(rb'"(?:schema|responseJsonSchema)":', prepared.body)
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
    """Return every constraint in a schema with its value."""
    if isinstance(node, list):
        return set().union(*map(constraints, node)) if node else set()
    if not isinstance(node, dict):
        return set()
    inside = [value for key, value in node.items() if key not in {"properties", "$defs"}]
    inside += [subschema for key in ("properties", "$defs") for subschema in node.get(key, {}).values()]
    own = {(key, json.dumps(value)) for key, value in node.items() if key in CONSTRAINT_KEYWORDS}
    return own.union(*map(constraints, inside))


ENFORCED = {
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


@pytest.mark.parametrize("provider", ENFORCED)
def test_each_provider_is_sent_the_constraints_it_enforces(provider: str) -> None:
    sent = sent_schema(provider, READING_SCHEMA)
    assert {key for key, _ in constraints(sent)} == ENFORCED[provider]
    fields = sent["properties"]
    depth = {"anthropic": "{exclusiveMaximum: 12, minimum: 1}", "google": "{exclusiveMaximum: 12}"}
    if provider in depth:
        assert fields["depth"]["description"] == f"In metres. {depth[provider]}"
        assert "pattern: ^[A-Z]+$" in fields["code"]["description"]
    assert sent["description"] == "Reading of a gauge."
    assert sent["required"] == ["depth", "code", "seen", "page"]


@pytest.mark.parametrize(
    "provider", sorted(set(PROVIDERS) - set(ENFORCED) - {"deepseek", "groq", "databricks", "openrouter-anthropic"})
)
def test_other_providers_are_sent_the_schema_unchanged(provider: str) -> None:
    request = build_request(provider, response_schema=READING_SCHEMA)
    assert PROVIDERS[provider].relax_schema(request) is request


@pytest.mark.parametrize(
    "support",
    [
        anthropic.CLAUDE_SCHEMA_SUPPORT,
        bedrock.SCHEMA_SUPPORT,
        google.GEMINI_SCHEMA_SUPPORT,
        openai.SCHEMA_SUPPORT,
    ],
)
def test_schema_support_names_its_source_and_known_keywords(support: SchemaSupport) -> None:
    assert re.match(r"https://.*\(read \d{4}-\d\d-\d\d\)$", support.source, re.DOTALL)
    assert support.keywords | set(support.allowed_values) <= CONSTRAINT_KEYWORDS


def test_schema_that_is_not_strict_is_unchanged_where_only_strict_ones_are_limited() -> None:
    loose = Schema({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, strict=False)
    assert sent_schema("openai", loose)["uniqueItems"] is True
    assert "uniqueItems" not in sent_schema("openai", Schema(loose.schema))
    assert sent_schema("openai", Schema(loose.schema))["description"] == "{uniqueItems: true}"
    assert "uniqueItems" not in sent_schema("anthropic", loose)


def test_strict_tools_are_relaxed_and_others_are_not() -> None:
    bounded = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 3}}}
    tools = (Tool("a", "", bounded, strict=True), Tool("b", "", bounded))
    relaxed = PROVIDERS["anthropic"].relax_schema(build_request("anthropic", tools=tools)).tools
    assert relaxed[0].parameters["properties"]["n"] == {"type": "integer", "description": "{maximum: 3}"}
    assert relaxed[1] is tools[1]


def test_property_may_be_named_like_a_constraint() -> None:
    schema = {
        "type": "object",
        "properties": {"minimum": {"type": "integer"}, "pattern": {"enum": ["maximum"]}},
        "required": ["minimum", "pattern"],
        "additionalProperties": False,
    }
    assert sent_schema("anthropic", Schema(schema)) == schema


@pytest.mark.parametrize(
    ("invalid", "path"),
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
def test_moved_constraints_are_validated_in_the_answer(invalid: dict[str, Any], path: str) -> None:
    for target in (Reading, READING_SCHEMA, READING_SCHEMA.schema):
        assert is_successful(parse(json.dumps(VALID_ANSWER), target))
        failure = parse(json.dumps({**VALID_ANSWER, **invalid}), target).failure()
        assert failure.path == path
        assert "not a" in failure.message


# Schemas of the kinds that Anthropic's client rewrites itself

NUMBERS = st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])},
    optional={key: st.integers(0, 9) for key in ("minimum", "maximum", "exclusiveMinimum", "multipleOf")},
)

STRINGS = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={
        "minLength": st.integers(0, 5),
        "pattern": st.just("^a"),
        "format": st.sampled_from(["date", "uri", "odd"]),
        "description": st.just("A word."),
    },
)

SCHEMAS = st.recursive(
    NUMBERS | STRINGS | st.just({"enum": ["a", "b"]}),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner},
            optional={"minItems": st.integers(0, 3), "maxItems": st.integers(0, 3), "uniqueItems": st.booleans()},
        ),
        st.builds(lambda subschemas: {"anyOf": subschemas}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda subschemas: {
                "type": "object",
                "properties": subschemas,
                "required": list(subschemas),
                "additionalProperties": False,
            },
            st.dictionaries(st.sampled_from(["a", "minimum", "format"]), inner, max_size=2),
        ),
    ),
    max_leaves=6,
)


@given(SCHEMAS)
def test_constraints_equal_those_that_anthropics_client_keeps(schema: dict[str, Any]) -> None:
    """Anthropic's client finds nothing more to move, and keeps the same constraints of the original schema."""
    sent = sent_schema("anthropic", Schema(schema))
    assert transform_schema(sent) == sent
    assert constraints(sent) == constraints(transform_schema(schema))


@given(SCHEMAS, st.sampled_from(sorted(ENFORCED)))
def test_relaxing_is_idempotent(schema: dict[str, Any], provider: str) -> None:
    relax_schema = PROVIDERS[provider].relax_schema
    once = relax_schema(build_request(provider, response_schema=Schema(schema)))
    assert relax_schema(once) is once
