from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmhub.security.redaction import MIN_SECRET_LENGTH, REPLACEMENT, redact

secrets = st.text(st.characters(categories=["L", "N"]), min_size=MIN_SECRET_LENGTH, max_size=30)
KEYS = [
    "sk-proj-abcdefgh1234",
    "sk-ant-api03-AbC_dEf-123456789",
    "sk-or-v1-0123456789abcdef",
    "gsk_ABCDEFGHIJKLMNOPqrst",
    "xai-ABCDEFGHIJKLMNOPqrst",
    "pplx-0123456789abcdef0123",
    "hf_ABCDEFGHIJKLMNOPqrst",
    "AIza" + "Sy0123456789abcdefghijklmnopqrstuv",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "ya29.a0AfB_byC0123456789abcdef",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
]


@given(st.text(), st.lists(secrets, min_size=1, max_size=3), st.text(), st.data())
def test_known_secrets_are_redacted(before: str, known: list[str], after: str, data: st.DataObject) -> None:
    assume(not any(secret in REPLACEMENT for secret in known))
    text = (
        before + "".join(f"{data.draw(st.sampled_from(known))}{gap}" for gap in data.draw(st.lists(st.text()))) + after
    )
    clean = redact(text, known)
    assert not any(secret in clean.replace(REPLACEMENT, "\0") for secret in known)


@given(st.text(st.characters(exclude_characters="-_.", exclude_categories=["Cs"]), max_size=40))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assume("bearer" not in text.lower())
    assume("AKIA" not in text and "ASIA" not in text and "AIza" not in text)
    assert redact(text) == text


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "around", ["{}", "key: {}.", '{{"error":"Incorrect API key provided: {}"}}', "({})", "a\n{}\nb"]
)
def test_keys_are_recognized_by_pattern(key: str, around: str) -> None:
    clean = redact(around.format(key))
    assert key not in clean
    assert REPLACEMENT in clean


def test_bearer_tokens_are_redacted() -> None:
    assert redact("authorization: Bearer abc.def-123/456==") == f"authorization: {REPLACEMENT}"


@given(st.text(max_size=MIN_SECRET_LENGTH - 1))
def test_short_values_are_not_redacted(short: str) -> None:
    assert redact("a plain sentence, 12345.", [short]) == "a plain sentence, 12345."


def test_longer_secrets_are_replaced_first() -> None:
    assert redact("secret-and-more", ["secret", "secret-and-more"]) == REPLACEMENT


@given(st.text(), st.lists(secrets, max_size=2))
def test_redaction_is_idempotent(text: str, known: list[str]) -> None:
    assume(not any(secret in REPLACEMENT for secret in known))
    assert redact(redact(text, known), known) == redact(text, known)
