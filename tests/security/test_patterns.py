"""What is recognized as a credential or as personal data, and what is not."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmhub.core.errors import BadRequestError
from llmhub.core.types import CompletionRequest, Message, Reasoning, Schema, Text, Tool, ToolCall, ToolResult
from llmhub.security.number_patterns import IBAN_LENGTHS, iban_valid, luhn_valid
from llmhub.security.patterns import CREDENTIALS, ENTITIES, RedactionPattern
from llmhub.security.redaction import (
    Redactor,
    map_json_text,
    map_request,
    presidio_recognizer,
    redact,
    resolve_redactor,
)

REDACTOR = Redactor()
ROOT = Path(__file__).parents[2]
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\nq3Jf+/=\n-----END RSA PRIVATE KEY-----"
VALUES = {
    "EMAIL_ADDRESS": ["ann@example.org", "ann.o'neil+x@mail.example.co.uk", "jürgen@müller.de"],
    "PHONE_NUMBER": ["+44 20 7946 0958", "+1 (415) 555-2671", "(415) 555-2671", "415.555.2671", "030 1234567"],
    "US_SSN": ["123-45-6789", "123 45 6789"],
    "CREDIT_CARD": ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"],
    "IBAN_CODE": ["DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819", "fr1420041010050500013m02606"],
    "IP_ADDRESS": ["192.168.17.4", "8.8.8.8", "2001:db8::1", "2001:0db8:85a3:0000:0000:8a2e:0370:7334"],
    "API_KEY": [
        "AKIAIOSFODNN7EXAMPLE",
        "AQ.Ab8RN6LkM0pQrStUvWxYz0123456789abcd",
        "dapi0123456789abcdef0123456789abcdef",
    ],
    "JWT": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"],
    "BEARER_TOKEN": ["Bearer abc.def-123/456=="],
    "BASIC_TOKEN": ["Basic YW5uOmh1bnRlcjI="],
    "PRIVATE_KEY": [PEM, PEM.replace("\n", "\\n"), PEM[:60]],
}
IN_CONTEXT = {
    "URL_PASSWORD": ("https://{}@host/v1", "ann:hunter22"),
    "URL_KEY": ("https://host/v1?a=1&sig={}&api-version=1", "abcd%2Fefgh"),
    "SECRET": ('{{"Ocp-Apim-Subscription-Key": "{}"}}', "0123456789abcdef0123456789abcdef"),
    "PASSWORD": ("password={} ", "hunter22!"),
}
ORDINARY = [
    "task-management-system, sk-learn-based, risk-1234567890, the key: important-thing-to-do",
    "Basic requirements for bearer certificates; password: required; Authorization: needed",
    "max_tokens=4096, tokens: 1234, cache_key=3, x[1::2], std::vector, 12:30:45, a::b, ::1",
    "2024-01-02 12:30, 01-02-2024 12:30, 2026-11-30T09:32:11.123456Z, 127.0.0.1, 0.0.0.0, v1.2.3.4",
    "1,234,567.89 and 3.14159265358979, order 1234567890123456, 550e8400-e29b-41d4-a716-446655440000",
    "https://host/?sort_key=name&page=2, foo@bar, @user.name, ann@, {email}, 000-12-3456, 999-12-3456",
    "OPENAI_API_KEY=sk-..., api_key='<your key>', token=${TOKEN}, api_key=os.environ['OPENAI_API_KEY']",
]


@pytest.mark.parametrize(("entity", "value"), [(name, value) for name, values in VALUES.items() for value in values])
@pytest.mark.parametrize("around", ["{}", "to {}, please", '{{"x":"{}"}}', "({})\n", "a\t{};b", "'{}'"])
def test_values_are_recognized(entity: str, value: str, around: str) -> None:
    clean = REDACTOR.redact(around.format(value))
    assert value not in clean
    assert f"[{entity}]" in clean


@pytest.mark.parametrize(("entity", "context"), IN_CONTEXT.items())
def test_values_are_recognized_in_context(entity: str, context: tuple[str, str]) -> None:
    template, value = context
    assert REDACTOR.redact(template.format(value)) == template.format(f"[{entity}]")


def test_every_kind_is_tested() -> None:
    assert {*VALUES, *IN_CONTEXT} == set(ENTITIES)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_is_left(text: str) -> None:
    assert REDACTOR.redact(text) == text


@pytest.mark.parametrize(
    "path", ["README.md", ".github/CONTRIBUTING.md", "llmhub/engine/transport.py", "pyproject.toml"]
)
def test_pages_and_code_are_left(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert [text[span.start : span.end] for span in REDACTOR.spans(text)] == []


@given(st.text(st.characters(exclude_characters="@=:-_.+", exclude_categories=["Nd", "Cs"]), max_size=60))
def test_text_without_digits_and_signs_is_left(text: str) -> None:
    assert REDACTOR.redact(text) == text


# Planted secrets, of every kind and drawn at random, in any nesting


def _with_luhn(digits: str) -> str:
    return next(f"{digits}{last}" for last in range(10) if luhn_valid(f"{digits}{last}"))


def _with_check_digits(country: str, chars: str) -> str:
    account = chars[: IBAN_LENGTHS[country] - 4]
    return next(iban for check in range(100) if iban_valid(iban := f"{country}{check:02}{account}"))


KEY_CHARS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=40, max_size=60).filter(
    lambda text: any(map(str.isdigit, text[:12]))
)
DIGITS = st.text("0123456789", min_size=15, max_size=15)
planted = st.one_of(
    st.builds(
        str.__add__,
        st.sampled_from(
            ["sk-", "sk-ant-api03-", "gsk_", "xai-", "hf_", "AIza", "ghp_", "github_pat_", "nvapi-", "hvs."]
        ),
        KEY_CHARS,
    ),
    st.builds(lambda text: f"AKIA{text.upper()[:16]}", KEY_CHARS),
    st.builds(lambda digits: _with_luhn(f"4{digits[:14]}"), DIGITS),
    st.builds(
        lambda country, chars: _with_check_digits(country, chars.upper()),
        st.sampled_from(sorted(IBAN_LENGTHS)),
        KEY_CHARS,
    ),
    st.builds(lambda name: f"{name}@example.org", st.text("abcdefghijklmnop.", min_size=1, max_size=20)),
    st.builds(lambda text: f"Bearer {text}", KEY_CHARS),
    st.builds(lambda text: f"Basic {base64.b64encode(f'ann:{text}'.encode()).decode()}", KEY_CHARS),
    st.builds("{}.{}.{}.{}".format, *[st.integers(1, 126)] * 4),
    st.just(PEM),
    st.just("+44 20 7946 0958"),
    st.just("123-45-6789"),
)
plain = st.text(st.characters(categories=["L", "Zs", "Po"], exclude_characters="@\\'/&#%!.*"), max_size=12)


def _nested(draw: Any, secret: str) -> Any:
    value: Any = f"{draw(plain)} {secret} {draw(plain)}"
    for _ in range(draw(st.integers(0, 5))):
        match draw(st.integers(0, 4)):
            case 0:
                value = [draw(plain), value]
            case 1:
                value = {draw(plain): value, "n": draw(st.integers())}
            case 2:
                value = json.dumps(value, ensure_ascii=draw(st.booleans()))
            case 3:
                value = {json.dumps(value): 1}
            case _:
                value = (value,)
    return value


def _leaves(value: Any) -> str:
    """Return everything in a value as text, with strings of JSON decoded as often as they can be."""
    texts: list[str] = []
    stack = [value]
    while stack:
        match stack.pop():
            case str(text):
                texts.append(text)
                with contextlib.suppress(ValueError):
                    stack.append(json.loads(text))
            case dict() as mapping:
                stack += [*mapping, *mapping.values()]
            case list() | tuple() as items:
                stack += items
            case other:
                texts.append(str(other))
    return "\n".join(texts)


@given(st.data(), planted)
def test_no_planted_secret_survives_any_nesting(data: st.DataObject, secret: str) -> None:
    value = _nested(data.draw, secret)
    assert secret in _leaves(value)
    assert secret not in _leaves(REDACTOR.redact_json(value))


@given(st.data(), planted)
def test_no_planted_secret_survives_in_a_request(data: st.DataObject, secret: str) -> None:
    value = _nested(data.draw, secret)
    text = value if isinstance(value, str) else json.dumps(value)
    request = CompletionRequest(
        model="m",
        messages=(
            Message("system", text),
            Message("assistant", (Reasoning(text, signature="s"), ToolCall("1", "f", json.dumps({"a": value})))),
            Message("tool", (ToolResult("1", text), ToolResult("2", (Text(text),)))),
        ),
        tools=(Tool("f", text, {"enum": [value]}),),
        response_schema=Schema({"enum": [value]}),
        user=text,
        extra={"metadata": value},
    )
    clean = map_request(request, REDACTOR.redact)
    parts = [part for message in clean.messages for part in message.parts]
    shown = [
        *[getattr(part, name) for part in parts for name in ("text", "arguments", "content") if hasattr(part, name)],
        *[clean.tools[0].description, clean.tools[0].parameters, clean.response_schema.schema, clean.user, clean.extra],  # type: ignore[union-attr]
    ]
    shown = [item if not isinstance(item, tuple) else item[0].text for item in shown]
    assert secret not in _leaves(shown)
    assert clean.messages[1].parts[0].signature == "s"  # type: ignore[union-attr]
    assert map_request(clean, REDACTOR.redact) == clean


@given(planted, st.binary(max_size=20), st.binary(max_size=20))
def test_no_planted_secret_survives_in_bytes(secret: str, before: bytes, after: bytes) -> None:
    data = before + b" " + secret.encode() + b" " + after
    assert secret.encode() not in REDACTOR.redact_bytes(data)


@pytest.mark.parametrize("pattern", [pattern for pattern in CREDENTIALS if pattern.anchors], ids=lambda p: p.anchors[0])
@pytest.mark.parametrize("unit", ["{}", "{}="])
def test_hostile_text_takes_no_more_than_its_length(pattern: RedactionPattern, unit: str) -> None:
    """Text made of anchors, which a search that begins again at each would take minutes for."""
    text = unit.format(pattern.anchors[0]) * (20_000 // len(unit.format(pattern.anchors[0])))
    assert len(redact(text)) <= len(text) * 6


# Options


def test_known_secrets_are_found_in_their_encoded_forms() -> None:
    secret = 'hunter"2/é'
    for form in (secret, "hunter%222%2F%C3%A9", json.dumps(secret)):
        assert "hunter" not in redact(f"<{form}>", [secret])


def test_kinds_patterns_and_allowed_values() -> None:
    redactor = Redactor(
        entities=("EMAIL_ADDRESS",), patterns={"TICKET": r"T-\d+"}, allow=frozenset({"help@example.org"})
    )
    text = "T-17 of ann@example.org, 10.1.2.3, help@example.org"
    assert redactor.redact(text) == "[TICKET] of [EMAIL_ADDRESS], 10.1.2.3, help@example.org"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entities": ("EMAIL",)}, r"^entities: unknown kind 'EMAIL'; the known kinds are .*EMAIL_ADDRESS"),
        ({"patterns": {"ticket": "x"}}, r"^patterns: entity: must be capitals"),
        ({"patterns": {"TICKET": "("}}, r"^patterns: "),
        ({"patterns": ("x",)}, r"^patterns: must be RedactionPattern values"),
        ({"recognizers": ("x",)}, r"^recognizers: must be functions"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        Redactor(**arguments)
    with pytest.raises(BadRequestError, match=r"^redact: must be True"):
        resolve_redactor(5)


def test_recognizers_find_what_patterns_do_not() -> None:
    class Result:
        def __init__(self, entity_type: str, start: int, end: int, score: float) -> None:
            self.entity_type, self.start, self.end, self.score = entity_type, start, end, score

    class Analyzer:
        """As Presidio's: https://microsoft.github.io/presidio/api/analyzer_python (read 2026-11-30)."""

        def analyze(self, text: str, entities: list[str], language: str) -> list[Result]:
            assert (entities, language) == (["PERSON"], "en")
            found = re.search("Ann Lee", text)
            return [Result("PERSON", *found.span(), 0.85), Result("PERSON", 0, 2, 0.1)] if found else []

    redactor = Redactor(recognizers=(presidio_recognizer(Analyzer(), entities=["PERSON"]),))
    assert redactor.redact("To Ann Lee, ann@example.org") == "To [PERSON], [EMAIL_ADDRESS]"
    with pytest.raises(BadRequestError, match="analyzer"):
        presidio_recognizer(object())


def test_json_that_needs_no_change_keeps_its_spelling() -> None:
    text = '{"a" : 1.50, "b":"\\u00e9"}'
    assert map_json_text(text, REDACTOR.redact) == text
    assert map_json_text("{not JSON, ann@example.org", REDACTOR.redact) == "{not JSON, [EMAIL_ADDRESS]"
    deep = "[" * 100_000 + '"ann@example.org"' + "]" * 100_000
    assert "ann@" not in map_json_text(deep, REDACTOR.redact)
