"""The OpenAPI document of the service as a page: each operation with its parameters and schemas. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from llmhub.formatting.html import Html
from llmhub.server.html_elements import document as html_document
from llmhub.server.html_elements import element, join
from llmhub.server.page_html import LOGO

METHOD_CLASSES: Final = {"get": "busy", "post": "good", "delete": "bad", "put": "warn", "patch": "warn"}


def render_openapi_page(document: dict[str, Any]) -> str:
    """Return the document as HTML."""
    sections, links = [], []
    for tag in document["tags"]:
        operations = [
            _operation(method, path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        ]
        if operations:
            links.append(element("a", tag["name"], href=f"#{tag['name']}"))
            sections.append(element("section", element("h2", tag["name"]), *operations, id=tag["name"]))
    schemas = [
        element(
            "details",
            element("summary", element("code", name)),
            element("div", element("div", _json(schema), id=f"schema-{name}")),
        )
        for name, schema in sorted(document["components"]["schemas"].items())
    ]
    return html_document(
        "llmhub API",
        element(
            "header",
            element("a", LOGO, "llmhub", href="./", class_="brand"),
            element("span", f"API {document['info']['version']}", class_="dim"),
            element("span", class_="space"),
            element("a", "openapi.json", href="openapi.json"),
        ),
        element(
            "main",
            element("nav", *links, element("a", "schemas", href="#schemas"), aria_label="Parts of the API"),
            *sections,
            element("section", element("h2", "Schemas"), *schemas, id="schemas"),
            class_="api",
        ),
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> Html:
    parameters = [
        element(
            "li",
            element("code", each["name"]),
            element("span", f" in the {each['in']}{', required' if each['required'] else ''}", class_="dim"),
            f" {each['description']}" if each["description"] else None,
        )
        for each in operation.get("parameters", ())
    ]
    bodies: Iterable[tuple[str, Any]] = [
        ("Request", operation.get("requestBody", {}).get("content", {})),
        *(
            (f"Response {status}: {reply['description']}", reply.get("content", {}))
            for status, reply in operation["responses"].items()
        ),
    ]
    scope = operation.get("x-scope")
    return element(
        "details",
        element(
            "summary",
            element("span", method, class_=f"pill method {METHOD_CLASSES.get(method, 'idle')}"),
            element("code", path),
            element("span", operation["summary"], class_="dim"),
        ),
        element(
            "div",
            element("p", "Needs a key with the scope ", element("code", scope), ".") if scope else None,
            element("ul", *parameters) if parameters else None,
            *(_body(name, content) for name, content in bodies if content),
        ),
    )


def _body(title: str, content: dict[str, Any]) -> Html:
    """Return the media types of a body, each with its schema or a link to it."""
    shown: list[Html] = []
    for media_type, described in content.items():
        schema = described.get("schema", {})
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        link = element("a", name, href=f"#schema-{name}") if name else None
        shown.append(element("p", element("code", media_type), " " if link else None, link))
        if schema and not name:
            shown.append(_json(schema))
    return join(element("h3", title), *shown)


def _json(value: object) -> Html:
    return element("pre", element("code", msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))
