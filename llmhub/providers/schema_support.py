"""Which constraints of a schema a provider holds answers to, and where the others go: into the field's description.

A provider that does not know a constraint refuses the whole schema, or passes over it. Said in the description, the
model reads it; `llmhub.parse` and the tables check it in the answer, as they check it for every provider.
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
"""Keywords without which a schema still says what an answer is made of."""


DATE_FORMATS: Final = frozenset({"date-time", "time", "date", "duration"})


NETWORK_FORMATS: Final = frozenset({"email", "hostname", "ipv4", "ipv6", "uuid"})


@dataclass(frozen=True, slots=True)
class SchemaSupport:
    """What some providers hold an answer to.

    Parameters
    ----------
    keeps
        The constraints they know.
    only
        Those of which they know some values alone.
    strict
        Whether a schema that is not strict keeps them all.
    source
        Where that is said, and when it was read.
    """

    providers: tuple[str, ...]
    source: str
    keywords: frozenset[str] = frozenset()
    allowed_values: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    strict_only: bool = False


SCHEMA_SUPPORT: Final = (
    SchemaSupport(
        ("anthropic", "vertex-anthropic"),
        "https://platform.claude.com/docs/en/build-with-claude/structured-outputs and what anthropic 2.14.0 does in "
        "transform_schema (read 2026-11-27)",
        allowed_values={"minItems": frozenset({0, 1}), "format": DATE_FORMATS | NETWORK_FORMATS | {"uri"}},
    ),
    SchemaSupport(
        ("bedrock",),
        "https://docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html: a schema with more than the "
        "subset is refused; what is not on the list for Claude is not sent (read 2026-11-27)",
        allowed_values={"minItems": frozenset({0, 1}), "format": DATE_FORMATS | NETWORK_FORMATS | {"uri"}},
    ),
    SchemaSupport(
        ("google", "vertex"),
        "https://ai.google.dev/api/generate-content: responseJsonSchema, of which these alone are supported "
        "(read 2026-11-27)",
        keywords=frozenset({"minimum", "maximum", "minItems", "maxItems", "format"}),
    ),
    SchemaSupport(
        ("openai", "openai-responses", "azure", "azure-responses"),
        "https://platform.openai.com/docs/guides/structured-outputs; for lengths "
        "https://github.com/pydantic/pydantic-ai/pull/7400 (read 2026-11-27)",
        keywords=NUMBER_KEYWORDS | {"minLength", "maxLength", "pattern", "minItems", "maxItems"},
        allowed_values={"format": DATE_FORMATS | NETWORK_FORMATS},
        strict_only=True,
    ),
)
"""A provider without a row is told every constraint: it is not known to refuse any."""


def relax_schema(provider: str, request: CompletionRequest) -> CompletionRequest:
    """Move the constraints that a provider does not hold to, in an answer's schema and in those of strict tools.

    Law: what is left has no constraint that `SCHEMA_SUPPORT` does not keep, and easing it again changes nothing.

    Examples
    --------
    >>> from llmhub.core.types import Message
    >>> wanted = Schema({"type": "integer", "minimum": 1, "description": "How many."})
    >>> ask = CompletionRequest(model="m", messages=(Message("user", "hi"),), response_schema=wanted)
    >>> relax_schema("anthropic", ask).response_schema.schema
    {'type': 'integer', 'description': 'How many. {minimum: 1}'}
    >>> relax_schema("openai", ask) is ask
    True
    """
    wanted = request.response_schema
    if wanted is None and not request.tools:
        return request
    held = next((row for row in SCHEMA_SUPPORT if provider in row.providers), None)
    if held is None:
        return request
    answer = wanted if wanted is None or (held.strict_only and not wanted.strict) else _schema(wanted, held)
    tools = tuple(_tool(tool, held) if tool.strict else tool for tool in request.tools)
    same = answer is wanted and all(map(_is, tools, request.tools))
    return request if same else replace(request, response_schema=answer, tools=tools)


def _is(left: object, right: object) -> bool:
    return left is right


def _schema(wanted: Schema, held: SchemaSupport) -> Schema:
    eased = _eased(wanted.schema, held)
    return wanted if eased == wanted.schema else replace(wanted, schema=eased)


def _tool(tool: Tool, held: SchemaSupport) -> Tool:
    eased = _eased(tool.parameters, held)
    return tool if eased == tool.parameters else replace(tool, parameters=eased)


def _eased(node: Any, held: SchemaSupport) -> Any:
    """Move constraints into descriptions, wherever in a schema they stand."""
    if isinstance(node, (list, tuple)):
        return [_eased(item, held) for item in node]
    if not isinstance(node, Mapping):
        return node
    moved = {key: value for key, value in node.items() if not _kept(key, value, held)}
    done = {
        key: map_subschemas(lambda one: _eased(one, held), key, value)
        for key, value in node.items()
        if key not in moved
    }
    if not moved:
        return done
    told = ", ".join(f"{key}: {_said(value)}" for key, value in moved.items())
    return {**done, "description": f"{node.get('description') or ''} {{{told}}}".strip()}


def _kept(key: str, value: Any, held: SchemaSupport) -> bool:
    if key in held.allowed_values:
        return isinstance(value, (str, int)) and value in held.allowed_values[key]
    return key not in CONSTRAINT_KEYWORDS or key in held.keywords


def _said(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
