"""Credentials of clouds: their own libraries, against stand-ins of the metadata and token servers over HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import threading
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import llmhub
from llmhub.config import Settings
from llmhub.core import optional_imports
from llmhub.core.errors import AuthFailed
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, Message
from llmhub.engine.call import Target
from llmhub.engine.credential_manager import CredentialManager, CredentialPolicy
from llmhub.engine.transport import Transport, TransportConfig
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.cloud import AwsCredentials, AzureCredentials, GoogleCredentials
from llmhub.security.credentials.credential_store import CredentialStore

CANARY = "canary-0123456789abcdef"
EXPIRY = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
JSON = {"content-type": "application/json"}
Reply = tuple[int, Mapping[str, str], bytes]


@pytest.fixture
def cloudless(environ: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment in which the libraries find nothing of the computer's own."""
    for name, value in {
        "HOME": tmp_path,
        "AWS_CONFIG_FILE": tmp_path / "config",
        "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "eu-west-1",
        "CLOUDSDK_CONFIG": tmp_path / "gcloud",
    }.items():
        environ.setenv(name, str(value))
    for name in ("AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "IDENTITY_ENDPOINT", "AZURE_CLIENT_ID", "NO_PROXY"):
        environ.delenv(name, raising=False)
    environ.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", True)
    return environ


@pytest.fixture
async def store_of() -> AsyncIterator[Any]:
    transport = Transport(TransportConfig())

    def opened(source: Any) -> CredentialStore:
        manager = CredentialManager(CredentialPolicy(sources=(source,)), transport, {}, lambda *_, **__: None)
        store: CredentialStore = source.open(manager._context())
        return store

    yield opened
    await transport.close()


def aws_keys() -> dict[str, str]:
    return {"AccessKeyId": "ASIA0", "SecretAccessKey": CANARY, "Expiration": EXPIRY.strftime("%Y-%m-%dT%H:%M:%SZ")}


async def read(store: CredentialStore, provider: str = "bedrock") -> tuple[str, str, str, float | None]:
    found = (await store.fetch(provider)).unwrap()
    assert found is not None
    assert CANARY not in repr(found)
    secrets = (found.access_key_id, found.secret_access_key, found.session_token)
    return (*(secret.reveal() for secret in secrets), found.expires_at)  # type: ignore[return-value]


# AWS


async def test_aws_profile(cloudless: pytest.MonkeyPatch, tmp_path: Path, store_of: Any) -> None:
    text = f"[default]\naws_access_key_id = AKIA0\naws_secret_access_key = {CANARY}\n"
    (tmp_path / "credentials").write_text(f"{text}{text.replace('default', 'work').replace('AKIA0', 'AKIA1')}")
    assert await read(store_of(AwsCredentials())) == ("AKIA0", CANARY, "", None)
    work = store_of(AwsCredentials("work"))
    assert await read(work) == ("AKIA1", CANARY, "", None)
    assert (await work.fetch("openai")).unwrap() is None
    (tmp_path / "credentials").write_text(text.replace("default", "work").replace("AKIA0", "AKIA2"))
    assert (await read(work))[0] == "AKIA2", "the file is read again"
    missing = (await store_of(AwsCredentials("other")).fetch("bedrock")).failure()
    assert isinstance(missing, AuthFailed)
    assert missing.message == "aws: ProfileNotFound: The config profile (other) could not be found"


async def test_aws_metadata_server(cloudless: pytest.MonkeyPatch, http_service: Any, store_of: Any) -> None:
    def serve(method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        if method == "PUT" and path == "/latest/api/token":
            return 200, {}, b"session"
        if headers.get("x-aws-ec2-metadata-token") != "session":
            return 401, {}, b""
        if path.endswith("/security-credentials/"):
            return 200, {}, b"role"
        return 200, JSON, json.dumps({"Code": "Success", "Token": "t", **aws_keys()}).encode()

    assert (await store_of(AwsCredentials()).fetch("bedrock")).unwrap() is None
    cloudless.setenv("AWS_EC2_METADATA_DISABLED", "false")
    cloudless.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", http_service(serve).url)
    assert await read(store_of(AwsCredentials())) == ("ASIA0", CANARY, "t", EXPIRY.timestamp())


async def test_aws_web_identity(
    cloudless: pytest.MonkeyPatch, http_service: Any, tmp_path: Path, store_of: Any
) -> None:
    def serve(_method: str, _path: str, _headers: Mapping[str, str], body: bytes) -> Reply:
        assert b"Action=AssumeRoleWithWebIdentity" in body
        assert b"WebIdentityToken=jwt-of-the-pod" in body
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in {**aws_keys(), "SessionToken": "t"}.items())
        name = "AssumeRoleWithWebIdentity"
        text = f"<{name}Response><{name}Result><Credentials>{fields}</Credentials></{name}Result></{name}Response>"
        return 200, {"content-type": "text/xml"}, text.encode()

    (tmp_path / "jwt").write_text("jwt-of-the-pod")
    cloudless.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "jwt"))
    cloudless.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/hub")
    cloudless.setenv("AWS_ENDPOINT_URL_STS", http_service(serve).url)
    assert await read(store_of(AwsCredentials())) == ("ASIA0", CANARY, "t", EXPIRY.timestamp())


