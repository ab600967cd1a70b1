"""Models, the OpenAPI document and its page."""

from __future__ import annotations

import html.parser
import json
import urllib.request
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types

from llmhub.server.access import LOCAL_CALLER, Caller, OpenAccess
from llmhub.server.groups import GROUPS
from llmhub.server.openapi import build_document
from llmhub.server.running import RunningService

Serving = Callable[..., RunningService]


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as reply:
        body: bytes = reply.read()
        return body


class TestModels:
    def test_every_official_client_lists_and_reads_them(self, serving: Serving) -> None:
        url = serving(models={"fast": "openai/gpt-4o-mini"}).url
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)
        names = [model.id for model in client.models.list()]
        assert {"fast", "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"} <= set(names)
        assert client.models.retrieve("openai/gpt-4o-mini").owned_by == "openai"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody/x")
        client.close()
        other = anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)
        assert [model.id for model in other.models.list()] == names
        other.close()
        with genai.Client(api_key="k", http_options=types.HttpOptions(base_url=url)) as third:
            assert [model.name for model in third.models.list()] == [f"models/{name}" for name in names]

    def test_only_permitted_models_are_listed_and_answer(self, serving: Serving) -> None:
        class Restricted(OpenAccess):
            async def authenticate(self, *_: Any) -> Any:
                from returns.result import Success  # noqa: PLC0415

                return Success(Caller(key_id="k1", team="t", models=("openai/gpt-4o*",)))

        client = openai.OpenAI(base_url=f"{serving(access=Restricted()).url}/v1", api_key="k", max_retries=0)
        assert {model.id.rpartition("/")[2][:6] for model in client.models.list()} == {"gpt-4o"}
        with pytest.raises(openai.PermissionDeniedError, match="k1"):
            client.chat.completions.create(
                model="anthropic/claude-haiku-4-5", messages=[{"role": "user", "content": "x"}]
            )
        client.close()

    def test_aliases_and_bare_names_answer(self, serving: Serving) -> None:
        client = openai.OpenAI(
            base_url=f"{serving(models={'fast': 'openai/gpt-4o-mini'}).url}/v1", api_key="k", max_retries=0
        )
        for name in ("fast", "claude-haiku-4-5"):
            reply = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "x"}])
            assert reply.model == name
        client.close()

    def test_local_caller_may_use_everything(self) -> None:
        assert LOCAL_CALLER.may_use("openai/gpt-4o-mini")


class TestDocument:
    def test_it_is_served_and_names_every_route(self, serving: Serving) -> None:
        document = json.loads(read(f"{serving().url}/openapi.json"))
        assert document == json.loads(json.dumps(build_document(GROUPS)))
        operations = sum(len(methods) for methods in document["paths"].values())
        assert operations == sum(len(group.routes) for group in GROUPS)
        ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
        assert len(set(ids)) == len(ids)

    def test_every_reference_and_path_parameter_is_declared(self) -> None:
        document = build_document(GROUPS)
        names = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

        def references(value: Any) -> set[str]:
            if isinstance(value, dict):
                own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
                return own.union(*map(references, value.values()))
            return set().union(*map(references, value)) if isinstance(value, list) else set()

        assert references(document) <= names
        for path, methods in document["paths"].items():
            for operation in methods.values():
                declared = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
                assert declared == {part[1:-1] for part in path.split("/") if part.startswith("{")}

    def test_page_shows_every_path_and_loads_nothing_from_elsewhere(self, serving: Serving) -> None:
        page = read(f"{serving().url}/docs").decode()
        loaded: list[str | None] = []

        class Reader(html.parser.HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                loaded.extend(value for name, value in attrs if name == "src" or (tag == "link" and name == "href"))

        Reader().feed(page)
        assert sorted(loaded) == ["static/icon.svg", "static/page.css"]
        assert all(path in page for path in build_document(GROUPS)["paths"])
