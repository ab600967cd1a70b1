"""Credentials of HashiCorp Vault or OpenBao: the KV secrets engine, version 2, over the hub's own HTTP transport.

A token is given, or obtained by a login with AppRole or a Kubernetes service account. Tokens are renewed while the hub
is open; one that has expired or was revoked is replaced by a new login.

Source: https://openbao.org/api-docs/secret/kv/kv-v2/, auth/approle, auth/kubernetes, auth/token (read 2026-11-30).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from returns.pipeline import is_successful
from returns.result import Failure, Result, Success

from llmhub.config import secret_from_variable, variables_with_prefix
from llmhub.core.errors import AuthFailed, InvalidRequest, LLMError, Malformed, Overloaded, ServerError, invalid
from llmhub.core.payload import parse_json_object
from llmhub.core.provider import HttpReply, HttpRequest
from llmhub.core.secret import Secret
from llmhub.security.credentials.credential_store import (
    CredentialContext,
    Credentials,
    CredentialStore,
    credentials_from_values,
)

PROVIDER_PLACEHOLDER: Final = "{provider}"
KUBERNETES_TOKEN_FILE: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
RENEW_SHARE: Final = 2 / 3
"""Share of a token's lifetime after which it is renewed."""
RETRY_SHARE: Final = 1 / 10
"""Share of it after which a renewal that failed is tried again."""
EXPIRY_SLACK_S: Final = 1.0
"""Time before its end in which a token is not used any more; at most a tenth of its lifetime."""
MAX_MESSAGE: Final = 300
OK: Final = 200
BAD_REQUEST: Final = 400
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
SEALED: Final = 503
BUSY: Final = frozenset({412, 429, 472, 473})
"""Statuses of a server that may answer soon: not yet replicated, too many requests, standby."""


@dataclass(frozen=True, slots=True, init=False)
class VaultCredentials:
    """Credentials in Vault or OpenBao (KV, version 2).

    Parameters
    ----------
    path
        Path of the secret in the engine; ``{provider}`` is replaced by the provider's name. The secret's keys are
        fields of `llmhub.Endpoint` (``api_key``) or the provider's variables (``OPENAI_API_KEY``).
    address
        Address of the server; ``VAULT_ADDR`` or ``BAO_ADDR`` by default.
    mount
        Path at which the engine is mounted.
    namespace
        Namespace; ``VAULT_NAMESPACE`` or ``BAO_NAMESPACE`` by default.
    token
        Token; ``VAULT_TOKEN`` or ``BAO_TOKEN`` by default.
    role_id, secret_id
        Login with AppRole; ``VAULT_ROLE_ID`` and ``VAULT_SECRET_ID`` by default.
    kubernetes_role
        Role for a login with the service account of a Kubernetes pod.
    kubernetes_token_file
        File with that account's token. It is read at each login, since Kubernetes replaces it.
    auth_mount
        Path at which the login method is mounted, if it is not its own name.

    Raises
    ------
    BadRequestError
        There is no address, or no token and no login, or two of them in code.

    Notes
    -----
    The server's certificate is verified as a provider's is; ``SSL_CERT_FILE`` names a file of other authorities.

    Examples
    --------
    >>> VaultCredentials("team/{provider}", address="https://vault.example:8200", role_id="r", secret_id="s")
    VaultCredentials(path='team/{provider}', address='https://vault.example:8200', mount='secret', login='approle')
    """

    path: str
    address: str
    mount: str
    namespace: str
    token: Secret
    role_id: str
    secret_id: Secret
    kubernetes_role: str
    kubernetes_token_file: str
    auth_mount: str

    def __init__(
        self,
        path: str = f"llmhub/{PROVIDER_PLACEHOLDER}",
        *,
        address: str = "",
        mount: str = "secret",
        namespace: str = "",
        token: str | Secret | None = None,
        role_id: str = "",
        secret_id: str | Secret | None = None,
        kubernetes_role: str = "",
        kubernetes_token_file: str | Path = KUBERNETES_TOKEN_FILE,
        auth_mount: str = "",
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "path", path.strip("/"))
        set_field(self, "address", (address or _variable("ADDR")).rstrip("/"))
        set_field(self, "mount", mount.strip("/"))
        set_field(self, "namespace", (namespace or _variable("NAMESPACE")).strip("/"))
        is_login = bool(role_id or secret_id or kubernetes_role)
        set_field(self, "token", _secret(token) if is_login else _secret(token) or _secret_variable("TOKEN"))
        is_given = bool(self.token or kubernetes_role)
        set_field(self, "role_id", role_id if is_given else role_id or _variable("ROLE_ID"))
        set_field(
            self, "secret_id", _secret(secret_id) if is_given else _secret(secret_id) or _secret_variable("SECRET_ID")
        )
        set_field(self, "kubernetes_role", kubernetes_role)
        set_field(self, "kubernetes_token_file", str(kubernetes_token_file))
        set_field(self, "auth_mount", auth_mount.strip("/"))
        if not self.address.startswith(("http://", "https://")):
            raise invalid("credentials.address", "must be the address of a Vault server; pass it, or set VAULT_ADDR")
        logins = [self.token, self.role_id, self.kubernetes_role]
        if sum(map(bool, logins)) != 1:
            what = "a token (VAULT_TOKEN), a role_id and secret_id (AppRole), or a kubernetes_role"
            raise invalid("credentials", f"VaultCredentials needs exactly one of {what}")

    @property
    def login(self) -> str:
        """The login method: ``token``, ``approle`` or ``kubernetes``."""
        return "approle" if self.role_id else "kubernetes" if self.kubernetes_role else "token"

    def __repr__(self) -> str:
        """Return where the secrets are, without credentials."""
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("path", "address", "mount", "login"))
        return f"VaultCredentials({shown})"

    @property
    def providers(self) -> frozenset[str] | None:
        """``None``: only the server knows."""
        return None

    def open(self, context: CredentialContext) -> CredentialStore:
        """Return the store. It logs in when it is first read."""
        client = _VaultClient(self, context)
        return CredentialStore(f"vault {self.address}", client.fetch, client.close)