async def test_aws_single_sign_on(
    cloudless: pytest.MonkeyPatch, http_service: Any, tmp_path: Path, store_of: Any
) -> None:
    start = "https://team.awsapps.com/start"

    def serve(_method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        assert path.startswith("/federation/credentials?")
        assert "role_name=reader" in path
        if headers["x-amz-sso_bearer_token"] != "token-of-the-login":
            return 401, JSON, b'{"message": "Session token not found or invalid"}'
        keys = {"accessKeyId": "ASIA0", "secretAccessKey": CANARY, "sessionToken": "t"}
        milliseconds = int(EXPIRY.timestamp() * 1000)
        return 200, JSON, json.dumps({"roleCredentials": {**keys, "expiration": milliseconds}}).encode()

    lines = ("[profile team]", f"sso_start_url = {start}", "sso_region = eu-west-1", "sso_account_id = 123456789012")
    (tmp_path / "config").write_text("\n".join((*lines, "sso_role_name = reader")))
    login = tmp_path / ".aws" / "sso" / "cache" / f"{hashlib.sha1(start.encode()).hexdigest()}.json"
    login.parent.mkdir(parents=True)
    expires = aws_keys()["Expiration"]
    login.write_text(json.dumps({"accessToken": "token-of-the-login", "expiresAt": expires}))
    cloudless.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(login.parent))
    cloudless.setenv("AWS_ENDPOINT_URL_SSO", http_service(serve).url)
    assert await read(store_of(AwsCredentials("team"))) == ("ASIA0", CANARY, "t", EXPIRY.timestamp())
    login.write_text(json.dumps({"accessToken": "expired", "expiresAt": expires}))
    refused = (await store_of(AwsCredentials("team")).fetch("bedrock")).failure()
    assert "Session token not found or invalid" in refused.message


# Google


def google_token(lifetime_s: int = 3600) -> bytes:
    return json.dumps({"access_token": f"ya29.{CANARY}", "expires_in": lifetime_s, "token_type": "Bearer"}).encode()


async def check_google(store: CredentialStore) -> None:
    found = (await store.fetch("vertex")).unwrap()
    assert found is not None
    assert found.access_token.reveal() == f"ya29.{CANARY}"
    assert found.expires_at is not None
    assert 3400 < found.expires_at - datetime.now(UTC).timestamp() <= 3600
    assert (await store.fetch("openai")).unwrap() is None


async def test_google_service_account(
    cloudless: pytest.MonkeyPatch, http_service: Any, tmp_path: Path, store_of: Any
) -> None:
    service = http_service(lambda *_: (200, JSON, google_token()))
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "hub@team.iam.gserviceaccount.com",
        "private_key": key.decode(),
        "token_uri": f"{service.url}/token",
        "project_id": "team",
    }
    assert (await store_of(GoogleCredentials()).fetch("vertex")).unwrap() is None
    (tmp_path / "account.json").write_text(json.dumps(account))
    cloudless.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    await check_google(store_of(GoogleCredentials()))
    assert b"grant-type%3Ajwt-bearer" in service.requests[0][3]


