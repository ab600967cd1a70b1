"""Keywords of JSON Schema that a provider enforces; constraints it does not know move into the field's description.

A provider rejects a schema with a constraint it does not know, or ignores the constraint. In the description the model
reads it, and `llmhub.parse` and the tables validate it in the answer, as they do for every provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from llmhub.core.json_schema import map_subschemas
from llmhub.core.types import CompletionRequest, Schema, Tool

NUMBER_KEYWORDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
STRING_KEYWORDS: Final = frozenset({"minLength", "maxLength", "pattern", "format"})
ARRAY_KEYWORDS: Final = frozenset({"minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains"})
OBJECT_KEYWORDS: Final = frozenset(
    {"minProperties", "maxProperties", "patternProperties", "propertyNames", "dependentRequired"}
)
CONSTRAINT_KEYWORDS: Final = NUMBER_KEYWORDS | STRING_KEYWORDS | ARRAY_KEYWORDS | OBJECT_KEYWORDS
"""Keywords that narrow a schema without changing the structure of the answer."""

DATE_FORMATS: Final = frozenset({"date-time", "time", "date", "duration"})
NETWORK_FORMATS: Final = frozenset({"email", "hostname", "ipv4", "ipv6", "uuid"})


@dataclass(frozen=True, slots=True)
class SchemaSupport:
    """Constraints that a provider enforces.

    Parameters
    ----------
    source
        Where that is documented, and when it was read.
    keywords
        Constraints it enforces with any value.
    allowed_values
        Constraints it enforces with some values only, and those values.
    strict_only
        Whether only strict schemas are limited to these.
    """

    source: str
    keywords: frozenset[str] = frozenset()
    allowed_values: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    strict_only: bool = False


def relax_schema(support: SchemaSupport, request: CompletionRequest) -> CompletionRequest:
    """Move constraints that are not enforced into descriptions, in the answer's schema and those of strict tools.

    Law: the result has no constraint outside ``support``, and relaxing it again changes nothing.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> schema = Schema({"type": "integer", "minimum": 1, "description": "How many."})
    >>> request = CompletionRequest(model="m", messages=(Message("user", "hi"),), response_schema=schema)
    >>> relax_schema(SchemaSupport(""), request).response_schema.schema
    {'type': 'integer', 'description': 'How many. {minimum: 1}'}
    >>> relax_schema(SchemaSupport("", keywords=NUMBER_KEYWORDS), request) is request
    True
    """
    schema = request.response_schema
    if schema is None and not request.tools:
        return request
    response_schema = schema
    if schema is not None and (schema.strict or not support.strict_only):
        response_schema = _relaxed_schema(schema, support)
    tools = tuple(_relaxed_tool(tool, support) if tool.strict else tool for tool in request.tools)
    if response_schema is schema and all(map(_is_same, tools, request.tools)):
        return request
    return replace(request, response_schema=response_schema, tools=tools)


def _is_same(left: object, right: object) -> bool:
    return left is right


def _relaxed_schema(schema: Schema, support: SchemaSupport) -> Schema:
    relaxed = _relaxed(schema.schema, support)
    return schema if relaxed == schema.schema else replace(schema, schema=relaxed)


def _relaxed_tool(tool: Tool, support: SchemaSupport) -> Tool:
    relaxed = _relaxed(tool.parameters, support)
    return tool if relaxed == tool.parameters else replace(tool, parameters=relaxed)


def _relaxed(node: Any, support: SchemaSupport) -> Any:
    """Move constraints into descriptions in a schema and all schemas inside it."""
    if isinstance(node, (list, tuple)):
        return [_relaxed(item, support) for item in node]
    if not isinstance(node, Mapping):
        return node
    moved = {key: value for key, value in node.items() if not _is_enforced(key, value, support)}
    kept = {
        key: map_subschemas(lambda subschema: _relaxed(subschema, support), key, value)
        for key, value in node.items()
        if key not in moved
    }
    if not moved:
        return kept
    constraints = ", ".join(f"{key}: {_as_text(value)}" for key, value in moved.items())
    return {**kept, "description": f"{node.get('description') or ''} {{{constraints}}}".strip()}


def _is_enforced(key: str, value: Any, support: SchemaSupport) -> bool:
    if key in support.allowed_values:
        return isinstance(value, (str, int)) and value in support.allowed_values[key]
    return key not in CONSTRAINT_KEYWORDS or key in support.keywords


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