def _variable(name: str) -> str:
    """Return a variable of Vault, or of OpenBao."""
    variables = {**variables_with_prefix("BAO_"), **variables_with_prefix("VAULT_")}
    return variables.get(f"VAULT_{name}") or variables.get(f"BAO_{name}") or ""


def _secret_variable(name: str) -> Secret:
    return secret_from_variable(f"VAULT_{name}") or secret_from_variable(f"BAO_{name}")


def _read_secret(path: Path) -> Secret:
    return Secret(path.read_text(encoding="utf-8").strip(), source=path.name)


def _secret(value: str | Secret | None) -> Secret:
    return value if isinstance(value, Secret) else Secret(value or "")


class _VaultClient:
    """The requests to one server, and the token they are sent with."""

    def __init__(self, source: VaultCredentials, context: CredentialContext) -> None:
        self._source = source
        self._context = context
        self._token = source.token
        self._expires_at = inf
        self._renew_in_s = inf
        self._lock = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self._is_examined = False

    async def fetch(self, provider: str) -> Result[Credentials | None, LLMError]:
        """Read the secret of a provider; after a refusal of the token, once more with a new one."""
        source = self._source
        path = quote(source.path.replace(PROVIDER_PLACEHOLDER, provider))
        for is_last in (source.login == "token", True):
            token = await self._valid_token()
            if not is_successful(token):
                return Failure(token.failure())
            sent = await self._send("GET", f"{quote(source.mount)}/data/{path}", token.unwrap())
            if not is_successful(sent):
                return Failure(sent.failure())
            reply = sent.unwrap()
            if reply.status == FORBIDDEN and not is_last:
                self._forget(token.unwrap())
                continue
            return self._decode_secret(provider, reply)
        raise AssertionError  # the loop returns

    def _decode_secret(self, provider: str, reply: HttpReply) -> Result[Credentials | None, LLMError]:
        if reply.status == NOT_FOUND:
            return Success(None)
        if reply.status != OK:
            return Failure(self._error(reply))
        values = _at(_payload(reply), "data", "data")
        if values is None:
            message = f"{self._place}: no secret of the KV engine, version 2, is at {self._source.mount!r}"
            return Failure(Malformed(path="credentials", message=message))
        return Success(credentials_from_values(provider, values, "vault"))

    async def close(self) -> None:
        """End the renewal of the token."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()
            with suppress(asyncio.CancelledError):
                await renewal

    # Tokens

    async def _valid_token(self) -> Result[Secret, LLMError]:
        """Return the token, after a login if there is none or it has expired."""
        async with self._lock:
            if self._source.login == "token":
                if not self._is_examined:
                    # A renewal tells how long the token lasts, and whether it can be renewed.
                    self._is_examined = await self._renew()
                    self._schedule()
                return Success(self._token)
            if self._token and self._context.clock() < self._expires_at:
                return Success(self._token)
            sent = await self._log_in()
            if not is_successful(sent):
                return Failure(sent.failure())
            reply = sent.unwrap()
            if reply.status != OK:
                error = self._error(reply)
                # An unknown role or secret is a bad request to Vault.
                is_refused = reply.status in {BAD_REQUEST, FORBIDDEN}
                message = f"login with {self._source.login} failed: {error.message}"
                return Failure(AuthFailed(path="credentials", message=message) if is_refused else error)
            if not self._accept(reply):
                return Failure(Malformed(path="credentials", message=f"{self._place}: a login returned no token"))
            self._schedule()
            return Success(self._token)

    async def _log_in(self) -> Result[HttpReply, LLMError]:
        source = self._source
        if source.login == "approle":
            body = {"role_id": Secret(source.role_id), "secret_id": source.secret_id}
        else:
            path = Path(source.kubernetes_token_file)
            try:
                account = await self._context.run_in_thread(partial(_read_secret, path))
            except (OSError, UnicodeDecodeError) as error:
                message = f"{path}: the service account's token cannot be read ({type(error).__name__})"
                return Failure(InvalidRequest(path="credentials", message=message))
            body = {"role": Secret(source.kubernetes_role), "jwt": account}
        return await self._send("POST", f"auth/{quote(source.auth_mount or source.login)}/login", None, body)

    def _accept(self, reply: HttpReply) -> bool:
        """Take the token and its lifetime from a reply; return whether there is one."""
        auth = _at(_payload(reply), "auth") or {}
        token, lifetime_s = auth.get("client_token"), auth.get("lease_duration")
        if not isinstance(token, str) or not token or not isinstance(lifetime_s, (int, float)):
            return False
        self._token = Secret(token, source=self._token.source)
        slack_s = min(EXPIRY_SLACK_S, lifetime_s / 10)
        self._expires_at = self._context.clock() + lifetime_s - slack_s if lifetime_s else inf
        self._renew_in_s = lifetime_s * RENEW_SHARE if lifetime_s and auth.get("renewable") else inf
        return True

    def _forget(self, token: Secret) -> None:
        """Drop a token that was refused, unless it was replaced meanwhile."""
        if self._token == token:
            self._token = Secret()

    def _schedule(self) -> None:
        """Renew the token in the background for as long as it can be."""
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = None
        if self._renew_in_s < inf:
            self._renewal = asyncio.get_running_loop().create_task(self._keep_renewed())

    async def _keep_renewed(self) -> None:
        while self._token and self._renew_in_s < inf:
            await asyncio.sleep(self._renew_in_s)
            await self._renew()

    async def _renew(self) -> bool:
        """Renew the token, and return whether the server decided on it.

        A token that is refused is dropped; other failures are tried again before it ends.
        """
        token, earlier_s = self._token, self._renew_in_s
        sent = await self._send("POST", "auth/token/renew-self", token, {})
        if is_successful(sent) and sent.unwrap().status == OK and self._accept(sent.unwrap()):
            return True
        is_refused = is_successful(sent) and sent.unwrap().status in {BAD_REQUEST, FORBIDDEN, NOT_FOUND}
        if is_refused and self._source.login != "token":
            self._forget(token)
        self._renew_in_s = inf if is_refused or earlier_s == inf else max(1.0, earlier_s * RETRY_SHARE)
        return is_refused

    # Requests

    async def _send(
        self,
        method: str,
        path: str,
        token: Secret | None,
        body: Mapping[str, Secret] | None = None,
    ) -> Result[HttpReply, LLMError]:
        """Send a request; the texts of secrets are in no local variable while it is sent."""
        secrets = (*(body or {}).values(), *((token,) if token is not None else ()))
        return await self._context.send(self._request(method, path, token, body), secrets)

    def _request(self, method: str, path: str, token: Secret | None, body: Mapping[str, Secret] | None) -> HttpRequest:
        headers = {"x-vault-request": "true", "accept": "application/json"}
        if token is not None:
            headers["x-vault-token"] = token.reveal()
        if self._source.namespace:
            headers["x-vault-namespace"] = self._source.namespace
        content = b""
        if body is not None:
            headers["content-type"] = "application/json"
            content = msgspec.json.encode({name: secret.reveal() for name, secret in body.items()})
        return HttpRequest(method, f"{self._source.address}/v1/{path}", headers, content)

    @property
    def _place(self) -> str:
        return f"vault {self._source.address}"

    def _error(self, reply: HttpReply) -> LLMError:
        """Return the error of a reply, with the server's own messages."""
        payload = _payload(reply)
        messages = [str(item) for item in payload.get("errors") or () if item]
        reason = "; ".join(" ".join(message.split()) for message in messages)[:MAX_MESSAGE]
        if reply.status == SEALED:
            reason = reason or "the server is sealed"
        kind: type[LLMError] = InvalidRequest
        if reply.status == FORBIDDEN:
            kind = AuthFailed
        elif reply.status in BUSY:
            kind = Overloaded
        elif reply.status >= 500:  # noqa: PLR2004 - HTTP errors of the server
            kind = ServerError
        message = f"{self._place}: {reason or 'refused the request'} (status {reply.status})"
        return kind(path="credentials", message=message)


def _payload(reply: HttpReply) -> Mapping[str, Any]:
    parsed = parse_json_object(reply.body)
    return parsed.unwrap() if is_successful(parsed) else {}


def _at(payload: Mapping[str, Any], *names: str) -> dict[str, Any] | None:
    """Return an object within an object; ``None`` if it is absent."""
    value: Any = payload
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, dict) else None
