"""Sources of credentials that llmhub.toml declares."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from llmhub.config import load_settings
from llmhub.core.errors import BadRequestError
from llmhub.hub import hub_from_environment
from llmhub.security.credentials.cloud import AwsCredentials
from llmhub.security.credentials.credential_store import FunctionCredentials
from llmhub.security.credentials.declared import default_credentials
from llmhub.security.credentials.vault import VaultCredentials

CANARY = "canary-0123456789abcdef"
DECLARED = f"""
[[credentials]]
source = "vault"
address = "https://vault.example:8200"
path = "team/{{provider}}"
token = "{CANARY}"

[[credentials]]
source = "aws"
profile = "research"
"""


def test_declared_sources_are_asked_in_order(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llmhub.toml").write_text(DECLARED, encoding="utf-8")
    hub = hub_from_environment()
    vault, aws = hub.credentials  # type: ignore[misc]
    assert isinstance(vault, VaultCredentials)
    assert (vault.path, vault.login, vault.token.reveal()) == ("team/{provider}", "token", CANARY)
    assert aws == AwsCredentials("research")
    assert hub.target("openai/m").name == "openai/m"
    assert CANARY not in f"{hub!r} {hub.settings!r} {load_settings()}"
    with pytest.raises(BadRequestError, match=r"credentials\.token"):
        pickle.dumps(hub)


def test_sources_of_plugins(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llmhub.toml").write_text('[[credentials]]\nsource = "acme"\n', encoding="utf-8")
    (source,) = default_credentials(load_settings(), {"acme": str.upper})
    assert source == FunctionCredentials(str.upper)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('credentials = "x"', "must be tables"),
        ("[[credentials]]", r"credentials\[0\]\.source: must be a string"),
        ('[[credentials]]\nsource = "vault"\nport = 5', r"credentials\[0\]\.port: must be a string"),
        ('[[credentials]]\nsource = "volt"', "unknown source 'volt'; must be one of aws, azure"),
        ('[[credentials]]\nsource = "aws"\nprofil = "x"', r"\.profil: unknown argument of aws; must be one of profile"),
        (f'[[credentials]]\nsource = "vault"\ntoken = "{CANARY}"', "VAULT_ADDR"),
    ],
)
def test_wrong_declarations(environ: pytest.MonkeyPatch, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "llmhub.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadRequestError, match=message) as caught:
        hub_from_environment()
    assert CANARY not in str(caught.value)


def test_a_service_reads_its_declared_sources(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from llmhub.server.server_settings import load_server_settings  # noqa: PLC0415 - of this test
    from llmhub.server.service import open_service  # noqa: PLC0415

    file = tmp_path / "service.toml"
    file.write_text(f'{DECLARED}\n[server]\ncache = "none"\n', encoding="utf-8")
    service: Any = open_service(load_server_settings(file, {}), file)
    assert [type(source) for source in service.hub.credentials] == [VaultCredentials, AwsCredentials]
    service.hub.close()