async def test_google_metadata_server(cloudless: pytest.MonkeyPatch, http_service: Any, store_of: Any) -> None:
    flavor = {"metadata-flavor": "Google", **JSON}

    def serve(_method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        assert headers["metadata-flavor"] == "Google"
        if "/token" in path:
            return 200, flavor, google_token()
        if "/service-accounts/default/" in path:
            return 200, flavor, b'{"email": "hub@team", "scopes": [], "aliases": ["default"]}'
        return 200, {**flavor, "content-type": "application/text"}, b"team"

    address = http_service(serve).url.removeprefix("http://")
    cloudless.setenv("GCE_METADATA_IP", address)
    # These were read from the environment when the module was imported.
    cloudless.setattr("google.auth.compute_engine._metadata._NO_GCE_CHECK", False)
    cloudless.setattr("google.auth.compute_engine._metadata._GCE_METADATA_HOST", address)
    await check_google(store_of(GoogleCredentials()))


# Azure


async def test_azure_managed_identity(cloudless: pytest.MonkeyPatch, http_service: Any, store_of: Any) -> None:
    expires_on = int(EXPIRY.timestamp())

    def serve(_method: str, path: str, headers: Mapping[str, str], _body: bytes) -> Reply:
        assert headers["x-identity-header"] == "of-the-app"
        assert "resource=https://cognitiveservices.azure.com" in unquote(path)
        token = {"access_token": CANARY, "expires_on": str(expires_on), "resource": "r", "token_type": "Bearer"}
        return 200, JSON, json.dumps(token).encode()

    cloudless.setenv("IDENTITY_ENDPOINT", f"{http_service(serve).url}/msi/token")
    cloudless.setenv("IDENTITY_HEADER", "of-the-app")
    store = store_of(AzureCredentials())
    found = (await store.fetch("azure")).unwrap()
    assert found is not None
    assert found.access_token.reveal() == CANARY
    assert abs((found.expires_at or 0) - expires_on) < 5
    assert (await store.fetch("openai")).unwrap() is None


def test_token_of_azure_is_sent_as_a_bearer_and_never_as_a_key(
    cloudless: pytest.MonkeyPatch, http_service: Any, replies: Any
) -> None:
    token = {"access_token": CANARY, "expires_on": str(int(EXPIRY.timestamp())), "resource": "r"}
    identity = http_service(lambda *_: (200, JSON, json.dumps(token).encode()))
    cloudless.setenv("IDENTITY_ENDPOINT", identity.url)
    cloudless.setenv("IDENTITY_HEADER", "of-the-app")
    service = http_service(lambda *_: (200, JSON, replies.body()))
    endpoints = {"azure": Endpoint(base_url=service.url)}
    with llmhub.Hub(endpoints=endpoints, credentials=AzureCredentials(), settings=Settings()) as hub:
        table = llmhub.complete_table({"q": list("abc")}, "{q}", model="azure/gpt-4o", hub=hub, progress=False)
    assert table.column("status").to_pylist() == ["ok"] * 3
    assert {headers["authorization"] for _, _, headers, _ in service.requests} == {f"Bearer {CANARY}"}
    assert not any("api-key" in headers for _, _, headers, _ in service.requests)
    assert len(identity.requests) == 1, "the token is kept until it expires"


# All


@pytest.mark.parametrize(
    ("source", "variables", "model", "address"),
    [
        (
            AwsCredentials(),
            {"AWS_REGION": "eu-west-1"},
            "bedrock/m",
            "https://bedrock-runtime.eu-west-1.amazonaws.com/",
        ),
        (
            GoogleCredentials(),
            {"GOOGLE_CLOUD_PROJECT": "team", "GOOGLE_CLOUD_LOCATION": "europe-west4"},
            "vertex/m",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/team/",
        ),
        (AzureCredentials(), {"AZURE_OPENAI_ENDPOINT": "https://team.example"}, "azure/m", "https://team.example/"),
    ],
)
def test_address_of_the_environment_is_used(
    cloudless: pytest.MonkeyPatch, source: Any, variables: Mapping[str, str], model: str, address: str
) -> None:
    for name, value in variables.items():
        cloudless.setenv(name, value)
    hub = pickle.loads(pickle.dumps(llmhub.Hub(credentials=source)))
    target = hub.target(model)
    request = CompletionRequest(model="m", messages=(Message("user", "hi"),))
    assert target.provider.locate(target.endpoint, request, False).startswith(address)
    with pytest.raises(llmhub.AuthenticationError):
        llmhub.Hub().target(model)


async def test_libraries_run_off_the_loop(cloudless: pytest.MonkeyPatch, store_of: Any) -> None:
    threads: list[str] = []
    import botocore.session  # noqa: PLC0415

    original = botocore.session.Session.get_credentials

    def noted(session: Any) -> Any:
        threads.append(threading.current_thread().name)
        return original(session)

    cloudless.setattr("botocore.session.Session.get_credentials", noted)
    await store_of(AwsCredentials()).fetch("bedrock")
    assert threads
    assert threading.current_thread().name not in threads


@pytest.mark.parametrize(
    ("source", "provider", "extra"),
    [
        (AwsCredentials(), "bedrock", "aws"),
        (GoogleCredentials(), "vertex", "google"),
        (AzureCredentials(), "azure", "azure"),
    ],
)
async def test_missing_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, store_of: Any, source: Any, provider: str, extra: str
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(optional_imports.importlib, "import_module", missing)
    error = (await store_of(source).fetch(provider)).failure()
    assert f"pip install 'llmhub[{extra}]'" in error.message


async def test_a_call_waits_for_the_cloud_only_once() -> None:
    """Five calls at once are one read."""
    asked: list[str] = []

    def function(provider: str) -> str:
        asked.append(provider)
        return CANARY

    from llmhub.security.credentials.credential_store import FunctionCredentials  # noqa: PLC0415

    transport = Transport(TransportConfig())
    policy = CredentialPolicy(sources=(FunctionCredentials(function),))
    manager = CredentialManager(policy, transport, {}, lambda *_, **__: None)
    target = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")
    await asyncio.gather(*(manager.endpoint(target) for _ in range(5)))
    assert asked == ["openai"]
    await transport.close()
