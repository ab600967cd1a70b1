"""The OpenAPI 3.1 document of the service: made from the routes and the types of their bodies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from llmhub import __version__
from llmhub.server.routes import HttpRoute, RouteGroup

OPENAPI_VERSION: Final = "3.1.0"
ERROR_SCHEMA: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "An error in the shape of the route's API.",
    "required": ["error"],
    "properties": {"error": {"type": ["object", "string"]}, "request_id": {"type": "string"}},
}
JSON: Final = "application/json"
FORM: Final = "multipart/form-data"


def build_document(groups: Iterable[RouteGroup]) -> dict[str, Any]:
    """Return the document of the routes of ``groups``.

    Examples
    --------
    >>> from llmhub.server.groups import GROUPS
    >>> document = build_document(GROUPS)
    >>> document["openapi"], "/v1/chat/completions" in document["paths"]
    ('3.1.0', True)
    """
    groups = list(groups)
    types = [body for group in groups for route in group.routes for body in (route.request, route.response)]
    named = [body for body in dict.fromkeys(map(_Hashed, types)) if body.value is not None]
    schemas, components = msgspec.json.schema_components(
        [body.value for body in named], ref_template="#/components/schemas/{name}"
    )
    schema_of = dict(zip(named, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for group in groups:
        for route in group.routes:
            path = re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)
            paths.setdefault(path, {})[route.method.lower()] = _operation(group, route, schema_of)
    return {
        "openapi": OPENAPI_VERSION,
        "info": {"title": "llmhub", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {**components, "Error": dict(ERROR_SCHEMA)},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "x-goog-api-key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key"},
            },
        },
        "tags": [{"name": group.name} for group in groups],
    }


class _Hashed:
    """A type by its identity, since generic types of equal arguments are equal but need not be hashable."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(repr(self.value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and repr(self.value) == repr(other.value)


def _operation(group: RouteGroup, route: HttpRoute, schema_of: Mapping[_Hashed, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "tags": [group.name],
        "responses": _responses(route, schema_of),
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "description": parameter.description,
                "required": parameter.required or parameter.place == "path",
                "schema": dict(parameter.schema),
            }
            for parameter in route.parameters
        ]
    if route.request is not None or route.request_types:
        schema = schema_of.get(_Hashed(route.request), {})
        types = route.request_types or (JSON,)
        operation["requestBody"] = {
            "required": True,
            "content": {kind: _content(kind, schema) for kind in types},
        }
    if route.scope:
        operation["security"] = [{"bearer": []}, {"x-api-key": []}, {"x-goog-api-key": []}]
        operation["x-scope"] = route.scope
    return operation


def _content(kind: str, schema: Any) -> dict[str, Any]:
    """Return the description of a body of a media type: JSON, a form of JSON and a table, or bytes."""
    if kind == JSON:
        return {"schema": schema}
    if kind != FORM:
        return {}
    parts = {"request": schema, "table": {"type": "string", "format": "binary"}}
    return {"schema": {"type": "object", "required": list(parts), "properties": parts}}


def _responses(route: HttpRoute, schema_of: Mapping[_Hashed, Any]) -> dict[str, Any]:
    schema = schema_of.get(_Hashed(route.response), {})
    content = {kind: {"schema": schema} if kind == JSON else {} for kind in route.response_types}
    responses: dict[str, Any] = {
        str(status): {"description": meaning, "content": content} for status, meaning in route.statuses.items()
    }
    error = {"description": "Error", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {**responses, "4XX": error, **({"5XX": error} if "503" not in responses else {})}
