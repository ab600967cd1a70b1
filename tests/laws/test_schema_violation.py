"""Schema violations are found where the jsonschema library finds them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llmhub.core.json_schema import SchemaViolation, schema_violation

VALUES = st.one_of(
    st.integers(-20, 20),
    st.integers(-40, 40).map(lambda number: number / 4),
    st.text("ab", max_size=6),
    st.lists(st.integers(0, 3), max_size=5),
    st.dictionaries(st.sampled_from("abc"), st.integers(-3, 3), max_size=3),
    st.none(),
    st.booleans(),
)
SIZES = st.integers(0, 5)
BOUNDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), st.integers(-10, 10)),
        "multipleOf": st.sampled_from([1, 2, 3, 0.5, 0.25]),
        **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), SIZES),
        "pattern": st.sampled_from(["^a", "b$", "ab", "^(ab)*$"]),
        "uniqueItems": st.booleans(),
        "type": st.sampled_from(["integer", "number", "string", "array", "object", ["null", "boolean"]]),
    },
)


@given(VALUES, BOUNDS)
def test_violations_agree_with_jsonschema(value: Any, schema: dict[str, Any]) -> None:
    nested = {"properties": {"a": {"items": schema}}}
    for instance, root in ((value, schema), ({"a": [value]}, nested)):
        violation = schema_violation(instance, root, root)
        assert (violation is None) is Draft202012Validator(root).is_valid(instance), violation


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (0.3, {"multipleOf": 0.1}, None),
        (12, {"exclusiveMaximum": 12}, "12 is not below 12"),
        ("abc", {"pattern": "^[0-9]+$"}, "'abc' does not match ^[0-9]+$"),
        ("abc", {"pattern": "("}, None),
        (5, {"minimum": "6", "exclusiveMinimum": True, "multipleOf": 0}, None),
        ([1, 1], {"uniqueItems": True}, "[1, 1] has equal items, but uniqueItems is True"),
    ],
)
def test_edge_cases(value: Any, schema: dict[str, Any], message: str | None) -> None:
    expected = None if message is None else SchemaViolation("$", message)
    assert schema_violation(value, schema, schema) == expected
