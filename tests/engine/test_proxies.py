"""Proxies and trusted certificates of the environment, over sockets; and passwords of ~/.netrc, which nobody gets."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from returns.pipeline import is_successful

from llmhub.config import parse_settings
from llmhub.core.errors import NOT_CONNECTED, Disconnected, InvalidRequest, LLMError, is_transient
from llmhub.core.provider import Endpoint
from llmhub.core.types import CompletionRequest, Message
from llmhub.engine.call import Answer, Call, Target
from llmhub.engine.transport import Timeout, Transport, TransportConfig
from llmhub.providers.registry import PROVIDERS

PASSWORD = "hunter22-of-the-proxy"
NETRC_PASSWORD = "hunter22-of-netrc"
AUTHORIZATION = b"proxy-authorization: Basic " + base64.b64encode(f"ann:{PASSWORD}".encode())


async def send(environ: dict[str, str], url: str, provider: str = "compatible", key: str = "k") -> Answer:
    settings = parse_settings(environ)
    transport = Transport(
        TransportConfig(proxies=settings.proxies, ca_file=settings.ca_file, timeout=Timeout(total_s=20))
    )
    target = Target(PROVIDERS[provider], Endpoint(base_url=url, api_key=key, project="p"), "m", f"{provider}/m")
    try:
        return await transport.send(Call(target, CompletionRequest(model="m", messages=(Message("user", "hi"),))))
    finally:
        await transport.close()


def error_of(answer: Answer) -> LLMError:
    assert not is_successful(answer.outcome), answer.outcome
    error = answer.outcome.failure()
    assert "hunter22" not in repr(error)
    return error


@pytest.fixture
def netrc(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A ~/.netrc with a password for every host."""
    path = tmp_path / ".netrc"
    path.write_text(f"default login ann password {NETRC_PASSWORD}\n", encoding="utf-8")
    path.chmod(0o600)
    environ.setenv("HOME", str(tmp_path))
    environ.setenv("NETRC", str(path))


@pytest.mark.parametrize("provider", ["anthropic", "azure", "google", "ollama", "openai", "compatible"])
@pytest.mark.parametrize("proxied", [True, False])
@pytest.mark.usefixtures("netrc")
async def test_password_of_netrc_is_not_sent(
    environ: pytest.MonkeyPatch, scripted: Any, replies: Any, provider: str, proxied: bool
) -> None:
    server = scripted([replies.answer()])
    variable = {"http_proxy": server.url} if proxied else {"http_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    for name, value in variable.items():
        environ.setenv(name, value)
    await send(variable, "http://llm.invalid/v1" if proxied else server.url, provider, key="")
    assert len(server.requests) == 1
    assert b"authorization" not in server.requests[0].lower()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
async def test_proxy_is_used_with_its_password(scripted: Any, replies: Any, variable: str) -> None:
    proxy = scripted([replies.answer("proxied")])
    address = proxy.url.replace("http://", f"http://ann:{PASSWORD}@")
    answer = await send({variable: address}, "http://llm.invalid/v1")
    assert answer.outcome.unwrap().text == "proxied"
    head = proxy.requests[0]
    assert head.startswith(b"POST http://llm.invalid/v1/chat/completions HTTP/1.1\r\n")
    assert AUTHORIZATION.lower() in head.lower()
    assert b"authorization: bearer k" in head.lower()


async def test_bypassed_host_is_reached_directly(scripted: Any, replies: Any) -> None:
    server, proxy = scripted([replies.answer("direct")]), scripted([replies.answer("proxied")])
    answer = await send({"http_proxy": proxy.url, "no_proxy": "127.0.0.1"}, server.url)
    assert answer.outcome.unwrap().text == "direct"
    assert proxy.connections == 0


async def test_tunnel_gets_the_password_and_never_the_key(scripted: Any) -> None:
    proxy = scripted([b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "close"])
    address = proxy.url.replace("http://", f"http://ann:{PASSWORD}@")
    error = error_of(await send({"HTTPS_PROXY": address}, "https://llm.invalid/v1", key="key-of-the-provider"))
    head = proxy.requests[0]
    assert head.startswith(b"CONNECT llm.invalid:443 HTTP/1.1\r\n")
    assert AUTHORIZATION.lower() in head.lower()
    assert b"key-of-the-provider" not in head
    assert isinstance(error, Disconnected)
    assert f"the proxy {proxy.url} refused" in error.message
    assert "407" in error.message
    assert "HTTPS_PROXY" in error.message
    assert not is_transient(error)
    assert error.code == NOT_CONNECTED


async def test_dead_proxy_is_named_as_the_proxy() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    for scheme in ("http", "https"):
        variable = f"{scheme.upper()}_PROXY"
        answer = await send({variable: f"ann:{PASSWORD}@127.0.0.1:{port}"}, f"{scheme}://llm.invalid/v1")
        error = error_of(answer)
        assert isinstance(error, Disconnected)
        assert f"cannot connect to the proxy http://127.0.0.1:{port}" in error.message
        assert f"check {variable}" in error.message
        assert "base URL" not in error.message
        assert error.code == NOT_CONNECTED


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "ftp"])
async def test_other_protocols_are_refused(scripted: Any, replies: Any, scheme: str) -> None:
    server = scripted([replies.answer()])
    address = f"{scheme}://ann:{PASSWORD}@{server.url.removeprefix('http://')}"
    error = error_of(await send({"ALL_PROXY": address}, "http://llm.invalid/v1"))
    assert isinstance(error, InvalidRequest)
    assert f"ALL_PROXY: {scheme}:// proxies are not supported" in error.message
    assert "http://" in error.message
    assert server.connections == 0


@pytest.mark.parametrize(
    "address", ["http://", f"http://ann:{PASSWORD}", f"http://ann:{PASSWORD}@[proxy", "http://a b"]
)
async def test_garbled_proxy_is_named(address: str) -> None:
    error = error_of(await send({"HTTPS_PROXY": address}, "https://llm.invalid/v1"))
    assert isinstance(error, InvalidRequest)
    assert "HTTPS_PROXY: not the URL of a proxy" in error.message
    assert error.code == NOT_CONNECTED


# Certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """Return a self-signed certificate of 127.0.0.1, as a file to trust and as a server's context."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not here to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    key, crt = folder / "key.pem", folder / "crt.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key, "-out", crt]
    subprocess.run([*command, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return crt, context


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_certificates_of_the_environment_are_trusted(
    scripted: Any, replies: Any, certificate: tuple[Path, ssl.SSLContext], variable: str
) -> None:
    path, context = certificate
    server = scripted([replies.answer("trusted")], tls=context)
    assert isinstance(error_of(await send({}, server.url)), Disconnected)
    assert (await send({variable: str(path)}, server.url)).outcome.unwrap().text == "trusted"


@pytest.mark.parametrize("make", [lambda path: path / "missing.pem", lambda path: path / "empty.pem"])
async def test_unreadable_certificates_are_named(
    scripted: Any, replies: Any, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    server = scripted([replies.answer()])
    (tmp_path / "empty.pem").write_text("", encoding="utf-8")
    url = server.url.replace("http:", "https:")
    error = error_of(await send({"REQUESTS_CA_BUNDLE": str(make(tmp_path))}, url))
    assert isinstance(error, InvalidRequest)
    assert error.message.startswith("REQUESTS_CA_BUNDLE: cannot read certificates")
    assert server.connections == 0
