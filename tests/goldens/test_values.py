"""Values that stores, files and users depend on are what was recorded: keys, bytes, columns, names, flags."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
from returns.pipeline import is_successful

import llmhub
from llmhub.cli import main
from llmhub.core.cache_key import canonical_json, legacy_request_keyer, request_keyer
from llmhub.core.errors import EXCEPTIONS, LLMError, error_type_name
from llmhub.core.protocol import prepare
from llmhub.core.serialization import KINDS, from_stored_response, pack, to_stored_response, unpack
from llmhub.tables.ledger import LEDGER
from llmhub.tables.schema import RESULTS

COUNT = 200
NOW = 1.8e9
COMMANDS = ("", "demo", "run", "plan", "bench", "sim", "doctor", "cache")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_request_keys_and_canonical_bytes(draw: Callable[[int], Any], golden: Callable[[str, Any], Any]) -> None:
    """The recorded keys covered every header but credentials; a response stored under one of them is still found."""
    found = []
    for seed in range(COUNT):
        provider, endpoint, request, sample, _ = draw(seed).call()
        keyer = legacy_request_keyer(provider, endpoint)
        assert (keyer is None) == ("X-Team" not in endpoint.headers)
        key = (keyer or request_keyer(provider, endpoint))(request, sample).hex()
        found.append({"provider": provider.name, "key": key, "canonical": sha256(canonical_json(request))})
    assert found == golden("keys", found)
    assert len({row["key"] for row in found}) == COUNT


def test_http_requests(draw: Callable[[int], Any], golden: Callable[[str, Any], Any]) -> None:
    found: list[dict[str, Any]] = []
    for seed in range(COUNT):
        provider, endpoint, request, _, stream = draw(seed).call()
        made = prepare(provider, endpoint, request, NOW, stream=stream)
        if is_successful(made):
            http = made.unwrap()
            row = {"url": http.url, "headers": sorted(http.headers), "dropped": list(http.dropped)}
            found.append({**row, "sha256": sha256(b"\n".join([http.method.encode(), http.url.encode(), http.body]))})
        else:
            found.append({"error_type": error_type_name(made.failure()), "path": made.failure().path})
    assert found == golden("http", found)
    assert sum("sha256" in row for row in found) > COUNT / 3


def test_packed_responses(draw: Callable[[int], Any], golden: Callable[[str, Any], Any]) -> None:
    found = []
    for seed in range(COUNT):
        response, measured = draw(seed).response()
        key = hashlib.sha256(str(seed).encode()).digest()
        value = pack(to_stored_response(response, **measured), key)
        assert from_stored_response(unpack(value, key).unwrap()) == response
        found.append(value.hex() if seed < 40 else sha256(value))
    assert found == golden("packed", found)
    for seed, value in enumerate(golden("packed", found)[:40]):
        key = hashlib.sha256(str(seed).encode()).digest()
        response, measured = draw(seed).response()
        kept = unpack(bytes.fromhex(value), key).unwrap()
        assert (from_stored_response(kept), kept.latency_s, kept.dropped) == (
            response,
            measured["latency_s"],
            measured["dropped"],
        )


def test_columns(golden: Callable[[str, Any], Any]) -> None:
    def described(schema: Any) -> list[list[Any]]:
        return [
            [field.name, str(field.type), {"unit": (field.metadata or {}).get(b"unit", b"").decode()}]
            for field in schema
        ]

    metadata = {name.decode(): value.decode() for name, value in RESULTS.metadata.items()}
    found = {"results": described(RESULTS), "metadata": metadata, "ledger": described(LEDGER)}
    assert found == golden("columns", found)


def test_kinds_of_errors_and_parts(golden: Callable[[str, Any], Any]) -> None:
    made = [error(message="m", status=500, path="$.p", provider="p") for error in get_args(LLMError)]
    found = {
        "error_type": [error_type_name(error) for error in made],
        "fields": list(made[0].__dataclass_fields__),
        "exceptions": {error.__name__: EXCEPTIONS[error].__name__ for error in EXCEPTIONS},
        "parts": [[part.__name__, *part.__dataclass_fields__] for part in KINDS],
    }
    expected = golden("kinds", found)
    assert set(found.pop("fields")) >= set(expected.pop("fields"))
    assert found == expected


def test_public_names_are_there_or_lead_to_their_new_place(golden: Callable[[str, Any], Any]) -> None:
    expected = golden("public", None)
    for name in expected:
        try:
            assert getattr(llmhub, name) is not None
        except AttributeError as error:
            assert re.search(rf"did you mean llmhub\.[a-z]+\.{name}\?", str(error))  # noqa: PT017


def flags(text: str) -> list[str]:
    return sorted(set(re.findall(r"(?<![\w/=-])--?[a-z][a-z0-9-]*", text)))


def help_text(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main([*argv, "-h"])
    assert exit_info.value.code == 0
    return capsys.readouterr().out


def test_flags_of_every_command(
    golden: Callable[[str, Any], Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    found = {}
    for command in COMMANDS:
        text = help_text([command] if command else [], capsys).partition("\nexamples:")[0]
        choices = re.findall(r"\{[a-z-]+(?:,[a-z-]+)+\}", text)
        found[command] = {"flags": flags(text), "choices": sorted(set(choices))}
    assert found == golden("flags", found)
