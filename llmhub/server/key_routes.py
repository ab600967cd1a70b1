"""Routes to make, list, revoke and rotate keys, and to read what was spent, for keys with the scope ``admin``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from llmhub.cache.store import StoreError
from llmhub.core.budget import nano_to_usd
from llmhub.core.errors import NotFound, Unsupported, invalid, to_exception
from llmhub.engine.event_loop import run_in_thread
from llmhub.server.app import json_response, read_body
from llmhub.server.context import RequestContext
from llmhub.server.key_access import KeyAccess
from llmhub.server.routes import HttpRoute, Parameter, RouteGroup
from llmhub.server.service import Service
from llmhub.server.virtual_keys import KeyInfo, KeyOptions, Usd, VirtualKey, signing_secret

T = TypeVar("T")
B = TypeVar("B", bound=Struct)

WITHOUT_KEYS: Final = "the service runs without keys; set server.access.keys = true"


class CreatedKey(Struct, kw_only=True):
    """A key that was just made or rotated; its secrets are shown only here.

    Parameters
    ----------
    secret
        The key.
    signing_secret
        What its owner signs requests with, if the service accepts signatures.
    """

    secret: str
    key: KeyInfo
    signing_secret: str | None = None


class KeyList(Struct):
    """Keys, oldest first."""

    data: list[KeyInfo]
    object: str = "list"


class RotateRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """How a key is rotated: for how long the present secret is still accepted."""

    grace_s: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0


class AccountEntry(Struct, kw_only=True):
    """Spending of a key or team (``key:ID``, ``team:NAME``) in a period: a day, a month, or in all (``total``)."""

    holder: str
    period: str
    spent_usd: Usd
    reserved_usd: Usd


class AccountList(Struct):
    """Spending by holder and period."""

    data: list[AccountEntry]
    object: str = "list"


@asynccontextmanager
async def accounts_open(service: Service) -> AsyncIterator[None]:
    """Keep the accounts of the keys open while the service runs, and enter what is to be settled at its end."""
    if isinstance(service.access, KeyAccess):
        async with service.access.running():
            yield
    else:
        yield


def _access(service: Service) -> KeyAccess:
    if not isinstance(service.access, KeyAccess):
        raise to_exception(Unsupported(message=WITHOUT_KEYS))
    return service.access


async def _ask(access: KeyAccess, function: Callable[..., T], *arguments: object) -> T:
    """Return the result of a function of the store."""
    try:
        return await run_in_thread(function, *arguments)
    except StoreError:
        raise to_exception(access.accounts.lost_error()) from None


async def _read_as(service: Service, request: web.Request, kind: type[B]) -> B:
    body = await read_body(service, request)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `")
        raise invalid(place.strip("`") or "$", message[:1].lower() + message[1:]) from None


def _permitted(options: KeyOptions, context: RequestContext) -> KeyOptions:
    """Return the options of a key that a caller may make: no scope beyond its own."""
    beyond = sorted(set(options.scopes) - context.caller.scopes)
    if beyond:
        raise invalid("$.scopes", f"the key {context.key_id} does not have {', '.join(beyond)} itself")
    return options


async def create_key(service: Service, request: web.Request, context: RequestContext) -> web.StreamResponse:
    """Make a key."""
    access = _access(service)
    options = _permitted(await _read_as(service, request, KeyOptions), context)
    key, token = await _ask(access, access.registry.create, options)
    return json_response(await _created(access, key, token), status=201)


async def _created(access: KeyAccess, key: VirtualKey, token: str) -> CreatedKey:
    master = access.settings.signing_secret
    return CreatedKey(
        secret=token,
        key=await _ask(access, access.registry.describe, key),
        signing_secret=signing_secret(master, key.id, key.digest).reveal() if master else None,
    )


async def list_keys(service: Service, _request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """List all keys."""
    access = _access(service)
    return json_response(KeyList(await _ask(access, access.registry.describe_all)))


async def read_key(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Return one key."""
    access = _access(service)
    key: VirtualKey | None = await _ask(access, access.registry.get, request.match_info["id"])
    if key is None:
        raise to_exception(NotFound(path="id", message=f"there is no key {request.match_info['id']!r:.80}"))
    return json_response(await _ask(access, access.registry.describe, key))


async def revoke_key(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Revoke a key: at once here, and by other replicas when they read it again."""
    access = _access(service)
    key = await _ask(access, access.registry.revoke, request.match_info["id"])
    access.forget(key.id)
    return json_response(await _ask(access, access.registry.describe, key))


async def rotate_key(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """Make a new secret for a key."""
    access = _access(service)
    wanted = await _read_as(service, request, RotateRequest)
    key, token = await _ask(access, access.registry.rotate, request.match_info["id"], wanted.grace_s)
    access.forget(key.id)
    return json_response(await _created(access, key, token))


async def list_spending(service: Service, request: web.Request, _context: RequestContext) -> web.StreamResponse:
    """List what keys and teams have spent."""
    access = _access(service)
    balances = await _ask(access, access.accounts.store.balances, request.query.get("holder", ""))
    entries = [
        AccountEntry(holder=holder, period=period, spent_usd=nano_to_usd(spent), reserved_usd=nano_to_usd(reserved))
        for name, spent, reserved in balances
        for holder, _, period in [name.partition("/")]
    ]
    return json_response(AccountList(entries))


ID_PARAMETER: Final = Parameter(name="id", place="path", description="id of the key", required=True)
JSON_TYPES: Final = ("application/json",)


def _route(method: str, path: str, handler: Any, summary: str, **more: Any) -> HttpRoute:
    parameters = (ID_PARAMETER,) if "{id}" in path else ()
    return HttpRoute(method, f"/v1/admin{path}", handler, scope="admin", summary=summary, parameters=parameters, **more)


GROUP: Final = RouteGroup(
    name="keys",
    routes=(
        _route(
            "POST",
            "/keys",
            create_key,
            "Make a key; its secret is shown only here",
            request=KeyOptions,
            response=CreatedKey,
            request_types=JSON_TYPES,
            statuses={201: "Created"},
        ),
        _route("GET", "/keys", list_keys, "List all keys", response=KeyList),
        _route("GET", "/keys/{id}", read_key, "Return a key", response=KeyInfo),
        _route("DELETE", "/keys/{id}", revoke_key, "Revoke a key", response=KeyInfo),
        _route(
            "POST",
            "/keys/{id}/rotate",
            rotate_key,
            "Make a new secret for a key",
            request=RotateRequest,
            response=CreatedKey,
            request_types=JSON_TYPES,
        ),
        HttpRoute(
            "GET",
            "/v1/admin/spending",
            list_spending,
            scope="admin",
            summary="List what keys and teams have spent by day, by month and in all",
            response=AccountList,
            parameters=(Parameter(name="holder", description="only holders that begin with this, such as team:"),),
        ),
    ),
    lifespan=accounts_open,
)
