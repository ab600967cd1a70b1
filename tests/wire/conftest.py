"""Fixtures of the wires' tests: recorded exchanges, files, and a provider that is only its wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from llmhub.core.provider import HttpReply, Provider, Wire

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests/fixtures/conformance"
FIXTURES = ROOT / "tests/fixtures"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One recorded exchange; ``body`` is the body of the response."""

    id: str
    model: str
    request: Mapping[str, Any]
    status: int
    headers: Mapping[str, str]
    body: bytes
    streaming: bool
    tags: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def reply(self) -> HttpReply:
        return HttpReply(self.status, self.headers, self.body)

    @property
    def head(self) -> HttpReply:
        """The reply without its body, as a stream starts."""
        return HttpReply(self.status, self.headers)


def _body(response: Mapping[str, Any]) -> bytes:
    if "body_b64" in response:
        return base64.b64decode(response["body_b64"])
    if "body_text" in response:
        return response["body_text"].encode()
    return json.dumps(response["body"]).encode() if "body" in response else b""


def _exchange(line: str) -> Exchange:
    row = json.loads(line)
    response = row["response"]
    return Exchange(
        id=row["id"],
        model=row["model"],
        request=row["request"],
        status=response["status"],
        headers=response["headers"],
        body=_body(response),
        streaming=row["streaming"],
        tags=tuple(row["tags"]),
    )


@cache
def _recorded(name: str) -> list[Exchange]:
    lines = (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [_exchange(line) for line in lines if line]


@pytest.fixture(scope="session")
def corpus() -> Callable[[str], list[Exchange]]:
    """Return a function from the name of an API, such as ``anthropic-messages``, to its recorded exchanges."""
    return _recorded


@pytest.fixture(scope="session")
def fixture_bytes() -> Callable[[str], bytes]:
    """Return a function from the path of a fixture, such as ``anthropic/text.events.txt``, to its bytes."""
    return lambda name: (FIXTURES / name).read_bytes()


@pytest.fixture(scope="session")
def make_provider() -> Callable[[Wire], Provider]:
    """Return a function from a wire to a provider that has nothing else."""

    def provider(wire: Wire) -> Provider:
        return Provider(
            name="test",
            wire=wire,
            base_url="http://localhost",
            locate=lambda endpoint, request, _stream: f"{endpoint.base_url}/{request.model}",
            authorize=lambda _endpoint, request, _now: request,
        )

    return provider
